"""The queue of the journal with its lock and workers, which the file cache calls too."""

from swiftfs.concurrency import Rank, new_condition, new_pool
from swiftfs.filecache.segment_uploader import SegmentUploader
from swiftfs.journal.database import JournalDB
from swiftfs.journal.operations import PutFile
from swiftfs.journal.segment_removal import SegmentRemoval
from swiftfs.journal.task_states import Waiting
from swiftfs.journal.tasks import TaskQueue
from swiftfs.journal.upkeep import Upkeep


class Backlog:
    """The queue, the workers that execute `parallel` of its tasks at once, and the upkeep in those workers.

    It is made before the file cache, which calls it, and before the journal, which needs both. So nothing is
    connected afterwards. `changed` is the journal's lock, which guards the queue.
    """

    def __init__(self, db: JournalDB, removal: SegmentRemoval, parallel: int) -> None:
        self.queue = TaskQueue()
        self.changed = new_condition(Rank.JOURNAL)
        self.parallel = parallel
        self.workers = new_pool("operation", parallel)
        self.upkeep = Upkeep(db, removal, self.workers)

    def start_uploads_for_space(self) -> bool:
        """Begin to store files, because they fill the disk; return whether any upload is running."""
        with self.changed:
            for task in self.queue.tasks():
                # A task that has failed keeps its pause: a full disk is no reason to hurry a server that
                # refuses. One that is due already needs no second entry.
                waits = isinstance(task.state, Waiting) and task.state.due > 0.0
                if isinstance(task.operation, PutFile) and not task.attempts and waits:
                    self.queue.schedule(task, 0.0)
            self.changed.notify_all()
            return self.queue.is_busy()

    def stop(self) -> None:
        """Return when the workers have ended; no task runs then."""
        self.workers.shutdown()

    def abandon(self, uploads: SegmentUploader) -> None:
        """Delete the segments of a file that will not be stored, in a worker."""
        self.upkeep.abandon(uploads)
