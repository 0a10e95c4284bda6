"""Which blocks of a file are where: sets, the version below, segments, and the record of it all.

What a call costs depends on how many blocks of its range change their state in turn, not on the file's size.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from swiftfs.filecache import block_tree as tree
from swiftfs.filecache.block_codec import pack, unpack
from swiftfs.objects import Manifest, ObjectName, Segment

BLOCK = 128 * 1024
"""Bytes in a block: one kernel request, so that a random read downloads little more than it was asked for."""


def block_range(offset: int, end: int) -> tuple[int, int]:
    """Return the blocks, first and one past the last, that the bytes from `offset` to `end` touch."""
    return offset // BLOCK, -(-end // BLOCK)


class Blocks:
    """A set of block numbers. Ranges are half open: `first` to one before `last`. Not locked.

    What `runs` and `missing` yield is as it was when they were called. A copy takes no time and no memory.
    """

    def __init__(self) -> None:
        self._root: tree.Node = tree.NONE
        self._height = tree.LEAF

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
        """Say whether any block of the range is in the set."""
        return next(self.runs(first, last), None) is not None

    def runs(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Yield the runs of the range that are in the set, in order."""
        return _runs(tree.pieces(self._root, self._height, first, last), tree.NONE)

    def covers(self, first: int, last: int) -> bool:
        """Say whether all blocks of the range are in the set."""
        return next(self.missing(first, last), None) is None

    def missing(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Yield the runs of the range that are not in the set, in order."""
        return _runs(tree.pieces(self._root, self._height, first, last), tree.ALL)

    def widened(self, count: int) -> "Blocks":
        """Return a set of all groups of `count` blocks, a power of two, that have a block of the set."""
        other = self.copy()
        other._root = tree.widened(self._root, self._height, count.bit_length() - 1)
        return other

    def copy(self) -> "Blocks":
        """Return a set of the same blocks."""
        other = Blocks()
        other._root, other._height = self._root, self._height
        return other

    def to_bytes(self) -> bytes:
        """Return the set as bytes, for `from_bytes`."""
        return pack(tree.pieces(self._root, self._height, 0, 1 << self._height))

    @classmethod
    def from_bytes(cls, data: bytes) -> "Blocks":
        """Return the set that `to_bytes` wrote, of this release or an earlier one; raise `ValueError`."""
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
        """Add the blocks that bits say, from `first` on."""
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
        """Return both roots at one height, which is that of the higher one."""
        self._raise_to(1 << other._height)
        root, height = other._root, other._height
        while height < self._height:
            root, height = tree.raised(root, height), tree.next_height(height)
        return self._root, root


def missing_of_all(sets: Iterable[Blocks], first: int, last: int) -> Iterator[tuple[int, int]]:
    """Yield the runs of the range that none of the sets has, in order; the sets must not change meanwhile."""
    runs = iter([(first, last)])
    for one in sets:
        runs = _without(runs, one)
    return runs


def _without(runs: Iterator[tuple[int, int]], blocks: Blocks) -> Iterator[tuple[int, int]]:
    for run in runs:
        yield from blocks.missing(*run)


def _runs(pieces: Iterator[tuple[int, int, int]], none: int) -> Iterator[tuple[int, int]]:
    """Yield the runs of what is in the pieces, or with `ALL` for `none` of what is not."""
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
            if begin >= 0 and end < stop:  # at once: who wants the first run only looks no further
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


@dataclass(frozen=True, slots=True)
class BaseVersion:
    """The version whose bytes fill the file: the first `size` bytes of it, `etag` empty while unknown.

    `object_size` is the size of the object, which `size` falls below when the file is truncated. `manifest`
    is an SLO's own where it is known.
    """

    name: ObjectName
    etag: str
    size: int
    object_size: int
    manifest: Manifest | None = None


@dataclass(frozen=True, slots=True)
class StoredSegment:
    """A segment that holds the file's bytes from `start` on, which are not in the local file."""

    start: int
    segment: Segment

    @property
    def end(self) -> int:
        """One past the last of its bytes in the file."""
        return self.start + self.segment.span

    @property
    def blocks(self) -> tuple[int, int]:
        """The blocks, first and one past the last, that lie wholly in the segment."""
        return -(-self.start // BLOCK), self.end // BLOCK


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A content's local file by its name in its folder, the bytes it has, and where the others are.

    The `dirty` blocks are in the local file, those `evicted` in segments, and all others, of which nobody
    knows whether a writer has changed them since, are the origin's. `prefix` is what the names of its
    segments begin with, None while there are none.
    """

    file: str
    size: int
    origin: BaseVersion | None
    dirty: Blocks
    prefix: ObjectName | None
    evicted: tuple[StoredSegment, ...] = ()

    @property
    def is_whole(self) -> bool:
        """True when every byte is in the local file."""
        first, last = block_range(0, self.origin.size if self.origin else 0)
        return not self.evicted and self.dirty.covers(first, last)

    def with_blocks_of(self, older: "FileRecord") -> "FileRecord":
        """Return it with what an older state of the same local file and version has there besides."""
        versions = {(origin.name, origin.etag) if (origin := one.origin) else None for one in (self, older)}
        if len(versions) > 1:
            return self
        dirty = older.dirty.copy()
        dirty.discard(block_range(0, self.size)[1], block_range(0, max(self.size, older.size))[1])
        for placed in self.evicted:
            dirty.discard(*placed.blocks)
        dirty.update(self.dirty)
        return replace(self, dirty=dirty, prefix=self.prefix or older.prefix)
