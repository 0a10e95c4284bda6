"""Which tests `./dev test` runs, `./dev test slow` and `./dev test fast`: by folder, and by what they start.

`slow` is what takes long and says little more: loads, storms, and of each matrix all but a few cases.
"""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
SERVERS = frozenset({"swift_server", "small_server", "server"})
"""Fixtures that start a Swift."""


def mark(items: Iterable[pytest.Item]) -> None:
    """Mark each test with its folder, with `swift` if it starts one, and with `slow`."""
    matrices: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        assert isinstance(item, pytest.Function)
        item.add_marker(item.path.relative_to(TESTS).parts[0])
        if not SERVERS.isdisjoint(item.fixturenames):
            item.add_marker(pytest.mark.swift)
        if item.get_closest_marker("matrix"):
            matrices[f"{item.path}::{item.originalname}"].append(item)
    for cases in matrices.values():
        marker = cases[0].get_closest_marker("matrix")
        assert marker is not None
        kept = spread(len(cases), marker.args[0])
        for number, case in enumerate(cases):
            if number not in kept:
                case.add_marker(pytest.mark.slow)


def spread(count: int, kept: int) -> set[int]:
    """Return `kept` of the numbers below `count`, as far from each other as can be."""
    if kept >= count:
        return set(range(count))
    return {round(number * (count - 1) / max(1, kept - 1)) for number in range(kept)}
