"""Names of more than 255 bytes: none is made, and those of other clients can be used."""

import errno
import stat
from collections.abc import Callable

import pytest

from support.harness import ME, change, listed, read, write
from support.memory_store import MemoryStore
from support.stored_objects import foreign, keys
from swiftfs.posix.filesystem import FileSystem

LONG = "é" * 128
FITS = "é" * 127 + "n"
MAKERS: list[Callable[[FileSystem, str], object]] = [
    lambda filesystem, path: write(filesystem, path, b"x"),
    lambda filesystem, path: filesystem.mkdir(path, 0o755, ME),
    lambda filesystem, path: filesystem.symlink("target", path, ME),
    lambda filesystem, path: filesystem.mknod(path, stat.S_IFIFO | 0o644, 0, ME),
    lambda filesystem, path: filesystem.rename("/file", path),
    lambda filesystem, path: filesystem.rename("/folder", path),
]


def test_programs_are_told_the_limit(filesystem: FileSystem) -> None:
    assert filesystem.statfs("/").name_bytes == len(FITS.encode()) == 255


@pytest.mark.parametrize("make", MAKERS)
def test_a_longer_name_is_not_made(
    store: MemoryStore, filesystem: FileSystem, make: Callable[[FileSystem, str], object]
) -> None:
    write(filesystem, "/file", b"x")
    filesystem.mkdir("/folder", 0o755, ME)
    before = keys(store)
    with pytest.raises(OSError, match="too long") as caught:
        make(filesystem, f"/{LONG}")
    assert caught.value.errno == errno.ENAMETOOLONG
    assert keys(store) == before
    make(filesystem, f"/{FITS}")
    assert FITS in listed(filesystem, "/")


def test_another_clients_longer_names_can_be_used(store: MemoryStore, filesystem: FileSystem) -> None:
    foreign(store, LONG, b"one")
    foreign(store, f"{LONG}/{LONG}" + "n", b"two")
    folder = f"/{LONG}"
    inside = f"{folder}/{LONG}n"
    assert set(listed(filesystem, "/")) == {LONG, f"{LONG}%file"}, "a file beside the folder of its name"
    filesystem.unlink(f"/{LONG}%file")
    change(filesystem, inside, 0, b"T")
    assert read(filesystem, inside) == b"Two"
    write(filesystem, "/new", b"new")
    filesystem.rename("/new", inside)
    assert read(filesystem, inside) == b"new"
    filesystem.mkdir("/other", 0o755, ME)
    filesystem.rename(folder, "/other/" + LONG)
    filesystem.rename(f"/other/{LONG}/{LONG}n", f"/{LONG}n")
    assert read(filesystem, f"/{LONG}n") == b"new"
    filesystem.rename(f"/{LONG}n", "/short")
    filesystem.rename(f"/other/{LONG}", "/folder")
    filesystem.rmdir("/folder")
    assert set(listed(filesystem, "/")) == {"other", "short"}
