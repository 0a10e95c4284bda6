"""A journal that may be damaged: signs of lost commits, and what can be read of it without its mount.

SQLite stops at the first damaged frame of a write-ahead log, and reports nothing. Then the database shows an
earlier state: files that were closed since are missing, and what was executed since would be executed again.
So a file beside the journal, `journal.sqlite-synced`, repeats which commit is on the disk.

A journal that a mount has open, one of a dead mount, or a damaged one is read from a copy: nothing in the
cache folder changes.
"""

import json
import os
import re
import shutil
import sqlite3
import struct
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from operator import itemgetter
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from swiftfs.config.cache_dir import CONTENT, DAMAGED_JOURNAL
from swiftfs.errors import ConfigurationError
from swiftfs.journal.operations import Operation, PutFile, Unreadable, decode
from swiftfs.journal.schema import NOT_WRITTEN, SCHEMA, SELECT_OLDER, WITH_OLDER
from swiftfs.sqlite import (
    OtherFormat,
    boot_id,
    is_empty,
    migrate,
    opened_read_only,
    pragma,
    row_checksum,
    size_of,
)

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


ATTEMPTS = 10
"""Attempts to copy the database: a copy made during a checkpoint is made again."""

LONGEST_HOLE = 100_000
"""Rows read one by one between those that can be read from both ends."""

LONGEST_TEXT = 64 * 1024
"""Bytes of the longest operation that is found in a damaged database."""

_SELECT = "SELECT seq, path, intent, errno, reason, written, checksum FROM intents"

# Records of before have the kind last.
_INTENT = re.compile(rb'\{(?:"kind":"\w+",)?"name":\{"container":')


class Found(Struct, frozen=True):
    """An operation about `path`; `doubt` is why it may not be as it was written, or empty."""

    path: str
    operation: Operation
    doubt: str = ""


class Salvage(Struct):
    """The operations of a journal in their order, and the `problems` with unreadable ones."""

    found: list[Found] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def salvage(journal: Path) -> Salvage:
    """Return what can be read of a journal; raise `ConfigurationError` if it cannot be copied.

    A damaged database is read row by row, from its beginning, from its end and in between; operations that
    are then found in its bytes may have been executed long ago. For another format, `problems` says so, and
    records that this release can read are read.
    """
    salvaged = Salvage()
    with tempfile.TemporaryDirectory() as folder:
        copy = copy_journal(journal, Path(folder))
        damage = _read_rows(copy, journal, salvaged)
        if damage:
            salvaged.problems.append(f"{journal} is damaged ({damage})")
            known = {one.operation.file.file for one in salvaged.found if isinstance(one.operation, PutFile)}
            for name, operation in _carve(journal).items():
                # A row is newer than what is found beside it: free pages keep old rows, until they are used
                # again.
                if name not in known:
                    doubt = "found in the rest of a damaged journal"
                    salvaged.found.append(Found(path_of(operation), operation, doubt))
    return salvaged


def is_sound(journal: Path) -> bool:
    """Return whether a journal can be read completely; one of another format is not damaged."""
    with tempfile.TemporaryDirectory() as folder:
        return not _read_rows(copy_journal(journal, Path(folder)), journal, Salvage())


def copy_journal(journal: Path, folder: Path) -> Path:
    """Copy the state at one moment of a journal, which a mount may have open; return the path of the copy.

    Raise `ConfigurationError` if that fails.
    """
    try:
        for _ in range(ATTEMPTS):
            before = _mark(journal)
            # The mark first: a newer one would say that the copy lacks changes.
            for suffix in (MARK, "", "-wal"):
                with suppress(FileNotFoundError):
                    shutil.copyfile(f"{journal}{suffix}", folder / f"{journal.name}{suffix}")
            # Its pages change only during a checkpoint, which truncates the WAL then.
            if _mark(journal) == before:
                return folder / journal.name
    except OSError as error:
        raise ConfigurationError(f"the journal {journal} cannot be read: {error.strerror}") from None
    raise ConfigurationError(f"the journal {journal} keeps changing: try again")


def path_of(operation: PutFile) -> str:
    """Return a path for a file whose path in the mount is lost."""
    return f"/{operation.name.key}"


def _mark(journal: Path) -> tuple[int, int, int]:
    stat = journal.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _read_rows(copy: Path, journal: Path, salvaged: Salvage) -> str:
    """Read what SQLite can read of the copy of a journal; return the damage, or an empty string."""
    try:
        if sign := _sign(copy, journal):
            mend_log(copy.with_name(f"{copy.name}-wal"))
        with closing(sqlite3.connect(copy)) as database:
            # Damaged text must not end the reading of the rows behind it.
            database.text_factory = lambda data: data.decode(errors="replace")
            if is_empty(database):
                return "it is empty"
            other = _migrate(database, journal)
            trusted = _trusted(database)
            rows, damage = _rows(database)
            for row in sorted((*_older(database, trusted), *rows), key=itemgetter(0)):
                _take(row, trusted, salvaged)
            if other:
                salvaged.problems.append(other)
                return ""
            return damage or _check(database) or sign
    except sqlite3.Error as error:
        return str(error)


