"""What the modules that work on the journal's queue share."""

from dataclasses import dataclass

from swiftfs.concurrency import Condition
from swiftfs.filecache.cache import FileCache
from swiftfs.journal.database import JournalDB
from swiftfs.journal.executor import Executor
from swiftfs.journal.late_requests import LateRequests
from swiftfs.journal.task_writer import TaskWriter
from swiftfs.journal.tasks import TaskQueue


@dataclass(frozen=True, slots=True)
class JournalParts:
    """The parts of one journal.

    `changed` is the journal's lock, which guards the queue, and tells of every change of it. `writer` changes
    the tasks of the queue. With `late`, what a lost request may undo is looked at again.
    """

    queue: TaskQueue
    changed: Condition
    writer: TaskWriter
    db: JournalDB
    cache: FileCache
    executor: Executor
    late: LateRequests | None
