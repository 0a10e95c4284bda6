"""The process of a mount has died: what the kernel answers then is told as that."""

import errno
from pathlib import Path

import pytest

from swiftfs.errors import DeadMount, mount_error, mount_point_error, os_error


@pytest.mark.parametrize("number", [errno.ENOTCONN, errno.ECONNABORTED])
def test_a_call_that_fails_for_a_dead_process(number: int) -> None:
    for told in (mount_error, mount_point_error):
        error = told(Path("/mnt"), os_error(number, "/mnt"))
        assert isinstance(error, DeadMount)
        assert str(error).startswith("/mnt: its process has died: ")
