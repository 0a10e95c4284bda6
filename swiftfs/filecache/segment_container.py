"""The place of large files' segments: a container beside the file's, a given one, or a hidden folder."""

import logging
import re
from collections.abc import Iterable

from msgspec import Struct

from swiftfs.concurrency import Future, Rank, new_future, new_lock
from swiftfs.errors import AccessDenied, BadName, BadRequest, NotFound
from swiftfs.objects import ObjectName, Segment
from swiftfs.paths import SEGMENTS_FOLDER, SEGMENTS_SUFFIX
from swiftfs.store.protocol import ObjectStore

LONGEST_PREFIX = 257 + len(SEGMENTS_FOLDER + "/")
"""Bytes of the longest prefix of a place: that of the longest container name in a given container."""

LONGEST_ID = len("/swiftfs-") + 32 + len("/") + 13 + len("-") + 12
"""Bytes of our segments' names behind the object's key."""

LONGEST_KEY = 1024 - LONGEST_ID - LONGEST_PREFIX
"""Bytes of an object's key in the names of its segments; a longer key is truncated."""

AUTO, SAME = "auto", "same"

RCLONE_FOLDER = ".file-segments"
"""The folder of segments that rclone stores in the file's own container."""

OTHER_SEGMENTS = "segments-for-{}"
"""The container of segments in the examples of NAVER's guide."""

_UPLOAD = r"""(?:
        swiftfs-[0-9a-f]{32} |
        (?:slo/)? \d+\.\d+ / \d+ / \d+ |
        \d{4}-\d\d-\d\d-\d{6}-[\w-]{22} |
        \d+\.\d+ / \d+
    )"""

SEGMENT_NAME = re.compile(rf"(.+/{_UPLOAD})/[^/]+", re.VERBOSE | re.DOTALL)
"""A segment's name; the group is the prefix of all segments of one upload.

`<key>/swiftfs-<id>/…` is ours. `<key>/slo/<time>/<size>/<segment>/<number>` (or without `slo/`) is
python-swiftclient 4's, `<key>/<date>-<time>-<id>/<number>` rclone 1.75's, both as those clients wrote them.
`<key>/<time>/<size>/<number>` is from the source of older rclone versions (backend/swift).
"""

_OUR_SEGMENT = re.compile(r".+/swiftfs-[0-9a-f]{32}/[^/]+", re.DOTALL)

_BEHIND_KEY = re.compile(rf"{_UPLOAD}/[^/]+", re.VERBOSE)
"""The part of a segment's name behind the object's key and a slash."""

log = logging.getLogger(__name__)


class SegmentContainer(Struct, frozen=True):
    """A place of segments: a container, and the prefix of their names in it."""

    container: str
    prefix: str = ""

    def name(self, key: str) -> ObjectName:
        """Return the segment `key` in this place."""
        return ObjectName(self.container, self.prefix + key)

    def instead(self, other: "SegmentContainer", name: ObjectName) -> ObjectName:
        """Return the name in this place of the segment `name` of the other place."""
        return self.name(name.key.removeprefix(other.prefix))

    def holds(self, name: ObjectName) -> bool:
        """Return whether a segment is in this place."""
        return name.container == self.container and name.key.startswith(self.prefix)

    def __str__(self) -> str:
        return f"{self.container}/{self.prefix}".rstrip("/")


def place_beside(container: str) -> SegmentContainer:
    """Return our folder in the container beside `container`.

    There other clients have segments of DLOs below `KEY/`, and what lies below its prefix is a part of a DLO.
    """
    return SegmentContainer(container + SEGMENTS_SUFFIX, SEGMENTS_FOLDER + "/")


def place_in(given: str, container: str) -> SegmentContainer:
    """Return our folder for `container` in the container `given`, where other clients may have DLOs, too."""
    return SegmentContainer(given, f"{container}/{SEGMENTS_FOLDER}/")


def place_inside(container: str) -> SegmentContainer:
    """Return the hidden folder in `container` itself."""
    return SegmentContainer(container, SEGMENTS_FOLDER + "/")


def places_of(container: str, choice: str) -> tuple[SegmentContainer, ...]:
    """Return the places where segments of objects in `container` may be.

    `choice` is as in `SegmentContainerChooser`. Other clients and release 0.1 put them beside, in no folder.
    """
    given: tuple[SegmentContainer, ...] = ()
    if choice not in (AUTO, SAME):
        given = (place_in(choice, container), SegmentContainer(choice, f"{container}/"))
    others = SegmentContainer(container + SEGMENTS_SUFFIX)
    rclone = SegmentContainer(container, RCLONE_FOLDER + "/")
    return (place_beside(container), others, place_inside(container), rclone, *given)


def is_segment_of(segment: ObjectName, owner: ObjectName, choice: str = AUTO) -> bool:
    """Return whether the segment's name says that it was uploaded for the object `owner`.

    The name must follow a known convention, in a segment place of the owner's container, below the owner's
    key. A key that is long enough to be truncated never counts: another key may be truncated to the same.
    """
    if len(owner.key.encode()) > LONGEST_KEY - 4:
        return False
    for place in places_of(owner.container, choice):
        key = place.prefix + owner.key + "/"
        if segment.container == place.container and segment.key.startswith(key):
            # The whole rest must match: the segments of an object `a/b` lie below those of an object `a`.
            return _BEHIND_KEY.fullmatch(segment.key, len(key)) is not None
    return False


