"""Programs that read a folder's small files one after the other."""

import os
import random
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

import swiftfs.posix
from support.call_work import work_of
from support.deadlines import within
from support.harness import harness, names, read, write
from support.jobs import wait_until
from support.memory_store import MemoryStore
from swiftfs.errors import NotFound
from swiftfs.filecache.read_ahead import FIRST_PIECE
from swiftfs.objects import Limits, ObjectName
from swiftfs.posix.filesystem import FileSystem
from swiftfs.posix.prefetch import BYTES_AHEAD, OPENED
from swiftfs.store.protocol import Headers

ATTRIBUTES = f"text/plain;mtime=1700000000.000000001;mode=0100644;uid={os.getuid()};gid={os.getgid()}"
"""The Content-Type of our own files, which need no HEAD."""


NAMES = [f"/file{number:03d}" for number in range(200)]


class PrefetchRig:
    """A file system over a store with 200 files; `gets` are the objects that were fetched."""

    def __init__(self, store: MemoryStore, filesystem: FileSystem) -> None:
        self.store = store
        self.filesystem = filesystem
        store.requests.clear()

    @property
    def gets(self) -> list[str]:
        return sorted(subject for method, subject in self.store.requests if method == "get")

    def fetched(self, *names: str) -> bool:
        return set(objects(names)) <= set(self.gets)

    def read(self, *names: str) -> None:
        for name in names:
            assert read(self.filesystem, name) == body(name)


def body(name: str) -> bytes:
    return name.encode() * 9


def objects(names: Iterable[str]) -> list[str]:
    return [f"box{name}" for name in names]


@contextmanager
def stocked(cache: Path, options: str = "", limits: Limits | None = None) -> Iterator[PrefetchRig]:
    store = MemoryStore("box", limits=limits)
    for name in NAMES:
        store.put(ObjectName("box", name[1:]), body(name), Headers(ATTRIBUTES))
    with harness(store, cache, options) as filesystem:
        yield PrefetchRig(store, filesystem)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[PrefetchRig]:
    with stocked(tmp_path) as rig:
        yield rig


def test_random_reads_cause_no_prefetch(tmp_path: Path) -> None:
    chosen = random.Random(7).sample(NAMES, 50)
    with stocked(tmp_path) as rig:
        rig.read(*chosen)
    assert rig.gets == objects(sorted(chosen))


def test_a_reader_that_stops_causes_few_needless_downloads(tmp_path: Path) -> None:
    with stocked(tmp_path) as rig:
        rig.read(*NAMES[10:14])
        wait_until(lambda: rig.fetched(*NAMES[10:22]))
    assert rig.gets == objects(NAMES[10:22])


def test_a_reader_waits_for_a_download_that_has_begun(rig: PrefetchRig) -> None:
    """The file is not fetched twice."""
    held, go_on = threading.Event(), threading.Event()

    def hook(method: str, subject: str) -> None:
        if (method, subject) == ("get", f"box{NAMES[3]}"):
            held.set()
            assert go_on.wait(within(60))

    rig.store.hook = hook
    rig.read(*NAMES[:3])
    assert held.wait(within(60))
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(read, rig.filesystem, NAMES[3])
        wait_until(lambda: rig.fetched(*NAMES[4:9]))
        assert not answer.done()
        go_on.set()
        assert answer.result() == body(NAMES[3])
    assert sorted(set(rig.gets)) == rig.gets


def test_a_file_that_is_being_opened_is_not_fetched_again(rig: PrefetchRig) -> None:
    """A second reader comes to it when it is taken from the prefetch, and not an open file yet."""
    ahead, services = NAMES[13:19], rig.filesystem.services
    rig.read(*NAMES[10:13])
    wait_until(lambda: rig.fetched(*ahead))
    version = services.namespace.lookup(ahead[0]).version
    taken = rig.filesystem._files._prefetch.acquire(version)
    assert taken is not None
    rig.read(*NAMES[:7])
    wait_until(lambda: rig.fetched(*NAMES[:21]))
    services.file_cache.release(taken)
    assert rig.gets == objects(NAMES[:21])


def test_a_file_that_is_being_closed_is_not_fetched_again(rig: PrefetchRig) -> None:
    """A second reader comes to it when it is no open file any more, and not in the cache yet."""
    ahead, services = NAMES[13:19], rig.filesystem.services
    rig.read(*NAMES[10:13])
    wait_until(lambda: rig.fetched(*ahead))
    handle = rig.filesystem.open(ahead[0], os.O_RDONLY)
    others = NAMES[30 : 30 + 2 * OPENED : 2]
    rig.read(*random.Random(7).sample(others, len(others)))
    closed = services.open_files.release(handle)
    assert closed is not None
    rig.read(*NAMES[:7])
    wait_until(lambda: rig.fetched(*NAMES[:13], *ahead[1:], *NAMES[19:21]))
    services.file_cache.release(closed.cached_file)
    assert len(set(rig.gets)) == len(rig.gets)


