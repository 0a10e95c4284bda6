"""Requests that are carried out late, over what was stored since: they are noticed and put right."""

import logging
import os
import shutil
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from bench_filesystem import ME, bench, copy_live, put, read, write
from journal_house import NEVER, body, foreign, keys
from late_store import LateStore, late, look
from scenes import wait_until

from swiftfs.errors import AccessDenied, SwiftfsError, Unavailable
from swiftfs.journal import late_copies
from swiftfs.journal.late_requests import LOOKS
from swiftfs.journal.salvage import copy_journal
from swiftfs.objects import ObjectName
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.protocol import Headers

MIB = 1024 * 1024
FILE = ObjectName("box", "file")


@pytest.fixture
def store() -> LateStore:
    return LateStore("box")


@pytest.fixture
def filesystem(store: LateStore, tmp_path: Path) -> Iterator[FileSystem]:
    with bench(store, tmp_path, "settle=0.01,segment_size=1M") as filesystem:
        yield filesystem


def settle(filesystem: FileSystem) -> None:
    """Return when Swift has all."""
    filesystem.setxattr("/", "swift.flush", b"1", 0)
    wait_until(lambda: not filesystem.waiting())


def store_file(filesystem: FileSystem, data: bytes, path: str = "/file") -> None:
    write(filesystem, path, data)
    settle(filesystem)


def remove(filesystem: FileSystem, path: str = "/file") -> None:
    filesystem.unlink(path)
    settle(filesystem)


def heads(store: LateStore) -> int:
    return sum(method == "head" for method, _ in store.requests)


def told(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelno == level]


def test_an_older_put_that_lands_over_a_newer_one(
    store: LateStore, filesystem: FileSystem, caplog: pytest.LogCaptureFixture
) -> None:
    store.lose("put", "file")
    store_file(filesystem, b"old")
    store_file(filesystem, b"the newer one")
    store.land()
    assert body(store, "file") == b"old"
    look(filesystem)
    settle(filesystem)
    assert body(store, "file") == b"the newer one"
    assert read(filesystem, "/file") == b"the newer one"
    assert len(told(caplog, logging.WARNING)) == 1
    assert "/file: a request whose answer was lost was carried out late" in told(caplog, logging.WARNING)[0]
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
    look(filesystem)
    settle(filesystem)
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
    look(filesystem)
    settle(filesystem)
    assert body(store, "file") == newer


def test_while_the_newer_file_is_open(store: LateStore, filesystem: FileSystem) -> None:
    newer = os.urandom(100_000)
    store.lose("put", "file")
    store_file(filesystem, b"old")
    store_file(filesystem, newer)
    handle = filesystem.open("/file", os.O_RDONLY)
    store.land()
    look(filesystem)
    settle(filesystem)
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
    look(filesystem)
    settle(filesystem)
    assert body(store, "file") == b"new"
    assert "Swift had nothing" in told(caplog, logging.WARNING)[0]


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
    look(filesystem)
    settle(filesystem)
    assert [body(store, path[1:]) for path in names] == [b"new" + path.encode() for path in names]


def test_a_file_that_was_deleted_comes_back_late(store: LateStore, filesystem: FileSystem) -> None:
    store.lose("put", "file")
    store_file(filesystem, b"old")
    remove(filesystem)
    store.land()
    assert keys(store) == ["file"]
    look(filesystem)
    settle(filesystem)
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
    look(filesystem)
    settle(filesystem)
    assert keys(store) == []


def test_a_late_manifest(store: LateStore, filesystem: FileSystem) -> None:
    """Only the manifest is sent again: the segments are there."""
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
    look(filesystem)
    settle(filesystem)
    assert body(store, "file") == new
    assert sum(method in ("put", "put_manifest") for method, _ in store.requests) == 1


def test_a_late_deletion_of_a_large_file(store: LateStore, filesystem: FileSystem) -> None:
    new = os.urandom(3 * MIB)
    store_file(filesystem, b"small")
    store.lose("delete", "file")
    remove(filesystem)
    store_file(filesystem, new)
    store.land()
    assert "file" not in keys(store)
    look(filesystem)
    settle(filesystem)
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
    look(filesystem)
    settle(filesystem)
    assert body(store, "file") == b"small"


def store_body(store: LateStore, name: ObjectName) -> bytes:
    parts: list[bytes] = []
    store.get(name, lambda _offset, data: parts.append(data))
    return b"".join(parts)


def link(filesystem: FileSystem, target: str) -> None:
    filesystem.symlink(target, "/file", ME)
    settle(filesystem)


