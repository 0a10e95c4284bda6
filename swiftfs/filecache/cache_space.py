"""The local files of a cache folder that are in use, and the limit of the disk space that all files take.

`CacheSpace` evicts what Swift has, and lets writers wait.
"""

import errno
import logging
from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from swiftfs.concurrency import Rank, new_lock
from swiftfs.errors import is_disk_full, os_error
from swiftfs.filecache.block_map import BlockMap
from swiftfs.filecache.cached_file import CachedFile
from swiftfs.filecache.segment_uploader import SegmentUploader
from swiftfs.filecache.space import MIB, CacheDisk, Space, SpaceOutlook, SpaceWaiter
from swiftfs.filecache.version_cache import VersionCache
from swiftfs.objects import ObjectName, ObjectVersion
from swiftfs.sqlite import KEPT

log = logging.getLogger(__name__)


class Use(Struct):
    """The use of a local file: `users` counts the openings, `pins` the operations that need it.

    `older` of the pins are of states that only a power cut would bring back. While the file is suspended
    `cached_file` is None, and it takes `bytes` of disk.
    """

    name: ObjectName
    cached_file: CachedFile | None
    users: int = 1
    pins: int = 0
    older: int = 0
    bytes: int = 0

    @property
    def is_wanted(self) -> bool:
        """Whether it is more than an older state."""
        return self.users > 0 or self.pins > self.older


class Uses:
    """The uses by the names of the local files. The lock, which is the file cache's, guards all.

    A file that only waits for one operation of the journal can be put away: then it is not in `by_file`, and
    only that operation knows of it. There are `away` such files, with `away_bytes` of disk. `_journaled` are
    files of an earlier process that were not used yet, by the objects they are to be stored as. Nobody uses
    those that are `closing`: their downloads have not ended.
    """

    def __init__(self) -> None:
        self.lock = new_lock(Rank.CACHE, reentrant=True)
        self.by_file: dict[str, Use] = {}
        self.closing: dict[ObjectVersion, CachedFile] = {}
        self._journaled: dict[str, ObjectName] = {}
        self.away = self.away_bytes = 0

    def cached_files(self) -> list[CachedFile]:
        """Return the files that are used and not suspended. Lock held."""
        return [use.cached_file for use in self.by_file.values() if use.cached_file is not None]

    def occupied(self) -> int:
        """Return how many bytes of disk all these files take. Lock held."""
        suspended = sum(use.bytes for use in self.by_file.values() if use.cached_file is None)
        open_files = (*self.cached_files(), *self.closing.values())
        return self.away_bytes + suspended + sum(one.allocated() for one in open_files)

    def unsaved(self) -> int:
        """Return how many bytes of disk hold what Swift does not have. Lock held."""
        suspended = sum(use.bytes for use in self.by_file.values() if use.cached_file is None)
        return self.away_bytes + suspended + sum(one.unsaved() for one in self.cached_files())

    def expect(self, journaled: dict[str, ObjectName]) -> None:
        """Record the files that operations of an earlier process name, and the objects they are of.

        Each is taken out of `journaled` when it is used.
        """
        self._journaled = journaled

    def begin_journaled(self, file: str) -> None:
        """Begin the use of such a file, if it is one that is not used yet."""
        if (name := self._take_journaled(file)) is not None:
            self.by_file[file] = Use(name, None, users=0)

    def put_away_unused(self, file: str) -> bool:
        """Put away such a file that nobody has used yet; return False if it is none."""
        with self.lock:
            is_unused = self._take_journaled(file) is not None
            self.away += is_unused
            return is_unused

    def _take_journaled(self, file: str) -> ObjectName | None:
        name = self._journaled.pop(file, None)
        if name is not None and not self._journaled:
            self._journaled.clear()  # an empty one that had 100,000 names still takes their memory
        return name

    def put_away(self, file: str) -> int | None:
        """Forget a suspended file that one operation pins, and return its bytes; else None."""
        with self.lock:
            use = self.by_file.get(file)
            if use is None or use.cached_file is not None or use.users or use.older or use.pins != 1:
                return None
            del self.by_file[file]
            self.away += 1
            self.away_bytes += use.bytes
            return use.bytes

    def bring_back(self, file: str, name: ObjectName, size: int) -> None:
        """Record again a file that was put away with `size` bytes of disk, and is to be stored as `name`."""
        with self.lock:
            self.by_file[file] = Use(name, None, users=0, pins=1, bytes=size)
            self.away -= 1
            self.away_bytes -= size


class Backlog(Protocol):
    """The part of the journal that the cache calls.

    `uses` are the uses of the cache's local files; the journal puts some of them away. `abandon` and
    `release` are called with the cache's lock held, so they must not wait.
    """

    @property
    def uses(self) -> Uses: ...

    def start_uploads_for_space(self) -> bool:
        """Begin to store the files that wait; return whether any change will be tried by itself."""

    def abandon(self, uploads: SegmentUploader) -> None:
        """Delete, in another thread, the segments of a file that will never be stored."""

    def release(self, uploads: SegmentUploader) -> None:
        """Delete, in another thread, the segments that a stored file does not need."""


SMALL = 1024 * 1024
"""Files up to this size that only wait for the journal are closed: there may be more of them than
descriptors."""


def can_be_restored(cached_file: CachedFile) -> bool:
    """Return whether the record has all there is to keep of a local file, and no upload reads it."""
    # Clean bytes would have to be downloaded again, and the object may be gone.
    if cached_file.size > SMALL or cached_file.has_more_than_record():
        return False
    # In this order: an upload may end between the two checks, but then `has_begun` is True.
    return not (cached_file.uploads.is_busy or cached_file.uploads.record.has_begun)


LARGEST_AUTOMATIC = 10 * 1024 * MIB
"""Bytes of the largest limit that is chosen by default."""

ROOM = 1 * MIB
"""Bytes that are evicted at least when the disk has no room for a download."""

PINNED_SHARE = 0.9
"""How much of the cache may be pinned. The least recently used pinned copies beyond that are as others."""


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

    def wait(self, file: BlockMap, size: int) -> None:
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

    def _outlook(self, file: BlockMap, size: int) -> SpaceOutlook:
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
