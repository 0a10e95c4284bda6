"""Changing a large object: which parts of the old one stay, and which are uploaded.

A new manifest may name the old segments, whole or by a range of their bytes, between new ones.
Source: the chapter "Segment ranges" of Swift's static large objects, tried against Swift 2.38.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from swiftfs.filecache.block_map import BLOCK, Blocks, StoredSegment, block_range
from swiftfs.objects import Segment

PIECE = 1024 * 1024
"""The least a patch uploads and the least it keeps: Swift serves smaller segments one a second."""

BLOCKS_A_PIECE = PIECE // BLOCK


@dataclass(frozen=True, slots=True)
class Gap:
    """Bytes of the new file, from `start` to `end`, that no old segment holds."""

    start: int
    end: int


Part = Segment | Gap


def piece_of(offset: int) -> int:
    """Return the first byte of the piece that holds the byte at `offset`."""
    return offset - offset % PIECE


def plan(old: Sequence[Segment], kept: int, size: int, changed: Blocks, largest: int) -> list[Part]:
    """Return what the new file of `size` bytes is made of, in order.

    The first `kept` bytes are those of the old segments but for the `changed` blocks. No gap is larger than
    `largest` bytes. A stretch shorter than a piece is not kept, except where an old segment is as short.
    """
    parts: list[Part] = []
    position = covered = 0
    changed = changed.widened(BLOCKS_A_PIECE)
    for segment in old:
        end = min(position + segment.span, kept, size)
        for start, stop in _unchanged(position, end, changed):
            if stop - start < min(PIECE, segment.span):
                continue
            parts.extend(cut_gaps(covered, start, largest))
            parts.append(_part(segment, start - position, stop - position))
            covered = stop
        position += segment.span
    parts.extend(cut_gaps(covered, size, largest))
    return parts


def compact(parts: Sequence[Part], limit: int, largest: int) -> list[Part]:
    """Return `parts` with runs of small ones uploaded anew, so that there are at most `limit` of them."""
    room = PIECE
    while len(parts) > limit and room < largest:
        room *= 2
        parts = _merge(parts, room)
    return list(parts)


def _merge(parts: Sequence[Part], room: int) -> list[Part]:
    """Join neighbours to gaps of at most `room` bytes."""
    merged: list[Part] = []
    start = position = 0
    run: list[Part] = []
    for part in parts:
        end = position + span(part)
        if run and end - start > room:
            merged.extend(_joined(run, start, position))
            start, run = position, []
        run.append(part)
        position = end
    merged.extend(_joined(run, start, position))
    return merged


def _joined(run: Sequence[Part], start: int, end: int) -> list[Part]:
    return list(run) if len(run) < 2 else [Gap(start, end)]


def span(part: Part) -> int:
    """Return how many bytes of the file a part makes."""
    return part.end - part.start if isinstance(part, Gap) else part.span


def _unchanged(start: int, end: int, changed: Blocks) -> Iterator[tuple[int, int]]:
    """Yield the stretches between `start` and `end` without the `changed` blocks."""
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
            stop = end  # no crumb behind a full gap
        yield Gap(start, stop)
        start = stop


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
