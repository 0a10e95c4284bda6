"""Fixtures of the tests of the cache folder."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.cache_house import MIB, House


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., House]]:
    """Build houses that look at their budget often."""
    monkeypatch.setattr("swiftfs.filecache.cache.STEP", MIB)
    houses: list[House] = []

    def build_it(limit: int | None = 64 * MIB, read_ahead: int = 0, threads: int = 2) -> House:
        houses.append(House(tmp_path, limit, read_ahead, threads))
        return houses[-1]

    yield build_it
    for one in houses:
        one.close()


@pytest.fixture
def house(build: Callable[..., House]) -> House:
    return build()
