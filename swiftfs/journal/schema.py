"""The tables of the journal's database, some of their rows, and how its file is opened.

A damaged one is set aside for `swiftfs recover` and never deleted.
"""

import json
import os
import shutil
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from swiftfs.concurrency import unix_time_ns
from swiftfs.config.cache_dir import DAMAGED_JOURNAL, new_file
from swiftfs.filecache.upload_record import UnreferencedPrefix
from swiftfs.objects import ObjectName
from swiftfs.sqlite import Schema, open_database

Statement = tuple[str, Sequence[tuple[object, ...]]]
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
"""`upload_facts` has more about the rows of `uploads`. `leftovers` are segments that a manifest of one of
`objects` may name; `since` is when that was sent (Unix seconds), `is_proven` as in `Leftover`. `claims` and
`shared` are of `SegmentOwnership`. `ambiguous` are requests whose answer was lost, by the object's name."""

_FORMAT_3 = """
CREATE TABLE recent (
    number INTEGER PRIMARY KEY, container TEXT NOT NULL, prefix TEXT NOT NULL, name TEXT NOT NULL,
    at REAL NOT NULL, clock REAL NOT NULL, is_moved INTEGER NOT NULL, entry TEXT,
    UNIQUE (container, prefix, name)
)
"""
"""`recent` is of `RecentChanges`; `at` is in Unix seconds, `clock` in monotonic ones; `is_moved`
has two flags."""

_FORMAT_4 = """
CREATE TABLE older (
    seq INTEGER NOT NULL, path TEXT NOT NULL, intent TEXT NOT NULL, errno INTEGER, reason TEXT,
    written INTEGER NOT NULL, checksum INTEGER NOT NULL, until INTEGER NOT NULL, PRIMARY KEY (seq, written)
)
"""
"""`older` has rows of `intents` as they were before the commit `until`, see `OlderRows`."""

WITH_OLDER = 4
"""The first format with the table `older`."""

_FORMAT_5 = "SELECT 1"
"""No table is new, but `intents` may have a MoveObject, which an older release would take for damage."""

COLUMNS = "seq, path, intent, errno, reason, written, checksum"
"""The columns of `intents`."""

PUT_FACT = "INSERT OR REPLACE INTO facts VALUES (?, ?)"
INSERT = "INSERT OR REPLACE INTO intents VALUES (?, ?, ?, ?, ?, ?, ?)"

DELETE = "DELETE FROM intents WHERE seq IN (VALUES (?))"

SELECT_OLDER = f"""
SELECT {COLUMNS} FROM older
WHERE written <= :synced AND until > :synced ORDER BY seq
"""
"""Returns the older rows that count after a power cut, `synced` being the last commit on the disk."""

NOT_WRITTEN = "the machine stopped before it was written to the disk"
"""Why a row is not trusted."""

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
    (_FORMAT_2, _FORMAT_3, _FORMAT_4, _FORMAT_5),
)
"""`written` is the number of the commit that wrote a row, or of the first one that wrote it with this file,
and the fact `synced` that of the last one that is certainly on the disk. `uploads` are prefixes below which
there may be segments that no manifest names yet.
`errno` and `reason` are of earlier releases: every mount tries all records.

A released format never changes: new tables and columns come as a migration."""


def open_journal(path: Path) -> sqlite3.Connection:
    """Open or create the database, and check it; errors as in `open_database`."""
    database = open_database(path, SCHEMA)
    database.isolation_level = None  # `JournalDB` begins its transactions itself
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


def set_aside(path: Path) -> Path | None:
    """Rename a damaged database, and return its new path in the same folder; None if nothing is left."""
    moment = unix_time_ns()
    when = time.strftime("%Y%m%dT%H%M%S", time.localtime(moment // 10**9))
    aside = path.with_name(f"{DAMAGED_JOURNAL}{when}-{moment % 1000}")
    # The log first: SQLite would apply a log that is left behind to the new database of the same name.
    for rest in ("-wal", "-shm", ""):
        with suppress(FileNotFoundError):
            path.with_name(path.name + rest).rename(aside.with_name(aside.name + rest))
    if aside.with_name(f"{aside.name}-wal").exists():
        aside.touch(0o600)  # the log may be all that is left
    return aside if aside.exists() else None


RESERVE = 1024 * 1024
"""Bytes of disk space reserved for the database: enough for thousands of records."""


class Reserve:
    """A file that takes disk space which only the database may have, for closes and mounts on a full disk."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def release(self) -> bool:
        """Free the space; return whether there was any."""
        try:
            self._path.unlink()
        except FileNotFoundError:
            return False
        return True

    def fill(self) -> None:
        """Reserve the space, unless the database may need it now."""
        with suppress(OSError):
            if not self._path.exists() and shutil.disk_usage(self._path.parent).free >= 2 * RESERVE:
                # Written, and not a hole: a hole reserves nothing.
                with os.fdopen(new_file(self._path), "wb") as file:
                    file.write(bytes(RESERVE))


def upload_changes(prefixes: Iterable[UnreferencedPrefix]) -> list[Statement]:
    """Return statements that update the tables of uploads; of two about one prefix the newest counts."""
    uploads = {one.prefix: one for one in sorted(prefixes, key=lambda one: one.revision)}
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
    asked, landed, sent = map(sorted, (unreferenced.asked, unreferenced.landed, unreferenced.sent))
    return json.dumps({**facts, "asked": asked, "landed": landed, "sent": sent})


def read_uploads(database: sqlite3.Connection) -> list[UnreferencedPrefix]:
    """Return what the tables `uploads` and `upload_facts` say of all prefixes."""
    rows = database.execute("SELECT container, prefix, named FROM uploads").fetchall()
    facts = database.execute("SELECT * FROM upload_facts").fetchall()
    known = {(container, prefix): text for container, prefix, text in facts}
    return [
        _read_unreferenced(ObjectName(container, prefix), named, known.get((container, prefix), "{}"))
        for container, prefix, named in rows
    ]


def ambiguous_changes(records: Mapping[ObjectName, str | None]) -> list[Statement]:
    """Return statements that record lost requests by the object's name; None deletes a record."""
    kept = [(name.container, name.key, text) for name, text in records.items() if text is not None]
    return [
        (
            "DELETE FROM ambiguous WHERE container = ? AND key = ?",
            [(one.container, one.key) for one in records],
        ),
        ("INSERT INTO ambiguous VALUES (?, ?, ?)", kept),
    ]


def _read_unreferenced(prefix: ObjectName, named: str, text: str) -> UnreferencedPrefix:
    """Return what is recorded of a prefix: `named` in the table `uploads`, `text` in `upload_facts`."""
    facts = json.loads(text)
    return UnreferencedPrefix(
        prefix,
        frozenset(json.loads(named)),
        facts.get("file", ""),
        frozenset(ObjectName(container, key) for container, key in facts.get("objects", ())),
        frozenset(facts.get("asked", ())),
        facts.get("since", 0.0),
        frozenset(facts.get("landed", ())),
        frozenset(facts.get("sent", ())),
    )


def sync_data(path: Path) -> None:
    """Return when what was written to a file is on the disk. Raise `OSError`."""
    with path.open("rb") as file:
        os.fdatasync(file.fileno())
