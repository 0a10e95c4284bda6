"""A file that changes during each of its uploads: after some in vain the next one reads a copy."""

import logging

from swiftfs.errors import SwiftfsError
from swiftfs.filecache.block_map import BLOCK, Blocks, Snapshot, block_range
from swiftfs.filecache.downloader import Downloader
from swiftfs.filecache.file_state import FileState
from swiftfs.filecache.frozen_copy import FrozenCopy, refuse_without_room
from swiftfs.filecache.patch_plan import PIECE, piece_of
from swiftfs.filecache.segment_uploader import SegmentUploader

log = logging.getLogger(__name__)

OFTEN = 3
"""After so many uploads in a row that writers have overtaken, the next one sends a copy of one moment."""


class FrozenCopier:
    """Makes the copy of one file that an upload reads: `frozen`, guarded by the file's lock.

    `_overtaken` counts uploads in a row that were in vain, and `_touched` are the blocks that have changed
    since a copy for the next one was begun, None while none is made.
    """

    def __init__(self, state: FileState, uploads: SegmentUploader, downloader: Downloader) -> None:
        self._state = state
        self._uploads = uploads
        self._downloader = downloader
        self._overtaken = 0
        self._touched: Blocks | None = None
        self.frozen: FrozenCopy | None = None

    def begin(self) -> FrozenCopy | None:
        """Copy what the next upload reads, while writers go on.

        Return None where no copy is needed yet, or that is not possible.
        """
        if self._overtaken < OFTEN:
            return None
        state = self._state
        folder = state.file.path.parent
        try:
            state.pin()
            with state.changed:
                wanted, size = self._hot(), state.blocks.size
                self._touched = Blocks()
            still = FrozenCopy(folder)
            if not (is_clone := still.clone(state.descriptor)):
                state.space.on_growth(len(wanted) * BLOCK)
                refuse_without_room(folder, len(wanted) * BLOCK)
            for first, last in wanted.runs(*block_range(0, size)):
                self._downloader.ensure(first * BLOCK, min(last * BLOCK, size))
            if not is_clone:
                still.copy(state.descriptor, wanted, size)
                still.blocks = wanted
        except (OSError, SwiftfsError) as error:
            log.info("%s: it is stored without a copy of one moment: %s", state.file.path.name, error)
            self._touched = None
            return None
        return still

    def end(self, still: FrozenCopy) -> FrozenCopy | None:
        """Copy what has changed meanwhile, which no writer can now; None where that fails. Lock held."""
        state = self._state
        size = state.blocks.size
        touched, self._touched = self._touched or Blocks(), None
        wanted = self._hot()
        for run in list(state.blocks.missing(*block_range(0, size))):
            wanted.discard(*run)
        try:
            if still.clone(state.descriptor):
                still.blocks = wanted
                return still
            still.blocks.subtract(touched)
            todo = wanted.copy()
            todo.subtract(still.blocks)
            still.copy(state.descriptor, todo, size)
            still.blocks.update(todo)
        except OSError as error:
            log.info("%s: it is stored without a copy of one moment: %s", state.file.path.name, error)
            return None
        return still

    def touch(self, offset: int, end: int) -> None:
        """Record that the bytes from `offset` to `end` have changed. Lock held."""
        if self._touched is not None:
            self._touched.add(*block_range(offset, end))

    def count_overtaken(self) -> None:
        """Record that an upload was in vain, because the file has changed. Lock held."""
        self._overtaken += 1

    def stored(self, taken: Snapshot) -> None:
        """Record that a snapshot is stored. Lock held."""
        self.frozen = None
        if not taken.changed:
            self._overtaken = 0

    def covers(self, size: int) -> bool:
        """Return whether no change can reach the first `size` bytes of the upload. Lock held."""
        return self.frozen is not None and self.frozen.covers(0, size)

    def _hot(self) -> Blocks:
        """Return the blocks that an upload reads and a writer may change. Lock held.

        A patch reads the pieces that have changed, and sometimes their neighbours; where that was not enough
        all of the file is read. Segments that are stored already and not evicted are not read.
        """
        blocks = self._state.blocks
        size = blocks.size
        hot = Blocks()
        if blocks.origin is None or self._overtaken >= 2 * OFTEN:
            hot.add(*block_range(0, size))
        else:
            for first, last in blocks.dirty.runs(*block_range(0, size)):
                start = piece_of(max(0, piece_of(first * BLOCK) - PIECE))
                hot.add(*block_range(start, min(piece_of(last * BLOCK - 1) + 2 * PIECE, size)))
        if blocks.origin is None:
            for placed in self._uploads.stored(promised=False):
                hot.discard(*placed.blocks)
        hot.subtract(blocks.remote.blocks)
        return hot
