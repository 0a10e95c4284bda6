"""Who executes the intents, and when: threads that take what is due, and try again what failed."""

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

from swiftfs.content.cache import ContentCache
from swiftfs.content.content import Content
from swiftfs.errors import AlreadyExists, Overtaken, SwiftfsError, Unavailable
from swiftfs.journal.coalescing import attempted, coalesce
from swiftfs.journal.execution import Execution
from swiftfs.journal.intents import (
    Delete,
    Describe,
    Move,
    MoveFolder,
    PutFile,
    PutMarker,
    SetHeaders,
    names_of,
)
from swiftfs.journal.late_answers import LateAnswers
from swiftfs.journal.log import Log
from swiftfs.journal.queue import Failure, Queue, Task
from swiftfs.journal.refusals import Refusals, complaint
from swiftfs.model import ObjectInfo, ObjectName

log = logging.getLogger(__name__)

BATCH = 1000
"""Deletions sent together: a server answers a bulk-delete of so many within its clients' patience."""

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0
"""Seconds between two attempts of an intent, doubled each time, after the store's own patience has ended."""


class Dispatch:
    """Executes the tasks of a queue, at most `parallel` at once, and one while the server is away.

    `changed` is the journal's lock, which guards the queue and every field, and tells of every change.
    `parked_level` is that of the log's lines about what is parked; where everybody waits they are told.
    """

    def __init__(
        self,
        queue: Queue,
        changed: threading.Condition,
        log_: Log,
        contents: ContentCache,
        execution: Execution,
        parallel: int,
        late: LateAnswers | None = None,
    ) -> None:
        self._late = late
        self._queue = queue
        self._changed = changed
        self._log = log_
        self._contents = contents
        self._execution = execution
        self._parallel = parallel
        self._workers = ThreadPoolExecutor(parallel, thread_name_prefix="intent")
        self._thread = threading.Thread(target=self._run, name="dispatch")
        self.parked_level = logging.WARNING
        self.refusals = Refusals()
        self._under_way = 0
        self._away = False
        self._stopping = False

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

    def hasten(self, tasks: Iterable[Task]) -> None:
        """Begin to execute tasks that are not being executed; a report tells how that goes. Lock held."""
        self._away = False  # that was long ago: only what the server answers from now on counts
        for task in tasks:
            task.asked = task.attempts
            self._queue.urge(task)
        self._changed.notify_all()

    def attempt(self, tasks: Collection[Task]) -> None:
        """Execute tasks now, and what they wait for; return when each has ended or failed. Lock held.

        Raise why the first one failed, though it is tried again later.
        """
        wanted = self._with_blockers(tasks)
        before = {task: task.attempts for task in wanted}
        for task in wanted:
            task.urgent = True
            self._queue.urge(task)
        self._changed.notify_all()

        def is_settled(task: Task) -> bool:
            task = task.last()
            if task.ended or (task.attempts > before.setdefault(task, task.attempts) and not task.running):
                return True
            return any(is_settled(blocker) and not blocker.last().ended for blocker in task.blockers)

        left = list(tasks)

        def all_are_settled() -> bool:
            """Look at one task after the other until it is settled: this is asked after every change."""
            while left and is_settled(left[-1]):
                left.pop()
            return not left and all(map(is_settled, tasks))

        self._changed.wait_for(lambda: self._stopping or all_are_settled())
        for task in wanted:
            last = task.last()
            if last.error is not None and (task in tasks or not last.ended):
                self.refusals.told(last)
                raise last.error
        if not all(task.last().ended for task in tasks):
            raise SwiftfsError("the mount ends")

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
                    now = time.monotonic()
                    if (task := self._queue.pop_due(now)) is not None:
                        batch = [task]
                        if isinstance(task.intent, Delete):
                            batch += [one for one in self._queue.waiting_deletes(BATCH) if one is not task]
                        for one in batch:
                            one.running = True
                        self._under_way += 1
                        return batch
                    due = self._queue.next_due()
                self._changed.wait(None if due is None else max(0.0, due - time.monotonic()))
        return []

    def _attempt(self, batch: list[Task]) -> None:
        try:
            if isinstance(batch[0].intent, Delete):
                self._delete(batch)
            elif isinstance(batch[0].intent, PutFile):
                self._put_file(batch[0], batch[0].intent)
            else:
                self._run_one(batch[0])
        except Exception as error:  # whoever waits must not wait for ever
            log.exception("%s: an unforeseen failure", batch[0].path)
            for task in batch:
                if task.running:
                    self._fail(task, SwiftfsError(f"an unforeseen {error!r}"))
        finally:
            with self._changed:
                self._under_way -= 1
                self._changed.notify_all()

    def _delete(self, batch: list[Task]) -> None:
        deletions = [task.intent for task in batch if isinstance(task.intent, Delete)]
        failures = self._execution.delete_together(deletions)
        for task, deletion in zip(batch, deletions, strict=True):
            if (error := failures.get(deletion.name)) is not None:
                self._fail(task, error)
            else:
                self._succeed(task, None)

    def _put_file(self, task: Task, intent: PutFile) -> None:
        # The content stays with this thread until the log knows what it is now.
        try:
            content = self._contents.share(intent.file)
        except OSError as error:
            self._fail(task, error)
            return
        try:
            intent = self._localize(task, intent, content)
            info = self._execution.put_file(
                intent, content, lambda names: self._note_garbage(task, names), again=task.tried
            )
        except (SwiftfsError, OSError) as error:
            self._fail(task, error)
        else:
            self._succeed(task, info, content)
        finally:
            self._contents.leave(content)

    def _localize(self, task: Task, intent: PutFile, content: Content) -> PutFile:
        local = self._execution.localize(intent, content)
        if local is not intent:
            with self._changed:
                task.intent = local
                self._log.commit([task.record()])
        return local

    def _note_garbage(self, task: Task, names: Collection[ObjectName]) -> None:
        with self._changed:
            assert isinstance(task.intent, PutFile)
            garbage = tuple(sorted({*task.intent.garbage, *names}))
            task.intent = replace(task.intent, garbage=garbage)
            self._log.commit([task.record()])

    def _run_one(self, task: Task) -> None:
        try:
            info = self._execution.run(task.intent)
        except (SwiftfsError, OSError) as error:
            self._fail(task, error)
        else:
            self._succeed(task, info)

    def _succeed(self, task: Task, info: ObjectInfo | None, content: Content | None = None) -> None:
        if self._late is not None:
            self._late.save()  # what a lost request may undo is on the disk before anybody is told "stored"
        task.done(info)  # before it ends, so that whoever waits for it sees what it did
        with self._changed:
            self._away = False
            task.error = None
            self.refusals.mended(task)
            followers = self._tell_followers(task, info, content)
            self._end(task, followers, content)

    def _tell_followers(self, task: Task, info: ObjectInfo | None, content: Content | None) -> list[Task]:
        """Let the intents behind this one about the same object know what it is now; return them."""
        if info is None:
            return []
        followers = [other for other in self._queue.chain(info.version.name) if other is not task]
        slo = info.version.etag if info.is_slo else None
        for other in followers:
            if isinstance(other.intent, PutFile):
                same = content is not None and isinstance(task.intent, PutFile)
                same = same and other.intent.file.file == task.intent.file.file  # type: ignore[union-attr]
                file = content.save() if content is not None and same else other.intent.file
                other.intent = replace(
                    other.intent,
                    file=file,
                    replaces_large=info.is_slo,
                    replaces_etag=info.version.etag,
                    fresh=False,
                )
            elif isinstance(other.intent, Describe):
                stored = replace(other.intent.description.stored, slo=slo)
                description = replace(other.intent.description, stored=stored)
                other.intent = replace(other.intent, description=description, large=info.is_slo)
        return followers

    def _end(self, task: Task, changed: Iterable[Task] = (), content: Content | None = None) -> None:
        """Take a task out for good; what is held for it is let go. Lock held."""
        records = [other.record() for other in changed]
        if content is not None and content.uploads is not None:
            with content.uploads.standing() as standing:
                self._log.finish([task.seq], records, standing)
        else:
            self._log.finish([task.seq], records)
        self._queue.remove(task)
        task.ended, task.running = True, False
        if isinstance(task.intent, PutFile):
            self._contents.unhold(task.intent.file.file)

    def _fail(self, task: Task, error: Failure) -> None:
        again = getattr(error, "retryable", False)
        if _is_final(task, error, again=again):
            self._give_up(task, error)
            return
        with self._changed:
            task.running, task.tried = False, True
            task.intent = attempted(task.intent)
            if isinstance(error, Overtaken):
                self._go_on_with_newer(task)
                return
            task.attempts += 1
            task.error, task.parked, task.urgent, task.told = error, not again, False, False
            if again:
                pause = min(FIRST_PAUSE * 2 ** (task.attempts - 1), LONGEST_PAUSE)
                self._queue.schedule(task, time.monotonic() + pause)
                self._note_outage(error)
            else:
                log.log(self.parked_level, "%s waits until it can be stored: %s", task.path, error)
                with suppress(OSError):
                    self._log.commit([task.record()])

    def _give_up(self, task: Task, error: Failure) -> None:
        """End a task that Swift refuses for good; what was there before is there again."""
        if not isinstance(task.intent, Move | MoveFolder | PutMarker):
            # Where everybody waits for the change, whoever asked for it gets the error.
            level = self.parked_level if task.urgent else logging.WARNING
            log.log(level, "%s", complaint(task, error))
        task.done(error)
        with self._changed:
            task.error = error
            self.refusals.add(task, error)
            self._end(task)

    def _go_on_with_newer(self, task: Task) -> None:
        """Store the bytes as they are now: what they were meanwhile nobody needs. Lock held."""
        newer = next(
            (other for other in self._queue.chain(names_of(task.intent)[0]) if other is not task), None
        )
        merged = coalesce(task.intent, newer.intent) if newer is not None else None
        if newer is None or not merged:
            pause = 0.0 if task.urgent else FIRST_PAUSE
            self._queue.schedule(task, time.monotonic() + pause)
            return
        newer.intent, newer.tried = merged[0], True
        task.successor = newer
        self._end(task, [newer])
        if task.urgent:
            newer.urgent = True
            self._queue.schedule(newer, 0.0)

    def _note_outage(self, error: Failure) -> None:
        if isinstance(error, Unavailable) and not self._away:
            self._away = True
            log.info("changes wait for the server: %s", error)


def _is_final(task: Task, error: Failure, *, again: bool) -> bool:
    """Say whether a failed intent is given up: whoever asked for it is told, and nothing is lost."""
    if isinstance(task.intent, Move | MoveFolder):
        return True
    if isinstance(task.intent, PutMarker):
        return isinstance(error, AlreadyExists)
    return not again and isinstance(task.intent, Delete | Describe | SetHeaders)
