"""The queue of the journal with its lock and workers, which the file cache calls too."""

from swiftfs.concurrency import Rank, new_condition, new_pool
from swiftfs.filecache.segment_uploader import SegmentUploader
from swiftfs.filecache.uses import Uses
from swiftfs.journal.database import JournalDB
from swiftfs.journal.segment_removal import SegmentRemoval
from swiftfs.journal.task_queue import TaskQueue
from swiftfs.journal.upkeep import Upkeep
from swiftfs.store.moved_view import MovedNames


class Backlog:
    """The queue, the workers that execute `parallel` of its tasks at once, and the upkeep in those workers.

    It is made before the file cache, which calls it, and before the journal, which needs both. So nothing is
    connected afterwards. `changed` is the journal's lock, which guards the queue. `uses` are those of the
    cache's local files, which the queue puts away. `moved` are the objects that are not at their new names
    yet.
    """

    def __init__(self, db: JournalDB, removal: SegmentRemoval, parallel: int, moved: MovedNames) -> None:
        self.uses = Uses()
        self.queue = TaskQueue(self.uses, moved)
        self.changed = new_condition(Rank.JOURNAL)
        self.parallel = parallel
        self.workers = new_pool("operation", parallel)
        self.upkeep = Upkeep(db, removal, self.workers)

    def start_uploads_for_space(self) -> bool:
        """Begin to store files, because they fill the disk; return whether any upload is running."""
        with self.changed:
            self.queue.start_files()
            self.changed.notify_all()
            return self.queue.is_busy()

    def stop(self) -> None:
        """Return when the workers have ended; no task runs then."""
        self.workers.shutdown()

    def abandon(self, uploads: SegmentUploader) -> None:
        """Delete the segments of a file that will not be stored, in a worker."""
        self.upkeep.abandon(uploads)
