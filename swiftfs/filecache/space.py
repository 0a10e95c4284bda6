"""Writers who wait until the disk has room for what they write."""

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from swiftfs.concurrency import Rank, monotonic, new_condition

PATIENCE = 120.0
"""Seconds without any progress after which a writer is told that the disk is full: a server that is started
anew is back sooner, and later a program that hangs in write() is taken for dead."""

PAUSE = 1.0
"""Seconds after which uploads that failed are begun again."""


class SpaceOutlook(enum.Enum):
    """What a writer can expect: there is room, there will be, or nothing will make any."""

    ROOM = enum.auto()
    HOPE = enum.auto()
    NONE = enum.auto()


class HasSize(Protocol):
    """A file that grows."""

    @property
    def size(self) -> int:
        """Its length in bytes."""


def _ignore(_size: int) -> None:
    """Let a file grow as it likes."""


def _never_wait(_file: HasSize, _size: int) -> None:
    """Let everybody write."""


def _tell_nobody() -> None:
    """Nobody waits for space."""


@dataclass(frozen=True, slots=True)
class SpaceCalls:
    """What a file tells and asks of the cache; no lock is held during a call, but for `on_stored`.

    `on_growth` is called with the number of bytes that are about to be added. `wait_for_space` returns when
    there is room for so many bytes more of a file, and raises `OSError` when there is none. `on_stored` is
    called when a segment is stored.
    """

    on_growth: Callable[[int], None] = _ignore
    wait_for_space: Callable[[HasSize, int], None] = _never_wait
    on_stored: Callable[[], None] = _tell_nobody


UNLIMITED = SpaceCalls()
"""For a file that belongs to no cache."""


class SpaceWaiter:
    """Tells writers who wait of progress. Its lock comes after every other."""

    def __init__(self) -> None:
        self._changed = new_condition(Rank.ROOM)
        self._progress = 0

    def progress(self) -> None:
        """Record that something was stored, or is needed no more."""
        with self._changed:
            self._progress += 1
            self._changed.notify_all()

    def wait(self, look: Callable[[], SpaceOutlook]) -> bool:
        """Call `look` after each progress until it sees room; return False when there will be none."""
        seen, deadline = -1, 0.0
        while True:
            # Before the look: what comes after it ends the wait at once.
            before = self._progress
            if before != seen:
                seen, deadline = before, monotonic() + PATIENCE
            if (outlook := look()) is not SpaceOutlook.HOPE:
                return outlook is SpaceOutlook.ROOM
            rest = deadline - monotonic()
            if rest <= 0:
                return False
            self._wait(seen, min(rest, PAUSE))

    def _wait(self, seen: int, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._progress != seen, seconds)
