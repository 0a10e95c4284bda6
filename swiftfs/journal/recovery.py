"""Recovery after an earlier process: its moves are finished, its other operations become tasks.

Release 0.1 recorded neither the file of an upload's prefix nor the manifest that it had sent. So the first
mount of a later release looks for a manifest of 0.1 whose answer was lost in a kill. Otherwise the file would
have lost its base version: the result of its own upload has replaced it.
"""

import logging
import re
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from swiftfs.concurrency import monotonic, steady_time
from swiftfs.errors import StoreError
from swiftfs.filecache.upload_record import UnreferencedPrefix
from swiftfs.journal.carried_tasks import carried_record, folder_rename
from swiftfs.journal.commits import Record
from swiftfs.journal.merging import attempted, one_a_file
from swiftfs.journal.moves import Moved, RecordMove, Remnant, ShowMoved
from swiftfs.journal.operations import ANY_VERSION, Delete, Move, MoveFolder, Operation, PutFile
from swiftfs.journal.outcomes import JournalParts, remnant_tasks
from swiftfs.journal.refusals import Refusals
from swiftfs.journal.segment_removal import SegmentRemoval
from swiftfs.journal.tasks import Cancelled, MakeDone, Task, Waiting, nobody_waits
from swiftfs.objects import Manifest, ObjectName
from swiftfs.paths import SEGMENTS_FOLDER

log = logging.getLogger(__name__)


def with_uploads_of_0_1(
    prefixes: Iterable[UnreferencedPrefix], records: Collection[Record], removal: SegmentRemoval
) -> list[UnreferencedPrefix]:
    """Return the prefixes, with the file and the manifest of an upload of 0.1 that had succeeded."""
    puts = [record.operation for record in records if isinstance(record.operation, PutFile)]
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
    names = (segment.name for segment in manifest.segments if segment.name.container == one.prefix.container)
    new = (name.key for name in names if name.key not in (one.named or ()))
    return any(key.startswith(one.prefix.key) for key in new)


_Sent = Mapping[ObjectName, Collection[str]]
"""ETags of manifests that earlier processes have sent without an answer, by the names of their objects."""

RECOVERY_SECONDS = 1.0
RECORD_SECONDS = 0.0001
"""Seconds before the first upload, and how many more for each record, as long as the records are read:
thousands of uploads would slow down the start of the mount."""


class _End(Struct, frozen=True):
    """How the resumption of a move ends, in one commit: `dropped` are the numbers of dropped records."""

    carried: list[Record]
    tasks: list[Task]
    again: Sequence[Record] = ()
    dropped: Sequence[int] = ()


