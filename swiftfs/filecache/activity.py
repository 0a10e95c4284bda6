"""The downloads, checks and uploads of one file that are under way."""

from collections.abc import Callable

from swiftfs.filecache.downloads import Downloads
from swiftfs.filecache.file_state import FileState
from swiftfs.filecache.segment_uploader import SegmentUploader


class Activity:
    """The downloads, checks and uploads of one file that have not ended, and who waits for that.

    Each part calls `ended` after each of its steps, without the lock. The parts know this object, and it
    knows none of them but the uploads: a cycle of references would keep a closed file in memory.
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
        """Wake those who wait; call what waits for idleness if nothing is under way any more."""
        with self._state.changed:
            self._state.changed.notify_all()
            # Taken with the lock, so that one thread of several that end at once calls it.
            idle = self._idle if self.is_idle() else None
            if idle is not None:
                self._idle = None
        # Without the lock: it takes that of the cache.
        if idle is not None:
            idle()

    def when_idle(self, idle: Callable[[], None]) -> None:
        """Cancel the downloads and uploads that nobody needs; call `idle` when the others have ended.

        It is called in any thread, and at once when nothing is under way.
        """
        with self._state.changed:
            self._idle = idle
        self.cancel_queued()
        self.ended()

    def cancel_queued(self) -> None:
        """Cancel what nobody needs and has not begun; what goes on calls `ended`."""
        with self._state.changed:
            self.fetches.cancel()
        for upload in self._uploads.cancel_queued():
            upload.stored.add_done_callback(lambda _: self.ended())
