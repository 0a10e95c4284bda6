"""System calls that Python does not have, or only without their flags, and the errno of any."""

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]

_AT_FDCWD = -100

NOREPLACE, EXCHANGE = 1, 2
"""Flags of renameat2(2)."""

KEEP_SIZE, PUNCH_HOLE, COLLAPSE_RANGE, ZERO_RANGE = 1, 2, 8, 16
"""Modes of fallocate(2), from `linux/falloc.h`."""


@contextmanager
def fails(number: int) -> Iterator[None]:
    """Expect an `OSError` of this errno."""
    with pytest.raises(OSError) as caught:  # noqa: PT011  the errno is compared below
        yield
    assert errno.errorcode[caught.value.errno or 0] == errno.errorcode[number]


def renameat2(old: Path, new: Path, flags: int) -> None:
    """Rename a file; raise `OSError`."""
    _check(_libc.renameat2(_AT_FDCWD, bytes(old), _AT_FDCWD, bytes(new), flags))


def fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    """Allocate, punch or zero a part of a file, without the writes by which glibc replaces a missing call.

    Raise `OSError`.
    """
    _check(_libc.fallocate(descriptor, mode, offset, length))


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
