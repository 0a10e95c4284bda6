"""Cached files: block sets, segment layout, read-ahead, and random changes compared with a bytearray."""

import itertools
import os
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.cache_rig import no_memory
from support.deadlines import within
from support.memory_store import MemoryStore
from swiftfs.errors import PreconditionFailed, Unavailable
from swiftfs.filecache.block_map import BLOCK, BaseVersion, block_range
from swiftfs.filecache.block_set import Blocks
from swiftfs.filecache.cached_file import CachedFile
from swiftfs.filecache.file_state import FileSource, FileState
from swiftfs.filecache.read_ahead import LAST_PIECE, Link, Stream, Streams
from swiftfs.filecache.segment_container import SegmentContainerChooser
from swiftfs.filecache.segment_layout import MAX_SEGMENT, SegmentLayout
from swiftfs.filecache.segment_uploader import SegmentUploader
from swiftfs.filecache.space import UNLIMITED
from swiftfs.filecache.upload_record import SharedUploads, segment_prefix
from swiftfs.objects import ObjectName, Row
from swiftfs.store.protocol import Headers

NAME = ObjectName("box", "file")
PLAIN = Headers("application/octet-stream")
MIB = 1024 * 1024

RANGES = st.tuples(st.integers(0, 80), st.integers(0, 80))
Open = Callable[[bytes], CachedFile]


@given(st.lists(st.tuples(st.booleans(), RANGES), max_size=20), RANGES)
def test_blocks_are_a_set(steps: list[tuple[bool, tuple[int, int]]], asked: tuple[int, int]) -> None:
    blocks, model = Blocks(), set[int]()
    for add, (first, last) in steps:
        (blocks.add if add else blocks.discard)(first, last)
        model = model | set(range(first, last)) if add else model - set(range(first, last))
    absent = [number for number in range(*asked) if number not in model]
    runs = list(blocks.missing(*asked))
    assert [number for run in runs for number in range(*run)] == absent
    assert all(one[1] < other[0] for one, other in itertools.pairwise(runs))
    assert blocks.covers(*asked) == (not absent)
    assert len(blocks) == len(model)


def test_block_range_takes_in_partial_blocks() -> None:
    assert block_range(0, 0) == (0, 0)
    assert block_range(1, BLOCK) == (0, 1)
    assert block_range(BLOCK - 1, BLOCK + 1) == (0, 2)


@given(st.sampled_from([1, 1000, MIB, 16 * MIB, 4 * MAX_SEGMENT]), st.integers(0, 3 * 1024**4))
def test_a_layout_finds_the_segment_of_a_byte(size: int, offset: int) -> None:
    layout = SegmentLayout(size)
    index = layout.index(offset)
    start, stop = layout.bounds(index)
    assert start <= offset < stop
    assert layout.bounds(index + 1)[0] == stop
    assert (layout.index(start), layout.index(stop)) == (index, index + 1)


def test_a_thousand_segments_hold_a_large_file() -> None:
    layout = SegmentLayout(16 * MIB)
    assert layout.bounds(0) == (0, 16 * MIB)
    assert layout.bounds(64) == (1024 * MIB, 1088 * MIB)
    assert layout.bounds(999)[1] == layout.largest_file > 3.5 * 1024**4
    with pytest.raises(OSError, match="File too large"):
        layout.index(layout.largest_file)
    assert max(stop - start for start, stop in map(layout.bounds, range(1000))) <= MAX_SEGMENT


def test_segment_names_are_unique_and_short_enough() -> None:
    name = ObjectName("box", "漢" * 341)
    assert segment_prefix(name) != segment_prefix(name)
    assert len(f"{segment_prefix(name)}{10**12}-{10**11}".encode()) <= 1024


@given(st.integers(1, 400 * MIB), st.sampled_from([0, MIB, 64 * MIB]))
@settings(max_examples=30)
def test_read_ahead_of_a_sequential_reader_covers_everything_once(size: int, limit: int) -> None:
    ahead, planned, furthest = Stream(limit, 0), 0, 0
    for offset in range(0, size, BLOCK):
        end = min(offset + BLOCK, size)
        for start, stop in ahead.plan(offset, end, size, Link()):
            assert start == planned
            assert start < stop <= size
            assert stop - start <= LAST_PIECE
            planned = stop
            furthest = max(furthest, stop - offset)
    assert planned == (size if limit else 0)
    assert furthest <= limit + LAST_PIECE


