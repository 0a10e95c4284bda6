"""What the stores of an account share with the mount: the limits of its requests, and what became of them."""

from msgspec import Struct, field

from swiftfs.store.ambiguous import AmbiguousRequests
from swiftfs.store.counters import Counters
from swiftfs.store.presence import Presence
from swiftfs.store.request import Reading
from swiftfs.store.server_load import ServerLoad
from swiftfs.store.throttle import Throttle


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
