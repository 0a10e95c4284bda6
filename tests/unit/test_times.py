"""The times of files and folders that no object stores: they follow every change, and cost no request."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.harness import ME, change, harness, put, read, sync_all, write
from support.memory_store import MemoryStore
from support.stored_objects import NEVER, foreign
from swiftfs import concurrency
from swiftfs.attributes import decode_metadata, parse_last_modified
from swiftfs.namespace.inodes import Inodes
from swiftfs.objects import Attributes, ObjectName
from swiftfs.paths import Source
from swiftfs.posix import services
from swiftfs.posix.filesystem import FileSystem
from swiftfs.posix.services import Times

OLD = 10**18
"""In ns: the year 2001."""

Act = Callable[[FileSystem], object]


pytestmark = pytest.mark.mount_options(NEVER)


@contextmanager
def without_requests(store: MemoryStore) -> Iterator[None]:
    store.requests.clear()
    yield
    assert store.requests == []


def filled_folder(filesystem: FileSystem) -> None:
    """Make the folder `/d` of 2001 with two files and a folder, all in Swift."""
    filesystem.mkdir("/d", 0o755, ME)
    write(filesystem, "/d/file", b"x")
    write(filesystem, "/d/other", b"y")
    filesystem.mkdir("/d/sub", 0o755, ME)
    write(filesystem, "/outside", b"z")
    sync_all(filesystem)
    filesystem.utimens("/d", OLD, OLD)
    filesystem.utimens("/d/file", OLD, OLD)
    sync_all(filesystem)


FILLING: dict[str, Act] = {
    "create": lambda fs: write(fs, "/d/new", b""),
    "mkdir": lambda fs: fs.mkdir("/d/new", 0o755, ME),
    "symlink": lambda fs: fs.symlink("target", "/d/new", ME),
    "unlink": lambda fs: fs.unlink("/d/file"),
    "rmdir": lambda fs: fs.rmdir("/d/sub"),
}


@pytest.mark.parametrize("name", FILLING)
def test_a_change_in_a_folder_is_its_time(store: MemoryStore, filesystem: FileSystem, name: str) -> None:
    filled_folder(filesystem)
    before = concurrency.unix_time_ns()
    with without_requests(store):
        assert filesystem.getattr("/d").mtime_ns == OLD
        FILLING[name](filesystem)
        found = filesystem.getattr("/d")
    assert found.mtime_ns >= before
    assert found.ctime_ns == found.mtime_ns
    filesystem.refresh()
    assert filesystem.getattr("/d").mtime_ns == found.mtime_ns


def test_a_rename_is_the_time_of_both_folders_and_changes_the_file(filesystem: FileSystem) -> None:
    filled_folder(filesystem)
    filesystem.utimens("/", OLD, OLD)
    before = concurrency.unix_time_ns()
    filesystem.rename("/d/file", "/moved")
    for folder in ("/", "/d"):
        assert filesystem.getattr(folder).mtime_ns >= before, folder
    moved = filesystem.getattr("/moved")
    assert moved.mtime_ns == OLD
    assert (moved.ctime_ns or 0) >= before
    filesystem.utimens("/d", OLD, OLD)
    filesystem.rename("/d", "/e")
    renamed = filesystem.getattr("/e")
    assert renamed.mtime_ns == OLD, "a renamed folder keeps its time"
    assert (renamed.ctime_ns or 0) >= before


def test_a_change_of_bytes_is_no_change_of_the_folder(filesystem: FileSystem) -> None:
    filled_folder(filesystem)
    change(filesystem, "/d/file", 0, b"y")
    filesystem.chmod("/d/file", 0o600)
    assert filesystem.getattr("/d").mtime_ns == OLD


def test_a_folder_gets_the_time_that_a_program_sets(store: MemoryStore, filesystem: FileSystem) -> None:
    """As `rsync -a` does after it has filled the folder; Swift has that time already."""
    filled_folder(filesystem)
    write(filesystem, "/d/new", b"x")
    sync_all(filesystem)
    with without_requests(store):
        filesystem.utimens("/d", OLD, OLD)
        sync_all(filesystem)
        assert filesystem.getattr("/d").mtime_ns == OLD


def test_a_folders_time_is_stored_with_its_next_change(store: MemoryStore, filesystem: FileSystem) -> None:
    filled_folder(filesystem)
    write(filesystem, "/d/new", b"x")
    shown = filesystem.getattr("/d").mtime_ns
    filesystem.chmod("/d", 0o700)
    sync_all(filesystem)
    assert decode_metadata(store.head(ObjectName("box", "d")).metadata).mtime_ns == shown
    assert filesystem.getattr("/d").mtime_ns == shown


CHANGES: dict[str, Act] = {
    "chmod": lambda fs: fs.chmod("/d/file", 0o600),
    "chown": lambda fs: fs.chown("/d/file", None, ME.gid, ME),
    "utimens": lambda fs: fs.utimens("/d/file", OLD, OLD),
    "touch -a": lambda fs: fs.utimens("/d/file", OLD, None),
    "setxattr": lambda fs: fs.setxattr("/d/file", "user.note", b"x", 0),
    "write": lambda fs: change(fs, "/d/file", 0, b"y"),
    "truncate": lambda fs: fs.truncate("/d/file", 0),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_a_file_is_its_change_time(store: MemoryStore, filesystem: FileSystem, name: str) -> None:
    """It stays as it is when the change is stored, and the listing shows it: `tar` compares it."""
    filled_folder(filesystem)
    before = concurrency.unix_time_ns()
    CHANGES[name](filesystem)
    changed = filesystem.getattr("/d/file").ctime_ns
    assert changed is not None
    assert changed >= before
    sync_all(filesystem)
    for _ in range(2):
        assert filesystem.getattr("/d/file").ctime_ns == changed
        filesystem.refresh()
    foreign(store, "d/file", b"another client's")
    filesystem.refresh()
    row = next(row for row in store.list_page("box").rows if row.key == "d/file")
    assert filesystem.getattr("/d/file").ctime_ns == max(changed, parse_last_modified(row.last_modified))


def test_another_mount_sees_when_an_object_was_stored(store: MemoryStore, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with harness(store, tmp_path / "one", NEVER) as filesystem:
        filled_folder(filesystem)
    rows = {row.key: parse_last_modified(row.last_modified) for row in store.list_page("box").rows}
    with harness(store, tmp_path / "two", NEVER) as filesystem:
        found = filesystem.getattr("/d/file")
        assert (found.mtime_ns, found.atime_ns, found.ctime_ns) == (OLD, OLD, rows["d/file"])


def test_an_open_file_is_changed_by_each_write(filesystem: FileSystem) -> None:
    handle = filesystem.create("/file", 0o644, os.O_RDWR, ME)
    try:
        for _ in range(3):
            put(filesystem, handle, 0, b"x")
            found = filesystem.getattr_handle(handle)
            assert found.ctime_ns == found.mtime_ns
        filesystem.flush(handle)
        assert filesystem.getattr_handle(handle).ctime_ns == found.ctime_ns
    finally:
        filesystem.release(handle)
    assert filesystem.getattr("/file").ctime_ns == found.ctime_ns


def test_reading_is_recorded_as_with_relatime(store: MemoryStore, filesystem: FileSystem) -> None:
    """New mail is a file that was changed after it was read."""
    write(filesystem, "/mbox", b"one")
    sync_all(filesystem)
    change(filesystem, "/mbox", 3, b"two")
    found = filesystem.getattr("/mbox")
    assert found.atime_ns is not None
    assert found.atime_ns < found.mtime_ns
    with without_requests(store):
        read(filesystem, "/mbox")
        found = filesystem.getattr("/mbox")
        assert found.atime_ns is not None
        assert found.atime_ns >= found.mtime_ns
        before = found.atime_ns
        read(filesystem, "/mbox")
        assert filesystem.getattr("/mbox").atime_ns == before
    filesystem.utimens("/mbox", OLD, None)
    found = filesystem.getattr("/mbox")
    assert (found.atime_ns, found.mtime_ns > OLD) == (OLD, True)


def test_files_do_not_inherit_times_of_others_of_their_name(filesystem: FileSystem) -> None:
    write(filesystem, "/file", b"x")
    filesystem.utimens("/file", OLD, OLD)
    filesystem.unlink("/file")
    before = concurrency.unix_time_ns()
    write(filesystem, "/file", b"y")
    found = filesystem.getattr("/file")
    assert found.atime_ns is not None
    assert found.atime_ns >= before


def test_times_of_few_files_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "MOST_TIMES", 10)
    inodes = Inodes(Source("box"))
    kept = Times(inodes)
    for number in range(100):
        kept.set(f"/{number}", OLD, None, is_folder=False)

    def shown(number: int) -> int | None:
        inode = inodes.number(f"/{number}", is_folder=False)
        return kept.shown(Attributes(0o100644, 0, 5, 0, 0, inode)).atime_ns

    assert next(number for number in range(100) if shown(number) == OLD) >= 80
    assert shown(99) == OLD
