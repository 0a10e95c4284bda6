"""What must be remembered of a content so that another process can go on with it."""

from dataclasses import dataclass, replace

from swiftfs.filecache.block_map import BLOCK, Blocks, Origin, block_range
from swiftfs.objects import ObjectName, Segment


@dataclass(frozen=True, slots=True)
class Placed:
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
class SavedFile:
    """A content's local file by its name in its folder, the bytes it has, and where the others are.

    The `dirty` blocks are in the local file, those `evicted` in segments, and all others, of which nobody
    knows whether a writer has changed them since, are the origin's. `prefix` is what the names of its
    segments begin with, None while there are none.
    """

    file: str
    size: int
    origin: Origin | None
    dirty: Blocks
    prefix: ObjectName | None
    evicted: tuple[Placed, ...] = ()

    @property
    def is_whole(self) -> bool:
        """True when every byte is in the local file."""
        first, last = block_range(0, self.origin.size if self.origin else 0)
        return not self.evicted and self.dirty.covers(first, last)

    def with_blocks_of(self, older: "SavedFile") -> "SavedFile":
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
