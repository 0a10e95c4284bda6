"""The disk of the cache folder: how much of it is free, what of that is the journal's, and when to ask."""

import math
import shutil
from pathlib import Path

from msgspec import Struct

from swiftfs.concurrency import monotonic
from swiftfs.config.cache_dir import JOURNAL_RESERVE
from swiftfs.sqlite import KEPT

MIB = 1024 * 1024

STEP = 8 * MIB
"""Bytes that may be added between two looks at the budget, each of which costs an fstat(2) per open file."""

SPARE = 4 * STEP
"""Free bytes below which the disk is scarce, and clean blocks are evicted whatever the budget: several
writers may each be a step ahead."""

ASK_SECONDS = 0.1
"""An ample disk is asked so often, not at each write: that takes a tenth of one."""


class DiskState(Struct, frozen=True):
    """What a disk has said, which counts `until` this time of the clock. Then it is asked before a write."""

    until: float = -math.inf


class Ample(DiskState, frozen=True):
    """More than `SPARE` was free."""


class Scarce(DiskState, frozen=True):
    """Less was free."""


class Full(DiskState, frozen=True, kw_only=True):
    """Nothing could be evicted for a download when so many bytes were `free`; the log has said so."""

    free: int


class CacheDisk:
    """The disk of a cache folder. Not locked: threads may overwrite each other's sum, and ask once more."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._reserve = folder / JOURNAL_RESERVE
        self._state: DiskState = Scarce()
        self._growth = 0
        self._accepted = 0
        """Bytes that have come since the disk was asked."""

    def free(self) -> int:
        """Ask the disk for its free bytes."""
        free = shutil.disk_usage(self._folder).free
        state, self._accepted = self._state, 0
        # A quota may be used up while the disk has space: it is full until there is more than there was.
        if not isinstance(state, Full) or free >= state.free + SPARE:
            self._state = Ample(monotonic() + ASK_SECONDS) if free >= SPARE else Scarce()
        return free

    def lacking(self) -> int:
        """Return how many bytes are missing to an ample disk; negative if it is one."""
        return SPARE - self.free()

    def has_room(self, size: int) -> bool:
        """Return whether `size` bytes may be added: the journal keeps its reserve, or the last space."""
        return self.has_free(size) or self._reserve.exists()

    def accepts(self, size: int) -> bool:
        """Record that `size` bytes have come, and return whether they may be added, as `has_room` does."""
        self._accepted += size
        is_ample = self._accepted < STEP and monotonic() < self._state.until
        return is_ample or self.has_room(size)

    def has_free(self, size: int) -> bool:
        """Return whether `size` bytes may be added, and leave what the journal needs."""
        return self.free() >= size + KEPT

    def is_due(self, size: int) -> bool:
        """Record that `size` bytes will be added; return whether to look at the budget first."""
        self._growth += size
        if self._growth < STEP:
            return False
        self._growth = 0
        return True

    def is_ample_for(self, size: int) -> bool:
        """Record that `size` bytes will be written; return whether they need no look at budget and disk."""
        if self.is_due(size):
            return False
        return monotonic() < self._state.until or self.has_free(size)

    def freed(self, size: int) -> None:
        """Record that the journal does not need a file of `size` bytes any more: it can be evicted."""
        if size >= STEP:
            self.look_again()

    def look_again(self) -> None:
        """Let the next bytes that are added be a reason to look at the budget."""
        self._growth = STEP

    def evicted(self) -> None:
        """Record that something was evicted for a download."""
        if isinstance(self._state, Full):
            self._state = Scarce()

    def is_first_failure(self) -> bool:
        """Record that nothing could be evicted for a download; return whether there was room before."""
        if isinstance(self._state, Full):
            return False
        self._state = Full(free=self.free())
        return True
