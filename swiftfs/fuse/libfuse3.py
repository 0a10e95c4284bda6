"""The binding on libfuse 3, by mfusepy. Sources: `fuse.h` and `fuse_common.h` of 3.14, 3.17 and 3.18."""

# ruff: noqa: ARG002  the callbacks have libfuse's arguments

import contextlib
import ctypes
import mmap
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any, ClassVar

from swiftfs.errors import ConfigurationError
from swiftfs.fuse.binding import FUSE, SHARED_OPTIONS, OptionValue
from swiftfs.fuse.library import (
    ADVICE,
    UNKNOWN_INODE,
    Library,
    block_interrupt,
    has_ended,
    load_mfusepy,
    unlock_stderr,
)
from swiftfs.fuse.operations import KernelReadAhead
from swiftfs.objects import Attributes

FIRST_COMPARED = (3, 9)
"""The first libfuse whose `struct fuse_dh` was compared with ours."""

MOST_NAMES = 20_000
"""Limit of the names of an open folder that are returned with attributes. The kernel and libfuse keep a KiB
for each, and to read more names takes longer than the attributes are valid."""

_LOCK_SIZES = (40, 48, 24, 32)
"""`pthread_mutex_t`: of x86-64, of ARM with 64 bits, and others."""

ENTRY_BYTES = 152
"""`FUSE_NAME_OFFSET_DIRENTPLUS` of the kernel's protocol: what an entry takes besides its name."""


class _Buffer(ctypes.Structure):
    """`struct fuse_dh` of fuse.c behind its lock, as far as `needlen`."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("mount", "request", "contents", "first", "last")),
        *((name, ctypes.c_uint) for name in ("used", "size", "wanted")),
    )


def room_in(buffer: int, mount: int) -> int:
    """Return how many bytes are left in the buffer at an address, 0 if it is not one of the `struct fuse`."""
    for size in _LOCK_SIZES:
        found = _Buffer.from_address(buffer + size)
        if found.mount == mount:
            return int(found.wanted - found.used)
    return 0


def count_fitting(names: Sequence[bytes], room: int) -> int:
    """Return how many of the names fit into so many bytes, each with attributes (FUSE_READDIRPLUS).

    The kernel does not look such a name up. libfuse counts a lookup of each that it is given, the kernel
    only of those that it gets: one that does not fit would be counted once too often, and libfuse would keep
    it for ever (`fill_dir_plus` in fuse.c of 3.9 to 3.18). So libfuse gets none that does not fit.
    """
    for count, name in enumerate(names):
        room -= (ENTRY_BYTES + len(name) + 7) & ~7
        if room < 0:
            return count
    return len(names)


FIRST_RIGHT = (3, 17)
"""The first libfuse that passes the flag on."""

_PROTOCOL = 7, 31
"""The version of the kernel's protocol whose answer this is; Linux 5.3 has it."""

_SAME_IN_KERNEL = 0x4F45B
"""The bits of `want` that are those of the kernel, too (fuse_common.h and fuse_kernel.h)."""

_BIG_WRITES, _MAX_PAGES, _HANDLE_KILLPRIV_V2 = 1 << 5, 1 << 22, 1 << 28

_header = struct.Struct("=IiQ")
"""`struct fuse_out_header`: length, error, number of the request."""

_answer = struct.Struct("=IIIIHHIIHH32x")
"""`struct fuse_init_out`: version, max_readahead, flags, background, threshold, max_write, grain, pages."""

_FIRST_REQUEST = 2
"""The number of a connection's first request (`fuse_get_unique` in fs/fuse/dev.c); all others wait for it."""


