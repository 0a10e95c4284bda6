"""Removal of segments: every deletion of a segment goes through here.

INVARIANT: no segment is deleted that a standing manifest names. The answer to our own request says which
manifest stands; when it was lost, Swift is asked. As long as a lost PUT may still be carried out, nobody
knows: then the segments are leftovers, which the journal's database has.

That an object does not name its segments any more is no proof that nobody does: another mount may have
renamed it. They are deleted only if this mount has deleted or replaced the object itself, and knows that.

Segments of a replaced version rest for a moment first, and what stands then keeps what it names.
Where a container keeps the replaced version too, they stay (`are_kept`).
"""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import chain

from swiftfs.concurrency import Rank, new_lock, steady_time
from swiftfs.errors import BadRequest, NotFound, StoreError
from swiftfs.filecache.segment_container import is_upload_of
from swiftfs.filecache.upload_record import UnreferencedPrefix
from swiftfs.journal.database import JournalDB
from swiftfs.journal.segment_records import (
    Leftover,
    Leftovers,
    Proof,
    RestingSegments,
    SegmentOwnership,
    are_kept,
    objects_of,
    proven,
)
from swiftfs.objects import Manifest, ObjectName
from swiftfs.store.protocol import Histories, ObjectStore, dlo_segments, find_object, iter_rows

log = logging.getLogger(__name__)

LATE_SECONDS = 600.0
"""How long a PUT whose answer was lost may still be carried out; the reason is at `late_requests.LOOKS`."""

RETRY_SECONDS = 60.0
"""Pause before the next attempt to delete leftovers if Swift did not answer."""


