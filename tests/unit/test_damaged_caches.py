"""Databases that only cache, in an older state: with a damaged log, or an older copy. None of them lies."""

import shutil
from pathlib import Path

import pytest

from support.harness import LEFT, copy_live, harness, names, read, write
from support.memory_store import MemoryStore
from support.stored_objects import NEVER, foreign

CACHES = ["content.sqlite", "heads.sqlite"]

OLD, NEW = b"old" * 10_000, b"newer" * 10_000


def check(store: MemoryStore, cache: Path) -> None:
    """Assert that a mount shows what is in Swift, and the pending file."""
    with harness(store, cache) as filesystem:
        assert set(names(filesystem, "/")) == {"changed", "read", "pending"}
        assert read(filesystem, "/read") == OLD
        assert read(filesystem, "/changed") == NEW
        assert filesystem.getattr("/changed").size == len(NEW)
        assert read(filesystem, "/pending") == NEW
    assert not (cache / "lost").exists()


@pytest.fixture
def cache(store: MemoryStore, tmp_path: Path) -> Path:
    """The cache folder of a mount that has read two objects, of which another client changed one."""
    cache = tmp_path / "cache"
    cache.mkdir()
    for key in ("read", "changed"):
        foreign(store, key, OLD)
    with harness(store, cache) as filesystem:
        assert [read(filesystem, f"/{key}") for key in ("read", "changed")] == [OLD, OLD]
    foreign(store, "changed", NEW)
    return cache


def test_older_copies_of_caches(store: MemoryStore, cache: Path, tmp_path: Path) -> None:
    for name in CACHES:
        shutil.copy(cache / name, tmp_path / name)
    with harness(store, cache, f"{NEVER},drain=0", close_error=LEFT) as filesystem:
        assert read(filesystem, "/changed") == NEW
        write(filesystem, "/pending", NEW)
    for name in CACHES:
        shutil.copy(tmp_path / name, cache / name)
    check(store, cache)


@pytest.mark.parametrize("place", [20, 200, -2000])
def test_damaged_logs_of_caches(store: MemoryStore, cache: Path, tmp_path: Path, place: int) -> None:
    image = tmp_path / "image"
    with harness(store, cache, f"{NEVER},drain=0", close_error=LEFT) as filesystem:
        assert [read(filesystem, f"/{key}") for key in ("read", "changed")] == [OLD, NEW]
        write(filesystem, "/pending", NEW)
        filesystem.services.file_cache.save_index()
        copy_live(cache, image)
    logs = [image / f"{name}-wal" for name in CACHES]
    damaged = [path for path in logs if path.exists() and path.stat().st_size]
    assert image / "content.sqlite-wal" in damaged
    for path in damaged:
        data = bytearray(path.read_bytes())
        data[place] ^= 1
        path.write_bytes(data)
    check(store, image)
