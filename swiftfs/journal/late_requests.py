"""Late requests: checks, minutes after an answer was lost, whether the request was carried out late, and
undoes that.

A request that timed out may still wait in front of the server, in a load balancer's buffer or in a queue of
connections, and later overwrite a newer version. That cannot be prevented: Swift orders requests by the
time at which they reach it. Requests are sent only if a request was lost and another change of the same
object was stored after it.
"""

import logging
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from swiftfs.attributes import decode_type, is_directory_type
from swiftfs.concurrency import Rank, new_event, new_lock, new_thread, unix_time
from swiftfs.errors import NotFound, StoreError
from swiftfs.filecache.block_map import BaseVersion
from swiftfs.filecache.cache import FileCache
from swiftfs.filecache.cached_file import CachedFile
from swiftfs.filecache.sparse_file import md5_of
from swiftfs.journal.codec import Unreadable, decode_ambiguity, encode_ambiguity
from swiftfs.journal.database import JournalDB
from swiftfs.journal.late_copies import LateCopies
from swiftfs.journal.operations import (
    Delete,
    Operation,
    PutFile,
    PutMarker,
    PutSpecial,
    ReplaceHeaders,
    SetAttributes,
)
from swiftfs.journal.tasks import Done, MakeDone, nobody_waits
from swiftfs.objects import ObjectInfo, ObjectName, ObjectVersion
from swiftfs.paths import Source
from swiftfs.store.ambiguous import Ambiguity, AmbiguousRequests, Effect
from swiftfs.store.object_meta import ObjectMeta
from swiftfs.store.protocol import Headers, ObjectStore

log = logging.getLogger(__name__)

LOOKS = (60.0, 180.0, 600.0)
"""Seconds after a loss. Proxies give up a waiting request after about 60 s (HAProxy's and nginx's usual
time-outs, Swift's `client_timeout`), after three times that if they try a second and a third server, and
600 s is the longest time that this program waits for an answer."""

AGAIN_SECONDS = 30.0
"""Pause before the next check of an object that is about to change, or whose server did not answer."""

COPY_BYTES = 1024 * 1024

_BYTES_ARE_GONE = "its bytes are not in the cache any more"

Submit = Callable[[str, Operation, Done, Callable[[], bool]], bool]
"""Submits a change if its name has no pending change and the condition holds; returns whether it did."""


@dataclass(frozen=True, slots=True)
class Watch:
    """The requests to watch: those that `store` records in `ambiguous`, about objects of `source`."""

    ambiguous: AmbiguousRequests
    store: ObjectStore
    source: Source


@dataclass(frozen=True, slots=True)
class LateCounts:
    """How many objects are watched, were stored again, and could not be stored again, since the mount."""

    watched: int = 0
    put_right: int = 0
    overwritten: int = 0


