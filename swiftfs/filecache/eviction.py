"""A file larger than its share of the disk: what is uploaded already is evicted before the file is closed."""

from collections.abc import Iterator

from swiftfs.filecache.base_verifier import VerifiedFile
from swiftfs.filecache.block_map import BLOCK, Blocks, StoredSegment, block_range
from swiftfs.filecache.segment_uploader import SegmentUploader


class EvictingFile(VerifiedFile):
    """A local file with changes, whose uploaded segments may be evicted.

    INVARIANT: nothing of what Swift's object does not have is given back between `save` and the next change,
    for what was saved does not say where it went, nor between `begin_upload` and `adopt`.
    INVARIANT: while an upload of a segment has not ended, not even one that nobody wants any more, the local
    file is neither closed nor given up, and what the upload reads is not given back.
    `uploads` are the file's segments, and are told of every change while the lock is held.
    """

    uploads: SegmentUploader | None = None
    _is_saved = False

    def ensure_rest(self, size: int) -> None:
        """Download what is missing of the first `size` bytes and is in no segment of the file's own."""
        for start, end in self._beside_evicted(size):
            self.ensure(start, end)

    def keep_rest(self, size: int) -> None:
        """Do what `ensure_rest` does, and verify what will be stored again of it."""
        for start, end in self._beside_evicted(size):
            self.ensure_kept(start, end)

    def _beside_evicted(self, size: int) -> Iterator[tuple[int, int]]:
        position = 0
        for placed in self.evicted():
            yield position, placed.start
            position = placed.end
        yield position, size

    def evicted(self) -> tuple[StoredSegment, ...]:
        """Return the segments that hold what is not in Swift's object and not in the local file any more."""
        with self._changed:
            return self._blocks.remote.placed()

    def unsaved(self) -> int:
        """Return how many bytes of disk hold what Swift's object does not have."""
        with self._changed:
            if self._closed:
                return 0
            return min(len(self._blocks.unsaved()) * BLOCK, self._file.allocated())

    def upload_full_segments(self, *, holes: bool = False) -> bool:
        """Begin to upload the segments that are full of new bytes; say whether any upload is under way.

        With `holes` the segments count too that nobody has written whole, as far as they need no old bytes.
        """
        with self._changed:
            if self.uploads is None or self._closed:
                return False
            if not self._pinned:
                self.uploads.begin_full(
                    self._blocks.size, self._blocks.is_new if holes else self._blocks.is_full
                )
            return self.uploads.is_busy

    def _is_idle(self) -> bool:
        return super()._is_idle() and not (self.uploads is not None and self.uploads.is_busy)

    def _evictable(self, *, held: bool) -> Blocks:
        """Return what can be downloaded again: of the origin, or of segments that go into the next object."""
        loose = super()._evictable(held=held)
        for upload in self.uploads.under_way() if self.uploads is not None and loose else ():
            loose.discard(*block_range(upload.start, upload.end))
        if self._blocks.is_clean() or self.uploads is None or (self._is_saved and not held):
            return loose
        for placed in self._evictable_segments(held=held):
            for run in self._blocks.remote.blocks.missing(*placed.blocks):
                loose.add(*run)
        return loose

    def _evictable_segments(
        self, *, held: bool, within: tuple[int, int] | None = None
    ) -> Iterator[StoredSegment]:
        """Yield the segments that hold what the file has there now, all of it our own, and not all evicted.

        With bytes to look `within` only those that hold any of them.
        """
        assert self.uploads is not None
        for placed in self.uploads.stored(promised=held, within=within, beside=self._blocks.remote.whole):
            if self._blocks.is_own(placed):
                yield placed

    def _given_back(self, first: int, last: int) -> None:
        if self._blocks.is_clean():
            return
        for placed in self._evictable_segments(held=False, within=(first * BLOCK, last * BLOCK)):
            begin, end = max(first, placed.blocks[0]), min(last, placed.blocks[1])
            if begin < end:
                self._blocks.remote.add(placed, begin, end)
