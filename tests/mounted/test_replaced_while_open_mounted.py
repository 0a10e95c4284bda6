"""A file that another client replaces while it is open: handles keep the old version.

These run in a real mount.
"""

import errno
import os
from pathlib import Path

import pytest
from swiftclient import Connection

from support.jobs import wait_until
from support.mounts import Mount
from support.noise import noise
from swiftfs.filecache.block_map import BLOCK

SIZE = 3 * 1024 * 1024
OLD, NEW, NEWER = noise(SIZE), noise(SIZE - 5, 1), noise(SIZE, 2)
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
        assert b"".join(os.pread(old, BLOCK, at) for at in range(0, SIZE, BLOCK)) == OLD
        connection.put_object(container, "file", NEWER)
        wait_until(lambda: shows(path, NEWER))
        for _ in range(3):
            assert b"".join(os.pread(old, BLOCK, at) for at in range(0, SIZE, BLOCK)) == OLD
            assert path.read_bytes() == NEWER
        assert b"".join(os.pread(old, BLOCK, at) for at in range(0, SIZE, BLOCK)) == OLD
    finally:
        os.close(old)
    assert path.read_bytes() == NEWER
