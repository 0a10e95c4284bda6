"""The queue in memory: which operations may run now, and which must wait for others."""

import heapq
import itertools
import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import Enum

from swiftfs.journal.database import Record
from swiftfs.journal.merging import merge_while_running
from swiftfs.journal.older_rows import Executed
from swiftfs.journal.operations import Delete, Move, Operation, PutFile, PutMarker, names_of
from swiftfs.journal.task_states import (
    Blocked,
    Cancelled,
    Failure,
    Retrying,
    Running,
    State,
    Succeeded,
    Waiting,
    check_transition,
)
from swiftfs.objects import ObjectInfo, ObjectName, Row
from swiftfs.paths import Folder, parent_markers

log = logging.getLogger(__name__)

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


# Compared by identity: sets and waiters have tasks whose fields change.
@dataclass(slots=True, eq=False)
class Task:
    """An operation about `path` that is not executed yet; it was `created` at a time in monotonic seconds.

    A task waits for its `blockers`, and its `dependents` wait for it.

    - `state` is what it waits for or has become; only `become` changes it. `attempts` counts those that have
      failed. `reported` is True if a call has raised the error of the last one.
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
    put back. If it succeeds it may have `left` objects behind that it could not delete; of a folder's,
    `rows` are the old ones of what it moved.
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

    def become(self, state: State) -> None:
        """Change the state; raise `RuntimeError` if that state cannot follow."""
        check_transition(self.state, state)
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
        self.become(Running(self.error))
        self.sent_hand_in, self.sent_commit = self.hand_ins, commit

    def executed(self) -> Executed:
        """Return what the attempt has executed: not the newer hand-in, if there is one."""
        return Executed(self.operation, self.seq, self.sent_commit if self.newer else math.inf)

    def keep_newer(self, newer: "HandIn") -> None:
        """Keep a newer hand-in of the file that is being uploaded until that ends."""
        self.newer = newer
        self.hand_ins += 1

    def take_newer(self) -> None:
        """Make the newer hand-in, if there is one, what the task does."""
        # `running` is for the next process. Of an upload that has ended, answered or not, the late requests
        # know.
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


@dataclass(frozen=True, slots=True)
class HandIn:
    """A newer state of a file whose upload runs: `operation` is stored next, at `due` or later.

    `created` is when it was handed in; both are monotonic seconds.
    """

    path: str
    operation: PutFile
    done: Done
    created: float
    due: float


class TaskQueue:
    """The tasks in the order in which they were added. Not locked.

    INVARIANT: a due entry counts only while its task is in the queue, and in the state that made the entry.

    `under_way` counts the batches of tasks that run. `is_away` is True if the server did not answer the last
    request.

    Tasks about one name run one after the other. A deletion or move also waits for the markers of the folders
    it may leave empty, so that no folder disappears for a moment. All others run in parallel.
    """

    def __init__(self) -> None:
        self._tasks: dict[int, Task] = {}
        self._chains: dict[ObjectName, list[Task]] = {}
        self._due: list[tuple[float, int, Task, State]] = []
        self._ties = itertools.count()
        self._last = 0
        self.under_way = 0
        self.is_away = False

    def is_busy(self) -> bool:
        """Return whether the server is reachable and work is running or due."""
        return not self.is_away and (self.under_way > 0 or self.next_due() is not None)

    def __len__(self) -> int:
        return len(self._tasks)

    def __contains__(self, task: Task) -> bool:
        return self._tasks.get(task.seq) is task

    def tasks(self) -> list[Task]:
        """Return all tasks in their order."""
        return list(self._tasks.values())

    def next_seq(self) -> int:
        """Return the number for a new task, greater than all before."""
        self._last += 1
        return self._last

    def skip(self, seq: int) -> None:
        """Give new tasks greater numbers than that."""
        self._last = max(self._last, seq)

    def add(self, task: Task, after: Task | None = None) -> None:
        """Add a task behind all others; it waits for those about its names, and for `after`."""
        self._last = max(self._last, task.seq)
        self._tasks[task.seq] = task
        if after is not None:
            _block(task, after)
        for name in names_of(task.operation):
            chain = self._chains.setdefault(name, [])
            if chain:
                _block(task, chain[-1])
            chain.append(task)
        if isinstance(task.operation, Delete | Move):
            # Swift has no folders: one whose marker is not stored yet exists only by its objects.
            for name in parents_of(task.operation):
                chain = self._chains.get(name, [])
                if chain and isinstance(chain[-1].operation, PutMarker):
                    _block(task, chain[-1])
        self._make_due(task)

    def remove(self, task: Task) -> None:
        """Remove a task, if it is in the queue; tasks that waited for it may run."""
        if task not in self:
            return
        self._take_out(task)
        for blocker in task.blockers:
            blocker.dependents -= {task}
        for dependent in task.dependents:
            dependent.blockers -= {task}
            # A task may go before its own blockers have ended (it was merged, dropped or overridden). What
            # waited for it must not overtake them.
            for blocker in task.blockers:
                _block(dependent, blocker)
            self._make_due(dependent)
        task.blockers = task.dependents = NONE

    def put_before(self, task: Task, other: Task) -> None:
        """Put a removed task before `other`, which has its names too, and before the dependents of that."""
        # What was submitted while the task was away comes after it, as if it had stayed: a file that was
        # stored meanwhile must not be deleted by it.
        self._tasks[task.seq] = task
        for name in names_of(task.operation):
            chain = self._chains[name]
            chain.insert(chain.index(other), task)
        for dependent in other.dependents:
            _block(dependent, task)
        for blocker in other.blockers:
            _block(task, blocker)
        self._make_due(task)

    def rename(self, task: Task, seq: int, path: str, operation: Operation) -> None:
        """Give a task another name, behind the tasks of that, and the number `seq`.

        What waits for it goes on waiting, such as the deletion of an old object that a move has left.
        """
        self._take_out(task)
        task.seq, task.path, task.operation = seq, path, operation
        self._last = max(self._last, seq)
        self._tasks[seq] = task
        for name in names_of(operation):
            chain = self._chains.setdefault(name, [])
            if chain:
                _block(task, chain[-1])
            chain.append(task)
        self._make_due(task)

    def _take_out(self, task: Task) -> None:
        del self._tasks[task.seq]
        for name in names_of(task.operation):
            chain = self._chains[name]
            chain.remove(task)
            if not chain:
                del self._chains[name]

    def hold(self, tasks: Iterable[Task], gate: Task) -> None:
        """Let `tasks` wait for `gate`, which is no task of the queue, until `release`."""
        for task in tasks:
            _block(task, gate)

    def release(self, gate: Task) -> None:
        """Let the tasks run that wait for `gate`, in their order."""
        for task in sorted(gate.dependents, key=lambda one: one.seq):
            task.blockers -= {gate}
            self._make_due(task)
        gate.dependents = NONE

    def schedule(self, task: Task, due: float, error: Failure | None = None) -> None:
        """Make a task wait until `due` (monotonic seconds); with an `error` its last attempt has failed."""
        task.become(Waiting(due) if error is None else Retrying(due, error))
        self._make_due(task)

    def _make_due(self, task: Task) -> None:
        if isinstance(task.state, Waiting | Retrying):
            # An earlier entry of the task stays in the heap, from the middle of which nothing can be removed:
            # `next_due` skips it, because its state is not the task's any more. The tie-breaker is there
            # because tasks have no order.
            heapq.heappush(self._due, (task.state.due, next(self._ties), task, task.state))

    def run_now(self, task: Task) -> None:
        """Make a task due now, even if it is blocked; of a running one, its newer hand-in."""
        if not task.running:
            self.schedule(task, 0.0, task.error)
        # When the running upload has ended, its task would wait for the write delay of the newer hand-in.
        elif task.newer is not None:
            task.newer = replace(task.newer, due=0.0)

    def chain(self, name: ObjectName) -> list[Task]:
        """Return the tasks about a name in their order."""
        return self._chains.get(name, [])

    def tail(self, name: ObjectName) -> Task | None:
        """Return the last task about a name."""
        chain = self._chains.get(name)
        return chain[-1] if chain else None

    def below(self, folder: Folder) -> list[Task]:
        """Return the tasks about names below a folder."""
        return [
            # The last of each name is enough: it waits for those before it.
            chain[-1]
            for name, chain in self._chains.items()
            if Folder(name.container, name.key).is_below(folder)
        ]

    def next_due(self) -> float | None:
        """Return when the next task can run (monotonic seconds), None while all wait for other tasks."""
        while self._due:
            due, _, task, state = self._due[0]
            # A task that waits for others loses its entry here; `remove` makes a new one when they have
            # ended.
            if state is task.state and self._can_run(task):
                return due
            heapq.heappop(self._due)
        return None

    def pop_due(self, now: float) -> Task | None:
        """Return a task that may run at `now`, and remove its due entry; it stays in the queue."""
        due = self.next_due()
        if due is None or due > now:
            return None
        return heapq.heappop(self._due)[2]

    def waiting_deletes(self, most: int) -> list[Task]:
        """Return deletions that could run, due or not: one request can delete many."""
        free = (
            task
            for task in self._tasks.values()
            if isinstance(task.operation, Delete) and self._can_run(task)
        )
        return list(itertools.islice(free, most))

    def _can_run(self, task: Task) -> bool:
        return task in self and isinstance(task.state, Waiting | Retrying) and not task.blockers


def parents_of(operation: Operation) -> Iterable[ObjectName]:
    """Return the names of the markers of the folders that contain the operation's objects."""
    return [marker for name in names_of(operation) for marker in parent_markers(name)]


def _block(task: Task, blocker: Task) -> None:
    if blocker is not task:
        task.blockers = _with(task.blockers, blocker)
        blocker.dependents = _with(blocker.dependents, task)


def _with(tasks: set[Task] | frozenset[Task], task: Task) -> set[Task]:
    """Return the set with the task; only the shared empty set is copied."""
    found = tasks if isinstance(tasks, set) else set()
    found.add(task)
    return found
