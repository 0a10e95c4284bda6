"""The tiers of the tests: which of them `./dev test`, `./dev test slow` and `./dev test fast` run.

`slow` tests take long and find little more: loads, storms, and all but a few cases of each matrix.
`system` tests mount or start a Swift; the rest is `fast`.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping

import pytest

SYSTEM = frozenset({"Mount", "SwiftServer", "Killable", "subprocess", "swiftfs", "run"})
"""Names with which test modules start processes."""


def mark(items: Iterable[pytest.Item]) -> None:
    """Mark each test with its tier."""
    matrices: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        assert isinstance(item, pytest.Function)
        if starts_processes(vars(item.module)):
            item.add_marker(pytest.mark.system)
        if item.get_closest_marker("matrix"):
            matrices[f"{item.path}::{item.originalname}"].append(item)
    for cases in matrices.values():
        marker = cases[0].get_closest_marker("matrix")
        assert marker is not None
        kept = spread(len(cases), marker.args[0])
        for number, case in enumerate(cases):
            if number not in kept:
                case.add_marker(pytest.mark.slow)


def starts_processes(names: Mapping[str, object]) -> bool:
    """Return whether a test module can mount or start a Swift."""
    return not SYSTEM.isdisjoint(names)


def spread(count: int, kept: int) -> set[int]:
    """Return `kept` of the numbers below `count`, as far apart as possible."""
    if kept >= count:
        return set(range(count))
    return {round(number * (count - 1) / max(1, kept - 1)) for number in range(kept)}
