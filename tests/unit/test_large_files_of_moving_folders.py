"""A large file below a folder that moves, changed meanwhile: its manifest keeps every segment it names.

Segments uploaded before the move are below the old name, and the manifest has the new one.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from support.deadlines import within
from support.halted_moves import Halt
from support.harness import ME, harness, put, read, write
from support.jobs import wait_until
from support.memory_store import MemoryStore
from support.noise import noise
from support.stored_objects import keys, refuse, ten_minutes_later
from support.upload_rig import MIB
from swiftfs.errors import BadRequest, Unavailable
from swiftfs.objects import ObjectName
from swiftfs.posix.filesystem import FileSystem

OPTIONS = "segment_size=1M"
SIZE = 3 * MIB + 1000


pytestmark = pytest.mark.store(MemoryStore, "box", "box_segments")


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads


def named(store: MemoryStore) -> set[str]:
    """Return the segments that existing manifests name; assert that each exists."""
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
    """A `Halt` that begins with the move's first copy."""

    _copied = False

    def _hook(self, method: str, subject: str) -> None:
        self._copied = self._copied or method == "copy"
        if self._copied:
            super()._hook(method, subject)


class LargeFileRig:
    """A mount with a folder that has one large file, and the bytes that it must hold."""

    def __init__(self, store: MemoryStore, cache: Path, settle: str) -> None:
        self.store = store
        self._cache, self._options = cache, f"{OPTIONS},{settle}"
        self.body = bytearray(noise(SIZE))
        self._enter()

    def _enter(self) -> None:
        self._bench = harness(self.store, self._cache, self._options)
        self.filesystem: FileSystem = self._bench.__enter__()

    def close(self) -> None:
        self._bench.__exit__(None, None, None)

    def remount(self) -> None:
        self.close()
        self._enter()

    def wait_ten_minutes(self) -> None:
        self.close()
        ten_minutes_later(self.store, self._cache)
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


def patch_again(rig: LargeFileRig) -> str:
    rig.patch("/e/x", 2 * MIB + 77, 8)
    return "/e/x"


def replace_below_the_old_name(rig: LargeFileRig) -> str:
    """Create another large file under the old name, change and delete it."""
    filesystem = rig.filesystem
    filesystem.mkdir("/d", 0o755, ME)
    write(filesystem, "/d/x", noise(SIZE, 5))
    rig.settle()
    write(filesystem, "/d/x", noise(SIZE, 6))
    rig.settle()
    filesystem.unlink("/d/x")
    return "/e/x"


def move_back(rig: LargeFileRig) -> str:
    rig.filesystem.rename("/e", "/d")
    rig.patch("/d/x", 2 * MIB + 77, 8)
    return "/d/x"


def move_the_file(rig: LargeFileRig) -> str:
    rig.filesystem.rename("/e/x", "/z")
    rig.patch("/z", 2 * MIB + 77, 8)
    return "/z"


def remount(rig: LargeFileRig) -> str:
    rig.remount()
    return patch_again(rig)


