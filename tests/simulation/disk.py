"""The disk below a cache folder: what a power cut leaves of it."""

import errno
import os
import random
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from swiftfs.config.cache_dir import CONTENT, HEADS, JOURNAL, JOURNAL_RESERVE, LATE, VERSIONS
from swiftfs.errors import os_error
from swiftfs.filecache import version_index
from swiftfs.journal import database
from swiftfs.journal.database import JournalDB
from swiftfs.journal.schema import Statement

PAGE = 4096

_pwrite = os.pwrite

Image = dict[str, bytes]
"""The bytes of files by their path in the cache folder."""


class Disk:
    """Knows what was synced of a cache folder; a power cut leaves that, and any part of what came later.

    Only if it `may_be_cut`: to read all files at each sync takes a tenth of a history's time.
    """

    def __init__(
        self, cache: Path, seed: int, is_full: Callable[[], bool], *, may_be_cut: bool = True
    ) -> None:
        self._cache = cache
        self._may_be_cut = may_be_cut
        self._is_full = is_full
        self._random = random.Random(f"disk {seed}")
        self._files: Image = {}
        self._journal: Image = {}
        self.boots = 0

    def sync(self) -> None:
        """Record all as it is now."""
        if not self._may_be_cut:
            return
        self._files = self._read([VERSIONS, HEADS], [CONTENT, LATE])
        self.sync_journal()

    def sync_journal(self) -> None:
        """Record the journal as it is now."""
        if self._may_be_cut:
            self._journal = self._read([JOURNAL], [])

    def cut(self) -> None:
        """Leave what a power cut does, in files of other inodes: the killed mount has the old ones open.

        Each database is as it was synced or as it is. A local file has the old or new bytes in each page; of
        one that has grown since, the size may be on the disk and the bytes not.
        """
        self.boots += 1
        journal = self._read([JOURNAL], [])
        self._leave(journal, self._choose(self._journal, journal))
        files = self._read([VERSIONS, HEADS], [CONTENT, LATE])
        left: Image = {}
        for name in sorted({*files, *self._files}):
            synced, now = self._files.get(name), files.get(name)
            body = self._random.choice((synced, now, _grown(synced, now), self._mixed(synced, now)))
            if body is not None:
                left[name] = body
        for name in (VERSIONS, HEADS):
            both = (name, f"{name}-wal")
            whole = self._choose(self._files, files)
            left.update({one: whole[one] for one in both if one in whole})
            for one in both:
                if one not in whole:
                    left.pop(one, None)
        self._leave(files, left)
        self._files, self._journal = left, self._read([JOURNAL], [])

    def write(self, file: int, data: bytes | memoryview, offset: int) -> int:
        """Write as pwrite(2) does: a disk that becomes full may take a part."""
        if self._is_full() and f"/{CONTENT}/" in str(Path(f"/proc/self/fd/{file}").readlink()):
            taken = len(data) // 2 if len(data) > PAGE and self._random.random() < 0.5 else 0
            if not taken:
                raise os_error(errno.ENOSPC)
            data = data[:taken]
        return _pwrite(file, data, offset)

    def refuse_commit(self) -> None:
        """Raise SQLite's error if the disk is full; the reserve of the journal lasts for some commits."""
        if self._is_full() and ((self._cache / JOURNAL_RESERVE).exists() or self._random.random() < 0.1):
            raise sqlite3.OperationalError("database or disk is full")

    def _choose(self, synced: Image, now: Image) -> Image:
        return self._random.choice((synced, synced, now))

    def _mixed(self, synced: bytes | None, now: bytes | None) -> bytes | None:
        """Return a file of which each page has reached the disk or not since it was synced."""
        if synced is None or now is None:
            return now
        before = synced.ljust(len(now), b"\0")[: len(now)]
        pages = (
            self._random.choice((before, now))[start : start + PAGE] for start in range(0, len(now), PAGE)
        )
        return b"".join(pages)

    def _read(self, databases: list[str], folders: list[str]) -> Image:
        paths = [self._cache / f"{name}{end}" for name in databases for end in ("", "-wal")]
        paths += [path for folder in folders for path in (self._cache / folder).glob("*")]
        return {str(path.relative_to(self._cache)): path.read_bytes() for path in paths if path.is_file()}

    def _leave(self, before: Image, after: Image) -> None:
        for name in before:
            (self._cache / name).unlink()
            (self._cache / f"{name}-shm").unlink(missing_ok=True)
        for name, body in after.items():
            path = self._cache / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(body)


def _grown(synced: bytes | None, now: bytes | None) -> bytes | None:
    """Return a file of which only the size has reached the disk since it was synced."""
    if now is None:
        return synced
    return (synced or b"").ljust(len(now), b"\0")[: len(now)]


@contextmanager
def watched(disk: Disk, mark: Callable[[], Callable[[], None]]) -> Iterator[None]:
    """Let the disk record what mounts sync; `mark` is called before a sync, and its result after it."""
    sync, execute = JournalDB.sync, JournalDB._execute

    def marked_sync(db: JournalDB) -> None:
        done = mark()
        sync(db)
        done()

    def refusing_execute(db: JournalDB, statements: Iterable[Statement]) -> None:
        disk.refuse_commit()
        execute(db, statements)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JournalDB, "_execute", refusing_execute)
        patch.setattr(os, "pwrite", disk.write)
        patch.setattr(JournalDB, "sync", marked_sync)
        patch.setattr(database, "synchronize", lambda _folder: disk.sync())
        patch.setattr(os, "fdatasync", lambda _file: disk.sync_journal())
        for module in (database, version_index):
            patch.setattr(module, "boot_id", lambda: f"boot {disk.boots}")
        yield
