"""The versions of libfuse that are installed, for `swiftfs version`."""

import ctypes
import ctypes.util

from swiftfs.fuse.library import version_number
from swiftfs.fuse.loading import LIBFUSE3_NAMES


def libfuse2() -> str:
    """Return the version of the libfuse that fusepy loads, and its file; "" without one."""
    path = ctypes.util.find_library("fuse")
    return "" if path is None else _described(path)


def libfuse3() -> str:
    """Return the version of the libfuse that mfusepy loads, and its file; "" without one."""
    for name in (*LIBFUSE3_NAMES, ctypes.util.find_library("fuse3")):
        if name is not None and (text := _described(name)):
            return text
    return ""


def _described(path: str) -> str:
    try:
        library = ctypes.CDLL(path)
    except OSError:
        return ""
    major, minor = version_number(library.fuse_version())
    return f"{major}.{minor} ({path})"
