"""Writers that wait for space in the cache folder, and what frees it."""

import errno
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.cache_rig import PLAIN
from support.deadlines import within
from support.harness import harness, read, write
from support.memory_store import MemoryStore
from support.no_backlog import NoBacklog
from support.noise import noise
from support.refused_changes import flush
from support.stored_objects import NEVER, body, keys, refuse
from support.upload_rig import MIB
from swiftfs.errors import QuotaExceeded, Unavailable, os_error
from swiftfs.filecache import base_verifier, downloader
from swiftfs.filecache.block_map import BLOCK, BaseVersion
from swiftfs.filecache.cache import CachedFileFactory, FileCache
from swiftfs.filecache.cached_file import CachedFile
from swiftfs.filecache.segment_layout import SegmentLayout
from swiftfs.filecache.sparse_file import write_all
from swiftfs.objects import ObjectInfo, ObjectName
from swiftfs.store.protocol import Body, Headers

EVERYTHING = 2**40


class Relief(NoBacklog):
    """Records calls that begin uploads to free space; the test makes the uploads."""

    def __init__(self) -> None:
        super().__init__()
        self.wanted: threading.Event | None = None

    def start_uploads_for_space(self) -> bool:
        if self.wanted is None:
            return False
        self.wanted.set()
        return True


class SharedBodies(MemoryStore):
    """A store of many files, of which those of a size have the same bytes: it keeps these once."""

    def __init__(self, *containers: str) -> None:
        super().__init__(*containers)
        self._bodies: dict[int, bytes] = {}
        self._keeping = threading.Lock()

    def put(self, name: ObjectName, body: Body, headers: Headers, **how: Any) -> ObjectInfo:
        with self._keeping:
            if len(body) not in self._bodies:
                self._bodies[len(body)] = bytes(body)
        kept = self._bodies[len(body)]
        for at in range(0, len(body), MIB):  # many large bodies are sent at once
            assert bytes(body[at : at + MIB]) == kept[at : at + MIB]
        return super().put(name, kept, headers, **how)


