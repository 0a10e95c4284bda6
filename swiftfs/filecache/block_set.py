"""Sets of block numbers, in memory and as bytes, for the journal and the index.

A set as bytes is a sequence of records, then a zero byte. A record begins with a number: seven bits in each
byte, the least significant first. The lowest two bits of the number are the record's kind, the others are the
number of blocks it describes; these follow those of the record before. `_ABSENT` and `_PRESENT` are runs.
`_BITMAP` is followed by one bit for each block, the least significant first, padded to a byte. Blocks after
the last record are absent.

A set of a single bitmap is written as that bitmap alone, as release 0.1 wrote every set. Its last byte is
never zero, which distinguishes the two forms.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache

from swiftfs.filecache import block_tree as tree
from swiftfs.filecache.block_tree import ALL, LEAF_SIZE, NONE

_ABSENT, _PRESENT, _BITMAP = range(3)
_KIND_BITS = 2
_KIND_MASK = (1 << _KIND_BITS) - 1
_MOST = 1 << 53
"""No file has so many blocks."""


def pack(pieces: Iterable[tuple[int, int, int]]) -> bytes:
    """Encode a set that consists of these pieces, which begin at block 0; see `block_tree.pieces`."""
    records: list[bytes] = []
    kind, length = _ABSENT, 0  # of the run that is not written yet
    for start, stop, bits in pieces:
        if bits not in (NONE, ALL):
            size = bits.bit_length()
            records += [*_run(kind, length), _number(size << _KIND_BITS | _BITMAP)]
            records.append(bits.to_bytes(-(-size // 8), "little"))
            kind, length = _ABSENT, stop - start - size
        elif (bits == ALL) == (kind == _PRESENT):
            length += stop - start
        else:
            records += _run(kind, length)
            kind, length = (_PRESENT if bits == ALL else _ABSENT), stop - start
    if kind == _PRESENT:
        records += _run(kind, length)
    if not records:
        return b""
    is_bitmap = len(records) == 2 and records[0][0] & _KIND_MASK == _BITMAP
    return records[1] if is_bitmap else b"".join([*records, b"\0"])


def unpack(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the pieces of an encoded set, without absent ones; raise `ValueError` for anything else."""
    if not data:
        return
    if data[-1]:
        yield from _bitmap(0, data)
        return
    position = start = 0
    while position < len(data) - 1:
        number, position = _read_number(data, position)
        kind, length = number & _KIND_MASK, number >> _KIND_BITS
        if start + length > _MOST:
            raise ValueError("a set of blocks beyond the largest file")
        if kind == _PRESENT:
            yield start, start + length, ALL
        elif kind == _BITMAP:
            end = position + -(-length // 8)
            if end >= len(data):
                raise ValueError("a truncated set of blocks")
            yield from _bitmap(start, data[position:end])
            position = end
        elif kind != _ABSENT:
            raise ValueError("a set of blocks of another release")
        start += length


def _run(kind: int, length: int) -> list[bytes]:
    return [_number(length << _KIND_BITS | kind)] if length else []


def _bitmap(start: int, data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield a bitmap in pieces of at most a leaf."""
    for offset in range(0, len(data), LEAF_SIZE // 8):
        part = data[offset : offset + LEAF_SIZE // 8]
        first = start + offset * 8
        yield first, first + len(part) * 8, int.from_bytes(part, "little")


def _number(number: int) -> bytes:
    found = bytearray()
    while number >= 0x80:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


def _read_number(data: bytes, position: int) -> tuple[int, int]:
    """Return the number at a position, and the position after it."""
    number = shift = 0
    while shift < 64:
        byte = data[position]
        number |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return number, position
    raise ValueError("a set of blocks of another release")


class Blocks:
    """A set of block numbers. Ranges are half open: `first` to one before `last`. Not locked.

    `runs` and `missing` yield the state at the time of the call. A copy takes no time and no memory.
    """

    __slots__ = ("__weakref__", "_answer", "_height", "_root")

    def __init__(self) -> None:
        self._root: tree.Node = tree.NONE
        self._height = tree.LEAF
        # The last answer of `has_all`, and to which question about which tree, which never changes.
        self._answer: tuple[tree.Node, int, int, bool] = tree.NONE, tree.LEAF, 0, True

    def add(self, first: int, last: int) -> None:
        """Add the blocks of a range."""
        if first < last:
            self._raise_to(last)
            self._root = tree.assign(self._root, self._height, first, last, tree.ALL)

    def discard(self, first: int, last: int) -> None:
        """Remove the blocks of a range."""
        last = min(last, 1 << self._height)
        if first < last:
            self._root = tree.assign(self._root, self._height, first, last, tree.NONE)

    def cut(self, first: int) -> None:
        """Remove the blocks from `first` on."""
        self.discard(first, 1 << self._height)

    def update(self, other: "Blocks") -> None:
        """Add the blocks of another set."""
        mine, theirs = self._level_with(other)
        self._root = tree.union(mine, theirs, self._height)

    def subtract(self, other: "Blocks") -> None:
        """Remove the blocks of another set."""
        mine, theirs = self._level_with(other)
        self._root = tree.difference(mine, theirs, self._height)

    def touches(self, first: int, last: int) -> bool:
        """Return whether any block of the range is in the set."""
        return next(self.runs(first, last), None) is not None

    def runs(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Yield the runs of the range that are in the set, in order."""
        return tree.runs_of(tree.pieces(self._root, self._height, first, last), tree.NONE)

    def covers(self, first: int, last: int) -> bool:
        """Return whether all blocks of the range are in the set."""
        return next(self.missing(first, last), None) is None

    def has_all(self, end: int) -> bool:
        """Return whether all blocks before `end` are in the set; the same question again needs no search."""
        root, height, asked, answer = self._answer
        if root is not self._root or height != self._height or asked != end:
            answer = len(self) >= end and self.covers(0, end)
            self._answer = self._root, self._height, end, answer
        return answer

    def missing(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Yield the runs of the range that are not in the set, in order."""
        return tree.runs_of(tree.pieces(self._root, self._height, first, last), tree.ALL)

    def widened(self, count: int) -> "Blocks":
        """Return all groups of `count` blocks, a power of two, that have any block of the set."""
        other = self.copy()
        other._root = tree.widened(self._root, self._height, count.bit_length() - 1)
        return other

    def copy(self) -> "Blocks":
        """Return a set of the same blocks."""
        other = Blocks()
        other._root, other._height = self._root, self._height
        return other

    def is_same(self, other: "Blocks") -> bool:
        """Return whether the sets are equal, without a search: False also if that would need one."""
        return self._root == other._root and self._height == other._height

    def to_bytes(self) -> bytes:
        """Encode the set for `from_bytes`."""
        if self._height == tree.LEAF:
            return _packed_leaf(self._root)
        return pack(tree.pieces(self._root, self._height, 0, 1 << self._height))

    @classmethod
    def from_bytes(cls, data: bytes) -> "Blocks":
        """Decode what `to_bytes` of this or an earlier release has written; raise `ValueError`."""
        return _unpacked_small(data).copy() if len(data) <= SMALL else cls._unpacked(data)

    @classmethod
    def _unpacked(cls, data: bytes) -> "Blocks":
        blocks = cls()
        for first, last, bits in unpack(data):
            if bits == tree.ALL:
                blocks.add(first, last)
            else:
                blocks._add_bits(first, bits)
        return blocks

    def __bool__(self) -> bool:
        return self._root != tree.NONE

    def __len__(self) -> int:
        return tree.count(self._root, self._height)

    def _add_bits(self, first: int, bits: int) -> None:
        """Add the blocks whose bits are set, from `first` on."""
        while bits:
            start = first % tree.LEAF_SIZE
            self._raise_to(first + 1)
            self._root = tree.add_bits(self._root, self._height, first - start, bits << start)
            bits >>= tree.LEAF_SIZE - start
            first += tree.LEAF_SIZE - start

    def _raise_to(self, last: int) -> None:
        while last > 1 << self._height:
            self._root = tree.raised(self._root, self._height)
            self._height = tree.next_height(self._height)

    def _level_with(self, other: "Blocks") -> tuple[tree.Node, tree.Node]:
        """Raise the lower of both roots to the height of the other; return both."""
        self._raise_to(1 << other._height)
        root, height = other._root, other._height
        while height < self._height:
            root, height = tree.raised(root, height), tree.next_height(height)
        return self._root, root


SMALL = 8
"""Bytes of a packed set that probably many files have."""


@lru_cache(maxsize=256)
def _unpacked_small(data: bytes) -> Blocks:
    return Blocks._unpacked(data)


@lru_cache(maxsize=256)
def _packed_leaf(leaf: tree.Node) -> bytes:
    return pack(tree.pieces(leaf, tree.LEAF, 0, 1 << tree.LEAF))


def missing_of_all(sets: Iterable[Blocks], first: int, last: int) -> Iterator[tuple[int, int]]:
    """Yield the runs of the range that no set has, in order. The sets must not change meanwhile."""
    runs = iter([(first, last)])
    for one in sets:
        runs = _without(runs, one)
    return runs


def _without(runs: Iterator[tuple[int, int]], blocks: Blocks) -> Iterator[tuple[int, int]]:
    for run in runs:
        yield from blocks.missing(*run)
