"""Which bytes a reader will want next."""

from collections.abc import Iterator

from swiftfs.content.blocks import BLOCK

FIRST_PIECE = 1024 * 1024
"""Small, so that the first byte comes soon; a file below it costs one request."""

LAST_PIECE = 16 * 1024 * 1024
"""Large enough that the requests of a big file do not count, small enough for several at once."""

NEARBY = 1024 * 1024
"""The kernel's own read-ahead sends requests side by side: this much out of order is still sequential."""


class ReadAhead:
    """Detects sequential reading and plans downloads in a growing window. Not locked.

    `limit` is how far, in bytes, the plan may run ahead of the reader, whose last read ended at `position`;
    with 0 there is none.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.position = 0
        self._begin = 0
        self._planned = 0

    def leaves(self, offset: int) -> bool:
        """Say whether a read at `offset` is elsewhere than where the reader was."""
        return abs(offset - self.position) > NEARBY

    def plan(self, offset: int, end: int, size: int) -> Iterator[tuple[int, int]]:
        """Yield the ranges to begin to download now, given a read of `offset` to `end` in `size` bytes."""
        seeks = self.leaves(offset)
        self.position = end
        if not self._limit:
            return
        if seeks:
            self._begin = self._planned = offset - offset % BLOCK
            return
        window = min(max(FIRST_PIECE, 4 * (end - self._begin - BLOCK)), self._limit)
        while self._planned < min(offset + window, size):
            piece = min(max(FIRST_PIECE, window // 4), LAST_PIECE)
            stop = min(self._planned + piece, size)
            yield self._planned, stop
            self._planned = stop
