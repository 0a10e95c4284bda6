"""One segment on its way to Swift."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from swiftfs.concurrency import Future, new_future
from swiftfs.errors import ChangedDuringUpload
from swiftfs.filecache.block_map import StoredSegment
from swiftfs.filecache.frozen_copy import FrozenCopy
from swiftfs.objects import ObjectName, Segment


@dataclass(slots=True)
class SegmentPut:
    """The bytes from `start` to `end` on their way to a segment.

    `superseded` says that they changed after this began; `inconsistent`, that they changed after the
    content's upload began and before this ended; `later`, that they were written after the content's upload
    began. `zero_segment` is the segment when others may have the same one. It reads a `frozen`, where there
    is one, which does not change.
    """

    start: int
    end: int
    later: bool = False
    superseded: bool = False
    inconsistent: bool = False
    zero_segment: ObjectName | None = None
    frozen: FrozenCopy | None = None
    stored: Future[Segment] = field(init=False)

    @classmethod
    def of(cls, placed: StoredSegment) -> "SegmentPut":
        """Return the upload that has stored a segment."""
        upload = cls(placed.start, placed.end)
        upload.stored = new_future()
        upload.stored.set_result(placed.segment)
        return upload

    def result(self) -> Segment:
        """Return the segment when it is stored.

        Raise `ChangedDuringUpload` if it may be of another moment.
        """
        segment = self.stored.result()
        if self.inconsistent:
            raise ChangedDuringUpload(f"{segment.name}: its bytes changed while they were uploaded")
        return segment

    def is_good(self, end: int) -> bool:
        """Return whether this brings the bytes to `end` as they are now."""
        if self.superseded or self.end != end or self.stored.cancelled():
            return False
        return not self.stored.done() or self.stored.exception() is None


def is_all_named(uploads: Iterable[SegmentPut], named: set[ObjectName]) -> bool:
    """Return whether every upload has ended, in a segment that a manifest names."""
    return all(
        upload.stored.done()
        and not upload.stored.cancelled()
        and not upload.stored.exception()
        and upload.stored.result().name in named
        for upload in uploads
    )


def place_of(key: str, size: int) -> tuple[int, int]:
    """Return which bytes of the file the segment `key` holds, none if its name does not say."""
    digits = key.rpartition("/")[2].partition("-")[0]
    return (int(digits), int(digits) + size) if digits.isascii() and digits.isdigit() else (-1, -1)


def stored_names(uploads: Iterable[SegmentPut]) -> list[ObjectName]:
    """Return the segments of uploads, which ended or are waited for; what has not begun is cancelled."""
    stored = [upload.stored for upload in uploads if not upload.stored.cancel()]
    return [future.result().name for future in stored if future.exception() is None]
