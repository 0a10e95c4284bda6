"""The journal: where the floors above hand in their changes, and what sees to it that Swift gets them.

An intent is on the disk when `add` returns, and is executed after a settling delay, in which it may become
one with others. Whoever wants it in Swift now asks for a `flush`.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace

from swiftfs.concurrency import Rank, monotonic, new_condition, new_event, new_thread
from swiftfs.errors import StoreError, SwiftfsError
from swiftfs.filecache.cache import FileCache
from swiftfs.filecache.cached_file import CachedFile
from swiftfs.filecache.segment_uploader import SegmentUploader, UnreferencedPrefix
from swiftfs.journal.database import JournalDB, Record
from swiftfs.journal.executor import Executor
from swiftfs.journal.late_requests import LateCounts, LateRequests, Watch
from swiftfs.journal.merging import attempted, coalesce, merge_hand_in, one_a_file
from swiftfs.journal.object_moves import Remnant
from swiftfs.journal.operations import (
    ANY_VERSION,
    Delete,
    Move,
    MoveFolder,
    Operation,
    PutFile,
    PutSpecial,
    ReplaceHeaders,
    SetAttributes,
    names_of,
)
from swiftfs.journal.report import PendingChange, QueueReport, describe, report
from swiftfs.journal.scheduler import Scheduler, remnant_tasks, tell
from swiftfs.journal.tasks import Done, Failure, HandIn, Task, TaskQueue
from swiftfs.objects import ObjectName
from swiftfs.paths import Folder

log = logging.getLogger(__name__)

LONGEST_SETTLING = 15
"""An intent that is changed again and again waits at most so many settling delays."""

PROGRESS_SECONDS = 0.2

RECOVERY_SECONDS = 1.0
"""Until what an earlier mount left is stored: thousands of uploads would slow down the start of this one."""

SYNC_SECONDS = 0.5
"""Between two times that the log and the local files are brought to the disk: a power cut costs less than a
second's changes."""


def _ignore(_outcome: object) -> None:
    """Nobody waits for it."""


