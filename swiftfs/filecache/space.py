"""What a cached file asks before it takes disk space; the disk of a cache folder, and the wait for space."""

import enum
import errno
import math
import shutil
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from swiftfs.concurrency import Rank, monotonic, new_condition
from swiftfs.config.cache_dir import JOURNAL_RESERVE
from swiftfs.errors import is_disk_full, os_error
from swiftfs.filecache.block_map import BlockMap
from swiftfs.sqlite import KEPT

ATTEMPTS = 8
"""How often room is made for one write: others may take it."""


class Space:
    """What a cached file asks before it takes disk space. This one is for a file of no cache: all is granted.

    The caller holds no lock of a file, except for `progress`.
    """

    def grow(self, size: int) -> None:
        """Record that `size` bytes are about to be downloaded or copied."""

    def wait(self, file: BlockMap, size: int) -> None:
        """Return when `size` bytes may be written to `file`; raise `OSError` if there will be none."""

    def download(self, _size: int, download: Callable[[], None]) -> None:
        """Call `download`, which fetches about `_size` bytes for a change, again when a full disk has space.

        Raise its `OSError` if there will be no space.
        """
        download()

    def progress(self) -> None:
        """Record that something was stored, or is not needed any more: writers that wait look again."""

    def has_room(self, _size: int) -> bool:
        """Return whether `_size` bytes may be added to the disk."""
        return True

    def accepts(self, _size: int) -> bool:
        """Return whether `_size` bytes that have come may be written; not each call asks the disk."""
        return True

    def has_spare(self, _size: int) -> bool:
        """Return whether `_size` bytes leave the disk ample: a copy is only made then."""
        return True

    def make_room(self, _size: int, *, is_ahead: bool) -> bool:  # noqa: ARG002
        """Evict about `_size` bytes for a download; return whether anything was evicted.

        For one that `is_ahead` of the readers nothing is evicted that they are about to read.
        """
        return False

    def with_room(self, size: int, write: Callable[[], None], *, is_ahead: bool = False) -> None:
        """Call `write`, which writes up to `size` bytes; when the disk is full make room and call it again.

        Raise its `OSError` if there is no room.
        """
        for _ in range(ATTEMPTS):
            try:
                return self._write(size, write)
            except OSError as error:
                if not (is_disk_full(error) and self.make_room(size, is_ahead=is_ahead)):
                    raise
        return self._write(size, write)

    def _write(self, size: int, write: Callable[[], None]) -> None:
        if not self.accepts(size):
            raise os_error(errno.ENOSPC)
        write()


UNLIMITED = Space()

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


PATIENCE = 120.0
"""Seconds without progress after which a write fails because the disk is full. A server that restarts is back
sooner; a program that hangs in write() for longer would seem dead."""

PAUSE = 1.0
"""Seconds between two checks without progress: each begins uploads that failed again."""


class SpaceOutlook(enum.Enum):
    """What a writer can expect: there is space, there will be some, or there will be none."""

    SPACE = enum.auto()
    HOPE = enum.auto()
    NONE = enum.auto()


class SpaceWaiter:
    """Wakes writers that wait, at each progress. Its lock comes after all others of the cache and journal.

    Their patience is longer by `slowness` seconds, which a limit of the mount adds to an upload.
    """

    def __init__(self, slowness: Callable[[], float]) -> None:
        self._slowness = slowness
        self._changed = new_condition(Rank.SPACE)
        self._progress = 0

    def progress(self) -> None:
        """Record that something was stored, or is not needed any more."""
        with self._changed:
            self._progress += 1
            self._changed.notify_all()

    def wait(self, check: Callable[[], SpaceOutlook]) -> bool:
        """Call `check` after each progress until there is space; return False if there will be none."""
        seen, deadline = -1, 0.0
        while True:
            # Read before the check: progress during the check ends the wait at once.
            before = self._progress
            # As long as anything is stored the writer waits, however long all of it takes.
            if before != seen:
                seen, deadline = before, monotonic() + PATIENCE + self._slowness()
            if (outlook := check()) is not SpaceOutlook.HOPE:
                return outlook is SpaceOutlook.SPACE
            rest = deadline - monotonic()
            if rest <= 0:
                return False
            # At most PAUSE: uploads that failed are begun again by `check`, and their failure is no progress.
            self._wait(seen, min(rest, PAUSE))

    def _wait(self, seen: int, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._progress != seen, seconds)
