"""`swiftfs umount`: unmount, and wait until the mount's process has stored everything."""

import errno
import os
import select
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from swiftfs.errors import ConfigurationError, SwiftfsError

PID_ATTRIBUTE = "swiftfs.pid"
PENDING_ATTRIBUTE = "swiftfs.pending"
"""Read-only attributes of the mount's root: its process, and how many files wait for an upload."""


def unmount(mountpoint: Path, progress: Callable[[int], None]) -> None:
    """Unmount `mountpoint` and return when its process has ended, all uploads done.

    `progress` is called with the number of files that wait, as long as the mount answers. Raise
    `ConfigurationError` when nothing is mounted there or when it is in use.
    """
    try:
        pid = int(os.getxattr(mountpoint, PID_ATTRIBUTE))
        progress(int(os.getxattr(mountpoint, PENDING_ATTRIBUTE)))
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            detach(mountpoint)
            raise ConfigurationError(f"{mountpoint}: its process had died; it is unmounted now") from None
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            raise ConfigurationError(f"{mountpoint} is not a swiftfs mount") from None
        raise ConfigurationError(f"{mountpoint}: {error.strerror}") from None
    process = os.pidfd_open(pid)
    try:
        detach(mountpoint)
        select.select([process], [], [])
    finally:
        os.close(process)


def detach(mountpoint: Path) -> None:
    """Take the mount from the tree; raise `ConfigurationError` with fusermount's reason when it refuses."""
    command = shutil.which("fusermount") or shutil.which("fusermount3")
    if command is None:
        raise SwiftfsError("fusermount is missing: install the package fuse")
    result = subprocess.run([command, "-u", str(mountpoint)], capture_output=True, text=True, check=False)
    if result.returncode:
        reason = result.stderr.strip().removeprefix("fusermount: ")
        raise ConfigurationError(f"{reason or 'fusermount failed'} (a program may have files open there)")
