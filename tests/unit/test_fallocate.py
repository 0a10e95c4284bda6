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
SIZE = 3 * MIB + 5
NOTHING = range(0)

pytestmark = pytest.mark.mount_options("segment_size=1M,settle=0.01")


@contextmanager
def opened(filesystem: FileSystem, path: str = "/file") -> Iterator[int]:
    handle = filesystem.open(path, os.O_RDWR)
    try:
        yield handle
        filesystem.flush(handle)
    finally:
        filesystem.release(handle)


def zeroed(zeros: range, data: bytes) -> bytes:
    """Return the bytes with zeros in that range, which may reach beyond their end."""
    return data[: zeros.start] + bytes(len(zeros)) + data[zeros.stop :]


@pytest.mark.parametrize(
    ("mode", "start", "length", "zeros"),
    [
        (0, 3 * MIB, MIB, range(SIZE, 4 * MIB)),
        (0, 0, 10, NOTHING),
        (KEEP_SIZE, 3 * MIB, MIB, NOTHING),
        (PUNCH_HOLE | KEEP_SIZE, 5, 10, range(5, 15)),
        (PUNCH_HOLE | KEEP_SIZE, MIB - 7, MIB + 14, range(MIB - 7, 2 * MIB + 7)),
        (PUNCH_HOLE | KEEP_SIZE, 3 * MIB, MIB, range(3 * MIB, SIZE)),
        (PUNCH_HOLE | KEEP_SIZE, 9 * MIB, MIB, NOTHING),
        (ZERO_RANGE | KEEP_SIZE, 1000, 3 * MIB, range(1000, SIZE)),
        (ZERO_RANGE, 3 * MIB, MIB, range(3 * MIB, 4 * MIB)),
    ],
)
def test_each_mode(
    filesystem: FileSystem, store: MemoryStore, mode: int, start: int, length: int, zeros: range
) -> None:
    data = noise(SIZE)
    expected = zeroed(zeros, data)
    write(filesystem, "/file", data)
    sync_all(filesystem)
    with opened(filesystem) as handle:
        filesystem.fallocate(handle, mode, start, length)
        assert get(filesystem, handle, 0, 2 * SIZE) == expected
    sync_all(filesystem)
    assert body(store, "file") == expected


def test_a_file_that_is_not_here_gets_zeros(filesystem: FileSystem, store: MemoryStore) -> None:
    write(filesystem, "/file", noise(SIZE))
    sync_all(filesystem)
    filesystem.services.file_cache.space.set_limit(0)
    filesystem.services.file_cache.space.set_limit(1 << 30)
    store.requests.clear()
    with opened(filesystem) as handle:
        filesystem.fallocate(handle, ZERO_RANGE | KEEP_SIZE, 0, 2 * MIB)
    sync_all(filesystem)
    assert "get" not in [method for method, _ in store.requests]  # what becomes zeros is not downloaded
    assert body(store, "file") == zeroed(range(2 * MIB), noise(SIZE))


def test_zeros_take_no_space_and_are_a_hole(filesystem: FileSystem) -> None:
    write(filesystem, "/file", noise(SIZE))
    with opened(filesystem) as handle:
        filesystem.fallocate(handle, PUNCH_HOLE | KEEP_SIZE, 0, 2 * MIB)
        assert filesystem.lseek(handle, 0, os.SEEK_DATA) == 2 * MIB
        assert filesystem.lseek(handle, 0, os.SEEK_HOLE) == 0


def test_zeros_are_a_change_and_space_is_none(filesystem: FileSystem) -> None:
    write(filesystem, "/file", noise(SIZE))
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
