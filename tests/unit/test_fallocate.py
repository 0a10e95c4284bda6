"""fallocate(2): what each mode does to a file's size, bytes, times and space."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from support.harness import get, read, sync_all, write
from support.memory_store import MemoryStore
from support.noise import noise
from support.stored_objects import body
from support.system_calls import COLLAPSE_RANGE, KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE, fails
from swiftfs.posix.filesystem import FileSystem

MIB = 1024 * 1024
DATA = noise(3 * MIB + 5)

pytestmark = pytest.mark.mount_options("segment_size=1M,settle=0.01")


@contextmanager
def opened(filesystem: FileSystem, path: str = "/file") -> Iterator[int]:
    handle = filesystem.open(path, os.O_RDWR)
    try:
        yield handle
        filesystem.flush(handle)
    finally:
        filesystem.release(handle)


def zeroed(start: int, end: int, data: bytes = DATA) -> bytes:
    return data[:start] + bytes(end - start) + data[end:]


@pytest.mark.parametrize(
    ("mode", "start", "length", "expected"),
    [
        (0, 3 * MIB, MIB, DATA + bytes(MIB - 5)),
        (0, 0, 10, DATA),
        (KEEP_SIZE, 3 * MIB, MIB, DATA),
        (PUNCH_HOLE | KEEP_SIZE, 5, 10, zeroed(5, 15)),
        (PUNCH_HOLE | KEEP_SIZE, MIB - 7, MIB + 14, zeroed(MIB - 7, 2 * MIB + 7)),
        (PUNCH_HOLE | KEEP_SIZE, 3 * MIB, MIB, zeroed(3 * MIB, 3 * MIB + 5)),
        (PUNCH_HOLE | KEEP_SIZE, 9 * MIB, MIB, DATA),
        (ZERO_RANGE | KEEP_SIZE, 1000, 3 * MIB, zeroed(1000, 3 * MIB + 1000 - 995)),
        (ZERO_RANGE, 3 * MIB, MIB, zeroed(3 * MIB, 3 * MIB + 5) + bytes(MIB - 5)),
    ],
)
def test_each_mode(
    filesystem: FileSystem, store: MemoryStore, mode: int, start: int, length: int, expected: bytes
) -> None:
    write(filesystem, "/file", DATA)
    sync_all(filesystem)
    with opened(filesystem) as handle:
        filesystem.fallocate(handle, mode, start, length)
        assert get(filesystem, handle, 0, 2 * len(DATA)) == expected
    sync_all(filesystem)
    assert body(store, "file") == expected


def test_a_file_that_is_not_here_gets_zeros(filesystem: FileSystem, store: MemoryStore) -> None:
    write(filesystem, "/file", DATA)
    sync_all(filesystem)
    filesystem.services.file_cache.space.set_limit(0)
    filesystem.services.file_cache.space.set_limit(1 << 30)
    store.requests.clear()
    with opened(filesystem) as handle:
        filesystem.fallocate(handle, ZERO_RANGE | KEEP_SIZE, 0, 2 * MIB)
    sync_all(filesystem)
    assert "get" not in [method for method, _ in store.requests]  # what becomes zeros is not downloaded
    assert body(store, "file") == zeroed(0, 2 * MIB)


def test_zeros_take_no_space_and_are_a_hole(filesystem: FileSystem) -> None:
    write(filesystem, "/file", DATA)
    with opened(filesystem) as handle:
        filesystem.fallocate(handle, PUNCH_HOLE | KEEP_SIZE, 0, 2 * MIB)
        assert filesystem.lseek(handle, 0, os.SEEK_DATA) == 2 * MIB
        assert filesystem.lseek(handle, 0, os.SEEK_HOLE) == 0


def test_zeros_are_a_change_and_space_is_none(filesystem: FileSystem) -> None:
    write(filesystem, "/file", DATA)
    filesystem.utimens("/file", 1, 1)
    with opened(filesystem) as handle:
        filesystem.fallocate(handle, KEEP_SIZE, 0, 9 * MIB)
        assert filesystem.getattr("/file").mtime_ns == 1
        filesystem.fallocate(handle, PUNCH_HOLE | KEEP_SIZE, 0, 1)
        assert filesystem.getattr("/file").mtime_ns > 1


@pytest.mark.parametrize("mode", [COLLAPSE_RANGE, PUNCH_HOLE | KEEP_SIZE | COLLAPSE_RANGE, 64])
def test_modes_that_move_bytes_are_refused(filesystem: FileSystem, mode: int) -> None:
    write(filesystem, "/file", b"data")
    with opened(filesystem) as handle, fails(errno.EOPNOTSUPP):
        filesystem.fallocate(handle, mode, 0, 4096)
    assert read(filesystem, "/file") == b"data"
