"""A local file stays as it is while an upload reads it: it is not cut, not closed and not evicted."""

import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from support.cache_rig import write
from support.deadlines import within
from support.jobs import wait_until
from support.memory_store import MemoryStore
from support.no_backlog import NoBacklog
from support.noise import noise
from support.upload_rig import MIB, PLAIN, Writer
from swiftfs.errors import ChangedDuringUpload
from swiftfs.filecache.block_map import BLOCK
from swiftfs.filecache.cache import CachedFileFactory, FileCache
from swiftfs.filecache.cached_file import CachedFile
from swiftfs.filecache.segment_layout import SegmentLayout
from swiftfs.filecache.segment_storer import map_bytes, place_of
from swiftfs.filecache.segment_uploader import SegmentUploader
from swiftfs.objects import ObjectInfo, ObjectName, ObjectVersion
from swiftfs.store.protocol import Body, Headers

pytest_plugins = ["support.writer_fixtures"]

FILE = ObjectName("box", "file")
OTHER = ObjectName("box", "other")


class Gate(MemoryStore):
    """A store that holds its PUTs of segments until `open`, and then reads their bodies.

    A PUT that is repeated after a failure also reads its body late.
    """

    def __init__(self, *containers: str) -> None:
        super().__init__(*containers)
        self.waiting: list[ObjectName] = []
        self.bodies: list[bytes] = []
        self._open = threading.Event()

    def put(self, name: ObjectName, body: Body, headers: Headers, **how: Any) -> ObjectInfo:
        if name.container == "box_segments":
            self.waiting.append(name)
            assert self._open.wait(within(20))
            self.bodies.append(bytes(body))
        return super().put(name, body, headers, **how)

    def open(self) -> None:
        self._open.set()


class Abandoned(NoBacklog):
    """Records prefixes whose segments are to be deleted."""

    def __init__(self) -> None:
        super().__init__()
        self.uploads: list[SegmentUploader] = []

    def abandon(self, uploads: SegmentUploader) -> None:
        self.uploads.append(uploads)


class Rig:
    """A cache of files with segments of 1 MiB, of which one is uploaded at a time."""

    def __init__(self, folder: Path) -> None:
        self.store = Gate("box", "box_segments")
        self.files = folder / "content"
        self.maker = CachedFileFactory(
            self.store, SegmentLayout(MIB), lambda _standing: None, connections=1, uploads=1, read_ahead=0
        )
        self.abandoned = Abandoned()
        self.cache = FileCache(folder, None, self.maker, {}, self.abandoned)

    def written(self, name: ObjectName, body: bytes) -> CachedFile:
        """Return a new file whose full segments are being uploaded; the first waits in its PUT."""
        cached_file = self.cache.new(name, None)
        for start in range(0, len(body), BLOCK):
            write(cached_file, start, body[start : start + BLOCK])
        wait_until(lambda: bool(self.store.waiting))
        return cached_file

    def stored(self, cached_file: CachedFile, name: ObjectName, body: bytes) -> None:
        """Store the file, as another attempt than that of its segments would."""
        cached_file.adopt(self.store.put(name, body, PLAIN))

    def uploads_end(self) -> None:
        self.store.open()
        self.maker._uploads.submit(int).result(within(20))

    def close(self) -> None:
        self.store.open()
        self.cache.close()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with closing(Rig(tmp_path)) as built:
        yield built


def is_open(descriptor: int, inode: int) -> bool:
    """Return whether a descriptor still is that of the file."""
    try:
        return os.fstat(descriptor).st_ino == inode
    except OSError:
        return False


def inode_of(cached_file: CachedFile) -> int:
    return os.fstat(cached_file.descriptor).st_ino


def test_a_dropped_file_stays_open_until_its_last_upload_has_ended(rig: Rig) -> None:
    body = noise(4 * MIB + 10)
    cached_file = rig.written(FILE, body)
    inode = inode_of(cached_file)
    rig.cache.release(cached_file)
    assert is_open(cached_file.descriptor, inode)
    # The others are needless, but map the file when they run.
    rig.uploads_end()
    assert rig.store.bodies == [body[:MIB]]
    wait_until(lambda: not is_open(cached_file.descriptor, inode))
    assert not list(rig.files.iterdir())


def test_its_descriptor_is_not_reused_before_that(rig: Rig) -> None:
    body = noise(3 * MIB + 10)
    rig.cache.release(rig.written(FILE, body))
    other = rig.cache.new(OTHER, None)
    write(other, 0, noise(3 * MIB, 1))
    rig.uploads_end()
    assert rig.store.bodies == [body[:MIB], *(noise(3 * MIB, 1)[at : at + MIB] for at in (0, MIB))]
    rig.cache.release(other)