def answer_init(device: int, connection: Any, *, has_set_id: bool) -> None:
    """Answer the first request (FUSE_INIT) at the descriptor `device`; leave it to libfuse if that fails.

    libfuse 3 has a flag for parallel lookups, FUSE_CAP_PARALLEL_DIROPS, but before 3.17 it does not pass it
    on (`do_init` in fuse_lowlevel.c of 3.14), and the kernel sends the lookups of one folder one after
    another. So this says what libfuse would say, with that flag. libfuse's own answer comes too late: the
    kernel does not know the request any more (ENOENT), which libfuse ignores.

    `connection` is the `struct fuse_conn_info`, as it is after init. Without `has_set_id` the kernel is told
    not to clear bits itself, which this libfuse cannot do either: before a write it asks for
    `security.capability` then until it has an answer, and not each time (Linux 5.11).
    """
    flags = connection.want & _SAME_IN_KERNEL | _BIG_WRITES | _MAX_PAGES
    if not has_set_id:
        flags |= _HANDLE_KILLPRIV_V2
    pages = (connection.max_write - 1) // mmap.PAGESIZE + 1
    numbers = connection.max_readahead, flags, 0, 0, connection.max_write, 1, pages, 0
    body = _answer.pack(*_PROTOCOL, *numbers)
    with contextlib.suppress(OSError):
        os.write(device, _header.pack(_header.size + len(body), 0, _FIRST_REQUEST) + body)


LIBRARY = Library(load_mfusepy())

OTHER_STRUCTS = f"this libfuse 3 has structs of its own: {ADVICE}"
"""The refusal of a library that is not what its version says."""

REQUEST_BYTES = 524288
"""The largest read or write request. libfuse's own, of 1 MiB, are copied.

To splice one, libfuse needs a pipe for it and a header, and a pipe of more than 1 MiB is only for root
(`/proc/sys/fs/pipe-max-size`). These take as much CPU time as spliced ones of 1,020 KiB, and are whole blocks
of the file cache.
"""

MOST_THREADS = 1000
"""Limit of threads: more than there are ever calls. libfuse 2 has none, libfuse 3.12 ten by default."""

IDLE_THREADS = 10
"""Limit of threads that wait for calls, as in libfuse 2; others end."""

READDIR_PLUS = 1
"""FUSE_READDIR_PLUS: the kernel takes attributes with the names."""

FILL_DIR_PLUS = 1 << 1
"""FUSE_FILL_DIR_PLUS: these are all attributes of a name."""

CAP_PARALLEL_DIROPS = 1 << 18
CAP_HANDLE_KILLPRIV = 1 << 20
CAP_HANDLE_KILLPRIV_V2 = 1 << 21
"""libfuse knows it from 3.17 on."""

_int, _path, _address, _offset = ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_longlong
_size, _unsigned = ctypes.c_size_t, ctypes.c_uint
_callback = ctypes.CFUNCTYPE

Filler = ctypes.PYFUNCTYPE(_int, _address, _path, _address, _offset, _int)
"""libfuse's `fuse_fill_dir_t`. It only copies into memory, so it is called with the GIL held."""

_RETYPED = {
    "getattr": _callback(_int, _path, _address, _address),
    "chmod": _callback(_int, _path, LIBRARY.module.c_mode_t, _address),
    "chown": _callback(_int, _path, LIBRARY.module.c_uid_t, LIBRARY.module.c_gid_t, _address),
    "truncate": _callback(_int, _path, _offset, _address),
    "utimens": _callback(_int, _path, ctypes.POINTER(LIBRARY.module.c_utimbuf), _address),
    "readdir": _callback(_int, _path, _address, Filler, _offset, LIBRARY.file_info, _int),
    "write_buf": _callback(_int, _path, _address, _offset, _address),
    "read_buf": _callback(_int, _path, _address, _size, _offset, _address),
    "fallocate": _callback(_int, _path, _int, _offset, _offset, _address),
    "copy_file_range": _callback(
        ctypes.c_ssize_t, _path, _address, _offset, _path, _address, _offset, _size, _int
    ),
    "lseek": _callback(_offset, _path, _offset, _int, _address),
}


class FuseOperations(ctypes.Structure):
    """`struct fuse_operations` up to `lseek`; libfuse takes its size from the caller."""

    _fields_ = [(name, _RETYPED.get(name, kind)) for name, kind in LIBRARY.module.fuse_operations._fields_]


class _Arguments(ctypes.Structure):
    """`struct fuse_args`."""

    _fields_ = (("count", _int), ("words", ctypes.POINTER(_path)), ("allocated", _int))


class _LoopConfig(ctypes.Structure):
    """`struct fuse_loop_config` before libfuse 3.12."""

    _fields_ = (("clone_fd", _int), ("max_idle_threads", _unsigned))


