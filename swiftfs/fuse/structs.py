"""The C side of libfuse 2.9 that fusepy lacks: operations table, packed `stat` images, buffers, main loop.

Sources: `fuse.h` and `fuse_common.h` of libfuse 2.9.9. Pointers that a callback only fills are declared as
addresses (`c_void_p`), because building a ctypes pointer object costs more than the callback itself.
"""

import ctypes
import select
import signal
import struct
from operator import itemgetter
from typing import Any

import fuse

from swiftfs.objects import Attributes

UTIME_NOW = (1 << 30) - 1
UTIME_OMIT = (1 << 30) - 2
"""Special values of `tv_nsec` in utimensat(2)."""

UNKNOWN_INODE = 0xFFFFFFFF
"""What libfuse itself gives an entry without an inode; 0 would hide the entry from readdir(3)."""

PREFERRED_IO = 131072
"""`st_blksize` in bytes: stdio and cp then send writes as large as one FUSE request.

Not more, because programs also read so much at a time: each seek of stdio, and `wc -c` the end of a file.
It is a block of the file cache, so that no more is downloaded for them than for one byte.
"""

Filler = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_longlong)
"""libfuse's `fuse_fill_dir_t`. It only copies into memory, so it is called with the GIL held."""

_address = ctypes.c_void_p
_callback = ctypes.CFUNCTYPE

_RETYPED = {
    "getattr": _callback(ctypes.c_int, ctypes.c_char_p, _address),
    "fgetattr": _callback(ctypes.c_int, ctypes.c_char_p, _address, _address),
    "readdir": _callback(
        ctypes.c_int,
        ctypes.c_char_p,
        _address,
        Filler,
        ctypes.c_longlong,
        ctypes.POINTER(fuse.fuse_file_info),
    ),
}

_ADDED = [
    ("poll", _callback(ctypes.c_int, ctypes.c_char_p, _address, _address, _address)),
    ("write_buf", _callback(ctypes.c_int, ctypes.c_char_p, _address, ctypes.c_longlong, _address)),
    (
        "read_buf",
        _callback(ctypes.c_int, ctypes.c_char_p, _address, ctypes.c_size_t, ctypes.c_longlong, _address),
    ),
    ("flock", _callback(ctypes.c_int, ctypes.c_char_p, _address, ctypes.c_int)),
    (
        "fallocate",
        _callback(
            ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong, _address
        ),
    ),
]


class FuseOperations(ctypes.Structure):
    """libfuse 2.9's complete `struct fuse_operations`; libfuse takes its size from the caller."""

    _fields_ = [
        *((name, _RETYPED.get(name, kind), *bits) for name, kind, *bits in fuse.fuse_operations._fields_),
        *_ADDED,
    ]


_HANDLE_OFFSET: int = fuse.fuse_file_info.fh.offset
_handle_at = ctypes.c_uint64.from_address

_MARK_OFFSET: int = fuse.fuse_file_info.fh_old.offset
_mark_at = ctypes.c_ulong.from_address
_DROP = ctypes.c_ulong(-1).value


def mark_for_drop(file_info: Any) -> None:
    """Let the open of which this is the `struct fuse_file_info` drop the kernel's pages of the file.

    Within an open libfuse calls fgetattr with the same struct (`open_auto_cache` in fuse.c of 2.9), and drops
    the pages if that fails. `fh_old` is not used otherwise; in the kernel's own calls it has the handle
    (`do_getattr` in fuse_lowlevel.c).
    """
    file_info.contents.fh_old = _DROP


def is_marked_for_drop(file_info: int) -> bool:
    """Return whether a call of fgetattr is one within an open that is marked."""
    return _mark_at(file_info + _MARK_OFFSET).value == _DROP


def handle_of(file_info: int) -> int:
    """Return `fh` of the `struct fuse_file_info` at the address."""
    return _handle_at(file_info + _HANDLE_OFFSET).value


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


_stat, _in_stat_order = stat_layout(fuse.c_stat)
_stat_size, _pack_stat = _stat.size, _stat.pack
_memmove = ctypes.memmove


def write_stat(address: int, attributes: Attributes) -> None:
    """Fill the `struct stat` at the address.

    `st_nlink` is 1 for directories too, which says that the number of subdirectories is not known. `find`
    would believe a number, and not look into the folder that another client has made since.
    """
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
    _memmove(address, _pack_stat(*_in_stat_order(values)), _stat_size)


_IS_FD = 1 << 1
_FD_SEEK = 1 << 2
_FD_RETRY = 1 << 3
_bufvec = struct.Struct("@NNNNiPiq")
"""`struct fuse_bufvec` of one buffer: count, index, offset; size, flags, memory, descriptor, position."""

