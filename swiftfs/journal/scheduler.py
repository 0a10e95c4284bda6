"""The scheduler: one thread takes the tasks that are due, workers execute them, several end together."""

import math
from collections.abc import Collection, Sequence
from functools import partial

from msgspec.structs import replace

from swiftfs.concurrency import monotonic, new_thread
from swiftfs.errors import SwiftfsError
from swiftfs.filecache.cached_file import CachedFile
from swiftfs.journal.backlog import AWAITED
from swiftfs.journal.moves import PlannedMove, Remnant, etag_of
from swiftfs.journal.operations import Delete, Move, MoveFolder, MoveObject, PutFile, names_of
from swiftfs.journal.outcomes import JournalParts, Outcomes, is_temporary, remnant_tasks
from swiftfs.journal.task_queue import AHEAD, ALONE, AMONG_OTHERS
from swiftfs.journal.tasks import Failure, Flush, StoredFiles, Success, Task
from swiftfs.objects import ObjectInfo, ObjectName
from swiftfs.store.retry import sharing
from swiftfs.store.server_state import MOST

MOVES = 250
"""Objects of a folder's rename that are moved together: one request lists or deletes them."""

LEAST_WAIT = 0.02
"""Seconds between two looks for tasks that have become due by themselves. Workers that end a task take some
meanwhile, so that this thread need not wake up, and wake a worker, for each of many small files."""

MOST_SENT = 20
"""Texts recorded of the versions that attempts to store a file have sent; the latest are kept."""

BATCH = 1000
"""Deletions sent together: a server answers a bulk delete of this size before its clients time out."""


