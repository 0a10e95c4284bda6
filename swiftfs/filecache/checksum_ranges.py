"""The parts of a version whose MD5 is known, and which of them are right in the local file.

A plain object's ETag is the MD5 of its bytes, and so is that of a segment that is no SLO itself.
"""

import logging
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, takewhile

from swiftfs.filecache.block_map import BLOCK, BaseVersion, Blocks, block_range
from swiftfs.objects import ObjectName

log = logging.getLogger(__name__)

_MD5 = re.compile(r"[0-9a-f]{32}")


def is_md5(etag: str) -> bool:
    """Return whether an ETag may be the MD5 of a plain object's bytes."""
    return bool(_MD5.fullmatch(etag))


@dataclass(slots=True, eq=False)
class ChecksumRange:
    """The bytes of a file from `start` to `end`, whose MD5 is `etag`: those of the object or segment `name`.

    `right` says that the bytes here are, `changes` counts what makes an earlier look at them worthless. After
    one of the `mismatches` the bytes are fetched again; after two the object or the way to it is at fault,
    and `failure` says so.
    """

    name: ObjectName
    etag: str
    start: int
    end: int
    right: bool = False
    running: bool = False
    changes: int = 0
    mismatches: int = 0
    failure: str = ""

    @property
    def blocks(self) -> tuple[int, int]:
        """The blocks, first and one past the last, that have bytes of it."""
        return block_range(self.start, self.end)

    def whole_blocks(self, size: int) -> tuple[int, int]:
        """Return the blocks that hold no byte of another part in an object of `size` bytes."""
        return -(-self.start // BLOCK), (block_range(0, size)[1] if self.end >= size else self.end // BLOCK)

    @property
    def is_due(self) -> bool:
        """Return whether its bytes are to be looked at when all of them are here."""
        return not (self.right or self.running or self.failure)


class ChecksumRanges:
    """What is known of the bytes of one version, guarded by the content's lock. `done`: that all are right.

    `running` counts what is under way: looks at bytes, and the question which segments there are. That is
    `asked` once at most.
    """

    def __init__(self, *, done: bool) -> None:
        self.running = 0
        self.begin(done=done)

    def begin(self, *, done: bool) -> None:
        """Begin anew, with the bytes of another version, or with our own."""
        self.done = done
        self.asked = False
        self._parts: list[ChecksumRange] = []

    def due(self, origin: BaseVersion, present: Blocks, first: int, last: int) -> Iterator[ChecksumRange]:
        """Yield the parts to look at now that the blocks from `first` to `last` are here."""
        if self.done:
            return
        if not self._parts:
            self._parts = list(_parts_of(origin))
        for part in self._touching(first, last):
            if part.is_due and present.covers(*part.blocks):
                part.running = True
                yield part

    def forget(self, first: int, last: int) -> None:
        """Record that blocks are not here any more."""
        self.done = False
        for part in self._touching(first, last):
            part.right = False
            part.changes += 1

    def failure(self, first: int, last: int) -> str:
        """Return what is wrong with a block of the range, empty if nothing is known."""
        return next((part.failure for part in self._touching(first, last) if part.failure), "")

    def is_looking_at(self, first: int, last: int) -> bool:
        """Return whether a look at a block of the range is under way."""
        return any(part.running for part in self._touching(first, last))

    @property
    def has_failed(self) -> bool:
        """Return whether any part is wrong for good."""
        return any(part.failure for part in self._parts)

    def learn(self, part: ChecksumRange, changes: int, digest: str) -> bool:
        """Record the MD5 that a part had after so many `changes`; return whether it is wrong."""
        self.running -= 1
        part.running = False
        if part.changes != changes or part not in self._parts:
            return False
        if digest == part.etag:
            part.right = True
            self.done = all(one.right for one in self._parts)
            return False
        said = f"{part.name}: the bytes that came have the MD5 {digest} instead of {part.etag}"
        part.mismatches += 1
        if part.mismatches == 1:
            log.info("%s; they are fetched again", said)
        else:
            part.failure = said
            log.error("%s, twice", said)
        return True

    def _touching(self, first: int, last: int) -> Iterator[ChecksumRange]:
        # In the order of the file, and none overlaps another.
        index = bisect_right(self._parts, first * BLOCK, key=lambda part: part.end)
        return takewhile(lambda part: part.start < last * BLOCK, islice(self._parts, index, None))


def _parts_of(origin: BaseVersion) -> Iterator[ChecksumRange]:
    if origin.manifest is None:
        if _MD5.fullmatch(origin.etag):
            yield ChecksumRange(origin.name, origin.etag, 0, origin.size)
        return
    start = 0
    for segment in origin.manifest.segments:
        if segment.length is None and not segment.nested and _MD5.fullmatch(segment.etag):
            yield ChecksumRange(segment.name, segment.etag, start, start + segment.size)
        start += segment.span