_with_gil = ctypes.PyDLL(None)
_calloc = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)(("calloc", _with_gil))
_pointer_at = ctypes.c_void_p.from_address
_count_at = ctypes.c_size_t.from_address
_buf_size = ctypes.PYFUNCTYPE(ctypes.c_size_t, ctypes.c_void_p)(("fuse_buf_size", fuse._libfuse))
# CFUNCTYPE releases the GIL, since this waits for the disk; the others above return at once.
_buf_copy = ctypes.CFUNCTYPE(ctypes.c_ssize_t, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)(
    ("fuse_buf_copy", fuse._libfuse)
)


def answer_from_file(target: int, descriptor: int, position: int, length: int) -> None:
    """Store at the address `target` a new buffer of `length` bytes of a file; libfuse frees it."""
    address = _calloc(1, _bufvec.size)
    if not address:
        raise MemoryError("no memory for a read buffer")
    # libfuse frees the memory pointer whatever the flags say, so it stays NULL.
    _memmove(address, _bufvec.pack(1, 0, 0, length, _IS_FD | _FD_SEEK, 0, descriptor, position), _bufvec.size)
    _pointer_at(target).value = address


def buffer_size(source: int) -> int:
    """Return the bytes in the `struct fuse_bufvec` at the address."""
    return int(_buf_size(source))


def copy_to_file(source: int, size: int, descriptor: int, position: int) -> int:
    """Move the `size` bytes of the buffer at the address into a file, by splice if they are in a pipe.

    Return how many arrived; raise OSError as write(2) does.
    """
    # _FD_RETRY: a short write is continued, as write(2) of a local file would be.
    target = ctypes.create_string_buffer(
        _bufvec.pack(1, 0, 0, size, _IS_FD | _FD_SEEK | _FD_RETRY, 0, descriptor, position), _bufvec.size
    )
    copied = int(_buf_copy(ctypes.addressof(target), source, 0))
    if copied < 0:
        raise fuse.FuseOSError(-copied)
    return copied


def _function(name: str, result: Any, *arguments: Any) -> Any:
    """Return a function of libfuse that fusepy does not declare."""
    found = getattr(fuse._libfuse, name)
    found.restype, found.argtypes = result, arguments
    return found


_setup = _function(
    "fuse_setup",
    ctypes.c_void_p,
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_void_p,
)
_loop = _function("fuse_loop_mt", ctypes.c_int, ctypes.c_void_p)
_teardown = _function("fuse_teardown", None, ctypes.c_void_p, ctypes.c_void_p)
_session = _function("fuse_get_session", ctypes.c_void_p, ctypes.c_void_p)
_channel = _function("fuse_session_next_chan", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
_descriptor = _function("fuse_chan_fd", ctypes.c_int, ctypes.c_void_p)


_LOCKED_BY_CALLER = 2  # FSETLOCKING_BYCALLER of stdio_ext.h


def run(arguments: "ctypes.Array[ctypes.c_char_p]", table: FuseOperations) -> bool:
    """Mount, serve, unmount; return whether that failed. An end of the connection is no failure.

    These are the calls of fuse_main(3). It does not tell an error from ECONNABORTED, with which the kernel
    ends a connection that was aborted, as by `umount -f`: libfuse expects only ENODEV. SIGINT is blocked in
    this thread afterwards, for the caller to unblock when it has a handler again.
    """
    mountpoint, threads = ctypes.c_void_p(), ctypes.c_int()
    _unlock_stderr()
    connection = _setup(
        len(arguments),
        arguments,
        ctypes.byref(table),
        ctypes.sizeof(table),
        ctypes.byref(mountpoint),
        ctypes.byref(threads),
        None,
    )
    if not connection:
        return True
    try:
        return bool(_loop(connection)) and not _has_ended(connection)
    finally:
        # The teardown removes libfuse's handlers: a SIGINT that was to end the loop would end the process.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        _teardown(connection, mountpoint)


def _unlock_stderr() -> None:
    """Let the C library write to stderr without its lock (`__fsetlocking`, stdio_ext(3)).

    libfuse cancels its threads when its loop ends. One that reports an error at that moment would keep the
    lock for ever, and the process would not end: exit(3) flushes stderr.
    """
    library = ctypes.CDLL(None)
    if (set_locking := getattr(library, "__fsetlocking", None)) is not None:
        set_locking(ctypes.c_void_p.in_dll(library, "stderr"), _LOCKED_BY_CALLER)


def _has_ended(connection: int) -> bool:
    """Return whether the kernel has ended the connection: then poll(2) reports an error of its device."""
    device = _descriptor(_channel(_session(connection), None))
    poll = select.poll()
    poll.register(device, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))
