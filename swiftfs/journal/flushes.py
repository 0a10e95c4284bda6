"""Waits for tasks: which are done, and which have failed."""

from collections.abc import Collection, Iterable

from swiftfs.journal.tasks import Task


class Flush:
    """The `tasks` that a thread waits for; `wanted` are these and their blockers.

    It compares them with their state when the thread began to wait. A task may hand over its operation
    to another one meanwhile, which then counts instead. The journal's lock is held for every call.
    """

    def __init__(self, tasks: Collection[Task]) -> None:
        self.wanted = with_blockers(tasks)
        self._tasks = tasks
        self._attempts = {task: task.attempts for task in self.wanted}
        self._hand_ins = {task: task.hand_ins for task in self.wanted}
        self._left = list(tasks)

    def is_settled(self) -> bool:
        """Return whether each task is done or has failed.

        This is called after every change of any task, so it checks one task until that is settled.
        """
        while self._left and self._is_settled(self._left[-1]):
            self._left.pop()
        # All once more: a task that had failed may run again by now, and succeed.
        return not self._left and all(map(self._is_settled, self._tasks))

    def is_done(self) -> bool:
        """Return whether the state of each task when the wait began is in Swift."""
        return all(map(self._is_done, self._tasks))

    def failed(self) -> Task | None:
        """Return the first failed task of those wanted and those that took over; None if none has failed."""
        tasks = set(self._tasks)
        for task in (*self.wanted, *with_blockers(task.last() for task in self._tasks)):
            last = task.last()
            # A blocker that ended does not block any more, even if it failed.
            counts = last.ended or not self._is_done(task) if task in tasks else not last.ended
            if last.error is not None and counts:
                return last
        return None

    def _is_settled(self, task: Task) -> bool:
        return self._is_done(task) or self._has_failed(task)

    def _is_done(self, task: Task) -> bool:
        last = task.last()
        # `setdefault`: a task that takes over during the wait counts with its state at that moment, not with
        # what is handed in to it later. Otherwise fsync of a file that is closed again and again might never
        # return.
        return last.is_stored(self._hand_ins.setdefault(last, last.hand_ins))

    def _has_failed(self, task: Task) -> bool:
        last = task.last()
        if last.ended:
            return False
        if last.blocked:  # though it was tried again; or it blocks a task that has taken over
            return True
        # A caller waits for one attempt only: the pauses before further ones may be too long for it.
        if last.attempts > self._attempts.setdefault(last, last.attempts) and not last.running:
            return True
        # What waits for a failed task is not tried before that succeeds.
        return any(map(self._has_failed, last.blockers))


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
