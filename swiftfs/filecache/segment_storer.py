"""The upload of one segment: its state, how it is sent, and the pool in which it waits for its turn."""

import hashlib
import mmap
import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from functools import partial
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from swiftfs.concurrency import Executor, Future, Rank, new_future, new_lock, new_pool
from swiftfs.errors import (
    AccessDenied,
    ChangedDuringUpload,
    Corrupt,
    NoSpace,
    NotFound,
    PreconditionFailed,
    QuotaExceeded,
    StoreError,
)
from swiftfs.filecache.block_map import StoredSegment
from swiftfs.filecache.sparse_file import FrozenCopy, is_hole, is_in_memory, map_zeros, next_data, next_hole
from swiftfs.filecache.upload_record import SharedUploads, UploadRecord
from swiftfs.objects import ObjectInfo, ObjectName, ObjectVersion, Segment, check_transition
from swiftfs.store.protocol import Body, CopyRequest, Headers
from swiftfs.store.server_state import MOST, ParallelLimit


class Moment(Enum):
    """For which upload of the file the bytes of a segment count."""

    NEXT = "next"
    """For the next one: the segment is uploaded in advance."""
    SNAPSHOT = "snapshot"
    """For the one under way, or the last one: they are, or will be, the bytes of its snapshot."""
    MIXED = "mixed"
    """For none yet: they changed after the snapshot, before the segment was stored."""


FOLLOWING: Mapping[Moment, tuple[Moment, ...]] = {
    Moment.NEXT: (Moment.SNAPSHOT,),
    Moment.SNAPSHOT: (Moment.SNAPSHOT, Moment.MIXED),
    # The next snapshot has these bytes, unless they were superseded since.
    Moment.MIXED: (Moment.SNAPSHOT, Moment.MIXED),
}


class SegmentPut(Struct):
    """The upload of the bytes from `start` to `end` as a segment.

    It is `superseded` if the bytes changed after it began, whatever its `moment`. `zero_segment` is the
    segment of a hole, which other uploads may share. If there is a copy `frozen`, its bytes are uploaded. One
    made `by_server` is a copy of another object, or the only place of the bytes.
    """

    start: int
    end: int
    moment: Moment = Moment.SNAPSHOT
    superseded: bool = False
    zero_segment: ObjectName | None = None
    frozen: FrozenCopy | None = None
    by_server: bool = False
    stored: Future[Segment] = field(default_factory=new_future)

    @classmethod
    def of(cls, stored: StoredSegment) -> "SegmentPut":
        """Return the ended upload of a stored segment."""
        upload = cls(stored.start, stored.end, by_server=True)
        upload.stored.set_result(stored.segment)
        return upload

    def result(self) -> Segment:
        """Wait until the segment is stored and return it.

        Raise `ChangedDuringUpload` if its bytes may be of another moment than the snapshot.
        """
        segment = self.stored.result()
        if self.moment is Moment.MIXED:
            raise ChangedDuringUpload(f"{segment.name}: its bytes changed while they were uploaded")
        return segment

    def correct(self, etag: str) -> bool:
        """Give a segment that only the server has another ETag: that in an answer was wrong.

        Return False if it is another one, or of no use.
        """
        if not (self.by_server and self.is_good(self.end)):
            return False
        segment, self.stored = self.stored.result(), new_future()
        self.stored.set_result(replace(segment, etag=etag))
        return True

    def become(self, moment: Moment) -> None:
        """Change the moment; raise `RuntimeError` if that cannot follow."""
        check_transition("a segment", FOLLOWING, self.moment, moment)
        self.moment = moment

    def is_good(self, end: int) -> bool:
        """Return whether this uploads the bytes to `end` as they are now, and has not failed."""
        if self.superseded or self.end != end or self.stored.cancelled():
            return False
        return not self.stored.done() or self.stored.exception() is None

    @property
    def is_refused(self) -> bool:
        """Whether Swift has refused it, for a reason that does not go away by itself."""
        ended = self.stored.done() and not self.stored.cancelled()
        return ended and isinstance(self.stored.exception(), AccessDenied | NoSpace | QuotaExceeded)


