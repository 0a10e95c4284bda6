"""The limits that a user sets for a mount: bytes a second each way, and requests a second.

What a thread waits for them is no fault of the server: `busy_time` is a clock that stands still meanwhile.
Time limits of requests, and whoever measures how fast the server is, use it.
"""

import math
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from enum import IntEnum

from swiftfs.concurrency import Rank, may_block, monotonic, new_event, new_lock, unix_time
from swiftfs.store.timetable import NO_LIMIT, Rates, Timetable

SLACK_SECONDS = 0.1
"""What was not used in so many seconds may be made up for: threads wake up late on a busy machine."""

QUANTUM_SECONDS, LEAST_QUANTUM = 0.05, 4096
"""A thread passes as many bytes in a turn as take so long, or so many: short turns make a smooth flow."""

POLL_SECONDS = 0.5
"""How soon a waiting thread notices that a timetable has changed the rate, or that its answer is given up."""

LEAST_PAUSE = 0.0005
"""Seconds; a shorter pause would only spin."""

_waited: ContextVar[float] = ContextVar("swiftfs_waited", default=0.0)


def waited() -> float:
    """Return how many seconds this thread has waited for the mount's own limits."""
    return _waited.get()


def busy_time() -> float:
    """Return monotonic seconds without those that this thread has waited for the mount's own limits.

    Only differences between two calls in one thread mean anything.
    """
    return monotonic() - _waited.get()


class Lane(IntEnum):
    """Who waits for a turn: when both do they take turns, so that many changes hold up no read."""

    READS = 0
    CHANGES = 1


class _Waiter:
    """A thread that waits for its turn; `woken` is set when it should look again."""

    def __init__(self) -> None:
        self.woken = new_event()


class Limiter:
    """Lets `rate()` units a second pass, one thread after the other in the order in which they come.

    A thread that comes while nothing is owed passes at once, and its units are owed from then on. `seconds`
    is how long all threads together have waited. The lock guards all of it, and is not held while a thread
    waits.
    """

    def __init__(self, rate: Callable[[], float]) -> None:
        self._asked_rate = rate
        self._lock = new_lock(Rank.THROTTLE)
        self._lanes: tuple[deque[_Waiter], deque[_Waiter]] = deque(), deque()
        self._last = Lane.CHANGES
        self._rate = math.inf
        self._credit = 0.0
        self._since = monotonic()
        self._ended = False
        self.seconds = 0.0

    @property
    def is_open(self) -> bool:
        """Whether everything passes at once."""
        return self._rate == math.inf == self._asked_rate()

    def quantum(self, most: int) -> int:
        """Return how many of `most` units to pass next."""
        rate = self._asked_rate()
        return most if rate == math.inf else min(most, max(LEAST_QUANTUM, int(rate * QUANTUM_SECONDS)))

    def take(
        self, units: float, lane: Lane = Lane.READS, is_given_up: Callable[[], bool] = lambda: False
    ) -> None:
        """Return when so many units may pass; raise `TimeoutError` if they are given up, or at the end."""
        if self.is_open:  # mostly; without the lock
            return
        may_block("waits for a limit of the mount")
        with self._lock:
            if self._passes(units, lane, None):
                return
            waiter = _Waiter()
            self._lanes[lane].append(waiter)
        began = monotonic()
        try:
            self._wait(waiter, units, lane, is_given_up)
        finally:
            took = monotonic() - began
            _waited.set(_waited.get() + took)
            with self._lock:
                self.seconds += took
                self._lanes[lane].remove(waiter)
                self._wake()

    def wake(self) -> None:
        """Let the threads look at the rate anew."""
        with self._lock:
            self._advance()
            self._wake()

    def end(self) -> None:
        """Let every thread that waits, now or later, fail."""
        with self._lock:
            self._ended = True
            for waiter in (*self._lanes[0], *self._lanes[1]):
                waiter.woken.set()

    def _wait(self, waiter: _Waiter, units: float, lane: Lane, is_given_up: Callable[[], bool]) -> None:
        while True:
            with self._lock:
                if self._passes(units, lane, waiter):
                    return
                if self._ended or is_given_up():
                    raise TimeoutError("the mount ends")
                if waiter.woken.is_set():
                    waiter.woken = new_event()
                pause = self._pause(lane, waiter)
            waiter.woken.wait(pause)

    def _passes(self, units: float, lane: Lane, waiter: _Waiter | None) -> bool:
        """Pass if it is the turn of `waiter`, None for a thread that has just come. Lock held."""
        self._advance()
        if self._rate == math.inf:  # at the end, too: what needs no turn is not in the way
            return True
        if self._ended or self._credit < 0 or not self._is_next(lane, waiter):
            return False
        self._credit -= units
        self._last = lane
        return True

    def _is_next(self, lane: Lane, waiter: _Waiter | None) -> bool:
        mine, other = self._lanes[lane], self._lanes[1 - lane]
        first = mine[0] if mine else None
        return first is waiter and (not other or self._last is not lane)

    def _pause(self, lane: Lane, waiter: _Waiter) -> float:
        """Return how long to wait before the next look, in seconds. Lock held."""
        if not self._is_next(lane, waiter):
            return POLL_SECONDS  # until it is woken
        return min(max(-self._credit / self._rate, LEAST_PAUSE), POLL_SECONDS)

    def _advance(self) -> None:
        """Add what may pass since the last time, at the rate of that time. Lock held."""
        now = monotonic()
        if self._rate != math.inf:
            most = self._rate * SLACK_SECONDS
            self._credit = min(self._credit + (now - self._since) * self._rate, most)
        self._since, self._rate = now, self._asked_rate()
        if self._rate == math.inf:
            self._credit = 0.0

    def _wake(self) -> None:
        """Let the first thread of each lane look again: one of them is the next. Lock held."""
        for lane in self._lanes:
            if lane:
                lane[0].woken.set()


class Throttle:
    """The limits of one mount, which can be changed at any time. They end with `end`, and so do all waits."""

    def __init__(self, bandwidth: Timetable = NO_LIMIT, requests: float = 0.0) -> None:
        self._bandwidth = bandwidth
        self._requests = requests
        self.sending = Limiter(lambda: self.rates().sent)
        self.receiving = Limiter(lambda: self.rates().received)
        self.requests = Limiter(lambda: self._requests or math.inf)

    def rates(self) -> Rates:
        """Return the rates of this moment."""
        bandwidth = self._bandwidth
        return bandwidth.at(unix_time() if len(bandwidth.rates) > 1 else 0.0)

    @property
    def request_rate(self) -> float:
        """How many requests a second may be sent, 0 without a limit."""
        return self._requests

    def set_bandwidth(self, bandwidth: Timetable) -> None:
        """Change the rates, for bodies that are under way, too."""
        self._bandwidth = bandwidth
        self.sending.wake()
        self.receiving.wake()

    def set_requests(self, rate: float) -> None:
        """Change how many requests a second may be sent, 0 without a limit."""
        self._requests = rate
        self.requests.wake()

    def end(self) -> None:
        """Let everything fail that waits for a limit, so that the mount can end."""
        for limiter in (self.sending, self.receiving, self.requests):
            limiter.end()


UNTHROTTLED = Throttle()
"""For requests without a limit."""
