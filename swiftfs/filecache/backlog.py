"""What the file cache needs of the journal."""

from typing import Protocol

from swiftfs.filecache.segment_uploader import SegmentUploader
from swiftfs.filecache.uses import Uses


class Backlog(Protocol):
    """The part of the journal that the cache calls.

    `uses` are the uses of the cache's local files; the journal puts some of them away. `abandon` is called
    with the cache's lock held, so it must not wait.
    """

    @property
    def uses(self) -> Uses: ...

    def start_uploads_for_space(self) -> bool:
        """Begin to store the files that wait; return whether anything is under way."""

    def abandon(self, uploads: SegmentUploader) -> None:
        """Delete, in another thread, the segments of a file that will never be stored."""


class NoBacklog:
    """The backlog of a cache that has no journal."""

    def __init__(self) -> None:
        self.uses = Uses()

    def start_uploads_for_space(self) -> bool:
        """Return False: nothing waits to be stored."""
        return False

    def abandon(self, uploads: SegmentUploader) -> None:
        """Do nothing: the segments stay."""
