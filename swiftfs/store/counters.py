"""Counts requests by class, because providers charge for each of them."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MappingProxyType

from swiftfs.concurrency import Rank, new_lock
from swiftfs.objects import Count, Counts


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
