"""Removal of segments: every deletion of a segment goes through here.

INVARIANT: no segment is deleted that a current manifest names. The answer to our own PUT says which manifest
is current; if it was lost, Swift is asked. While the lost PUT may still be carried out, it is unknown: then
the segments are leftovers, which are in the journal's database.
"""

import json
import logging
from collections.abc import Callable, Collection, Iterable, Mapping

from swiftfs.concurrency import Rank, new_lock, unix_time
from swiftfs.errors import BadRequest, NotFound, StoreError
from swiftfs.filecache.segment_container import LONGEST_KEY, SEGMENTS_SUFFIX
from swiftfs.filecache.upload_record import UnreferencedPrefix
from swiftfs.journal.database import JournalDB
from swiftfs.journal.segment_ownership import SegmentOwnership
from swiftfs.objects import Manifest, ObjectName
from swiftfs.paths import SEGMENTS_FOLDER
from swiftfs.store.paging import iter_rows
from swiftfs.store.protocol import ObjectStore

log = logging.getLogger(__name__)

LATE_SECONDS = 600.0
"""How long a PUT whose answer was lost may still be carried out."""

RETRY_SECONDS = 60.0
"""Pause before the next attempt to delete leftovers if Swift did not answer."""


class SegmentRemoval:
    """Deletes segments of objects; `owners` knows which belong to which. `clock` returns Unix seconds.

    The lock guards `_due`, when leftovers can be checked next, None while there are none.
    """

    def __init__(
        self,
        store: ObjectStore,
        db: JournalDB,
        owners: SegmentOwnership,
        clock: Callable[[], float] = unix_time,
    ) -> None:
        self.owners = owners
        self._store = store
        self._db = db
        self._clock = clock
        self._lock = new_lock(Rank.REMOVAL)
        oldest = min((since for _, since in self.leftovers().values()), default=None)
        self._due: float | None = None if oldest is None else oldest + LATE_SECONDS

    def manifest_of(self, name: ObjectName, is_slo: bool | None) -> Manifest | None:
        """Return an SLO's manifest; None if the object is not an SLO, or does not exist."""
        try:
            if is_slo is None and not self._store.head(name).is_slo:
                return None
            return self._store.manifest(name)
        except (NotFound, BadRequest):
            return None

    def segments_of(self, name: ObjectName, *, is_slo: bool | None) -> set[ObjectName]:
        """Return the segments to delete with the SLO `name`; none if it is not an SLO.

        They are among the leftovers until `record_deleted`: this process may die when the object is deleted
        but the segments are not, and nothing else records their owner.
        """
        manifest = None if is_slo is False else self.manifest_of(name, is_slo)
        if manifest is None:
            return set()
        own = self.own_segments(name, manifest.etag, (segment.name for segment in manifest.segments))
        others = self.owners.moved_from({name}) - {name} if own else ()
        # A rename's source may exist again, by a late request or after a wrong answer.
        own -= self._named_by_any(others)
        self._keep_leftovers(own, {name}, self._clock())
        return own

    def own_segments(self, name: ObjectName, etag: str, segments: Iterable[ObjectName]) -> set[ObjectName]:
        """Return those `segments` of a manifest with this ETag that belong only to `name`.

        Those that another object may name too are checked later.
        """
        own = self.owners.owned(name, etag, segments)
        return own - self._keep_shared(own, {name})

    def delete_all(self, names: Collection[ObjectName]) -> dict[ObjectName, StoreError]:
        """Delete objects without their segments, many in a request; return the failures."""
        try:
            if len(names) > 1:
                return self._store.delete_many(names)
            for name in names:
                self._store.delete(name)
        except NotFound:
            pass  # it is gone already
        except StoreError as error:
            return dict.fromkeys(names, error)
        return {}

    def discard(self, name: ObjectName, segments: Collection[ObjectName]) -> None:
        """Delete segments that the current or former object `name` does not name any more."""
        self.record_deleted({name}, segments, self.delete_all(segments))

    def record_deleted(
        self,
        objects: Collection[ObjectName],
        segments: Iterable[ObjectName],
        failures: Mapping[ObjectName, StoreError],
    ) -> None:
        """Record that `segments` were deleted, and which deletions failed.

        Deletions with a retryable error are tried again soon, after a check of `objects`, which may name the
        segments by then. The others are logged.
        """
        passing = {segment for segment, error in failures.items() if error.retryable}
        self._keep_leftovers(passing, objects, self._clock() - LATE_SECONDS + RETRY_SECONDS)
        self._drop_leftovers(set(segments) - passing)
        self.log_unused({segment: failures[segment] for segment in failures.keys() - passing})

    def discard_replaced(self, name: ObjectName, segments: Collection[ObjectName], *, in_doubt: bool) -> None:
        """Delete segments that the object just stored as `name` does not name.

        With `in_doubt` another manifest that names some may still be stored late: they are checked later.
        """
        if in_doubt and segments:
            self._keep_leftovers(segments, (name,), self._clock())
        else:
            self.discard(name, segments)

    def discard_below(self, unreferenced: UnreferencedPrefix) -> None:
        """Delete the segments below a prefix that no manifest names; raise `StoreError` if that fails.

        Those of a manifest whose PUT was sent a short time ago, and may still be carried out, become
        leftovers.
        """
        prefix, known = unreferenced.prefix, unreferenced.named or ()
        try:
            listed = iter_rows(self._store, prefix.container, prefix.key)
            rows = [row.key for row in listed if row.key not in known]
        except NotFound:
            return  # so is the container
        names = {ObjectName(prefix.container, key) for key in rows} - self.leftovers().keys()
        objects = unreferenced.objects or _objects_of(prefix)
        if not names or not objects:
            return
        names -= self._keep_shared(names, objects)
        if unreferenced.is_in_doubt and self._is_recent(unreferenced.since):
            self._keep_leftovers(names, objects, unreferenced.since)
        else:
            for error in self.delete_all(tuple(names - self._in_use(names, objects))).values():
                raise error

    def is_due(self) -> bool:
        """Return whether there are leftovers to check now."""
        with self._lock:
            return self._due is not None and self._clock() >= self._due

    def look_again(self) -> None:
        """Delete the leftovers that are due and that no manifest names."""
        groups: dict[tuple[ObjectName, ...], set[ObjectName]] = {}
        with self._lock:
            self._due = None
        for name, (objects, since) in self.leftovers().items():
            if self._is_recent(since):
                self._schedule_look(since + LATE_SECONDS)
            else:
                groups.setdefault(objects, set()).add(name)
        for objects, names in groups.items():
            try:
                failures = self.delete_all(tuple(names - self._in_use(names, objects)))
            except StoreError as error:
                failures = dict.fromkeys(names, error)
            self.record_deleted(objects, names, failures)

    def record_move(self, source: ObjectName, target: ObjectName, etag: str, *, stays: bool = False) -> None:
        """Record that an object with this ETag was moved to `target`; with `stays` both may exist."""
        if stays:
            self.share(source, source)
        self.owners.record_move(source, target, etag)

    def share(self, owner: ObjectName, user: ObjectName) -> None:
        """Record that `user` may name the segments of `owner` from now on, so that it is checked first."""
        self.owners.share(owner, user, self._clock())

    def log_unused(self, failures: Mapping[ObjectName, StoreError]) -> None:
        """Log segments that could not be deleted."""
        for name, error in failures.items():
            log.warning("%s stays in Swift unused: %s", name, error)

    def _in_use(self, names: set[ObjectName], objects: Collection[ObjectName]) -> set[ObjectName]:
        """Return those segments that a current manifest names; raise `StoreError` if that is uncertain."""
        users = {user for users in self.owners.users(names).values() for user in users}
        used: set[ObjectName] = set()
        for name in sorted({*objects, *users, *self.owners.moved_from({*objects, *users})}):
            named = self._named_by(name)
            used |= named
            if name in users and not self.owners.users(named):
                self.owners.unshare(name, self._clock() - LATE_SECONDS)
        return names & used

    def _named_by_any(self, names: Iterable[ObjectName]) -> set[ObjectName]:
        return {segment for name in names for segment in self._named_by(name)}

    def _named_by(self, name: ObjectName) -> set[ObjectName]:
        """Return the segments that an object names; raise `StoreError` if that is uncertain."""
        try:
            return {segment.name for segment in self._store.manifest(name).segments}
        except NotFound:
            return set()
        except BadRequest:
            if self._store.head(name).is_slo:
                raise
            return set()

    def _is_recent(self, since: float) -> bool:
        return abs(self._clock() - since) < LATE_SECONDS

    def leftovers(self) -> dict[ObjectName, tuple[tuple[ObjectName, ...], float]]:
        """Return the leftovers, each with the objects that may name it, and its time (Unix seconds)."""
        return {
            ObjectName(container, key): (tuple(ObjectName(*one) for one in json.loads(objects)), since)
            for container, key, objects, since in self._db.rows("leftovers")
        }

    def _keep_shared(self, names: Iterable[ObjectName], objects: Iterable[ObjectName]) -> set[ObjectName]:
        """Make leftovers of the segments that other objects than `objects` may name; return them.

        When they are due, `objects` have been deleted or stored, or the attempt is repeated.
        """
        groups: dict[frozenset[ObjectName], set[ObjectName]] = {}
        for name, users in self.owners.users(names).items():
            groups.setdefault(users, set()).add(name)
        for users, group in groups.items():
            self._keep_leftovers(group, users.union(objects), self._clock())
        return set().union(*groups.values())

    def _keep_leftovers(
        self, names: Collection[ObjectName], objects: Collection[ObjectName], since: float
    ) -> None:
        if not names:
            return
        text = json.dumps([[name.container, name.key] for name in sorted(objects)])
        rows: list[tuple[object, ...]] = [(name.container, name.key, text, since) for name in names]
        try:
            self._db.change("INSERT OR REPLACE INTO leftovers VALUES (?, ?, ?, ?)", rows)
        except OSError as error:
            log.warning("%d segments are left to 'swiftfs gc': %s", len(rows), error)
        self._schedule_look(since + LATE_SECONDS)

    def _schedule_look(self, due: float) -> None:
        with self._lock:
            self._due = due if self._due is None else min(self._due, due)

    def _drop_leftovers(self, names: Iterable[ObjectName]) -> None:
        rows: list[tuple[object, ...]] = [(name.container, name.key) for name in names]
        if not rows:
            return
        try:
            self._db.change("DELETE FROM leftovers WHERE container = ? AND key = ?", rows)
        except OSError as error:
            log.warning("%s", error)


def _objects_of(prefix: ObjectName) -> set[ObjectName]:
    """Return the objects to which a prefix of release 0.1, which recorded no objects, may belong."""
    key = prefix.key.rstrip("/").rpartition("/")[0]
    found: set[ObjectName] = set()
    if len(key.encode()) >= LONGEST_KEY - 4:
        return found  # it may be a part of the key only
    if prefix.container.endswith(SEGMENTS_SUFFIX):
        found.add(ObjectName(prefix.container.removesuffix(SEGMENTS_SUFFIX), key))
    if key.startswith(SEGMENTS_FOLDER + "/"):
        found.add(ObjectName(prefix.container, key.removeprefix(SEGMENTS_FOLDER + "/")))
    container, _, rest = key.partition("/")
    if rest:
        found.add(ObjectName(container, rest))
    return found
