"""A cached file: a local file with bytes of one version of an object, and with changes of them.

The kernel reads and writes the local file by its descriptor. A reader gets the bytes of one version and the
changes, never a mixture of versions.
"""

import errno
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property, partial

from swiftfs.errors import os_error
from swiftfs.filecache.block_map import BLOCK, BaseVersion, FileRecord, Snapshot, StoredSegment, block_range
from swiftfs.filecache.block_set import Blocks
from swiftfs.filecache.downloader import Activity, Downloader
from swiftfs.filecache.eviction import Evictor, MakeInMemory, MemoryReader
from swiftfs.filecache.file_state import FileSource, FileState, LocalFile
from swiftfs.filecache.range_copier import RangeCopier
from swiftfs.filecache.segment_layout import PIECE
from swiftfs.filecache.segment_uploader import SegmentUploader
from swiftfs.filecache.sparse_file import CachedVersion
from swiftfs.filecache.upload_source import BaseVerifier, FrozenCopier
from swiftfs.filecache.verifier import BaseResolver
from swiftfs.objects import FileSpan, Manifest, ObjectInfo, ObjectName

LARGE_PIECES = 4
"""A change of an object of more pieces is uploaded as a patch, which consists of whole pieces."""

Fill = Callable[[int, int], int]
"""Copies the bytes of a write to a descriptor and position; returns how many it copied."""


