"""The queue in memory: which operations may run now, and which must wait for others."""

import heapq
import itertools
import math
from collections import OrderedDict
from collections.abc import Collection, Iterable

from msgspec.structs import replace

from swiftfs.concurrency import monotonic
from swiftfs.filecache.cache_space import Uses
from swiftfs.journal.merging import attempted, coalesce
from swiftfs.journal.moves import etag_of
from swiftfs.journal.operations import (
    Delete,
    Move,
    MoveFolder,
    MoveObject,
    Operation,
    PutFile,
    PutMarker,
    PutSpecial,
    names_of,
    parents_of,
)
from swiftfs.journal.sleeping_tasks import SleepingTask, SleepingTasks, can_sleep
from swiftfs.journal.tasks import NONE, Done, Failure, Retrying, State, Task, Waiting, nobody_waits
from swiftfs.namespace.entry import is_marker
from swiftfs.objects import ObjectName, ObjectVersion
from swiftfs.paths import Folder, markers_above
from swiftfs.store.moved_view import MovedNames

AWAKE = 1000
"""How many tasks that can sleep stay awake: most mounts never have more."""

MOST_MOVING = 3
"""How many batches of MoveObjects run at once, all but one only of those that a call waits for."""

_Due = tuple[float, int, int, State]
"""When a task is due, a number that makes it unique, the task's number, and the state that made the entry."""

AHEAD, ALONE, AMONG_OTHERS = -2.0, -1.0, 0.0
"""When tasks are due that threads wait for: those of a rename, one that is waited for alone, and many."""

AT_ONCE = 100
"""How many tasks are packed at a time, which takes a millisecond: the journal's lock is held meanwhile."""


