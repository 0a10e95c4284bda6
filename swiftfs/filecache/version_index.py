"""The index of the cached versions, in SQLite.

A row is written after the blocks that it names, and deleted before the file is used again. So the index of a
process that was killed is right: what the process wrote is in the kernel. After a power cut a row may be
there and the file's bytes not. So the index records its session: rows are trusted after a session that ended
with a sync, or that was of the same boot. A lost index costs downloads only.
"""

import json
import logging
import sqlite3
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import astuple

from swiftfs.filecache.block_set import Blocks
from swiftfs.filecache.sparse_file import Mark
from swiftfs.objects import Manifest, ObjectName, Segment
from swiftfs.sqlite import (
    AT_ONCE,
    CacheDatabase,
    Schema,
    boot_id,
    execute_rows,
    for_rows,
    row_checksum,
)

log = logging.getLogger(__name__)

Result = TypeVar("Result")

_CLEAN = "clean"

_FORMAT_3 = "-- the tables are the same"
"""`present` may be encoded as runs, which release 0.1 would decode as other blocks."""

_FORMAT_4 = """
ALTER TABLE files ADD COLUMN object TEXT NOT NULL DEFAULT '';
ALTER TABLE files ADD COLUMN pinned INTEGER NOT NULL DEFAULT 0;
CREATE INDEX files_by_object ON files (object);
"""
"""Whose copy it is, and whether it stays. Of older rows nobody knows it, until the file is used again."""

_SCHEMA = Schema(
    0x73776663,
    2,
    """
CREATE TABLE files (
    used INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE, present BLOB, checked INTEGER, bytes INTEGER,
    inode INTEGER, size INTEGER, mtime INTEGER, ctime INTEGER, manifest TEXT, checksum INTEGER
);
CREATE TABLE session (state TEXT);
INSERT INTO session VALUES ('');
""",
    (_FORMAT_3, _FORMAT_4),
)
"""`used` grows with every row, so it orders rows by last use: a file in use has no row."""

TOGETHER = 64
"""So many rows are written at once: a commit for each small file takes longer than all else about it."""

_COLUMNS = "name, present, checked, bytes, inode, size, mtime, ctime, manifest"

