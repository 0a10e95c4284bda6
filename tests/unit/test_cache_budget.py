"""The cache's disk space, the verification of its bytes, and downloads that nobody needs any more."""

import logging
import os
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from msgspec.structs import replace

from support.cache_rig import MIB, PLAIN, CacheRig, DiskUsage, read, read_in_pieces, settle, write
from support.deadlines import within
from support.jobs import wait_until
from support.noise import noise
from swiftfs.errors import Corrupt
from swiftfs.filecache import read_ahead
from swiftfs.filecache.block_map import BLOCK, BaseVersion
from swiftfs.filecache.cached_file import CachedFile
from swiftfs.filecache.eviction import MOST_THREADS
from swiftfs.objects import ObjectName, ObjectVersion
from swiftfs.store.protocol import CopyRequest

pytest_plugins = ["support.cache_fixtures"]


def test_the_least_recently_used_is_evicted_first(build: Callable[..., CacheRig]) -> None:
    rig = build(limit=10 * MIB)
    bases = [rig.put(f"file{number}", noise(2 * MIB, number)) for number in range(6)]
    for base in bases[:5]:
        rig.read(base)
    rig.read(bases[0])
    rig.read(bases[5])
    rig.cache.space.fit()
    rig.gets()
    present = [ObjectVersion(base.name, base.etag) in rig.cache for base in bases]
    assert present == [True, False, True, True, True, True]
    rig.restart()
    present = [ObjectVersion(base.name, base.etag) in rig.cache for base in bases]
    assert present == [True, False, True, True, True, True]


def test_a_file_larger_than_the_budget_is_read_within_it(build: Callable[..., CacheRig]) -> None:
    limit = 4 * MIB
    rig = build(limit=limit, read_ahead=MIB)
    body = noise(10 * MIB)
    cached_file = rig.open(rig.put("file", body))
    rig.read(rig.put("small", b"x" * MIB))
    most = 0
    for rounds in range(2):
        for offset in range(0, len(body), BLOCK):
            assert read(cached_file, offset, BLOCK) == body[offset : offset + BLOCK]
            most = max(most, cached_file.allocated())
        assert most <= limit + 3 * MIB, rounds
    assert not list(rig.files.glob("[0-9a-f]*"))


def test_blocks_that_the_kernel_still_reads_are_not_evicted(build: Callable[..., CacheRig]) -> None:
    rig = build(limit=2 * MIB)
    body = noise(8 * MIB)
    cached_file = rig.open(rig.put("file", body))
    with ThreadPoolExecutor(1) as slow:
        span = slow.submit(cached_file.read, 0, BLOCK).result()
        for offset in range(0, len(body), BLOCK):
            read(cached_file, offset, BLOCK)
        assert cached_file.allocated() < 5 * MIB
        assert os.pread(span.descriptor, span.length, span.position) == body[:BLOCK]


@pytest.mark.usual
def test_changes_and_pinned_bytes_are_never_evicted(build: Callable[..., CacheRig]) -> None:
    rig = build(limit=4 * MIB)
    body = noise(16 * MIB)
    changed, pinned = rig.open(rig.put("changed", body)), rig.open(rig.put("pinned", body))
    read(changed)
    write(changed, 5, b"change")
    pinned.ensure_all()
    fresh = rig.cache.new(ObjectName("box", "fresh"), None)
    for offset in range(0, len(body), MIB):
        write(fresh, offset, body[offset : offset + MIB])
    rig.cache.space.fit()
    rig.gets()
    assert read(changed) == body[:5] + b"change" + body[11:]
    assert read(pinned) == body
    assert read_in_pieces(fresh) == body
    assert rig.gets() == 0
    fresh.adopt(rig.store.put(ObjectName("box", "fresh"), body, PLAIN))
    rig.cache.space.fit()
    assert fresh.allocated() < 12 * MIB
    rig.cache.keep(fresh)


@pytest.mark.usual
def test_random_reads_under_pressure_are_right(build: Callable[..., CacheRig]) -> None:
    rig = build(limit=2 * MIB, read_ahead=MIB, threads=4)
    body = noise(5 * MIB)
    cached_file = rig.open(rig.put("file", body))

    def read_some(seed: int) -> bool:
        dice = random.Random(seed)
        places = [dice.randrange(len(body)) for _ in range(60)]
        return all(read(cached_file, at, 2 * BLOCK) == body[at : at + 2 * BLOCK] for at in places)

    with ThreadPoolExecutor(4) as readers:
        assert all(readers.map(read_some, range(4)))


