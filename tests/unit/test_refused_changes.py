"""Final refusals: the change is given up, and no command reports success for it."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from support.forgetful_store import ForgetfulStore
from support.harness import ME, harness, names, read, write
from support.jobs import wait_until
from support.memory_store import MemoryStore
from support.refused_changes import flush, report
from support.stored_objects import NEVER, body, foreign, keys, refuse
from swiftfs.errors import (
    AccessDenied,
    AlreadyExists,
    BadRequest,
    Conflict,
    StoreError,
    Unavailable,
    errno_of,
)
from swiftfs.journal import report as reports
from swiftfs.journal.operations import Delete
from swiftfs.journal.queue_report import MOST_BYTES, QueuedChange, QueueReport
from swiftfs.journal.tasks import Task, Waiting, nobody_waits
from swiftfs.objects import ObjectName
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.protocol import Headers

MIB = 1024 * 1024


def unlink(filesystem: FileSystem) -> None:
    filesystem.unlink("/file")


def chmod(filesystem: FileSystem) -> None:
    filesystem.chmod("/file", 0o600)


def rmdir(filesystem: FileSystem) -> None:
    filesystem.rmdir("/folder")


def chmod_folder(filesystem: FileSystem) -> None:
    filesystem.chmod("/folder", 0o700)


def given_up(count: int) -> list[Task]:
    """Return deletions that Swift has refused."""
    deletions = [Delete(ObjectName("box", f"file{number}"), is_slo=False) for number in range(count)]
    return [
        Task(number, "/file", one, nobody_waits, 0.0, Waiting(0.0)) for number, one in enumerate(deletions)
    ]


def test_refusals_beyond_those_with_reasons_are_forgotten_when_they_were_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The next flush said nothing of those that came after the report of the one before."""
    monkeypatch.setattr(reports, "MOST_KEPT", 2)
    kept = reports.Refusals()
    tasks = given_up(4)
    for task in tasks:
        kept.add(task, AccessDenied("no"))
    assert len(kept) == 4
    kept.show()
    for task in given_up(3):
        kept.add(task, AccessDenied("no"))
    kept.forget_shown()
    assert len(kept) == 3
    kept.show()
    kept.forget_shown()
    assert len(kept) == 0


CHANGES = [(unlink, "/file"), (chmod, "/file"), (rmdir, "/folder"), (chmod_folder, "/folder")]


def prepared(store: MemoryStore) -> None:
    foreign(store, "file", b"data")
    foreign(store, "other", b"data")
    with_marker(store)


def with_marker(store: MemoryStore) -> None:
    store.put(ObjectName("box", "folder"), b"", Headers("application/directory"))


@pytest.mark.matrix(3)
@pytest.mark.parametrize(("change", "path"), CHANGES)
@pytest.mark.parametrize("error", [AccessDenied, BadRequest, Conflict])
def test_unmounting_reports_refused_changes(
    store: MemoryStore,
    tmp_path: Path,
    change: Callable[[FileSystem], None],
    path: str,
    error: type[StoreError],
    caplog: pytest.LogCaptureFixture,
) -> None:
    prepared(store)
    said = f"^1 change was refused and given up; it is {path}: no$"
    with harness(store, tmp_path, NEVER, close_error=said) as filesystem:
        change(filesystem)
        refuse(store, "delete post", error)
    store.hook = None
    assert keys(store) == ["file", "folder", "other"]
    assert [one.message for one in caplog.records if one.levelname == "WARNING"] == [
        f"{path}: could not be {'changed' if 'chmod' in change.__name__ else 'deleted'}: no"
    ]


@pytest.mark.matrix(2)
@pytest.mark.parametrize(("change", "path"), CHANGES)
def test_a_flush_reports_earlier_refusals(
    store: MemoryStore, tmp_path: Path, change: Callable[[FileSystem], None], path: str
) -> None:
    prepared(store)
    refuse(store, "delete post", AccessDenied)
    with harness(store, tmp_path, "settle=0.05") as filesystem:
        change(filesystem)
        wait_until(lambda: report(filesystem).refused)
        assert (report(filesystem).refused, report(filesystem).total) == (
            1,
            0,
        )  # reading the report changes nothing
        found = flush(filesystem)
        assert [(one.path, one.state, one.reason) for one in found.refusals] == [(path, "refused", "no")]
        assert report(filesystem).refused == 1  # the waiting command may read it again
        assert flush(filesystem).refused == 0  # it is reported once


