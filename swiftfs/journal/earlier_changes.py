"""What an earlier process has left in the journal for the next mount.

`EarlierChanges` are the changes that Swift does not have. Files that only wait are packed while they are
read: there may be 100,000. `RecentChanges` are those that Swift has, and that its listings may not show yet.
"""

import logging
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping

from swiftfs.concurrency import monotonic, unix_time
from swiftfs.journal.commits import Record
from swiftfs.journal.database import JournalDB
from swiftfs.journal.operations import (
    Move,
    MoveFolder,
    MoveObject,
    Operation,
    PutFile,
    Unreadable,
    decode_entry,
    encode,
)
from swiftfs.journal.sleeping_tasks import SleepingTask, asleep
from swiftfs.namespace.overlay import LISTING_LAG, RecentChange
from swiftfs.objects import ObjectName
from swiftfs.paths import Folder

log = logging.getLogger(__name__)

AnyMove = Move | MoveObject | MoveFolder


class EarlierChanges:
    """What `db` has at the start, in its order.

    `files` are the local files that it needs, and the objects they are of. It `has_doubles` if an earlier
    release wrote two records of a file that was closed twice. Raise `OSError` if the disk refuses what must
    be recorded before anything is sent.
    """

    def __init__(self, db: JournalDB) -> None:
        self.files: dict[str, ObjectName] = {}
        self.has_doubles = self._has_carried = False
        self._found: deque[Record | SleepingTask] = deque()
        self._now = monotonic()
        self._ambiguous = db.take_end()
        db.read(self._add)
        if self.has_doubles or self._has_carried:  # which need their records
            self._found = deque(db.records())
        for file, name in db.older_files().items():
            self.files.setdefault(file, name)

    def _add(self, record: Record) -> None:
        sleeping, operation = None, record.operation
        if isinstance(operation, PutFile):
            self.has_doubles |= operation.file.file in self.files
            sleeping = asleep(record, self._now, ambiguous=self.is_ambiguous(record.seq))
            self.files[operation.file.file] = operation.name if sleeping is None else sleeping.name
        elif isinstance(operation, MoveFolder):
            self._has_carried |= bool(operation.carried)
        self._found.append(sleeping or record)

    def is_ambiguous(self, seq: int) -> bool:
        """Return whether Swift may have executed an operation, or may do so later.

        Of a process that died nobody knows what it had sent.
        """
        return self._ambiguous is None or seq in self._ambiguous

    def moves(self) -> list[AnyMove]:
        """Return the moves of files and folders."""
        records = (one for one in self._found if isinstance(one, Record))
        return [one.operation for one in records if isinstance(one.operation, AnyMove)]

    def others(self) -> Iterator[Operation]:
        """Yield the other operations that are ambiguous; each is unpacked when it is needed."""
        operations = (one.operation for one in self._found if self.is_ambiguous(one.seq))
        return (operation for operation in operations if not isinstance(operation, AnyMove))

    def take(self) -> deque[Record | SleepingTask]:
        """Return all, and forget them: both they and the tasks need much memory."""
        found, self._found = self._found, deque()
        return found


MOST = 40_000
"""How many changes are kept, the newest: as many as the rename of a folder with 20,000 objects makes."""

TRIM = 10_000
"""After so many changes, what is above the limit is deleted."""

_KEEP = "INSERT OR REPLACE INTO recent VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)"
_FORGET_BELOW = "DELETE FROM recent WHERE container = ? AND prefix >= ? AND prefix < ?"
_FORGET_BEFORE = "DELETE FROM recent WHERE number < ?"
_TRIM = "DELETE FROM recent WHERE number <= (SELECT number FROM recent ORDER BY number DESC LIMIT 1 OFFSET ?)"

_MOVED, _OF_FOLDER = 1, 2
"""The bits of the column `is_moved`."""

_AFTER_ALL = "\U0010ffff"
"""Appended to a prefix, it makes a text that is greater than everything that begins with the prefix."""


class RecentChanges:
    """The table of recent changes in the journal's database. Not locked: the namespace's lock guards it.

    A change is written by the commit that drops its record, or by an earlier one: a process that dies leaves
    the record or the change.
    """

    def __init__(self, db: JournalDB, most: int = MOST, trim: int = TRIM) -> None:
        self._db = db
        self._most = most
        self._trim = trim
        self._kept = 0

    def recall(self) -> Mapping[Folder, Iterator[RecentChange]]:
        """Return the changes that are younger than `LISTING_LAG` by folder; each is decoded when needed."""
        found: defaultdict[Folder, list[tuple[str, float, int, str | None]]] = defaultdict(list)
        now, first, old = monotonic(), 1 << 62, 0
        for number, container, prefix, name, at, clock, flags, text in self._db.rows("recent"):
            age = _age(now, at, clock)
            if age <= LISTING_LAG:
                first = min(first, number)
                found[Folder(container, prefix)].append((name, now - age, flags, text))
            else:
                old += 1
        if old:
            self._db.change_later(_FORGET_BEFORE, (first,))
        return {folder: _read(rows) for folder, rows in found.items()}

    def keep(self, folder: Folder, change: RecentChange) -> None:
        """Record a change that Swift has made."""
        text = None if change.entry is None else encode(change.entry)
        flags = _MOVED * change.moved | _OF_FOLDER * change.of_folder
        at = unix_time() - monotonic() + change.at
        row = (folder.container, folder.prefix, change.name, at, change.at, flags, text)
        self._db.change_later(_KEEP, row)
        self._kept += 1
        if self._kept % self._trim == 0:
            self._db.change_later(_TRIM, (self._most,))

    def forget_below(self, folder: Folder) -> None:
        """Drop the changes in a folder and in all folders below it."""
        self._db.change_later(_FORGET_BELOW, (folder.container, folder.prefix, folder.prefix + _AFTER_ALL))


def _age(now: float, at: float, clock: float) -> float:
    """Return how many seconds before `now`, in monotonic time, a change was made.

    That was `clock` in monotonic time, which does not jump but begins anew with a boot: then the Unix time
    `at` counts.
    """
    age = now - clock
    return age if age >= 0.0 else max(0.0, unix_time() - at)


def _read(rows: list[tuple[str, float, int, str | None]]) -> Iterator[RecentChange]:
    for name, at, flags, text in rows:
        try:
            entry = None if text is None else decode_entry(text)
            yield RecentChange(name, entry, at, bool(flags & _MOVED), bool(flags & _OF_FOLDER))
        except Unreadable as error:
            log.info("a recent change is ignored, it is %s", error)  # the listing counts
