"""The map of a file's blocks: which are dirty, what an upload stores, and what the journal records."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from swiftfs.filecache.block_map import BLOCK, BaseVersion, BlockMap, RemoteBlocks, StoredSegment
from swiftfs.filecache.block_set import Blocks
from swiftfs.objects import ObjectName, Segment

NAME = ObjectName("box", "file")
SIZE = 8 * BLOCK
BASE = BaseVersion(NAME, "0" * 32, SIZE, SIZE)


def members(blocks: Blocks) -> list[int]:
    return [block for first, last in blocks.runs(0, 64) for block in range(first, last)]


def missing(blocks: BlockMap) -> list[tuple[int, int]]:
    return list(blocks.missing(0, 64))


def segment(start: int, count: int) -> StoredSegment:
    name = ObjectName("box_segments", f"file/{start}")
    return StoredSegment(start * BLOCK, Segment(name, "1" * 32, count * BLOCK))


@pytest.fixture
def blocks() -> BlockMap:
    return BlockMap(BASE)


def test_what_is_written_is_present_and_dirty(blocks: BlockMap) -> None:
    assert blocks.is_clean()
    blocks.write(2 * BLOCK, 4 * BLOCK)
    assert members(blocks.dirty) == [2, 3]
    assert missing(blocks) == [(0, 2), (4, 8)]
    assert list(blocks.unverified(0, 64)) == [(0, 2), (4, 8)]
    assert blocks.is_dirty()
    assert not blocks.is_clean()


def test_a_write_behind_the_end_makes_the_file_longer(blocks: BlockMap) -> None:
    blocks.write(SIZE, SIZE + 10)
    assert blocks.size == SIZE + 10
    assert blocks.base_end == 8
    assert blocks.is_full(SIZE, SIZE + 10)


def test_an_upload_that_fails_leaves_its_blocks_dirty(blocks: BlockMap) -> None:
    blocks.write(0, BLOCK)
    taken = blocks.freeze()
    blocks.write(3 * BLOCK, 4 * BLOCK)
    assert taken.changed
    assert members(taken.dirty) == members(blocks.changes()) == [0]
    assert members(blocks.unsaved()) == [0, 3]
    blocks.thaw()
    assert members(blocks.dirty) == members(blocks.changes()) == [0, 3]


def test_a_stored_version_is_the_origin_and_later_changes_stay(blocks: BlockMap) -> None:
    blocks.write(SIZE, SIZE + BLOCK)
    blocks.freeze()
    blocks.write(0, BLOCK)
    blocks.adopt(NAME, "2" * 32, None)
    assert blocks.base == BaseVersion(NAME, "2" * 32, SIZE + BLOCK, SIZE + BLOCK)
    assert members(blocks.dirty) == [0]
    assert missing(blocks) == [(1, 8)]
    assert not blocks.is_verified(BLOCK, 2 * BLOCK)
    assert blocks.is_verified(SIZE, SIZE + BLOCK)


def test_a_map_is_of_a_version_or_of_none(blocks: BlockMap) -> None:
    assert blocks.is_from(BASE)
    assert not blocks.is_from(replace(BASE, etag="2" * 32))
    assert blocks.is_from(None)
    assert BlockMap(None).is_from(BASE)


def test_zeros_that_nobody_wrote_are_here_and_verified_after_an_upload() -> None:
    blocks = BlockMap(None)
    blocks.write(2 * BLOCK, 3 * BLOCK)
    blocks.freeze()
    blocks.adopt(NAME, "2" * 32, None)
    assert missing(blocks) == []
    assert blocks.is_verified(0, 3 * BLOCK)


def test_a_file_that_is_cut_during_an_upload_needs_no_more_of_the_stored_version(blocks: BlockMap) -> None:
    blocks.write(0, SIZE)
    taken = blocks.freeze()
    blocks.cut(2 * BLOCK)
    blocks.resize(2 * BLOCK)
    blocks.resize(4 * BLOCK)
    assert (taken.size, taken.least, taken.changed) == (SIZE, 2 * BLOCK, True)
    blocks.adopt(NAME, "2" * 32, None)
    assert blocks.base == BaseVersion(NAME, "2" * 32, 2 * BLOCK, SIZE)
    assert members(blocks.dirty) == [2, 3]
    assert missing(blocks) == []


def test_growing_a_file_makes_its_edge_dirty_and_cutting_it_makes_nothing_dirty(blocks: BlockMap) -> None:
    blocks.cut(2 * BLOCK + 5)
    blocks.resize(2 * BLOCK + 5)
    assert members(blocks.dirty) == []
    blocks.resize(4 * BLOCK + 5)
    assert members(blocks.dirty) == [2, 3, 4]


def test_blocks_in_a_stored_segment_are_missing_and_not_dirty_in_the_record() -> None:
    blocks = BlockMap(None)
    blocks.write(0, SIZE)
    placed = segment(2, 4)
    assert blocks.is_own(placed)
    blocks.drop(2, 6)
    blocks.remote.add(placed, 2, 6)
    assert missing(blocks) == [(2, 6)]
    assert members(blocks.unsaved()) == [0, 1, 6, 7]
    assert not blocks.is_new(0, SIZE)
    blocks.freeze()
    blocks.adopt(NAME, "2" * 32, None)
    assert blocks.remote.segments() == ()
    assert list(blocks.unverified(0, 64)) == [(2, 6)]


def test_a_record_makes_the_same_map_in_another_process(blocks: BlockMap) -> None:
    blocks.write(0, 4 * BLOCK)
    blocks.drop(2, 4)
    blocks.remote.add(segment(2, 2), 2, 4)
    blocks.freeze()
    blocks.write(SIZE, SIZE + 5)
    record = blocks.to_record("open-1", None)
    assert (record.file, record.size, record.base) == ("open-1", SIZE + 5, BASE)
    again = BlockMap.restore(record)
    assert members(again.dirty) == [0, 1, 2, 3, 8]
    assert missing(again) == missing(blocks) == [(2, 4), (4, 8)]
    assert again.to_record("open-1", None).evicted == record.evicted


SEGMENTS = [segment(0, 4), segment(4, 4), segment(8, 4), segment(12, 2)]
RANGES = st.tuples(st.integers(0, 14), st.integers(0, 14))


@given(st.lists(st.tuples(st.booleans(), RANGES), max_size=12))
def test_evicted_blocks_and_their_segments_are_those_that_were_not_discarded(
    steps: list[tuple[bool, tuple[int, int]]],
) -> None:
    remote, evicted = RemoteBlocks(), set[int]()
    for evicts, (first, last) in steps:
        if not evicts:
            remote.discard(first, last)
            evicted -= set(range(first, last))
            continue
        for one in SEGMENTS:
            begin, end = max(first, one.blocks[0]), min(last, one.blocks[1])
            if begin < end:
                remote.add(one, begin, end)
                evicted |= set(range(begin, end))
    assert members(remote.blocks) == sorted(evicted)
    assert remote.segments() == tuple(one for one in SEGMENTS if evicted & set(range(*one.blocks)))
    assert remote.whole == {one.start for one in SEGMENTS if evicted >= set(range(*one.blocks))}
    for block in range(14):
        source = next(one for one in SEGMENTS if block in range(*one.blocks))
        assert remote.source(block) == (source if block in evicted else None)
