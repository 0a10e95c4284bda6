"""How the bytes of a large object lie in segments: those of a new file, and those of an old one that changed.

The plan of a change says which parts of the old object stay, and which are uploaded. The new manifest may
name old segments, whole or by a range of their bytes, between new ones. Source: the chapter "Segment ranges"
of Swift's static large objects; tested with Swift 2.38.
"""

import errno
from collections.abc import Iterator, Sequence
from functools import cache

from msgspec import Struct
from msgspec.structs import replace

from swiftfs.errors import os_error
from swiftfs.filecache.block_map import BLOCK, StoredSegment, block_range
from swiftfs.filecache.block_set import Blocks
from swiftfs.objects import Segment

MAX_SEGMENT = 5 * 1024**3
"""The largest PUT that Swift and NAVER accept, in bytes."""

GROWTH = ((64, 1), (36, 4), (100, 16), (100, 64))
"""Pairs: a number of segments, and their size as a multiple of the first one's. The others, up to 1000, have
the largest size. With 16 MiB at first, the first GiB has small segments for small changes; the first 131 GiB
have segments of at most 1 GiB, which are soon sent again when one fails; all together have 3.5 TiB. Without
manifests that name manifests, 1000 segments of 5 GiB, 4.88 TiB, are the limit."""

SEGMENTS = 1000
"""The most that a manifest may name, by Swift's default."""


