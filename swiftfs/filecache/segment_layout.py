"""Where the segments of a large file begin and end."""

import errno
from collections.abc import Iterator
from dataclasses import dataclass

from swiftfs.errors import os_error

MAX_SEGMENT = 5 * 1024**3
"""What Swift and NAVER take in one PUT, in bytes."""

GROWTH = ((64, 1), (36, 4), (100, 16), (100, 64))
"""How many segments have how many times the first one's size; the rest of 1000 are as large as can be. With
16 MiB at first that is 1 GiB of small ones for fine changes, 131 GiB of at most 1 GiB that are soon sent
again when one fails, and 3.5 TiB in all. No growth gets beyond 1000 of 5 GiB, 4.88 TiB, without manifests
that name manifests."""

SEGMENTS = 1000
"""The most that a manifest may name, by Swift's default."""


@dataclass(frozen=True, slots=True)
class SegmentLayout:
    """Where a file's segments begin and end; it depends on nothing but the first segment's size in bytes."""

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
        """Return the segment that holds the byte at `offset`."""
        before = start = 0
        for count, size in self._tiers():
            if offset < start + count * size:
                return before + (offset - start) // size
            start, before = start + count * size, before + count
        raise os_error(errno.EFBIG)

    def is_segment(self, start: int, end: int) -> bool:
        """Return whether the bytes from `start` to `end` are one whole segment."""
        return self.bounds(self.index(start)) == (start, end)

    def segments(self, size: int) -> Iterator[tuple[int, int]]:
        """Yield the bounds of the segments that lie wholly in the first `size` bytes, in order."""
        start = 0
        for count, length in self._tiers():
            for _ in range(min(count, (size - start) // length)):
                yield start, start + length
                start += length

    @property
    def largest_file(self) -> int:
        """The most bytes that the segments hold."""
        return sum(count * size for count, size in self._tiers())

    def _tiers(self) -> Iterator[tuple[int, int]]:
        most = max(MAX_SEGMENT, self.segment_size)
        for count, times in GROWTH:
            yield count, min(self.segment_size * times, most)
        yield SEGMENTS - sum(count for count, _ in GROWTH), most