def test_an_slo_whose_manifest_cannot_be_read_is_not_deleted(store: MemoryStore, tmp_path: Path) -> None:
    with harness(store, tmp_path, "segment_size=1M") as filesystem:
        write(filesystem, "/file", bytes(3 * MIB))
    said = "1 change was refused and given up; it is /file: no"
    with harness(store, tmp_path, NEVER, close_error=said) as filesystem:
        filesystem.unlink("/file")
        refuse(store, "manifest", AccessDenied)
    store.hook = None
    assert store.head(ObjectName("box", "file")).size == 3 * MIB


def test_only_the_call_that_waits_reports_a_refusal(store: MemoryStore, tmp_path: Path) -> None:
    prepared(store)
    refuse(store, "delete", AccessDenied)
    with harness(store, tmp_path, NEVER) as filesystem:
        filesystem.unlink("/file")
        folder = filesystem.opendir("/")
        with pytest.raises(AccessDenied):
            filesystem.fsyncdir(folder)
        assert report(filesystem).refused == 0
        filesystem.fsyncdir(folder)
        filesystem.releasedir(folder)


def test_fsync_of_the_folder_reports_earlier_refusals(store: MemoryStore, tmp_path: Path) -> None:
    prepared(store)
    foreign(store, "folder/in", b"data")
    refuse(store, "delete delete_many", AccessDenied)
    with harness(store, tmp_path, "settle=0.05") as filesystem:
        filesystem.unlink("/folder/in")
        wait_until(lambda: report(filesystem).refused)
        folder = filesystem.opendir("/folder")
        with pytest.raises(AccessDenied):
            filesystem.fsyncdir(folder)
        filesystem.fsyncdir(folder)
        filesystem.releasedir(folder)
        assert names(filesystem, "/folder") == ["in"]


def test_fsync_of_the_file_reports_that_its_attributes_were_refused(
    store: MemoryStore, tmp_path: Path
) -> None:
    prepared(store)
    refuse(store, "post", AccessDenied)
    with harness(store, tmp_path, "settle=0.05") as filesystem:
        filesystem.chmod("/file", 0o600)
        wait_until(lambda: report(filesystem).refused)
        assert read(filesystem, "/file") == b"data"  # the close of a reader reports nothing
        handle = filesystem.open("/file", os.O_RDONLY)
        with pytest.raises(AccessDenied) as caught:
            filesystem.fsync(handle, data_only=False)
        assert errno_of(caught.value) == 13
        filesystem.fsync(handle, data_only=False)
        filesystem.release(handle)


def test_with_sync_the_call_reports_the_refusal(store: MemoryStore, tmp_path: Path) -> None:
    prepared(store)
    refuse(store, "delete post", AccessDenied)
    with harness(store, tmp_path) as filesystem:
        for change, _ in CHANGES:
            with pytest.raises(AccessDenied):
                change(filesystem)
        assert report(filesystem).refused == 0


@pytest.mark.parametrize("size", [5, 3 * MIB])
def test_a_refused_file_keeps_no_descriptor(store: MemoryStore, tmp_path: Path, size: int) -> None:
    """A thousand refused files must not use up the descriptors of the process."""
    refuse(store, "put put_segment", AccessDenied)
    with harness(store, tmp_path, "settle=0.01,segment_size=1M") as filesystem:
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  the names are wanted
        for number in range(8):
            with suppress(AccessDenied):
                write(filesystem, f"/{number}", b"x" * size)
        wait_until(lambda: report(filesystem).parked == 8)
        own = 8 if size > MIB else 0  # a file with segments stays open
        # An attempt that has ended may still be closing its own.
        wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before + own)  # noqa: PTH208
        store.hook = None
        filesystem.retry()
        wait_until(lambda: not report(filesystem).total)
    assert {body(store, str(number)) for number in range(8)} == {b"x" * size}


