"""Reading while the disk of the cache folder is full: of clean copies, or of what others wrote there."""

import errno
import gc
import os
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.cache_rig import MIB, PLAIN, CacheRig, read, read_in_pieces, settle, write
from support.deadlines import within
from support.jobs import wait_until
from support.noise import noise
from support.tiers import chosen
from swiftfs.concurrency import monotonic
from swiftfs.errors import Unavailable, os_error
from swiftfs.filecache import downloader, eviction, sparse_file, upload_source
from swiftfs.filecache.block_map import BLOCK
from swiftfs.filecache.cached_file import CachedFile
from swiftfs.filecache.sparse_file import write_all
from swiftfs.objects import ObjectName, ObjectVersion

pytest_plugins = ["support.cache_fixtures"]


class SmallDisk:
    """A disk of `capacity` bytes for the files of a cache, as far as downloads write to it."""

    def __init__(self, files: Path, capacity: int) -> None:
        self.files = files
        self.capacity = capacity
        self.refused = 0

    def used(self) -> int:
        """Return how many bytes the files take."""
        return sum(path.stat().st_blocks * 512 for path in self.files.iterdir())

    def write(self, descriptor: int, data: bytes | memoryview, offset: int) -> None:
        """Write to a file in memory, or to the disk if it has space."""
        is_on_disk = not str(Path(f"/proc/self/fd/{descriptor}").readlink()).startswith("/memfd:")
        if is_on_disk and self.used() + len(data) > self.capacity:
            self.refused += 1
            raise os_error(errno.ENOSPC)
        write_all(descriptor, data, offset)


@pytest.fixture
def small_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[CacheRig, int], SmallDisk]:
    """Return a function that limits the disk of a rig."""

    def limit(rig: CacheRig, capacity: int) -> SmallDisk:
        disk = SmallDisk(rig.files, capacity)
        for module in (upload_source, downloader, sparse_file):
            monkeypatch.setattr(module, "write_all", disk.write)
        return disk

    return limit


def of_memory(content: CachedFile) -> CachedFile:
    """Return the file in memory from which a file is read."""
    memory = content._reader._files[-1]
    assert isinstance(memory, CachedFile)
    return memory


def in_memory(content: CachedFile) -> int:
    """Return how many bytes of a file are in memory."""
    return of_memory(content).allocated()


def test_copies_of_other_files_make_room(
    build: Callable[..., CacheRig], small_disk: Callable[[CacheRig, int], SmallDisk]
) -> None:
    rig = build(limit=100 * MIB)
    bodies = [noise(MIB, number) for number in range(4)]
    bases = [rig.put(f"file{number}", body) for number, body in enumerate(bodies)]
    disk = small_disk(rig, 2 * MIB)
    for base, body in zip(bases, bodies, strict=True):
        assert rig.read(base) == body
    assert disk.refused
    assert ObjectVersion(bases[-1].name, bases[-1].etag) in rig.cache
    assert ObjectVersion(bases[0].name, bases[0].etag) not in rig.cache


@pytest.mark.parametrize("ahead", [0, MIB, 16 * MIB])
def test_blocks_of_the_same_file_make_room(
    build: Callable[..., CacheRig], small_disk: Callable[[CacheRig, int], SmallDisk], ahead: int
) -> None:
    """What was read ahead does too: a read needs it more."""
    rig = build(limit=100 * MIB, read_ahead=ahead)
    body = noise(8 * MIB)
    content = rig.open(rig.put("file", body))
    disk = small_disk(rig, 2 * MIB)
    assert read_in_pieces(content) == body
    assert read_in_pieces(content) == body
    assert disk.refused


