"""Giving blocks of a file back to the disk that can be downloaded again, also before it is stored."""

from collections.abc import Iterator
from itertools import chain

from swiftfs.concurrency import thread_id
from swiftfs.filecache.block_map import BLOCK, Blocks, StoredSegment, block_range
from swiftfs.filecache.downloads import Downloads
from swiftfs.filecache.file_state import FileState
from swiftfs.filecache.read_ahead import Streams
from swiftfs.filecache.segment_uploader import SegmentUploader
from swiftfs.filecache.sparse_file import punch_hole


class Evictor:
    """Gives blocks of one file back to the disk.

    INVARIANT: nothing of what Swift's object does not have is given back between a record of the file and the
    next change, for the record does not say where it went, nor between the begin of an upload and `adopt`.
    INVARIANT: while an upload of a segment has not ended, not even one that nobody wants any more, what the
    upload reads is not given back.
    INVARIANT: no block is given back to the disk that an answer to the kernel still points to: `_answers` has
    the last one of each thread.
    """

    def __init__(
        self, state: FileState, uploads: SegmentUploader, streams: Streams, fetches: Downloads
    ) -> None:
        self._state = state
        self._uploads = uploads
        self._streams = streams
        self._fetches = fetches
        self._answers: dict[int, tuple[int, int]] = {}

    def keep_for_answer(self, offset: int, end: int) -> None:
        """Keep the bytes from `offset` to `end`, where they are here, until this thread's next answer.

        The kernel takes the bytes after the answer was returned, but before this thread reads again.
        """
        self._answers[thread_id()] = block_range(offset, end)

    def evict(self, size: int, *, held: bool) -> int:
        """Give about `size` bytes back to the disk, of what can be downloaded again; return how many it were.

        What lies furthest behind the last reader goes first. A file that the journal has `held` keeps what
        the journal has no other place for.
        """
        state = self._state
        with state.changed:
            if state.closed or state.pinned:
                return 0
            position, last = self._streams.position // BLOCK, block_range(0, state.blocks.size)[1]
            loose = self._evictable(held=held)
            ahead = [block_range(*needed) for needed in self._streams.needed()]
            for needed in [*ahead, *self._fetches.ranges(), *self._answers.values()]:
                loose.discard(*needed)
            freed = 0
            for first, end in chain(loose.runs(position, last), loose.runs(0, position)):
                if freed >= size:
                    break
                stop = min(end, first + block_range(0, size - freed)[1])
                self._give_back(first, stop)
                freed += (stop - first) * BLOCK
            return freed

    def _give_back(self, first: int, last: int) -> None:
        state = self._state
        state.blocks.drop(first, last)
        if not state.blocks.is_clean():
            for placed in self._segments(held=False, within=(first * BLOCK, last * BLOCK)):
                begin, end = max(first, placed.blocks[0]), min(last, placed.blocks[1])
                if begin < end:
                    state.blocks.remote.add(placed, begin, end)
        state.checks.forget(first, last)
        punch_hole(state.descriptor, first * BLOCK, (last - first) * BLOCK)

    def _evictable(self, *, held: bool) -> Blocks:
        """Return what can be downloaded again: of the origin, or of segments that go into the next object."""
        state, blocks = self._state, self._state.blocks
        is_clean = blocks.is_clean()
        loose = blocks.present.copy() if is_clean and not held else Blocks()
        for upload in self._uploads.under_way() if loose else ():
            loose.discard(*block_range(upload.start, upload.end))
        if is_clean or (state.is_recorded and not held):
            return loose
        for placed in self._segments(held=held):
            for run in blocks.remote.blocks.missing(*placed.blocks):
                loose.add(*run)
        return loose

    def _segments(self, *, held: bool, within: tuple[int, int] | None = None) -> Iterator[StoredSegment]:
        """Yield the segments that hold what the file has there now, all of it our own, and not all evicted.

        With bytes to look `within` only those that hold any of them.
        """
        blocks = self._state.blocks
        for placed in self._uploads.stored(promised=held, within=within, beside=blocks.remote.whole):
            if blocks.is_own(placed):
                yield placed
