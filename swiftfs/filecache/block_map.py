"""Where the blocks of a file are: sets of blocks, the base version, stored segments, the journal's record.

The time of a call depends on the number of runs in its range, not on the file's size.
"""

from bisect import bisect_right, insort
from collections.abc import Collection, Iterator
from heapq import merge
from typing import Generic, Protocol, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from swiftfs.filecache.block_set import Blocks, missing_of_all
from swiftfs.objects import Manifest, ObjectName, Record, Segment


class Span(Protocol):
    """An object that has a file's bytes from `start` to `end`."""

    @property
    def start(self) -> int:
        """The first of the bytes."""

    @property
    def end(self) -> int:
        """One past the last of them."""


Value = TypeVar("Value", bound=Span)


class Spans(Generic[Value]):
    """Spans of one file by their first bytes, which are all different. Not locked.

    Spans may overlap. `_starts` has one sorted list for each bit length of a span's length. A span that
    reaches into a range begins at most its length before it, so the time of a search does not depend on the
    number of spans elsewhere.
    """

    def __init__(self) -> None:
        self._values: dict[int, Value] = {}
        self._starts: dict[int, list[int]] = {}

    def put(self, value: Value) -> None:
        """Add a span, which is not empty; replace one with the same first byte."""
        self.pop(value.start)
        self._values[value.start] = value
        insort(self._starts.setdefault(_bits(value), []), value.start)

    def get(self, start: int) -> Value | None:
        """Return the span that begins at `start`, or None."""
        return self._values.get(start)

    def pop(self, start: int) -> Value | None:
        """Remove and return the span that begins at `start`, or return None."""
        value = self._values.pop(start, None)
        if value is not None:
            starts = self._starts[_bits(value)]
            del starts[bisect_right(starts, start) - 1]
        return value

    def clear(self) -> None:
        """Remove all."""
        self._values.clear()
        self._starts.clear()

    def values(self) -> Collection[Value]:
        """Return all spans, in no order. None may be added or removed while the result is used."""
        return self._values.values()

    def touching(self, start: int, end: int) -> list[Value]:
        """Return the spans with a byte from `start` to before `end`, in the order of their first bytes."""
        found: list[Value] = []
        for bits, starts in self._starts.items():
            first = bisect_right(starts, start - (1 << bits))
            for index in range(first, len(starts)):
                if starts[index] >= end:
                    break
                if (value := self._values[starts[index]]).end > start:
                    found.append(value)
        return sorted(found, key=lambda value: value.start) if len(found) > 1 else found

    def __bool__(self) -> bool:
        return bool(self._values)


def _bits(value: Span) -> int:
    return (value.end - value.start).bit_length()


BLOCK = 128 * 1024
"""Bytes in a block: one request of the kernel, so that a random read downloads little more than it needs."""


def block_range(offset: int, end: int) -> tuple[int, int]:
    """Return the blocks, first and one past the last, that the bytes from `offset` to `end` touch."""
    return offset // BLOCK, -(-end // BLOCK)


class BaseVersion(Record, frozen=True, rename={"object_size": "whole"}):
    """The version whose first `size` bytes fill the file; `etag` is empty while it is unknown.

    `object_size` is the size of the object, which `size` falls below when the file is truncated. `manifest`
    is that of an SLO, if it is known.
    """

    name: ObjectName
    etag: str
    size: int
    object_size: int
    manifest: Manifest | None = None


