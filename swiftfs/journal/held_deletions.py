"""Deletions that are on the disk, but not in the queue yet."""

import math
from collections.abc import Collection

from swiftfs.journal.operations import names_of
from swiftfs.journal.task_states import Waiting
from swiftfs.journal.tasks import Task
from swiftfs.objects import ObjectName
from swiftfs.paths import Folder


class HeldDeletions:
    """The held deletions by their numbers. Not locked: the journal's lock guards them.

    A task that is due at infinity waits for the last close of its file. The others become ordinary changes
    when they are due, and before another operation about their name: until then they can be taken back.
    """

    def __init__(self) -> None:
        self._tasks: dict[int, Task] = {}

    def add(self, task: Task) -> None:
        """Hold a deletion."""
        self._tasks[task.seq] = task

    def pop(self, seq: int) -> Task | None:
        """Return and forget a deletion; None if it is not held any more."""
        return self._tasks.pop(seq, None)

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
        names = ((task, names_of(task.operation)[0]) for task in self.timed())
        return [task for task, name in names if Folder(name.container, name.key).is_below(folder)]


def _due(task: Task) -> float:
    assert isinstance(task.state, Waiting)
    return task.state.due
