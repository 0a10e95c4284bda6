"""Large files on their way to Swift: segments that go up while the file is still being written."""

import hashlib
import mmap
import re
import uuid
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from swiftfs.concurrency import Executor, Future, Rank, monotonic, new_future, new_lock, unix_time
from swiftfs.errors import ChangedDuringUpload, NotFound, StoreError, drop_tracebacks
from swiftfs.filecache.block_map import Blocks, StoredSegment, block_range
from swiftfs.filecache.frozen_copy import FrozenCopy
from swiftfs.filecache.segment_container import LONGEST_KEY, SegmentContainerChooser
from swiftfs.filecache.segment_layout import SegmentLayout
from swiftfs.filecache.segment_put import SegmentPut, is_all_named, place_of, stored_names
from swiftfs.filecache.spans import Spans
from swiftfs.filecache.sparse_file import is_hole, map_zeros
from swiftfs.objects import Manifest, ObjectInfo, ObjectName, ObjectVersion, Row, Segment
from swiftfs.store.protocol import Body, Headers, ObjectStore

_MEDIA_TYPE = "application/octet-stream"
_OFFSET_DIGITS = 13
"""Digits of a byte's place in the largest file."""

_UNIQUE = 12

_PREFIX = re.compile(r".+/swiftfs-[0-9a-f]{20}([0-9a-f]{12})/?", re.DOTALL)


def map_bytes(descriptor: int, start: int, end: int) -> Body:
    """Return the file's bytes from `start` to `end` without reading them into the heap."""
    if start == end:
        return b""
    before = start % mmap.ALLOCATIONGRANULARITY
    length = end - start + before
    return memoryview(mmap.mmap(descriptor, length, prot=mmap.PROT_READ, offset=start - before))[before:]


def segment_prefix(name: ObjectName, journal: str = "") -> str:
    """Return a prefix for segment keys that no other upload has, of any client or mount.

    It ends in the id of the `journal` that knows whether the upload goes on, 12 hexadecimal digits.
    """
    key = name.key.encode()[:LONGEST_KEY].decode(errors="ignore")
    return f"{key}/swiftfs-{uuid.uuid4().hex[: 32 - len(journal)]}{journal}/"


def journal_of(prefix: str) -> str | None:
    """Return the id of the journal that made a prefix of ours, None for one of another client.

    An upload of release 0.1 has random digits there, which are no journal's.
    """
    match = _PREFIX.fullmatch(prefix)
    return match[1] if match else None


@dataclass(frozen=True, slots=True)
class UnreferencedPrefix:
    """A prefix below which segments lie that no manifest names, and the keys of those that one does name.

    With None there is nothing but what is named. `file` is the local file whose segments they are. A manifest
    of one of `objects` may name them; `asked` are the ETags of those manifests whose PUT has not been
    answered, the last of which was sent at `since` (Unix seconds). Those that `landed` were seen to stand.
    """

    prefix: ObjectName
    named: frozenset[str] | None
    file: str = ""
    objects: frozenset[ObjectName] = frozenset()
    asked: frozenset[str] = frozenset()
    since: float = 0.0
    landed: frozenset[str] = frozenset()

    @property
    def is_in_doubt(self) -> bool:
        """True when a manifest may still come to stand."""
        return bool(self.asked - self.landed)


def _tell_nobody() -> None:
    """Nobody waits for room."""