def test_a_late_symbolic_link(store: LateStore, filesystem: FileSystem) -> None:
    store.lose("put", "file")
    link(filesystem, "old")
    remove(filesystem)
    link(filesystem, "new")
    store.land()
    look(filesystem)
    settle(filesystem)
    assert filesystem.readlink("/file") == "new"
    assert body(store, "file") == b"new"


def test_a_late_removal_of_a_folder_made_anew(store: LateStore, filesystem: FileSystem) -> None:
    filesystem.mkdir("/folder", 0o755, ME)
    settle(filesystem)
    store.lose("delete", "folder")
    filesystem.rmdir("/folder")
    settle(filesystem)
    filesystem.mkdir("/folder", 0o700, ME)
    settle(filesystem)
    store.land()
    assert keys(store) == []
    look(filesystem)
    settle(filesystem)
    assert keys(store) == ["folder"]
    assert stat.S_IMODE(filesystem.getattr("/folder").mode) == 0o700
    assert store.head(ObjectName("box", "folder")).metadata["mode"].endswith("700")


def test_a_folder_that_was_removed_comes_back_late(store: LateStore, filesystem: FileSystem) -> None:
    store.lose("put", "folder")
    filesystem.mkdir("/folder", 0o755, ME)
    settle(filesystem)
    filesystem.rmdir("/folder")
    settle(filesystem)
    store.land()
    assert keys(store) == ["folder"]
    look(filesystem)
    settle(filesystem)
    assert keys(store) == []


def test_a_file_that_lands_over_a_folder(store: LateStore, filesystem: FileSystem) -> None:
    store.lose("put", "file")
    store_file(filesystem, b"old")
    remove(filesystem)
    filesystem.mkdir("/file", 0o750, ME)
    settle(filesystem)
    store.land()
    assert store.head(FILE).content_type != "application/directory"
    look(filesystem)
    settle(filesystem)
    found = store.head(FILE)
    assert (found.content_type, found.size) == ("application/directory", 0)
    assert found.metadata["mode"].endswith("750")


def test_late_attributes(store: LateStore, filesystem: FileSystem) -> None:
    store_file(filesystem, b"data")
    store.lose("post", "file")
    filesystem.chmod("/file", 0o600)
    settle(filesystem)
    filesystem.chmod("/file", 0o444)
    settle(filesystem)
    store.land()
    assert "mode=0100600" in store.head(FILE).content_type
    look(filesystem)
    settle(filesystem)
    assert "mode=0100444" in store.head(FILE).content_type
    assert body(store, "file") == b"data"


def test_attributes_that_land_on_newer_bytes(store: LateStore, filesystem: FileSystem) -> None:
    store_file(filesystem, b"data")
    store.lose("post", "file")
    filesystem.chmod("/file", 0o600)
    settle(filesystem)
    write(filesystem, "/file", b"newer")
    filesystem.chmod("/file", 0o444)
    settle(filesystem)
    before = store.head(FILE)
    store.land()
    look(filesystem)
    settle(filesystem)
    assert store.head(FILE).content_type == before.content_type
    assert store.head(FILE).metadata == before.metadata


def test_late_attributes_of_a_folder(store: LateStore, filesystem: FileSystem) -> None:
    filesystem.mkdir("/folder", 0o755, ME)
    settle(filesystem)
    store.lose("post", "folder")
    for mode in (0o700, 0o711):
        filesystem.chmod("/folder", mode)
        settle(filesystem)
    store.land()
    assert store.head(ObjectName("box", "folder")).metadata["mode"].endswith("700")
    look(filesystem)
    settle(filesystem)
    assert store.head(ObjectName("box", "folder")).metadata["mode"].endswith("711")


def test_a_late_deletion_of_a_move_s_source(store: LateStore, filesystem: FileSystem) -> None:
    store_file(filesystem, b"moved")
    store.lose("delete", "file")
    filesystem.rename("/file", "/there")
    store_file(filesystem, b"new")
    store.land()
    assert keys(store) == ["there"]
    look(filesystem)
    settle(filesystem)
    assert (body(store, "file"), body(store, "there")) == (b"new", b"moved")


@pytest.mark.parametrize("size", [5000, 3 * MIB])
def test_a_late_copy_whose_source_is_another_file_by_then(
    store: LateStore, filesystem: FileSystem, size: int
) -> None:
    """A log that is rotated: the first COPY of it is carried out when its name has a new one already."""
    old = os.urandom(size)
    store_file(filesystem, old, "/log")
    read(filesystem, "/log")
    store.lose("copy", "log.1")
    filesystem.rename("/log", "/log.1")
    assert late(filesystem).counts().watched == 0
    store_file(filesystem, b"the new log", "/log")
    assert late(filesystem).counts().watched == 1
    store.land()
    assert body(store, "log.1") == b"the new log"
    look(filesystem)
    settle(filesystem)
    assert body(store, "log.1") == old
    assert body(store, "log") == b"the new log"


