"""A file on a full disk: blocks that can be downloaded again are evicted, reads need no room for theirs."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from typing import Protocol

from msgspec.structs import replace

from swiftfs.concurrency import ended_threads, monotonic, thread_id
from swiftfs.errors import PreconditionFailed, is_disk_full
from swiftfs.filecache.block_map import BLOCK, BaseVersion, StoredSegment, block_range
from swiftfs.filecache.block_set import Blocks
from swiftfs.filecache.file_state import Downloads, FileState
from swiftfs.filecache.read_ahead import Streams
from swiftfs.filecache.segment_uploader import SegmentUploader
from swiftfs.filecache.sparse_file import punch_hole, write_all
from swiftfs.objects import FileSpan

log = logging.getLogger(__name__)

MOST_THREADS = 64
"""With so many threads in `_answers`, those that have ended are forgotten: libfuse's threads come and go."""


class Evictor:
    """Evicts blocks of one file: frees their disk space.

    INVARIANT: blocks that Swift's object does not have are not evicted between a record of the file and the
    next change, because the record does not say that they are in a segment; nor during an upload of the file.
    INVARIANT: the bytes that the upload of a segment reads are not evicted until it has ended, even if nobody
    needs it any more.
    INVARIANT: no block is evicted that an answer to the kernel points to: `_answers` has the last one of each
    thread that has not ended.
    """

    def __init__(
        self, state: FileState, uploads: SegmentUploader, streams: Streams, fetches: Downloads
    ) -> None:
        self._state = state
        self._uploads = uploads
        self._streams = streams
        self._fetches = fetches
        self._answers: dict[int, tuple[int, int]] = {}

    def keep_for_answer(self, offset: int, end: int) -> None:
        """Keep the bytes from `offset` to `end` until this thread's next answer.

        The kernel takes the bytes after the answer was returned, but before this thread reads again.
        """
        thread = thread_id()
        if len(self._answers) >= MOST_THREADS and thread not in self._answers:
            self._forget_ended()
        self._answers[thread] = block_range(offset, end)

    def evict(self, size: int, *, journaled: bool, ahead: bool = False) -> int:
        """Evict about `size` bytes that can be downloaded again; return how many were evicted.

        Blocks after the position of the last reader are evicted first, then those before it, both in the
        order of the file. A `journaled` file keeps the blocks that the journal's record needs. With `ahead`
        what its readers will read next is evicted too.
        """
        state = self._state
        with state.changed:
            if state.closed or state.pinned:
                return 0
            position, last = self._streams.position // BLOCK, block_range(0, state.blocks.size)[1]
            evictable = self._evictable(journaled=journaled)
            self._forget_ended()
            coming = [] if ahead else [block_range(*needed) for needed in self._streams.needed()]
            # Blocks that are about to be read, are being downloaded, or are about to be spliced by the
            # kernel.
            for needed in [*coming, *self._fetches.ranges(), *self._answers.values()]:
                evictable.discard(*needed)
            freed = 0
            for first, end in chain(evictable.runs(position, last), evictable.runs(0, position)):
                if freed >= size:
                    break
                stop = min(end, first + block_range(0, size - freed)[1])
                self._evict_blocks(first, stop)
                freed += (stop - first) * BLOCK
            return freed

    def _forget_ended(self) -> None:
        """Forget the answers to threads that have ended: the kernel has taken these."""
        for thread in ended_threads(list(self._answers)):
            self._answers.pop(thread, None)

    def _evict_blocks(self, first: int, last: int) -> None:
        state = self._state
        state.blocks.drop(first, last)
        # The base version has all blocks of a clean file, so nothing is recorded of its segments.
        if not state.blocks.is_clean():
            for stored in self._segments(journaled=False, within=(first * BLOCK, last * BLOCK)):
                begin, end = max(first, stored.blocks[0]), min(last, stored.blocks[1])
                if begin < end:
                    state.blocks.remote.add(stored, begin, end)
        state.checks.forget(first, last, evicted=True)
        punch_hole(state.descriptor, first * BLOCK, (last - first) * BLOCK)

    def _evictable(self, *, journaled: bool) -> Blocks:
        """Return the blocks that can be downloaded again, from the base version or from stored segments."""
        state, blocks = self._state, self._state.blocks
        is_clean = blocks.is_clean()
        evictable = blocks.present.copy() if is_clean and not journaled else Blocks()
        # Between a record and the next change nothing more may be evicted: the record says that the local
        # file has it.
        if not is_clean and (journaled or not state.is_recorded):
            for stored in self._segments(journaled=journaled):
                for run in blocks.remote.blocks.missing(*stored.blocks):
                    evictable.add(*run)
        # A superseded upload too, or one of a part of a stored segment: it maps these bytes until it has
        # ended.
        for upload in self._uploads.under_way() if evictable else ():
            evictable.discard(*block_range(upload.start, upload.end))
        return evictable

    def _segments(self, *, journaled: bool, within: tuple[int, int] | None = None) -> Iterator[StoredSegment]:
        """Yield stored segments with the file's present bytes, none of them of the base version.

        Those whose blocks are all evicted are left out. With `within`, a range of bytes, only segments that
        have any of these.
        """
        blocks = self._state.blocks
        for stored in self._uploads.stored(protected=journaled, within=within, beside=blocks.remote.whole):
            if blocks.is_own(stored):
                yield stored


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

    def discard(self) -> None: ...