def test_a_random_reader_gets_no_read_ahead() -> None:
    streams = Streams(64 * MIB)
    for place in [700 * MIB, 20 * MIB, 300 * MIB, 500 * MIB]:
        stream, left = streams.join(place, is_coming=False)
        assert stream is not None
        assert list(streams.plan(stream, place, place + 4096, 1024 * MIB)) == []
        assert left == []


pytestmark = pytest.mark.store(MemoryStore, "box", "box_segments")


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads


def compose(
    store: MemoryStore, pool: ThreadPoolExecutor, folder: Path, base: BaseVersion | None, read_ahead: int
) -> CachedFile:
    """Return a file with segments of 1 MiB that belongs to no cache."""
    state = FileState.create(folder, base, None, UNLIMITED)
    shared = SharedUploads(store, SegmentContainerChooser(store), pool, SegmentLayout(MIB))
    uploads = SegmentUploader(shared, state, NAME)
    return CachedFile(state, FileSource(store, pool, Streams(read_ahead)), uploads, no_memory)


@pytest.fixture
def open_object(store: MemoryStore, pool: ThreadPoolExecutor, tmp_path: Path) -> Iterator[Open]:
    """Return a function that opens an object of the given bytes."""
    opened: list[CachedFile] = []

    def open_it(body: bytes) -> CachedFile:
        etag = store.put(NAME, body, PLAIN).version.etag
        base = BaseVersion(NAME, etag, len(body), len(body))
        opened.append(compose(store, pool, tmp_path, base, 4 * MIB))
        return opened[-1]

    yield open_it
    for cached_file in opened:
        cached_file.close()


def read(cached_file: CachedFile, offset: int, size: int) -> bytes:
    span = cached_file.read(offset, size)
    data = os.pread(span.descriptor, span.length, span.position)
    assert len(data) == span.length
    return data


def write(cached_file: CachedFile, offset: int, data: bytes) -> None:
    copied = cached_file.write(offset, len(data), lambda file, position: os.pwrite(file, data, position))
    assert copied == len(data)


def ranges(store: MemoryStore) -> int:
    return sum(method == "get" for method, _ in store.requests)


@pytest.mark.matrix(4)
@pytest.mark.parametrize("seed", range(12))
def test_random_changes_agree_with_a_bytearray(open_object: Open, seed: int) -> None:
    dice = random.Random(seed)
    model = bytearray(dice.randbytes(dice.choice([0, 1, BLOCK - 1, BLOCK, 5 * BLOCK + 77, 20 * BLOCK])))
    cached_file = open_object(bytes(model))
    for _ in range(120):
        offset, size = dice.randrange(len(model) + 2 * BLOCK), dice.randrange(1, 2 * BLOCK)
        match dice.randrange(5):
            case 0 | 1:
                data = dice.randbytes(size)
                write(cached_file, offset, data)
                model.extend(bytes(max(0, offset - len(model))))
                model[offset : offset + size] = data
            case 2:
                cached_file.truncate(offset)
                del model[offset:]
                model.extend(bytes(offset - len(model)))
            case _:
                assert read(cached_file, offset, size) == model[offset : offset + size]
        assert cached_file.size == len(model)
    cached_file.ensure_all()
    assert cached_file.is_complete()
    assert read(cached_file, 0, len(model)) == model


