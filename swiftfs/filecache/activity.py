"""What is under way for one file, and who waits for its end."""

from collections.abc import Callable

from swiftfs.filecache.downloads import Downloads
from swiftfs.filecache.file_state import FileState
from swiftfs.filecache.segment_uploader import SegmentUploader


class Activity:
    """The downloads, checks and uploads of one file that have not ended.

    Each part calls `ended` after a step of its own, while the lock is not held. This knows no part but the
    uploads, so that no cycle of references keeps a closed file in memory.
    """

    def __init__(self, state: FileState, uploads: SegmentUploader) -> None:
        self._state = state
        self._uploads = uploads
        self._idle: Callable[[], None] | None = None
        self.fetches = Downloads()

    def is_idle(self) -> bool:
        """Return whether nothing is under way. Lock held."""
        return not (self.fetches or self._state.checks.running or self._uploads.is_busy)

    def ended(self) -> None:
        """Wake whoever waits for the end of something."""
        with self._state.changed:
            self._state.changed.notify_all()
            idle = self._idle if self.is_idle() else None
            if idle is not None:
                self._idle = None
        if idle is not None:
            idle()

    def when_idle(self, idle: Callable[[], None]) -> None:
        """Drop the downloads and uploads that nobody needs; call `idle` when the others have ended.

        That may be in any thread, and is at once when there are none.
        """
        with self._state.changed:
            self._idle = idle
        self.cancel_queued()
        self.ended()

    def cancel_queued(self) -> None:
        """Drop what is under way and nobody needs; what goes on calls `ended`."""
        with self._state.changed:
            self.fetches.cancel()
        for upload in self._uploads.cancel_queued():
            upload.stored.add_done_callback(lambda _: self.ended())