class CopyPart(Struct, frozen=True):
    """Bytes of an object for the segment of the file's bytes from `start` to `end`.

    They are a `span` of the version `etag` of the object `source`; without one all of it, a plain object.
    """

    start: int
    end: int
    source: ObjectName
    etag: str
    span: tuple[int, int] | None = None


def is_all_named(uploads: Iterable[SegmentPut], named: set[ObjectName]) -> bool:
    """Return whether every upload has stored a segment that is `named` in a manifest."""
    return all(
        upload.stored.done()
        and not upload.stored.cancelled()
        and not upload.stored.exception()
        and upload.stored.result().name in named
        for upload in uploads
    )


def results(uploads: Collection[SegmentPut]) -> list[Segment]:
    """Return the segments when all are stored; cancel those that have not begun when Swift refuses one.

    Raise as `SegmentPut.result` does. Those that have begun continue, and the next attempt uses them.
    """
    try:
        return [upload.result() for upload in uploads]
    except StoreError as error:
        # What refuses one segment mostly refuses all, and each is sent before it is refused. But bytes that
        # arrive wrong, or have changed meanwhile, are those of one segment only.
        if not (error.retryable or isinstance(error, Corrupt)):
            for upload in uploads:
                upload.stored.cancel()
        raise


def place_of(key: str, size: int) -> tuple[int, int]:
    """Return the bytes of the file that the segment `key` has, (-1, -1) if its name does not say."""
    digits = key.rpartition("/")[2].partition("-")[0]
    return (int(digits), int(digits) + size) if digits.isascii() and digits.isdigit() else (-1, -1)


def stored_names(uploads: Iterable[SegmentPut]) -> list[ObjectName]:
    """Cancel the uploads that have not begun; wait for the others and return their segments."""
    # All are cancelled first, and then waited for: one that waits in the pool need not be stored at all.
    stored = [upload.stored for upload in uploads if not upload.stored.cancel()]
    return [future.result().name for future in stored if future.exception() is None]


_MEDIA_TYPE = "application/octet-stream"
_OFFSET_DIGITS = 13
"""Digits of an offset in the largest file."""


def _label(start: int) -> str:
    """Return the end of a segment's name: the next process finds by it which bytes it has (`place_of`)."""
    return f"{start:0{_OFFSET_DIGITS}d}"


def map_bytes(descriptor: int, start: int, end: int) -> Body:
    """Return the file's bytes from `start` to `end`, if possible without reading them into the heap."""
    if start == end:
        return b""
    # On a tmpfs, each page of a hole that is read through a mapping takes memory: SIGBUS if none is left.
    if next_hole(descriptor, start, end) < end and is_in_memory(descriptor):
        return _copy(descriptor, start, end)
    # mmap(2) takes offsets of whole pages only.
    before = start % mmap.ALLOCATIONGRANULARITY
    length = end - start + before
    return memoryview(mmap.mmap(descriptor, length, prot=mmap.PROT_READ, offset=start - before))[before:]


