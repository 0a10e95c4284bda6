"""Threads that libfuse makes and ends: their Python thread state, and which call each of them serves."""

import contextlib
import ctypes
import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

from swiftfs.concurrency import Local, Rank, new_condition, thread_id
from swiftfs.errors import os_error
from swiftfs.fuse.library import Library
from swiftfs.paths import REPLACED

_ensure = ctypes.PYFUNCTYPE(ctypes.c_int)(("PyGILState_Ensure", ctypes.pythonapi))
_release = ctypes.PYFUNCTYPE(None, ctypes.c_int)(("PyGILState_Release", ctypes.pythonapi))
_ThreadExit = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def _exit_hook() -> Callable[[Any], bool] | None:
    """Return a function that registers a callback for the calling thread's end, or None without glibc."""
    register = getattr(ctypes.PyDLL(None), "__cxa_thread_atexit_impl", None)
    if register is None:
        return None
    register.argtypes = (_ThreadExit, ctypes.c_void_p, ctypes.c_void_p)
    # glibc counts the hook against the library that this address lies in, and crashes on NULL.
    library = ctypes.cast(register, ctypes.c_void_p)
    return lambda function: register(function, None, library) == 0


_at_thread_exit = _exit_hook()


class AttachedThreads:
    """libfuse's threads, each of which keeps the Python thread state that its first callback made.

    ctypes creates and destroys a thread state around every callback unless another PyGILState_Ensure holds
    it. A destructor releases it, which glibc runs while the thread still has its thread-local values (pthread
    keys are cleared too early for that), so threads may come and go. Without glibc nothing is kept.
    """

    def __init__(self) -> None:
        self.mark = Local()
        """Has the attribute `kept` in the threads that need no `attach`."""
        self._ended = new_condition(Rank.FUSE_THREADS)
        self._attached = 0
        self._on_exit = _ThreadExit(self._detach)

    def attach(self) -> None:
        """Keep the calling thread's state until the thread ends."""
        if _at_thread_exit is None or not _at_thread_exit(self._on_exit):
            return
        _ensure()
        self.mark.kept = True
        with self._ended:
            self._attached += 1

    def _detach(self, _: int | None) -> None:
        with self._ended:
            self._attached -= 1
            self._ended.notify_all()
        # Last: the thread has no Python state any more when this callback has returned.
        _release(0)

    def join(self, seconds: float) -> None:
        """Wait until all have ended: a thread that runs at the interpreter's end crashes the process."""
        with self._ended:
            self._ended.wait_for(lambda: self._attached == 0, seconds)


MOST_TRYING = 1000
"""Limit of the calls that are being tried again."""

MOVER_PATIENCE = 10.0
"""How long, in seconds, a change waits until the mover has begun, or a lookup after that until it is done."""

LOOKUP_PATIENCE = 1.0
"""How long a lookup waits until the mover begins, which may itself wait for the lookup."""

FSTAT_PATIENCE = 0.1
"""The same for a call that may be an fstat(2): the move always waits for its end."""

_ALIAS = f"/{REPLACED}".encode()
"""Part of the names that the mover looks up; hardly any other program does."""

_HIDDEN = b".fuse_hidden"
"""How the names begin by which libfuse hides open files; a program may use such a name too."""


class Callers:
    """What is known of the threads that make system calls. Not locked: a lost update does no harm."""

    def __init__(self, library: Library) -> None:
        self._thread, self._request = library.calling_thread, library.request
        # Whether the kernel was told that the name is gone: it looks it up once more.
        self._trying_again: dict[tuple[bytes, int], bool] = {}
        # The path and the thread of each open(2), by its handle.
        self._openers: dict[int, tuple[bytes, int]] = {}
        # By libfuse's thread: the last hidden name that was looked up and not found, and the request.
        self._missed: dict[int, tuple[bytes, int]] = {}
        self._mover = -1  # the kernel gives 0 for a process that it cannot name

    def try_again(self, path: bytes) -> None:
        """Let the kernel look a name up and try again, by `OSError` ESTALE; do nothing the second time.

        With O_CREAT it creates a file that is gone. It tries once: a program would get the second ESTALE.
        """
        call = self._call_about(path)
        if self._trying_again.pop(call, None) is not None:
            return
        if len(self._trying_again) >= MOST_TRYING:
            self._trying_again.clear()  # of programs that have ended meanwhile
        self._trying_again[call] = False
        raise os_error(errno.ESTALE, path.decode())

    def is_trying_again(self, path: bytes) -> bool:
        """Return whether the call is about to open a name for the second time."""
        return self._call_about(path) in self._trying_again

    def is_gone(self, path: bytes) -> None:
        """Record that such a call gets ENOENT for the name, for the first or the second time."""
        call = self._call_about(path)
        self._trying_again[call] = not self._trying_again.get(call)

    def done(self, path: bytes) -> None:
        """Record that the call has ended."""
        if self._trying_again:
            self._trying_again.pop(self._call_about(path), None)

    def opened(self, path: bytes, handle: int) -> None:
        """Record that the call has opened a file."""
        self._openers[handle] = path, self._thread()

    def closed(self, handle: int) -> None:
        """Record that a handle is closed."""
        self._openers.pop(handle, None)

    def missed(self, path: bytes) -> None:
        """Record that a path was not found: a call that was to try again creates the file, or has failed."""
        if self._trying_again and not self._trying_again.get(self._call_about(path)):
            self.done(path)
        if _ALIAS in path:
            self._mover = self._thread()
        if _HIDDEN in path:
            self._missed[thread_id()] = path, self._request()

    def hides(self, new: bytes) -> bool:
        """Return whether a rename to `new` is libfuse's own.

        libfuse chooses a free name and renames to it within one request. The kernel looks up the new name of
        a program's rename(2) by another request.
        """
        return _HIDDEN in new and self._missed.get(thread_id()) == (new, self._request())

    def patience(self, path: bytes) -> tuple[float, float]:
        """Return how long the call may wait until the move of its path begins, and after that, in seconds."""
        if self._thread() == self._mover:  # it must not wait for itself
            return 0.0, 0.0
        # An fstat(2) looks like a lookup here, but the move waits for its end. Only a process that has the
        # file open can call fstat(2).
        is_lookup = self.is_trying_again(path) or not self._has_open(path)
        return (LOOKUP_PATIENCE, MOVER_PATIENCE) if is_lookup else (FSTAT_PATIENCE, 0.0)

    def _has_open(self, path: bytes) -> bool:
        """Return whether the calling process has opened `path`, and not closed it."""
        threads = {thread for opened, thread in list(self._openers.values()) if opened == path}
        return bool(threads) and _process_of(self._thread()) in map(_process_of, threads)

    def _call_about(self, path: bytes) -> tuple[bytes, int]:
        """Return what identifies a call: its folder and thread. The name may be another one meanwhile."""
        return path.rpartition(b"/")[0], self._thread()


def _process_of(thread: int) -> int:
    """Return the ID of the process of a thread; the thread's own if the system does not tell."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{thread}/status").read_text().splitlines():
            if line.startswith("Tgid:"):
                return int(line.split()[1])
    return thread