def test_a_late_copy_over_what_was_stored_since(store: LateStore, filesystem: FileSystem) -> None:
    store_file(filesystem, b"moved")
    store.lose("copy", "there")
    filesystem.rename("/file", "/there")
    store_file(filesystem, b"new there", "/there")
    foreign(store, "file", b"moved")  # a server that has opened the source before it went
    store.land()
    assert body(store, "there") == b"moved"
    look(filesystem)
    settle(filesystem)
    assert body(store, "there") == b"new there"


def test_a_late_put_over_a_moved_file(store: LateStore, filesystem: FileSystem) -> None:
    store.lose("put", "there")
    store_file(filesystem, b"old", "/there")
    store_file(filesystem, bytes(10_000))
    read(filesystem, "/file")
    filesystem.rename("/file", "/there")
    store.land()
    assert body(store, "there") == b"old"
    look(filesystem)
    settle(filesystem)
    assert body(store, "there") == bytes(10_000)


def test_a_move_that_failed_is_carried_out_late(store: LateStore, filesystem: FileSystem) -> None:
    """The target was stored with a loss of its own before, so that what it was is known."""
    store_file(filesystem, b"source")
    store.lose("copy", "there", 1000)
    with pytest.raises(Exception, match="timed out"):
        filesystem.rename("/file", "/there")
    store.loses.clear()
    store_file(filesystem, b"target", "/there")
    store.land()
    assert body(store, "there") == b"source"
    look(filesystem)
    settle(filesystem)
    assert (body(store, "there"), body(store, "file")) == (b"target", b"source")


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
    assert told(caplog, logging.WARNING) == []


def test_another_client_s_deletion_is_left_alone(store: LateStore, filesystem: FileSystem) -> None:
    store.lose("put", "file")
    store_file(filesystem, b"old")
    store_file(filesystem, b"new")
    store.delete(FILE)
    look(filesystem)
    settle(filesystem)
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


def test_the_looks_are_few_and_end(store: LateStore, filesystem: FileSystem, tmp_path: Path) -> None:
    store.lose("put", "file")
    store_file(filesystem, b"old")
    store_file(filesystem, b"new")
    store.requests.clear()
    for seconds in (1, 30, *(seconds + 5 for seconds in LOOKS), 2000, 5000):
        look(filesystem, seconds)
        look(filesystem, seconds + 1)
    assert heads(store) == len(LOOKS)
    assert late(filesystem).counts().watched == 0
    wait_until(lambda: recorded(tmp_path) == 0)


def recorded(cache: Path) -> int:
    """Return how many names a copy of the journal records."""
    folder = cache / "copy"
    folder.mkdir(exist_ok=True)
    with closing(sqlite3.connect(copy_journal(cache / "journal.sqlite", folder))) as database:
        return int(database.execute("SELECT count(*) FROM ambiguous").fetchone()[0])


def test_the_next_mount_goes_on_looking(store: LateStore, tmp_path: Path) -> None:
    newer = os.urandom(100_000)
    with bench(store, tmp_path, NEVER) as filesystem:
        store.lose("put", "file")
        store_file(filesystem, b"old")
        store_file(filesystem, newer)
    store.land()
    with bench(store, tmp_path, NEVER) as filesystem:
        assert late(filesystem).counts().watched == 1
        look(filesystem)
        settle(filesystem)
    assert body(store, "file") == newer


def test_an_unmount_does_not_wait_for_the_looks(store: LateStore, tmp_path: Path) -> None:
    with bench(store, tmp_path, NEVER) as filesystem:
        store.lose("put", "file")
        store_file(filesystem, b"old")
        store_file(filesystem, b"new")
        begun = time.monotonic()
    assert time.monotonic() - begun < 5
    assert recorded(tmp_path) == 1


