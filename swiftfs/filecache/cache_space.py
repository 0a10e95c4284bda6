"""The limit of all files in a cache folder, and its disk: evicts what Swift has, lets writers wait."""

import enum
import errno
import logging
import math
import shutil
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from swiftfs.concurrency import Rank, monotonic, new_condition
from swiftfs.config.cache_dir import JOURNAL_RESERVE
from swiftfs.errors import is_disk_full, os_error
from swiftfs.filecache.space import HasSize, Space
from swiftfs.filecache.uses import Backlog
from swiftfs.filecache.version_cache import VersionCache
from swiftfs.sqlite import KEPT

log = logging.getLogger(__name__)

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


LARGEST_AUTOMATIC = 10 * 1024 * MIB
"""Bytes of the largest limit that is chosen by default."""

ROOM = 1 * MIB
"""Bytes that are evicted at least when the disk has no room for a download."""

PINNED_SHARE = 0.9
"""How much of the cache may be pinned. The least recently used pinned copies beyond that are as others."""


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

    def __init__(self, slowness: Callable[[], float] = lambda: 0.0) -> None:
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


class CacheSpace(Space):
    """Limits the files of a cache to `limit` bytes of `disk`; None is half of what is free, at most 10 GiB.

    Copies that nobody uses are evicted first, in the order of their last use, then blocks of open files that
    can be downloaded again. Data that is not in Swift stays. A writer waits while more than the limit, or
    than the space that its segments need (`needed`, by its file's size), is not in Swift and some of it is
    being stored. The lock is the cache's. A limit of the mount makes uploads slower by `slowness` seconds.
    """

    def __init__(
        self,
        disk: CacheDisk,
        limit: int | None,
        versions: VersionCache,
        backlog: Backlog,
        needed: Callable[[int], int],
        slowness: Callable[[], float],
    ) -> None:
        self._disk = disk
        self._versions = versions
        self._backlog = backlog
        self._uses = backlog.uses
        self._lock = self._uses.lock
        self._needed = needed
        self._writers = SpaceWaiter(slowness)
        self.limit = min(LARGEST_AUTOMATIC, (disk.free() + versions.bytes) // 2) if limit is None else limit

    def set_limit(self, limit: int) -> None:
        """Change the limit, and evict what exceeds it."""
        self.limit = limit
        self.fit()
        self.progress()

    def grow(self, size: int) -> None:
        if self._disk.is_due(size):
            self.fit()

    def wait(self, file: HasSize, size: int) -> None:
        if self._disk.is_ample_for(size):
            return
        if not self._writers.wait(lambda: self._outlook(file, size)):
            self._disk.look_again()
            raise os_error(errno.ENOSPC)

    def download(self, size: int, download: Callable[[], None]) -> None:
        failures: list[OSError] = []

        def is_done() -> bool:
            # The first attempt makes room itself; another one costs a request.
            if failures and not self._disk.has_free(size):
                return False
            try:
                download()
            except OSError as error:
                if not is_disk_full(error):
                    raise
                failures.append(error)
                return False
            return True

        def outlook() -> SpaceOutlook:
            if is_done():
                return SpaceOutlook.SPACE
            hope = self._start_uploads()
            self.fit(size)
            return SpaceOutlook.HOPE if hope else SpaceOutlook.SPACE if is_done() else SpaceOutlook.NONE

        if not self._writers.wait(outlook):
            raise failures[-1]

    def progress(self) -> None:
        self._writers.progress()

    def has_room(self, size: int) -> bool:
        return self._disk.has_room(size)

    def accepts(self, size: int) -> bool:
        return self._disk.accepts(size)

    def has_spare(self, size: int) -> bool:
        return self._disk.lacking() + size <= 0

    def make_room(self, size: int, *, is_ahead: bool) -> bool:
        size = max(size, ROOM)
        with self._lock:
            if self._evict(size) > 0 or (not is_ahead and self._evict(size, ahead=True) > 0):
                self._disk.evicted()
                return True
            if not is_ahead and self._disk.is_first_failure():
                log.warning(
                    "the disk of the cache folder is full, and nothing in it can be evicted: files are read "
                    "without the cache, which is slower; free space on that disk"
                )
            return False

    def freed(self, size: int) -> None:
        """Record that the journal does not need a file of `size` bytes any more."""
        self._disk.freed(size)
        self.progress()

    def fit(self, more: int = 0) -> None:
        """Evict until `more` bytes fit into the budget, as far as Swift has the data."""
        with self._lock:
            self._evict(max(self._occupied() - self.limit, self._disk.lacking()) + more)

    def use(self) -> tuple[int, int]:
        """Return how many bytes of disk the files take, and how many of them Swift does not have."""
        with self._lock:
            return self._occupied(), self._uses.unsaved()

    def room(self) -> int:
        """Return how many bytes of its disk the cache may take when everything in it is evicted."""
        with self._lock:
            return max(self._disk.free() + self._occupied() - KEPT, 0)

    def _occupied(self) -> int:
        return self._versions.bytes + self._uses.occupied()

    def _evict(self, size: int, *, ahead: bool = False) -> int:
        """Evict about `size` bytes; return how many. Lock held."""
        if size <= 0:
            return 0
        if (freed := self._versions.evict(size, self._most_pinned())) >= size:
            return freed
        covers = self._versions.pins.covers
        used = [
            (use.cached_file, use.pins > 0, covers(use.name))
            for use in self._uses.by_file.values()
            if use.cached_file is not None
        ]
        # Clean files first: what is evicted of a dirty one is fetched from its segments before it is changed
        # again. Pinned ones last.
        for cached_file, journaled, _ in sorted(used, key=lambda one: (one[2], one[0].is_dirty())):
            if freed >= size:
                break
            freed += cached_file.evict(size - freed, journaled=journaled, ahead=ahead)
        return freed

    def _most_pinned(self) -> int:
        return int(self.limit * PINNED_SHARE)

    def _outlook(self, file: HasSize, size: int) -> SpaceOutlook:
        """Free what can be freed at once, and begin the uploads that will free more."""
        # Segments are on the disk until they are stored, however small the limit is.
        pinned = min(self._versions.pinned_bytes, self._most_pinned())
        limit = max(self.limit - pinned, self._needed(file.size))
        self.fit(size)
        before = self._unsaved()
        if before + size <= limit and self._disk.lacking() <= 0:
            return SpaceOutlook.SPACE
        hope = self._start_uploads()
        self.fit(size)  # an upload may have ended meanwhile
        unsaved = self._unsaved()
        is_over = unsaved + size > limit
        if not is_over and (self._disk.lacking() <= 0 or not hope) and self._disk.has_room(size):
            return SpaceOutlook.SPACE  # others fill the disk: write() fails when it is full
        # What other writers have added since can be uploaded, so there is hope again.
        return SpaceOutlook.HOPE if hope or unsaved != before else SpaceOutlook.NONE

    def _start_uploads(self) -> bool:
        """Begin what can free space; return whether anything is under way, or will be tried by itself."""
        # Without the cache's lock: this takes the journal's, which comes first.
        hope = self._backlog.start_uploads_for_space()
        with self._lock:
            # The journal keeps older states until it is synced, whatever becomes of its tasks.
            is_older = any(use.older for use in self._uses.by_file.values())
            hope = self._upload_full_segments() or hope or is_older
            # Only if nothing else helps: a segment that is not full is uploaded again when more of it is
            # written.
            return hope or self._upload_full_segments(holes=True)

    def _unsaved(self) -> int:
        with self._lock:
            return self._uses.unsaved()

    def _upload_full_segments(self, *, holes: bool = False) -> bool:
        """Begin to upload full segments; return whether any upload is under way. Lock held."""
        wanted = [use.cached_file for use in self._uses.by_file.values() if use.cached_file and use.is_wanted]
        busy = [cached_file.upload_full_segments(holes=holes) for cached_file in wanted]
        return any(busy)
