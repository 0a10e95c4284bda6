"""Large files on their way to Swift: segments that go up while the file is still being written."""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager

from swiftfs.concurrency import Executor, Future, monotonic
from swiftfs.errors import ChangedDuringUpload
from swiftfs.filecache.block_map import Blocks, StoredSegment, block_range
from swiftfs.filecache.frozen_copy import FrozenCopy
from swiftfs.filecache.segment_container import SegmentContainerChooser
from swiftfs.filecache.segment_layout import SegmentLayout
from swiftfs.filecache.segment_put import SegmentPut, is_all_named, stored_names
from swiftfs.filecache.segment_storer import SegmentStorer
from swiftfs.filecache.space import UNLIMITED
from swiftfs.filecache.spans import Spans
from swiftfs.filecache.upload_record import UnreferencedPrefix, UploadRecord
from swiftfs.objects import Manifest, ObjectName, ObjectVersion, Row, Segment
from swiftfs.store.protocol import ObjectStore


class SegmentUploader:
    """The segments of one file, uploaded in parallel and in any order, all below `prefix`.

    A segment that is written to after its upload began is uploaded again: no manifest names a torn one. All
    that a manifest names is of one moment: `began` says when an upload of the content begins, and a segment
    that is uploaded after that counts only if its bytes stay until its end.

    `_uploads` is by each one's first byte, `_under_way` all that may not have ended: they read the local file
    by the number of its descriptor. `_superseded` are replaced uploads. `_protected` are the segments that
    the file's last record names, `_kept` those that any did: they are not deleted, for what was recorded may
    be needed once more. `on_stored` is called when a segment is stored. `_changes` are the blocks of the
    file's upload, `_size` bytes long, that changed since it began. The lock, which is that of the record,
    guards every field; no upload is waited for with it.

    A segment that a sequential writer has left `rests` for so many seconds before it goes up: `_resting` are
    those, with the time when they were left.
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
        on_first_put: Callable[[UnreferencedPrefix], None] | None = None,
        rests: float = 0.0,
        file: str = "",
        journal: str = "",
        on_stored: Callable[[], None] = UNLIMITED.on_stored,
    ) -> None:
        self._places = places
        self._container = name.container
        self._pool = pool
        self._descriptor = descriptor
        self._layout = layout
        self._on_stored = on_stored
        self.record = UploadRecord(places, name, prefix, on_first_put, file, journal)
        self._storer = SegmentStorer(store, places, name.container, self.record)
        self._lock = self.record.lock
        self._uploads: Spans[SegmentPut] = Spans()
        self._under_way: list[SegmentPut] = []
        self._superseded: list[SegmentPut] = []
        self._protected: frozenset[ObjectName] = frozenset()
        self._kept: set[ObjectName] = set()
        self._changes = Blocks()
        self._size = 0
        self._still: FrozenCopy | None = None
        self._contiguous = 0
        self._next = 0
        self._rests = rests
        self._resting: deque[tuple[float, int, int]] = deque()

    @contextmanager
    def unreferenced(self) -> Iterator[UnreferencedPrefix | None]:
        """Yield what lies below the prefix now, None if nothing was told since the last time.

        No upload begins while the context lasts.
        """
        with self.record.begin_lock, self._lock:
            left = self._superseded or self._storer.copies
            all_named = is_all_named(self._uploads.values(), self.record.named) and not left
            yield self.record.update(all_named=all_named)

    def began(self, size: int, still: FrozenCopy | None = None) -> None:
        """Record that an upload of the content's first `size` bytes begins: of their state now.

        `still` has those of them that are about to change.
        """
        with self._lock:
            self._still = still
            self._changes = Blocks()
            self._size = size
            for upload in self._uploads.values():
                upload.later = False

    def ended(self) -> None:
        """Record that the upload of the content has ended."""
        with self._lock:
            self._still = None

    def changed(self, offset: int, length: int) -> None:
        """Record that bytes are not what they were."""
        end = offset + length
        with self._lock:
            for upload in self._uploads.touching(offset, end):
                upload.superseded = True
            if offset < self._size:
                self._changes.add(*block_range(offset, min(end, self._size)))

    def written(self, offset: int, length: int) -> None:
        """Record written bytes; begin to upload the segments a sequential writer has left behind."""
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
        """Record that the file had `before` bytes and has `size`."""
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
        """Record that the content was saved, and needs these segments."""
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

    def adopt_leftovers(self, rows: Iterable[Row], named: Iterable[ObjectName] = ()) -> None:
        """Take over what an earlier process left: the objects that Swift lists below the prefix.

        One serves in place of an upload of its bytes while its MD5 is that of the local ones. `named` are the
        segments of the manifest that stands.
        """
        container = self.record.prefix.container
        # Before the lock is taken: the rows may come from a listing that is still being asked for.
        left = [Segment(ObjectName(container, row.key), row.hash, row.size) for row in rows]
        named = set(named)
        with self._lock:
            self.record.is_inherited = False
            self.record.named |= named
            self._storer.add_found(left)

    def found_beside(self, known: Iterable[Segment]) -> None:
        """Record segments that are stored already: where they are is room for others."""
        self._places.found(self._container, known)

    def copy(self, source: ObjectName) -> ObjectVersion:
        """Copy an object, whole, to a segment; raise what the store raises."""
        return self._storer.copy(source)

    def commit_manifest(self, manifest: Manifest | None) -> list[ObjectName]:
        """Record that `manifest` stands, None for a file stored whole; return segments to delete.

        Those are the uploads of this file that neither it nor an earlier manifest names.
        """
        named = {segment.name for segment in manifest.segments} if manifest else set()
        with self._lock:
            uploads = [upload for upload in self._uploads.values() if not upload.later]
        unnamed = {id(upload) for upload in uploads if not named.intersection(stored_names([upload]))}
        with self._lock:
            self._storer.keep_zeros(named)
            gone = [upload for upload in self._uploads.values() if id(upload) in unnamed]
            for upload in gone:
                self._uploads.pop(upload.start)
            self._superseded.extend(gone)
            garbage, before = self._take_superseded(), self.record.named
            before |= {upload.zero_segment for upload in self._uploads.values() if upload.zero_segment}
            self.record.named = named
        unused = [name for name in garbage() if name not in before and name not in named]
        with self._lock:
            self._storer.copies.extend(name for name in unused if name in self._kept)
            return [name for name in unused if name not in self._kept]

    def abandon(self) -> list[ObjectName]:
        """Return the uploads that no standing manifest names, to be deleted: nothing more will be stored."""
        with self._lock:
            self._superseded.extend(self._uploads.values())
            self._uploads.clear()
            self._storer.keep_zeros(())
            garbage, named = self._take_superseded(), self.record.named
        return [name for name in garbage() if name not in named]

    def _take_superseded(self) -> Callable[[], list[ObjectName]]:
        """Empty what is not needed any more; return what tells the names, once uploads have ended."""
        uploads, others = self._superseded, self._storer.take_others()
        self._superseded = []
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
            self._on_stored()

    def _run(self, upload: SegmentPut) -> Segment:
        if self._is_inconsistent(upload):  # it could not be used
            raise ChangedDuringUpload(f"{self.record.prefix}: bytes changed before they were uploaded")
        source = upload.frozen.descriptor if upload.frozen is not None else self._descriptor
        try:
            segment = self._storer.store(upload, source)
            upload.inconsistent = self._is_inconsistent(upload)
        finally:
            upload.frozen = None  # its disk is given back when all have ended
        return segment

    def _is_inconsistent(self, upload: SegmentPut) -> bool:
        with self._lock:
            moves = not upload.later and upload.frozen is None
            return moves and self._changes.touches(*block_range(upload.start, upload.end))
