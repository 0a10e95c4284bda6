"""Holes of local files: a disk that cannot say where data is must not make zeros of it."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.damaged_cache import CacheFolder
from support.noise import noise
from support.upload_rig import MIB, Writer
from swiftfs.filecache.block_map import BLOCK
from swiftfs.filecache.block_set import Blocks
from swiftfs.filecache.sparse_file import FrozenCopy, is_hole, next_data, next_hole

pytest_plugins = ["support.writer_fixtures"]


@pytest.fixture
def failing_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail with EIO wherever a program asks for the next data or hole."""
    lseek = os.lseek

    def fail(descriptor: int, position: int, whence: int) -> int:
        if whence in (os.SEEK_DATA, os.SEEK_HOLE):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return lseek(descriptor, position, whence)

    monkeypatch.setattr(os, "lseek", fail)


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """Open a file for reading."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def test_holes_are_found(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.seek(MIB)
        file.write(b"x" * MIB)
        file.truncate(4 * MIB)
    with opened(path) as file_:
        assert next_data(file_, 0, 4 * MIB) == MIB
        assert next_data(file_, 0, 1000) == 1000
        assert next_data(file_, 2 * MIB, 4 * MIB) == 4 * MIB
        assert next_hole(file_, MIB, 4 * MIB) == 2 * MIB
        assert next_hole(file_, MIB, MIB + 1000) == MIB + 1000
        assert next_data(file_, 9 * MIB, 10 * MIB) == next_hole(file_, 9 * MIB, 10 * MIB) == 10 * MIB
        assert is_hole(file_, 0, MIB)
        assert is_hole(file_, 2 * MIB, 4 * MIB)
        assert not is_hole(file_, 0, MIB + 1)


def test_where_holes_are_unknown_all_is_data() -> None:
    """`/proc` has no SEEK_DATA; lseek(2) says EINVAL."""
    with opened(Path("/proc/self/status")) as descriptor:
        with pytest.raises(OSError, match="Invalid argument"):
            os.lseek(descriptor, 0, os.SEEK_DATA)
        assert next_data(descriptor, 3, 10) == 3
        assert next_hole(descriptor, 3, 10) == 10
        assert not is_hole(descriptor, 3, 10)


@pytest.mark.usefixtures("failing_disk")
def test_a_failing_disk_is_no_hole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"data")
    with opened(path) as descriptor:
        for ask in (next_data, next_hole, is_hole):
            with pytest.raises(OSError, match="Input/output error"):
                ask(descriptor, 0, 4)


def test_no_zeros_are_stored_in_place_of_data_on_a_failing_disk(
    writer: Writer, request: pytest.FixtureRequest
) -> None:
    writer.write(0, noise(3 * MIB))
    request.getfixturevalue("failing_disk")
    with pytest.raises(OSError, match="Input/output error"):
        writer.run()


@pytest.mark.usefixtures("failing_disk")
def test_no_copy_of_a_busy_file_has_zeros_in_place_of_data(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * BLOCK)
    blocks = Blocks()
    blocks.add(0, 1)
    with opened(path) as descriptor, pytest.raises(OSError, match="Input/output error"):
        FrozenCopy(tmp_path).copy(descriptor, blocks, BLOCK)


@pytest.mark.usefixtures("failing_disk")
def test_no_export_has_zeros_in_place_of_data(tmp_path: Path) -> None:
    cache = CacheFolder(tmp_path)
    cache.add_file("/file", b"data", "open-1")
    cache.close()
    cache.export()
    assert cache.lines == ["/file: Input/output error"]
    assert not (cache.target / "file").exists()
