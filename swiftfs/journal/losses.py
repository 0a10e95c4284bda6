"""Signs that a journal has lost commits.

SQLite stops at the first damaged frame of a write-ahead log, and reports nothing. Then the database shows an
earlier state: files that were closed since are missing, and what was executed since would be executed again.
So a file beside the journal, `journal.sqlite-synced`, repeats which commit is on the disk.
"""

import os
import sqlite3
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from swiftfs.config.cache_dir import CONTENT
from swiftfs.journal.schema import SCHEMA, WITH_OLDER
from swiftfs.sqlite import is_empty, opened_read_only, pragma, size_of

MARK = "-synced"
"""How the name of the file with a journal's mark ends."""

_HEADER = 32
"""Bytes of a log's header; https://sqlite.org/fileformat2.html#the_write_ahead_log."""

_FRAME = 24
"""Bytes of a frame's header, before its page."""

_LITTLE, _BIG = 0x377F0682, 0x377F0683
"""The first number of a log: it says in which byte order the checksums are made."""

_REPLAYED = struct.Struct("=16xI")
"""The start of a `-shm`: how many frames SQLite has replayed; https://sqlite.org/walformat.html."""


class Mark(Struct, frozen=True):
    """Says that the commit `synced` of the journal `id` is on the disk, with all before it."""

    id: str
    synced: int

    def write(self, journal: Path) -> None:
        """Write the mark of a journal, whose disk was synced; a failure only leaves an earlier mark."""
        text = f"{self.id} {self.synced:020d}"
        # In place, and always of one length: that needs no space on a full disk.
        with suppress(OSError):
            file = os.open(_mark_of(journal), os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                os.pwrite(file, f"{text} {zlib.crc32(text.encode()):08x}\n".encode(), 0)
            finally:
                os.close(file)

    @classmethod
    def read(cls, journal: Path) -> "Mark | None":
        """Return the mark of a journal; None if it has none that can be read."""
        try:
            known, number, checksum = _mark_of(journal).read_bytes().split()
            if int(checksum, 16) == zlib.crc32(known + b" " + number):
                return cls(known.decode(), int(number))
        except (OSError, ValueError):
            pass
        return None


def remove_mark(journal: Path) -> None:
    """Remove the mark of a journal that was set aside: the new one has other commits."""
    _mark_of(journal).unlink(missing_ok=True)


def _mark_of(journal: Path) -> Path:
    return journal.with_name(journal.name + MARK)


def loss(journal: Path, boot: str) -> str:
    """Return a sign that a journal has lost commits, or an empty string; nothing is changed.

    A log that was written in this `boot` must be whole, as the kernel has all that was written. In an earlier
    one it may have lost what was not synced. A journal of another format or program shows no sign. Raise
    `sqlite3.Error` if it is damaged in another way, and `OSError`.
    """
    mark = Mark.read(journal)
    is_needed = mark is not None or _has_files(journal.parent / CONTENT)
    if not size_of(journal):
        return "" if not is_needed else "it is empty" if journal.exists() else "it is missing"
    with opened_read_only(journal) as database:
        if is_empty(database):
            return "it is empty" if is_needed or _is_torn(journal) else ""
        return _loss_of_ours(database, journal, mark, boot) if _is_ours(database) else ""


def _loss_of_ours(database: sqlite3.Connection, journal: Path, mark: Mark | None, boot: str) -> str:
    facts = dict(database.execute("SELECT name, value FROM facts").fetchall())
    if mark and (facts.get("id") != mark.id or last_commit(database) < mark.synced):
        return "it is older than its last sync"
    if boot and facts.get("boot") == boot and _is_torn(journal):
        return "its write-ahead log is damaged"
    return ""


def last_commit(database: sqlite3.Connection) -> int:
    """Return the number of the last commit of which a journal's database has a trace."""
    queries = ["SELECT value FROM facts WHERE name = 'synced'", "SELECT max(written) FROM intents"]
    if pragma(database, "user_version") >= WITH_OLDER:
        queries.append("SELECT max(until) FROM older")
    found = (database.execute(query).fetchone() for query in queries)
    return max(int(row[0] or 0) for row in found if row is not None)


def _is_ours(database: sqlite3.Connection) -> bool:
    """Return whether a database is a journal that can be asked; whoever opens it finds what else it is."""
    number = pragma(database, "user_version")
    if pragma(database, "application_id") != SCHEMA.application:
        return False
    names = {name for (name,) in database.execute("SELECT name FROM sqlite_schema")}
    needed = {"facts", "intents", *(["older"] if number >= WITH_OLDER else [])}
    return SCHEMA.first <= number <= SCHEMA.format and needed <= names


def _has_files(folder: Path) -> bool:
    try:
        return any(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return False


def _is_torn(journal: Path) -> bool:
    """Return whether commits are left in the log that SQLite does not replay; it is open, and was queried."""
    wal = journal.with_name(f"{journal.name}-wal")
    if size_of(wal) <= _HEADER:
        return False
    with journal.with_name(f"{journal.name}-shm").open("rb") as shared:
        (replayed,) = _REPLAYED.unpack(shared.read(_REPLAYED.size))
    with wal.open("rb") as log:
        header = log.read(_HEADER)
        if not _is_whole(header):
            return True
        # What is left of a commit that failed or was interrupted has no last frame, which alone has a size.
        return any(frame[4:8] != bytes(4) for _, frame in _frames(log.fileno(), header, replayed))


def mend_log(wal: Path) -> None:
    """Give the frames of the copy of a damaged log the checksums with which SQLite replays them.

    Their pages may be damaged, which the checksums of rows show. Do nothing if the header is damaged.
    """
    with suppress(FileNotFoundError), wal.open("r+b") as log:
        header = log.read(_HEADER)
        if not _is_whole(header):
            return
        sums, number = struct.unpack(">2I", header[24:]), log.fileno()
        for offset, frame in _frames(number, header, 0):
            page = os.pread(number, _page_size(header), offset + _FRAME)
            sums = _checksum(header, frame[:8] + page, sums)
            os.pwrite(number, struct.pack(">2I", *sums), offset + 16)


def _frames(log: int, header: bytes, first: int) -> Iterator[tuple[int, bytes]]:
    """Yield the offset and the header of each whole frame from number `first` on that belongs to the log."""
    step = _FRAME + _page_size(header)
    for offset in range(_HEADER + first * step, os.fstat(log).st_size - step + 1, step):
        frame = os.pread(log, _FRAME, offset)
        if frame[8:16] == header[16:24]:  # else it is left from before a checkpoint
            yield offset, frame


def _is_whole(header: bytes) -> bool:
    if len(header) < _HEADER or struct.unpack(">I", header[:4])[0] not in (_LITTLE, _BIG):
        return False
    return _checksum(header, header[:24], (0, 0)) == struct.unpack(">2I", header[24:])


def _page_size(header: bytes) -> int:
    return int.from_bytes(header[8:12], "big")


def _checksum(header: bytes, data: bytes, before: tuple[int, ...]) -> tuple[int, int]:
    """Return a log's checksum of data that follows what has the checksum `before`."""
    order = "<" if struct.unpack(">I", header[:4])[0] == _LITTLE else ">"
    one, two = before
    numbers = iter(struct.unpack(f"{order}{len(data) // 4}I", data))
    for first, second in zip(numbers, numbers, strict=True):
        one = (one + first + two) & 0xFFFFFFFF
        two = (two + second + one) & 0xFFFFFFFF
    return one, two
