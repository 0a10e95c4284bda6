"""Objects that Swift does not serve hold up nobody who waits for another one."""

import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.deadlines import within
from support.harness import ANY_END, LEFT, ME, SHORT_RETRIES, harness, put, sync_all, write
from support.jobs import wait_until
from support.memory_store import MemoryStore
from swiftfs.errors import Unavailable
from swiftfs.journal.backlog import AWAITED
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.retry import remaining
from swiftfs.store.server_state import MOST

SEVERAL = 6
"""So many refusals would leave one upload at once."""


class Refusals:
    """Refuses to store what is called bad; what is called slow is refused after the test's `end`."""

    def __init__(self, store: MemoryStore) -> None:
        self._over = threading.Event()
        self.slow = 0
        self.refused = 0
        store.hook = self._hook

    def end(self) -> None:
        self._over.set()

    def _hook(self, method: str, subject: str) -> None:
        if method == "put" and "slow" in subject:
            self.slow += 1
            assert self._over.wait(within(60))
        if method == "put" and ("bad" in subject or "slow" in subject):
            self.refused += 1
            raise Unavailable(subject)


def fsync_new(filesystem: FileSystem, path: str) -> Unavailable | None:
    """Make a file and fsync it; return the error."""
    handle = filesystem.create(path, 0o644, os.O_WRONLY, ME)
    put(filesystem, handle, 0, b"x")
    try:
        filesystem.fsync(handle, False)
    except Unavailable as error:
        return error
    finally:
        filesystem.release(handle)
    return None


def refuse_some(filesystem: FileSystem, refusals: Refusals) -> None:
    for number in range(SEVERAL):
        write(filesystem, f"/bad-{number}", b"x")
        wait_until(lambda count=number: refusals.refused > count)  # type: ignore[misc]


@pytest.mark.parametrize("before", [refuse_some, lambda *_: None])
def test_an_fsync_does_not_wait_for_a_file_that_swift_refuses(
    tmp_path: Path, before: Callable[[FileSystem, Refusals], None]
) -> None:
    store = MemoryStore("box")
    refusals = Refusals(store)
    with (
        harness(store, tmp_path, "settle=0.01,drain=0", close_error=LEFT) as filesystem,
        ThreadPoolExecutor() as pool,
    ):
        before(filesystem, refusals)
        write(filesystem, "/slow", b"x")
        wait_until(lambda: refusals.slow == 1)
        try:
            assert pool.submit(fsync_new, filesystem, "/good").result(within(20)) is None
        finally:
            refusals.end()


def test_fsyncs_in_an_outage_do_not_wait_for_each_other(tmp_path: Path) -> None:
    store = MemoryStore("box")
    refusals = Refusals(store)
    with (
        harness(store, tmp_path, "settle=0.01,drain=0", close_error=LEFT) as filesystem,
        ThreadPoolExecutor(SEVERAL) as pool,
    ):
        refuse_some(filesystem, refusals)
        syncing = [pool.submit(fsync_new, filesystem, f"/slow-{number}") for number in range(SEVERAL)]
        try:
            wait_until(lambda: refusals.slow == SEVERAL)
        finally:
            refusals.end()
        assert all(one.result(within(60)) is not None for one in syncing)


def test_a_rename_does_not_wait_for_fsyncs_however_many(tmp_path: Path) -> None:
    store = MemoryStore("box")
    refusals = Refusals(store)
    with (
        harness(store, tmp_path, "settle=0.01,drain=0", close_error=LEFT) as filesystem,
        ThreadPoolExecutor(3 * AWAITED) as pool,
    ):
        write(filesystem, "/stored", b"x")
        sync_all(filesystem)
        refuse_some(filesystem, refusals)
        syncing = [pool.submit(fsync_new, filesystem, f"/slow-{number}") for number in range(2 * AWAITED + 5)]
        try:
            wait_until(lambda: refusals.slow == 2 * AWAITED)
            pool.submit(filesystem.rename, "/stored", "/renamed").result(within(20))
        finally:
            refusals.end()
        assert all(one.result(within(60)) is not None for one in syncing)


def test_the_requests_of_a_rename_in_an_outage_have_one_time_limit_together(tmp_path: Path) -> None:
    store = MemoryStore("box")
    left: dict[str, float] = {}

    def hook(method: str, subject: str) -> None:
        left.setdefault(method, remaining())
        raise Unavailable(subject)

    with harness(store, tmp_path) as filesystem:
        write(filesystem, "/old", b"x")
        store.hook = hook
        try:
            with pytest.raises(Unavailable):
                filesystem.rename("/old", "/new")
        finally:
            store.hook = None
    assert left["head"] <= SHORT_RETRIES.deadline / 5 < left["copy"]  # whether the COPY was made


