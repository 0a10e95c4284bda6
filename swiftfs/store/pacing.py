"""Slows down the requests of all threads while a server refuses some because there are too many."""

from swiftfs.concurrency import Rank, monotonic, new_lock, sleep
from swiftfs.store.retry import remaining

TOO_MANY = frozenset({429, 498})
"""The statuses of such a refusal; 498 is Swift's own."""

FIRST_GAP, LONGEST_GAP = 0.005, 0.25
"""Seconds between two requests after the first refusal, and at most: 200 and 4 a second."""

STEP_SECONDS = 0.5
"""A gap is doubled, or halved, at most once in this time: one moment may refuse all threads."""

MANY = 8
"""The gap grows after so many refusals in `STEP_SECONDS`: fewer may be about one object only, and the others
need not wait for that."""

QUIET_SECONDS = 2.0
"""Time without a refusal after which the gap is halved."""


class Pacer:
    """Gives each request a time not before that of the one before it, plus a gap.

    There is no gap until a request is refused. The lock guards the gap and the times, in monotonic seconds.
    """

    def __init__(self) -> None:
        self._lock = new_lock(Rank.STORE)
        self._gap = 0.0
        self._next = self._changed = self._refused = self._counted = 0.0
        self._refusals = 0

    def wait(self) -> None:
        """Wait for the turn of a request, as long as its call has time."""
        if not self._gap:  # mostly; without the lock, as one request more or less does not matter
            return
        pause = min(self._turn(), remaining())
        if pause > 0:
            sleep(pause)

    def refused(self) -> None:
        """Record that a request was refused because there are too many."""
        now = monotonic()
        with self._lock:
            if now >= self._counted + STEP_SECONDS:
                self._counted, self._refusals = now, 0
            self._refusals += 1
            if self._refusals < MANY:
                return
            self._refused = now
            if not self._gap or now >= self._changed + STEP_SECONDS:
                self._gap = min(max(2 * self._gap, FIRST_GAP), LONGEST_GAP)
                self._changed = now

    def _turn(self) -> float:
        """Return how long the next request has to wait, in seconds."""
        now = monotonic()
        with self._lock:
            if now >= max(self._refused + QUIET_SECONDS, self._changed + STEP_SECONDS):
                self._gap = self._gap / 2 if self._gap > FIRST_GAP else 0.0
                self._changed = now
            turn = max(now, self._next)
            self._next = turn + self._gap
            return turn - now
