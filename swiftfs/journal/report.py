"""Reports of pending changes: the values that a status shows, and their JSON."""

import heapq
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

from swiftfs.concurrency import monotonic
from swiftfs.filecache.cache import FileCache
from swiftfs.filecache.progress import UnderWay, sent_bytes
from swiftfs.journal.operations import KINDS, PutFile
from swiftfs.journal.refusals import Refusals
from swiftfs.journal.tasks import Task

MOST_BYTES = 60_000
"""Limit of a report in JSON: the value of an extended attribute has at most 64 KiB (xattr(7))."""

MOST_CHANGES = 500
"""Changes in a report: this many fit, unless names are long."""

REASON_CHARACTERS = 300

_ORDER = ("parked", "running", "waiting")


@dataclass(frozen=True, slots=True)
class PendingChange:
    """An operation in a status: `state` is waiting, running or parked (blocked); `reason` its last error.

    `bytes` is the size of the file to be stored; while the operation runs, `sent` is how much of it
    need not be sent any more.
    """

    path: str
    kind: str
    state: str
    bytes: int
    attempts: int
    reason: str
    sent: int = 0


@dataclass(frozen=True, slots=True)
class QueueReport:
    """How many changes are not in Swift yet, by state, and the bytes of their files.

    - `oldest`: seconds since the first of them was handed in, or since the mount began.
    - `away`: the server did not answer the last request.
    - `unflushed`: changes of the last flush that are not in Swift; `flushing` of them were not tried since.
    - `changes`: the first changes, those that failed before the others; `left_out` is the number of the rest.
    - `refused`: changes that were given up and not reported yet; `refusals` are the first.
    - `watched`: objects for which a request whose answer was lost could undo a newer change.
    - `put_right` and `overwritten`: such objects that were, and could not be, stored again in this mount.
    """

    waiting: int
    running: int
    parked: int
    bytes: int
    away: bool
    flushing: int
    unflushed: int
    changes: tuple[PendingChange, ...] = ()
    left_out: int = 0
    oldest: float = 0.0
    refused: int = 0
    refusals: tuple[PendingChange, ...] = ()
    watched: int = 0
    put_right: int = 0
    overwritten: int = 0

    @property
    def total(self) -> int:
        """The number of changes that are not in Swift yet."""
        return self.waiting + self.running + self.parked

    def to_json(self) -> str:
        """Return it as JSON of at most `MOST_BYTES`, with as many changes as fit."""
        room = MOST_BYTES - len(json.dumps({**asdict(self), "changes": [], "refusals": []}))
        refusals = _fitting(self.refusals, room // 2)
        shown = _fitting(self.changes, room - len(json.dumps(refusals)))
        left_out = self.total - len(shown)
        return json.dumps({**asdict(self), "changes": shown, "refusals": refusals, "left_out": left_out})

    @classmethod
    def from_json(cls, text: str) -> "QueueReport":
        """Return what `to_json` wrote; raise `ValueError` or `TypeError` for anything else."""
        values = json.loads(text)
        for name in ("changes", "refusals"):
            values[name] = tuple(PendingChange(**change) for change in values.get(name, ()))
        return cls(**values)


def describe(task: Task, sent: int = 0, state: str = "") -> PendingChange:
    """Return a task as a status shows it; `sent` bytes of its file need not be sent any more.

    Without a `state` it is the task's own.
    """
    reason = str(task.error)[:REASON_CHARACTERS] if task.error is not None else ""
    kind = KINDS[type(task.operation)]
    return PendingChange(task.path, kind, state or _state(task), _size(task), task.attempts, reason, sent)


def progress(cache: FileCache, under_way: UnderWay) -> Callable[[Task], int]:
    """Return a function for the number of bytes of a task's file that need not be sent any more."""

    def sent(task: Task) -> int:
        if not isinstance(task.operation, PutFile):
            return 0
        cached_file = cache.peek(task.operation.file.file)
        return sent_bytes(task.operation.name, cached_file, under_way) if cached_file is not None else 0

    return sent


def report(
    tasks: Iterable[Task], refusals: Refusals, *, away: bool, sent: Callable[[Task], int] = lambda _: 0
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
        tuple(describe(task, sent(task) if task.running else 0) for task in first),
        len(tasks) - len(first),
        max(0.0, monotonic() - min((task.created for task in tasks), default=math.inf)),
        len(refusals),
        tuple(describe(one.task, state="refused") for one in refusals.kept()[:MOST_CHANGES]),
    )


def _fitting(changes: Iterable[PendingChange], room: int) -> list[dict[str, object]]:
    """Return the first of the changes that take at most `room` bytes of JSON."""
    shown: list[dict[str, object]] = []
    for change in changes:
        room -= len(json.dumps(asdict(change))) + 2
        if room < 0:
            break
        shown.append(asdict(change))
    return shown


def _state(task: Task) -> str:
    return "running" if task.running else "parked" if task.blocked else "waiting"


def _size(task: Task) -> int:
    operation = task.newest
    return operation.file.size if isinstance(operation, PutFile) else 0


def _urgency(task: Task) -> tuple[bool, int, int]:
    return task.error is None, _ORDER.index(_state(task)), task.seq


def _is_tried(task: Task) -> bool:
    """Return whether a task, or one that it waits for, has failed since the flush began."""
    if task.flush_mark is not None and task.attempts > task.flush_mark and not task.running:
        return True
    return any(map(_is_tried, task.blockers))
