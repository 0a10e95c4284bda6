"""Sets of blocks, compared with plain sets of numbers, and their bytes on disk."""

import itertools
from collections.abc import Iterable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from swiftfs.filecache import block_set
from swiftfs.filecache.block_map import BLOCK
from swiftfs.filecache.block_set import Blocks, missing_of_all

LEAF = block_set.LEAF_SIZE
INNER = LEAF * block_set.CHILDREN
END = 2 * INNER + 3 * LEAF
"""The number after the last block of the rules: up to here the tree has three heights."""

CORNERS = [
    corner + one for corner in (2, LEAF, 2 * LEAF, INNER, 2 * INNER, END - 2) for one in (-2, -1, 0, 1)
]
PLACES = st.one_of(st.sampled_from(CORNERS), st.integers(0, END))
RANGES = st.tuples(PLACES, PLACES)
NEARBY = st.tuples(PLACES, st.integers(0, 9)).map(lambda pair: (pair[0], pair[0] + pair[1]))

HUGE = 7 * 2**39 // BLOCK
"""Blocks of a file of 3.5 TiB."""


def numbers(runs: Iterable[tuple[int, int]]) -> list[int]:
    return [number for run in runs for number in range(*run)]


class Pair:
    """A set of blocks, and the numbers that it should have."""

    def __init__(self, blocks: Blocks, model: set[int]) -> None:
        self.blocks = blocks
        self.model = model

    def check(self, first: int, last: int) -> None:
        """Compare every query about a range."""
        blocks, asked = self.blocks, range(first, last)
        there = [number for number in asked if number in self.model]
        for runs, expected in (
            (list(blocks.runs(first, last)), there),
            (list(blocks.missing(first, last)), [number for number in asked if number not in self.model]),
        ):
            assert numbers(runs) == expected
            assert all(one[1] < other[0] for one, other in itertools.pairwise(runs))
        assert blocks.covers(first, last) == (len(there) == len(asked))
        assert blocks.touches(first, last) == bool(there)
        for end in (last, first, first):
            assert blocks.has_all(end) == all(number in self.model for number in range(end))
        assert len(blocks) == len(self.model)
        assert bool(blocks) == bool(self.model)


