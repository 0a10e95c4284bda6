"""The state of the server as one process sees it, which the stores of an account share with the mount.

While the server is known to be away, no request is sent. More uploads run while that stores more a second,
fewer when the server refuses. Requests are counted by class, because providers charge for each of them.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MappingProxyType

from msgspec import Struct, field

from swiftfs.concurrency import Event, Rank, monotonic, new_event, new_lock, sleep, unix_time
from swiftfs.errors import Offline, Postponed, Unavailable
from swiftfs.objects import Count, Counts, Limits
from swiftfs.store.ambiguous import AmbiguousRequests
from swiftfs.store.throttle import Throttle, waited

MOST = 64
"""The most uploads of a kind at once. With 100 ms a request these are 640 small files a second, more than one
process prepares."""

FIRST_FILES = 16
FIRST_SEGMENTS = 4
"""How many run at once before any answer, and while more would only wait longer: what any server takes."""

LARGE = 1024**2
"""Bodies from this size on, in bytes, are segments: what limits them is the network, and not the latency."""

SLOWER = 2.0
"""An answer counts as slow if it takes so many times the shortest time: then half of that was waiting."""

FILE_RATE, SEGMENT_RATE = 32 * 1024, 64 * 1024
"""Bytes a second that each upload of a file or a segment should get of a limited rate. A server ends a body
that comes too slowly, and the longer an upload takes the more is sent in vain when it fails."""

REMEMBERED_SECONDS = 600.0
"""After this time the shortest time is measured anew: the way to the server may have become another one."""

CALM_SECONDS = 60.0
"""For so long after a refusal the number grows slowly."""

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

    def wait(self, longest: Callable[[], float]) -> None:
        """Wait for the turn of a request, at most `longest()` seconds."""
        if not self._gap:  # mostly; without the lock, as one request more or less does not matter
            return
        pause = min(self._turn(), longest())
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


class ParallelLimit:
    """How many uploads of one kind may run at once: between `least` and `MOST`, fewer after refusals.

    It grows with each answer that takes less than `SLOWER` times the shortest time, if as many run as may,
    and falls with each that takes longer. So it stays where twice as many would store no more a second. A
    refusal halves it, and it grows again by one in the time of as many answers. Not locked.

    Where `rate` limits the bytes a second there are no more than get `share` of them each.
    """

    def __init__(self, least: int, share: float = 1.0, rate: Callable[[], float] = lambda: math.inf) -> None:
        self._least = least
        self._share = share
        self._rate = rate
        self._allowed = float(least)
        self._running = 0
        self._shortest = (0.0, 0.0)
        self._refused = -CALM_SECONDS

    @property
    def now(self) -> int:
        """How many may run at once now."""
        return max(1, int(min(self._allowed, self._rate() / self._share)))

    def begin(self) -> None:
        """Record that an upload begins."""
        self._running += 1

    def answered(self, began: float, size: int, idle: float = 0.0) -> None:
        """Record that an upload of `size` bytes was answered that `began` at a time in monotonic seconds.

        For `idle` of them it has waited for a limit of the mount.
        """
        now = monotonic()
        # A body of a megabyte takes about as long as the latency, on networks of all kinds: so the times of
        # bodies of all sizes can be compared.
        cost = (now - began - idle) / (1 + size / LARGE)
        shortest, since = self._shortest
        if cost < shortest or now - since > REMEMBERED_SECONDS or not since:
            self._shortest = (cost, now)
        # Of those that may run, some are still being prepared.
        is_full = 2 * self._running > self._allowed
        self._running -= 1
        if self._allowed < self._least:
            self._allowed = min(self._least, self._allowed + 1 / self._allowed)
        elif cost > SLOWER * self._shortest[0]:
            self._allowed = max(self._least, self._allowed - 1)
        elif is_full:
            step = 1 if now - self._refused >= CALM_SECONDS else 1 / self._allowed
            self._allowed = min(MOST, self._allowed + step)

    def failed(self, began: float, *, refused: bool) -> None:
        """Record that an upload that `began` then has failed; `refused` if the server could not take it."""
        self._running -= 1
        # The others that were under way at a refusal are mostly refused too: together they halve it once.
        if refused and began > self._refused:
            self._allowed = max(1.0, self._allowed / 2)
            self._refused = monotonic()


class ServerLoad:
    """The limits of the uploads of whole `files` and of `segments`, as the answers to all PUTs show them.

    `pacer` slows down all requests while the server refuses some. `rate` returns how many bytes a second the
    mount may send.
    """

    def __init__(self, rate: Callable[[], float] = lambda: math.inf) -> None:
        self.files = ParallelLimit(FIRST_FILES, FILE_RATE, rate)
        self.segments = ParallelLimit(FIRST_SEGMENTS, SEGMENT_RATE, rate)
        self.pacer = Pacer()
        self._rate = rate
        self._lock = new_lock(Rank.SERVER_LOAD)

    def slowness(self, size: int) -> float:
        """Return how many seconds the limit of the rate may add to an upload of `size` bytes."""
        if (rate := self._rate()) == math.inf:
            return 0.0
        # Files and segments are sent at once, and so many of each that all get their share.
        return 2 * size / min(rate, max(SEGMENT_RATE, rate / MOST))

    @contextmanager
    def put(self, size: int, *, is_repeated: bool = False) -> Iterator[None]:
        """Count one attempt to PUT `size` bytes, from its beginning to its answer.

        The refusal of one that `is_repeated` says nothing new of the server: perhaps it is this object.
        """
        limit = self.segments if size >= LARGE else self.files
        began, idle = monotonic(), waited()
        with self._lock:
            limit.begin()
        try:
            yield
        except BaseException as error:
            with self._lock:
                limit.failed(began, refused=isinstance(error, Unavailable) and not is_repeated)
            raise
        with self._lock:
            limit.answered(began, size, waited() - idle)


class Counters:
    """Counts requests; may be used from many threads."""

    def __init__(self) -> None:
        self._lock = new_lock(Rank.COUNTERS)
        self._classes: dict[str, Count] = {}
        self._numbers = itertools.count()
        self._bodies: dict[int, tuple[str, int]] = {}

    def add(self, name: str, count: Count) -> None:
        """Add `count` to the class `name`."""
        with self._lock:
            self._classes[name] = self._classes.get(name, Count()) + count

    def snapshot(self) -> Counts:
        """Return the counts so far."""
        with self._lock:
            return Counts(MappingProxyType(dict(self._classes)))

    @contextmanager
    def body(self, name: str) -> Iterator[Callable[[int], None]]:
        """Provide a function that counts what was sent of a body to the object `name`, `container/key`.

        The context ends when the request was answered or has failed.
        """
        number = next(self._numbers)

        def count(size: int) -> None:
            with self._lock:
                self._bodies[number] = name, self._bodies.get(number, (name, 0))[1] + size

        try:
            yield count
        finally:
            with self._lock:
                self._bodies.pop(number, None)

    def under_way(self, name: str) -> int:
        """Return how many bytes were sent of unanswered bodies to `name`, or below it if it ends with `/`."""
        with self._lock:
            bodies = list(self._bodies.values())
        return sum(sent for to, sent in bodies if to == name or (name.endswith("/") and to.startswith(name)))


class Away(Struct, frozen=True):
    """The server is away `since` a Unix time, for a `reason`; if it `answers`, not as the mount needs it."""

    since: float
    reason: str
    answers: bool = False

    def __str__(self) -> str:
        return f"{'the mount is offline' if self.answers else 'the server is away'}: {self.reason}"


class Presence:
    """The state of the server as seen from here. It needs no lock: each call is one step.

    `watches` is whether somebody looks for the server's return, so that it may count as away. `limits` are
    those that the server has reported, or those of most servers.
    """

    def __init__(self) -> None:
        self.watches = False
        self.away: Away | None = None
        self.limits = Limits()
        self._suspicion: Event = new_event()

    def check(self, kind: type[Offline] = Offline) -> None:
        """Raise `Offline`, or an error of this `kind` of it, if the server is away."""
        if (away := self.away) is not None:
            raise kind(str(away))

    def suspect(self, error: BaseException | None) -> None:
        """Record that a request failed; if the server may be away, whoever waits for that looks."""
        # A server that names a pause is there.
        if self.watches and isinstance(error, Unavailable) and not isinstance(error, Offline | Postponed):
            self._suspicion.set()

    def wake(self) -> None:
        """End the wait for a failed request."""
        self._suspicion.set()

    def suspicion(self) -> Event:
        """Return the event of the next failed request, which is a new one after each."""
        if self._suspicion.is_set():
            self._suspicion = new_event()
        return self._suspicion

    def leave(self, reason: str, *, answers: bool = False) -> None:
        """Record that the server is away, as in `Away`, since now unless it was away before."""
        self.away = Away(unix_time() if self.away is None else self.away.since, reason, answers)

    def come_back(self) -> None:
        """Record that the server is there."""
        self.away = None


class Reading:
    """Whether requests that change nothing may run. It needs no lock: each call is one step.

    libfuse waits for the calls that run before it ends, and a server may answer one for ever.
    """

    def __init__(self) -> None:
        self._has_ended = False

    def end(self) -> None:
        """Let them fail, also those whose answer is being read, and let no request be repeated."""
        self._has_ended = True

    def resume(self) -> None:
        """Let them run again."""
        self._has_ended = False

    def has_ended(self) -> bool:
        """Return whether they fail."""
        return self._has_ended


class ServerState(Struct, frozen=True):
    """The state of the server and of the requests to it, as one process sees it."""

    throttle: Throttle = field(default_factory=Throttle)
    """The limits of the mount."""
    load: ServerLoad = field(default_factory=ServerLoad)
    """How many uploads the server takes at once."""
    reading: Reading = field(default_factory=Reading)
    """Ends the calls that wait for Swift."""
    presence: Presence = field(default_factory=Presence)
    """Whether the server is away; only a mount that may be offline looks for that."""
    ambiguous: AmbiguousRequests = field(default_factory=AmbiguousRequests)
    """The requests whose answer was lost."""
    counters: Counters = field(default_factory=Counters)
    """All requests by class."""

    @classmethod
    def limited_by(cls, throttle: Throttle) -> "ServerState":
        """Return the state of a new account, to which no more is sent than `throttle` lets pass."""
        return cls(throttle, ServerLoad(lambda: throttle.rates().sent))
