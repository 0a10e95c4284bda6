"""Changes below a folder that is renamed, which Swift has not seen: they get new names in one commit."""

import errno
from collections.abc import Callable, Collection, Sequence

from msgspec import Struct
from msgspec.structs import replace

from swiftfs.concurrency import monotonic
from swiftfs.errors import PreconditionFailed, os_error
from swiftfs.journal.commits import Record
from swiftfs.journal.merging import coalesce
from swiftfs.journal.operations import (
    CreateContainer,
    Delete,
    MoveFolder,
    Operation,
    PutFile,
    PutMarker,
    PutSpecial,
    Replaced,
    names_of,
)
from swiftfs.journal.outcomes import JournalParts
from swiftfs.journal.scheduler import Scheduler
from swiftfs.journal.tasks import Cancelled, Done, Task, Waiting, nobody_waits, with_blockers
from swiftfs.objects import ObjectName
from swiftfs.paths import MAX_KEY_BYTES, Folder, plain_marker, slash_marker

Put = PutFile | PutSpecial | PutMarker


class FolderRename(Struct, frozen=True):
    """The rename of the folder at the path `old` to `new`; in Swift that is from `source` to `target`.

    With `over_folder` an empty folder is at the target.
    """

    old: str
    new: str
    source: Folder
    target: Folder
    over_folder: bool = False

    @property
    def new_marker(self) -> ObjectName:
        """The new name of the folder's marker `d`."""
        return plain_marker(self.target) or slash_marker(self.target)

    def path(self, path: str) -> str:
        """Return the new path of what is at `path`."""
        return self.new + path[len(self.old) :]

    def name(self, name: ObjectName) -> ObjectName:
        """Return the new name of an object below the folder, or of its marker."""
        if name == plain_marker(self.source):
            return self.new_marker
        return ObjectName(
            self.target.container, self.target.prefix + name.key.removeprefix(self.source.prefix)
        )

    def moves(self, name: ObjectName) -> bool:
        """Return whether an object is below the folder, or marks it."""
        is_below = name.container == self.source.container and name.key.startswith(self.source.prefix)
        return is_below or self.is_marker(name)

    def is_marker(self, name: ObjectName) -> bool:
        """Return whether an object marks the folder itself."""
        return name in (plain_marker(self.source), slash_marker(self.source))


class Carried(Struct, frozen=True):
    """A change that gets a new name: `operation` is about `path` now, and was about `old`.

    With `leaves` the object of the old name, which Swift has, is deleted after it.
    """

    old: str
    path: str
    operation: Put
    leaves: bool


RecordCarried = Callable[[Sequence[Carried]], Sequence[tuple[Done, Done]]]
"""Shows in the mount that changes have new names; returns for each the callbacks for when the new name is
stored, and for when the old one is gone, which is called only if the change `leaves` it."""


class _Renaming(Struct, frozen=True):
    """A task with its new number, path and operation.

    The task `overtaken` is replaced by it, and `leaves` deletes the object of the old name.
    """

    task: Task
    seq: int
    carried: Carried
    overtaken: Task | None
    leaves: Task | None


