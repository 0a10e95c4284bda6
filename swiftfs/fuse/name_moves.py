"""What calls about a name do while that name is moved, because another client has replaced its open file.

A call waits for the move or, where the move would wait for the call, lets the kernel look the name up again.
`posix/replaced_files.py` says which names are moved and what is shown at them, `service/mount_caller.py`
moves them. docs/concurrency.md describes all of it in order.
"""

import contextlib
import errno
from pathlib import Path
from typing import Any

from swiftfs.concurrency import thread_id
from swiftfs.errors import os_error
from swiftfs.fuse.filesystem import FileSystem
from swiftfs.fuse.library import Library
from swiftfs.objects import Attributes, PageUse
from swiftfs.paths import REPLACED

MOST_TRYING = 1000
"""Limit of the calls that are being tried again."""

CHANGE_PATIENCE = 10.0
"""How long, in seconds, a change waits until the mover has begun."""

MOVE_PATIENCE = 10.0
"""How long a lookup waits after that until the move is done."""

LOOKUP_PATIENCE = 1.0
"""How long a lookup waits until the mover begins, which may itself wait for the lookup."""

FSTAT_PATIENCE = 0.1
"""The same for a call that may be an fstat(2): the move always waits for its end."""

_ALIAS = f"/{REPLACED}".encode()
"""Part of the names that the mover looks up; hardly any other program does."""

_HIDDEN = b".fuse_hidden"
"""How the names begin by which libfuse hides open files; a program may use such a name too."""

_NOT_MISSED = (b"", -1)


class NameMoves:
    """Lets calls wait for the move of a name, or begin again. Not locked: a lost update does no harm."""

    def __init__(self, library: Library, filesystem: FileSystem) -> None:
        self._filesystem = filesystem
        self._thread, self._request = library.calling_thread, library.request
        # Whether the kernel was told that the name is gone: it looks it up once more.
        self._trying_again: dict[tuple[bytes, int], bool] = {}
        # The path and the thread of each open(2), by its handle.
        self._openers: dict[int, tuple[bytes, int]] = {}
        # By libfuse's thread: the last hidden name that was looked up and not found, and the request.
        self._missed: dict[int, tuple[bytes, int]] = {}
        self._mover = -1  # the kernel gives 0 for a process that it cannot name

    def after_move(self, path: bytes, attributes: Attributes) -> Attributes:
        """Return the attributes of a path after the move of its name, the given ones if that takes long."""
        if self._filesystem.wait_for_move(path.decode(), *self._patience(path)):
            return self._filesystem.getattr(path.decode())
        if self._is_trying_again(path):  # it would open a file that is gone, instead of making one
            try:
                self._filesystem.check_exists(path.decode())
            except OSError:
                call = self._call_about(path)  # it gets ENOENT for the name, for the first or second time
                self._trying_again[call] = not self._trying_again.get(call)
                raise
        return attributes

    def wait_and_try_again(self, path: bytes, *, is_change: bool) -> None:
        """Let the kernel look a name up again, once; for a change of the file after the move of its name.

        The lookup of an open(2) with O_CREAT locks the folder, so the mover must have locked it before.
        """
        if is_change and self._filesystem.moves:
            self._filesystem.wait_for_move(path.decode(), CHANGE_PATIENCE, 0.0)
        self.try_again(path)

    def look_again(self, path: bytes, info: Any) -> PageUse:
        """Let the kernel open the file again, once; then open what its inode has, and return how."""
        try:
            self.try_again(path)
        except OSError:
            self._filesystem.release(info.fh)
            raise
        if self._filesystem.is_other_inode(path.decode()):  # it was replaced since the kernel looked
            self._filesystem.release(info.fh)
            info.fh = self._filesystem.open(path.decode(), info.flags)
        return self._filesystem.page_use(info.fh)

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

    def _is_trying_again(self, path: bytes) -> bool:
        """Return whether the call is about to open a name for the second time."""
        return self._call_about(path) in self._trying_again

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

    def has_hidden(self) -> bool:
        """Return whether libfuse has hidden an open file within this request, which is its rename then."""
        return self._missed.get(thread_id(), _NOT_MISSED)[1] == self._request()

    def _patience(self, path: bytes) -> tuple[float, float]:
        """Return how long the call may wait until the move of its path begins, and after that, in seconds."""
        if self._thread() == self._mover:  # it must not wait for itself
            return 0.0, 0.0
        # An fstat(2) looks like a lookup here, but the move waits for its end. Only a process that has the
        # file open can call fstat(2).
        is_lookup = self._is_trying_again(path) or not self._has_open(path)
        return (LOOKUP_PATIENCE, MOVE_PATIENCE) if is_lookup else (FSTAT_PATIENCE, 0.0)

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
