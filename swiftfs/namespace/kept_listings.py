"""Listings on the disk, for a mount whose server is away: Swift's rows, and what was stored since."""

import logging
import sqlite3
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct, field

from swiftfs.concurrency import Rank, new_lock, new_pool, unix_time
from swiftfs.namespace.entry import Entry
from swiftfs.namespace.listing import Listing, PackedBlock, pack
from swiftfs.namespace.local_change import LocalChange
from swiftfs.namespace.overlay import RecentChange, RecentStore
from swiftfs.objects import Page
from swiftfs.paths import Folder
from swiftfs.sqlite import CacheDatabase, Schema, row_checksum

log = logging.getLogger(__name__)

CAPACITY = 512 * 1024**2
"""How many bytes of packed rows are kept, some eight million names. Folders used longest ago go first."""

MOST_WAITING = 200_000
"""How many rows may wait for the disk. A listing that comes then is not kept."""

_LOSS = "folders are not shown without the server until they were listed again"

_AFTER_ALL = "\U0010ffff"
"""Appended to a prefix, it makes a text that is greater than everything that begins with the prefix."""

_SCHEMA = Schema(
    0x7377666C,
    1,
    """
CREATE TABLE folders (
    id INTEGER PRIMARY KEY, container TEXT, prefix TEXT, listed REAL, used REAL, huge INTEGER, marked INTEGER,
    blocks INTEGER, bytes INTEGER, checksum INTEGER, UNIQUE (container, prefix)
);
CREATE INDEX folders_by_use ON folders (used);
CREATE TABLE blocks (
    folder INTEGER, number INTEGER, end TEXT, packed BLOB, text INTEGER, PRIMARY KEY (folder, number)
) WITHOUT ROWID;
CREATE TABLE changes (
    container TEXT, prefix TEXT, name TEXT, entry TEXT, checksum INTEGER,
    PRIMARY KEY (container, prefix, name)
) WITHOUT ROWID;
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
""",
)

_TABLES = ("folders", "blocks", "changes", "facts")
_SELECT = "SELECT id, huge, marked, blocks, checksum, listed FROM folders WHERE container = ? AND prefix = ?"
_BELOW = "container = ? AND prefix >= ? AND prefix < ?"


class EntryCodec(NamedTuple):
    """Writes entries as text, and reads them; `decode` raises `ValueError` for other text."""

    encode: Callable[[Entry], str]
    decode: Callable[[str], Entry]


class KeptFolder(Struct, frozen=True):
    """A folder's listing: its packed blocks, of a folder that is not `huge` only one, and later changes.

    `listed` is when Swift listed it (Unix time); `marked` as in `Listing`. The `changes` were stored by
    mounts with this cache folder, None is a deletion.
    """

    folder: Folder
    is_huge: bool
    marked: bool
    blocks: list[PackedBlock]
    listed: float
    changes: Mapping[str, Entry | None] = field(default_factory=dict)


class _NewListing(Struct, frozen=True):
    """A listing to be written, a page or the blocks of a huge folder, and the changes that count over it."""

    folder: Folder
    page: Page | None
    blocks: list[PackedBlock]
    marked: bool
    listed: float
    changes: Mapping[str, Entry | None]

    @property
    def rows(self) -> int:
        return 0 if self.page is None else len(self.page.rows)


_Work = Callable[[bool], None]
"""Writes something to the database; it gets whether the file may grow."""


