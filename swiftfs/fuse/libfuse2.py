"""The binding on libfuse 2.9, by fusepy. Sources: `fuse.h` and `fuse_common.h` of libfuse 2.9.9."""

# ruff: noqa: ARG002  the callbacks have libfuse's arguments

import ctypes
import struct
from collections.abc import Mapping
from typing import Any, ClassVar

from swiftfs.fuse.binding import FUSE, SHARED_OPTIONS, OptionValue
from swiftfs.fuse.library import (
    UNKNOWN_INODE,
    Library,
    block_interrupt,
    has_ended,
    load_fusepy,
    unlock_stderr,
)
from swiftfs.fuse.operations import KernelReadAhead

LIBRARY = Library(load_fusepy())

REQUEST_BYTES = 131072
"""The largest read or write request that libfuse 2.9 can exchange with the kernel."""

STRUCT_BYTES = 256
"""How many bytes of `struct fuse` (fuse.c of libfuse 2.9) are searched; it is a little larger."""

Filler = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_longlong)
"""libfuse's `fuse_fill_dir_t`. It only copies into memory, so it is called with the GIL held."""

_int, _path, _address, _offset = ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_longlong
_callback = ctypes.CFUNCTYPE

_RETYPED = {
    "getattr": _callback(_int, _path, _address),
    "fgetattr": _callback(_int, _path, _address, _address),
    "readdir": _callback(_int, _path, _address, Filler, _offset, LIBRARY.file_info),
}

_ADDED = [
    ("poll", _callback(_int, _path, _address, _address, _address)),
    ("write_buf", _callback(_int, _path, _address, _offset, _address)),
    ("read_buf", _callback(_int, _path, _address, ctypes.c_size_t, _offset, _address)),
    ("flock", _callback(_int, _path, _address, _int)),
    ("fallocate", _callback(_int, _path, _int, _offset, _offset, _address)),
]


class FuseOperations(ctypes.Structure):
    """The complete `struct fuse_operations`; libfuse takes its size from the caller."""

    _fields_ = [
        *(
            (name, _RETYPED.get(name, kind), *bits)
            for name, kind, *bits in LIBRARY.module.fuse_operations._fields_
        ),
        *_ADDED,
    ]


_setup = LIBRARY.function(
    "fuse_setup", _address, _int, _address, _address, ctypes.c_size_t, _address, _address, _address
)
_loop = LIBRARY.function("fuse_loop_mt", _int, _address)
_teardown = LIBRARY.function("fuse_teardown", None, _address, _address)
_session = LIBRARY.function("fuse_get_session", _address, _address)
_channel = LIBRARY.function("fuse_session_next_chan", _address, _address, _address)
_descriptor = LIBRARY.function("fuse_chan_fd", _int, _address)


class FUSE2(FUSE):
    """A mount by libfuse 2.9."""

    libfuse = LIBRARY
    read_ahead = KernelReadAhead(REQUEST_BYTES)
    table_type = FuseOperations
    own_options: ClassVar[Mapping[str, OptionValue]] = {
        **SHARED_OPTIONS,
        # Without these three libfuse 2 gets 4 KiB with each write, and 1 GiB takes 20 s.
        "big_writes": True,
        "max_read": REQUEST_BYTES,
        "max_write": REQUEST_BYTES,
        "max_readahead": REQUEST_BYTES,
        # Our inode numbers: libfuse's own are given by path, and forgotten.
        "use_ino": True,
    }

    def run(self, options: bytes, mountpoint: bytes, table: ctypes.Structure) -> bool:
        """Mount, serve, unmount, by the calls of fuse_main(3)."""
        # With a handle no path is needed, and libfuse need not keep one for files that are gone.
        table.flag_nullpath_ok = table.flag_nopath = True
        # UTIME_NOW and UTIME_OMIT arrive unchanged (fuse.h of libfuse 2.9).
        table.flag_utime_omit_ok = True
        # `-f`: a process with threads must not fork. `service/daemon.py` has done that before.
        words = [b"swiftfs", b"-f", b"-o", options, mountpoint]
        arguments = (_path * len(words))(*words)
        place, threads = _address(), _int()
        unlock_stderr()
        connection = _setup(
            len(words),
            arguments,
            ctypes.addressof(table),
            ctypes.sizeof(table),
            ctypes.addressof(place),
            ctypes.addressof(threads),
            None,
        )
        if not connection:
            return True
        self._find_validity(connection)
        try:
            return bool(_loop(connection)) and not has_ended(
                _descriptor(_channel(_session(connection), None))
            )
        finally:
            block_interrupt()
            _teardown(connection, place)

    def _find_validity(self, connection: int) -> None:
        """Find the timeouts in `struct fuse`, which is libfuse's own: they stand together in it."""
        known = struct.pack("=4di", *self.timeouts.values(), 0.0, 1)  # then come those of `ac_attr_timeout`
        place = ctypes.string_at(connection, STRUCT_BYTES).find(known)
        if place >= 0:
            self.find_validity(connection + place + ctypes.sizeof(ctypes.c_double))

    def init(self, connection: int) -> None:
        """Begin."""
        self.begin()

    def fgetattr(self, path: bytes | None, stat: int, file_info: int) -> int | None:
        """Fill `struct stat` of an open file."""
        return self.getattr(path, stat, file_info)

    def readdir(self, path: bytes | None, buffer: int, filler: Any, offset: int, file_info: Any) -> None:
        """Pass the entries after `offset`, as many as libfuse takes."""
        # One image for all names: to make one for each would take longer than the call.
        image = LIBRARY.stat()
        stat = ctypes.addressof(image)
        entries = self.entries_after(offset, file_info.contents.fh)
        for place, (name, attributes) in enumerate(entries, offset + 1):
            image.st_ino, image.st_mode = attributes.inode or UNKNOWN_INODE, attributes.mode
            if filler(buffer, name, stat, place):
                return

    def ftruncate(self, path: bytes | None, length: int, file_info: Any) -> None:
        """Set the size of an open file."""
        self.filesystem.truncate_handle(file_info.contents.fh, length)
