"""Finds libfuse, its version and what binds it to Python, and says in words what is missing."""

import ctypes
import ctypes.util
import importlib
import os
from typing import Any

from swiftfs.errors import ConfigurationError
from swiftfs.fuse.library import version_number

LIBFUSE3_NAMES = ("libfuse3.so.4", "libfuse3.so.3")
"""The names of the libraries whose structs this release knows, the newer first."""

OLDEST_LIBFUSE3, NEWEST_LIBFUSE3 = (3, 2), (3, 18)
"""The versions of libfuse 3 whose structs were compared with mfusepy's and ours."""

LIBFUSE2 = "libfuse 2 is not installed: apt install fuse3 libfuse2"
LIBFUSE3 = "libfuse 3 is not installed: apt install fuse3"
MFUSEPY = "libfuse 3 needs the Python package mfusepy: pip install 'swiftfs[fuse3]'"

ADVICE = "mount with -o fuse=2, or install a newer swiftfs"
"""What to do about a libfuse 3 that is not known."""

LIBFUSE2_NAME = "libfuse.so.2"
_PATH_VARIABLE = "FUSE_LIBRARY_PATH"
"""By this variable mfusepy, as fusepy, is told which library it binds. INVARIANT: it is never removed, for
another thread may be reading the environment."""


def load_fusepy() -> Any:
    """Return fusepy's module, which loads libfuse 2 when it is imported."""
    if os.environ.get(_PATH_VARIABLE) in LIBFUSE3_NAMES:
        os.environ[_PATH_VARIABLE] = LIBFUSE2_NAME
    try:
        return importlib.import_module("fuse")
    except OSError as error:
        raise ConfigurationError(LIBFUSE2) from error


def load_mfusepy() -> Any:
    """Return mfusepy's module, bound to libfuse 3."""
    os.environ[_PATH_VARIABLE] = libfuse3_path()
    try:
        return importlib.import_module("mfusepy")
    except ImportError as error:
        raise ConfigurationError(MFUSEPY) from error


def libfuse3_path() -> str:
    """Return the name by which libfuse 3 is loaded; refuse one whose structs are not known."""
    for name in LIBFUSE3_NAMES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        check_version(version_number(library.fuse_version()), name)
        return name
    raise ConfigurationError(LIBFUSE3)


def check_version(version: tuple[int, int], name: str) -> None:
    """Raise `ConfigurationError` for a libfuse 3 whose structs are not known."""
    if not OLDEST_LIBFUSE3 <= version <= NEWEST_LIBFUSE3:
        raise ConfigurationError(
            f"libfuse {_dotted(version)} ({name}) is not known to this release of swiftfs, which knows "
            f"{_dotted(OLDEST_LIBFUSE3)} to {_dotted(NEWEST_LIBFUSE3)}: {ADVICE}"
        )


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


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
