"""What the journal tells: reports of pending changes, with the progress of uploads, and refusals.

A change that was given up is kept until a call or a report has named it. What the mount has shown of it is
counted by its names: a change of that is no change of what another client has there.
"""

import errno
import heapq
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable

from cachetools import LRUCache
from msgspec import Struct

from swiftfs.concurrency import monotonic
from swiftfs.errors import NotFound, os_error
from swiftfs.filecache.block_map import BLOCK, block_range
from swiftfs.filecache.cache import FileCache
from swiftfs.filecache.cached_file import CachedFile
from swiftfs.journal.operations import (
    KINDS,
    Delete,
    Move,
    MoveFolder,
    MoveObject,
    Operation,
    PutFile,
    PutMarker,
    names_of,
)
from swiftfs.journal.queue_report import QueuedChange, QueueReport, RenameProgress
from swiftfs.journal.sleeping_tasks import SleepingTask
from swiftfs.journal.tasks import Failure, Task
from swiftfs.objects import ObjectName
from swiftfs.paths import Folder

MOST_KEPT = 10_000
"""Refusals kept with their reasons; the rest are only counted."""


def complaint(task: Task, error: Failure) -> str:
    """Return the log line of a change that was given up."""
    if isinstance(task.operation, MoveObject):
        new = task.operation.part_of.renamed(task.path)
        # Another client may have deleted it.
        back = "" if isinstance(error, NotFound) else ", and is at its old name again"
        return f"{task.path}: could not be moved to {new}{back}: {error}"
    done = "deleted" if isinstance(task.operation, Delete) else "changed"
    return f"{task.path}: could not be {done}: {error}"


class Refusal(Struct, frozen=True):
    """A task that was given up, and its error; `shown` if the report of a flush has named it."""

    task: Task
    error: Failure
    shown: bool = False

    def is_about(self, name: ObjectName) -> bool:
        """Return whether the change was about the object `name`."""
        return name in names_of(self.task.operation)


class Refusals:
    """The changes that were given up and not reported yet. The journal's lock guards it."""

    def __init__(self) -> None:
        self._kept: list[Refusal] = []
        self._more = self._more_shown = 0

    def __len__(self) -> int:
        return len(self._kept) + self._more

    def add(self, task: Task, error: Failure) -> None:
        """Record that a task was given up, except a move or a new folder, whose call raises the error."""
        if not isinstance(task.operation, Move | MoveFolder | PutMarker):
            self.keep(task, error)

    def keep(self, task: Task, error: Failure) -> None:
        """Record a given-up task whose error no call can raise, such as a move of an earlier mount."""
        if len(self._kept) < MOST_KEPT:
            self._kept.append(Refusal(task, error))
        else:
            self._more += 1

    def kept(self) -> list[Refusal]:
        """Return the refusals in their order, at most `MOST_KEPT`."""
        return list(self._kept)

    def forget(self, task: Task) -> None:
        """Forget a task's refusal: the call that waited for the task raises the error."""
        self._keep(lambda one: one.task is not task)

    def forget_earlier(self, task: Task) -> None:
        """Forget refusals of earlier changes of the same kind: this task has replaced them."""
        if self._kept:
            names, kind = names_of(task.operation), type(task.operation)
            self._keep(lambda one: type(one.task.operation) is not kind or not any(map(one.is_about, names)))

    def take(self, at: ObjectName | Folder) -> Failure | None:
        """Return why the oldest refused change of a name, or below a folder, was given up, and forget it.

        Below a folder all are forgotten.
        """
        if isinstance(at, ObjectName):
            return self._take(lambda one: one.is_about(at))

        def is_below(one: Refusal) -> bool:
            return any(Folder(name.container, name.key).is_below(at) for name in names_of(one.task.operation))

        error = first = self._take(is_below)
        while first is not None:
            first = self._take(is_below)
        return error

    def show(self) -> None:
        """Record that the report of a flush has named the refusals; they stay until the next flush begins."""
        self._kept = [Refusal(one.task, one.error, shown=True) for one in self._kept]
        self._more_shown = self._more

    def forget_shown(self) -> None:
        """Forget the refusals that the report of an earlier flush has named."""
        self._more -= self._more_shown
        self._more_shown = 0
        self._keep(lambda one: not one.shown)

    def _take(self, fits: Callable[[Refusal], bool]) -> Failure | None:
        for index, one in enumerate(self._kept):
            # A move here is an earlier mount's: a caller of fsync(2) in this mount has not asked for it.
            if fits(one) and not isinstance(one.task.operation, Move | MoveFolder):
                return self._kept.pop(index).error
        return None

    def _keep(self, wanted: Callable[[Refusal], bool]) -> None:
        self._kept = [one for one in self._kept if wanted(one)]


MOST_NAMES = 50_000
"""More than the objects of the largest rename, all of which Swift may refuse to move."""


