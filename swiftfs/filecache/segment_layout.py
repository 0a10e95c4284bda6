"""The sizes of a large file's segments."""

import errno
from collections.abc import Iterator
from functools import cache

from msgspec import Struct

from swiftfs.errors import os_error

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
