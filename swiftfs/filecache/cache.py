"""The cache folder: cached files in use, and local files that are kept for the next open of their version.

`CachedFileFactory` makes cached files, and owns the threads that download and upload for all of them. One in
use has a local file of its own. When its last user releases it unchanged, `VersionCache` keeps that local
file for the next open.
"""

import errno
import logging
import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from swiftfs.concurrency import new_pool
from swiftfs.config.cache_dir import CONTENT, PINS, VERSIONS, UsedFolder
from swiftfs.errors import CutFile, os_error
from swiftfs.filecache.block_map import BaseVersion, BlockMap, FileRecord
from swiftfs.filecache.cache_space import Backlog, CacheSpace, Use, can_be_restored
from swiftfs.filecache.cached_file import CachedFile
from swiftfs.filecache.eviction import AHEAD
from swiftfs.filecache.file_state import FileSource, FileState, WrongBytesCall, ignore_wrong_bytes
from swiftfs.filecache.read_ahead import Link, Streams
from swiftfs.filecache.segment_container import AUTO, SegmentContainerChooser
from swiftfs.filecache.segment_layout import SegmentLayout
from swiftfs.filecache.segment_storer import UploadPool
from swiftfs.filecache.segment_uploader import SegmentUploader
from swiftfs.filecache.space import UNLIMITED, CacheDisk, Space
from swiftfs.filecache.sparse_file import CachedVersion, MemoryFile
from swiftfs.filecache.upload_record import SharedUploads, UnreferencedPrefix, write_no_row
from swiftfs.filecache.version_cache import LostFiles, PinnedCopies, Pins, VersionCache
from swiftfs.objects import ObjectName, ObjectVersion
from swiftfs.store.protocol import ObjectStore
from swiftfs.store.server_state import FIRST_SEGMENTS, ParallelLimit

log = logging.getLogger(__name__)

_UNUSABLE = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR})
"""What the disk answers when somebody has made the cache folder unusable."""


class CachedFileFactory:
    """Makes cached files, which share `connections` threads for downloads and for uploads of segments.

    At most `uploads` segments are uploaded at once, and no more than `limit` allows.

    `segments` says which container the segments go to; see `SegmentContainerChooser`. For `on_first_put`,
    `on_put` and `journal` see `SharedUploads`, for `on_wrong_bytes` `FileState`. `recalled` has what an
    earlier process recorded of its uploads, by their prefix. A full segment of a file that is being written
    is uploaded `settle_seconds` after its writer has left it. `read_ahead` and `settle_seconds` may be
    changed: files that are made later get the new value. `rate` returns how many bytes a second may be
    downloaded.
    """

    def __init__(
        self,
        store: ObjectStore,
        layout: SegmentLayout,
        on_first_put: Callable[[UnreferencedPrefix], None],
        *,
        connections: int,
        uploads: int,
        read_ahead: int,
        segments: str = AUTO,
        settle_seconds: float = 0.0,
        journal: str = "",
        on_put: Callable[[UnreferencedPrefix], None] = write_no_row,
        on_wrong_bytes: WrongBytesCall = ignore_wrong_bytes,
        limit: ParallelLimit | None = None,
        rate: Callable[[], float] = lambda: math.inf,
    ) -> None:
        self._link = Link(rate)
        self.read_ahead = read_ahead
        self._store = store
        self._layout = layout
        self.settle_seconds = settle_seconds
        self._on_wrong_bytes = on_wrong_bytes
        self.places = SegmentContainerChooser(store, segments)
        self.recalled: dict[ObjectName, UnreferencedPrefix] = {}
        self._downloads = new_pool("download", connections)
        self._uploads = UploadPool(limit or ParallelLimit(uploads), uploads)
        self._shared = SharedUploads(store, self.places, self._uploads, layout, on_first_put, on_put, journal)

    def make(
        self,
        folder: Path,
        name: ObjectName,
        base: BaseVersion | None,
        cached: CachedVersion | None,
        space: Space = UNLIMITED,
    ) -> CachedFile:
        """Return a new cached file, which is to be stored as `name`; `cached` has blocks of `base`."""
        state = FileState.create(folder, base, cached, space, self._on_wrong_bytes)
        return self._compose(state, self._segments(state, name, None))

    def restore(
        self, folder: Path, name: ObjectName, record: FileRecord, space: Space = UNLIMITED
    ) -> CachedFile:
        """Return the file of a record; raise `OSError` when its local file has been changed or is gone."""
        state = FileState.restore(folder, record, space, self._on_wrong_bytes)
        uploads = self._segments(state, name, record.prefix)
        uploads.restore(record.evicted)
        if record.prefix is not None and (recalled := self.recalled.get(record.prefix)) is not None:
            uploads.record.recall(recalled)
        return self._compose(state, uploads)

    def space_needed(self, size: int) -> int:
        """Return how many bytes of disk the writer of a file of `size` bytes needs.

        A segment is uploaded when it is whole, while the next ones are written.
        """
        start, end = self._layout.bounds(self._layout.index(max(size - 1, 0)))
        return max(
            (min(self._uploads.most, FIRST_SEGMENTS) + 1) * self._layout.segment_size, 2 * (end - start)
        )

    def set_uploads(self, uploads: int) -> None:
        """Change how many segments are uploaded at once at most."""
        self._uploads.most = uploads

    def close(self) -> None:
        """End the threads when the requests under way have ended; cancel the uploads that have not begun."""
        self._uploads.shutdown(cancel_futures=True)
        self._downloads.shutdown()

    def _compose(self, state: FileState, uploads: SegmentUploader) -> CachedFile:
        return CachedFile(state, self._source(self.read_ahead), uploads, self._make_in_memory)

    def _make_in_memory(self, of: FileState, base: BaseVersion) -> CachedFile:
        """Return a file of the version `base` that takes no disk, to read the file `of`."""
        file, on_wrong_bytes = MemoryFile(of.file), self._on_wrong_bytes
        state = FileState(file, BlockMap(base), UNLIMITED, on_wrong_bytes, is_certain=bool(base.etag))
        state.extend(base.size)
        source = self._source(AHEAD if self.read_ahead else 0)
        return CachedFile(state, source, self._segments(state, base.name, None), self._make_in_memory)

    def _source(self, read_ahead: int) -> FileSource:
        return FileSource(self._store, self._downloads, Streams(read_ahead, self._link))

    def _segments(self, state: FileState, name: ObjectName, prefix: ObjectName | None) -> SegmentUploader:
        return SegmentUploader(self._shared, state, name, prefix, self.settle_seconds)