def test_a_folder_whose_answer_was_lost_is_no_refusal(store: MemoryStore, tmp_path: Path) -> None:
    with harness(store, tmp_path, NEVER) as filesystem:
        filesystem.mkdir("/folder", 0o755, ME)
        refuse(store, "put", Unavailable)
        flush(filesystem)
        store.hook = None
        with_marker(store)  # the server has executed the request nevertheless
        handle = filesystem.opendir("/folder")
        filesystem.fsyncdir(handle)
        filesystem.releasedir(handle)
        assert report(filesystem).total == 0
        assert names(filesystem, "/") == ["folder"]


def test_a_folder_whose_answer_was_lost_is_listed(tmp_path: Path) -> None:
    """A server that died between the object and its row lists it with the next change of the object."""
    store = ForgetfulStore("box")
    with harness(store, tmp_path, NEVER) as filesystem:
        filesystem.mkdir("/folder", 0o755, ME)
        store.forget = True
        flush(filesystem)
        store.forget = False
        filesystem.retry()
        wait_until(lambda: not report(filesystem).total)
        filesystem.refresh()
        assert names(filesystem, "/") == ["folder"]
    with harness(store, tmp_path) as filesystem:
        assert names(filesystem, "/") == ["folder"]


@pytest.mark.parametrize("data", [b"", b"theirs"])
def test_a_folder_is_not_made_where_another_client_made_a_file_after_a_lost_answer(
    store: MemoryStore, tmp_path: Path, data: bytes
) -> None:
    with harness(store, tmp_path, NEVER) as filesystem:
        filesystem.mkdir("/folder", 0o755, ME)
        refuse(store, "put", Unavailable)
        flush(filesystem)
        store.hook = None
        foreign(store, "folder", data)
        write(filesystem, "/file", b"ours")
        handle = filesystem.open("/file", os.O_RDWR)
        filesystem.fsync(handle, data_only=False)
        filesystem.release(handle)
        filesystem.retry()
        wait_until(lambda: not filesystem.waiting())
        filesystem.refresh()
        assert read(filesystem, "/folder") == data
        handle = filesystem.opendir("/")
        filesystem.fsyncdir(handle)
        filesystem.releasedir(handle)
    assert body(store, "folder") == data


@pytest.mark.parametrize("media_type", ["text/plain", "application/directory"])
def test_a_lost_attempt_to_make_a_folder_counts_only_where_a_folder_is(
    store: MemoryStore, tmp_path: Path, media_type: str
) -> None:
    with harness(store, tmp_path) as filesystem:

        def hook(method: str, subject: str) -> None:
            if method == "put" and subject == "box/folder":
                store.hook = None
                store.put(ObjectName("box", "folder"), b"", Headers(media_type))
                raise Unavailable("no answer")

        store.hook = hook
        if media_type == "text/plain":
            with pytest.raises(AlreadyExists):
                filesystem.mkdir("/folder", 0o755, ME)
            filesystem.refresh()
            assert read(filesystem, "/folder") == b""
        else:
            filesystem.mkdir("/folder", 0o755, ME)
            assert names(filesystem, "/folder") == []


def test_a_change_that_succeeds_later_is_no_refusal(store: MemoryStore, tmp_path: Path) -> None:
    prepared(store)
    refuse(store, "delete", AccessDenied)
    with harness(store, tmp_path, "settle=0.05") as filesystem:
        filesystem.unlink("/file")
        wait_until(lambda: report(filesystem).refused)
        store.hook = None
        filesystem.unlink("/file")
        wait_until(lambda: not report(filesystem).total)
        assert report(filesystem).refused == 0
    assert keys(store) == ["folder", "other"]


def test_a_folder_that_exists_already_is_no_refusal(store: MemoryStore, tmp_path: Path) -> None:
    with harness(store, tmp_path, NEVER) as filesystem:
        filesystem.mkdir("/folder", 0o755, ME)
        with_marker(store)
    assert keys(store) == ["folder"]


def test_a_report_of_many_refusals_fits_into_an_extended_attribute() -> None:
    change = QueuedChange("/" + "한" * 300, "Delete", "refused", 0, 1, "\0" * 300, 0)
    found = QueueReport(0, 0, 5000, 10**15, False, 0, 0, (change,) * 500, 4500, 0.0, 700, (change,) * 500)
    text = found.to_json()
    assert len(text.encode()) <= MOST_BYTES
    back = QueueReport.from_json(text)
    assert back.refused == 700
    assert min(len(back.refusals), len(back.changes)) > 5
