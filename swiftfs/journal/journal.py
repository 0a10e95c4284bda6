"""The journal: takes changes from the layers above, records them, and sends them to Swift.

An operation is on the disk when `submit` returns, and is executed after a settling delay, in which it may be
merged with others. `flush` executes it at once.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace

from swiftfs.concurrency import monotonic
from swiftfs.errors import SwiftfsError
from swiftfs.filecache.cache import FileCache
from swiftfs.filecache.cached_file import CachedFile
from swiftfs.journal.backlog import Backlog
from swiftfs.journal.database import JournalDB, Record
from swiftfs.journal.executor import Executor
from swiftfs.journal.late_requests import LateCounts, LateRequests, Watch
from swiftfs.journal.merging import coalesce
from swiftfs.journal.move_results import ShowMoved
from swiftfs.journal.operations import (
    ANY_VERSION,
    Delete,
    Move,
    MoveFolder,
    Operation,
    PutFile,
    PutSpecial,
    names_of,
)
from swiftfs.journal.outcomes import Outcomes
from swiftfs.journal.parts import JournalParts
from swiftfs.journal.queue_report import QueuedChange, QueueReport
from swiftfs.journal.recovery import Recovery
from swiftfs.journal.report import describe, report
from swiftfs.journal.scheduler import Scheduler
from swiftfs.journal.task_writer import RecordRename, TaskWriter
from swiftfs.journal.tasks import Done, Failure, MakeDone, Mode, Task, nobody_waits
from swiftfs.objects import ObjectName
from swiftfs.paths import Folder

PROGRESS_SECONDS = 0.2


class Journal:
    """The operations of one mount, which `db` keeps on the disk.

    In `Mode.WRITE_BACK` a change is executed `settle_seconds` after it was handed in; in `Mode.SYNC` as soon
    as possible, and the caller flushes it. The lock guards the queue; it comes after those of open
    files, and before those of the namespace, of cached files and of the database. `sent` returns how many
    bytes of a task's file need not be sent any more. The objects of `watch` are checked again after a request
    was lost.
    """

    def __init__(
        self,
        executor: Executor,
        cache: FileCache,
        db: JournalDB,
        backlog: Backlog,
        *,
        mode: Mode,
        settle_seconds: float,
        sent: Callable[[Task], int],
        watch: Watch | None = None,
    ) -> None:
        self.mode = mode
        self._executor = executor
        self._cache = cache
        self._db = db
        self._sent = sent
        self._backlog = backlog
        self._queue = backlog.queue
        self._changed = backlog.changed
        self._writer = TaskWriter(self._queue, db, cache, settle_seconds if mode is Mode.WRITE_BACK else 0.0)
        self._late = LateRequests(watch, cache, db, self._put_right, self.is_idle) if watch else None
        self._parts = JournalParts(backlog, self._writer, db, cache, executor, self._late)
        self._outcomes = Outcomes(self._parts, mode)
        self._scheduler = Scheduler(self._parts, self._outcomes)
        self._is_flushing = False

    def recover(self, records: Iterable[Record], make_done: MakeDone, show_moved: ShowMoved) -> None:
        """Take up what an earlier process left, then start. A move that it had begun is finished first."""
        records = list(records)
        # In this order: what the dead process may have sent must be known as lost before the recovery sends
        # any request of its own, and is looked for only when its moves are finished. The other way round an
        # object that a finished move took away would count as lost, and be stored at its old name again.
        if self._late is not None:
            self._late.load([record.operation for record in records])
        abandoned = Recovery(self._parts, self._outcomes.refusals, make_done, show_moved).run(records)
        if self._late is not None:
            self._late.begin(make_done)
        # Not before the queue is complete: a task must not overtake one whose record was not read yet.
        self._scheduler.start()
        self._backlog.upkeep.start(abandoned)

    def submit(
        self, path: str, operation: Operation, done: Done = nobody_waits, *, at_least: float = 0.0
    ) -> bool:
        """Record an operation about `path`, to be executed after `at_least` so many seconds.

        Return False if nothing is left to do: `done` will not be called. Raise `OSError` if the disk refuses
        the record; nothing is changed then.
        """
        with self._changed:
            # A second record of the same local file could contradict the first after a crash: see
            # docs/decisions/one-record-a-file.md.
            if isinstance(operation, PutFile) and (holder := self._writer.holder_of(operation)) is not None:
                self._writer.keep_newer(holder, path, operation, done, at_least)
                self._changed.notify_all()
                return True
            tail = self._queue.tail(names_of(operation)[0])
            # Only a task that does not run can be changed: of a running one nobody knows what is sent
            # already.
            merged = None if tail is None or tail.running else coalesce(tail.operation, operation)
            if tail is None or merged is None:
                self._writer.new(path, operation, done, at_least)
            elif merged:
                self._writer.change(tail, path, merged[0], done, at_least)
            else:
                self._writer.drop(tail)
            self._changed.notify_all()
            return merged != ()

    def hold(self, path: str, deletion: Delete) -> int:
        """Record a deletion that waits for the last close of `path`, and return its number.

        Raise `OSError` if the disk refuses it. This mount executes it after `let_go`; the next one always
        executes it, because the file is not open any more.
        """
        with self._changed:
            # A record without a task: while the file is open this process must not execute the deletion,
            # because missing bytes of the file are still downloaded from the object.
            seq = self._queue.next_seq()
            self._db.commit([Record(seq, path, deletion)])
            return seq

    def let_go(self, held: int, path: str, deletion: Delete, done: Done) -> None:
        """Submit a held deletion; errors as in `submit`, which leave no record of it.

        INVARIANT: the record of the held deletion is gone before any new operation about the name is
        recorded.
        """
        with self._changed:
            # The new record first: a process that dies between the two commits leaves two deletions, which
            # does no harm. In the other order it would leave none, and the file would come back.
            try:
                self.submit(path, deletion, done)
            finally:
                self._db.finish([held])

    @property
    def late(self) -> LateRequests | None:
        """The watcher of late requests, None if nothing is watched."""
        return self._late

    def is_idle(self, name: ObjectName) -> bool:
        """Return whether no change of `name` waits or runs."""
        with self._changed:
            return not self._queue.chain(name)

    def _put_right(self, path: str, operation: Operation, done: Done, holds: Callable[[], bool]) -> bool:
        # One acquisition for the check and the submission: a change that came between them is newer than what
        # the repair would store.
        with self._changed:
            if not all(map(self.is_idle, names_of(operation))) or not holds():
                return False
            return self.submit(path, operation, done)

    def rename(
        self,
        source: ObjectName,
        target: ObjectName,
        path: str,
        record: RecordRename,
        *,
        replaces_large: bool | None,
        replaces_etag: str | None,
        creates: bool,
    ) -> bool:
        """Store the pending file `source` as `target`, which is `path`; return False if that is impossible.

        `record` is called with the lock held. Pending changes of `target` are not stored any more; the other
        arguments describe Swift's object there, as in `PutFile`.
        """
        with self._changed:
            chain = self._queue.chain(source)
            # An object of the old name may be in Swift, or come to be there, if a request was sent already. A
            # new name in the record would leave it behind: the caller moves it instead.
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
            (stored,) = merged or (moved,)
            assert isinstance(stored, PutFile | PutSpecial)
            self._writer.rename(task, tail if merged else None, stored, path, record)
            self._changed.notify_all()
            return True

    def run_move(self, path: str, operation: Move | MoveFolder, moved: Callable[[Task], None]) -> None:
        """Execute a move, after all pending changes of its names, or raise its error.

        If the process dies the next one finishes it. `moved` is called with its task when it is carried out,
        before its record is dropped. The deletion of what it has `left` is tried again.
        """
        with self._changed:
            tasks = [task for name in names_of(operation) for task in self._queue.chain(name)]
            # The pending deletion of the target is left out: the COPY replaces that object anyway, so its
            # DELETE would cost a request and, if it came late, take the moved object.
            deletion = self._superseded_deletion(operation)
            self._scheduler.attempt([task for task in tasks if task is not deletion])
            operation = self._outcomes.with_stored_target(operation)
            # `attempt` has released the lock while it waited.
            if deletion is not self._superseded_deletion(operation):
                deletion = None  # it was executed meanwhile
            now = monotonic()
            task = Task(self._queue.next_seq(), path, operation, nobody_waits, now, now)
            task.done = lambda outcome: None if isinstance(outcome, Exception) else moved(task)
            if (
                deletion is not None
                and isinstance(deletion.operation, Delete)
                and isinstance(operation, Move)
            ):
                # Nothing protects the object that was to be deleted: whatever version is there is replaced,
                # and its segments are deleted, as the deletion would have done.
                task.operation = replace(
                    operation, replaces_large=deletion.operation.is_slo, replaces_etag=ANY_VERSION
                )
                self._writer.override(task, deletion)
            else:
                self._db.commit([task.record()])
                self._writer.add(task)
            try:
                self._scheduler.attempt([task])
            except (SwiftfsError, OSError) as error:
                # It may still wait for the failed task: a refused move must not be executed later.
                self._outcomes.cancel(task, error)
                raise

    def watch(self, name: ObjectName, done: Done) -> None:
        """Call `done` when the object that a move left at `name` is deleted, or its deletion is given up."""
        with self._changed:
            task = self._queue.tail(name)
            if task is not None and isinstance(task.operation, Delete) and task.operation.moved:
                task.done = done
                return
        done(None)

    def run_unjournaled(self, operation: Operation) -> None:
        """Execute an operation of one request, which needs no journal; raise its error."""
        self._executor.run(operation)

    def flush(self, names: Collection[ObjectName]) -> None:
        """Execute pending changes of `names` now; raise the error of a failed one, which stays pending."""
        with self._changed:
            self._scheduler.attempt([task for name in names for task in self._queue.chain(name)])

    def withdraw(self, name: ObjectName, error: Failure) -> None:
        """Drop the last operation about `name`, which failed and whose caller got `error`.

        An operation with a change that another call was promised stays, and is tried again or blocked.
        """
        with self._changed:
            task = self._queue.tail(name)
            # A running task is not dropped: Swift may carry it out, so its record must stay until the answer.
            if task is None or task.running or task.promised:
                return
            self._writer.drop(task)
            self._changed.notify_all()
        task.notify(error)

    def is_promised(self, name: ObjectName) -> bool:
        """Return whether a change of `name` waits that no failure of a call drops."""
        with self._changed:
            task = self._queue.tail(name)
            return task is not None and task.promised

    def flush_below(self, folder: Folder) -> None:
        """Execute pending changes below `folder` now; errors as in `flush`."""
        with self._changed:
            self._scheduler.attempt(self._queue.below(folder))

    def flush_all(self) -> None:
        """Begin to execute all waiting and blocked tasks; `report` shows the progress."""
        with self._changed:
            self._outcomes.refusals.forget_shown()
            self._is_flushing = True
            self._scheduler.flush_all(self._queue.tasks())

    def retry(self) -> None:
        """Begin to execute blocked and failed tasks."""
        with self._changed:
            for task in self._queue.tasks():
                if task.error is not None:
                    self._queue.run_now(task)
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
            tail = self._queue.tail(name)
            return (
                tail.operation.body if tail is not None and isinstance(tail.operation, PutSpecial) else None
            )

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
            return [describe(task) for task in self._queue.tasks()]

    def report(self) -> QueueReport:
        """Return the counts of the operations that are not executed yet, and the first of them."""
        late = self._late.counts() if self._late is not None else LateCounts()
        with self._changed:
            refusals = self._outcomes.refusals
            found = report(self._queue.tasks(), refusals, away=self._queue.is_away, sent=self._sent)
            if self._is_flushing and not found.flushing:
                refusals.show()
                self._is_flushing = False
        return replace(found, watched=late.watched, put_right=late.put_right, overwritten=late.overwritten)

    def refused(self) -> list[QueuedChange]:
        """Return the changes that were given up and not reported yet."""
        with self._changed:
            unreported = [one for one in self._outcomes.refusals.kept() if not one.shown]
            return [describe(one.task, state="refused") for one in unreported]

    def raise_refusal(self, name: ObjectName) -> None:
        """Raise the error of a change of `name` that was given up, once."""
        with self._changed:
            error = self._outcomes.refusals.take(name)
        if error is not None:
            raise error

    def raise_refusal_below(self, folder: Folder) -> None:
        """Raise the error of a change below `folder` that was given up, once."""
        with self._changed:
            error = self._outcomes.refusals.take_below(folder)
        if error is not None:
            raise error

    def close(
        self, seconds: float, progress: Callable[[int], None], give_up: Callable[[], None]
    ) -> list[QueuedChange]:
        """Execute pending operations for at most `seconds`, and end the threads; return the rest.

        `progress` is called with the number of pending operations, and `give_up` when the time is up:
        it ends the store's retries.
        """
        deadline = monotonic() + seconds
        if self._late is not None:
            self._late.stop()
        with self._changed:
            # What is handed in from now on must not get the write delay: nothing makes it due earlier.
            self._writer.begin_closing()
            for task in self._queue.tasks():
                self._queue.run_now(task)
            self._changed.notify_all()
        while (left := self._wait_for_fewer(deadline)) and monotonic() < deadline:
            progress(left)
        if left:
            # The running requests end, and none is repeated: otherwise the threads below could take until the
            # end of the store's retries.
            give_up()
        # In this order each still has what it uses: the scheduler submits to the workers, these use the
        # executor's threads, and all of them write to the database.
        self._scheduler.stop()
        self._backlog.stop()
        self._executor.close()
        self._backlog.upkeep.stop()
        if self._late is not None:
            # When no request runs any more: what was lost during the drain is for the next mount to check.
            self._late.save()
        self._db.close()
        return self.waiting()

    def _wait_for_fewer(self, deadline: float) -> int:
        """Wait a moment, or until no task can be executed; return how many can."""
        seconds = max(0.0, min(PROGRESS_SECONDS, deadline - monotonic()))
        with self._changed:
            self._changed.wait_for(lambda: all(task.is_stuck for task in self._queue.tasks()), seconds)
            return sum(not task.is_stuck for task in self._queue.tasks())

    def _superseded_deletion(self, operation: Move | MoveFolder) -> Task | None:
        """Return the pending deletion of a move's target, which the move replaces."""
        tail = self._queue.tail(operation.target) if isinstance(operation, Move) else None
        return tail if tail and not tail.running and isinstance(tail.operation, Delete) else None
