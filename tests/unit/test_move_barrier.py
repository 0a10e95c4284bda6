"""Changes below a folder while it moves: they wait, and are stored under the new name."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from support.deadlines import within
from support.halted_moves import Halt
from support.harness import ME, get, harness, names, put, read, write
from support.jobs import wait_until
from support.memory_store import MemoryStore
from support.stored_objects import body, foreign, keys
from swiftfs.errors import AccessDenied
from swiftfs.journal.moves import Unmoved
from swiftfs.objects import ObjectName
from swiftfs.posix.filesystem import FileSystem
from swiftfs.posix.open_files import RenameBarrier

SHORT = 0.05
"""Seconds after which a call that has not returned counts as waiting."""


@pytest.fixture(params=["sync", "settle=0.05"])
def filesystem(store: MemoryStore, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[FileSystem]:
    for key in ("d/x", "d/sub/y"):
        foreign(store, key, b"old")
    with harness(store, tmp_path, request.param) as built:
        yield built


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


def waits(future: Future[Any]) -> bool:
    """Return whether a call has not returned after a while."""
    done = threading.Event()
    future.add_done_callback(lambda _: done.set())
    return not done.wait(SHORT)


@pytest.mark.parametrize("stop", ["copy", "delete_many"])
def test_what_is_written_and_closed_meanwhile_is_stored_under_the_new_name(
    filesystem: FileSystem, store: MemoryStore, pool: ThreadPoolExecutor, stop: str
) -> None:
    handle = filesystem.open("/d/x", os.O_RDWR)
    late = filesystem.open("/d/sub/y", os.O_RDWR)
    halt = Halt(store, stop)
    renamed = pool.submit(filesystem.rename, "/d", "/e")
    assert halt.reached.wait(within(20))
    put(filesystem, handle, 0, b"new")
    put(filesystem, late, 0, b"late")
    assert get(filesystem, handle) == b"new"
    flushed: list[Future[Any]] = [
        pool.submit(filesystem.fsync, handle, False),
        pool.submit(filesystem.release, late),
    ]
    assert waits(flushed[0])
    assert waits(flushed[1])
    halt.go_on()
    for future in (renamed, *flushed):
        future.result(within(20))
    store.hook = None
    filesystem.release(handle)
    wait_until(lambda: not filesystem.waiting())
    assert read(filesystem, "/e/x") == b"new"
    assert read(filesystem, "/e/sub/y") == b"late"
    assert {key: body(store, key) for key in keys(store)} == {"e/x": b"new", "e/sub/y": b"late"}


def test_a_move_that_fails_lets_them_be_stored_under_the_old_name(
    filesystem: FileSystem, store: MemoryStore, pool: ThreadPoolExecutor
) -> None:
    handle = filesystem.open("/d/x", os.O_RDWR)
    halt = Halt(store, "copy", AccessDenied)
    renamed = pool.submit(filesystem.rename, "/d", "/e")
    assert halt.reached.wait(within(20))
    put(filesystem, handle, 0, b"new")
    flushed = pool.submit(filesystem.fsync, handle, False)
    assert waits(flushed)
    halt.go_on()
    with pytest.raises(Unmoved):
        renamed.result(within(20))
    flushed.result(within(20))
    store.hook = None
    filesystem.release(handle)
    assert {key: body(store, key) for key in keys(store)} == {"d/x": b"new", "d/sub/y": b"old"}


CHANGES: dict[str, Callable[[FileSystem, str], object]] = {
    "create": lambda filesystem, folder: write(filesystem, f"{folder}/new", b"x"),
    "mkdir": lambda filesystem, folder: filesystem.mkdir(f"{folder}/new", 0o755, ME),
    "symlink": lambda filesystem, folder: filesystem.symlink("x", f"{folder}/new", ME),
    "unlink": lambda filesystem, folder: filesystem.unlink(f"{folder}/x"),
    "chmod": lambda filesystem, folder: filesystem.chmod(f"{folder}/x", 0o600),
    "utimens": lambda filesystem, folder: filesystem.utimens(f"{folder}/x", None, 5),
    "truncate": lambda filesystem, folder: filesystem.truncate(f"{folder}/x", 1),
    "setxattr": lambda filesystem, folder: filesystem.setxattr(f"{folder}/x", "user.a", b"b", 0),
    "rename in": lambda filesystem, folder: filesystem.rename("/other", f"{folder}/new"),
    "rename out": lambda filesystem, folder: filesystem.rename(f"{folder}/x", "/new"),
    "rename within": lambda filesystem, folder: filesystem.rename(f"{folder}/x", f"{folder}/new"),
    "rename a folder": lambda filesystem, folder: filesystem.rename(f"{folder}/sub", "/new"),
}


@pytest.mark.matrix(6)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("folder", ["/d", "/d/sub"])
def test_a_change_by_a_path_that_moved_away_finds_nothing(
    store: MemoryStore, tmp_path: Path, pool: ThreadPoolExecutor, change: str, folder: str
) -> None:
    for key in ("d/x", "d/sub/x", "d/sub/sub/x", "other"):
        foreign(store, key, b"old")
    with harness(store, tmp_path) as filesystem:
        assert names(filesystem, folder) == ["sub", "x"]
        halt = Halt(store, "delete_many")
        renamed = pool.submit(filesystem.rename, "/d", "/e")
        assert halt.reached.wait(within(20))
        changed = pool.submit(CHANGES[change], filesystem, folder)
        assert waits(changed)
        halt.go_on()
        renamed.result(within(20))
        with pytest.raises(FileNotFoundError):
            changed.result(within(20))
        store.hook = None
    assert keys(store) == ["e/sub/sub/x", "e/sub/x", "e/x", "other"]


def test_a_reader_of_what_moves_goes_on(
    filesystem: FileSystem, store: MemoryStore, pool: ThreadPoolExecutor
) -> None:
    handle = filesystem.open("/d/x", os.O_RDONLY)
    halt = Halt(store, "delete_many")
    renamed = pool.submit(filesystem.rename, "/d", "/e")
    assert halt.reached.wait(within(20))
    assert pool.submit(get, filesystem, handle).result(within(20)) == b"old"
    halt.go_on()
    renamed.result(within(20))
    store.hook = None
    assert get(filesystem, handle) == b"old"
    filesystem.release(handle)


def test_a_reader_that_comes_when_the_old_name_is_gone_gets_the_bytes(
    filesystem: FileSystem, store: MemoryStore, pool: ThreadPoolExecutor
) -> None:
    """The reader requests the old name when it does not exist any more; the move ends after that."""
    handle = filesystem.open("/d/x", os.O_RDONLY)
    asked = threading.Event()
    reads: list[Future[bytes]] = []

    def note_get(method: str, _subject: str) -> None:
        if method == "get":
            asked.set()

    def hook(method: str, _subject: str) -> None:
        if method == "delete_many":
            store.hook = note_get
            for key in ("d/x", "d/sub/y"):
                store.delete(ObjectName("box", key))
            reads.append(pool.submit(get, filesystem, handle))
            assert asked.wait(within(20))

    store.hook = hook
    filesystem.rename("/d", "/e")
    assert reads[0].result(within(20)) == b"old"
    store.hook = None
    filesystem.release(handle)


def test_what_goes_on_elsewhere_does_not_wait(
    filesystem: FileSystem, store: MemoryStore, pool: ThreadPoolExecutor
) -> None:
    halt = Halt(store, "delete_many")
    renamed = pool.submit(filesystem.rename, "/d", "/e")
    assert halt.reached.wait(within(20))
    pool.submit(write, filesystem, "/dd", b"elsewhere").result(within(20))
    assert pool.submit(read, filesystem, "/dd").result(within(20)) == b"elsewhere"
    halt.go_on()
    renamed.result(within(20))


def test_a_rename_waits_for_a_change_that_has_begun(
    filesystem: FileSystem, store: MemoryStore, pool: ThreadPoolExecutor
) -> None:
    handle = filesystem.open("/d/x", os.O_RDWR)
    put(filesystem, handle, 0, b"new")
    halt = Halt(store, "put")
    flushed = pool.submit(filesystem.fsync, handle, False)
    assert halt.reached.wait(within(20))
    renamed = pool.submit(filesystem.rename, "/d", "/e")
    assert waits(renamed)
    halt.go_on()
    flushed.result(within(20))
    renamed.result(within(20))
    store.hook = None
    filesystem.release(handle)
    assert {key: body(store, key) for key in keys(store)} == {"e/x": b"new", "e/sub/y": b"old"}


def test_folders_that_overlap_move_one_after_the_other(pool: ThreadPoolExecutor) -> None:
    barrier = RenameBarrier()
    entered, go_on = threading.Event(), threading.Event()

    def move(old: str, new: str) -> None:
        with barrier.closed(old, new):
            entered.set()
            assert go_on.wait(within(20))

    first = pool.submit(move, "/a", "/b")
    assert entered.wait(within(20))
    overlapping = [pool.submit(move, *pair) for pair in (("/a/c", "/x"), ("/y", "/b/c"), ("/b", "/a"))]
    assert all(waits(future) for future in overlapping)
    go_on.set()
    for future in (first, *overlapping):
        future.result(within(20))
