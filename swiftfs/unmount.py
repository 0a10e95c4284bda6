"""`swiftfs umount`: unmount, and wait until the mount's process has stored everything."""

import errno
import os
import select
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from swiftfs.attributes import PENDING_ATTRIBUTE, PID_ATTRIBUTE
from swiftfs.errors import ConfigurationError, SwiftfsError


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
    try:
        process = os.pidfd_open(pid)
    except OSError as error:
        raise ConfigurationError(
            f"{mountpoint}: its process {pid} cannot be found: {error.strerror}"
        ) from None
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
        reason = result.stderr.strip().rpartition(": ")[2] or f"fusermount ended with {result.returncode}"
        hint = " (a program has a file or folder open there)" if "busy" in reason else ""
        raise ConfigurationError(f"cannot unmount {mountpoint}: {reason}{hint}")
