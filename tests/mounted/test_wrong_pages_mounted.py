"""What the kernel keeps of bytes that arrived wrong, in a real mount."""

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from mmap import ACCESS_READ, mmap
from pathlib import Path

import pytest
from swiftclient import Connection

from support import mount_with_time_limits
from support.jobs import wait_until
from support.mounts import Mount
from support.noise import noise
from swiftfs.demo.server import Fault

SIZE = 9_000_000
"""Bytes of the file: larger than what is checked before it is read."""

NOT_MANIFEST = r"(?!.*multipart)"

Read = Callable[[], bytes]


def read_path(path: Path) -> Iterator[Read]:
    """Yield what opens the file anew, while nobody else has it open."""
    yield path.read_bytes


def read_handle(path: Path) -> Iterator[Read]:
    """Yield what reads by one handle, which stays open."""
    with path.open("rb", buffering=0) as file:
        yield lambda: b"".join(os.pread(file.fileno(), 65536, at) for at in range(0, SIZE, 65536))


def read_mapping(path: Path) -> Iterator[Read]:
    """Yield what reads a mapping of the file, whose handle is closed."""
    with path.open("rb") as file, closing(mmap(file.fileno(), 0, access=ACCESS_READ)) as mapped:
        file.close()
        yield lambda: mapped[:]


@pytest.fixture
def body() -> bytes:
    """The bytes of the file: in a module they would take memory in each worker."""
    return noise(SIZE)


def put(mounted: Mount, connection: Connection, container: str, body: bytes, *, large: bool) -> Path:
    """Store the body as a plain object or as a large one, which the mount has nothing of."""
    path = mounted.path / "file"
    if large:
        path.write_bytes(body)
        mounted.remount()
    else:
        connection.put_object(container, "file", body)
    return path


@pytest.mark.matrix(3)
@pytest.mark.parametrize("options", ["settle=0.2,segment_size=4M", "ro"])
@pytest.mark.parametrize("way", [read_path, read_handle, read_mapping])
def test_bytes_that_were_found_wrong_are_not_read_again(
    mounted: Mount,
    connection: Connection,
    container: str,
    body: bytes,
    way: Callable[[Path], Iterator[Read]],
    options: str,
) -> None:
    mounted.options = options
    mounted.remount()
    path = put(mounted, connection, container, body, large=options != "ro")
    mounted.swift.inject(Fault("GET", f"/{container}/file{NOT_MANIFEST}", flip_byte=True, times=1))
    with contextmanager(way)(path) as read:
        assert read() != body
        wait_until(lambda: read() == body)
        with path.open("rb") as file:
            assert file.read(4096) == body[:4096]


def test_bytes_that_stay_wrong_are_an_error_of_every_read(
    mounted: Mount, connection: Connection, container: str, body: bytes
) -> None:
    mounted.program = (mount_with_time_limits.__file__, "30", "3")  # not 25 seconds of wrong answers
    mounted.remount()
    connection.put_object(container, "file", body)
    mounted.expected += ["twice", "EIO"]
    mounted.swift.inject(Fault("GET", f"/{container}/file", flip_byte=True))
    with (mounted.path / "file").open("rb", buffering=0) as file:

        def is_refused() -> bool:
            with suppress(OSError):
                os.lseek(file.fileno(), 0, os.SEEK_SET)
                while file.read(65536):
                    pass
                return False
            return True

        wait_until(is_refused)
        assert is_refused()


@pytest.mark.mount_options("settle=0.2")
def test_a_write_to_a_mapping_stores_no_byte_that_was_found_wrong(
    mounted: Mount, connection: Connection, container: str, body: bytes
) -> None:
    connection.put_object(container, "file", body)
    mounted.swift.inject(Fault("GET", f"/{container}/file", flip_byte=True, times=1))
    with (mounted.path / "file").open("r+b") as file, closing(mmap(file.fileno(), 0)) as mapped:
        assert mapped[:] != body
        wait_until(lambda: mapped[:] == body)
        mapped[1:6] = b"patch"
        mapped.flush()
    mounted.stop()
    assert connection.get_object(container, "file")[1] == body[:1] + b"patch" + body[6:]