class StoredSegment(Record, frozen=True):
    """A segment with the file's bytes from `start` on.

    A `tail` ends where the file did when it was copied there, inside of a block or of what the layout makes
    one segment: the rest of its last block is zeros. It is fetched back before the file grows.
    """

    start: int
    segment: Segment
    tail: bool = False

    @property
    def end(self) -> int:
        """One past the last of its bytes in the file."""
        return self.start + self.segment.span

    @property
    def blocks(self) -> tuple[int, int]:
        """The blocks, first and one past the last, of which the segment has all that the file has."""
        return -(-self.start // BLOCK), -(-self.end // BLOCK) if self.tail else self.end // BLOCK


class RemoteBlocks:
    """The evicted blocks of one file, guarded by its lock, and the segments that have them.

    INVARIANT: a segment with an evicted block has the present bytes of the file. Before a byte of it changes,
    all of its blocks are fetched back.
    `whole` has the offset in the file of each segment whose blocks are all evicted. `_tail` is the segment
    that is a tail, if any.
    """

    def __init__(self) -> None:
        self.blocks = Blocks()
        self.whole: set[int] = set()
        self._tail: StoredSegment | None = None
        self._segments: Spans[StoredSegment] = Spans()

    def add(self, segment: StoredSegment, first: int, last: int) -> None:
        """Record that blocks of a segment were evicted."""
        self._segments.put(segment)
        if segment.tail:
            self._tail = segment
        self.blocks.add(first, last)
        if self.blocks.covers(*segment.blocks):
            self.whole.add(segment.start)

    def discard(self, first: int, last: int) -> None:
        """Record that blocks are in the local file again, or that the file does not have them any more."""
        if first >= last:
            return
        self.blocks.discard(first, last)
        for segment in self._segments.touching(first * BLOCK, last * BLOCK):
            self.whole.discard(segment.start)
            if not self.blocks.touches(*segment.blocks):
                self._segments.pop(segment.start)
                if segment is self._tail:
                    self._tail = None

    def clear(self) -> None:
        """Forget all blocks, because the base version has them now."""
        self.blocks = Blocks()
        self.whole.clear()
        self._segments.clear()
        self._tail = None

    def segments(self) -> tuple[StoredSegment, ...]:
        """Return the segments that have evicted blocks, in the order of the file."""
        return tuple(sorted(self._segments.values(), key=lambda segment: segment.start))

    def source(self, block: int) -> StoredSegment | None:
        """Return the segment that has an evicted block, None for other blocks."""
        if not self.blocks.touches(block, block + 1):
            return None
        touching = self._segments.touching(block * BLOCK, (block + 1) * BLOCK)
        return next(one for one in touching if one.blocks[0] <= block < one.blocks[1])

    def runs(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Yield the evicted runs of a range of blocks, each of one segment."""
        for one in self._segments.touching(first * BLOCK, last * BLOCK):
            begin, end = one.blocks
            yield from self.blocks.runs(max(first, begin), min(last, end))

    def touched(self, offset: int, end: int, size: int) -> list[tuple[int, int]]:
        """Return the blocks of the segments with evicted blocks that a change from `offset` to `end` touches.

        That of a file of `size` bytes which becomes longer touches a tail.
        """
        found = [one.blocks for one in self._segments.touching(offset, end)]
        return [*found, self._tail.blocks] if self._tail is not None and end > size else found

    def __bool__(self) -> bool:
        return bool(self._segments)


class FileRecord(Record, frozen=True, rename={"base": "origin"}):
    """The journal's record of a cached file: the name of its local file, and where its blocks are.

    The `dirty` blocks are in the local file, and `evicted` ones in segments. All others are those of the base
    version, since the local file may have been changed after the record. `prefix` is that of the file's
    segments, None if there are none.
    """

    file: str
    size: int
    base: BaseVersion | None
    dirty: Blocks
    prefix: ObjectName | None
    evicted: tuple[StoredSegment, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether every byte is in the local file."""
        first, last = block_range(0, self.base.size if self.base else 0)
        return not self.evicted and self.dirty.covers(first, last)

    def with_blocks_of(self, older: "FileRecord") -> "FileRecord":
        """Return the record with the dirty blocks of an older one of the same local file and version."""
        versions = {(base.name, base.etag) if (base := one.base) else None for one in (self, older)}
        if len(versions) > 1:
            return self
        dirty = older.dirty.copy()
        dirty.discard(block_range(0, self.size)[1], block_range(0, max(self.size, older.size))[1])
        for segment in self.evicted:
            dirty.discard(*segment.blocks)
        dirty.update(self.dirty)
        return replace(self, dirty=dirty, prefix=self.prefix or older.prefix)


class Snapshot(Struct):
    """What an upload stores: the bytes as they were when it began.

    `dirty` are the blocks that differ from the base version. `least` is the smallest size that the file has
    had since. `changed` means that the file has changed since.
    """

    base: BaseVersion | None
    size: int
    dirty: Blocks
    least: int
    changed: bool = False


class BlockMap:
    """Where the blocks of a file of `size` bytes are. Not locked: its owner's lock guards it.

    - `present` blocks are right in the local file.
    - `dirty` blocks differ from those of `base`, the base version. During an upload of `snapshot`
      they are the blocks that have changed since it began.
    - `remote` blocks are in segments of the file's own, and not present.
    - `verified` blocks of the base version may be stored again.

    INVARIANT: dirty blocks are present, remote, or behind the end of the base version.
    INVARIANT: blocks behind the end of the base version have zeros or our own bytes, and count as present.
    """

    def __init__(
        self, base: BaseVersion | None, present: Blocks | None = None, *, verified: bool = False
    ) -> None:
        self.base = base
        self.size = base.size if base is not None else 0
        self.present = present if present is not None else Blocks()
        self.dirty = Blocks()
        self.verified = self.present.copy() if verified else Blocks()
        self.remote = RemoteBlocks()
        self.snapshot: Snapshot | None = None

    @property
    def base_end(self) -> int:
        """One past the last block that has bytes of the base version."""
        return block_range(0, self.base.size)[1] if self.base else 0

    def is_from(self, base: BaseVersion | None) -> bool:
        """Return whether `base` is the base version, or one of the two is None."""
        now = self.base
        return now is None or base is None or (now.name, now.etag) == (base.name, base.etag)

    def missing(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Yield the runs of a range of blocks that are not in the local file, each of one source."""
        runs = self.present.missing(first, min(last, self.base_end))
        if not self.remote:
            return runs
        others = (other for run in runs for other in self.remote.blocks.missing(*run))
        return merge(others, self.remote.runs(first, last))

    def first_missing(self, offset: int, end: int) -> tuple[int, int] | None:
        """Return the first missing run of blocks with bytes from `offset` to `end`, None if there is none."""
        return next(self.missing(*block_range(offset, end)), None)

    def unverified(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Yield the runs of a range of blocks that are of the base version and not verified."""
        changed = (self.dirty,) if self.snapshot is None else (self.dirty, self.snapshot.dirty)
        known = (*changed, self.verified, self.remote.blocks)
        return missing_of_all(known, first, min(last, self.base_end))

    def is_present(self, offset: int, end: int) -> bool:
        """Return whether the bytes are in the local file."""
        return self._is_all_here or self.first_missing(offset, end) is None

    @property
    def is_complete(self) -> bool:
        """Whether all is in the local file, as each read asks: without a search until blocks come or go."""
        return self.present.has_all(self.base_end) and not self.remote

    @property
    def _is_all_here(self) -> bool:
        """Whether it is a new file, of which nothing was evicted: the answer for most, without a search."""
        return self.base is None and not self.remote

    def is_verified(self, offset: int, end: int) -> bool:
        """Return whether the bytes are in the local file, and those of the base version verified."""
        if self._is_all_here:
            return True
        return next(self.unverified(*block_range(offset, end)), None) is None and self.is_present(offset, end)

    def is_dirty(self) -> bool:
        """Return whether Swift does not have these bytes."""
        return self.base is None or bool(self.dirty) or self.snapshot is not None

    def is_clean(self) -> bool:
        """Return whether the bytes are those of a version that can be downloaded again."""
        base = self.base
        return (
            self.snapshot is None
            and base is not None
            and bool(base.etag)
            and not self.dirty
            and base.size == base.object_size == self.size
        )

    def is_full(self, start: int, end: int) -> bool:
        """Return whether all bytes from `start` to `end` are new, and in the local file."""
        first, last = block_range(start, end)
        return self.dirty.covers(first, last) and not self.remote.blocks.touches(first, last)

    def is_new(self, start: int, end: int) -> bool:
        """Return whether any byte is new, none is of the base version, and all are in the local file."""
        first, last = block_range(start, end)
        return (
            self.dirty.touches(first, last)
            and self.dirty.covers(first, min(last, self.base_end))
            and not self.remote.blocks.touches(first, last)
        )

    def is_own(self, segment: StoredSegment) -> bool:
        """Return whether a segment is within the file and has no byte of the base version."""
        first, last = block_range(segment.start, segment.end)
        return segment.end <= self.size and self.dirty.covers(first, min(last, self.base_end))

    def changes(self) -> Blocks:
        """Return a copy of the blocks that differ from the base version; during an upload those it stores."""
        return (self.snapshot.dirty if self.snapshot else self.dirty).copy()

    def unsaved(self) -> Blocks:
        """Return the blocks that only the local file has."""
        blocks = self.dirty.copy()
        if self.snapshot is not None:
            blocks.update(self.snapshot.dirty)
        if self.remote:
            blocks.subtract(self.remote.blocks)
        return blocks

    def has_clean(self) -> bool:
        """Return whether the local file has blocks that Swift has, too."""
        if self.present.is_same(self.dirty) and self._is_all_here:  # a new file, as most that are closed
            return False
        clean = self.present.copy()
        clean.subtract(self.unsaved())
        return bool(clean)

    def write(self, offset: int, end: int) -> None:
        """Record that the bytes from `offset` to `end` were written."""
        blocks = block_range(offset, end)
        self.present.add(*blocks)
        self.dirty.add(*blocks)
        self.size = max(self.size, end)
        if self.snapshot is not None:
            self.snapshot.changed = True

    def copied(self, stored: StoredSegment) -> None:
        """Record that the file has grown by a segment of which the local file has nothing."""
        assert stored.start >= self.size
        blocks = block_range(stored.start, stored.end)
        # Whatever is there is of a file that was longer once.
        self.drop(*blocks)
        self.dirty.add(*blocks)
        self.remote.add(stored, *stored.blocks)
        self.size = stored.end

    def cut(self, size: int) -> None:
        """Forget the blocks behind the first `size` bytes. Call `resize` when their bytes are zeros."""
        if self.base is not None and size < self.base.size:
            self.base = replace(self.base, size=size)
        behind = block_range(0, size)[1], block_range(0, self.size)[1]
        self.present.discard(*behind)
        self.remote.discard(*behind)

    def resize(self, size: int) -> None:
        """Record that the file is `size` bytes long now; new bytes are zeros."""
        if size >= self.size:
            self.dirty.add(*block_range(self.size, size))
        self.size = size
        if self.snapshot is not None:
            self.snapshot.changed = True
            self.snapshot.least = min(self.snapshot.least, size)

    def own_all(self) -> None:
        """Make every block dirty."""
        self.dirty.add(*block_range(0, self.size))

    def drop(self, first: int, last: int) -> None:
        """Record that blocks are not in the local file any more."""
        self.present.discard(first, last)
        self.verified.discard(first, last)

    def freeze(self) -> Snapshot:
        """Begin an upload of the bytes as they are now; blocks that are written later are dirty again."""
        assert self.snapshot is None
        # The set itself goes to the snapshot: what is written from now on must not be in it.
        self.snapshot = Snapshot(self.base, self.size, self.dirty, self.size)
        self.dirty = Blocks()
        return self.snapshot

    def thaw(self) -> None:
        """End an upload that has stored nothing, if one runs: its blocks are dirty again."""
        if self.snapshot is not None:
            self.dirty.update(self.snapshot.dirty)
            self.snapshot = None

    def adopt(self, name: ObjectName, etag: str, manifest: Manifest | None) -> Snapshot:
        """Make a stored version the base version; return the snapshot that was stored.

        It has the bytes of the time when the upload began; without an upload, the present ones.
        """
        taken = self.snapshot or Snapshot(self.base, self.size, self.dirty, self.size)
        if self.snapshot is None:
            self.dirty = Blocks()
        self.snapshot = None
        size = min(taken.size, taken.least)
        # Bytes behind the end of the old base version are ours, even zeros that nobody wrote.
        ours = self.base_end, block_range(0, size)[1]
        self.present.add(*ours)
        self.verified.add(*ours)
        self.verified.update(taken.dirty)
        if self.remote:
            # `ours` may have evicted blocks among them, which only their segments had.
            self.present.subtract(self.remote.blocks)
            self.verified.subtract(self.remote.blocks)
            self.remote.clear()
        self.base = BaseVersion(name, etag, size, taken.size, manifest)
        return taken

    def rebase(self, base: BaseVersion) -> None:
        """Make a newer version the base version; it differs from the old one in dirty blocks only."""
        size = min(base.size, self.base.size if self.base else base.size)
        self.base = replace(base, size=size)

    def detach(self) -> None:
        """Forget the base version: every byte is in the local file."""
        self.base = None
        self.own_all()

    def rename(self, name: ObjectName) -> None:
        """Record that the object was moved to `name`."""
        if self.base is not None:
            self.base = replace(self.base, name=name)
        if self.snapshot is not None and self.snapshot.base is not None:
            self.snapshot.base = replace(self.snapshot.base, name=name)

    @classmethod
    def restore(cls, record: FileRecord) -> "BlockMap":
        """Return the map of a file as `to_record` has recorded it."""
        blocks = cls(record.base, record.dirty.copy())
        blocks.size = record.size
        blocks.dirty = record.dirty.copy()
        for segment in record.evicted:
            blocks.dirty.add(*segment.blocks)
            blocks.remote.add(segment, *segment.blocks)
        return blocks

    def to_record(self, file: str, prefix: ObjectName | None) -> FileRecord:
        """Return the record of the file for the journal."""
        return FileRecord(file, self.size, self.base, self.unsaved(), prefix, self.remote.segments())