def remount_without_change(rig: LargeFileRig) -> str:
    rig.remount()
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
def rig(store: MemoryStore, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[LargeFileRig]:
    with closing(LargeFileRig(store, tmp_path, request.param)) as built:
        yield built


def stored(rig: LargeFileRig) -> None:
    rig.filesystem.mkdir("/d", 0o755, ME)
    write(rig.filesystem, "/d/x", bytes(rig.body))
    write(rig.filesystem, "/d/y", b"y")
    rig.settle()


def end(rig: LargeFileRig, path: str, *, is_lost: bool = False) -> None:
    """Verify the file, then let nothing be left of it: soon, or if a manifest `is_lost` in ten minutes."""
    rig.verify(path)
    if is_lost:
        rig.wait_ten_minutes()
    assert named(rig.store) == set(keys(rig.store, "box_segments"))
    rig.filesystem.unlink(path)
    rig.settle()
    if is_lost:
        rig.wait_ten_minutes()
    assert keys(rig.store, "box_segments") == []


def change_while_it_moves(rig: LargeFileRig, pool: ThreadPoolExecutor, handle: int, stop: str) -> None:
    """Rename /d to /e, and change and close the file during the first request of method `stop`."""
    halt = LateHalt(rig.store, stop)
    renamed = pool.submit(rig.filesystem.rename, "/d", "/e")
    assert halt.reached.wait(within(20))
    rig.change(handle, 10, 2)
    closed = pool.submit(rig.filesystem.release, handle)
    halt.go_on()
    renamed.result(within(20))
    closed.result(within(20))
    rig.store.hook = None
    rig.verify("/e/x")


@pytest.mark.matrix(6)
@pytest.mark.parametrize("stop", ["copy", "delete_many"])
@pytest.mark.parametrize("afterwards", AFTERWARDS)
def test_changes_while_the_folder_moves_keep_all_segments(
    rig: LargeFileRig, pool: ThreadPoolExecutor, stop: str, afterwards: Callable[[LargeFileRig], str]
) -> None:
    stored(rig)
    filesystem = rig.filesystem
    handle = filesystem.open("/d/x", os.O_RDWR)
    rig.change(handle, MIB - 50, 1)
    change_while_it_moves(rig, pool, handle, stop)
    end(rig, afterwards(rig))


@pytest.mark.matrix(6)
@pytest.mark.parametrize("afterwards", AFTERWARDS)
@pytest.mark.parametrize("is_new", [False, True])
def test_segments_that_were_begun_under_the_old_name(
    rig: LargeFileRig, pool: ThreadPoolExecutor, afterwards: Callable[[LargeFileRig], str], is_new: bool
) -> None:
    """They are uploaded while the file is written; the manifest is stored under the new name."""
    filesystem = rig.filesystem
    if is_new:
        filesystem.mkdir("/d", 0o755, ME)
        write(filesystem, "/d/y", b"y")
        handle = filesystem.create("/d/x", 0o644, os.O_RDWR, ME)
    else:
        stored(rig)
        handle = filesystem.open("/d/x", os.O_RDWR)
    before = len(keys(rig.store, "box_segments"))
    rig.body[:] = noise(SIZE, 3)
    for start in range(0, SIZE, 100_000):
        put(filesystem, handle, start, bytes(rig.body[start : start + 100_000]))

    def has_begun() -> bool:
        rig.change(handle, SIZE - 100, 4)  # full segments are uploaded at a later write
        return len(keys(rig.store, "box_segments")) > before

    wait_until(has_begun)
    change_while_it_moves(rig, pool, handle, "copy")
    end(rig, afterwards(rig))


def is_renamed(filesystem: FileSystem) -> bool:
    """Rename the folder; return False if an upload that began in the outage has failed only now."""
    try:
        filesystem.rename("/d", "/e")
    except Unavailable:
        return False
    return True


@pytest.mark.matrix(6)
@pytest.mark.parametrize("afterwards", AFTERWARDS)
@pytest.mark.parametrize("method", ["put", "put_manifest"])
def test_an_outage_of_uploads_while_the_folder_moves(
    store: MemoryStore,
    tmp_path: Path,
    pool: ThreadPoolExecutor,
    method: str,
    afterwards: Callable[[LargeFileRig], str],
) -> None:
    """The pending change lets the rename fail, with the reason; after the outage it succeeds."""
    with closing(LargeFileRig(store, tmp_path, "settle=0.05")) as rig:
        stored(rig)
        filesystem = rig.filesystem

        refuse(store, method, Unavailable, about="/x")
        handle = filesystem.open("/d/x", os.O_RDWR)
        rig.change(handle, MIB - 50, 1)
        filesystem.flush(handle)
        renamed = pool.submit(filesystem.rename, "/d", "/e")
        rig.change(handle, 10, 2)
        closed = pool.submit(filesystem.release, handle)
        error = renamed.exception(60)
        closed.exception(60)
        named(store)
        store.hook = None
        if error is not None:
            wait_until(lambda: is_renamed(filesystem))
        rig.verify("/e/x")
        end(rig, afterwards(rig), is_lost=method == "put_manifest")
