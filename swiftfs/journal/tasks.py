"""Tasks, which are operations that are not executed yet, their states, and the waits for them."""

import logging
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import Enum
from typing import ClassVar

from msgspec import Struct
from msgspec.structs import replace

from swiftfs.concurrency import monotonic
from swiftfs.errors import SwiftfsError
from swiftfs.filecache.cached_file import CachedFile
from swiftfs.journal.commits import Executed, Record
from swiftfs.journal.merging import merge_while_running
from swiftfs.journal.operations import Operation, PutFile
from swiftfs.objects import ObjectInfo, ObjectName, Row, check_transition
from swiftfs.store.retry import SharedLimit

log = logging.getLogger(__name__)

Failure = SwiftfsError | OSError

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0
"""Seconds between two attempts of a task, doubled each time, after the store's own retries have ended."""


def pause_after(attempts: int) -> float:
    """Return the seconds to wait after so many failed attempts of a task."""
    # The exponent is limited, or it would overflow after a day without a server. 32 doublings exceed any
    # pause.
    return min(FIRST_PAUSE * 2.0 ** min(attempts - 1, 32), LONGEST_PAUSE)


class Waiting(Struct, frozen=True, eq=False):
    """It is executed at `due` (monotonic seconds), or when what it waits for has ended, if that is later."""

    due: float
    error: ClassVar[None] = None


class Retrying(Struct, frozen=True, eq=False):
    """Its last attempt has failed with `error`; it is tried again at `due` (monotonic seconds) or later."""

    due: float
    error: Failure


class Running(Struct, frozen=True, eq=False):
    """An attempt runs `since` a time in monotonic seconds; `error` is that of the attempt before it."""

    error: Failure | None
    since: float


class Blocked(Struct, frozen=True, eq=False):
    """It is parked, for users: its last attempt has failed, and it is not tried again by itself."""

    error: Failure


class Succeeded(Struct, frozen=True, eq=False):
    """Swift has carried it out."""

    error: ClassVar[None] = None


class Cancelled(Struct, frozen=True, eq=False):
    """It was given up because of `error`; without one it is not needed, or another has taken over."""

    error: Failure | None = None


State = Waiting | Retrying | Running | Blocked | Succeeded | Cancelled

FOLLOWING: Mapping[type, tuple[type, ...]] = {
    Waiting: (Waiting, Running, Cancelled),
    Retrying: (Waiting, Retrying, Running, Cancelled),
    Running: (Waiting, Retrying, Blocked, Succeeded, Cancelled),
    Blocked: (Waiting, Retrying, Cancelled),
    Succeeded: (),
    Cancelled: (),
}

Done = Callable[[ObjectInfo | Failure | None], None]
"""Receives the outcome of an operation: Swift's answer about a stored object, None for another kind of
operation, or the error of one that was given up."""

MakeDone = Callable[[str, Operation], Done]
"""Shows in the mount what an operation does to a path; returns the callback for its outcome."""


def nobody_waits(_outcome: object) -> None:
    """Do nothing: a `Done` for operations without a waiter."""


class Mode(Enum):
    """Whether a call that changes something waits until the change is in Swift."""

    WRITE_BACK = "write-back"
    SYNC = "sync"


NONE: frozenset["Task"] = frozenset()
"""Shared: most of many tasks wait for none, and an empty set takes 216 bytes."""


class _WeaklyReferenced:
    __slots__ = ("__weakref__",)