class SegmentRemoval:
    """Deletes segments of objects.

    `owners` knows which belong to which, `leftovers` what is deleted later, `histories` which containers keep
    older versions; `clock` returns Unix seconds.

    The lock guards `_due`, when leftovers can be checked next, None while there are none. `_unproven` are the
    objects that have, or had, leftovers without proof.
    """

    def __init__(
        self,
        store: ObjectStore,
        db: JournalDB,
        owners: SegmentOwnership,
        clock: Callable[[], float] = steady_time,
        histories: Histories | None = None,
    ) -> None:
        self.owners = owners
        self._histories = histories or Histories(store)
        self.leftovers = Leftovers(db)
        self._store = store
        self._db = db
        self._clock = clock
        self._lock = new_lock(Rank.REMOVAL)
        left = self.leftovers.all().values()
        self._resting = RestingSegments(clock)
        self._unproven = {name for one in left if not one.proof for name in one.objects}
        oldest = min((one.since for one in left), default=None)
        self._due: float | None = None if oldest is None else oldest + LATE_SECONDS

    def manifest_of(self, name: ObjectName, is_slo: bool | None) -> Manifest | None:
        """Return an SLO's manifest; None if the object is not an SLO, or does not exist."""
        try:
            if is_slo is None and not self._store.head(name).is_slo:
                return None
            return self._store.manifest(name)
        # `SwiftStore.manifest` raises `BadRequest` for an object that is no SLO.
        except (NotFound, BadRequest):
            return None

    def segments_of(self, name: ObjectName, *, is_slo: bool | None) -> set[ObjectName]:
        """Return the segments to delete with the SLO `name`; none if it is not an SLO.

        They are recorded as leftovers without proof until they are deleted: if this process dies between the
        deletion of the object and theirs, nothing else tells whose they were.
        """
        if is_slo is False:
            return set()
        etag, named = self._large_object(name, is_slo)
        if not named:
            return set()
        self.found_manifest(name, named)
        # A manifest may name any object of the account: those of others stay.
        own = self.owners.owned(name, etag, named)
        others = self.owners.moved_from({name}, own) - {name} if own else ()
        # They may stand again, by a late request or a wrong answer.
        own -= set[ObjectName]().union(*map(self._named_by, others))
        with suppress(StoreError):  # it is asked again before they are deleted
            if own and self.are_kept({name}, own):
                return set()
        # Before the request that deletes or replaces `name`.
        self._keep(own, Leftover((name,), self._clock(), Proof.NONE))
        self._unproven.update({name} if own else ())
        return own

    def found_manifest(self, name: ObjectName, named: set[ObjectName]) -> None:
        """Tell that a manifest of the segments `named` stands as `name`: its PUT may have had no answer."""
        if name in self._unproven:
            self._prove_replaced(name, named, self.leftovers.all())

    def _large_object(self, name: ObjectName, is_slo: bool | None) -> tuple[str, set[ObjectName]]:
        """Return the ETag and the segments of an SLO, or of a DLO that was uploaded as such; none of others.

        `is_slo` None is unknown, and may be a DLO.
        """
        if is_slo is None:
            if (info := find_object(self._store, name)) is None:
                return "", set()
            if info.dlo_prefix is not None and is_upload_of(info.dlo_prefix, name, self.owners.choice):
                return info.version.etag, dlo_segments(self._store, info.dlo_prefix)
            is_slo = info.is_slo
        manifest = self.manifest_of(name, is_slo=True) if is_slo else None
        if manifest is None:
            return "", set()
        return manifest.etag, manifest.names

    def are_kept(self, objects: Iterable[ObjectName], segments: Iterable[ObjectName]) -> bool:
        """Return whether older versions may name segments, as `are_kept` does."""
        return are_kept(self._histories, objects, segments)

    def forget_expected(self, name: ObjectName) -> None:
        """Forget the leftovers of attempts to delete or replace `name` whose end is not known."""
        if name in self._unproven:
            self.leftovers.drop_unproven(name)

    def record_replaced(self, name: ObjectName) -> None:
        """Record that an attempt to replace `name` has succeeded although it had no answer."""
        self.leftovers.prove_all_of(name)

    def has_unproven(self, name: ObjectName) -> bool:
        """Return whether there may be leftovers of attempts to replace `name` whose end is not known."""
        return name in self._unproven

    def shared(self, segments: Iterable[ObjectName]) -> set[ObjectName]:
        """Return those segments that objects besides their owner may name."""
        return set(self.owners.users(segments))

    def is_named(self, segment: ObjectName) -> bool:
        """Return whether an object may name a segment; raise `StoreError` if that is uncertain."""
        objects = self.owners.uploaded_for(segment)
        # Nothing is known of a name of another kind, nor if the key in it is truncated.
        return not objects or segment in chain(*self._manifests({segment}, objects).values())

    def keep_shared(self, segments: Collection[ObjectName], objects: Collection[ObjectName]) -> None:
        """Check segments later that others may name besides `objects`, which do not name them any more."""
        users = self.owners.users(segments)
        groups: dict[frozenset[ObjectName], set[ObjectName]] = {}
        for one in segments:
            groups.setdefault(users.get(one, frozenset()), set()).add(one)
        for others, group in groups.items():
            # Not now: a COPY whose answer was lost may still be carried out.
            self._keep(group, proven(others.union(objects), self._clock()))

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

    def delete_sources(self, names: Sequence[ObjectName]) -> dict[ObjectName, StoreError]:
        """Delete objects as `delete_all` does; one alone fails with `NotFound` if another client was faster.

        The answer to a bulk delete does not say which names were absent.
        """
        if len(names) != 1:
            return self.delete_all(names)
        try:
            self._store.delete(names[0])
        except StoreError as error:
            return {names[0]: error}
        return {}

    def discard(
        self,
        name: ObjectName,
        segments: Collection[ObjectName],
        *,
        never_named: Collection[ObjectName] = (),
        is_slo: bool,
        in_doubt: bool = False,
    ) -> None:
        """Delete, after a rest, segments that the object just stored as `name` does not name.

        It has replaced the version that named them; `is_slo` tells whether it is an SLO. They are checked
        later if another manifest is `in_doubt`, which names some of them and may still be stored late, and
        while Swift does not say whether there are older versions. These may name all but the `never_named`.
        """
        if not segments:  # as of every small file
            return
        unneeded = self._unneeded(name, segments, () if in_doubt else never_named)
        segments = frozenset(segments if unneeded is None else unneeded)
        shared = segments if in_doubt else self.shared(segments)
        self.keep_shared(shared, {name})
        own = segments - shared
        if not own:
            return
        # Before the deletion: a process that dies before it leaves the rest, and the proof, to the next one.
        self._keep(own, proven({name}, self._clock(), Proof.REPLACED))
        if unneeded is not None:
            self._resting.add(name, own, is_slo=is_slo)
            if not self._resting.do_rest():
                self.end_rests()

    def end_rests(self, *, at_once: bool = False) -> None:
        """Delete the segments that have rested enough, or all `at_once`, but not what another version names.

        What cannot be looked at or deleted stays among the leftovers.
        """
        unused: dict[ObjectName, Collection[ObjectName]] = {}
        for rest in self._resting.take(at_once=at_once):
            try:
                named = self._named_by(rest.name, is_slo=rest.is_slo)
            except StoreError as error:
                log.info("segments of an older version of %s stay for now: %s", rest.name, error)
                continue
            if kept := rest.segments & named:
                log.info("%s: another client's version has %d of its older segments", rest.name, len(kept))
            unused[rest.name] = rest.segments - named
        self._delete(unused)

    def discard_with(self, deleted: Mapping[ObjectName, Collection[ObjectName]]) -> None:
        """Delete the segments of objects that this mount has just deleted.

        Those of which Swift does not say whether older versions may name them are checked later.
        """
        for name, segments in deleted.items():
            # Before the deletion, as in `discard`.
            self._keep(segments, proven({name}, self._clock(), Proof.REPLACED))
        unneeded = {name: self._unneeded(name, segments) for name, segments in deleted.items() if segments}
        self._delete({name: segments for name, segments in unneeded.items() if segments})

    def _delete(self, unused: Mapping[ObjectName, Collection[ObjectName]]) -> None:
        """Delete segments, by the objects that named them."""
        failures = self.delete_all(set().union(*unused.values()))
        for name, segments in unused.items():
            lost = {one: failures[one] for one in segments if one in failures}
            self.record_deleted({name}, segments, lost)

    def _unneeded(
        self, name: ObjectName, segments: Collection[ObjectName], never_named: Collection[ObjectName] = ()
    ) -> set[ObjectName] | None:
        """Return the segments of `name` that no version names, None if Swift does not answer.

        Of those that older versions may name only the `never_named` are.
        """
        try:
            is_kept = self.are_kept({name}, segments)
            return set(segments).intersection(never_named) if is_kept else set(segments)
        except StoreError as error:
            log.info("segments of an older version of %s stay for now: %s", name, error)
            return None

    def record_deleted(
        self,
        objects: Collection[ObjectName],
        segments: Iterable[ObjectName],
        failures: Mapping[ObjectName, StoreError],
        *,
        proof: Proof = Proof.REPLACED,
    ) -> None:
        """Record that `segments` were deleted, and which deletions failed.

        Deletions with a retryable error are tried again soon, after a check of `objects`, which may name the
        segments by then. The others are logged.
        """
        passing = {segment for segment, error in failures.items() if error.retryable}
        since = self._clock() - LATE_SECONDS + RETRY_SECONDS  # `look_again` adds LATE_SECONDS to it
        self._keep(passing, Leftover(tuple(sorted(objects)), since, proof))
        self.leftovers.drop(set(segments) - passing)
        self.log_unused({segment: failures[segment] for segment in failures.keys() - passing})

    def discard_prefix(self, unreferenced: UnreferencedPrefix, stored: Iterable[ObjectName] = ()) -> None:
        """Delete segments as `discard_below` does; if that fails, the next mount does."""
        try:
            self.discard_below(unreferenced, stored)
        except StoreError as error:
            log.info("segments below %s stay for now: %s", unreferenced.prefix, error)
        else:
            self._db.end_upload(unreferenced.prefix)

    def discard_below(self, unreferenced: UnreferencedPrefix, stored: Iterable[ObjectName] = ()) -> None:
        """Delete the segments below a prefix that no manifest names; raise `StoreError` if that fails.

        `stored` are some of them, which a listing may not show yet. Segments that may still be stored become
        leftovers, which are checked later; so do all of them if the PUT of a manifest was sent a short time
        ago and may still be carried out.
        """
        prefix, known = unreferenced.prefix, unreferenced.named or ()
        try:
            keys = {row.key for row in iter_rows(self._store, prefix.container, prefix.key)}
        except NotFound:
            return  # so is the container
        keys.update(name.key for name in stored)
        # Leftovers have a time of their own, before which they must not be deleted.
        others = self.leftovers.all().keys()
        names = {ObjectName(prefix.container, key) for key in keys.difference(known)} - others
        sent = unreferenced.sent.difference(known, keys)
        late = {ObjectName(prefix.container, key) for key in sent} - others
        objects = unreferenced.objects or objects_of(prefix)
        if not (names or late) or not objects:
            return
        shared = self.shared(names | late)
        self.keep_shared(shared, objects)
        names -= shared
        late -= shared
        if self.are_kept(objects, names | late):
            return
        # Even if no manifest names them now, one that was sent may still be stored.
        if unreferenced.may_land_late and self._is_recent(unreferenced.since):
            self._keep(names, proven(objects, unreferenced.since))
            self.keep_unanswered(late, objects)
        else:
            manifests = self._manifests(names | late, objects)
            for name in objects:
                self._prove_replaced(name, manifests[name], self.leftovers.all())
            for error in self.delete_all(tuple(names.difference(*manifests.values()))).values():
                raise error
            self.keep_unanswered(late.difference(*manifests.values()), objects)

    def keep_unanswered(self, segments: Collection[ObjectName], objects: Collection[ObjectName]) -> None:
        """Check segments later that Swift may still store: a process died while it sent them.

        No manifest can name them, but one of `objects` is read before they are deleted.
        """
        self._keep(segments, proven(objects, self._clock()))

    def is_due(self) -> bool:
        """Return whether there is something to do for `look_again`."""
        with self._lock:
            is_due = self._due is not None and self._clock() >= self._due
        return is_due or self._resting.has_rested()

    def look_again(self) -> None:
        """Delete what has rested, and the leftovers with proof whose time is over and that nobody names."""
        self.end_rests()
        groups: dict[tuple[tuple[ObjectName, ...], Proof], set[ObjectName]] = {}
        with self._lock:
            # Before the leftovers are read: one that is added meanwhile sets the time again.
            self._due = None
        left = self.leftovers.all()
        for name, one in left.items():
            if self._is_recent(one.since):
                self._schedule_look(one.since + LATE_SECONDS)
            else:
                groups.setdefault((one.objects, one.proof), set()).add(name)
        for (objects, proof), names in groups.items():
            try:
                failures = self._delete_unused(names, objects, left, is_proven=bool(proof))
            except StoreError as error:
                # Without an answer about the manifests nothing is deleted: all of them are tried again.
                failures = dict.fromkeys(names, error)
            self.record_deleted(objects, names, failures, proof=proof)

    def has_landed(self, name: ObjectName) -> bool:
        """Return whether Swift has a manifest of this journal as `name` whose PUT had no answer."""
        return self._landed_at(name, self._named_by(name), self.leftovers.all()) is not None

    def _landed_at(
        self, name: ObjectName, named: set[ObjectName], left: Mapping[ObjectName, Leftover]
    ) -> float | None:
        """Return when (Unix seconds) the PUT of the manifest that Swift has as `name` was sent last.

        The manifest names the segments `named`. Return None unless it is one of this journal whose PUT had no
        answer. That shows in the segments: nobody else names those of such an upload.
        """
        known = (left[one] for one in named if one in left)
        sent = [one.since for one in known if one.proof is Proof.UNNAMED and one.objects == (name,)]
        asked = (one for one in self._db.uploads() if one.asked and name in one.objects)
        sent += [one.since for one in asked if any(map(one.has_new, named))]
        return max(sent, default=None)

    def _prove_replaced(
        self, name: ObjectName, named: set[ObjectName], left: Mapping[ObjectName, Leftover]
    ) -> list[ObjectName]:
        """Record, and return, which leftovers without proof the manifest of `name` has replaced.

        Those of a version that was seen after the manifest was sent are not: another mount may have renamed
        that version.
        """
        at = self._landed_at(name, named, left)
        if at is None:
            return []
        unproven = {one: found for one, found in left.items() if not found.proof and one not in named}
        gone = [one for one, found in unproven.items() if found.objects == (name,) and found.since <= at]
        self.leftovers.prove(gone)
        return gone

    def _delete_unused(
        self,
        names: set[ObjectName],
        objects: Collection[ObjectName],
        left: Mapping[ObjectName, Leftover],
        *,
        is_proven: bool,
    ) -> dict[ObjectName, StoreError]:
        """Delete segments that no known object names, where that is proof; return what failed, and why."""
        if self.are_kept(objects, names):
            return {}
        manifests = self._manifests(names, objects)
        unused = names.difference(*manifests.values())
        if is_proven:
            return self.delete_all(tuple(unused))
        gone = unused.intersection(*(self._prove_replaced(name, manifests[name], left) for name in objects))
        if kept := unused - gone:
            log.info(
                "%d segments stay, for another client may have renamed %s: 'swiftfs gc' finds them if not",
                len(kept),
                ", ".join(map(str, objects)),
            )
        return self.delete_all(tuple(gone))

    def record_move(self, source: ObjectName, target: ObjectName, etag: str, *, stays: bool = False) -> None:
        """Record that an object with this ETag was moved to `target`; with `stays` both may exist."""
        if stays:
            self.share(source, source)
        self.owners.record_move(source, target, etag)

    def share(self, owner: ObjectName, user: ObjectName) -> None:
        """Record that `user` may name the segments of `owner` from now on, so that it is checked first."""
        self.share_all([(owner, user)])

    def share_all(self, copies: Iterable[tuple[ObjectName, ObjectName]]) -> None:
        """Record it of many, each an owner and the user of its segments, in one commit."""
        self.owners.share(copies, self._clock())

    def log_unused(self, failures: Mapping[ObjectName, StoreError]) -> None:
        """Log segments that could not be deleted."""
        for name, error in failures.items():
            log.warning("%s stays in Swift unused: %s", name, error)

    def _manifests(
        self, names: set[ObjectName], objects: Collection[ObjectName]
    ) -> dict[ObjectName, set[ObjectName]]:
        """Return the segments that each object names which may name any of `names`.

        Raise `StoreError` if that is uncertain.
        """
        users = {user for users in self.owners.users(names).values() for user in users}
        manifests = {}
        # An object that was moved still names the segments of its old name.
        for name in sorted({*objects, *users, *self.owners.moved_from({*objects, *users}, names)}):
            named = manifests[name] = self._named_by(name)
            if name in users and not self.owners.users(named):
                # Not a share that is younger: the COPY behind it may still be carried out, and make such a
                # manifest.
                self.owners.unshare(name, self._clock() - LATE_SECONDS)
        return manifests

    def _named_by(self, name: ObjectName, *, is_slo: bool = True) -> set[ObjectName]:
        """Return the segments that an object names; `is_slo` tells whether it is probably an SLO.

        Raise `StoreError` if they cannot be known.
        """
        try:
            if is_slo or (info := self._store.head(name)).is_slo:
                return self._store.manifest(name).names
        except NotFound:
            return set()
        except BadRequest:
            # An SLO whose manifest cannot be read may name segments.
            if (info := self._store.head(name)).is_slo:
                raise
        return dlo_segments(self._store, info.dlo_prefix) if info.dlo_prefix is not None else set()

    def _is_recent(self, since: float) -> bool:
        # `abs`: a time far in the future is from a clock that was set back since, and would keep them for
        # ever.
        return abs(self._clock() - since) < LATE_SECONDS

    def _keep(self, names: Collection[ObjectName], leftover: Leftover) -> None:
        if names:
            self.leftovers.keep(names, leftover)
            self._schedule_look(leftover.since + LATE_SECONDS)

    def _schedule_look(self, due: float) -> None:
        with self._lock:
            self._due = due if self._due is None else min(self._due, due)
