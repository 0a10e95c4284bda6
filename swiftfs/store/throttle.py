"""The limits that a user sets for a mount: bytes a second each way by the time of day, and requests a second.

What a thread waits for them is no fault of the server: `busy_time` is a clock that stands still meanwhile.
Time limits of requests, and whoever measures how fast the server is, use it.
"""

import math
import re
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from enum import IntEnum

from msgspec import Struct

from swiftfs.concurrency import Rank, may_block, monotonic, new_event, new_lock, unix_time

DAY = 24 * 60
"""Minutes of a day."""


class Rates(Struct, frozen=True):
    """Bytes a second that may be sent and received, infinity without a limit."""

    sent: float = math.inf
    received: float = math.inf


class Timetable(Struct, frozen=True):
    """Rates, each from a minute of the week on; Monday begins at 0. `text` is how the user has written it.

    The last rates of a week count until the first ones of the next. The clock on the wall decides: an hour
    that summer time repeats has its rates twice, and a start that it skips counts from the next minute on.
    """

    text: str
    starts: tuple[int, ...] = (0,)
    rates: tuple[Rates, ...] = (Rates(),)

    def at(self, unix_time: float) -> Rates:
        """Return the rates at a time in Unix seconds, in the local time zone."""
        if len(self.rates) == 1:
            return self.rates[0]
        local = time.localtime(unix_time)
        minute = local.tm_wday * DAY + local.tm_hour * 60 + local.tm_min
        # Before the first start of the week the index is -1: the last rates of the week before.
        return self.rates[bisect_right(self.starts, minute) - 1]


NO_LIMIT = Timetable("off")

LEAST = 32 * 1024
"""Bytes a second. Servers break off a body of which less than about 64 KiB a minute come, and each of the
parallel ones gets a part."""

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

_TIME = re.compile(r"(?:([a-z]{3})-)?(\d{1,2}):(\d{2})", re.IGNORECASE)

_ENDS_IN_TIME = re.compile(rf"(?:^|[\s\"]){_TIME.pattern}$", re.IGNORECASE)

EXPECTED = (
    "off, a rate such as 2M or 2M:10M (32K a second or more), or a timetable such as '08:00,2M:off 19:00,off'"
)


def parse_bandwidth(text: str, parse_size: Callable[[str], int]) -> Timetable:
    """Read the option's value; raise `ValueError` with what is expected."""
    text = " ".join(text.strip().strip('"').split())
    if "," not in text:
        rates = _rates(text, parse_size)
        return Timetable(text, rates=(rates,)) if rates != Rates() else NO_LIMIT
    found: dict[int, Rates] = {}
    for entry in text.split(" "):
        start, _, rate = entry.partition(",")
        rates = _rates(rate, parse_size)
        for minute in _minutes(start):
            if minute in found:
                raise ValueError(f"a timetable with one rate for each time, and {start!r} has two")
            found[minute] = rates
    starts = sorted(found)
    return Timetable(text, tuple(starts), tuple(found[start] for start in starts))


def goes_on(text: str) -> bool:
    """Return whether a value that was cut at a comma continues behind it: its last word is a time."""
    return _ENDS_IN_TIME.search(text) is not None


def _minutes(start: str) -> list[int]:
    """Return the minutes of the week that a time such as `08:00` or `Mon-08:00` means."""
    match = _TIME.fullmatch(start)
    if match is None or int(match[2]) > 23 or int(match[3]) > 59:
        raise ValueError(f"{EXPECTED}; {start!r} is no time")
    if match[1] and match[1].lower() not in _DAYS:
        raise ValueError(f"Mon, Tue, Wed, Thu, Fri, Sat or Sun before a time, not {match[1]!r}")
    days = [_DAYS.index(match[1].lower())] if match[1] else range(len(_DAYS))
    return [day * DAY + int(match[2]) * 60 + int(match[3]) for day in days]


def _rates(text: str, parse_size: Callable[[str], int]) -> Rates:
    sent, colon, received = text.partition(":")
    return Rates(_rate(sent, parse_size), _rate(received if colon else sent, parse_size))


def _rate(text: str, parse_size: Callable[[str], int]) -> float:
    if text.lower() == "off":
        return math.inf
    try:
        rate = parse_size(text)
    except ValueError:
        raise ValueError(EXPECTED) from None
    if rate < LEAST:
        raise ValueError(f"{EXPECTED}; {text!r} is too slow for a server to wait")
    return rate


SLACK_SECONDS = 0.1
"""What was not used in this many seconds may be made up for: threads of a busy machine wake up late."""

QUANTUM_SECONDS, LEAST_QUANTUM = 0.05, 4096
"""A turn of a thread: the bytes of so many seconds, and at least so many. Short turns make a smooth flow."""

POLL_SECONDS = 0.5
"""How soon a waiting thread notices that a timetable has changed the rate, or that its answer is given up."""

LEAST_PAUSE = 0.0005
"""Seconds; a shorter pause would only spin."""

_waited: ContextVar[float] = ContextVar("swiftfs_waited", default=0.0)


def waited() -> float:
    """Return how many seconds this thread has waited for the mount's own limits."""
    return _waited.get()


def busy_time() -> float:
    """Return seconds without those that this thread has waited for limits; only differences count."""
    return monotonic() - _waited.get()


class Lane(IntEnum):
    """The queue in which a request waits. The two alternate, so that many changes hold up no read."""

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
        return bandwidth.rates[0] if len(bandwidth.rates) == 1 else bandwidth.at(unix_time())

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