class LateRequests:
    """Watches the objects whose lost requests would undo a newer change.

    Its records are in `db` too, so that the next mount continues. The cache keeps the bytes of versions that
    may have to be stored again, and evicts others first.
    """

    def __init__(
        self,
        watch: Watch,
        cache: FileCache,
        db: JournalDB,
        submit: Submit,
        is_idle: Callable[[ObjectName], bool],
    ) -> None:
        self._ambiguous = watch.ambiguous
        self._store = watch.store
        self._source = watch.source
        self._cache = cache
        self._db = db
        self._submit = submit
        self._is_idle = is_idle
        self._make_done: MakeDone | None = None
        self._looked: dict[ObjectName, float] = {}
        self._postponed: dict[ObjectName, float] = {}
        self._stopping = new_event()
        self._saving = new_lock(Rank.LATE_ANSWERS)
        self._thread = new_thread(self._run, "late answers", daemon=True)
        self._put_right = self._overwritten = 0
        self._copies = LateCopies(db.late_folder)

    def load(self) -> None:
        """Read the records of an earlier mount, before any request, because requests change them."""
        self._ambiguous.load(self._recorded())

    def begin(self, make_done: MakeDone, recovered: Iterable[ObjectName]) -> None:
        """Start, and continue to watch the objects of an earlier mount.

        That mount may have sent the operations about the `recovered` objects already.
        """
        self._make_done = make_done
        self._ambiguous.suspect(recovered)
        self._copies.sweep(map(_version, filter(_needs_copy, self._ambiguous.all())))
        self._pin()
        self._thread.start()

    def stop(self) -> None:
        """Stop; do not wait for a running request."""
        self._stopping.set()
        self._ambiguous.wake()

    def counts(self) -> LateCounts:
        """Return the counts for a status."""
        watched = sum(found.is_dangerous for found in self._ambiguous.all())
        return LateCounts(watched, self._put_right, self._overwritten)

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
                self._looked.pop(found.name, None)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.save()
                self.look(unix_time())
            except Exception:  # the next check may succeed
                log.exception("late requests: unexpected error")
            due = min(map(self._due, self._ambiguous.all()), default=None)
            self._ambiguous.wait(None if due is None else max(0.1, due - unix_time()))

    def _due(self, found: Ambiguity) -> float:
        looked = self._looked.get(found.name, 0.0)
        times = (found.lost_at + seconds for seconds in LOOKS)
        return max(next((at for at in times if at > looked), looked), self._postponed.get(found.name, 0.0))

    def _settle(self, found: Ambiguity) -> bool:
        """Check an object and repair it if needed; return False if that must wait."""
        name = found.name
        if not self._is_idle(name) or self._cache.is_changing(name):
            return False  # the object is about to be replaced
        try:
            info = self._head(name)
            landed = self._landed(found, info)
        except StoreError as error:
            log.info("%s cannot be checked again: %s", name, error)
            return not error.retryable
        if landed is None or self._stopping.is_set():
            return True
        return self._repair(found, info, headers_only=landed == "headers")

    def _head(self, name: ObjectName) -> ObjectInfo | None:
        try:
            return self._store.head(name)
        except NotFound:
            return None

    def _landed(self, found: Ambiguity, info: ObjectInfo | None) -> str | None:
        """Return what a lost request has changed: `object`, `headers`, or None if nothing is to be done."""
        last = found.last
        assert last is not None
        if _stands(last, info):
            return None
        if info is None:
            landed = any(one.kind == "delete" for one in found.lost)
        elif last.kind == "put" and last.etag in ("", info.version.etag):
            if any(one.headers is not None and _same_headers(one.headers, info) for one in found.lost):
                return "headers"
            landed = False
        else:
            landed = any(self._has_made(one, info) for one in found.lost)
        if not landed:
            log.info("%s was changed by another client since a request was lost", found.name)
        return "object" if landed else None

    def _has_made(self, effect: Effect, info: ObjectInfo) -> bool:
        if effect.kind == "put":
            return effect.etag == info.version.etag
        if effect.source is None:
            return False
        source = self._head(effect.source)  # a copy can come late only while its source is there
        return source is not None and source.version.etag == info.version.etag

    def _repair(self, found: Ambiguity, info: ObjectInfo | None, *, headers_only: bool) -> bool:
        """Submit the repair of an object; return False if a newer change of the name is pending."""
        last, path = found.last, self._source.path(found.name)
        assert last is not None
        stands = f"the version {info.version.etag}" if info is not None else "nothing"
        if path is None:  # a segment, or an object that the mount does not show
            if last.kind == "delete":
                self._delete_segment(found)
            else:
                self._give_up(found, stands, _BYTES_ARE_GONE)
            return True
        try:
            with self._restoring(found.name, last, info, headers_only=headers_only) as operation:
                if operation is None:
                    self._give_up(found, stands, _BYTES_ARE_GONE)
                    return True
                done = self._done(path, operation)
                if not self._submit(path, operation, done, lambda: self._is_current(found)):
                    return False
        except OSError as error:
            self._give_up(found, stands, str(error))
            return True
        self._put_right += 1
        log.warning(
            "%s: a request whose answer was lost was carried out late, after a newer change: Swift had %s. "
            "The newer version is sent again",
            path,
            stands,
        )
        return True

    @contextmanager
    def _restoring(
        self, name: ObjectName, last: Effect, info: ObjectInfo | None, *, headers_only: bool
    ) -> Iterator[Operation | None]:
        """Yield the operation that restores an object, None if its bytes are gone; hold its file."""
        if headers_only and info is not None:
            yield _headers_again(name, last, info)
        elif last.kind == "delete" or _is_marker(last) or _is_special(last):
            yield _object_again(name, last, info)
        elif last.etag and last.headers is not None and (cached_file := self._bytes_of(name, last)):
            try:
                yield _file_again(name, cached_file, last.headers, info)
            finally:
                self._cache.release(cached_file)
        else:
            yield None

    def _give_up(self, found: Ambiguity, stands: str, why: str) -> None:
        self._overwritten += 1
        assert found.last is not None
        log.error(
            "%s: a request whose answer was lost was carried out late, after a newer change: Swift has %s, "
            "and the newer version %s cannot be stored again: %s",
            found.name,
            stands,
            found.last.etag,
            why,
        )
        self._ambiguous.forget(found)

    def _delete_segment(self, found: Ambiguity) -> None:
        try:
            self._store.delete(found.name)
        except StoreError as error:
            log.info("%s stays in Swift unused: %s", found.name, error)

    def _is_current(self, found: Ambiguity) -> bool:
        now = self._ambiguous.get(found.name)
        return now is not None and now.last is found.last

    def _done(self, path: str, operation: Operation) -> Done:
        """Return the `Done` of a repair; for another kind of object, listings show it soon."""
        if self._make_done is None or (
            isinstance(operation, PutSpecial) and is_directory_type(operation.meta.media_type)
        ):
            return nobody_waits
        return self._make_done(path, operation)

    def _bytes_of(self, name: ObjectName, last: Effect) -> CachedFile | None:
        """Return a new file with a version's bytes, for the caller to release; None if they are gone."""
        if last.manifest is not None:  # its segments are in Swift
            size = last.manifest.size
            return self._cache.new(name, BaseVersion(name, last.etag, size, size, last.manifest))
        if last.body is not None:
            return self._filled(name, last, lambda position: (last.body or b"")[position:])
        version = ObjectVersion(name, last.etag)
        if (read := self._copies.reader(version)) is not None:
            with read as file:
                if cached_file := self._filled(
                    name, last, lambda at: os.pread(file.fileno(), COPY_BYTES, at)
                ):
                    return cached_file
        kept = self._cache.find(version)
        if kept is None:
            return None
        try:
            if not kept.is_complete():
                return None
            return self._filled(
                name, last, lambda position: os.pread(kept.descriptor, kept.size - position, position)
            )
        finally:
            self._cache.release(kept)

    def _filled(self, name: ObjectName, last: Effect, read: Callable[[int], bytes]) -> CachedFile | None:
        cached_file = self._cache.new(name, None)
        try:
            position = 0
            while data := read(position)[:COPY_BYTES]:
                position += cached_file.write(position, len(data), partial(_write, data))
            is_right = md5_of(cached_file.descriptor, 0, cached_file.size, bool) == last.etag
        except BaseException:
            self._cache.release(cached_file)
            raise
        if is_right:
            return cached_file
        self._cache.release(cached_file)
        return None

    def save(self) -> None:
        """Write new records to the disk; there are none unless a request was lost."""
        with self._saving:
            unsaved = self._ambiguous.take_unsaved()
            if not unsaved:
                return
            texts = {name: None if one is None else encode_ambiguity(one) for name, one in unsaved.items()}
            try:
                self._db.keep_ambiguous(texts)
            except OSError as error:
                log.warning("the next mount will not know of requests whose answer was lost: %s", error)
            self._copies.sweep(map(_version, filter(_needs_copy, self._ambiguous.all())))
            for found in filter(None, unsaved.values()):
                if _needs_copy(found):
                    self._copy(_version(found))
        self._pin()

    def _copy(self, version: ObjectVersion) -> None:
        """Copy a version's bytes: a kill -9 may lose them before the last close, a full cache afterwards."""
        if version in self._copies or (cached_file := self._cache.find(version)) is None:
            return
        try:
            if cached_file.is_complete():
                self._copies.put(version, cached_file)
        except OSError as error:
            log.info("cannot keep a copy of %s: %s", version.name, error)
        finally:
            self._cache.release(cached_file)

    def _pin(self) -> None:
        self._cache.prefer(
            ObjectVersion(found.name, found.last.etag)
            for found in self._ambiguous.all()
            if found.is_dangerous and found.last is not None and found.last.etag
        )

    def _recorded(self) -> list[Ambiguity]:
        found = []
        for text in self._db.ambiguous():
            try:
                found.append(decode_ambiguity(text))
            except Unreadable as error:
                log.info("%s", error)
        return found


