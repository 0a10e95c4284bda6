"""Old bytes that a change keeps are verified before they are stored again."""

import tracemalloc
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any

import pytest
from msgspec.structs import replace

from support.cache_rig import MIB, PLAIN, CacheRig, CorruptingStore, read, settle, write
from support.memory_store import MemoryStore
from support.noise import noise
from support.upload_rig import Writer
from swiftfs.attributes import Stored
from swiftfs.errors import Corrupt
from swiftfs.filecache.block_map import BLOCK, BaseVersion
from swiftfs.filecache.cached_file import CachedFile
from swiftfs.filecache.segment_layout import SegmentLayout
from swiftfs.journal.database import JournalDB
from swiftfs.journal.file_upload import FileUpload, SegmentExpiry
from swiftfs.journal.operations import PutFile
from swiftfs.journal.segment_records import SegmentOwnership
from swiftfs.journal.segment_removal import SegmentRemoval
from swiftfs.objects import Manifest, ObjectInfo, ObjectName, Segment
from swiftfs.store.ambiguous import AmbiguousRequests
from swiftfs.store.protocol import ObjectMeta, Sink

pytest_plugins = ["support.cache_fixtures", "support.writer_fixtures"]


class RandomlyCorruptingStore(CorruptingStore):
    """A store whose next `wrong` answers have a wrong byte each, at different offsets."""

    def get(self, name: ObjectName, sink: Sink, **how: Any) -> ObjectInfo:
        place, self.wrong = self.wrong, max(0, self.wrong - 1)

        def corrupted(position: int, data: bytes) -> None:
            body = bytearray(data)
            if place:
                body[len(body) // (place + 1)] ^= 1
            sink(position, bytes(body))

        return MemoryStore.get(self, name, corrupted, **how)


@pytest.fixture
def rig(build: Callable[..., CacheRig], monkeypatch: pytest.MonkeyPatch) -> CacheRig:
    monkeypatch.setattr("support.cache_rig.CorruptingStore", RandomlyCorruptingStore)
    return build()


SEGMENT = 4 * MIB
NAME = ObjectName("box", "file")


def put_large(store: MemoryStore, body: bytes, size: int) -> BaseVersion:
    """Store `body` as an SLO with segments of `size` bytes."""
    store.create_container("box_segments")
    segments = []
    for start in range(0, len(body), size):
        name = ObjectName("box_segments", f"file/{start:012d}")
        info = store.put(name, body[start : start + size], PLAIN)
        segments.append(Segment(name, info.version.etag, info.size))
    etag = store.put_manifest(NAME, Manifest(tuple(segments)), PLAIN).version.etag
    return BaseVersion(NAME, etag, len(body), len(body))


def put_plain(store: MemoryStore, body: bytes) -> BaseVersion:
    return BaseVersion(NAME, store.put(NAME, body, PLAIN).version.etag, len(body), len(body))


Put = Callable[[MemoryStore, bytes], BaseVersion]

OBJECTS: dict[str, tuple[Put, int]] = {
    "plain, 400 kB": (put_plain, 400_000),
    "plain, 3 MB": (put_plain, 3_000_000),
    "plain, 10 MB": (put_plain, 10_000_000),
    "SLO, 3 MB": (lambda store, body: put_large(store, body, MIB), 3_000_000),
    "SLO, 9 MB": (lambda store, body: put_large(store, body, SEGMENT), 9_000_000),
    "SLO of odd segments": (lambda store, body: put_large(store, body, 2 * MIB + 777), 9_000_001),
}


def patch(cached_file: CachedFile, model: bytearray) -> None:
    middle = len(model) // 2 + 100
    write(cached_file, middle, b"patch")
    model[middle : middle + 5] = b"patch"


def patch_over_the_edge_of_two_pieces(cached_file: CachedFile, model: bytearray) -> None:
    edge = len(model) // 2 // MIB * MIB or 2 * BLOCK
    write(cached_file, edge - 5, b"over the edge")
    model[edge - 5 : edge + 8] = b"over the edge"


def append(cached_file: CachedFile, model: bytearray) -> None:
    write(cached_file, len(model), b"the end")
    model.extend(b"the end")


def cut(cached_file: CachedFile, model: bytearray) -> None:
    size = len(model) // 2 - 100
    cached_file.truncate(size)
    del model[size:]


def cut_and_grow(cached_file: CachedFile, model: bytearray) -> None:
    cut(cached_file, model)
    cached_file.truncate(len(model) + BLOCK)
    model.extend(bytes(BLOCK))


def read_then_patch(cached_file: CachedFile, model: bytearray) -> None:
    middle = len(model) // 2
    read(cached_file, middle - middle % BLOCK, BLOCK)
    settle(cached_file)
    patch(cached_file, model)


def read_all_then_patch(cached_file: CachedFile, model: bytearray) -> None:
    for offset in range(0, cached_file.size, BLOCK):
        read(cached_file, offset, BLOCK)
    patch(cached_file, model)


CHANGES = [
    patch,
    patch_over_the_edge_of_two_pieces,
    append,
    cut,
    cut_and_grow,
    read_then_patch,
    read_all_then_patch,
]


def store_it(rig: CacheRig, cached_file: CachedFile) -> None:
    """Upload the file as the journal does."""
    cached_file.uploads.layout = SegmentLayout(SEGMENT)
    large = rig.store.head(NAME).is_slo
    operation = PutFile(NAME, cached_file.to_record(), ObjectMeta("text/plain", Stored()), large)
    with closing(JournalDB(rig.folder, "box")) as log:
        removal = SegmentRemoval(rig.store, log, SegmentOwnership(log))
        expiry = SegmentExpiry(rig.store, removal)
        upload = partial(FileUpload, rig.store, SEGMENT, removal, expiry, AmbiguousRequests())
        upload(operation, cached_file, lambda *_: None).run()


def stored(store: MemoryStore) -> bytearray:
    body = bytearray(store.head(NAME).size)

    def sink(offset: int, data: bytes) -> None:
        body[offset : offset + len(data)] = data

    MemoryStore.get(store, NAME, sink)
    return body


@pytest.mark.matrix(8)
@pytest.mark.parametrize("wrong", [1, 3])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", OBJECTS)
def test_a_wrong_byte_is_never_stored(
    rig: CacheRig, kind: str, change: Callable[[CachedFile, bytearray], None], wrong: int
) -> None:
    """`wrong` answers have a flipped byte; the change succeeds, or fails with an error."""
    put, size = OBJECTS[kind]
    body = noise(size)
    base = put(rig.store, body)
    cached_file = rig.open(base)
    model = bytearray(body)
    rig.store.wrong = wrong
    try:
        change(cached_file, model)
        settle(cached_file)
        store_it(rig, cached_file)
    except Corrupt:
        assert wrong > 1
        model = bytearray(body)
    rig.store.wrong = 0
    assert stored(rig.store) == model


@pytest.mark.matrix(2)
@pytest.mark.parametrize("kind", OBJECTS)
def test_blocks_of_an_earlier_mount_that_were_not_verified_are(rig: CacheRig, kind: str) -> None:
    put, size = OBJECTS[kind]
    body = noise(size)
    base = put(rig.store, body)
    rig.store.wrong = 1
    middle = size // 2 // BLOCK * BLOCK
    rig.read(base, middle, BLOCK)
    rig.restart()
    cached_file, model = rig.open(base), bytearray(body)
    assert cached_file._state.blocks.present
    patch(cached_file, model)
    store_it(rig, cached_file)
    assert stored(rig.store) == model


@pytest.mark.matrix(3)
@pytest.mark.parametrize("kind", OBJECTS)
def test_every_verified_byte_is_right(rig: CacheRig, kind: str) -> None:
    put, size = OBJECTS[kind]
    body = noise(size)
    cached_file = rig.open(put(rig.store, body))
    rig.store.wrong = 1
    cached_file.own_all()
    assert read(cached_file) == body


def test_answers_that_differ_each_time_are_an_error_that_names_the_object(
    rig: CacheRig,
) -> None:
    cached_file = rig.open(put_large(rig.store, noise(20 * MIB), SEGMENT))
    rig.store.wrong = 100
    with pytest.raises(Corrupt, match="box/file"):
        write(cached_file, 9 * MIB + 500, b"patch")
    assert not cached_file.is_dirty()


def peak_of(job: Callable[[], None]) -> int:
    """Return the peak of Python's memory during a job, in bytes."""
    tracemalloc.start()
    try:
        job()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_an_object_that_is_verified_whole(rig: CacheRig) -> None:
    body = noise(24 * MIB)
    cached_file = rig.open(put_plain(rig.store, body))
    rig.gets()
    assert peak_of(lambda: write(cached_file, 5, b"patch")) < 4 * MIB
    assert rig.gets() == 1
    assert read(cached_file, 6, 4) == b"atch"
    for start in range(10, 24 * MIB, MIB):
        assert read(cached_file, start, MIB) == body[start : start + MIB]
    assert rig.gets() == 0


@pytest.mark.usual
def test_memory_does_not_grow_with_the_pieces_that_are_fetched_twice(rig: CacheRig) -> None:
    """The store of the test itself needs 4 MiB for each answer."""
    cached_file = rig.open(put_plain(rig.store, bytes(80 * MIB)))
    assert peak_of(lambda: cached_file.ensure_verified(8 * MIB, 24 * MIB)) < 8 * MIB
    assert rig.gets() > 4


def test_verified_bytes_are_not_downloaded_again(rig: CacheRig) -> None:
    """Neither of a whole object, nor of verified segments, nor of blocks that this file wrote."""
    plain = rig.open(rig.put("small", noise(3 * MIB)))
    read(plain)
    base = put_large(rig.store, noise(20 * MIB), SEGMENT)
    large = rig.open(replace(base, manifest=rig.store.manifest(NAME)))
    read(large)
    for cached_file in (plain, large):
        settle(cached_file)
    rig.gets()
    write(plain, 5, b"patch")
    write(large, 5 * MIB + 5, b"patch")
    assert rig.gets() == 0
    store_it(rig, large)
    write(large, 5 * MIB + 50, b"patch")
    store_it(rig, large)
    assert rig.gets() == 0


def test_a_patch_costs_one_download_more_than_its_piece(rig: CacheRig) -> None:
    cached_file = rig.open(put_large(rig.store, noise(20 * MIB), SEGMENT))
    rig.gets()
    write(cached_file, 5 * MIB + 5, b"patch")
    store_it(rig, cached_file)
    assert rig.gets() == 2
    write(cached_file, 6 * MIB + 5, b"patch")
    read(cached_file, 7 * MIB, BLOCK)
    rig.gets()
    write(cached_file, 7 * MIB + 5, b"patch")
    assert rig.gets() == 2


@pytest.mark.parametrize("pieces", [False, True])
def test_an_evicted_segment_is_verified_before_it_changes(
    writer: Writer, monkeypatch: pytest.MonkeyPatch, pieces: bool
) -> None:
    """It is downloaded whole, at once or in a reader's pieces, and stored again with the change."""
    writer.write(0, noise(4 * MIB + 10))
    writer.puts()
    assert writer.cached_file.evict(2**40) >= 3 * MIB
    assert writer.cached_file.evicted()
    whole, wrong = writer.store.get, [1]

    def get(name: ObjectName, sink: Sink, **options: Any) -> ObjectInfo:
        flip = wrong.pop() if wrong else 0
        return whole(name, lambda at, data: sink(at, bytes([data[0] ^ flip]) + data[1:]), **options)

    monkeypatch.setattr(writer.store, "get", get)
    for offset in range(MIB, 2 * MIB, BLOCK) if pieces else ():
        writer.cached_file.read(offset, BLOCK)
    writer.write(MIB + 5 * BLOCK + 7, b"change")
    writer.run()
    assert writer.stored() == writer.model
