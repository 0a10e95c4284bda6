"""The disk of the cache folder is full while a file is uploaded."""

import errno
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from support.harness import harness, names, put, read, write
from support.jobs import wait_until
from support.memory_store import MemoryStore
from support.stored_objects import NEVER, body, foreign, keys
from swiftfs.journal import tasks
from swiftfs.journal.database import JournalDB
from swiftfs.objects import ObjectName
from swiftfs.posix.filesystem import FileSystem


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_an_upload_that_a_full_disk_stopped_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Nobody needs to run `swiftfs retry` when there is space again."""
    monkeypatch.setattr(tasks, "FIRST_PAUSE", 0.05)
    store, failures = MemoryStore("box"), [number, number]

    def hook(method: str, _subject: str) -> None:
        if method == "put" and failures:
            code = failures.pop()
            raise OSError(code, os.strerror(code))

    store.hook = hook
    with harness(store, tmp_path, "settle=0.01") as filesystem:
        write(filesystem, "/file", b"data")
        wait_until(lambda: not filesystem.waiting())
    assert body(store, "file") == b"data"
    assert not failures


@pytest.mark.parametrize("change", ["chmod", "append", "rewrite", "unlink", "rename"])
def test_a_change_that_the_journal_cannot_take_leaves_the_pending_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """It disappeared from the mount until it was stored."""
    store = MemoryStore("box")
    changes: dict[str, Callable[[FileSystem], object]] = {
        "chmod": lambda mounted: mounted.chmod("/file", 0o600),
        "append": lambda mounted: append(mounted, "/file", b" more"),
        "rewrite": lambda mounted: write(mounted, "/file", b"other"),
        "unlink": lambda mounted: mounted.unlink("/file"),
        "rename": lambda mounted: mounted.rename("/file", "/new"),
    }

    def refuse(_db: JournalDB, _statements: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with harness(store, tmp_path, NEVER) as filesystem:
        write(filesystem, "/file", b"data")
        with monkeypatch.context() as patch:
            patch.setattr(JournalDB, "_execute", refuse)
            with pytest.raises(OSError, match="No space"):
                changes[change](filesystem)
            assert names(filesystem, "/") == ["file"]
            assert filesystem.getattr("/file").mode & 0o777 == 0o644
        expected = {"append": b"data more", "rewrite": b"other"}.get(change, b"data")
        assert read(filesystem, "/file") in (b"data", expected)
        filesystem.rename("/file", "/new")
        assert names(filesystem, "/") == ["new"]
    assert keys(store) == ["new"]


def append(filesystem: FileSystem, path: str, data: bytes) -> None:
    handle = filesystem.open(path, os.O_WRONLY)
    try:
        put(filesystem, handle, filesystem.getattr(path).size, data)
        filesystem.flush(handle)
    finally:
        filesystem.release(handle)


def test_a_deletion_that_a_full_disk_stopped_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was parked as an unexpected error."""
    monkeypatch.setattr(tasks, "FIRST_PAUSE", 0.05)
    store, failures, sync = MemoryStore("box"), [errno.ENOSPC], JournalDB.sync_older
    foreign(store, "file", b"data")

    def refuse_once(db: JournalDB, wanted: list[ObjectName]) -> None:
        if failures:
            raise OSError(failures.pop(), "no space")
        sync(db, wanted)

    monkeypatch.setattr(JournalDB, "sync_older", refuse_once)
    with harness(store, tmp_path, "settle=0.01") as filesystem:
        filesystem.unlink("/file")
        wait_until(lambda: not filesystem.waiting())
    assert not failures
    assert keys(store) == []
