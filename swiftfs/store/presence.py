"""Whether the server is there: while it is known to be away, no request is sent."""

from msgspec import Struct

from swiftfs.concurrency import Event, new_event, unix_time
from swiftfs.errors import Offline, Postponed, Unavailable
from swiftfs.objects import Limits


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
