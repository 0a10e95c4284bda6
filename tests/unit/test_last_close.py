"""The last close of a file, at the same time as a call that finds the file still open."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from support.harness import ME, get, harness, names, put, read, write
from support.memory_store import MemoryStore
from support.stored_objects import foreign, keys
from swiftfs.posix.filesystem import FileSystem
from swiftfs.posix.open_file import OpenFile
from swiftfs.posix.open_files import OpenFiles


class ClosingFiles(OpenFiles):
    """Open files of which the last handle is closed right after a call has found the file by its path."""

    close: Callable[[], None] | None = None

    def at(self, path: str) -> OpenFile | None:
        found = super().at(path)
        if found is not None and (close := self.close) is not None:
            self.close = None
            close()
        return found


def closing(filesystem: FileSystem, monkeypatch: pytest.MonkeyPatch, path: str, flags: int) -> int:
    """Open a file, which is closed when the next call has found it; return its handle."""
    opened = filesystem.services.open_files
    monkeypatch.setattr(opened, "__class__", ClosingFiles)
    handle = filesystem.open(path, flags)
    monkeypatch.setattr(opened, "close", lambda: filesystem.release(handle), raising=False)
    return handle


def test_an_open_during_it_gets_the_file(
    store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with harness(store, tmp_path) as filesystem:
        for name in ("/other", "/file"):
            write(filesystem, name, name.encode())
        closing(filesystem, monkeypatch, "/file", os.O_RDONLY)
        handle = filesystem.open("/file", os.O_RDWR)
        other = filesystem.open("/other", os.O_RDONLY)
        assert get(filesystem, handle) == b"/file"
        put(filesystem, handle, 0, b"+FILE")
        filesystem.flush(handle)
        filesystem.release(handle)
        assert get(filesystem, other) == b"/other"
        filesystem.release(other)
        assert read(filesystem, "/file") == b"+FILE"


def test_an_unlink_during_it_deletes_the_object(
    store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is not downloaded, so its deletion would wait for a close that has already happened."""
    foreign(store, "file", b"x" * 100_000)
    with harness(store, tmp_path) as filesystem:
        closing(filesystem, monkeypatch, "/file", os.O_RDONLY)
        filesystem.unlink("/file")
        assert names(filesystem, "/") == []
        assert keys(store) == []
        filesystem.mkdir("/file", 0o755, ME)