class CarriedTasks:
    """The tasks below a folder that moves which Swift has not seen: they are held until `release`.

    INVARIANT: none of them is sent before it has its final name, so that no object of the other name exists.

    None is held unless `is_allowed`. The journal's lock is held for the calls of `hold` and `release`.
    """

    def __init__(
        self, parts: JournalParts, scheduler: Scheduler, rename: FolderRename, *, is_allowed: bool
    ) -> None:
        self._changed = parts.backlog.changed
        self._queue = parts.backlog.queue
        self._db = parts.db
        self._cache = parts.cache
        self._writer = parts.writer
        self._scheduler = scheduler
        self._rename = rename
        self._is_allowed = is_allowed
        now = monotonic()
        # Never in the queue, so never executed: what its operation is does not matter.
        self._gate = Task(0, rename.old, CreateContainer(""), nobody_waits, now, Waiting(now))
        self._tasks: list[Task] = []

    def hold(self) -> None:
        """Hold the tasks that need no request, and execute the others; raise the error of one that fails."""
        while rest := self._divide():
            # The lock is released meanwhile: the next turn looks at what has come of all of them.
            self._scheduler.attempt(rest, needs_all=True)

    def release(self) -> None:
        """Let the tasks be executed."""
        self._queue.release(self._gate)

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of the tasks' records."""
        return tuple(task.seq for task in self._tasks)

    def paths(self) -> list[str]:
        """Return the paths that the tasks are about."""
        return [task.path for task in self._tasks]

    def names(self) -> Collection[ObjectName]:
        """Return the objects that the tasks are about."""
        return {names_of(task.operation)[0] for task in self._tasks}

    def was_given_up(self, name: ObjectName, since: int) -> bool:
        """Return whether what was to come to a name was given up `since`, as in `GivenUp`."""
        with self._changed:
            return self._writer.given_up.has(name, since)

    def have_stayed(self, since: int) -> bool:
        """Return whether what a rename had moved from or to either folder was refused `since`."""
        with self._changed:
            folders = (self._rename.source, self._rename.target)
            return any(self._writer.given_up.has_stayed_below(one, since) for one in folders)

    def rename(self, record: RecordCarried, move: Task | None = None) -> None:
        """Give the tasks their new names, in one commit; `record` is called after that, with the lock held.

        With a `move`, which has moved what Swift has of the folder, the commit also drops its record; if it
        has handed on its objects, their moves are queued first. Without a move raise `OSError` if the disk
        refuses the commit: nothing has changed then.
        """
        with self._changed:
            if move is not None and move.later:
                self._queue.add_before(move.later, self._tasks)
            renamings = [self._renaming(task, is_moved=move is not None) for task in self._tasks]
            records, drop = _records(renamings, is_moved=move is not None)
            # One commit: a crash leaves all under the old names or all under the new ones.
            if move is None:
                self._writer.commit(records, drop)
            else:
                # The objects are moved. If the disk refuses this now, the record of the move stays too, until
                # the next commit writes all.
                self._db.finish(records, [*drop, move.seq])
                self._writer.pin_older()
            for one in renamings:
                self._apply(one)
            for one, (done, gone) in zip(renamings, record([one.carried for one in renamings]), strict=True):
                one.task.done = done
                if one.leaves is not None:
                    one.leaves.done = gone
                    # Until the new name is stored, the old object is all that other clients have of the file.
                    self._queue.add(one.leaves, after=one.task)
            self._changed.notify_all()

    def _divide(self) -> list[Task]:
        """Hold the tasks that only need another name; return the others below the folder."""
        tasks = self._queue.below(self._rename.source)
        marker = plain_marker(self._rename.source)
        tail = self._queue.tail(marker) if marker is not None else None
        if tail is not None and isinstance(tail.operation, PutMarker):
            tasks.append(tail)
        free = [task for task in tasks if self._is_free(task)]
        # The other tasks are executed while these are held, so none of them may wait for a held one.
        needed = set(with_blockers({*tasks} - {*free}))
        self._queue.release(self._gate)
        self._tasks = sorted((task for task in free if task not in needed), key=lambda task: task.seq)
        self._queue.hold(self._tasks, self._gate)
        held = set(self._tasks)
        return [task for task in tasks if task not in held]

    def _is_free(self, task: Task) -> bool:
        """Return whether a task only needs another name. Raise `OSError` ENAMETOOLONG if that is too long."""
        if not self._is_allowed or task.running or task.ambiguous or not isinstance(task.operation, Put):
            return False
        # Another rename may wait for a dependent of it. Two renames, each holding what the other waits for,
        # would never end.
        if task.dependents:
            return False
        name = task.operation.name
        # A repair may be put before a task whose base version is gone: see `Repairs.submit`.
        if len(self._queue.chain(name)) > 1 or isinstance(task.error, PreconditionFailed):
            return False
        # The folder that is at the target keeps its marker, which gets the attributes of this one by a COPY.
        if self._rename.over_folder and self._rename.is_marker(name):
            return False
        target = self._rename.name(name)
        if len(target.key.encode()) > MAX_KEY_BYTES:
            raise os_error(errno.ENAMETOOLONG, self._rename.path(task.path))
        return renamed(task.operation, target, is_moved=True) is not None

    def _renaming(self, task: Task, *, is_moved: bool) -> _Renaming:
        old = task.operation
        assert isinstance(old, Put)
        name = self._rename.name(old.name)
        operation: Operation | None = renamed(old, name, is_moved=is_moved)
        assert operation is not None
        tail = self._queue.tail(name)
        is_deleted = tail is not None and not tail.running and isinstance(tail.operation, Delete)
        merged = coalesce(tail.operation, operation) if tail is not None and is_deleted else None
        (operation,) = merged or (operation,)
        assert isinstance(operation, Put)
        # The next process takes the records up in their order: behind what was recorded about the new name.
        # Without that the number stays, and with it what is known of the file's bytes on the disk.
        seq = task.seq if tail is None else self._queue.next_seq()
        leaves = None
        if not is_moved and not isinstance(old, PutMarker) and not old.creates:
            deletion = Delete(old.name, old.replaces_large, old.replaces_etag)
            # Due at once, but blocked by the task of the new name.
            leaves = self._queue.new_task(task.path, deletion, created=task.created)
        path = self._rename.path(task.path)
        carried = Carried(task.path, path, operation, leaves is not None)
        return _Renaming(task, seq, carried, tail if merged else None, leaves)

    def _apply(self, one: _Renaming) -> None:
        """Change a task as its new record says."""
        if one.overtaken is not None:
            self._queue.remove(one.overtaken)
            one.overtaken.become(Cancelled())
            one.task.ambiguous |= one.overtaken.ambiguous
        self._writer.unblock(one.task)
        self._queue.rename(one.task, one.seq, one.carried.path, one.carried.operation)
        if isinstance(one.carried.operation, PutFile):
            # Every byte is here, and the old name's object is about to be gone.
            self._cache.detach(one.carried.operation.file.file)


