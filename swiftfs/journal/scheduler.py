"""Who executes the intents, and when: threads that take what is due, and try again what failed."""

import errno
import logging
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import replace

from cachetools import LRUCache

from swiftfs.concurrency import Condition, monotonic, new_pool, new_thread
from swiftfs.errors import AlreadyExists, ChangedDuringUpload, SwiftfsError, Unavailable
from swiftfs.filecache.cache import FileCache
from swiftfs.filecache.cached_file import CachedFile
from swiftfs.journal.database import JournalDB
from swiftfs.journal.executor import Executor
from swiftfs.journal.late_requests import LateRequests
from swiftfs.journal.merging import attempted, coalesce
from swiftfs.journal.object_moves import Remnant
from swiftfs.journal.operations import (
    Delete,
    Move,
    MoveFolder,
    PutFile,
    PutMarker,
    PutSpecial,
    ReplaceHeaders,
    SetAttributes,
    names_of,
)
from swiftfs.journal.refusals import Refusals, complaint
from swiftfs.journal.tasks import Failure, Task, TaskQueue
from swiftfs.objects import ObjectInfo, ObjectName
from swiftfs.paths import path_below

log = logging.getLogger(__name__)

BATCH = 1000
"""Deletions sent together: a server answers a bulk-delete of so many within its clients' patience."""

STORED = 10_000
"""Objects of which the ETag that was stored last is remembered."""

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0
"""Seconds between two attempts of an intent, doubled each time, after the store's own patience has ended."""


class Unforeseen(SwiftfsError):
    """A fault of this program ended an attempt: what was to be done waits, and says so."""


