"""What the parts of one cached file share: its state with the lock, and which bytes have the right MD5.

The ETag of a plain object is the MD5 of its bytes, and so is that of a segment that is not an SLO itself.
"""

import errno
import logging
import os
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from itertools import islice, takewhile
from pathlib import Path

from msgspec import Struct

from swiftfs.concurrency import Executor, Rank, new_condition
from swiftfs.errors import CutFile, os_error
from swiftfs.filecache.block_map import BLOCK, BaseVersion, BlockMap, FileRecord, block_range
from swiftfs.filecache.block_set import Blocks
from swiftfs.filecache.read_ahead import Streams
from swiftfs.filecache.space import Space
from swiftfs.filecache.sparse_file import CachedVersion, SparseFile, next_data, next_hole, punch_hole
from swiftfs.objects import Manifest, ObjectName, check_transition
from swiftfs.store.protocol import ObjectStore

log = logging.getLogger(__name__)

_MD5 = re.compile(r"[0-9a-f]{32}")


def is_md5(etag: str) -> bool:
    """Return whether an ETag may be the MD5 of a plain object's bytes."""
    return bool(_MD5.fullmatch(etag))


class ChecksumRange(Struct, eq=False):
    """The bytes of a file from `start` to `end`, whose MD5 is `etag`: those of the object or segment `name`.

    `right` means that the local bytes have this MD5. `changes` counts changes of them: a check that began
    before the last one proves nothing right, and nothing at all if some were `evicted` since it began. After
    one of the `mismatches` the bytes are downloaded again. After two the object or the network is at fault,
    and `failure` is the message.
    """

    name: ObjectName
    etag: str
    start: int
    end: int
    right: bool = False
    running: bool = False
    changes: int = 0
    evicted: bool = False
    mismatches: int = 0
    failure: str = ""

    @property
    def blocks(self) -> tuple[int, int]:
        """The blocks, first and one past the last, that have bytes of the range."""
        return block_range(self.start, self.end)

    def whole_blocks(self, size: int) -> tuple[int, int]:
        """Return the blocks that have no byte of another range in an object of `size` bytes."""
        return -(-self.start // BLOCK), (block_range(0, size)[1] if self.end >= size else self.end // BLOCK)

    @property
    def is_due(self) -> bool:
        """Whether the bytes are to be checked when all of them are present."""
        return not (self.right or self.running or self.failure)


class ChecksumRanges:
    """The checks of one version's bytes, guarded by the file's lock. `done` means that all bytes are right.

    `running` counts the checks and the request for the segments that are under way. `asked` means that these
    were requested, which happens only once. `dlo` are a DLO's, if a listing has proved that they are the
    version's. Not all bytes can be checked if it is `_partial`: some segments are parts, or SLOs themselves.
    """

    def __init__(self) -> None:
        self.running = 0
        self.begin(done=False)

    def begin(self, *, done: bool) -> None:
        """Forget everything, because the bytes are those of another version or our own."""
        self.done = done
        self.asked = False
        self.dlo: Manifest | None = None
        self._partial = False
        self._ranges: list[ChecksumRange] = []

    def due(self, base: BaseVersion, present: Blocks, first: int, last: int) -> Iterator[ChecksumRange]:
        """Yield the ranges to check now that the blocks from `first` to `last` are present."""
        if self.done:
            return
        if not self._ranges:
            manifest = base.manifest or self.dlo
            self._ranges = list(_ranges_of(base, manifest))
            if manifest is not None and len(self._ranges) < len(manifest.segments):
                self._partial = True
        for part in self._touching(first, last):
            if part.is_due and present.covers(*part.blocks):
                part.running, part.evicted = True, False
                yield part

    def leave_out(self, part: ChecksumRange) -> None:
        """Do not check a range any more: its ETag is no MD5."""
        self._partial = True
        if part in self._ranges:
            self._ranges.remove(part)

    def forget(self, first: int, last: int, *, evicted: bool) -> None:
        """Record that blocks are not present any more: `evicted`, or wrong."""
        self.done = False
        for part in self._touching(first, last):
            part.right = False
            part.changes += 1
            part.evicted |= evicted

    def failure(self, first: int, last: int) -> str:
        """Return the failure of a range with any of the blocks, empty if there is none."""
        return next((part.failure for part in self._touching(first, last) if part.failure), "")

    def is_checking(self, first: int, last: int) -> bool:
        """Return whether a check of any of the blocks is under way."""
        return any(part.running for part in self._touching(first, last))

    @property
    def has_failed(self) -> bool:
        """Whether any range has failed."""
        return any(part.failure for part in self._ranges)

    def learn(self, part: ChecksumRange, changes: int, digest: str) -> bool:
        """Record the MD5 that a range had after so many `changes`; return whether it is wrong."""
        self.running -= 1
        part.running = False
        if part not in self._ranges:
            return False
        if part.changes != changes:
            # A block that it shares with a wrong range was dropped, and may be here again with other bytes.
            # All that the check has read was downloaded, and some of it is wrong: maybe not in that block.
            return digest != part.etag and not part.evicted
        if digest == part.etag:
            part.right = True
            self.done = not self._partial and all(one.right for one in self._ranges)
            return False
        message = f"{part.name}: the downloaded bytes have the MD5 {digest} instead of {part.etag}"
        part.mismatches += 1
        if part.mismatches == 1:
            log.info("%s; they are downloaded again", message)
        else:
            part.failure = message
            log.error("%s, twice", message)
        return True

    def _touching(self, first: int, last: int) -> Iterator[ChecksumRange]:
        # The ranges are sorted and do not overlap.
        index = bisect_right(self._ranges, first * BLOCK, key=lambda part: part.end)
        return takewhile(lambda part: part.start < last * BLOCK, islice(self._ranges, index, None))


def _ranges_of(base: BaseVersion, manifest: Manifest | None) -> Iterator[ChecksumRange]:
    if manifest is None:
        if _MD5.fullmatch(base.etag):
            yield ChecksumRange(base.name, base.etag, 0, base.size)
        return
    start = 0
    for segment in manifest.segments:
        if segment.length is None and not segment.nested and _MD5.fullmatch(segment.etag):
            name = base.name if segment.data else segment.name
            yield ChecksumRange(name, segment.etag, start, start + segment.size)
        start += segment.span


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
    describes this state. With `keeps_all` nothing is evicted until the next version is stored: the base
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
        on_wrong_bytes: WrongBytesCall = ignore_wrong_bytes,
        *,
        is_certain: bool,
    ) -> None:
        self.file = file
        self.descriptor = file.descriptor
        self.blocks = blocks
        self.space = space
        self.changed = new_condition(Rank.CONTENT)
        self.checks = ChecksumRanges()
        self.is_certain = is_certain
        self.is_recorded = False
        self._on_wrong_bytes = on_wrong_bytes
        self.keeps_all = False
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
        state = cls(file, blocks, space, on_wrong_bytes, is_certain=cached is not None)
        state.checks.done = is_checked
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
        state = cls(file, BlockMap.restore(record), space, on_wrong_bytes, is_certain=bool(record.dirty))
        state.is_recorded = True
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

    def keep_all(self) -> None:
        """Evict nothing before the next version is stored: the base may go, or an upload maps the file."""
        with self.changed:
            self.keeps_all = True

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