def test_the_newer_version_is_evicted_last(
    store: LateStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(late_copies, "MOST_BYTES", 0)
    newer = os.urandom(500_000)
    with bench(store, tmp_path, "settle=0.01") as filesystem:
        filesystem.services.file_cache.limit = 2 * MIB
        store.lose("put", "file")
        store_file(filesystem, b"old")
        store_file(filesystem, newer)
        for number in range(10):
            store_file(filesystem, os.urandom(400_000), f"/{number}")
            filesystem.services.file_cache.fit()
        assert filesystem.services.file_cache.disk_use()[0] <= 2 * MIB
        store.land()
        look(filesystem)
        settle(filesystem)
        assert body(store, "file") == newer


def test_bytes_that_are_gone_are_told(
    store: LateStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with bench(store, tmp_path, "settle=0.01") as filesystem:
        store.lose("put", "file")
        store_file(filesystem, b"old")
        store_file(filesystem, bytes(100_000))
        newer = store.head(FILE).version.etag
        filesystem.services.file_cache.fit(2**60)
        shutil.rmtree(tmp_path / "late")
        store.land()
        old = store.head(FILE).version.etag
        look(filesystem)
        settle(filesystem)
        assert body(store, "file") == b"old"
        (line,) = told(caplog, logging.ERROR)
        assert "box/file" in line
        assert old in line
        assert newer in line
        assert late(filesystem).counts().overwritten == 1


def test_what_a_server_does_not_answer_is_looked_at_again(store: LateStore, filesystem: FileSystem) -> None:
    def away(_method: str, _subject: str) -> None:
        raise Unavailable("no answer")

    store.lose("put", "file")
    store_file(filesystem, b"old")
    store_file(filesystem, b"new")
    store.land()
    store.hook = away
    look(filesystem)
    store.hook = None
    assert body(store, "file") == b"old"
    look(filesystem, LOOKS[0] + 60)
    settle(filesystem)
    assert body(store, "file") == b"new"


def test_a_journal_of_the_first_release_is_taken_over(store: LateStore, tmp_path: Path) -> None:
    with bench(store, tmp_path, NEVER):
        pass
    with closing(sqlite3.connect(tmp_path / "journal.sqlite")) as database:
        database.execute("DROP TABLE ambiguous")
        database.commit()
    with bench(store, tmp_path, NEVER) as filesystem:
        store.lose("put", "file")
        store_file(filesystem, b"old")
        store_file(filesystem, b"new")
    assert recorded(tmp_path) == 1


def test_what_a_process_sent_when_it_died_may_come_late(store: LateStore, tmp_path: Path) -> None:
    first, died = tmp_path / "first", tmp_path / "died"
    first.mkdir()
    with bench(store, first, NEVER) as filesystem:
        write(filesystem, "/file", b"old")
        copy_live(first, died)
    sent = store.head(FILE).version
    store.requests.clear()
    with bench(store, died, "settle=0.01") as filesystem:
        settle(filesystem)
        look(filesystem, 30)
        assert late(filesystem).counts().watched == 0
        store_file(filesystem, b"newer")
        store.put(FILE, b"old", Headers("text/plain"))
        assert store.head(FILE).version == sent
        look(filesystem)
        settle(filesystem)
    assert body(store, "file") == b"newer"


def test_bytes_survive_a_kill_before_the_last_close(store: LateStore, tmp_path: Path) -> None:
    newer = os.urandom(100_000)
    first, died = tmp_path / "first", tmp_path / "died"
    first.mkdir()
    with bench(store, first, "settle=0.01") as filesystem:
        store.lose("put", "file")
        store_file(filesystem, b"old")
        handle = filesystem.create("/file", 0o644, os.O_WRONLY | os.O_TRUNC, ME)
        put(filesystem, handle, 0, newer)
        filesystem.fsync(handle, data_only=False)
        copy_live(first, died)
        filesystem.release(handle)
    store.land()
    with bench(store, died, "settle=0.01") as filesystem:
        look(filesystem)
        settle(filesystem)
        assert body(store, "file") == newer
        look(filesystem, LOOKS[-1] + 5)
        late(filesystem).save()
        assert not (died / "late").exists()


def test_what_an_interrupted_rename_moved_is_not_stored_at_the_old_place_again(
    store: LateStore, tmp_path: Path
) -> None:
    """The next mount finishes the rename, before it looks for what was lost."""
    first, died = tmp_path / "first", tmp_path / "died"
    first.mkdir()

    def refuse(method: str, _subject: str) -> None:
        if method in ("delete", "delete_many"):
            if not died.exists():
                copy_live(first, died)
            raise AccessDenied("no")

    with suppress(SwiftfsError), bench(store, first, "settle=0.01") as filesystem:
        filesystem.mkdir("/old", 0o755, ME)
        store_file(filesystem, b"older", "/old/file")
        store.lose("delete", "old/file")
        remove(filesystem, "/old/file")
        store_file(filesystem, b"newer", "/old/file")
        assert late(filesystem).counts().watched == 1
        store.hook = refuse
        filesystem.rename("/old", "/new")
    assert died.exists()
    store.hook = None
    for _ in range(2):
        with bench(store, died, "settle=0.01") as filesystem:
            assert "old/file" not in keys(store)
            look(filesystem)
            settle(filesystem)
            assert "old/file" not in keys(store)
            assert read(filesystem, "/new/file") == b"newer"
