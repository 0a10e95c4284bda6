"""A sparse local file without a name: nothing is left behind, whatever happens to the process."""

import ctypes
import errno
import os
import tempfile
from pathlib import Path

from swiftfs.errors import os_error

_FALLOC_FL_KEEP_SIZE = 1
_FALLOC_FL_PUNCH_HOLE = 2
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def open_nameless(directory: Path) -> int:
    """Return the descriptor of a new empty file in `directory` that goes when it is closed."""
    try:
        return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            raise
    descriptor, name = tempfile.mkstemp(dir=directory)
    Path(name).unlink()
    return descriptor


def punch_hole(descriptor: int, offset: int, length: int) -> None:
    """Make `length` bytes from `offset` read as zeros and give their disk space back; keep the size."""
    if length <= 0:
        return
    if _libc.fallocate(descriptor, _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE, offset, length) == 0:
        return
    number = ctypes.get_errno()
    if number != errno.EOPNOTSUPP:
        raise os_error(number)
    zeros = bytes(1024 * 1024)
    while length > 0:
        written = os.pwrite(descriptor, zeros[: min(length, len(zeros))], offset)
        offset, length = offset + written, length - written
