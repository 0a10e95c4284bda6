"""The upload of one segment."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from swiftfs.concurrency import Future, new_future
from swiftfs.errors import ChangedDuringUpload, Corrupt, StoreError
from swiftfs.filecache.block_map import StoredSegment
from swiftfs.filecache.frozen_copy import FrozenCopy
from swiftfs.objects import ObjectName, Segment


@dataclass(slots=True)
class SegmentPut:
    """The upload of the bytes from `start` to `end` as a segment.

    - `superseded`: the bytes changed after this upload began.
    - `inconsistent`: the bytes changed after the snapshot of the file's upload, before this upload ended.
    - `in_advance`: this is for the next upload of the file, not for one that is under way.

    `zero_segment` is the segment of a hole, which other uploads may share. If there is a copy `frozen`, its
    bytes are uploaded.
    """

    start: int
    end: int
    in_advance: bool = False
    superseded: bool = False
    inconsistent: bool = False
    zero_segment: ObjectName | None = None
    frozen: FrozenCopy | None = None
    stored: Future[Segment] = field(init=False)

    @classmethod
    def of(cls, stored: StoredSegment) -> "SegmentPut":
        """Return the ended upload of a stored segment."""
        upload = cls(stored.start, stored.end)
        upload.stored = new_future()
        upload.stored.set_result(stored.segment)
        return upload

    def result(self) -> Segment:
        """Wait until the segment is stored and return it.

        Raise `ChangedDuringUpload` if its bytes may be of another moment than the snapshot.
        """
        segment = self.stored.result()
        if self.inconsistent:
            raise ChangedDuringUpload(f"{segment.name}: its bytes changed while they were uploaded")
        return segment

    def is_good(self, end: int) -> bool:
        """Return whether this uploads the bytes to `end` as they are now, and has not failed."""
        if self.superseded or self.end != end or self.stored.cancelled():
            return False
        return not self.stored.done() or self.stored.exception() is None


def is_all_named(uploads: Iterable[SegmentPut], named: set[ObjectName]) -> bool:
    """Return whether every upload has stored a segment that is `named` in a manifest."""
    return all(
        upload.stored.done()
        and not upload.stored.cancelled()
        and not upload.stored.exception()
        and upload.stored.result().name in named
        for upload in uploads
    )


def results(uploads: Collection[SegmentPut]) -> list[Segment]:
    """Return the segments when all are stored; cancel those that have not begun when Swift refuses one.

    Raise as `SegmentPut.result` does. Those that have begun go on, and the next attempt uses them.
    """
    try:
        return [upload.result() for upload in uploads]
    except StoreError as error:
        # What refuses one mostly refuses all, and each is sent before it is refused. But bytes that arrive
        # wrong, or have changed meanwhile, are those of one segment.
        if not (error.retryable or isinstance(error, Corrupt)):
            for upload in uploads:
                upload.stored.cancel()
        raise


def place_of(key: str, size: int) -> tuple[int, int]:
    """Return the bytes of the file that the segment `key` has, (-1, -1) if its name does not say."""
    digits = key.rpartition("/")[2].partition("-")[0]
    return (int(digits), int(digits) + size) if digits.isascii() and digits.isdigit() else (-1, -1)


def stored_names(uploads: Iterable[SegmentPut]) -> list[ObjectName]:
    """Cancel the uploads that have not begun; wait for the others and return their segments."""
    # All are cancelled first, and then waited for: one that waits in the pool need not be stored at all.
    stored = [upload.stored for upload in uploads if not upload.stored.cancel()]
    return [future.result().name for future in stored if future.exception() is None]
