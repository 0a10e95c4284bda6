"""Reads a file without the cache's disk while that has no room: by a small local file in memory."""

import logging
import os
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from msgspec.structs import replace

from swiftfs.concurrency import ended_threads, monotonic, thread_id
from swiftfs.errors import PreconditionFailed, is_disk_full
from swiftfs.filecache.block_map import BLOCK, BaseVersion, block_range
from swiftfs.filecache.eviction import MOST_THREADS
from swiftfs.filecache.file_state import FileState
from swiftfs.filecache.sparse_file import write_all
from swiftfs.objects import FileSpan

log = logging.getLogger(__name__)

MEMORY = 2 * 1024 * 1024
"""Bytes that a file keeps in memory, besides what was answered last to each thread."""

AHEAD = 1024 * 1024
"""Bytes that are downloaded ahead into memory: a request for each read would be far too many."""

RETRY_SECONDS = 5.0
"""For so long the disk counts as full: each attempt to use it costs a request."""


class FileInMemory(Protocol):
    """A cached file of one version whose local file is in memory; nobody changes it."""

    @property
    def descriptor(self) -> int: ...

    @property
    def base(self) -> BaseVersion | None: ...

    def read(self, offset: int, size: int) -> FileSpan: ...

    def allocated(self) -> int: ...

    def evict(self, size: int) -> int: ...


class MemoryReader:
    """Answers the reads of one file: from its local file, or from memory while the disk is full.

    `make` returns a file in memory. It has blocks of the base version only; what the local file has, such as
    changes, is put beside them for each answer.
    """

    def __init__(self, state: FileState, make: Callable[[FileState, BaseVersion], FileInMemory]) -> None:
        self._state = state
        self._make = make
        self._memory: FileInMemory | None = None
        self._answers: dict[int, _Answer] = {}
        self._full_until = 0.0

    def read(self, offset: int, end: int, download: Callable[[int, int], None]) -> FileSpan:
        """Return where the bytes are from `offset` to `end`; `download` gets those that the local file lacks.

        Raise the errors of `download`; that of a full disk only for bytes that no version in Swift has.
        """
        if monotonic() < self._full_until:
            # `download` finds out whether an upload of ours has replaced the version.
            with suppress(PreconditionFailed):
                if (span := self._read(offset, end)) is not None:
                    return span
        try:
            download(offset, end)
        except OSError as error:
            if not is_disk_full(error):
                raise
            self._full_until = monotonic() + RETRY_SECONDS
            if (span := self._read(offset, end)) is None:
                raise
            return span
        if self._memory is not None:
            self._memory.evict(self._memory.allocated())
        return FileSpan(self._state.descriptor, offset, end - offset)

    def close(self) -> None:
        """Free the memory; nobody reads the file any more. Lock held."""
        self._memory, self._answers = None, {}

    def _read(self, offset: int, end: int) -> FileSpan | None:
        """Return where the bytes are in memory; None if they are in the local file, or in own segments."""
        state, blocks = self._state, self._state.blocks
        while True:
            with state.changed:
                base, is_here = blocks.base, blocks.is_present(offset, end)
                if base is None or is_here or blocks.remote.blocks.touches(*block_range(offset, end)):
                    return None
                memory = self._file_of(base)
            memory.read(offset, end - offset)
            # Without the lock, which has the rank of the state's.
            memory.evict(memory.allocated() - MEMORY)
            with state.changed:
                if blocks.is_from(base) and not blocks.remote.blocks.touches(*block_range(offset, end)):
                    self._learn_etag(memory)
                    return self._answer(memory.descriptor, offset, end)

    def _file_of(self, base: BaseVersion) -> FileInMemory:
        """Return the file in memory of a version. Lock held."""
        of = self._memory.base if self._memory is not None else None
        if self._memory is None or of is None or _identity(of) != _identity(base):
            log.debug("%s is read without the cache, whose disk is full", base.name)
            self._memory = self._make(self._state, base)
        return self._memory

    def _learn_etag(self, memory: FileInMemory) -> None:
        """Take the ETag of the version that was read if none was known. Lock held."""
        blocks = self._state.blocks
        if memory.base is not None and blocks.base is not None and not blocks.base.etag:
            blocks.base = replace(blocks.base, etag=memory.base.etag)

    def _answer(self, descriptor: int, offset: int, end: int) -> FileSpan:
        """Return where the bytes of the version in memory are, with what the local file has. Lock held."""
        state, (first, last) = self._state, block_range(offset, end)
        missing = list(state.blocks.missing(first, last))
        if missing == [(first, last)]:
            return FileSpan(descriptor, offset, end - offset)
        # Not in the file in memory: its bytes are verified by the MD5 of the version.
        answer = self._answer_of_thread()
        write_all(answer, os.pread(state.descriptor, end - offset, offset), 0)
        for one, other in missing:
            start, stop = max(one * BLOCK, offset), min(other * BLOCK, end)
            write_all(answer, os.pread(descriptor, stop - start, start), start - offset)
        return FileSpan(answer, 0, end - offset)

    def _answer_of_thread(self) -> int:
        """Return a file for the next answer to this thread, which has taken the last one."""
        if len(self._answers) >= MOST_THREADS:
            for thread in ended_threads(list(self._answers)):
                self._answers.pop(thread, None)
        return self._answers.setdefault(thread_id(), _Answer()).descriptor


class _Answer:
    """A file without a name in memory, closed when this object is freed."""

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("swiftfs-answer")
        weakref.finalize(self, os.close, self.descriptor)


def _identity(base: BaseVersion) -> tuple[object, ...]:
    return base.name, base.etag, base.size, base.object_size
