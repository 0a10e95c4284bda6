"""A large file below a folder that moves, changed meanwhile: its manifest keeps every segment it names.

The segments begun before the move lie below the old name, and the manifest is at the new one.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from support.bench_filesystem import ME, bench, put, read, write
from support.halted_moves import Halt
from support.journal_house import keys
from support.memory_store import MemoryStore
from support.scenes import wait_until
from support.storing_house import MIB, noise
from swiftfs.errors import BadRequest, Unavailable
from swiftfs.objects import ObjectName
from swiftfs.posix.filesystem import FileSystem

OPTIONS = "segment_size=1M"
SIZE = 3 * MIB + 1000


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore("box", "box_segments")


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads


def named(store: MemoryStore) -> set[str]:
    """Return the segments that standing manifests name, each of which is there."""
    found: set[str] = set()
    for key in keys(store):
        try:
            manifest = store.manifest(ObjectName("box", key))
        except BadRequest:
            continue
        for segment in manifest.segments:
            assert store.head(segment.name).version.etag == segment.etag, f"{key} has lost {segment.name}"
            found.add(segment.name.key)
    return found


class LateHalt(Halt):
    """Stops the store at a request of a method from the move's first copy on."""

    _copied = False

    def _hook(self, method: str, subject: str) -> None:
        self._copied = self._copied or method == "copy"
        if self._copied:
            super()._hook(method, subject)


class Yard:
    """A mounted folder with one large file in it, and what the file must hold."""

    def __init__(self, store: MemoryStore, cache: Path, settle: str) -> None:
        self.store = store
        self._cache, self._options = cache, f"{OPTIONS},{settle}"
        self.body = bytearray(noise(SIZE))
        self._enter()

    def _enter(self) -> None:
        self._bench = bench(self.store, self._cache, self._options)
        self.filesystem: FileSystem = self._bench.__enter__()

    def close(self) -> None:
        self._bench.__exit__(None, None, None)

    def remount(self) -> None:
        self.close()
        self._enter()

    def change(self, handle: int, offset: int, seed: int) -> None:
        data = noise(100, seed)
        put(self.filesystem, handle, offset, data)
        self.body[offset : offset + 100] = data

    def patch(self, path: str, offset: int, seed: int) -> None:
        handle = self.filesystem.open(path, os.O_RDWR)
        self.change(handle, offset, seed)
        self.filesystem.flush(handle)
        self.filesystem.release(handle)

    def settle(self) -> None:
        wait_until(lambda: not self.filesystem.waiting())

    def verify(self, path: str) -> None:
        self.settle()
        named(self.store)
        assert read(self.filesystem, path) == self.body


def patch_again(yard: Yard) -> str:
    yard.patch("/e/x", 2 * MIB + 77, 8)
    return "/e/x"


def replace_below_the_old_name(yard: Yard) -> str:
    """Another large file comes to the old name, is changed and goes."""
    filesystem = yard.filesystem
    filesystem.mkdir("/d", 0o755, ME)
    write(filesystem, "/d/x", noise(SIZE, 5))
    yard.settle()
    write(filesystem, "/d/x", noise(SIZE, 6))
    yard.settle()
    filesystem.unlink("/d/x")
    return "/e/x"


def move_back(yard: Yard) -> str:
    yard.filesystem.rename("/e", "/d")
    yard.patch("/d/x", 2 * MIB + 77, 8)
    return "/d/x"


def move_the_file(yard: Yard) -> str:
    yard.filesystem.rename("/e/x", "/z")
    yard.patch("/z", 2 * MIB + 77, 8)
    return "/z"


def remount(yard: Yard) -> str:
    yard.remount()
    return patch_again(yard)


def remount_without_change(yard: Yard) -> str:
    yard.remount()
    return "/e/x"


AFTERWARDS = [
    patch_again,
    replace_below_the_old_name,
    move_back,
    move_the_file,
    remount,
    remount_without_change,
]


@pytest.fixture(params=["sync", "settle=0.05"])
def yard(store: MemoryStore, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Yard]:
    with closing(Yard(store, tmp_path, request.param)) as built:
        yield built


def stored(yard: Yard) -> None:
    yard.filesystem.mkdir("/d", 0o755, ME)
    write(yard.filesystem, "/d/x", bytes(yard.body))
    write(yard.filesystem, "/d/y", b"y")
    yard.settle()


