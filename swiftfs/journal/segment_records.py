"""What the journal's database records of segments: whose they are, and which are to be deleted later.

Ownership decides which are deleted when an object is deleted or overwritten. A segment's name says for which
object it was uploaded. An object that was moved keeps its segments, and a file that is renamed before it is
stored has segments of its old name: the database has claims for these. A claim is valid for one ETag of the
object, so that a version of another client has none. A move that failed, or left its source behind, may leave
two objects that name the same segments. The database records this as a share: it names the other object,
whose manifest is read before the segments are deleted.

Leftovers are deleted later, if no manifest names them then. Segments of versions that were replaced just now
rest for a moment: another mount may be about to replace the same version, by a manifest that names its
segments again.

In a container with versioning the manifest that is replaced or deleted stays as a version, and its segments
with it. Nothing on the server tells which version names a segment, so the journal deletes none there that a
manifest has named. `swiftfs gc` reads the manifests of all versions.
"""

import json
import logging
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from enum import IntEnum
from math import inf

from msgspec import Struct
from msgspec.structs import replace

from swiftfs.concurrency import Rank, new_lock
from swiftfs.filecache.segment_container import (
    AUTO,
    LONGEST_KEY,
    RCLONE_FOLDER,
    SEGMENT_NAME,
    is_segment_of,
    places_of,
)
from swiftfs.journal.database import JournalDB
from swiftfs.objects import Manifest, ObjectName
from swiftfs.paths import SEGMENTS_FOLDER, SEGMENTS_SUFFIX
from swiftfs.store.protocol import Histories

log = logging.getLogger(__name__)


class Claim(Struct, frozen=True):
    """Segments that an object owns: those below the prefix `owner`, or those uploaded for object `owner`."""

    owner: ObjectName
    is_prefix: bool

    def covers(self, segment: ObjectName, choice: str) -> bool:
        """Return whether the segment is one of them."""
        if self.is_prefix:
            return _lies_below(segment, self.owner)
        return is_segment_of(segment, self.owner, choice)


