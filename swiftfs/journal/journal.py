"""The journal: takes changes from the layers above, records them, and sends them to Swift.

An operation is on the disk when `submit` returns, and is executed after a settling delay, in which it may be
merged with others. `flush` executes it at once.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

from msgspec.structs import replace

from swiftfs.concurrency import monotonic
from swiftfs.errors import SwiftfsError
from swiftfs.filecache.cache import FileCache
from swiftfs.filecache.cached_file import CachedFile
from swiftfs.journal.backlog import Backlog
from swiftfs.journal.carried_tasks import CarriedTasks, FolderRename
from swiftfs.journal.database import JournalDB
from swiftfs.journal.earlier_changes import EarlierChanges
from swiftfs.journal.executor import Executor
from swiftfs.journal.late_requests import LateRequests
from swiftfs.journal.merging import coalesce
from swiftfs.journal.operations import (
    Delete,
    Move,
    MoveFolder,
    Operation,
    PutFile,
    PutSpecial,
    Replaced,
    names_of,
)
from swiftfs.journal.outcomes import JournalParts, Outcomes
from swiftfs.journal.queue_report import QueuedChange, QueueReport
from swiftfs.journal.recovery import Recovery, ShowsEarlier
from swiftfs.journal.repairs import Repairs
from swiftfs.journal.report import UnderWay, describe, report, task_sent
from swiftfs.journal.scheduler import Scheduler
from swiftfs.journal.sleeping_tasks import SleepingTask
from swiftfs.journal.task_writer import RecordRename, TaskWriter
from swiftfs.journal.tasks import Done, Failure, Mode, Task, nobody_waits
from swiftfs.objects import ObjectInfo, ObjectName
from swiftfs.paths import Folder, Source
from swiftfs.store.retry import shared_limit

PROGRESS_SECONDS = 0.2
"""The interval in which `close` reports its progress."""

HIDDEN_SECONDS = 0.5
"""How long the deletion of a file that libfuse has hidden is held: it may be a part of a rename(2), whose
other part comes within milliseconds."""


class Journal:
    """The operations of one mount, which `db` keeps on the disk.

    In `Mode.WRITE_BACK` a change is executed `settle_seconds` after it was handed in; in `Mode.SYNC`, without
    a delay, as soon as possible, and the caller flushes it. The lock guards the queue; it comes after those
    of open files, and before those of the namespace, of cached files and of the database. `is_being_made` is
    as in `Outcomes`. `late` checks objects of `source` after a request that was lost.
    """

    def __init__(
        self,
        executor: Executor,
        cache: FileCache,
        db: JournalDB,
        backlog: Backlog,
        *,
        settle_seconds: float,
        source: Source,
        under_way: UnderWay,
        is_being_made: Callable[[str], bool],
    ) -> None:
        self.mode = Mode.WRITE_BACK if settle_seconds else Mode.SYNC
        self._executor, self.trash = executor, executor.trash
        self._cache = cache
        self._db = db
        self._sent = partial(task_sent, cache, under_way)
        self._backlog = backlog
        self._queue = backlog.queue
        self._changed = backlog.changed
        self._writer = TaskWriter(self._queue, db, cache, settle_seconds)
        self.given_up = self._writer.given_up
        self.set_settle = self._writer.set_settle
        self._repairs = Repairs(backlog, self._writer, cache)
        self.is_idle = self._repairs.is_idle
        self.late = LateRequests(executor, source, cache, db, self._repairs)
        self._parts = JournalParts(backlog, self._writer, db, cache, executor, self.late)
        self._outcomes = Outcomes(self._parts, self.mode, is_being_made)
        self._scheduler = Scheduler(self._parts, self._outcomes)
        self._is_flushing = False

    def recover(self, left: EarlierChanges, shows: ShowsEarlier) -> None:
        """Finish the moves that an earlier process began, queue its other operations, and start."""
        # In this order: what the dead process may have sent must be known as lost before the recovery sends
        # any request of its own, and is looked for only when its moves are finished. The other way round an
        # object that a finished move took away would count as lost, and be stored at its old name again.
        self.late.load(left)
        abandoned = Recovery(self._parts, self._outcomes.refusals, shows, left).run()
        self.late.begin(shows.recovered)
        # Not before the queue is complete: a task must not overtake one whose record was not read yet.
        self._scheduler.start()
        self._backlog.start_upkeep(abandoned, self.sync)

    def submit(
        self,
        path: str,
        operation: Operation,
        done: Done = nobody_waits,
        *,
        at_least: float = 0.0,
        since: int | None = None,
    ) -> bool:
        """Record an operation about `path`, to be executed after the write delay.

        It waits for `at_least` seconds if that is longer. Return False if nothing is left to do: `done` will
        not be called. Raise `OSError` if the disk refuses the record, or ESTALE if what is changed has been
        given up `since`, as in `GivenUp`; nothing is changed then.
        """
        with self._changed:
            self._writer.check_target(path, operation, since)
            self._let_go_of(names_of(operation))
            if isinstance(operation, PutFile):
                operation = self._outcomes.with_last_stored(operation)
            waits = self._writer.submit(path, operation, done, at_least)
            self._scheduler.look()
            return waits

    def hold(
        self,
        path: str,
        deletion: Delete,
        done: Done = nobody_waits,
        *,
        until_closed: bool = False,
        since: int | None = None,
    ) -> int:
        """Record a deletion that is not executed yet, and return its number.

        It becomes an ordinary change by `let_go`, after `HIDDEN_SECONDS`, or before another operation about
        its name. If it waits `until_closed`, the last two count only after `was_closed`. The next mount
        executes it at once. The rest is as in `submit`.
        """
        deletion = replace(deletion, waited=until_closed)
        with self._changed:
            self._writer.check_target(path, deletion, since)
            seq = self._writer.hold(path, deletion, done, math.inf if until_closed else HIDDEN_SECONDS)
            self._changed.notify_all()
            return seq

    def let_go(self, held: int) -> None:
        """Make a held deletion an ordinary change, if it is held still.

        INVARIANT: the record of a held deletion is gone before any other operation about the name is
        recorded.
        """
        with self._changed:
            if (task := self._writer.held.pop(held)) is not None:
                self._writer.let_go(task)
                self._changed.notify_all()

    def was_closed(self, held: int) -> None:
        """Record the last close that a held deletion waits for: from now on it is held as others are."""
        with self._changed:
            self._writer.held.set_due(held, HIDDEN_SECONDS)
            self._changed.notify_all()

    @contextmanager
    def taking_back(self, held: int) -> Iterator[bool]:
        """Take back a held deletion, which will never be executed; yield False if it is not held any more.

        If the process dies inside the context, the next one executes the deletion, unless a move or rename to
        its name was recorded: the commit that records that also drops the deletion.
        """
        with self._changed:
            task = self._writer.held.take_back(held)
        try:
            yield task is not None
        finally:
            with self._changed:
                is_dropped = self._writer.drop_taken_back([task] if task is not None else [])
            if is_dropped:
                with suppress(OSError):  # the next sync does it
                    self._db.make_final()

    def undo_late_request(self, name: ObjectName) -> bool:
        """Put an object right that a late request has changed; return whether one had.

        Otherwise a program that opens it would change the older version. Raise the error of a failure.
        """
        if not self.late.look_at(name):
            return False
        self.flush([name])
        return True

    def undo_late_requests(self, path: str, *, moving: bool = False) -> bool:
        """Store again what late requests have overwritten or deleted at and below a path; return whether any.

        Otherwise a program that misses a file would create it again, and a move would take the wrong version
        along: at its new name nothing would show that it is wrong. Raise the error of a failure.
        """
        names = self.late.look_below(path, moving=moving)
        if names:
            self.flush(names)
        return bool(names)

    def rename(
        self,
        source: ObjectName,
        target: ObjectName,
        path: str,
        record: RecordRename,
        replaced: Replaced,
    ) -> bool:
        """Store the pending file `source` as `target`, which is `path`; return False if that is impossible.

        `record` is called with the lock held. Pending changes of `target` are not stored any more; `replaced`
        describes Swift's object there.
        """
        with self._changed:
            self._let_go_of([source, target])
            chain = self._queue.chain(source)
            # An object of the old name may be in Swift, or come to be there, if a request was sent that Swift
            # has not refused. A new name in the record would leave it behind: the caller moves it instead.
            if len(chain) != 1 or chain[0].running or chain[0].ambiguous:
                return False
            (task,) = chain
            if not isinstance(task.operation, PutFile | PutSpecial):
                return False
            moved = task.operation.renamed(target, replaced)
            if moved is None:
                return False
            if isinstance(moved, PutFile):
                moved = self._outcomes.with_last_stored(moved)
            tail = self._queue.tail(target)
            merged = coalesce(tail.operation, moved) if tail is not None and not tail.running else None
            (stored,) = merged or (moved,)
            assert isinstance(stored, PutFile | PutSpecial)
            self._writer.rename(task, tail if merged else None, stored, path, record)
            self._changed.notify_all()
            return True

    @contextmanager
    def carrying(self, rename: FolderRename) -> Iterator[CarriedTasks]:
        """Execute what is pending below a folder now, but hold what can be carried along until this ends.

        Without a write delay none is held. Errors as in `flush`.
        """
        carried = CarriedTasks(self._parts, self._scheduler, rename, is_allowed=self.mode is Mode.WRITE_BACK)
        try:
            with self._changed:
                for folder in (rename.source, rename.target):
                    self._let_go(self._writer.held.timed(folder))
                    self._writer.drop_taken_back(self._writer.held.taken_back(folder))
                self._let_go_of([rename.new_marker])
                carried.hold()
            yield carried
        finally:
            with self._changed:
                carried.release()
                self._changed.notify_all()

    def run_move(self, path: str, operation: Move | MoveFolder, moved: Callable[[Task], None]) -> None:
        """Execute a move, after all pending changes of its names, or raise its error.

        If the process dies the next one finishes it. `moved` is called with its task when it is carried out,
        before its record is dropped. The deletion of what it has `left` is tried again.
        """
        with self._changed:
            self._let_go_of(names_of(operation))
            # `attempt` releases the lock while it waits: the deletion that is left out may begin meanwhile.
            # Beside the record of the move the next process, which finishes moves first, would find that of
            # the deletion, and delete the moved object.
            while tasks := self._before(operation):
                self._scheduler.attempt(tasks, ahead=True)
            operation = self._outcomes.with_stored_versions(operation)
            deletion = self._queue.superseded_deletion(operation)
            task = self._queue.new_task(path, operation)
            task.limit = shared_limit()
            task.done = lambda outcome: None if isinstance(outcome, Exception) else moved(task)
            self._writer.begin_move(task, deletion)
            try:
                self._scheduler.attempt([task], ahead=True)
            except (SwiftfsError, OSError) as error:
                # It may still wait for the failed task: a refused move must not be executed later.
                self._outcomes.cancel(task, error)
                raise

    def _before(self, operation: Move | MoveFolder) -> list[Task]:
        """Return the changes to execute before a move. Lock held.

        The pending deletion of the target is left out: the COPY replaces that object anyway, so its DELETE
        would cost a request and, if it came late, take the moved object.
        """
        deletion = self._queue.superseded_deletion(operation)
        tasks = (task for name in names_of(operation) for task in self._queue.chain(name))
        return [task for task in tasks if task is not deletion]

    def watch(self, name: ObjectName, done: Done) -> None:
        """Call `done` when the object that a move left at `name` is deleted, or its deletion is given up."""
        with self._changed:
            task = self._queue.tail(name)
            if task is not None and isinstance(task.operation, Delete) and task.operation.is_conditional:
                task.done = done
                return
        done(None)

    def run_unjournaled(self, operation: Operation) -> ObjectInfo | None:
        """Execute an operation that needs no journal; return the stored object, if any. Raise its error."""
        return self._executor.run(operation)

    def flush(self, names: Collection[ObjectName]) -> None:
        """Execute pending changes of `names` now, for good; raise the error of a failed one, which stays."""
        with self._changed:
            self._let_go_of(names)
            self._scheduler.attempt([task for name in names for task in self._queue.chain(name)])
            may_be_hidden = self._queue.has_folder_made_again(names)
        if may_be_hidden:
            self._db.sync()
        self._db.make_final()

    def withdraw(self, name: ObjectName, error: Failure) -> None:
        """Drop the last operation about `name`, which failed and whose caller got `error`.

        An operation with a change that another call was promised stays, and is tried again or blocked.
        """
        with self._changed:
            task = self._queue.tail(name)
            # A running task is not dropped: Swift may carry it out, so its record must stay until the answer.
            if task is None or task.running or task.promised:
                return
            # After a power cut it must not be tried again: its caller knows that it failed.
            self._writer.drop(task, task.executed())
            self._changed.notify_all()
        task.notify(error)

    def is_promised(self, name: ObjectName) -> bool:
        """Return whether the last change of `name` is promised, so that no failure of a call drops it."""
        with self._changed:
            task = self._queue.tail(name)
            return task is not None and task.promised

    def flush_below(self, folder: Folder) -> None:
        """Execute pending changes below `folder` now; errors as in `flush`."""
        with self._changed:
            self._let_go(self._writer.held.timed(folder))
            self._scheduler.attempt(self._queue.below(folder))
        self._db.make_final()

    def flush_all(self) -> None:
        """Begin to execute all waiting and blocked tasks; `report` shows the progress."""
        with self._changed:
            self._let_go(self._writer.held.timed())
            self._outcomes.refusals.forget_shown()
            self._is_flushing = True
            self._scheduler.flush_all()

    def retry(self) -> None:
        """Begin to execute blocked and failed tasks."""
        with self._changed:
            self._queue.run_all_now(failed=True)
            self._changed.notify_all()

    def acquire_pending(self, name: ObjectName) -> CachedFile | None:
        """Return the pending file of `name`, for the caller to release, or None."""
        with self._changed:
            # The newest one, for a file that was deleted and made again has two.
            for task in reversed(self._queue.chain(name)):
                if isinstance(newest := task.newest, PutFile):
                    return self._cache.acquire_pending(newest.file)
        return None

    def body(self, name: ObjectName) -> bytes | None:
        """Return the body of a pending small object of `name`, or None."""
        with self._changed:
            operation = tail.operation if (tail := self._queue.tail(name)) is not None else None
        return operation.body if isinstance(operation, PutSpecial) else None

    def failure(self, name: ObjectName) -> Failure | None:
        """Return why an operation about `name` is blocked, once for each failure; None afterwards."""
        with self._changed:
            for task in self._queue.chain(name):
                if task.blocked and task.error is not None and not task.reported:
                    task.reported = True
                    return task.error
        return None

    def waiting(self) -> list[QueuedChange]:
        """Return the operations that are not executed yet."""
        with self._changed:
            return [describe(task) for task in sorted(self._all(), key=lambda one: one.seq)]

    def report(self) -> QueueReport:
        """Return the counts of the operations that are not executed yet, and the first of them."""
        late = self.late.counts()
        with self._changed:
            refusals = self._outcomes.refusals
            found = report(self._all(), refusals, away=self._queue.is_away, sent=self._sent)
            if self._is_flushing and not found.flushing:
                refusals.show()
                self._is_flushing = False
        return replace(found, watched=late.watched, put_right=late.put_right, overwritten=late.overwritten)

    def refused(self) -> list[QueuedChange]:
        """Return the changes that were given up and not reported yet."""
        with self._changed:
            unreported = [one for one in self._outcomes.refusals.kept() if not one.shown]
            return [describe(one.task, state="refused") for one in unreported]

    def raise_refusal(self, at: ObjectName | Folder) -> None:
        """Raise the error of a change of a name, or below a folder, that was given up, once."""
        with self._changed:
            error = self._outcomes.refusals.take(at)
        if error is not None:
            raise error

    def needs_older(self, cached_file: CachedFile) -> bool:
        """Return whether a power cut would bring back an older state of a file."""
        return self._db.needs_older(cached_file.file_name)

    def sync(self) -> None:
        """Sync the records, and the files that they name, to the disk; raise `OSError` if it refuses."""
        self._cache.save_index()
        self._db.sync()
        with self._changed:
            self._writer.pin_older()

    def begin_closing(self) -> None:
        """Let the changes of files that are still open be handed in wherever the cache folder is now."""
        self._db.begin_closing()

    def close(self, seconds: float, progress: Callable[[int], None]) -> list[QueuedChange]:
        """Execute pending operations for at most `seconds`, and end the threads; return the rest.

        `progress` is called with the number of pending operations. What runs when the time is up must end
        by itself: the caller closes the store then.
        """
        deadline = monotonic() + seconds
        self.late.stop()
        with self._changed:
            # What is handed in from now on must not get the write delay: nothing makes it due earlier.
            self._writer.begin_closing()
            self._let_go(self._writer.held.timed())
            self._queue.run_all_now()
            self._changed.notify_all()
        while (left := self._wait_for_fewer(deadline)) and monotonic() < deadline:
            progress(left)
        # Before the workers end: they delete the segments of files that no state needs any more.
        with suppress(OSError):
            self.sync()
        # In this order each still has what it uses: the scheduler submits to the workers, these use the
        # executor's threads, and all of them write to the database.
        self._scheduler.stop()
        if not left:  # else the next mount does it
            self._executor.removal.end_rests(at_once=True)
        self._backlog.stop()
        self._executor.close()
        self._backlog.stop_upkeep()
        self.late.join()  # its thread uses the database
        # When no request runs any more: what was lost during the drain is for the next mount to check.
        self.late.save()
        with suppress(OSError):  # the next mount takes all for ambiguous
            with self._changed:
                ambiguous = [task.seq for task in self._all() if task.ambiguous or task.running]
            self._db.record_end(ambiguous)
        self._db.close()
        return self.waiting()

    def _wait_for_fewer(self, deadline: float) -> int:
        """Wait a moment, or until no task can be executed; return how many can."""
        seconds = max(0.0, min(PROGRESS_SECONDS, deadline - monotonic()))
        with self._changed:
            self._changed.wait_for(lambda: not self._queue.runnable(), seconds)
            return self._queue.runnable()

    def _all(self) -> list[Task | SleepingTask]:
        """Return what is not executed yet, without the deletions of files that are open. Lock held."""
        return [*self._queue.awake(), *self._queue.asleep(), *self._writer.held.timed()]

    def _let_go_of(self, names: Collection[ObjectName]) -> None:
        """Let go the held deletions of `names`, except those that wait for a last close. Lock held."""
        self._let_go(self._writer.held.timed(names))

    def _let_go(self, held: Iterable[Task]) -> None:
        for task in held:
            self._writer.let_go(task)
