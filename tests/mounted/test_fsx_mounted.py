"""Random operations on a file of a real mount, compared byte by byte."""

import hashlib
import mmap
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from swiftclient import Connection

from support.fsx import KIB, MIB, Exerciser, scale
from support.mounts import Mount, swift_cli
from support.system_calls import fallocate
from support.tiers import chosen

NAME = "file"
FLAGS = os.O_RDWR | os.O_CREAT
NEW_SEEDS = chosen("fsx").sample(range(10**6), 5)


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

    def allocate(self, mode: int, offset: int, length: int) -> None:
        fallocate(self._file, mode, offset, length)

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
        digest = hashlib.md5(usedforsecurity=False)
        for part in self._connection.get_object(self._mount.source, NAME, resp_chunk_size=MIB)[1]:
            digest.update(part)
        return digest.hexdigest()

    def close(self) -> None:
        while self._handles:
            os.close(self._handles.pop())


@pytest.fixture
def file(mounted: Mount, connection: Connection) -> Iterator[MountedFile]:
    """A file of the real mount, created if it does not exist."""
    made = MountedFile(mounted, connection)
    yield made
    made.close()


IN_THE_BACKGROUND = pytest.mark.mount_options("segment_size=1M,settle=0.05")
"""Uploads run while the file is written to."""
SLOW_IN_THE_BACKGROUND = [IN_THE_BACKGROUND, pytest.mark.slow]


@pytest.mark.mount_options("segment_size=1M")
@pytest.mark.parametrize(
    ("seed", "limit", "count"),
    [
        # Each of these two remounts with an empty cache, and with the same.
        (19, 256 * KIB, 800),
        pytest.param(10, 3 * MIB + 5, 400, marks=IN_THE_BACKGROUND),
        # These find the more in many runs: each run has seeds of its own.
        pytest.param(NEW_SEEDS[0], 256 * KIB, 1500, marks=pytest.mark.slow, id="small"),
        pytest.param(NEW_SEEDS[1], 3 * MIB + 5, 600, marks=pytest.mark.slow, id="medium"),
        pytest.param(NEW_SEEDS[2], 64 * MIB, 250, marks=pytest.mark.slow, id="large"),
        pytest.param(NEW_SEEDS[3], 256 * KIB, 800, marks=SLOW_IN_THE_BACKGROUND, id="small, sent at once"),
        pytest.param(NEW_SEEDS[4], 3 * MIB + 5, 400, marks=SLOW_IN_THE_BACKGROUND, id="medium, sent at once"),
    ],
)
def test_random_operations_on_a_mount(file: MountedFile, seed: int, limit: int, count: int) -> None:
    print(f"seed {seed}")
    Exerciser(file, seed, limit).run(count * scale())


def upload_plain(swift_file: Path, mount: Mount) -> None:
    swift_cli(mount.swift, "upload", "--object-name", NAME, mount.source, swift_file)


def upload_slo(swift_file: Path, mount: Mount) -> None:
    words = ("upload", "-S", "700000", "--object-name", NAME, mount.source, swift_file)
    swift_cli(mount.swift, *words)


def upload_dlo(swift_file: Path, mount: Mount) -> None:
    words = ("upload", "-S", "700000", "--use-dlo", "--object-name", NAME, mount.source, swift_file)
    swift_cli(mount.swift, *words)


@pytest.mark.matrix(1)
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
