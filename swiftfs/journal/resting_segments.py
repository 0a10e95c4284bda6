"""Segments of versions that were replaced just now, which rest for a moment before they are deleted.

Another mount may be about to replace the same version, by a manifest that names its segments again.
"""

from collections import deque
from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from swiftfs.concurrency import Rank, new_lock
from swiftfs.objects import ObjectName

REST_SECONDS = 2.0
"""How long the segments of a replaced version stay: longer than another mount takes between its look at that
version and the answer to its own manifest."""


class Rest(Struct, frozen=True):
    """Segments of a version of `name` that was replaced; to be deleted at `due` (Unix seconds).

    `is_slo` tells whether the new version is an SLO.
    """

    name: ObjectName
    segments: frozenset[ObjectName]
    due: float
    is_slo: bool


class RestingSegments:
    """The segments that rest, in the order of their time, which the lock guards.

    `clock` returns Unix seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = new_lock(Rank.REMOVAL)
        self._resting: deque[Rest] = deque()

    def add(self, name: ObjectName, segments: frozenset[ObjectName], *, is_slo: bool) -> None:
        """Let segments rest that the version of `name` has named which was replaced."""
        with self._lock:
            self._resting.append(Rest(name, segments, self._clock() + REST_SECONDS, is_slo))

    def do_rest(self) -> bool:
        """Return whether what is added rests at all."""
        return REST_SECONDS > 0

    def has_rested(self) -> bool:
        """Return whether any have rested enough."""
        with self._lock:
            return self._has_rested()

    def take(self, *, at_once: bool) -> list[Rest]:
        """Return and forget what has rested enough, or all `at_once`; one for each object."""
        taken: dict[ObjectName, Rest] = {}
        with self._lock:
            while self._resting and (at_once or self._has_rested()):
                rest = self._resting.popleft()
                others = taken[rest.name].segments if rest.name in taken else frozenset[ObjectName]()
                taken[rest.name] = replace(rest, segments=rest.segments | others)
        return list(taken.values())

    def _has_rested(self) -> bool:
        """Return whether the first ones have rested enough. Lock held."""
        # A time far in the future is from a clock that was set back since.
        return bool(self._resting) and not 0 < self._resting[0].due - self._clock() <= REST_SECONDS
