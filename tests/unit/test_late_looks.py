"""When swiftfs looks for late requests, which mount does, and from where it takes the bytes."""

import logging
import os
import shutil
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from support.deadlines import within
from support.harness import LEFT, ME, change, copy_live, harness, names, put, read, write
from support.jobs import wait_until
from support.late_store import (
    FILE,
    LATE,
    OPTIONS,
    LateStore,
    heads,
    late,
    logged,
    look,
    recorded,
    remove,
    repair,
    settle,
    store_file,
)
from support.stored_objects import NEVER, as_of_now, body, keys, refuse, segments
from swiftfs.errors import AccessDenied, Unavailable
from swiftfs.journal import journal, late_requests, late_versions
from swiftfs.journal.late_requests import LOOKS
from swiftfs.objects import ObjectVersion
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.ambiguous import GONE, Effect
from swiftfs.store.protocol import Headers

pytestmark = LATE

MIB = 1024 * 1024


class Gate(NamedTuple):
    """A request that waits until `open` is set; `reached` is set when it waits."""

    reached: threading.Event
    open: threading.Event


def test_the_looks_are_few_and_end(store: LateStore, filesystem: FileSystem, cache: Path) -> None:
    store.lose("put", "file")
    store_file(filesystem, b"old")
    store_file(filesystem, b"new")
    store.requests.clear()
    for seconds in (1, 30, *(seconds + 5 for seconds in LOOKS), 2000, 5000):
        look(filesystem, seconds)
        look(filesystem, seconds + 1)
    assert heads(store) == len(LOOKS)
    assert late(filesystem).counts().watched == 0
    wait_until(lambda: recorded(cache) == 0)


def test_of_a_name_that_is_watched_no_more_nothing_is_kept(store: LateStore, filesystem: FileSystem) -> None:
    store.lose("put", "file")
    store_file(filesystem, b"old")
    store_file(filesystem, b"new")
    watcher = late(filesystem)
    look(filesystem)
    assert set(watcher._looked) == {FILE}
    (found,) = watcher._ambiguous.all()
    watcher._ambiguous.forget(found)
    look(filesystem)
    assert not watcher._looked


def test_the_next_mount_goes_on_looking(store: LateStore, tmp_path: Path) -> None:
    newer = os.urandom(100_000)
    with harness(store, tmp_path, NEVER) as filesystem:
        store.lose("put", "file")
        store_file(filesystem, b"old")
        store_file(filesystem, newer)
    store.land()
    with harness(store, tmp_path, NEVER) as filesystem:
        assert late(filesystem).counts().watched == 1
        repair(filesystem)
    assert body(store, "file") == newer


def test_a_repair_does_not_wait_for_the_write_delay(store: LateStore, tmp_path: Path) -> None:
    """A large file cannot be read before: its bytes are to be read from the version that was replaced."""
    newer = os.urandom(100_000)
    with harness(store, tmp_path, NEVER) as filesystem:
        store.lose("put", "file")
        store_file(filesystem, b"old")
        store_file(filesystem, newer)
        store.land()
        look(filesystem)
        wait_until(lambda: body(store, "file") == newer)


