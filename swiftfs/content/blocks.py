"""Sets of a file's blocks, as bits of one integer."""

from collections.abc import Iterator

BLOCK = 128 * 1024
"""Bytes in a block: one kernel request, so that a random read downloads little more than it was asked for."""


def block_range(offset: int, end: int) -> tuple[int, int]:
    """Return the blocks, first and one past the last, that the bytes from `offset` to `end` touch."""
    return offset // BLOCK, -(-end // BLOCK)


class Blocks:
    """A set of block numbers. Ranges are half open: `first` to one before `last`. Not locked."""

    def __init__(self) -> None:
        self._bits = 0

    def add(self, first: int, last: int) -> None:
        """Add the blocks of a range."""
        self._bits |= _mask(first, last)

    def discard(self, first: int, last: int) -> None:
        """Remove the blocks of a range."""
        self._bits &= ~_mask(first, last)

    def update(self, other: "Blocks") -> None:
        """Add the blocks of another set."""
        self._bits |= other._bits

    def subtract(self, other: "Blocks") -> None:
        """Remove the blocks of another set."""
        self._bits &= ~other._bits

    def touches(self, first: int, last: int) -> bool:
        """Say whether any block of the range is in the set."""
        return bool(self._bits & _mask(first, last))

    def runs(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Yield the runs of the range that are in the set, in order."""
        return _runs(self._bits >> first & _mask(0, last - first), first)

    def covers(self, first: int, last: int) -> bool:
        """Say whether all blocks of the range are in the set."""
        return next(self.missing(first, last), None) is None

    def missing(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Yield the runs of the range that are not in the set, in order."""
        return _runs(~(self._bits >> first) & _mask(0, last - first), first)

    def copy(self) -> "Blocks":
        """Return a set of the same blocks."""
        other = Blocks()
        other._bits = self._bits
        return other

    def to_bytes(self) -> bytes:
        """Return the set as bytes, for `from_bytes`."""
        return self._bits.to_bytes((self._bits.bit_length() + 7) // 8, "little")

    @classmethod
    def from_bytes(cls, data: bytes) -> "Blocks":
        """Return the set that `to_bytes` wrote."""
        blocks = cls()
        blocks._bits = int.from_bytes(data, "little")
        return blocks

    def __bool__(self) -> bool:
        return bool(self._bits)

    def __len__(self) -> int:
        return self._bits.bit_count()


def _runs(bits: int, offset: int) -> Iterator[tuple[int, int]]:
    while bits:
        start = (bits & -bits).bit_length() - 1
        rest = ~(bits >> start)
        length = (rest & -rest).bit_length() - 1
        yield offset + start, offset + start + length
        bits &= ~_mask(start, start + length)


def _mask(first: int, last: int) -> int:
    return ((1 << max(0, last - first)) - 1) << first