class SpaceRig:
    """A cache folder with little space, and a store whose PUTs a test can hold."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.store = MemoryStore("box")
        maker = CachedFileFactory(
            self.store, SegmentLayout(MIB), lambda _: None, connections=2, uploads=2, read_ahead=0
        )
        self.relief = Relief()
        self.cache = FileCache(folder, limit, maker, {}, self.relief)
        self.open: list[CachedFile] = []

    def new(self, key: str = "file") -> CachedFile:
        self.open.append(self.cache.new(ObjectName("box", key), None))
        return self.open[-1]

    def close(self) -> None:
        for cached_file in self.open:
            self.cache.release(cached_file)
        self.cache.close()


def put(cached_file: CachedFile, offset: int, data: bytes) -> None:
    assert cached_file.write(offset, len(data), lambda file, at: os.pwrite(file, data, at)) == len(data)


def put_in_blocks(cached_file: CachedFile, begin: int, body: bytes) -> None:
    for offset in range(begin, len(body), BLOCK):
        put(cached_file, offset, body[offset : offset + BLOCK])


def put_files(rig: SpaceRig, count: int) -> None:
    for number in range(count):
        put(rig.new(f"small{number}"), 0, noise(MIB // 2))


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SpaceRig]:
    monkeypatch.setattr("swiftfs.filecache.cache_space.STEP", BLOCK)
    monkeypatch.setattr("swiftfs.filecache.cache_space.PAUSE", 0.05)
    rig = SpaceRig(tmp_path, 4 * MIB)
    yield rig
    rig.store.hook = None
    rig.close()


@pytest.mark.usual
def test_a_file_larger_than_the_cache_is_written_within_it(rig: SpaceRig) -> None:
    rig.store.hook = lambda method, _: time.sleep(0.02) if method == "put" else None  # as a network
    cached_file, body = rig.new(), noise(24 * MIB)
    most = 0
    for offset in range(0, len(body), BLOCK):
        put(cached_file, offset, body[offset : offset + BLOCK])
        most = max(most, cached_file.allocated())
    assert most <= 5 * MIB
    for offset in range(0, len(body), MIB):
        span = cached_file.read(offset, MIB)
        assert os.pread(span.descriptor, span.length, span.position) == body[offset : offset + MIB]


def test_a_writer_waits_for_space_and_continues(rig: SpaceRig) -> None:
    go_on, reached = threading.Event(), threading.Event()

    def hold(method: str, _subject: str) -> None:
        if method == "put":
            reached.set()
            assert go_on.wait(within(30))

    rig.store.hook = hold
    cached_file, other = rig.new(), rig.new("other")
    writing = threading.Thread(target=lambda: put_in_blocks(cached_file, 0, noise(12 * MIB)))
    writing.start()
    assert reached.wait(within(10))
    while rig.cache.space._unsaved() < 3 * MIB:
        assert writing.is_alive()
    assert other.read(0, 5).length == 0  # this writer does not wait
    assert writing.is_alive()
    assert cached_file.size <= 5 * MIB
    go_on.set()
    writing.join(within(30))
    assert cached_file.size == 12 * MIB


def test_without_progress_a_write_fails_with_enospc(rig: SpaceRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swiftfs.filecache.cache_space.PATIENCE", 0.3)

    refuse(rig.store, "put", Unavailable)
    cached_file, body = rig.new(), noise(12 * MIB)
    with pytest.raises(OSError, match="No space left") as raised:
        put_in_blocks(cached_file, 0, body)
    assert raised.value.errno == errno.ENOSPC
    written = cached_file.size
    assert 3 * MIB <= written <= 5 * MIB
    rig.store.hook = None
    put_in_blocks(cached_file, written, body)
    assert cached_file.size == len(body)


def test_no_writer_waits_when_nothing_will_free_space(rig: SpaceRig) -> None:
    before = time.monotonic()
    with pytest.raises(OSError, match="No space left"):
        put_files(rig, 20)
    assert time.monotonic() - before < 30


@pytest.mark.usual
@pytest.mark.store(SharedBodies, "box")
def test_no_writer_waits_when_all_changes_are_parked(
    store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each write waited for two minutes."""
    monkeypatch.setattr("swiftfs.filecache.cache_space.STEP", BLOCK)
    monkeypatch.setattr("swiftfs.filecache.cache_space.PAUSE", 0.05)
    monkeypatch.setattr("swiftfs.filecache.cache_space.PATIENCE", 600.0)
    refuse(store, "put", QuotaExceeded)
    with harness(store, tmp_path, f"{NEVER},cache_size=64M,segment_size=8M,uploads=2") as filesystem:
        for number in range(60):
            write(filesystem, f"/file{number}", noise(MIB))
        assert flush(filesystem).parked == 60
        before = time.monotonic()
        with pytest.raises(OSError, match="No space left"):
            write(filesystem, "/large", noise(8 * MIB))
        assert time.monotonic() - before < within(60)
        # When it is stored there is space again.
        store.hook = None
        filesystem.setxattr("/", "swift.retry", b"1", 0)
        write(filesystem, "/other", noise(8 * MIB))
    assert body(store, "other") == noise(8 * MIB)


def test_uploads_of_the_journal_free_space(rig: SpaceRig) -> None:
    cached_file = rig.new("journaled")
    for offset in range(0, 3 * MIB + BLOCK, BLOCK):
        put(cached_file, offset, noise(BLOCK))
    rig.cache.pin(cached_file.file_name)
    cached_file.to_record()
    relieved = rig.relief.wanted = threading.Event()
    second = rig.new("second")
    writing = threading.Thread(target=lambda: put_in_blocks(second, 0, noise(2 * MIB)))
    writing.start()
    assert relieved.wait(within(10))
    assert writing.is_alive()
    cached_file.begin_upload()
    cached_file.adopt(rig.store.put(ObjectName("box", "journaled"), noise(3 * MIB + BLOCK), PLAIN))
    rig.cache.unpin(cached_file.file_name)
    writing.join(within(30))
    assert second.size == 2 * MIB
    # It may have written all between the two calls above, when nothing could be evicted yet.
    put(second, 2 * MIB, noise(BLOCK))
    assert cached_file.allocated() < 3 * MIB