def test_a_file_whose_deletion_is_held_is_not_stored_again(
    store: LateStore, filesystem: FileSystem, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a kill the next mount would do that after the deletion, whose record is the older one."""
    monkeypatch.setattr(journal, "HIDDEN_SECONDS", 1000.0)
    store.lose("put", "file")
    store_file(filesystem, b"old")
    store_file(filesystem, b"new")
    filesystem.release(filesystem.open("/file", os.O_RDONLY))  # which libfuse does not know yet
    filesystem.hide("/file", "/.fuse_hidden0000000100000001")
    store.land()
    look(filesystem)
    copy_live(cache, image := cache.with_name("image"))
    with harness(as_of_now(store), image, OPTIONS) as after:
        settle(after)
        assert names(after, "/") == []


def test_an_unmount_does_not_wait_for_the_looks(store: LateStore, tmp_path: Path) -> None:
    with harness(store, tmp_path, NEVER) as filesystem:
        store.lose("put", "file")
        store_file(filesystem, b"old")
        store_file(filesystem, b"new")
        begun = time.monotonic()
    assert time.monotonic() - begun < within(5)
    assert recorded(tmp_path) == 1


@pytest.fixture
def held_check(store: LateStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Hold each check of the thread that looks for late requests, which looks at once."""
    monkeypatch.setattr(late_requests, "LOOKS", (0.0, 1000.0, 2000.0))
    gate = Gate(threading.Event(), threading.Event())

    def hook(method: str, _subject: str) -> None:
        if method == "head" and threading.current_thread().name == "late answers":
            gate.reached.set()
            assert gate.open.wait(within(30))

    store.hook = hook
    yield gate
    gate.open.set()


def begin_check(store: LateStore, filesystem: FileSystem, gate: Gate) -> Any:
    """Return the thread that looks for late requests, while it waits for an answer."""
    store.lose("put", "file")
    store_file(filesystem, b"old")
    store_file(filesystem, b"new")
    watcher = late(filesystem)

    def is_checked() -> bool:
        watcher._looked.clear()  # it may have looked before the newer version was stored
        watcher._ambiguous.wake()
        return gate.reached.wait(0.01)

    wait_until(is_checked)
    return watcher._thread


def test_an_unmount_waits_for_a_running_check(
    store: LateStore, tmp_path: Path, held_check: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    with harness(store, tmp_path, NEVER) as filesystem:
        thread = begin_check(store, filesystem, held_check)
        join = thread.join

        def answer(seconds: float) -> None:
            held_check.open.set()
            join(seconds)

        monkeypatch.setattr(thread, "join", answer)
    assert not thread.is_alive()


def test_an_unmount_does_not_wait_long_for_a_running_check(
    store: LateStore,
    tmp_path: Path,
    held_check: Gate,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(late_requests, "END_SECONDS", 0.01)
    with harness(store, tmp_path, NEVER) as filesystem:
        thread = begin_check(store, filesystem, held_check)
    assert thread.is_alive()
    held_check.open.set()
    thread.join(within(30))
    assert not thread.is_alive()
    assert logged(caplog, logging.ERROR) == []
    assert recorded(tmp_path) == 1


def test_an_unexpected_error_does_not_end_the_looks(
    store: LateStore,
    filesystem: FileSystem,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(late_requests, "LOOKS", (0.0, 1000.0, 2000.0))
    gate = Gate(threading.Event(), threading.Event())

    def fail_once(method: str, _subject: str) -> None:
        if method == "head" and threading.current_thread().name == "late answers":
            store.hook = None
            store.land()
            gate.reached.set()
            raise ZeroDivisionError

    store.hook = fail_once
    begin_check(store, filesystem, gate)
    wait_until(lambda: late(filesystem).counts().put_right == 1)
    settle(filesystem)
    assert body(store, "file") == b"new"
    assert logged(caplog, logging.ERROR) == ["late requests: unexpected error"]


def test_the_newer_version_is_evicted_last(
    store: LateStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(late_versions, "MOST_BYTES", 0)
    newer = os.urandom(500_000)
    with harness(store, tmp_path, "settle=0.01") as filesystem:
        filesystem.services.file_cache.space.limit = 2 * MIB
        store.lose("put", "file")
        store_file(filesystem, b"old")
        store_file(filesystem, newer)
        for number in range(10):
            store_file(filesystem, os.urandom(400_000), f"/{number}")
            filesystem.services.file_cache.space.fit()
        assert filesystem.services.file_cache.space.use()[0] <= 2 * MIB
        store.land()
        repair(filesystem)
        assert body(store, "file") == newer


def is_evicted(filesystem: FileSystem, version: ObjectVersion) -> bool:
    """Evict all that can be; return whether this version was."""
    cache = filesystem.services.file_cache
    cache.space.fit(2**60)
    return version not in cache


@pytest.mark.parametrize("place", ["copy", "cache"])
def test_bytes_that_are_here_are_not_fetched(
    store: LateStore, filesystem: FileSystem, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    if place == "cache":
        monkeypatch.setattr(late_versions, "MOST_BYTES", 0)
    store.lose("put", "file")
    store_file(filesystem, b"old")
    store_file(filesystem, bytes(100_000))
    late(filesystem).save()
    if place == "copy":
        version = store.head(FILE).version
        wait_until(lambda: is_evicted(filesystem, version))
        store.requests.clear()
    late(filesystem).fetch()
    assert not {method for method, _ in store.requests} & {"head", "get"}


def test_bytes_that_are_gone_are_told(
    store: LateStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with harness(store, tmp_path, "settle=0.01") as filesystem:
        store.lose("put", "file")
        store_file(filesystem, b"old")
        store_file(filesystem, bytes(100_000))
        version = store.head(FILE).version
        wait_until(lambda: is_evicted(filesystem, version))  # its upload may still have it in use
        shutil.rmtree(tmp_path / "late")
        store.land()
        old = store.head(FILE).version.etag
        repair(filesystem)
        assert body(store, "file") == b"old"
        (line,) = logged(caplog, logging.ERROR)
        assert "box/file" in line
        assert old in line
        assert version.etag in line
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
    repair(filesystem, LOOKS[0] + 60)
    assert body(store, "file") == b"new"


def test_a_journal_of_the_first_release_is_taken_over(store: LateStore, tmp_path: Path) -> None:
    with harness(store, tmp_path, NEVER):
        pass
    with closing(sqlite3.connect(tmp_path / "journal.sqlite")) as database:
        database.execute("DROP TABLE ambiguous")
        database.commit()
    with harness(store, tmp_path, NEVER) as filesystem:
        store.lose("put", "file")
        store_file(filesystem, b"old")
        store_file(filesystem, b"new")
    assert recorded(tmp_path) == 1


def test_what_a_process_sent_when_it_died_may_come_late(store: LateStore, tmp_path: Path) -> None:
    first, died = tmp_path / "first", tmp_path / "died"
    first.mkdir()
    with harness(store, first, NEVER) as filesystem:
        write(filesystem, "/file", b"old")
        copy_live(first, died)
    sent = store.head(FILE).version
    store.requests.clear()
    with harness(store, died, "settle=0.01") as filesystem:
        settle(filesystem)
        look(filesystem, 30)
        assert late(filesystem).counts().watched == 0
        store_file(filesystem, b"newer")
        store.put(FILE, b"old", Headers("text/plain"))
        assert store.head(FILE).version == sent
        repair(filesystem)
    assert body(store, "file") == b"newer"


def test_bytes_survive_a_kill_before_the_last_close(store: LateStore, tmp_path: Path) -> None:
    newer = os.urandom(100_000)
    first, died = tmp_path / "first", tmp_path / "died"
    first.mkdir()
    with harness(store, first, "settle=0.01") as filesystem:
        store.lose("put", "file")
        store_file(filesystem, b"old")
        handle = filesystem.create("/file", 0o644, os.O_WRONLY | os.O_TRUNC, ME)
        put(filesystem, handle, 0, newer)
        filesystem.fsync(handle, data_only=False)
        copy_live(first, died)
        filesystem.release(handle)
    store.land()
    with harness(store, died, "settle=0.01") as filesystem:
        repair(filesystem)
        assert body(store, "file") == newer
        look(filesystem, LOOKS[-1] + 5)
        late(filesystem).save()
        assert not (died / "late").exists()


def test_what_an_interrupted_rename_moved_is_not_stored_at_the_old_place_again(
    store: LateStore, tmp_path: Path
) -> None:
    """The next mount finishes the rename before it looks for late requests."""
    first, died = tmp_path / "first", tmp_path / "died"
    first.mkdir()

    def refuse(method: str, _subject: str) -> None:
        if method in ("delete", "delete_many"):
            if not died.exists():
                copy_live(first, died)
            raise AccessDenied("no")

    with harness(store, first, "settle=0.01", close_error=LEFT) as filesystem:
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
        with harness(store, died, "settle=0.01") as filesystem:
            assert "old/file" not in keys(store)
            repair(filesystem)
            assert "old/file" not in keys(store)
            assert read(filesystem, "/new/file") == b"newer"


@pytest.mark.parametrize("described", [False, True])
def test_a_pending_change_whose_base_was_overwritten_is_stored(
    store: LateStore, tmp_path: Path, *, described: bool
) -> None:
    """Swift gets the base version again, which the change needs; new attributes may wait behind that."""
    (cache := tmp_path / "cache").mkdir()
    newer, options = os.urandom(3 * MIB), f"{NEVER},segment_size=1M"
    with harness(store, cache, options) as filesystem:
        store.lose("put_manifest", "file")
        store_file(filesystem, os.urandom(3 * MIB))
        store_file(filesystem, newer)
    with harness(store, cache, options, close_error=LEFT) as filesystem:
        change(filesystem, "/file", 10, b"changed")
        copy_live(cache, tmp_path / "image")
        refuse(store, "put_manifest", AccessDenied)
    store.hook = None
    store.land()
    assert body(store, "file") != newer

    def describe(method: str, _subject: str) -> None:
        if method in ("get", "manifest"):
            store.hook = None
            filesystem.chmod("/file", 0o600)

    with harness(store, tmp_path / "image", options) as filesystem:
        store.hook = describe if described else None
        filesystem.setxattr("/", "swift.flush", b"1", 0)
        states = ["parked", *(["waiting"] if described else [])]
        wait_until(lambda: [one.state for one in filesystem.waiting()] == states)
        assert filesystem.getattr("/file").size == len(newer)
        look(filesystem)
        wait_until(lambda: not filesystem.waiting())
        assert body(store, "file") == newer[:10] + b"changed" + newer[17:]
        assert read(filesystem, "/file") == body(store, "file")
        if described:
            assert stat.S_IMODE(filesystem.getattr("/file").mode) == 0o600
            assert ";mode=0100600" in store.head(FILE).content_type


def test_a_late_segment_is_deleted_as_soon_as_swift_answers(store: LateStore, filesystem: FileSystem) -> None:
    store.lose("put", "file/")
    store_file(filesystem, os.urandom(3 * MIB))
    remove(filesystem)
    store.land()
    (left,) = segments(store)
    refuse(store, "delete", Unavailable("not sent", may_land=False), left)
    look(filesystem, LOOKS[-1] + 5)
    assert segments(store) == {left}
    store.hook = None
    look(filesystem, LOOKS[-1] + 60)
    assert segments(store) == set()


@pytest.mark.parametrize("is_named", [True, False], ids=["of a file", "of none"])
def test_a_segment_that_is_gone_is_a_loss_if_a_file_names_it(
    store: LateStore, cache: Path, caplog: pytest.LogCaptureFixture, *, is_named: bool
) -> None:
    """Others were to be deleted: the deletion was answered, but the process died before it was recorded."""
    with harness(store, cache, f"{NEVER},segment_size=1M") as filesystem:
        store_file(filesystem, os.urandom(3 * MIB))
        segment = store.manifest(FILE).segments[0]
        watched = late(filesystem)._ambiguous
        watched.lost(segment.name, GONE)
        watched.done(segment.name, lambda: Effect("put", segment.etag))
        if is_named:
            filesystem.rename("/file", "/other")
            filesystem.setxattr("/", "swift.flush", b"1", 0)
            store.delete(segment.name)
        else:
            remove(filesystem)
        watched.done(segment.name, lambda: Effect("put", segment.etag))
        look(filesystem)
        assert late(filesystem).counts().watched == 0
    errors = [one for one in logged(caplog, logging.ERROR) if "its bytes are not in the cache" in one]
    assert len(errors) == is_named
