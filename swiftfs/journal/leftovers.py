"""Segments that are not deleted at once, and why.

Leftovers, a table of the journal, are deleted later, if no manifest names them then. Those of versions that
were replaced just now rest for a moment: another mount may be about to replace the same version, by a
manifest that names its segments again.

In a container with versioning the manifest that is replaced or deleted stays as a version, and its segments
with it. Nothing on the server tells which version names a segment, so the journal deletes none there that a
manifest has named. `swiftfs gc` reads the manifests of all versions.
"""

import json
import logging
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from enum import IntEnum

from msgspec import Struct
from msgspec.structs import replace

from swiftfs.concurrency import Rank, new_lock
from swiftfs.filecache.segment_container import RCLONE_FOLDER
from swiftfs.journal.database import JournalDB
from swiftfs.objects import ObjectName
from swiftfs.paths import SEGMENTS_FOLDER, SEGMENTS_SUFFIX
from swiftfs.store.protocol import Histories

log = logging.getLogger(__name__)


class Proof(IntEnum):
    """Whether it is known that no manifest but those of a leftover's objects names it."""

    NONE = 0
    UNNAMED = 1
    """No manifest that Swift has answered ever named it."""
    REPLACED = 2
    """This mount has deleted or replaced the version that named it; other mounts may know that version."""


class Leftover(Struct, frozen=True):
    """A segment that a manifest of one of `objects` may name, which was sent at `since` (Unix seconds)."""

    objects: tuple[ObjectName, ...]
    since: float
    proof: Proof


def proven(objects: Iterable[ObjectName], since: float, proof: Proof = Proof.UNNAMED) -> Leftover:
    """Return a leftover that only `objects` may name."""
    return Leftover(tuple(sorted(objects)), since, proof)


_KEEP_LATER = """
INSERT INTO leftovers VALUES (?, ?, ?, ?, ?) ON CONFLICT (container, key) DO UPDATE
SET objects = excluded.objects, since = excluded.since, is_proven = excluded.is_proven
WHERE excluded.since >= leftovers.since
"""
"""Records a segment, unless a newer record has come meanwhile."""


class Leftovers:
    """The rows of leftovers, by the names of the segments.

    They are not synced. If a power cut loses new ones, the segments stay in Swift until `swiftfs gc` deletes
    them. If it brings back older ones, their manifests are read once more before anything is deleted.
    What a full disk refuses is recorded with the next commit. Only segments without proof stay in Swift then.
    """

    def __init__(self, db: JournalDB) -> None:
        self._db = db

    def all(self) -> dict[ObjectName, Leftover]:
        """Return the leftovers by their names."""
        return {
            ObjectName(container, key): Leftover(
                tuple(ObjectName(*one) for one in json.loads(objects)), since, Proof(proof)
            )
            for container, key, objects, since, proof in self._db.rows("leftovers")
        }

    def keep(self, names: Collection[ObjectName], leftover: Leftover) -> None:
        """Record segments; what was recorded of them before is replaced."""
        text = _to_text(leftover.objects)
        rows = [(name.container, name.key, text, leftover.since, leftover.proof) for name in names]
        try:
            self._db.change("INSERT OR REPLACE INTO leftovers VALUES (?, ?, ?, ?, ?)", rows)
        except OSError as error:
            if not leftover.proof:
                # Later it might be taken for an attempt that came in between.
                log.warning("%d segments are left to 'swiftfs gc': %s", len(rows), error)
                return
            log.info("the journal records %d segments to delete with its next commit: %s", len(rows), error)
            for row in rows:
                self._db.change_later(_KEEP_LATER, row)

    def drop(self, names: Iterable[ObjectName]) -> None:
        """Forget segments."""
        rows = [(name.container, name.key) for name in names]
        self._change("DELETE FROM leftovers WHERE container = ? AND key = ?", rows)

    def drop_unproven(self, name: ObjectName) -> None:
        """Forget the segments without proof of one object."""
        self._change("DELETE FROM leftovers WHERE objects = ? AND NOT is_proven", [(_to_text((name,)),)])
        # A power cut must not bring them back: the next mount might take the request that follows for their
        # proof.
        try:
            self._db.sync_changes()
        except OSError as error:
            log.warning("what is known of segments to delete later is not on the disk yet: %s", error)

    def prove(self, names: Iterable[ObjectName]) -> None:
        """Record that the version that named these segments is replaced."""
        rows = [(Proof.REPLACED, name.container, name.key) for name in names]
        self._change("UPDATE leftovers SET is_proven = ? WHERE container = ? AND key = ?", rows)

    def prove_all_of(self, name: ObjectName) -> None:
        """Record it of all segments of one object."""
        self._change(
            "UPDATE leftovers SET is_proven = ? WHERE objects = ? AND NOT is_proven",
            [(Proof.REPLACED, _to_text((name,)))],
        )

    def _change(self, sql: str, rows: Sequence[tuple[object, ...]]) -> None:
        if not rows:
            return
        try:
            self._db.change(sql, rows)
        except OSError as error:
            log.warning("what is known of %d segments to delete later is not recorded: %s", len(rows), error)


def _to_text(objects: Iterable[ObjectName]) -> str:
    return json.dumps([[name.container, name.key] for name in objects])


class KeptSegments:
    """Tells which segments must stay for older versions."""

    def __init__(self, histories: Histories) -> None:
        self._histories = histories

    def stays(self, objects: Iterable[ObjectName], segments: Iterable[ObjectName]) -> bool:
        """Return whether older versions may name the segments; raise `StoreError` if Swift does not answer.

        Those are versions of `objects`, which name the segments or did so, and of the object for which they
        were uploaded: it may have been moved to another container.
        """
        containers = {name.container for name in objects} | set(map(_uploaded_for, segments))
        return any(map(self._histories.may_have_versions, sorted(containers)))

    def unneeded(
        self, name: ObjectName, segments: Collection[ObjectName], never_named: Collection[ObjectName]
    ) -> set[ObjectName]:
        """Return the segments of `name` that no version names; `never_named` are those that none ever did.

        Raise `StoreError` if Swift does not answer.
        """
        return set(segments).intersection(never_named) if self.stays({name}, segments) else set(segments)


def _uploaded_for(segment: ObjectName) -> str:
    """Return the container of the object for which a segment was uploaded; see `places_of`."""
    if segment.container.endswith(SEGMENTS_SUFFIX):
        return segment.container.removesuffix(SEGMENTS_SUFFIX)
    first = segment.key.partition("/")[0]
    return segment.container if first in (SEGMENTS_FOLDER, RCLONE_FOLDER) else first


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