class CachedFile:
    """The bytes of one open or cached file, and the parts that download, verify, upload and evict them.

    All parts share one state and its lock. `uploads`, the file's segments, learns of every change while the
    lock is held.
    INVARIANT: the local file is neither closed nor handed on before every download, check and upload of a
    segment has ended, even those that nobody needs any more.
    """

    def __init__(
        self, state: FileState, source: FileSource, uploads: SegmentUploader, make_in_memory: MakeInMemory
    ) -> None:
        self._state = state
        self.descriptor = state.descriptor
        self.uploads = uploads
        activity = self._activity = Activity(state, uploads)
        self._resolver = BaseResolver(state, source.store, uploads)
        self._downloader = Downloader(state, source, self._resolver, activity)
        self.begin, self.ensure = self._downloader.begin, self._downloader.ensure
        self.set_read_ahead = self._downloader.set_read_ahead
        self._reader = MemoryReader(state, make_in_memory)
        self._evictor = Evictor(state, uploads, source.streams, activity.downloads.ranges)
        self.evict = self._evictor.evict
        self.seek, self.keep_all = state.seek, state.keep_all
        self.correct, self.when_idle = self._resolver.correct, activity.when_idle
        self._copier = FrozenCopier(state, uploads, self._downloader)
        self._store = source.store

    @cached_property
    def ranges(self) -> RangeCopier:
        """What lets the server copy bytes to the file; made when it is needed, for most files never."""
        return RangeCopier(self._state, self._store, self.uploads)

    @property
    def size(self) -> int:
        """The file's length in bytes."""
        return self._state.blocks.size

    @property
    def base(self) -> BaseVersion | None:
        """The base version, None for a new file."""
        return self._state.blocks.base

    @property
    def last_get_info(self) -> ObjectInfo | None:
        """What the last download since `forget_get_info` said of the object, or None."""
        return self._resolver.last_get_info

    def forget_get_info(self) -> None:
        """Forget what the last download said of the object, because that may be stale."""
        self._resolver.last_get_info = None

    @property
    def file_name(self) -> str:
        """The local file's name in its folder. It stays the same while the file is used."""
        return self._state.file.name

    def allocated(self) -> int:
        """Return how many bytes of disk the file takes, including a copy for an upload."""
        with self._state.changed:
            frozen = self._copier.frozen
            own = 0 if self._state.closed else self._state.file.allocated()
            return own + (frozen.allocated() if frozen is not None else 0)

    def is_complete(self) -> bool:
        """Return whether nothing is left to download."""
        with self._state.changed:
            return self._state.blocks.is_complete

    def is_untouched(self) -> bool:
        """Return whether no byte was ever downloaded or written."""
        with self._state.changed:
            return not self._state.blocks.present and not self._state.blocks.dirty

    def is_dirty(self) -> bool:
        """Return whether Swift does not have these bytes."""
        with self._state.changed:
            return self._state.blocks.is_dirty()

    def evicted(self) -> tuple[StoredSegment, ...]:
        """Return the segments that have evicted blocks."""
        with self._state.changed:
            return self._state.blocks.remote.segments()

    def unsaved(self) -> int:
        """Return how many bytes of disk have data that Swift does not have."""
        with self._state.changed:
            if self._state.closed:
                return 0
            return min(len(self._state.blocks.unsaved()) * BLOCK, self._state.file.allocated())

    def changes(self) -> Blocks:
        """Return a copy of the blocks that differ from the base version; during an upload those it stores."""
        with self._state.changed:
            return self._state.blocks.changes()

    @property
    def is_unchanged_slo(self) -> bool:
        """Whether it is an unchanged SLO with known segments: to store it again takes its manifest alone.

        Its bytes may not be here, and if a late request has replaced the object they cannot be read from it.
        """
        with self._state.changed:
            blocks, base = self._state.blocks, self._state.blocks.base
            if base is None or base.manifest is None or blocks.changes():
                return False
            return base.size == base.object_size == blocks.size

    def has_name(self) -> bool:
        """Return whether the local file is still in its folder, whoever might have deleted it."""
        return os.fstat(self.descriptor).st_nlink > 0

    def to_record(self) -> FileRecord:
        """Return the record for `FileState.restore`.

        The local file has all that was written; it may not be on the disk yet.
        """
        with self._state.changed:
            self._state.is_recorded = True
            prefix = self.uploads.record.prefix if self.uploads.record.has_begun else None
            record = self._state.blocks.to_record(self.file_name, prefix)
            # The record names these segments, so they stay until no record does.
            self.uploads.protect(record.evicted)
            return record

    def read(self, offset: int, size: int) -> FileSpan:
        """Download what is missing of the bytes from `offset`, and return where they are.

        There are fewer than `size` only at the file's end. Raise `PreconditionFailed` (ESTALE) if the version
        is gone, and what the store raises.
        """
        end = min(offset + size, self.size)
        if end <= offset:
            return FileSpan(self.descriptor, offset, 0)
        # Before the download: between its end and this thread's answer nothing may be evicted.
        self._evictor.keep_for_answer(offset, end)
        return self._reader.read(offset, end, self._downloader.ensure_read)

    def write(self, offset: int, size: int, fill: Fill) -> int:
        """Let `fill` copy `size` bytes to `offset`; return how many it copied.

        Blocks that the write covers in part, and evicted segments that it touches, are downloaded first.
        Raise `OSError` ENOSPC if there is no space.
        """
        end = offset + size
        # Only the first and the last block of a write can be covered in part; those between need no download.
        edges = {edge * BLOCK for edge in (offset // BLOCK, block_range(offset, end)[1] - 1)}
        # Not with the lock of this state: whatever makes space, evicting or uploading, takes it.
        self._state.space.wait(self._state.blocks, size)
        partly = {edge for edge in edges if not offset <= edge < edge + BLOCK <= end}
        with self._holding(partly, offset, end):
            if end > self.size:
                self._state.zero_tail()
            # Under the lock, together with what records the write: an upload may read the segment at any
            # moment, and must be superseded if it read before these bytes came.
            copied = self._counted(offset, size, fill(self.descriptor, offset))
            if not copied:
                return 0
            self._state.blocks.write(offset, offset + copied)
            self._state.begin_change()
            self._copier.touch(offset, offset + copied)
            self.uploads.written(offset, copied)
        return copied

    def truncate(self, size: int, record: Callable[[], bool] = lambda: False) -> None:
        """Make the file `size` bytes long; new bytes are zeros.

        If the file becomes shorter, `record` is called when it has its new size, and its local file still all
        bytes. If that returns True, they stay until `free_tail`, or until the file grows. The caller excludes
        writers.
        """
        edge = min(size, self.size)
        # The block in which the file ends, or will end: its rest becomes zeros, its beginning must be right.
        partly = {edge - edge % BLOCK} if edge % BLOCK else set()
        # In a shorter file no block changes: the rest of the last one is verified when it is stored.
        with self._holding(partly, min(size - 1, self.size), size, changing=size > self.size):
            before = self.size
            self._state.begin_change()
            if size < before:
                self._state.blocks.cut(size)
                self._state.tail = max(self._state.tail, before)
            else:
                self._state.extend(size)
            self._state.blocks.resize(size)
            self._copier.touch(min(before, size), max(before, size))
            self.uploads.truncated(before, size)
        if size < before and not record():
            self.free_tail()

    def free_tail(self) -> None:
        """Free the disk space of bytes behind the file's end."""
        with self._state.changed:
            if not self._state.closed:
                self._state.zero_tail()

    def _counted(self, offset: int, size: int, copied: int) -> int:
        """Return how many bytes of a write count: a full disk may end it in a block that is not present."""
        end = offset + copied
        if copied == size or not end % BLOCK or self._state.blocks.is_present(end, end + 1):
            return copied
        if end - end % BLOCK <= offset:
            raise os_error(errno.ENOSPC)
        return end - end % BLOCK - offset

    @contextmanager
    def _holding(
        self, edges: Collection[int], offset: int, end: int, *, changing: bool = True
    ) -> Iterator[None]:
        """Hold the lock, so that nothing is evicted, while the blocks at `edges` are present.

        All blocks of the evicted segments with a byte from `offset` to `end` are present too, because these
        segments will be uploaded again. If the edges are `changing`, their bytes of the base version are
        verified first: afterwards that is impossible.
        """
        blocks = self._state.blocks
        is_ready = blocks.is_verified if changing else blocks.is_present
        ensure = self.ensure_verified if changing else self._downloader.ensure
        # Again after each download: since then blocks may have been evicted again, or changed.
        while True:
            with self._state.changed:
                needed = [edge for edge in edges if not is_ready(edge, edge + BLOCK)]
                touched = blocks.remote.touched(offset, end, blocks.size)
                if not (needed or touched):
                    yield
                    return
            downloads = [(ensure, *piece) for piece in self._edge_pieces(needed, whole=changing)]
            downloads += [(self._downloader.ensure, first * BLOCK, last * BLOCK) for first, last in touched]
            for download, start, stop in downloads:
                # Others may have filled the disk since `wait`, and the change alone needs less than this.
                self._state.space.download(stop - start, partial(download, start, stop))

    def _edge_pieces(self, needed: Collection[int], *, whole: bool) -> list[tuple[int, int]]:
        """Return the ranges to download for blocks that are not ready.

        With `whole` they are pieces of a large object, which its upload needs. Two neighbours are one range.
        """
        base = self.base
        # The upload of a patch needs whole pieces anyway: the rest of a piece costs no request later.
        large = base is not None and base.object_size > LARGE_PIECES * PIECE
        step = PIECE if large and whole else BLOCK
        pieces = sorted({edge - edge % step for edge in needed})
        if len(pieces) == 2 and pieces[0] + step == pieces[1]:
            return [(pieces[0], pieces[1] + step)]
        return [(start, start + step) for start in pieces]

    def ensure_verified(self, offset: int, end: int) -> None:
        """Download what is missing of the bytes from `offset` to `end`; verify those of the base version."""
        with self._state.changed:
            if self._state.blocks.is_verified(offset, end):  # such as all of a new file
                return
        verifier = BaseVerifier(self._state, self._store, self._resolver, self._downloader)
        verifier.ensure_verified(offset, end)

    def ensure_rest(self, size: int) -> None:
        """Download what is missing of the first `size` bytes, except for evicted segments."""
        for start, end in self._beside_evicted(size):
            self.ensure(start, end)

    def verify_rest(self, size: int) -> None:
        """Download as `ensure_rest` does, and verify the bytes of the base version."""
        for start, end in self._beside_evicted(size):
            self.ensure_verified(start, end)

    def _beside_evicted(self, size: int) -> Iterator[tuple[int, int]]:
        position = 0
        # Evicted segments are named by the manifest as they are: nothing of them need be fetched back.
        for stored in self.evicted():
            yield position, stored.start
            position = stored.end
        yield from [(position, size)] if position < size else []

    def ensure_all(self) -> None:
        """Download all that is missing, and evict nothing of it."""
        self.keep_all()
        self.ensure_rest(self.size)

    def upload_full_segments(self, *, holes: bool = False) -> bool:
        """Begin to upload the segments that are full of new bytes; return whether any upload is under way.

        With `holes` also those that are written in part, if they need no old bytes.
        """
        state = self._state
        with state.changed:
            if state.closed:
                return False
            if not state.keeps_all:
                self.uploads.begin_full(self.size, state.blocks.is_new if holes else state.blocks.is_full)
            return self.uploads.is_busy

    def upload_rest(self) -> None:
        """Begin to upload what is missing of a large file that a sequential writer has closed."""
        with self._state.changed:
            # An upload of the file may run by now, or have stored it: then these segments would be of no use,
            # and nobody would delete them.
            state = self._state
            if not (state.closed or state.keeps_all) and state.blocks.is_dirty():
                self.uploads.finished()

    def begin_upload(self) -> Snapshot:
        """Begin an upload of the bytes as they are now; return the snapshot.

        Bytes that are written afterwards are another change. Nothing is evicted until `adopt`. A file that
        changed during each of its last uploads is copied, so that this upload can succeed.
        """
        # In two steps: the copy is made while writers continue, and only what they changed meanwhile is
        # copied again with the lock held.
        frozen = self._copier.begin()
        with self._state.changed:
            self._copier.frozen = self._copier.end(frozen) if frozen is not None else None
            snapshot = self._state.blocks.freeze()
            # Until `adopt`: an upload maps the file, and would read zeros where blocks were evicted.
            self._state.keeps_all = True
            self.uploads.began(snapshot.size, self._copier.frozen)
            return snapshot

    def record_changed_upload(self) -> None:
        """Record that the upload failed because the file changed."""
        with self._state.changed:
            self._copier.changed_uploads += 1

    def upload_source(self, size: int) -> int:
        """Return the descriptor from which the upload reads the first `size` bytes."""
        with self._state.changed:
            frozen = self._copier.frozen
            return frozen.descriptor if frozen is not None and frozen.covers(0, size) else self.descriptor

    @property
    def changed_during_upload(self) -> bool:
        """Whether the upload may have sent bytes that have changed since it began."""
        with self._state.changed:
            taken = self._state.blocks.snapshot
            return taken is not None and taken.changed and not self._copier.covers(taken.size)

    @property
    def is_truncated(self) -> bool:
        """Whether the file has been shorter since the upload began: bytes of it are gone."""
        with self._state.changed:
            taken = self._state.blocks.snapshot
            return taken is not None and taken.least < taken.size and not self._copier.covers(taken.size)

    def upload_failed(self) -> None:
        """Record that the upload that runs, if any does, has stored nothing: the bytes are dirty again."""
        with self._state.changed:
            self._state.blocks.thaw()
            self._copier.frozen = None
            self.uploads.ended()

    def adopt(self, info: ObjectInfo, manifest: Manifest | None = None) -> None:
        """Make the stored version `info`, with its `manifest`, the base version.

        It has the bytes of the time when the upload began; without an upload, the present ones.
        """
        state = self._state
        with state.changed:
            taken = state.blocks.adopt(info.version.name, info.version.etag, manifest)
            self._copier.stored(taken)
            state.keeps_all = False
            state.is_certain = True
            # What was stored from local bytes is right by definition; evicted blocks still come from the
            # network.
            is_here = state.blocks.is_present(0, min(taken.size, taken.least))
            state.checks.begin(done=not taken.changed and is_here)
        # Without the lock: it takes the cache's, which comes before this one.
        state.space.grow(taken.size)  # as many bytes more can be evicted

    def own_all(self) -> None:
        """Download all that is missing, and make every block dirty: the base version is not needed then."""
        self.keep_all()
        self.ensure_verified(0, self.size)
        with self._state.changed:
            self._state.blocks.own_all()

    def detach(self) -> None:
        """Forget the base version: every byte is in the local file, which becomes another object."""
        with self._state.changed:
            self._state.blocks.detach()

    def rebase(self, base: BaseVersion) -> None:
        """Make a newer version the base version; it differs from the old one in dirty blocks only."""
        with self._state.changed:
            self._state.blocks.rebase(base)

    def has_more_than_record(self) -> bool:
        """Return whether the local file has bytes that its record lacks, of Swift or of an older record."""
        with self._state.changed:
            return self._state.tail > self.size or self._state.blocks.has_clean()

    def set_pinned(self, is_pinned: bool) -> None:
        """Mark the local file as one that the journal needs, or does not need any more."""
        with self._state.changed, suppress(OSError):
            if not self._state.closed:
                self._state.file.set_pinned(is_pinned)

    def suspend(self) -> int | None:
        """Close the local file, for `restore`; return its bytes of disk, or None if the file is busy."""
        state = self._state
        with state.changed:
            # A download or an upload would use the number of the descriptor, which the next open(2) gives to
            # another file.
            if state.closed or state.blocks.snapshot or not self._activity.is_idle():
                return None
            state.end(LocalFile.SUSPENDED)
            size = state.file.allocated()
            state.file.close()
        self._reader.close()
        return size

    def rename(self, name: ObjectName) -> None:
        """Download from `name` from now on: the object was moved there."""
        with self._state.changed:
            self._state.blocks.rename(name)

    def close(self) -> None:
        """Delete the local file when the last download and the last upload have ended."""
        with self._state.changed:
            self._state.end(LocalFile.DISCARDED)
        self._activity.cancel_queued()
        with self._state.changed:
            self._state.changed.wait_for(self._activity.is_idle)
            self._state.file.remove()
        self._reader.close()

    def discard(self) -> None:
        """Delete the local file as soon as nothing is under way, in any thread; do not wait."""
        with self._state.changed:
            self._state.end(LocalFile.DISCARDED)
        self.when_idle(self.close)

    def detach_file(self) -> CachedVersion | None:
        """Return the local file, and end; return None, and change nothing, if it cannot be cached.

        It can if nothing is under way, and it has blocks of one version only, none of them wrong twice.
        """
        state, blocks = self._state, self._state.blocks
        with state.changed:
            if state.closed or not (self._activity.is_idle() and blocks.is_clean()):
                return None
            # Bytes that were wrong twice are not kept for the next open.
            if not blocks.present or state.checks.has_failed:
                return None
            state.end(LocalFile.CACHED)
            # Nothing is under way, so no upload maps it. The cache takes its size for the version's.
            if state.file.mark().size != blocks.size:
                os.ftruncate(self.descriptor, blocks.size)
            manifest = blocks.base.manifest if blocks.base else None
        self._reader.close()
        return CachedVersion(state.file, blocks.present, state.checks.done, manifest)
