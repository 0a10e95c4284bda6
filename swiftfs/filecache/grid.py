"""Predicts the reads of a program that jumps by multiples of one distance, in any order, with one thread."""

import math
from collections.abc import Iterator

from swiftfs.filecache.block_map import BLOCK, block_range
from swiftfs.filecache.block_set import Blocks

EVIDENCE = 5
"""Reads that must lie on one grid: less than one in a thousand groups of random reads does by chance."""

EVIDENCE_WITHOUT_GAPS = 3
"""The same if no place between them is left out."""

LEAST_STEP = 2 * 1024 * 1024
"""Bytes. Reads that are nearer to each other may be of one place, out of order."""

AHEAD = 16
"""Predicted reads that the program has not made: two for each connection. Wasted if it stops."""


class Grid:
    """Places of a file that a program jumps to, if their distances have a common divisor. Not locked.

    It begins with the read of a block. A program that goes in one direction gets the next places. One that
    reads in no order gets those between the first and the last place so far, the nearest first.
    """

    def __init__(self, block: int) -> None:
        self._reads = 0
        self._step = 0
        self._origin = self._low = self._high = self._last = block
        self._goes_up = self._goes_down = True
        self._known = Blocks()
        self._predicted: set[int] = set()

    def expects(self, offset: int) -> bool:
        """Return whether a read at `offset` was predicted."""
        return offset // BLOCK in self._predicted

    def has(self, offset: int) -> bool:
        """Return whether `offset` is a place of this grid."""
        step = math.gcd(self._step, offset // BLOCK - self._origin)
        return self._reads > 0 and (not step or step >= LEAST_STEP // BLOCK)

    def plan(self, offset: int, end: int, size: int) -> Iterator[tuple[int, int]]:
        """Yield the ranges to download now, for a jump to a place of this grid in a file of `size` bytes."""
        first, last = block_range(offset, end)
        self._record(first)
        has_gaps = self._high - self._low > (self._reads - 1) * self._step
        if not self._step or self._reads < (EVIDENCE if has_gaps else EVIDENCE_WITHOUT_GAPS):
            return
        for place in self._places((size - LEAST_STEP) // BLOCK):
            if len(self._predicted) >= AHEAD:
                return
            if not self._known.covers(place, place + 1):
                self._predicted.add(place)
                self._known.add(place, place + 1)
                yield place * BLOCK, min((place + last - first) * BLOCK, size)

    def _record(self, block: int) -> None:
        self._step = math.gcd(self._step, block - self._origin)
        if self._reads:
            self._goes_up = self._goes_up and block > self._last
            self._goes_down = self._goes_down and block < self._last
        self._reads += 1
        self._low, self._high, self._last = min(self._low, block), max(self._high, block), block
        self._known.add(block, block + 1)
        self._predicted.discard(block)

    def _places(self, blocks: int) -> Iterator[int]:
        """Yield the next places in a file of so many blocks, the nearest first."""
        low = self._last if self._goes_up else 0 if self._goes_down else self._low
        high = self._last if self._goes_down else blocks if self._goes_up else self._high + 1
        for number in range(1, 2 * AHEAD):
            for place in (self._last + number * self._step, self._last - number * self._step):
                if low <= place < high:
                    yield place
