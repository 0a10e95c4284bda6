"""A file that another client replaces while it is open: handles keep the old version.

These run in a real mount.
"""

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from swiftclient import Connection

from support.jobs import wait_until
from support.mounts import Mount
from support.noise import NEW, NEWER, OLD
from swiftfs.filecache.block_map import BLOCK

pytestmark = pytest.mark.mount_options("settle=0.2,ttl=1,read_ahead=0")


def shows(path: Path, data: bytes) -> bool:
    """Return whether a file holds these bytes; False if its version is gone."""
    try:
        return path.read_bytes() == data
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
        return False


def test_programs_get_the_new_version_while_an_old_handle_is_open(
    mounted: Mount, connection: Connection, container: str
) -> None:
    connection.put_object(container, "file", OLD)
    path = mounted.path / "file"
    mounted.expected.append("ESTALE")
    old = os.open(path, os.O_RDONLY)
    try:
        assert os.pread(old, BLOCK, 0) == OLD[:BLOCK]
        connection.put_object(container, "file", NEW)
        wait_until(lambda: shows(path, NEW))
        assert os.pread(old, BLOCK, 0) == OLD[:BLOCK]
        assert path.read_bytes() == NEW
        with pytest.raises(OSError, match="Stale"):
            os.pread(old, BLOCK, 8 * BLOCK)
        with path.open("ab") as stream:
            stream.write(b"more")
            stream.flush()
            os.fsync(stream.fileno())
        assert connection.get_object(container, "file")[1] == NEW + b"more"
        assert os.pread(old, BLOCK, 0) == OLD[:BLOCK]
    finally:
        os.close(old)
    assert path.read_bytes() == NEW + b"more"
    connection.put_object(container, "file", NEWER)
    wait_until(lambda: shows(path, NEWER))


def test_the_page_cache_has_no_page_of_the_old_version(
    mounted: Mount, connection: Connection, container: str
) -> None:
    """Both have one size, and the old handle reads last."""
    connection.put_object(container, "file", OLD)
    path = mounted.path / "file"
    mounted.expected.append("ESTALE")
    old = os.open(path, os.O_RDONLY)
    try:
        assert b"".join(os.pread(old, BLOCK, at) for at in range(0, len(OLD), BLOCK)) == OLD
        connection.put_object(container, "file", NEWER)
        wait_until(lambda: shows(path, NEWER))
        for _ in range(3):
            assert b"".join(os.pread(old, BLOCK, at) for at in range(0, len(OLD), BLOCK)) == OLD
            assert path.read_bytes() == NEWER
        assert b"".join(os.pread(old, BLOCK, at) for at in range(0, len(OLD), BLOCK)) == OLD
    finally:
        os.close(old)
    assert path.read_bytes() == NEWER


@pytest.mark.matrix(1)
@pytest.mark.mount_options("settle=0.1,ttl=60,read_ahead=0")
@pytest.mark.parametrize("is_seen", [False, True])
def test_a_version_that_was_there_before_is_read_when_another_client_restores_it(
    mounted: Mount, connection: Connection, container: str, is_seen: bool
) -> None:
    """It has the mtime and size that the kernel knows from before this mount's change."""
    connection.put_object(container, "backup", OLD, headers={"X-Object-Meta-Mtime": "1700000000.5"})
    path = mounted.path / "file"
    for _ in range(3):
        connection.copy_object(container, "backup", f"/{container}/file")
        os.setxattr(mounted.path, "swift.refresh", b"1")
        if is_seen:
            assert path.read_bytes() == OLD
        with path.open("r+b") as stream:
            stream.write(b"ours")
            stream.flush()
            os.fsync(stream.fileno())
        if is_seen:
            assert path.read_bytes() == b"ours" + OLD[4:]
        connection.copy_object(container, "backup", f"/{container}/file")
        os.setxattr(mounted.path, "swift.refresh", b"1")
        assert path.read_bytes() == OLD


@pytest.mark.mount_options("settle=0.1,ttl=60,read_ahead=0")
def test_a_version_with_the_mtime_and_size_of_the_one_before_is_read(
    mounted: Mount, connection: Connection, container: str
) -> None:
    path = mounted.path / "file"
    for data in (OLD, NEWER, OLD):
        connection.put_object(container, "file", data, headers={"X-Object-Meta-Mtime": "1700000000.5"})
        os.setxattr(mounted.path, "swift.refresh", b"1")
        assert path.read_bytes() == data
        assert path.read_bytes() == data


@pytest.mark.mount_options("settle=0.1,ttl=60,read_ahead=0")
@pytest.mark.parametrize("sizes", [(3000, 9000), (300_000, 3000), (3000, 1_250_009)])
def test_a_program_appends_at_the_end_of_the_version_that_it_opens(
    mounted: Mount, connection: Connection, container: str, sizes: tuple[int, int]
) -> None:
    """The kernel has the size of the version before for a second."""
    before, after = sizes
    path = mounted.path / "file"
    for count in range(5):
        connection.put_object(container, "file", OLD[: before + count])
        os.setxattr(mounted.path, "swift.refresh", b"1")
        assert path.stat().st_size == before + count
        connection.put_object(container, "file", NEW[: after + count])
        os.setxattr(mounted.path, "swift.refresh", b"1")
        with path.open("r+b") as stream:
            stream.seek(0, os.SEEK_END)
            stream.write(b"at the end")
            stream.flush()
            os.fsync(stream.fileno())
        assert connection.get_object(container, "file")[1] == NEW[: after + count] + b"at the end"
        assert path.read_bytes() == NEW[: after + count] + b"at the end"


@pytest.mark.slow
@pytest.mark.mount_options("settle=0.1,ttl=0,read_ahead=0")
def test_a_file_can_be_opened_while_another_client_changes_its_size_all_the_time(
    mounted: Mount, connection: Connection, container: str
) -> None:
    """The kernel looks the file up again once, and not a second time."""
    connection.put_object(container, "file", NEW[:1000])
    path, is_done = mounted.path / "file", threading.Event()

    def change() -> int:
        count = 1
        while not is_done.is_set():
            count += 1
            connection.put_object(container, "file", NEW[: 1000 * (count % 20 + 1)])
        return count

    mounted.expected.append("ESTALE")
    with ThreadPoolExecutor(1) as pool:
        changes = pool.submit(change)
        try:
            for _ in range(25):
                os.close(os.open(path, os.O_RDONLY))
        finally:
            is_done.set()
    assert changes.result() > 10
