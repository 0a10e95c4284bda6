"""Deletions that are on the disk, but not in the queue yet."""

import math
from collections.abc import Collection, Iterable

from swiftfs.journal.operations import names_of
from swiftfs.journal.task_states import Waiting
from swiftfs.journal.tasks import Task
from swiftfs.objects import ObjectName
from swiftfs.paths import Folder


class HeldDeletions:
    """The held deletions by their numbers. Not locked: the journal's lock guards them.

    A task that is due at infinity waits for the last close of its file. The others become ordinary changes
    when they are due, and before another operation about their name: until then they can be taken back.

    Of one that was taken back the record stays until a rename replaces the object, or fails.
    INVARIANT: it is gone before, or with the commit of, any other operation about its name.
    """

    def __init__(self) -> None:
        self._tasks: dict[int, Task] = {}
        self._taken_back: dict[int, Task] = {}

    def add(self, task: Task) -> None:
        """Hold a deletion."""
        self._tasks[task.seq] = task

    def pop(self, seq: int) -> Task | None:
        """Return and forget a deletion; None if it is not held any more."""
        return self._tasks.pop(seq, None)

    def take_back(self, seq: int) -> Task | None:
        """Let a deletion never become a change, and return it; None if it is not held any more."""
        if (task := self.pop(seq)) is not None:
            self._taken_back[seq] = task
        return task

    def taken_back(self, names: Collection[ObjectName]) -> list[Task]:
        """Return the deletions of `names` that were taken back and still have a record."""
        return [task for task in self._taken_back.values() if names_of(task.operation)[0] in names]

    def taken_back_below(self, folder: Folder) -> list[Task]:
        """Return those of objects below a folder."""
        return _below(self._taken_back.values(), folder)

    def forget(self, tasks: Iterable[Task]) -> list[Task]:
        """Forget deletions that were taken back; return those that were not forgotten before."""
        return [task for task in tasks if self._taken_back.pop(task.seq, None) is not None]

    def set_due(self, seq: int, seconds: float) -> None:
        """Make a deletion that waits for a last close due so many seconds after it was made."""
        if (task := self._tasks.get(seq)) is not None and _due(task) == math.inf:
            task.become(Waiting(task.created + seconds))

    def next_due(self) -> float:
        """Return when the next deletion is due (monotonic seconds)."""
        return min((_due(task) for task in self._tasks.values()), default=math.inf)

    def due(self, now: float) -> list[Task]:
        """Return the deletions that are due."""
        return [task for task in self._tasks.values() if _due(task) <= now]

    def timed(self) -> list[Task]:
        """Return the deletions that wait for no close."""
        return [task for task in self._tasks.values() if _due(task) != math.inf]

    def timed_of(self, names: Collection[ObjectName]) -> list[Task]:
        """Return those of `timed` that delete one of `names`."""
        return [task for task in self.timed() if names_of(task.operation)[0] in names]

    def timed_below(self, folder: Folder) -> list[Task]:
        """Return those of `timed` that delete an object below a folder."""
        return _below(self.timed(), folder)


def _below(tasks: Iterable[Task], folder: Folder) -> list[Task]:
    names = ((task, names_of(task.operation)[0]) for task in tasks)
    return [task for task, name in names if Folder(name.container, name.key).is_below(folder)]


def _due(task: Task) -> float:
    assert isinstance(task.state, Waiting)
    return task.state.due