def _versioned(name: str, version: str, result: Any, *arguments: Any) -> Any:
    """Return a function as it was in a version of libfuse 3: later ones keep it beside newer ones."""
    find = ctypes.CDLL(None).dlvsym
    find.restype, find.argtypes = _address, (_address, _path, _path)
    found = find(LIBRARY.module._libfuse._handle, name.encode(), f"FUSE_{version}".encode())
    if not found:
        raise ConfigurationError(OTHER_STRUCTS)
    return _callback(result, *arguments)(found)


_new = _versioned("fuse_new", "3.1", _address, _address, _address, _size, _address)
_mount = LIBRARY.function("fuse_mount", _int, _address, _path)
_unmount = LIBRARY.function("fuse_unmount", None, _address)
_destroy = LIBRARY.function("fuse_destroy", None, _address)
_session = LIBRARY.function("fuse_get_session", _address, _address)
_descriptor = LIBRARY.function("fuse_session_fd", _int, _address)
_set_handlers = LIBRARY.function("fuse_set_signal_handlers", _int, _address)
_remove_handlers = LIBRARY.function("fuse_remove_signal_handlers", None, _address)
_parse_connection = LIBRARY.function("fuse_parse_conn_info_opts", _address, _address)
_apply_connection = LIBRARY.function("fuse_apply_conn_info_opts", None, _address, _address)
_free_arguments = LIBRARY.function("fuse_opt_free_args", None, _address)
_free = ctypes.CDLL(None).free
_free.restype, _free.argtypes = None, (_address,)


def _loop(mount: int) -> int:
    """Serve with several threads; return 0, the number of the signal that ended it, or a negative errno."""
    if LIBRARY.version < (3, 12):
        config = _LoopConfig(clone_fd=0, max_idle_threads=IDLE_THREADS)
        return int(
            _versioned("fuse_loop_mt", "3.2", _int, _address, _address)(mount, ctypes.addressof(config))
        )
    settings = LIBRARY.function("fuse_loop_cfg_create", _address)()
    try:
        LIBRARY.function("fuse_loop_cfg_set_max_threads", None, _address, _unsigned)(settings, MOST_THREADS)
        LIBRARY.function("fuse_loop_cfg_set_idle_threads", None, _address, _unsigned)(settings, IDLE_THREADS)
        return int(_versioned("fuse_loop_mt", "3.12", _int, _address, _address)(mount, settings))
    finally:
        LIBRARY.function("fuse_loop_cfg_destroy", None, _address)(settings)


