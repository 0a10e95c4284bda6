"""Requests whose answer was lost: the server may carry them out later, and so undo a newer change.

A name is recorded from its first lost request on; while no answer is lost, nothing is recorded.
"""

from collections.abc import Callable, Collection, Iterable

from msgspec.structs import replace

from swiftfs.concurrency import Rank, new_condition, steady_time
from swiftfs.objects import Manifest, ObjectInfo, ObjectName, ObjectVersion, Record
from swiftfs.store.protocol import Headers, ObjectMeta

SMALL_BODY = 4096
"""The longest body that is recorded with a request, in bytes: any target of a symbolic link fits."""

MAX_LOST = 20
"""Lost requests recorded of one name; the oldest are dropped."""

MAX_NAMES = 10_000
"""Names recorded; those whose latest loss is the oldest are dropped."""

ROOM = 2000
"""Of these, names that interrupted moves of an earlier process leave free for its other requests."""


class Effect(Record, frozen=True):
    """What a request does to an object; `kind` is `put`, `post`, `delete` or `copy`.

    An `etag` of "" and `headers` of None are unknown. `manifest` is that of an SLO, `body` that of a small
    object. A PUT with `if_absent` takes effect only if there is no object. `source` is what a `copy` copies;
    None for a part of an object, whose target nobody else makes.
    """

    kind: str
    etag: str = ""
    headers: Headers | None = None
    manifest: Manifest | None = None
    body: bytes | None = None
    if_absent: bool = False
    source: ObjectName | None = None

    def can_undo(self, last: "Effect") -> bool:
        """Return whether this request, if it is carried out after `last`, would change the result of that."""
        match self.kind:
            case "delete":
                return last.kind != "delete"
            case "post":
                known = last.kind == "put" and last.headers is not None
                return known and self.headers != last.headers
            case "put" if self.if_absent:
                return last.kind == "delete"
            case "put":
                same = last.kind == "put" and self.etag == last.etag
                return not same or (last.headers is not None and self.headers != last.headers)
        return True

    def has_given_attributes(self, info: ObjectInfo) -> bool:
        """Return whether an object has the attributes that this PUT of unknown bytes would have given it."""
        if self.headers is None:
            return False
        sent, stored = ObjectMeta.of(self.headers), ObjectMeta.of(info)
        is_same = (sent.media_type, sent.with_slo(None).stored) == (
            stored.media_type,
            stored.with_slo(None).stored,
        )
        # The ETag of these bytes is not known. The time in ns makes it unlikely that another client has
        # stored an object with the same attributes.
        return is_same and sent.stored.mtime_ns is not None

    def is_repeated_by(self, made: "Effect") -> bool:
        """Return whether `made` is this request, which an earlier process may have sent, sent once more.

        It may know more by now: the ETag of its bytes, which a large object's Content-Type has too.
        """
        if self.source is not None:
            return self.source == made.source
        if self.kind != made.kind or self.etag:
            return False
        return (
            self.headers is not None
            and made.headers is not None
            and ObjectMeta.of(self.headers).with_slo(None) == ObjectMeta.of(made.headers).with_slo(None)
        )


GONE = Effect("delete")


class Ambiguity(Record, frozen=True):
    """The lost requests of one name, the latest of them lost at `lost_at` (seconds since the epoch).

    `last` is the effect of our last answered request, or what was found there since; None when neither is
    known. A name is `suspected` if no request is known to be lost, but an earlier process died when it was
    about to send one, or had sent it; mostly this process sends the same request first.
    """

    name: ObjectName
    lost_at: float
    lost: tuple[Effect, ...]
    last: Effect | None = None
    suspected: bool = False

    @property
    def is_dangerous(self) -> bool:
        """Return whether a lost request would undo a newer change."""
        return self.last is not None and any(one.can_undo(self.last) for one in self.lost)

    @property
    def is_gone(self) -> bool:
        """Return whether our last answered request has deleted the object."""
        return self.last is not None and self.last.kind == "delete"

    def has_made(self, info: ObjectInfo) -> bool:
        """Return whether a lost PUT has made an object, as far as that shows."""
        puts = [one for one in self.lost if one.kind == "put"]
        same = [one for one in puts if one.etag == info.version.etag]
        # All empty objects, as markers are, have one ETag. Their headers tell them apart, which a lost POST
        # may have changed.
        if same and not info.size and all(one.headers is not None for one in same):
            return any(one.headers is not None and one.headers.are_those_of(info) for one in self.lost)
        return bool(same) or any(not one.etag and one.has_given_attributes(info) for one in puts)

    def after_new_source(self, source: ObjectName, stored: Effect) -> "Ambiguity":
        """Return the record when `source`, which a lost request copies, is stored anew.

        That request stores what is there when it is carried out: this version, or a later one.
        """
        unknown = Effect("copy", source=source)
        version = Effect("put", stored.etag, stored.headers)
        others = [one for one in self.lost if one.source != source and one != version]
        return replace(self, lost=(*others, *([version] if stored.etag else []), unknown)[-MAX_LOST:])