class SegmentOwnership:
    """The claims and shares of one mount; `choice` is where it puts segments (`SegmentContainerChooser`).

    The lock guards the claims and the shared prefixes; it comes before the database's. Nobody waits for the
    disk while holding it.

    What is added is synced, for without it the segments of a copy would be deleted with its source. What is
    deleted is not: a power cut brings back a claim for an ETag that the object does not have any more, or a
    share, for which one manifest more is read.
    """

    def __init__(self, db: JournalDB, choice: str = AUTO) -> None:
        self._db = db
        self.choice = choice
        self._lock = new_lock(Rank.OWNERSHIP)
        self._claims: dict[ObjectName, dict[str, set[Claim]]] = {}
        self._shared: dict[tuple[ObjectName, ObjectName], float] = {}
        for container, key, etag, *owner, is_prefix in db.rows("claims"):
            claims = self._claims.setdefault(ObjectName(container, key), {}).setdefault(etag, set())
            claims.add(Claim(ObjectName(*owner), bool(is_prefix)))
        for container, prefix, *user, since in db.rows("shared"):
            self._shared[ObjectName(container, prefix), ObjectName(*user)] = since

    def owned(self, name: ObjectName, etag: str, segments: Iterable[ObjectName]) -> set[ObjectName]:
        """Return those `segments` of a manifest with this ETag that are `name`'s own."""
        with self._lock:
            # By the ETag: a version that another client has stored under this name owns nothing of ours.
            claims = set(self._claims.get(name, {}).get(etag, ()))
        named = set(segments)
        own = {
            one
            for one in named
            if is_segment_of(one, name, self.choice)
            or any(claim.covers(one, self.choice) for claim in claims)
        }
        if spared := len(named) - len(own):
            log.info("%d segments that %s names are kept: they may belong to other objects", spared, name)
        return own

    def uploaded_for(self, segment: ObjectName) -> set[ObjectName]:
        """Return the objects for which a segment may have been uploaded, by its name; none if unknown."""
        objects = objects_of(prefix) if (prefix := _upload_of(segment)) is not None else set()
        return {one for one in objects if is_segment_of(segment, one, self.choice)}

    def has_claims(self, name: ObjectName) -> bool:
        """Return whether `name` may own segments that were uploaded for another object."""
        with self._lock:
            return bool(self._claims.get(name))

    def claimants(self) -> list[ObjectName]:
        """Return the objects that may own segments which were uploaded for others."""
        with self._lock:
            return list(self._claims)

    def users(self, segments: Iterable[ObjectName]) -> dict[ObjectName, frozenset[ObjectName]]:
        """Return those segments that other objects than their owner may name, each with these objects."""
        with self._lock:
            shared = list(self._shared)
        found = {}
        for one in segments:
            # By prefix, for segments that are stored below it later too.
            if users := frozenset(user for prefix, user in shared if _lies_below(one, prefix)):
                found[one] = users
        return found

    def record_manifest(self, name: ObjectName, before: str, manifest: Manifest, prefix: ObjectName) -> None:
        """Record which segments of a manifest that is about to be stored `name` owns.

        `before` is the ETag of the object that it replaces, `prefix` the prefix of the file's own uploads.
        """
        names = manifest.names
        # The names of the others say whose they are: a claim for them would only cost a row.
        foreign = {one for one in names if not is_segment_of(one, name, self.choice)}
        with self._lock:
            known = self._claims.get(name, {}).get(before, set())
            claims = {
                Claim(upload, is_prefix=True)
                for one in foreign
                if (upload := _upload_of(one)) is not None
                and (_lies_below(one, prefix) or any(claim.covers(one, self.choice) for claim in known))
            }
            if claims:
                self._add(name, manifest.etag, claims)
        if claims:
            self._sync()

    def record_version(self, name: ObjectName, etag: str) -> None:
        """Delete the claims for other ETags than the current one; `etag` is empty if the object is gone."""
        with self._lock:
            known = self._claims.get(name)
            if not known or known.keys() == {etag}:
                return
            gone = [one for one in known if one != etag]
            for one in gone:
                del known[one]
            if not known:
                del self._claims[name]
            self._change(
                "DELETE FROM claims WHERE container = ? AND key = ? AND etag = ?",
                [(name.container, name.key, one) for one in gone],
            )

    def forget(self, name: ObjectName) -> None:
        """Delete claims and shares of an object that is gone, or is not an SLO any more."""
        self.record_version(name, "")
        self.unshare(name)  # it names nobody's segments

    def record_move(self, source: ObjectName, target: ObjectName, etag: str) -> None:
        """Give `target` the claims of `source`, and the segments uploaded for `source`.

        `etag` is the ETag in the answer to the COPY of the manifest.
        """
        if not etag:
            return
        # The target's claims are written before those of the source are deleted: after a crash in between,
        # one name too many has claims, but for an ETag that it does not have any more.
        self.record_copy(source, target, etag)
        self.record_version(target, etag)
        self.record_version(source, "")

    def record_copy(self, source: ObjectName, target: ObjectName, etag: str) -> None:
        """Give `target` the same claims as `source`, which keeps its own for now; `etag` as above."""
        # A claim is worth nothing without the version that it is for.
        if not etag:
            return
        with self._lock:
            claims = {Claim(source, is_prefix=False), *self._claims.get(source, {}).get(etag, ())}
            self._add(target, etag, claims)
        self._sync()

    def share(self, copies: Iterable[tuple[ObjectName, ObjectName]], since: float) -> None:
        """Record that of each pair the second may name segments of the first since then (Unix seconds)."""
        with self._lock:
            shared = [(prefix, user) for owner, user in copies for prefix in self._prefixes_of(owner)]
            self._shared |= dict.fromkeys(shared, since)
            self._change(
                "INSERT OR REPLACE INTO shared VALUES (?, ?, ?, ?, ?)",
                [(one.container, one.key, user.container, user.key, since) for one, user in shared],
            )
        self._sync()

    def _prefixes_of(self, owner: ObjectName) -> set[ObjectName]:
        """Return the prefixes below which segments of an object may be. Lock held."""
        claims = {claim for versions in self._claims.get(owner, {}).values() for claim in versions}
        prefixes = {claim.owner for claim in claims if claim.is_prefix}
        for name in {owner, *(claim.owner for claim in claims if not claim.is_prefix)}:
            # Every place where its segments may be: the option `segments` may have had another value once.
            prefixes |= {place.name(f"{name.key}/") for place in places_of(name.container, self.choice)}
        return prefixes

    def unshare(self, user: ObjectName, until: float = inf) -> None:
        """Delete the shares of `user` recorded `until` then (Unix seconds): it names only its own ones."""
        with self._lock:
            gone = [one for one, since in self._shared.items() if one[1] == user and since <= until]
            if not gone:
                return
            for one in gone:
                del self._shared[one]
            self._change(
                "DELETE FROM shared WHERE user_container = ? AND user_key = ? AND since <= ?",
                [(user.container, user.key, until)],
            )

    def moved_from(self, objects: Collection[ObjectName], segments: Iterable[ObjectName]) -> set[ObjectName]:
        """Return the objects that have claims for the segments of `objects`, or for uploads of `segments`.

        An object that was changed after it was moved has claims for uploads only, not for its old name.
        """
        owners = {*objects, *map(_upload_of, segments)}
        with self._lock:
            return {
                name
                for name, versions in self._claims.items()
                if any(claim.owner in owners for claims in versions.values() for claim in claims)
            }

    def _add(self, name: ObjectName, etag: str, claims: set[Claim]) -> None:
        self._claims.setdefault(name, {}).setdefault(etag, set()).update(claims)
        self._change(
            "INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?, ?, ?)",
            [
                (name.container, name.key, etag, one.owner.container, one.owner.key, int(one.is_prefix))
                for one in claims
            ],
        )

    def _change(self, sql: str, rows: list[tuple[object, ...]]) -> None:
        try:
            self._db.change(sql, rows)
        except OSError as error:  # without a claim a segment is not deleted, but left to `gc`
            log.warning("the owner of segments is not recorded: %s", error)

    def _sync(self) -> None:
        try:
            self._db.sync_changes()
        except OSError as error:
            log.warning("the owner of segments is not on the disk yet: %s", error)


