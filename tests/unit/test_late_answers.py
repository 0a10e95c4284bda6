"""Late requests that overwrite or delete newer versions: swiftfs notices and restores those."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from support.harness import ME, harness, names, put, read, write
from support.jobs import wait_until
from support.late_store import (
    FILE,
    LATE,
    OPTIONS,
    LateStore,
    late,
    logged,
    look,
    remove,
    repair,
    settle,
    store_body,
    store_file,
)
from support.noise import noise
from support.stored_objects import body, foreign, keys, named_segments, segments, ten_minutes_later
from swiftfs.journal import late_requests
from swiftfs.journal.late_requests import LOOKS, LateCounts
from swiftfs.objects import Manifest, ObjectName, Segment
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.ambiguous import Effect
from swiftfs.store.protocol import Headers

pytestmark = LATE

MIB = 1024 * 1024


def test_an_older_put_that_lands_over_a_newer_one(
    store: LateStore, filesystem: FileSystem, caplog: pytest.LogCaptureFixture
) -> None:
    store.lose("put", "file")
    store_file(filesystem, b"old")
    store_file(filesystem, b"the newer one")
    store.land()
    assert body(store, "file") == b"old"
    repair(filesystem)
    assert body(store, "file") == b"the newer one"
    assert read(filesystem, "/file") == b"the newer one"
    assert len(logged(caplog, logging.WARNING)) == 1
    assert "/file: a request whose answer was lost was carried out late" in logged(caplog, logging.WARNING)[0]
    assert late(filesystem).counts().put_right == 1
    report = filesystem.services.journal.report()
    assert (report.watched, report.put_right, report.overwritten) == (1, 1, 0)
    look(filesystem, LOOKS[1] + 5)
    assert late(filesystem).counts().put_right == 1


def test_the_attributes_come_back_with_the_bytes(store: LateStore, filesystem: FileSystem) -> None:
    store.lose("put", "file")
    store_file(filesystem, b"old")
    write(filesystem, "/file", b"new")
    filesystem.chmod("/file", 0o640)
    filesystem.utimens("/file", None, 1_700_000_000_123456789)
    filesystem.setxattr("/file", "user.color", b"red", 0)
    settle(filesystem)
    before = store.head(FILE)
    store.land()
    assert store.head(FILE).content_type != before.content_type
    repair(filesystem)
    after = store.head(FILE)
    assert (after.version, after.content_type, after.metadata) == (
        before.version,
        before.content_type,
        before.metadata,
    )


@pytest.mark.parametrize("size", [5000, MIB // 2])
def test_bytes_beyond_the_journal_s_own_record(store: LateStore, filesystem: FileSystem, size: int) -> None:
    newer = os.urandom(size)
    store.lose("put", "file")
    store_file(filesystem, os.urandom(size))
    store_file(filesystem, newer)
    store.land()
    repair(filesystem)
    assert body(store, "file") == newer


def test_while_the_newer_file_is_open(store: LateStore, filesystem: FileSystem) -> None:
    newer = os.urandom(100_000)
    store.lose("put", "file")
    store_file(filesystem, b"old")
    store_file(filesystem, newer)
    handle = filesystem.open("/file", os.O_RDONLY)
    store.land()
    repair(filesystem)
    filesystem.release(handle)
    assert body(store, "file") == newer


def test_what_is_about_to_be_replaced_is_left_to_that(store: LateStore, filesystem: FileSystem) -> None:
    store.lose("put", "file")
    store_file(filesystem, b"old")
    store_file(filesystem, bytes(10_000))
    handle = filesystem.open("/file", os.O_WRONLY)
    put(filesystem, handle, 0, b"newest")
    store.land()
    look(filesystem)
    assert body(store, "file") == b"old"
    filesystem.flush(handle)
    filesystem.release(handle)
    settle(filesystem)
    assert body(store, "file") == b"newest" + bytes(9994)
    look(filesystem, LOOKS[1] + 5)
    assert late(filesystem).counts().put_right == 0


def test_a_late_deletion_of_what_was_made_anew(
    store: LateStore, filesystem: FileSystem, caplog: pytest.LogCaptureFixture
) -> None:
    store_file(filesystem, b"old")
    store.lose("delete", "file")
    remove(filesystem)
    store_file(filesystem, b"new")
    store.land()
    assert keys(store) == []
    repair(filesystem)
    assert body(store, "file") == b"new"
    assert "Swift had nothing" in logged(caplog, logging.WARNING)[0]


def test_a_file_that_a_late_deletion_has_taken_comes_back_with_its_newest_attributes(
    store: LateStore, filesystem: FileSystem
) -> None:
    store_file(filesystem, b"old")
    store.lose("delete", "file")
    remove(filesystem)
    store_file(filesystem, b"new")
    store.land()
    assert "file" not in keys(store)
    filesystem.chmod("/file", 0o600)
    wait_until(lambda: not filesystem.waiting())
    repair(filesystem)
    assert body(store, "file") == b"new"
    filesystem.refresh()
    assert filesystem.getattr("/file").mode & 0o777 == 0o600


def test_a_late_bulk_deletion(store: LateStore, filesystem: FileSystem) -> None:
    names = [f"/{number}" for number in range(5)]
    for path in names:
        write(filesystem, path, b"old" + path.encode())
    settle(filesystem)
    store.lose("delete", "3")
    for path in names:
        filesystem.unlink(path)
    settle(filesystem)
    for path in names:
        write(filesystem, path, b"new" + path.encode())
    settle(filesystem)
    store.land()
    assert "3" not in keys(store)
    repair(filesystem)
    assert [body(store, path[1:]) for path in names] == [b"new" + path.encode() for path in names]


def test_a_file_that_was_deleted_comes_back_late(store: LateStore, filesystem: FileSystem) -> None:
    store.lose("put", "file")
    store_file(filesystem, b"old")
    remove(filesystem)
    store.land()
    assert keys(store) == ["file"]
    repair(filesystem)
    assert keys(store) == []


def test_a_put_that_was_never_answered_before_the_deletion(store: LateStore, filesystem: FileSystem) -> None:
    store.lose("put", "file", 1000)
    write(filesystem, "/file", b"old")
    wait_until(lambda: store.lost > 3)
    filesystem.unlink("/file")
    store.loses.clear()
    settle(filesystem)
    store.land()
    assert keys(store) == ["file"]
    repair(filesystem)
    assert keys(store) == []


def test_a_late_manifest(store: LateStore, filesystem: FileSystem) -> None:
    """Only the manifest is sent again: the segments exist."""
    old, new = os.urandom(3 * MIB), os.urandom(4 * MIB)
    store.lose("put_manifest", "file")
    store_file(filesystem, old)
    segments = {one.name: store_body(store, one.name) for one in store.manifest(FILE).segments}
    store_file(filesystem, new)
    for name, data in segments.items():  # a server that keeps what is deleted for a while
        store.put(name, data, Headers("application/octet-stream"))
    store.land()
    assert body(store, "file") == old
    store.requests.clear()
    repair(filesystem)
    assert body(store, "file") == new
    assert sum(method in ("put", "put_manifest") for method, _ in store.requests) == 1


@pytest.mark.parametrize("comes", [True, False])
def test_the_segments_of_a_manifest_that_may_come_late_stay(
    store: LateStore, tmp_path: Path, comes: bool
) -> None:
    """If it came just before their deletion, other clients would read half an object."""
    old, new = os.urandom(3 * MIB), os.urandom(4 * MIB)
    with harness(store, tmp_path, OPTIONS) as filesystem:
        store.lose("put_manifest", "file")
        store_file(filesystem, old)
        store_file(filesystem, new)
        assert len(segments(store)) == 7
        if comes:
            store.land()
            assert body(store, "file") == old
            repair(filesystem)
    assert body(store, "file") == new
    if not comes:
        ten_minutes_later(store, tmp_path)
        assert segments(store) == named_segments(store, "file")


def test_a_late_file_over_an_slo_of_another_client_that_was_renamed(
    store: LateStore, filesystem: FileSystem
) -> None:
    """Its one segment is smaller than ours; the manifest is stored again: the object has other bytes now."""
    data = os.urandom(300_000)
    part = store.put(ObjectName("box", "part"), data, Headers("application/octet-stream"))
    manifest = Manifest((Segment(part.version.name, part.version.etag, part.size),))
    store.put_manifest(ObjectName("box", "theirs"), manifest, Headers("text/plain"))
    store.lose("put", "file")
    store_file(filesystem, b"old")
    filesystem.rename("/theirs", "/file")
    settle(filesystem)
    late(filesystem).fetch()
    store.land()
    assert body(store, "file") == b"old"
    repair(filesystem)
    assert body(store, "file") == data
    assert read(filesystem, "/file") == data


def test_a_late_deletion_of_a_large_file(store: LateStore, filesystem: FileSystem) -> None:
    new = os.urandom(3 * MIB)
    store_file(filesystem, b"small")
    store.lose("delete", "file")
    remove(filesystem)
    store_file(filesystem, new)
    store.land()
    assert "file" not in keys(store)
    repair(filesystem)
    assert body(store, "file") == new


def test_a_small_file_over_a_late_large_one(store: LateStore, filesystem: FileSystem) -> None:
    store.lose("put_manifest", "file")
    store_file(filesystem, os.urandom(3 * MIB))
    segments = {one.name: store_body(store, one.name) for one in store.manifest(FILE).segments}
    store_file(filesystem, b"small")
    for name, data in segments.items():
        store.put(name, data, Headers("application/octet-stream"))
    store.land()
    assert store.head(FILE).is_slo
    repair(filesystem)
    assert body(store, "file") == b"small"


def test_another_client_s_version_is_left_alone(
    store: LateStore, filesystem: FileSystem, caplog: pytest.LogCaptureFixture
) -> None:
    store.lose("put", "file")
    store_file(filesystem, b"old")
    store_file(filesystem, b"new")
    foreign(store, "file", b"theirs")
    for seconds in LOOKS:
        look(filesystem, seconds + 5)
    settle(filesystem)
    assert body(store, "file") == b"theirs"
    assert logged(caplog, logging.WARNING) == []


def test_another_client_s_deletion_is_left_alone(store: LateStore, filesystem: FileSystem) -> None:
    store.lose("put", "file")
    store_file(filesystem, b"old")
    store_file(filesystem, b"new")
    store.delete(FILE)
    repair(filesystem)
    assert keys(store) == []


@pytest.mark.parametrize("method", ["put", "post", "delete"])
def test_a_loss_without_a_newer_change_costs_nothing(
    store: LateStore, filesystem: FileSystem, method: str
) -> None:
    jobs: dict[str, Callable[[], None]] = {
        "put": lambda: store_file(filesystem, b"data"),
        "post": lambda: filesystem.chmod("/file", 0o600),
        "delete": lambda: filesystem.unlink("/file"),
    }
    if method != "put":
        store_file(filesystem, b"data")
    store.lose(method, "file")
    jobs[method]()
    settle(filesystem)
    store.requests.clear()
    for seconds in LOOKS:
        look(filesystem, seconds + 5)
    assert store.requests == []
    assert late(filesystem).counts().watched == 0


def test_what_only_a_late_listing_had_shown_is_not_reported_as_lost(
    filesystem: FileSystem, caplog: pytest.LogCaptureFixture
) -> None:
    requests = late(filesystem)._ambiguous
    requests.lost(FILE, Effect("delete"))
    requests.done(FILE, lambda: Effect("put", "an etag"))
    late(filesystem).fetch()
    look(filesystem)
    assert late(filesystem).counts() == LateCounts()
    assert logged(caplog, logging.ERROR) == []


def test_a_copy_that_a_late_deletion_took_before_it_was_fetched_is_reported(
    filesystem: FileSystem, caplog: pytest.LogCaptureFixture
) -> None:
    requests = late(filesystem)._ambiguous
    requests.lost(FILE, Effect("delete"))
    requests.done(FILE, lambda: Effect("put", "an etag", source=ObjectName("box", "other")))
    late(filesystem).fetch()
    look(filesystem)
    assert late(filesystem).counts().overwritten == 1
    assert "cannot be stored again" in logged(caplog, logging.ERROR)[0]


@pytest.mark.parametrize("size", [100, 100_000, 2_500_000])
@pytest.mark.parametrize("folder", [False, True])
def test_a_deletion_that_comes_late_in_the_rename_back(
    store: LateStore, filesystem: FileSystem, folder: bool, size: int
) -> None:
    """It takes the copy when the source of that is about to go too."""
    filesystem.mkdir("/d", 0o755, ME)
    write(filesystem, "/d/file", noise(size))
    settle(filesystem)
    old, new = ("/d", "/e") if folder else ("/d/file", "/d/other")
    store.lose("delete", "d/file")
    filesystem.rename(old, new)

    def hook(method: str, _subject: str) -> None:
        if method.startswith("delete"):
            store.hook = None
            store.land()

    store.hook = hook
    filesystem.rename(new, old)
    assert store.lost == 0
    assert "d/file" not in keys(store)
    repair(filesystem)
    assert body(store, "d/file") == noise(size)


@pytest.mark.parametrize("path", ["/d/file", "/d/gone", "/d"])
@pytest.mark.parametrize("background", [0, 1])
def test_a_folder_is_renamed_to_where_a_late_put_has_brought_a_file_back(
    store: LateStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, background: int
) -> None:
    """To the program nothing was there."""
    monkeypatch.setattr(late_requests, "CALL_SECONDS", 0.0)
    with harness(store, tmp_path, f"{OPTIONS},background_rename={background}") as filesystem:
        bring_back_and_rename(store, filesystem, path)
        assert names(filesystem, "/d") == ["file"]
        settle(filesystem)
        repair(filesystem)
    assert keys(store) == ["d", "d/file"]
    assert body(store, "d/file") == b"file"


def bring_back_and_rename(store: LateStore, filesystem: FileSystem, path: str) -> None:
    filesystem.mkdir("/e", 0o755, ME)
    write(filesystem, "/e/file", b"file")
    if path != "/d":
        settle(filesystem)
        filesystem.rename("/e", "/d")
    store.lose("put", path[1:])
    write(filesystem, path, b"old")
    settle(filesystem)
    if path == "/d/file":
        write(filesystem, path, b"file")
    else:
        filesystem.unlink(path)
    settle(filesystem)
    if path != "/d":
        filesystem.rename("/d", "/e")
        settle(filesystem)
    store.land()
    assert store_body(store, ObjectName("box", path[1:])) == b"old"
    filesystem.rename("/e", "/d")


@pytest.mark.parametrize("call", ["rmdir", "rename"])
def test_a_folder_is_empty_although_a_late_put_has_brought_a_deleted_file_back(
    store: LateStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    monkeypatch.setattr(late_requests, "CALL_SECONDS", 0.0)
    with harness(store, tmp_path, OPTIONS) as filesystem:
        filesystem.mkdir("/d", 0o755, ME)
        filesystem.mkdir("/e", 0o755, ME)
        write(filesystem, "/e/file", b"file")
        store.lose("put", "d/gone")
        write(filesystem, "/d/gone", b"old")
        settle(filesystem)
        filesystem.unlink("/d/gone")
        settle(filesystem)
        store.land()
        filesystem.refresh()
        if call == "rmdir":
            filesystem.rmdir("/d")
        else:
            filesystem.rename("/e", "/d")
        settle(filesystem)
    assert keys(store) == (["e", "e/file"] if call == "rmdir" else ["d", "d/file"])