class Scheduler:
    """Executes the tasks of a queue, at most `parallel` at once, and one while the server is away.

    `changed` is the journal's lock, which guards the queue and every field, and tells of every change.
    `parked_level` is that of the log's lines about what is parked; where everybody waits they are told.
    """

    def __init__(
        self,
        queue: TaskQueue,
        changed: Condition,
        log_: JournalDB,
        contents: FileCache,
        execution: Executor,
        parallel: int,
        late: LateRequests | None = None,
    ) -> None:
        self._late = late
        self._queue = queue
        self._changed = changed
        self._log = log_
        self._contents = contents
        self._executor = execution
        self._parallel = parallel
        self._workers = new_pool("intent", parallel)
        self._thread = new_thread(self._run, "dispatch")
        self.parked_level = logging.WARNING
        self.refusals = Refusals()
        self._under_way = 0
        self._away = False
        self._stopping = False
        self._stored: LRUCache[ObjectName, str] = LRUCache(STORED)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Begin nothing any more, and return when what is under way has ended."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()
        self._workers.shutdown()

    def soon(self, job: Callable[[], None]) -> None:
        """Run a job that nobody waits for."""
        self._workers.submit(job)

    def is_busy(self) -> bool:
        """Say whether the server takes what is under way, or is about to get something. Lock held."""
        return not self._away and (self._under_way > 0 or self._queue.next_due() is not None)

    @property
    def is_away(self) -> bool:
        """Say whether the server gave no answer last. Lock held."""
        return self._away

    def flush_all(self, tasks: Iterable[Task]) -> None:
        """Begin to execute tasks that are not being executed; a report tells how that goes. Lock held."""
        self._away = False  # that was long ago: only what the server answers from now on counts
        for task in tasks:
            task.flush_mark, task.asked_for = task.attempts, task.handed
            self._queue.run_now(task)
        self._changed.notify_all()

    def attempt(self, tasks: Collection[Task]) -> None:
        """Execute tasks now, and what they wait for; return when each has ended or failed. Lock held.

        Of a file that is handed in again meanwhile, what was handed in before this is enough. Raise why the
        first one failed, though it is tried again later.
        """
        wanted, asked = self._with_blockers(tasks), set(tasks)
        before = {task: task.attempts for task in wanted}
        hand_ins = {task: task.handed for task in wanted}
        for task in wanted:
            task.urgent = task.handed
            self._queue.run_now(task)
        self._changed.notify_all()

        def is_done(task: Task) -> bool:
            last = task.last()
            return last.has(hand_ins.setdefault(last, last.handed))

        def has_failed(task: Task) -> bool:
            last = task.last()
            if last.ended:
                return False
            if last.attempts > before.setdefault(last, last.attempts) and not last.running:
                return True
            return any(map(has_failed, last.blockers))

        def is_settled(task: Task) -> bool:
            return is_done(task) or has_failed(task)

        left = list(tasks)

        def all_are_settled() -> bool:
            """Look at one task after the other until it is settled: this is asked after every change."""
            while left and is_settled(left[-1]):
                left.pop()
            return not left and all(map(is_settled, tasks))

        self._changed.wait_for(lambda: self._stopping or all_are_settled())
        for task in wanted:
            last = task.last()
            told = last.ended or not is_done(task) if task in asked else not last.ended
            if last.error is not None and told:
                self.refusals.told(last)
                raise last.error
        if not all(map(is_done, tasks)):
            raise SwiftfsError("the mount ends")

    def cancel(self, task: Task, error: Failure) -> None:
        """Take back a task that does not run yet: whoever asked for it was told `error`. Lock held."""
        if not (task.ended or task.running):
            task.error = error
            self._end(task)
            self._changed.notify_all()

    def _with_blockers(self, tasks: Iterable[Task]) -> list[Task]:
        found: dict[Task, None] = {}
        pending = list(tasks)
        while pending:
            task = pending.pop()
            if task not in found and not task.ended:
                found[task] = None
                pending.extend(task.blockers)
        return list(found)

    def _run(self) -> None:
        while batch := self._next_batch():
            self._workers.submit(self._attempt, batch)

    def _next_batch(self) -> list[Task]:
        """Wait for what may run and return it; deletions go together, for one request serves them."""
        with self._changed:
            while not self._stopping:
                due = None
                if self._under_way < (1 if self._away else self._parallel):
                    now = monotonic()
                    if (task := self._queue.pop_due(now)) is not None:
                        batch = [task]
                        if isinstance(task.operation, Delete):
                            batch += [one for one in self._queue.waiting_deletes(BATCH) if one is not task]
                        for one in batch:
                            one.begin()
                        self._under_way += 1
                        return batch
                    due = self._queue.next_due()
                self._changed.wait(None if due is None else max(0.0, due - monotonic()))
        return []

    def _attempt(self, batch: list[Task]) -> None:
        """Execute a batch. Whatever happens, each of its tasks has ended or waits when this returns."""
        try:
            if isinstance(batch[0].operation, Delete):
                self._delete(batch)
            elif isinstance(batch[0].operation, PutFile):
                self._put_file(batch[0], batch[0].operation)
            else:
                self._run_one(batch[0])
        except Exception as error:  # noqa: BLE001  it is logged
            self._abort(batch, error)
        finally:
            with self._changed:
                self._under_way -= 1
                self._changed.notify_all()

    def _abort(self, tasks: Iterable[Task], error: Exception) -> None:
        """End the attempt of those tasks that still run after an unforeseen failure, each for itself."""
        for task in [task for task in tasks if task.running]:
            log.error("%s: an unforeseen failure", task.path, exc_info=error)
            failure = Unforeseen(f"an unforeseen {error!r}")
            try:
                self._fail(task, failure)
            except Exception:
                log.exception("%s: an unforeseen failure", task.path)
                with self._changed:
                    self._let_go(task, failure)

    def _let_go(self, task: Task, failure: Failure) -> None:
        """Park a task in memory alone, and a move ends: what else there is to do has failed. Lock held."""
        task.take_newer()
        task.running, task.attempts, task.error = False, task.attempts + 1, failure
        if task in self._queue and not isinstance(task.operation, Move | MoveFolder):
            task.blocked, task.urgent = True, 0
        else:
            task.ended = True
            self._queue.remove(task)

    def _delete(self, batch: list[Task]) -> None:
        deletions = [task.operation for task in batch if isinstance(task.operation, Delete)]
        failures = self._executor.delete_together(deletions)
        for task, deletion in zip(batch, deletions, strict=True):
            try:
                if (error := failures.get(deletion.name)) is not None:
                    self._fail(task, error)
                else:
                    self._succeed(task, None)
            except Exception as error:  # noqa: BLE001  it is logged
                self._abort([task], error)

    def _put_file(self, task: Task, intent: PutFile) -> None:
        # The content stays with this thread until the log knows what it is now. The file may have been handed
        # in again since this attempt was chosen, and let go: only the newest record says what it holds.
        try:
            with self._changed:
                newest = task.newest
                assert isinstance(newest, PutFile)
                content = self._contents.acquire_pending(newest.file)
        except OSError as error:
            self._fail(task, error)
            return
        try:
            intent = self._prepare(task, self._with_last_stored(intent), content)
            info = self._executor.put_file(
                intent, content, lambda names: self._record_superseded(task, names), again=task.ambiguous
            )
        except (SwiftfsError, OSError) as error:
            self._fail(task, error)
        else:
            self._succeed(task, info, content)
        finally:
            self._contents.release(content)

    def _with_last_stored(self, operation: PutFile) -> PutFile:
        """Return the operation so that it knows the version that this mount stored last under its name.

        Its close may have come between the answer to that upload and the moment when files know of it.
        """
        with self._changed:
            etag = self._stored.get(operation.name)
        if etag is None or etag in (operation.replaces_etag, *operation.sent):
            return operation
        return replace(operation, sent=(*operation.sent, etag))

    def _prepare(self, task: Task, intent: PutFile, content: CachedFile) -> PutFile:
        prepared = self._executor.prepare(intent, content)
        if prepared is not intent:
            with self._changed:
                task.operation = prepared
                if task.newer is not None:
                    newer = replace(task.newer.operation, file=content.to_record())
                    task.newer = replace(task.newer, operation=newer)
                self._log.commit([task.record()])
        return prepared

    def _record_superseded(self, task: Task, names: Collection[ObjectName]) -> None:
        with self._changed:
            assert isinstance(task.operation, PutFile)
            garbage = tuple(sorted({*task.operation.superseded_segments, *names}))
            task.operation = replace(task.operation, superseded_segments=garbage)
            self._log.commit([task.record()])

    def _run_one(self, task: Task) -> None:
        try:
            info = None
            if isinstance(task.operation, Move | MoveFolder):
                self._move(task, task.operation)
            else:
                info = self._executor.run(task.operation)
        except (SwiftfsError, OSError) as error:
            self._fail(task, error)
        else:
            self._succeed(task, info)

    def _move(self, task: Task, intent: Move | MoveFolder) -> None:
        """Carry out a move; what it cannot delete the log has as deletions before the move ends."""

        def note(whole: MoveFolder) -> None:
            with self._changed:
                task.operation = whole
                self._log.commit([task.record()])

        remnants = self._executor.move(intent, note)
        with self._changed:
            tasks = remnant_tasks(self._queue, task.path, intent, remnants)
            self._log.finish([], [left.record() for left in tasks])
            for left in tasks:
                self._queue.add(left)
                task.left.append(names_of(left.operation)[0])

    def _succeed(self, task: Task, info: ObjectInfo | None, content: CachedFile | None = None) -> None:
        if self._late is not None:
            self._late.save()  # what a lost request may undo is on the disk before anybody is told "stored"
        tell(task, info)  # before it ends, so that whoever waits for it sees what it did
        with self._changed:
            self._away = False
            task.error = None
            self.refusals.mended(task)
            if info is not None:
                self._stored[info.version.name] = info.version.etag
            followers = self._tell_followers(task, info)
            if task.newer is None or info is None or content is None or _replaced_by(followers):
                self._end(task, followers, content)
            else:
                self._go_on(task, info, content)
                self._finish([], [task, *followers], content)

    def _go_on(self, task: Task, info: ObjectInfo, content: CachedFile) -> None:
        """Let a task store the newer hand-in of its file next, over the version `info`. Lock held."""
        assert task.newer is not None
        assert isinstance(task.operation, PutFile)
        task.created, due = task.newer.created, task.newer.due
        task.operation = replace(
            task.operation,
            replaces_large=info.is_slo,
            replaces_etag=info.version.etag,
            creates=False,
            superseded_segments=(),
            sent=(),
        )
        task.take_newer()
        task.operation = replace(task.operation, file=content.to_record())
        task.stored, task.running, task.ambiguous, task.reported = task.begun, False, False, False
        if task.flush_mark is not None and task.asked_for <= task.stored:
            task.flush_mark = None
        if task.urgent <= task.stored:
            task.urgent = 0
        self._queue.schedule(task, 0.0 if task.urgent or task.flush_mark is not None else due)

    def _tell_followers(self, task: Task, info: ObjectInfo | None) -> list[Task]:
        """Let the intents behind this one about the same object know what it is now; return them."""
        if info is None:
            return []
        followers = [other for other in self._queue.chain(info.version.name) if other is not task]
        slo = info.version.etag if info.is_slo else None
        for other in followers:
            if isinstance(other.operation, PutFile):
                other.operation = replace(
                    other.operation,
                    replaces_large=info.is_slo,
                    replaces_etag=info.version.etag,
                    creates=False,
                )
            elif isinstance(other.operation, SetAttributes):
                stored = replace(other.operation.description.stored, slo=slo)
                description = replace(other.operation.description, stored=stored)
                other.operation = replace(other.operation, description=description, is_slo=info.is_slo)
        return followers

    def _end(self, task: Task, changed: Iterable[Task] = (), content: CachedFile | None = None) -> None:
        """Take a task out for good; what is held for it is let go. Lock held."""
        changed = list(changed)
        if task.overrides is not None and task.error is None:
            task.overrides.ended = True
        elif task.overrides is not None:
            self._queue.put_before(task.overrides, task)
            changed.append(task.overrides)
        self._finish([task.seq], changed, content)
        self._queue.remove(task)
        task.ended, task.running = True, False
        if isinstance(task.operation, PutFile):
            self._contents.unpin(task.operation.file.file)

    def _finish(self, drop: Iterable[int], changed: Iterable[Task], content: CachedFile | None) -> None:
        """Write down what is done and what has changed by that, in one step. Lock held."""
        records = [other.record() for other in changed]
        if content is not None and content.uploads is not None:
            with content.uploads.unreferenced() as standing:
                self._log.finish(drop, records, standing)
        else:
            self._log.finish(drop, records)

    def _fail(self, task: Task, error: Failure) -> None:
        again = _may_pass(error)
        if _is_final(task, error, again=again):
            self._give_up(task, error)
            return
        with self._changed:
            task.running, task.ambiguous = False, True
            task.operation = attempted(task.operation)
            task.take_newer()
            self._note_outage(error)
            if self._hand_over(task):
                return
            if isinstance(error, ChangedDuringUpload):
                if error.etag:
                    self._stored[names_of(task.operation)[0]] = error.etag
                pause = 0.0 if task.urgent else FIRST_PAUSE
                self._queue.schedule(task, monotonic() + pause)
                return
            task.attempts += 1
            task.error, task.blocked, task.urgent, task.reported = error, not again, 0, False
            if again:
                pause = min(FIRST_PAUSE * 2 ** (task.attempts - 1), LONGEST_PAUSE)
                self._queue.schedule(task, monotonic() + pause)
            else:
                log.log(self.parked_level, "%s waits until it can be stored: %s", task.path, error)
                with suppress(OSError):
                    self._log.commit([task.record()])

    def _give_up(self, task: Task, error: Failure) -> None:
        """End a task that Swift refuses for good; what was there before is there again."""
        if not isinstance(task.operation, Move | MoveFolder | PutMarker):
            # Where everybody waits for the change, whoever asked for it gets the error.
            level = self.parked_level if task.urgent else logging.WARNING
            log.log(level, "%s", complaint(task, error))
        tell(task, error)
        with self._changed:
            task.error = error
            self.refusals.add(task, error)
            self._end(task)

    def _hand_over(self, task: Task) -> bool:
        """Let what replaces a file that could not be stored do that too; return whether anything does.

        What the file was meanwhile nobody needs. Lock held.
        """
        followers = [other for other in self._queue.chain(names_of(task.operation)[0]) if other is not task]
        merged = coalesce(task.operation, followers[0].operation) if _replaced_by(followers) else None
        if not merged:
            return False
        newer = followers[0]
        newer.operation, newer.ambiguous = merged[0], True
        task.successor = newer
        self._end(task, [newer])
        if task.urgent:
            newer.urgent = newer.handed
            self._queue.schedule(newer, 0.0)
        return True

    def _note_outage(self, error: Failure) -> None:
        if isinstance(error, Unavailable) and not self._away:
            self._away = True
            log.info("changes wait for the server: %s", error)


