"""Large files on their way to Swift: segments that go up while the file is still being written."""

import errno
import itertools
import mmap
import threading
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass

from swiftfs.errors import AccessDenied, NotFound, os_error
from swiftfs.model import Manifest, ObjectName, Segment
from swiftfs.store.protocol import Body, Headers, ObjectStore

SEGMENTS_SUFFIX = "_segments"
"""The container beside a container that holds its segments; the swift CLI names it so too."""

MAX_SEGMENT = 5 * 1024**3
"""What Swift and NAVER take in one PUT, in bytes."""

GROWTH = ((64, 1), (36, 4), (100, 16), (100, 64))
"""How many segments have how many times the first one's size; the rest of 1000 are as large as can be. With
16 MiB at first that is 1 GiB of small ones for fine changes, and 3.5 TiB in all."""

SEGMENTS = 1000
"""The most that a manifest may name, by Swift's default."""

_MEDIA_TYPE = "application/octet-stream"
_ID_BYTES = 1 + len("swiftfs-") + 32 + 1 + 8


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a file's segments begin and end; it depends on nothing but the first segment's size in bytes."""

    segment_size: int

    def bounds(self, index: int) -> tuple[int, int]:
        """Return the first byte of a segment, and one past its last."""
        start = 0
        for count, size in self._tiers():
            if index < count:
                return start + index * size, start + (index + 1) * size
            start, index = start + count * size, index - count
        raise os_error(errno.EFBIG)

    def index(self, offset: int) -> int:
        """Return the segment that holds the byte at `offset`."""
        before = start = 0
        for count, size in self._tiers():
            if offset < start + count * size:
                return before + (offset - start) // size
            start, before = start + count * size, before + count
        raise os_error(errno.EFBIG)

    @property
    def largest_file(self) -> int:
        """The most bytes that the segments hold."""
        return sum(count * size for count, size in self._tiers())

    def _tiers(self) -> Iterator[tuple[int, int]]:
        most = max(MAX_SEGMENT, self.segment_size)
        for count, times in GROWTH:
            yield count, min(self.segment_size * times, most)
        yield SEGMENTS - sum(count for count, _ in GROWTH), most


def map_bytes(descriptor: int, start: int, end: int) -> Body:
    """Return the file's bytes from `start` to `end` without reading them into the heap."""
    if start == end:
        return b""
    before = start % mmap.ALLOCATIONGRANULARITY
    length = end - start + before
    return memoryview(mmap.mmap(descriptor, length, prot=mmap.PROT_READ, offset=start - before))[before:]


def segments_container(container: str) -> str:
    """Return the container that holds the segments of `container`."""
    return container + SEGMENTS_SUFFIX


def segment_prefix(name: ObjectName) -> str:
    """Return a prefix for segment keys that no other upload has, of any client or mount."""
    key = name.key.encode()[: 1024 - _ID_BYTES].decode(errors="ignore")
    return f"{key}/swiftfs-{uuid.uuid4().hex}/"


@dataclass(slots=True)
class _Upload:
    """A segment's last upload. `stale` says that the bytes changed after it was begun."""

    end: int
    stored: Future[Segment]
    stale: bool = False

    def is_in(self, names: set[ObjectName]) -> bool:
        """Say whether the segment was stored, under one of `names`."""
        return self.stored.done() and not self.stored.exception() and self.stored.result().name in names


