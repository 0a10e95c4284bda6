"""Ownership of segments: which of them are deleted when an object is deleted or overwritten.

A segment's name says for which object it was uploaded. An object that was moved keeps its segments, and a
file that is renamed before it is stored has segments of its old name: the journal's database has claims for
these. A claim is valid for one ETag of the object, so that a version of another client has none.

A move that failed, or left its source behind, may leave two objects that name the same segments. The database
records this as a share: it names the other object, whose manifest is read before the segments are deleted.

Which of many objects have segments at all is found out by a few listings: a HEAD each would cost more.
"""

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable
from itertools import islice, takewhile
from math import inf

from msgspec import Struct

from swiftfs.concurrency import Rank, new_lock
from swiftfs.errors import NotFound, StoreError
from swiftfs.filecache.segment_container import (
    AUTO,
    LONGEST_KEY,
    SEGMENT_NAME,
    SegmentContainer,
    is_segment_of,
    is_upload_of,
    places_of,
)
from swiftfs.journal.database import JournalDB
from swiftfs.objects import Manifest, ObjectName, Page
from swiftfs.paths import SEGMENTS_FOLDER, SEGMENTS_SUFFIX
from swiftfs.store.protocol import ObjectStore, iter_pages, readable_rows

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

    def is_upload_of(self, prefix: ObjectName, name: ObjectName) -> bool:
        """Return whether the prefix of a DLO's segments says that they were uploaded for `name`."""
        return is_upload_of(prefix, name, self.choice)

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


FEWEST = 17
"""For fewer objects of a container HEADs are sent, in parallel: listings of its places come one by one."""

PER_PAGE = 64
"""How many objects are worth a page of a listing: a page of 10,000 names takes a second."""


def without_segments(store: ObjectStore, names: Collection[ObjectName], choice: str) -> set[ObjectName]:
    """Return those objects of which no segment exists in the places where other clients and mounts put them.

    `choice` is as in `SegmentContainerChooser`. An object that is not returned may have none either. Segments
    that no listing shows yet are not found.
    """
    found: set[ObjectName] = set()
    containers: dict[str, set[str]] = defaultdict(set)
    for name in names:
        containers[name.container].add(name.key)
    for container, keys in containers.items():
        if len(keys) < FEWEST:
            continue
        left = keys
        for place in places_of(container, choice):
            left = left and left & _plain(store, container, keys, place, choice)
        found |= {ObjectName(container, key) for key in left}
    return found


def _plain(
    store: ObjectStore, container: str, keys: Collection[str], place: SegmentContainer, choice: str
) -> set[str]:
    """Return the keys of those objects that certainly have no segment in a place."""
    pages = iter_pages(store, place.container, place.prefix + _common_prefix(keys))
    plain = set(keys)
    try:
        for page in islice(pages, 1 + len(keys) // PER_PAGE):
            plain -= _owners(page, container, keys, place, choice)
            if page.last:
                return plain
    except NotFound:
        return plain
    except StoreError:
        return set()
    # Beyond the last page nothing is known.
    return {key for key in plain if f"{place.prefix}{key}0" <= page.marker}


def _common_prefix(keys: Collection[str]) -> str:
    pairs = zip(min(keys), max(keys), strict=False)
    return "".join(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _owners(
    page: Page, container: str, keys: Collection[str], place: SegmentContainer, choice: str
) -> set[str]:
    """Return the keys of those objects for which a segment on the page was uploaded."""
    found = set()
    for row in readable_rows(page, place.container):
        segment = ObjectName(place.container, row.key)
        key = row.key[len(place.prefix) :]
        while key := key.rpartition("/")[0]:
            if key in keys and is_segment_of(segment, ObjectName(container, key), choice):
                found.add(key)
    return found


def objects_of(prefix: ObjectName) -> set[ObjectName]:
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