def end(yard: Yard, path: str) -> None:
    """Verify the file, then let nothing be left of it."""
    yard.verify(path)
    assert named(yard.store) == set(keys(yard.store, "box_segments"))
    yard.filesystem.unlink(path)
    yard.settle()
    assert keys(yard.store, "box_segments") == []


@pytest.mark.matrix(6)
@pytest.mark.parametrize("stop", ["copy", "delete_many"])
@pytest.mark.parametrize("afterwards", AFTERWARDS)
def test_what_is_changed_while_the_folder_moves(
    yard: Yard, pool: ThreadPoolExecutor, stop: str, afterwards: Callable[[Yard], str]
) -> None:
    stored(yard)
    filesystem = yard.filesystem
    handle = filesystem.open("/d/x", os.O_RDWR)
    yard.change(handle, MIB - 50, 1)
    halt = LateHalt(yard.store, stop)
    renamed = pool.submit(filesystem.rename, "/d", "/e")
    assert halt.reached.wait(20)
    yard.change(handle, 10, 2)
    closed = pool.submit(filesystem.release, handle)
    halt.go_on()
    renamed.result(20)
    closed.result(20)
    yard.store.hook = None
    yard.verify("/e/x")
    end(yard, afterwards(yard))


@pytest.mark.matrix(6)
@pytest.mark.parametrize("afterwards", AFTERWARDS)
@pytest.mark.parametrize("is_new", [False, True])
def test_segments_that_were_begun_under_the_old_name(
    yard: Yard, pool: ThreadPoolExecutor, afterwards: Callable[[Yard], str], is_new: bool
) -> None:
    """They are stored while the file is written; the manifest is put when it has its new name."""
    filesystem = yard.filesystem
    if is_new:
        filesystem.mkdir("/d", 0o755, ME)
        write(filesystem, "/d/y", b"y")
        handle = filesystem.create("/d/x", 0o644, os.O_RDWR, ME)
    else:
        stored(yard)
        handle = filesystem.open("/d/x", os.O_RDWR)
    before = len(keys(yard.store, "box_segments"))
    yard.body[:] = noise(SIZE, 3)
    for start in range(0, SIZE, 100_000):
        put(filesystem, handle, start, bytes(yard.body[start : start + 100_000]))

    def has_begun() -> bool:
        yard.change(handle, SIZE - 100, 4)  # a full segment rests until a later write
        return len(keys(yard.store, "box_segments")) > before

    wait_until(has_begun)
    halt = LateHalt(yard.store, "copy")
    renamed = pool.submit(filesystem.rename, "/d", "/e")
    assert halt.reached.wait(20)
    yard.change(handle, 10, 2)
    closed = pool.submit(filesystem.release, handle)
    halt.go_on()
    renamed.result(20)
    closed.result(20)
    yard.store.hook = None
    yard.verify("/e/x")
    end(yard, afterwards(yard))


@pytest.mark.matrix(4)
@pytest.mark.parametrize("afterwards", AFTERWARDS)
@pytest.mark.parametrize("method", ["put", "put_manifest"])
def test_an_outage_of_uploads_while_the_folder_moves(
    store: MemoryStore,
    tmp_path: Path,
    pool: ThreadPoolExecutor,
    method: str,
    afterwards: Callable[[Yard], str],
) -> None:
    """The change waits for Swift when the folder moves, which says why it cannot, and is moved again."""
    with closing(Yard(store, tmp_path, "settle=0.05")) as yard:
        stored(yard)
        filesystem = yard.filesystem

        def hook(called: str, subject: str) -> None:
            if called == method and "/x" in subject:
                raise Unavailable("no")

        store.hook = hook
        handle = filesystem.open("/d/x", os.O_RDWR)
        yard.change(handle, MIB - 50, 1)
        filesystem.flush(handle)
        renamed = pool.submit(filesystem.rename, "/d", "/e")
        yard.change(handle, 10, 2)
        closed = pool.submit(filesystem.release, handle)
        error = renamed.exception(60)
        closed.exception(60)
        named(store)
        store.hook = None
        if error is not None:
            filesystem.rename("/d", "/e")
        yard.verify("/e/x")
        end(yard, afterwards(yard))
