"""Evicts blocks of a file that can be downloaded again, even before the file is stored."""

from collections.abc import Iterator
from itertools import chain

from swiftfs.concurrency import ended_threads, thread_id
from swiftfs.filecache.block_map import BLOCK, StoredSegment, block_range
from swiftfs.filecache.block_set import Blocks
from swiftfs.filecache.file_state import Downloads, FileState
from swiftfs.filecache.read_ahead import Streams
from swiftfs.filecache.segment_uploader import SegmentUploader
from swiftfs.filecache.sparse_file import punch_hole

MOST_THREADS = 64
"""With so many threads in `_answers`, those that have ended are forgotten: libfuse's threads come and go."""


class Evictor:
    """Evicts blocks of one file: frees their disk space.

    INVARIANT: blocks that Swift's object does not have are not evicted between a record of the file and the
    next change, because the record does not say that they are in a segment; nor during an upload of the file.
    INVARIANT: the bytes that the upload of a segment reads are not evicted until it has ended, even if nobody
    needs it any more.
    INVARIANT: no block is evicted that an answer to the kernel points to: `_answers` has the last one of each
    thread that has not ended.
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
        """Keep the bytes from `offset` to `end` until this thread's next answer.

        The kernel takes the bytes after the answer was returned, but before this thread reads again.
        """
        thread = thread_id()
        if len(self._answers) >= MOST_THREADS and thread not in self._answers:
            self._forget_ended()
        self._answers[thread] = block_range(offset, end)

    def evict(self, size: int, *, journaled: bool, ahead: bool = False) -> int:
        """Evict about `size` bytes that can be downloaded again; return how many were evicted.

        Blocks after the position of the last reader are evicted first, then those before it, both in the
        order of the file. A `journaled` file keeps the blocks that the journal's record needs. With `ahead`
        what its readers will read next is evicted too.
        """
        state = self._state
        with state.changed:
            if state.closed or state.pinned:
                return 0
            position, last = self._streams.position // BLOCK, block_range(0, state.blocks.size)[1]
            evictable = self._evictable(journaled=journaled)
            self._forget_ended()
            coming = [] if ahead else [block_range(*needed) for needed in self._streams.needed()]
            # Blocks that are about to be read, are being downloaded, or are about to be spliced by the
            # kernel.
            for needed in [*coming, *self._fetches.ranges(), *self._answers.values()]:
                evictable.discard(*needed)
            freed = 0
            for first, end in chain(evictable.runs(position, last), evictable.runs(0, position)):
                if freed >= size:
                    break
                stop = min(end, first + block_range(0, size - freed)[1])
                self._evict_blocks(first, stop)
                freed += (stop - first) * BLOCK
            return freed

    def _forget_ended(self) -> None:
        """Forget the answers to threads that have ended: the kernel has taken these."""
        for thread in ended_threads(list(self._answers)):
            self._answers.pop(thread, None)

    def _evict_blocks(self, first: int, last: int) -> None:
        state = self._state
        state.blocks.drop(first, last)
        # The base version has all blocks of a clean file, so nothing is recorded of its segments.
        if not state.blocks.is_clean():
            for stored in self._segments(journaled=False, within=(first * BLOCK, last * BLOCK)):
                begin, end = max(first, stored.blocks[0]), min(last, stored.blocks[1])
                if begin < end:
                    state.blocks.remote.add(stored, begin, end)
        state.checks.forget(first, last)
        punch_hole(state.descriptor, first * BLOCK, (last - first) * BLOCK)

    def _evictable(self, *, journaled: bool) -> Blocks:
        """Return the blocks that can be downloaded again, from the base version or from stored segments."""
        state, blocks = self._state, self._state.blocks
        is_clean = blocks.is_clean()
        evictable = blocks.present.copy() if is_clean and not journaled else Blocks()
        # Between a record and the next change nothing more may be evicted: the record says that the local
        # file has it.
        if not is_clean and (journaled or not state.is_recorded):
            for stored in self._segments(journaled=journaled):
                for run in blocks.remote.blocks.missing(*stored.blocks):
                    evictable.add(*run)
        # A superseded upload too, or one of a part of a stored segment: it maps these bytes until it has
        # ended.
        for upload in self._uploads.under_way() if evictable else ():
            evictable.discard(*block_range(upload.start, upload.end))
        return evictable

    def _segments(self, *, journaled: bool, within: tuple[int, int] | None = None) -> Iterator[StoredSegment]:
        """Yield stored segments with the file's present bytes, none of them of the base version.

        Those whose blocks are all evicted are left out. With `within`, a range of bytes, only segments that
        have any of these.
        """
        blocks = self._state.blocks
        for stored in self._uploads.stored(protected=journaled, within=within, beside=blocks.remote.whole):
            if blocks.is_own(stored):
                yield stored
