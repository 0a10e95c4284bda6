"""Blocks that lie in segments of a file that is not stored yet, and not in its local file any more."""

from collections.abc import Iterator, Sequence

from swiftfs.filecache.block_map import BLOCK, Blocks, StoredSegment
from swiftfs.filecache.patch_plan import Gap, Part, cut_gaps, span
from swiftfs.filecache.spans import Spans


class RemoteBlocks:
    """The evicted blocks of one content, guarded by its lock, and the segments that hold them.

    INVARIANT: a segment with an evicted block holds what the file has there now: whoever changes a byte of
    it first brings all of its blocks back.
    `whole` are the first bytes of the segments whose blocks are all evicted.
    """

    def __init__(self) -> None:
        self.blocks = Blocks()
        self.whole: set[int] = set()
        self._placed: Spans[StoredSegment] = Spans()

    def add(self, placed: StoredSegment, first: int, last: int) -> None:
        """Take note that blocks of a segment are not in the local file any more."""
        self._placed.put(placed)
        self.blocks.add(first, last)
        if self.blocks.covers(*placed.blocks):
            self.whole.add(placed.start)

    def discard(self, first: int, last: int) -> None:
        """Take note that blocks are in the local file again, or in no file any more."""
        if first >= last:
            return
        self.blocks.discard(first, last)
        for placed in self._placed.touching(first * BLOCK, last * BLOCK):
            self.whole.discard(placed.start)
            if not self.blocks.touches(*placed.blocks):
                self._placed.pop(placed.start)

    def clear(self) -> None:
        """Forget all blocks: another source has them now."""
        self.blocks = Blocks()
        self.whole.clear()
        self._placed.clear()

    def placed(self) -> tuple[StoredSegment, ...]:
        """Return the segments that hold evicted blocks, in their order."""
        return tuple(sorted(self._placed.values(), key=lambda placed: placed.start))

    def source(self, block: int) -> StoredSegment | None:
        """Return the segment that holds an evicted block, None for any other block."""
        if not self.blocks.touches(block, block + 1):
            return None
        touching = self._placed.touching(block * BLOCK, (block + 1) * BLOCK)
        return next(one for one in touching if one.blocks[0] <= block < one.blocks[1])

    def runs(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Yield the evicted runs of a range of blocks, each of one segment."""
        for one in self._placed.touching(first * BLOCK, last * BLOCK):
            begin, end = one.blocks
            yield from self.blocks.runs(max(first, begin), min(last, end))

    def touched(self, offset: int, end: int) -> list[tuple[int, int]]:
        """Return the blocks of the segments that a change of the bytes from `offset` to `end` touches."""
        return [one.blocks for one in self._placed.touching(offset, end)]

    def __bool__(self) -> bool:
        return bool(self._placed)


def with_placed(parts: Sequence[Part], placed: Sequence[StoredSegment], largest: int) -> list[Part]:
    """Return the parts of a file with what is stored already in place of gaps, of `largest` bytes at most."""
    if not placed:
        return list(parts)
    found: list[Part] = []
    position = covered = 0
    for part in parts:
        if not isinstance(part, Gap):
            found.extend(_fill(covered, position, placed, largest))
            found.append(part)
            covered = position + span(part)
        position += span(part)
    return [*found, *_fill(covered, position, placed, largest)]


def _fill(start: int, end: int, placed: Sequence[StoredSegment], largest: int) -> Iterator[Part]:
    for one in placed:
        if start <= one.start and one.end <= end:
            yield from cut_gaps(start, one.start, largest)
            yield one.segment
            start = one.end
    yield from cut_gaps(start, end, largest)
