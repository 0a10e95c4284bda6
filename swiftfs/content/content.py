"""A file's bytes: a local file that fills itself from one version of an object and takes changes.

The kernel reads and writes the local file by its descriptor. A reader gets the bytes of one version and its
own changes, never a mixture.
"""

import errno
import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from swiftfs.content.blocks import BLOCK, Blocks, block_range
from swiftfs.content.filled import FilledFile
from swiftfs.content.localfile import Kept, punch_hole
from swiftfs.content.origin import Origin
from swiftfs.content.patches import PIECE, piece_of
from swiftfs.errors import os_error
from swiftfs.model import FileSpan, Manifest, ObjectInfo, ObjectName
from swiftfs.store.protocol import ObjectStore

LARGE_PIECES = 4
"""An object of more pieces is changed by a patch, which takes whole pieces."""

Fill = Callable[[int, int], int]
"""Copies the bytes of a write into a descriptor at a position, and returns how many it copied."""


class Watcher(Protocol):
    """Is told the offset and length in bytes of every change, while the content's lock is held."""

    def written(self, offset: int, length: int) -> None:
        """Bytes were written."""

    def changed(self, offset: int, length: int) -> None:
        """Bytes changed otherwise: the file was truncated or extended."""


class Content(FilledFile):
    """The bytes of one open or cached file.

    INVARIANT: the local file is not made shorter while it is used: uploads map it, and a page behind the end
    kills.
    """

    def __init__(
        self,
        store: ObjectStore,
        pool: Executor,
        directory: Path,
        origin: Origin | None,
        read_ahead: int,
        kept: Kept | None = None,
    ) -> None:
        super().__init__(store, pool, directory, origin, read_ahead, kept)
        self.watcher: Watcher | None = None

    def read(self, offset: int, size: int) -> FileSpan:
        """Return where the bytes from `offset` lie, downloading what is missing.

        Fewer than `size` bytes come only where the file ends. Raise `PreconditionFailed` (ESTALE) when the
        version is gone, and what the store raises.
        """
        end = min(offset + size, self.size)
        if end <= offset:
            return FileSpan(self.descriptor, offset, 0)
        # The kernel takes the bytes after this has returned, but before this thread reads again.
        self._answers[threading.get_ident()] = block_range(offset, end)
        self._read_ahead(offset, end)
        self.ensure(offset, end)
        return FileSpan(self.descriptor, offset, end - offset)

    def write(self, offset: int, size: int, fill: Fill) -> int:
        """Let `fill` copy `size` bytes to `offset`; return how many it copied.

        A block that the write covers in part is downloaded first.
        """
        end = offset + size
        _, last = block_range(offset, end)
        for edge in {offset // BLOCK, last - 1}:
            if not offset <= edge * BLOCK < (edge + 1) * BLOCK <= end:
                self._ensure_edge(edge * BLOCK)
        self.grew(size)
        with self._changed:
            copied = self._counted(offset, size, fill(self.descriptor, offset))
            blocks = block_range(offset, offset + copied)
            self._present.add(*blocks)
            self._dirty.add(*blocks)
            self._check.forget()
            self.size = max(self.size, offset + copied)
            if self.watcher:
                self.watcher.written(offset, copied)
        return copied

    def truncate(self, size: int) -> None:
        """Make the file `size` bytes long; what is new reads as zeros."""
        if size < self.size and size % BLOCK:
            self.ensure(size - 1, size)
        with self._changed:
            before = self.size
            self._check.forget()
            if size < before:
                if self._origin is not None and size < self._origin.size:
                    self._origin = replace(self._origin, size=size)
                self._present.discard(block_range(0, size)[1], block_range(0, before)[1])
                punch_hole(self.descriptor, size, before - size)
                self.size = size
            else:
                self._dirty.add(*block_range(before, size))
                self._grow(size)
            if self.watcher:
                self.watcher.changed(min(size, before), abs(before - size))

    def _counted(self, offset: int, size: int, copied: int) -> int:
        """Return how much of a write counts: a full disk may cut it inside a block that is not present."""
        end = offset + copied
        if copied == size or not end % BLOCK or self._first_missing(end, end + 1) is None:
            return copied
        if end - end % BLOCK <= offset:
            raise os_error(errno.ENOSPC)
        return end - end % BLOCK - offset

    def _ensure_edge(self, offset: int) -> None:
        """Download the block at `offset`; of a large object its whole piece, which the upload will want."""
        with self._changed:
            large = self._origin is not None and self._origin.whole > LARGE_PIECES * PIECE
        if not large:
            self.ensure(offset, offset + BLOCK)
        elif self._is_missing(offset):
            self.ensure(piece_of(offset), piece_of(offset) + PIECE)

    def _is_missing(self, offset: int) -> bool:
        with self._changed:
            return self._first_missing(offset, offset + BLOCK) is not None

    def ensure_all(self) -> None:
        """Download all that is missing, and keep it."""
        self.pin()
        self.ensure(0, self.size)

    def changes(self) -> Blocks:
        """Return a copy of the blocks that differ from the origin's."""
        with self._changed:
            return self._dirty.copy()

    def adopt(self, info: ObjectInfo, manifest: Manifest | None = None) -> None:
        """Take the stored version `info`, which these bytes are, as the origin; `manifest` is its own."""
        with self._changed:
            missing = self._first_missing(0, self.size)
            self._origin = Origin(info.version.name, info.version.etag, self.size, self.size, manifest)
            self._dirty = Blocks()
            self._pinned = False
            self._check.begin(done=missing is None)
            if missing is None:
                self._present.add(*block_range(0, self.size))
        self.grew(self.size)  # what can be given back did

    def rename(self, name: ObjectName) -> None:
        """Fetch from `name` from now on: the object was moved there."""
        with self._changed:
            if self._origin is not None:
                self._origin = replace(self._origin, name=name)

    def close(self) -> None:
        """Close the local file when the last download has ended."""
        with self._changed:
            self._closed = True
            self._fetches.cancel_queued()
            self._changed.wait_for(self._is_idle)
            self._file.remove()

    def rest(self, idle: Callable[[], None]) -> None:
        """Drop the downloads that have not begun; call `idle` when the others have ended, in any thread."""
        with self._changed:
            self._fetches.cancel_queued()
            if not self._is_idle():
                self._idle = idle
                return
        idle()

    def give_up(self) -> Kept | None:
        """End the content and return its file; None, and go on, unless it holds blocks of a version only."""
        with self._changed:
            if self._closed or not (self._is_idle() and self._is_clean()):
                return None
            if not self._present or self._check.failure:
                return None
            self._closed = True
            # No upload maps it any more, and what keeps the file tells the version's size by its own.
            os.ftruncate(self.descriptor, self.size)
            return Kept(self._file, self._present, self._check.done)