@pytest.mark.parametrize("seed", range(4))
def test_parallel_writers_and_readers(open_object: Open, seed: int) -> None:
    """Each writer has a range of its own; a reader sees the old or the new byte."""
    dice = random.Random(seed)
    old = dice.randbytes(24 * BLOCK + 1234)
    new = dice.randbytes(len(old))
    cached_file = open_object(old)
    step = 50_000
    stripes = list(range(0, len(old), step))
    dice.shuffle(stripes)
    done = threading.Event()

    def write_some(places: list[int]) -> None:
        for place in places:
            write(cached_file, place, new[place : place + step])

    def read_along(seeded: random.Random) -> int:
        rounds = 0
        while not done.is_set() or not rounds:
            place = seeded.randrange(len(old))
            got = read(cached_file, place, 5000)
            pairs = zip(got, old[place:], new[place:], strict=False)
            assert all(byte in {before, after} for byte, before, after in pairs)
            rounds += 1
        return rounds

    with ThreadPoolExecutor(6) as threads:
        readers = [threads.submit(read_along, random.Random(seed + number)) for number in range(3)]
        writers = [threads.submit(write_some, stripes[number::3]) for number in range(3)]
        try:
            for writer in writers:
                writer.result()
        finally:
            done.set()
        assert all(reader.result() for reader in readers)
    assert read(cached_file, 0, len(old)) == new


def test_truncated_bytes_do_not_come_back(open_object: Open) -> None:
    cached_file = open_object(b"x" * (3 * BLOCK))
    cached_file.truncate(10)
    cached_file.truncate(2 * BLOCK)
    assert read(cached_file, 0, 3 * BLOCK) == b"x" * 10 + bytes(2 * BLOCK - 10)


def test_a_file_is_downloaded_once_for_many_readers(open_object: Open, store: MemoryStore) -> None:
    body = random.Random(1).randbytes(3 * BLOCK)
    cached_file = open_object(body)
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: read(cached_file, 0, len(body)), range(8)))
    assert answers == [body] * 8
    assert ranges(store) == 1


def test_bytes_of_a_new_version_are_never_mixed_in(open_object: Open, store: MemoryStore) -> None:
    cached_file = open_object(b"old" * BLOCK)
    store.put(NAME, b"new" * BLOCK, PLAIN)
    with pytest.raises(PreconditionFailed):
        read(cached_file, 0, 100)


def test_a_deleted_version_is_stale_and_not_missing(open_object: Open, store: MemoryStore) -> None:
    cached_file = open_object(b"old" * BLOCK)
    store.delete(NAME)
    with pytest.raises(PreconditionFailed):
        read(cached_file, 0, 100)


def test_a_failed_download_is_reported_and_repeated(open_object: Open, store: MemoryStore) -> None:
    cached_file = open_object(b"abc" * BLOCK)

    def fail(method: str, _subject: str) -> None:
        raise Unavailable(method)

    store.hook = fail
    with pytest.raises(Unavailable):
        read(cached_file, 0, 10)
    store.hook = None
    assert read(cached_file, 0, 3) == b"abc"


def test_a_segment_written_to_again_is_uploaded_again(
    store: MemoryStore, pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    cached_file = compose(store, pool, tmp_path, None, 0)
    upload = cached_file.uploads
    body = bytearray(random.Random(2).randbytes(3 * MIB + 5))
    for offset in range(0, len(body), BLOCK):
        write(cached_file, offset, bytes(body[offset : offset + BLOCK]))
    write(cached_file, 10, b"changed")
    body[10:17] = b"changed"
    manifest = upload.finish(cached_file.size)
    info = store.put_manifest(NAME, manifest, PLAIN)
    assert info.size == len(body)
    got = bytearray(len(body))

    def sink(offset: int, data: bytes) -> None:
        got[offset : offset + len(data)] = data

    store.get(NAME, sink)
    assert got == body
    garbage = upload.commit_manifest(manifest)
    assert len(garbage) == 1
    assert set(garbage).isdisjoint(segment.name for segment in manifest.segments)
    cached_file.close()


def test_a_writer_waits_for_no_listing_of_leftovers(
    store: MemoryStore, pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    """The listing comes in pages, and in an outage no page comes for minutes."""
    cached_file = compose(store, pool, tmp_path, None, 0)
    upload = cached_file.uploads

    def rows() -> Iterator[Row]:
        pool.submit(write, cached_file, 0, b"text").result(within(10))
        yield Row(f"{upload.record.prefix.key}{0:013d}-abc", 4, "hash", "", "")

    upload.adopt_leftovers(rows())
    assert upload.commit_manifest(None) == [
        ObjectName(upload.record.prefix.container, f"{upload.record.prefix.key}{0:013d}-abc")
    ]
    cached_file.close()
