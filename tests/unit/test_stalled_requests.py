"""A request that does not end delays the calls that need its answer, and no others."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from support.cache_rig import MIB, CacheRig, write
from support.deadlines import within
from support.harness import get, harness, names, put, read
from support.harness import write as store_file
from support.jobs import wait_until
from support.memory_store import MemoryStore
from support.noise import noise
from support.stored_objects import foreign, refuse
from support.upload_rig import Writer
from swiftfs.errors import Unavailable
from swiftfs.filecache.block_map import BLOCK
from swiftfs.filecache.cached_file import CachedFile
from swiftfs.filecache.segment_container import SegmentContainerChooser, place_beside
from swiftfs.objects import ObjectName

pytest_plugins = ["support.cache_fixtures", "support.writer_fixtures"]

SECONDS = 60


class Stall:
    """Holds requests of one method about subjects with `what` in their name, until `end` is called."""

    def __init__(self, store: MemoryStore, method: str, what: str = "") -> None:
        self.begun, self._go_on = threading.Event(), threading.Event()
        self._method, self._what = method, what
        self.seen: list[str] = []
        store.hook = self._hold

    def _hold(self, method: str, subject: str) -> None:
        if method == self._method and self._what in subject:
            self.seen.append(subject)
            self.begun.set()
            assert self._go_on.wait(within(20))

    def end(self) -> None:
        self._go_on.set()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def stall(rig: CacheRig, threads: ThreadPoolExecutor, cached_file: CachedFile) -> tuple[Stall, Future[None]]:
    """Begin a download that stalls."""
    held = Stall(rig.store, "get")
    loading = threads.submit(cached_file.ensure, 2 * BLOCK, 3 * BLOCK)
    assert held.begun.wait(SECONDS)
    return held, loading


Leave = Callable[[CacheRig, CachedFile], None]


def leave_changed(rig: CacheRig, cached_file: CachedFile) -> None:
    write(cached_file, 0, noise(BLOCK, 1))
    rig.cache.release(cached_file)


def leave_held_and_changed(rig: CacheRig, cached_file: CachedFile) -> None:
    write(cached_file, 0, noise(BLOCK, 1))
    rig.cache.pin(cached_file.file_name)
    rig.cache.release(cached_file)
    rig.cache.unpin(cached_file.file_name)


def leave_as_it_was(rig: CacheRig, cached_file: CachedFile) -> None:
    rig.cache.release(cached_file)


def drop(rig: CacheRig, cached_file: CachedFile) -> None:
    rig.cache.drop(cached_file)


@pytest.mark.matrix(4)
@pytest.mark.parametrize("version_is_known", [True, False])
@pytest.mark.parametrize("leave", [leave_changed, leave_held_and_changed, leave_as_it_was, drop])
def test_the_cache_does_not_wait_for_a_download(
    rig: CacheRig, threads: ThreadPoolExecutor, leave: Leave, version_is_known: bool
) -> None:
    base = rig.put("file", noise(4 * MIB))
    other = rig.put("other", noise(MIB, 2))
    cached_file = rig.open(base if version_is_known else replace(base, etag=""))
    held, loading = stall(rig, threads, cached_file)
    rig.forget(cached_file)
    threads.submit(leave, rig, cached_file).result(SECONDS)
    for ask in (rig.open, rig.open):
        threads.submit(ask, other).result(SECONDS)
    threads.submit(rig.cache.space.fit).result(SECONDS)
    assert threads.submit(rig.cache.space.use).result(SECONDS)
    assert not loading.done()
    held.end()
    loading.result(SECONDS)
    rig.store.hook = None
    assert rig.read(other) == noise(MIB, 2)


@pytest.mark.usual
def test_programs_do_not_wait_for_the_last_close_of_a_changed_file(
    threads: ThreadPoolExecutor, tmp_path: Path
) -> None:
    """The file was unlinked, and its read-ahead stalls."""
    store = MemoryStore("box")
    foreign(store, "file", noise(32 * MIB))
    foreign(store, "other", b"other")
    with harness(store, tmp_path, "settle=1000") as filesystem:
        handle = filesystem.open("/file", os.O_RDWR)
        put(filesystem, handle, 0, noise(BLOCK, 1))
        filesystem.unlink("/file")
        get(filesystem, handle, 0, 4 * BLOCK)
        held = Stall(store, "get", "box/file")
        offsets = iter(range(4 * BLOCK, 32 * MIB, BLOCK))
        while not held.begun.wait(0.02):
            get(filesystem, handle, next(offsets), BLOCK)
        try:
            filesystem.flush(handle)
            closing = threads.submit(filesystem.release, handle)
            wait([closing], 0.5)
            asked: list[Future[Any]] = [
                threads.submit(names, filesystem, "/"),
                threads.submit(read, filesystem, "/other"),
                threads.submit(store_file, filesystem, "/new", b"new"),
            ]
            wait(asked, SECONDS)
            assert [one.done() for one in asked] == [True] * 3
            assert asked[1].result() == b"other"
            closing.result(SECONDS)
        finally:
            held.end()


def test_a_replaced_file_is_not_waited_for(rig: CacheRig, threads: ThreadPoolExecutor) -> None:
    base = rig.put("file", noise(4 * MIB))
    first, second = rig.open(base), rig.open(base)
    held, loading = stall(rig, threads, first)
    for cached_file in (first, second):
        threads.submit(rig.keep, cached_file).result(SECONDS)
    threads.submit(rig.open, rig.put("new", b"new")).result(SECONDS)
    assert not loading.done()
    held.end()
    loading.result(SECONDS)
    rig.store.hook = None
    assert rig.read(base) == noise(4 * MIB)


def test_a_closed_file_is_freed_when_its_download_has_ended(
    rig: CacheRig, threads: ThreadPoolExecutor
) -> None:
    cached_file = rig.open(rig.put("file", noise(4 * MIB)))
    held, loading = stall(rig, threads, cached_file)
    rig.forget(cached_file)
    leave_changed(rig, cached_file)
    assert len(rig.kept()) == 1
    held.end()
    loading.result(SECONDS)
    assert rig.kept() == []


def test_a_slow_upload_of_a_hole_delays_no_other(
    build_writer: Callable[..., Writer], threads: ThreadPoolExecutor
) -> None:
    writer = build_writer(threads=4)
    writer.truncate(3 * MIB + 5)
    uploads = writer.cached_file.uploads
    held = Stall(writer.store, "put", "0000000000000-")
    writer.places.of("box")
    first = uploads.upload(0, MIB)
    assert held.begun.wait(SECONDS)
    other = uploads.upload(3 * MIB, 3 * MIB + 5)
    assert other.stored.result(SECONDS).size == 5
    same = uploads.upload(MIB, 2 * MIB)
    settled = threads.submit(uploads.commit_manifest, None)
    held.end()
    gone = settled.result(SECONDS)
    names = {one.stored.result(SECONDS).name for one in (first, other, same) if not one.stored.cancelled()}
    assert set(gone) == names
    writer.run()
    assert writer.stored() == writer.model
    assert writer.named() <= writer.segments()


def test_a_hole_that_could_not_be_stored_is_stored_by_the_next(writer: Writer) -> None:
    writer.truncate(3 * MIB)

    refuse(writer.store, "put", Unavailable)
    with pytest.raises(Unavailable):
        writer.run()
    writer.store.hook = None
    # Uploads that began before may fail only now, and the next attempt would take them for its own.
    wait_until(lambda: not writer.cached_file.uploads.is_busy)
    writer.run()
    assert writer.stored() == writer.model


def test_a_slow_creation_of_a_container_delays_no_other(threads: ThreadPoolExecutor) -> None:
    store = MemoryStore("slow", "quick")
    places = SegmentContainerChooser(store)
    held = Stall(store, "create_container", "slow")
    slow = [threads.submit(places.of, "slow") for _ in range(3)]
    assert held.begun.wait(SECONDS)
    assert threads.submit(places.of, "quick").result(SECONDS) == place_beside("quick")
    threads.submit(places.found, "quick", []).result(SECONDS)
    assert not any(one.done() for one in slow)
    held.end()
    assert [one.result(SECONDS) for one in slow] == [place_beside("slow")] * 3
    assert held.seen == ["slow_segments"]


def test_a_failed_choice_of_a_container_is_repeated(threads: ThreadPoolExecutor) -> None:
    store = MemoryStore("box")
    places = SegmentContainerChooser(store)

    def refuse(method: str, _subject: str) -> None:
        raise Unavailable(method)

    store.hook = refuse
    with pytest.raises(Unavailable):
        places.of("box")
    store.hook = None
    assert places.of("box") == place_beside("box")
    assert places.of("box").name("key") == ObjectName("box_segments", ".swiftfs-segments/key")
