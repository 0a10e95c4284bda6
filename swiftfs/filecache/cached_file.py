"""A file's bytes: a local file that fills itself from one version of an object and takes changes.

The kernel reads and writes the local file by its descriptor. A reader gets the bytes of one version and its
own changes, never a mixture.
"""

import errno
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from swiftfs.concurrency import Executor, monotonic
from swiftfs.errors import os_error
from swiftfs.filecache.activity import Activity
from swiftfs.filecache.base_resolver import BaseResolver
from swiftfs.filecache.base_verifier import BaseVerifier
from swiftfs.filecache.block_map import (
    BLOCK,
    BaseVersion,
    Blocks,
    FileRecord,
    Snapshot,
    StoredSegment,
    block_range,
)
from swiftfs.filecache.downloader import Downloader
from swiftfs.filecache.eviction import Evictor
from swiftfs.filecache.file_state import FileState
from swiftfs.filecache.frozen_copier import FrozenCopier
from swiftfs.filecache.patch_plan import PIECE
from swiftfs.filecache.read_ahead import Streams
from swiftfs.filecache.segment_fetcher import SegmentFetcher
from swiftfs.filecache.segment_uploader import SegmentUploader
from swiftfs.filecache.sparse_file import CachedVersion, punch_hole
from swiftfs.filecache.verifier import Verifier
from swiftfs.objects import FileSpan, Manifest, ObjectInfo, ObjectName
from swiftfs.store.protocol import ObjectStore

LARGE_PIECES = 4
"""An object of more pieces is changed by a patch, which takes whole pieces."""

Fill = Callable[[int, int], int]
"""Copies the bytes of a write into a descriptor at a position, and returns how many it copied."""


