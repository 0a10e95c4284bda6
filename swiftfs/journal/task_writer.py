"""Changes of pending tasks: first in the database, then in the queue and in the cache.

INVARIANT: the database is written first. If the disk refuses that, nothing has changed. A local file is
pinned in the cache as long as a task in the queue or an older row of the database names it.
"""

import logging
import math
from collections.abc import Callable, Collection, Iterable, Sequence

from msgspec.structs import replace

from swiftfs.concurrency import monotonic
from swiftfs.filecache.cache import FileCache
from swiftfs.journal.commits import Executed, Record, file_of
from swiftfs.journal.database import JournalDB
from swiftfs.journal.merging import coalesce, merge_hand_in, merge_while_running
from swiftfs.journal.operations import (
    ANY_VERSION,
    Delete,
    Move,
    Operation,
    PutFile,
    PutMarker,
    PutSpecial,
    ReplaceHeaders,
    SetAttributes,
    names_of,
)
from swiftfs.journal.report import GivenUp
from swiftfs.journal.task_queue import TaskQueue
from swiftfs.journal.tasks import Cancelled, Done, Ending, HandIn, Succeeded, Task, Waiting
from swiftfs.objects import ObjectName
from swiftfs.paths import Folder

log = logging.getLogger(__name__)


class HeldDeletions:
    """The held deletions by their numbers. Not locked: the journal's lock guards them.

    A task that is `Waiting` until infinity waits for the last close of its file. The others become ordinary
    changes when they are due, and before another operation about their name: until then they can be taken
    back.

    One that was taken back is `Cancelled`. Its record stays until a rename replaces the object, or fails.
    INVARIANT: it is gone before, or with the commit of, any other operation about its name.
    """

    def __init__(self) -> None:
        self._tasks: dict[int, Task] = {}

    def add(self, task: Task) -> None:
        """Hold a deletion."""
        self._tasks[task.seq] = task

    def pop(self, seq: int) -> Task | None:
        """Return and forget a deletion; None if it is not held any more."""
        if (task := self._held(seq)) is not None:
            del self._tasks[seq]
        return task

    def _held(self, seq: int) -> Task | None:
        task = self._tasks.get(seq)
        return None if task is None or task.ended else task

    def take_back(self, seq: int) -> Task | None:
        """Cancel a deletion, which never becomes a change, and return it; None if it is not held any more."""
        if (task := self._held(seq)) is not None:
            task.become(Cancelled())
        return task

    def taken_back(self, at: Collection[ObjectName] | Folder) -> list[Task]:
        """Return the deletions of these names, or below a folder, that were taken back and have a record."""
        return [task for task in self._at(at) if task.ended] if self._tasks else []

    def forget(self, tasks: Iterable[Task]) -> list[Task]:
        """Forget deletions that were taken back; return those that were not forgotten before."""
        return [task for task in tasks if self._tasks.pop(task.seq, None) is not None]

    def set_due(self, seq: int, seconds: float) -> None:
        """Make a deletion that waits for a last close due `seconds` after it was handed in."""
        if (task := self._held(seq)) is not None and _due(task) == math.inf:
            task.become(Waiting(task.created + seconds))

    def next_due(self) -> float:
        """Return when the next deletion is due (monotonic seconds)."""
        return min(map(_due, self._tasks.values()), default=math.inf)

    def due(self, now: float) -> list[Task]:
        """Return the deletions that are due."""
        return [task for task in self._tasks.values() if _due(task) <= now]

    def timed(self, at: Collection[ObjectName] | Folder | None = None) -> list[Task]:
        """Return the deletions, all or those `at` some names or below a folder, that wait for no close."""
        return [task for task in self._at(at) if _due(task) != math.inf] if self._tasks else []

    def _at(self, at: Collection[ObjectName] | Folder | None) -> list[Task]:
        if at is None:
            return list(self._tasks.values())
        named = [(task, names_of(task.operation)[0]) for task in self._tasks.values()]
        if isinstance(at, Folder):
            return [task for task, name in named if Folder(name.container, name.key).is_below(at)]
        return [task for task, name in named if name in at]