class FUSE3(FUSE):
    """A mount by libfuse 3."""

    libfuse = LIBRARY
    read_ahead = KernelReadAhead(REQUEST_BYTES)
    table_type = FuseOperations
    file_info_at: ClassVar[Mapping[str, int]] = {"readdir": 4, "copy_file_range": 1}
    own_options: ClassVar[Mapping[str, OptionValue]] = {
        **SHARED_OPTIONS,
        "max_read": REQUEST_BYTES,
        "max_write": REQUEST_BYTES,
        # The kernel drops pages where `Library.mark_for_drop` says so, as with libfuse 2.
        "no_auto_inval_data": True,
        # Not `auto`: then the kernel takes attributes with the first part of a folder, and with others only
        # while names are looked up. `ls -l` looks them up after the last.
        "readdirplus": "yes" if LIBRARY.version >= FIRST_COMPARED else "no",
    }

    def run(self, options: bytes, mountpoint: bytes, table: ctypes.Structure) -> bool:
        """Mount, serve, unmount, by the calls of fuse_main(3)."""
        words = (_path * 3)(b"swiftfs", b"-o", options)
        arguments = _Arguments(len(words), words, 0)
        unlock_stderr()
        # Of these options fuse_new(3) would say that it does not know them.
        self._connection_options = _parse_connection(ctypes.addressof(arguments))
        try:
            mount = _new(ctypes.addressof(arguments), ctypes.addressof(table), ctypes.sizeof(table), None)
            return not mount or self._serve_on(mount, mountpoint)
        finally:
            _free(self._connection_options)
            _free_arguments(ctypes.addressof(arguments))

    def _serve_on(self, mount: int, mountpoint: bytes) -> bool:
        self._mount = mount
        session = _session(mount)
        try:
            # Before the mount: a SIGINT in between would leave a dead one.
            if _set_handlers(session):
                return True
            try:
                if _mount(mount, mountpoint):
                    return True
                self._device = _descriptor(session)
                return _loop(mount) < 0 and not has_ended(self._device)
            finally:
                block_interrupt()
                _remove_handlers(session)
                _unmount(mount)
        finally:
            _destroy(mount)

    def init(self, connection: Any, config: Any) -> None:
        """Begin, after the settings for which libfuse 3 has no option."""
        try:
            self._set_up(connection.contents, config.contents)
        except BaseException as error:  # noqa: BLE001  raised again where FUSE() returns
            self.end_with(error)
        else:
            self.begin()

    def _set_up(self, connection: Any, config: Any) -> None:
        # It was set by an option: a struct of another layout has something else there.
        if config.ac_attr_timeout_set != 1:
            raise ConfigurationError(OTHER_STRUCTS)
        _apply_connection(self._connection_options, ctypes.addressof(connection))
        # libfuse wants the same number here as in the mount options.
        connection.max_read = REQUEST_BYTES
        privileges = 0 if self.has_set_id else CAP_HANDLE_KILLPRIV_V2
        _want(connection, CAP_PARALLEL_DIROPS | privileges, CAP_HANDLE_KILLPRIV)
        # Our inode numbers: libfuse's own are given by path, and forgotten.
        config.use_ino = 1
        # With a handle no path is needed, and libfuse need not look for one.
        config.nullpath_ok = 1
        self.find_validity(ctypes.addressof(config) + type(config).negative_timeout.offset)
        if self.libfuse.version < FIRST_RIGHT:
            answer_init(self._device, connection, has_set_id=self.has_set_id)

    def readdir(
        self, path: bytes | None, buffer: int, filler: Any, offset: int, file_info: Any, flags: int
    ) -> None:
        """Pass the entries after `offset`, as many as libfuse takes, with all attributes that are known."""
        handle = file_info.contents.fh
        known: Iterable[Attributes | None] = repeat(None)
        if flags & READDIR_PLUS and offset < MOST_NAMES and (room := room_in(buffer, self._mount)):
            entries = self.entries_after(offset, handle, most=room // ENTRY_BYTES)
            del entries[count_fitting([name for name, _ in entries], room) :]
            known = self.filesystem.known_attributes(handle, [name.decode() for name, _ in entries])
        else:
            entries = self.entries_after(offset, handle)
        # One image for all names: to make one for each would take longer than the call.
        image = LIBRARY.stat()
        stat = ctypes.addressof(image)
        for place, ((name, listed), attributes) in enumerate(zip(entries, known, strict=False), offset + 1):
            if attributes is None:
                image.st_ino, image.st_mode = listed.inode or UNKNOWN_INODE, listed.mode
            else:
                self._write_stat(stat, attributes)
            if filler(buffer, name, stat, place, 0 if attributes is None else FILL_DIR_PLUS):
                return

    def copy_file_range(
        self,
        path_in: bytes | None,
        file_in: int,
        offset_in: int,
        path_out: bytes | None,
        file_out: int,
        offset_out: int,
        length: int,
        flags: int,
    ) -> int:
        """Copy bytes of an open file to another; after EOPNOTSUPP the kernel reads and writes them."""
        source, target = self._handle_of(file_in), self._handle_of(file_out)
        return self.filesystem.copy_file_range(source, offset_in, target, offset_out, length, flags)

    def lseek(self, path: bytes | None, offset: int, whence: int, file_info: int) -> int:
        return self.filesystem.lseek(self._handle_of(file_info), offset, whence)


def _want(connection: Any, wanted: int, unwanted: int) -> None:
    """Ask the kernel for features; from libfuse 3.17 on only `want_ext` counts."""
    extended = hasattr(connection, "want_ext")
    capable, want = ("capable_ext", "want_ext") if extended else ("capable", "want")
    now = getattr(connection, want)
    setattr(connection, want, (now | wanted & getattr(connection, capable)) & ~unwanted)
