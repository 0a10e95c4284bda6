"""Directory streams of the C library, of which Python shows a part only: telldir, seekdir, rewinddir."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fdopendir.restype = ctypes.c_void_p
_libc.readdir64.restype = ctypes.c_void_p
_libc.telldir.restype = ctypes.c_long
_libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
for _function in ("readdir64", "telldir", "rewinddir", "closedir"):
    getattr(_libc, _function).argtypes = [ctypes.c_void_p]

_NAME = 19
"""Where the name is in `struct dirent64`."""


class DirectoryStream:
    """An open folder."""

    def __init__(self, stream: int) -> None:
        self._stream = stream

    def read(self) -> str | None:
        """Return the next name, None at the end; raise `OSError`."""
        ctypes.set_errno(0)
        entry = _libc.readdir64(self._stream)
        if entry:
            return ctypes.string_at(entry + _NAME).decode()
        if number := ctypes.get_errno():
            raise OSError(number, os.strerror(number))
        return None

    def rest(self) -> list[str]:
        """Return all names from here on."""
        return list(iter(self.read, None))

    def tell(self) -> int:
        return int(_libc.telldir(self._stream))

    def seek(self, place: int) -> None:
        _libc.seekdir(self._stream, place)

    def rewind(self) -> None:
        _libc.rewinddir(self._stream)


@contextmanager
def directory_stream(path: Path) -> Iterator[DirectoryStream]:
    """Open a folder."""
    stream = _libc.fdopendir(os.open(path, os.O_RDONLY | os.O_DIRECTORY))
    assert stream
    try:
        yield DirectoryStream(stream)
    finally:
        _libc.closedir(stream)


def read_in_small_parts(path: Path, size: int) -> list[str]:
    """Return the names in a folder, read by getdents64(2) into a buffer of `size` bytes."""
    number = {"x86_64": 217, "aarch64": 61}[os.uname().machine]
    found, buffer = [], ctypes.create_string_buffer(size)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        while (count := _libc.syscall(number, descriptor, buffer, size)) > 0:
            entry = ctypes.addressof(buffer)
            end = entry + count
            while entry < end:
                found.append(ctypes.string_at(entry + _NAME).decode())
                entry += ctypes.c_ushort.from_address(entry + 16).value
    finally:
        os.close(descriptor)
    assert count == 0
    return found
