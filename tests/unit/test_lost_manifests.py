"""A manifest is stored and its answer lost: its segments stay, whatever is done next."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.harness import SHORT_RETRIES, change, harness, read, write
from support.jobs import wait_until
from support.memory_store import MemoryStore
from support.stored_objects import body, named_segments, segments
from swiftfs.config.sources import parse_options
from swiftfs.errors import NoSpace, QuotaExceeded, StoreError, Unavailable
from swiftfs.filecache.block_map import BLOCK
from swiftfs.objects import Manifest, ObjectInfo, ObjectName
from swiftfs.paths import Folder, Source
from swiftfs.posix.filesystem import FileSystem
from swiftfs.service.build import MountRequest, build
from swiftfs.store import ConnectedAccount, Counters, RetryingStore
from swiftfs.store.protocol import Body, Headers

MIB = 1024 * 1024
OPTIONS = "segment_size=1M,settle=1000"
NAME = ObjectName("box", "file")


class LossyStore(MemoryStore):
    """A store that loses the answers to the next `lost` manifests.

    With `hold_late` it does not execute manifests but keeps them in `late`; while `away` it answers nothing.
    """

    lost = 0
    hold_late = False
    away = False

    def __init__(self, *containers: str) -> None:
        super().__init__(*containers)
        self.late: list[Callable[[], ObjectInfo]] = []
        self.hook = self._refuse

    def _refuse(self, _method: str, _subject: str) -> None:
        if self.away:
            raise Unavailable("no answer")

    def put_manifest(self, name: ObjectName, manifest: Manifest, headers: Headers) -> ObjectInfo:
        if self.hold_late:
            self.late.append(lambda: super(LossyStore, self).put_manifest(name, manifest, headers))
            raise Unavailable("no answer")
        info = super().put_manifest(name, manifest, headers)
        if self.lost:
            self.lost -= 1
            self.away = self.lost == 0
            raise Unavailable("the answer was lost")
        return info


@pytest.fixture
def store() -> LossyStore:
    return LossyStore("box")


@contextmanager
def killed(store: LossyStore, cache: Path) -> Iterator[FileSystem]:
    """A mount that ends without a request to the server, as after a kill -9."""
    patient = RetryingStore(store, SHORT_RETRIES)
    options = parse_options([OPTIONS + ",drain=0"])
    request = MountRequest(Source.parse("box"), Path("/nowhere"), options)
    filesystem = build(ConnectedAccount(patient, Counters(), "memory"), request, cache)
    try:
        filesystem.begin()
        yield filesystem
    finally:
        store.away = True
        with pytest.raises(Exception, match=r"changes? stay"):
            filesystem.close()
        store.away = False


def cache(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name


def noise(size: int) -> bytes:
    return os.urandom(size)


def flush(filesystem: FileSystem) -> None:
    filesystem.services.journal.flush_below(Folder("box", ""))


def lose(filesystem: FileSystem, store: LossyStore, times: int = 1) -> None:
    """Let the next manifests be stored and their answers be lost; then the server does not answer."""
    store.lost = times
    with pytest.raises(Unavailable):
        flush(filesystem)
    assert store.lost == 0


def patch(filesystem: FileSystem, data: bytearray) -> None:
    change(filesystem, "/file", 2 * MIB + 5, b"changed")
    data[2 * MIB + 5 : 2 * MIB + 12] = b"changed"


def append(filesystem: FileSystem, data: bytearray) -> None:
    change(filesystem, "/file", len(data), b"appended" * 1000)
    data += b"appended" * 1000


def cut(filesystem: FileSystem, data: bytearray) -> None:
    filesystem.truncate("/file", 2 * MIB + 100)
    del data[2 * MIB + 100 :]


def replace(filesystem: FileSystem, data: bytearray) -> None:
    data[:] = noise(3 * MIB)
    write(filesystem, "/file", bytes(data))


OPERATIONS = pytest.mark.parametrize("operation", [patch, append, cut, replace])


@OPERATIONS
def test_the_next_mount_finds_the_stored_manifest(
    store: LossyStore, tmp_path: Path, operation: Callable[[FileSystem, bytearray], None]
) -> None:
    data = bytearray(noise(4 * MIB + 17))
    with harness(store, cache(tmp_path, "first"), OPTIONS) as filesystem:
        write(filesystem, "/file", bytes(data))
    with killed(store, tmp_path) as filesystem:
        operation(filesystem, data)
        lose(filesystem, store)
    assert body(store, "file") == data
    with harness(store, tmp_path, OPTIONS) as filesystem:
        assert read(filesystem, "/file") == data
    assert body(store, "file") == data
    assert named_segments(store, "file") <= segments(store)


def test_the_manifest_of_a_new_large_file(store: LossyStore, tmp_path: Path) -> None:
    data = noise(3 * MIB + 1)
    with killed(store, tmp_path) as filesystem:
        write(filesystem, "/file", data)
        lose(filesystem, store)
    with harness(store, tmp_path, OPTIONS):
        pass
    assert body(store, "file") == data
    assert segments(store) == named_segments(store, "file")


def test_a_patch_of_an_object_that_was_no_slo(store: LossyStore, tmp_path: Path) -> None:
    """The whole object is copied to a segment first."""
    data = bytearray(noise(4 * MIB))
    store.put(NAME, bytes(data), Headers("application/octet-stream"))
    with killed(store, tmp_path) as filesystem:
        patch(filesystem, data)
        lose(filesystem, store)
    with harness(store, tmp_path, OPTIONS):
        pass
    assert body(store, "file") == data
    assert named_segments(store, "file") <= segments(store)


@OPERATIONS
def test_the_manifest_is_sent_again_by_the_same_process(
    store: LossyStore, tmp_path: Path, operation: Callable[[FileSystem, bytearray], None]
) -> None:
    data = bytearray(noise(4 * MIB + 17))
    with harness(store, tmp_path, OPTIONS) as filesystem:
        write(filesystem, "/file", bytes(data))
        flush(filesystem)
        operation(filesystem, data)
        lose(filesystem, store)
        store.away = False
        flush(filesystem)
        assert body(store, "file") == data
        assert segments(store) == named_segments(store, "file")


def test_two_lost_manifests_of_one_process(store: LossyStore, tmp_path: Path) -> None:
    data = bytearray(noise(4 * MIB))
    with harness(store, cache(tmp_path, "first"), OPTIONS) as filesystem:
        write(filesystem, "/file", bytes(data))
    with killed(store, tmp_path) as filesystem:
        for number in range(2):
            store.away = False
            # Whole blocks: the rest of a partial one would be read from the version that is gone.
            change(filesystem, "/file", number * MIB, bytes([number + 1]) * BLOCK)
            data[number * MIB : number * MIB + BLOCK] = bytes([number + 1]) * BLOCK
            lose(filesystem, store)
    assert body(store, "file") == data
    with harness(store, tmp_path, OPTIONS) as filesystem:
        assert read(filesystem, "/file") == data
        patch(filesystem, data)
    assert body(store, "file") == data
    assert named_segments(store, "file") <= segments(store)


def test_lost_manifests_of_two_processes(store: LossyStore, tmp_path: Path) -> None:
    data = bytearray(noise(4 * MIB))
    with harness(store, cache(tmp_path, "first"), OPTIONS) as filesystem:
        write(filesystem, "/file", bytes(data))
    with killed(store, tmp_path) as filesystem:
        patch(filesystem, data)
        lose(filesystem, store)
    store.lost = 1
    with killed(store, tmp_path):
        wait_until(lambda: store.away)
    assert body(store, "file") == data
    with harness(store, tmp_path, OPTIONS) as filesystem:
        assert read(filesystem, "/file") == data
        append(filesystem, data)
    assert body(store, "file") == data
    assert named_segments(store, "file") <= segments(store)


def test_a_file_that_is_removed_after_a_lost_manifest_is_whole_until_it_is_gone(
    store: LossyStore, tmp_path: Path
) -> None:
    data = noise(3 * MIB)
    with harness(store, tmp_path, OPTIONS) as filesystem:
        write(filesystem, "/file", data)
        lose(filesystem, store)
        store.away = False
        filesystem.unlink("/file")
        _let_threads_work(filesystem)
        assert body(store, "file") == data
        flush(filesystem)
        assert "file" not in {row.key for row in store.list_page("box").rows}


def _let_threads_work(filesystem: FileSystem) -> None:
    """Return when the jobs that are due have run; they run in their order."""
    workers = filesystem.services.journal._scheduler._workers
    for job in [
        workers.submit(time.sleep, 0.01) for _ in range(2 * filesystem.services.journal._scheduler._parallel)
    ]:
        job.result()


def test_a_refusal_after_a_lost_answer_leaves_the_segments_of_what_stands(
    store: LossyStore, tmp_path: Path
) -> None:
    """The first attempt has stored the manifest; the second one of the same call is refused."""
    data = noise(2 * MIB)
    store.lost = 2

    def hook(method: str, _subject: str) -> None:
        if method == "put_manifest" and store.lost < 2:
            raise NoSpace("507")

    store.hook = hook
    with harness(store, tmp_path, "segment_size=1M") as filesystem:
        with pytest.raises(NoSpace):
            write(filesystem, "/file", data)
        store.hook = None
    assert body(store, "file") == data


def test_a_late_manifest_finds_its_segments(store: LossyStore, tmp_path: Path) -> None:
    """The first PUT is executed after the second: segments that only the first one names still exist."""
    data = bytearray(noise(4 * MIB))
    with harness(store, tmp_path, OPTIONS) as filesystem:
        write(filesystem, "/file", bytes(data))
        flush(filesystem)
        change(filesystem, "/file", 0, b"one")
        first = b"one" + data[3:]
        store.hold_late = True
        with pytest.raises(Unavailable):
            flush(filesystem)
        store.hold_late = False
        change(filesystem, "/file", 0, b"two")
        change(filesystem, "/file", 3 * MIB, b"three")
        flush(filesystem)
        store.late[0]()
        assert body(store, "file") == first


def test_a_late_manifest_of_a_file_that_became_small(store: LossyStore, tmp_path: Path) -> None:
    data = bytearray(noise(3 * MIB))
    with harness(store, tmp_path, OPTIONS) as filesystem:
        write(filesystem, "/file", bytes(data))
        store.hold_late = True
        with pytest.raises(Unavailable):
            flush(filesystem)
        store.hold_late = False
        filesystem.truncate("/file", 10)
        flush(filesystem)
        assert body(store, "file") == data[:10]
        store.late[0]()
        assert body(store, "file") == data


def test_a_late_manifest_of_a_file_that_was_removed(store: LossyStore, tmp_path: Path) -> None:
    data = noise(3 * MIB)
    with harness(store, tmp_path, OPTIONS) as filesystem:
        write(filesystem, "/file", data)
        store.hold_late = True
        with pytest.raises(Unavailable):
            flush(filesystem)
        store.hold_late = False
        filesystem.unlink("/file")
        _let_threads_work(filesystem)
        store.late[0]()
        assert body(store, "file") == data
        flush(filesystem)
        assert store.list_page("box").rows == ()


@pytest.mark.parametrize("dies", [False, True])
@pytest.mark.parametrize("size", [4 * BLOCK, MIB + BLOCK])
def test_a_file_that_becomes_small_after_a_lost_manifest(
    store: LossyStore, tmp_path: Path, dies: bool, size: int
) -> None:
    """Most of it is not in the cache, and the version that it was read from does not exist any more."""
    data = bytearray(noise(4 * MIB))
    with harness(store, cache(tmp_path, "first"), OPTIONS) as filesystem:
        write(filesystem, "/file", bytes(data))
    mount = killed(store, tmp_path) if dies else harness(store, tmp_path, OPTIONS)
    with mount as filesystem:
        change(filesystem, "/file", 3 * MIB, b"c" * BLOCK)
        data[3 * MIB : 3 * MIB + BLOCK] = b"c" * BLOCK
        lose(filesystem, store)
        filesystem.truncate("/file", size)
        store.away = False
        if not dies:
            flush(filesystem)
            assert body(store, "file") == data[:size]
    with harness(store, tmp_path, OPTIONS):
        pass
    assert body(store, "file") == data[:size]


class RefusingStore(MemoryStore):
    """A store that loses the answer to the first segment, and refuses the next one."""

    def __init__(self, *containers: str) -> None:
        super().__init__(*containers)
        self.errors: list[StoreError] = [Unavailable("the answer was lost"), QuotaExceeded("no")]

    def put(
        self, name: ObjectName, body: Body, headers: Headers, *, if_absent: bool = False, etag: str = ""
    ) -> ObjectInfo:
        if name.container == "box" or not self.errors:
            return super().put(name, body, headers, if_absent=if_absent, etag=etag)
        if len(self.errors) == 2:
            super().put(name, body, headers, if_absent=if_absent, etag=etag)
        raise self.errors.pop(0)


def test_a_segment_whose_repetition_is_refused_is_deleted(tmp_path: Path) -> None:
    """It is stored again under another name."""
    store, data = RefusingStore("box", "box_segments"), os.urandom(MIB + 10)
    with harness(store, tmp_path, "segment_size=1M,settle=0.01,connections=1,uploads=1") as filesystem:
        write(filesystem, "/file", data)
        wait_until(lambda: [one.state for one in filesystem.waiting()] == ["parked"])
        filesystem.retry()
        wait_until(lambda: not filesystem.waiting())
    assert body(store, "file") == data
    assert segments(store) == named_segments(store, "file")