class Recovery:
    """Fills the queue, before anything is executed and before the mount serves files.

    `changed` is the journal's lock; it is not held while a move is finished, which sends requests.
    """

    def __init__(
        self, parts: JournalParts, refusals: Refusals, make_done: MakeDone, show_moved: ShowMoved
    ) -> None:
        self._queue = parts.backlog.queue
        self._changed = parts.backlog.changed
        self._writer = parts.writer
        self._db = parts.db
        self._cache = parts.cache
        self._executor = parts.executor
        self._late = parts.late
        self._refusals = refusals
        self._make_done = make_done
        self._show_moved = show_moved
        self._delay = RECOVERY_SECONDS

    def run(self, found: deque[Record]) -> list[UnreferencedPrefix]:
        """Queue the records; return the prefixes of segments that none of their files needs.

        The records are taken out of `found`. The prefixes are read now, before files are written: later there
        are segments of open files too.
        """
        self._delay = RECOVERY_SECONDS + RECORD_SECONDS * len(found)
        records, replaced = one_a_file(found)
        found.clear()
        if replaced:  # an earlier release wrote two records of a file that was closed twice
            self._db.finish([record.seq for record in replaced], records)
        with self._changed:
            self._writer.pin_older()
        prefixes = with_uploads_of_0_1(self._db.uploads(), records, self._executor.removal)
        by_file = {one.file: one for one in prefixes if one.file}
        sent = _manifests_sent(prefixes)
        # The remnants of a move that is finished below get new numbers, which must not be those of records
        # that are not queued yet: such a deletion would replace somebody's change.
        self._queue.skip(max((record.seq for record in records), default=0))
        moves = [record.operation for record in records if isinstance(record.operation, MoveFolder)]
        carried = {seq for move in moves for seq in move.carried}
        # The name of a carried change depends on what becomes of the move.
        held = [record for record in records if record.seq in carried]
        found.extend(record for record in records if record.seq not in carried)
        del records
        while found:
            record = found.popleft()
            if not isinstance(record.operation, Move | MoveFolder):
                self._take(record, by_file, sent)
                continue
            others = self._resume(record, record.operation, _carried_by(record.operation, held))
            if _is_handed_on(record.operation):
                found.extend(others)  # behind the moves of what they replace
                continue
            for other in others:
                self._take(other, by_file, sent)
        if len(self._queue):
            log.info("storing %d changes of an earlier mount", len(self._queue))
        # What sleeps has no segments.
        operations = [task.operation for task in self._queue.awake()]
        wanted = {operation.file.prefix for operation in operations if isinstance(operation, PutFile)}
        # Before any of the files is opened: its upload must know which manifests the dead process has sent.
        self._cache.recall(one for one in prefixes if one.prefix in wanted)
        return [one for one in prefixes if one.prefix not in wanted]

    def _take(self, record: Record, uploads: Mapping[str, UnreferencedPrefix], sent: _Sent) -> None:
        operation = _with_sent(_with_prefix(attempted(record.operation), uploads), sent)
        now = monotonic()
        done = self._make_done(record.path, operation)
        waiting = Waiting(now + self._delay)
        # `promised`: a call may have returned success for it. `ambiguous`: its request may have been sent.
        task = Task(record.seq, record.path, operation, done, now, waiting, promised=True, ambiguous=True)
        with self._changed:
            # Awake ones take much memory, and there may be 100,000.
            if not self._queue.add_asleep(task):
                self._writer.add(task)
                self._queue.rest()

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
        self._db.finish([record.seq, *end.dropped], [*end.again, *end.carried, *tasks])
        with self._changed:
            for task in end.tasks:
                task.done = self._make_done(task.path, task.operation)
                self._queue.add(task)
        return end.carried

    def _finished(
        self, record: Record, operation: Move | MoveFolder, carried: list[Record], moved: Moved
    ) -> _End:
        tasks = remnant_tasks(self._queue, record.path, operation, moved.remnants)
        # Before the record is dropped, as for a change that a task has made.
        new = None
        if not _is_handed_on(operation):
            new = self._show_moved(record.path, operation, moved.rows)
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
        if not isinstance(operation, Move) or operation.replaces_etag != ANY_VERSION:
            return []
        path, now = self._late.path_of(operation.target), monotonic()
        # Of that version only: what is there may be the copy, or what a program has stored since.
        if path is None or operation.deleted in (None, operation.etag):
            return []
        deletion = Delete(
            operation.target, operation.replaces_large, operation.deleted, waited=True, trash=operation.trash
        )
        seq = self._queue.next_seq()
        return [Task(seq, path, deletion, nobody_waits, now, Waiting(now), promised=True, ambiguous=True)]

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


def _with_prefix(operation: Operation, uploads: Mapping[str, UnreferencedPrefix]) -> Operation:
    """Return the operation with the prefix of its file's segments, which was recorded after it."""
    if not isinstance(operation, PutFile) or operation.file.prefix is not None:
        return operation
    upload = uploads.get(operation.file.file)
    if upload is None:
        return operation
    return replace(operation, file=replace(operation.file, prefix=upload.prefix))


def _manifests_sent(uploads: Iterable[UnreferencedPrefix]) -> _Sent:
    sent: dict[ObjectName, set[str]] = {}
    for one in uploads:
        for name in one.objects if one.asked else ():
            sent.setdefault(name, set()).update(one.asked)
    return sent


def _with_sent(operation: Operation, sent: _Sent) -> Operation:
    """Return the operation with the manifests that were sent: they may be in the object's place by now.

    A newer file of the name needs to know that too: it would take them for another client's.
    """
    if not isinstance(operation, PutFile) or operation.name not in sent:
        return operation
    new = sorted({*sent[operation.name]}.difference(operation.sent))
    return replace(operation, sent=(*operation.sent, *new))
