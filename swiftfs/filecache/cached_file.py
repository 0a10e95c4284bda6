"""A file's bytes: a local file that fills itself from one version of an object and takes changes.

The kernel reads and writes the local file by its descriptor. A reader gets the bytes of one version and its
own changes, never a mixture.
"""

import errno
import logging
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path

from swiftfs.concurrency import Executor, monotonic, thread_id
from swiftfs.errors import NotFound, SwiftfsError, os_error
from swiftfs.filecache.block_map import (
    BLOCK,
    BaseVersion,
    BlockMap,
    Blocks,
    FileRecord,
    Snapshot,
    block_range,
)
from swiftfs.filecache.eviction import EvictingFile
from swiftfs.filecache.frozen_copy import FrozenCopy, refuse_without_room
from swiftfs.filecache.patch_plan import PIECE, piece_of
from swiftfs.filecache.sparse_file import CachedVersion, SparseFile, punch_hole
from swiftfs.objects import FileSpan, Manifest, ObjectInfo, ObjectName
from swiftfs.store.protocol import ObjectStore

log = logging.getLogger(__name__)

OFTEN = 3
"""After so many uploads in a row that writers have overtaken, the next one sends a copy of one moment."""

LARGE_PIECES = 4
"""An object of more pieces is changed by a patch, which takes whole pieces."""

WaitForSpace = Callable[["CachedFile", int], None]
"""Returns when there is room for so many bytes more of a content; raises `OSError` when there is none."""

Fill = Callable[[int, int], int]
"""Copies the bytes of a write into a descriptor at a position, and returns how many it copied."""


def _never_wait(_content: "CachedFile", _size: int) -> None:
    """Let everybody write."""


