"""Which tests `./dev test` runs, `./dev test slow` and `./dev test fast`: by folder, and by what they start.

`slow` is what takes long and says little more: loads, storms, and of each matrix all but a few cases. `usual`
is what takes too long for the loop of a developer, and what is left of a test with many cases. `left_out` are
the cases of both kinds that a run with a seed leaves to other runs.
"""

import os
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
SERVERS = frozenset({"swift_server", "versioned_server", "small_server", "server"})
"""Fixtures that start a Swift."""
SEED = os.environ.get("TEST_SEED", "")  # `SWIFTFS_…` would be an option of mounts
"""What a run chooses at random depends on it. Without one no case is left out."""
SHARE = 3
"""A run with a seed has one of so many slow cases of a matrix, and of the cases that are only usual."""
FAST_CASES = 2
"""How many cases of a test `./dev test fast` has at most, which differ as far as they can.

The others are `usual`.
"""


def chosen(subject: str) -> random.Random:
    """Return the random numbers of this run for a subject, in every process the same ones."""
    return random.Random(f"{SEED} {subject}")


def arrange(items: list[pytest.Item]) -> None:
    """Mark each test with its folder, `swift` if it starts one, `slow` and `usual`; the longest run first.

    A long test that begins last is waited for by all other processes.
    """
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    _mark(items)


def _mark(items: Iterable[pytest.Item]) -> None:
    tests: dict[tuple[Path, str], list[pytest.Function]] = defaultdict(list)
    for item in items:
        assert isinstance(item, pytest.Function)
        item.add_marker(_folder(item.path))
        if not SERVERS.isdisjoint(item.fixturenames):
            item.add_marker(pytest.mark.swift)
        tests[item.path, item.originalname].append(item)
    for cases in tests.values():
        if (matrix := cases[0].get_closest_marker("matrix")) is not None:
            _leave_out(_keep(cases, matrix.args[0], "slow"))
        quick = [one for one in cases if one.get_closest_marker("slow") is None]
        _leave_out(_keep(quick, FAST_CASES, "usual"))


@cache
def _folder(path: Path) -> str:
    return path.relative_to(TESTS).parts[0]


def _keep(cases: Sequence[pytest.Function], kept: int, marker: str) -> list[pytest.Function]:
    """Mark all cases of a test but `kept` of them; return those that are marked."""
    if len(cases) <= kept:
        return []
    numbers = spread([case.callspec.params for case in cases], kept)
    others = [case for number, case in enumerate(cases) if number not in numbers]
    for case in others:
        case.add_marker(marker)
    return others


def _leave_out(cases: Sequence[pytest.Function]) -> None:
    """Mark the cases of a test that are not in this run's sample; without a seed all are."""
    if not SEED or not cases:
        return
    numbers = sample(len(cases), chosen(cases[0].originalname))
    for number, case in enumerate(cases):
        if number not in numbers:
            case.add_marker("left_out")


def sample(count: int, numbers: random.Random) -> set[int]:
    """Return one of `SHARE` numbers below `count`; of fewer numbers one, or by chance none.

    So each of them is there in one of `SHARE` runs, also that of the only case that is slow.
    """
    padded = max(count, SHARE)
    return {number for number in numbers.sample(range(padded), -(-padded // SHARE)) if number < count}


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