def _version(found: Ambiguity) -> ObjectVersion:
    return ObjectVersion(found.name, found.last.etag if found.last is not None else "")


def _needs_copy(found: Ambiguity) -> bool:
    """Return whether only a local file has the bytes that may have to be stored again."""
    last = found.last
    if last is None or not found.is_dangerous:
        return False
    return last.kind == "put" and bool(last.etag) and last.body is None and last.manifest is None


def _write(data: bytes, descriptor: int, position: int) -> int:
    return os.pwrite(descriptor, data, position)


def _stands(last: Effect, info: ObjectInfo | None) -> bool:
    if info is None or last.kind == "delete":
        return info is None and last.kind == "delete"
    if last.etag not in ("", info.version.etag):
        return False
    return last.headers is None or _same_headers(last.headers, info)


def _same_headers(sent: Headers, info: ObjectInfo) -> bool:
    """Return whether an object has the headers that were sent; an empty Content-Type leaves the old one."""
    return (
        sent.content_type in ("", info.content_type)
        and _lower(sent.metadata) == _lower(info.metadata)
        and _lower(sent.preserved_headers) == _lower(info.preserved_headers)
    )


def _lower(values: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in values.items()}


def _is_marker(last: Effect) -> bool:
    return last.headers is not None and is_directory_type(last.headers.content_type) and last.body == b""


