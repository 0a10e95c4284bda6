"""Where a cached file has holes, for lseek(2)."""

import errno
import os

from swiftfs.errors import os_error
from swiftfs.filecache.block_map import BLOCK
from swiftfs.filecache.file_state import FileState
from swiftfs.filecache.sparse_file import next_data, next_hole


class HoleFinder:
    """Finds holes and data of one file. What is not in the local file counts as data."""

    def __init__(self, state: FileState) -> None:
        self._state = state

    def seek(self, offset: int, whence: int) -> int:
        """Return where data (SEEK_DATA) or a hole (SEEK_HOLE) begins, from `offset` on.

        The file's end is a hole. Raise `OSError` ENXIO behind it, or if there is no data up to it.
        """
        if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
            raise os_error(errno.EINVAL)
        with self._state.changed:
            size = self._state.blocks.size
            if not 0 <= offset < size:
                raise os_error(errno.ENXIO)
            if whence == os.SEEK_HOLE:
                return self._hole(offset, size)
            if (found := self._data(offset, size)) >= size:
                raise os_error(errno.ENXIO)
            return found

    def _data(self, offset: int, size: int) -> int:
        run = self._state.blocks.first_missing(offset, size)
        # The local file has a hole where nothing was downloaded, or was evicted.
        missing = max(run[0] * BLOCK, offset) if run is not None else size
        return min(next_data(self._state.descriptor, offset, size), missing)

    def _hole(self, offset: int, size: int) -> int:
        at = offset
        while (at := next_hole(self._state.descriptor, at, size)) < size:
            run = self._state.blocks.first_missing(at, size)
            if run is None or run[0] * BLOCK > at:
                break
            at = min(run[1] * BLOCK, size)
        return at
