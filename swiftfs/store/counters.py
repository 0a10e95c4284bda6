"""What the requests cost: counted by class, because every one of them is paid for."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Count:
    """The requests of one class: how many, body bytes sent and received, seconds until the answer's end.

    `failures` are the requests among them that brought no answer or one outside 2xx.
    """

    requests: int = 0
    failures: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    seconds: float = 0.0

    def __add__(self, other: "Count") -> "Count":
        return Count(
            self.requests + other.requests,
            self.failures + other.failures,
            self.bytes_sent + other.bytes_sent,
            self.bytes_received + other.bytes_received,
            self.seconds + other.seconds,
        )


@dataclass(frozen=True, slots=True)
class Counts:
    """The state of the counters at one moment; `classes` are named after the store's methods."""

    classes: Mapping[str, Count] = field(default_factory=dict)

    @property
    def total(self) -> Count:
        """The sum over all classes."""
        return sum(self.classes.values(), Count())


class Counters:
    """Counts requests; may be used from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._classes: dict[str, Count] = {}

    def add(self, name: str, count: Count) -> None:
        """Add `count` to the class `name`."""
        with self._lock:
            self._classes[name] = self._classes.get(name, Count()) + count

    def snapshot(self) -> Counts:
        """Return the counts so far."""
        with self._lock:
            return Counts(MappingProxyType(dict(self._classes)))
