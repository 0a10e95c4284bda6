"""Lets writers wait until the disk has space for what they write."""

import enum
import errno
from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from swiftfs.concurrency import Rank, monotonic, new_condition
from swiftfs.errors import is_disk_full, os_error

PATIENCE = 120.0
"""Seconds without progress after which a write fails because the disk is full. A server that restarts is back
sooner; a program that hangs in write() for longer would seem dead."""

PAUSE = 1.0
"""Seconds between two checks without progress: each begins uploads that failed again."""


ATTEMPTS = 8
"""How often room is made for one write: others may take it."""


class SpaceOutlook(enum.Enum):
    """What a writer can expect: there is space, there will be some, or there will be none."""

    SPACE = enum.auto()
    HOPE = enum.auto()
    NONE = enum.auto()


class HasSize(Protocol):
    """An object with a size, as a file has."""

    @property
    def size(self) -> int:
        """The length in bytes."""


def _ignore(_size: int) -> None:
    """Do nothing: there is no budget."""


def _never_wait(_file: HasSize, _size: int) -> None:
    """Do nothing: there is no limit."""


def _has_room(_size: int) -> bool:
    """Return that there is room: there is no limit."""
    return True


def _nothing_to_evict(_size: int, _is_ahead: bool) -> bool:
    """Return that nothing was evicted."""
    return False


def _ignore_progress() -> None:
    """Do nothing: nobody waits for space."""


class SpaceCalls(Struct, frozen=True):
    """The calls from a cached file to the cache. No lock is held during a call, except of `on_stored`.

    `on_growth` is called with the number of bytes that are about to be added. `wait_for_space` returns when
    there is space for so many bytes more of a file, and raises `OSError` if there will be none. `on_stored`
    is called when a segment is stored. `has_room` returns whether so many bytes may be added to the disk.
    `make_room` evicts about so many bytes that can be downloaded again, and returns whether there were any;
    for what is downloaded ahead (True) it evicts less.
    """

    on_growth: Callable[[int], None] = _ignore
    wait_for_space: Callable[[HasSize, int], None] = _never_wait
    on_stored: Callable[[], None] = _ignore_progress
    has_room: Callable[[int], bool] = _has_room
    make_room: Callable[[int, bool], bool] = _nothing_to_evict

    def with_room(self, size: int, write: Callable[[], None], *, is_ahead: bool = False) -> None:
        """Call `write`, which writes up to `size` bytes; when the disk is full make room and call it again.

        Raise its `OSError` if there is no room.
        """
        for _ in range(ATTEMPTS):
            try:
                return self._write(size, write)
            except OSError as error:
                if not (is_disk_full(error) and self.make_room(size, is_ahead)):
                    raise
        return self._write(size, write)

    def _write(self, size: int, write: Callable[[], None]) -> None:
        if not self.has_room(size):
            raise os_error(errno.ENOSPC)
        write()


UNLIMITED = SpaceCalls()
"""The calls of a file that belongs to no cache."""


class SpaceWaiter:
    """Wakes writers that wait, at each progress. Its lock comes after all others of the cache and journal.

    Their patience is longer by `slowness` seconds, which a limit of the mount adds to an upload.
    """

    def __init__(self, slowness: Callable[[], float] = lambda: 0.0) -> None:
        self._slowness = slowness
        self._changed = new_condition(Rank.SPACE)
        self._progress = 0

    def progress(self) -> None:
        """Record that something was stored, or is not needed any more."""
        with self._changed:
            self._progress += 1
            self._changed.notify_all()

    def wait(self, check: Callable[[], SpaceOutlook]) -> bool:
        """Call `check` after each progress until there is space; return False if there will be none."""
        seen, deadline = -1, 0.0
        while True:
            # Read before the check: progress during the check ends the wait at once.
            before = self._progress
            # As long as anything is stored the writer waits, however long all of it takes.
            if before != seen:
                seen, deadline = before, monotonic() + PATIENCE + self._slowness()
            if (outlook := check()) is not SpaceOutlook.HOPE:
                return outlook is SpaceOutlook.SPACE
            rest = deadline - monotonic()
            if rest <= 0:
                return False
            # At most PAUSE: uploads that failed are begun again by `check`, and their failure is no progress.
            self._wait(seen, min(rest, PAUSE))

    def _wait(self, seen: int, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._progress != seen, seconds)
