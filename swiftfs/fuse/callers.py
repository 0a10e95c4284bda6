"""Which threads have files open, and which open a file again."""

import contextlib
import errno
from pathlib import Path

import fuse

from swiftfs.errors import os_error

MOST_TRYING = 1000
"""Limit of the calls that are being tried again."""

LOOKUP_PATIENCE = 1.0
"""How long a lookup waits until its name can be another inode's. It may be that this has to wait for it."""

FSTAT_PATIENCE = 0.1
"""The same for a call that is perhaps an fstat(2), for which that has to wait."""


class Callers:
    """What is known of the threads that make system calls. Not locked: one that is missed does no harm."""

    def __init__(self) -> None:
        self._trying_again: set[tuple[bytes, int]] = set()
        # The path and the thread of each open(2), by its handle.
        self._openers: dict[int, tuple[bytes, int]] = {}

    def try_again(self, path: bytes) -> None:
        """Let the kernel look a name up and try again, by `OSError` ESTALE; do nothing the second time.

        With O_CREAT it creates a file that is gone. It tries once: a program would get the second ESTALE.
        """
        call = _call_about(path)
        if call in self._trying_again:
            self._trying_again.discard(call)
            return
        if len(self._trying_again) >= MOST_TRYING:
            self._trying_again.clear()  # of programs that have ended meanwhile
        self._trying_again.add(call)
        raise os_error(errno.ESTALE, path.decode())

    def done(self, path: bytes) -> None:
        """Record that the call has succeeded."""
        self._trying_again.discard(_call_about(path))

    def opened(self, path: bytes, handle: int) -> None:
        """Record that the call has opened a file."""
        self._openers[handle] = path, _thread()

    def closed(self, handle: int) -> None:
        """Record that a handle is closed."""
        self._openers.pop(handle, None)

    def patience(self, path: bytes) -> float:
        """Return how long the call may wait for the move of its path, in seconds."""
        # An fstat(2) looks like a lookup here, but the move waits for its end. Only who has the file open
        # calls fstat(2).
        is_lookup = _call_about(path) in self._trying_again or not self._has_open(path)
        return LOOKUP_PATIENCE if is_lookup else FSTAT_PATIENCE

    def _has_open(self, path: bytes) -> bool:
        """Return whether the calling process has opened `path`, and not closed it."""
        threads = {thread for opened, thread in list(self._openers.values()) if opened == path}
        return bool(threads) and _process_of(_thread()) in map(_process_of, threads)


def _call_about(path: bytes) -> tuple[bytes, int]:
    """Return what identifies a call: its folder and thread. The name may be another one meanwhile."""
    return path.rpartition(b"/")[0], _thread()


def _thread() -> int:
    """Return the ID of the thread that has called."""
    return int(fuse.fuse_get_context()[2])


def _process_of(thread: int) -> int:
    """Return the ID of the process of a thread; the thread's own if the system does not tell."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{thread}/status").read_text().splitlines():
            if line.startswith("Tgid:"):
                return int(line.split()[1])
    return thread
