"""The journal's database: the operations that are not executed yet, in SQLite.

A commit survives the death of the process at once, and a power cut after the next `sync`. A damaged database
is set aside for `swiftfs recover` and never deleted.
"""

import errno
import json
import logging
import os
import sqlite3
import time
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from swiftfs.concurrency import Rank, new_lock, unix_time_ns
from swiftfs.config.cache_dir import CONTENT, DAMAGED_JOURNAL, JOURNAL, JOURNAL_RESERVE, LATE, LOST
from swiftfs.errors import ConfigurationError, os_error
from swiftfs.filecache.block_map import FileRecord
from swiftfs.filecache.sparse_file import synchronize
from swiftfs.filecache.upload_record import UnreferencedPrefix
from swiftfs.journal.codec import Unreadable, decode, encode
from swiftfs.journal.operations import Operation, PutFile
from swiftfs.objects import ObjectName
from swiftfs.sqlite import Schema, boot_id, open_database, row_checksum

log = logging.getLogger(__name__)

Statement = tuple[str, list[tuple[object, ...]]]
"""SQL, and the rows of parameters to run it with."""

_FORMAT_2 = """
CREATE TABLE upload_facts (
    container TEXT, prefix TEXT, facts TEXT NOT NULL, PRIMARY KEY (container, prefix)
) WITHOUT ROWID;
CREATE TABLE leftovers (
    container TEXT, key TEXT, objects TEXT NOT NULL, since REAL NOT NULL, is_proven INTEGER NOT NULL,
    PRIMARY KEY (container, key)
) WITHOUT ROWID;
CREATE TABLE claims (
    container TEXT, key TEXT, etag TEXT, owner_container TEXT, owner_key TEXT, is_prefix INTEGER,
    PRIMARY KEY (container, key, etag, owner_container, owner_key, is_prefix)
) WITHOUT ROWID;
CREATE TABLE shared (
    container TEXT, prefix TEXT, user_container TEXT, user_key TEXT, since REAL NOT NULL,
    PRIMARY KEY (container, prefix, user_container, user_key)
) WITHOUT ROWID;
CREATE TABLE ambiguous (
    container TEXT, key TEXT, record TEXT NOT NULL, PRIMARY KEY (container, key)
) WITHOUT ROWID
"""
"""`upload_facts` says more of the rows of `uploads`. `leftovers` are segments that a manifest of one of
`objects` may name; `since` is when that was sent (Unix seconds), `is_proven` as in `Leftover`. `claims` and
`shared` are of `SegmentOwnership`. `ambiguous` are requests whose answer was lost, by the object's name."""

_FORMAT_3 = """
CREATE TABLE recent (
    number INTEGER PRIMARY KEY, container TEXT NOT NULL, prefix TEXT NOT NULL, name TEXT NOT NULL,
    at REAL NOT NULL, clock REAL NOT NULL, is_moved INTEGER NOT NULL, entry TEXT,
    UNIQUE (container, prefix, name)
)
"""
"""`recent` is of `RecentChanges`; `at` is in Unix seconds, `clock` in monotonic ones."""

SCHEMA = Schema(
    0x73776A6C,
    1,
    """
CREATE TABLE intents (
    seq INTEGER PRIMARY KEY, path TEXT NOT NULL, intent TEXT NOT NULL, errno INTEGER, reason TEXT,
    written INTEGER NOT NULL, checksum INTEGER NOT NULL
);
CREATE TABLE uploads (
    container TEXT, prefix TEXT, named TEXT NOT NULL, PRIMARY KEY (container, prefix)
) WITHOUT ROWID;
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
""",
    (_FORMAT_2, _FORMAT_3),
)
"""`written` is the number of the commit that wrote a row, or of the first one that wrote it with this file,
and the fact `synced` that of the last one that is certainly on the disk. `uploads` are prefixes below which
there may be segments that no manifest names yet.
`errno` and `reason` are of earlier releases: every mount tries all records.

A released format never changes: new tables and columns come as a migration."""

RESERVE = 1024 * 1024
"""Bytes of disk space reserved for the database: enough for thousands of records."""

