"""A rename over a name that was just deleted: the deletion is needless, and must not run during the copy."""

import math
import os
import threading
from functools import partial
from pathlib import Path

import pytest

from support.deadlines import within
from support.harness import LEFT, ME, copy_live, harness, names, put, read, write
from support.jobs import wait_until
from support.memory_store import MemoryStore
from support.power_cut import Disk
from support.stored_objects import NEVER, body, foreign, keys, refuse
from swiftfs.errors import AccessDenied, NoSpace, QuotaExceeded, StoreError, SwiftfsError, Unavailable
from swiftfs.journal.operations import Delete
from swiftfs.journal.tasks import Task, Waiting
from swiftfs.objects import ObjectName
from swiftfs.posix.filesystem import FileSystem

pytestmark = pytest.mark.mount_options(NEVER)


class Gate:
    """Holds requests of one method about one subject until it is opened; with an `error` they fail then."""

    def __init__(
        self, store: MemoryStore, method: str, end: str = "", error: Exception | None = None
    ) -> None:
        self.reached, self.open = threading.Event(), threading.Event()
        self._wanted = (method, end)
        self._error = error
        store.hook = self

    def __call__(self, method: str, subject: str) -> None:
        if method == self._wanted[0] and subject.endswith(self._wanted[1]):
            self.reached.set()
            assert self.open.wait(within(20))
            if self._error is not None:
                raise self._error


def in_thread(step: object, *arguments: object) -> tuple[threading.Thread, list[BaseException]]:
    """Run a step in a thread; its exception is added to the list."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            step(*arguments)  # type: ignore[operator]
        except BaseException as error:  # noqa: BLE001
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, raised


def fall_due(filesystem: FileSystem) -> None:
    """Make everything due whose write delay runs."""
    journal = filesystem.services.journal
    with journal._changed:
        for task in journal._queue.awake():
            if isinstance(task.state, Waiting):
                journal._queue.schedule(task, 0.0)
        journal._changed.notify_all()


@pytest.mark.parametrize("step", ["copy", "delete"])
def test_a_deletion_that_falls_due_during_the_rename_is_not_sent(
    filesystem: FileSystem, store: MemoryStore, step: str
) -> None:
    foreign(store, "a", b"new")
    foreign(store, "b", b"old")
    filesystem.unlink("/b")
    journal = filesystem.services.journal
    with journal._changed:
        deletion = journal._queue.awake()[0]
    gate = Gate(store, step, "/a")
    thread, raised = in_thread(filesystem.rename, "/a", "/b")
    assert gate.reached.wait(within(20))
    with journal._changed:
        journal._queue.schedule(deletion, 0.0)
        assert journal._queue.next_due() == math.inf
        assert journal._queue.waiting_deletes(10) == []
        journal._changed.notify_all()
    write(filesystem, "/other", b"x")  # when this is stored, the scheduler has taken what was due
    handle = filesystem.open("/other", os.O_WRONLY)
    filesystem.fsync(handle, False)
    filesystem.release(handle)
    assert ("delete", "box/b") not in store.requests
    gate.open.set()
    thread.join(within(20))
    assert not raised
    assert names(filesystem, "/") == ["b", "other"]
    assert not filesystem.waiting()
    assert body(store, "b") == b"new"
    assert keys(store) == ["b", "other"]


@pytest.mark.parametrize("error", [NoSpace("full"), QuotaExceeded("full")])
def test_a_rename_does_not_wait_for_what_a_failed_upload_left_to_a_deletion(
    filesystem: FileSystem, store: MemoryStore, error: StoreError
) -> None:
    """The deletion waits for the marker of its folder, which is parked.

    If Swift has refused the upload there is nothing to delete, and the rename goes on.
    """
    foreign(store, "a", b"new")
    filesystem.mkdir("/d", 0o755, ME)
    refuse(store, "put", QuotaExceeded)
    with pytest.raises(QuotaExceeded):
        filesystem.services.journal.flush([ObjectName("box", "d")])
    gate = Gate(store, "put", "/d/b", error)
    write(filesystem, "/d/b", b"old")
    fall_due(filesystem)
    assert gate.reached.wait(within(20))
    filesystem.unlink("/d/b")
    thread, raised = in_thread(filesystem.rename, "/a", "/d/b")
    queue = filesystem.services.journal._queue
    wait_until(lambda: any(task.running and task.awaited_hand_in for task in queue.awake()))
    gate.open.set()
    thread.join(within(20))
    assert not thread.is_alive()
    is_refused = isinstance(error, QuotaExceeded)
    assert [type(one) for one in raised] == ([] if is_refused else [QuotaExceeded])
    assert body(store, "d/b" if is_refused else "a") == b"new"


def test_a_deletion_that_begins_while_the_rename_waits_ends_before_the_rename_is_recorded(
    filesystem: FileSystem, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next process finishes moves first: the deletion would take the moved object."""
    foreign(store, "b", b"old")
    putting, deleting = Gate(store, "put", "/a"), Gate(store, "delete", "/b")

    def hook(method: str, subject: str) -> None:
        putting(method, subject)
        deleting(method, subject)

    store.hook = hook
    write(filesystem, "/a", b"new")
    fall_due(filesystem)
    assert putting.reached.wait(within(20))
    filesystem.unlink("/b")
    writer, queue = filesystem.services.journal._writer, filesystem.services.journal._queue
    beside = list[Task]()
    begin_move = writer.begin_move

    def begin(task: Task, deletion: Task | None) -> None:
        beside.extend(queue.chain(ObjectName("box", "b")))
        deleting.open.set()
        begin_move(task, deletion)

    monkeypatch.setattr(writer, "begin_move", begin)
    thread, raised = in_thread(filesystem.rename, "/a", "/b")
    wait_until(lambda: any(task.running and task.awaited_hand_in for task in queue.awake()))
    fall_due(filesystem)
    assert deleting.reached.wait(within(20))
    putting.open.set()
    wait_until(lambda: beside or any(task.awaited_hand_in for task in queue.chain(ObjectName("box", "b"))))
    deleting.open.set()
    thread.join(within(20))
    assert not raised
    assert beside == []
    assert keys(store) == ["b"]
    assert body(store, "b") == b"new"


