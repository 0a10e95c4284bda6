"""Sets of numbers as immutable trees: a changed set shares the nodes that did not change with the old set.

A leaf is an integer with one bit for each of `LEAF_SIZE` numbers. An inner node has `CHILDREN` nodes one step
lower. A node of any height that is empty or full is `NONE` or `ALL`. So a run of any length takes at most one
path at each of its ends, and a set of many runs takes at most its bits. A node of height h covers 2**h
numbers.
"""

from collections.abc import Callable, Iterator

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


def count(node: Node, height: int) -> int:
    """Return how many numbers a node has."""
    if isinstance(node, Inner):
        return node.count
    return 1 << height if node == ALL else node.bit_count()


def assign(node: Node, height: int, first: int, last: int, value: int) -> Node:
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
    total = count(node, height + _STEP)
    if begin + 1 < end:
        total -= sum([count(child, height) for child in children[begin + 1 : end]])
        total += (end - begin - 1) * count(value, height)
        children[begin + 1 : end] = [value] * (end - begin - 1)
    for index in (begin, end) if begin < end else (begin,):
        before, start = children[index], index << height
        after = assign(before, height, max(first - start, 0), min(last - start, 1 << height), value)
        children[index] = after
        total += count(after, height) - count(before, height)
    return _inner(children, total, height + _STEP)


def add_bits(node: Node, height: int, first: int, bits: int) -> Node:
    """Return a node with the numbers of a leaf added; the leaf has these bits and begins at `first`."""
    if isinstance(node, int) and height == LEAF:
        return _leaf(node | bits)
    children, height = list(_children(node)), height - _STEP
    index = first >> height
    before = children[index]
    after = children[index] = add_bits(before, height, first - (index << height), bits)
    total = count(node, height + _STEP) + count(after, height) - count(before, height)
    return _inner(children, total, height + _STEP)


def union(one: Node, other: Node, height: int) -> Node:
    """Return a node with the numbers of both."""
    if one is other or other == NONE or one == ALL:
        return one
    if one == NONE or other == ALL:
        return other
    if isinstance(one, int) and isinstance(other, int):
        return _leaf(one | other)
    return _merged(union, one, other, height)


def difference(one: Node, other: Node, height: int) -> Node:
    """Return a node with the numbers of `one` that `other` does not have."""
    if one is other or one == NONE or other == ALL:
        return NONE
    if other == NONE:
        return one
    if height == LEAF:
        assert isinstance(one, int)
        assert isinstance(other, int)
        return _leaf(one & ~other)
    return _merged(difference, one, other, height)


def widened(node: Node, height: int, log: int) -> Node:
    """Return a node with all groups of 2**`log` numbers, within leaves, of which the node has any."""
    if isinstance(node, Inner):
        children = [widened(child, height - _STEP, log) for child in node.children]
        total = sum([count(child, height - _STEP) for child in children])
        return _inner(children, total, height)
    if node in (NONE, ALL):
        return node
    groups = _FULL // ((1 << (1 << log)) - 1)  # the first bit of each
    for shift in range(log):
        node |= node >> (1 << shift)
    # A shift also brings in bits of the next group, but never to the first bit of a group.
    return _leaf((node & groups) * ((1 << (1 << log)) - 1))


def raised(node: Node, height: int) -> Node:
    """Return a node one step higher that has the same numbers."""
    return _inner([node, *[NONE] * (CHILDREN - 1)], count(node, height), height + _STEP)


def pieces(root: Node, height: int, first: int, last: int) -> Iterator[tuple[int, int, int]]:
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


def next_height(height: int) -> int:
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
    before = total = count(one, height)
    for index, (mine, theirs) in enumerate(zip(children, _children(other), strict=True)):
        if theirs != NONE:
            after = children[index] = merge(mine, theirs, low)
            total += count(after, low) - count(mine, low)
    # A union only adds, a difference only removes: an equal count means that nothing changed.
    return one if total == before else _inner(children, total, height)


def runs_of(pieces: Iterator[tuple[int, int, int]], none: int) -> Iterator[tuple[int, int]]:
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
