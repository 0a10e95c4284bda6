"""Outcomes of attempts: a task is done, tried again, blocked or given up; given-up ones wait for a report.

`JournalParts` is what the modules share that work on the tasks of the queue.
"""

import errno
import logging
from collections.abc import Callable, Collection, Iterable, Sequence

from cachetools import LRUCache
from msgspec import Struct
from msgspec.structs import replace

from swiftfs.concurrency import monotonic
from swiftfs.errors import (
    AlreadyExists,
    ChangedDuringUpload,
    LoginRefused,
    NoSpace,
    NotBegun,
    StoreError,
    SwiftfsError,
    Unavailable,
    drop_tracebacks,
)
from swiftfs.filecache.cache import FileCache
from swiftfs.filecache.cached_file import CachedFile
from swiftfs.journal.backlog import Backlog
from swiftfs.journal.database import JournalDB
from swiftfs.journal.executor import Executor
from swiftfs.journal.late_requests import LateRequests
from swiftfs.journal.merging import attempted, coalesce
from swiftfs.journal.moves import Remnant
from swiftfs.journal.operations import (
    Delete,
    Move,
    MoveFolder,
    MoveObject,
    PutFile,
    PutMarker,
    PutSpecial,
    ReplaceHeaders,
    SetAttributes,
    names_of,
)
from swiftfs.journal.report import Refusals, complaint
from swiftfs.journal.task_queue import TaskQueue
from swiftfs.journal.task_writer import TaskWriter
from swiftfs.journal.tasks import (
    Blocked,
    Cancelled,
    Ending,
    Failure,
    Mode,
    Retrying,
    Running,
    Succeeded,
    Success,
    Task,
    nobody_waits,
    pause_after,
)
from swiftfs.namespace.entry import is_marker
from swiftfs.objects import ObjectInfo, ObjectName
from swiftfs.paths import path_below

log = logging.getLogger(__name__)


class JournalParts(Struct, frozen=True):
    """The parts of one journal.

    `backlog` has the queue and its lock. `writer` changes the tasks of the queue. `late` checks the objects
    that a lost request may still change.
    """

    backlog: Backlog
    writer: TaskWriter
    db: JournalDB
    cache: FileCache
    executor: Executor
    late: LateRequests


def remnant_tasks(
    queue: TaskQueue, path: str, operation: Move | MoveObject | MoveFolder, remnants: Collection[Remnant]
) -> list[Task]:
    """Return the tasks that delete the objects that the move of `path` could not, each with its own path."""
    tasks = []
    now = monotonic()
    for deletion, error in remnants:
        own = _path_of(deletion.name, path, operation)
        # As if its first attempt had failed: a report shows the reason, and a refusal is not repeated by
        # itself.
        state = Retrying(now + pause_after(1), error) if error.retryable else Blocked(error)
        task = Task(queue.next_seq(), own, deletion, nobody_waits, now, state, ambiguous=True, attempts=1)
        log.warning("%s was moved, but the old object stays until Swift deletes it: %s", own, error)
        tasks.append(task)
    return tasks


def _path_of(name: ObjectName, path: str, operation: Move | MoveObject | MoveFolder) -> str:
    """Return the path of an object that moves with `path`; of one at the target, its key as a path."""
    if name == operation.source or (isinstance(operation, MoveFolder) and name in dict(operation.markers)):
        return path
    if isinstance(operation, MoveFolder) and f"{name}".startswith(
        f"{operation.container}/{operation.source}"
    ):
        return path_below(path, name.key.removeprefix(operation.source))
    return f"/{name.key}"


LONGEST_ASKED_PAUSE = 600.0
"""The longest pause in seconds that a server gets for which it asks: it may name any."""

PROBE_SECONDS = 1.0
"""The pause between two changes that are tried while the server does not answer, and that no thread waits
for. Each is one request: it may be only some objects that it does not serve, and many changes may wait."""

MOST_STORED = 10_000
"""Objects whose last stored ETag is remembered."""