def test_a_deletion_that_a_failed_rename_has_put_back_survives_a_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, disk = MemoryStore("box"), Disk(tmp_path, monkeypatch)

    def refuse_copy(method: str, _subject: str) -> None:
        if method == "copy":
            disk.sync(filesystem)
            raise AccessDenied("no")

    for key in ("a", "b"):
        foreign(store, key, key.encode())
    with harness(store, disk.cache, NEVER) as filesystem:
        filesystem.unlink("/b")
        disk.sync(filesystem)
        store.hook = refuse_copy
        with pytest.raises(AccessDenied):
            filesystem.rename("/a", "/b")
        store.hook = None
        left = disk.cut(journal_is_newest=True)
    foreign(store, "b", b"b")  # this mount has deleted it at its end
    disk.restart()
    with harness(store, left, NEVER) as filesystem:
        assert names(filesystem, "/") == ["a"]
    assert keys(store) == ["a"]


def refused_rename(
    filesystem: FileSystem, store: MemoryStore
) -> tuple[Gate, threading.Thread, list[BaseException]]:
    """Begin to rename /a over /b, which was deleted; the COPY is refused when the gate opens."""
    foreign(store, "a", b"new")
    foreign(store, "b", b"old")
    filesystem.unlink("/b")
    gate = Gate(store, "copy", "/a", AccessDenied("no"))
    thread, raised = in_thread(filesystem.rename, "/a", "/b")
    assert gate.reached.wait(within(20))
    return gate, thread, raised


def test_a_deletion_that_a_failed_rename_puts_back_is_executed(
    filesystem: FileSystem, store: MemoryStore
) -> None:
    gate, thread, raised = refused_rename(filesystem, store)
    fall_due(filesystem)
    gate.open.set()
    thread.join(within(20))
    assert [type(error) for error in raised] == [AccessDenied]
    store.hook = None
    fall_due(filesystem)
    wait_until(lambda: keys(store) == ["a"])
    assert names(filesystem, "/") == ["a"]


def test_changes_made_during_a_failed_rename_come_after_the_deletion(
    filesystem: FileSystem, store: MemoryStore
) -> None:
    gate, thread, raised = refused_rename(filesystem, store)
    write(filesystem, "/b", b"newest")
    fall_due(filesystem)
    gate.open.set()
    thread.join(within(20))
    assert len(raised) == 1
    store.hook = None
    fall_due(filesystem)
    wait_until(lambda: not filesystem.waiting())
    assert body(store, "b") == b"newest"
    assert keys(store) == ["a", "b"]


@pytest.mark.parametrize("fails", [False, True])
def test_a_call_that_waits_for_the_deletion_returns(store: MemoryStore, tmp_path: Path, fails: bool) -> None:
    foreign(store, "d/a", b"new")
    foreign(store, "d/b", b"old")
    foreign(store, "d/c", b"kept")
    with harness(store, tmp_path, NEVER) as filesystem:
        filesystem.unlink("/d/b")
        gate = Gate(store, "copy", "/a", AccessDenied("no") if fails else None)
        rename, raised = in_thread(filesystem.rename, "/d/a", "/d/b")
        assert gate.reached.wait(within(20))
        folder = filesystem.opendir("/d")
        flush, wrong = in_thread(filesystem.fsyncdir, folder)
        gate.open.set()
        rename.join(within(20))
        flush.join(within(20))
        assert not rename.is_alive()
        assert not flush.is_alive()
        store.hook = None
        assert len(raised) == len(wrong) == fails
    assert keys(store) == (["d/a", "d/c"] if fails else ["d/b", "d/c"])


