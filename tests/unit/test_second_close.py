"""A file that is changed and closed again during its upload: nothing of the newer close is lost."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from support.deadlines import within
from support.edited_file import CHANGES, SOON, Edited, Gate
from support.harness import LEFT, ME, copy_live, harness, names, put, read, sync_all, write
from support.jobs import wait_until
from support.memory_store import MemoryStore
from support.noise import noise
from support.stored_objects import NEVER, body, foreign, keys, segments, segments_of
from swiftfs.errors import AccessDenied, QuotaExceeded, Unavailable
from swiftfs.journal import tasks
from swiftfs.journal.database import JournalDB
from swiftfs.journal.operations import PutFile
from swiftfs.journal.scheduler import Scheduler
from swiftfs.journal.tasks import Success, Task
from swiftfs.objects import ObjectName
from swiftfs.posix.filesystem import FileSystem

LARGE = 3_500_000

SIZES = {"small": 10_000, "blocks": 900_000, "large": LARGE}


pytestmark = pytest.mark.store(MemoryStore, "box", "box_segments")


def settled(filesystem: FileSystem) -> None:
    wait_until(lambda: not filesystem.waiting())


@pytest.mark.matrix(7)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("error", [QuotaExceeded, Unavailable, None])
def test_what_is_closed_during_an_upload_is_stored(
    store: MemoryStore, tmp_path: Path, change: str, size: str, error: type[Exception] | None
) -> None:
    data = noise(SIZES[size])
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
    with harness(store, tmp_path / "first", SOON) as filesystem:
        write(filesystem, "/file", data)
    with harness(store, tmp_path / "second", SOON) as filesystem:
        file = Edited(filesystem, bytearray(data))
        gate = Gate(store, error("no") if error else None)
        CHANGES[change](file, 1)
        assert gate.reached.wait(within(20))
        CHANGES[change](file, 2)
        CHANGES[change](file, 3)
        assert [one.path for one in filesystem.waiting()] == ["/file"]
        assert filesystem.getattr("/file").size == len(file.model)
        gate.open.set()
        if error is QuotaExceeded:
            wait_until(lambda: [one.state for one in filesystem.waiting()] == ["parked"])
            store.hook = None
            filesystem.retry()
        elif error is Unavailable:
            wait_until(lambda: all(one.reason for one in filesystem.waiting()))
            store.hook = None
        settled(filesystem)
        assert read(filesystem, "/file") == file.model
    assert body(store, "file") == file.model
    assert keys(store) == ["file"]
    assert set(keys(store, "box_segments")) == segments_of(store)


@pytest.mark.matrix(7)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("size", SIZES)
def test_what_is_closed_during_an_upload_outlives_a_crash(
    store: MemoryStore, tmp_path: Path, change: str, size: str
) -> None:
    data = noise(SIZES[size])
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
    with harness(store, tmp_path / "first", SOON) as filesystem:
        write(filesystem, "/file", data)
    killed = tmp_path / "killed"
    with harness(store, tmp_path / "second", SOON, close_error=LEFT) as filesystem:
        file = Edited(filesystem, bytearray(data))
        gate = Gate(store, AccessDenied("no"))
        CHANGES[change](file, 1)
        assert gate.reached.wait(within(20))
        CHANGES[change](file, 2)
        CHANGES[change](file, 3)
        copy_live(tmp_path / "second", killed)
        gate.open.set()
    assert body(store, "file") == data
    store.hook = None
    with harness(store, killed, SOON) as filesystem:
        assert filesystem.getattr("/file").size == len(file.model)
        assert read(filesystem, "/file") == file.model
    assert body(store, "file") == file.model
    assert keys(store) == ["file"]


@pytest.mark.parametrize("error", [QuotaExceeded, Unavailable])
def test_a_file_without_some_of_its_bytes_is_closed_during_its_upload(
    store: MemoryStore, tmp_path: Path, error: type[Exception]
) -> None:
    """Segments that were stored while it was written were evicted: the record of each close names them."""
    data = noise(LARGE)
    with harness(store, tmp_path, SOON) as filesystem:
        handle = filesystem.create("/file", 0o644, os.O_RDWR, ME)
        for at in range(0, LARGE, 500_000):
            put(filesystem, handle, at, data[at : at + 500_000])
            time.sleep(0.02)  # longer than `settle`
        wait_until(lambda: keys(store, "box_segments"))
        files = filesystem.services.file_cache
        files.space.set_limit(0)
        files.space.set_limit(1 << 30)
        assert files.space.use()[0] < LARGE
        gate = Gate(store, error("no"))
        filesystem.release(handle)
        assert gate.reached.wait(within(20))
        file = Edited(filesystem, bytearray(data))
        CHANGES["append"](file, 2)
        CHANGES["append"](file, 3)
        gate.open.set()
        wait_until(lambda: all(one.reason for one in filesystem.waiting()))
        store.hook = None
        filesystem.retry()
        settled(filesystem)
        assert read(filesystem, "/file") == body(store, "file") == file.model
    assert segments(store) == segments_of(store)


@pytest.fixture
def uploading(store: MemoryStore, tmp_path: Path) -> Iterator[tuple[FileSystem, Gate]]:
    """A new file whose first close is being uploaded, and which was closed again with other bytes."""
    with harness(store, tmp_path, SOON) as filesystem:
        gate = Gate(store, None)
        write(filesystem, "/file", b"first")
        assert gate.reached.wait(within(20))
        file = Edited(filesystem, bytearray(b"first"))
        file.append(b" second")
        yield filesystem, gate


def test_fsync_waits_for_the_newest_close(uploading: tuple[FileSystem, Gate], store: MemoryStore) -> None:
    filesystem, gate = uploading
    handle = filesystem.open("/file", os.O_RDWR)
    put(filesystem, handle, 12, b" third")
    done = threading.Event()

    def sync() -> None:
        filesystem.fsync(handle, False)
        assert body(store, "file") == b"first second third"
        done.set()

    thread = threading.Thread(target=sync)
    thread.start()
    gate.open.set()
    thread.join(within(20))
    assert done.is_set()
    filesystem.release(handle)


def test_fsync_does_not_wait_for_later_closes(store: MemoryStore, tmp_path: Path) -> None:
    """The file is closed during each upload of it; an fsync after the first close returns."""
    with harness(store, tmp_path, SOON) as filesystem:
        handle = filesystem.create("/file", 0o644, os.O_RDWR, ME)
        put(filesystem, handle, 0, b"x")
        returned = threading.Event()
        uploads = 0

        def hook(method: str, _subject: str) -> None:
            nonlocal uploads
            if method == "put" and not returned.is_set():
                uploads += 1
                assert uploads < 50
                again = filesystem.open("/file", os.O_RDWR)
                put(filesystem, again, 10 + uploads, b"more")
                filesystem.flush(again)
                filesystem.release(again)

        store.hook = hook

        def sync() -> None:
            filesystem.fsync(handle, False)
            returned.set()

        thread = threading.Thread(target=sync)
        thread.start()
        thread.join(within(20))
        assert returned.is_set()
        store.hook = None
        filesystem.release(handle)
        settled(filesystem)
        assert body(store, "file") == read(filesystem, "/file")


def test_an_unmount_does_not_wait_for_the_settling_of_a_second_close(
    store: MemoryStore, tmp_path: Path
) -> None:
    """The first upload still runs when the unmount makes everything due."""
    gate = Gate(store, None)
    with harness(store, tmp_path, f"{NEVER},drain=30", progress=lambda _left: gate.open.set()) as filesystem:
        write(filesystem, "/file", b"first")
        filesystem.setxattr("/", "swift.flush", b"1", 0)
        assert gate.reached.wait(within(20))
        Edited(filesystem, bytearray(b"first")).append(b" second")
    assert body(store, "file") == b"first second"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("asked", ["flush", "unmount"])
def test_a_flush_does_not_wait_for_the_pause_of_a_file_that_was_cut_during_its_upload(
    store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: str, asked: str
) -> None:
    """The upload that the cut spoils still runs when everything is made due."""
    monkeypatch.setattr(tasks, "FIRST_PAUSE", 1000.0)
    gate = Gate(store, None)
    progress = (lambda _left: gate.open.set()) if asked == "unmount" else (lambda _left: None)
    with harness(store, tmp_path, f"{SOON},drain=30", progress=progress) as filesystem:
        data = noise(SIZES[size])
        write(filesystem, "/file", data)
        assert gate.reached.wait(within(20))
        file = Edited(filesystem, bytearray(data))
        file.truncate(len(data) // 2)
        if asked == "flush":
            filesystem.setxattr("/", "swift.flush", b"1", 0)
            gate.open.set()
            settled(filesystem)
    assert body(store, "file") == file.model


def test_a_description_between_two_closes_makes_no_second_record(
    uploading: tuple[FileSystem, Gate], store: MemoryStore
) -> None:
    filesystem, gate = uploading
    filesystem.chmod("/file", 0o600)
    assert len(filesystem.waiting()) == 2
    Edited(filesystem, bytearray(b"first second")).append(b" third")
    assert [one.kind for one in filesystem.waiting()] == ["PutFile"]
    gate.open.set()
    settled(filesystem)
    assert body(store, "file") == b"first second third"
    assert filesystem.getattr("/file").mode & 0o777 == 0o600
    assert "mode=0100600" in store.head(ObjectName("box", "file")).content_type


def test_a_description_behind_a_parked_file_makes_no_second_record(
    store: MemoryStore, tmp_path: Path
) -> None:
    with harness(store, tmp_path, SOON) as filesystem:
        gate = Gate(store, QuotaExceeded("no"))
        write(filesystem, "/file", b"first")
        assert gate.reached.wait(within(20))
        filesystem.chmod("/file", 0o600)
        gate.open.set()
        wait_until(lambda: any(one.state == "parked" for one in filesystem.waiting()))
        Edited(filesystem, bytearray(b"first")).append(b" second")
        store.hook = None
        filesystem.retry()
        settled(filesystem)
        assert body(store, "file") == b"first second"
        assert "mode=0100600" in store.head(ObjectName("box", "file")).content_type


def test_the_file_is_deleted_meanwhile(uploading: tuple[FileSystem, Gate], store: MemoryStore) -> None:
    filesystem, gate = uploading
    filesystem.unlink("/file")
    gate.open.set()
    settled(filesystem)
    assert names(filesystem, "/") == []
    assert keys(store) == []
    assert sum(method == "put" for method, _ in store.requests) == 1


@pytest.mark.parametrize("error", [QuotaExceeded, Unavailable])
@pytest.mark.parametrize("anew", [False, True])
def test_what_replaces_a_file_does_not_wait_for_its_upload(
    store: MemoryStore, tmp_path: Path, error: type[Exception], anew: bool
) -> None:
    """The upload of the replaced bytes fails, and nobody needs it any more."""
    with harness(store, tmp_path, SOON) as filesystem:
        gate = Gate(store, error("no"))
        write(filesystem, "/file", b"first")
        assert gate.reached.wait(within(20))
        Edited(filesystem, bytearray(b"first")).append(b" second")
        if anew:
            write(filesystem, "/file", b"anew")
        else:
            filesystem.unlink("/file")
        gate.open.set()
        store.hook = None
        settled(filesystem)
        assert names(filesystem, "/") == keys(store) == (["file"] if anew else [])
        assert not anew or body(store, "file") == b"anew"


def test_the_file_is_renamed_meanwhile(uploading: tuple[FileSystem, Gate], store: MemoryStore) -> None:
    filesystem, gate = uploading
    thread = threading.Thread(target=filesystem.rename, args=("/file", "/other"))
    thread.start()
    gate.open.set()
    thread.join(within(20))
    assert not thread.is_alive()
    settled(filesystem)
    assert names(filesystem, "/") == ["other"]
    assert read(filesystem, "/other") == b"first second"
    assert keys(store) == ["other"]
    assert body(store, "other") == b"first second"


def test_the_file_is_made_anew_meanwhile(uploading: tuple[FileSystem, Gate], store: MemoryStore) -> None:
    filesystem, gate = uploading
    write(filesystem, "/file", b"anew")
    gate.open.set()
    settled(filesystem)
    assert body(store, "file") == read(filesystem, "/file") == b"anew"


def test_both_closes_are_confirmed(uploading: tuple[FileSystem, Gate], store: MemoryStore) -> None:
    """The namespace knows the stored version, which a late listing does not undo."""
    filesystem, gate = uploading
    gate.open.set()
    settled(filesystem)
    stored = store.head(ObjectName("box", "file"))
    assert filesystem.services.namespace.lookup("/file").etag == stored.version.etag
    foreign(store, "file", b"of another client")
    filesystem.refresh()
    wait_until(lambda: filesystem.getattr("/file").size == 17)


@pytest.mark.parametrize("size", [30_000, LARGE])
@pytest.mark.parametrize("change", [0, 14_517, 20_000])
def test_a_close_between_the_choice_of_an_upload_and_its_beginning(
    store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, change: int
) -> None:
    """The older record lacks what the local file has since, and must not be used."""
    begin, changes = Scheduler._put_file, [change, change + 200_000]
    expected = bytearray(os.urandom(size))

    def put_file(self: Scheduler, task: Task, operation: PutFile) -> Success | None:
        if armed.is_set() and changes:
            offset = changes.pop(0)
            handle = filesystem.open("/file", os.O_RDWR)
            put(filesystem, handle, offset, b"changed")
            filesystem.flush(handle)
            filesystem.release(handle)
            expected.extend(bytes(max(0, offset - len(expected))))
            expected[offset : offset + 7] = b"changed"
        return begin(self, task, operation)

    monkeypatch.setattr(Scheduler, "_put_file", put_file)
    armed = threading.Event()
    with harness(store, tmp_path, SOON) as filesystem:
        write(filesystem, "/file", bytes(expected) + b"cut off" * 10_000)
        wait_until(lambda: not filesystem.waiting())
        armed.set()
        filesystem.truncate("/file", size)
        wait_until(lambda: not changes and not filesystem.waiting())
        assert read(filesystem, "/file") == expected
    assert body(store, "file") == expected


def test_a_record_that_is_older_than_the_version_just_stored_is_not_used(
    store: MemoryStore, tmp_path: Path
) -> None:
    """The close made its record before the upload ended, and handed it in afterwards."""
    with harness(store, tmp_path, NEVER) as filesystem:
        journal = filesystem.services.journal
        write(filesystem, "/file", noise(300_000))
        journal.flush_all()
        settled(filesystem)
        handle = filesystem.open("/file", os.O_RDWR)
        put(filesystem, handle, 10, b"changed")
        filesystem.flush(handle)
        file = filesystem.services.open_files.at("/file")
        assert file is not None
        operation = PutFile(
            file.name,
            file.cached_file.to_record(),
            file.current_meta(),
            replaces_large=False,
            replaces_etag=None,
        )
        journal.flush([file.name])
        journal.submit("/file", operation)
        filesystem.release(handle)
        journal.flush([file.name])
        assert read(filesystem, "/file") == body(store, "file")
    assert body(store, "file")[:20] == noise(300_000)[:10] + b"changed" + noise(300_000)[17:20]


def test_a_file_whose_older_state_was_stored_is_deleted_by_the_next_mount(
    store: MemoryStore, cache: Path
) -> None:
    """The mount ended in order, so its record of the newer state is believed: it replaces what was stored."""
    with harness(store, cache, f"{NEVER},drain=0", close_error=LEFT) as filesystem:
        handle = filesystem.create("/file", 0o644, os.O_RDWR, ME)
        put(filesystem, handle, 0, b"old")
        gate = Gate(store, None)
        syncing = threading.Thread(target=filesystem.fsync, args=(handle, False))
        syncing.start()
        assert gate.reached.wait(within(20))
        put(filesystem, handle, 0, b"new")
        filesystem.flush(handle)
        filesystem.release(handle)
        gate.open.set()
        syncing.join()
        assert body(store, "file") == b"old"
    with harness(store, cache, NEVER) as filesystem:
        assert read(filesystem, "/file") == b"new"
        filesystem.unlink("/file")
    assert keys(store) == []


def test_a_record_that_is_older_than_the_upload_names_every_byte_that_this_has_made_its_own(
    store: MemoryStore, tmp_path: Path
) -> None:
    """The close made its record before the upload began, and handed it in afterwards: its base goes."""
    (cache := tmp_path / "cache").mkdir()
    with harness(store, cache, NEVER) as filesystem:
        journal = filesystem.services.journal
        write(filesystem, "/file", noise(300_000))
        sync_all(filesystem)
        handle = filesystem.open("/file", os.O_RDWR)
        put(filesystem, handle, 10, b"changed")
        filesystem.flush(handle)
        file = filesystem.services.open_files.at("/file")
        assert file is not None
        record = file.cached_file.to_record()
        assert not record.is_whole
        gate = Gate(store, None)
        syncing = threading.Thread(target=journal.flush, args=([file.name],))
        syncing.start()
        assert gate.reached.wait(within(20))
        journal.submit("/file", PutFile(file.name, record, file.current_meta()))
        copy_live(cache, tmp_path / "image")
        gate.open.set()
        syncing.join()
        filesystem.release(handle)
    with closing(JournalDB(tmp_path / "image", "box of memory")) as log:
        (left,) = log.records()
    assert isinstance(left.operation, PutFile)
    assert left.operation.file.is_whole
