"""Tracks which parts of a version have the right MD5 in the local file.

The ETag of a plain object is the MD5 of its bytes, and so is that of a segment that is not an SLO itself.
"""

import logging
import re
from bisect import bisect_right
from collections.abc import Iterator
from itertools import islice, takewhile

from msgspec import Struct

from swiftfs.filecache.block_map import BLOCK, BaseVersion, block_range
from swiftfs.filecache.block_set import Blocks
from swiftfs.objects import Manifest, ObjectName

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

    def __init__(self, *, done: bool) -> None:
        self.running = 0
        self.begin(done=done)

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