# Compared by identity: sets and waiters have tasks whose fields change.
class Task(_WeaklyReferenced, Struct, eq=False):
    """An operation about `path` that is not executed yet; it was `created` at a time in monotonic seconds.

    A task waits for its `blockers`, and its `dependents` wait for it.

    - `state` is what it waits for or has become; only `become` changes it. `attempts` counts those that have
      failed, and `failure` is the error of the last of them, also if the task has changed since. `reported`
      is True if a call has raised it.
    - For a `promised` task a call, or an earlier process, has reported success: the failure of a later
      call about the same name does not drop it.
    - An `ambiguous` task was sent before, perhaps by an earlier process, and not refused: Swift may have
      executed it.
    - A `successor` has taken over the operation of an ended task.
    - `flush_mark` is the number of attempts at the last request for a flush, None if there was none.

    A file that is handed in again while its upload runs stays one task: `newer` replaces `operation` when
    that upload ends. `hand_ins` counts the hand-ins. Four fields have the number of one of them, or 0:
    `sent_hand_in` is the last one in the latest attempt, `stored_hand_in` the last one in Swift,
    `awaited_hand_in` the last one that a thread waits for, and `flush_hand_in` the last one at the request
    for a flush. `sent_commit` is the last commit of the database before the latest attempt.

    A move replaces the deletion of its target, which it `overrides`; if it fails the deletion is
    put back. If it succeeds it may have `left` objects behind that it could not delete. For a folder's
    move, `rows` are the old rows of the objects that it moved, or `later` the tasks that move them in the
    background. Its requests share the time `limit` of its system call.
    """

    seq: int
    path: str
    operation: Operation
    done: Done
    created: float
    state: State
    reported: bool = False
    awaited_hand_in: int = 0
    promised: bool = False
    ambiguous: bool = False
    successor: "Task | None" = None
    attempts: int = 0
    failure: Failure | None = None
    flush_mark: int | None = None
    flush_hand_in: int = 0
    newer: "HandIn | None" = None
    hand_ins: int = 1
    sent_hand_in: int = 0
    sent_commit: int = 0
    stored_hand_in: int = 0
    overrides: "Task | None" = None
    blockers: "set[Task] | frozenset[Task]" = NONE
    dependents: "set[Task] | frozenset[Task]" = NONE
    left: tuple[ObjectName, ...] = ()
    rows: tuple[Row, ...] = ()
    later: "tuple[Task, ...]" = ()
    limit: SharedLimit | None = None

    def become(self, state: State) -> None:
        """Change the state; raise `RuntimeError` if that state cannot follow."""
        check_transition("a task", FOLLOWING, type(self.state), type(state))
        self.state = state

    @property
    def running(self) -> bool:
        """Whether an attempt runs."""
        return isinstance(self.state, Running)

    @property
    def blocked(self) -> bool:
        """Whether it is not tried again by itself."""
        return isinstance(self.state, Blocked)

    @property
    def ended(self) -> bool:
        """Whether nothing is left to do."""
        return isinstance(self.state, Succeeded | Cancelled)

    @property
    def error(self) -> Failure | None:
        """The error of the last attempt, None if that succeeded or the task has changed since."""
        return self.state.error

    @property
    def is_stuck(self) -> bool:
        """Whether it is blocked, or waits for a task that is."""
        return self.blocked or any(blocker.is_stuck for blocker in self.blockers)

    @property
    def is_awaited(self) -> bool:
        """Whether a thread waits for it, or a flush was requested: it is not put off."""
        return self.awaited_hand_in > 0 or self.flush_mark is not None

    def last(self) -> "Task":
        """Return the task that has taken over this one's operation, or this one."""
        return self if self.successor is None else self.successor.last()

    @property
    def newest(self) -> Operation:
        """The state that is in Swift when the task ends: the newest hand-in, as in the database."""
        if self.newer is None or not isinstance(self.operation, PutFile):
            return self.operation
        return merge_while_running(self.operation, self.newer.operation)

    def begin(self, commit: int) -> None:
        """Record that an attempt begins, after the last `commit` of the database."""
        self.become(Running(self.error, monotonic()))
        self.sent_hand_in, self.sent_commit = self.hand_ins, commit

    def count_failure(self, error: Failure) -> None:
        """Record that an attempt has failed. Whoever waited for it gets the error, and waits no more."""
        self.attempts += 1
        self.failure, self.awaited_hand_in, self.reported = error, 0, False

    def wait_for(self, blocker: "Task") -> None:
        """Wait until another task has ended."""
        if blocker is not self:
            self.blockers = _with(self.blockers, blocker)
            blocker.dependents = _with(blocker.dependents, self)

    def executed(self) -> Executed:
        """Return what the attempt has executed: not the newer hand-in, if there is one."""
        return Executed(self.operation, self.seq, self.sent_commit if self.newer else math.inf)

    def keep_newer(self, newer: "HandIn") -> None:
        """Keep a newer hand-in of the file that is being uploaded until that ends."""
        self.newer = newer
        self.hand_ins += 1

    def take_newer(self) -> None:
        """Continue with the newer hand-in, if there is one."""
        # `running` is for the next process, about an upload that has not ended. This one has; if its answer
        # was lost, the late requests record it.
        if self.newer is not None and isinstance(newest := self.newest, PutFile):
            self.operation, self.path, self.done = (
                replace(newest, running=None),
                self.newer.path,
                self.newer.done,
            )
            self.newer = None

    def is_stored(self, hand_in: int) -> bool:
        """Return whether a hand-in is in Swift, or is not needed any more."""
        return self.ended or self.stored_hand_in >= hand_in

    def notify(self, outcome: ObjectInfo | Failure | None) -> None:
        """Call `done`; log its errors, which do not change the result of the task."""
        try:
            self.done(outcome)
        except Exception:
            log.exception("%s: unexpected error in the callback of a change", self.path)

    def record(self) -> Record:
        """Return the task's record for the database."""
        path = self.newer.path if self.newer else self.path
        return Record(self.seq, path, self.newest)


def _with(tasks: set[Task] | frozenset[Task], task: Task) -> set[Task]:
    """Return the set with the task; only the shared empty set is copied."""
    found = tasks if isinstance(tasks, set) else set()
    found.add(task)
    return found


class HandIn(Struct, frozen=True):
    """A newer state of a file whose upload runs: `operation` is stored next, at `due` or later.

    `created` is when it was handed in; both are monotonic seconds.
    """

    path: str
    operation: PutFile
    done: Done
    created: float
    due: float


class Success(Struct, frozen=True):
    """An attempt that succeeded; `info` is Swift's answer about a stored object.

    It is that of `cached_file`, which the attempt has acquired, if it stored a file.
    """

    task: Task
    info: ObjectInfo | None = None
    cached_file: CachedFile | None = None


