"""Copies a file that has changed during each of its last uploads, so that the next upload can succeed."""

import errno
import logging

from swiftfs.errors import SwiftfsError, os_error
from swiftfs.filecache.block_map import BLOCK, Snapshot, block_range
from swiftfs.filecache.block_set import Blocks
from swiftfs.filecache.downloader import Downloader
from swiftfs.filecache.file_state import FileState
from swiftfs.filecache.segment_layout import PIECE, piece_of
from swiftfs.filecache.segment_uploader import SegmentUploader
from swiftfs.filecache.sparse_file import FrozenCopy

log = logging.getLogger(__name__)

OFTEN = 3
"""Uploads in a row during which the file changed, after which the next one sends a copy."""


class FrozenCopier:
    """Makes the copy of one file that an upload reads: `frozen`, guarded by the file's lock.

    `_changed_uploads` counts the uploads in a row that failed because the file changed. `_touched` has the
    blocks that have changed since a copy was begun, None while none is being made.
    """

    def __init__(self, state: FileState, uploads: SegmentUploader, downloader: Downloader) -> None:
        self._state = state
        self._uploads = uploads
        self._downloader = downloader
        self._changed_uploads = 0
        self._touched: Blocks | None = None
        self.frozen: FrozenCopy | None = None

    def begin(self) -> FrozenCopy | None:
        """Copy what the next upload reads, while writers continue.

        Return None if no copy is needed yet, or if none can be made.
        """
        # A copy costs disk space and time, and most files come to rest.
        if self._changed_uploads < OFTEN:
            return None
        state = self._state
        folder = state.file.folder
        try:
            state.pin()
            with state.changed:
                # From here on writers are recorded in `_touched`; what they change is copied again by `end`.
                wanted, size = self._hot(), state.blocks.size
                self._touched = Blocks()
            frozen = FrozenCopy(folder)
            if not (is_clone := frozen.clone(state.descriptor)):
                state.space.grow(len(wanted) * BLOCK)
                if not state.space.has_spare(len(wanted) * BLOCK):
                    raise os_error(errno.ENOSPC, str(folder))
            for first, last in wanted.runs(*block_range(0, size)):
                # Now, because it needs requests: `end` holds the lock.
                self._downloader.ensure(first * BLOCK, min(last * BLOCK, size))
            if not is_clone:
                frozen.copy(state.descriptor, wanted, size)
                frozen.blocks = wanted
        except (OSError, SwiftfsError) as error:
            log.info("%s: it is uploaded without a copy: %s", state.file.name, error)
            with state.changed:
                self._touched = None
            return None
        return frozen

    def end(self, frozen: FrozenCopy) -> FrozenCopy | None:
        """Copy what has changed since `begin`; return None if that fails. Lock held, so no writer runs."""
        state = self._state
        size = state.blocks.size
        touched, self._touched = self._touched or Blocks(), None
        wanted = self._hot()
        # Neighbours of what has changed since `begin` were not downloaded, so no copy can have them.
        for run in list(state.blocks.missing(*block_range(0, size))):
            wanted.discard(*run)
        try:
            # A clone takes so little time that a new one, of this moment, replaces the first.
            if frozen.clone(state.descriptor):
                frozen.blocks = wanted
                return frozen
            frozen.blocks.subtract(touched)
            todo = wanted.copy()
            todo.subtract(frozen.blocks)
            frozen.copy(state.descriptor, todo, size)
            frozen.blocks.update(todo)
        except OSError as error:
            log.info("%s: it is uploaded without a copy: %s", state.file.name, error)
            return None
        return frozen

    def touch(self, offset: int, end: int) -> None:
        """Record that the bytes from `offset` to `end` have changed. Lock held."""
        if self._touched is not None:
            self._touched.add(*block_range(offset, end))

    def count_changed_upload(self) -> None:
        """Record that an upload failed because the file changed. Lock held."""
        self._changed_uploads += 1

    def stored(self, taken: Snapshot) -> None:
        """Record that a snapshot is stored. Lock held."""
        self.frozen = None
        if not taken.changed:
            self._changed_uploads = 0

    def covers(self, size: int) -> bool:
        """Return whether the upload reads its first `size` bytes from a copy. Lock held."""
        return self.frozen is not None and self.frozen.covers(0, size)

    def _hot(self) -> Blocks:
        """Return the blocks that an upload reads and a writer may change. Lock held.

        A patch reads the pieces that have changed, and sometimes their neighbours. After `2 * OFTEN` failed
        uploads all blocks count. Stored segments and evicted blocks are not read.
        """
        blocks = self._state.blocks
        size = blocks.size
        hot = Blocks()
        if blocks.base is None or self._changed_uploads >= 2 * OFTEN:
            hot.add(*block_range(0, size))
        else:
            for first, last in blocks.dirty.runs(*block_range(0, size)):
                start = piece_of(max(0, piece_of(first * BLOCK) - PIECE))
                hot.add(*block_range(start, min(piece_of(last * BLOCK - 1) + 2 * PIECE, size)))
        if blocks.base is None:
            for stored in self._uploads.stored(protected=False):
                hot.discard(*stored.blocks)
        hot.subtract(blocks.remote.blocks)
        return hot