class Scheduler:
    """Executes the tasks of a backlog, as many at once as may run.

    `changed` is the journal's lock, which guards the queue and every field. It is notified when a task may
    run earlier than at `_looks_at`, when the thread looks by itself, and of the end of each task while
    others wait for one (`_waits`). `outcomes` ends the attempts.
    """

    def __init__(self, parts: JournalParts, outcomes: Outcomes) -> None:
        backlog = parts.backlog
        self._queue = backlog.queue
        self._changed = backlog.changed
        self._db = parts.db
        self._writer = parts.writer
        self._cache = parts.cache
        self._executor = parts.executor
        self._late = parts.late
        self._outcomes = outcomes
        self._backlog = backlog
        self._thread = new_thread(self._run, "scheduler")
        self._stored = StoredFiles()
        self._stopping = False
        self._looks_at = -math.inf
        self._waits = list[Flush]()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Begin no more tasks, and end the thread; the running tasks continue."""
        with self._changed:
            self._stopping = True
            self._stored.hasten()
            stored = self._stored.take_due()
            self._changed.notify_all()
        self._end_stored(stored)
        if self._thread.ident is not None:
            self._thread.join()

    def flush_all(self) -> None:
        """Begin to execute all tasks that do not run; a report shows the progress. Lock held."""
        self._queue.is_away = False  # only later answers count
        self._queue.flush_all()
        self._changed.notify_all()

    def attempt(self, tasks: Collection[Task], *, ahead: bool = False) -> None:
        """Execute tasks and their blockers now; return when all have ended. Lock held.

        Those that go `ahead` wait for nobody else's: there may be many that the server does not answer.
        If a file is handed in again meanwhile, only its earlier hand-ins count. Raise the error of the
        first one that fails, at once; it is tried again later, as are the others then.
        """
        flush = Flush(tasks, self._queue.failures)
        due = AHEAD if ahead else ALONE if len(tasks) == 1 else AMONG_OTHERS
        for task in flush.wanted:
            task.awaited_hand_in = task.hand_ins
            self._queue.run_now(task, due)
        self._stored.hasten()
        self._changed.notify_all()
        self._waits.append(flush)
        try:
            self._changed.wait_for(lambda: self._stopping or flush.is_settled(self._queue.failures))
        finally:
            self._waits.remove(flush)
        if (failed := flush.failed()) is not None:
            self._put_off(flush.wanted)
            # The caller learns it from this exception: `status`, `flush` and the unmount must not report it
            # again.
            self._outcomes.refusals.forget(failed)
            error = failed.error or failed.failure
            assert error is not None
            raise error
        if not flush.is_done():
            raise SwiftfsError("the mount is ending")

    def _put_off(self, tasks: Collection[Task]) -> None:
        """Let tasks run after those of others: the wait for them has ended with an error. Lock held."""
        awaited = {task for flush in self._waits for task in flush.wanted}
        for task in tasks:
            if task.awaited_hand_in and not task.ended and task not in awaited:
                task.awaited_hand_in = 0
                if not task.running:
                    self._queue.schedule(task, monotonic(), task.error)

    def _is_full(self) -> bool:
        """Return whether no more tasks may run now. Lock held."""
        queue, backlog = self._queue, self._backlog
        most = min(backlog.limit.now, backlog.parallel)
        if (urgency := queue.next_urgency()) is None:
            # While the server does not answer one task finds out when it does again. Otherwise every worker
            # would wait for the whole of its timeout, over and over, and log it.
            return len(queue.under_way) >= (1 if queue.is_away else most)
        if len(queue.under_way) >= MOST + AWAITED:
            return True  # in the queue of the pool a task would not be the next one any more
        if urgency == AHEAD:
            return False
        # Whoever waits for it waits for no other object, which the server may not serve: an attempt takes as
        # long as a call may.
        kept = min(AWAITED, backlog.parallel // 4)
        together = min(max(most, AWAITED), backlog.parallel - kept)
        return queue.awaited_under_way() >= together + (kept if urgency == ALONE else 0)

    def look(self) -> None:
        """Wake those who wait for a task, and the thread if a task may run before it looks itself. Lock held.

        To wake it for each file that a program closes takes CPU time, of which many small files need much.
        """
        self._queue.rest()
        # The change may have ended a task, or begun to: a deletion cancels what was not stored yet.
        if self._waits or min(self._next_due(), self._stored.due) < self._looks_at:
            self._changed.notify_all()

    def _next_due(self) -> float:
        """Return when the next task may run; infinite while all workers are busy: the end of one notifies."""
        return math.inf if self._is_full() else self._queue.next_due()

    def _run(self) -> None:
        while not self._stopping:
            batch, stored = self._next_batch()
            if batch:
                # No more batches are handed out than the pool has threads: a task that becomes urgent (fsync)
                # does not wait behind others in the pool's queue.
                self._backlog.workers.submit(self._work, batch)
            self._end_stored(stored)

    def _next_batch(self) -> tuple[list[Task], list[Success]]:
        """Wait for a task that may run, and return it with others for the same requests; or for stored files.

        Return nothing at the end.
        """
        with self._changed:
            while not self._stopping:
                self._queue.rest()
                for held in self._writer.held.due(monotonic()):
                    self._writer.let_go(held)
                batch, stored = self._begin_batch(), self._stored.take_due()
                if batch or stored:
                    return batch, stored
                self._looks_at = due = min(self._next_due(), self._writer.held.next_due(), self._stored.due)
                self._changed.wait(None if due == math.inf else max(LEAST_WAIT, due - monotonic()))
                self._looks_at = -math.inf
        return [], []

    def _begin_batch(self) -> list[Task]:
        """Begin an attempt of a task that may run now, and of others for the same requests. Lock held."""
        if self._stopping or self._is_full() or (task := self._queue.pop_due(monotonic())) is None:
            return []
        batch = [task]
        if isinstance(task.operation, Delete):
            batch += [one for one in self._queue.waiting_deletes(BATCH) if one is not task]
        elif isinstance(task.operation, MoveObject):
            batch = self._queue.waiting_moves(task, MOVES)
            self._queue.moving += 1
        # With the lock held: a task that has begun is not changed in place any more, so what is sent is what
        # its record says.
        commit = self._db.last_commit()
        for one in batch:
            one.begin(commit)
        self._queue.under_way.append(batch)
        return batch

    def _work(self, batch: list[Task]) -> None:
        """Execute a batch, and then what else may run: this thread is awake already."""
        while batch:
            with sharing(batch[0].limit, once=self._is_probe(batch)):
                stored = self._attempt(batch)
            batch, due = self._end_batch(batch, stored)
            self._end_stored(due)

    def _is_probe(self, batch: list[Task]) -> bool:
        """Return whether a batch only finds out if the server answers again: the next one is tried soon."""
        with self._changed:
            return self._queue.is_away and not any(task.is_awaited for task in batch)

    def _end_batch(self, batch: list[Task], stored: Success | None) -> tuple[list[Task], list[Success]]:
        """Record that a batch has ended, perhaps with a stored file; return the next one, and stored files.

        The tasks of those end now.
        """
        with self._changed:
            self._queue.under_way.remove(batch)
            if isinstance(batch[0].operation, MoveObject):
                self._queue.moving -= 1
            if stored is not None:
                self._stored.add(stored)
                if self._waits or self._stopping:
                    self._stored.hasten()
            due, following = self._stored.take_due(), self._begin_batch()
            self._look_after_end()
            return following, due

    def _attempt(self, batch: list[Task]) -> Success | None:
        """Execute a batch. None of its tasks runs when this returns, even after an error.

        That of a file that was stored, which is returned, ends soon.
        """
        try:
            if isinstance(batch[0].operation, Delete):
                self._delete(batch)
            else:
                # A lost COPY of a rename may be carried out after a new object is stored at its source. It
                # would copy the new bytes over the renamed file: what that file has is fetched while it still
                # has it.
                self._late.fetch_copies_of(name for task in batch for name in names_of(task.operation))
                if isinstance(batch[0].operation, PutFile):
                    return self._put_file(batch[0], batch[0].operation)
                if isinstance(batch[0].operation, MoveObject):
                    self._move_objects(batch)
                else:
                    self._run_one(batch[0])
        except Exception as error:  # noqa: BLE001  it is logged
            # A task that stayed `running` would never be picked again, and whoever waits for it would wait
            # for ever.
            self._outcomes.abort(batch, error)
        return None

    def _delete(self, batch: list[Task]) -> None:
        deletions = [task.operation for task in batch if isinstance(task.operation, Delete)]
        try:
            self._db.sync_older([deletion.name for deletion in deletions])
            failures = self._executor.delete(deletions)
        except (SwiftfsError, OSError) as refused:
            for task in batch:
                self._outcomes.fail(task, refused)
            return
        for task, deletion in zip(batch, deletions, strict=True):
            # Each by itself: an unexpected error in one task must not leave the others of the batch running.
            try:
                if (error := failures.get(deletion.name)) is not None:
                    self._outcomes.fail(task, error)
                else:
                    self._outcomes.succeed(Success(task))
            except Exception as error:  # noqa: BLE001  it is logged
                self._outcomes.abort([task], error)

    def _put_file(self, task: Task, operation: PutFile) -> Success | None:
        # This thread keeps the file until the database has its current state. It may have been handed
        # in again and released since this attempt was chosen: only the newest record is valid.
        try:
            with self._changed:
                newest = task.newest
                assert isinstance(newest, PutFile)
                cached_file = self._cache.acquire_pending(newest.file)
                operation = self._outcomes.with_last_stored(operation)
        except OSError as error:
            self._outcomes.fail(task, error)
            return None
        info: ObjectInfo | None = None
        try:
            operation = self._prepare(task, operation, cached_file)
            # Without the journal's lock: a hand-in, which close(2) waits for, only needs that lock.
            info = self._executor.put_file(
                operation, cached_file, partial(self._record_sent, task), ambiguous=task.ambiguous
            )
        except (SwiftfsError, OSError) as error:
            # The manifest of a patch may have no answer, and the upload of the whole file after it a refusal.
            self._outcomes.fail(task, error, in_doubt=cached_file.uploads.record.is_unanswered)
        finally:
            if info is None:
                self._cache.release(cached_file)
        return Success(task, info, cached_file) if info is not None else None

    def _end_stored(self, due: Sequence[Success]) -> None:
        """End the tasks of stored files in one commit."""
        if not due:
            return
        try:
            self._outcomes.succeed(*due)
        except Exception as error:  # noqa: BLE001  it is logged
            self._outcomes.abort([one.task for one in due], error)
        finally:
            for one in due:
                if one.cached_file is not None:
                    self._cache.release(one.cached_file)
        with self._changed:
            self._look_after_end()

    def _look_after_end(self) -> None:
        """Look for what may run because tasks have ended. Lock held."""
        if len(self._queue):
            self.look()
        else:
            self._changed.notify_all()  # the end of a mount waits for that

    def _prepare(self, task: Task, operation: PutFile, cached_file: CachedFile) -> PutFile:
        prepared = self._executor.prepare(operation, cached_file)
        if prepared is not operation:
            with self._changed:
                task.operation = prepared
                # The newer hand-in was recorded over the old base version, which this PUT replaces: its
                # record must name every byte as its own too, or its next attempt would download from a
                # version that is gone.
                if task.newer is not None:
                    newer = replace(task.newer.operation, file=cached_file.to_record())
                    task.newer = replace(task.newer, operation=newer)
                self._db.commit([task.record()])
        if prepared.file != operation.file:
            # A power cut must not bring the older record back: the bytes that it lacks are nowhere after the
            # PUT.
            self._db.sync()
        return prepared

    def _record_sent(self, task: Task, names: Collection[ObjectName], versions: Collection[str]) -> None:
        with self._changed:
            operation = task.operation
            assert isinstance(operation, PutFile)
            # In the record before the request that supersedes them: no manifest names them any more after it,
            # so a process that dies then leaves no other trace of them.
            superseded = tuple(sorted({*operation.superseded_segments, *names}))
            sent = (*operation.sent, *versions)[-MOST_SENT:]
            task.operation = replace(operation, superseded_segments=superseded, sent=sent)
            self._db.commit([task.record()])

    def _run_one(self, task: Task) -> None:
        try:
            info = None
            if isinstance(task.operation, Move | MoveFolder):
                self._move(task, task.operation)
            else:
                info = self._executor.run(task.operation, ambiguous=task.ambiguous)
        except (SwiftfsError, OSError) as error:
            self._outcomes.fail(task, error)
        else:
            self._outcomes.succeed(Success(task, info))

    def _move(self, task: Task, operation: Move | MoveFolder) -> None:
        """Carry out a move; objects that it cannot delete are recorded as deletions before it ends."""

        def record(changed: MoveFolder) -> None:
            with self._changed:
                task.operation = changed
                self._db.commit([task.record()])
            self._db.make_final()

        # What was synced of these names must not be carried out after the move.
        self._db.make_final()
        moved = self._executor.move(operation, record, self._late)
        task.rows = moved.rows
        if moved.later and isinstance(operation, MoveFolder):
            self._hand_on(task, operation, moved.later)
        else:
            self._keep_remnants(task, operation, moved.remnants)

    def _hand_on(self, task: Task, operation: MoveFolder, planned: Sequence[PlannedMove]) -> None:
        """Record the moves of a folder's objects; `CarriedTasks.rename` queues them with the rename."""
        with self._changed:
            task.later = tuple(self._queue.new_task(path, one, promised=True) for path, one in planned)
            task.operation = replace(operation, is_handed_on=True, recent=(), deleted=())
            # One commit, after which the next process makes these moves, and not that of the folder.
            self._db.commit([task.record(), *(one.record() for one in task.later)])

    def _delete_instead(self, task: Task, operation: MoveObject, error: Failure) -> bool:
        """Delete an object that cannot be moved if its new name was deleted or overwritten; return whether.

        Otherwise it would appear at its old name again. `error` is why it was not moved.
        """
        with self._changed:
            for held in self._writer.held.timed([operation.target]):
                self._writer.let_go(held)
            if not self._queue.is_replaced(operation.target, task):
                return False
            row = operation.row
            # A listing that lags shows the time of an earlier PUT of this mount.
            modified = "" if operation.is_recent else row.last_modified
            deletion = Delete(operation.source, None, etag_of(row), waited=True, modified=modified)
            left = self._queue.new_task(task.path, deletion, due=0.0, promised=True)
            behind = self._queue.next_after(operation.target, task)
            is_stored_later = behind is not None and not isinstance(behind.operation, Delete)
            # Until then it is all that Swift has of the file; a power cut may take the new state.
            self._add_remnants(task, operation, [left], after=behind if is_stored_later else None)
        self._outcomes.delete_instead(task, operation.target, error, etag_of(row))
        return True

    def _keep_remnants(
        self, task: Task, operation: Move | MoveObject | MoveFolder, remnants: Collection[Remnant]
    ) -> None:
        with self._changed:
            tasks = remnant_tasks(self._queue, task.path, operation, remnants)
            self._add_remnants(task, operation, tasks)
        if tasks:  # a power cut must not take their records, and leave the one that ends the move
            self._db.sync()

    def _add_remnants(
        self,
        task: Task,
        operation: Move | MoveObject | MoveFolder,
        tasks: Collection[Task],
        after: Task | None = None,
    ) -> None:
        """Add the deletions of what a move has left, which wait for `after`. Lock held.

        A flush that waits for the move reports them.
        """
        for left in tasks:
            left.flush_mark = 0 if task.flush_mark is not None else None
        if isinstance(operation, MoveObject):
            newer = self._queue.take_over(operation.source, task, tasks)
            if newer is not None:
                self._db.finish([newer.record()])
                return
        self._db.finish([left.record() for left in tasks])
        # Recorded before the record of the move is dropped: a process that dies between the two commits
        # leaves both, and the next one deletes twice. In the other order the old names would stay.
        for left in tasks:
            self._queue.add(left, after)
            task.left += names_of(left.operation)[:1]

    def _move_objects(self, batch: list[Task]) -> None:
        """Move objects whose folder was renamed already; each has its own outcome."""
        operations = {
            task.operation: task.ambiguous for task in batch if isinstance(task.operation, MoveObject)
        }
        try:
            self._db.make_final()  # as in `_move`; and the disk has what is about to be moved
            outcomes = self._executor.move_objects(operations, self._late)
        except (SwiftfsError, OSError) as refused:
            for task in batch:
                self._outcomes.fail(task, refused)
            return
        for task, operation in zip(batch, operations, strict=True):
            outcome = outcomes[operation.source]
            if isinstance(outcome.error, SwiftfsError | OSError):
                if is_temporary(outcome.error) or not self._delete_instead(task, operation, outcome.error):
                    self._outcomes.fail(task, outcome.error)
            elif outcome.error is not None:
                self._outcomes.abort([task], outcome.error)
            else:
                self._end_move(task, operation, outcome.left)

    def _end_move(self, task: Task, operation: MoveObject, left: Collection[Remnant]) -> None:
        try:
            self._keep_remnants(task, operation, left)
        except OSError as refused:
            self._outcomes.fail(task, refused)
        else:
            self._outcomes.succeed(Success(task))
