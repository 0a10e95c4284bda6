"""The disk of the cache becomes full in the middle of a write: pwrite(2) takes a part, and says no more."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from support.harness import get, harness, put, read, write
from support.memory_store import MemoryStore
from support.noise import noise
from support.stored_objects import body, foreign
from swiftfs.filecache.sparse_file import write_all
from swiftfs.posix.filesystem import FileSystem

SIZE = 2_000_600
LIMIT = 2_000_100
"""Bytes at which a file cannot grow any more: in the middle of the last write of a download."""


@contextmanager
def full_disk() -> Iterator[None]:
    """Let no file of this process grow beyond `LIMIT`: a write up to there is cut, the next one fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_all_is_written_or_an_error_is_raised(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w+b") as file:
        with full_disk(), pytest.raises(OSError, match="too large"):
            write_all(file.fileno(), noise(SIZE), 0)
        write_all(file.fileno(), noise(SIZE), 0)
        assert os.pread(file.fileno(), SIZE, 0) == noise(SIZE)


def store_of(kind: str, cache: Path) -> MemoryStore:
    store = MemoryStore("box", "box_segments")
    if kind == "plain":
        foreign(store, "file", noise(SIZE))
    else:
        cache.mkdir()
        with harness(store, cache, "segment_size=1M") as filesystem:
            write(filesystem, "/file", noise(SIZE))
    return store


def read_all(filesystem: FileSystem, handle: int) -> None:
    for offset in range(0, SIZE, 131_072):
        get(filesystem, handle, offset, 131_072)


@pytest.mark.parametrize("kind", ["plain", "slo"])
def test_bytes_that_the_disk_did_not_take_are_not_read_as_zeros(tmp_path: Path, kind: str) -> None:
    store = store_of(kind, tmp_path / "first")
    (cache := tmp_path / "cache").mkdir()
    with harness(store, cache, "read_ahead=0") as filesystem:
        handle = filesystem.open("/file", os.O_RDONLY)
        with full_disk(), pytest.raises(OSError, match="too large"):
            read_all(filesystem, handle)
        filesystem.release(handle)
        assert read(filesystem, "/file") == noise(SIZE)


@pytest.mark.parametrize("kind", ["plain", "slo"])
def test_bytes_that_the_disk_did_not_take_are_not_stored_as_zeros(tmp_path: Path, kind: str) -> None:
    store = store_of(kind, tmp_path / "first")
    (cache := tmp_path / "cache").mkdir()
    with harness(store, cache, "segment_size=1M,settle=0.01,read_ahead=0") as filesystem:
        handle = filesystem.open("/file", os.O_RDWR)
        put(filesystem, handle, SIZE - 1, b"Z")
        with full_disk(), suppress(OSError):
            filesystem.fsync(handle, False)
        filesystem.fsync(handle, False)
        filesystem.release(handle)
    assert body(store, "file") == noise(SIZE)[:-1] + b"Z"
