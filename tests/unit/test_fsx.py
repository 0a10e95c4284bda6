"""Random operations on a file of a file system without a kernel, compared byte by byte.

`SWIFTFS_FSX_SCALE=100` makes a run so many times longer. A failure shows its seed and its last operations.
"""

import hashlib
import os
import random
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.fsx import MIB, Exerciser, scale
from support.harness import ME, get, harness, put
from support.memory_store import MemoryStore
from swiftfs.objects import NOTHING, Manifest, ObjectName, Segment
from swiftfs.store.protocol import Headers

NAME = "file"


class BareFile:
    """A file of a file system over the store in memory."""

    def __init__(self, store: MemoryStore, folder: Path, options: str) -> None:
        self._store = store
        self._cache = folder / "cache"
        self._options = f"segment_size=1M,{options}"
        self._stack = ExitStack()
        self._mount()
        self._handles = [self._filesystem.create(f"/{NAME}", 0o644, os.O_RDWR, ME)]

    def _mount(self) -> None:
        self._cache.mkdir(exist_ok=True)
        self._filesystem = self._stack.enter_context(harness(self._store, self._cache, self._options))

    @property
    def _handle(self) -> int:
        return self._handles[-1]

    def _open(self) -> int:
        return self._filesystem.open(f"/{NAME}", os.O_RDWR)

    def read(self, offset: int, size: int) -> bytes:
        return get(self._filesystem, self._handle, offset, size)

    map_read = read

    def write(self, offset: int, data: bytes) -> None:
        put(self._filesystem, self._handle, offset, data)

    map_write = write

    def append(self, data: bytes) -> None:
        handle = self._filesystem.open(f"/{NAME}", os.O_WRONLY | os.O_APPEND)
        put(self._filesystem, handle, 0, data)
        self._close(handle)

    def truncate(self, size: int) -> None:
        self._filesystem.truncate_handle(self._handle, size)

    def truncate_path(self, size: int) -> None:
        self._filesystem.truncate(f"/{NAME}", size)

    def allocate(self, mode: int, offset: int, length: int) -> None:
        self._filesystem.fallocate(self._handle, mode, offset, length)

    def size(self) -> int:
        size = self._filesystem.getattr_handle(self._handle).size
        assert self._filesystem.getattr(f"/{NAME}").size == size
        return size

    def sync(self) -> None:
        self._filesystem.fsync(self._handle, False)

    def forget(self) -> None:
        """Do nothing: there is no cache above the file system."""

    def second_handle(self) -> None:
        self._handles.append(self._open())

    def reopen(self) -> None:
        self._close_all()
        self._handles = [self._open()]

    def remount(self, *, empty_cache: bool) -> None:
        self._close_all()
        self._stack.close()
        if empty_cache:
            shutil.rmtree(self._cache)
        self._mount()
        self._handles = [self._open()]

    def downloaded_md5(self) -> str:
        digest = hashlib.md5(usedforsecurity=False)
        self._store.get(ObjectName("box", NAME), lambda _, data: digest.update(data))
        return digest.hexdigest()

    def close(self) -> None:
        with self._stack:
            self._close_all()

    def _close(self, handle: int) -> None:
        try:
            self._filesystem.flush(handle)
        finally:
            self._filesystem.release(handle)

    def _close_all(self) -> None:
        while self._handles:
            self._close(self._handles.pop())


def pieces(store: MemoryStore, container: str, data: bytes, size: int) -> tuple[Segment, ...]:
    """Store the data as objects of `size` bytes each; return them as segments."""
    segments = []
    for number, start in enumerate(range(0, len(data), size)):
        part = data[start : start + size]
        name = ObjectName(container, f"parts/{number:08d}")
        segments.append(Segment(name, store.put(name, part, Headers("")).version.etag, len(part)))
    return tuple(segments)


def store_plain(store: MemoryStore, data: bytes) -> None:
    store.put(ObjectName("box", NAME), data, Headers("application/x-thing"))


def store_slo(store: MemoryStore, data: bytes) -> None:
    manifest = Manifest(pieces(store, "box_segments", data, MIB))
    store.put_manifest(ObjectName("box", NAME), manifest, Headers("application/x-thing"))


def store_odd_slo(store: MemoryStore, data: bytes) -> None:
    manifest = Manifest(pieces(store, "elsewhere", data, 700_001))
    store.put_manifest(ObjectName("box", NAME), manifest, Headers("application/x-thing"))


def store_dlo(store: MemoryStore, data: bytes) -> None:
    pieces(store, "elsewhere", data, 700_001)
    kept = {"X-Object-Manifest": "elsewhere/parts/"}
    store.put(ObjectName("box", NAME), b"", Headers("application/x-thing", NOTHING, kept))


@pytest.mark.usual
@pytest.mark.matrix(5)
@pytest.mark.parametrize("options", ["sync", "settle=0.01"])
@pytest.mark.parametrize("seed", [10, 11])
@pytest.mark.parametrize("begin", [None, store_plain, store_slo, store_odd_slo, store_dlo])
def test_random_operations_without_a_kernel(
    tmp_path: Path, seed: int, begin: Callable[[MemoryStore, bytes], None] | None, options: str
) -> None:
    store = MemoryStore("box", "box_segments", "elsewhere")
    start = random.Random(seed).randbytes(3 * MIB + 777) if begin else b""
    if begin:
        begin(store, start)
    made = BareFile(store, tmp_path, options)
    try:
        Exerciser(made, seed, 4 * MIB, start).run(500 * scale())
    finally:
        made.close()