def test_a_file_that_was_cut_is_not_suspended_while_an_upload_of_it_waits(rig: Rig) -> None:
    """The upload would map another file that has got the descriptor's number."""
    busy = rig.written(OTHER, noise(MIB + 10))
    cached_file = rig.cache.new(FILE, None)
    write(cached_file, 0, noise(3 * MIB, 1))
    cached_file.truncate(100)
    inode = inode_of(cached_file)
    rig.cache.pin(cached_file.file_name)
    rig.cache.release(cached_file)
    assert is_open(cached_file.descriptor, inode)
    rig.uploads_end()
    assert rig.cache.acquire_pending(cached_file.to_record()) is cached_file
    rig.cache.release(cached_file)
    rig.cache.release(busy)
    rig.cache.unpin(cached_file.file_name)


@pytest.mark.parametrize("size", [10, MIB - 1, MIB + 10])
def test_a_kept_file_is_not_cut_while_an_upload_maps_it(rig: Rig, size: int) -> None:
    body = noise(3 * MIB + 10)
    cached_file = rig.written(FILE, body)
    cached_file.truncate(size)
    rig.stored(cached_file, FILE, body[:size])
    inode = inode_of(cached_file)
    rig.cache.release(cached_file)
    assert is_open(cached_file.descriptor, inode)
    assert os.fstat(cached_file.descriptor).st_size == len(body)
    rig.uploads_end()
    wait_until(lambda: not is_open(cached_file.descriptor, inode))
    (kept,) = rig.files.iterdir()
    assert kept.read_bytes() == body[:size]
    assert len(rig.store.bodies) == 1


def test_a_file_can_be_opened_again_before_its_upload_has_ended(rig: Rig) -> None:
    body = noise(3 * MIB + 10)
    cached_file = rig.written(FILE, body)
    cached_file.truncate(10)
    rig.stored(cached_file, FILE, body[:10])
    base = cached_file.base
    assert base is not None
    rig.cache.release(cached_file)
    again = rig.cache.find(ObjectVersion(FILE, base.etag))
    assert again is cached_file
    rig.uploads_end()
    write(again, 10, b"more")
    assert os.pread(again.descriptor, 100, 0)[:14] == body[:10] + b"more"
    rig.cache.release(again)


def test_blocks_that_an_upload_reads_are_not_evicted(rig: Rig) -> None:
    body = noise(3 * MIB)
    cached_file = rig.written(FILE, body)
    rig.stored(cached_file, FILE, body)
    assert cached_file.evict(2**40) == MIB
    rig.uploads_end()
    assert rig.store.bodies == [body[:MIB], body[MIB : 2 * MIB]]
    assert cached_file.evict(2**40) == 2 * MIB
    rig.cache.release(cached_file)


def test_the_segment_of_an_upload_that_begins_when_the_file_is_dropped_is_deleted(rig: Rig) -> None:
    """The file has no object below its prefix yet, but will have one."""
    reached, go_on = threading.Event(), threading.Event()

    def hook(method: str, subject: object) -> None:
        if "box_segments" in str(subject) and not go_on.is_set():
            reached.set()
            assert go_on.wait(within(20))

    rig.store.open()
    rig.store.hook = hook
    cached_file = rig.cache.new(FILE, None)
    write(cached_file, 0, noise(2 * MIB))
    assert reached.wait(within(20))
    uploads = cached_file.uploads
    assert not uploads.record.has_begun or rig.store.waiting
    rig.cache.release(cached_file)
    assert rig.abandoned.uploads == [uploads]
    go_on.set()
    names = uploads.abandon()
    assert [name.key for name in names] == [row.key for row in rig.store.list_page("box_segments").rows]


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no tmpfs")
def test_an_upload_of_a_hole_takes_no_space_of_a_tmpfs() -> None:
    """A mapping would: when the tmpfs is full that is a SIGBUS."""
    with tempfile.TemporaryFile(dir="/dev/shm") as file:
        data = noise(10_000)
        file.truncate(MIB)
        os.pwrite(file.fileno(), data, 100_001)
        taken = os.fstat(file.fileno()).st_blocks
        body = map_bytes(file.fileno(), 5, MIB)
        assert bytes(body) == bytes(99_996) + data + bytes(MIB - 110_001)
        assert os.fstat(file.fileno()).st_blocks == taken


def test_closing_a_file_waits_for_its_uploads(rig: Rig) -> None:
    cached_file = rig.written(FILE, noise(2 * MIB + 10))
    inode = inode_of(cached_file)
    closing_ = threading.Thread(target=cached_file.close)
    closing_.start()
    closing_.join(0.2)
    assert is_open(cached_file.descriptor, inode)
    rig.store.open()
    closing_.join(within(20))
    assert not closing_.is_alive()
    assert not is_open(cached_file.descriptor, inode)


@pytest.mark.parametrize("place", [0, 5000, MIB - 1])
def test_the_segment_for_holes_has_zeros_whatever_is_written_meanwhile(
    build_writer: Callable[..., Writer], place: int
) -> None:
    """All holes of one length use it, not only the one that the writer has changed."""
    writer = build_writer(2)
    writer.truncate(4 * MIB + 10)

    def write_late(name: ObjectName) -> None:
        writer.store.before = None
        start, _ = place_of(name.key, 0)
        writer.write(start + place, noise(100))

    writer.store.before = write_late
    with pytest.raises(ChangedDuringUpload):
        writer.run()
    writer.run()
    assert writer.stored() == writer.model
