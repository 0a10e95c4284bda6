"""What the parts of one cached file share: its state with the lock, and the activity that is under way."""

import errno
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from enum import Enum
from pathlib import Path

from msgspec import Struct

from swiftfs.concurrency import Executor, Rank, new_condition
from swiftfs.errors import CutFile, check_transition, os_error
from swiftfs.filecache.block_map import BLOCK, BaseVersion, BlockMap, FileRecord, StoredSegment
from swiftfs.filecache.block_set import Blocks
from swiftfs.filecache.checksum_ranges import ChecksumRanges
from swiftfs.filecache.read_ahead import Stream, Streams
from swiftfs.filecache.segment_uploader import SegmentUploader
from swiftfs.filecache.space import Space
from swiftfs.filecache.sparse_file import CachedVersion, SparseFile, next_data, next_hole, punch_hole
from swiftfs.store.protocol import ObjectStore

WrongBytesCall = Callable[[str], None]


def ignore_wrong_bytes(_local_file: str) -> None:
    """Do nothing: no kernel reads the file."""


class LocalFile(Enum):
    """What has become of the local file."""

    OPEN = "open"
    SUSPENDED = "suspended"
    """It is closed, and the journal's record restores it."""
    CACHED = "cached"
    """It is the cache's, for the next open of the version."""
    DISCARDED = "discarded"
    """It is deleted when the last download and the last upload have ended."""


FOLLOWING: Mapping[LocalFile, tuple[LocalFile, ...]] = {
    LocalFile.OPEN: (LocalFile.SUSPENDED, LocalFile.CACHED, LocalFile.DISCARDED),
    LocalFile.SUSPENDED: (),
    LocalFile.CACHED: (),
    LocalFile.DISCARDED: (LocalFile.DISCARDED,),
}


