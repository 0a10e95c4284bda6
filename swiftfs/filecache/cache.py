"""The cache folder: cached files in use, and local files that are kept for the next open of their version.

`CachedFileFactory` makes cached files. One in use has a local file of its own. When its last user releases it
unchanged, `VersionCache` keeps that local file for the next open.
"""

import errno
import logging
import math
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from swiftfs.concurrency import monotonic
from swiftfs.config.cache_dir import CONTENT, JOURNAL_RESERVE, PINS, VERSIONS
from swiftfs.errors import os_error
from swiftfs.filecache.block_map import BaseVersion, FileRecord
from swiftfs.filecache.cached_file import CachedFile
from swiftfs.filecache.file_factory import CachedFileFactory
from swiftfs.filecache.space import HasSize, SpaceCalls, SpaceOutlook, SpaceWaiter
from swiftfs.filecache.upload_record import UnreferencedPrefix
from swiftfs.filecache.uses import Backlog, Pins, Use, can_be_restored
from swiftfs.filecache.version_cache import PinnedCopies, VersionCache
from swiftfs.objects import ObjectName, ObjectVersion

log = logging.getLogger(__name__)

MIB = 1024 * 1024

LARGEST_AUTOMATIC = 10 * 1024 * MIB
"""Bytes of the largest limit that is chosen by default."""

STEP = 8 * MIB
"""Bytes that may be added between two checks of the budget, each of which costs an fstat(2) per open file."""

RESERVE = 4 * STEP
"""Free bytes of disk below which clean blocks are evicted, whatever the budget: several writers may each be
a step ahead."""

ROOM = 1 * MIB
"""Bytes that are evicted at least when the disk has no room for a download."""

KEPT = 2 * MIB
"""Free bytes of disk that are left to the journal when its reserve is used up. Without them nothing can be
uploaded, which alone would free space, and no mount can begin."""

ASK_SECONDS = 0.1
"""A disk that has much free space is asked for it so often, not at each write: that takes a tenth of one."""

PINNED_SHARE = 0.9
"""How much of the cache may be pinned. The least recently used pinned copies beyond that are as others."""