class SegmentContainers:
    """The containers that segments go to, each made once; a bodiless PUT is cheaper than a refused segment.

    The lock is held across that request: whoever needs the container must wait for it.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._made: set[str] = set()

    def ensure(self, container: str) -> None:
        """Make the container unless it is known; who may not make any may still use one that is there."""
        with self._lock:
            if container in self._made:
                return
            with suppress(AccessDenied):
                self._store.create_container(container)
            self._made.add(container)

    def note(self, container: str) -> None:
        """Take note that the container is there."""
        with self._lock:
            self._made.add(container)

    def forget(self, container: str) -> None:
        """Take note that the container is not there any more."""
        with self._lock:
            self._made.discard(container)


class SegmentUpload:
    """The segments of one file version, uploaded in parallel and in any order.

    A segment that is written to after its upload began is uploaded again: no manifest names a torn one.
    `_garbage` are replaced uploads; `_named` are the segments of the manifest that stands. The lock guards
    every field.
    """

    def __init__(
        self,
        store: ObjectStore,
        containers: SegmentContainers,
        pool: Executor,
        descriptor: int,
        name: ObjectName,
        layout: Layout,
    ) -> None:
        self._store = store
        self._containers = containers
        self._pool = pool
        self._descriptor = descriptor
        self._container = segments_container(name.container)
        self._prefix = segment_prefix(name)
        self._layout = layout
        self._lock = threading.Lock()
        self._uploads: dict[int, _Upload] = {}
        self._garbage: list[_Upload] = []
        self._named: set[ObjectName] = set()
        self._serial = itertools.count()
        self._contiguous = 0
        self._next = 0

    def changed(self, offset: int, length: int) -> None:
        """Take note that bytes are not what they were."""
        with self._lock:
            for index, upload in self._uploads.items():
                start, stop = self._layout.bounds(index)
                if start < offset + length and offset < stop:
                    upload.stale = True

    def written(self, offset: int, length: int) -> None:
        """Take note of written bytes; begin to upload the segments a sequential writer has left behind."""
        self.changed(offset, length)
        with self._lock:
            if offset <= self._contiguous < offset + length:
                self._contiguous = offset + length
            while (bounds := self._layout.bounds(self._next))[1] < self._contiguous:
                self._begin(self._next, bounds[1])
                self._next += 1

    def finish(self, size: int) -> Manifest:
        """Upload what is missing of the file's first `size` bytes and return its manifest.

        No one may write meanwhile. Raise what the first failed upload raised; the good ones are kept, so that
        another attempt sends only the rest.
        """
        count = self._layout.index(size - 1) + 1
        with self._lock:
            for index in [index for index in self._uploads if index >= count]:
                self._garbage.append(self._uploads.pop(index))
            for index in range(count):
                end = min(self._layout.bounds(index)[1], size)
                if not self._is_good(index, end):
                    self._begin(index, end)
            uploads = [self._uploads[index] for index in range(count)]
        return Manifest(tuple([upload.stored.result() for upload in uploads]))

    def upload(self, start: int, end: int) -> Future[Segment]:
        """Begin to upload the bytes from `start` to `end` as a segment of their own."""
        name = ObjectName(self._container, f"{self._prefix}{start:016d}-{next(self._serial)}")
        return self._pool.submit(self._put, name, start, end)

    def found_beside(self, known: Iterable[Segment]) -> None:
        """Take note of segments that are stored already: where they are is room for others."""
        if any(segment.name.container == self._container for segment in known):
            self._containers.note(self._container)

    def own_name(self) -> ObjectName:
        """Return a new name for a segment of this file, in a container that is there."""
        self._containers.ensure(self._container)
        return ObjectName(self._container, f"{self._prefix}whole-{next(self._serial)}")

    def settle(self, manifest: Manifest | None) -> list[ObjectName]:
        """Take note that `manifest` stands, None for a file stored whole; return segments to delete.

        Those are the uploads of this file that neither it nor an earlier manifest names.
        """
        with self._lock:
            named = {segment.name for segment in manifest.segments} if manifest else set()
            gone = [index for index, upload in self._uploads.items() if not upload.is_in(named)]
            self._garbage.extend(self._uploads.pop(index) for index in gone)
            garbage = [name for name in _stored_names(self._garbage) if name not in self._named]
            self._garbage = []
            self._named = named
        return garbage

    def abandon(self) -> list[ObjectName]:
        """Return the uploads that no standing manifest names, to be deleted: nothing more will be stored."""
        with self._lock:
            uploads = [*self._garbage, *self._uploads.values()]
            self._garbage, self._uploads = [], {}
            return [name for name in _stored_names(uploads) if name not in self._named]

    def _is_good(self, index: int, end: int) -> bool:
        upload = self._uploads.get(index)
        if upload is None or upload.stale or upload.end != end:
            return False
        return not upload.stored.done() or upload.stored.exception() is None

    def _begin(self, index: int, end: int) -> None:
        if (before := self._uploads.get(index)) is not None:
            self._garbage.append(before)
        name = ObjectName(self._container, f"{self._prefix}{index:08d}-{next(self._serial)}")
        start = self._layout.bounds(index)[0]
        self._uploads[index] = _Upload(end, self._pool.submit(self._put, name, start, end))

    def _put(self, name: ObjectName, start: int, end: int) -> Segment:
        body = map_bytes(self._descriptor, start, end)
        self._containers.ensure(name.container)
        try:
            info = self._store.put(name, body, Headers(_MEDIA_TYPE))
        except NotFound:  # somebody deleted the container
            self._containers.forget(name.container)
            self._containers.ensure(name.container)
            info = self._store.put(name, body, Headers(_MEDIA_TYPE))
        return Segment(name, info.version.etag, end - start)


def _stored_names(uploads: Iterable[_Upload]) -> list[ObjectName]:
    stored = [upload.stored for upload in uploads if not upload.stored.cancel()]
    return [future.result().name for future in stored if future.exception() is None]
