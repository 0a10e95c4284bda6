"""The removal of segments, with a clock of the test's own."""

import time
from pathlib import Path

from support.memory_store import MemoryStore
from swiftfs.journal.database import JournalDB
from swiftfs.journal.segment_records import SegmentOwnership
from swiftfs.journal.segment_removal import LATE_SECONDS, SegmentRemoval
from swiftfs.objects import Manifest, ObjectName, Segment
from swiftfs.store.protocol import Headers

NAME = ObjectName("box", "file")
PREFIX = "file/swiftfs-0123456789abcdef0123456789abcdef/"


class Cleaner:
    """The removal of segments, with a clock of the test's own, and a store with one large object."""

    def __init__(self, folder: Path) -> None:
        self.now = time.time()
        self.store = MemoryStore("box", "box_segments", "other")
        self.log = JournalDB(folder, "me")
        self.removal = self.restarted()

    def restarted(self) -> SegmentRemoval:
        """Return the removal that the next process makes."""
        return SegmentRemoval(self.store, self.log, SegmentOwnership(self.log), lambda: self.now)

    def segment(self, key: str) -> ObjectName:
        """Store a segment."""
        name = ObjectName("box_segments", key)
        self.store.put(name, b"x" * 10, Headers("a/b"))
        return name

    def manifest(self, key: str, *names: ObjectName) -> Manifest:
        """Store a large object of these segments."""
        parts = [Segment(name, self.store.head(name).version.etag, 10) for name in names]
        manifest = Manifest(tuple(parts))
        self.store.put_manifest(ObjectName("box", key), manifest, Headers("a/b"))
        return manifest


def pass_time(cleaner: Cleaner) -> None:
    """Wait until no late answer is expected any more, and let the removal look again."""
    cleaner.now += LATE_SECONDS
    assert cleaner.removal.is_due()
    cleaner.removal.look_again()