def is_upload_of(prefix: ObjectName, owner: ObjectName, choice: str) -> bool:
    """Return whether a DLO's prefix says that all below it was uploaded for the object `owner`.

    It must be the prefix of one whole upload (see `is_segment_of`); a slash at its end does not matter.
    """
    below = ObjectName(prefix.container, prefix.key.rstrip("/") + "/0")
    return is_segment_of(below, owner, choice)


def may_hold_bytes_of(
    owner: ObjectName, segment: ObjectName, choice: str = AUTO, *, whole_account: bool = False
) -> bool:
    """Return whether the object `owner` may take its bytes from `segment`, or from names that begin so.

    That is its own container and its segment places, where other clients and other settings of `segments` put
    them too. With `whole_account` a file may have come from another container by a rename, and its segments
    are still in a segment place of that one.
    """
    container = owner.container
    if segment.container in (container, OTHER_SEGMENTS.format(container)):
        return True
    if any(place.holds(segment) for place in places_of(container, choice)):
        return True
    if segment.key.startswith(f"{container}/") and _OUR_SEGMENT.fullmatch(segment.key):
        return True
    is_place = segment.container.endswith(SEGMENTS_SUFFIX) or segment.key.startswith(SEGMENTS_FOLDER + "/")
    return whole_account and is_place and SEGMENT_NAME.fullmatch(segment.key) is not None


class SegmentContainerChooser:
    """Chooses the place of each container's segments, and makes its container once, unless it is known.

    `choice` is `same`, a container's name, or `auto`: beside, or inside if the server refuses that. Threads
    that need a place that is being chosen wait for a future; the lock is not held across the requests.
    """

    def __init__(self, store: ObjectStore, choice: str = AUTO) -> None:
        self._store = store
        self._choice = choice
        self._lock = new_lock(Rank.SEGMENT_CONTAINERS)
        self._decided: dict[str, Future[SegmentContainer]] = {}

    def of(self, container: str) -> SegmentContainer:
        """Return the place for segments of files in `container`; make its container if it may be missing.

        Raise `StoreError` if the server neither makes it nor refuses to.
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
                    # An outage decides nothing: the next thread tries again.
                    del self._decided[container]
            mine.set_exception(error)
            raise
        return mine.result()

    def likely(self, container: str) -> SegmentContainer:
        """Return the place that will be chosen unless the server refuses it. It sends no request."""
        return self._wanted(container)

    def found(self, container: str, known: Iterable[Segment]) -> None:
        """Record segments of a file in `container`: their place exists, so it is chosen."""
        if self._choice == SAME:
            return
        wanted, inside = self._wanted(container), place_inside(container)
        names = [segment.name for segment in known]
        if wanted != inside and any(name.container == wanted.container for name in names):
            place = wanted
        elif (wanted == inside or self._choice == AUTO) and any(map(inside.holds, names)):
            place = inside
        else:
            return
        with self._lock:
            if container not in self._decided:
                decided: Future[SegmentContainer] = new_future()
                self._decided[container] = decided
                decided.set_result(place)

    def gone(self, container: str) -> None:
        """Record that the place does not exist any more."""
        with self._lock:
            self._decided.pop(container, None)

    def _wanted(self, container: str) -> SegmentContainer:
        if self._choice in (SAME, container):  # in the container's own folders they would be files
            return place_inside(container)
        return place_beside(container) if self._choice == AUTO else place_in(self._choice, container)

    def _decide(self, container: str) -> SegmentContainer:
        wanted = self._wanted(container)
        if wanted.container == container:
            return wanted
        try:
            self._create(wanted.container, self._policy_of(container))
        except (AccessDenied, BadName, BadRequest) as error:
            # A user who may not make containers may still use one that exists.
            if self._choice != AUTO or (isinstance(error, AccessDenied) and self._is_there(wanted)):
                return wanted
            log.info("segments of %s go to %s: %s", container, place_inside(container), error)
            return place_inside(container)
        return wanted

    def _create(self, container: str, policy: str) -> None:
        try:
            self._store.create_container(container, storage_policy=policy)
        except BadRequest:  # containers of that policy can be used, but not made any more
            if not policy:
                raise
            self._store.create_container(container)

    def _policy_of(self, container: str) -> str:
        """Return the storage policy of a container, for that of its segments; empty if there is one only."""
        if len(self._store.limits().policies) < 2:
            return ""
        try:
            return self._store.container_usage(container).storage_policy
        except (NotFound, AccessDenied):
            return ""

    def _is_there(self, place: SegmentContainer) -> bool:
        try:
            self._store.container_usage(place.container)
        # A user who may not even see it can store nothing there.
        except (NotFound, AccessDenied):
            return False
        return True
