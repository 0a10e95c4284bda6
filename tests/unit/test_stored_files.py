"""Uploads that Swift has answered end in one commit; until then they count as running."""

from pathlib import Path
from typing import Any

import pytest

from support.harness import ANY_END, change, copy_live, harness, write
from support.jobs import wait_until
from support.memory_store import MemoryStore
from support.stored_objects import body, keys
from swiftfs.journal import tasks
from swiftfs.objects import ObjectName
from swiftfs.posix.filesystem import FileSystem

FILES = 24

LATER = pytest.mark.mount_options("settle=0.01,drain=1")


@pytest.fixture
def not_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let stored files end only if something asks for it."""
    monkeypatch.setattr(tasks, "LONGEST_WAIT", 1000.0)


def store_files(filesystem: FileSystem, store: MemoryStore, files: int = 5) -> None:
    for number in range(files):
        write(filesystem, f"/file{number:02d}", str(number).encode())
    wait_until(lambda: len(keys(store)) == files)


def fsync(filesystem: FileSystem, path: str) -> None:
    handle = filesystem.open(path, 0)
    filesystem.fsync(handle, False)
    filesystem.release(handle)


def assert_stored(store: MemoryStore, files: int = 5) -> None:
    assert keys(store) == [f"file{number:02d}" for number in range(files)]
    assert [body(store, key) for key in keys(store)] == [str(number).encode() for number in range(files)]


def commits(filesystem: FileSystem) -> int:
    return filesystem.services.journal._db.last_commit()


@pytest.mark.mount_options("settle=1000")
def test_uploads_that_end_at_once_share_commits(filesystem: FileSystem, store: MemoryStore) -> None:
    for number in range(FILES):
        write(filesystem, f"/file{number:02d}", str(number).encode())
    before = commits(filesystem)
    filesystem.services.journal.flush_all()
    wait_until(lambda: not filesystem.waiting())
    assert_stored(store, FILES)
    assert commits(filesystem) - before < FILES


@LATER
@pytest.mark.usefixtures("not_ended")
@pytest.mark.parametrize("where", ["its outcome", "the queue"])
def test_an_unexpected_error_of_one_leaves_the_others_ended(
    filesystem: FileSystem, store: MemoryStore, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    store_files(filesystem, store)
    journal = filesystem.services.journal
    (broken,) = journal._queue.chain(ObjectName("box", "file02"))
    subject, name = (journal._outcomes, "_ending") if where == "its outcome" else (journal._queue, "remove")
    method = getattr(subject, name)

    def fail(one: Any) -> Any:
        if broken in (one, getattr(one, "task", None)):
            raise KeyError("unforeseen")
        return method(one)

    with monkeypatch.context() as patch:
        patch.setattr(subject, name, fail)
        fsync(filesystem, "/file03")
        wait_until(lambda: not broken.running)
    assert [(one.path, one.state) for one in filesystem.waiting()] == [("/file02", "parked")]
    filesystem.retry()
    fsync(filesystem, "/file02")
    assert not filesystem.waiting()
    assert_stored(store)


@LATER
@pytest.mark.usefixtures("not_ended")
def test_fsync_does_not_wait_for_others(filesystem: FileSystem, store: MemoryStore) -> None:
    store_files(filesystem, store)
    assert len(filesystem.waiting()) == 5
    fsync(filesystem, "/file03")
    assert not filesystem.waiting()


@LATER
@pytest.mark.usefixtures("not_ended")
def test_as_many_as_end_together_do_not_wait(
    filesystem: FileSystem, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "TOGETHER", 5)
    store_files(filesystem, store)
    wait_until(lambda: not filesystem.waiting())


@LATER
@pytest.mark.usefixtures("not_ended")
def test_a_file_may_change_before_it_ends(filesystem: FileSystem, store: MemoryStore) -> None:
    store_files(filesystem, store)
    change(filesystem, "/file01", 0, b"new")
    filesystem.rename("/file02", "/moved")
    filesystem.unlink("/file03")
    handle = filesystem.open("/file01", 0)
    filesystem.fsync(handle, False)
    filesystem.release(handle)
    wait_until(lambda: not filesystem.waiting())
    assert keys(store) == ["file00", "file01", "file04", "moved"]
    assert [body(store, key) for key in keys(store)] == [b"0", b"new", b"4", b"2"]


@pytest.mark.parametrize("has_ended", [False, True], ids=["before the commit", "after it"])
@pytest.mark.usefixtures("not_ended")
def test_a_kill_loses_nothing(
    has_ended: bool, store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, image = tmp_path / "cache", tmp_path / "image"
    cache.mkdir()
    with harness(store, cache, "settle=0.01,drain=1", close_error=ANY_END) as filesystem:
        store_files(filesystem, store)
        if has_ended:
            filesystem.fsyncdir(filesystem.opendir("/"))
        copy_live(cache, image)
    monkeypatch.undo()
    puts = list[str]()
    store.hook = lambda method, subject: puts.append(subject) if method == "put" else None
    with harness(store, image, "settle=0.01") as again:
        wait_until(lambda: not again.waiting())
    assert_stored(store)
    assert len(puts) == (0 if has_ended else 5)