class FileCache:
    """Makes cached files, keeps those that nobody uses, and limits all of them to `limit` bytes of disk.

    The default limit is half of the free disk, at most 10 GiB. Files that nobody uses are evicted first, in
    the order of their last use, then blocks of open files that can be downloaded again. Data that is not in
    Swift stays. The lock guards the cached versions, the names in the folder and who uses them. It comes
    before the lock of a cached file. Nobody waits for a download while holding it, because every open and
    create needs it.

    `journaled` maps the local files that wait to be stored to the names of their objects; those that are used
    are taken out of it. `lost` is a folder for local files that a damaged journal may have named. A writer
    waits while more than `limit` bytes, or than the space that its segments need, are not in Swift and some
    of them are being stored. Meanwhile it may hold the lock of its own open file and no other. A limit of the
    mount makes uploads slower by `slowness` seconds.
    """

    def __init__(
        self,
        cache: Path,
        limit: int | None,
        factory: CachedFileFactory,
        journaled: dict[str, ObjectName],
        backlog: Backlog,
        lost: Path | None = None,
        slowness: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._folder = cache / CONTENT
        self.factory = factory
        self._backlog = backlog
        self._uses = self._backlog.uses
        self._lock = self._uses.lock
        self._versions = VersionCache(self._folder, cache / VERSIONS, Pins(cache / PINS))
        self.pinned = PinnedCopies(self._lock, self._versions)
        self._closing: dict[ObjectVersion, CachedFile] = {}
        self._used = self._uses.by_file
        self._uses.expect(journaled)
        self._growth, self._is_full = 0, False
        self._asked_at, self._is_tight = -math.inf, False
        self._space = SpaceWaiter(slowness)
        self._calls = SpaceCalls(
            self._on_growth, self._wait_for_space, self._space.progress, self._has_room, self._make_room
        )
        self._reserve = cache / JOURNAL_RESERVE
        self._versions.sweep(journaled, lost)
        self.limit = self._automatic_limit() if limit is None else limit
        self.set_read_ahead(factory.read_ahead)

    def set_limit(self, limit: int) -> None:
        """Change the limit, and evict what exceeds it."""
        self.limit = limit
        self.fit()
        self._space.progress()  # writers that wait look again

    def set_read_ahead(self, size: int) -> None:
        """Change how many bytes are downloaded ahead of the readers of each file, also of an open one."""
        with self._lock:
            # What is read ahead must not evict what is about to be read.
            self.factory.read_ahead = min(size, self.limit // 4)
            files = [use.cached_file for use in self._used.values() if use.cached_file is not None]
            files += self._closing.values()
        for cached_file in files:
            cached_file.set_read_ahead(self.factory.read_ahead)

    def new(self, name: ObjectName, base: BaseVersion | None) -> CachedFile:
        """Return a new cached file without any block, for the caller to release."""
        cached_file = self.factory.make(self._folder, name, base, None, self._calls)
        with self._lock:
            return self._add_use(cached_file, name)

    def __contains__(self, version: ObjectVersion) -> bool:
        """Return whether blocks of `version` are cached."""
        with self._lock:
            return version in self._closing or version in self._versions

    def acquire_version(self, version: ObjectVersion) -> CachedFile | None:
        """Return the cached file of `version`, for the caller to release; None without one."""
        with self._lock:
            # Its downloads have not ended: the new user continues with them.
            cached_file = self._closing.pop(version, None)
            if cached_file is not None:
                return self._add_use(cached_file, version.name)
            if (cached := self._versions.take(version)) is None:
                return None
            size = cached.file.mark().size
            base = BaseVersion(version.name, version.etag, size, size, cached.manifest)
            cached_file = self.factory.make(self._folder, version.name, base, cached, self._calls)
            return self._add_use(cached_file, version.name)

    def find(self, version: ObjectVersion) -> CachedFile | None:
        """Return the cached file of `version`, in use or not, for the caller to release; None without one."""
        with self._lock:
            for use in self._used.values():
                cached_file = use.cached_file
                if cached_file is None or cached_file.is_dirty() or (base := cached_file.base) is None:
                    continue
                if ObjectVersion(base.name, base.etag) == version:
                    use.users += 1
                    return cached_file
            return self.acquire_version(version)

    def is_changing(self, name: ObjectName) -> bool:
        """Return whether a file that is to be stored as `name` has changes that Swift does not have."""
        with self._lock:
            uses = [use for use in self._used.values() if use.name == name]
            return any(
                use.is_wanted and (use.cached_file is None or use.cached_file.is_dirty()) for use in uses
            )

    def prefer(self, versions: Iterable[ObjectVersion], no_more: Iterable[ObjectVersion]) -> None:
        """Evict `versions` last, for they may be the only copies of what was stored; `no_more` as others."""
        with self._lock:
            self._versions.prefer(versions, no_more)

    def moved(self, version: ObjectVersion, name: ObjectName) -> None:
        """Cache a version under `name`: the object was moved there."""
        if (cached_file := self.acquire_version(version)) is not None:
            cached_file.rename(name)
            self.release(cached_file)

    def pin(self, file: str, *, older: bool = False) -> None:
        """Keep the local file `file`, which is in use or journaled, for one operation more.

        That of an `older` row may be gone already, if the disk refused to record that the row has ended.
        """
        with self._lock:
            self._uses.begin_journaled(file)
            if not older or file in self._used:
                use = self._used[file]
                use.pins, use.older = use.pins + 1, use.older + older

    def unpin(self, file: str, *, older: bool = False) -> None:
        """Record that an operation does not need a local file any more."""
        with self._lock:
            if older and file not in self._used:
                return
            use = self._used[file]
            use.pins, use.older = use.pins - 1, use.older - older
            if older and not use.older and use.cached_file is not None:
                with suppress(OSError):  # it is freed when the file grows, or ends
                    use.cached_file.free_tail()
            self._end_or_suspend(file, use)
            if use.cached_file is not None and use.cached_file.size >= STEP:
                self._growth = STEP  # the next growth checks the budget: what is stored can be evicted
        self._space.progress()

    def _most_pinned(self) -> int:
        return int(self.limit * PINNED_SHARE)

    def is_pinned(self, cached_file: CachedFile) -> bool:
        """Return whether the journal needs the local file."""
        with self._lock:
            return self._used[cached_file.file_name].pins > 0

    def detach(self, file: str) -> None:
        """Let a complete file that the journal has pinned forget the version it was opened from."""
        with self._lock:
            if (cached_file := self._used[file].cached_file) is not None:
                cached_file.detach()

    def recall(self, uploads: Iterable[UnreferencedPrefix]) -> None:
        """Take over what an earlier process recorded of the uploads of files that the journal has pinned."""
        self.factory.recalled.update((one.prefix, one) for one in uploads)

    def acquire_pending(self, record: FileRecord) -> CachedFile:
        """Return the file of a record whose local file the journal has pinned, for the caller to release.

        Raise `OSError` when the local file has been changed or is gone.
        """
        with self._lock:
            use = self._used[record.file]
            if use.cached_file is None:
                try:
                    use.cached_file = self.factory.restore(self._folder, use.name, record, self._calls)
                except FileNotFoundError as error:
                    raise os_error(errno.EIO, error.filename) from error  # what waits is not "missing"
                use.bytes = 0
            use.users += 1
            return use.cached_file

    def release(self, cached_file: CachedFile) -> None:
        """Release a file; after its last user it stays cached if it is unchanged."""
        with self._lock:
            file = cached_file.file_name
            use = self._used[file]
            use.users -= 1
            self._end_or_suspend(file, use)

    def _end_or_suspend(self, file: str, use: Use) -> None:
        if use.users:
            return
        if not use.pins:
            self._end(file, use)
        elif (cached_file := use.cached_file) is not None:
            if not use.is_wanted:
                cached_file.uploads.cancel_queued()
            if can_be_restored(cached_file) and (size := cached_file.suspend()) is not None:
                use.cached_file, use.bytes = None, size

    def _end(self, file: str, use: Use) -> None:
        del self._used[file]
        cached_file = use.cached_file
        if cached_file is None:
            (self._folder / file).unlink(missing_ok=True)
        elif cached_file.is_dirty():
            cached_file.discard()
            # In this order: an upload may end between the two checks, but then `has_begun` is True.
            if cached_file.uploads.is_busy or cached_file.uploads.record.has_begun:
                self._backlog.abandon(cached_file.uploads)
        else:
            if cached_file.uploads.has_leftovers:
                self._backlog.release(cached_file.uploads)
            self.keep(cached_file)

    def keep(self, cached_file: CachedFile) -> None:
        """Cache an unchanged file that nobody uses any more, when its downloads under way have ended."""
        base = cached_file.base
        if base is None or not base.etag:
            cached_file.discard()
            return
        version = ObjectVersion(base.name, base.etag)
        with self._lock:
            self._used.pop(cached_file.file_name, None)
            replaced = self._closing.pop(version, None)
            self._closing[version] = cached_file
        if replaced is not None:
            replaced.discard()
        # Without waiting: close(2) of a reader must not take as long as its last download.
        cached_file.when_idle(lambda: self._store(version, cached_file))

    def save_index(self) -> None:
        """Write what is new in the index of cached files: a process that dies keeps these.

        With the lock, which guards the index and its one connection. The commit of all `TOGETHER` rows takes
        a millisecond, since it does not wait for the disk; only a checkpoint does, each 1000 pages of it.
        """
        with self._lock:
            self._versions.save()

    def drop(self, cached_file: CachedFile) -> None:
        """Delete a file that nobody uses."""
        with self._lock:
            self._used.pop(cached_file.file_name, None)
        cached_file.discard()

    def fit(self, more: int = 0) -> None:
        """Evict until `more` bytes fit into the budget, as far as Swift has the data."""
        with self._lock:
            self._evict(self._excess() + more)

    def _has_room(self, size: int) -> bool:
        """Return whether `size` bytes may be added to the disk: the journal must be able to grow."""
        return self._free() >= size + KEPT or self._reserve.exists()

    def _make_room(self, size: int, is_ahead: bool) -> bool:
        """Evict about `size` bytes for a download; return whether anything was evicted.

        For one that `is_ahead` of the readers nothing is evicted that they are about to read.
        """
        size = max(size, ROOM)
        with self._lock:
            is_evicted = self._evict(size) > 0 or (not is_ahead and self._evict(size, ahead=True) > 0)
            if is_evicted or is_ahead:
                self._is_full = self._is_full and not is_evicted
            elif not self._is_full:
                self._is_full = True  # once, until there was room
                log.warning(
                    "the disk of the cache folder is full, and nothing in it can be evicted: files are read "
                    "without the cache, which is slower; free space on that disk"
                )
            return is_evicted

    def _evict(self, size: int, *, ahead: bool = False) -> int:
        """Evict about `size` bytes; return how many. Lock held."""
        if size <= 0:
            return 0
        if (freed := self._versions.evict(size, self._most_pinned())) >= size:
            return freed
        covers = self._versions.pins.covers
        used = [
            (use.cached_file, use.pins > 0, covers(use.name))
            for use in self._used.values()
            if use.cached_file is not None
        ]
        # Clean files first: what is evicted of a dirty one is fetched from its segments before it is changed
        # again. Pinned ones last.
        for cached_file, journaled, _ in sorted(used, key=lambda one: (one[2], one[0].is_dirty())):
            if freed >= size:
                break
            freed += cached_file.evict(size - freed, journaled=journaled, ahead=ahead)
        return freed

    def close(self) -> None:
        """Cache the files that were waiting for their downloads, and sync the folder to the disk."""
        self.factory.close()
        with self._lock:
            closing = list(self._closing.items())
            used = [use.cached_file for use in self._used.values() if use.cached_file is not None]
        for version, cached_file in closing:
            self._store(version, cached_file)
        # The files of the journal stay where they are, for the next mount.
        for cached_file in used:
            cached_file.suspend()
        self._versions.close()

    def _add_use(self, cached_file: CachedFile, name: ObjectName) -> CachedFile:
        self._used[cached_file.file_name] = Use(name, cached_file)
        return cached_file

    def _is_due(self, size: int) -> bool:
        # Threads may overwrite each other's sum; the budget is then checked somewhat later.
        self._growth += size
        if self._growth < STEP:
            return False
        self._growth = 0
        return True

    def _on_growth(self, size: int) -> None:
        if self._is_due(size):
            self.fit()

    def _wait_for_space(self, cached_file: HasSize, size: int) -> None:
        """Return when a writer may add `size` bytes to a file; raise `OSError` ENOSPC if never."""
        is_due = self._is_due(size) or self._is_short(size)
        if is_due and not self._space.wait(lambda: self._outlook(cached_file, size)):
            self._growth = STEP  # the next writer checks again
            raise os_error(errno.ENOSPC)

    def _is_short(self, size: int) -> bool:
        """Return whether `size` bytes may take the last space of the disk."""
        now = monotonic()
        if not self._is_tight and now < self._asked_at + ASK_SECONDS:
            return False
        free = self._free()
        self._asked_at, self._is_tight = now, free < RESERVE
        return free < size + KEPT

    def _outlook(self, cached_file: HasSize, size: int) -> SpaceOutlook:
        """Free what can be freed at once, and begin the uploads that will free more."""
        # Segments are on the disk until they are stored, however small the limit is.
        pinned = min(self._versions.pinned_bytes, self._most_pinned())
        limit = max(self.limit - pinned, self.factory.space_needed(cached_file.size))
        self.fit(size)
        if self._unsaved() + size <= limit and self._free() >= RESERVE:
            return SpaceOutlook.SPACE
        # Without the cache's lock: this takes the journal's, which comes first.
        hope = self._backlog.start_uploads_for_space()
        with self._lock:
            # The journal keeps older states until it is synced, whatever becomes of its tasks.
            hope = self._upload_full_segments() or hope or any(use.older for use in self._used.values())
            # Only if nothing else helps: a segment that is not full is uploaded again when more of it is
            # written.
            hope = hope or self._upload_full_segments(holes=True)
        self.fit(size)  # an upload may have ended meanwhile
        is_over = self._unsaved() + size > limit
        if not is_over and (self._free() >= RESERVE or not hope) and self._has_room(size):
            return SpaceOutlook.SPACE  # others fill the disk: write() fails when it is full
        return SpaceOutlook.HOPE if hope else SpaceOutlook.NONE

    def _upload_full_segments(self, *, holes: bool = False) -> bool:
        """Begin to upload full segments; return whether any upload is under way. Lock held."""
        cached_files = [use.cached_file for use in self._used.values() if use.cached_file and use.is_wanted]
        busy = [cached_file.upload_full_segments(holes=holes) for cached_file in cached_files]
        return any(busy)

    def _unsaved(self) -> int:
        """Return how many bytes of disk hold what Swift does not have."""
        with self._lock:
            return self._uses.away_bytes + sum(
                use.cached_file.unsaved() if use.cached_file else use.bytes for use in self._used.values()
            )

    def _store(self, version: ObjectVersion, cached_file: CachedFile) -> None:
        with self._lock:
            if self._closing.get(version) is not cached_file:
                return
            del self._closing[version]
            cached = cached_file.detach_file()
            if cached is not None:
                self._versions.put(version, cached)
        if cached is None:
            cached_file.discard()

    def peek(self, file: str) -> CachedFile | None:
        """Return the file that uses a local file, to read its state only; None if it is suspended or gone."""
        with self._lock:
            use = self._used.get(file)
            return use.cached_file if use else None

    def disk_use(self) -> tuple[int, int]:
        """Return how many bytes of disk the folder takes, and how many of them Swift does not have."""
        with self._lock:
            return self._occupied(), self._unsaved()

    def _excess(self) -> int:
        return max(self._occupied() - self.limit, RESERVE - self._free())

    def _occupied(self) -> int:
        in_use = (
            use.cached_file.allocated() if use.cached_file else use.bytes for use in self._used.values()
        )
        closing = (cached_file.allocated() for cached_file in self._closing.values())
        return self._versions.bytes + self._uses.away_bytes + sum(in_use) + sum(closing)

    def _automatic_limit(self) -> int:
        return min(LARGEST_AUTOMATIC, (self._free() + self._versions.bytes) // 2)

    def _free(self) -> int:
        return shutil.disk_usage(self._folder.parent).free