class BlockSets(RuleBasedStateMachine):
    """Two sets that are changed, copied and combined in any order."""

    @initialize()
    def begin(self) -> None:
        self.one, self.other = Pair(Blocks(), set()), Pair(Blocks(), set())

    @rule(where=st.one_of(RANGES, NEARBY))
    def add(self, where: tuple[int, int]) -> None:
        self.one.blocks.add(*where)
        self.one.model |= set(range(*where))

    @rule(where=st.one_of(RANGES, NEARBY))
    def discard(self, where: tuple[int, int]) -> None:
        self.one.blocks.discard(*where)
        self.one.model -= set(range(*where))

    @rule(where=PLACES, step=st.integers(2, 9), count=st.integers(1, 3 * LEAF))
    def add_many_runs(self, where: int, step: int, count: int) -> None:
        for number in range(where, min(where + count, END), step):
            self.one.blocks.add(number, number + 1)
            self.one.model.add(number)

    @rule()
    def exchange(self) -> None:
        self.one, self.other = self.other, self.one

    @rule()
    def copy(self) -> None:
        self.other = Pair(self.one.blocks.copy(), set(self.one.model))

    @rule()
    def update(self) -> None:
        self.one.blocks.update(self.other.blocks)
        self.one.model |= self.other.model

    @rule()
    def subtract(self) -> None:
        self.one.blocks.subtract(self.other.blocks)
        self.one.model -= self.other.model

    @rule(count=st.sampled_from([1, 2, 8, 64]))
    def widen(self, count: int) -> None:
        self.one.blocks = self.one.blocks.widened(count)
        groups = {number // count for number in self.one.model}
        self.one.model = {group * count + one for group in groups for one in range(count)}

    @rule()
    def save_and_restore(self) -> None:
        self.one.blocks = Blocks.from_bytes(self.one.blocks.to_bytes())

    @rule()
    def restore_what_release_0_1_saved(self) -> None:
        self.one.blocks = Blocks.from_bytes(as_release_0_1(self.one.model))

    @rule(asked=st.one_of(RANGES, NEARBY))
    def ask(self, asked: tuple[int, int]) -> None:
        self.one.check(*asked)
        both = self.one.model | self.other.model
        missing = missing_of_all([self.one.blocks, self.other.blocks], *asked)
        assert numbers(missing) == [number for number in range(*asked) if number not in both]

    @invariant()
    def is_what_it_should_be(self) -> None:
        for pair in (self.one, self.other):
            assert numbers(pair.blocks.runs(0, 2 * END)) == sorted(pair.model)
            assert len(pair.blocks) == len(pair.model)
            end = max(pair.model, default=0)
            assert pair.blocks.has_all(end) == (len(pair.model - {end}) == end)


TestBlockSets = pytest.mark.usual(BlockSets.TestCase)
TestBlockSets.settings = settings(max_examples=30, stateful_step_count=30)


def as_release_0_1(model: set[int]) -> bytes:
    """Return the bytes that release 0.1 wrote for a set."""
    found = bytearray(max(model, default=-1) // 8 + 1)
    for number in model:
        found[number // 8] |= 1 << number % 8
    return bytes(found)


def every_second(end: int) -> Blocks:
    """Return a set of many runs."""
    return Blocks.from_bytes(b"\x55" * (end // 8))


def test_a_huge_set_of_few_runs_is_saved_in_few_bytes() -> None:
    blocks = Blocks()
    blocks.add(0, HUGE)
    assert len(blocks.to_bytes()) < 10
    blocks.discard(HUGE // 2, HUGE // 2 + 1)
    assert len(blocks.to_bytes()) < LEAF
    again = Blocks.from_bytes(blocks.to_bytes())
    assert list(again.runs(0, 2 * HUGE)) == [(0, HUGE // 2), (HUGE // 2 + 1, HUGE)]
    assert len(again) == HUGE - 1


@pytest.mark.usual
def test_many_runs_are_saved_in_about_a_bit_a_block() -> None:
    blocks = every_second(HUGE)
    assert len(blocks) == HUGE // 2
    data = blocks.to_bytes()
    assert len(data) < HUGE / 7.5
    again = Blocks.from_bytes(data)
    assert len(again) == HUGE // 2
    again.subtract(blocks)
    assert not again
    assert list(blocks.missing(HUGE // 2, HUGE // 2 + 3)) == [(HUGE // 2 + 1, HUGE // 2 + 2)]


def test_the_groups_of_many_runs_are_one_run() -> None:
    assert list(every_second(HUGE).widened(8).runs(0, HUGE)) == [(0, HUGE)]


def test_small_sets_are_saved_as_release_0_1_saved_them() -> None:
    assert Blocks().to_bytes() == b""
    assert every_second(64).to_bytes() == b"\x55" * 8
    assert list(Blocks.from_bytes(b"\x0b").runs(0, 9)) == [(0, 2), (3, 4)]
    assert list(Blocks.from_bytes(bytes([4 << 2 | 2, 0x0B, 0])).runs(0, 9)) == [(0, 2), (3, 4)]


@pytest.mark.usual
def test_a_copy_does_not_change_with_the_original() -> None:
    blocks = every_second(HUGE)
    copy, runs = blocks.copy(), blocks.runs(HUGE // 2, HUGE // 2 + 4)
    blocks.add(0, HUGE)
    blocks.update(every_second(2 * HUGE))
    assert len(copy) == HUGE // 2
    assert list(runs) == [(HUGE // 2, HUGE // 2 + 1), (HUGE // 2 + 2, HUGE // 2 + 3)]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(bytes([9 << 2 | 2, 0xFF, 0]), id="a bitmap that is cut"),
        pytest.param(bytes([1 << 2 | 3, 0]), id="an unknown kind"),
        pytest.param(b"\xff" * 20 + b"\0", id="a number without an end"),
        pytest.param(b"\xfd" + b"\xff" * 7 + b"\x7f\0", id="more blocks than any file has"),
    ],
)
def test_bytes_that_are_no_set_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="set of blocks"):
        Blocks.from_bytes(data)


@pytest.mark.parametrize("first", [0, 1, LEAF, INNER])
@pytest.mark.parametrize("length", [1, LEAF - 1, LEAF, LEAF + 1, INNER])
def test_a_run_at_a_boundary_of_the_tree_is_saved_whole(first: int, length: int) -> None:
    blocks = Blocks()
    blocks.add(first, first + length)
    for _ in range(2):  # in a tree that is just high enough, and in a higher one
        again = Blocks.from_bytes(blocks.to_bytes())
        assert list(again.runs(0, 3 * INNER)) == [(first, first + length)]
        blocks.add(2 * INNER, 2 * INNER + 1)
        blocks.cut(2 * INNER)


def test_a_bitmap_in_a_record_may_begin_within_a_leaf() -> None:
    """No release has written one, but the format allows it."""
    absent, bitmap = bytes([5 << 2]), LEAF << 2 | 2
    number = bytes([bitmap & 0x7F | 0x80, bitmap >> 7])
    blocks = Blocks.from_bytes(absent + number + b"\x55" * (LEAF // 8) + b"\0")
    assert list(blocks.runs(0, 2 * LEAF)) == [(first, first + 1) for first in range(5, LEAF + 5, 2)]