def test_a_refused_rename_is_not_executed_later(store: MemoryStore, tmp_path: Path) -> None:
    """It waits for the folder's marker, which is refused for good, and so is the rename."""
    foreign(store, "d/a", b"data")
    with harness(store, tmp_path, NEVER) as filesystem:
        assert names(filesystem, "/d") == ["a"]

        refuse(store, "put", QuotaExceeded)
        with pytest.raises(QuotaExceeded):
            filesystem.rename("/d/a", "/a")
        store.hook = None
        assert read(filesystem, "/d/a") == b"data"
        filesystem.retry()
        wait_until(lambda: not filesystem.waiting())
        assert read(filesystem, "/d/a") == b"data"
    assert "a" not in keys(store)
    assert "d/a" in keys(store)


def test_a_deletion_put_back_by_a_refused_rename_still_waits_for_its_folder(
    store: MemoryStore, tmp_path: Path
) -> None:
    """The folder's marker is refused: the last file is deleted only after it, so that the folder stays."""
    foreign(store, "d/a", b"data")
    foreign(store, "e/b", b"old")
    with harness(store, tmp_path, NEVER) as filesystem:
        assert names(filesystem, "/d") + names(filesystem, "/e") == ["a", "b"]
        refuse(store, "put", QuotaExceeded)
        filesystem.unlink("/e/b")
        with pytest.raises(QuotaExceeded):
            filesystem.rename("/d/a", "/e/b")
        fall_due(filesystem)
        wait_until(
            lambda: {one.path for one in filesystem.waiting() if one.state == "parked"} == {"/d", "/e"}
        )
        assert names(filesystem, "/e") == []
        store.hook = None
        store.requests.clear()
        filesystem.retry()
        wait_until(lambda: not filesystem.waiting())
        assert names(filesystem, "/e") == []
    changes = [subject for method, subject in store.requests if method in ("put", "delete")]
    assert changes.index("box/e") < changes.index("box/e/b")
    assert keys(store) == ["d", "d/a", "e"]


def test_a_call_that_waits_for_a_deletion_returns_when_it_is_dropped(
    store: MemoryStore, tmp_path: Path
) -> None:
    """A new file is unlinked while a call waits until it is stored."""
    with harness(store, tmp_path, NEVER) as filesystem:
        gate = Gate(store, "put", "/first")
        write(filesystem, "/first", b"1")
        journal = filesystem.services.journal
        name = ObjectName("box", "second")
        blocked, _ = in_thread(journal.flush, [ObjectName("box", "first")])
        assert gate.reached.wait(within(20))
        write(filesystem, "/second", b"2")
        with journal._changed:
            journal._queue.is_away = True  # one request at a time
            task = journal._queue.tail(name)
        waiter, wrong = in_thread(journal.flush, [name])
        wait_until(lambda: task is not None and bool(task.awaited_hand_in))
        filesystem.unlink("/second")
        waiter.join(within(10))
        assert not waiter.is_alive()
        assert not wrong
        gate.open.set()
        blocked.join(within(20))
    assert keys(store) == ["first"]


def test_an_unexpected_error_parks_one_deletion_only(store: MemoryStore, tmp_path: Path) -> None:
    for number in range(3):
        foreign(store, f"file{number}", b"x")
    with harness(store, tmp_path, NEVER) as filesystem:
        for number in range(3):
            filesystem.unlink(f"/file{number}")

        def broken(_outcome: object) -> None:
            raise KeyError("unforeseen")

        journal = filesystem.services.journal
        with journal._changed:
            tasks = journal._queue.awake()
            tasks[0].done = broken
        filesystem.fsyncdir(filesystem.opendir("/"))
        assert not filesystem.waiting()
        assert not any(task.running for task in tasks)
    assert keys(store) == []


