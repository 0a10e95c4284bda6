"""Disks: one that is synced only when a test says so, what a power cut leaves of it, and one that refuses."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.harness import copy_live
from swiftfs.journal import backlog, database, salvage
from swiftfs.journal.database import JournalDB
from swiftfs.posix.filesystem import FileSystem

JOURNAL = "journal.sqlite*"


class Disk:
    """The disk under the cache folder `cache`: nothing is certain to be on it before it is synced.

    It is synced by `sync`, and when the mount does it for one of its requests.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cache = folder / "cache"
        self.cache.mkdir(parents=True)
        self._synced = folder / "synced"
        self._left = folder / "left"
        self._monkeypatch = monkeypatch
        self._lock = threading.Lock()  # several threads of a mount sync at once
        monkeypatch.setattr(backlog, "SYNC_SECONDS", 1000.0)
        monkeypatch.setattr(database, "synchronize", self._sync_files)
        monkeypatch.setattr(database, "sync_data", self._sync_journal)

    def sync(self, filesystem: FileSystem) -> None:
        """Sync the journal, as the mount does twice a second."""
        filesystem.services.journal.sync()
        self._sync_files(self.cache)

    def _sync_files(self, folder: Path) -> None:
        if folder != self.cache:
            return  # of a mount that was killed
        shutil.rmtree(self._synced / "content", ignore_errors=True)
        copy_live(self.cache / "content", self._synced / "content")

    def _sync_journal(self, _log: Path) -> None:
        with self._lock:
            self._synced.mkdir(exist_ok=True)
            _copy_journal(self.cache, self._synced)

    def cut(self, *, journal_is_newest: bool) -> Path:
        """Return a cache folder as a power cut leaves it, for a mount after the machine's next start.

        The disk has the newest names of files, but no file has a byte behind the end that it had when it was
        synced: a new file is empty. Bytes and holes within that are the newest. The journal is the newest
        one, or that of the last sync. Call it while the mount serves.
        """
        shutil.rmtree(self._left, ignore_errors=True)
        copy_live(self.cache, self._left)
        for file in (self._left / "content").iterdir():
            before = self._synced / "content" / file.name
            size = before.stat().st_size if before.exists() else 0
            with file.open("r+b") as opened:
                opened.truncate(min(size, file.stat().st_size))
        if not journal_is_newest:
            with self._lock:
                _copy_journal(self._synced, self._left)
        return self._left

    def restart(self) -> None:
        """Let all that is opened from now on see another start of the machine."""
        for module in (database, salvage):
            self._monkeypatch.setattr(module, "boot_id", lambda: "another boot")


def _copy_journal(source: Path, target: Path) -> None:
    for path in target.glob(JOURNAL):
        path.unlink()
    for path in source.glob(JOURNAL):
        shutil.copy2(path, target / path.name)


@contextmanager
def refusing(log: JournalDB) -> Iterator[None]:
    """Refuse each commit, as a disk does that is full or fails."""
    log._database.execute("PRAGMA query_only = ON")
    try:
        yield
    finally:
        log._database.execute("PRAGMA query_only = OFF")