def renamed(operation: Operation, name: ObjectName, *, is_moved: bool) -> Put | None:
    """Return the operation of a change that was never sent for another name, None if that is impossible.

    With `is_moved` the old name's object moves too, and the change replaces it at the new name. Otherwise it
    replaces nothing there.
    """
    match operation:
        case PutMarker():
            return replace(operation, name=name)
        case PutFile() | PutSpecial() if not is_moved or operation.creates:
            return operation.renamed(name, Replaced(creates=True))
        case PutFile() | PutSpecial() if operation.replaces_etag is not None:
            large, etag = operation.replaces_large, operation.replaces_etag
            return operation.renamed(name, Replaced(large, etag, trash=operation.trash))
    return None


def carried_record(record: Record, rename: FolderRename) -> Record:
    """Return the record of a carried change after its folder has moved with what Swift has of it.

    After a power cut it may be an older state, of before a rename that brought it to the folder: that stays.
    """
    before = names_of(record.operation)[0]
    name = rename.name(before) if rename.moves(before) else before
    operation = renamed(record.operation, name, is_moved=True) if name != before else None
    if operation is None:
        return record
    return Record(record.seq, rename.path(record.path), operation, carried=record.seq)


def folder_rename(operation: MoveFolder, old: str, new: str) -> FolderRename:
    """Return what a folder's move renames, whose paths are `old` and `new`."""
    source = Folder(operation.container, operation.source)
    return FolderRename(old, new, source, Folder(operation.target_container, operation.target))


def _records(renamings: Sequence[_Renaming], *, is_moved: bool) -> tuple[list[Record], list[int]]:
    """Return the records to write, and the numbers of those to drop."""
    records, drop = [], list[int]()
    for one in renamings:
        carried = one.task.seq if is_moved else None
        records.append(Record(one.seq, one.carried.path, one.carried.operation, carried))
        drop += [gone.seq for gone in (one.task, one.overtaken) if gone is not None and gone.seq != one.seq]
        if one.leaves is not None:
            records.append(one.leaves.record())
    return records, drop
