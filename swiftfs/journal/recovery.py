"""Recovery after an earlier process: its moves are finished, its other operations become tasks.

Release 0.1 recorded neither the file of an upload's prefix nor the manifest that it had sent. So the first
mount of a later release looks for a manifest of 0.1 whose answer was lost in a kill. Otherwise the file would
have lost its base version: the result of its own upload has replaced it.
"""

import logging
import re
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from swiftfs.concurrency import monotonic, steady_time
from swiftfs.errors import StoreError
from swiftfs.filecache.upload_record import UnreferencedPrefix
from swiftfs.journal.carried_tasks import carried_record, folder_rename
from swiftfs.journal.commits import Record
from swiftfs.journal.earlier_changes import EarlierChanges
from swiftfs.journal.merging import one_a_file
from swiftfs.journal.moves import Moved, RecordMove, Remnant
from swiftfs.journal.operations import Delete, Move, MoveFolder, Operation, PutFile
from swiftfs.journal.outcomes import JournalParts, remnant_tasks
from swiftfs.journal.report import Refusals
from swiftfs.journal.segment_removal import SegmentRemoval
from swiftfs.journal.sleeping_tasks import DoneLater, SleepingTask, task_of_earlier
from swiftfs.journal.tasks import Cancelled, Done, Task, nobody_waits
from swiftfs.objects import Manifest, ObjectName, Row
from swiftfs.paths import SEGMENTS_FOLDER

log = logging.getLogger(__name__)


def with_uploads_of_0_1(
    prefixes: Collection[UnreferencedPrefix], operations: Iterable[Operation], removal: SegmentRemoval
) -> list[UnreferencedPrefix]:
    """Return the prefixes, with the file and the manifest of an upload of 0.1 that had succeeded."""
    if all(one.file for one in prefixes):
        return list(prefixes)
    puts = [operation for operation in operations if isinstance(operation, PutFile)]
    return [one if one.file else _completed(one, puts, removal) for one in prefixes]


def _completed(
    one: UnreferencedPrefix, puts: Iterable[PutFile], removal: SegmentRemoval
) -> UnreferencedPrefix:
    for put in puts:
        if not _may_own(put, one):
            continue
        try:
            manifest = removal.manifest_of(put.name, is_slo=None)
        except StoreError as error:
            log.info("%s: it is not known whether its last upload had succeeded: %s", put.name, error)
            return one
        if manifest is not None and _is_result(manifest, one):
            objects, asked = frozenset({put.name}), frozenset({manifest.etag})
            return replace(one, file=put.file.file, objects=objects, asked=asked, since=steady_time())
    return one


def _may_own(put: PutFile, one: UnreferencedPrefix) -> bool:
    """Return whether the prefix may be that of the operation's file.

    If the upload began after the close, the record has no prefix. Then the prefix begins with the object's
    key.
    """
    if put.file.prefix is not None:
        return put.file.prefix == one.prefix
    key = one.prefix.key.removeprefix(f"{SEGMENTS_FOLDER}/")
    return re.fullmatch(f"{re.escape(put.name.key)}/swiftfs-[0-9a-f]{{32}}/", key) is not None


def _is_result(manifest: Manifest, one: UnreferencedPrefix) -> bool:
    """Return whether the manifest names a segment below the prefix that none had named before the upload."""
    names = (name for name in manifest.names if name.container == one.prefix.container)
    new = (name.key for name in names if name.key not in (one.named or ()))
    return any(key.startswith(one.prefix.key) for key in new)


RECOVERY_SECONDS = 1.0
"""Seconds from when all is queued to the first upload: thousands would slow down the start of the mount."""


class ShowsEarlier(Protocol):
    """Shows in the mount what an earlier process left."""

    def recovered(self, path: str, operation: Operation) -> Done:
        """Show a change; return the journal's callback for the outcome."""

    def expect(self, waiting: Iterable[SleepingTask]) -> None:
        """Show files that wait, when their folders are looked at."""

    def expected(self, path: str) -> Done:
        """Return the journal's callback for such a file."""

    def show_deleted(self, copies: Iterable[ObjectName]) -> None:
        """Show that copies were deleted again."""

    def show_moved(self, path: str, operation: Move | MoveFolder, rows: Sequence[Row]) -> str | None:
        """Show that a path was moved, with the rows of `Moved`; return the new path of a folder."""


class _Uploads:
    """What earlier processes recorded of uploads.

    `sent` are the ETags of manifests that they have sent without an answer, by the names of their objects.
    """

    def __init__(self, prefixes: Iterable[UnreferencedPrefix]) -> None:
        self._by_file: dict[str, UnreferencedPrefix] = {}
        self._sent: dict[ObjectName, set[str]] = {}
        for one in prefixes:
            if one.file:
                self._by_file[one.file] = one
            for name in one.objects if one.asked else ():
                self._sent.setdefault(name, set()).update(one.asked)

    def concern(self, sleeping: SleepingTask) -> bool:
        """Return whether `complete` would change the operation of a task."""
        return sleeping.file in self._by_file or sleeping.name in self._sent

    def complete(self, operation: Operation) -> Operation:
        """Return the operation with the prefix of its file's segments, which was recorded after it.

        And with the manifests that were sent: they may be in the object's place by now. A newer file of the
        name needs to know that too: it would take them for another client's.
        """
        if not isinstance(operation, PutFile):
            return operation
        upload = self._by_file.get(operation.file.file)
        if operation.file.prefix is None and upload is not None:
            operation = replace(operation, file=replace(operation.file, prefix=upload.prefix))
        if operation.name in self._sent:
            new = sorted(self._sent[operation.name].difference(operation.sent))
            operation = replace(operation, sent=(*operation.sent, *new))
        return operation


