"""What the stores of an account share with the mount: the state of the server, and what became of requests.

While the server is known to be away, no request is sent. Requests are counted by class, because providers
charge for each of them.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MappingProxyType

from msgspec import Struct, field

from swiftfs.concurrency import Event, Rank, new_event, new_lock, unix_time
from swiftfs.errors import Offline, Postponed, Unavailable
from swiftfs.objects import Count, Counts, Limits
from swiftfs.store.ambiguous import AmbiguousRequests
from swiftfs.store.request import Reading
from swiftfs.store.server_load import ServerLoad
from swiftfs.store.throttle import Throttle


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
        """Provide a function that counts the bytes sent of a body to the object `name` (`container/key`).

        The context ends when the request was answered or has failed.
        """
        number, sent = next(self._numbers), 0

        def count(size: int) -> None:
            nonlocal sent
            sent += size
            with self._lock:
                self._bodies[number] = (name, sent)

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
    """The server is away `since` some Unix time, for a `reason` in words.

    If it `answers`, the mount cannot go on with what it says.
    """

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
