"""The journal's queue with its lock and workers, and their upkeep: syncs and deletions of segments.

The file cache calls it too.
"""

import logging
from collections.abc import Callable, Iterable
from contextlib import suppress

from swiftfs.concurrency import Rank, Thread, new_condition, new_event, new_pool, new_thread
from swiftfs.filecache.cache_space import Uses
from swiftfs.filecache.segment_uploader import SegmentUploader
from swiftfs.filecache.upload_record import UnreferencedPrefix
from swiftfs.journal.database import JournalDB
from swiftfs.journal.segment_removal import SegmentRemoval
from swiftfs.journal.task_queue import TaskQueue
from swiftfs.store.moved_view import MovedNames
from swiftfs.store.server_state import MOST, ParallelLimit

log = logging.getLogger(__name__)

SYNC_SECONDS = 0.5
"""The interval in which the database and the local files are synced to the disk: a power cut loses less than
a second of changes."""


AWAITED = 16
"""How many tasks that threads wait for may run at once however much the server refuses, and how many places
are kept for those that a thread waits for alone: the many of one folder must not hold up others."""

FOR_UPKEEP = 2
"""Threads for the upkeep: a worker goes on as long as tasks are due, so that others might never end."""


class Backlog:
    """The queue, the workers that execute its tasks, and the upkeep: a thread that syncs the database.

    Segments are deleted in the workers, because that sends requests.

    At most `parallel` tasks run at once, which may be changed, and no more than `limit` allows, since most of
    them are one PUT.

    It is made before the file cache, which calls it, and before the journal, which needs both. So nothing is
    connected afterwards. `changed` is the journal's lock, which guards the queue. `uses` are those of the
    cache's local files, which the queue puts away. `moved` are the objects that are not at their new names
    yet.
    """

    def __init__(
        self, db: JournalDB, removal: SegmentRemoval, parallel: int, moved: MovedNames, limit: ParallelLimit
    ) -> None:
        self.uses = Uses()
        self.queue = TaskQueue(self.uses, moved)
        self.changed = new_condition(Rank.JOURNAL)
        self.parallel = parallel
        self.limit = limit
        self.workers = new_pool("operation", MOST + AWAITED + FOR_UPKEEP)  # threads are only made when needed
        self._db = db
        self._removal = removal
        self._stopping = new_event()
        self._thread: Thread | None = None

    def start_uploads_for_space(self) -> bool:
        """Begin to store files, because they fill the disk; return whether any task is not parked."""
        with self.changed:
            self.queue.start_files()
            self.changed.notify_all()
            return self.queue.runnable() > 0

    def stop(self) -> None:
        """Return when the workers have ended; no task runs then."""
        self.workers.shutdown()

    def start_upkeep(self, abandoned: Iterable[UnreferencedPrefix], sync: Callable[[], None]) -> None:
        """Start the thread of the upkeep, which calls `sync`.

        Delete the segments of files that an earlier process had open.
        """
        # One job for all: it asks Swift about each prefix, and the other workers are free for uploads
        # meanwhile.
        self.workers.submit(self._discard_all, abandoned)
        self._thread = new_thread(self._sync, "journal sync", (sync,))
        self._thread.start()

    def stop_upkeep(self) -> None:
        """Return when the thread of the upkeep has ended."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def abandon(self, uploads: SegmentUploader) -> None:
        """Delete the segments of a file that will not be stored, in a worker."""
        with suppress(RuntimeError):  # the workers have ended: the next mount finds the segments
            self.workers.submit(self._delete_segments, uploads)

    def release(self, uploads: SegmentUploader) -> None:
        """Delete the segments that a stored file does not need, in a worker."""
        with suppress(RuntimeError):  # the workers have ended: the next mount finds the segments
            self.workers.submit(self._delete_leftovers, uploads)

    def _delete_leftovers(self, uploads: SegmentUploader) -> None:
        unused, recorded = uploads.take_leftovers()
        # After a power cut the journal may have the record again, and store the file once more: later.
        self._removal.keep_shared(recorded, uploads.record.state().objects)
        failures = self._removal.delete_all(unused)
        self._removal.log_unused(failures)
        row = uploads.unreferenced()
        if not failures and row is not None and row.named is None:
            self._db.end_upload(row.prefix)

    def _discard_all(self, abandoned: Iterable[UnreferencedPrefix]) -> None:
        for unreferenced in abandoned:
            self._removal.discard_prefix(unreferenced)

    def _delete_segments(self, uploads: SegmentUploader) -> None:
        """Delete the segments of the file; ask Swift first if a manifest may name them."""
        # `abandon` waits for the uploads under way, which is why this runs in a worker.
        names = uploads.abandon()
        # An earlier process may have left more below the prefix, or Swift may have a manifest of ours.
        if uploads.record.is_inherited or uploads.record.is_unanswered:
            self._removal.discard_prefix(uploads.record.state(), names)
            return
        failures = self._removal.delete_all(names)
        self._removal.log_unused(failures)
        if not failures:  # else the next mount finds them by their prefix
            self._db.end_upload(uploads.record.prefix)

    def _sync(self, sync: Callable[[], None]) -> None:
        while not self._stopping.wait(SYNC_SECONDS):
            try:
                sync()
            except OSError as error:
                log.warning("closed files may not survive a power cut: %s", error)
            if self._removal.is_due():
                with suppress(RuntimeError):  # the workers have ended: the next mount looks
                    self.workers.submit(self._removal.look_again)
