"""The calls of libfuse that mount, serve and unmount, which fusepy makes in one, by fuse_main(3)."""

import ctypes
import select
from typing import Any

import fuse

from swiftfs.fuse.structs import FuseOperations


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


def run(arguments: "ctypes.Array[ctypes.c_char_p]", table: FuseOperations) -> bool:
    """Mount, serve, unmount; return whether that failed. An end of the connection is no failure.

    These are the calls of fuse_main(3). It does not tell an error from ECONNABORTED, with which the kernel
    ends a connection that was aborted, as by `umount -f`: libfuse expects only ENODEV.
    """
    mountpoint, threads = ctypes.c_void_p(), ctypes.c_int()
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
        _teardown(connection, mountpoint)


def _has_ended(connection: int) -> bool:
    """Return whether the kernel has ended the connection: then poll(2) reports an error of its device."""
    device = _descriptor(_channel(_session(connection), None))
    poll = select.poll()
    poll.register(device, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))
