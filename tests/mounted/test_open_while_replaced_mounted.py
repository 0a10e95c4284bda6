"""What a program has of a file that it has open or mapped, when another client replaces the file.

These run in a real mount. The kernel has one size for each of its inodes, so the two versions need two.
"""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from mmap import MAP_SHARED, PROT_READ, mmap
from pathlib import Path

import pytest
from swiftclient import Connection

from support.jobs import wait_until
from support.mounts import Mount
from support.noise import noise

pytestmark = pytest.mark.mount_options("settle=0.2,ttl=1,read_ahead=0")

LONG, SHORT, LONGER = noise(300_017), noise(5_003, 1), noise(400_009, 2)
SIZES = [(LONG, SHORT), (SHORT, LONG), (LONG, LONGER), (LONG, b""), (LONG, noise(len(LONG), 3))]
FOLDERS = ["", "sub/folder/"]


def body_of(handle: int) -> bytes:
    """Return the bytes of an open file up to its end."""
    parts, offset = [], 0
    while part := os.pread(handle, 65536, offset):
        parts.append(part)
        offset += len(part)
    return b"".join(parts)


@contextmanager
def opened(path: Path, data: bytes, flags: int = os.O_RDONLY) -> Iterator[int]:
    """Open a file and read all of it."""
    handle = os.open(path, flags)
    try:
        assert body_of(handle) == data
        yield handle
    finally:
        os.close(handle)


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1


def append_by_shell(path: Path) -> None:
    subprocess.run(["sh", "-c", f": >> '{path}'"], check=True)


LOOKS: dict[str, Callable[[Path], object]] = {
    "ls": lambda path: subprocess.run(["ls", "-l", path.parent], check=True, capture_output=True),
    "stat": size_of,
    "cat": lambda path: subprocess.run(["cat", path], check=False, capture_output=True),
    "append": append_by_shell,
}
"""What other programs do with the name."""


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("sizes", SIZES)
def test_an_open_file_keeps_its_size_and_bytes(
    mounted: Mount, connection: Connection, container: str, sizes: tuple[bytes, bytes], look: str, folder: str
) -> None:
    old, new = sizes
    connection.put_object(container, f"{folder}file", old)
    path = mounted.path / f"{folder}file"
    with opened(path, old) as handle, opened(path, old) as second:
        mapped = mmap(handle, 0, MAP_SHARED, PROT_READ)
        connection.put_object(container, f"{folder}file", new)
        os.setxattr(mounted.path, "swift.refresh", b"1")
        LOOKS[look](path)
        wait_until(lambda: path.stat().st_size == len(new))
        for _ in range(2):
            assert body_of(handle) == old
            assert body_of(second) == old
            assert os.fstat(handle).st_size == len(old)
            assert mapped[:] == old
            assert path.read_bytes() == new
            assert path.stat().st_size == len(new)
        assert os.fstat(handle).st_ino != path.stat().st_ino
        assert [one.name for one in path.parent.iterdir()] == ["file"]
        mapped.close()
    assert path.read_bytes() == new
