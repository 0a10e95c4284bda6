"""Reads the files that a user names in the configuration. They may be pipes; no read waits for ever."""

import errno
import os
import select
import stat
from collections.abc import Callable
from pathlib import Path

from swiftfs.concurrency import monotonic

PIPE_SECONDS = 10.0
"""How long a pipe may take: a password manager may ask its user."""

MOST_BYTES = 1024**2

_NOTHING = os.makedev(1, 3)
"""/dev/null, which stands for an empty file."""


def read_own_file(path: Path, check: Callable[[int], None]) -> str:
    """Return the text of a file or pipe that `check` accepts, given its open descriptor.

    Raise `OSError`, whose `strerror` is for users, for one that cannot be read, that is something else, or
    that takes too long; `UnicodeDecodeError` unless it is in UTF-8.
    """
    # Otherwise opening a FIFO waits until somebody writes to it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if stat.S_ISCHR(found.st_mode) and found.st_rdev == _NOTHING:
            return ""
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISFIFO(found.st_mode)):
            raise OSError(errno.EINVAL, "it is neither a file nor a pipe")
        check(descriptor)
        # `utf-8-sig`: editors of other systems begin a file with a byte order mark.
        return _read(descriptor).decode("utf-8-sig")
    finally:
        os.close(descriptor)


def _read(descriptor: int) -> bytes:
    # Not until the first read: a pipe to which nobody writes yet has ended, as read(2) sees it.
    incoming = select.poll()
    incoming.register(descriptor, select.POLLIN)
    end = monotonic() + PIPE_SECONDS
    read = b""
    while len(read) <= MOST_BYTES:
        if not incoming.poll(max(0.0, end - monotonic()) * 1000):
            raise TimeoutError(errno.ETIMEDOUT, f"its end did not come within {PIPE_SECONDS:.0f} seconds")
        piece = os.read(descriptor, 65536)
        if not piece:
            return read
        read += piece
    raise OSError(errno.EFBIG, f"it is longer than {MOST_BYTES} bytes")
