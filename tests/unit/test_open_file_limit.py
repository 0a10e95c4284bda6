"""A low limit of open files: programs are refused first, and what was closed is safe all the same."""

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from support.harness import ME, harness, put, read, write
from support.jobs import wait_until
from support.memory_store import MemoryStore
from support.stored_objects import NEVER, foreign, keys
from swiftfs.journal import backlog
from swiftfs.posix.filesystem import FileSystem

FILES = 1000


@contextmanager
def limit(more: int) -> Iterator[int]:
    """Let this process have `more` descriptors than it has; yield the limit."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open("/", os.O_PATH)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + more, before[1]))
    try:
        yield lowest + more
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def open_next(filesystem: FileSystem, number: int) -> int | None:
    """Create a file; return its handle, None if that is refused."""
    try:
        return filesystem.create(f"/open{number:04d}", 0o644, os.O_RDWR, ME)
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        return None


@contextmanager
def all_open(filesystem: FileSystem) -> Iterator[list[int]]:
    """Create files and keep them open, until that is refused; yield their handles."""
    with ExitStack() as stack:
        handles: list[int] = []
        while (handle := open_next(filesystem, len(handles))) is not None:
            stack.callback(filesystem.release, handle)
            put(filesystem, handle, 0, b"open")
            handles.append(handle)
        yield handles


@pytest.mark.usual
def test_thousands_of_files_that_wait_need_no_descriptor(tmp_path: Path) -> None:
    store = MemoryStore("box")
    with harness(store, tmp_path, NEVER) as filesystem:
        with limit(100):
            for number in range(FILES):
                write(filesystem, f"/{number:04d}", b"text")
        assert len(filesystem.waiting()) == FILES
    assert len(keys(store)) == FILES


@pytest.mark.usual
def test_programs_leave_descriptors_to_the_journal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "SYNC_SECONDS", 0.02)
    store = MemoryStore("box")
    foreign(store, "theirs", b"theirs")
    with harness(store, tmp_path, NEVER) as filesystem, limit(200):
        write(filesystem, "/closed", b"text")
        with all_open(filesystem) as handles:
            assert len(handles) > 50
            with pytest.raises(OSError, match="Too many open files"):
                read(filesystem, "/theirs")
            for handle in handles:
                filesystem.flush(handle)
            filesystem.fsync(handles[0], data_only=False)
            filesystem.services.journal.sync()  # as its thread does twice a second
            filesystem.services.journal.flush_all()
            wait_until(lambda: not filesystem.waiting())
        assert read(filesystem, "/theirs") == b"theirs"
    assert len(keys(store)) == len(handles) + 2
    assert "may not survive" not in caplog.text