def test_a_folder_is_not_renamed_if_one_of_its_files_cannot_be_stored_in_an_outage(tmp_path: Path) -> None:
    """It does not wait for the others: there may be many, and each takes its time."""
    store = MemoryStore("box")
    refusals = Refusals(store)
    with (
        harness(store, tmp_path, "settle=0.01,drain=0", close_error=LEFT) as filesystem,
        ThreadPoolExecutor() as pool,
    ):
        filesystem.mkdir("/folder", 0o755, ME)
        sync_all(filesystem)
        for name in ("bad", "slow"):
            write(filesystem, f"/folder/{name}", b"x")
        wait_until(lambda: refusals.refused > 0)  # now neither is renamed in the journal alone
        try:
            with pytest.raises(Unavailable):
                pool.submit(filesystem.rename, "/folder", "/other").result(within(20))
        finally:
            refusals.end()


def test_an_fsync_of_a_folder_fails_with_the_first_refused_file_and_holds_up_no_other(tmp_path: Path) -> None:
    """There may be many, and each takes as long as a call may."""
    store = MemoryStore("box")
    refusals = Refusals(store)
    with (
        harness(store, tmp_path, "settle=3600,drain=0", close_error=LEFT) as filesystem,
        ThreadPoolExecutor() as pool,
    ):
        for number in range(4 * MOST):
            write(filesystem, f"/slow-{number}", b"x")
        write(filesystem, "/bad", b"x")  # it is tried first
        syncing = pool.submit(sync_all, filesystem)
        try:
            wait_until(lambda: refusals.slow >= AWAITED - 1)
            with pytest.raises(Unavailable, match="bad"):
                syncing.result(within(20))
            assert pool.submit(fsync_new, filesystem, "/good").result(within(20)) is None
        finally:
            refusals.end()
        wait_until(
            lambda: not any(task.awaited_hand_in for task in filesystem.services.journal._queue.awake())
        )


def test_an_fsync_fails_although_the_refused_file_is_replaced_again_and_again(tmp_path: Path) -> None:
    store = MemoryStore("box")
    refused = itertools.count(1)

    def hook(method: str, subject: str) -> None:
        if method == "put" and "hot" in subject:
            write(filesystem, "/hot", str(next(refused)).encode())  # another file at its name
            raise Unavailable(subject)

    with (
        harness(store, tmp_path, "settle=0.01,drain=0", close_error=ANY_END) as filesystem,
        ThreadPoolExecutor() as pool,
    ):
        write(filesystem, "/other", b"x")
        store.hook = hook
        write(filesystem, "/hot", b"x")
        try:
            with pytest.raises(Unavailable, match="hot"):
                pool.submit(sync_all, filesystem).result(within(20))
        finally:
            store.hook = None


def test_an_fsync_is_next_when_all_workers_store_other_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if two programs wait for files that take long, and many are due."""
    monkeypatch.setattr("swiftfs.store.server_state.FIRST_FILES", MOST)
    store = MemoryStore("box")
    permits, begun = threading.Semaphore(0), itertools.count(1)
    slow = [0]

    def hook(method: str, subject: str) -> None:
        if method == "put" and "slow" in subject:
            slow[0] = next(begun)
            assert permits.acquire(timeout=within(60))

    with (
        harness(store, tmp_path, "settle=0.01") as filesystem,
        ThreadPoolExecutor() as pool,
    ):
        store.hook = hook
        for number in range(MOST + 20):
            write(filesystem, f"/slow-{number}", b"x")
        wait_until(lambda: slow[0] == MOST)
        try:
            syncing = [pool.submit(fsync_new, filesystem, f"/slow-fsync-{number}") for number in range(2)]
            queue = filesystem.services.journal._queue
            wait_until(lambda: sum(task.awaited_hand_in > 0 for task in queue.awake()) == len(syncing))
            good = pool.submit(fsync_new, filesystem, "/good")
            wait_until(lambda: sum(task.awaited_hand_in > 0 for task in queue.awake()) == len(syncing) + 1)
            permits.release(5)
            assert good.result(within(20)) is None
        finally:
            permits.release(1000)
        assert [one.result(within(60)) for one in syncing] == [None, None]