def _copy(descriptor: int, start: int, end: int) -> Body:
    """Return the file's bytes in memory of their own, of which holes take none."""
    copy = memoryview(mmap.mmap(-1, end - start, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    at = start
    while (at := next_data(descriptor, at, end)) < end:
        data = copy[at - start : next_hole(descriptor, at, end) - start]
        at += os.preadv(descriptor, [data], at) or len(data)  # zeros behind the end of a shorter file
    return copy


class SegmentStorer:
    """Stores segments of one file below the prefix of its record, whose lock guards every field.

    `copies` are segments that no upload has: copied by the server, or of a request that failed. `_found`
    are segments of an earlier process. `_zeros` has the segment of a hole by its length: a manifest names it
    as often as needed.
    """

    def __init__(self, shared: SharedUploads, container: str, record: UploadRecord) -> None:
        self._store = shared.store
        self._places = shared.places
        self._container = container
        self._record = record
        self._lock = record.lock
        self.copies: list[ObjectName] = []
        self._found: dict[tuple[int, int], list[Segment]] = {}
        self._zeros: dict[int, Future[Segment]] = {}

    def store(self, upload: SegmentPut, source: int) -> Segment:
        """Return the segment for an upload of bytes of the file `source`; store it if there is none."""
        found = self._find(upload, source) or self._put_zeros(upload, source)
        return found or self._put(map_bytes(source, upload.start, upload.end), upload.start)

    def copy(self, source: ObjectVersion) -> ObjectVersion:
        """Copy a whole object, likely of this version, to a new segment; raise what the store raises."""
        with self._stored("whole") as target:
            copied = self._store.copy(CopyRequest(source.name, target, likely=source.etag))
            with self._lock:
                # It is in no upload, so nobody else would delete it if no manifest comes to name it.
                self.copies.append(target)
        return copied

    def copy_part(self, part: CopyPart) -> Segment:
        """Copy bytes of an object to a segment; raise what the store raises.

        Raise `PreconditionFailed` if the copy has other bytes.
        """
        with self._stored(_label(part.start)) as name:
            # Without the source's headers: with its X-Delete-At the segment would end before its file.
            headers = Headers(_MEDIA_TYPE)
            copied = self._store.copy(
                CopyRequest(part.source, name, headers=headers, etag=part.etag, span=part.span)
            )
            # The MD5 of all of the object: the server ignores ranges here.
            if part.span is not None and copied.etag == part.etag:
                raise PreconditionFailed(f"{part.source}: other bytes were copied", may_land=True)
        return Segment(name, copied.etag, part.end - part.start)

    def add_found(self, segments: Iterable[Segment]) -> None:
        """Add segments that an earlier process left. Lock held."""
        for segment in segments:
            self._found.setdefault(place_of(segment.name.key, segment.size), []).append(segment)

    def keep_zeros(self, named: Collection[ObjectName]) -> None:
        """Forget the segments for holes that are not `named`. Lock held."""
        self._zeros = {
            size: one for size, one in self._zeros.items() if one.done() and one.result().name in named
        }

    def take_others(self) -> list[ObjectName]:
        """Return and forget the copied and found segments that no upload has. Lock held."""
        others = self.copies
        # Whoever deletes them records that first.
        self._record.segments_ended(others)
        others.extend(segment.name for segments in self._found.values() for segment in segments)
        self.copies, self._found = [], {}
        return others

    def _find(self, upload: SegmentPut, source: int) -> Segment | None:
        """Return a segment of an earlier process with the same bytes, or None."""
        place = (upload.start, upload.end)
        with self._lock:
            candidates = list(self._found.get(place, ()))
        if not candidates:
            return None
        # Without the lock: it takes seconds for a large segment, and a writer needs the lock at every write.
        digest = hashlib.md5(map_bytes(source, *place), usedforsecurity=False).hexdigest()
        with self._lock:
            # Asked again: another upload may have taken it while this one computed the MD5.
            for segment in self._found.get(place, ()):
                if segment.etag == digest:
                    self._found[place].remove(segment)
                    return segment
        return None

    def _put_zeros(self, upload: SegmentPut, source: int) -> Segment | None:
        """Return the segment of a hole, None if there is data."""
        if not is_hole(source, upload.start, upload.end):
            return None
        length = upload.end - upload.start
        while True:
            with self._lock:
                shared = self._zeros.get(length)
                # One thread stores the zeros, and the others wait for its future: without the lock, as it
                # sends a request.
                if shared is None:
                    mine = self._zeros[length] = new_future()
            if shared is None:
                return self._put_first_zeros(upload, mine)
            segment = shared.result()
            with self._lock:
                # A forgotten one may be deleted together with the upload that stored it.
                if self._zeros.get(length) is shared:
                    upload.zero_segment = segment.name
                    return segment

    def _put_first_zeros(self, upload: SegmentPut, zeros: Future[Segment]) -> Segment:
        """Store the segment of a hole, for all who wait for `zeros`.

        It is not read from the local file, where a writer may have filled this hole by now.
        """
        length = upload.end - upload.start
        try:
            segment = self._put(map_zeros(length), upload.start)
        except BaseException as error:
            with self._lock:
                if self._zeros.get(length) is zeros:
                    # Before `set_exception`: a waiter that tries again must not find this future.
                    del self._zeros[length]
            zeros.set_exception(error)
            raise
        with self._lock:
            # Before the others get it, so that they do not delete it as theirs.
            upload.zero_segment = segment.name
        zeros.set_result(segment)
        return segment

    def _put(self, body: Body, start: int) -> Segment:
        with self._stored(_label(start)) as name:
            info = self._put_object(name, body)
        return Segment(name, info.version.etag, len(body))

    @contextmanager
    def _stored(self, label: str) -> Iterator[ObjectName]:
        """Provide the name of a new segment, which is recorded until it is stored, or certainly is not."""
        name = self._record.begin_segment(label)
        try:
            yield name
        except StoreError as error:
            self._keep_failed(name, error)
            raise
        with self._lock:
            self._record.segments_ended([name])

    def _keep_failed(self, name: ObjectName, error: StoreError) -> None:
        """Record a segment that may be stored although its request failed: no upload will delete it."""
        # With 507 one server of the cluster has no space, and another may have the object.
        may_be_stored = error.retryable or error.may_land or isinstance(error, NoSpace)
        with self._lock:
            if may_be_stored:
                self.copies.append(name)
            else:
                self._record.segments_ended([name])

    def _put_object(self, name: ObjectName, body: Body) -> ObjectInfo:
        try:
            return self._store.put(name, body, Headers(_MEDIA_TYPE))
        except NotFound:  # somebody deleted the container
            # `of` makes it again, if the server lets it.
            self._places.gone(self._container)
            self._places.of(self._container)
            return self._store.put(name, body, Headers(_MEDIA_TYPE))


class UploadPool(Executor):
    """Runs calls in their order, at most `most` at once, and no more than `limit` allows now.

    `most` may be changed: it counts from the next upload that begins or ends.
    `_waiting` are those that have not begun, with their futures, which can still be cancelled.
    """

    def __init__(self, limit: ParallelLimit, most: int) -> None:
        self._limit = limit
        self.most = most
        self._threads = new_pool("upload", MOST)  # a thread is only made when it is needed
        self._lock = new_lock(Rank.UPLOADS)
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._running = 0

    def submit(self, call: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = new_future()
        with self._lock:
            self._waiting.append((future, partial(call, *args, **options)))
            self._begin()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Return when the calls that run have ended; the others are cancelled, whatever is asked for."""
        with self._lock:
            waiting, self._waiting = self._waiting, deque()
        for future, _ in waiting:
            future.cancel()
        self._threads.shutdown(wait, cancel_futures=cancel_futures)

    def _begin(self) -> None:
        """Begin as many calls as may run. Lock held."""
        while self._waiting and self._running < min(self._limit.now, self.most):
            self._running += 1
            self._threads.submit(self._work, *self._waiting.popleft())

    def _work(self, future: Future[Any], call: Callable[[], Any]) -> None:
        try:
            if future.set_running_or_notify_cancel():
                _fulfil(future, call)
        finally:
            with self._lock:
                self._running -= 1
                self._begin()


def _fulfil(future: Future[Any], call: Callable[[], Any]) -> None:
    try:
        result = call()
    except BaseException as error:  # noqa: BLE001  whoever waits raises it
        future.set_exception(error)
    else:
        future.set_result(result)
