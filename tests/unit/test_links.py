"""link(2): refused, or a copy on the server that shares nothing with the file."""

import errno
import os
import stat
from pathlib import Path

import pytest

from support.harness import ME, change, harness, put, read, sync_all, write
from support.memory_store import MemoryStore
from support.noise import noise
from support.stored_objects import NEVER, body, foreign, keys, refuse, segments
from swiftfs.attributes import decode_type
from swiftfs.errors import Unavailable, errno_of
from swiftfs.objects import ObjectName
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.protocol import Headers

MIB = 1024 * 1024
COPY = f"hardlinks=copy,segment_size=1M,{NEVER}"


pytestmark = pytest.mark.mount_options(COPY)


def fails(filesystem: FileSystem, old: str, new: str) -> int:
    with pytest.raises(Exception) as caught:  # noqa: PT011  the caller compares the errno
        filesystem.link(old, new)
    return errno_of(caught.value)


def test_without_the_option_there_are_none(store: MemoryStore, tmp_path: Path) -> None:
    with harness(store, tmp_path) as filesystem:
        write(filesystem, "/file", b"x")
        assert fails(filesystem, "/file", "/link") == errno.EPERM
        assert keys(store) == ["file"]


def test_both_names_have_the_bytes_and_change_independently(
    store: MemoryStore, filesystem: FileSystem
) -> None:
    write(filesystem, "/file", b"one")
    filesystem.chmod("/file", 0o640)
    filesystem.setxattr("/file", "user.note", b"kept", 0)
    filesystem.link("/file", "/link")
    assert body(store, "link") == b"one", "it is in Swift when link(2) returns"
    found, copy = filesystem.getattr("/file"), filesystem.getattr("/link")
    assert (copy.mode, copy.mtime_ns, copy.size) == (found.mode, found.mtime_ns, found.size)
    assert copy.inode != found.inode
    assert filesystem.getxattr("/link", "user.note") == b"kept"
    change(filesystem, "/file", 0, b"T")
    filesystem.unlink("/file")
    sync_all(filesystem)
    filesystem.refresh()
    assert read(filesystem, "/link") == b"one"
    assert filesystem.getattr("/link").mtime_ns == copy.mtime_ns


def test_a_link_is_a_head_and_a_copy(store: MemoryStore, filesystem: FileSystem) -> None:
    write(filesystem, "/file", b"one")
    sync_all(filesystem)
    store.requests.clear()
    filesystem.link("/file", "/link")
    sync_all(filesystem)
    assert [method for method, _ in store.requests] == ["head", "head", "copy"]


def test_what_is_open_is_stored_first(store: MemoryStore, filesystem: FileSystem) -> None:
    handle = filesystem.create("/file", 0o644, os.O_RDWR, ME)
    try:
        put(filesystem, handle, 0, b"new")
        filesystem.link("/file", "/link")
        assert body(store, "link") == b"new"
        put(filesystem, handle, 0, b"NEW")
        filesystem.flush(handle)
    finally:
        filesystem.release(handle)
    assert (read(filesystem, "/file"), read(filesystem, "/link")) == (b"NEW", b"new")


def test_a_large_file_gets_segments_of_its_own(store: MemoryStore, filesystem: FileSystem) -> None:
    data = noise(3 * MIB + 5)
    write(filesystem, "/large", data)
    filesystem.link("/large", "/link")
    assert len(segments(store)) == 8
    info = store.head(ObjectName("box", "link"))
    assert decode_type(info.content_type)[1].slo == info.version.etag
    filesystem.unlink("/large")
    sync_all(filesystem)
    assert len(segments(store)) == 4
    filesystem.refresh()
    assert read(filesystem, "/link") == data
    filesystem.unlink("/link")
    sync_all(filesystem)
    assert segments(store) == set()


def test_a_dlo_is_copied_with_its_bytes(store: MemoryStore, filesystem: FileSystem) -> None:
    foreign(store, "parts/1", b"one")
    foreign(store, "parts/2", b"two")
    headers = Headers("text/plain", preserved_headers={"X-Object-Manifest": "box/parts/"})
    store.put(ObjectName("box", "dlo"), b"", headers)
    filesystem.link("/dlo", "/link")
    store.delete(ObjectName("box", "parts/1"))
    assert read(filesystem, "/link") == body(store, "link") == b"onetwo"


def test_links_and_special_files_are_copied(store: MemoryStore, filesystem: FileSystem) -> None:
    filesystem.symlink("over there", "/symlink", ME)
    filesystem.mknod("/fifo", stat.S_IFIFO | 0o644, 0, ME)
    for name in ("symlink", "fifo"):
        filesystem.link(f"/{name}", f"/{name}2")
    filesystem.refresh()
    assert filesystem.readlink("/symlink2") == "over there"
    assert stat.S_ISFIFO(filesystem.getattr("/fifo2").mode)


def test_a_link_in_the_place_of_a_file_that_was_just_deleted(
    store: MemoryStore, filesystem: FileSystem
) -> None:
    """As `ln -f` makes it."""
    for name in ("file", "link"):
        write(filesystem, f"/{name}", name.encode())
    sync_all(filesystem)
    filesystem.unlink("/link")
    filesystem.link("/file", "/link")
    sync_all(filesystem)
    assert body(store, "link") == read(filesystem, "/link") == b"file"


def test_another_clients_object_is_not_overwritten(store: MemoryStore, filesystem: FileSystem) -> None:
    write(filesystem, "/file", b"ours")
    sync_all(filesystem)
    filesystem.getattr("/file")
    foreign(store, "link", b"theirs")
    assert fails(filesystem, "/file", "/link") == errno.EEXIST
    assert body(store, "link") == read(filesystem, "/link") == b"theirs"


@pytest.mark.parametrize(
    ("old", "new", "number"),
    [
        ("/none", "/link", errno.ENOENT),
        ("/folder", "/link", errno.EPERM),
        ("/file", "/folder", errno.EEXIST),
        ("/file", "/file", errno.EEXIST),
        ("/file", "/" + "n" * 256, errno.ENAMETOOLONG),
    ],
)
def test_errnos(filesystem: FileSystem, old: str, new: str, number: int) -> None:
    write(filesystem, "/file", b"x")
    filesystem.mkdir("/folder", 0o755, ME)
    assert fails(filesystem, old, new) == number


@pytest.mark.parametrize("size", [5, 2 * MIB])
def test_a_copy_that_fails_leaves_nothing(store: MemoryStore, filesystem: FileSystem, size: int) -> None:
    write(filesystem, "/file", noise(size))
    sync_all(filesystem)
    before = segments(store) if size > MIB else set()
    refuse(store, "copy", Unavailable)
    assert fails(filesystem, "/file", "/link") == errno.EIO
    store.hook = None
    filesystem.refresh()
    with pytest.raises(FileNotFoundError):
        filesystem.getattr("/link")
    assert keys(store) == ["file"]
    assert size < MIB or segments(store) == before
    filesystem.link("/file", "/link")
    assert read(filesystem, "/link") == noise(size)