class Unforeseen(SwiftfsError):
    """An unexpected error ended an attempt; the task is blocked with this as its error."""


class Outcomes:
    """Ends attempts. `changed` is the journal's lock, which is taken here and guards every field.

    The records of lost requests are saved before an operation is reported as done.
    `is_being_made` returns whether there may be a file at a path of which the queue does not know yet.
    """

    def __init__(self, parts: JournalParts, mode: Mode, is_being_made: Callable[[str], bool]) -> None:
        self._queue = parts.backlog.queue
        self._changed = parts.backlog.changed
        self._writer = parts.writer
        self._late = parts.late
        self._is_being_made = is_being_made
        # In sync mode the caller waits and gets the error: the log need not repeat it.
        self._level = logging.DEBUG if mode is Mode.SYNC else logging.WARNING
        self.refusals = Refusals()
        self._stored: LRUCache[ObjectName, str] = LRUCache(MOST_STORED)

    def succeed(self, *attempts: Success) -> None:
        """End attempts that succeeded, in one commit. An unexpected error of one leaves the others ended."""
        self._late.save()  # recorded before anybody learns "stored"
        # Without the lock: the callback takes that of the open files, which comes first.
        for one in attempts:
            one.task.notify(one.info)  # before it ends, so that its waiters see the result
        endings, failed = list[Ending](), list[tuple[Task, Exception]]()
        with self._changed:
            self._queue.is_away, self._queue.last_success = False, monotonic()
            for one in attempts:
                try:
                    endings.append(self._ending(one))
                except Exception as error:  # noqa: BLE001  it is logged
                    failed.append((one.task, error))
            failed += self._end(endings)
        for task, unexpected in failed:
            self.abort([task], unexpected)

    def _end(self, endings: Sequence[Ending]) -> list[tuple[Task, Exception]]:
        """End tasks in one commit, or one by one after an unexpected error; return those that failed."""
        try:
            self._writer.end_together(endings)
        except Exception as error:  # noqa: BLE001  it is logged
            if len(endings) == 1:
                return [(endings[0].task, error)]
            left = [one for one in endings if not one.task.ended]
            return [failed for one in left for failed in self._end([one])]
        return []

    def _ending(self, attempt: Success) -> Ending:
        """Return how the task of a successful attempt ends, or goes on. Lock held."""
        task, info, cached_file = attempt.task, attempt.info, attempt.cached_file
        self.refusals.forget_earlier(task)
        if info is not None:
            self._stored[info.version.name] = info.version.etag
        elif isinstance(task.operation, Move) and task.operation.source in self._stored:
            self._stored[task.operation.target] = self._stored[task.operation.source]
        followers, executed = self._tell_followers(task, info), task.executed()
        changed = [*followers, *self._tell_held(info)]
        # The newer hand-in is not needed if the next task deletes or replaces the file anyway.
        if task.newer is None or info is None or cached_file is None or _replaced_by(followers):
            return Ending(task, Succeeded(), changed, cached_file, executed)
        self._go_on(task, info, cached_file)
        return Ending(task, None, [task, *changed], cached_file, executed)

    def fail(self, task: Task, error: Failure, *, in_doubt: bool = False) -> None:
        """End an attempt that failed: the task is tried again, blocked or given up, by the kind of error.

        With `in_doubt` an earlier request of the attempt has no answer, whatever the error says.
        """
        drop_tracebacks(error)
        again = is_temporary(error)
        if _is_final(task, error, again=again) and self._give_up(task, error):
            return
        with self._changed:
            self._queue.failures += 1
            if in_doubt or _may_be_stored(error):
                task.ambiguous, task.operation = True, attempted(task.operation)
            task.take_newer()
            self._note_outage(task, error)
            if self._hand_over(task, error):
                return
            if isinstance(error, ChangedDuringUpload):
                # A PUT was answered, but the file was truncated meanwhile. The stored version is ours: with
                # `conflict=keep` the next attempt must not keep it as another client's.
                if error.etag:
                    self._stored[names_of(task.operation)[0]] = error.etag
                # No failure of the server: it neither counts as an attempt nor ends a wait in fsync.
                pause = 0.0 if task.is_awaited or self._writer.is_closing else pause_after(1)
                self._queue.schedule(task, monotonic() + pause, task.error)
                return
            task.count_failure(error)
            if again:
                pause = max(pause_after(task.attempts), _asked_pause(error))
                self._queue.schedule(task, monotonic() + pause, error)
            else:
                task.become(Blocked(error))
                log.log(self._level, "%s is parked, because it cannot be stored: %s", task.path, error)

    def with_last_stored(self, operation: PutFile) -> PutFile:
        """Return the operation with the version that this mount stored last under its name. Lock held.

        The file may have been closed after the answer to that upload, but before it learned that version.
        """
        etag = self._stored.get(operation.name)
        if etag is None or etag in (operation.replaces_etag, *operation.sent):
            return operation
        return replace(operation, sent=(*operation.sent, etag))

    def with_stored_versions(self, operation: Move | MoveFolder) -> Move | MoveFolder:
        """Return a move with the versions that this mount has just stored at its names. Lock held.

        Else the next process, after a crash, could not tell the copy, what it has replaced, and an object of
        another client from each other.
        """
        return operation if isinstance(operation, MoveFolder) else operation.with_versions(self._stored)

    def abort(self, tasks: Iterable[Task], error: Exception) -> None:
        """End the attempt of each task that still runs after an unexpected error."""
        for task in [task for task in tasks if task.running]:
            log.error("%s: unexpected error", task.path, exc_info=error)
            failure = Unforeseen(f"unexpected error: {error!r}")
            try:
                self.fail(task, failure)
            except Exception:
                log.exception("%s: unexpected error", task.path)
                with self._changed:
                    self._block_in_memory(task, failure)

    def cancel(self, task: Task, error: Failure) -> None:
        """Drop a task that does not run: its caller gets `error`. Lock held."""
        if not (task.ended or task.running):
            self._writer.end(task, Cancelled(error))
            self._changed.notify_all()

    def _block_in_memory(self, task: Task, failure: Failure) -> None:
        """Block a task without a record, or end a move, because the record cannot be written. Lock held."""
        task.take_newer()
        task.count_failure(failure)
        self._queue.failures += 1
        if task in self._queue and not isinstance(task.operation, Move | MoveFolder):
            task.become(Blocked(failure))
        else:
            task.become(Cancelled(failure))
            self._queue.remove(task)

    def _go_on(self, task: Task, info: ObjectInfo, cached_file: CachedFile) -> None:
        """Let the task store the newer hand-in of its file next, over the version `info`. Lock held."""
        assert task.newer is not None
        assert isinstance(task.operation, PutFile)
        kept = task.operation.trash
        task.created, due = task.newer.created, task.newer.due
        task.operation = replace(
            task.operation,
            replaces_large=info.is_slo,
            replaces_etag=info.version.etag,
            creates=False,
            superseded_segments=(),
            sent=(),
            trash="",
        )
        task.take_newer()
        task.operation = _without_kept(replace(task.operation, file=cached_file.to_record()), kept)
        # Not the latest one: what was handed in during the upload is not stored.
        task.stored_hand_in = task.sent_hand_in
        task.ambiguous = task.reported = task.promised = False
        if task.flush_mark is not None and task.flush_hand_in <= task.stored_hand_in:
            task.flush_mark = None
        if task.awaited_hand_in <= task.stored_hand_in:
            task.awaited_hand_in = 0
        self._queue.schedule(task, 0.0 if task.is_awaited else due)

    def _tell_followers(self, task: Task, info: ObjectInfo | None) -> list[Task]:
        """Tell the following tasks about an object its new version; return these tasks."""
        if info is None:
            return []
        followers = [other for other in self._queue.chain(info.version.name) if other is not task]
        etag = info.version.etag
        kept = task.operation.trash if isinstance(task.operation, PutFile) else ""
        for other in followers:
            if isinstance(other.operation, PutFile):
                follower = replace(
                    other.operation, replaces_large=info.is_slo, replaces_etag=etag, creates=False
                )
                other.operation = _without_kept(follower, kept)
            elif isinstance(other.operation, Delete):
                other.operation = other.operation.after(etag)
            elif isinstance(other.operation, SetAttributes):
                meta = other.operation.meta.with_slo(etag if info.is_slo else None)
                other.operation = replace(other.operation, meta=meta, is_slo=info.is_slo)
        return followers

    def _tell_held(self, info: ObjectInfo | None) -> list[Task]:
        """Tell the held deletions of an object its new version; return them."""
        held = self._writer.held.timed([info.version.name]) if info is not None else []
        for one in held:
            if info is not None and isinstance(one.operation, Delete):
                one.operation = one.operation.after(info.version.etag)
        return held

    def _give_up(self, task: Task, error: Failure) -> bool:
        """Give up a task that Swift refuses; the mount shows the state before it again.

        Return False if it must be parked instead.
        """
        if self._is_needed(task):
            return False
        if not isinstance(task.operation, Move | MoveFolder | PutMarker):
            # In sync mode a caller that waits gets the error.
            level = self._level if task.awaited_hand_in else logging.WARNING
            log.log(level, "%s", complaint(task, error))
        # Before the task ends, so that a call that waits for it finds the state before the change when it
        # returns.
        task.notify(error)
        with self._changed:
            if self._is_needed(task):  # a program was faster
                return False
            self.refusals.add(task, error)
            spared: Collection[Task] = ()
            if isinstance(task.operation, PutMarker):
                spared = self._spared(task, task.operation.name, error)
            elif isinstance(task.operation, MoveObject):  # a marker: nothing else has followers here
                self._queue.take_over(task.operation.source, task)
                spared = self._spared(task, task.operation.target, error)
            self._end_with(task, Cancelled(error), spared)
        return True

    def delete_instead(self, task: Task, name: ObjectName, error: Failure, etag: str) -> None:
        """End the move of an object that was refused with `error`, and was deleted at its new `name`.

        Another task deletes it at its old name. `etag` is its version.
        """
        self._late.save()  # as in `succeed`
        task.notify(None)
        with self._changed:
            self.refusals.forget_earlier(task)
            self._end_with(task, Succeeded(), self._spared(task, name, error, etag))

    def _end_with(self, task: Task, state: Succeeded | Cancelled, spared: Collection[Task]) -> None:
        """End a task, and those that must not be executed without it. Lock held."""
        executed = task.executed() if isinstance(state, Succeeded) else None
        # One commit: the next process would execute either of them alone, and bring back what was deleted, or
        # delete what another client has stored there.
        self._writer.end(task, state, executed=executed, others=spared)
        for one in spared:
            one.notify(None if isinstance(one.operation, Delete) else state.error)

    def _spared(
        self, task: Task, name: ObjectName, error: Failure, etag: str | None = None
    ) -> Collection[Task]:
        """Return the next task about a name if it must not be executed, being about what `task` has shown.

        The `error` of `task` tells that whatever is there is another client's. With an `etag` there may be a
        copy of an earlier attempt: then the next task deletes that, and nothing else. Lock held.
        """
        behind = self._queue.next_after(name, task)
        if behind is None or not isinstance(behind.operation, Delete | SetAttributes | ReplaceHeaders):
            return []
        if not isinstance(behind.operation, Delete):
            log.warning("%s", complaint(behind, error))
            self.refusals.add(behind, error)
            return [behind]
        if etag is not None and (task.ambiguous or _may_be_stored(error)):
            behind.operation = replace(behind.operation, etag=etag, waited=True)
            self._writer.write([behind])
            return []
        return [behind]

    def _is_needed(self, task: Task) -> bool:
        """Return whether an object must stay shown at its new name, although Swift refuses to move it.

        A change there may need its bytes, and one of the old name would overwrite them. The marker of a
        folder has none.
        """
        if not isinstance(task.operation, MoveObject) or is_marker(task.operation.row):
            return False
        with self._changed:
            names = names_of(task.operation)
            # The path is that of the old name, which a program may use again.
            if self._writer.held.timed(names) or self._is_being_made(task.path):
                return True
            return any(self._queue.tail(name) is not task for name in names)

    def _hand_over(self, task: Task, error: Failure) -> bool:
        """Merge a file that could not be stored into the next task if that replaces it; return whether.

        The state in between is not needed. If that stores a file the `error` counts as one of it: a file that
        is replaced again and again might never have another. Lock held.
        """
        followers = [other for other in self._queue.chain(names_of(task.operation)[0]) if other is not task]
        if not _replaced_by(followers):
            return False
        newer = followers[0]
        is_deleted = isinstance(newer.operation, Delete)
        merged = coalesce(task.operation if is_deleted else attempted(task.operation), newer.operation)
        if merged is None:
            return False
        if not merged:
            # A new file that Swift has refused, and its deletion: nothing of it is there.
            self._end_with(task, Cancelled(), [newer])
            return True
        newer.operation, newer.ambiguous = merged[0], True
        newer.promised |= task.promised
        task.successor = newer
        self._writer.end(task, Cancelled(), [newer])
        if not (is_deleted or isinstance(error, ChangedDuringUpload)):
            newer.attempts = max(newer.attempts, task.attempts)
            newer.count_failure(error)
        elif task.awaited_hand_in:
            newer.awaited_hand_in = newer.hand_ins
            self._queue.run_now(newer)
        return True

    def _note_outage(self, task: Task, error: Failure) -> None:
        if not isinstance(error, Unavailable):
            return
        self._queue.next_probe = monotonic() + PROBE_SECONDS
        if self._queue.is_away:
            return
        if isinstance(task.state, Running) and self._queue.last_success > task.state.since:
            return  # it is this object that the server does not serve
        self._queue.is_away = True
        log.info("changes wait for the server: %s", error)


