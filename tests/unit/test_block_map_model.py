"""Every block that the map says is somewhere is there, through any sequence of what can happen to a file.

The model has one text for each block: that of the file, of its local copy, of its segments and of each stored
version. What the map names as the source of a block must have the file's text.
"""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from swiftfs.filecache.block_map import BLOCK, BaseVersion, BlockMap, StoredSegment, block_range
from swiftfs.objects import ObjectName, Segment

MOST = 12
"""Blocks of the file."""

EDGE = 5
"""Bytes of a last block that is not full."""

NAME = ObjectName("box", "file")
ZEROS = "zeros"


class ModelFile:
    """A file of blocks, and what its owner does with its map: it fetches a block before it changes a part."""

    def __init__(self, size: int) -> None:
        self.truth = [f"stored {block}" for block in range(count(size))]
        self.stored = list(self.truth)
        self.local: dict[int, str] = {}
        self.segments: dict[int, list[str]] = {}
        self.uploads: list[str] = []
        self.texts = 0
        self.map = BlockMap(BaseVersion(NAME, "etag 0", size, size))

    def text(self, what: str) -> str:
        self.texts += 1
        return f"{what} {self.texts}"

    def source(self, block: int) -> str:
        """Return the text of a block where the map says it is."""
        if self.map.is_present(block * BLOCK, block * BLOCK + 1):
            return self.local.get(block, ZEROS)
        if (segment := self.map.remote.source(block)) is not None:
            return self.segments[segment.start][block - segment.blocks[0]]
        return self.stored[block]

    def fetch(self, first: int, last: int) -> None:
        for begin, end in list(self.map.missing(first, last)):
            for block in range(begin, end):
                self.local[block] = self.source(block)
            self.map.present.add(begin, end)
            self.map.remote.discard(begin, end)

    def write(self, first: int, last: int) -> None:
        if first * BLOCK > self.map.size:
            self.grow(first * BLOCK)
        for run in self.map.remote.touched(first * BLOCK, last * BLOCK, self.map.size):
            self.fetch(*run)
        self.truth += [ZEROS] * (last - len(self.truth))
        for block in range(first, last):
            self.local[block] = self.truth[block] = self.text("written")
        self.map.write(first * BLOCK, last * BLOCK)

    def grow(self, size: int) -> None:
        for run in self.map.remote.touched(self.map.size, size, self.map.size):
            self.fetch(*run)
        edge = self.map.size // BLOCK
        if self.map.size % BLOCK:  # the rest of its last block becomes zeros
            self.fetch(edge, edge + 1)
            self.local[edge] = self.truth[edge] = self.text("grown")
        self.truth += [ZEROS] * (count(size) - len(self.truth))
        self.map.resize(size)

    def cut(self, size: int) -> None:
        for run in self.map.remote.touched(size, self.map.size, self.map.size):
            self.fetch(*run)
        self.map.cut(size)
        del self.truth[count(size) :]
        self.local = {block: text for block, text in self.local.items() if block < count(size)}
        self.map.resize(size)

    def resize(self, size: int) -> None:
        if size < self.map.size:
            self.cut(size)
        elif size > self.map.size:
            self.grow(size)

    def upload(self) -> None:
        """Begin an upload, or end the one that runs."""
        if self.map.snapshot is None:
            self.map.freeze()
            self.uploads = list(self.truth)
            return
        self.stored = self.uploads
        self.map.adopt(NAME, self.text("etag"), None)

    def store(self) -> None:
        """Upload the file while nothing changes it."""
        if self.map.snapshot is None:
            self.upload()
        self.upload()

    def evict(self, first: int, last: int) -> None:
        """Drop the blocks of the base version from the local file."""
        for block in range(first, min(last, self.map.base_end)):
            if not self.map.unsaved().touches(block, block + 1):
                self.map.drop(block, block + 1)
                self.local.pop(block, None)

    def place(self, first: int, last: int) -> None:
        """Store the first new blocks of a range in a segment, and drop them."""
        first, last = next(self.map.unsaved().runs(first, last), (first, last))
        name = ObjectName("segments", str(first))
        segment = StoredSegment(first * BLOCK, Segment(name, "", (last - first) * BLOCK))
        is_new = self.map.is_new(segment.start, segment.end)
        if self.map.snapshot is not None or not is_new or not self.map.is_own(segment):
            return
        # Of two segments of a file that begin at one place only one has evicted blocks.
        if self.map.remote.blocks.touches(first, first + len(self.segments.get(segment.start, ()))):
            return
        self.segments[segment.start] = self.truth[first:last]
        self.map.drop(first, last)
        self.map.remote.add(segment, first, last)
        for block in range(first, last):
            self.local.pop(block, None)  # zeros that nobody wrote are not in it

    def copy(self, length: int) -> None:
        """Append a segment of `length` bytes, which the server has copied."""
        start, end = self.map.size, self.map.size + length
        if self.map.snapshot is not None or not length or start % BLOCK or end > MOST * BLOCK:
            return
        name = ObjectName("segments", f"copy {start}")
        segment = StoredSegment(start, Segment(name, "", length), tail=bool(length % BLOCK))
        self.segments[start] = [self.text("copied") for _ in range(*segment.blocks)]
        self.truth += self.segments[start]
        self.map.copied(segment)

    def restart(self) -> None:
        """Die after a hand-in: only the record, the local file and what is stored are left."""
        self.map = BlockMap.restore(self.map.to_record("open-1", None))

    def check(self) -> None:
        size, blocks = self.map.size, self.map
        assert [self.source(block) for block in range(count(size))] == self.truth
        if not blocks.is_dirty():
            assert self.stored[: len(self.truth)] == self.truth
        if blocks.is_clean():
            assert self.stored == self.truth
        new, changes = blocks.unsaved(), blocks.changes()
        changes.update(blocks.dirty)
        for block, (stored, text) in enumerate(zip(self.stored, self.truth, strict=False)):
            assert stored == text or block >= blocks.base_end or changes.touches(block, block + 1)
        assert not any(new.touches(*run) for run in blocks.unverified(0, MOST))
        for block in range(count(size)):
            whole = block * BLOCK, min((block + 1) * BLOCK, size)
            is_new = new.touches(block, block + 1)
            if not is_new and block < blocks.base_end and blocks.is_verified(*whole):
                assert self.stored[block] == self.truth[block]
            if blocks.is_full(*whole) or (block < blocks.base_end and blocks.is_new(*whole)):
                assert is_new
                assert self.local.get(block, ZEROS) == self.truth[block]


def count(size: int) -> int:
    return block_range(0, size)[1]


BLOCKS = st.integers(0, MOST - 1)
RANGES = st.tuples(BLOCKS, st.integers(1, 4)).map(lambda two: (two[0], min(sum(two), MOST)))
SIZES = st.tuples(BLOCKS, st.sampled_from((0, EDGE))).map(lambda two: two[0] * BLOCK + two[1])
STEPS = st.one_of(
    st.tuples(st.sampled_from(("write", "fetch", "evict", "place")), RANGES),
    st.tuples(st.sampled_from(("resize", "copy")), SIZES.map(lambda size: (size,))),
    st.tuples(st.sampled_from(("upload", "store", "restart", "fail")), st.just(())),
)


@pytest.mark.usual
@settings(max_examples=300)
@example(0, [("copy", (BLOCK + EDGE,)), ("resize", (BLOCK + EDGE,)), ("restart", ())])
@given(SIZES, st.lists(STEPS, max_size=30))
def test_each_block_is_where_the_map_says(size: int, steps: list[tuple[str, tuple[int, ...]]]) -> None:
    file = ModelFile(size)
    for name, arguments in steps:
        if name == "fail":
            file.map.thaw()
        else:
            getattr(file, name)(*arguments)
        file.check()