class SegmentLayout(Struct, frozen=True):
    """Where a file's segments begin and end. It depends only on the size of the first one, in bytes."""

    segment_size: int

    def bounds(self, index: int) -> tuple[int, int]:
        """Return the first byte of a segment, and one past its last."""
        start = 0
        for count, size in self._tiers():
            if index < count:
                return start + index * size, start + (index + 1) * size
            start, index = start + count * size, index - count
        raise os_error(errno.EFBIG)

    def index(self, offset: int) -> int:
        """Return the number of the segment that has the byte at `offset`."""
        before = start = 0
        for count, size in self._tiers():
            if offset < start + count * size:
                return before + (offset - start) // size
            start, before = start + count * size, before + count
        raise os_error(errno.EFBIG)

    def is_segment(self, start: int, end: int) -> bool:
        """Return whether the bytes from `start` to `end` are one complete segment."""
        return self.bounds(self.index(start)) == (start, end)

    def segments(self, size: int) -> Iterator[tuple[int, int]]:
        """Yield the bounds of the complete segments of the first `size` bytes, in order."""
        start = 0
        for count, length in self._tiers():
            for _ in range(min(count, (size - start) // length)):
                yield start, start + length
                start += length

    @property
    def largest_file(self) -> int:
        """The size of the largest file, in bytes."""
        return _largest_file(self.segment_size)

    def _tiers(self) -> tuple[tuple[int, int], ...]:
        return _tiers(self.segment_size)


@cache  # each write asks for it
def _largest_file(segment_size: int) -> int:
    return sum(count * size for count, size in _tiers(segment_size))


@cache
def _tiers(segment_size: int) -> tuple[tuple[int, int], ...]:
    """Return pairs: a number of segments, and their size; the first segment has `segment_size`."""
    most = max(MAX_SEGMENT, segment_size)
    growing = [(count, min(segment_size * times, most)) for count, times in GROWTH]
    return (*growing, (SEGMENTS - sum(count for count, _ in GROWTH), most))


PIECE = 1024 * 1024
"""The least that a patch uploads or keeps, in bytes: Swift serves only one smaller segment a second."""

BLOCKS_A_PIECE = PIECE // BLOCK


class Gap(Struct, frozen=True):
    """Bytes of the new file, from `start` to `end`, that no old segment has."""

    start: int
    end: int


Part = Segment | Gap


def piece_of(offset: int) -> int:
    """Return the first byte of the piece that holds the byte at `offset`."""
    return offset - offset % PIECE


def plan(old: Sequence[Segment], kept: int, size: int, changed: Blocks, largest: int) -> list[Part]:
    """Return the parts of the new file of `size` bytes, in order.

    The first `kept` bytes are those of the old segments, except for the `changed` blocks. No gap is larger
    than `largest` bytes. A part that is shorter than a piece is not kept, unless it is a whole old segment.
    An inline segment is not kept: a manifest needs another one besides.
    """
    parts: list[Part] = []
    position = covered = 0
    # What is uploaded is at least a piece, so a changed block costs its whole piece.
    changed = changed.widened(BLOCKS_A_PIECE)
    for segment in old:
        end = min(position + segment.span, kept, size)
        for start, stop in _unchanged(position, end, changed):
            # A whole old segment may be shorter: it was served slowly before, too.
            if segment.data or stop - start < min(PIECE, segment.span):
                continue
            parts.extend(cut_gaps(covered, start, largest))
            parts.append(_part(segment, start - position, stop - position))
            covered = stop
        position += segment.span
    parts.extend(cut_gaps(covered, size, largest))
    return parts


def compact(parts: Sequence[Part], limit: int, largest: int) -> list[Part]:
    """Join runs of small parts to gaps of at most `largest` bytes, until there are `limit` parts."""
    span_limit = PIECE
    # In steps, so that no more than necessary is uploaded again.
    while len(parts) > limit and span_limit < largest:
        span_limit *= 2
        parts = _merge(parts, span_limit)
    return list(parts)


def _merge(parts: Sequence[Part], span_limit: int) -> list[Part]:
    """Join neighbours to gaps of at most `span_limit` bytes."""
    merged: list[Part] = []
    start = position = 0
    run: list[Part] = []
    for part in parts:
        end = position + span(part)
        if run and end - start > span_limit:
            merged.extend(_joined(run, start, position))
            start, run = position, []
        run.append(part)
        position = end
    merged.extend(_joined(run, start, position))
    return merged


def _joined(run: Sequence[Part], start: int, end: int) -> list[Part]:
    return list(run) if len(run) < 2 else [Gap(start, end)]


def span(part: Part) -> int:
    """Return how many bytes of the file a part has."""
    return part.end - part.start if isinstance(part, Gap) else part.span


def _unchanged(start: int, end: int, changed: Blocks) -> Iterator[tuple[int, int]]:
    """Yield the ranges of bytes between `start` and `end` that have no `changed` block."""
    if start < end:
        for first, last in changed.missing(*block_range(start, end)):
            yield max(start, first * BLOCK), min(last * BLOCK, end)


def _part(segment: Segment, first: int, last: int) -> Segment:
    if first == 0 and last == segment.span:
        return segment
    return replace(segment, first=segment.first + first, length=last - first)


def cut_gaps(start: int, end: int, largest: int) -> Iterator[Gap]:
    """Yield gaps of at most about `largest` bytes from `start` to `end`."""
    while start < end:
        stop = min(start + largest, end)
        if 0 < end - stop < PIECE:
            stop = end  # no gap shorter than a piece after a full one
        yield Gap(start, stop)
        start = stop


def with_stored(parts: Sequence[Part], stored: Sequence[StoredSegment], largest: int) -> list[Part]:
    """Return the parts with `stored` segments in place of gaps; gaps have at most `largest` bytes."""
    if not stored:
        return list(parts)
    found: list[Part] = []
    position = covered = 0
    for part in parts:
        if not isinstance(part, Gap):
            found.extend(_fill(covered, position, stored, largest))
            found.append(part)
            covered = position + span(part)
        position += span(part)
    return [*found, *_fill(covered, position, stored, largest)]


def _fill(start: int, end: int, stored: Sequence[StoredSegment], largest: int) -> Iterator[Part]:
    for one in stored:
        # A segment that reaches beyond the gap has bytes that the plan takes from elsewhere.
        if start <= one.start and one.end <= end:
            yield from cut_gaps(start, one.start, largest)
            yield one.segment
            start = one.end
    yield from cut_gaps(start, end, largest)
