"""Threads that libfuse makes and ends: their Python thread state."""

import ctypes
from collections.abc import Callable
from typing import Any

from swiftfs.concurrency import Local, Rank, new_condition

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
