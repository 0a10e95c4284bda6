"""Reads a journal without its mount: one that a mount has open, one of a dead mount, or a damaged one.

Only copies are opened, so nothing in the cache folder changes.
"""

import json
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Mapping
from contextlib import closing, suppress
from operator import itemgetter
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from swiftfs.config.cache_dir import DAMAGED_JOURNAL
from swiftfs.errors import ConfigurationError
from swiftfs.journal.losses import MARK, loss, mend_log
from swiftfs.journal.operations import Operation, PutFile, Unreadable, decode
from swiftfs.journal.schema import NOT_WRITTEN, SCHEMA, SELECT_OLDER
from swiftfs.sqlite import OtherFormat, boot_id, is_empty, migrate, row_checksum

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