def test_an_unexpected_error_loses_no_deletion(store: MemoryStore, tmp_path: Path) -> None:
    for number in range(3):
        foreign(store, f"file{number}", b"x")
    with harness(store, tmp_path, NEVER) as filesystem:
        for number in range(3):
            filesystem.unlink(f"/file{number}")
        refuse(store, "delete_many", ZeroDivisionError)
        with pytest.raises(SwiftfsError, match="unexpected error"):
            filesystem.fsyncdir(filesystem.opendir("/"))
        assert [one.state for one in filesystem.waiting()] == ["parked"] * 3
        assert names(filesystem, "/") == []
        store.hook = None
        filesystem.retry()
        wait_until(lambda: not filesystem.waiting())
    assert keys(store) == []


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_an_error_of_the_queue_leaves_no_task_running(
    store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, victim: int
) -> None:
    """One task of a batch cannot be removed from the queue: only that task waits, and the mount can end."""
    for number in range(3):
        foreign(store, f"file{number}", b"x")
    with harness(store, tmp_path, NEVER) as filesystem:
        for number in range(3):
            filesystem.unlink(f"/file{number}")
        journal = filesystem.services.journal
        queue, remove = journal._queue, journal._queue.remove
        broken = queue.awake()[victim]

        def refuse(task: Task) -> None:
            if task is broken:
                raise KeyError(task.seq)
            remove(task)

        with monkeypatch.context() as patch:
            patch.setattr(queue, "remove", refuse)
            with pytest.raises(SwiftfsError, match="unexpected error"):
                journal.flush(
                    [task.operation.name for task in queue.awake() if isinstance(task.operation, Delete)]
                )
            wait_until(lambda: [one.state for one in filesystem.waiting()] == ["parked"])
            assert not broken.running
        filesystem.retry()
        wait_until(lambda: not filesystem.waiting())
    assert keys(store) == []


def test_an_unexpected_error_of_an_upload_ends_that_attempt_only(
    store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with harness(store, tmp_path, NEVER) as filesystem:
        handle = filesystem.create("/file", 0o644, os.O_WRONLY, ME)
        put(filesystem, handle, 0, b"data")
        journal = filesystem.services.journal
        with monkeypatch.context() as patch:

            def fail(*_: object, **_how: object) -> None:
                raise RuntimeError("the log")

            patch.setattr(journal._db, "finish", fail)
            with pytest.raises(SwiftfsError, match="unexpected error"):
                filesystem.fsync(handle, False)
        assert [one.state for one in filesystem.waiting()] == ["parked"]
        filesystem.retry()
        filesystem.fsync(handle, False)
        filesystem.release(handle)
    assert body(store, "file") == b"data"


@pytest.mark.matrix(2)
@pytest.mark.parametrize("large", [True, False])
@pytest.mark.parametrize("equal", [True, False])
def test_the_rename_is_finished_when_the_process_died_in_it(tmp_path: Path, large: bool, equal: bool) -> None:
    """The file that it replaces still exists: its deletion was needless. It may have the same bytes."""
    store, size = MemoryStore("box"), 3_000_000 if large else 3
    (cache := tmp_path / "cache").mkdir()
    options = f"{NEVER},segment_size=1M,drain=1"
    with harness(store, cache, options) as filesystem:
        write(filesystem, "/a", b"a" * size)
        write(filesystem, "/b", b"b" * size)

    def die(_method: str, _subject: str) -> None:
        raise Unavailable("the server is away")

    with harness(store, cache, f"{options},drain=0", close_error=LEFT) as filesystem:
        filesystem.unlink("/b")
        gate = Gate(store, "copy", error=Unavailable("the server is away"))
        renaming, raised = in_thread(filesystem.rename, "/a", "/b")
        assert gate.reached.wait(within(20))
        copy_live(cache, tmp_path / "image")
        store.hook = die
        gate.open.set()
        renaming.join()
        assert raised
    store.hook = None
    with harness(store, tmp_path / "image", options) as filesystem:
        assert names(filesystem, "/") == ["b"]
        assert read(filesystem, "/b") == b"a" * size
        assert filesystem.getattr("/b").mode & 0o777 == 0o644
    assert keys(store) == ["b"]


def test_the_file_stays_deleted_when_the_next_mount_gives_up_the_rename(tmp_path: Path) -> None:
    store, image = MemoryStore("box"), tmp_path / "image"
    (cache := tmp_path / "cache").mkdir()
    with harness(store, cache, "settle=1000") as filesystem:
        for path in ("/a", "/b"):
            write(filesystem, path, path.encode())
    with harness(store, cache, "settle=1000,drain=0", close_error="it is /b") as filesystem:
        filesystem.unlink("/b")
        store.hook = partial(_copy_and_refuse, cache, image)
        with pytest.raises(AccessDenied):
            filesystem.rename("/a", "/b")
    assert image.exists()
    refuse(store, "copy", QuotaExceeded)
    shown: list[str] = []
    with harness(store, image, "settle=1000", close_error="given up") as filesystem:
        shown = names(filesystem, "/")
    assert shown == keys(store) == ["a"]


def _copy_and_refuse(cache: Path, image: Path, method: str, _subject: object) -> None:
    """Copy the cache folder at the first COPY, as a kill would leave it, and answer nothing more."""
    if method == "copy" and not image.exists():
        copy_live(cache, image)
    if image.exists():
        raise AccessDenied("no")
