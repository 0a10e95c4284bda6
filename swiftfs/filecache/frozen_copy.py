"""A copy of a file's bytes of one moment, for a file that changes all the time."""

import errno
import fcntl
import os
import shutil
import weakref
from pathlib import Path

from swiftfs.errors import os_error
from swiftfs.filecache.block_map import BLOCK
from swiftfs.filecache.block_set import Blocks
from swiftfs.filecache.sparse_file import SparseFile, next_data, next_hole, punch_hole

_FICLONE = 0x40049409
"""The ioctl by which a file system makes one file share the blocks of another (ioctl_ficlone(2))."""

RESERVE = 32 * 1024 * 1024
"""Bytes of disk that a copy leaves free."""

_NO_COPY_RANGE = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


class FrozenCopy:
    """A file without a name that holds `blocks` of another one. They do not change once an upload uses it.

    The descriptor is closed when the object is freed, because uploads that have not begun will map it.
    """

    def __init__(self, folder: Path) -> None:
        file = SparseFile.create(folder)
        # Without a name nothing is left of it if the process dies.
        file.path.unlink()
        self.descriptor = file.descriptor
        self.blocks = Blocks()
        weakref.finalize(self, os.close, file.descriptor)

    def covers(self, start: int, end: int) -> bool:
        """Return whether it has the bytes from `start` to `end`."""
        return self.blocks.covers(start // BLOCK, -(-end // BLOCK))

    def allocated(self) -> int:
        """Return how many bytes of disk it takes; blocks that it shares count too."""
        return os.fstat(self.descriptor).st_blocks * 512

    def clone(self, source: int) -> bool:
        """Share all blocks of the file `source`, which takes no disk; return whether that is possible."""
        try:
            fcntl.ioctl(self.descriptor, _FICLONE, source)
        except OSError:
            return False
        return True

    def copy(self, source: int, blocks: Blocks, size: int) -> None:
        """Copy blocks of the file `source`, `size` bytes long, in the kernel; holes stay holes.

        Raise `OSError` ENOSPC when the disk has no space for it.
        """
        if os.fstat(self.descriptor).st_size < size:
            os.ftruncate(self.descriptor, size)
        for first, last in blocks.runs(0, -(-size // BLOCK)):
            start, end = first * BLOCK, min(last * BLOCK, size)
            # The copy may have older bytes here, from `FrozenCopier.begin`, where the source is a hole now.
            punch_hole(self.descriptor, start, end - start)
            while (start := next_data(source, start, end)) < end:
                start += self._copy(source, start, next_hole(source, start, end) - start)

    def _copy(self, source: int, start: int, length: int) -> int:
        try:
            # It shares blocks where the file system can; sendfile(2) is for kernels and file systems without
            # it.
            copied = os.copy_file_range(source, self.descriptor, length, start, start)
        except OSError as error:
            if error.errno not in _NO_COPY_RANGE:
                raise
            os.lseek(self.descriptor, start, os.SEEK_SET)
            copied = os.sendfile(self.descriptor, source, start, length)
        if not copied:  # the source was truncated: `FrozenCopier.end` copies these bytes again
            return length
        return copied


def refuse_without_space(folder: Path, size: int) -> None:
    """Raise `OSError` ENOSPC unless the disk has space for `size` bytes and `RESERVE`."""
    if shutil.disk_usage(folder).free < size + RESERVE:
        raise os_error(errno.ENOSPC, str(folder))