def _is_final(task: Task, error: Failure, *, again: bool) -> bool:
    """Return whether a failed task is given up: its failure is reported, and no data is lost."""
    if isinstance(task.operation, Move | MoveFolder):
        return True
    if isinstance(task.operation, Delete) and task.operation.moved:
        return False  # the move is done; the object that it left is reported until it is gone
    if isinstance(task.operation, PutMarker):
        return isinstance(error, AlreadyExists)
    # A login that has ended says nothing about the change: the next one may make it.
    if isinstance(error, Unforeseen | LoginRefused):
        return False
    return not again and isinstance(task.operation, Delete | MoveObject | SetAttributes | ReplaceHeaders)


def _without_kept(operation: PutFile, kept: str) -> PutFile:
    """Return the operation; what it was to copy to the key `kept` is there, and must not be overwritten."""
    return replace(operation, trash="") if kept and operation.trash == kept else operation


def _may_be_stored(error: Failure) -> bool:
    """Return whether Swift may have carried out a change, or may do so later, although it failed with this.

    Only a refusal (4xx) proves that it has not. Another error may have come after a request was sent.
    """
    if isinstance(error, NotBegun):
        return False
    # 507 is no refusal: one server of the cluster has no space, and another may have the object.
    if not isinstance(error, StoreError) or isinstance(error, NoSpace):
        return True
    return error.retryable or error.may_land


def _replaced_by(followers: list[Task]) -> bool:
    """Return whether the next task about an object replaces the state of its file."""
    return bool(followers) and isinstance(followers[0].operation, Delete | PutFile | PutSpecial)


def _asked_pause(error: Failure) -> float:
    """Return the pause, in seconds, that the server has asked for, up to a limit."""
    return min(getattr(error, "retry_after", None) or 0.0, LONGEST_ASKED_PAUSE)


def is_temporary(error: Failure) -> bool:
    """Return whether another attempt may succeed, also after an error because the cache's disk is full."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return getattr(error, "retryable", False)
