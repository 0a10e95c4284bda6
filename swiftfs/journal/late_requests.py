"""Late requests: checks, minutes after an answer was lost, whether the request was carried out late, and
undoes that.

A request that timed out may still wait in front of the server, in a load balancer's buffer or in a queue of
connections, and later overwrite a newer version. That cannot be prevented: Swift orders requests by the
time at which they reach it. Requests are sent only if a request was lost and another change of the same
object was stored after it.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any

from msgspec import Struct

from swiftfs.attributes import is_directory_type
from swiftfs.concurrency import Rank, monotonic, new_event, new_lock, new_thread, steady_time
from swiftfs.errors import StoreError
from swiftfs.filecache.cache import FileCache
from swiftfs.journal.database import JournalDB
from swiftfs.journal.earlier_changes import EarlierChanges
from swiftfs.journal.executor import Executor
from swiftfs.journal.late_versions import LateVersions, requests_of
from swiftfs.journal.moves import CopyKeeper, Restored
from swiftfs.journal.operations import (
    Delete,
    Operation,
    PutSpecial,
    Unreadable,
    decode_ambiguity,
    encode,
)
from swiftfs.journal.repairs import (
    Repairs,
    file_again,
    headers_again,
    is_marker,
    is_special,
    landed,
    object_again,
)
from swiftfs.journal.tasks import Done, MakeDone, nobody_waits
from swiftfs.objects import ObjectInfo, ObjectName
from swiftfs.paths import Source, is_below, split
from swiftfs.store.ambiguous import Ambiguity
from swiftfs.store.protocol import Headers, ObjectMeta, find_object

log = logging.getLogger(__name__)

LOOKS = (60.0, 180.0, 600.0)
"""Seconds from a loss to each check. Proxies give up a waiting request after about 60 s (HAProxy's and
nginx's usual time-outs, Swift's `client_timeout`), or after three times that if they try a second and a third
server; 600 s is the longest time that this program waits for an answer."""

CALL_SECONDS = 1.0
"""How long the result of a check counts, if a program that opened or missed an object caused the check."""

END_SECONDS = 2.0
"""How long an unmount waits for a running check."""

AGAIN_SECONDS = 30.0
"""Pause before the next check of an object that is about to change, or whose server did not answer."""

BREAK = 10.0
"""The pause between two rounds, as a multiple of the time that the last one took; at most a second."""

_BYTES_ARE_GONE = "its bytes are not in the cache any more"


class LateCounts(Struct, frozen=True):
    """How many objects are watched, were stored again, and could not be stored again, since the mount."""

    watched: int = 0
    put_right: int = 0
    overwritten: int = 0


class LateRequests(CopyKeeper):
    """Watches the objects of `source` whose lost requests would undo a newer change.

    Its records are in `db` too, so that the next mount continues. The cache keeps the bytes of versions that
    may have to be stored again, and evicts others first.
    """

    def __init__(
        self, executor: Executor, source: Source, cache: FileCache, db: JournalDB, repairs: Repairs
    ) -> None:
        self._ambiguous = executor.ambiguous
        self._store = executor.store
        self._source = source
        self._cache = cache
        self._db = db
        self._repairs = repairs
        self._is_named = executor.removal.is_named
        self._make_done: MakeDone | None = None
        self._checked: dict[ObjectName, tuple[Ambiguity, float]] = {}
        self._looked: dict[ObjectName, float] = {}
        self._postponed: dict[ObjectName, float] = {}
        self._stopping = new_event()
        self._saving = new_lock(Rank.LATE_ANSWERS)
        # A daemon: its running request must not delay the unmount.
        self._thread = new_thread(self._run, "late answers", daemon=True)
        self._put_right = self._overwritten = 0
        self._is_refused = False
        self._versions = LateVersions(self._ambiguous, self._store, cache, db.late_folder)

    def load(self, left: EarlierChanges) -> None:
        """Read what an earlier mount watched. Call it before any request: each changes what is watched.

        That mount may have sent what it has `left` already. What its moves may have sent is saved at once: no
        task remembers them when they are finished.
        """
        self._ambiguous.load(self._recorded())
        # Moves first: they leave `ROOM` to the others, which would leave nothing to them.
        dropped = self._ambiguous.suspect_moves(chain.from_iterable(map(requests_of, left.moves())))
        if dropped:
            log.warning(
                "an interrupted rename has more objects than are watched: late requests about %d names would "
                "not be noticed",
                dropped,
            )
        self._ambiguous.suspect(chain.from_iterable(map(requests_of, left.others())))
        self.save()

    def begin(self, make_done: MakeDone) -> None:
        """Go on with what an earlier mount watched, and start."""
        self._make_done = make_done
        self._versions.begin()
        self._thread.start()

    def stop(self) -> None:
        """Stop; do not wait for a running request."""
        self._stopping.set()
        self._ambiguous.wake()

    def join(self) -> None:
        """Return when the thread has ended; after `END_SECONDS` it may still wait for an answer of Swift."""
        if self._thread.ident is not None:
            self._thread.join(END_SECONDS)

    def path_of(self, name: ObjectName) -> str | None:
        """Return the path of an object in the mount, None if it is not shown."""
        return self._source.path(name)

    def counts(self) -> LateCounts:
        """Return the counts for a status."""
        return LateCounts(len(self._ambiguous.dangerous()), self._put_right, self._overwritten)

    def fetch(self) -> None:
        """Get from Swift what is to be stored again if a late request overwrites it."""
        for found in self._ambiguous.dangerous():
            if not self._stopping.is_set():
                self._versions.fetch(found)

    def fetch_copies_of(self, sources: Iterable[ObjectName]) -> None:
        """Get what lost copies of objects that are about to be stored again would overwrite."""
        copied = [found for source in sources for found in self._ambiguous.copies_of(source)]
        for found in copied:
            self._versions.fetch(found)
        if copied:
            self.save()

    def prepare_copy(self, source: ObjectName, target: ObjectName, etag: str) -> None:
        """Get the bytes of an object that is about to be copied to where a lost request may destroy them.

        Raise `StoreError` or `OSError`. After the copy it may be too late, and the source is deleted then.
        """
        found = self._ambiguous.get(target)
        if found is None:
            return
        # The same copy once more does no harm.
        others = [one for one in found.lost if one.source != source]
        if any(one.kind != "put" or not etag or one.etag != etag for one in others):
            self._versions.prepare(source, target)

    def keep_copies(self, copies: Collection[ObjectName]) -> None:
        """Keep what a lost request may destroy at the names of copies that were made just now."""
        found = [self._ambiguous.get(name) for name in copies]
        dangerous = [one for one in found if one is not None and one.is_dangerous]
        for one in dangerous:
            self._versions.fetch(one)
        if dangerous:
            self.save()

    def look(self, now: float) -> None:
        """Check every object that is due at `now` (Unix seconds)."""
        for found in self._ambiguous.all():
            if self._stopping.is_set():
                return
            if self._due(found) > now:
                continue
            if found.is_dangerous and not self._settle(found):
                self._postponed[found.name] = now + AGAIN_SECONDS
                continue
            self._postponed.pop(found.name, None)
            self._looked[found.name] = now
            if now >= found.lost_at + LOOKS[-1]:
                self._ambiguous.forget(found)
        watched = {found.name for found in self._ambiguous.all()}
        kept: tuple[dict[ObjectName, Any], ...] = (self._looked, self._postponed, self._checked)
        for by_name in kept:
            # A copy, made in one step: other threads add names.
            for name in set(by_name) - watched:
                by_name.pop(name, None)

    def look_below(self, path: str, *, moving: bool = False) -> list[ObjectName]:
        """Check the objects at and below a path; return those that are stored again by the journal.

        Unless they are `moving`, only those that should be there are checked, and only once a second.
        """
        if not self._ambiguous.dangerous():  # mostly, and this runs at every lookup of a new name
            return []
        below = [found for _, found in self._below(path)]
        if not moving:
            below = [found for found in below if not found.is_gone and not self._is_checked(found)]
        return [found.name for found in below if self._look(found)]

    def is_watched(self, name: ObjectName) -> bool:
        """Return whether `look_at` may have to check an object."""
        return self._ambiguous.dangerous_at(name) is not None

    def look_at(self, name: ObjectName, etag: str = "") -> bool:
        """Check an object that Swift has, at most once a second; return whether it is repaired.

        The version with our own `etag` need not be checked.
        """
        found = self._ambiguous.dangerous_at(name)
        if found is None or self._is_checked(found):
            return False
        is_ours = bool(etag) and found.last is not None and found.last.etag == etag
        return not is_ours and self._look(found)

    def newest_headers(self, info: ObjectInfo) -> ObjectInfo | Headers:
        """Return what has the headers of an object: if a late request has stored it, of its newer version."""
        found = self._ambiguous.dangerous_at(info.version.name)
        if found is None or found.last is None or found.last.headers is None:
            return info
        return info if landed(found, info, self._store) is None else found.last.headers

    def newest_meta(self, name: ObjectName, meta: ObjectMeta) -> ObjectMeta:
        """Return the meta of an object: if it is that of a late request, with what the newer version has."""
        found = self._ambiguous.dangerous_at(name)
        if found is None or found.last is None or found.last.headers is None:
            return meta
        sent = (ObjectMeta.of(one.headers) for one in found.lost if one.headers is not None)
        is_late = any((one.stored, one.metadata) == (meta.stored, meta.metadata) for one in sent)
        return meta.inherit(found.last.headers) if is_late and self._repairs.is_idle(name) else meta

    def look_in(self, folder: str, shown: Callable[[Collection[str]], Collection[str]]) -> bool:
        """Check what should be in a folder and is not shown there, or is shown and should not be there.

        Return whether any of it is repaired. `shown` returns which of some names are in its listing. It is
        called only if anything there is watched, and only names that differ cost a request, once a second.
        Nobody waits here until the repairs are stored; the overlay shows them.
        """
        inside = [(split(at), found) for at, found in self._below(folder) if at != folder]
        here = [(name, found) for (parent, name), found in inside if parent == folder]
        names = shown({name for name, _ in here}) if here else ()
        wrong = [found for name, found in here if found.is_gone == (name in names)]
        # A sum, not `any`: each of them is looked at.
        return sum(self._look(found) for found in wrong if not self._is_checked(found)) > 0

    def _below(self, path: str) -> list[tuple[str, Ambiguity]]:
        """Return what is watched at and below a path, each with its own path."""
        paths = [(self._source.path(found.name), found) for found in self._ambiguous.dangerous()]
        return [(at, found) for at, found in paths if at is not None and is_below(at, path)]

    def _is_checked(self, found: Ambiguity) -> bool:
        before, at = self._checked.get(found.name, (None, 0.0))
        return before is found and monotonic() < at + CALL_SECONDS

    def _look(self, found: Ambiguity) -> bool:
        begun, before = monotonic(), self._put_right
        # Without an answer the next program asks again.
        if self._settle(found):
            self._checked[found.name] = found, begun
        return self._put_right > before

    def _run(self) -> None:
        while not self._stopping.is_set():
            begun = monotonic()
            try:
                self.save()
                self.fetch()
                self.look(steady_time())
            except Exception:  # the next check may succeed
                # After the stop the database may be closed.
                if not self._stopping.is_set():
                    log.exception("late requests: unexpected error")
            due = min(map(self._due, self._ambiguous.all()), default=None)
            # Each round takes time for every record, and every change of a record begins one.
            self._stopping.wait(min(1.0, BREAK * (monotonic() - begun)))
            self._ambiguous.wait(None if due is None else max(0.1, due - steady_time()))

    def _due(self, found: Ambiguity) -> float:
        looked = self._looked.get(found.name, 0.0)
        times = (found.lost_at + seconds for seconds in LOOKS)
        return max(next((at for at in times if at > looked), looked), self._postponed.get(found.name, 0.0))

    def _settle(self, found: Ambiguity) -> bool:
        """Check an object and repair it if needed; return False if that must wait."""
        name = found.name
        if not self._repairs.can_submit(name):
            return False  # the object is about to be replaced
        try:
            info = find_object(self._store, name)
            what = landed(found, info, self._store)
            if what is None or self._stopping.is_set():
                return True
            return self._repair(found, info, headers_only=what == "headers")
        except StoreError as error:
            log.info("%s cannot be checked again: %s", name, error)
            # A refusal is the same the next time: the object counts as checked.
            return not error.retryable

    def _repair(self, found: Ambiguity, info: ObjectInfo | None, *, headers_only: bool) -> bool:
        """Submit the repair of an object; return False if a newer change of the name is pending."""
        last, path = found.last, self._source.path(found.name)
        assert last is not None
        if path is None:  # a segment, or an object that the mount does not show
            if last.kind == "delete":
                self._store.delete(found.name)
            elif info is None and not self._is_named(found.name):
                self._ambiguous.forget(found)  # it was to be deleted
            else:
                self._give_up(found, info, _BYTES_ARE_GONE)
            return True
        try:
            with self._restoring(found, info, headers_only=headers_only) as (operation, _):
                if operation is None:
                    return True
                show = partial(self._done, path, operation, info)
                # Under the journal's lock: a change of the name that was handed in since is newer than this
                # repair.
                if not self._repairs.submit(path, operation, show, lambda: self._is_current(found)):
                    return False
        except OSError as error:
            self._give_up(found, info, str(error))
            return True
        self._report(path, info)
        return True

    def _report(self, what: str | ObjectName, info: ObjectInfo | None) -> None:
        self._put_right += 1
        log.warning(
            "%s: a request whose answer was lost was carried out late, after a newer change: Swift had %s. "
            "The newer version is sent again",
            what,
            _described(info),
        )

    def has_overwritten(self, source: ObjectName, stands: ObjectInfo | None) -> bool:
        """Return whether what stands at the name of a moving object was made by a late request.

        Raise `StoreError`.
        """
        found = self._ambiguous.dangerous_at(source)
        return found is not None and landed(found, stands, self._store) is not None

    @contextmanager
    def restoring(self, source: ObjectName) -> Iterator[Restored]:
        """Yield what restores an object that is about to move; raise `StoreError` or `OSError`.

        Its move is the oldest change of the name, and must not take a repair of its own record along.
        """
        info = find_object(self._store, source)
        found = self._ambiguous.dangerous_at(source)
        what = landed(found, info, self._store) if found is not None else None
        if found is None or what is None:
            yield None, None
            return
        with self._restoring(found, info, headers_only=what == "headers") as restored:
            if restored[0] is not None:
                self._report(source, info)
            yield restored

    @contextmanager
    def _restoring(
        self, found: Ambiguity, info: ObjectInfo | None, *, headers_only: bool
    ) -> Iterator[Restored]:
        """Yield the operation that restores an object, and hold its file; give up if its bytes are gone."""
        name, last = found.name, found.last
        assert last is not None
        if headers_only and info is not None:
            yield headers_again(name, last, info), None
        elif last.kind == "delete" or is_marker(last) or is_special(last):
            yield object_again(name, last, info), None
        elif last.etag and last.headers is not None and (cached_file := self._versions.file_of(name, last)):
            try:
                yield file_again(name, cached_file, last.headers, info), cached_file
            finally:
                self._cache.release(cached_file)
        else:
            self._give_up(found, info, _BYTES_ARE_GONE)
            yield None, None

    def _give_up(self, found: Ambiguity, info: ObjectInfo | None, why: str) -> None:
        self._overwritten += 1
        assert found.last is not None
        log.error(
            "%s: a request whose answer was lost was carried out late, after a newer change: Swift has %s, "
            "and the newer version %s cannot be stored again: %s",
            found.name,
            _described(info),
            found.last.etag,
            why,
        )
        self._ambiguous.forget(found)

    def _is_current(self, found: Ambiguity) -> bool:
        now = self._ambiguous.get(found.name)
        return now is not None and now.last is found.last

    def _done(self, path: str, operation: Operation, info: ObjectInfo | None) -> Done:
        """Show a repair of what `info` says, and return its `Done`.

        Left to the listings are a marker that replaces a file, and the deletion of a marker: there may be
        something in that folder.
        """
        is_folder = isinstance(operation, PutSpecial) and is_directory_type(operation.meta.media_type)
        was_folder = (
            isinstance(operation, Delete) and info is not None and is_directory_type(info.content_type)
        )
        if self._make_done is None or is_folder or was_folder:
            return nobody_waits
        return self._make_done(path, operation)

    def save(self) -> None:
        """Write new records to the disk; there are none unless a request was lost.

        What it refuses is written the next time.
        """
        with self._saving:
            unsaved = self._ambiguous.take_unsaved()
            if not unsaved:
                return
            texts = {name: None if one is None else encode(one) for name, one in unsaved.items()}
            try:
                # The lock `_saving` is held: records that two threads take must be written in the order in
                # which they were taken, or the older one would stay.
                self._db.keep_ambiguous(texts)
            except OSError as error:
                self._ambiguous.save_again(unsaved)
                if not self._is_refused:
                    log.warning(
                        "requests whose answer was lost are not remembered by the next mount: %s", error
                    )
                self._is_refused = True
            else:
                self._is_refused = False
            self._versions.keep(unsaved)

    def _recorded(self) -> list[Ambiguity]:
        found = []
        for text in self._db.ambiguous():
            try:
                found.append(decode_ambiguity(text))
            except Unreadable as error:
                log.info("a lost request is ignored, it is %s", error)
        return found


def _described(info: ObjectInfo | None) -> str:
    return f"the version {info.version.etag}" if info is not None else "nothing"
