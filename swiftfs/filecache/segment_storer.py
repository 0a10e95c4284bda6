"""Stores the bytes of one segment in Swift."""

import hashlib
import mmap
import os
from collections.abc import Collection, Iterable

from swiftfs.concurrency import Future, new_future
from swiftfs.errors import NoSpace, NotFound, StoreError
from swiftfs.filecache.segment_container import SegmentContainerChooser
from swiftfs.filecache.segment_put import SegmentPut, place_of
from swiftfs.filecache.sparse_file import is_hole, is_in_memory, map_zeros, next_data, next_hole
from swiftfs.filecache.upload_record import UploadRecord
from swiftfs.objects import ObjectInfo, ObjectName, ObjectVersion, Segment
from swiftfs.store.protocol import Body, Headers, ObjectStore

_MEDIA_TYPE = "application/octet-stream"
_OFFSET_DIGITS = 13
"""Digits of an offset in the largest file."""


def map_bytes(descriptor: int, start: int, end: int) -> Body:
    """Return the file's bytes from `start` to `end`, if possible without reading them into the heap."""
    if start == end:
        return b""
    # On a tmpfs a mapping takes a page for each one of a hole that is read: SIGBUS if there is none left.
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

    def __init__(
        self, store: ObjectStore, places: SegmentContainerChooser, container: str, record: UploadRecord
    ) -> None:
        self._store = store
        self._places = places
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

    def copy(self, source: ObjectName) -> ObjectVersion:
        """Copy a whole object to a new segment; raise what the store raises."""
        target = self._record.begin_segment("whole")
        try:
            copied = self._store.copy(source, target)
        except StoreError as error:
            self._keep_failed(target, error)
            raise
        with self._lock:
            # It is in no upload, so nobody else would delete it if no manifest comes to name it.
            self.copies.append(target)
            self._record.segments_ended([target])
        return copied

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
                # One that was forgotten meanwhile may be deleted with the upload that made it.
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
                    # Before the error is told: who waits may try again, and must not find this future.
                    del self._zeros[length]
            zeros.set_exception(error)
            raise
        with self._lock:
            # Before the others get it, so that they do not delete it as theirs.
            upload.zero_segment = segment.name
        zeros.set_result(segment)
        return segment

    def _put(self, body: Body, start: int) -> Segment:
        # The offset is in the name: the next process finds by it which bytes a segment has (`place_of`).
        name = self._record.begin_segment(f"{start:0{_OFFSET_DIGITS}d}")
        try:
            info = self._put_object(name, body)
        except StoreError as error:
            self._keep_failed(name, error)
            raise
        with self._lock:
            self._record.segments_ended([name])
        return Segment(name, info.version.etag, len(body))

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