class SegmentUploader:
    """The segments of one file, uploaded in parallel and in any order, all below `prefix`.

    A segment that is written to after its upload began is uploaded again: no manifest names a torn one. All
    that a manifest names is of one moment: `began` says when an upload of the content begins, and a segment
    that is uploaded after that counts only if its bytes stay until its end.

    `_uploads` is by each one's first byte, `_under_way` all that may not have ended: they read the local file
    by the number of its descriptor. `_superseded` are replaced uploads, `_copies` segments the server made or
    may have made, `_found` those that an earlier process left; `_named` are the segments of the manifest that
    stands. `_protected` are those that the content's last `save` names, `_kept` those that any
    did: they are not deleted, for what was saved may be needed once more. `stored_one` is called when a
    segment is stored. `_asked` are the ETags of manifests that may stand or come to stand: their PUT was not
    answered; `_landed` are those of them that have been seen to stand. `_changes` are the blocks of the
    content's upload, `_size` bytes long, that changed since it began. The lock guards every field; no upload
    is waited for with it. `_on_first_put` is called before a request stores the first segment that no
    manifest names, which waits for it. One `is_inherited` while nobody has looked for what an earlier process
    left.

    A segment that a sequential writer has left `rests` for so many seconds before it goes up: `_resting` are
    those, with the time when they were left. Holes of one length are one object, which a manifest names as
    often as it is needed: `_zeros`.
    """

    def __init__(
        self,
        store: ObjectStore,
        places: SegmentContainerChooser,
        pool: Executor,
        descriptor: int,
        name: ObjectName,
        layout: SegmentLayout,
        prefix: ObjectName | None = None,
        begun: Callable[[UnreferencedPrefix], None] | None = None,
        rests: float = 0.0,
        file: str = "",
        journal: str = "",
    ) -> None:
        self._store = store
        self._places = places
        self._container = name.container
        self._pool = pool
        self._descriptor = descriptor
        self._layout = layout
        self._file = file
        self._objects = {name}
        self._asked: set[str] = set()
        self._landed: set[str] = set()
        self._since = 0.0
        self.prefix = prefix or places.likely(name.container).name(segment_prefix(name, journal))
        self._is_placed = prefix is not None
        self._on_first_put = begun
        self._has_begun = self.is_inherited = prefix is not None
        self._begin_lock = new_lock(Rank.SEGMENTS_BEGIN)
        self._lock = new_lock(Rank.SEGMENTS)
        self._uploads: Spans[SegmentPut] = Spans()
        self._under_way: list[SegmentPut] = []
        self._superseded: list[SegmentPut] = []
        self._copies: list[ObjectName] = []
        self._found: dict[tuple[int, int], list[Segment]] = {}
        self._named: set[ObjectName] = set()
        self._protected: frozenset[ObjectName] = frozenset()
        self._kept: set[ObjectName] = set()
        self.stored_one: Callable[[], None] = _tell_nobody
        self._changes = Blocks()
        self._size = 0
        self._still: FrozenCopy | None = None
        self._contiguous = 0
        self._next = 0
        self._rests = rests
        self._resting: deque[tuple[float, int, int]] = deque()
        self._zeros: dict[int, Future[Segment]] = {}

    @property
    def has_begun(self) -> bool:
        """Say whether there may be objects below the prefix that no manifest names."""
        return self._has_begun

    @contextmanager
    def unreferenced(self) -> Iterator[UnreferencedPrefix | None]:
        """Yield what lies below the prefix now, None if nothing was told since the last time.

        No upload begins while the context lasts.
        """
        with self._begin_lock, self._lock:
            if not self._has_begun:
                yield None
                return
            left = self._superseded or self._copies or self._asked
            stored = is_all_named(self._uploads.values(), self._named) and not left
            self._has_begun = not stored
            yield UnreferencedPrefix(self.prefix, None) if stored else self._state()

    def _state(self) -> UnreferencedPrefix:
        return UnreferencedPrefix(
            self.prefix,
            frozenset(name.key for name in self._named),
            self._file,
            frozenset(self._objects),
            frozenset(self._asked),
            self._since,
            frozenset(self._landed),
        )

    def state(self) -> UnreferencedPrefix:
        """Return what may lie below the prefix, and which manifests may name it."""
        with self._lock:
            return self._state()

    def asks(self, name: ObjectName, manifest: Manifest) -> bool:
        """Record that the manifest is about to be stored as `name`; its answer may be lost.

        Return False when it was asked for before and that was not answered.
        """
        self._begin_storing()
        with self._begin_lock:
            with self._lock:
                is_new = manifest.etag not in self._asked
                self._objects.add(name)
                self._asked.add(manifest.etag)
                self._since = unix_time()
                state = self._state()
            if self._on_first_put is not None:
                self._on_first_put(state)
        return is_new

    def refused(self, manifest: Manifest) -> None:
        """Record that the server refused the manifest: it will not stand."""
        with self._lock:
            self._asked.discard(manifest.etag)

    def answered(self, manifest: Manifest | None) -> bool:
        """Record that `manifest` stands, None for a file stored whole; return whether another one may yet.

        Its PUT may be carried out late: then it names segments that this one does not.
        """
        with self._lock:
            in_doubt = bool(self._asked - self._landed - ({manifest.etag} if manifest else set()))
            self._asked.clear()
            self._landed.clear()
            return in_doubt

    def landed(self, etag: str) -> bool:
        """Return whether the version that stands is a manifest of ours whose PUT was not answered.

        That PUT is not late any more, which is recorded.
        """
        with self._begin_lock:
            with self._lock:
                is_new = etag in self._asked - self._landed
                if is_new:
                    self._landed.add(etag)
                state, is_ours = self._state(), etag in self._landed
            if is_new and self._on_first_put is not None:
                with suppress(OSError):  # else what only it names goes some minutes later
                    self._on_first_put(state)
        return is_ours

    @property
    def is_in_doubt(self) -> bool:
        """Return whether a manifest was sent and not answered."""
        with self._lock:
            return bool(self._asked)

    def began(self, size: int, still: FrozenCopy | None = None) -> None:
        """Take note that an upload of the content's first `size` bytes begins: of their state now.

        `still` has those of them that are about to change.
        """
        with self._lock:
            self._still = still
            self._changes = Blocks()
            self._size = size
            for upload in self._uploads.values():
                upload.later = False

    def ended(self) -> None:
        """Take note that the upload of the content has ended."""
        with self._lock:
            self._still = None

    def changed(self, offset: int, length: int) -> None:
        """Take note that bytes are not what they were."""
        end = offset + length
        with self._lock:
            for upload in self._uploads.touching(offset, end):
                upload.superseded = True
            if offset < self._size:
                self._changes.add(*block_range(offset, min(end, self._size)))

    def written(self, offset: int, length: int) -> None:
        """Take note of written bytes; begin to upload the segments a sequential writer has left behind."""
        self.changed(offset, length)
        with self._lock:
            if offset <= self._contiguous < offset + length:
                self._contiguous = offset + length
            now = monotonic()
            while (bounds := self._layout.bounds(self._next))[1] < self._contiguous:
                self._resting.append((now, *bounds))
                self._next += 1
            while self._resting and self._resting[0][0] + self._rests <= now:
                _, start, end = self._resting.popleft()
                self._get(start, end, later=True)

    def truncated(self, before: int, size: int) -> None:
        """Take note that the file had `before` bytes and has `size`."""
        self.changed(min(size, before), abs(before - size))
        with self._lock:
            if size < self._contiguous:
                self._contiguous = size
                self._next = min(self._next, self._layout.index(size))
                self._resting = deque(one for one in self._resting if one[2] <= size)

    def begin_full(self, size: int, is_full: Callable[[int, int], bool]) -> None:
        """Begin to upload the segments in the first `size` bytes that `is_full` says so of."""
        with self._lock:
            for start, end in self._layout.segments(size):
                known = self._uploads.get(start)
                if (known is None or not known.is_good(end)) and is_full(start, end):
                    self._get(start, end, later=True)

    @property
    def is_busy(self) -> bool:
        """Return whether any upload has not ended, replaced ones too."""
        with self._lock:
            return any(not upload.stored.done() for upload in self._under_way)

    def under_way(self) -> list[SegmentPut]:
        """Return the uploads that have not ended, replaced ones too."""
        with self._lock:
            return [upload for upload in self._under_way if not upload.stored.done()]

    def cancel_queued(self) -> list[SegmentPut]:
        """Cancel the uploads that have not begun; return those that go on. Nobody may wait for any."""
        return [upload for upload in self.under_way() if not upload.stored.cancel()]

    def stored(
        self, *, promised: bool, within: tuple[int, int] | None = None, beside: Collection[int] = ()
    ) -> list[StoredSegment]:
        """Return the stored segments that hold what the file has there now, or only the `promised` of them.

        `finish` will take them as they are. With bytes to look `within` only those that hold any of them, and
        none that begins at one of `beside`.
        """
        with self._lock:
            uploads = self._uploads.touching(*within) if within else self._uploads.values()
            found = [
                StoredSegment(one.start, one.stored.result())
                for one in uploads
                if one.start not in beside
                and one.stored.done()
                and one.is_good(one.end)
                and self._layout.is_segment(one.start, one.end)
            ]
            return [one for one in found if not promised or one.segment.name in self._protected]

    def protect(self, evicted: Iterable[StoredSegment]) -> None:
        """Take note that the content was saved, and needs these segments."""
        with self._lock:
            self._protected = frozenset(one.segment.name for one in evicted)
            self._kept |= self._protected

    def restore(self, evicted: Iterable[StoredSegment]) -> None:
        """Take over the stored segments of a content that another process saved."""
        with self._lock:
            for one in evicted:
                self._uploads.put(SegmentPut.of(one))
        self.protect(evicted)

    def finish(self, size: int) -> Manifest:
        """Upload what is missing of the file's first `size` bytes and return its manifest.

        Raise `ChangedDuringUpload` when they change meanwhile, or what the first failed upload raised; the
        good ones are kept, so that another attempt sends only the rest.
        """
        uploads = []
        with self._lock:
            for index in range(self._layout.index(size - 1) + 1):
                start, end = self._layout.bounds(index)
                uploads.append(upload := self._get(start, min(end, size)))
                if upload.stored.done():
                    upload.inconsistent = (
                        False  # its bytes are those of this moment, as all the others' will be
                    )
        return Manifest(tuple([upload.result() for upload in uploads]))

    def upload(self, start: int, end: int) -> SegmentPut:
        """Begin to upload the bytes from `start` to `end` as a segment of their own, unless that was done."""
        with self._lock:
            return self._get(start, end)

    def recall(self, state: UnreferencedPrefix) -> None:
        """Take over what an earlier process recorded of its upload."""
        with self._lock:
            self._objects |= state.objects
            self._asked |= state.asked
            self._landed |= state.landed
            self._since = max(self._since, state.since)

    def adopt_leftovers(self, rows: Iterable[Row], named: Iterable[ObjectName] = ()) -> None:
        """Take over what an earlier process left: the objects that Swift lists below the prefix.

        One serves in place of an upload of its bytes while its MD5 is that of the local ones. `named` are the
        segments of the manifest that stands.
        """
        container = self.prefix.container
        # Before the lock is taken: the rows may come from a listing that is still being asked for.
        left = [Segment(ObjectName(container, row.key), row.hash, row.size) for row in rows]
        named = set(named)
        with self._lock:
            self.is_inherited = False
            self._named |= named
            for segment in left:
                place = place_of(segment.name.key, segment.size)
                self._found.setdefault(place, []).append(segment)

    def found_beside(self, known: Iterable[Segment]) -> None:
        """Take note of segments that are stored already: where they are is room for others."""
        self._places.found(self._container, known)

    def copy(self, source: ObjectName) -> ObjectVersion:
        """Copy an object, whole, to a segment; raise what the store raises."""
        self._begin_storing()
        target = self._new_name("whole")
        copied = self._store.copy(source, target)
        with self._lock:
            self._copies.append(target)
        return copied

    def commit_manifest(self, manifest: Manifest | None) -> list[ObjectName]:
        """Take note that `manifest` stands, None for a file stored whole; return segments to delete.

        Those are the uploads of this file that neither it nor an earlier manifest names.
        """
        named = {segment.name for segment in manifest.segments} if manifest else set()
        with self._lock:
            uploads = [upload for upload in self._uploads.values() if not upload.later]
        unnamed = {id(upload) for upload in uploads if not named.intersection(stored_names([upload]))}
        with self._lock:
            self._zeros = {
                size: one for size, one in self._zeros.items() if one.done() and one.result().name in named
            }
            gone = [upload for upload in self._uploads.values() if id(upload) in unnamed]
            for upload in gone:
                self._uploads.pop(upload.start)
            self._superseded.extend(gone)
            garbage, before = self._take_superseded(), self._named
            before |= {upload.zero_segment for upload in self._uploads.values() if upload.zero_segment}
            self._named = named
        unused = [name for name in garbage() if name not in before and name not in named]
        with self._lock:
            self._copies.extend(name for name in unused if name in self._kept)
            return [name for name in unused if name not in self._kept]

    def abandon(self) -> list[ObjectName]:
        """Return the uploads that no standing manifest names, to be deleted: nothing more will be stored."""
        with self._lock:
            self._superseded.extend(self._uploads.values())
            self._uploads.clear()
            self._zeros = {}
            garbage, named = self._take_superseded(), self._named
        return [name for name in garbage() if name not in named]

    def _take_superseded(self) -> Callable[[], list[ObjectName]]:
        """Empty what is not needed any more; return what tells the names, once uploads have ended."""
        uploads, others = self._superseded, self._copies
        others.extend(segment.name for segments in self._found.values() for segment in segments)
        self._superseded, self._copies, self._found = [], [], {}
        return lambda: [*stored_names(uploads), *others]

    def _get(self, start: int, end: int, *, later: bool = False) -> SegmentPut:
        still = self._still
        if later or (still is not None and not still.covers(start, end)):
            still = None
        before = self._uploads.get(start)
        # Of what is about to change only a segment that is stored is known to be of the upload's moment.
        usable = still is None or (before is not None and before.stored.done() and not before.later)
        if before is not None and before.is_good(end) and usable:
            before.later = before.later and later
            return before
        if before is not None:
            self._superseded.append(before)
        upload = SegmentPut(start, end, later, frozen=still)
        self._uploads.put(upload)
        upload.superseded = still is not None and self._changes.touches(*block_range(start, end))
        upload.stored = self._pool.submit(self._run, upload)
        self._under_way = [one for one in self._under_way if not one.stored.done()]
        self._under_way.append(upload)
        upload.stored.add_done_callback(self._tell)
        return upload

    def _tell(self, stored: Future[Segment]) -> None:
        if not stored.cancelled() and stored.exception() is None:
            self.stored_one()

    def _run(self, upload: SegmentPut) -> Segment:
        if self._is_inconsistent(upload):  # it could not be used
            raise ChangedDuringUpload(f"{self.prefix}: bytes changed before they were uploaded")
        source = upload.frozen.descriptor if upload.frozen is not None else self._descriptor
        try:
            segment = self._find(upload, source) or self._put_zeros(upload, source)
            segment = segment or self._put(map_bytes(source, upload.start, upload.end), upload.start)
            upload.inconsistent = self._is_inconsistent(upload)
        except Exception as error:
            drop_tracebacks(error)  # the future keeps it
            raise
        finally:
            upload.frozen = None  # its disk is given back when all have ended
        return segment

    def _is_inconsistent(self, upload: SegmentPut) -> bool:
        with self._lock:
            moves = not upload.later and upload.frozen is None
            return moves and self._changes.touches(*block_range(upload.start, upload.end))

    def _find(self, upload: SegmentPut, source: int) -> Segment | None:
        """Return what was found of the same bytes."""
        place = (upload.start, upload.end)
        with self._lock:
            candidates = list(self._found.get(place, ()))
        if not candidates:
            return None
        digest = hashlib.md5(map_bytes(source, *place), usedforsecurity=False).hexdigest()
        with self._lock:
            for segment in self._found.get(place, ()):
                if segment.etag == digest:
                    self._found[place].remove(segment)
                    return segment
        return None

    def _put_zeros(self, upload: SegmentPut, source: int) -> Segment | None:
        """Return the segment for a hole, None where there is none."""
        if not is_hole(source, upload.start, upload.end):
            return None
        length = upload.end - upload.start
        while True:
            with self._lock:
                shared = self._zeros.get(length)
                if shared is None:
                    mine = self._zeros[length] = new_future()
            if shared is None:
                return self._put_first_zeros(upload, mine)
            segment = shared.result()
            with self._lock:
                # One that was dropped meanwhile may be deleted with the upload that made it.
                if self._zeros.get(length) is shared:
                    upload.zero_segment = segment.name
                    return segment

    def _put_first_zeros(self, upload: SegmentPut, zeros: Future[Segment]) -> Segment:
        """Store the segment for a hole, for all who wait for `zeros`.

        It is not read from the local file: a writer may have filled this hole by now, but not the others.
        """
        length = upload.end - upload.start
        try:
            segment = self._put(map_zeros(length), upload.start)
        except BaseException as error:
            with self._lock:
                if self._zeros.get(length) is zeros:
                    del self._zeros[length]
            zeros.set_exception(error)
            raise
        with self._lock:
            upload.zero_segment = segment.name  # before anybody else has it, lest it be deleted as theirs
        zeros.set_result(segment)
        return segment

    def _put(self, body: Body, start: int) -> Segment:
        self._begin_storing()
        name = self._new_name(f"{start:0{_OFFSET_DIGITS}d}")
        try:
            info = self._put_object(name, body)
        except StoreError as error:
            if error.retryable:  # it may be there, although the answer was lost
                with self._lock:
                    self._copies.append(name)
            raise
        return Segment(name, info.version.etag, len(body))

    def _put_object(self, name: ObjectName, body: Body) -> ObjectInfo:
        try:
            return self._store.put(name, body, Headers(_MEDIA_TYPE))
        except NotFound:  # somebody deleted the container
            self._places.gone(self._container)
            self._places.of(self._container)
            return self._store.put(name, body, Headers(_MEDIA_TYPE))

    def _new_name(self, what: str) -> ObjectName:
        """Return a name that no process gives twice: an old one may stand in a manifest."""
        return ObjectName(self.prefix.container, f"{self.prefix.key}{what}-{uuid.uuid4().hex[:_UNIQUE]}")

    def _begin_storing(self) -> None:
        place = self._places.of(self._container)
        with self._begin_lock:
            if not self._is_placed:
                self.prefix = place.instead(self._places.likely(self._container), self.prefix)
                self._is_placed = True
            if not self._has_begun and self._on_first_put is not None:
                self._on_first_put(self.state())
            self._has_begun = True
