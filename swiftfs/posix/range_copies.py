"""`copy_file_range`: the server copies a file's bytes, so that `cp` in the mount moves none of them."""

import errno
import logging
import os

from swiftfs.errors import StoreError, os_error
from swiftfs.filecache.range_copier import CopySource
from swiftfs.filecache.segment_layout import SegmentLayout
from swiftfs.posix.file_ops import FileOps
from swiftfs.posix.open_file import OpenFile
from swiftfs.posix.open_files import OpenFiles

log = logging.getLogger(__name__)

LEAST = 1024 * 1024
"""Smaller objects without segments are not copied by the server. Its copy takes two COPYs, and ten minutes
later a HEAD and a part of a bulk delete, instead of one GET and one PUT with the bytes."""

CHUNK = 1024 * 1024
"""Bytes in each step of a copy through this machine."""


class RangeCopies:
    """Lets the server copy ranges of files; EOPNOTSUPP lets the kernel read and write them instead."""

    def __init__(self, open_files: OpenFiles, layout: SegmentLayout, files: FileOps) -> None:
        self._open_files = open_files
        self._layout = layout
        self._files = files

    def copy_file_range(
        self, handle_in: int, offset_in: int, handle_out: int, offset_out: int, length: int, flags: int
    ) -> int:
        """Copy bytes from one file to another; return how many, 0 at the end of the source.

        Fewer are copied where the rest is cheaper in another way. Raise `OSError` EOPNOTSUPP for what the
        server cannot copy, or not cheaper: the caller reads and writes the bytes then.
        """
        if flags:
            raise os_error(errno.EINVAL)
        source, opened = self._open_files.handle(handle_in).file, self._open_files.handle(handle_out)
        if not opened.writable or opened.append:
            raise os_error(errno.EBADF)
        length = min(length, source.cached_file.size - offset_in)
        if length <= 0:
            return 0
        target = opened.file
        if source is target:
            raise os_error(errno.EOPNOTSUPP)
        with target.lock:
            copied = self._copy(source, offset_in, target, offset_out, length)
            if copied:
                self._files.touch(target)
                return copied
        raise os_error(errno.EOPNOTSUPP)

    def _copy(self, source: OpenFile, offset_in: int, target: OpenFile, offset_out: int, length: int) -> int:
        """Copy and return how many bytes; the target's lock is held."""
        if offset_out < target.cached_file.size or target.unlinked:
            return 0
        here: int | None = 0
        if self._is_segmented(source, offset_in, offset_out, length):
            here = self._before_segment(offset_out, length)
            if here is None:
                return 0
        elif offset_in or offset_out or not self._is_worth_it(source, length):
            return 0
        if (found := self._version_of(source)) is None:
            return 0
        if here:
            return self._copy_here(source, offset_in, target, offset_out, here)
        return target.cached_file.ranges.copy(found, offset_in, offset_out, length)

    def _is_segmented(self, source: OpenFile, offset_in: int, offset_out: int, length: int) -> bool:
        """Return whether the target will be a large object, as far as is known."""
        # A program may copy a large file in small steps.
        rest = source.cached_file.size if offset_in == offset_out else 0
        return max(offset_out + length, rest) > self._layout.bounds(0)[1]

    def _before_segment(self, offset: int, length: int) -> int | None:
        """Return how many bytes come before the first segment of the target that begins among these.

        Return None if none does, or if it does not end among them and something is before it.
        """
        if offset + length > self._layout.largest_file:
            return None
        index = self._layout.index(offset)
        if self._layout.bounds(index)[0] == offset:
            return 0
        start, end = self._layout.bounds(index + 1)
        return start - offset if end <= offset + length else None

    def _is_worth_it(self, source: OpenFile, length: int) -> bool:
        """Return whether the server should copy a file of one object."""
        is_whole = length == source.cached_file.size
        return is_whole and length >= LEAST and not source.cached_file.ranges.is_present(0, length)

    def _version_of(self, source: OpenFile) -> CopySource | None:
        """Return the version that the server may copy for what a reader of `source` gets; None if none."""
        entry = source.entry
        if entry is not None and entry.meta is not None and entry.meta.is_dlo:
            return None  # its ETag says nothing of the bytes
        is_slo = entry.is_slo if entry is not None else None
        try:
            return source.cached_file.ranges.source(is_slo=is_slo)
        except StoreError as error:
            log.info("%s is not copied by the server: %s", source.path, error)
            return None

    def _copy_here(
        self, source: OpenFile, offset_in: int, target: OpenFile, offset_out: int, length: int
    ) -> int:
        """Copy the bytes before the next segment of the target, as a reader and a writer would."""
        copied = 0
        while copied < length:
            span = source.cached_file.read(offset_in + copied, min(CHUNK, length - copied))
            data = os.pread(span.descriptor, span.length, span.position)

            def fill(descriptor: int, position: int, data: bytes = data) -> int:
                # All that a full disk takes of it has to count: not `write_all`, which raises an error then.
                return os.pwrite(descriptor, data, position)

            if not data or not (size := target.cached_file.write(offset_out + copied, len(data), fill)):
                break
            copied += size
        return copied