def _upload_of(segment: ObjectName) -> ObjectName | None:
    """Return the upload prefix in a segment's name, None for a name of another kind."""
    match = SEGMENT_NAME.fullmatch(segment.key)
    return ObjectName(segment.container, f"{match[1]}/") if match else None


def _lies_below(name: ObjectName, prefix: ObjectName) -> bool:
    return name.container == prefix.container and name.key.startswith(prefix.key)


def objects_of(prefix: ObjectName) -> set[ObjectName]:
    """Return the objects to which a prefix of release 0.1, which recorded no objects, may belong."""
    key = prefix.key.rstrip("/").rpartition("/")[0]
    found: set[ObjectName] = set()
    if len(key.encode()) >= LONGEST_KEY - 4:
        return found  # it may be a part of the key only
    below_ours = key.removeprefix(SEGMENTS_FOLDER + "/")
    if prefix.container.endswith(SEGMENTS_SUFFIX):
        found.add(ObjectName(prefix.container.removesuffix(SEGMENTS_SUFFIX), below_ours))
    if below_ours != key:
        found.add(ObjectName(prefix.container, below_ours))
    container, _, rest = key.partition("/")
    if rest:
        found.add(ObjectName(container, rest.removeprefix(SEGMENTS_FOLDER + "/")))
    return found


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


def are_kept(histories: Histories, objects: Iterable[ObjectName], segments: Iterable[ObjectName]) -> bool:
    """Return whether older versions may name segments; raise `StoreError` if Swift does not answer.

    Those are versions of `objects`, which name the segments or did so, and of the object for which they were
    uploaded: it may have been moved to another container.
    """
    containers = {name.container for name in objects} | set(map(_uploaded_for, segments))
    return any(map(histories.may_have_versions, sorted(containers)))


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
