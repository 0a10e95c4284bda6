"""Random operations on a file of a real mount and of the bare file system, compared byte by byte.

`SWIFTFS_FSX_SCALE=100` makes a run so many times longer. A failure tells its seed and its last operations.
"""

import hashlib
import mmap
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from bench_filesystem import ME, bench, get, put
from fsx import KIB, MIB, Exerciser, scale
from memory_store import MemoryStore
from mounts import Mount, swift_cli
from swiftclient import Connection

from swiftfs.objects import NOTHING, Manifest, ObjectName, Segment
from swiftfs.store.protocol import Headers

NAME = "file"
FLAGS = os.O_RDWR | os.O_CREAT


class MountedFile:
    """The file on a real mount, through the kernel."""

    def __init__(self, mount: Mount, connection: Connection) -> None:
        self._mount = mount
        self._connection = connection
        self._path = mount.path / NAME
        self._handles = [os.open(self._path, FLAGS)]

    @property
    def _file(self) -> int:
        return self._handles[-1]

    def read(self, offset: int, size: int) -> bytes:
        parts = []
        while size and (part := os.pread(self._file, size, offset)):
            parts.append(part)
            offset, size = offset + len(part), size - len(part)
        return b"".join(parts)

    def write(self, offset: int, data: bytes) -> None:
        assert os.pwrite(self._file, data, offset) == len(data)

    def append(self, data: bytes) -> None:
        handle = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        try:
            assert os.write(handle, data) == len(data)
        finally:
            os.close(handle)

    def map_read(self, offset: int, size: int) -> bytes:
        with mmap.mmap(self._file, 0, prot=mmap.PROT_READ) as mapping:
            return mapping[offset : offset + size]

    def map_write(self, offset: int, data: bytes) -> None:
        with mmap.mmap(self._file, 0) as mapping:
            mapping[offset : offset + len(data)] = data

    def truncate(self, size: int) -> None:
        os.ftruncate(self._file, size)

    def truncate_path(self, size: int) -> None:
        os.truncate(self._path, size)

    def allocate(self, offset: int, length: int) -> None:
        os.posix_fallocate(self._file, offset, length)

    def size(self) -> int:
        size = os.fstat(self._file).st_size
        assert self._path.stat().st_size == size
        return size

    def sync(self) -> None:
        os.fsync(self._file)

    def forget(self) -> None:
        os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_DONTNEED)

    def second_handle(self) -> None:
        self._handles.append(os.open(self._path, os.O_RDWR))

    def reopen(self) -> None:
        self.close()
        self._handles = [os.open(self._path, os.O_RDWR)]

    def remount(self, *, empty_cache: bool) -> None:
        self.close()
        self._mount.remount(empty_cache=empty_cache)
        self._handles = [os.open(self._path, os.O_RDWR)]

    def downloaded_md5(self) -> str:
        body = self._connection.get_object(self._mount.source, NAME)[1]
        return hashlib.md5(body, usedforsecurity=False).hexdigest()

    def close(self) -> None:
        while self._handles:
            os.close(self._handles.pop())


class BareFile:
    """The file in a file system over the store in memory, without a kernel."""

    def __init__(self, store: MemoryStore, folder: Path, options: str) -> None:
        self._store = store
        self._cache = folder / "cache"
        self._options = f"segment_size=1M,{options}"
        self._stack = ExitStack()
        self._mount()
        self._handles = [self._filesystem.create(f"/{NAME}", 0o644, os.O_RDWR, ME)]

    def _mount(self) -> None:
        self._cache.mkdir(exist_ok=True)
        self._filesystem = self._stack.enter_context(bench(self._store, self._cache, self._options))

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

    def allocate(self, offset: int, length: int) -> None:
        self._filesystem.fallocate(self._handle, 0, offset, length)

    def size(self) -> int:
        size = self._filesystem.getattr_handle(self._handle).size
        assert self._filesystem.getattr(f"/{NAME}").size == size
        return size

    def sync(self) -> None:
        self._filesystem.fsync(self._handle, False)

    def forget(self) -> None:
        """Nothing lies above the file system."""

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


@pytest.fixture
def file(mounted: Mount, connection: Connection) -> Iterator[MountedFile]:
    """The file of the real mount, made if it is not there."""
    made = MountedFile(mounted, connection)
    yield made
    made.close()


IN_THE_BACKGROUND = pytest.mark.mount_options("segment_size=1M,settle=0.05")
"""Uploads run while the file is written to."""


@pytest.mark.matrix(2)
@pytest.mark.mount_options("segment_size=1M")
@pytest.mark.parametrize(
    ("seed", "limit", "count"),
    [
        (1, 256 * KIB, 3000),
        (2, 256 * KIB, 3000),
        (3, 256 * KIB, 2000),
        (4, 3 * MIB + 5, 1500),
        (5, 64 * MIB, 500),
        pytest.param(7, 256 * KIB, 2000, marks=IN_THE_BACKGROUND),
        pytest.param(8, 3 * MIB + 5, 1000, marks=IN_THE_BACKGROUND),
    ],
)
def test_random_operations_on_a_mount(file: MountedFile, seed: int, limit: int, count: int) -> None:
    Exerciser(file, seed, limit).run(count * scale())


def upload_plain(swift_file: Path, mount: Mount) -> None:
    swift_cli(mount.swift, "upload", "--object-name", NAME, mount.source, swift_file)


def upload_slo(swift_file: Path, mount: Mount) -> None:
    words = ("upload", "-S", "700000", "--object-name", NAME, mount.source, swift_file)
    swift_cli(mount.swift, *words)


def upload_dlo(swift_file: Path, mount: Mount) -> None:
    words = ("upload", "-S", "700000", "--use-dlo", "--object-name", NAME, mount.source, swift_file)
    swift_cli(mount.swift, *words)


@pytest.mark.matrix(2)
@pytest.mark.mount_options("segment_size=1M")
@pytest.mark.parametrize("upload", [upload_plain, upload_slo, upload_dlo])
def test_random_operations_on_what_another_client_uploaded(
    mounted: Mount, connection: Connection, tmp_path: Path, upload: Callable[[Path, Mount], None]
) -> None:
    start = random.Random(0).randbytes(3 * MIB + 777)
    local = tmp_path / "local"
    local.write_bytes(start)
    upload(local, mounted)
    made = MountedFile(mounted, connection)
    try:
        Exerciser(made, 6, 4 * MIB, start).run(150 * scale())
    finally:
        made.close()


def pieces(store: MemoryStore, container: str, data: bytes, size: int) -> tuple[Segment, ...]:
    """Store the data as objects of `size` bytes each and return them."""
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