def remnant_tasks(
    queue: TaskQueue, path: str, intent: Move | MoveFolder, remnants: Collection[Remnant]
) -> list[Task]:
    """Return the tasks that delete what the move of `path` could not, each about a path of its own."""
    tasks = []
    now = monotonic()
    for deletion, error in remnants:
        own = _path_of(deletion.name, path, intent)
        task = Task(queue.next_seq(), own, deletion, lambda _: None, now, now + FIRST_PAUSE, ambiguous=True)
        task.attempts, task.error, task.blocked = 1, error, not error.retryable
        log.warning("%s was moved, and stays here until Swift deletes it: %s", own, error)
        tasks.append(task)
    return tasks


def _path_of(name: ObjectName, path: str, intent: Move | MoveFolder) -> str:
    """Return the path of an object that moves with `path`; the key stands for it at the target."""
    if name == intent.source or (isinstance(intent, MoveFolder) and name in dict(intent.markers)):
        return path
    if isinstance(intent, MoveFolder) and f"{name}".startswith(f"{intent.container}/{intent.source}"):
        return path_below(path, name.key.removeprefix(intent.source))
    return f"/{name.key}"


def _is_final(task: Task, error: Failure, *, again: bool) -> bool:
    """Say whether a failed intent is given up: whoever asked for it is told, and nothing is lost."""
    if isinstance(task.operation, Move | MoveFolder):
        return True
    if isinstance(task.operation, Delete) and task.operation.moved:
        return False  # the move is done, and what it left behind stays told until it is gone
    if isinstance(task.operation, PutMarker):
        return isinstance(error, AlreadyExists)
    if isinstance(error, Unforeseen):
        return False
    return not again and isinstance(task.operation, Delete | SetAttributes | ReplaceHeaders)


def _may_pass(error: Failure) -> bool:
    """Return whether the same may succeed later: so Swift says, or the disk of the cache folder is full."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return getattr(error, "retryable", False)


def _replaced_by(followers: list[Task]) -> bool:
    """Return whether what comes next about an object makes a new state of its file needless."""
    return bool(followers) and isinstance(followers[0].operation, Delete | PutFile | PutSpecial)


def tell(task: Task, outcome: ObjectInfo | Failure | None) -> None:
    """Tell whoever asked for a task what became of it; that this fails does not change what it did."""
    try:
        task.done(outcome)
    except Exception:
        log.exception("%s: an unforeseen failure of whoever is told", task.path)
