"""Uploads of large files: segments are uploaded while the file is still being written."""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import takewhile

from msgspec import Struct, field

from swiftfs.concurrency import Executor, Future, monotonic
from swiftfs.errors import ChangedDuringUpload, drop_tracebacks
from swiftfs.filecache.block_map import Spans, StoredSegment, block_range
from swiftfs.filecache.block_set import Blocks
from swiftfs.filecache.file_state import FileState
from swiftfs.filecache.segment_storer import (
    CopyPart,
    Moment,
    SegmentPut,
    SegmentStorer,
    is_all_named,
    results,
    stored_names,
)
from swiftfs.filecache.sparse_file import FrozenCopy
from swiftfs.filecache.upload_record import RecordedSegments, SharedUploads, UnreferencedPrefix, UploadRecord
from swiftfs.objects import Manifest, ObjectName, Row, Segment

REFUSED_SECONDS = 30.0
"""How long no segment of a file is uploaded for its disk space after Swift has refused one."""


class _Running(Struct):
    """The upload of the file's first `size` bytes; `changes` are the blocks that changed since it began.

    `frozen` is a copy of the bytes that are likely to change.
    """

    size: int
    frozen: FrozenCopy | None
    changes: Blocks = field(default_factory=Blocks)


class SegmentUploader:
    """Uploads the segments of one file, in parallel and in any order, below the prefix of its `record`.

    A segment that is written to after its upload began is uploaded again. All that a manifest names is of one
    moment. `began` says when an upload of the file begins; a segment that is uploaded for it after that
    counts only if its bytes stay the same until the end.

    `_uploads` has the uploads by their first bytes. `_under_way` has all that may not have ended: they read
    the local file by the number of its descriptor. `_superseded` are uploads that others have replaced.
    `_recorded` are the segments that records of the file name. The file's lock guards every field; no thread
    waits for an upload while holding it.

    A segment that a sequential writer has left is uploaded after `settle_seconds`; until then it is in
    `_resting`, with the time when it was left. That writer is at `_contiguous`, in the segment with the
    number `_next`. When the file is closed the rest is uploaded at once, unless the file `_is_rewritten`: a
    segment that was uploaded in advance has changed before it was needed.
    """

    def __init__(
        self,
        shared: SharedUploads,
        state: FileState,
        name: ObjectName,
        prefix: ObjectName | None = None,
        settle_seconds: float = 0.0,
    ) -> None:
        self._state = state
        self._places = shared.places
        self._container = name.container
        self._pool = shared.pool
        self.layout = shared.layout
        self.record = UploadRecord(shared, state.changed, name, prefix, state.file.name)
        self._storer = SegmentStorer(shared, name.container, self.record)
        self.copy = self._storer.copy
        self._lock = state.changed
        self._uploads: Spans[SegmentPut] = Spans()
        self._under_way, self._superseded = list[SegmentPut](), list[SegmentPut]()
        self._recorded = RecordedSegments()
        self._running: _Running | None = None
        self._contiguous = self._next = 0
        self._settle_seconds = settle_seconds
        self._resting: deque[tuple[float, int, int]] = deque()
        self._is_rewritten = False
        self._refused_until = 0.0

    def unreferenced(self) -> UnreferencedPrefix | None:
        """Return the row to write about the prefix now, None if nothing has begun since the last time."""
        if not self.record.has_begun:
            return None
        with self._lock:
            left = self._superseded or self._storer.copies or self._recorded.held
            all_named = is_all_named(self._uploads.values(), self.record.named) and not left
            return self.record.update(all_named=all_named)

    def began(self, size: int, frozen: FrozenCopy | None) -> None:
        """Record that an upload of the file's first `size` bytes, as they are now, begins. Lock held.

        `frozen` is a copy of the bytes that are likely to change.
        """
        self._running = _Running(size, frozen)
        for upload in self._uploads.values():
            upload.become(Moment.SNAPSHOT)  # from now on their bytes must not change

    def ended(self) -> None:
        """Record that the upload of the file has ended. Lock held."""
        self._running = None

    def changed(self, offset: int, length: int) -> None:
        """Record that bytes have changed. Lock held."""
        end = offset + length
        for upload in self._uploads.touching(offset, end):
            if upload.moment is Moment.NEXT and not upload.superseded:
                self._is_rewritten = True
            # Also one that has ended: its segment must not be used for the bytes as they are now.
            upload.superseded = True
        # Bytes behind the end of the running upload belong to the next one.
        if self._running is not None and offset < self._running.size:
            self._running.changes.add(*block_range(offset, min(end, self._running.size)))

    def written(self, offset: int, length: int) -> None:
        """Record that bytes were written; begin to upload the segments that a sequential writer has left.

        Lock held.
        """
        self.changed(offset, length)
        if offset <= self._contiguous < offset + length:
            self._contiguous = offset + length
        now = monotonic()
        while (bounds := self.layout.bounds(self._next))[1] < self._contiguous:
            self._resting.append((now, *bounds))
            self._next += 1
        while self._resting and self._resting[0][0] + self._settle_seconds <= now:
            _, start, end = self._resting.popleft()
            self._get_early(start, end, self._state.blocks.is_new)

    def truncated(self, before: int, size: int) -> None:
        """Record that the file had `before` bytes and has `size`. Lock held."""
        self.changed(min(size, before), abs(before - size))
        if size < self._contiguous:
            self._contiguous = size
            self._next = min(self._next, self.layout.index(size))
            self._resting = deque(one for one in self._resting if one[2] <= size)

    def finished(self) -> None:
        """Begin to upload the rest of a large file that was written from end to end, and closed. Lock held.

        Its write delay puts off only the manifest: few files are rewritten after their close.
        """
        size = self._state.blocks.size
        last = self.layout.index(size - 1) if size else 0
        if not last or self._contiguous < size or self._is_rewritten:
            return
        self._resting.clear()
        for index in range(last + 1):
            start, end = self.layout.bounds(index)
            self._get_early(start, min(end, size), self._state.blocks.is_new)

    def begin_full(self, size: int, is_new: Callable[[int, int], bool]) -> None:
        """Begin to upload the new segments of the first `size` bytes.

        If Swift refuses them, the next time is `REFUSED_SECONDS` later, so that nobody waits for them.
        """
        with self._lock:
            if any(upload.is_refused for upload in self._uploads.values()):
                if monotonic() < self._refused_until:
                    return
                self._refused_until = monotonic() + REFUSED_SECONDS
            for start, end in self.layout.segments(size):
                self._get_early(start, end, is_new)

    @property
    def is_busy(self) -> bool:
        """Whether any upload has not ended, even a superseded one."""
        with self._lock:  # mostly there are none, and each close asks it twice
            return bool(self._under_way) and any(not upload.stored.done() for upload in self._under_way)

    def under_way(self) -> list[SegmentPut]:
        """Return the uploads that have not ended, superseded ones too."""
        with self._lock:
            return [upload for upload in self._under_way if not upload.stored.done()]

    def cancel_queued(self) -> list[SegmentPut]:
        """Cancel the uploads that have not begun; return those that continue. Nobody may wait for any."""
        return [upload for upload in self.under_way() if not upload.stored.cancel()]

    def stored(
        self, *, protected: bool, within: tuple[int, int] | None = None, beside: Collection[int] = ()
    ) -> list[StoredSegment]:
        """Return the stored segments with the file's present bytes, or only the `protected` ones of them.

        `finish` will use them as they are. With `within`, a range of bytes, only segments that have any of
        these. Those that begin at an offset in `beside` are left out.
        """
        with self._lock:
            uploads = self._uploads.touching(*within) if within else self._uploads.values()
            found = [
                StoredSegment(one.start, one.stored.result())
                for one in uploads
                if one.start not in beside
                and one.stored.done()
                and one.is_good(one.end)
                and self.layout.is_segment(one.start, one.end)
            ]
            return [one for one in found if not protected or one.segment.name in self._recorded.protected]

    def protect(self, evicted: Collection[StoredSegment]) -> None:
        """Record that a record of the file names these segments."""
        with self._lock:
            self._recorded.protect([one.segment.name for one in evicted])

    def record_ended(self) -> None:
        """Record that the journal has dropped or replaced the record of a state that is stored."""
        with self._lock:
            self._recorded.end_state()
            self.record.ended()

    def take_released(self) -> list[ObjectName]:
        """Return and forget the segments that neither a manifest nor a record names any more."""
        with self._lock:
            return self._recorded.take_released()

    def restore(self, evicted: Collection[StoredSegment]) -> None:
        """Take over the stored segments of a record of an earlier process."""
        with self._lock:
            for one in evicted:
                self._uploads.put(SegmentPut.of(one))
        self.protect(evicted)

    def finish(self, size: int) -> Manifest:
        """Upload what is missing of the file's first `size` bytes; return the manifest.

        Raise `ChangedDuringUpload` if they change meanwhile, or the error of the first upload that failed.
        The next attempt uses the segments that are good.
        """
        uploads = []
        with self._lock:
            for index in range(self.layout.index(size - 1) + 1):
                start, end = self.layout.bounds(index)
                uploads.append(upload := self._get(start, min(end, size)))
                if upload.stored.done():
                    # Its bytes are those of this moment, and so will be those of all others.
                    upload.become(Moment.SNAPSHOT)
        # Without the lock, and after all have begun: they run in parallel.
        return Manifest(tuple(results(uploads)))

    def upload(self, start: int, end: int) -> SegmentPut:
        """Begin to upload the bytes from `start` to `end` as one segment, unless that was done."""
        with self._lock:
            upload = self._get(start, end)
            if upload.stored.done() and self._is_changed(upload):
                # It was uploaded in advance, after the snapshot of which the other parts may be.
                upload.become(Moment.MIXED)
            return upload

    def take_unlisted(self, listed: Collection[str], named: Collection[ObjectName]) -> set[ObjectName]:
        """Return and forget the segments that an earlier process was sending, and that Swift does not list.

        Swift may still store them. What a manifest has `named`, or a record names, was answered.
        """
        with self._lock:
            return self.record.take_inherited(listed, self._recorded.all().union(named))

    def adopt_leftovers(self, rows: Iterable[Row], named: Iterable[ObjectName] = ()) -> None:
        """Take over the segments of an earlier process, which Swift lists below the prefix.

        A segment is used in place of an upload if it has the MD5 of the local bytes. `named` are the segments
        of the manifest that Swift has.
        """
        container = self.record.prefix.container
        # Without the lock, because reading the rows may send requests for more of the listing.
        left = [Segment(ObjectName(container, row.key), row.hash, row.size) for row in rows]
        named = set(named)
        with self._lock:
            self.record.is_inherited = False
            self.record.named |= named
            self._storer.add_found(left)

    def found_beside(self, known: Iterable[Segment]) -> None:
        """Record segments that Swift has: their place exists, so new ones may go there."""
        self._places.found(self._container, known)

    def begin_copies(self, parts: Iterable[CopyPart], pool: Executor) -> list[SegmentPut]:
        """Begin to copy bytes of objects, which the file does not have yet, to segments of it."""
        with self._lock:
            return [self._begin_copy(part, pool) for part in parts]

    def _begin_copy(self, part: CopyPart, pool: Executor) -> SegmentPut:
        if (before := self._uploads.pop(part.start)) is not None:
            self._superseded.append(before)
        upload = SegmentPut(part.start, part.end, Moment.NEXT, by_server=True)
        upload.stored = pool.submit(self._storer.copy_part, part)
        self._uploads.put(upload)
        self._under_way.append(upload)
        return upload

    def end_copies(self, uploads: Sequence[SegmentPut]) -> list[StoredSegment]:
        """Return what ended copies have stored, up to the first that cannot be used. Lock held.

        The others are deleted when the file is stored, or given up.
        """
        usable = list(takewhile(self._is_usable_copy, uploads))
        for upload in uploads[len(usable) :]:
            if self._uploads.get(upload.start) is upload:
                self._superseded.append(upload)
                self._uploads.pop(upload.start)
        for upload in usable:
            if upload.start <= self._contiguous:
                self._contiguous = max(self._contiguous, upload.end)
        return [
            StoredSegment(one.start, one.stored.result(), tail=not self.layout.is_segment(one.start, one.end))
            for one in usable
        ]

    def whole_copy(self, size: int) -> Segment | None:
        """Return the segment that the server has copied, or only the server has, of a file of `size` bytes.

        None if there is more than one, if the bytes have changed, or if a manifest names it.
        """
        with self._lock:
            upload = self._uploads.get(0)
            if upload is None or not (upload.by_server and upload.stored.done() and upload.is_good(size)):
                return None
            segment = upload.stored.result()
            return None if upload.moment is Moment.MIXED or segment.name in self.record.named else segment

    def supersede(self, start: int) -> None:
        """Do not use the segment that begins at `start` any more."""
        with self._lock:
            if (upload := self._uploads.get(start)) is not None:
                upload.superseded = True

    def correct(self, start: int, etag: str) -> bool:
        """Give the segment at `start`, which only Swift has, another ETag; return False if there is none."""
        with self._lock:
            return (upload := self._uploads.get(start)) is not None and upload.correct(etag)

    def _is_usable_copy(self, upload: SegmentPut) -> bool:
        # An upload of the file that began meanwhile has made the moment another one; when it ends, it deletes
        # what its manifest does not name.
        is_current = self._uploads.get(upload.start) is upload and upload.moment is Moment.NEXT
        return is_current and upload.stored.done() and upload.is_good(upload.end)

    def commit_manifest(self, manifest: Manifest | None) -> list[ObjectName]:
        """Record that Swift has `manifest`, None for a file stored whole; return the segments to delete.

        Those are segments of this file that neither this manifest nor an earlier one names. `take_released`
        returns the ones that a record named.
        """
        named = manifest.names if manifest else set()
        if not named and self._has_none():
            return []
        with self._lock:
            uploads = [upload for upload in self._uploads.values() if upload.moment is not Moment.NEXT]
        # Without the lock: `stored_names` waits for uploads.
        unnamed = {id(upload) for upload in uploads if not named.intersection(stored_names([upload]))}
        with self._lock:
            self._storer.keep_zeros(named)
            # By identity: a writer may have replaced one since the first look.
            gone = [upload for upload in self._uploads.values() if id(upload) in unnamed]
            for upload in gone:
                self._uploads.pop(upload.start)
            self._superseded.extend(gone)
            superseded, before = self._take_superseded(), self.record.named
            before |= {upload.zero_segment for upload in self._uploads.values() if upload.zero_segment}
            self.record.named = named
        # What the replaced manifest named is left to `FileUpload`, which knows the owners of its segments.
        unused = [name for name in superseded() if name not in before and name not in named]
        with self._lock:
            # A record of the journal may still name them: the process that finds it reads evicted blocks from
            # them.
            return self._recorded.hold(unused)

    def _has_none(self) -> bool:
        """Return whether there never was a segment of the file, nor a manifest: mostly of a small one."""
        with self._lock:
            return not (self._uploads or self._superseded or self.record.has_prefix or self.record.named)

    @property
    def has_leftovers(self) -> bool:
        """Whether there are segments that no manifest names, of a file that is stored."""
        with self._lock:
            return bool(self._superseded or self._storer.copies or self._recorded.held)

    def take_leftovers(self) -> tuple[list[ObjectName], list[ObjectName]]:
        """Return and forget the segments that a stored file, which nobody uses, does not need.

        Those of the second list were named by a record of the journal, the others by nothing.
        """
        with self._lock:
            superseded, named = self._take_superseded(), self.record.named
            held, recorded = self._recorded.take_held(), self._recorded.all()
        unused = [name for name in superseded() if name not in named]
        held += [name for name in unused if name in recorded]
        return [name for name in unused if name not in recorded], held

    def abandon(self) -> list[ObjectName]:
        """Return the segments to delete of a file that will not be stored: those that no manifest names."""
        with self._lock:
            self._superseded.extend(self._uploads.values())
            self._uploads.clear()
            self._storer.keep_zeros(())
            superseded, named = self._take_superseded(), self.record.named
            held = self._recorded.take_held()
        unused = [*superseded(), *held]
        with self._lock:
            # Those that failed during the wait may be stored nevertheless, and nobody else knows of them.
            unused += self._storer.take_others()
        return [name for name in unused if name not in named]

    def _take_superseded(self) -> Callable[[], list[ObjectName]]:
        """Remove what is superseded; return a function that waits for the uploads and returns the names."""
        uploads, others = self._superseded, self._storer.take_others()
        self._superseded = []
        return lambda: [*stored_names(uploads), *others]

    def _get_early(self, start: int, end: int, is_new: Callable[[int, int], bool]) -> None:
        """Begin to upload a segment in advance, unless that was done, or it has bytes of a stored version."""
        # Those may be evicted, so holes in the local file, when a writer goes on after an upload of the file.
        known = self._uploads.get(start)
        if (known is None or not known.is_good(end)) and is_new(start, end):
            self._get(start, end, in_advance=True)

    def _get(self, start: int, end: int, *, in_advance: bool = False) -> SegmentPut:
        frozen = self._running.frozen if self._running is not None else None
        # An upload in advance is of the file as it is now, not of the moment of the copy.
        if in_advance or (frozen is not None and not frozen.covers(start, end)):
            frozen = None
        before = self._uploads.get(start)
        # With a copy, only a stored segment is known to have the bytes of the snapshot.
        is_stored = before is not None and before.stored.done() and before.moment is not Moment.NEXT
        if before is not None and before.is_good(end) and (frozen is None or is_stored):
            # Once an upload of the file uses it, its bytes count for that.
            if before.moment is Moment.NEXT and not in_advance:
                before.become(Moment.SNAPSHOT)
            return before
        if before is not None:
            self._superseded.append(before)
        upload = SegmentPut(start, end, Moment.NEXT if in_advance else Moment.SNAPSHOT, frozen=frozen)
        self._uploads.put(upload)
        # The copy has the bytes of the snapshot, which are not those of the file any more: the next upload
        # needs others.
        upload.superseded = frozen is not None and self._is_changed(upload)
        upload.stored = self._pool.submit(self._run, upload)
        # Superseded ones too, until they have ended: they read the local file by its descriptor.
        self._under_way = [one for one in self._under_way if not one.stored.done()]
        self._under_way.append(upload)
        upload.stored.add_done_callback(self._report)
        return upload

    def _report(self, stored: Future[Segment]) -> None:
        if not stored.cancelled() and stored.exception() is None:
            self._state.space.progress()

    def _run(self, upload: SegmentPut) -> Segment:
        if self._is_mixed(upload):  # its segment could not be used
            raise ChangedDuringUpload(f"{self.record.prefix}: bytes changed before they were uploaded")
        source = upload.frozen.descriptor if upload.frozen is not None else self._state.descriptor
        try:
            segment = self._storer.store(upload, source)
            with self._lock:
                # Again: the bytes are mapped, so a change during the PUT may have been sent, or not.
                if self._is_mixed(upload):
                    upload.become(Moment.MIXED)
        except Exception as error:
            drop_tracebacks(error)  # the future keeps it
            raise
        finally:
            upload.frozen = None  # its disk space is freed when all uploads have ended
        return segment

    def _is_mixed(self, upload: SegmentPut) -> bool:
        with self._lock:
            may_change = upload.moment is not Moment.NEXT and upload.frozen is None
            return may_change and self._is_changed(upload)

    def _is_changed(self, upload: SegmentPut) -> bool:
        """Return whether bytes changed after the snapshot of the file's upload. Lock held."""
        running = self._running
        return running is not None and running.changes.touches(*block_range(upload.start, upload.end))
