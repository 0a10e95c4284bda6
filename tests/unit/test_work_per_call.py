"""The work of a read, a write or a copy of a set depends neither on the file's size nor on its segments."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from support.cache_rig import read, settle, write
from support.call_work import Work, work_of
from support.jobs import wait_until
from support.memory_store import MemoryStore
from swiftfs.filecache.block_map import BLOCK, BaseVersion, FileRecord
from swiftfs.filecache.block_set import Blocks
from swiftfs.filecache.cache import CachedFileFactory
from swiftfs.filecache.cached_file import CachedFile
from swiftfs.filecache.segment_layout import SegmentLayout, plan
from swiftfs.journal.report import sent_bytes
from swiftfs.objects import Manifest, ObjectName, Segment
from swiftfs.store.protocol import Headers

NAME = ObjectName("box", "file")
TIB = 1024**4
MIB = 1024**2
SIZES = (TIB // 32, 7 * TIB // 2)
"""Sizes of the files to compare, in bytes: one is 112 times the other."""


def few_runs(size: int) -> Blocks:
    """Return all blocks of the file but for one in the middle and two at the end."""
    blocks, end = Blocks(), size // BLOCK
    blocks.add(0, end - 2)
    blocks.discard(end // 2, end // 2 + 1)
    return blocks


def many_runs(size: int) -> Blocks:
    """Return every second block of the file."""
    return Blocks.from_bytes(b"\x55" * (size // BLOCK // 8))


MAPS = pytest.mark.parametrize("make", [few_runs, many_runs])

Step = Callable[[Blocks, int], object]
"""A call with a set of blocks of a file, and the number of its blocks."""


def put_together(blocks: Blocks, end: int) -> None:
    """Add and remove a set that differs in few blocks."""
    other, few = blocks.copy(), Blocks()
    other.add(end // 3, end // 3 + 5)
    few.add(end // 2, end // 2 + 5)
    blocks.update(other)
    blocks.update(few)
    other.subtract(blocks)


CALLS: dict[str, Step] = {
    "add": lambda blocks, end: blocks.add(end // 2, end // 2 + 2),
    "discard": lambda blocks, end: blocks.discard(end // 3, end // 3 + 3),
    "cut": lambda blocks, end: blocks.cut(end // 3),
    "grow": lambda blocks, end: blocks.add(end - 5, end + 5),
    "missing": lambda blocks, end: list(blocks.missing(end // 2 - 4, end // 2 + 4)),
    "runs": lambda blocks, end: list(blocks.runs(end // 2 - 4, end // 2 + 4)),
    "the first that is missing": lambda blocks, end: next(blocks.missing(0, end)),
    "covers": lambda blocks, end: blocks.covers(0, end // 2),
    "touches": lambda blocks, end: blocks.touches(end // 2, end // 2 + 1),
    "len": lambda blocks, _end: len(blocks),
    "copy": lambda blocks, end: blocks.copy().add(end // 2, end // 2 + 1),
    "update and subtract": put_together,
}


def assert_alike(small: Work, large: Work) -> None:
    """Compare work; allow for a tree that is some steps higher, and for the children of each step."""
    assert large.lines <= 2 * small.lines + 1000, (small, large)
    assert large.memory <= 2 * small.memory + 4096, (small, large)


@MAPS
@pytest.mark.matrix(12)
@pytest.mark.parametrize("call", CALLS)
def test_a_call_of_a_set_costs_the_same_for_huge_files(make: Callable[[int], Blocks], call: str) -> None:
    work = [work_of(partial(CALLS[call], make(size), size // BLOCK)) for size in SIZES]
    assert_alike(*work)


def test_saving_few_runs() -> None:
    work = [work_of(partial(copy_as_bytes, few_runs(size))) for size in SIZES]
    assert_alike(*work)


def copy_as_bytes(blocks: Blocks) -> Blocks:
    return Blocks.from_bytes(blocks.to_bytes())


class Files:
    """Files of one store, as a mount has them."""

    def __init__(self, folder: Path, segment_size: int) -> None:
        self.store = MemoryStore("box", "box_segments")
        self.folder = folder
        self.maker = CachedFileFactory(
            self.store, SegmentLayout(segment_size), lambda _: None, connections=2, uploads=2, read_ahead=0
        )

    def restored(self, size: int, dirty: Blocks) -> CachedFile:
        """Return a file whose dirty blocks are present; all others are in an object that is not read."""
        with (self.folder / f"open-{size}").open("wb") as file:
            file.truncate(size)
        saved = FileRecord(f"open-{size}", size, BaseVersion(NAME, "0" * 32, size, size), dirty, None)
        return self.maker.restore(self.folder, NAME, saved)


@contextmanager
def files(folder: Path, segment_size: int = 16 * MIB) -> Iterator[Files]:
    found = Files(folder, segment_size)
    try:
        yield found
    finally:
        found.maker.close()


def change(cached_file: CachedFile) -> None:
    """Make the calls of programs and of the mount, on a file with one missing block in the middle."""
    middle = cached_file.size // BLOCK // 2 * BLOCK
    write(cached_file, middle, bytes(BLOCK))
    write(cached_file, middle - 1, b"two blocks")
    read(cached_file, middle - BLOCK, 2 * BLOCK)
    assert not cached_file.is_complete()
    cached_file.truncate(cached_file.size - 4 * BLOCK)
    cached_file.truncate(cached_file.size + BLOCK)
    cached_file.unsaved()
    cached_file.changes()
    cached_file.begin_upload()
    write(cached_file, middle, b"once more")
    cached_file.unsaved()
    sent_bytes(NAME, cached_file, len)
    cached_file.upload_failed()
    cached_file.evict(MIB)


@MAPS
def test_the_calls_of_a_huge_file_cost_the_same(make: Callable[[int], Blocks], tmp_path: Path) -> None:
    work = []
    with files(tmp_path) as found:
        for size in SIZES:
            dirty = make(size)
            dirty.add(size // BLOCK // 2 - 1, size // BLOCK // 2)
            dirty.discard(size // BLOCK // 2, size // BLOCK // 2 + 1)
            cached_file = found.restored(size, dirty)
            work.append(work_of(partial(change, cached_file)))
            cached_file.close()
    assert_alike(*work)


@MAPS
def test_the_record_of_a_huge_file_costs_the_same(make: Callable[[int], Blocks], tmp_path: Path) -> None:
    work = []
    with files(tmp_path) as found:
        for size in SIZES:
            cached_file = found.restored(size, make(size))
            work.append(work_of(cached_file.to_record))
            cached_file.close()
    assert_alike(*work)


def test_the_plan_of_a_small_change_of_a_huge_object() -> None:
    work = []
    for size in SIZES:
        old = [Segment(ObjectName("box_segments", f"{number}"), "", size // 64) for number in range(64)]
        changed = Blocks()
        changed.add(size // BLOCK // 2, size // BLOCK // 2 + 1)
        work.append(work_of(partial(plan, old, size, size, changed, 16 * MIB)))
    assert_alike(*work)


def assert_equal(few: Work, many: Work) -> None:
    """Compare work; allow for a binary search, but for no work per segment."""
    assert many.lines <= few.lines + 20, (few, many)


@pytest.mark.parametrize("evicted", [False, True])
def test_a_write_to_a_file_of_many_segments(tmp_path: Path, evicted: bool) -> None:
    work = []
    for count in (12, 60):
        with files(tmp_path, BLOCK) as found:
            cached_file = found.maker.make(tmp_path, NAME, None, None)
            size = (count + 1) * BLOCK
            write(cached_file, 0, bytes(range(256)) * (size // 256))
            uploads = cached_file.uploads
            wait_until(lambda: len(uploads.stored(protected=False)) >= count)  # noqa: B023
            settle(cached_file)
            if evicted:
                cached_file.evict(count * BLOCK)
                assert len(cached_file.evicted()) >= count - 4
            change_the_end(cached_file)  # begins one upload; the others are not needed
            work.append(work_of(partial(change_the_end, cached_file)))
            cached_file.close()
    assert_equal(*work)


def change_the_end(cached_file: CachedFile) -> None:
    """Write what is in no segment yet, and read it."""
    size = cached_file.size
    write(cached_file, size, b"behind the end")
    write(cached_file, size + 3, b"a little more")
    read(cached_file, size - 3, 10)


@pytest.mark.usual
def test_a_read_of_an_object_of_many_segments(tmp_path: Path) -> None:
    work = []
    for count in (60, 200):  # both far larger than what a read at the beginning has downloaded ahead
        with files(tmp_path) as found:
            base = large_object(found.store, count)
            cached_file = found.maker.make(tmp_path, NAME, base, None)
            read(cached_file, 0, 2 * BLOCK)  # the first check of the segments reads the list of all
            settle(cached_file)
            read(cached_file, (count - 2) * BLOCK, BLOCK)
            settle(cached_file)
            work.append(work_of(partial(read, cached_file, (count - 3) * BLOCK, BLOCK)))
            settle(cached_file)
            cached_file.close()
    assert_equal(*work)


def large_object(store: MemoryStore, count: int) -> BaseVersion:
    plain = Headers("application/octet-stream")
    parts = []
    for number in range(count):
        name = ObjectName("box_segments", f"{number:04}")
        info = store.put(name, os.urandom(BLOCK), plain)
        parts.append(Segment(name, info.version.etag, BLOCK))
    manifest = Manifest(tuple(parts))
    etag = store.put_manifest(NAME, manifest, plain).version.etag
    return BaseVersion(NAME, etag, count * BLOCK, count * BLOCK, manifest)
