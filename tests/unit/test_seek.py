"""lseek(2) with SEEK_DATA and SEEK_HOLE."""

import errno
import os

import pytest

from support.harness import ME, put, read, sync_all, write
from support.memory_store import MemoryStore
from support.noise import noise
from support.range_copies import append, cp, opened
from swiftfs.errors import errno_of
from swiftfs.objects import ObjectName
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.protocol import Headers

MIB = 1024 * 1024
END = 6 * MIB + 5

pytestmark = pytest.mark.mount_options("segment_size=1M,settle=3600")


def seek(filesystem: FileSystem, handle: int, offset: int, whence: int) -> int:
    """Return the result, or minus the errno."""
    try:
        return filesystem.lseek(handle, offset, whence)
    except OSError as error:
        return -errno_of(error)


def found(filesystem: FileSystem, path: str) -> list[tuple[int, int]]:
    """Return where the data of a file is, as a program that copies sparse files does."""
    handle = filesystem.open(path, os.O_RDONLY)
    runs, at = [], 0
    while (start := seek(filesystem, handle, at, os.SEEK_DATA)) >= 0:
        at = seek(filesystem, handle, start, os.SEEK_HOLE)
        assert at > start
        runs.append((start, at))
    assert start == -errno.ENXIO
    filesystem.release(handle)
    return runs


def test_holes_of_a_new_file(filesystem: FileSystem) -> None:
    handle = filesystem.create("/file", 0o644, os.O_RDWR, ME)
    assert seek(filesystem, handle, 0, os.SEEK_DATA) == -errno.ENXIO
    put(filesystem, handle, MIB, noise(MIB))
    put(filesystem, handle, 4 * MIB, noise(MIB))
    filesystem.truncate_handle(handle, END)
    assert found(filesystem, "/file") == [(MIB, 2 * MIB), (4 * MIB, 5 * MIB)]
    assert seek(filesystem, handle, 0, os.SEEK_HOLE) == 0
    assert seek(filesystem, handle, 5 * MIB, os.SEEK_HOLE) == 5 * MIB
    assert seek(filesystem, handle, 5 * MIB, os.SEEK_DATA) == -errno.ENXIO
    assert seek(filesystem, handle, END, os.SEEK_HOLE) == -errno.ENXIO
    assert seek(filesystem, handle, -1, os.SEEK_DATA) == -errno.ENXIO
    assert seek(filesystem, handle, 0, os.SEEK_END) == -errno.EINVAL
    filesystem.release(handle)


def test_what_is_not_here_is_data(store: MemoryStore, filesystem: FileSystem) -> None:
    store.put(ObjectName("box", "their"), bytes(END), Headers("text/plain"))
    assert found(filesystem, "/their") == [(0, END)]
    handle = filesystem.open("/their", os.O_RDWR)
    put(filesystem, handle, END + MIB, b"more")
    assert found(filesystem, "/their")[0][0] == 0
    assert found(filesystem, "/their")[-1][1] == END + MIB + 4
    filesystem.flush(handle)
    filesystem.release(handle)


def test_a_copy_made_by_the_server_is_data(filesystem: FileSystem) -> None:
    write(filesystem, "/big", noise(END))
    sync_all(filesystem)
    cp(filesystem, "/big", "/copy")
    assert found(filesystem, "/copy") == [(0, END)]
    assert len(read(filesystem, "/copy")) == END
    assert found(filesystem, "/copy") == [(0, END)]


def test_holes_before_and_behind_a_copy_made_by_the_server(filesystem: FileSystem) -> None:
    write(filesystem, "/big", noise(4 * MIB))
    sync_all(filesystem)
    with opened(filesystem, "/big", "/copy") as (source, target):
        put(filesystem, target, 0, noise(MIB))
        filesystem.truncate_handle(target, 2 * MIB)
        assert append(filesystem, source, target, 2 * MIB) > 0
        filesystem.truncate_handle(target, 10 * MIB)
        put(filesystem, target, 9 * MIB, noise(MIB))
        assert found(filesystem, "/copy") == [(0, MIB), (2 * MIB, 6 * MIB), (9 * MIB, 10 * MIB)]
        assert seek(filesystem, target, MIB, os.SEEK_DATA) == 2 * MIB
