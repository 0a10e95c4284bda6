"""Which tests `./dev test` runs, `./dev test slow` and `./dev test fast`: by folder, and by what they start.

`slow` is what takes long and says little more: loads, storms, and of each matrix all but a few cases.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
SERVERS = frozenset({"swift_server", "small_server", "server"})
"""Fixtures that start a Swift."""


def arrange(items: list[pytest.Item]) -> None:
    """Mark each test with its folder, with `swift` if it starts one, and with `slow`; the longest run first.

    A long test that begins last is waited for by all other processes.
    """
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    _mark(items)


def _mark(items: Iterable[pytest.Item]) -> None:
    matrices: dict[str, list[pytest.Function]] = defaultdict(list)
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
        kept = spread([case.callspec.params for case in cases], marker.args[0])
        for number, case in enumerate(cases):
            if number not in kept:
                case.add_marker(pytest.mark.slow)


def spread(cases: Sequence[Mapping[str, object]], kept: int) -> set[int]:
    """Return the numbers of up to `kept` cases: of each parameter all values, and far from each other."""
    numbered = _numbered(cases)
    chosen: list[int] = []
    used: Counter[tuple[str, int]] = Counter()

    def rank(number: int) -> tuple[int, int]:
        distance = min((abs(number - other) for other in chosen), default=0)
        return sum(used[value] for value in numbered[number]), -distance

    while len(chosen) < min(kept, len(cases)):
        chosen.append(min(set(range(len(cases))).difference(chosen), key=rank))
        used.update(numbered[chosen[-1]])
    return set(chosen)


def _numbered(cases: Sequence[Mapping[str, object]]) -> list[list[tuple[str, int]]]:
    """Replace the values of each parameter by numbers: values may have no hash."""
    values: dict[str, list[object]] = defaultdict(list)
    for case in cases:
        for name, value in case.items():
            if value not in values[name]:
                values[name].append(value)
    return [[(name, values[name].index(value)) for name, value in case.items()] for case in cases]
