"""Where the segments of large files go: a container beside the file's, a given one, or a hidden prefix."""

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass

from swiftfs.concurrency import Future, Rank, new_future, new_lock
from swiftfs.errors import AccessDenied, BadName, BadRequest, NotFound
from swiftfs.objects import ObjectName, Segment
from swiftfs.paths import SEGMENTS_FOLDER
from swiftfs.store.protocol import ObjectStore

SEGMENTS_SUFFIX = "_segments"
"""The container beside a container that holds its segments; the swift CLI names it so too."""

LONGEST_PREFIX = 257
"""Bytes of a container's longest name and a slash: so long may what a place puts before a name be."""

LONGEST_ID = len("/swiftfs-") + 32 + len("/") + 13 + len("-") + 12
"""Bytes that one of our segments' names has behind the object's key."""

LONGEST_KEY = 1024 - LONGEST_ID - LONGEST_PREFIX
"""Bytes of an object's key in the names of its segments; the rest of a longer one is cut off."""

AUTO, SAME = "auto", "same"

RCLONE_FOLDER = ".file-segments"
"""Where rclone puts segments that it keeps in the file's own container."""

_UPLOAD = r"""(?:
        swiftfs-[0-9a-f]{32} |
        (?:slo/)? \d+\.\d+ / \d+ / \d+ |
        \d{4}-\d\d-\d\d-\d{6}-[\w-]{22} |
        \d+\.\d+ / \d+
    )"""

SEGMENT_NAME = re.compile(rf"(.+/{_UPLOAD})/[^/]+", re.VERBOSE | re.DOTALL)
"""A segment's name; the group is what all segments of one upload begin with.

`<key>/swiftfs-<id>/…` is ours, `<key>/slo/<time>/<size>/<segment>/<number>` (or without `slo/`) is that of
python-swiftclient 4, `<key>/<date>-<time>-<id>/<number>` of rclone 1.75, both as those clients wrote them;
`<key>/<time>/<size>/<number>` is from the source of older rclone versions (backend/swift).
"""

_BEHIND_KEY = re.compile(rf"{_UPLOAD}/[^/]+", re.VERBOSE)
"""What follows the object's key and a slash in the name of one of its segments."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SegmentContainer:
    """A container, and how the names of the segments in it begin."""

    container: str
    prefix: str = ""

    def name(self, key: str) -> ObjectName:
        """Return the segment `key` in this place."""
        return ObjectName(self.container, self.prefix + key)

    def instead(self, other: "SegmentContainer", name: ObjectName) -> ObjectName:
        """Return the name here of what would be `name` in the other place."""
        return self.name(name.key.removeprefix(other.prefix))

    def holds(self, name: ObjectName) -> bool:
        """Return whether a segment lies here."""
        return name.container == self.container and name.key.startswith(self.prefix)

    def __str__(self) -> str:
        return f"{self.container}/{self.prefix}".rstrip("/")


def place_beside(container: str) -> SegmentContainer:
    """Return the container beside `container`."""
    return SegmentContainer(container + SEGMENTS_SUFFIX)


def place_inside(container: str) -> SegmentContainer:
    """Return the hidden folder in `container` itself."""
    return SegmentContainer(container, SEGMENTS_FOLDER + "/")


def places_of(container: str, choice: str = AUTO) -> tuple[SegmentContainer, ...]:
    """Return where segments of objects in `container` may lie.

    `choice` is as in `SegmentContainerChooser`.
    """
    given = () if choice in (AUTO, SAME) else (SegmentContainer(choice, f"{container}/"),)
    rclone = SegmentContainer(container, RCLONE_FOLDER + "/")
    return (place_beside(container), place_inside(container), rclone, *given)


def is_segment_of(segment: ObjectName, owner: ObjectName, choice: str = AUTO) -> bool:
    """Return whether the segment's name says that it was uploaded for the object `owner`.

    The name must follow a known convention, in a segment place of the owner's container, below the owner's
    key. The names say nothing of a key that is long enough to be cut: another one may be cut to the same.
    """
    if len(owner.key.encode()) > LONGEST_KEY - 4:
        return False
    for place in places_of(owner.container, choice):
        key = place.prefix + owner.key + "/"
        if segment.container == place.container and segment.key.startswith(key):
            return _BEHIND_KEY.fullmatch(segment.key, len(key)) is not None
    return False


class SegmentContainerChooser:
    """The place of each container's segments. Containers are made once, and one that is known is not.

    `choice` is `same`, a container's name, or `auto`: beside, and inside where that is refused. Whoever needs
    a place that is being decided waits for it; the lock is not held across the requests of a decision.
    """

    def __init__(self, store: ObjectStore, choice: str = AUTO) -> None:
        self._store = store
        self._choice = choice
        self._lock = new_lock(Rank.PLACES)
        self._decided: dict[str, Future[SegmentContainer]] = {}

    def of(self, container: str) -> SegmentContainer:
        """Return the place for segments of files in `container`; it is there, as far as is known.

        Raise `StoreError` when the server neither makes it nor refuses to.
        """
        with self._lock:
            decision = self._decided.get(container)
            if decision is None:
                mine: Future[SegmentContainer] = new_future()
                self._decided[container] = mine
        if decision is not None:
            return decision.result()
        try:
            mine.set_result(self._decide(container))
        except BaseException as error:
            with self._lock:
                if self._decided.get(container) is mine:
                    del self._decided[container]
            mine.set_exception(error)
            raise
        return mine.result()

    def likely(self, container: str) -> SegmentContainer:
        """Return the place unless the server will refuse it; nothing is asked."""
        return self._wanted(container)

    def found(self, container: str, known: Iterable[Segment]) -> None:
        """Record segments of a file in `container`: where they are is room for more."""
        if self._choice == SAME:
            return
        places = [self._wanted(container)]
        places += [place_inside(container)] if self._choice == AUTO else []
        with self._lock:
            for place in places:
                if container not in self._decided and any(place.holds(segment.name) for segment in known):
                    decided: Future[SegmentContainer] = new_future()
                    self._decided[container] = decided
                    decided.set_result(place)

    def gone(self, container: str) -> None:
        """Record that the place is not there any more."""
        with self._lock:
            self._decided.pop(container, None)

    def _wanted(self, container: str) -> SegmentContainer:
        if self._choice == SAME:
            return place_inside(container)
        return (
            place_beside(container)
            if self._choice == AUTO
            else SegmentContainer(self._choice, container + "/")
        )

    def _decide(self, container: str) -> SegmentContainer:
        wanted = self._wanted(container)
        if wanted.container == container:
            return wanted
        try:
            self._store.create_container(wanted.container)
        except (AccessDenied, BadName, BadRequest) as error:
            # Who may not make containers may still use one that is there.
            if self._choice != AUTO or (isinstance(error, AccessDenied) and self._is_there(wanted)):
                return wanted
            self._tell(container, error)
            return place_inside(container)
        return wanted

    def _is_there(self, place: SegmentContainer) -> bool:
        try:
            self._store.container_usage(place.container)
        except (NotFound, AccessDenied):
            return False
        return True

    def _tell(self, container: str, error: Exception) -> None:
        log.info("segments of %s go to %s: %s", container, place_inside(container), error)
