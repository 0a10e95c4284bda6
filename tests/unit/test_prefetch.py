"""Programs that read a folder's small files one after the other, on a Swift that takes 20 ms to answer."""

import os
import random
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.harness import harness, names, read, write
from support.jobs import wait_until
from support.memory_store import MemoryStore
from swiftfs.errors import NotFound
from swiftfs.filecache.read_ahead import FIRST_PIECE
from swiftfs.objects import Limits, ObjectName
from swiftfs.posix.filesystem import FileSystem
from swiftfs.posix.prefetch import BYTES_AHEAD
from swiftfs.store.protocol import Headers

ATTRIBUTES = f"text/plain;mtime=1700000000.000000001;mode=0100644;uid={os.getuid()};gid={os.getgid()}"
"""What our own files carry, so that no HEAD is wanted."""


NAMES = [f"/file{number:03d}" for number in range(200)]


class Shelf:
    """A file system over a store in memory that holds 200 files; `gets` are the objects fetched so far."""

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
def stocked(cache: Path, options: str = "", limits: Limits | None = None) -> Iterator[Shelf]:
    store = MemoryStore("box", limits=limits)
    for name in NAMES:
        store.put(ObjectName("box", name[1:]), body(name), Headers(ATTRIBUTES))
    with harness(store, cache, options) as filesystem:
        yield Shelf(store, filesystem)


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    with stocked(tmp_path) as shelf:
        yield shelf


def test_random_files_fetch_nothing_else(tmp_path: Path) -> None:
    chosen = random.Random(7).sample(NAMES, 50)
    with stocked(tmp_path) as shelf:
        shelf.read(*chosen)
    assert shelf.gets == objects(sorted(chosen))


def test_who_stops_has_little_fetched_in_vain(tmp_path: Path) -> None:
    with stocked(tmp_path) as shelf:
        shelf.read(*NAMES[10:14])
        wait_until(lambda: shelf.fetched(*NAMES[10:22]))
    assert shelf.gets == objects(NAMES[10:22])


def test_a_file_under_way_is_joined(shelf: Shelf) -> None:
    """The reader waits for the download that was begun for it."""
    held, go_on = threading.Event(), threading.Event()

    def hook(method: str, subject: str) -> None:
        if (method, subject) == ("get", f"box{NAMES[3]}"):
            held.set()
            assert go_on.wait(60)

    shelf.store.hook = hook
    shelf.read(*NAMES[:3])
    assert held.wait(60)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(read, shelf.filesystem, NAMES[3])
        wait_until(lambda: shelf.fetched(*NAMES[4:9]))
        assert not answer.done()
        go_on.set()
        assert answer.result() == body(NAMES[3])
    assert sorted(set(shelf.gets)) == shelf.gets


def test_a_download_that_failed_is_forgotten(shelf: Shelf) -> None:
    failed = threading.Event()

    def hook(method: str, subject: str) -> None:
        if (method, subject) == ("get", f"box{NAMES[4]}") and not failed.is_set():
            failed.set()
            raise NotFound(subject)

    shelf.store.hook = hook
    shelf.read(*NAMES[:3])
    wait_until(lambda: failed.is_set() and shelf.fetched(*NAMES[5:9]))
    shelf.read(*NAMES[3:6])
    assert shelf.gets.count(f"box{NAMES[4]}") == 2


def test_an_object_that_changed_meanwhile_is_not_mixed(shelf: Shelf) -> None:
    shelf.read(*NAMES[:3])
    wait_until(lambda: shelf.fetched(*NAMES[3:9]))
    shelf.store.put(ObjectName("box", NAMES[5][1:]), b"new", Headers(ATTRIBUTES))
    shelf.filesystem.refresh()
    shelf.read(*NAMES[3:5])
    assert read(shelf.filesystem, NAMES[5]) == b"new"
    shelf.read(NAMES[6])


def test_files_that_are_large_empty_or_open_are_left_alone(tmp_path: Path) -> None:
    large, empty, opened = NAMES[4:7]
    with stocked(tmp_path) as shelf:
        shelf.store.put(ObjectName("box", large[1:]), bytes(FIRST_PIECE + 1), Headers(ATTRIBUTES))
        shelf.store.put(ObjectName("box", empty[1:]), b"", Headers(ATTRIBUTES))
        handle = shelf.filesystem.open(opened, os.O_RDONLY)
        shelf.read(*NAMES[:3])
        wait_until(lambda: shelf.fetched(NAMES[3], NAMES[7], NAMES[8]))
        shelf.filesystem.release(handle)
    assert shelf.gets == objects([*NAMES[:4], *NAMES[7:9]])


def test_no_more_bytes_than_the_budget_are_fetched(tmp_path: Path) -> None:
    with stocked(tmp_path) as shelf:
        for name in NAMES[:100]:
            shelf.store.put(ObjectName("box", name[1:]), bytes(FIRST_PIECE), Headers(ATTRIBUTES))
        for name in NAMES[:50]:
            assert len(read(shelf.filesystem, name)) == FIRST_PIECE
        ahead = BYTES_AHEAD // FIRST_PIECE
        wait_until(lambda: shelf.fetched(*NAMES[50 : 50 + ahead]))
    assert shelf.gets == objects(NAMES[: 50 + ahead])


def test_writers_fetch_nothing(shelf: Shelf) -> None:
    for name in NAMES[:10]:
        write(shelf.filesystem, name, b"new")
    assert shelf.gets == []


def test_it_can_be_switched_off(tmp_path: Path) -> None:
    with stocked(tmp_path, "prefetch=no") as shelf:
        shelf.read(*NAMES[:10])
    assert shelf.gets == objects(NAMES[:10])


def test_a_folder_larger_than_a_page(tmp_path: Path) -> None:
    with stocked(tmp_path, limits=Limits(listing=16)) as shelf:
        assert names(shelf.filesystem, "/") == [name[1:] for name in NAMES]
        shelf.read(*NAMES[:3])
        wait_until(lambda: shelf.fetched(*NAMES[3:9]))
        shelf.read(*NAMES[3:])
    assert shelf.gets == objects(NAMES)


def test_no_thread_is_left(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with stocked(tmp_path) as shelf:
        shelf.read(*NAMES)
        assert any(thread.name.startswith("prefetch") for thread in threading.enumerate())
    assert set(threading.enumerate()) == before