class AmbiguousRequests:
    """The recorded names. Methods may be called from any thread; nothing that blocks runs under the lock."""

    def __init__(self, clock: Callable[[], float] = steady_time) -> None:
        self._clock = clock
        self._changed = new_condition(Rank.AMBIGUOUS)
        self._records: dict[ObjectName, Ambiguity] = {}
        self._dangerous: dict[ObjectName, Ambiguity] = {}
        self._copies: dict[ObjectName, set[ObjectName]] = {}
        self._unsaved: set[ObjectName] = set()
        self._is_woken = False

    def __contains__(self, name: ObjectName) -> bool:
        return name in self._records

    def lost(self, name: ObjectName, effect: Effect) -> None:
        """Record that a request was sent, but not answered."""
        with self._changed:
            self._add(name, effect, suspected=False)
            # The first is the name whose latest loss is the oldest.
            while len(self._records) > MAX_NAMES:
                self._drop(next(iter(self._records)))

    def suspect(self, requests: Iterable[tuple[ObjectName, Effect]]) -> None:
        """Record that an earlier process may have sent these requests; most of them are sent again.

        They are saved to disk only when they would undo a newer change. Those beyond `MAX_NAMES` are ignored.
        """
        with self._changed:
            for name, effect in requests:
                if len(self._records) >= MAX_NAMES:
                    return  # there may be many more, and the mount waits
                self._add(name, effect, suspected=True)

    def suspect_moves(self, requests: Iterable[tuple[ObjectName, Effect]]) -> int:
        """Record what an earlier process may have sent for moves; return how many were too many."""
        dropped = 0
        with self._changed:
            for name, effect in requests:
                if name in self._records or len(self._records) < MAX_NAMES - ROOM:
                    self._add(name, effect, suspected=False)
                else:
                    dropped += 1
        return dropped

    def _add(self, name: ObjectName, effect: Effect, *, suspected: bool) -> None:
        before = self._records.pop(name, None)  # the last name is the one lost last
        others = [one for one in before.lost if one != effect] if before else []
        last = before.last if before else None
        lost = (*others, effect)[-MAX_LOST:]
        suspected = suspected and (before is None or before.suspected)
        self._put(Ambiguity(name, self._clock(), lost, last, suspected), before)

    def done(self, name: ObjectName, effect: Callable[[], Effect]) -> None:
        """Record that a request was answered, if an earlier one for `name`, or a copy of it, was lost."""
        # Without the lock: mostly nothing was lost, and every request that changes something asks this.
        if name not in self._records and name not in self._copies:
            return
        # Without the lock, too, because it may send a HEAD.
        made = effect()
        with self._changed:
            if made.kind in ("put", "copy"):
                for target in self._copies.get(name, set()) - {name}:
                    found = self._records[target]
                    self._put(found.after_new_source(name, made), found)
            if (before := self._records.get(name)) is None:
                return
            lost = tuple(_known(one, made) for one in before.lost)
            if made.kind == "post":
                made = replace(before.last or Effect("put"), headers=made.headers)
            self._put(replace(before, lost=lost, last=made), before)

    def complete(self, found: Ambiguity, last: Effect) -> None:
        """Record what is stored under a name now, unless the record has changed since it was read."""
        with self._changed:
            if self._records.get(found.name) is found:
                self._put(replace(found, last=last), found)

    def copies_of(self, source: ObjectName) -> list[Ambiguity]:
        """Return the records of the names to which lost requests copy `source`."""
        if source not in self._copies:  # without the lock, as in `done`
            return []
        with self._changed:
            return [self._records[target] for target in self._copies.get(source, ())]

    def get(self, name: ObjectName) -> Ambiguity | None:
        """Return the record of a name, None without one."""
        return self._records.get(name)

    def needs_headers(self, name: ObjectName) -> bool:
        """Return whether a lost request may change the headers alone of what is stored under a name."""
        found = self._records.get(name)
        return found is not None and any(one.headers is not None and one.source is None for one in found.lost)

    def may_have_stored(self, version: ObjectVersion) -> bool:
        """Return whether a lost request would have stored this version of an object."""
        found = self._records.get(version.name)
        return found is not None and any(one.kind == "put" and one.etag == version.etag for one in found.lost)

    def is_late(self, version: ObjectVersion, info: ObjectInfo | None = None) -> bool:
        """Return whether a lost request has stored this version of an object over a newer one, or after a
        deletion; `info` is the object, None if only its row is known.
        """
        found = self.dangerous_at(version.name)
        if found is None or found.last is None:
            return False
        is_last = not found.is_gone and found.last.etag in ("", version.etag)
        return not is_last and self.may_have_stored(version) and (info is None or found.has_made(info))

    def may_store(self, name: ObjectName) -> bool:
        """Return whether a lost request may still store an object under a name."""
        found = self._records.get(name)
        return found is not None and any(one.kind in ("put", "copy") for one in found.lost)

    def may_name(self, name: ObjectName, segments: Collection[ObjectName]) -> bool:
        """Return whether a lost request may still store a manifest of `segments` under a name."""
        found = self._records.get(name)
        manifests = (one.manifest for one in found.lost if one.manifest is not None) if found else ()
        return any(one in segments for manifest in manifests for one in manifest.names)

    def all(self) -> list[Ambiguity]:
        """Return all records, in the order of their latest loss."""
        with self._changed:
            return list(self._records.values())

    def dangerous_at(self, name: ObjectName) -> Ambiguity | None:
        """Return the record of a name if a request would undo a newer change of it."""
        # Mostly there are none, and every lookup asks.
        return self._dangerous.get(name) if self._dangerous else None

    def dangerous(self) -> list[Ambiguity]:
        """Return the records of requests that would undo a newer change."""
        # Without the lock: mostly there are none, and every lookup of a name that does not exist asks this.
        if not self._dangerous:
            return []
        with self._changed:
            return list(self._dangerous.values())

    def load(self, found: Iterable[Ambiguity]) -> None:
        """Add the records of an earlier process."""
        with self._changed:
            for one in sorted(found, key=lambda one: one.lost_at):
                if one.name not in self._records:
                    self._records[one.name] = one
                    self._index(one.name, one, None)

    def forget(self, found: Ambiguity) -> None:
        """Drop a record, unless it has changed since it was read."""
        with self._changed:
            if self._records.get(found.name) is found:
                self._drop(found.name)

    def take_unsaved(self) -> dict[ObjectName, Ambiguity | None]:
        """Return the records that have changed since the last call; None for a dropped one."""
        with self._changed:
            unsaved, self._unsaved = self._unsaved, set()
            return {name: self._records.get(name) for name in unsaved}

    def save_again(self, names: Iterable[ObjectName]) -> None:
        """Let the next `take_unsaved` return records again, which the disk has refused."""
        with self._changed:
            self._unsaved.update(names)

    def wait(self, seconds: float | None) -> None:
        """Wait until a record changes or `wake` is called, for `seconds` at most."""
        with self._changed:
            if not self._is_woken:
                self._changed.wait(seconds)
            self._is_woken = False

    def wake(self) -> None:
        """End the present `wait`, or the next: the waiting thread may have looked just before."""
        with self._changed:
            self._wake()

    def _wake(self) -> None:
        # A flag, not `_unsaved`: another thread may save the change before the one that waits has seen it.
        self._is_woken = True
        self._changed.notify_all()

    def _put(self, found: Ambiguity, before: Ambiguity | None) -> None:
        self._records[found.name] = found
        self._index(found.name, found, before)
        # Suspected names are not saved: there may be thousands. But a row that was saved must stay current.
        if found.suspected and not (found.is_dangerous or (before is not None and before.is_dangerous)):
            return
        self._unsaved.add(found.name)
        self._wake()

    def _drop(self, name: ObjectName) -> None:
        self._index(name, None, self._records.pop(name))
        self._unsaved.add(name)
        self._wake()

    def _index(self, name: ObjectName, found: Ambiguity | None, before: Ambiguity | None) -> None:
        """Keep `_dangerous`, and in `_copies` the targets of the lost copies of each source."""
        if found is not None and found.is_dangerous:
            self._dangerous[name] = found
        else:
            self._dangerous.pop(name, None)
        for source in _sources(before):
            self._copies[source].discard(name)
            if not self._copies[source]:
                del self._copies[source]
        for source in _sources(found):
            self._copies.setdefault(source, set()).add(name)


def _sources(found: Ambiguity | None) -> set[ObjectName]:
    return {one.source for one in found.lost if one.source is not None} if found is not None else set()


def _known(lost: Effect, made: Effect) -> Effect:
    """Return what a lost request would do, as far as an answer to the same request says more of it."""
    return made if lost.is_repeated_by(made) else lost
