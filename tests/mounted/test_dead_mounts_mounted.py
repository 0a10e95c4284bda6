"""A mount whose process was killed, while programs still have files and folders of it open."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from support.commands import swiftfs
from support.mounts import Mount
from support.system_calls import fails


@contextmanager
def killed_while_open(mount: Mount) -> Iterator[None]:
    """Kill the process of a mount; a folder and a file of it stay open, and its mount point stays mounted."""
    (mount.path / "file").write_bytes(b"closed")
    folder = os.open(mount.path, os.O_RDONLY | os.O_DIRECTORY)
    file = os.open(mount.path / "file", os.O_RDONLY)
    try:
        process = mount.take_process()
        process.kill()
        process.wait()
        yield
        with fails(errno.ENOTCONN):
            os.listdir(folder)  # noqa: PTH208  a descriptor
    finally:
        os.close(file)
        os.close(folder)


@pytest.mark.mount_options("settle=60")
def test_the_next_mount_replaces_it(mounted: Mount) -> None:
    with killed_while_open(mounted):
        mounted.start()
        assert (mounted.path / "file").read_bytes() == b"closed"


@pytest.mark.mount_options("settle=60")
def test_umount_removes_it(mounted: Mount) -> None:
    with killed_while_open(mounted):
        result = swiftfs("umount", mounted.path)
        assert result.returncode == 0
        assert f"{mounted.path} is unmounted; its process had died" in result.stderr
        assert list(mounted.path.iterdir()) == []
    mounted.start()
    assert (mounted.path / "file").read_bytes() == b"closed"
