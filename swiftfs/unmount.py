"""`swiftfs umount`: unmount, and wait until the mount's process has stored everything."""

import errno
import os
import select
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from swiftfs.attributes import CACHE_ATTRIBUTE, PID_ATTRIBUTE
from swiftfs.drain import Drain
from swiftfs.errors import ConfigurationError, SwiftfsError
from swiftfs.status import mountpoints

POLL_SECONDS = 0.2
"""Between two looks at how much still waits."""


class ProcessDied(ConfigurationError):
    """There was no process to wait for; the mount is taken away all the same."""


def unmount(mountpoint: Path, progress: Callable[[int], None]) -> None:
    """Unmount `mountpoint` and return when its process has ended, all uploads done.

    `progress` is called now and then with the number of files and deletions that still wait. Raise
    `ConfigurationError` when nothing is mounted there or when it is in use, `ProcessDied` when nobody served
    it any more, `SwiftfsError` when something could not be stored.
    """
    mountpoint = mountpoint.resolve()  # fusermount(1) knows a mount by its own path only
    try:
        pid = int(os.getxattr(mountpoint, PID_ATTRIBUTE))
        cache = Path(os.fsdecode(os.getxattr(mountpoint, CACHE_ATTRIBUTE)))
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            detach(mountpoint)
            raise ProcessDied(f"{mountpoint}: its process had died; it is unmounted now") from None
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
        while not select.select([process], [], [], POLL_SECONDS)[0]:
            progress(Drain.read(cache).waiting)
    finally:
        os.close(process)
    if failure := Drain.read(cache).failure:
        raise SwiftfsError(f"{mountpoint} is unmounted, but {failure}")


def died(mountpoint: Path) -> bool:
    """Say whether a swiftfs is mounted there whose process was killed."""
    try:
        # Not stat(2), which the kernel may answer for a second more.
        os.close(os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY))
    except OSError as error:
        # The folder above is resolved alone: of a dead mount itself nothing can be asked.
        place = mountpoint.parent.resolve() / mountpoint.name
        return error.errno == errno.ENOTCONN and place in mountpoints()
    return False


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
