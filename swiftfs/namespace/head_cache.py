"""The answers to HEADs, on disk, so that an unchanged object needs no second HEAD.

Losing the file costs only requests.
"""

import json
import logging
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from swiftfs.concurrency import Rank, monotonic, new_lock, unix_time
from swiftfs.objects import ObjectInfo, ObjectName, ObjectVersion
from swiftfs.sqlite import CacheDatabase, Schema

log = logging.getLogger(__name__)

CAPACITY = 1_000_000
"""How many objects' answers are kept: about 300 MB of disk."""

CAPACITY_IN_MEMORY = 100_000
"""How many are kept in memory, when there is no usable file."""

_GROUP = 256
_GROUP_SECONDS = 1.0
"""Answers are written in groups, so that a HEAD does not cost a transaction: when a group is full, or when
the last write was longer ago than this."""

_TOUCH_SECONDS = 86_400
"""Seconds until a row's time of use is written again."""

_TOUCH = "UPDATE heads SET used = ? WHERE container = ? AND key IN (SELECT value FROM json_each(?))"

_SCHEMA = Schema(
    0x73776664,
    1,
    """
CREATE TABLE heads (
    container TEXT, key TEXT, hash TEXT, last_modified TEXT, info TEXT, checksum INTEGER, used INTEGER,
    PRIMARY KEY (container, key)
) WITHOUT ROWID;
CREATE INDEX heads_by_use ON heads (used);
""",
)

_FORGET = "DELETE FROM heads WHERE container = ? AND key = ?"

_RECALL = """
SELECT heads.key, hash, last_modified, info, checksum, used
FROM json_each(?) AS wanted CROSS JOIN heads ON container = ? AND heads.key = wanted.value
"""


class ObjectState(NamedTuple):
    """A state of an object, as its listing row identifies it: every PUT and POST changes `last_modified`."""

    container: str
    key: str
    hash: str
    last_modified: str


