"""C data that both libfuse versions share: packed `stat` images, and buffers that are ranges of files.

Pointers that a callback only fills are addresses here (`c_void_p`), because building a ctypes pointer object
costs more than the callback itself.
"""

import ctypes
import struct
from collections.abc import Callable
from operator import itemgetter
from typing import Any

from swiftfs.objects import Attributes

UTIME_NOW = (1 << 30) - 1
UTIME_OMIT = (1 << 30) - 2
"""Special values of `tv_nsec` in utimensat(2)."""

UNKNOWN_INODE = 0xFFFFFFFF
"""What libfuse itself gives an entry without an inode; 0 would hide the entry from readdir(3)."""

PREFERRED_IO = 131072
"""`st_blksize` in bytes: stdio and cp then send writes as large as one request of libfuse 2.

Not more, because programs also read so much at a time: each seek of stdio, and `wc -c` the end of a file.
It is a block of the file cache, so that no more is downloaded for them than for one byte.
"""

_STAT_VALUES = (
    *("inode", "mode", "links", "uid", "gid", "size", "blksize", "blocks"),
    *("seconds", "nanoseconds", "device", "atime", "atime_rest", "ctime", "ctime_rest"),
)
_STAT_FIELDS = {
    "st_ino": ("inode",),
    "st_mode": ("mode",),
    "st_nlink": ("links",),
    "st_uid": ("uid",),
    "st_gid": ("gid",),
    "st_rdev": ("device",),
    "st_size": ("size",),
    "st_blksize": ("blksize",),
    "st_blocks": ("blocks",),
    "st_atimespec": ("atime", "atime_rest"),
    "st_mtimespec": ("seconds", "nanoseconds"),
    "st_ctimespec": ("ctime", "ctime_rest"),
}
_SIGNED = {"size", "blocks", "seconds", "nanoseconds", "atime", "atime_rest", "ctime", "ctime_rest"}
_CODES = {2: "H", 4: "I", 8: "Q"}


def stat_layout(kind: Any) -> tuple[struct.Struct, "itemgetter[Any]"]:
    """Return the packed form of a platform's `struct stat` and the order in which it takes `_STAT_VALUES`.

    `kind` is the ctypes structure of that platform; unknown fields stay zero.
    """
    order: list[int] = []
    pattern, end = "=", 0
    for name in sorted(_STAT_FIELDS, key=lambda name: getattr(kind, name).offset):
        place, values = getattr(kind, name), _STAT_FIELDS[name]
        pattern += f"{place.offset - end}x"
        for value in values:
            code = _CODES[place.size // len(values)]
            pattern += code.lower() if value in _SIGNED else code
            order.append(_STAT_VALUES.index(value))
        end = place.offset + place.size
    return struct.Struct(f"{pattern}{ctypes.sizeof(kind) - end}x"), itemgetter(*order)


_memmove = ctypes.memmove


def stat_writer(kind: Any) -> Callable[[int, Attributes], None]:
    """Return a function that fills the `struct stat` at an address.

    `kind` is as in `stat_layout`. `st_nlink` is 1 for directories too, which says that the number of
    subdirectories is not known. `find` would believe a number, and not look into the folder that another
    client has made since.
    """
    layout, in_order = stat_layout(kind)
    length, pack = layout.size, layout.pack

    def write_stat(address: int, attributes: Attributes) -> None:
        size, mtime_ns = attributes.size, attributes.mtime_ns
        atime_ns, ctime_ns = attributes.atime_ns, attributes.ctime_ns
        values = (
            attributes.inode,
            attributes.mode,
            1,
            attributes.uid,
            attributes.gid,
            size,
            PREFERRED_IO,
            (size + 511) >> 9,
            *divmod(mtime_ns, 1_000_000_000),
            attributes.device,
            *divmod(mtime_ns if atime_ns is None else atime_ns, 1_000_000_000),
            *divmod(mtime_ns if ctime_ns is None else ctime_ns, 1_000_000_000),
        )
        _memmove(address, pack(*in_order(values)), length)

    return write_stat


_IS_FD = 1 << 1
_FD_SEEK = 1 << 2
_FD_RETRY = 1 << 3
_bufvec = struct.Struct("@NNNNiPiq")
"""The first fields of `struct fuse_bufvec` with one buffer.

Count, index, offset; size, flags, memory, descriptor, position. libfuse 3.18 has more behind them, which it
uses only for buffers with other flags.
"""

_BUFVEC_BYTES = _bufvec.size + 16

_with_gil = ctypes.PyDLL(None)
_calloc = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)(("calloc", _with_gil))
_pointer_at = ctypes.c_void_p.from_address


def answer_from_file(target: int, descriptor: int, position: int, length: int) -> None:
    """Store at the address `target` a new buffer of `length` bytes of a file; libfuse frees it."""
    address = _calloc(1, _BUFVEC_BYTES)
    if not address:
        raise MemoryError("no memory for a read buffer")
    # libfuse frees the memory pointer whatever the flags say, so it stays NULL.
    _memmove(address, _bufvec.pack(1, 0, 0, length, _IS_FD | _FD_SEEK, 0, descriptor, position), _bufvec.size)
    _pointer_at(target).value = address


def file_buffer(descriptor: int, position: int, length: int) -> "ctypes.Array[ctypes.c_char]":
    """Return a buffer that is a range of a file, to be written."""
    # _FD_RETRY: a short write is continued, as write(2) of a local file would be.
    flags = _IS_FD | _FD_SEEK | _FD_RETRY
    packed = _bufvec.pack(1, 0, 0, length, flags, 0, descriptor, position)
    return ctypes.create_string_buffer(packed, _BUFVEC_BYTES)