def test_the_automatic_limit_is_half_of_what_is_free(
    build: Callable[..., CacheRig], monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 1024 * MIB
    monkeypatch.setattr("shutil.disk_usage", lambda _: DiskUsage(free))
    rig = build(limit=None)
    assert rig.cache.space.limit == 512 * MIB
    free = 1024 * 1024 * MIB
    rig.restart()
    assert rig.cache.space.limit == 10 * 1024 * MIB


def test_the_cache_shrinks_when_others_fill_the_disk(rig: CacheRig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.read(rig.put("file", noise(MIB)))
    rig.cache.space.fit()
    assert len(rig.kept()) == 1
    monkeypatch.setattr("shutil.disk_usage", lambda _: DiskUsage(MIB))
    rig.cache.space.fit()
    assert rig.kept() == []


def test_the_answer_to_a_thread_that_has_ended_takes_no_disk(rig: CacheRig) -> None:
    """libfuse's threads come and go while a file stays open."""
    cached_file = rig.open(rig.put("file", noise(4 * BLOCK)))
    read(cached_file, 0, BLOCK)
    with ThreadPoolExecutor(1) as living:
        living.submit(read, cached_file, BLOCK, BLOCK).result()
        ended = threading.Thread(target=read, args=(cached_file, 3 * BLOCK, BLOCK))
        ended.start()
        ended.join()
        settle(cached_file)

        def is_evicted() -> bool:
            cached_file.evict(2**40)
            return not cached_file._state.blocks.present.covers(3, 4)

        wait_until(is_evicted)  # the kernel's thread ends a moment after Python's
        assert cached_file._state.blocks.present.covers(0, 2)


def test_ended_threads_are_forgotten_without_eviction(rig: CacheRig) -> None:
    cached_file = rig.open(rig.put("file", noise(4 * BLOCK)))
    for _ in range(3 * MOST_THREADS):
        thread = threading.Thread(target=read, args=(cached_file, 0, BLOCK))
        thread.start()
        thread.join()
    assert len(cached_file._evictor._answers) <= 2 * MOST_THREADS


def test_a_write_cut_by_a_full_disk_leaves_no_partial_block(rig: CacheRig) -> None:
    body = noise(6 * BLOCK)
    cached_file = rig.open(rig.put("file", body))
    new = noise(3 * BLOCK, 1)

    def cut(file: int, at: int) -> int:
        return os.pwrite(file, new[: BLOCK + 1000], at)

    assert cached_file.write(BLOCK, len(new), cut) == BLOCK
    assert read(cached_file) == body[:BLOCK] + new[:BLOCK] + body[2 * BLOCK :]

    def fail(file: int, at: int) -> int:
        return os.pwrite(file, new[:1000], at)

    with pytest.raises(OSError, match="No space left"):
        rig.open(rig.put("other", body)).write(0, BLOCK, fail)


def test_a_block_evicted_just_before_a_write_keeps_its_other_bytes(
    rig: CacheRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = bytearray(noise(4 * BLOCK + 100))
    cached_file = rig.open(rig.put("file", bytes(body)))
    ensure, given_back = cached_file.ensure_verified, [0]

    def ensure_and_lose(offset: int, end: int) -> None:
        ensure(offset, end)
        if not any(given_back):
            given_back.append(cached_file.evict(2**40))

    monkeypatch.setattr(cached_file, "ensure_verified", ensure_and_lose)
    write(cached_file, 2 * BLOCK + 5, b"change")
    body[2 * BLOCK + 5 : 2 * BLOCK + 11] = b"change"
    assert given_back[-1] > 0
    assert read(cached_file) == body


def test_bytes_downloaded_in_pieces_are_verified(rig: CacheRig, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    body = noise(4 * BLOCK)
    cached_file = rig.open(rig.put("file", body))
    rig.store.wrong = 1
    read_in_pieces(cached_file)
    settle(cached_file)
    assert "box/file" in caplog.text
    assert "downloaded again" in caplog.text
    assert read_in_pieces(cached_file) == body
    settle(cached_file)
    rig.gets()
    assert read_in_pieces(cached_file) == body
    assert rig.gets() == 0


def test_bytes_that_are_wrong_twice_are_an_error(rig: CacheRig, caplog: pytest.LogCaptureFixture) -> None:
    base = rig.put("file", noise(4 * BLOCK))
    cached_file = rig.open(base)
    rig.store.wrong = 8
    read_in_pieces(cached_file)
    settle(cached_file)
    with suppress(Corrupt):  # if the last piece is read after the check has ended
        read_in_pieces(cached_file)
    settle(cached_file)
    for _ in range(2):
        with pytest.raises(Corrupt, match="box/file"):
            read(cached_file)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    rig.keep(cached_file)
    assert rig.kept() == []
    assert rig.read(base) == noise(4 * BLOCK)


def test_a_check_of_bytes_that_change_meanwhile_is_ignored(
    rig: CacheRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def wait(*_: object) -> str:
        reached.set()
        assert go_on.wait(within(10))
        return "of other bytes"

    monkeypatch.setattr("swiftfs.filecache.verifier.md5_of", wait)
    body = noise(2 * BLOCK)
    cached_file = rig.open(rig.put("file", body))
    read_in_pieces(cached_file)
    assert reached.wait(within(10))
    write(cached_file, 0, noise(BLOCK, 1))  # of a part of a block, the rest would have to be checked first
    go_on.set()
    settle(cached_file)
    rig.gets()
    assert read(cached_file) == noise(BLOCK, 1) + body[BLOCK:]
    assert rig.gets() == 0


@pytest.mark.usual
def test_an_idle_reader_and_a_release_cancel_what_is_queued(
    build: Callable[..., CacheRig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_ahead, "IDLE_SECONDS", 0.0)
    rig = build(read_ahead=16 * MIB, threads=1)
    body = noise(48 * MIB)
    cached_file = rig.open(rig.put("file", body))
    read(cached_file, 0, BLOCK)
    settle(cached_file)
    with rig.stalled_pool():
        assert has(cached_file, body[:MIB])
        assert cached_file._downloader.downloads
        assert read(cached_file, 40 * MIB, BLOCK) == body[40 * MIB : 40 * MIB + BLOCK]
        assert not cached_file._downloader.downloads
        other = rig.open(rig.put("other", body))
        other.begin(rig.pool)
        rig.gets()
        rig.keep(cached_file)
        rig.keep(other)
        assert len(rig.kept()) == 1
    rig.pool.shutdown()
    assert rig.gets() == 0


def test_a_download_that_has_begun_is_kept_when_it_ends(build: Callable[..., CacheRig]) -> None:
    rig = build(threads=2)
    base = rig.put("file", noise(2 * BLOCK))
    begun, go_on = threading.Event(), threading.Event()

    def hold(method: str, _subject: str) -> None:
        if method == "get":
            begun.set()
            assert go_on.wait(within(10))

    rig.store.hook = hold
    cached_file = rig.open(base)
    cached_file.begin(rig.pool)
    assert begun.wait(within(10))
    rig.keep(cached_file)
    assert rig.open(base) is cached_file
    rig.keep(cached_file)
    assert [path.name[:5] for path in rig.kept()] == ["open-"]
    go_on.set()
    rig.pool.shutdown()
    assert [len(path.name) for path in rig.kept()] == [64]
    rig.store.hook = None
    rig.gets()
    assert rig.read(base) == noise(2 * BLOCK)
    assert rig.gets() == 0


def test_a_reader_does_not_wait_for_a_pool_that_stalls(build: Callable[..., CacheRig]) -> None:
    rig = build(read_ahead=16 * MIB, threads=1)
    body = noise(4 * MIB)
    cached_file = rig.open(rig.put("file", body))
    with rig.stalled_pool():
        assert has(cached_file, body)


def test_a_check_before_a_change_does_not_wait_for_a_pool_that_stalls(
    build: Callable[..., CacheRig],
) -> None:
    rig = build(read_ahead=16 * MIB, threads=1)
    cached_file = rig.open(rig.put("file", noise(4 * MIB)))
    with rig.stalled_pool():
        cached_file.begin(rig.pool)
        cached_file.ensure_verified(0, BLOCK)


def hold_read_ahead(rig: CacheRig, cached_file: CachedFile, beginning: bytes) -> threading.Event:
    """Read the beginning of a file, and hold what is then downloaded ahead; return what lets it go on."""
    begun, go_on = threading.Event(), threading.Event()

    def hold(_method: str, _subject: str) -> None:
        # Not the first piece, which is read.
        if any(one.first and not one.queued for one in cached_file._downloader.downloads._under_way):
            begun.set()
            assert go_on.wait(within(10))

    rig.store.hook = hold
    assert has(cached_file, beginning)
    assert begun.wait(within(10))
    rig.store.hook = None
    return go_on


def test_an_idle_reader_and_a_release_end_running_read_ahead(
    build: Callable[..., CacheRig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_ahead, "IDLE_SECONDS", 0.0)
    rig = build(read_ahead=16 * MIB, threads=1)
    body = noise(48 * MIB)
    base = rig.put("file", body)
    cached_file = rig.open(base)
    go_on = hold_read_ahead(rig, cached_file, body[:MIB])
    running = next(one for one in cached_file._downloader.downloads._under_way if not one.queued)
    read(cached_file, 40 * MIB, BLOCK)
    assert running.unwanted
    rig.keep(cached_file)
    go_on.set()
    rig.pool.shutdown()
    again = rig.open(base)
    assert not again._state.blocks.present.covers(running.first, running.last)


def has(cached_file: CachedFile, body: bytes) -> bool:
    """Read a file in order, a block at a time, and return whether it holds these bytes."""
    return all(read(cached_file, at, BLOCK) == body[at : at + BLOCK] for at in range(0, len(body), BLOCK))


@pytest.mark.usual
def test_a_download_that_a_reader_waits_for_is_not_cancelled(build: Callable[..., CacheRig]) -> None:
    rig = build(read_ahead=16 * MIB, threads=1)
    body = noise(48 * MIB)
    cached_file = rig.open(rig.put("file", body))
    begun, go_on = threading.Event(), threading.Event()

    def hold(method: str, _subject: str) -> None:
        if method == "get" and threading.current_thread().name.startswith("download"):
            begun.set()
            assert go_on.wait(within(10))

    rig.store.hook = hold
    with ThreadPoolExecutor(1) as reader:
        waiting = reader.submit(has, cached_file, body)
        assert begun.wait(within(10))
        running = next(fetch for fetch in cached_file._downloader.downloads._under_way if not fetch.queued)
        while not running.waiting:
            assert not waiting.done()
        read(cached_file, 40 * MIB, BLOCK)
        assert not running.unwanted
        go_on.set()
        assert waiting.result(within(30))


def test_a_moved_version_keeps_its_blocks(rig: CacheRig) -> None:
    base = rig.put("file", noise(3 * BLOCK))
    rig.read(base, 0, BLOCK)
    new = ObjectName("box", "new")
    rig.store.copy(CopyRequest(base.name, new))
    rig.cache.moved(ObjectVersion(base.name, base.etag), new)
    rig.cache.moved(ObjectVersion(ObjectName("box", "nothing"), base.etag), new)
    rig.gets()
    moved = BaseVersion(new, base.etag, base.size, base.object_size)
    assert rig.read(moved, 0, BLOCK) == noise(3 * BLOCK)[:BLOCK]
    assert rig.gets() == 0
    rig.store.delete(base.name)
    assert rig.read(moved) == noise(3 * BLOCK)


def test_a_version_that_moves_while_it_is_downloaded_keeps_its_blocks(build: Callable[..., CacheRig]) -> None:
    rig = build(read_ahead=16 * MIB, threads=1)
    body = noise(16 * MIB)
    base = rig.put("file", body)
    cached_file = rig.open(base)
    go_on = hold_read_ahead(rig, cached_file, body[:MIB])
    rig.keep(cached_file)
    new = ObjectName("box", "new")
    rig.store.copy(CopyRequest(base.name, new))
    rig.cache.moved(ObjectVersion(base.name, base.etag), new)
    go_on.set()
    rig.pool.shutdown()
    assert ObjectVersion(base.name, base.etag) not in rig.cache
    rig.gets()
    assert rig.read(replace(base, name=new), 0, MIB) == body[:MIB]
    assert rig.gets() == 0