MakeInMemory = Callable[[FileState, BaseVersion], FileInMemory]
"""Makes a file in memory of a version, to read the file of a state from."""


class MemoryReader:
    """Answers the reads of one file: from its local file, or from memory while the disk is full.

    `make` returns a file in memory. It has blocks of the base version only; what the local file has, such as
    changes, is put beside them for each answer, in a descriptor of each thread (`_mixed`).

    The last one of `_files` is of the present base version. Older ones stay while the last answer to a thread
    is from one of them (`_given`): the kernel takes the bytes after the answer was returned.
    """

    def __init__(self, state: FileState, make: MakeInMemory) -> None:
        self._state = state
        self._make = make
        self._files: list[FileInMemory] = []
        self._given: dict[int, FileInMemory] = {}
        self._mixed: dict[int, int] = {}
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
            if (span := self._read(offset, end)) is not None:
                return span
            with self._state.changed:
                if not self._state.blocks.is_present(offset, end):  # nor has another reader found room
                    raise
        for memory in self._files:
            memory.evict(memory.allocated())
        return FileSpan(self._state.descriptor, offset, end - offset)

    def close(self) -> None:
        """Close the files in memory as soon as their downloads have ended; nobody reads the file any more."""
        if not self._files:
            return
        with self._state.changed:
            files, self._files, self._given = self._files, [], {}
            mixed, self._mixed = self._mixed, {}
        for descriptor in mixed.values():
            os.close(descriptor)
        for memory in files:
            memory.discard()

    def _read(self, offset: int, end: int) -> FileSpan | None:
        """Return where the bytes are in memory; None if they are in the local file, or in own segments."""
        state, blocks = self._state, self._state.blocks
        while True:
            with state.changed:
                base, is_here = blocks.base, blocks.is_present(offset, end)
                if base is None or is_here or blocks.remote.blocks.touches(*block_range(offset, end)):
                    return None
                if state.closed:
                    return None
                memory = self._file_of(base)
            memory.read(offset, end - offset)
            # Without the lock, which has the rank of the state's.
            memory.evict(memory.allocated() - MEMORY)
            with state.changed:
                span = self._answer(memory, base, offset, end)
                unneeded = self._take_unneeded()
            for one in unneeded:
                one.discard()
            if span is not None:
                return span

    def _file_of(self, base: BaseVersion) -> FileInMemory:
        """Return the file in memory of a version. Lock held."""
        of = self._files[-1].base if self._files else None
        if of is None or _identity(of) != _identity(base):
            log.debug("%s is read without the cache, whose disk is full", base.name)
            self._files.append(self._make(self._state, base))
        return self._files[-1]

    def _take_unneeded(self) -> list[FileInMemory]:
        """Forget the files of older versions that no thread was given last, and return them. Lock held."""
        needed = [*self._given.values(), *self._files[-1:]]
        unneeded = [one for one in self._files if one not in needed]
        self._files = [one for one in self._files if one in needed]
        return unneeded

    def _learn_etag(self, memory: FileInMemory) -> None:
        """Take the ETag of the version that was read if none was known. Lock held."""
        blocks = self._state.blocks
        if memory.base is not None and blocks.base is not None and not blocks.base.etag:
            blocks.base = replace(blocks.base, etag=memory.base.etag)

    def _answer(self, memory: FileInMemory, base: BaseVersion, offset: int, end: int) -> FileSpan | None:
        """Return where the bytes of the version in memory are, with what the local file has. Lock held.

        None if another version is the base by now, or if own segments have some of the bytes.
        """
        state, blocks, (first, last) = self._state, self._state.blocks, block_range(offset, end)
        is_current = memory in self._files[-1:] and blocks.is_from(base)
        if not is_current or blocks.remote.blocks.touches(first, last):
            return None
        self._learn_etag(memory)
        self._forget_ended()
        self._given[thread_id()] = memory
        missing = list(blocks.missing(first, last))
        if missing == [(first, last)]:
            return FileSpan(memory.descriptor, offset, end - offset)
        # Not in the file in memory: its bytes are verified by the MD5 of the version.
        mixed = self._mixed_of_thread()
        write_all(mixed, os.pread(state.descriptor, end - offset, offset), 0)
        for one, other in missing:
            start, stop = max(one * BLOCK, offset), min(other * BLOCK, end)
            write_all(mixed, os.pread(memory.descriptor, stop - start, start), start - offset)
        return FileSpan(mixed, 0, end - offset)

    def _mixed_of_thread(self) -> int:
        """Return a descriptor for the next answer to this thread, which has taken the last one. Lock held."""
        if (descriptor := self._mixed.get(thread_id())) is None:
            descriptor = self._mixed[thread_id()] = os.memfd_create("swiftfs-answer")
        return descriptor

    def _forget_ended(self) -> None:
        """Forget the answers to threads that have ended: the kernel has taken these. Lock held."""
        if len(self._given) < MOST_THREADS:
            return
        for thread in ended_threads(list(self._given)):
            del self._given[thread]
            if (descriptor := self._mixed.pop(thread, None)) is not None:
                os.close(descriptor)


def _identity(base: BaseVersion) -> tuple[object, ...]:
    return base.name, base.etag, base.size, base.object_size
