"""A file that another client replaces while it is open: handles keep the old version, later opens do not."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.harness import change, get, harness, put, read, write
from support.jobs import wait_until
from support.memory_store import MemoryStore
from support.noise import NEW, NEWER, OLD
from support.stored_objects import NEVER, body, foreign, keys
from swiftfs.errors import PreconditionFailed, Unavailable
from swiftfs.filecache.block_map import BLOCK
from swiftfs.objects import ObjectName, PageUse
from swiftfs.posix.filesystem import FileSystem


@pytest.fixture
def filesystem(store: MemoryStore, tmp_path: Path) -> Iterator[FileSystem]:
    foreign(store, "file", OLD)
    with harness(store, tmp_path, "sync,read_ahead=0,ttl=0") as built:
        yield built


def replaced(filesystem: FileSystem, store: MemoryStore, data: bytes = NEW) -> int:
    """Open the file and read its first block; then another client replaces it."""
    handle = filesystem.open("/file", os.O_RDONLY)
    assert get(filesystem, handle, 0, BLOCK) == OLD[:BLOCK]
    foreign(store, "file", data)
    return handle


def test_each_handle_has_its_version(filesystem: FileSystem, store: MemoryStore) -> None:
    old = replaced(filesystem, store)
    new = filesystem.open("/file", os.O_RDONLY)
    assert filesystem.page_use(new) is PageUse.BYPASS
    assert get(filesystem, new) == NEW
    assert get(filesystem, old, 0, BLOCK) == OLD[:BLOCK]
    with pytest.raises(PreconditionFailed):
        get(filesystem, old, BLOCK, BLOCK)
    assert filesystem.getattr("/file").size == len(NEW)
    assert filesystem.getattr_handle(old).size == len(OLD)
    foreign(store, "file", NEWER)
    newest = filesystem.open("/file", os.O_RDONLY)
    assert get(filesystem, newest) == NEWER
    assert get(filesystem, new) == NEW
    for handle in (new, old, newest):
        filesystem.release(handle)
    assert read(filesystem, "/file") == NEWER


def use_at_open(filesystem: FileSystem, path: str = "/file", flags: int = os.O_RDONLY) -> PageUse:
    """Open and close a file as the kernel does; return what it does with its pages."""
    handle = filesystem.open(path, flags)
    try:
        return filesystem.page_use(handle)
    finally:
        filesystem.release(handle)


def uses_at_opens(filesystem: FileSystem) -> list[PageUse]:
    """Open and close the file three times, and look at it when that is asked for."""
    uses: list[PageUse] = []
    while len(uses) < 3:
        uses.append(use_at_open(filesystem))
        if uses[-1] is PageUse.LOOK_AGAIN:
            filesystem.getattr("/file")
    return uses


CACHED = [PageUse.DROP, PageUse.KEEP, PageUse.KEEP]
"""The uses when the kernel has the size of the file, but not its pages."""

RESIZED = [PageUse.LOOK_AGAIN, PageUse.DROP, PageUse.KEEP]
"""The uses when it has another size."""


def test_the_kernel_caches_again_when_the_old_version_is_closed(
    filesystem: FileSystem, store: MemoryStore
) -> None:
    old = replaced(filesystem, store, NEWER)
    assert uses_at_opens(filesystem) == [PageUse.BYPASS] * 3
    filesystem.release(old)
    assert uses_at_opens(filesystem) == RESIZED


def test_the_kernel_has_the_size_of_the_old_version(filesystem: FileSystem, store: MemoryStore) -> None:
    old = replaced(filesystem, store)
    filesystem.getattr_handle(old)
    assert uses_at_opens(filesystem) == [PageUse.LOOK_AGAIN, PageUse.BYPASS, PageUse.BYPASS]
    filesystem.release(old)


def test_only_pages_of_the_version_that_is_opened_are_kept(
    filesystem: FileSystem, store: MemoryStore
) -> None:
    assert uses_at_opens(filesystem) == CACHED
    foreign(store, "file", NEWER)
    assert uses_at_opens(filesystem) == CACHED
    change(filesystem, "/file", 0, b"ours")
    assert uses_at_opens(filesystem) == CACHED
    foreign(store, "file", NEWER)
    assert uses_at_opens(filesystem) == CACHED
    filesystem.truncate("/file", 10)
    assert uses_at_opens(filesystem)[-2:] == CACHED[:2]


def test_a_file_with_another_size_than_was_shown_is_looked_up_again(
    filesystem: FileSystem, store: MemoryStore
) -> None:
    filesystem.getattr("/file")
    foreign(store, "file", NEW)
    assert uses_at_opens(filesystem) == RESIZED


def test_an_open_beside_one_that_may_not_be_answered_yet_drops_the_pages_too(
    filesystem: FileSystem,
) -> None:
    first = filesystem.open("/file", os.O_RDONLY)
    assert filesystem.page_use(first) is PageUse.DROP
    assert use_at_open(filesystem) is PageUse.DROP
    wait_until(lambda: use_at_open(filesystem) is PageUse.KEEP)
    filesystem.release(first)
    assert use_at_open(filesystem) is PageUse.KEEP


def test_pages_move_with_their_file(filesystem: FileSystem, store: MemoryStore) -> None:
    """So what was at the new name says nothing of them."""
    foreign(store, "other", NEWER)
    assert [use_at_open(filesystem, "/other") for _ in range(2)] == [PageUse.DROP, PageUse.KEEP]
    filesystem.rename("/file", "/other")
    foreign(store, "other", NEWER)
    assert use_at_open(filesystem, "/other") is PageUse.DROP


def test_a_failed_read_makes_the_next_open_send_a_head(store: MemoryStore, tmp_path: Path) -> None:
    foreign(store, "file", OLD)
    with harness(store, tmp_path, "sync,read_ahead=0,ttl=1000") as filesystem:
        old = replaced(filesystem, store)
        with pytest.raises(PreconditionFailed):
            get(filesystem, old, BLOCK, BLOCK)
        assert read(filesystem, "/file") == NEW
        filesystem.release(old)


@pytest.mark.parametrize("how", ["append", "truncate", "truncate by path", "empty"])
def test_changes_are_made_to_the_new_version(filesystem: FileSystem, store: MemoryStore, how: str) -> None:
    old = replaced(filesystem, store)
    expected = NEW
    if how == "append":
        handle = filesystem.open("/file", os.O_WRONLY | os.O_APPEND)
        put(filesystem, handle, 0, b"more")
        filesystem.flush(handle)
        filesystem.release(handle)
        expected += b"more"
    elif how == "truncate by path":
        filesystem.truncate("/file", 1000)
        expected = NEW[:1000]
    else:
        handle = filesystem.open("/file", os.O_RDWR | (os.O_TRUNC if how == "empty" else 0))
        filesystem.truncate_handle(handle, 1000 if how == "truncate" else 0)
        filesystem.flush(handle)
        filesystem.release(handle)
        expected = NEW[:1000] if how == "truncate" else b""
    assert body(store, "file") == expected
    assert get(filesystem, old, 0, BLOCK) == OLD[:BLOCK]
    filesystem.release(old)
    assert read(filesystem, "/file") == expected


def test_our_own_changes_win(filesystem: FileSystem, store: MemoryStore) -> None:
    handle = filesystem.open("/file", os.O_RDWR)
    get(filesystem, handle)
    put(filesystem, handle, 0, b"ours")
    foreign(store, "file", NEW)
    other = filesystem.open("/file", os.O_RDONLY)
    assert get(filesystem, other, 0, 10) == b"ours" + OLD[4:10]
    filesystem.flush(handle)
    filesystem.release(handle)
    filesystem.release(other)
    assert body(store, "file") == b"ours" + OLD[4:]


def test_our_own_uploads_replace_nothing(filesystem: FileSystem, store: MemoryStore) -> None:
    reader = filesystem.open("/file", os.O_RDONLY)
    for data in (b"one", b"another"):
        writer = filesystem.open("/file", os.O_WRONLY)
        assert filesystem.page_use(writer) is not PageUse.BYPASS
        put(filesystem, writer, 0, data)
        filesystem.flush(writer)
        filesystem.release(writer)
        assert get(filesystem, reader, 0, len(data)) == data
    filesystem.chmod("/file", 0o600)
    again = filesystem.open("/file", os.O_RDONLY)
    assert filesystem.page_use(again) is not PageUse.BYPASS
    for handle in (again, reader):
        filesystem.release(handle)


def test_a_file_that_another_client_deleted_is_gone_but_for_its_handle(
    filesystem: FileSystem, store: MemoryStore
) -> None:
    old = replaced(filesystem, store)
    store.delete(ObjectName("box", "file"))
    with pytest.raises(FileNotFoundError):
        filesystem.open("/file", os.O_RDONLY)
    assert get(filesystem, old, 0, BLOCK) == OLD[:BLOCK]
    write(filesystem, "/file", b"made anew", os.O_WRONLY | os.O_CREAT)
    assert body(store, "file") == b"made anew"
    assert get(filesystem, old, 0, BLOCK) == OLD[:BLOCK]
    filesystem.release(old)
    assert read(filesystem, "/file") == b"made anew"


def test_an_open_file_is_opened_again_in_an_outage(filesystem: FileSystem, store: MemoryStore) -> None:
    old = filesystem.open("/file", os.O_RDONLY)
    get(filesystem, old)

    def refuse(method: str, _subject: str) -> None:
        raise Unavailable(method)

    store.hook = refuse
    again = filesystem.open("/file", os.O_RDONLY)
    assert get(filesystem, again) == OLD
    store.hook = None
    for handle in (old, again):
        filesystem.release(handle)


def test_stat_of_an_open_file_asks_once_in_an_outage(filesystem: FileSystem, store: MemoryStore) -> None:
    """Each attempt may take as long as the time limit."""
    handle = filesystem.open("/file", os.O_RDONLY)
    before = filesystem.getattr("/file")
    asked: list[str] = []

    def refuse(method: str, _subject: str) -> None:
        asked.append(method)
        raise Unavailable(method)

    store.hook = refuse
    assert filesystem.getattr("/file") == before
    count = len(asked)
    assert count
    for _ in range(3):
        assert filesystem.getattr("/file") == before
    assert len(asked) == count
    store.hook = None
    filesystem.release(handle)


def test_a_write_to_the_old_version_is_the_last_write(filesystem: FileSystem, store: MemoryStore) -> None:
    old = filesystem.open("/file", os.O_RDWR)
    assert get(filesystem, old) == OLD
    foreign(store, "file", NEW)
    assert read(filesystem, "/file") == NEW
    put(filesystem, old, 0, b"last")
    filesystem.flush(old)
    filesystem.release(old)
    assert body(store, "file") == b"last" + OLD[4:]
    assert read(filesystem, "/file") == b"last" + OLD[4:]


def test_both_versions_move_with_their_folder(filesystem: FileSystem, store: MemoryStore) -> None:
    foreign(store, "d/file", OLD)
    old = filesystem.open("/d/file", os.O_RDONLY)
    assert get(filesystem, old, 0, BLOCK) == OLD[:BLOCK]
    foreign(store, "d/file", NEW)
    new = filesystem.open("/d/file", os.O_RDONLY)
    filesystem.rename("/d", "/e")
    assert get(filesystem, old, 0, BLOCK) == OLD[:BLOCK]
    assert get(filesystem, new) == NEW
    again = filesystem.open("/e/file", os.O_RDONLY)
    assert filesystem.page_use(again) is PageUse.BYPASS
    assert get(filesystem, again) == NEW
    for handle in (old, new, again):
        filesystem.release(handle)


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR])
def test_the_new_version_is_renamed(store: MemoryStore, tmp_path: Path, flags: int) -> None:
    """Not the one that a handle has: an append would store that again."""
    foreign(store, "file", OLD)
    with harness(store, tmp_path, NEVER) as filesystem:
        handle = filesystem.open("/file", flags)
        assert get(filesystem, handle) == OLD
        foreign(store, "file", NEW)
        filesystem.refresh()
        filesystem.rename("/file", "/moved")
        assert read(filesystem, "/moved") == NEW
        change(filesystem, "/moved", len(NEW), b"more")
        assert get(filesystem, handle) == OLD
        filesystem.release(handle)
    assert body(store, "moved") == NEW + b"more"


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_deletion_that_waited_for_the_last_close_spares_a_newer_version(
    store: MemoryStore, tmp_path: Path, is_replaced: bool
) -> None:
    """Its bytes were not here, so the object was needed until then."""
    foreign(store, "file", OLD)
    with harness(store, tmp_path, "read_ahead=0") as filesystem:
        handle = filesystem.open("/file", os.O_RDONLY)
        assert get(filesystem, handle, 0, BLOCK) == OLD[:BLOCK]
        filesystem.unlink("/file")
        assert keys(store) == ["file"]
        if is_replaced:
            foreign(store, "file", NEW)
        filesystem.release(handle)
    assert {key: body(store, key) for key in keys(store)} == ({"file": NEW} if is_replaced else {})