@pytest.mark.usual
def test_several_readers_share_a_small_disk(
    build: Callable[..., CacheRig], small_disk: Callable[[CacheRig, int], SmallDisk]
) -> None:
    rig = build(limit=100 * MIB, read_ahead=4 * MIB, threads=4)
    bodies = [noise(4 * MIB, number) for number in range(4)]
    contents = [rig.open(rig.put(f"file{number}", body)) for number, body in enumerate(bodies)]
    small_disk(rig, 3 * MIB)

    def read_some(seed: int) -> bool:
        dice = random.Random(seed)
        places = [(dice.randrange(4), dice.randrange(4 * MIB)) for _ in range(60)]
        return all(
            read(contents[one], at, 2 * BLOCK) == bodies[one][at : at + 2 * BLOCK] for one, at in places
        )

    with ThreadPoolExecutor(8) as readers:
        assert all(readers.map(read_some, range(8)))


def test_a_read_needs_no_disk(
    build: Callable[..., CacheRig],
    small_disk: Callable[[CacheRig, int], SmallDisk],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another program has filled it."""
    rig = build(limit=100 * MIB, read_ahead=MIB)
    body = noise(6 * MIB)
    content = rig.open(rig.put("file", body))
    disk = small_disk(rig, 0)
    assert read_in_pieces(content) == body
    assert rig.gets() <= 20
    assert in_memory(content) <= 3 * MIB
    disk.capacity = 100 * MIB
    monkeypatch.setattr(eviction, "monotonic", lambda: monotonic() + 2 * eviction.RETRY_SECONDS)
    assert read_in_pieces(content) == body
    settle(content)
    assert content.allocated() >= 6 * MIB
    assert in_memory(content) <= MIB


def test_bytes_that_another_reader_has_downloaded_are_read_from_the_disk(
    build: Callable[..., CacheRig],
) -> None:
    """It found room after this reader had not, and the read failed with ENOSPC."""
    rig = build(limit=100 * MIB)
    body = noise(MIB)
    content = rig.open(rig.put("file", body))

    def refused(offset: int, end: int) -> None:
        content.ensure(offset, end)
        raise os_error(errno.ENOSPC)

    span = content._reader.read(0, BLOCK, refused)
    assert os.pread(span.descriptor, span.length, span.position) == body[:BLOCK]


def test_changes_are_read_with_the_bytes_that_the_disk_has_no_room_for(
    build: Callable[..., CacheRig], small_disk: Callable[[CacheRig, int], SmallDisk]
) -> None:
    rig = build(limit=100 * MIB)
    body = bytearray(noise(4 * MIB))
    content = rig.open(rig.put("file", bytes(body)))
    write(content, MIB, bytes(BLOCK))
    body[MIB : MIB + BLOCK] = bytes(BLOCK)
    disk = small_disk(rig, 0)
    assert read(content, MIB - BLOCK, 4 * BLOCK) == body[MIB - BLOCK : MIB + 3 * BLOCK]
    end = 4 * MIB
    write(content, end, bytes(BLOCK))
    assert read(content, end - BLOCK, 2 * BLOCK) == body[-BLOCK:] + bytes(BLOCK)
    disk.capacity = 100 * MIB
    assert read_in_pieces(content) == body + bytes(BLOCK)


@pytest.mark.usual
def test_reads_and_writes_while_the_disk_comes_and_goes(
    build: Callable[..., CacheRig],
    small_disk: Callable[[CacheRig, int], SmallDisk],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = build(limit=100 * MIB, read_ahead=MIB, threads=4)
    body = bytearray(noise(6 * MIB))
    content = rig.open(rig.put("file", bytes(body)))
    disk, dice = small_disk(rig, 0), chosen("a disk that is full now and then")
    monkeypatch.setattr(eviction, "RETRY_SECONDS", 0.0)
    for step in range(300):
        offset, size = dice.randrange(len(body)), dice.randrange(1, 3 * BLOCK)
        kind = dice.randrange(8)
        if kind == 0:
            disk.capacity = dice.choice([0, 2 * MIB, 20 * MIB])
            monkeypatch.setattr(eviction, "RETRY_SECONDS", dice.choice([0.0, 60.0]))
        elif kind == 1:
            start = offset - offset % BLOCK
            write(content, start, noise(BLOCK, step))
            body[start : start + BLOCK] = noise(BLOCK, step)
        elif kind == 2 and not step % 5:
            size = len(body) - dice.randrange(BLOCK)
            size -= size % BLOCK
            content.truncate(size)
            del body[size:]
        elif kind == 3 and not step % 3:
            content.adopt(rig.store.put(ObjectName("box", "file"), bytes(body), PLAIN))
        assert read(content, offset, size) == body[offset : offset + size], step


@pytest.fixture
def no_cycles_freed() -> Iterator[None]:
    """Let nothing be freed that is in a reference cycle, as that of an error and the frames it has passed."""
    gc.disable()
    yield
    gc.enable()


def files_in_memory() -> int:
    """Return how many descriptors of files in memory this process has."""
    links = [Path(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]  # noqa: PTH208
    return sum(str(link.readlink()).startswith("/memfd:") for link in links if link.is_symlink())


@pytest.mark.usefixtures("no_cycles_freed")
@pytest.mark.parametrize("is_cached", [False, True])
def test_files_in_memory_are_closed_with_the_file(
    build: Callable[..., CacheRig], small_disk: Callable[[CacheRig, int], SmallDisk], *, is_cached: bool
) -> None:
    rig = build(limit=100 * MIB)
    content = rig.open(rig.put("file", noise(4 * MIB)))
    if is_cached:
        read(content, 0, BLOCK)
    else:
        write(content, MIB, bytes(BLOCK))
    small_disk(rig, 0)
    read(content, MIB - BLOCK, 3 * BLOCK)

    def fail(_method: str, _subject: str) -> None:
        raise Unavailable("503")

    rig.store.hook = fail
    with pytest.raises(Unavailable):
        read(content, 3 * MIB, BLOCK)
    assert files_in_memory() == 1 + (not is_cached)
    rig.forget(content)
    (rig.cache.keep if is_cached else rig.cache.drop)(content)
    assert files_in_memory() == 0


@pytest.mark.usefixtures("no_cycles_freed")
def test_a_file_in_memory_is_closed_when_its_download_ends_after_the_last_reader(
    build: Callable[..., CacheRig], small_disk: Callable[[CacheRig, int], SmallDisk]
) -> None:
    rig = build(limit=100 * MIB, read_ahead=MIB)
    content = rig.open(rig.put("file", noise(8 * MIB)))
    small_disk(rig, 0)
    read(content, 0, BLOCK)
    memory = of_memory(content)
    settle(memory)
    reached, go_on = threading.Event(), threading.Event()

    def hold(_method: str, _subject: str) -> None:
        reached.set()
        assert go_on.wait(within(30))

    rig.store.hook = hold
    offset = 0
    while not memory._activity.downloads:  # the next piece is begun before this one has been read
        read(content, offset := offset + BLOCK, BLOCK)
    assert reached.wait(within(10))
    rig.forget(content)
    rig.cache.drop(content)
    assert files_in_memory() == 1
    go_on.set()
    wait_until(lambda: files_in_memory() == 0)


def test_an_answer_from_memory_stays_until_its_thread_reads_again(
    build: Callable[..., CacheRig], small_disk: Callable[[CacheRig, int], SmallDisk]
) -> None:
    """Another thread reads a newer version meanwhile, before the kernel has taken the bytes."""
    rig = build(limit=100 * MIB)
    old, new = noise(2 * MIB), noise(2 * MIB, 1)
    content = rig.open(rig.put("file", old))
    small_disk(rig, 0)
    with ThreadPoolExecutor(1) as other:
        span = other.submit(content.read, 0, BLOCK).result()
        content.adopt(rig.store.put(ObjectName("box", "file"), new, PLAIN))
        assert read(content, 0, BLOCK) == new[:BLOCK]
        assert os.pread(span.descriptor, BLOCK, span.position) == old[:BLOCK]
        assert files_in_memory() == 2
        span = other.submit(content.read, MIB, BLOCK).result()
        assert os.pread(span.descriptor, BLOCK, span.position) == new[MIB : MIB + BLOCK]
    assert files_in_memory() == 1