def _sign(copy: Path, journal: Path) -> str:
    """Return a sign that changes are missing in a journal which SQLite can read, or an empty string."""
    if journal.name.startswith(DAMAGED_JOURNAL):
        return "it was set aside"
    with suppress(sqlite3.Error):  # whoever reads the rows sees it
        return loss(copy, boot_id())
    return ""


def _migrate(database: sqlite3.Connection, journal: Path) -> str:
    """Migrate a copy to our format; return a message if it has another one, or an empty string."""
    try:
        migrate(database, SCHEMA, journal)
    except OtherFormat as error:
        return str(error)
    except sqlite3.Error:  # it is damaged; what can be read is read nevertheless
        pass
    return ""


def _check(database: sqlite3.Connection) -> str:
    problem = str(database.execute("PRAGMA quick_check(1)").fetchone()[0])
    return "" if problem == "ok" else problem


def _trusted(database: sqlite3.Connection) -> int | None:
    """Return the last commit whose files are certainly on the disk, None if all of them are."""
    try:
        facts = dict(database.execute("SELECT name, value FROM facts").fetchall())
        if facts.get("boot") == boot_id():
            return None
        return int(facts.get("synced") or 0)
    except (sqlite3.Error, ValueError):
        return None


def _older(database: sqlite3.Connection, trusted: int | None) -> list[Any]:
    """Return the rows that count instead of newer ones, which are not certainly on the disk."""
    if trusted is None:
        return []
    return _read_until_damage(database, SELECT_OLDER, {"synced": trusted})[0]


def _rows(database: sqlite3.Connection) -> tuple[list[Any], str]:
    """Return the rows of operations in their order, and the error that hides the others."""
    first, damage = _read_until_damage(database, f"{_SELECT} ORDER BY seq")
    if not damage:
        return first, ""
    if _read_until_damage(database, f"EXPLAIN {_SELECT}")[1]:  # without its table or columns none can be read
        return [], damage
    # A damaged page ends a scan in either direction: rows beyond it can be reached from the other end, and
    # single ones between two damaged pages by their key.
    last, _ = _read_until_damage(database, f"{_SELECT} ORDER BY seq DESC")
    low = first[-1][0] if first else 0
    high = last[-1][0] if last else low + LONGEST_HOLE
    between = []
    for seq in range(low + 1, min(high, low + LONGEST_HOLE)):
        with suppress(sqlite3.Error):
            between += database.execute(f"{_SELECT} WHERE seq = ?", (seq,)).fetchall()
    rows = {row[0]: row for row in (*first, *between, *last)}
    return [rows[seq] for seq in sorted(rows)], damage


def _read_until_damage(
    database: sqlite3.Connection, query: str, values: Mapping[str, int] | None = None
) -> tuple[list[Any], str]:
    rows: list[Any] = []
    try:
        rows.extend(database.execute(query, values or {}))
    except sqlite3.Error as error:
        return rows, str(error)
    return rows, ""


def _take(row: Any, trusted: int | None, salvaged: Salvage) -> None:
    try:
        seq, path, text, number, reason, written, checksum = row
        operation = decode(text)
    except (Unreadable, TypeError, ValueError) as error:
        salvaged.problems.append(f"{row[1]}: the change cannot be read ({error})")
        return
    doubt = ""
    if checksum != row_checksum(seq, path, text, number, reason):
        doubt = "its checksum is wrong"
    elif trusted is not None and written > trusted:
        doubt = NOT_WRITTEN
    salvaged.found.append(Found(path, operation, doubt))


def _carve(journal: Path) -> dict[str, PutFile]:
    """Return the files of records found in a journal's bytes by their local names, each as last written.

    Not in those of the copy: SQLite has deleted what it could not replay.

    A text is in one piece unless it is longer than a page.
    """
    decoder = json.JSONDecoder()
    found = {}
    for part in (journal, journal.with_name(f"{journal.name}-wal")):
        data = part.read_bytes() if part.exists() else b""
        for match in _INTENT.finditer(data):
            text = data[match.start() : match.start() + LONGEST_TEXT].decode(errors="replace")
            with suppress(ValueError):
                operation = decode(text[: decoder.raw_decode(text)[1]])
                if isinstance(operation, PutFile):
                    found[operation.file.file] = operation
    return found