class FileCache:
    """Makes cached files, and keeps those that nobody uses; `space` limits all of them.

    The lock guards the cached versions, the names in the folder and who uses them. It comes before the lock
    of a cached file. Nobody waits for a download while holding it, because every open and create needs it. A
    writer that waits for `space` may hold the lock of its own open file and no other.

    `journaled` maps the local files that wait to be stored to the names of their objects; those that are used
    are taken out of it. `lost` takes local files that a lost record may have named. For `limit` and
    `slowness` see `CacheSpace`.
    """

    def __init__(
        self,
        cache: Path,
        limit: int | None,
        factory: CachedFileFactory,
        journaled: dict[str, ObjectName],
        backlog: Backlog,
        lost: LostFiles | None = None,
        slowness: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._folder = cache / CONTENT
        self._used_folder = UsedFolder(cache)
        self.factory = factory
        self._backlog = backlog
        self._uses = self._backlog.uses
        self._lock = self._uses.lock
        self._versions = VersionCache(self._folder, cache / VERSIONS, Pins(cache / PINS))
        self.pinned = PinnedCopies(self._lock, self._versions)
        self._closing = self._uses.closing
        self._used = self._uses.by_file
        self._uses.expect(journaled)
        self._versions.sweep(journaled, lost)
        disk = CacheDisk(cache)
        self.space = CacheSpace(disk, limit, self._versions, backlog, factory.space_needed, slowness)
        self.set_read_ahead(factory.read_ahead)

    def set_read_ahead(self, size: int) -> None:
        """Change how many bytes are downloaded ahead of the readers of each file, also of an open one."""
        with self._lock:
            # What is read ahead must not evict what is about to be read.
            self.factory.read_ahead = min(size, self.space.limit // 4)
            files = [*self._uses.cached_files(), *self._closing.values()]
        for cached_file in files:
            cached_file.set_read_ahead(self.factory.read_ahead)

    def new(self, name: ObjectName, base: BaseVersion | None) -> CachedFile:
        """Return a new cached file without any block, for the caller to release.

        Raise `OSError` if the disk refuses its local file, or if that would not be where the journal is.
        """
        self._used_folder.check()
        try:
            cached_file = self.factory.make(self._folder, name, base, None, self.space)
        except OSError as error:
            if error.errno not in _UNUSABLE:
                raise
            log.error("cache folder %s cannot be used: %s", self._folder.parent, error.strerror)
            # EACCES would say that the program may not use its file.
            raise os_error(errno.EIO, str(name)) from error
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
            cached_file = self.factory.make(self._folder, version.name, base, cached, self.space)
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
        with self._lock:
            if (cached_file := self._closing.pop(version, None)) is not None:
                cached_file.rename(name)
                self.keep(cached_file)
            elif (cached := self._versions.take(version)) is not None:
                self._versions.put(ObjectVersion(name, version.etag), cached)

    def pin(self, file: str, *, older: bool = False) -> None:
        """Keep the local file `file`, which is in use or journaled, for one operation more.

        That of an `older` row may be gone already, if the disk refused to record that the row has ended.
        """
        with self._lock:
            self._uses.begin_journaled(file)
            if not older or file in self._used:
                use = self._used[file]
                if not use.pins and use.cached_file is not None:
                    use.cached_file.set_pinned(True)
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
            if use.users and not use.pins and use.cached_file is not None:
                use.cached_file.set_pinned(False)
            self._end_or_suspend(file, use)
            size = use.cached_file.size if use.cached_file is not None else 0
        self.space.freed(size)

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

        Raise `CutFile` if the local file is gone or too short.
        """
        with self._lock:
            use = self._used[record.file]
            if use.cached_file is None:
                try:
                    use.cached_file = self.factory.restore(self._folder, use.name, record, self.space)
                except FileNotFoundError as error:
                    raise CutFile(str(error.filename), "gone") from error  # what waits is not "missing"
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

    def close(self) -> None:
        """Cache the files that were waiting for their downloads, and sync the folder to the disk."""
        self.factory.close()
        with self._lock:
            closing, used = list(self._closing.items()), self._uses.cached_files()
        for version, cached_file in closing:
            self._store(version, cached_file)
        # The files of the journal stay where they are, for the next mount.
        for cached_file in used:
            cached_file.suspend()
        self._versions.close()

    def _add_use(self, cached_file: CachedFile, name: ObjectName) -> CachedFile:
        self._used[cached_file.file_name] = Use(name, cached_file)
        return cached_file

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