_INSERT = (
    f"INSERT INTO files ({_COLUMNS}, checksum, object, pinned) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_SELECT = "SELECT name, bytes, pinned FROM files WHERE name IN (VALUES (?))"


class Row(Struct, frozen=True):
    """A cached file: its blocks, whether their MD5 was right, its disk space in bytes, and its mark.

    `manifest` is that of an SLO, if it is known; `object` is the object's full name, and a `pinned` file
    stays.
    """

    name: str
    present: Blocks
    checked: bool
    bytes: int
    mark: Mark
    manifest: Manifest | None = None
    object: str = ""
    pinned: bool = False


class VersionIndex:
    """The cached files by name, in the order of their last use; `bytes` is their disk space. Not locked.

    `pinned_bytes` is that of the pinned ones. New rows wait for `write`, which all but `put`, `has` and `pop`
    need first: if the process dies before, their files are downloaded again.

    No method raises errors of the disk.
    """

    def __init__(self, path: Path) -> None:
        self._file = CacheDatabase(path, _SCHEMA, _begin, "cached files are downloaded again")
        self._waiting: dict[str, Row] = {}
        self.bytes = self.pinned_bytes = 0
        self._database = self._file.open()

    def put(self, row: Row) -> bool:
        """Add a row, replacing one of the same name; return whether `write` is due."""
        self._forget(row.name)
        self._waiting[row.name] = row
        self.bytes += row.bytes
        return row.pinned or len(self._waiting) >= TOGETHER

    def write(self) -> list[str]:
        """Write the rows that wait; return the names of those that cannot be written, and forget them.

        While the disk has only the journal's space left, none is written but those that are pinned.
        """
        if not self._waiting:
            return []
        if not (may_grow := self._file.may_grow()):
            self._try(lambda: self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)"), instead=None)
        waiting = [row for row in self._waiting.values() if may_grow or row.pinned]
        refused = [row.name for row in self._waiting.values() if not (may_grow or row.pinned)]

        def insert() -> bool:
            with self._database:
                self._delete([row.name for row in waiting])
                for row in waiting:
                    if row.pinned:  # an older version is of no use any more
                        self._database.execute("UPDATE files SET pinned = 0 WHERE object = ?", (row.object,))
                execute_rows(self._database, _INSERT, [_values_of(row) for row in waiting])
            self.bytes += sum(row.bytes for row in waiting)
            if any(row.pinned for row in waiting):
                self._count_pinned()
            return True

        # Before the insertion counts them: they were counted as they came.
        self.bytes -= sum(row.bytes for row in self._waiting.values())
        self._waiting.clear()
        return refused if self._try(insert, instead=False) else [*refused, *(row.name for row in waiting)]

    def _forget(self, name: str) -> Row | None:
        """Take a row that waits."""
        if (row := self._waiting.pop(name, None)) is not None:
            self.bytes -= row.bytes
        return row

    def has(self, name: str) -> bool:
        """Return whether there is a row of this name."""
        if name in self._waiting:
            return True
        query = "SELECT 1 FROM files WHERE name = ?"
        return self._try(lambda: self._database.execute(query, (name,)).fetchone() is not None, instead=False)

    def pop(self, name: str) -> Row | None:
        """Delete the row of a name and return it; None without one, or if it cannot be deleted."""
        waiting = self._forget(name)

        def pop() -> Row | None:
            found = self._database.execute(
                f"SELECT bytes, pinned, {_COLUMNS}, checksum FROM files WHERE name = ?", (name,)
            ).fetchone()
            if found is None:
                return waiting
            with self._database:
                self._delete_row(name, *found[:2])
            if waiting is not None:  # the row is that of an earlier file
                return waiting
            *values, checksum = found[2:]
            # A wrong bit in `present` would show blocks that were never downloaded, as zeros.
            if checksum != _checksum(*values):
                return None
            _, present, checked, size, *mark, manifest = values
            return Row(
                name, Blocks.from_bytes(present), bool(checked), size, Mark(*mark), _manifest_of(manifest)
            )

        return self._try(pop, instead=None)

    def oldest(self, count: int, *, pinned: bool) -> list[tuple[str, int]]:
        """Return names and bytes of disk of the least recently used rows that are, or are not, `pinned`."""
        query = "SELECT name, bytes FROM files WHERE pinned = ? ORDER BY used LIMIT ?"
        return self._try(lambda: self._database.execute(query, (pinned, count)).fetchall(), instead=[])

    def set_pinned(self, first: str, end: str, *, pinned: bool) -> None:
        """Pin or unpin the files of the objects whose names are from `first` to before `end`."""

        def update() -> None:
            with self._database:
                self._database.execute(
                    "UPDATE files SET pinned = ? WHERE object >= ? AND object < ?", (pinned, first, end)
                )
            self._count_pinned()

        self._try(update, instead=None)

    def _count_pinned(self) -> None:
        query = "SELECT coalesce(sum(bytes), 0) FROM files WHERE pinned"
        self.pinned_bytes = self._database.execute(query).fetchone()[0]

    def touch(self, name: str) -> None:
        """Make a row the most recently used one."""

        def touch() -> None:
            with self._database:
                self._database.execute(
                    "UPDATE files SET used = (SELECT max(used) + 1 FROM files) WHERE name = ?", (name,)
                )

        self._try(touch, instead=None)

    def delete(self, names: Collection[str]) -> bool:
        """Delete rows; return whether that succeeded."""

        def delete() -> bool:
            with self._database:
                self._delete(list(names))
            return True

        return self._try(delete, instead=False)

    def names(self) -> set[str]:
        """Read the names and sizes of all rows; return the names."""
        try:
            sizes = dict(self._database.execute("SELECT name, bytes FROM files"))
            self.bytes = sum(sizes.values())
            self._count_pinned()
        except (sqlite3.Error, TypeError) as error:
            self._restart(error)
            return set()
        return set(sizes)

    def close(self, *, clean: bool) -> None:
        """Close the file; `clean` means that all files it names are on the disk."""
        if clean:
            self._try(lambda: _begin_session(self._database, _CLEAN, waits=True), instead=None)
        self._database.close()

    def _delete(self, names: Sequence[str]) -> None:
        for start in range(0, len(names), AT_ONCE):
            some = names[start : start + AT_ONCE]
            for row in self._database.execute(for_rows(_SELECT, len(some)), some).fetchall():
                self._delete_row(*row)

    def _delete_row(self, name: str, size: int, pinned: int) -> None:
        self._database.execute("DELETE FROM files WHERE name = ?", (name,))
        self.bytes -= size
        self.pinned_bytes -= size * pinned

    def _try(self, step: Callable[[], Result], *, instead: Result) -> Result:
        before = self.bytes, self.pinned_bytes
        try:
            return step()
        except sqlite3.OperationalError as error:  # the disk is full, or fails
            log.info("the index of the cache %s cannot be used: %s", self._file.path, error)
            # The transaction was rolled back, so its bytes count as before.
            self.bytes, self.pinned_bytes = before
        except (sqlite3.Error, ValueError, TypeError, OverflowError) as error:
            self._restart(error)
        return instead

    def _restart(self, error: Exception) -> None:
        self._database.close()
        self._database = self._file.recreate(error)
        self.bytes, self.pinned_bytes = sum(row.bytes for row in self._waiting.values()), 0


def names_in_order(path: Path) -> list[str]:
    """Return the names in an index that nobody uses, in the order in which they are evicted.

    There are none in a damaged index, or one of another format: it will be replaced by an empty one.
    """
    try:
        with closing(sqlite3.connect(path)) as database:
            return [name for (name,) in database.execute("SELECT name FROM files ORDER BY pinned, used")]
    except sqlite3.Error:
        return []


def _begin(database: sqlite3.Connection) -> None:
    """Begin a session; delete the rows if files of the last session may be incomplete."""
    boot = boot_id()
    state = database.execute("SELECT state FROM session").fetchone()
    if state is None or state[0] not in ({_CLEAN, boot} if boot else {_CLEAN}):
        with database:
            database.execute("DELETE FROM files")
    # After a power cut the state of a clean end would make rows trusted whose files are not on the disk.
    _begin_session(database, boot, waits=state == (_CLEAN,))


def _begin_session(database: sqlite3.Connection, state: str, *, waits: bool) -> None:
    """Record the session; with `waits`, return when it is on the disk. Other commits do not wait."""
    if waits:
        database.execute("PRAGMA synchronous = FULL")
    with database:
        database.execute("UPDATE session SET state = ?", (state,))
    database.execute("PRAGMA synchronous = NORMAL")


def _values_of(row: Row) -> tuple[object, ...]:
    values = (
        row.name, row.present.to_bytes(), int(row.checked), row.bytes, *row.mark, _text_of(row.manifest)
    )  # fmt: skip
    return (*values, _checksum(*values), row.object, row.pinned)


def _text_of(manifest: Manifest | None) -> str:
    return (
        json.dumps([(astuple(one.name), *astuple(one)[1:]) for one in manifest.segments]) if manifest else ""
    )


def _manifest_of(text: str) -> Manifest | None:
    if not text:
        return None
    return Manifest(tuple(Segment(ObjectName(*name), *rest) for name, *rest in json.loads(text)))


def _checksum(name: str, present: bytes, *rest: int | str) -> int:
    return row_checksum(name, present, *rest)