class FileState:
    """The state of one cached file. `changed` is its lock, and is notified of arriving blocks.

    The lock guards every field and each change of the local file; it is not held across the network.
    INVARIANT: the local file is never made shorter while it is used. Uploads map it, and reading a page
    behind the end is a SIGBUS.

    `is_certain` means that an answer of Swift had the base version's ETag, or that no other version may be
    taken any more; until then the ETag is from a listing. `is_recorded` means that the journal's record
    describes this state. Of a `pinned` file nothing is evicted until the next version is stored: the base
    version may be gone by then, or an upload maps the file. Up to `tail` the local file has bytes behind the
    file's end, which an older state has.

    `on_wrong_bytes` is called, without the lock, with the local file's name when bytes that a reader may have
    were found wrong. They are not present then, or replaced.
    """

    def __init__(
        self,
        file: SparseFile,
        blocks: BlockMap,
        space: Space,
        *,
        is_certain: bool,
        is_checked: bool = False,
        is_recorded: bool = False,
        on_wrong_bytes: WrongBytesCall = ignore_wrong_bytes,
    ) -> None:
        self.file = file
        self.descriptor = file.descriptor
        self.blocks = blocks
        self.space = space
        self.changed = new_condition(Rank.CONTENT)
        self.checks = ChecksumRanges(done=is_checked)
        self.is_certain = is_certain
        self.is_recorded = is_recorded
        self._on_wrong_bytes = on_wrong_bytes
        self.pinned = False
        self.tail = 0
        self._local_file = LocalFile.OPEN

    @property
    def closed(self) -> bool:
        """Whether the local file must not be used any more, except by what is under way."""
        return self._local_file is not LocalFile.OPEN

    def end(self, local_file: LocalFile) -> None:
        """Record what becomes of the local file; raise `RuntimeError` if it has ended in another way."""
        check_transition("a local file", FOLLOWING, self._local_file, local_file)
        self._local_file = local_file

    @classmethod
    def create(
        cls,
        folder: Path,
        base: BaseVersion | None,
        cached: CachedVersion | None,
        space: Space,
        on_wrong_bytes: WrongBytesCall = ignore_wrong_bytes,
    ) -> "FileState":
        """Return the state of a file with the bytes of `base`; `cached` has some of them."""
        is_checked = cached is not None and cached.checked
        blocks = BlockMap(base, cached.present if cached else None, verified=is_checked)
        file = cached.file if cached else SparseFile.create(folder)
        state = cls(
            file,
            blocks,
            space,
            is_certain=cached is not None,
            is_checked=is_checked,
            on_wrong_bytes=on_wrong_bytes,
        )
        # Full size from the start, even as one hole: no page that an upload maps or the kernel splices lies
        # behind the end.
        state.extend(blocks.size)
        return state

    @classmethod
    def restore(
        cls,
        folder: Path,
        record: FileRecord,
        space: Space,
        on_wrong_bytes: WrongBytesCall = ignore_wrong_bytes,
    ) -> "FileState":
        """Return the state that an earlier process recorded.

        Raise `FileNotFoundError` if the local file is gone, `CutFile` if it is too short.
        """
        file = SparseFile.open(folder, record.file)
        rest = file.mark().size - record.size
        # Longer is possible: see `punch_hole` below. A shorter file has lost bytes that close() had accepted.
        if rest < 0:
            file.close()
            raise CutFile(str(file.path), "too short")
        # A block that was written in part has bytes of the base version.
        is_certain = bool(record.dirty)
        state = cls(
            file,
            BlockMap.restore(record),
            space,
            is_certain=is_certain,
            is_recorded=True,
            on_wrong_bytes=on_wrong_bytes,
        )
        state.extend(record.base.size if record.base is not None else 0)
        # Not ftruncate(2): the file must stay as long as the base version.
        punch_hole(file.descriptor, record.size, rest)  # bytes of a writer that never closed the file
        return state

    def extend(self, size: int) -> None:
        """Make the local file `size` bytes long, if it is shorter; bytes behind the file's end are zeros."""
        self.zero_tail()
        if size and os.fstat(self.descriptor).st_size < size:
            os.ftruncate(self.descriptor, size)

    def zero_tail(self) -> None:
        """Make the bytes behind the file's end zeros, and free their disk space. Lock held."""
        # A hole instead of ftruncate(2): an upload may have these pages mapped, and would die of SIGBUS.
        punch_hole(self.descriptor, self.blocks.size, self.tail - self.blocks.size)
        self.tail = 0

    def seek(self, offset: int, whence: int) -> int:
        """Return where data (SEEK_DATA) or a hole (SEEK_HOLE) begins, from `offset` on.

        What is not in the local file counts as data, and the file's end as a hole. Raise `OSError` ENXIO
        behind it, or if there is no data up to it.
        """
        if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
            raise os_error(errno.EINVAL)
        with self.changed:
            size = self.blocks.size
            if not 0 <= offset < size:
                raise os_error(errno.ENXIO)
            if whence == os.SEEK_HOLE:
                return self._hole(offset, size)
            if (found := self._data(offset, size)) >= size:
                raise os_error(errno.ENXIO)
            return found

    def _data(self, offset: int, size: int) -> int:
        run = self.blocks.first_missing(offset, size)
        # The local file has a hole where nothing was downloaded, or was evicted.
        missing = max(run[0] * BLOCK, offset) if run is not None else size
        return min(next_data(self.descriptor, offset, size), missing)

    def _hole(self, offset: int, size: int) -> int:
        at = offset
        while (at := next_hole(self.descriptor, at, size)) < size:
            run = self.blocks.first_missing(at, size)
            if run is None or run[0] * BLOCK > at:
                break
            at = min(run[1] * BLOCK, size)
        return at

    def pin(self) -> None:
        """Evict nothing before the next version is stored."""
        with self.changed:
            self.pinned = True

    def found_wrong_bytes(self) -> None:
        """Tell that bytes were found wrong, and are not in the local file any more. Lock not held."""
        self._on_wrong_bytes(self.file.name)

    def begin_change(self) -> None:
        """Forget the checks and the journal's record, because the bytes change. Lock held."""
        self.checks.begin(done=False)
        self.is_recorded = False


class FileSource(Struct, frozen=True):
    """Where a file's bytes come from: the store, the threads that get them, and its readers' streams."""

    store: ObjectStore
    pool: Executor
    streams: Streams


class GivenUp(Exception):
    """Nobody wants the bytes of a download any more."""


class Download:
    """A download of the blocks from `first` to one before `last`; `error` is raised in all who wait for them.

    A `queued` download has not begun and may be cancelled; it was begun `in_advance`. One that runs `ahead`
    of a stream may be stopped while nobody is `waiting` for one of its blocks; it is `unwanted` then.
    `execute` carries it out. All blocks come from one `source`: a segment of the file's own, or the base
    version if it is None.
    """

    def __init__(
        self,
        first: int,
        last: int,
        execute: "Callable[[Download], None]",
        source: StoredSegment | None = None,
        *,
        queued: bool = False,
        ahead: Stream | None = None,
    ) -> None:
        self.first = first
        self.last = last
        self.execute = execute
        self.source = source
        self.queued = self.in_advance = queued
        self.ahead = ahead
        self.waiting: list[int] = []
        self.unwanted = False
        self.error: BaseException | None = None

    def is_awaited(self, first: int, last: int) -> bool:
        """Return whether anybody waits for a block of the range."""
        return any(first <= block < last for block in self.waiting)

    def refuse_unwanted(self) -> None:
        """Raise `GivenUp` if nobody wants the bytes any more."""
        if self.unwanted:
            raise GivenUp