class GivenUp:
    """Counts what was given up, by the names at which it was to come. The journal's lock guards it.

    A call that deletes something, or changes its attributes, reads `count` before it looks at what that is.
    If that has been given up when the change is recorded, nothing of it is at the name: whatever is there is
    another client's.
    """

    def __init__(self) -> None:
        self.count = 0
        self._last: LRUCache[ObjectName, int] = LRUCache(MOST_NAMES)
        self._stayed: LRUCache[ObjectName, int] = LRUCache(MOST_NAMES)

    def add(self, operation: Operation) -> None:
        """Record that an operation was given up, after the mount has shown the state before it again."""
        match operation:
            case MoveObject():
                name = operation.target
            case PutMarker():
                name = operation.name
            case _:
                return
        self.count += 1
        self._last[name] = self.count
        if isinstance(operation, MoveObject):
            self._stayed[operation.source] = self.count

    def has(self, name: ObjectName, since: int) -> bool:
        """Return whether what was to come to a name was given up since the count was `since`."""
        return bool(self._last.get(name, 0) > since)

    def has_stayed_below(self, folder: Folder, since: int) -> bool:
        """Return whether an object is at its old name again, or its new one was below a folder, `since`."""
        if self.count <= since:
            return False
        for last in (self._stayed, self._last):
            # A copy: to look one up changes the order.
            for name in [name for name in list(last) if last[name] > since]:
                if name.container == folder.container and name.key.startswith(folder.prefix):
                    return True
        return False

    def check(self, path: str, name: ObjectName, since: int) -> None:
        """Raise `OSError` ESTALE if what was to come to a name was given up since the count was `since`."""
        if self.has(name, since):
            raise os_error(errno.ESTALE, path)


UnderWay = Callable[[str], int]
"""Returns how many bytes the PUTs under way have sent to an object, or to those below a name that ends in a
slash."""


def sent_bytes(name: ObjectName, cached_file: CachedFile, under_way: UnderWay) -> int:
    """Return how many bytes of a file that is uploaded as `name` need not be sent any more.

    They are on the network, in segments of the file's own, or in the old object that a patch keeps.
    """
    uploads = cached_file.uploads
    if not uploads.record.has_begun:
        return under_way(str(name))
    missing = cached_file.changes()
    for stored in (*cached_file.evicted(), *uploads.stored(protected=False)):
        missing.discard(*block_range(stored.start, stored.end))
    size = cached_file.size
    end = block_range(0, size)[1]
    missing.cut(end)
    behind = -size % BLOCK  # bytes of the last block behind the file's end
    there = size - len(missing) * BLOCK + (behind if missing.touches(end - 1, end) else 0)
    return min(size, there + under_way(f"{uploads.record.prefix}"))


MOST_CHANGES = 500
"""Changes in a report: this many fit, unless names are long."""

MOST_RENAMES = 10
"""Renames in a report."""

REASON_CHARACTERS = 300

_ORDER = ("parked", "running", "waiting")


def describe(task: Task | SleepingTask, sent: int = 0, state: str = "") -> QueuedChange:
    """Return a task as a status shows it; `sent` bytes of its file need not be sent any more.

    Without a `state` it is the task's own.
    """
    task = task.awake() if isinstance(task, SleepingTask) else task
    reason = str(task.error)[:REASON_CHARACTERS] if task.error is not None else ""
    kind = KINDS[type(task.operation)]
    return QueuedChange(task.path, kind, state or _state(task), _size(task), task.attempts, reason, sent)


def task_sent(cache: FileCache, under_way: UnderWay, task: Task) -> int:
    """Return how many bytes of a task's file need not be sent any more, as `sent_bytes`."""
    if not isinstance(task.operation, PutFile):
        return 0
    cached_file = cache.peek(task.operation.file.file)
    return sent_bytes(task.operation.name, cached_file, under_way) if cached_file is not None else 0


def report(
    tasks: Iterable[Task | SleepingTask],
    refusals: Refusals,
    *,
    away: bool,
    sent: Callable[[Task], int] = lambda _: 0,
) -> QueueReport:
    """Return a report about tasks; the journal's lock is held. `sent` is called for the running ones."""
    tasks = list(tasks)
    states = [_state(task) for task in tasks]
    asked = [task for task in tasks if task.flush_mark is not None]
    first = heapq.nsmallest(MOST_CHANGES, tasks, key=_urgency)
    return QueueReport(
        states.count("waiting"),
        states.count("running"),
        states.count("parked"),
        sum(map(_size, tasks)),
        away,
        0 if away else sum(not _is_tried(task) for task in asked),
        len(asked),
        tuple(describe(task, sent(task) if isinstance(task, Task) and task.running else 0) for task in first),
        len(tasks) - len(first),
        max(0.0, monotonic() - min((task.created for task in tasks), default=math.inf)),
        len(refusals),
        tuple(describe(one.task, state="refused") for one in refusals.kept()[:MOST_CHANGES]),
        renames=_renames(tasks),
    )


def _renames(tasks: Iterable[Task | SleepingTask]) -> tuple[RenameProgress, ...]:
    """Return the progress of the renames of folders whose objects move in the background."""
    moves = (task.operation for task in tasks if isinstance(task, Task))
    left = Counter(one.part_of for one in moves if isinstance(one, MoveObject))
    return tuple(
        RenameProgress(one.old, one.new, one.objects, count)
        for one, count in itertools.islice(left.items(), MOST_RENAMES)
    )


def _state(task: Task | SleepingTask) -> str:
    return "running" if task.running else "parked" if task.blocked else "waiting"


def _size(task: Task | SleepingTask) -> int:
    if isinstance(task, SleepingTask):
        return task.size
    operation = task.newest
    return operation.file.size if isinstance(operation, PutFile) else 0


def _urgency(task: Task | SleepingTask) -> tuple[bool, bool, int, int]:
    # The objects of a folder last: there may be thousands, and the report has their rename.
    is_part = isinstance(task, Task) and isinstance(task.operation, MoveObject)
    return task.error is None, is_part, _ORDER.index(_state(task)), task.seq


def _is_tried(task: Task | SleepingTask) -> bool:
    """Return whether a task, or one that it waits for, has failed since the flush began."""
    if task.flush_mark is not None and task.attempts > task.flush_mark and not task.running:
        return True
    return isinstance(task, Task) and any(map(_is_tried, task.blockers))
