"""The changes that an earlier process has left in the journal.

Files that only wait are packed while they are read: there may be 100,000.
"""

from collections import deque
from collections.abc import Iterator

from swiftfs.concurrency import monotonic
from swiftfs.journal.commits import Record
from swiftfs.journal.database import JournalDB
from swiftfs.journal.operations import Move, MoveFolder, MoveObject, Operation, PutFile
from swiftfs.journal.sleeping_tasks import SleepingTask, asleep
from swiftfs.objects import ObjectName

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