class HeadCache:
    """Keeps the HEAD answer for one state of each object. Any thread may call any method.

    No method raises for an error of the disk: without a usable file, or with `path` None, the answers are
    kept in memory. The lock guards the database and the answers that are not written to it yet.
    """

    def __init__(self, path: Path | None = None, capacity: int = CAPACITY) -> None:
        loss = "HEAD requests are sent again"
        self._file = CacheDatabase(path, _SCHEMA, self._prepare, loss, synchronous="OFF")
        self._capacity = capacity
        self._lock = new_lock(Rank.HEAD_CACHE)
        self._waiting: dict[tuple[str, str], tuple[ObjectState, ObjectInfo]] = {}
        self._written = monotonic()
        self._rows = 0
        self._database = self._file.open()

    def remember(self, state: ObjectState, info: ObjectInfo) -> None:
        """Keep `info` as the answer for that state, in place of an older state."""
        with self._lock:
            self._waiting[state.container, state.key] = state, info
            if len(self._waiting) >= _GROUP or monotonic() - self._written > _GROUP_SECONDS:
                self._write()

    def forget(self, name: ObjectName) -> None:
        """Drop the answer for an object, also on the disk: the next mount may see an old listing too."""
        with self._lock:
            self._waiting.pop((name.container, name.key), None)
            if not self._rows:
                return
            try:
                with self._database:
                    self._database.execute(_FORGET, (name.container, name.key))
            except sqlite3.Error as error:
                self._recover(error, damaged=not isinstance(error, sqlite3.OperationalError))

    def recall_many(self, states: Iterable[ObjectState]) -> dict[ObjectState, ObjectInfo]:
        """Return the answers that are kept for these states, by one query for each container."""
        now = unix_time()
        found = self._find(states)
        return {one: info for one, known, info in found if one == known and not _expired(info, now)}

    def recall_older(self, states: Iterable[ObjectState]) -> dict[ObjectState, ObjectInfo]:
        """Return the answers that are kept for older states of the objects."""
        return {one: info for one, known, info in self._find(states) if one != known}

    def _find(self, states: Iterable[ObjectState]) -> list[tuple[ObjectState, ObjectState, ObjectInfo]]:
        """Return, for each state, the state of its object whose answer is kept, and that answer."""
        found: list[tuple[ObjectState, ObjectState, ObjectInfo]] = []
        with self._lock:
            sought = []
            for state in states:
                # What waits to be written is newer than the row on the disk.
                remembered = self._waiting.get((state.container, state.key))
                if remembered is None:
                    sought.append(state)
                else:
                    found.append((state, *remembered))
            by_container = attrgetter("container")
            for container, group in groupby(sorted(sought, key=by_container), by_container):
                try:
                    found += self._read(container, list(group))
                except sqlite3.Error as error:
                    # Text that is not UTF-8 raises OperationalError too, so every error here is damage.
                    self._recover(error, damaged=True)
        return found

    def close(self) -> None:
        """Write the remaining answers, and close the file."""
        with self._lock:
            self._write()
            self._database.close()

    def _prepare(self, database: sqlite3.Connection) -> None:
        if self._file.path is None:
            self._capacity = min(self._capacity, CAPACITY_IN_MEMORY)
        self._rows = database.execute("SELECT count(*) FROM heads").fetchone()[0]

    def _recover(self, error: sqlite3.Error, *, damaged: bool) -> None:
        """Continue after an error: with a new file if this one is damaged, else in memory."""
        self._database.close()
        if damaged:
            self._database = self._file.recreate(error)
        else:
            log.warning("answers to HEAD requests are kept in memory only: %s", error)
            self._database = self._file.in_memory()

    def _read(
        self, container: str, states: list[ObjectState]
    ) -> Iterator[tuple[ObjectState, ObjectState, ObjectInfo]]:
        wanted = {state.key: state for state in states}
        now = int(unix_time())
        used = []
        keys = json.dumps(list(wanted))
        for key, hash_, last_modified, info, checksum, last_used in self._database.execute(
            _RECALL, (keys, container)
        ):
            state = ObjectState(container, key, hash_, last_modified)
            if key in wanted and isinstance(info, str) and checksum == _checksum(state, info):
                yield wanted[key], state, _decode(state, info)
                if last_used < now - _TOUCH_SECONDS:
                    used.append(key)
        if used and self._file.may_grow():
            # `_write` deals with a full disk; here it does no harm.
            with suppress(sqlite3.OperationalError), self._database:
                self._database.execute(_TOUCH, (now, container, json.dumps(used)))

    def _write(self) -> None:
        if not self._file.may_grow():
            # They wait in memory, as many as without a file: the oldest ones go.
            while len(self._waiting) > CAPACITY_IN_MEMORY:
                del self._waiting[next(iter(self._waiting))]
            self._written = monotonic()
            return
        now = int(unix_time())
        rows = []
        for state, info in self._waiting.values():
            text = _encode(info)
            rows.append((*state, text, _checksum(state, text), now))
        self._waiting.clear()
        self._written = monotonic()
        try:
            with self._database:
                self._database.executemany("INSERT OR REPLACE INTO heads VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
                self._rows += len(rows)
                if self._rows > self._capacity:
                    self._trim()
        except sqlite3.Error as error:
            # OperationalError: the disk is full or fails, which a new file would not help.
            self._recover(error, damaged=not isinstance(error, sqlite3.OperationalError))

    def _trim(self) -> None:
        """Drop the rows used longest ago, and 1 % more than needed, so that not every write has to."""
        # `_rows` counts a replaced row twice.
        self._rows = self._database.execute("SELECT count(*) FROM heads").fetchone()[0]
        excess = self._rows - self._capacity
        if excess <= 0:
            return
        excess += self._capacity // 100
        self._database.execute(
            "DELETE FROM heads WHERE (container, key) IN"
            " (SELECT container, key FROM heads ORDER BY used LIMIT ?)",
            (excess,),
        )
        self._rows -= excess


def _encode(info: ObjectInfo) -> str:
    return json.dumps(
        [
            info.version.etag,
            info.size,
            info.content_type,
            info.last_modified_ns,
            dict(info.metadata),
            dict(info.preserved_headers),
            info.is_slo,
            None if info.dlo_prefix is None else str(info.dlo_prefix),
        ],
        separators=(",", ":"),
    )


def _decode(state: ObjectState, text: str) -> ObjectInfo:
    etag, size, content_type, last_modified_ns, metadata, kept, is_slo, dlo = json.loads(text)
    dlo_prefix = None if dlo is None else ObjectName.parse(dlo)
    version = ObjectVersion(ObjectName(state.container, state.key), etag)
    return ObjectInfo(version, size, content_type, last_modified_ns, metadata, kept, is_slo, dlo_prefix)


def _checksum(state: ObjectState, text: str) -> int:
    """Return a checksum of a row. SQLite has none, and a power cut may leave half-written pages."""
    return zlib.crc32("\0".join((*state, text)).encode())


def _expired(info: ObjectInfo, now: float) -> bool:
    """Return whether Swift may have deleted the object at its `X-Delete-At` (seconds since the epoch)."""
    moment = info.preserved_headers.get("X-Delete-At", "")
    return moment.isdecimal() and int(moment) <= now
