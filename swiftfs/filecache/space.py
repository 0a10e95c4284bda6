"""Writers who wait until the disk has room for what they write."""

import enum
from collections.abc import Callable

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


class SpaceWaiter:
    """Tells writers who wait of progress. Its lock comes after every other."""

    def __init__(self) -> None:
        self._changed = new_condition(Rank.ROOM)
        self._progress = 0

    def progress(self) -> None:
        """Take note that something was stored, or is needed no more."""
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