CHECKPOINT_BYTES = 4 * 1024 * 1024
"""How large the WAL may grow before a checkpoint, for which commits wait."""


@dataclass(frozen=True, slots=True)
class Record:
    """A pending operation about `path` in the mount."""

    seq: int
    path: str
    operation: Operation


class JournalDB:
    """The records of one cache folder, which belong to the source `identity`.

    Raise `ConfigurationError` if the folder has operations of another source, or a journal that cannot be
    opened or has another format. The lock guards the database; it comes after every other one but that of the
    statements that the next commit runs.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self._folder = folder
        self._path = folder / JOURNAL
        self._lock = new_lock(Rank.LOG)
        self._reserve = folder / JOURNAL_RESERVE
        self._pending_puts: dict[int, Record] = {}
        self._pending_drops: set[int] = set()
        self._pending_prefixes: list[UnreferencedPrefix] = []
        self._later_lock = new_lock(Rank.LATER)
        self._later: list[tuple[str, tuple[object, ...]]] = []
        self._files: dict[int, tuple[FileRecord, int]] = {}
        self._commits = self._synced = 0
        self.lost: list[str] = []
        self._database = self._open()
        self._fill_reserve()
        try:
            self._check_identity(identity)
            self.id = self._own_id()
        except BaseException:
            self._database.close()
            raise

    def records(self) -> list[Record]:
        """Return all records in their order; a damaged one is set aside, and reported in `lost`."""
        with self._lock:
            rows = self._database.execute("SELECT * FROM intents")
            found = [self._read(*row) for row in rows.fetchall()]
        return sorted((record for record in found if record), key=lambda record: record.seq)

    def commit(self, put: Iterable[Record] = (), drop: Iterable[int] = ()) -> None:
        """Write and delete records in one commit; raise `OSError` if the disk refuses it."""
        with self._lock:
            self._write(put, drop, None)

    def finish(
        self, drop: Iterable[int], put: Iterable[Record] = (), unreferenced: UnreferencedPrefix | None = None
    ) -> bool:
        """Delete the records of operations that are done, and write others and an `unreferenced` prefix.

        Return False if the disk refuses it: all is repeated with the next commit or `sync`. Executing an
        operation twice does no harm; but nothing else records those of `put`, which are tasks already.
        """
        put, drop = list(put), list(drop)
        with self._lock:
            try:
                self._write(put, drop, unreferenced)
            except OSError as error:
                log.warning("%s", error)
                self._pending_puts, self._pending_drops = self._with_pending(put, drop)
                if unreferenced is not None:
                    self._pending_prefixes.append(unreferenced)
                return False
            return True

    def begin_upload(self, unreferenced: UnreferencedPrefix) -> None:
        """Record that below a prefix there may be segments that no manifest names."""
        with self._lock:
            self._write((), (), unreferenced)

    def end_upload(self, prefix: ObjectName) -> None:
        """Record that a manifest names all segments that are left below `prefix`."""
        self.finish((), (), UnreferencedPrefix(prefix, None))

    def uploads(self) -> list[UnreferencedPrefix]:
        """Return the prefixes below which there may be segments that no manifest names."""
        with self._lock:
            rows = self._database.execute("SELECT container, prefix, named FROM uploads").fetchall()
            facts = self._database.execute("SELECT * FROM upload_facts").fetchall()
        known = {(container, prefix): text for container, prefix, text in facts}
        return [
            _read_unreferenced(ObjectName(container, prefix), named, known.get((container, prefix), "{}"))
            for container, prefix, named in rows
        ]

    def rows(self, table: str) -> list[tuple[Any, ...]]:
        """Return the rows of a table that belongs to another class."""
        with self._lock:
            return self._database.execute(f"SELECT * FROM {table}").fetchall()

    def change(self, sql: str, rows: list[tuple[object, ...]]) -> None:
        """Run a statement on such a table with each of `rows`; raise `OSError` if the disk refuses it."""
        with self._lock:
            self._commit((sql, rows))

    def change_later(self, sql: str, row: tuple[object, ...]) -> None:
        """Run a statement on such a table with the next commit of records, or with the next `sync`."""
        with self._later_lock:
            self._later.append((sql, row))

    def ambiguous(self) -> list[str]:
        """Return the records of requests whose answer was lost."""
        with self._lock:
            return [text for (text,) in self._database.execute("SELECT record FROM ambiguous").fetchall()]

    def keep_ambiguous(self, records: Mapping[ObjectName, str | None]) -> None:
        """Record lost requests by the object's name; None deletes a record."""
        with self._lock:
            self._commit(
                (
                    "DELETE FROM ambiguous WHERE container = ? AND key = ?",
                    [(name.container, name.key) for name in records],
                ),
                (
                    "INSERT INTO ambiguous VALUES (?, ?, ?)",
                    [(name.container, name.key, text) for name, text in records.items() if text is not None],
                ),
            )

    def sync(self) -> None:
        """Sync all commits, and the files they name, to the disk, so that they survive a power cut."""
        with self._lock:
            if self._pending_puts or self._pending_drops or self._pending_prefixes or self._later:
                self._write((), (), None)
            # The number is read before the files are synced: a commit that comes meanwhile may name bytes
            # that this syncfs(2) did not see.
            commits = self._commits
        if commits == self._synced:
            return
        self._fill_reserve()
        synchronize(self._folder)
        recent = self._path.with_name(self._path.name + "-wal")
        with self._lock:
            # Not counted as a commit: otherwise each sync would be a reason for the next one, on an idle
            # machine too.
            self._write_statements(("INSERT OR REPLACE INTO facts VALUES (?, ?)", [("synced", str(commits))]))
            if recent.stat().st_size > CHECKPOINT_BYTES:
                # Here, and not within a commit (`wal_autocheckpoint` is 0), for which a program waits in
                # close().
                self._checkpoint()
        with recent.open("rb") as file:  # else a power cut may lose the fact
            os.fdatasync(file.fileno())
        self._synced = commits

    def close(self) -> None:
        """Sync and close the database."""
        with suppress(OSError):
            self.sync()
        with self._lock:
            self._database.close()

    def _open(self) -> sqlite3.Connection:
        try:
            self._check_empty()
            return _open_file(self._path)
        except (sqlite3.OperationalError, OSError) as error:  # that is no sign of damage
            raise ConfigurationError(f"the journal {self._path} cannot be opened: {error}") from None
        except sqlite3.DatabaseError as error:
            aside = self._set_aside()
            said = f"{self._path} is damaged ({error}): it is set aside as {aside.name}"
            log.error("%s; 'swiftfs recover' copies out what can be read of it", said)
            self.lost.append(said)
            return _open_file(self._path)

    def _check_empty(self) -> None:
        """Raise `sqlite3.DatabaseError` if the database is empty but local files exist: it lost its bytes."""
        with suppress(FileNotFoundError):
            if not self._path.stat().st_size and any((self._folder / CONTENT).iterdir()):
                raise sqlite3.DatabaseError("it is empty")

    @property
    def lost_folder(self) -> Path:
        """The folder for records that cannot be read, and for the local files that they may name."""
        return self._folder / LOST

    @property
    def late_folder(self) -> Path:
        """The folder for copies of files that a late request may overwrite."""
        return self._folder / LATE

    def _set_aside(self) -> Path:
        self.lost_folder.mkdir(mode=0o700, exist_ok=True)
        moment = unix_time_ns()
        when = time.strftime("%Y%m%dT%H%M%S", time.localtime(moment // 10**9))
        aside = self._path.with_name(f"{DAMAGED_JOURNAL}{when}-{moment % 1000}")
        # The log first: SQLite would apply a log that is left behind to the new database of the same name.
        for rest in ("-wal", "-shm", ""):
            with suppress(FileNotFoundError):
                self._path.with_name(self._path.name + rest).rename(aside.with_name(aside.name + rest))
        return aside

    def _check_identity(self, identity: str) -> None:
        with self._lock:
            known = self._fact("identity")
            waiting = self._database.execute("SELECT count(*) FROM intents").fetchone()[0]
            if known not in ("", identity) and waiting:
                raise ConfigurationError(
                    f"cache folder {self._folder} holds {waiting} changes that are not in {known} yet: "
                    "mount that again, or use another --cache-dir"
                )
            if known not in ("", identity):
                # They were about objects of another source.
                for table in ("ambiguous", "recent"):
                    self._commit((f"DELETE FROM {table} WHERE container IS NOT NULL", [()]))
            self._put_fact("identity", identity)
            # After a power cut there may be the record of a file without its bytes.
            boot = boot_id()
            synced = int(self._fact("synced") or 0)
            # Since the same boot all that was written is in the page cache, whether it is on the disk or not.
            self._trusted = None if boot and self._fact("boot") == boot else synced
            self._put_fact("boot", boot)
            last = self._database.execute("SELECT max(written) FROM intents").fetchone()[0] or 0
            # The numbers go on: a new row with a number below `synced` would be trusted after a power cut.
            self._commits = max(synced, last)

    def _read(
        self, seq: int, path: str, text: str, number: int | None, reason: str, written: int, checksum: int
    ) -> Record | None:
        try:
            if checksum != row_checksum(seq, path, text, number, reason):
                raise Unreadable("its checksum is wrong")  # noqa: TRY301
            if self._trusted is not None and written > self._trusted:
                raise Unreadable("the machine stopped before it was written to the disk")  # noqa: TRY301
            return Record(seq, path, decode(text))
        except Unreadable as error:
            aside = self.lost_folder / f"intent-{seq}.json"
            self.lost_folder.mkdir(mode=0o700, exist_ok=True)
            # Before the row is deleted: it may be all that is left of a file.
            aside.write_text(text)
            said = f"the change of {path} cannot be read ({error}): it is set aside as {aside}"
            log.error("%s", said)
            self.lost.append(said)
            self._commit(("DELETE FROM intents WHERE seq = ?", [(seq,)]))
            return None

    def _own_id(self) -> str:
        """Return the id of this journal, by which `gc` recognizes its uploads."""
        with self._lock:
            if not self._fact("id"):
                self._put_fact("id", uuid.uuid4().hex[:12])
            return self._fact("id")

    def _fact(self, name: str) -> str:
        row = self._database.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return row[0] if row else ""

    def _put_fact(self, name: str, value: str) -> None:
        if self._fact(name) != value:
            with self._database:
                self._database.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def _write(
        self, put: Iterable[Record], drop: Iterable[int], unreferenced: UnreferencedPrefix | None
    ) -> None:
        records, gone = self._with_pending(put, drop)
        rows = [(one.seq, one.path, encode(one.operation), None, "") for one in records.values()]
        written = {seq: self._commit_of(one) for seq, one in records.items()}
        insert = "INSERT OR REPLACE INTO intents VALUES (?, ?, ?, ?, ?, ?, ?)"
        with self._later_lock:
            later = list(self._later)
        self._commit(
            # Deletions first: a commit may drop a record and write another one with its number.
            ("DELETE FROM intents WHERE seq = ?", [(seq,) for seq in gone]),
            (insert, [(*row, written[row[0]], row_checksum(*row)) for row in rows]),
            *_upload_changes((*self._pending_prefixes, *([unreferenced] if unreferenced else []))),
            *((sql, [row for _, row in group]) for sql, group in groupby(later, itemgetter(0))),
        )
        with self._later_lock:
            del self._later[: len(later)]
        for seq in gone:
            self._files.pop(seq, None)
        for seq, one in records.items():
            if isinstance(one.operation, PutFile):
                self._files[seq] = one.operation.file, written[seq]
        # Only now: they must stay for the next commit if this one failed.
        self._pending_puts.clear()
        self._pending_drops.clear()
        self._pending_prefixes.clear()

    def _commit_of(self, record: Record) -> int:
        """Return the number of the commit since which the files that a record names are the same.

        A change of attributes, for example, makes no bytes doubtful that are on the disk already.
        """
        file, before = self._files.get(record.seq, (None, 0))
        is_same = isinstance(record.operation, PutFile) and record.operation.file == file
        return before if is_same else self._commits + 1

    def _with_pending(self, put: Iterable[Record], drop: Iterable[int]) -> tuple[dict[int, Record], set[int]]:
        """Return records to write and to delete, and what the disk refused before, which is older.

        A number may be in both: the record is deleted first.
        """
        drops = set(drop)
        records = {seq: record for seq, record in self._pending_puts.items() if seq not in drops}
        records.update((record.seq, record) for record in put)
        return records, self._pending_drops | drops

    def _checkpoint(self) -> None:
        try:
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            raise self._os_error(error) from error

    def _commit(self, *statements: Statement) -> None:
        self._write_statements(*statements)
        self._commits += 1

    def _write_statements(self, *statements: Statement) -> None:
        try:
            self._execute(statements)
        except sqlite3.Error as error:
            # By its message: the exceptions of sqlite3 have error codes only since Python 3.11.
            if "full" not in str(error) or not self._release_reserve():
                raise self._os_error(error) from error
            try:
                self._execute(statements)
            except sqlite3.Error as again:
                raise self._os_error(again) from again

    def _execute(self, statements: Iterable[Statement]) -> None:
        with self._database:
            for text, rows in statements:
                self._database.executemany(text, rows)

    def _os_error(self, error: sqlite3.Error) -> OSError:
        return os_error(errno.ENOSPC if "full" in str(error) else errno.EIO, str(self._path))

    def _release_reserve(self) -> bool:
        """Free the disk space that is reserved for the database; return whether there was any."""
        try:
            self._reserve.unlink()
        except FileNotFoundError:
            return False
        return True

    def _fill_reserve(self) -> None:
        """Reserve disk space for the database, so that files can be closed while the disk is full."""
        if not self._reserve.exists():
            with suppress(OSError):
                # Written, and not a hole: a hole reserves nothing.
                self._reserve.write_bytes(bytes(RESERVE))


def _upload_changes(prefixes: Iterable[UnreferencedPrefix]) -> list[Statement]:
    """Return statements that update the tables of uploads; of two about one prefix the last counts."""
    uploads = {one.prefix: one for one in prefixes}
    if not uploads:
        return []
    names: list[tuple[object, ...]] = [(prefix.container, prefix.key) for prefix in uploads]
    left = [(prefix, one) for prefix, one in uploads.items() if one.named is not None]
    return [
        ("DELETE FROM uploads WHERE container = ? AND prefix = ?", names),
        ("DELETE FROM upload_facts WHERE container = ? AND prefix = ?", names),
        (
            "INSERT INTO uploads VALUES (?, ?, ?)",
            [(prefix.container, prefix.key, json.dumps(sorted(one.named or ()))) for prefix, one in left],
        ),
        (
            "INSERT INTO upload_facts VALUES (?, ?, ?)",
            [(prefix.container, prefix.key, _write_facts(one)) for prefix, one in left],
        ),
    ]


def _write_facts(unreferenced: UnreferencedPrefix) -> str:
    objects = [[name.container, name.key] for name in sorted(unreferenced.objects)]
    facts = {"file": unreferenced.file, "objects": objects, "since": unreferenced.since}
    return json.dumps({**facts, "asked": sorted(unreferenced.asked), "landed": sorted(unreferenced.landed)})


def _read_unreferenced(prefix: ObjectName, named: str, text: str) -> UnreferencedPrefix:
    facts = json.loads(text)
    return UnreferencedPrefix(
        prefix,
        frozenset(json.loads(named)),
        facts.get("file", ""),
        frozenset(ObjectName(container, key) for container, key in facts.get("objects", ())),
        frozenset(facts.get("asked", ())),
        facts.get("since", 0.0),
        frozenset(facts.get("landed", ())),
    )


def _open_file(path: Path) -> sqlite3.Connection:
    database = open_database(path, SCHEMA)
    database.execute("PRAGMA wal_autocheckpoint = 0")  # `sync` does it, in the background
    try:
        # At the start, when it can still be set aside: later it has changes that nothing else has.
        problem = database.execute("PRAGMA quick_check").fetchone()[0]
        if problem != "ok":
            raise sqlite3.DatabaseError(problem)  # noqa: TRY301
    except BaseException:
        database.close()
        raise
    return database
