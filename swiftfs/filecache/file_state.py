"""What the parts of one cached file share: its lock, its local file, and the map of its blocks."""

import errno
import os
from pathlib import Path

from swiftfs.concurrency import Rank, new_condition
from swiftfs.errors import os_error
from swiftfs.filecache.block_map import BaseVersion, BlockMap, FileRecord
from swiftfs.filecache.checksum_ranges import ChecksumRanges
from swiftfs.filecache.space import SpaceCalls
from swiftfs.filecache.sparse_file import CachedVersion, SparseFile, punch_hole


class FileState:
    """The state of one cached file, which `changed` guards.

    The lock guards every field and each change of the local file; it is not held across the network.
    INVARIANT: the local file is not made shorter while it is used: uploads map it, and a page behind the end
    kills.

    With `is_certain` the origin's ETag has been in an answer of Swift, or nothing else can take its place;
    else only a listing has told it. `is_recorded` says that the journal's record is that of this state. A
    `pinned` file gives nothing back to the disk before the next stored version is its origin: the origin may
    go, or an upload maps the file.
    """

    def __init__(
        self,
        file: SparseFile,
        blocks: BlockMap,
        space: SpaceCalls,
        *,
        is_certain: bool,
        is_checked: bool = False,
        is_recorded: bool = False,
    ) -> None:
        self.file = file
        self.descriptor = file.descriptor
        self.blocks = blocks
        self.space = space
        self.changed = new_condition(Rank.CONTENT)
        self.checks = ChecksumRanges(done=is_checked)
        self.is_certain = is_certain
        self.is_recorded = is_recorded
        self.pinned = False
        self.closed = False

    @classmethod
    def create(
        cls, folder: Path, origin: BaseVersion | None, kept: CachedVersion | None, space: SpaceCalls
    ) -> "FileState":
        """Return the state of a file with the bytes of `origin`, of which `kept` has some."""
        is_checked = kept is not None and kept.checked
        blocks = BlockMap(origin, kept.present if kept else None, verified=is_checked)
        file = kept.file if kept else SparseFile.create(folder)
        state = cls(file, blocks, space, is_certain=kept is not None, is_checked=is_checked)
        state.extend(blocks.size)
        return state

    @classmethod
    def restore(cls, folder: Path, record: FileRecord, space: SpaceCalls) -> "FileState":
        """Return the state that another process recorded.

        Raise `OSError` if the local file is not there or too short.
        """
        file = SparseFile.open(folder / record.file)
        rest = file.mark().size - record.size
        if rest < 0:
            file.close()
            raise os_error(errno.EIO, str(file.path))
        # A block that was written in part has bytes of the origin.
        is_certain = bool(record.dirty)
        state = cls(file, BlockMap.restore(record), space, is_certain=is_certain, is_recorded=True)
        state.extend(record.origin.size if record.origin is not None else 0)
        punch_hole(file.descriptor, record.size, rest)  # what a writer left who never closed it
        return state

    def extend(self, size: int) -> None:
        """Make the local file `size` bytes long, if it is shorter."""
        os.ftruncate(self.descriptor, max(size, os.fstat(self.descriptor).st_size))

    def pin(self) -> None:
        """Give nothing back to the disk before the next version is stored."""
        with self.changed:
            self.pinned = True

    def begin_change(self) -> None:
        """Record that the bytes are about to differ from all that is known of them. Lock held."""
        self.checks.begin(done=False)
        self.is_recorded = False
