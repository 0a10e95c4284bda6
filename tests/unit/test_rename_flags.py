"""The flags of renameat2(2)."""

import errno
import os

import pytest

from support.harness import ME, get, read, sync_all, write
from support.memory_store import MemoryStore
from support.stored_objects import body
from swiftfs.errors import errno_of
from swiftfs.posix.filesystem import FileSystem
from swiftfs.posix.rename_ops import NOREPLACE

EXCHANGE, WHITEOUT = 2, 4

pytestmark = pytest.mark.mount_options("settle=3600")


def refused(filesystem: FileSystem, old: str, new: str, flags: int = NOREPLACE) -> int:
    with pytest.raises(OSError) as caught:  # noqa: PT011  the caller compares the errno
        filesystem.rename(old, new, flags)
    return errno_of(caught.value)


def test_only_the_first_flag_is_known(filesystem: FileSystem) -> None:
    write(filesystem, "/a", b"a")
    write(filesystem, "/b", b"b")
    for flags in (EXCHANGE, WHITEOUT, NOREPLACE | WHITEOUT, 8):
        assert refused(filesystem, "/a", "/b", flags) == errno.EINVAL
    assert (read(filesystem, "/a"), read(filesystem, "/b")) == (b"a", b"b")


@pytest.mark.parametrize("is_stored", [False, True])
def test_a_file_or_folder_is_not_replaced(
    store: MemoryStore, filesystem: FileSystem, is_stored: bool
) -> None:
    for path in ("/a", "/b"):
        write(filesystem, path, path.encode())
    for path in ("/d", "/e"):
        filesystem.mkdir(path, 0o755, ME)
    if is_stored:
        sync_all(filesystem)
    for old, new in (("/a", "/b"), ("/a", "/d"), ("/d", "/e"), ("/d", "/a"), ("/a", "/a")):
        assert refused(filesystem, old, new) == errno.EEXIST
    filesystem.rename("/a", "/new", NOREPLACE)
    filesystem.rename("/d", "/n", NOREPLACE)
    sync_all(filesystem)
    assert body(store, "new") == b"/a"


def test_a_deleted_name_is_free(store: MemoryStore, filesystem: FileSystem) -> None:
    write(filesystem, "/a", b"a")
    write(filesystem, "/b", b"b")
    sync_all(filesystem)
    filesystem.unlink("/b")
    filesystem.rename("/a", "/b", NOREPLACE)
    sync_all(filesystem)
    assert body(store, "b") == b"a"


def test_an_open_file_that_libfuse_has_hidden_gets_its_name_back(filesystem: FileSystem) -> None:
    write(filesystem, "/a", b"a")
    write(filesystem, "/b", b"b")
    handle = filesystem.open("/b", os.O_RDONLY)
    filesystem.hide("/b", "/.fuse_hidden0000000100000001")
    assert refused(filesystem, "/a", "/b") == errno.EEXIST
    assert get(filesystem, handle) == read(filesystem, "/b") == b"b"
    filesystem.release(handle)


def test_a_new_name_costs_no_request_where_the_folder_is_known(
    store: MemoryStore, filesystem: FileSystem
) -> None:
    write(filesystem, "/a", b"a")
    store.requests.clear()
    filesystem.rename("/a", "/b", NOREPLACE)
    assert store.requests == []