class Downloads:
    """The downloads of one file that have not ended. Guarded by the file's lock."""

    def __init__(self) -> None:
        self._under_way: list[Download] = []

    def add(self, fetch: Download) -> Download:
        """Record a new download and return it."""
        self._under_way.append(fetch)
        return fetch

    def begin(self, fetch: Download) -> bool:
        """Record that a queued download begins; return False if it was cancelled, or has begun."""
        # Neither can take it out of the pool, where it waits for a thread.
        is_wanted = fetch.queued and fetch in self._under_way
        fetch.queued = False
        return is_wanted

    def end(self, fetch: Download) -> None:
        """Record that a download has ended."""
        self._under_way.remove(fetch)

    def cancel(self, streams: Collection[Stream] | None = None) -> None:
        """Cancel the downloads that have not begun, and stop those that run ahead and nobody waits for.

        With `streams` only those that run ahead of them.
        """
        left = [
            fetch
            for fetch in self._under_way
            if streams is None or any(fetch.ahead is stream for stream in streams)
        ]
        self._under_way = [fetch for fetch in self._under_way if not (fetch.queued and fetch in left)]
        for fetch in left:
            fetch.unwanted = fetch.unwanted or (fetch.ahead is not None and not fetch.waiting)

    def free(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Yield the runs of the range that nobody downloads."""
        taken = Blocks()
        for fetch in self.touching(first, last):
            taken.add(fetch.first, fetch.last)
        return taken.missing(first, last)

    def covers(self, first: int, last: int) -> bool:
        """Return whether every block of the range is being downloaded."""
        return not any(True for _ in self.free(first, last))

    def touching(self, first: int, last: int) -> list[Download]:
        """Return the downloads that have a block of the range."""
        return [
            fetch
            for fetch in self._under_way
            # An unwanted one still runs, but gives up at its next bytes: whoever needs them begins another.
            if fetch.first < last and first < fetch.last and not fetch.unwanted
        ]

    def ranges(self) -> list[tuple[int, int]]:
        """Return the ranges of blocks that are being downloaded."""
        return [(fetch.first, fetch.last) for fetch in self._under_way]

    def __bool__(self) -> bool:
        return bool(self._under_way)


class Activity:
    """The running downloads, checks and uploads of one file, and who waits for their end.

    Each part calls `ended` after each of its steps, without the lock. The parts know this object, and it
    knows none of them but the uploads: a cycle of references would keep a closed file in memory.
    """

    def __init__(self, state: FileState, uploads: SegmentUploader) -> None:
        self._state = state
        self._uploads = uploads
        self._idle: Callable[[], None] | None = None
        self.fetches = Downloads()

    def is_idle(self) -> bool:
        """Return whether nothing is under way. Lock held."""
        return not (self.fetches or self._state.checks.running or self._uploads.is_busy)

    def ended(self) -> None:
        """Wake those who wait; call `idle` of `when_idle` if nothing is under way any more."""
        with self._state.changed:
            self._state.changed.notify_all()
            # Taken with the lock, so that one thread of several that end at once calls it.
            idle = self._idle if self.is_idle() else None
            if idle is not None:
                self._idle = None
        # Without the lock: it takes that of the cache.
        if idle is not None:
            idle()

    def when_idle(self, idle: Callable[[], None]) -> None:
        """Cancel the downloads and uploads that nobody needs; call `idle` when the others have ended.

        It is called in any thread, and at once when nothing is under way.
        """
        with self._state.changed:
            is_idle = self.is_idle()
            self._idle = None if is_idle else idle
        if is_idle:  # mostly, such as a file that was just stored
            idle()
            return
        self.cancel_queued()
        self.ended()

    def cancel_queued(self) -> None:
        """Cancel what nobody needs and has not begun; uploads that continue will call `ended`."""
        with self._state.changed:
            self.fetches.cancel()
        for upload in self._uploads.cancel_queued():
            upload.stored.add_done_callback(lambda _: self.ended())