class Ending(Struct, frozen=True):
    """How an attempt of a task ends: in `state`, or without one in its next attempt.

    The tasks `changed` by that are written, and `others` cancelled: deletions, which are not needed, and the
    rest with the error of `state`. What was `executed` does not come back after a power cut. Of a
    `cached_file` that was stored it is recorded which of its segments no manifest names.
    """

    task: Task
    state: Succeeded | Cancelled | None
    changed: Sequence[Task] = ()
    cached_file: CachedFile | None = None
    executed: Executed | None = None
    others: Collection[Task] = ()

    def dropped(self) -> list[int]:
        """Return the numbers of the records that are not needed any more."""
        return [] if self.state is None else [self.task.seq, *(one.seq for one in self.others)]


TOGETHER = 32
"""How many tasks end in one commit at most. Each keeps its local file open until then."""

LONGEST_WAIT = 0.02
"""Seconds until the first of them ends. After a kill the next mount stores again what had not ended."""


class StoredFiles:
    """The uploads that have succeeded, and end together. Not locked: the journal's lock guards them.

    A commit for each would take a sixth of the CPU time of a small file. They end at `due` (monotonic
    seconds). To its task such an upload still runs, as if the answer of Swift came a moment later.
    """

    def __init__(self) -> None:
        self._successes: list[Success] = []
        self.due = math.inf

    def add(self, success: Success) -> None:
        """Add the upload of a file."""
        if not self._successes:
            self.due = monotonic() + LONGEST_WAIT
        self._successes.append(success)
        if len(self._successes) >= TOGETHER:
            self.hasten()

    def hasten(self) -> None:
        """Make them due now, if there are any."""
        if self._successes:
            self.due = -math.inf

    def take_due(self) -> list[Success]:
        """Return those that are due, and forget them."""
        if self.due > monotonic():
            return []
        taken, self._successes, self.due = self._successes, [], math.inf
        return taken


class Flush:
    """The `tasks` that a thread waits for; `wanted` are these and their blockers.

    It compares them with their state when the thread began to wait. A task may hand over its operation
    to another one meanwhile, which then counts instead. The journal's lock is held for every call.
    """

    def __init__(self, tasks: Collection[Task], failures: int) -> None:
        self.wanted = with_blockers(tasks)
        self._tasks = tasks
        self._failures = failures
        self._attempts = {task: task.attempts for task in self.wanted}
        self._hand_ins = {task: task.hand_ins for task in self.wanted}
        self._left = list(tasks)

    def is_settled(self, failures: int) -> bool:
        """Return whether all tasks are done, or one has failed; `failures` counts those of the journal.

        The thread gets an error then, and does not wait for the others: of many that Swift refuses each takes
        as long as a call may. This is called after every change of any task, so it checks one until that is
        done, and all only after a failure.
        """
        while self._left and self._is_done(self._left[-1]):
            self._left.pop()
        is_failure, self._failures = failures != self._failures, failures
        if not self._left or self._failed(self._left[-1]) is not None:
            return True
        return is_failure and self.failed() is not None

    def is_done(self) -> bool:
        """Return whether the state of each task when the wait began is in Swift."""
        return all(map(self._is_done, self._tasks))

    def failed(self) -> Task | None:
        """Return the first failed task of those wanted and those that took over; None if none has failed."""
        return next((failed for task in self._tasks if (failed := self._failed(task)) is not None), None)

    def _is_done(self, task: Task) -> bool:
        last = task.last()
        # `setdefault`: a task that takes over during the wait counts with its state at that moment, not with
        # what is handed in to it later. Otherwise fsync of a file that is closed again and again might never
        # return.
        return last.is_stored(self._hand_ins.setdefault(last, last.hand_ins))

    def _failed(self, task: Task) -> Task | None:
        """Return the task that has failed, of one of `tasks` and its blockers."""
        last = task.last()
        if last.ended:
            return last if last.error is not None else None
        return None if self._is_done(task) else self._hindrance(task)

    def _hindrance(self, task: Task) -> Task | None:
        last = task.last()
        if last.ended:  # it does not block any more, even if it failed
            return None
        # One that has taken over counts the attempts before that, if they have failed.
        before = self._attempts.setdefault(last, min(self._attempts.get(task, last.attempts), last.attempts))
        # A caller waits for one attempt only: the pauses before further ones may be too long for it. Also if
        # another one runs by now: of several tasks that Swift refuses one might run at any moment. What is
        # parked was tried, or blocks a task that has taken over.
        if last.blocked or last.attempts > before:
            return last
        # What waits for a failed task is not tried before that succeeds.
        found = (self._hindrance(blocker) for blocker in last.blockers)
        return next((one for one in found if one is not None), None)


def with_blockers(tasks: Iterable[Task]) -> list[Task]:
    """Return the tasks that have not ended, and all their blockers."""
    found: dict[Task, None] = {}
    pending = list(tasks)
    while pending:
        task = pending.pop()
        if task not in found and not task.ended:
            found[task] = None
            pending.extend(task.blockers)
    return list(found)