class TaskQueue:
    """The tasks in the order in which they were added. Not locked.

    INVARIANT: a due entry counts only while its task is in the queue, and in the state that made the entry.

    Of those that wait to store a file all but `AWAKE` are packed by `rest`. They wake up when they are due,
    and when anybody asks for the tasks about their names. `uses` are of the local files.

    `under_way` are the batches of tasks that run; `moving` counts those of MoveObjects. These have a heap of
    their own: there may be thousands, and others must not wait for them. What they move is in `moved` until
    they have ended. Tasks that have failed have a heap, too. `failures` counts the attempts that have failed.
    `is_away` is True if the server did not answer the last change, nor any that has ended since that began;
    `last_success` is when one has succeeded, and `next_probe` when the next one may be tried that no thread
    waits for, in monotonic seconds.

    Tasks about one name run one after the other. A deletion or move also waits for the markers of the folders
    it may leave empty, so that no folder disappears for a moment. All others run in parallel.
    """

    def __init__(self, uses: Uses, moved: MovedNames) -> None:
        self._uses = uses
        self._moved = moved
        self._tasks: dict[int, Task] = {}
        self._chains: dict[ObjectName, list[Task]] = {}
        self._sleeping = SleepingTasks()
        # Tasks that may be put to sleep, in the order in which they were scheduled last.
        self._sleep_candidates: OrderedDict[Task, None] = OrderedDict()
        self._due: list[_Due] = []
        self._due_again: list[_Due] = []
        self._due_moves: list[_Due] = []
        self._ties = itertools.count()
        self._last = 0
        self.under_way: list[list[Task]] = []
        self.moving = 0
        self.failures = 0
        self.is_away = False
        self.last_success = -math.inf
        self.next_probe = -math.inf

    def __len__(self) -> int:
        return len(self._tasks) + len(self._sleeping)

    def __contains__(self, task: Task) -> bool:
        return self._tasks.get(task.seq) is task

    def awake(self) -> list[Task]:
        """Return the tasks that do not sleep, in their order."""
        return list(self._tasks.values())

    def asleep(self) -> list[SleepingTask]:
        """Return those that sleep: each could run when it is due."""
        return list(self._sleeping)

    def next_seq(self) -> int:
        """Return the number for a new task, greater than all before."""
        self._last += 1
        return self._last

    def new_task(
        self,
        path: str,
        operation: Operation,
        done: Done = nobody_waits,
        *,
        created: float | None = None,
        due: float | None = None,
        promised: bool = False,
        ambiguous: bool = False,
    ) -> Task:
        """Return a task with the next number, which is not in the queue yet.

        By default it was `created` now, and is `due` at that time.
        """
        at = monotonic() if created is None else created
        state = Waiting(at if due is None else due)
        seq = self.next_seq()
        return Task(seq, path, operation, done, at, state, promised=promised, ambiguous=ambiguous)

    def skip(self, seq: int) -> None:
        """Give new tasks numbers greater than `seq`."""
        self._last = max(self._last, seq)

    def add(self, task: Task, after: Task | None = None) -> None:
        """Add a task behind all others; it waits for those about its names, and for `after`."""
        self._last = max(self._last, task.seq)
        self._tasks[task.seq] = task
        if after is not None:
            task.wait_for(after)
        self._append(task)
        if isinstance(task.operation, MoveObject):
            row = task.operation.row
            version = ObjectVersion(task.operation.source, etag_of(row))
            self._moved.begin(version, task.operation.target, is_marker=is_marker(row))
        if isinstance(task.operation, Delete | Move):
            # Swift has no folders: one whose marker is not stored yet exists only by its objects.
            for name in parents_of(task.operation):
                chain = self.chain(name)
                if chain and isinstance(chain[-1].operation, PutMarker):
                    task.wait_for(chain[-1])
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
                dependent.wait_for(blocker)
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
            dependent.wait_for(task)
        for blocker in other.blockers:
            task.wait_for(blocker)
        self._make_due(task)

    def rename(self, task: Task, seq: int, path: str, operation: Operation) -> None:
        """Give a task another name, behind the tasks of that, and the number `seq`.

        What waits for it goes on waiting, such as the deletion of an old object that a move has left.
        """
        if task in self:
            self._take_out(task)
        task.seq, task.path, task.operation = seq, path, operation
        self._last = max(self._last, seq)
        self._tasks[seq] = task
        self._append(task)
        self._make_due(task)

    def add_before(self, moves: Iterable[Task], carried: Iterable[Task]) -> None:
        """Add moves to names that `carried` tasks are about to get by `rename`: those come after them.

        Until then the carried tasks are in no chain: what they replace moves first.
        """
        for task in carried:
            self._take_out(task)
        for task in moves:
            self.add(task)

    def _append(self, task: Task) -> None:
        """Put a task behind all others about its names."""
        for name in names_of(task.operation):
            if chain := self.chain(name):
                task.wait_for(chain[-1])
                chain.append(task)
            else:
                self._chains[name] = [task]

    def _take_out(self, task: Task) -> None:
        del self._tasks[task.seq]
        self._sleep_candidates.pop(task, None)
        if isinstance(task.operation, MoveObject):
            self._moved.end(task.operation.target)
        for name in names_of(task.operation):
            chain = self._chains[name]
            chain.remove(task)
            if not chain:
                del self._chains[name]

    def hold(self, tasks: Iterable[Task], gate: Task) -> None:
        """Let `tasks` wait for `gate`, which is no task of the queue, until `release`."""
        for task in tasks:
            task.wait_for(gate)

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
            # `_next_awake` skips it, because its state is not the task's any more. The tie-breaker is there
            # because states have no order.
            is_move = isinstance(task.operation, MoveObject)
            is_again = isinstance(task.state, Retrying) and task.state.due > AMONG_OTHERS
            heap = self._due_moves if is_move else self._due_again if is_again else self._due
            heapq.heappush(heap, (task.state.due, next(self._ties), task.seq, task.state))
            if not is_move:
                self._sleep_candidates[task] = None
                self._sleep_candidates.move_to_end(task)
            if len(heap) > 2 * len(self._tasks) + 64:
                heap[:] = [entry for entry in heap if self._counts(entry)]
                heapq.heapify(heap)

    def _counts(self, entry: _Due) -> bool:
        task = self._tasks.get(entry[2])
        return task is not None and task.state is entry[3] and self._can_run(task)

    def rest(self) -> None:
        """Let tasks sleep that need not be awake. Call it only where no caller still uses a task."""
        for _ in range(min(len(self._sleep_candidates) - AWAKE, AT_ONCE)):
            task, _ = self._sleep_candidates.popitem(last=False)
            if can_sleep(task) and task in self:
                self._let_sleep(task)

    def _let_sleep(self, task: Task) -> None:
        assert isinstance(task.operation, PutFile)
        name, file = task.operation.name, task.operation.file.file
        if len(self._chains[name]) > 1:
            return
        if (allocated := self._uses.put_away(file)) is None:
            self._sleep_candidates[task] = None  # somebody has the file open: later
            return
        self._sleeping.add(SleepingTask(task, name, allocated))
        del self._tasks[task.seq], self._chains[name]

    def add_asleep(self, sleeping: SleepingTask) -> bool:
        """Add a task of an earlier mount; return False if its name has another one, or its file is used.

        Its local file, which nobody has used yet, is put away. It is due when `begin` says so.
        """
        if self.has(sleeping.name) or not self._uses.put_away_unused(sleeping.file):
            return False
        self._sleeping.expect(sleeping)
        return True

    def begin(self, due: float) -> None:
        """Make the tasks that wait due at `due` (monotonic seconds): all of an earlier mount are queued."""
        for task in self.awake():
            if isinstance(task.state, Waiting):
                self.schedule(task, due)
        self._sleeping.begin(due)

    def _wake(self, name: ObjectName) -> None:
        """Wake the sleeping task about a name, if there is one."""
        if (sleeping := self._sleeping.pop(name)) is None:
            return
        task = sleeping.awake()
        assert isinstance(task.operation, PutFile)
        self._uses.bring_back(task.operation.file.file, name, sleeping.allocated)
        self._tasks[task.seq] = task
        self._chains[name] = [task]
        self._make_due(task)

    def run_now(self, task: Task, due: float = AMONG_OTHERS) -> None:
        """Make a task due now, even if it is blocked; of a running one, its newer hand-in.

        `due` is one of the three constants; the task keeps an earlier one that another thread has given it.
        """
        if isinstance(task.state, Waiting | Retrying):
            due = min(due, task.state.due)
        if not task.running:
            self.schedule(task, due, task.error)
        # When the running upload has ended, its task would wait for the write delay of the newer hand-in.
        elif task.newer is not None:
            task.newer = replace(task.newer, due=0.0)

    def flush_all(self) -> None:
        """Make all tasks due now, and mark them for the report of this flush."""
        for task in self.awake():
            task.flush_mark, task.flush_hand_in = task.attempts, task.hand_ins
            self.run_now(task)
        self._sleeping.hasten(lambda _: True, flush=True)

    def run_all_now(self, *, failed: bool = False) -> None:
        """Make all tasks due now, or only those that have `failed`."""
        for task in self.awake():
            if task.error is not None or not failed:
                self.run_now(task)
        self._sleeping.hasten(lambda one: one.error is not None or not failed)

    def start_files(self) -> None:
        """Make the files due now that were not tried yet."""
        for task in self.awake():
            # A task that has failed keeps its pause: a full disk is no reason to hurry a server that refuses.
            # One that is due already needs no second entry.
            waits = isinstance(task.state, Waiting) and task.state.due > 0.0
            if isinstance(task.operation, PutFile) and not task.attempts and waits:
                self.schedule(task, 0.0)
        self._sleeping.hasten(lambda one: not one.attempts and one.error is None)

    def runnable(self) -> int:
        """Return how many tasks can be executed, now or later, without help."""
        return len(self._sleeping) + sum(not task.is_stuck for task in self._tasks.values())

    def chain(self, name: ObjectName) -> list[Task]:
        """Return the tasks about a name in their order."""
        if (chain := self._chains.get(name)) is not None:
            return chain  # one that sleeps has none
        self._wake(name)
        return self._chains.get(name, [])

    def is_replaced(self, name: ObjectName, task: Task) -> bool:
        """Return whether the next task about a name after `task` deletes or overwrites the whole object."""
        behind = self.next_after(name, task)
        after = behind.operation if behind is not None else None
        if isinstance(after, PutFile):
            return after.file.is_whole and not after.foreign_headers_unknown
        return isinstance(after, Delete | PutSpecial)

    def take_over(self, name: ObjectName, task: Task, left: Collection[Task] = ()) -> Task | None:
        """Return the next task about a name after `task` if it stores an object there, else None.

        Then the old object need not be deleted, if `left` are such deletions: a file replaces it. A
        `PutMarker` becomes as after an attempt: the old marker, which it finds, counts as made, and a
        deletion after it must be sent.
        """
        after = self.next_after(name, task)
        if after is None or not isinstance(after.operation, PutFile | PutSpecial | PutMarker):
            return None
        if isinstance(after.operation, PutMarker):
            after.ambiguous, after.operation = True, attempted(after.operation)
        for deletion in left:
            after.operation = (coalesce(deletion.operation, after.operation) or (after.operation,))[0]
        return after

    def next_after(self, name: ObjectName, task: Task) -> Task | None:
        """Return the next task about a name after `task`."""
        chain = self.chain(name)
        behind = chain[chain.index(task) + 1 :]
        return behind[0] if behind else None

    def has(self, name: ObjectName) -> bool:
        """Return whether there is a task about a name."""
        return name in self._chains or name in self._sleeping

    def has_folder_made_again(self, names: Iterable[ObjectName]) -> bool:
        """Return whether a folder above an object was deleted and made again, and that is not stored yet.

        If a power cut brings the deletion back, the next mount does not show what is in the folder.
        """
        tasks = (task for marker in markers_above(names) for task in self.chain(marker))
        return any(isinstance(task.operation, Delete) for task in tasks)

    def tail(self, name: ObjectName) -> Task | None:
        """Return the last task about a name."""
        chain = self.chain(name)
        return chain[-1] if chain else None

    def superseded_deletion(self, operation: Move | MoveFolder) -> Task | None:
        """Return the pending deletion of a move's target, which the move replaces."""
        tail = self.tail(operation.target) if isinstance(operation, Move) else None
        return tail if tail and not tail.running and isinstance(tail.operation, Delete) else None

    def below(self, folder: Folder) -> list[Task]:
        """Return the tasks about names below a folder."""
        for name in self._sleeping.names_below(folder):
            self._wake(name)
        return [
            # The last of each name is enough: it waits for those before it.
            chain[-1]
            for name, chain in self._chains.items()
            if Folder(name.container, name.key).is_below(folder)
        ]

    def next_urgency(self) -> float | None:
        """Return when the task is due that `pop_due` returns first, None if no thread waits for it."""
        due = self._next_awake(self._due)
        is_awaited = due < math.inf and self._tasks[self._due[0][2]].awaited_hand_in > 0
        return due if is_awaited else None

    def awaited_under_way(self) -> int:
        """Return how many batches run that threads wait for."""
        return sum(any(task.awaited_hand_in for task in batch) for batch in self.under_way)

    def next_due(self) -> float:
        """Return when the next task can run (monotonic seconds): never while all wait for other tasks."""
        sleeping = self._sleeping.first()
        awake = min(self._next_awake(self._due), self._next_awake(self._due_again), self._next_move())
        due = awake if sleeping is None else min(awake, sleeping.due)
        return max(due, self.next_probe) if self.is_away and self.next_urgency() is None else due

    def _next_move(self) -> float:
        if (due := self._next_awake(self._due_moves)) < math.inf:
            is_awaited = self._tasks[self._due_moves[0][2]].is_awaited
            if self.moving >= (MOST_MOVING if is_awaited else 1):
                return math.inf
        return due

    def _next_awake(self, heap: list[_Due]) -> float:
        # A task that waits for others loses its entry here; `remove` makes a new one when they have ended.
        while heap and not self._counts(heap[0]):
            heapq.heappop(heap)
        return heap[0][0] if heap else math.inf

    def pop_due(self, now: float) -> Task | None:
        """Return a task that may run at `now`, and remove its due entry; it stays in the queue."""
        if (due := self.next_due()) > now:
            return None
        sleeping = self._sleeping.first()
        if sleeping is not None and sleeping.due <= (now if self.is_away else due):
            self._wake(sleeping.name)
        fresh, again, move = self._next_awake(self._due), self._next_awake(self._due_again), self._next_move()
        # While the server does not answer, what was not tried yet comes first: it may be only some objects
        # that it does not serve. Moves come last: they are many, and a program may wait for another task.
        if fresh <= now and (self.is_away or fresh <= again):
            heap = self._due
        elif again <= now and not (self.is_away and move < again):
            heap = self._due_again
        else:
            heap = self._due_moves
        return self._tasks[heapq.heappop(heap)[2]]

    def waiting_moves(self, first: Task, most: int) -> list[Task]:
        """Return `first` and others of its kind that could run, due or not: one request looks at many.

        If somebody waits for the first, only those that somebody waits for.
        """
        free = (
            task
            for task in self._tasks.values()
            if isinstance(task.operation, MoveObject) and task is not first and self._can_run(task)
            if isinstance(task.state, Waiting) and (task.is_awaited or not first.is_awaited)
            if _are_near(task.operation, first.operation)
        )
        return [first, *itertools.islice(free, most - 1)]

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


def _are_near(one: Operation, other: Operation) -> bool:
    """Return whether two moves are of one rename: one listing shows the objects of both."""
    return isinstance(one, MoveObject) and isinstance(other, MoveObject) and one.part_of == other.part_of