class Journal:
    """The intents of one mount, which `log_` keeps on the disk.

    `seconds` is the settling delay; with 0 every intent is executed as soon as it can be. The lock guards the
    queue; it comes after those of the nodes, and before those of the namespace, of contents and of the log.
    `sent` tells a report how many bytes of a task's file need not be sent any more. What `watch` names is
    looked at again after a request was lost.
    """

    def __init__(
        self,
        execution: Executor,
        contents: FileCache,
        log_: JournalDB,
        *,
        seconds: float,
        parallel: int,
        watch: Watch | None = None,
    ) -> None:
        self._executor = execution
        self._contents = contents
        self._log = log_
        self.seconds = seconds
        self._queue = TaskQueue()
        self._changed = new_condition(Rank.JOURNAL)
        self._late = LateRequests(watch, contents, log_, self._put_right, self.is_idle) if watch else None
        self._scheduler = Scheduler(
            self._queue, self._changed, log_, contents, execution, parallel, self._late
        )
        if not seconds:
            self._scheduler.parked_level = logging.DEBUG
        self.sent: Callable[[Task], int] = lambda _: 0
        self._closing = new_event()
        self._is_flushing = False
        self._syncing = new_thread(self._sync, "journal sync")
        contents.abandoned = self._abandon
        contents.start_uploads_for_space = self.start_uploads_for_space

    def recover(self, records: Iterable[Record], make_done: Callable[[str, Operation], Done]) -> None:
        """Take up what an earlier process left, and begin; a move that it had begun is finished first."""
        now = monotonic()
        records, replaced = one_a_file(records)
        if replaced:  # an earlier release wrote two records of a file that was closed twice
            self._log.finish([record.seq for record in replaced], records)
        standings = self._log.uploads()
        by_file = {standing.file: standing for standing in standings if standing.file}
        self._queue.skip(max((record.seq for record in records), default=0))
        if self._late is not None:
            self._late.load()
        for record in records:
            intent = _with_prefix(attempted(record.operation), by_file)
            if isinstance(intent, Move | MoveFolder):
                self._resume(record, intent, make_done)
                continue
            done = make_done(record.path, intent)
            task = Task(record.seq, record.path, intent, done, now, now + RECOVERY_SECONDS, ambiguous=True)
            with self._changed:
                self._pin(intent)
                self._queue.add(task)
        if len(self._queue):
            log.info("%d changes of an earlier mount are stored now", len(self._queue))
        files = [task.operation.file for task in self._queue.tasks() if isinstance(task.operation, PutFile)]
        wanted = {file.prefix for file in files}
        # Looked up before anybody can write: later there are the segments of files that are open now.
        left = [standing for standing in standings if standing.prefix not in wanted]
        self._contents.recall(standing for standing in standings if standing.prefix in wanted)
        if self._late is not None:
            self._late.begin(
                make_done, [name for task in self._queue.tasks() for name in names_of(task.operation)]
            )
        self._scheduler.start()
        self._scheduler.soon(lambda: self._clean_up(left))
        self._syncing.start()

    def _clean_up(self, left: Iterable[UnreferencedPrefix]) -> None:
        """Delete segments that a process left which died before their file was closed."""
        for standing in left:
            self._discard_below(standing)

    def _discard_below(self, standing: UnreferencedPrefix) -> None:
        try:
            self._executor.removal.discard_below(standing)
        except StoreError as error:
            log.info("segments below %s stay for now: %s", standing.prefix, error)
        else:
            self._log.end_upload(standing.prefix)

    def submit(self, path: str, intent: Operation, done: Done = _ignore, *, at_least: float = 0.0) -> bool:
        """Take an intent about `path`, to be executed after `at_least` so many seconds.

        Return False when nothing is left to do: `done` will not be called. Raise `OSError` when the disk does
        not take it; nothing is changed then.
        """
        with self._changed:
            if isinstance(intent, PutFile) and (holder := self._holder_of(intent)) is not None:
                self._keep_newer(holder, path, intent, done, at_least)
                return True
            tail = self._queue.tail(names_of(intent)[0])
            merged = None if tail is None or tail.running else coalesce(tail.operation, intent)
            if tail is not None and merged is not None and not merged:
                self._drop(tail)
                return False
            now = monotonic()
            if tail is None or merged is None:
                task = Task(
                    self._queue.next_seq(), path, intent, done, now, now + max(self.seconds, at_least)
                )
                self._log.commit([task.record()])
                self._pin(intent)
                self._queue.add(task)
                self._changed.notify_all()
            else:
                self._change(tail, path, merged[0], done, now + max(self.seconds, at_least))
            return True

    def hold(self, path: str, deletion: Delete) -> int:
        """Record a deletion that waits for the last close of `path`, and return its number.

        Raise `OSError` when the disk does not take it. This mount executes it when it is let go, and the next
        one in any case: nobody has the file open any more.
        """
        with self._changed:
            seq = self._queue.next_seq()
            self._log.commit([Record(seq, path, deletion)])
            return seq

    def let_go(self, held: int, path: str, deletion: Delete, done: Done) -> None:
        """Take a deletion that was held; errors as in `submit`, and then it is recorded no more.

        INVARIANT: nothing that uses the name again is recorded before the record of the held one is gone.
        """
        with self._changed:
            try:
                self.submit(path, deletion, done)
            finally:
                self._log.finish([held])

    @property
    def late(self) -> LateRequests | None:
        """What looks again for requests that were carried out late, None where nothing is watched."""
        return self._late

    def is_idle(self, name: ObjectName) -> bool:
        """Return whether no change of `name` waits or runs."""
        with self._changed:
            return not self._queue.chain(name)

    def _put_right(self, path: str, intent: Operation, done: Done, holds: Callable[[], bool]) -> bool:
        with self._changed:
            if not all(map(self.is_idle, names_of(intent))) or not holds():
                return False
            return self.submit(path, intent, done)

    def rename(
        self,
        source: ObjectName,
        target: ObjectName,
        path: str,
        note: Callable[[], tuple[Done, Done]],
        *,
        replaces_large: bool | None,
        replaces_etag: str | None,
        creates: bool,
    ) -> bool:
        """Let what was to be stored as `source` be stored as `target`, which is `path`; say if it can be.

        Then `note` is called with the lock held: it returns what is told when that is done, and when nothing
        is left at `source`. What waited for `target` is overtaken; the rest says what Swift has there now, as
        in `PutFile`.
        """
        with self._changed:
            chain = self._queue.chain(source)
            if len(chain) != 1 or chain[0].running or chain[0].ambiguous:
                return False
            (task,) = chain
            if not isinstance(task.operation, PutFile | PutSpecial):
                return False
            moved = task.operation.renamed(
                target, replaces_large=replaces_large, replaces_etag=replaces_etag, creates=creates
            )
            if moved is None:
                return False
            tail = self._queue.tail(target)
            merged = coalesce(tail.operation, moved) if tail is not None and not tail.running else None
            self._replace(task, tail if merged else None, (merged or (moved,))[0], path, note)
            return True

    def run_move(self, path: str, intent: Move | MoveFolder) -> list[ObjectName]:
        """Execute a move, after all that waits for its names; raise why it was not made.

        When the process dies the next one finishes it. Return what stays at the old place until Swift deletes
        it, which is tried again.
        """
        with self._changed:
            tasks = [task for name in names_of(intent) for task in self._queue.chain(name)]
            deletion = self._needless(intent)
            self._scheduler.attempt([task for task in tasks if task is not deletion])
            if deletion is not self._needless(intent):
                deletion = None  # it was executed meanwhile
            now = monotonic()
            task = Task(self._queue.next_seq(), path, intent, _ignore, now, now)
            if deletion is not None and isinstance(deletion.operation, Delete) and isinstance(intent, Move):
                task.operation = replace(
                    intent, replaces_large=deletion.operation.is_slo, replaces_etag=ANY_VERSION
                )
                self._log.commit([task.record()], [deletion.seq])
                self._queue.remove(deletion)
                task.overrides = deletion
            else:
                self._log.commit([task.record()])
            self._queue.add(task)
            try:
                self._scheduler.attempt([task])
            except (SwiftfsError, OSError) as error:
                # It may still wait for what failed: a move that was refused must not be made later.
                self._scheduler.cancel(task, error)
                raise
            return task.left

    def watch(self, name: ObjectName, done: Done) -> None:
        """Let `done` be told how the deletion of what a move left behind goes."""
        with self._changed:
            task = self._queue.tail(name)
            if task is not None and isinstance(task.operation, Delete) and task.operation.moved:
                task.done = done
                return
        done(None)

    def run_unjournaled(self, intent: Operation) -> None:
        """Execute an intent that needs no journal, because nothing of it can be half done; raise why not."""
        self._executor.run(intent)

    def flush(self, names: Collection[ObjectName]) -> None:
        """Execute what waits for `names` now; raise why it failed, though it stays."""
        with self._changed:
            self._scheduler.attempt([task for name in names for task in self._queue.chain(name)])

    def withdraw(self, name: ObjectName, error: Failure) -> None:
        """Give up the last intent about `name`, which failed: whoever asked for it was told `error`."""
        with self._changed:
            task = self._queue.tail(name)
            if task is None or task.running:
                return
            self._drop(task)
        tell(task, error)

    def flush_below(self, folder: Folder) -> None:
        """Execute now what waits below `folder`; errors as in `flush`."""
        with self._changed:
            self._scheduler.attempt(self._queue.below(folder))

    def flush_all(self) -> None:
        """Begin to execute all that waits, what is parked too; `report` tells how that goes."""
        with self._changed:
            self._scheduler.refusals.forget_shown()
            self._is_flushing = True
            self._scheduler.flush_all(self._queue.tasks())

    def retry(self) -> None:
        """Execute what was parked or failed, in a moment."""
        with self._changed:
            for task in self._queue.tasks():
                if task.error is not None:
                    self._queue.run_now(task)
            self._changed.notify_all()

    def start_uploads_for_space(self) -> bool:
        """Begin to store files, for the disk is full of them; say whether anything is under way."""
        with self._changed:
            for task in self._queue.tasks():
                if isinstance(task.operation, PutFile) and not task.attempts and task.due:
                    self._queue.schedule(task, 0.0)
            self._changed.notify_all()
            return self._scheduler.is_busy()

    def acquire_pending(self, name: ObjectName) -> CachedFile | None:
        """Return the content of what waits to be stored as `name`, for the caller to leave, or None."""
        with self._changed:
            for task in reversed(self._queue.chain(name)):
                if isinstance(newest := task.newest, PutFile):
                    return self._contents.acquire_pending(newest.file)
        return None

    def body(self, name: ObjectName) -> bytes | None:
        """Return the body of a small object that waits to be stored as `name`, or None."""
        with self._changed:
            tail = self._queue.tail(name)
            return (
                tail.operation.body if tail is not None and isinstance(tail.operation, PutSpecial) else None
            )

    def failure(self, name: ObjectName) -> Failure | None:
        """Return why what is parked for `name` could not be stored, once for each time that it failed."""
        with self._changed:
            for task in self._queue.chain(name):
                if task.blocked and task.error is not None and not task.reported:
                    task.reported = True
                    return task.error
        return None

    def waiting(self) -> list[PendingChange]:
        """Return what is not executed yet."""
        with self._changed:
            return [describe(task) for task in self._queue.tasks()]

    def report(self) -> QueueReport:
        """Return how much is not executed yet, and the first of it."""
        late = self._late.counts() if self._late is not None else LateCounts()
        with self._changed:
            refusals = self._scheduler.refusals
            found = report(self._queue.tasks(), refusals, away=self._scheduler.is_away, sent=self.sent)
            if self._is_flushing and not found.flushing:
                refusals.show()
                self._is_flushing = False
        return replace(found, watched=late.watched, put_right=late.put_right, overwritten=late.overwritten)

    def refused(self) -> list[PendingChange]:
        """Return the changes that Swift refused for good, and that nobody was told about yet."""
        with self._changed:
            untold = [one for one in self._scheduler.refusals.kept() if not one.shown]
            return [describe(one.task, state="refused") for one in untold]

    def raise_refusal(self, name: ObjectName) -> None:
        """Raise why a change of `name` was given up, once."""
        with self._changed:
            error = self._scheduler.refusals.take(name)
        if error is not None:
            raise error

    def raise_refusal_below(self, folder: Folder) -> None:
        """Raise why a change below `folder` was given up, once."""
        with self._changed:
            error = self._scheduler.refusals.take_below(folder)
        if error is not None:
            raise error

    def close(
        self, seconds: float, progress: Callable[[int], None], give_up: Callable[[], None]
    ) -> list[PendingChange]:
        """Execute what waits, for so long at most, and end the threads; return what the next mount has to do.

        `progress` is called with the number of intents that still wait, and `give_up` when there is no more
        time: it ends the store's patience.
        """
        deadline = monotonic() + seconds
        if self._late is not None:
            self._late.stop()
        with self._changed:
            self.seconds = 0.0
            for task in self._queue.tasks():
                self._queue.run_now(task)
            self._changed.notify_all()
        while (left := self._wait_for_fewer(deadline)) and monotonic() < deadline:
            progress(left)
        if left:
            give_up()
        self._scheduler.stop()
        self._executor.close()
        self._closing.set()
        if self._syncing.ident is not None:
            self._syncing.join()
        if self._late is not None:
            self._late.save()
        self._log.close()
        return self.waiting()

    def _wait_for_fewer(self, deadline: float) -> int:
        """Return how many intents may still be executed, 0 as soon as that is so, else in a moment."""
        seconds = max(0.0, min(PROGRESS_SECONDS, deadline - monotonic()))
        with self._changed:
            self._changed.wait_for(lambda: all(task.is_stuck for task in self._queue.tasks()), seconds)
            return sum(not task.is_stuck for task in self._queue.tasks())

    def _resume(
        self, record: Record, intent: Move | MoveFolder, make_done: Callable[[str, Operation], Done]
    ) -> None:
        """Finish a move that an earlier process began, or give it up: a mount serves files from now on."""
        again: list[Record] = []
        remnants: list[Remnant] = []
        try:
            remnants = self._executor.resume(intent)
        except StoreError as error:
            remnants = [(deletion, error) for deletion in getattr(error, "left", ())]
            if error.retryable:
                again = [Record(record.seq, record.path, replace(intent, served=True))]
                log.warning("moving %s to %s cannot be finished now: %s", intent.source, intent.target, error)
            else:
                log.warning("moving %s to %s is given up: %s", intent.source, intent.target, error)
                now = monotonic()
                task = Task(record.seq, record.path, intent, _ignore, now, now, attempts=1, error=error)
                with self._changed:
                    self._scheduler.refusals.keep(task, error)
        else:
            log.info("moving %s to %s, which had been interrupted, is done", intent.source, intent.target)
        tasks = remnant_tasks(self._queue, record.path, intent, remnants)
        if self._late is not None:
            self._late.save()  # else a later mount would take what was moved for lost, and store it again
        self._log.finish([record.seq], [*again, *(task.record() for task in tasks)])
        with self._changed:
            for task in tasks:
                task.done = make_done(task.path, task.operation)
                self._queue.add(task)

    def _drop(self, task: Task) -> None:
        self._log.commit(drop=[task.seq])
        self._queue.remove(task)
        task.ended = True
        self._unpin(task.operation)
        self._changed.notify_all()

    def _holder_of(self, intent: PutFile) -> Task | None:
        """Return the task that has the intent's local file, unless it waits as the last of its name.

        INVARIANT: no two tasks have the same local file, so that no record of it contradicts another.
        """
        chain = self._queue.chain(intent.name)
        holder = next((task for task in chain if _file_of(task.operation) == intent.file.file), None)
        return holder if holder is not None and (holder.running or holder is not chain[-1]) else None

    def _keep_newer(self, holder: Task, path: str, intent: PutFile, done: Done, at_least: float) -> None:
        """Let `holder` store `intent` too, once its upload has ended if it runs.

        What waits behind it only describes the object, as the intent itself does.
        """
        now = monotonic()
        due = now + max(self.seconds, at_least)
        chain = self._queue.chain(intent.name)
        behind = chain[chain.index(holder) + 1 :]
        assert isinstance(holder.operation, PutFile)
        assert all(isinstance(task.operation, SetAttributes | ReplaceHeaders) for task in behind)
        merged = merge_hand_in(holder.operation, intent)
        self._log.commit([Record(holder.seq, path, merged)], [task.seq for task in behind])
        for task in behind:
            self._queue.remove(task)
            task.ended, task.successor = True, holder
        if holder.running:
            holder.keep(HandIn(path, intent, done, now, due))
            self._changed.notify_all()
        else:
            self._change(holder, path, merged, done, due)

    def _change(self, task: Task, path: str, intent: Operation, done: Done, due: float) -> None:
        self._log.commit([Record(task.seq, path, intent)])
        if _file_of(intent) != _file_of(task.operation):
            self._pin(intent)
            self._unpin(task.operation)
        task.path, task.operation, task.done = path, intent, done
        task.blocked, task.error = False, None
        task.handed += 1
        is_awaited = task.urgent or task.flush_mark is not None
        latest = 0.0 if is_awaited else task.created + LONGEST_SETTLING * self.seconds
        self._queue.schedule(task, min(due, latest))
        self._changed.notify_all()

    def _replace(
        self,
        task: Task,
        overtaken: Task | None,
        intent: Operation,
        path: str,
        note: Callable[[], tuple[Done, Done]],
    ) -> None:
        """Let `intent` take the place of both tasks, behind all others; `note` is as in `rename`."""
        assert isinstance(task.operation, PutFile | PutSpecial)
        source, was_there = task.operation, not task.operation.creates
        seq, gone = self._queue.next_seq(), [task, *([overtaken] if overtaken else [])]
        deletion = Delete(source.name, source.replaces_large, source.replaces_etag)
        leaves = Task(self._queue.next_seq(), task.path, deletion, _ignore, task.created, task.due)
        records = [Record(seq, path, intent), *([leaves.record()] if was_there else [])]
        self._log.commit(records, [one.seq for one in gone])
        for one in gone:
            self._queue.remove(one)
        if overtaken:
            overtaken.ended = True
            self._unpin(overtaken.operation)
        task.done, leaves.done = note()
        task.seq, task.path, task.operation = seq, path, intent
        if isinstance(intent, PutFile):
            self._contents.detach(intent.file.file)
        self._queue.add(task)
        if was_there:
            self._queue.add(leaves, after=task)
        else:
            tell(leaves, None)
        self._changed.notify_all()

    def _needless(self, intent: Move | MoveFolder) -> Task | None:
        """Return the deletion of a move's target that waits: the move overwrites what it would delete."""
        tail = self._queue.tail(intent.target) if isinstance(intent, Move) else None
        return tail if tail and not tail.running and isinstance(tail.operation, Delete) else None

    def _pin(self, intent: Operation) -> None:
        if (file := _file_of(intent)) is not None:
            self._contents.pin(file)

    def _unpin(self, intent: Operation) -> None:
        if (file := _file_of(intent)) is not None:
            self._contents.unpin(file)

    def _abandon(self, uploads: SegmentUploader) -> None:
        """Delete the segments of a file that will not be stored, in another thread."""
        self._scheduler.soon(lambda: self._delete_segments(uploads))

    def _delete_segments(self, uploads: SegmentUploader) -> None:
        """Delete what the file has uploaded; where a manifest may name it, that is looked at first."""
        names = uploads.abandon()
        if uploads.is_inherited or uploads.is_in_doubt:
            self._discard_below(uploads.state())
            return
        failures = self._executor.removal.delete_all(names)
        self._executor.removal.log_unused(failures)
        if not failures:  # else the next mount finds them by their prefix
            self._log.end_upload(uploads.prefix)

    def _sync(self) -> None:
        while not self._closing.wait(SYNC_SECONDS):
            try:
                self._log.sync()
            except OSError as error:
                log.warning("what was closed may not survive a power cut: %s", error)
            if self._executor.removal.is_due():
                with suppress(RuntimeError):  # the threads have ended: the next mount looks
                    self._scheduler.soon(self._executor.removal.look_again)


def _with_prefix(intent: Operation, uploads: Mapping[str, UnreferencedPrefix]) -> Operation:
    """Return the intent with the prefix of its file's segments, which began to be stored after its record."""
    if not isinstance(intent, PutFile) or intent.file.prefix is not None:
        return intent
    standing = uploads.get(intent.file.file)
    return intent if standing is None else replace(intent, file=replace(intent.file, prefix=standing.prefix))


def _file_of(intent: Operation) -> str | None:
    """Return the local file that an intent needs."""
    return intent.file.file if isinstance(intent, PutFile) else None
