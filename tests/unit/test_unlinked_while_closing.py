"""A file that is unlinked while a close(2) of it still runs."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.deadlines import within
from support.harness import ME, names, put, sync_all, write
from support.jobs import wait_until
from support.memory_store import MemoryStore
from support.stored_objects import keys
from swiftfs.namespace.entry import Entry
from swiftfs.namespace.namespace import Namespace
from swiftfs.posix.filesystem import FileSystem
from swiftfs.posix.pending import JournaledChange, PendingChanges


def being_written(filesystem: FileSystem, *, is_new: bool) -> int:
    """Write to `/file`, which is in Swift unless it `is_new`; return the handle."""
    if not is_new:
        write(filesystem, "/file", b"old")
        sync_all(filesystem)
    handle = filesystem.create("/file", 0o644, os.O_WRONLY, ME)
    put(filesystem, handle, 0, b"new")
    return handle


@pytest.mark.parametrize("is_new", [True, False])
def test_a_file_that_is_being_closed_does_not_come_back(
    filesystem: FileSystem, store: MemoryStore, monkeypatch: pytest.MonkeyPatch, is_new: bool
) -> None:
    """The close has begun before the unlink, which looks the file up before the close has shown it."""
    handle = being_written(filesystem, is_new=is_new)
    opened = filesystem.services.open_files.at("/file")
    assert opened is not None
    shown, go_on, record = threading.Event(), threading.Event(), PendingChanges.record

    def late(self: PendingChanges, path: str, entry: Entry | None) -> JournaledChange:
        if entry is not None:
            shown.set()
            assert go_on.wait(within(20))
        return record(self, path, entry)

    monkeypatch.setattr(PendingChanges, "record", late)
    with ThreadPoolExecutor(2) as pool:
        closing = pool.submit(filesystem.flush, handle)
        assert shown.wait(within(20))
        unlinking = pool.submit(filesystem.unlink, "/file")
        wait_until(lambda: opened.users > 1)  # it has looked the file up, and waits for its lock
        go_on.set()
        closing.result()
        unlinking.result()
    filesystem.release(handle)
    sync_all(filesystem)
    assert keys(store) == []
    with pytest.raises(FileNotFoundError):
        filesystem.getattr("/file")


@pytest.mark.parametrize("is_new", [True, False])
@pytest.mark.parametrize("way", ["unlink", "hide"])
def test_a_file_that_is_closed_while_it_is_looked_up_does_not_come_back(
    filesystem: FileSystem, store: MemoryStore, monkeypatch: pytest.MonkeyPatch, way: str, is_new: bool
) -> None:
    """On a slow server that takes long; libfuse has decided before whether to hide the file."""
    handle = being_written(filesystem, is_new=is_new)
    find = Namespace.find

    def close() -> None:
        filesystem.flush(handle)
        filesystem.release(handle)
        sync_all(filesystem)

    def slow(self: Namespace, path: str) -> Entry | None:
        found = find(self, path)
        if path == "/file":
            monkeypatch.setattr(Namespace, "find", find)
            with ThreadPoolExecutor(1) as pool:
                pool.submit(close).result()
        return found

    monkeypatch.setattr(Namespace, "find", slow)
    if way == "unlink":
        filesystem.unlink("/file")
    else:
        filesystem.hide("/file", "/.fuse_hidden0000000100000001")
    wait_until(lambda: keys(store) == [])
    assert names(filesystem, "/") == []