class _End(Struct, frozen=True):
    """How the resumption of a move ends, in one commit: `dropped` are the numbers of dropped records."""

    carried: list[Record]
    tasks: list[Task]
    again: Sequence[Record] = ()
    dropped: Sequence[int] = ()


class Recovery:
    """Fills the queue with what is `left`, before anything is executed and before the mount serves files.

    `changed` is the journal's lock; it is not held while a move is finished, which sends requests.
    """

    def __init__(
        self, parts: JournalParts, refusals: Refusals, shows: ShowsEarlier, left: EarlierChanges
    ) -> None:
        self._queue = parts.backlog.queue
        self._changed = parts.backlog.changed
        self._writer = parts.writer
        self._db = parts.db
        self._cache = parts.cache
        self._executor = parts.executor
        self._late = parts.late
        self._refusals = refusals
        self._shows = shows
        self._uploads = _Uploads(())
        self._left = left

    def run(self) -> list[UnreferencedPrefix]:
        """Queue what is left; return the prefixes of segments that none of the files needs.

        The prefixes are read now, before files are written: later there are segments of open files too.
        """
        found = self._left.take()
        records = [one for one in found if isinstance(one, Record)]
        if self._left.has_doubles:
            records, replaced = one_a_file(records)
            self._db.finish(records, [record.seq for record in replaced])
            found = deque(records)
        with self._changed:
            self._writer.pin_older()
        operations = (one.operation for one in found)
        prefixes = with_uploads_of_0_1(self._db.uploads(), operations, self._executor.removal)
        self._uploads = _Uploads(prefixes)
        # The remnants of a move that is finished below get new numbers, which must not be those of records
        # that are not queued yet: such a deletion would replace somebody's change.
        self._queue.skip(found[-1].seq if found else 0)
        moves = [record.operation for record in records if isinstance(record.operation, MoveFolder)]
        del records
        self._queue_all(found, {seq for move in moves for seq in move.carried})
        if len(self._queue):
            log.info("storing %d changes of an earlier mount", len(self._queue))
        # What sleeps has no segments.
        awake = [task.operation for task in self._queue.awake()]
        wanted = {operation.file.prefix for operation in awake if isinstance(operation, PutFile)}
        # Before any of the files is opened: its upload must know which manifests the dead process has sent.
        self._cache.recall(one for one in prefixes if one.prefix in wanted)
        return [one for one in prefixes if one.prefix not in wanted]

    def _queue_all(self, found: deque[Record | SleepingTask], carried: Collection[int]) -> None:
        """Queue all, and let the tasks of files that only wait sleep."""
        # The name of a carried change depends on what becomes of the move.
        held = [one for one in found if isinstance(one, Record) and one.seq in carried]
        if held:
            found = deque(one for one in found if one.seq not in carried)
        later, waiting = DoneLater(self._shows.expected), list[SleepingTask]()
        while found:
            one = found.popleft()
            if isinstance(one, SleepingTask):
                if self._let_sleep(one, later):
                    waiting.append(one)
                    continue
                one = Record(one.seq, one.path, one.operation)
            # In their order: a change of the same name counts more than one before it.
            self._shows.expect(waiting)
            waiting.clear()
            found.extend(self._take_up(one, held))  # behind the moves of what they replace
        self._shows.expect(waiting)
        with self._changed:
            self._queue.begin(monotonic() + RECOVERY_SECONDS)

    def _let_sleep(self, sleeping: SleepingTask, later: DoneLater) -> bool:
        sleeping.done = later
        with self._changed:
            return not self._uploads.concern(sleeping) and self._queue.add_asleep(sleeping)

    def _take_up(self, record: Record, held: list[Record]) -> list[Record]:
        """Queue a record, or finish a move; return the records that come behind all others.

        They are of those in `held`, which the move carries along.
        """
        if not isinstance(record.operation, Move | MoveFolder):
            self._take(record)
            return []
        others = self._resume(record, record.operation, _carried_by(record.operation, held))
        if _is_handed_on(record.operation):
            return others
        for other in others:
            self._take(other)
        return []

    def _take(self, record: Record) -> None:
        ambiguous = self._left.is_ambiguous(record.seq)
        task = task_of_earlier(record, nobody_waits, monotonic(), ambiguous=ambiguous)
        task.operation = self._uploads.complete(task.operation)
        task.done = self._shows.recovered(record.path, task.operation)
        with self._changed:
            self._writer.add(task)
            self._queue.rest()  # awake ones take much memory, and there may be 100,000

    def _resume(self, record: Record, operation: Move | MoveFolder, carried: list[Record]) -> list[Record]:
        """Finish a move that an earlier process began, or give it up: a mount serves files from now on.

        Return the records `carried` by it, with their new names if it is done.
        """

        def record_again(changed: MoveFolder) -> None:
            self._db.commit([Record(record.seq, record.path, changed)])
            self._db.make_final()

        try:
            moved = self._moved(operation, record_again)
        except StoreError as error:
            end = self._not_finished(record, operation, carried, error)
        else:
            log.info("the interrupted move of %s to %s is done", operation.source, operation.target)
            end = self._finished(record, operation, carried, moved)
        self._late.save()  # else a later mount would take moved objects for lost, and store them again
        # One commit, in which deletions come first: `again` has the number that is dropped.
        tasks = (task.record() for task in end.tasks)
        self._db.finish([*end.again, *end.carried, *tasks], [record.seq, *end.dropped])
        if end.again:
            self._db.sync_changes()  # before the mount serves files: after a power cut the next one must know
        with self._changed:
            for task in end.tasks:
                task.done = self._shows.recovered(task.path, task.operation)
                self._queue.add(task)
        return end.carried

    def _finished(
        self, record: Record, operation: Move | MoveFolder, carried: list[Record], moved: Moved
    ) -> _End:
        tasks = remnant_tasks(self._queue, record.path, operation, moved.remnants)
        # Before the record is dropped, as for a change that a task has made.
        new = None
        if not _is_handed_on(operation):
            new = self._shows.show_moved(record.path, operation, moved.rows)
        elif isinstance(operation, MoveFolder) and operation.background is not None:
            new = operation.background.new
        if not isinstance(operation, MoveFolder):
            return _End(carried, tasks)
        rename = folder_rename(operation, record.path, new or record.path)
        renamed = [carried_record(one, rename) for one in carried]
        if not operation.is_handed_on:
            return _End(renamed, tasks)
        renamed = [replace(one, seq=self._queue.next_seq()) for one in renamed]
        return _End(renamed, tasks, dropped=[one.seq for one in carried])

    def _not_finished(
        self, record: Record, operation: Move | MoveFolder, carried: list[Record], error: StoreError
    ) -> _End:
        names = f"{operation.source} to {operation.target}"
        remnants: list[Remnant] = [(deletion, error) for deletion in getattr(error, "left", ())]
        tasks = remnant_tasks(self._queue, record.path, operation, remnants)
        self._shows.show_deleted(getattr(error, "gone", ()))
        if error.retryable:
            # The mount serves files from now on, and programs make and delete some at both places. So a later
            # process only looks which copies name the segments of their sources, and gives the move up.
            log.warning("the interrupted move of %s cannot be finished now: %s", names, error)
            tasks += self._deletions_again(operation)
            return _End(carried, tasks, again=[Record(record.seq, record.path, _as_served(operation))])
        log.warning("the interrupted move of %s is given up: %s", names, error)
        self._refuse(record, operation, error)
        return _End(carried, [*tasks, *self._deletions_again(operation)])

    def _moved(self, operation: Move | MoveFolder, record: RecordMove) -> Moved:
        """Finish a move, unless its objects have records of their own, which become tasks."""
        if _is_handed_on(operation):
            return Moved([])
        return self._executor.resume(operation, record, self._late)

    def _deletions_again(self, operation: Move | MoveFolder) -> list[Task]:
        """Return the deletion, if there was one, that a move which is not finished was to replace."""
        # Of that version only: what is there may be the copy, or what a program has stored since.
        if not isinstance(operation, Move) or operation.deleted in (None, operation.etag):
            return []
        if (path := self._late.path_of(operation.target)) is None:
            return []
        deletion = Delete(
            operation.target, operation.replaces_large, operation.deleted, waited=True, trash=operation.trash
        )
        return [self._queue.new_task(path, deletion, promised=True, ambiguous=True)]

    def _refuse(self, record: Record, operation: Move | MoveFolder, error: StoreError) -> None:
        now = monotonic()
        task = Task(record.seq, record.path, operation, nobody_waits, now, Cancelled(error), attempts=1)
        with self._changed:
            self._refusals.keep(task, error)


def _is_handed_on(operation: Move | MoveFolder) -> bool:
    return isinstance(operation, MoveFolder) and operation.is_handed_on


def _carried_by(operation: Move | MoveFolder, records: Iterable[Record]) -> list[Record]:
    """Return the records of the changes that a folder's move carries along."""
    numbers = {*operation.carried} if isinstance(operation, MoveFolder) else set()
    return [record for record in records if record.seq in numbers]


def _as_served(operation: Move | MoveFolder) -> Move | MoveFolder:
    """Return a move that could not be finished before a mount served files; what it carried stays."""
    if isinstance(operation, MoveFolder):
        return replace(operation, served=True, carried=())
    return replace(operation, served=True)