def test_a_writer_waits_for_the_space_of_a_deleted_file_which_is_not_uploaded(rig: SpaceRig) -> None:
    """The journal keeps its local file until the deletion is synced to the disk."""
    deleted = rig.cache.new(ObjectName("box", "deleted"), None)
    for offset in range(7 * MIB // 2, -1, -BLOCK):  # not in order: no segment is uploaded in advance
        put(deleted, offset, noise(BLOCK))
    rig.cache.pin(deleted.file_name, older=True)
    rig.cache.release(deleted)
    sent = len(rig.store.requests)
    relieved = rig.relief.wanted = threading.Event()
    second = rig.new("second")
    writing = threading.Thread(target=lambda: put_in_blocks(second, 0, noise(MIB - 1)))
    writing.start()
    assert relieved.wait(within(10))
    assert writing.is_alive()
    rig.cache.unpin(deleted.file_name, older=True)
    writing.join(within(30))
    assert second.size == MIB - 1
    assert len(rig.store.requests) == sent


def test_clean_bytes_of_a_file_in_the_journal_are_not_evicted(rig: SpaceRig) -> None:
    body = noise(8 * MIB)
    info = rig.store.put(ObjectName("box", "old"), body, PLAIN)
    cached_file = rig.cache.new(
        info.version.name, BaseVersion(info.version.name, info.version.etag, 8 * MIB, 8 * MIB)
    )
    rig.open.append(cached_file)
    rig.cache.pin(cached_file.file_name)
    cached_file.ensure(0, 8 * MIB)
    rig.cache.space.fit()
    assert cached_file.allocated() == 8 * MIB
    rig.cache.unpin(cached_file.file_name)
    rig.cache.space.fit()
    assert cached_file.allocated() <= 4 * MIB


@pytest.mark.usual
def test_files_that_wait_for_an_hour_are_stored_at_once_when_a_writer_needs_their_space(
    tmp_path: Path,
) -> None:
    store, data = SharedBodies("box"), noise(8 * MIB)
    with harness(store, tmp_path, "settle=3600,cache_size=64M") as filesystem:
        for number in range(12):
            write(filesystem, f"/{number}", data)
        assert "0" in keys(store)
        assert body(store, "0") == read(filesystem, "/0") == data


def on_full_disk(rig: SpaceRig, monkeypatch: pytest.MonkeyPatch) -> tuple[CachedFile, threading.Event]:
    """Return a file whose change needs a download, and an event that ends the lack of space on its disk."""
    body, freed = noise(3 * MIB), threading.Event()
    name = ObjectName("box", "stored")
    version = rig.store.put(name, body, PLAIN).version
    rig.open.append(rig.cache.new(name, BaseVersion(name, version.etag, len(body), len(body))))

    def write_if_free(descriptor: int, data: bytes | memoryview, offset: int) -> None:
        if not freed.is_set():
            raise os_error(errno.ENOSPC)
        write_all(descriptor, data, offset)

    for module in (base_verifier, downloader):
        monkeypatch.setattr(module, "write_all", write_if_free)
    return rig.open[-1], freed


def test_a_change_waits_for_the_space_of_the_old_bytes_beside_it(
    rig: SpaceRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached_file, rig.relief.wanted = on_full_disk(rig, monkeypatch)  # an upload frees it
    put(cached_file, MIB + 10, b"changed")
    span = cached_file.read(MIB, 20)
    assert os.pread(span.descriptor, span.length, span.position)[10:17] == b"changed"


def test_a_change_fails_if_nothing_will_free_the_space_of_the_old_bytes(
    rig: SpaceRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached_file, _ = on_full_disk(rig, monkeypatch)
    with pytest.raises(OSError, match="No space left"):
        put(cached_file, MIB + 10, b"changed")
    assert not cached_file.is_dirty()


def test_a_writer_looks_again_when_others_have_written_meanwhile(
    rig: SpaceRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the look at the uploads all were too small to be sent, and after it they fill the cache."""
    looks = iter([6 * MIB, 0])
    uses = rig.relief.uses

    def others_write() -> bool:
        uses.away_bytes = next(looks, 0)
        return False

    monkeypatch.setattr(rig.relief, "start_uploads_for_space", others_write)
    uses.away_bytes = 3 * MIB
    rig.cache.space._disk.look_again()
    put(rig.new(), 0, noise(3 * MIB))
    assert not uses.away_bytes
