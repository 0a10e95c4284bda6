"""The part of the journal that a file cache calls, where there is no journal."""

from swiftfs.filecache.cache_space import Uses
from swiftfs.filecache.segment_uploader import SegmentUploader


class NoBacklog:
    """The backlog of a cache that has no journal."""

    def __init__(self) -> None:
        self.uses = Uses()

    def start_uploads_for_space(self) -> bool:
        """Return False: nothing waits to be stored."""
        return False

    def abandon(self, uploads: SegmentUploader) -> None:
        """Do nothing: the segments stay."""

    def release(self, uploads: SegmentUploader) -> None:
        """Do nothing: the segments stay."""
