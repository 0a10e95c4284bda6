"""Make reports of pending changes from the tasks, with the progress of uploads."""

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable

from swiftfs.concurrency import monotonic
from swiftfs.filecache.block_map import BLOCK, block_range
from swiftfs.filecache.cache import FileCache
from swiftfs.filecache.cached_file import CachedFile
from swiftfs.journal.operations import KINDS, MoveObject, PutFile
from swiftfs.journal.queue_report import QueuedChange, QueueReport, RenameProgress
from swiftfs.journal.refusals import Refusals
from swiftfs.journal.sleeping_tasks import SleepingTask
from swiftfs.journal.tasks import Task
from swiftfs.objects import ObjectName

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


def progress(cache: FileCache, under_way: UnderWay) -> Callable[[Task], int]:
    """Return a function for the number of bytes of a task's file that need not be sent any more."""

    def sent(task: Task) -> int:
        if not isinstance(task.operation, PutFile):
            return 0
        cached_file = cache.peek(task.operation.file.file)
        return sent_bytes(task.operation.name, cached_file, under_way) if cached_file is not None else 0

    return sent


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