class CachedFile(EvictingFile):
    """The bytes of one open or cached file.

    INVARIANT: the local file is not made shorter while it is used: uploads map it, and a page behind the end
    kills.
    `wait_for_space` is asked before each write, while the lock is not held.

    `_overtaken` counts uploads in a row that were in vain, and `_touched` are the blocks that have changed
    since a copy for the next one was begun, None while none is made. `_frozen` is the copy that the upload
    reads.
    """

    _overtaken = 0
    _touched: Blocks | None = None
    _frozen: FrozenCopy | None = None
    wait_for_space: WaitForSpace = staticmethod(_never_wait)

    @classmethod
    def restore(
        cls, store: ObjectStore, pool: Executor, folder: Path, saved: FileRecord, read_ahead: int
    ) -> "CachedFile":
        """Return what another process had `saved`; raise `OSError` if its file is not there or too short."""
        file = SparseFile.open(folder / saved.file)
        rest = file.mark().size - saved.size
        if rest < 0:
            file.close()
            raise os_error(errno.EIO, str(file.path))
        content = cls(
            store,
            pool,
            folder,
            saved.origin,
            read_ahead,
            CachedVersion(file, saved.dirty.copy(), checked=False),
        )
        content._blocks = BlockMap.restore(saved)
        content._certain = bool(saved.dirty)  # a block that was written in part has bytes of the origin
        punch_hole(file.descriptor, saved.size, rest)  # what a writer left who never closed it
        content._grow(saved.size)
        content._is_saved = True
        return content

    def to_record(self) -> FileRecord:
        """Return what `restore` needs; the local file has all that was written, the disk maybe not yet."""
        with self._changed:
            if self.uploads:
                self.uploads.protect(self._blocks.remote.placed())
            self._is_saved = True
            prefix = self.uploads.prefix if self.uploads and self.uploads.has_begun else None
            return self._blocks.to_record(self._file.path.name, prefix)

    def read(self, offset: int, size: int) -> FileSpan:
        """Return where the bytes from `offset` lie, downloading what is missing.

        Fewer than `size` bytes come only where the file ends. Raise `PreconditionFailed` (ESTALE) when the
        version is gone, and what the store raises.
        """
        end = min(offset + size, self._blocks.size)
        if end <= offset:
            return FileSpan(self.descriptor, offset, 0)
        # The kernel takes the bytes after this has returned, but before this thread reads again.
        self._answers[thread_id()] = block_range(offset, end)
        self.ensure_read(offset, end)
        return FileSpan(self.descriptor, offset, end - offset)

    def write(self, offset: int, size: int, fill: Fill) -> int:
        """Let `fill` copy `size` bytes to `offset`; return how many it copied.

        A block that the write covers in part is downloaded first, and so is an evicted segment that it
        touches. Raise `OSError` ENOSPC when there is no room for it.
        """
        began, end = monotonic(), offset + size
        _, last = block_range(offset, end)
        edges = {edge * BLOCK for edge in (offset // BLOCK, last - 1)}
        self.wait_for_space(self, size)
        partly = {edge for edge in edges if not offset <= edge < edge + BLOCK <= end}
        with self._holding(partly, offset, end):
            copied = self._counted(offset, size, fill(self.descriptor, offset))
            if not copied:
                return 0
            self._changes_since(began)
            self._blocks.write(offset, offset + copied)
            self._check.begin(done=False)
            self._is_saved = False
            if self._touched is not None:
                self._touched.add(*block_range(offset, offset + copied))
            if self.uploads:
                self.uploads.written(offset, copied)
        return copied

    def truncate(self, size: int) -> None:
        """Make the file `size` bytes long; what is new reads as zeros."""
        began, edge = monotonic(), min(size, self._blocks.size)
        partly = {edge - edge % BLOCK} if edge % BLOCK else set()
        # Of a shorter file no block changes: what is left of the last one is verified when it is stored.
        with self._holding(
            partly, size - 1, size if size < self._blocks.size else 0, changing=size > self._blocks.size
        ):
            before = self._blocks.size
            self._changes_since(began)
            self._check.begin(done=False)
            self._is_saved = False
            if size < before:
                self._blocks.cut(size)
                punch_hole(self.descriptor, size, before - size)
            else:
                self._grow(size)
            self._blocks.resize(size)
            if self._touched is not None:
                self._touched.add(*block_range(min(before, size), max(before, size)))
            if self.uploads:
                self.uploads.truncated(before, size)

    def _changes_since(self, began: float) -> None:
        """Forget when the base version was seen, unless the change that then began has asked for it."""
        if self._base_seen < began:
            self._base_seen = -inf

    def _counted(self, offset: int, size: int, copied: int) -> int:
        """Return how much of a write counts: a full disk may cut it inside a block that is not present."""
        end = offset + copied
        if copied == size or not end % BLOCK or self._blocks.first_missing(end, end + 1) is None:
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
        is_ready = self._blocks.is_verified if changing else self._blocks.is_present
        ensure = self.ensure_kept if changing else self.ensure
        while True:
            for start, stop in self._edge_pieces(edges, is_ready, whole=changing):
                ensure(start, stop)
            with self._changed:
                touched = self._blocks.remote.touched(offset, end)
            for first, last in touched:
                self.ensure(first * BLOCK, last * BLOCK)
            with self._changed:
                ready = all(is_ready(edge, edge + BLOCK) for edge in edges)
                if ready and not self._blocks.remote.touched(offset, end):
                    yield
                    return

    def _edge_pieces(
        self, edges: Collection[int], is_ready: Callable[[int, int], bool], *, whole: bool
    ) -> list[tuple[int, int]]:
        """Return what to download for blocks that are not ready.

        Of a large object it is their `whole` pieces, which the upload will want; of neighbours one range.
        """
        with self._changed:
            large = self._blocks.origin is not None and self._blocks.origin.object_size > LARGE_PIECES * PIECE
            needed = [edge for edge in edges if not is_ready(edge, edge + BLOCK)]
        step = PIECE if large and whole else BLOCK
        pieces = sorted({edge - edge % step for edge in needed})
        if len(pieces) == 2 and pieces[0] + step == pieces[1]:
            return [(pieces[0], pieces[1] + step)]
        return [(start, start + step) for start in pieces]

    def ensure_all(self) -> None:
        """Download all that the origin has and the file has not, and keep it."""
        self.pin()
        self.ensure_rest(self._blocks.size)

    def changes(self) -> Blocks:
        """Return a copy of the blocks that differ from the origin's, or did when the upload began."""
        with self._changed:
            return self._blocks.changes()

    def begin_upload(self) -> Snapshot:
        """Take the bytes as they are now for an upload; return what they are.

        What is written afterwards is a later change. Nothing is given back to the disk until `adopt`. A file
        that changes all the time is copied, so that the upload does not fail once more.
        """
        still = self._begin_copy() if self._overtaken >= OFTEN else None
        with self._changed:
            self._frozen = self._end_copy(still) if still is not None else None
            snapshot = self._blocks.freeze()
            self._pinned = True
            if self.uploads:
                self.uploads.began(snapshot.size, self._frozen)
            return snapshot

    def _begin_copy(self) -> FrozenCopy | None:
        """Copy what the next upload reads, while writers go on; return None where that is not possible."""
        try:
            self.pin()
            with self._changed:
                wanted, size = self._hot(), self._blocks.size
                self._touched = Blocks()
            still = FrozenCopy(self._file.path.parent)
            if not (is_clone := still.clone(self.descriptor)):
                self.on_growth(len(wanted) * BLOCK)
                refuse_without_room(self._file.path.parent, len(wanted) * BLOCK)
            for first, last in wanted.runs(*block_range(0, size)):
                self.ensure(first * BLOCK, min(last * BLOCK, size))
            if not is_clone:
                still.copy(self.descriptor, wanted, size)
                still.blocks = wanted
        except (OSError, SwiftfsError) as error:
            log.info("%s: it is stored without a copy of one moment: %s", self._file.path.name, error)
            self._touched = None
            return None
        return still

    def _end_copy(self, still: FrozenCopy) -> FrozenCopy | None:
        """Copy what has changed meanwhile, which no writer can now; None where that fails. Lock held."""
        touched, self._touched = self._touched or Blocks(), None
        wanted = self._hot()
        for run in list(self._blocks.missing(*block_range(0, self._blocks.size))):
            wanted.discard(*run)
        try:
            if still.clone(self.descriptor):
                still.blocks = wanted
                return still
            still.blocks.subtract(touched)
            todo = wanted.copy()
            todo.subtract(still.blocks)
            still.copy(self.descriptor, todo, self._blocks.size)
            still.blocks.update(todo)
        except OSError as error:
            log.info("%s: it is stored without a copy of one moment: %s", self._file.path.name, error)
            return None
        return still

    def _hot(self) -> Blocks:
        """Return the blocks that an upload reads and a writer may change. Lock held.

        A patch reads the pieces that have changed, and sometimes their neighbours; where that was not enough
        all of the file is read. Segments that are stored already and not evicted are not read.
        """
        hot = Blocks()
        if self._blocks.origin is None or self._overtaken >= 2 * OFTEN:
            hot.add(*block_range(0, self._blocks.size))
        else:
            for first, last in self._blocks.dirty.runs(*block_range(0, self._blocks.size)):
                start = piece_of(max(0, piece_of(first * BLOCK) - PIECE))
                hot.add(*block_range(start, min(piece_of(last * BLOCK - 1) + 2 * PIECE, self._blocks.size)))
        if self._blocks.origin is None and self.uploads is not None:
            for placed in self.uploads.stored(promised=False):
                hot.discard(*placed.blocks)
        hot.subtract(self._blocks.remote.blocks)
        return hot

    def was_overtaken(self) -> None:
        """Take note that the upload was in vain, because the file has changed."""
        with self._changed:
            self._overtaken += 1

    def upload_source(self, size: int) -> int:
        """Return the descriptor of the first `size` bytes as the upload stores them."""
        with self._changed:
            frozen = self._frozen
            return frozen.descriptor if frozen is not None and frozen.covers(0, size) else self.descriptor

    def allocated(self) -> int:
        """Return how many bytes of disk the file takes, with a copy for an upload."""
        with self._changed:
            return super().allocated() + (self._frozen.allocated() if self._frozen is not None else 0)

    @property
    def overtaken(self) -> bool:
        """Say whether the upload may have sent anything that has changed since it began."""
        with self._changed:
            taken = self._blocks.snapshot
            return taken is not None and taken.changed and not self._is_frozen(taken)

    @property
    def is_cut(self) -> bool:
        """Say whether the file has been shorter since the upload began: bytes of it are gone."""
        with self._changed:
            taken = self._blocks.snapshot
            return taken is not None and taken.least < taken.size and not self._is_frozen(taken)

    def _is_frozen(self, taken: Snapshot) -> bool:
        """Return whether no later change can reach any byte of the snapshot."""
        return self._frozen is not None and self._frozen.covers(0, taken.size)

    def upload_failed(self) -> None:
        """Take note that the upload that runs, if any does, has stored nothing: the bytes are dirty again."""
        with self._changed:
            self._blocks.thaw()
            self._frozen = None
            if self.uploads:
                self.uploads.ended()

    def adopt(self, info: ObjectInfo, manifest: Manifest | None = None) -> None:
        """Take the stored version `info` as the origin; `manifest` is its own.

        It is what these bytes were when the upload began; without an upload, what they are.
        """
        with self._changed:
            taken = self._blocks.adopt(info.version.name, info.version.etag, manifest)
            self._frozen = None
            if not taken.changed:
                self._overtaken = 0
            kept = min(taken.size, taken.least)
            self._pinned = False
            self._certain = True
            self._check.begin(done=not taken.changed and self._blocks.first_missing(0, kept) is None)
        self.on_growth(taken.size)  # what can be given back did

    def own_all(self) -> None:
        """Download all that is missing and need the origin no more: every byte is as if it were written."""
        self.pin()
        self.ensure_kept(0, self._blocks.size)
        with self._changed:
            self._blocks.own_all()

    def detach(self) -> None:
        """Forget the origin: every byte is in the local file, and the object is to be another one."""
        with self._changed:
            self._blocks.detach()

    def rebase(self, origin: BaseVersion) -> None:
        """Take a newer version as the origin, which differs from the old one in dirty blocks only."""
        with self._changed:
            self._blocks.rebase(origin)

    def _follow_upload(self, origin: BaseVersion) -> bool:
        """Take for the origin what an upload whose answer was lost has put in its place; say whether one has.

        The HEAD comes with the first refusal, be it a reader's: the next attempt may be long in coming.
        """
        if self.uploads is None or not self.uploads.is_in_doubt:
            return False
        try:
            info = self._store.head(origin.name)
        except NotFound:
            return False
        if info.version.etag == origin.etag or not self.uploads.landed(info.version.etag):
            return False
        with self._changed:
            if self._blocks.is_from(origin):
                self.rebase(BaseVersion(origin.name, info.version.etag, info.size, info.size))
        log.info("%s: an upload whose answer was lost was carried out", origin.name)
        return True

    def is_dirty(self) -> bool:
        """Say whether Swift does not have these bytes."""
        with self._changed:
            return self._blocks.is_dirty()

    @property
    def file_name(self) -> str:
        """The local file's name in its folder; while the content is used it stays the same."""
        return self._file.path.name

    def suspend(self) -> int | None:
        """Close the local file, for `restore`; return the disk it takes, in bytes, None while it is busy."""
        with self._changed:
            if self._closed or self._blocks.snapshot or not self._is_idle():
                return None
            self._closed = True
            size = self._file.allocated()
            self._file.close()
            return size

    def rename(self, name: ObjectName) -> None:
        """Fetch from `name` from now on: the object was moved there."""
        with self._changed:
            self._blocks.rename(name)

    def close(self) -> None:
        """Close the local file when the last download and the last upload have ended."""
        with self._changed:
            self._closed = True
        self._cancel_queued()
        with self._changed:
            self._changed.wait_for(self._is_idle)
            self._file.remove()

    def discard(self) -> None:
        """Close the local file as soon as what is under way has ended, in any thread; wait for nothing."""
        with self._changed:
            self._closed = True
        self.when_idle(self.close)

    def when_idle(self, idle: Callable[[], None]) -> None:
        """Drop the downloads and uploads that nobody needs; call `idle` when the others have ended.

        That may be in any thread, and is at once when there are none.
        """
        with self._changed:
            self._idle = idle
        self._cancel_queued()
        self._tell_idle()

    def _cancel_queued(self) -> None:
        """Drop what is under way and nobody needs; what goes on tells when it ends."""
        with self._changed:
            self._fetches.cancel()
        for upload in self.uploads.cancel_queued() if self.uploads is not None else ():
            upload.stored.add_done_callback(lambda _: self._tell_idle())

    def detach_file(self) -> CachedVersion | None:
        """End the content and return its file; None, and go on, unless it holds blocks of a version only."""
        with self._changed:
            if self._closed or not (self._is_idle() and self._blocks.is_clean()):
                return None
            if not self._blocks.present or self._check.has_failed:
                return None
            self._closed = True
            # No upload maps it, since it is idle; what keeps the file tells the version's size by its own.
            os.ftruncate(self.descriptor, self._blocks.size)
            manifest = self._blocks.origin.manifest if self._blocks.origin else None
            return CachedVersion(self._file, self._blocks.present, self._check.done, manifest)
