"""What the modules that work on the journal's queue share."""

from msgspec import Struct

from swiftfs.filecache.cache import FileCache
from swiftfs.journal.backlog import Backlog
from swiftfs.journal.database import JournalDB
from swiftfs.journal.executor import Executor
from swiftfs.journal.late_requests import LateRequests
from swiftfs.journal.task_writer import TaskWriter


class JournalParts(Struct, frozen=True):
    """The parts of one journal.

    `backlog` has the queue and its lock. `writer` changes the tasks of the queue. `late` checks the objects
    that a lost request may still change, None if nothing is checked.
    """

    backlog: Backlog
    writer: TaskWriter
    db: JournalDB
    cache: FileCache
    executor: Executor
    late: LateRequests | None