def _due(task: Task) -> float:
    """Return when a deletion becomes a change: never while it waits for a close, or was taken back."""
    return task.state.due if isinstance(task.state, Waiting) else math.inf


RecordRename = Callable[[], tuple[Done, Done]]
"""Shows a rename in the mount; returns the callbacks for when the new name is stored, and for when the old
one is gone."""

LONGEST_SETTLING = 15
"""A task that is changed again and again waits at most this many write delays."""


class TaskWriter:
    """Adds, changes and ends the tasks of `queue`. The journal's lock is held for every call.

    `settle_seconds` is the write delay: how long a change waits, so that later ones can be merged with it.
    `held` are the deletions that are no tasks of the queue yet, `given_up` what was shown and is not there.
    """

    def __init__(self, queue: TaskQueue, db: JournalDB, cache: FileCache, settle_seconds: float) -> None:
        self._queue = queue
        self._db = db
        self._cache = cache
        self._settle_seconds = settle_seconds
        self.is_closing = False
        self.held = HeldDeletions()
        self.given_up = GivenUp()

    def begin_closing(self) -> None:
        """Make every change due at once from now on: the mount is ending."""
        self.is_closing = True

    def pin_older(self) -> None:
        """Pin the local files that older rows need since the last call, and unpin those that none needs."""
        for file, is_needed in self._db.take_pins():
            if is_needed:
                self._cache.pin(file, older=True)
            else:
                self._cache.unpin(file, older=True)

    def check_target(self, path: str, operation: Operation, since: int | None) -> None:
        """Raise `OSError` ESTALE if what an operation was to change has been given up; see `Journal.submit`.

        A new folder's marker changes nothing: what Swift has at its name stays.
        """
        name = names_of(operation)[0]
        if since is None or isinstance(operation, PutMarker):
            return
        if not self._queue.has(name):  # else it is of something newer
            self.given_up.check(path, name, since)

    def submit(self, path: str, operation: Operation, done: Done, at_least: float) -> bool:
        """Record an operation, alone or merged with a waiting one; see `Journal.submit`."""
        self.drop_taken_back(self.held.taken_back(names_of(operation)))
        operation = self._with_present_base(operation)
        # A second record of the same local file could contradict the first after a crash: see
        # docs/decisions/one-record-a-file.md.
        chain = self._queue.chain(names_of(operation)[0])
        if isinstance(operation, PutFile) and (holder := _holder_of(operation, chain)) is not None:
            self.keep_newer(holder, path, operation, done, at_least)
            return True
        tail = chain[-1] if chain else None
        # Only a task that does not run can be changed: of a running one nobody knows what is sent already.
        merged = None if tail is None or tail.running else coalesce(tail.operation, operation)
        if tail is None or merged is None:
            self.new(path, operation, done, at_least)
        elif merged:
            self.change(tail, path, merged[0], done, at_least)
        else:
            self.drop(tail)
        return merged != ()

    def _with_present_base(self, operation: Operation) -> Operation:
        """Return a file's operation with the record of its present base version.

        An upload of the file may have ended since the record was made: the version that it names is gone. Or
        one has made every byte the file's own, as it is about to replace that version.
        """
        cached_file = self._cache.peek(operation.file.file) if isinstance(operation, PutFile) else None
        if not isinstance(operation, PutFile) or cached_file is None:
            return operation
        if cached_file.base == operation.file.base and operation.file.is_whole:
            return operation
        now = cached_file.to_record()
        return replace(operation, file=now) if now.is_whole or now.base != operation.file.base else operation

    def hold(self, path: str, deletion: Delete, done: Done, seconds: float) -> int:
        """Record a deletion without a task, and return its number; see `Journal.hold`."""
        self.drop_taken_back(self.held.taken_back([deletion.name]))
        task = self._queue.new_task(path, deletion, done, due=monotonic() + seconds)
        self._db.commit([task.record()])
        self.held.add(task)
        return task.seq

    def let_go(self, held: Task) -> None:
        """Make a held deletion an ordinary change; if the disk refuses that, one that is not merged."""
        self.held.pop(held.seq)
        try:
            # The new record first: a process that dies between the two commits leaves two deletions, which
            # does no harm. In the other order it would leave none, and the file would come back.
            waits = self.submit(held.path, held.operation, held.done, 0.0)
        except OSError as error:
            log.info("%s: its deletion keeps its own record: %s", held.path, error)
            held.promised = True
            self._queue.add(held)
            self._queue.schedule(held, monotonic() + self._delay(0.0))
            return
        if not waits:
            held.notify(None)
        elif (tail := self._queue.tail(names_of(held.operation)[0])) is not None:
            tail.promised = True  # the call that deleted it has returned
        self._db.finish(drop=[held.seq])

    def drop_taken_back(self, tasks: Collection[Task]) -> bool:
        """Drop the records of held deletions that were taken back; return whether there were any."""
        if not tasks:
            return False
        forgotten = self.held.forget(tasks)
        for task in forgotten:
            # After a power cut it must not come back: it would delete the file that has its name again.
            self._db.finish(drop=[task.seq], executed=[Executed(task.operation, task.seq)])
        return bool(forgotten)

    def new(self, path: str, operation: Operation, done: Done, at_least: float) -> None:
        """Add a task for `operation`, due after the longer of the write delay and `at_least` seconds."""
        due = monotonic() + self._delay(at_least)
        # Promised if it waits `at_least` so long: its call returns before it runs, in sync mode too.
        task = self._queue.new_task(path, operation, done, due=due, promised=at_least > 0)
        self._db.commit([task.record()])
        self.add(task)

    def add(self, task: Task) -> None:
        """Put a task that is in the database into the queue."""
        self._pin(task.operation)
        self._queue.add(task)

    def change(self, task: Task, path: str, operation: Operation, done: Done, at_least: float) -> None:
        """Replace the operation of a task that does not run; if it failed, it is tried again."""
        self.commit([Record(task.seq, path, operation)])
        if file_of(operation) != file_of(task.operation):
            self._pin(operation)
            self._unpin(task.operation)
        task.path, task.operation, task.done = path, operation, done
        task.hand_ins += 1
        task.promised |= at_least > 0  # as in `new`
        # A change during an fsync or a flush must not put off the attempt that somebody waits for.
        latest = 0.0 if task.is_awaited else task.created + LONGEST_SETTLING * self._settling()
        self._queue.schedule(task, min(monotonic() + self._delay(at_least), latest))

    def drop(self, task: Task, executed: Executed | None = None) -> None:
        """End a task that is not needed any more; `executed` as in `JournalDB.commit`."""
        self.commit(drop=[task.seq], executed=executed)
        self._queue.remove(task)
        task.become(Cancelled())
        self._unpin(task.operation)

    def keep_newer(self, holder: Task, path: str, operation: PutFile, done: Done, at_least: float) -> None:
        """Merge `operation` into `holder`, or keep it there until a running upload has ended.

        Tasks behind the holder only set attributes, as the operation does too: it replaces them.
        """
        now = monotonic()
        chain = self._queue.chain(operation.name)
        behind = chain[chain.index(holder) + 1 :]
        assert isinstance(holder.operation, PutFile)
        assert all(isinstance(task.operation, SetAttributes | ReplaceHeaders) for task in behind)
        merge = merge_while_running if holder.running else merge_hand_in
        merged = merge(holder.operation, operation)
        # One commit: a crash must not leave the new record together with the attributes behind it, which are
        # older.
        self.commit([Record(holder.seq, path, merged)], [task.seq for task in behind])
        for task in behind:
            self._queue.remove(task)
            task.become(Cancelled())
            task.successor = holder
            # Otherwise the failure of this call would drop, in sync mode, a change for which an earlier call
            # reported success.
            holder.promised |= task.promised
        if holder.running:
            holder.keep_newer(HandIn(path, operation, done, now, now + self._delay(at_least)))
        else:
            self.change(holder, path, merged, done, at_least)

    def rename(
        self,
        task: Task,
        overtaken: Task | None,
        operation: PutFile | PutSpecial,
        path: str,
        record: RecordRename,
    ) -> None:
        """Replace the operation of `task` by `operation`, and put the task behind all others.

        The task `overtaken`, about the new name, is dropped. Swift's object at the old name is deleted after
        it. `record` is called after the commit.
        """
        assert isinstance(task.operation, PutFile | PutSpecial)
        was_there = not task.operation.creates
        # A new number: the next process takes the records up in their order, and this one belongs behind what
        # was recorded about the target.
        seq, leaves = self._queue.next_seq(), self._leave(task, task.operation)
        records = [Record(seq, path, operation), *([leaves.record()] if was_there else [])]
        gone = [task, *([overtaken] if overtaken else [])]
        # One commit: a crash leaves the file under its old name or under its new one, never under both or
        # none.
        self._commit_over(records, gone, [task.operation.name, operation.name])
        for one in gone:
            self._queue.remove(one)
        if overtaken:
            overtaken.become(Cancelled())
            task.ambiguous |= overtaken.ambiguous
            self._unpin(overtaken.operation)
        task.done, leaves.done = record()
        task.seq, task.path, task.operation = seq, path, operation
        self.unblock(task)
        if isinstance(operation, PutFile):
            # The old name's object will be deleted, so nothing may be read from it any more.
            # `PutFile.renamed` has made certain that every byte is here.
            self._cache.detach(operation.file.file)
        self._queue.add(task)
        if was_there:
            # Until the new name is stored, the old object is all that other clients and a new machine have of
            # the file.
            self._queue.add(leaves, after=task)
        else:
            leaves.notify(None)

    def _leave(self, task: Task, source: PutFile | PutSpecial) -> Task:
        """Return a task that deletes Swift's object at the name that the operation `source` of a task has."""
        deletion = Delete(source.name, source.replaces_large, source.replaces_etag, trash=source.trash)
        # Due at once, but blocked by the task of the new name.
        return self._queue.new_task(task.path, deletion, created=task.created)

    def _commit_over(
        self, put: Iterable[Record], drop: Iterable[Task], names: Collection[ObjectName]
    ) -> None:
        """Write and drop records in one commit, which also drops the deletions of `names` taken back."""
        taken_back = self.held.taken_back(names)
        self.commit(put, [one.seq for one in (*drop, *taken_back)])
        self.held.forget(taken_back)

    def unblock(self, task: Task) -> None:
        """Let a blocked task be tried again after the write delay: another name may not be refused."""
        if task.blocked:
            task.become(Waiting(monotonic() + self._delay(0.0)))

    def put_before(self, tasks: Sequence[Task], path: str, operation: Operation) -> None:
        """Add a task for `operation` before the tasks of its name, of which the first is blocked."""
        first = self._queue.new_task(path, operation)
        # New numbers: the next process takes the records up in their order.
        numbers = [self._queue.next_seq() for _ in tasks]
        later = [replace(task.record(), seq=seq) for task, seq in zip(tasks, numbers, strict=True)]
        self.commit([first.record(), *later], [task.seq for task in tasks])
        for task in tasks:
            self._queue.remove(task)
        self.add(first)
        for task, seq in zip(tasks, numbers, strict=True):
            task.seq = seq
            self._queue.add(task)

    def begin_move(self, task: Task, deletion: Task | None) -> None:
        """Add a move instead of the pending `deletion` of its target, which is put back if the move fails."""
        if deletion is not None:
            task.operation = _replacing(task.operation, deletion.operation)
        # One commit: the next process finishes moves before it executes deletions, so a record of the
        # deletion that was left beside the move would take the moved object.
        self._commit_over([task.record()], [deletion] if deletion else [], names_of(task.operation))
        if deletion is not None:
            self._queue.remove(deletion)
            task.overrides = deletion
        self.add(task)

    def end(
        self,
        task: Task,
        state: Succeeded | Cancelled,
        changed: Iterable[Task] = (),
        executed: Executed | None = None,
        others: Collection[Task] = (),
    ) -> None:
        """End a task in `state`, as an `Ending` of its own."""
        self.end_together([Ending(task, state, tuple(changed), executed=executed, others=others)])

    def end_together(self, endings: Sequence[Ending]) -> None:
        """End tasks in one commit."""
        changed = [one for ending in endings for one in self._changed_by(ending)]
        drop = [seq for ending in endings for seq in ending.dropped()]
        executed = [ending.executed for ending in endings if ending.executed is not None]
        stored = [ending.cached_file for ending in endings if ending.cached_file is not None]
        unreferenced = [row for one in stored if (row := one.uploads.unreferenced()) is not None]
        is_written = self._db.finish([one.record() for one in changed], drop, unreferenced, executed)
        if is_written:
            for cached_file in stored:
                cached_file.uploads.record_ended()
        self.pin_older()
        for ending in endings:
            if (state := ending.state) is not None:
                for one in ending.others:
                    self._forget(one, Cancelled(None if isinstance(one.operation, Delete) else state.error))
                self._forget(ending.task, state)

    def _changed_by(self, ending: Ending) -> Iterable[Task]:
        """Return the tasks to write; put back the deletion that a move was to replace, if that has failed."""
        overridden, task = ending.task.overrides, ending.task
        if overridden is None or ending.state is None:
            return ending.changed
        if isinstance(ending.state, Succeeded):
            overridden.become(Cancelled())
            return ending.changed
        self._queue.put_before(overridden, task)
        return [*ending.changed, overridden]

    def _forget(self, task: Task, state: Succeeded | Cancelled) -> None:
        """Take a task that has no record any more out of the queue, in its last state."""
        self._queue.remove(task)
        task.become(state)
        if isinstance(state, Cancelled):
            self.given_up.add(task.operation)
        self._unpin(task.operation)

    def write(self, changed: Iterable[Task]) -> None:
        """Write tasks that an outcome has changed; if the disk refuses it, with the next commit."""
        self._db.finish([one.record() for one in changed])
        self.pin_older()

    def commit(
        self, put: Iterable[Record] = (), drop: Iterable[int] = (), executed: Executed | None = None
    ) -> None:
        """Write and delete records in one commit, as `JournalDB.commit` does."""
        self._db.commit(put, drop, executed)
        # Before the caller unpins what the new records do not name any more.
        self.pin_older()

    def set_settle(self, seconds: float) -> None:
        """Change the write delay of later changes; needs no lock."""
        self._settle_seconds = seconds

    def _delay(self, at_least: float) -> float:
        return max(self._settling(), at_least)

    def _settling(self) -> float:
        return 0.0 if self.is_closing else self._settle_seconds

    def _pin(self, operation: Operation) -> None:
        if (file := file_of(operation)) is not None:
            self._cache.pin(file)

    def _unpin(self, operation: Operation) -> None:
        if (file := file_of(operation)) is not None:
            self._cache.unpin(file)


def _replacing(move: Operation, deletion: Operation) -> Operation:
    """Return a move that replaces the object at its target, which a deletion was to delete.

    Nothing protects that object: whatever version is there is replaced, and its segments are deleted, as the
    deletion would have done.
    """
    if not isinstance(move, Move) or not isinstance(deletion, Delete):
        return move
    trash = deletion.trash or move.trash
    return replace(
        move,
        replaces_large=deletion.is_slo,
        replaces_etag=ANY_VERSION,
        trash=trash,
        deleted=deletion.etag,
    )


def _holder_of(operation: PutFile, chain: Sequence[Task]) -> Task | None:
    """Return the task with the operation's local file, unless it waits as the last of its name.

    INVARIANT: no two tasks have the same local file, so that no record of it contradicts another.
    """
    holder = next((task for task in chain if file_of(task.operation) == operation.file.file), None)
    return holder if holder is not None and (holder.running or holder is not chain[-1]) else None
