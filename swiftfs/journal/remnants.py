"""Objects at the old place that a move could not delete, as tasks that delete them later."""

import logging
from collections.abc import Collection

from swiftfs.concurrency import monotonic
from swiftfs.journal.move_results import Remnant
from swiftfs.journal.operations import Move, MoveFolder, MoveObject
from swiftfs.journal.task_queue import TaskQueue
from swiftfs.journal.task_states import Blocked, Retrying, pause_after
from swiftfs.journal.tasks import Task, nobody_waits
from swiftfs.objects import ObjectName
from swiftfs.paths import path_below

log = logging.getLogger(__name__)


def remnant_tasks(
    queue: TaskQueue, path: str, operation: Move | MoveObject | MoveFolder, remnants: Collection[Remnant]
) -> list[Task]:
    """Return the tasks that delete the objects that the move of `path` could not, each with its own path."""
    tasks = []
    now = monotonic()
    for deletion, error in remnants:
        own = _path_of(deletion.name, path, operation)
        # As if its first attempt had failed: a report shows the reason, and a refusal is not repeated by
        # itself.
        state = Retrying(now + pause_after(1), error) if error.retryable else Blocked(error)
        task = Task(queue.next_seq(), own, deletion, nobody_waits, now, state, ambiguous=True, attempts=1)
        log.warning("%s was moved, but the old object stays until Swift deletes it: %s", own, error)
        tasks.append(task)
    return tasks


def _path_of(name: ObjectName, path: str, operation: Move | MoveObject | MoveFolder) -> str:
    """Return the path of an object that moves with `path`; of one at the target, its key as a path."""
    if name == operation.source or (isinstance(operation, MoveFolder) and name in dict(operation.markers)):
        return path
    if isinstance(operation, MoveFolder) and f"{name}".startswith(
        f"{operation.container}/{operation.source}"
    ):
        return path_below(path, name.key.removeprefix(operation.source))
    return f"/{name.key}"
