"""Requests whose answer was lost: the server may carry them out later, and so undo a newer change.

A name is recorded from its first lost request on; while no answer is lost, nothing is recorded.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from swiftfs.concurrency import Rank, new_condition, unix_time
from swiftfs.objects import Manifest, ObjectName, ObjectVersion
from swiftfs.store.protocol import Headers

SMALL_BODY = 4096
"""The longest body that is recorded with a request, in bytes: any target of a symbolic link fits."""

MAX_LOST = 20
"""Lost requests recorded of one name; the oldest are dropped."""

MAX_NAMES = 10_000
"""Names recorded; those whose latest loss is the oldest are dropped."""


@dataclass(frozen=True, slots=True)
class Effect:
    """What a request does to an object; `kind` is `put`, `post`, `delete` or `copy`.

    An `etag` of "" and `headers` of None are unknown. `manifest` is that of an SLO, `body` that of a small
    object. A PUT with `if_absent` takes effect only if there is no object. `source` is what a `copy` copies.
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


GONE = Effect("delete")


@dataclass(frozen=True, slots=True)
class Ambiguity:
    """The lost requests of one name, the latest of them lost at `lost_at` (seconds since the epoch).

    `last` is the effect of our last answered request, None when none was answered since. A name is
    `suspected` if an earlier process died when it was about to send a request, or had sent it; this process
    sends the same request first.
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

    def has_copied(self, source: ObjectName) -> bool:
        """Return whether a lost request was a copy of `source` and it is known what it would store."""
        return any(one.source == source and one.kind != "copy" for one in self.lost)


class AmbiguousRequests:
    """The recorded names. Methods may be called from any thread; nothing that blocks runs under the lock."""

    def __init__(self, clock: Callable[[], float] = unix_time) -> None:
        self._clock = clock
        self._changed = new_condition(Rank.AMBIGUOUS)
        self._found: dict[ObjectName, Ambiguity] = {}
        self._unsaved: set[ObjectName] = set()
        self._is_woken = False

    def __contains__(self, name: ObjectName) -> bool:
        return name in self._found

    def lost(self, name: ObjectName, effect: Effect) -> None:
        """Record that a request was sent, but not answered."""
        with self._changed:
            before = self._found.pop(name, None)  # the last name is the one lost last
            others = [one for one in before.lost if one != effect] if before else []
            last = before.last if before else None
            lost = (*others, effect)[-MAX_LOST:]
            self._put(Ambiguity(name, self._clock(), lost, last))
            while len(self._found) > MAX_NAMES:
                self._drop(next(iter(self._found)))

    def suspect(self, names: Iterable[ObjectName]) -> None:
        """Record that an earlier process may have sent the queued changes of these objects."""
        with self._changed:
            for name in names:
                if len(self._found) < MAX_NAMES:
                    self._found.setdefault(name, Ambiguity(name, self._clock(), (), suspected=True))

    def done(self, name: ObjectName, effect: Callable[[], Effect]) -> None:
        """Record that a request was answered, if an earlier one of `name` was lost, or a copy of it."""
        copied = [found for found in self.all() if found.has_copied(name)] if self._found else []
        if name not in self._found and not copied:
            return
        made = effect()
        with self._changed:
            if made.kind in ("put", "copy"):
                self._forget_copies(name, copied)
            if (before := self._found.get(name)) is None:
                return
            if made.kind == "post":
                made = replace(before.last or Effect("put"), headers=made.headers)
            lost = before.lost or (made,)
            if made.source is not None:  # a lost attempt of this copy would store the same for now
                lost = tuple(made if one.source == made.source else one for one in lost)
            self._put(replace(before, lost=lost, last=made))

    def _forget_copies(self, source: ObjectName, copied: Iterable[Ambiguity]) -> None:
        """Record that it is unknown what lost copies of this object would store from now on. Lock held."""
        unknown = Effect("copy", source=source)
        for found in copied:
            if self._found.get(found.name) is found:
                lost = tuple(unknown if one.source == source else one for one in found.lost)
                self._put(replace(found, lost=lost))

    def get(self, name: ObjectName) -> Ambiguity | None:
        """Return the record of a name, None without one."""
        return self._found.get(name)

    def may_have_stored(self, version: ObjectVersion) -> bool:
        """Return whether a lost request would have stored this version of an object."""
        found = self._found.get(version.name)
        return found is not None and any(one.kind == "put" and one.etag == version.etag for one in found.lost)

    def all(self) -> list[Ambiguity]:
        """Return all records, in the order of their latest loss."""
        with self._changed:
            return list(self._found.values())

    def load(self, found: Iterable[Ambiguity]) -> None:
        """Add the records of an earlier process."""
        with self._changed:
            for one in sorted(found, key=lambda one: one.lost_at):
                self._found.setdefault(one.name, one)

    def forget(self, found: Ambiguity) -> None:
        """Drop a record, unless it has changed since it was read."""
        with self._changed:
            if self._found.get(found.name) is found:
                self._drop(found.name)

    def take_unsaved(self) -> dict[ObjectName, Ambiguity | None]:
        """Return the records that have changed since the last call; None for a dropped one."""
        with self._changed:
            unsaved, self._unsaved = self._unsaved, set()
            return {name: self._found.get(name) for name in unsaved}

    def wait(self, seconds: float | None) -> None:
        """Wait until a record changes or `wake` is called, for `seconds` at most."""
        with self._changed:
            if not (self._unsaved or self._is_woken):
                self._changed.wait(seconds)
            self._is_woken = False

    def wake(self) -> None:
        """End the present `wait`, or the next: whoever waits may have looked just before."""
        with self._changed:
            self._is_woken = True
            self._changed.notify_all()

    def _put(self, found: Ambiguity) -> None:
        before = self._found.get(found.name)
        self._found[found.name] = found
        # Suspected names are not saved: there may be thousands. But a row that was saved must stay current.
        if found.suspected and not (found.is_dangerous or (before is not None and before.is_dangerous)):
            return
        self._unsaved.add(found.name)
        self._changed.notify_all()

    def _drop(self, name: ObjectName) -> None:
        del self._found[name]
        self._unsaved.add(name)
        self._changed.notify_all()