def _is_special(last: Effect) -> bool:
    if last.headers is None or last.body is None:
        return False
    mode = decode_type(last.headers.content_type)[1].mode
    return mode is not None and not stat.S_ISREG(mode)


def _headers_again(name: ObjectName, last: Effect, info: ObjectInfo) -> Operation | None:
    if last.headers is None:
        return None
    if is_directory_type(last.headers.content_type) or info.dlo_prefix is not None:
        return ReplaceHeaders(name, last.headers)
    return SetAttributes(name, ObjectMeta.of(last.headers).with_slo(None), is_slo=info.is_slo)


def _object_again(name: ObjectName, last: Effect, info: ObjectInfo | None) -> Operation | None:
    """Return the operation that deletes the object again, or makes it a folder or special file again."""
    if last.kind == "delete":
        return Delete(name, info.is_slo, info.version.etag) if info is not None else None
    assert last.headers is not None
    if _is_marker(last):
        if info is None:
            return PutMarker(name, last.headers, creates=False)
        meta = ObjectMeta(last.headers.content_type).inherit(last.headers)
    else:
        meta = ObjectMeta.of(last.headers).with_slo(None)
    is_slo = info.is_slo if info is not None else False
    etag = info.version.etag if info is not None else None
    return PutSpecial(name, last.body or b"", meta, is_slo, etag)


def _file_again(
    name: ObjectName, cached_file: CachedFile, headers: Headers, info: ObjectInfo | None
) -> Operation:
    is_slo = info.is_slo if info is not None else False
    etag = info.version.etag if info is not None else None
    return PutFile(name, cached_file.to_record(), ObjectMeta.of(headers).with_slo(None), is_slo, etag)
