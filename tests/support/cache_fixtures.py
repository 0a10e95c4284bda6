"""Fixtures of the tests of the cache folder."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.cache_rig import MIB, CacheRig


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., CacheRig]]:
    """Return a function that builds a `CacheRig`; its cache compares its size with the limit at each MiB."""
    monkeypatch.setattr("swiftfs.filecache.space.STEP", MIB)
    rigs: list[CacheRig] = []

    def build_it(limit: int | None = 64 * MIB, read_ahead: int = 0, threads: int = 2) -> CacheRig:
        rigs.append(CacheRig(tmp_path, limit, read_ahead, threads))
        return rigs[-1]

    yield build_it
    for one in rigs:
        one.close()


@pytest.fixture
def rig(build: Callable[..., CacheRig]) -> CacheRig:
    """A `CacheRig` without read-ahead, with a limit of 64 MiB."""
    return build()