class KeptListings:
    """The database of listings. No method raises for an error of the disk; any thread may call any method.

    `keep`, `change` and `forget` only hand over: a thread writes what has come, so they may be called with
    the namespace's lock. The lock guards the database. What it has of another `identity` is deleted.
    """

    def __init__(self, path: Path | None, identity: str, codec: EntryCodec) -> None:
        self._identity = identity
        self._codec = codec
        self._lock = new_lock(Rank.KEPT_LISTINGS)
        self._pool = new_pool("kept listings", 1)
        self._waiting: deque[_Work] = deque()
        self._waiting_rows = 0
        self._is_scheduled = False
        self._bytes = 0
        self._file = CacheDatabase(path, _SCHEMA, self._prepare, _LOSS)
        self._database = self._file.open()

    def keep(
        self, listing: Listing, page: Page | None, listed: float, changes: Mapping[str, LocalChange]
    ) -> None:
        """Keep a complete listing, which is `page` unless it is that of a huge folder.

        `changes` are those that count over it; only those that are in Swift are kept, as the journal has the
        others.
        """
        if not listing.complete or self._waiting_rows > MOST_WAITING:
            return
        known = {name: change.in_swift() for name, change in changes.items()}
        stored = {name: change.entry for name, change in known.items() if change is not None}
        blocks = listing.packed_blocks() if listing.is_huge else []
        work = _NewListing(
            listing.folder, None if listing.is_huge else page, blocks, listing.marked, listed, stored
        )
        self._waiting_rows += work.rows
        self._hand_over(partial(self._write_new, work))

    def change(self, folder: Folder, name: str, entry: Entry | None) -> None:
        """Record that Swift has `entry` as `name` now, None for nothing."""
        self._hand_over(lambda _may_grow: self._write_changes(folder, {name: entry}))

    def forget(self, folder: Folder, *, is_tree: bool = False) -> None:
        """Drop the listing of a folder, of a tree also those of all folders below it."""
        forget = self._forget_tree if is_tree else self._forget
        self._hand_over(lambda _may_grow: forget(folder))

    def recall(self, folder: Folder) -> KeptFolder | None:
        """Return what is known of a folder; None if it is not."""
        with self._lock:
            self._write_waiting()
            try:
                return self._read(folder)
            except (sqlite3.Error, ValueError) as error:
                self._database.close()
                self._database = self._file.recreate(error)
                return None

    def root(self) -> Entry | None:
        """Return the entry of the mount's root; None if it is not known, or no folder is."""
        with self._lock:
            self._write_waiting()
            text = self._fact(self._database, "root")
            has_any = next(self._database.execute("SELECT 1 FROM folders LIMIT 1"), None) is not None
        with suppress(ValueError):
            return self._codec.decode(text) if has_any else None
        return None

    def put_root(self, root: Entry) -> None:
        """Keep the entry of the mount's root."""
        with self._lock, self._guarded(), self._database:
            values = ("root", self._codec.encode(root))
            self._database.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", values)

    def close(self) -> None:
        """Write what waits, end the thread and close the file."""
        self._pool.shutdown()
        with self._lock:
            self._write_waiting()
            self._database.close()

    def _hand_over(self, work: _Work) -> None:
        self._waiting.append(work)
        # Two threads may both find it unset: then the second job has nothing to do.
        if not self._is_scheduled:
            self._is_scheduled = True
            self._pool.submit(self._write_later)

    def _write_later(self) -> None:
        self._is_scheduled = False
        with self._lock:
            self._write_waiting()

    def _write_waiting(self) -> None:
        """Write what has come, in one transaction. Lock held."""
        if not self._waiting:
            return
        may_grow = self._file.may_grow()
        with self._guarded(), self._database:
            while self._waiting:
                self._waiting.popleft()(may_grow)
            if self._bytes > CAPACITY:
                self._evict()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Go on after the block if it fails because of the database."""
        try:
            yield
        except (sqlite3.Error, UnicodeError) as error:
            self._failed(error)

    def _failed(self, error: sqlite3.Error | UnicodeError) -> None:
        """Continue after an error: with a new file if this one is damaged, else in memory."""
        self._waiting.clear()
        self._waiting_rows = 0
        if isinstance(error, UnicodeError):
            return  # a name that no database takes
        self._database.close()
        if isinstance(error, sqlite3.OperationalError):
            log.warning("listings are not kept on the disk any more: %s", error)
            self._database = self._file.in_memory()
        else:
            self._database = self._file.recreate(error)

    def _prepare(self, database: sqlite3.Connection) -> None:
        with database:
            if self._fact(database, "identity") != self._identity:
                self._clear(database)
        self._bytes = database.execute("SELECT coalesce(sum(bytes), 0) FROM folders").fetchone()[0]

    def _clear(self, database: sqlite3.Connection) -> None:
        for table in _TABLES:
            database.execute(f"DELETE FROM {table}")
        database.execute("INSERT INTO facts VALUES ('identity', ?)", (self._identity,))
        self._bytes = 0

    def _fact(self, database: sqlite3.Connection, name: str) -> str:
        row = database.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return "" if row is None else str(row[0])

    def _write_new(self, work: _NewListing, may_grow: bool) -> None:
        self._waiting_rows = max(0, self._waiting_rows - work.rows)
        if may_grow:  # else the older one stays: no server has refuted it, and changes come after it
            self._write_listing(work)

    def _write_listing(self, new: _NewListing) -> None:
        blocks = (
            new.blocks if new.page is None else [PackedBlock("", pack(new.page.rows, new.page.subdirs), 0)]
        )
        checksum, size = _checksum(blocks), sum(len(block.packed) for block in blocks)
        where = (new.folder.container, new.folder.prefix)
        known = self._database.execute(_SELECT, where).fetchone()
        if known is not None and known[1:5] == (new.page is None, new.marked, len(blocks), checksum):
            listed = (new.listed, new.listed, known[0])
            self._database.execute("UPDATE folders SET listed = ?, used = ? WHERE id = ?", listed)
            self._database.execute("DELETE FROM changes WHERE container = ? AND prefix = ?", where)
        else:
            self._forget(new.folder)
            if size > CAPACITY // 2:
                return  # it would displace most of the others
            row = (*where, new.listed, new.listed, new.page is None, new.marked, len(blocks), size, checksum)
            added = self._database.execute(
                "INSERT INTO folders VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row
            ).lastrowid
            rows = ((added, number, *block) for number, block in enumerate(blocks))
            self._database.executemany("INSERT INTO blocks VALUES (?, ?, ?, ?, ?)", rows)
            self._bytes += size
        self._write_changes(new.folder, new.changes)

    def _write_changes(self, folder: Folder, changes: Mapping[str, Entry | None]) -> None:
        encode = self._codec.encode
        rows = [
            (folder.container, folder.prefix, name, None if entry is None else encode(entry))
            for name, entry in changes.items()
        ]
        self._database.executemany(
            "INSERT OR REPLACE INTO changes VALUES (?, ?, ?, ?, ?)",
            ((*row, row_checksum(*row)) for row in rows),
        )

    def _forget(self, folder: Folder) -> None:
        where = (folder.container, folder.prefix)
        self._delete("SELECT id FROM folders WHERE container = ? AND prefix = ?", where)
        self._database.execute("DELETE FROM changes WHERE container = ? AND prefix = ?", where)

    def _forget_tree(self, folder: Folder) -> None:
        where = (folder.container, folder.prefix, folder.prefix + _AFTER_ALL)
        self._delete(f"SELECT id FROM folders WHERE {_BELOW}", where)
        self._database.execute(f"DELETE FROM changes WHERE {_BELOW}", where)

    def _delete(self, select: str, values: Iterable[object]) -> None:
        """Delete the folders that `select` finds."""
        for (folder,) in self._database.execute(select, tuple(values)).fetchall():
            freed = self._database.execute("SELECT bytes FROM folders WHERE id = ?", (folder,)).fetchone()[0]
            self._database.execute("DELETE FROM blocks WHERE folder = ?", (folder,))
            self._database.execute("DELETE FROM folders WHERE id = ?", (folder,))
            self._bytes -= freed

    def _evict(self) -> None:
        """Drop the folders used longest ago, and more than needed, so that not every write has to."""
        oldest = self._database.execute("SELECT container, prefix FROM folders ORDER BY used").fetchall()
        for container, prefix in oldest:
            if self._bytes <= CAPACITY * 9 // 10:
                return
            self._forget(Folder(container, prefix))

    def _read(self, folder: Folder) -> KeptFolder | None:
        where = (folder.container, folder.prefix)
        found = self._database.execute(_SELECT, where).fetchone()
        if found is None:
            return None
        number, huge, marked, count, checksum, listed = found
        select = "SELECT end, packed, text FROM blocks WHERE folder = ? ORDER BY number"
        blocks = [PackedBlock(*row) for row in self._database.execute(select, (number,))]
        if len(blocks) != count or _checksum(blocks) != checksum:
            raise sqlite3.DatabaseError("a listing has another checksum")
        with self._database:
            self._database.execute("UPDATE folders SET used = ? WHERE id = ?", (unix_time(), number))
        return KeptFolder(folder, bool(huge), bool(marked), blocks, listed, dict(self._changes(where)))

    def _changes(self, where: tuple[str, str]) -> Iterator[tuple[str, Entry | None]]:
        select = "SELECT * FROM changes WHERE container = ? AND prefix = ?"
        for *row, checksum in self._database.execute(select, where):
            if row_checksum(*row) != checksum:
                raise sqlite3.DatabaseError("a change has another checksum")
            text = row[3]
            yield row[2], None if text is None else self._codec.decode(text)


class KeptChanges:
    """A `RecentStore` that also tells `kept` what is stored. Not locked: the namespace's lock guards it."""

    def __init__(self, recent: RecentStore, kept: KeptListings) -> None:
        self._recent = recent
        self._kept = kept

    def recall(self) -> Mapping[Folder, Iterator[RecentChange]]:
        return self._recent.recall()

    def keep(self, folder: Folder, change: RecentChange) -> None:
        self._recent.keep(folder, change)
        self._kept.change(folder, change.name, change.entry)

    def forget_below(self, folder: Folder) -> None:
        self._recent.forget_below(folder)
        self._kept.forget(folder, is_tree=True)


def _checksum(blocks: Iterable[PackedBlock]) -> int:
    checksum = 0
    for end, packed, text in blocks:
        checksum = zlib.crc32(packed, zlib.crc32(f"{end}\0{text}".encode(), checksum))
    return checksum
