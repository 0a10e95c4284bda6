"""libfuse: how it is loaded, and what its functions and structs are, as far as both versions have them.

Pointers that a callback only fills are addresses here (`c_void_p`), because building a ctypes pointer object
costs more than the callback itself.
"""

import ctypes
import ctypes.util
import importlib
import os
import select
import signal
import struct
from collections.abc import Callable
from operator import itemgetter
from typing import Any

from swiftfs.errors import ConfigurationError, os_error
from swiftfs.objects import Attributes, Caller

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


_handle_at = _owner_at = ctypes.c_uint64.from_address
_DROP = 2**64 - 1

_LOCKED_BY_CALLER = 2  # FSETLOCKING_BYCALLER of stdio_ext.h


class _Request(ctypes.Structure):
    """How `struct fuse_req` begins (`fuse_i.h` of 2.9 and 3); `unique` is the kernel's number."""

    _fields_ = (("session", ctypes.c_void_p), ("unique", ctypes.c_uint64))


class Library:
    """libfuse as `module` binds it, which is fusepy or mfusepy; both call its parts by the same names."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self._functions = module._libfuse
        self.version = version_number(self._functions.fuse_version())
        info = module.fuse_file_info
        self.file_info = ctypes.POINTER(info)
        self.stat: Any = module.c_stat
        self.write_stat = stat_writer(module.c_stat)
        self.can_skip_flush = hasattr(info, "noflush")
        """Whether the kernel can be told of a handle that its close is no request (libfuse 3.11)."""
        self._handle_offset: int = info.fh.offset
        self._owner_offset: int = info.lock_owner.offset
        # PYFUNCTYPE keeps the GIL for what returns at once; CFUNCTYPE releases it: a copy waits for the disk.
        size, pointer = ctypes.c_size_t, ctypes.c_void_p
        self.buffer_size = ctypes.PYFUNCTYPE(size, pointer)(("fuse_buf_size", self._functions))
        self._copy = ctypes.CFUNCTYPE(ctypes.c_ssize_t, pointer, pointer, ctypes.c_int)(
            ("fuse_buf_copy", self._functions)
        )
        self._context = _context_type(module)
        self._context_address = ctypes.PYFUNCTYPE(pointer)(("fuse_get_context", self._functions))

    def function(self, name: str, result: Any, *arguments: Any) -> Any:
        """Return a function of libfuse."""
        return ctypes.CFUNCTYPE(result, *arguments)((name, self._functions))

    def handle_of(self, file_info: int) -> int:
        """Return `fh` of the `struct fuse_file_info` at the address."""
        return _handle_at(file_info + self._handle_offset).value

    def mark_for_drop(self, file_info: Any) -> None:
        """Let the open of which this is the `struct fuse_file_info` drop the kernel's pages of the file.

        Within an open libfuse asks for the attributes with the same struct (`open_auto_cache` in fuse.c of
        2.9 and 3), and drops the pages if that fails. Where the kernel asks, `lock_owner` is 0.
        """
        file_info.contents.lock_owner = _DROP

    def is_marked_for_drop(self, file_info: int) -> bool:
        """Return whether a call for attributes is one within an open that is marked."""
        return _owner_at(file_info + self._owner_offset).value == _DROP

    def copy_to_file(self, source: int, size: int, descriptor: int, position: int) -> int:
        """Move a buffer into a file, by splice from a pipe; return how many bytes, or raise `OSError`."""
        target = file_buffer(descriptor, position, size)
        copied = int(self._copy(ctypes.addressof(target), source, 0))
        if copied < 0:
            raise os_error(-copied)
        return copied

    def caller(self) -> Caller:
        """Return who made the system call that the current thread answers."""
        public = self._present_context().public
        return Caller(public.uid, public.gid)

    def calling_thread(self) -> int:
        """Return the ID of the thread that has called."""
        return int(self._present_context().public.pid)

    def request(self) -> int:
        """Return the kernel's number of the request that this thread is serving."""
        return int(_Request.from_address(self._present_context().request).unique)

    def _present_context(self) -> Any:
        return self._context.from_address(self._context_address())

    def exit(self) -> None:
        """Let the loop end, from within a callback."""
        self.module.fuse_exit()


def version_number(number: int) -> tuple[int, int]:
    """Return what fuse_version() means: 29 is 2.9, and 314 is 3.14."""
    return divmod(number, 10) if number < 100 else divmod(number, 100)


def _context_type(module: Any) -> Any:
    """Return libfuse's record of the call that a thread serves (`struct fuse_context_i` in `fuse.c`)."""
    fields = [("public", module.fuse_context), ("request", ctypes.c_void_p)]
    if not hasattr(module.fuse_context, "umask"):
        fields.insert(1, ("umask", module.c_mode_t))
    return type("Context", (ctypes.Structure,), {"_fields_": fields})


def block_interrupt() -> None:
    """Block SIGINT in this thread before a teardown, for the caller to unblock when it has a handler again.

    The teardown removes libfuse's handlers: a SIGINT that was to end the loop would end the process.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def unlock_stderr() -> None:
    """Let the C library write to stderr without its lock (`__fsetlocking`, stdio_ext(3)).

    libfuse cancels its threads when its loop ends. One that reports an error at that moment would keep the
    lock for ever, and the process would not end: exit(3) flushes stderr.
    """
    library = ctypes.CDLL(None)
    if (set_locking := getattr(library, "__fsetlocking", None)) is not None:
        set_locking(ctypes.c_void_p.in_dll(library, "stderr"), _LOCKED_BY_CALLER)


def has_ended(device: int) -> bool:
    """Return whether the kernel has ended a connection: then poll(2) reports an error of its device.

    libfuse does not tell an error from ECONNABORTED, with which the kernel ends a connection that was
    aborted, as by `umount -f`: it expects only ENODEV.
    """
    poll = select.poll()
    poll.register(device, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


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