def test_a_download_that_failed_is_forgotten(rig: PrefetchRig) -> None:
    failed = threading.Event()

    def hook(method: str, subject: str) -> None:
        if (method, subject) == ("get", f"box{NAMES[4]}") and not failed.is_set():
            failed.set()
            raise NotFound(subject)

    rig.store.hook = hook
    rig.read(*NAMES[:3])
    wait_until(lambda: failed.is_set() and rig.fetched(*NAMES[5:9]))
    rig.read(*NAMES[3:6])
    assert rig.gets.count(f"box{NAMES[4]}") == 2


def test_an_object_that_changed_meanwhile_is_not_mixed(rig: PrefetchRig) -> None:
    rig.read(*NAMES[:3])
    wait_until(lambda: rig.fetched(*NAMES[3:9]))
    rig.store.put(ObjectName("box", NAMES[5][1:]), b"new", Headers(ATTRIBUTES))
    rig.filesystem.refresh()
    rig.read(*NAMES[3:5])
    assert read(rig.filesystem, NAMES[5]) == b"new"
    rig.read(NAMES[6])


def test_files_that_are_large_empty_or_open_are_left_alone(tmp_path: Path) -> None:
    large, empty, opened = NAMES[4:7]
    with stocked(tmp_path) as rig:
        rig.store.put(ObjectName("box", large[1:]), bytes(FIRST_PIECE + 1), Headers(ATTRIBUTES))
        rig.store.put(ObjectName("box", empty[1:]), b"", Headers(ATTRIBUTES))
        handle = rig.filesystem.open(opened, os.O_RDONLY)
        rig.read(*NAMES[:3])
        wait_until(lambda: rig.fetched(NAMES[3], NAMES[7], NAMES[8]))
        rig.filesystem.release(handle)
    assert rig.gets == objects([*NAMES[:4], *NAMES[7:9]])


@pytest.mark.usual
def test_no_more_bytes_than_the_budget_are_fetched(tmp_path: Path) -> None:
    with stocked(tmp_path) as rig:
        for name in NAMES[:100]:
            rig.store.put(ObjectName("box", name[1:]), bytes(FIRST_PIECE), Headers(ATTRIBUTES))
        for name in NAMES[:50]:
            assert len(read(rig.filesystem, name)) == FIRST_PIECE
        ahead = BYTES_AHEAD // FIRST_PIECE
        wait_until(lambda: rig.fetched(*NAMES[50 : 50 + ahead]))
    assert rig.gets == objects(NAMES[: 50 + ahead])


def test_writers_cause_no_prefetch(rig: PrefetchRig) -> None:
    for name in NAMES[:10]:
        write(rig.filesystem, name, b"new")
    assert rig.gets == []


def test_prefetch_can_be_disabled(tmp_path: Path) -> None:
    with stocked(tmp_path, "prefetch=no") as rig:
        rig.read(*NAMES[:10])
    assert rig.gets == objects(NAMES[:10])


@pytest.mark.usual
def test_files_of_a_folder_larger_than_a_page_are_fetched(tmp_path: Path) -> None:
    with stocked(tmp_path, limits=Limits(listing=16)) as rig:
        assert names(rig.filesystem, "/") == [name[1:] for name in NAMES]
        rig.read(*NAMES[:3])
        wait_until(lambda: rig.fetched(*NAMES[3:9]))
        rig.read(*NAMES[3:])
    assert rig.gets == objects(NAMES)


@pytest.mark.usual
@pytest.mark.parametrize("connections", [2, 32])
def test_an_open_hardly_looks_at_files_that_are_expected_already(tmp_path: Path, connections: int) -> None:
    expected = NAMES[71 : 70 + 4 * connections]
    with stocked(tmp_path, f"connections={connections}") as rig:
        rig.read(*NAMES[:70])
        wait_until(lambda: rig.fetched(*expected))
        work = work_of(lambda: rig.read(NAMES[70]), swiftfs.posix)
    assert work.lines < 500 + 8 * len(expected)


def test_no_thread_is_left(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with stocked(tmp_path) as rig:
        rig.read(*NAMES)
        assert any(thread.name.startswith("prefetch") for thread in threading.enumerate())
    # The one that looks for late requests is told to end, and not waited for.
    wait_until(lambda: not set(threading.enumerate()) - before)
