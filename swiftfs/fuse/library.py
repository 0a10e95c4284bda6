"""A loaded libfuse: what its functions and structs are, as far as both versions have them."""

import ctypes
import select
import signal
from typing import Any

from swiftfs.errors import os_error
from swiftfs.fuse.structs import file_buffer, stat_writer
from swiftfs.objects import Caller

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
        """Move the `size` bytes of the buffer at the address into a file, by splice if they are in a pipe.

        Return how many arrived; raise OSError as write(2) does.
        """
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