class CachedFile:
    """The bytes of one open or cached file, and the parts that bring, verify, upload and evict them.

    All parts share one state and its lock. `uploads` are the file's segments, and are told of every change
    while the lock is held.
    INVARIANT: while a download, a check or an upload of a segment has not ended, not even one that nobody
    wants any more, the local file is neither closed nor given up.
    """

    def __init__(
        self, state: FileState, store: ObjectStore, pool: Executor, uploads: SegmentUploader, read_ahead: int
    ) -> None:
        self._state = state
        self.descriptor = state.descriptor
        self.uploads = uploads
        self._activity = Activity(state, uploads)
        streams = Streams(read_ahead)
        self._resolver = BaseResolver(state, store, uploads)
        self._downloader = Downloader(
            state,
            store,
            pool,
            streams,
            self._resolver,
            Verifier(state, store, pool, streams, self._resolver, self._activity),
            SegmentFetcher(state, store),
            self._activity,
        )
        self._base_verifier = BaseVerifier(state, store, self._resolver, self._downloader)
        self._evictor = Evictor(state, uploads, streams, self._activity.fetches)
        self._copier = FrozenCopier(state, uploads, self._downloader)

    @property
    def size(self) -> int:
        """The file's length in bytes."""
        return self._state.blocks.size

    @property
    def origin(self) -> BaseVersion | None:
        """Return the version that fills the file, None for a new file."""
        return self._state.blocks.origin

    @property
    def last_get_info(self) -> ObjectInfo | None:
        """What the last download said of the object, None since `forget_get_info`."""
        return self._resolver.last_get_info

    def forget_get_info(self) -> None:
        """Forget what the last download said of the object: it may have changed since."""
        self._resolver.last_get_info = None

    def was_base_seen(self, seconds: float) -> bool:
        """Return whether Swift has shown the base version since the last change, and within these seconds."""
        return self._resolver.was_seen(seconds)

    @property
    def file_name(self) -> str:
        """The local file's name in its folder; while the content is used it stays the same."""
        return self._state.file.path.name

    def allocated(self) -> int:
        """Return how many bytes of disk the file takes, with a copy for an upload."""
        with self._state.changed:
            frozen = self._copier.frozen
            own = 0 if self._state.closed else self._state.file.allocated()
            return own + (frozen.allocated() if frozen is not None else 0)

    def is_complete(self) -> bool:
        """Return whether nothing is left to download."""
        with self._state.changed:
            return self._state.blocks.is_present(0, self.size)

    def is_untouched(self) -> bool:
        """Return whether Swift has never sent a byte of the origin."""
        with self._state.changed:
            return not self._state.blocks.present and not self._state.blocks.dirty

    def is_dirty(self) -> bool:
        """Return whether Swift does not have these bytes."""
        with self._state.changed:
            return self._state.blocks.is_dirty()

    def evicted(self) -> tuple[StoredSegment, ...]:
        """Return the segments that hold what is not in Swift's object and not in the local file any more."""
        with self._state.changed:
            return self._state.blocks.remote.placed()

    def unsaved(self) -> int:
        """Return how many bytes of disk hold what Swift's object does not have."""
        with self._state.changed:
            if self._state.closed:
                return 0
            return min(len(self._state.blocks.unsaved()) * BLOCK, self._state.file.allocated())

    def changes(self) -> Blocks:
        """Return a copy of the blocks that differ from the origin's, or did when the upload began."""
        with self._state.changed:
            return self._state.blocks.changes()

    def to_record(self) -> FileRecord:
        """Return what `FileState.restore` needs.

        The local file has all that was written, the disk maybe not yet.
        """
        with self._state.changed:
            self.uploads.protect(self._state.blocks.remote.placed())
            self._state.is_recorded = True
            prefix = self.uploads.record.prefix if self.uploads.record.has_begun else None
            return self._state.blocks.to_record(self.file_name, prefix)

    def read(self, offset: int, size: int) -> FileSpan:
        """Return where the bytes from `offset` lie, downloading what is missing.

        Fewer than `size` bytes come only where the file ends. Raise `PreconditionFailed` (ESTALE) when the
        version is gone, and what the store raises.
        """
        end = min(offset + size, self.size)
        if end <= offset:
            return FileSpan(self.descriptor, offset, 0)
        self._evictor.keep_for_answer(offset, end)
        self._downloader.ensure_read(offset, end)
        return FileSpan(self.descriptor, offset, end - offset)

    def write(self, offset: int, size: int, fill: Fill) -> int:
        """Let `fill` copy `size` bytes to `offset`; return how many it copied.

        A block that the write covers in part is downloaded first, and so is an evicted segment that it
        touches. Raise `OSError` ENOSPC when there is no room for it.
        """
        began, end = monotonic(), offset + size
        _, last = block_range(offset, end)
        edges = {edge * BLOCK for edge in (offset // BLOCK, last - 1)}
        self._state.space.wait_for_space(self, size)
        partly = {edge for edge in edges if not offset <= edge < edge + BLOCK <= end}
        with self._holding(partly, offset, end):
            copied = self._counted(offset, size, fill(self.descriptor, offset))
            if not copied:
                return 0
            self._resolver.forget_seen(before=began)
            self._state.blocks.write(offset, offset + copied)
            self._state.begin_change()
            self._copier.touch(offset, offset + copied)
            self.uploads.written(offset, copied)
        return copied

    def truncate(self, size: int) -> None:
        """Make the file `size` bytes long; what is new reads as zeros."""
        began, edge = monotonic(), min(size, self.size)
        partly = {edge - edge % BLOCK} if edge % BLOCK else set()
        behind = size if size < self.size else 0
        # Of a shorter file no block changes: what is left of the last one is verified when it is stored.
        with self._holding(partly, size - 1, behind, changing=size > self.size):
            before = self.size
            self._resolver.forget_seen(before=began)
            self._state.begin_change()
            if size < before:
                self._state.blocks.cut(size)
                punch_hole(self.descriptor, size, before - size)
            else:
                self._state.extend(size)
            self._state.blocks.resize(size)
            self._copier.touch(min(before, size), max(before, size))
            self.uploads.truncated(before, size)

    def _counted(self, offset: int, size: int, copied: int) -> int:
        """Return how much of a write counts: a full disk may cut it inside a block that is not present."""
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
        """Hold the lock while the blocks at `edges` are present; without it they may be given back again.

        So is all of the evicted segments that hold a byte from `offset` to `end`: they will be uploaded anew.
        What the edges keep of the origin is verified before they are `changing`: it cannot be afterwards.
        """
        blocks = self._state.blocks
        is_ready = blocks.is_verified if changing else blocks.is_present
        ensure = self.ensure_kept if changing else self._downloader.ensure
        while True:
            for start, stop in self._edge_pieces(edges, is_ready, whole=changing):
                ensure(start, stop)
            with self._state.changed:
                touched = blocks.remote.touched(offset, end)
            for first, last in touched:
                self._downloader.ensure(first * BLOCK, last * BLOCK)
            with self._state.changed:
                ready = all(is_ready(edge, edge + BLOCK) for edge in edges)
                if ready and not blocks.remote.touched(offset, end):
                    yield
                    return

    def _edge_pieces(
        self, edges: Collection[int], is_ready: Callable[[int, int], bool], *, whole: bool
    ) -> list[tuple[int, int]]:
        """Return what to download for blocks that are not ready.

        Of a large object it is their `whole` pieces, which the upload will want; of neighbours one range.
        """
        with self._state.changed:
            origin = self.origin
            large = origin is not None and origin.object_size > LARGE_PIECES * PIECE
            needed = [edge for edge in edges if not is_ready(edge, edge + BLOCK)]
        step = PIECE if large and whole else BLOCK
        pieces = sorted({edge - edge % step for edge in needed})
        if len(pieces) == 2 and pieces[0] + step == pieces[1]:
            return [(pieces[0], pieces[1] + step)]
        return [(start, start + step) for start in pieces]

    def begin(self, pool: Executor) -> None:
        """Begin to download what is missing in a thread of `pool`, if nobody does."""
        self._downloader.begin(pool)

    def ensure(self, offset: int, end: int) -> None:
        """Download what is missing of the bytes from `offset` to `end`, or wait for whoever does."""
        self._downloader.ensure(offset, end)

    def ensure_kept(self, offset: int, end: int) -> None:
        """Download what is missing of the bytes from `offset` to `end`; verify what is the origin's."""
        self._base_verifier.ensure_kept(offset, end)

    def ensure_rest(self, size: int) -> None:
        """Download what is missing of the first `size` bytes and is in no segment of the file's own."""
        for start, end in self._beside_evicted(size):
            self.ensure(start, end)

    def keep_rest(self, size: int) -> None:
        """Do what `ensure_rest` does, and verify what will be stored again of it."""
        for start, end in self._beside_evicted(size):
            self.ensure_kept(start, end)

    def _beside_evicted(self, size: int) -> Iterator[tuple[int, int]]:
        position = 0
        for placed in self.evicted():
            yield position, placed.start
            position = placed.end
        yield position, size

    def ensure_all(self) -> None:
        """Download all that the origin has and the file has not, and keep it."""
        self._state.pin()
        self.ensure_rest(self.size)

    def pin(self) -> None:
        """Give nothing back to the disk before the next `adopt`: the origin may go, or an upload maps it."""
        self._state.pin()

    def evict(self, size: int, *, held: bool = False) -> int:
        """Give about `size` bytes back to the disk; see `Evictor.evict`."""
        return self._evictor.evict(size, held=held)

    def upload_full_segments(self, *, holes: bool = False) -> bool:
        """Begin to upload the segments that are full of new bytes; return whether any upload is under way.

        With `holes` the segments count too that nobody has written whole, as far as they need no old bytes.
        """
        state = self._state
        with state.changed:
            if state.closed:
                return False
            if not state.pinned:
                self.uploads.begin_full(self.size, state.blocks.is_new if holes else state.blocks.is_full)
            return self.uploads.is_busy

    def begin_upload(self) -> Snapshot:
        """Take the bytes as they are now for an upload; return what they are.

        What is written afterwards is a later change. Nothing is given back to the disk until `adopt`. A file
        that changes all the time is copied, so that the upload does not fail once more.
        """
        still = self._copier.begin()
        with self._state.changed:
            self._copier.frozen = self._copier.end(still) if still is not None else None
            snapshot = self._state.blocks.freeze()
            self._state.pinned = True
            self.uploads.began(snapshot.size, self._copier.frozen)
            return snapshot

    def was_overtaken(self) -> None:
        """Record that the upload was in vain, because the file has changed."""
        with self._state.changed:
            self._copier.count_overtaken()

    def upload_source(self, size: int) -> int:
        """Return the descriptor of the first `size` bytes as the upload stores them."""
        with self._state.changed:
            frozen = self._copier.frozen
            return frozen.descriptor if frozen is not None and frozen.covers(0, size) else self.descriptor

    @property
    def overtaken(self) -> bool:
        """Return whether the upload may have sent anything that has changed since it began."""
        with self._state.changed:
            taken = self._state.blocks.snapshot
            return taken is not None and taken.changed and not self._copier.covers(taken.size)

    @property
    def is_cut(self) -> bool:
        """Return whether the file has been shorter since the upload began: bytes of it are gone."""
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
        """Take the stored version `info` as the origin; `manifest` is its own.

        It is what these bytes were when the upload began; without an upload, what they are.
        """
        state = self._state
        with state.changed:
            taken = state.blocks.adopt(info.version.name, info.version.etag, manifest)
            self._copier.stored(taken)
            state.pinned = False
            state.is_certain = True
            is_here = state.blocks.is_present(0, min(taken.size, taken.least))
            state.checks.begin(done=not taken.changed and is_here)
        state.space.on_growth(taken.size)  # what can be given back did

    def own_all(self) -> None:
        """Download all that is missing and need the origin no more: every byte is as if it were written."""
        self._state.pin()
        self.ensure_kept(0, self.size)
        with self._state.changed:
            self._state.blocks.own_all()

    def detach(self) -> None:
        """Forget the origin: every byte is in the local file, and the object is to be another one."""
        with self._state.changed:
            self._state.blocks.detach()

    def rebase(self, origin: BaseVersion) -> None:
        """Take a newer version as the origin, which differs from the old one in dirty blocks only."""
        with self._state.changed:
            self._state.blocks.rebase(origin)

    def correct(self, info: ObjectInfo) -> bool:
        """Take the version `info` in place of a wrongly told one; see `BaseResolver.correct`."""
        return self._resolver.correct(info)

    def suspend(self) -> int | None:
        """Close the local file, for `restore`; return the disk it takes, in bytes, None while it is busy."""
        state = self._state
        with state.changed:
            if state.closed or state.blocks.snapshot or not self._activity.is_idle():
                return None
            state.closed = True
            size = state.file.allocated()
            state.file.close()
            return size

    def rename(self, name: ObjectName) -> None:
        """Fetch from `name` from now on: the object was moved there."""
        with self._state.changed:
            self._state.blocks.rename(name)

    def close(self) -> None:
        """Close the local file when the last download and the last upload have ended."""
        with self._state.changed:
            self._state.closed = True
        self._activity.cancel_queued()
        with self._state.changed:
            self._state.changed.wait_for(self._activity.is_idle)
            self._state.file.remove()

    def discard(self) -> None:
        """Close the local file as soon as what is under way has ended, in any thread; wait for nothing."""
        with self._state.changed:
            self._state.closed = True
        self.when_idle(self.close)

    def when_idle(self, idle: Callable[[], None]) -> None:
        """Drop what nobody needs; call `idle` when the rest has ended. See `Activity.when_idle`."""
        self._activity.when_idle(idle)

    def detach_file(self) -> CachedVersion | None:
        """End the content and return its file; None, and go on, unless it holds blocks of a version only."""
        state, blocks = self._state, self._state.blocks
        with state.changed:
            if state.closed or not (self._activity.is_idle() and blocks.is_clean()):
                return None
            if not blocks.present or state.checks.has_failed:
                return None
            state.closed = True
            # No upload maps it, since it is idle; what keeps the file tells the version's size by its own.
            os.ftruncate(self.descriptor, blocks.size)
            manifest = blocks.origin.manifest if blocks.origin else None
            return CachedVersion(state.file, blocks.present, state.checks.done, manifest)
