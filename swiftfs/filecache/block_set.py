"""Sets of block numbers, in memory and as bytes, for the journal and the index.

In memory a set is an immutable tree: a changed set shares the nodes that did not change with the old set. A
leaf is an integer with one bit for each of `LEAF_SIZE` numbers. An inner node has `CHILDREN` nodes one step
lower. A node of any height that is empty or full is `NONE` or `ALL`. So a run of any length takes at most one
path at each of its ends, and a set of many runs takes at most its bits. A node of height h covers 2**h
numbers.

As bytes it is a sequence of records, then a zero byte. A record begins with a number: seven bits in each
byte, the least significant first. The lowest two bits of the number are the record's kind, the others are the
number of blocks it describes; these follow those of the record before. `_ABSENT` and `_PRESENT` are runs.
`_BITMAP` is followed by one bit for each block, the least significant first, padded to a byte. Blocks after
the last record are absent. A set of a single bitmap is written as that bitmap alone, as release 0.1 wrote
every set. Its last byte is never zero, which distinguishes the two forms.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache

from msgspec import Struct

LEAF = 11
"""The height of a leaf. Larger leaves make each change slower, smaller ones make the tree higher."""

LEAF_SIZE = 1 << LEAF
_FULL = (1 << LEAF_SIZE) - 1

_STEP = 5
"""How much higher an inner node is than its children."""

CHILDREN = 1 << _STEP

NONE = 0
ALL = -1


class Inner(Struct, frozen=True, eq=False):
    """A node that is neither empty nor full; it has `count` numbers."""

    children: tuple["Node", ...]
    count: int


Node = int | Inner


def _count(node: Node, height: int) -> int:
    """Return how many numbers a node has."""
    if isinstance(node, Inner):
        return node.count
    return 1 << height if node == ALL else node.bit_count()


def _assign(node: Node, height: int, first: int, last: int, value: int) -> Node:
    """Return a node with all numbers from `first` to before `last`, or none of them, as `value` says.

    `value` is `ALL` or `NONE`. `first` and `last` are counted from the node's first number, and lie within
    the node.
    """
    if isinstance(node, int) and node == value:
        return node
    if last - first == 1 << height:
        return value
    if height == LEAF:
        assert isinstance(node, int)
        mask = (1 << last) - (1 << first)
        return _leaf(node | mask if value else node & ~mask)
    children, height = list(_children(node)), height - _STEP
    begin, end = first >> height, (last - 1) >> height
    total = _count(node, height + _STEP)
    if begin + 1 < end:
        total -= sum([_count(child, height) for child in children[begin + 1 : end]])
        total += (end - begin - 1) * _count(value, height)
        children[begin + 1 : end] = [value] * (end - begin - 1)
    for index in (begin, end) if begin < end else (begin,):
        before, start = children[index], index << height
        after = _assign(before, height, max(first - start, 0), min(last - start, 1 << height), value)
        children[index] = after
        total += _count(after, height) - _count(before, height)
    return _inner(children, total, height + _STEP)


def _add_leaf(node: Node, height: int, first: int, bits: int) -> Node:
    """Return a node with the numbers of a leaf added; the leaf has these bits and begins at `first`."""
    if isinstance(node, int) and height == LEAF:
        return _leaf(node | bits)
    children, height = list(_children(node)), height - _STEP
    index = first >> height
    before = children[index]
    after = children[index] = _add_leaf(before, height, first - (index << height), bits)
    total = _count(node, height + _STEP) + _count(after, height) - _count(before, height)
    return _inner(children, total, height + _STEP)


def _union(one: Node, other: Node, height: int) -> Node:
    """Return a node with the numbers of both."""
    if one is other or other == NONE or one == ALL:
        return one
    if one == NONE or other == ALL:
        return other
    if isinstance(one, int) and isinstance(other, int):
        return _leaf(one | other)
    return _merged(_union, one, other, height)


def _difference(one: Node, other: Node, height: int) -> Node:
    """Return a node with the numbers of `one` that `other` does not have."""
    if one is other or one == NONE or other == ALL:
        return NONE
    if other == NONE:
        return one
    if height == LEAF:
        assert isinstance(one, int)
        assert isinstance(other, int)
        return _leaf(one & ~other)
    return _merged(_difference, one, other, height)


def _widened(node: Node, height: int, log: int) -> Node:
    """Return a node with all groups of 2**`log` numbers, within leaves, of which the node has any."""
    if isinstance(node, Inner):
        children = [_widened(child, height - _STEP, log) for child in node.children]
        total = sum([_count(child, height - _STEP) for child in children])
        return _inner(children, total, height)
    if node in (NONE, ALL):
        return node
    groups = _FULL // ((1 << (1 << log)) - 1)  # the first bit of each
    for shift in range(log):
        node |= node >> (1 << shift)
    # A shift also brings in bits of the next group, but never to the first bit of a group.
    return _leaf((node & groups) * ((1 << (1 << log)) - 1))


def _raised(node: Node, height: int) -> Node:
    """Return a node one step higher that has the same numbers."""
    return _inner([node, *[NONE] * (CHILDREN - 1)], _count(node, height), height + _STEP)


def _pieces(root: Node, height: int, first: int, last: int) -> Iterator[tuple[int, int, int]]:
    """Yield the pieces of a range in order: the first number, one past the last, and the bits.

    The bits are `NONE`, `ALL`, or those of a leaf from the first number on, which may go on after the end.
    """
    end = min(last, 1 << height)
    while first < end:
        node, low = root, height
        siblings: tuple[Node, ...] = (root,)
        while isinstance(node, Inner):
            low -= _STEP
            siblings = node.children
            node = siblings[first >> low & CHILDREN - 1]
        size = 1 << low
        stop = (first | size - 1) + 1
        if node in (NONE, ALL):
            while stop < end and stop >> low & CHILDREN - 1 and siblings[stop >> low & CHILDREN - 1] == node:
                stop += size
        else:
            node >>= first & size - 1
        yield first, min(stop, end), node
        first = stop
    if first < last:
        yield first, last, NONE


def _next_height(height: int) -> int:
    """Return the height of a node above one of this height."""
    return height + _STEP


def _children(node: Node) -> tuple[Node, ...]:
    return node.children if isinstance(node, Inner) else (node,) * CHILDREN


def _leaf(bits: int) -> int:
    bits &= _FULL
    return ALL if bits == _FULL else bits


def _inner(children: list[Node], total: int, height: int) -> Node:
    if not total:
        return NONE
    return ALL if total == 1 << height else Inner(tuple(children), total)


def _merged(merge: Callable[[Node, Node, int], Node], one: Node, other: Node, height: int) -> Node:
    """Return `one` with its children merged with those of `other` that have any number."""
    children, low = list(_children(one)), height - _STEP
    before = total = _count(one, height)
    for index, (mine, theirs) in enumerate(zip(children, _children(other), strict=True)):
        if theirs != NONE:
            after = children[index] = merge(mine, theirs, low)
            total += _count(after, low) - _count(mine, low)
    # A union only adds, a difference only removes: an equal count means that nothing changed.
    return one if total == before else _inner(children, total, height)


def _runs_of(pieces: Iterator[tuple[int, int, int]], none: int) -> Iterator[tuple[int, int]]:
    """Yield the runs of numbers that are in the pieces (`none` is `NONE`), or are not (`none` is `ALL`)."""
    begin = end = -1  # of a run that the next piece may continue
    for start, stop, bits in pieces:
        if bits == none:
            if begin >= 0:
                yield begin, end
            begin = -1
        if bits == ~none:
            begin, end = (begin if begin >= 0 else start), stop
        elif bits != none:
            for one, other in _bit_runs((bits ^ none) & (1 << stop - start) - 1, start):
                if begin >= 0 and one != end:
                    yield begin, end
                    begin = -1
                begin, end = (begin if begin >= 0 else one), other
            if begin >= 0 and end < stop:  # at once, for callers that need the first run only
                yield begin, end
                begin = -1
    if begin >= 0:
        yield begin, end


def _bit_runs(bits: int, start: int) -> Iterator[tuple[int, int]]:
    while bits:
        zeros = (bits & -bits).bit_length() - 1
        bits >>= zeros
        ones = (~bits & bits + 1).bit_length() - 1
        bits >>= ones
        yield start + zeros, start + zeros + ones
        start += zeros + ones


_ABSENT, _PRESENT, _BITMAP = range(3)
_KIND_BITS = 2
_KIND_MASK = (1 << _KIND_BITS) - 1
_MOST = 1 << 53
"""No file has so many blocks."""


def pack(pieces: Iterable[tuple[int, int, int]]) -> bytes:
    """Encode a set that consists of these pieces, which begin at block 0; see `_pieces`."""
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
        self._root: Node = NONE
        self._height = LEAF
        # The last answer of `has_all`, and to which question about which tree, which never changes.
        self._answer: tuple[Node, int, int, bool] = NONE, LEAF, 0, True

    def add(self, first: int, last: int) -> None:
        """Add the blocks of a range."""
        if first < last:
            self._raise_to(last)
            self._root = _assign(self._root, self._height, first, last, ALL)

    def discard(self, first: int, last: int) -> None:
        """Remove the blocks of a range."""
        last = min(last, 1 << self._height)
        if first < last:
            self._root = _assign(self._root, self._height, first, last, NONE)

    def cut(self, first: int) -> None:
        """Remove the blocks from `first` on."""
        self.discard(first, 1 << self._height)

    def update(self, other: "Blocks") -> None:
        """Add the blocks of another set."""
        mine, theirs = self._level_with(other)
        self._root = _union(mine, theirs, self._height)

    def subtract(self, other: "Blocks") -> None:
        """Remove the blocks of another set."""
        mine, theirs = self._level_with(other)
        self._root = _difference(mine, theirs, self._height)

    def touches(self, first: int, last: int) -> bool:
        """Return whether any block of the range is in the set."""
        return next(self.runs(first, last), None) is not None

    def runs(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Yield the runs of the range that are in the set, in order."""
        return _runs_of(_pieces(self._root, self._height, first, last), NONE)

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
        return _runs_of(_pieces(self._root, self._height, first, last), ALL)

    def widened(self, count: int) -> "Blocks":
        """Return all groups of `count` blocks, a power of two, that have any block of the set."""
        other = self.copy()
        other._root = _widened(self._root, self._height, count.bit_length() - 1)
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
        if self._height == LEAF:
            return _packed_leaf(self._root)
        return pack(_pieces(self._root, self._height, 0, 1 << self._height))

    @classmethod
    def from_bytes(cls, data: bytes) -> "Blocks":
        """Decode what `to_bytes` of this or an earlier release has written; raise `ValueError`."""
        return _unpacked_small(data).copy() if len(data) <= SMALL else cls._unpacked(data)

    @classmethod
    def _unpacked(cls, data: bytes) -> "Blocks":
        blocks = cls()
        for first, last, bits in unpack(data):
            if bits == ALL:
                blocks.add(first, last)
            else:
                blocks._add_bits(first, bits)
        return blocks

    def __bool__(self) -> bool:
        return self._root != NONE

    def __len__(self) -> int:
        return _count(self._root, self._height)

    def _add_bits(self, first: int, bits: int) -> None:
        """Add the blocks whose bits are set, from `first` on."""
        while bits:
            start = first % LEAF_SIZE
            self._raise_to(first + 1)
            self._root = _add_leaf(self._root, self._height, first - start, bits << start)
            bits >>= LEAF_SIZE - start
            first += LEAF_SIZE - start

    def _raise_to(self, last: int) -> None:
        while last > 1 << self._height:
            self._root = _raised(self._root, self._height)
            self._height = _next_height(self._height)

    def _level_with(self, other: "Blocks") -> tuple[Node, Node]:
        """Raise the lower of both roots to the height of the other; return both."""
        self._raise_to(1 << other._height)
        root, height = other._root, other._height
        while height < self._height:
            root, height = _raised(root, height), _next_height(height)
        return self._root, root


SMALL = 8
"""Bytes of a packed set that probably many files have."""


@lru_cache(maxsize=256)
def _unpacked_small(data: bytes) -> Blocks:
    return Blocks._unpacked(data)


@lru_cache(maxsize=256)
def _packed_leaf(leaf: Node) -> bytes:
    return pack(_pieces(leaf, LEAF, 0, 1 << LEAF))


def missing_of_all(sets: Iterable[Blocks], first: int, last: int) -> Iterator[tuple[int, int]]:
    """Yield the runs of the range that no set has, in order. The sets must not change meanwhile."""
    runs = iter([(first, last)])
    for one in sets:
        runs = _without(runs, one)
    return runs


def _without(runs: Iterator[tuple[int, int]], blocks: Blocks) -> Iterator[tuple[int, int]]:
    for run in runs:
        yield from blocks.missing(*run)
