"""The cache folder: a budget of disk for contents in use, and files kept for the next open of their version.

A content in use has a file of its own; when the last user goes and nothing was changed, `VersionCache` gets
it for the next user.
"""

import errno
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from swiftfs.concurrency import Rank, new_lock, new_pool
from swiftfs.config.cache_dir import CONTENT, VERSIONS
from swiftfs.errors import os_error
from swiftfs.filecache.block_map import BaseVersion, FileRecord
from swiftfs.filecache.cached_file import CachedFile
from swiftfs.filecache.file_state import FileState
from swiftfs.filecache.segment_container import AUTO, SegmentContainerChooser
from swiftfs.filecache.segment_layout import SegmentLayout
from swiftfs.filecache.segment_uploader import SegmentUploader
from swiftfs.filecache.space import UNLIMITED, HasSize, SpaceCalls, SpaceOutlook, SpaceWaiter
from swiftfs.filecache.sparse_file import CachedVersion
from swiftfs.filecache.upload_record import UnreferencedPrefix
from swiftfs.filecache.version_cache import VersionCache
from swiftfs.objects import ObjectName, ObjectVersion
from swiftfs.store.protocol import ObjectStore


class CachedFileFactory:
    """Makes contents, which download with `connections` threads together and upload segments with `uploads`.
    They go where `segments` says, see `SegmentContainerChooser`.

    `on_first_put` is told of a prefix before the first segment is stored below it, and its name ends in the
    id of the `journal`. `recalled` is what an earlier process recorded of uploads, by their prefix. A full
    segment of a file that is being written rests for `rests` seconds before it goes up.
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
        rests: float = 0.0,
        journal: str = "",
    ) -> None:
        self.read_ahead = read_ahead
        self._store = store
        self._layout = layout
        self._parallel = uploads
        self._on_first_put = on_first_put
        self._rests = rests
        self._journal = journal
        self.places = SegmentContainerChooser(store, segments)
        self.recalled: dict[ObjectName, UnreferencedPrefix] = {}
        self._downloads = new_pool("download", connections)
        self._uploads = new_pool("upload", uploads)

    def make(
        self,
        folder: Path,
        name: ObjectName,
        origin: BaseVersion | None,
        kept: CachedVersion | None,
        space: SpaceCalls = UNLIMITED,
    ) -> CachedFile:
        """Return the content of a file that is to be stored as `name`."""
        state = FileState.create(folder, origin, kept, space)
        return self._compose(state, self._segments(state, name, None))

    def restore(
        self, folder: Path, name: ObjectName, saved: FileRecord, space: SpaceCalls = UNLIMITED
    ) -> CachedFile:
        """Return a content as it was saved; raise `OSError` when its file is not what it was."""
        state = FileState.restore(folder, saved, space)
        uploads = self._segments(state, name, saved.prefix)
        uploads.restore(saved.evicted)
        if saved.prefix is not None and (recalled := self.recalled.get(saved.prefix)) is not None:
            uploads.record.recall(recalled)
        return self._compose(state, uploads)

    def room(self, size: int) -> int:
        """Return how many bytes of disk a writer needs who has written `size` bytes of a file.

        Segments go up while the next one is written, and none goes up before it is whole.
        """
        start, end = self._layout.bounds(self._layout.index(max(size - 1, 0)))
        return max((self._parallel + 1) * self._layout.segment_size, 2 * (end - start))

    def close(self) -> None:
        """End the threads; of the segments that nobody waits for any more, those under way are stored."""
        self._uploads.shutdown(cancel_futures=True)
        self._downloads.shutdown()

    def _compose(self, state: FileState, uploads: SegmentUploader) -> CachedFile:
        return CachedFile(state, self._store, self._downloads, uploads, self.read_ahead)

    def _segments(self, state: FileState, name: ObjectName, prefix: ObjectName | None) -> SegmentUploader:
        return SegmentUploader(
            self._store,
            self.places,
            self._uploads,
            state.descriptor,
            name,
            self._layout,
            prefix,
            self._on_first_put,
            self._rests,
            state.file.path.name,
            self._journal,
            state.space.on_stored,
        )


MIB = 1024 * 1024

LARGEST_AUTOMATIC = 10 * 1024 * MIB

STEP = 8 * MIB
"""So much may be added before the budget is looked at again, which costs an fstat(2) for each open file."""

RESERVE = 4 * STEP
"""Free disk below which clean files go, whatever the budget: some writers may each be a step ahead."""

SMALL = 1024 * 1024
"""Files up to this size that only wait for the journal are closed: there may be more than descriptors."""


@dataclass(slots=True)
class _Use:
    """A local file in use: by `users`, and `held` by so many intents. A suspended content is None."""

    name: ObjectName
    content: CachedFile | None
    users: int = 1
    held: int = 0
    bytes: int = 0


class Backlog(Protocol):
    """What stores the files that wait, and deletes what they leave: the journal's part of the cache's work.

    `abandon` is called with the cache's lock held, and waits for nothing.
    """

    def start_uploads_for_space(self) -> bool:
        """Begin to store files, for the disk is full of them; return whether anything is under way."""

    def abandon(self, uploads: SegmentUploader) -> None:
        """Delete the segments of a file that will never be stored, in another thread."""


class NoBacklog:
    """The backlog of a cache without a journal: nothing waits, and nothing is deleted."""

    def start_uploads_for_space(self) -> bool:
        """Return False: nothing will be stored."""
        return False

    def abandon(self, uploads: SegmentUploader) -> None:
        """Leave the segments where they are."""


class FileCache:
    """Makes contents, keeps those that nobody uses, and holds all of them to `limit` bytes of disk.

    Without a limit it is half of the disk that is free, at most 10 GiB. Clean data of files nobody uses goes
    first, longest unused first, then what open files can download again. Data that is not in Swift stays.
    The lock guards the kept files, the names in the folder and who uses them; it comes before a content's. No
    download is waited for with it, since every open and create needs it.

    `journaled` are the files that wait to be stored, of objects by these names; `lost` is given when there
    were more. A writer waits while more than `limit` bytes, or the room its segments need, are not in Swift
    and some are on their way. It may hold the lock of its own open file meanwhile and no other.
    """

    def __init__(
        self,
        cache: Path,
        limit: int | None,
        maker: CachedFileFactory,
        journaled: Mapping[str, ObjectName],
        backlog: Backlog | None = None,
        lost: Path | None = None,
    ) -> None:
        self._folder = cache / CONTENT
        self._maker = maker
        self._lock = new_lock(Rank.CACHE, reentrant=True)
        self._versions = VersionCache(self._folder, cache / VERSIONS)
        self._resting: dict[ObjectVersion, CachedFile] = {}
        self._used: dict[str, _Use] = {file: _Use(name, None, users=0) for file, name in journaled.items()}
        self._growth = 0
        self._space = SpaceWaiter()
        self._calls = SpaceCalls(self._on_growth, self._wait_for_space, self._space.progress)
        self._backlog = backlog or NoBacklog()
        self._versions.sweep(self._used, lost)
        self.limit = self._automatic_limit() if limit is None else limit
        # What was read in advance must not push out what is about to be read.
        maker.read_ahead = min(maker.read_ahead, self.limit // 4)

    def new(self, name: ObjectName, origin: BaseVersion | None) -> CachedFile:
        """Return a content that has nothing yet, and leave it to the caller."""
        content = self._maker.make(self._folder, name, origin, None, self._calls)
        with self._lock:
            return self._introduce(content, name)

    def __contains__(self, version: ObjectVersion) -> bool:
        """Return whether something of `version` is kept."""
        with self._lock:
            return version in self._resting or version in self._versions

    def acquire_version(self, version: ObjectVersion) -> CachedFile | None:
        """Return the content of `version` and leave it to the caller, or None."""
        with self._lock:
            content = self._resting.pop(version, None)
            if content is not None:
                return self._introduce(content, version.name)
            if (kept := self._versions.take(version)) is None:
                return None
            size = kept.file.mark().size
            origin = BaseVersion(version.name, version.etag, size, size, kept.manifest)
            content = self._maker.make(self._folder, version.name, origin, kept, self._calls)
            return self._introduce(content, version.name)

    def find(self, version: ObjectVersion) -> CachedFile | None:
        """Return the content of `version`, in use or not, for the caller to leave; None without one."""
        with self._lock:
            for use in self._used.values():
                content = use.content
                if content is None or content.is_dirty() or (origin := content.origin) is None:
                    continue
                if ObjectVersion(origin.name, origin.etag) == version:
                    use.users += 1
                    return content
            return self.acquire_version(version)

    def is_changing(self, name: ObjectName) -> bool:
        """Return whether a file that is to be stored as `name` has changes that Swift does not have."""
        with self._lock:
            uses = [use for use in self._used.values() if use.name == name]
            return any(use.content is None or use.content.is_dirty() for use in uses)

    def prefer(self, versions: Iterable[ObjectVersion]) -> None:
        """Evict all others before these versions: they may be all that is left of what was stored."""
        with self._lock:
            self._versions.prefer(versions)

    def moved(self, version: ObjectVersion, name: ObjectName) -> None:
        """Keep what is kept of a version as that of `name`: the object was moved there."""
        if (content := self.acquire_version(version)) is not None:
            content.rename(name)
            self.release(content)

    def pin(self, file: str) -> None:
        """Keep the local file `file`, which is in use or was journaled, for one intent more."""
        with self._lock:
            self._used[file].held += 1

    def unpin(self, file: str) -> None:
        """Record that an intent needs a local file no more."""
        with self._lock:
            use = self._used[file]
            use.held -= 1
            if not use.users and not use.held:
                self._end(file, use)
            if use.content is not None and use.content.size >= STEP:
                self._growth = STEP  # what is stored can go
        self._space.progress()

    def is_pinned(self, content: CachedFile) -> bool:
        """Return whether the journal needs a content's local file."""
        with self._lock:
            return self._used[content.file_name].held > 0

    def detach(self, file: str) -> None:
        """Let a whole file that the journal holds be another object's than the one it was opened as."""
        with self._lock:
            if (content := self._used[file].content) is not None:
                content.detach()

    def recall(self, uploads: Iterable[UnreferencedPrefix]) -> None:
        """Record what an earlier process said of the uploads of files that the journal holds."""
        self._maker.recalled.update((standing.prefix, standing) for standing in uploads)

    def acquire_pending(self, saved: FileRecord) -> CachedFile:
        """Return the content of a file that the journal holds, for the caller to leave as well.

        Raise `OSError` when the local file is not there any more, or not what it was.
        """
        with self._lock:
            use = self._used[saved.file]
            if use.content is None:
                try:
                    use.content = self._maker.restore(self._folder, use.name, saved, self._calls)
                except FileNotFoundError as error:
                    raise os_error(errno.EIO, error.filename) from error  # what waits is not "missing"
                use.bytes = 0
            use.users += 1
            return use.content

    def release(self, content: CachedFile) -> None:
        """Record that a caller needs a content no more; the last one's is kept, if Swift has it too."""
        with self._lock:
            file = content.file_name
            use = self._used[file]
            use.users -= 1
            if use.users:
                return
            if not use.held:
                self._end(file, use)
            elif _can_be_restored(content) and (size := content.suspend()) is not None:
                use.content, use.bytes = None, size

    def _end(self, file: str, use: _Use) -> None:
        del self._used[file]
        content = use.content
        if content is None:
            (self._folder / file).unlink(missing_ok=True)
        elif content.is_dirty():
            content.discard()
            # In this order: an upload that has ended, and stored anything, has begun.
            if content.uploads.is_busy or content.uploads.record.has_begun:
                self._backlog.abandon(content.uploads)
        else:
            self.keep(content)

    def keep(self, content: CachedFile) -> None:
        """Keep an unchanged content that nobody uses any more, when the downloads under way have ended."""
        origin = content.origin
        if origin is None or not origin.etag:
            content.discard()
            return
        version = ObjectVersion(origin.name, origin.etag)
        with self._lock:
            self._used.pop(content.file_name, None)
            replaced = self._resting.pop(version, None)
            self._resting[version] = content
        if replaced is not None:
            replaced.discard()
        content.when_idle(lambda: self._store(version, content))

    def drop(self, content: CachedFile) -> None:
        """Forget a content that nobody uses."""
        with self._lock:
            self._used.pop(content.file_name, None)
        content.discard()

    def fit(self, more: int = 0) -> None:
        """Give disk back until the budget is kept with `more` bytes, as far as Swift has what there is."""
        with self._lock:
            excess = self._excess() + more
            if excess > 0:
                excess -= self._versions.evict(excess)
            used = [(use.content, use.held > 0) for use in self._used.values() if use.content is not None]
            for content, held in sorted(used, key=lambda one: one[0].is_dirty()) if excess > 0 else ():
                if excess <= 0:
                    return
                excess -= content.evict(excess, held=held)

    def close(self) -> None:
        """Store what rests; the folder is then complete and on the disk."""
        self._maker.close()
        with self._lock:
            resting = list(self._resting.items())
            held = [use.content for use in self._used.values() if use.content is not None]
        for version, content in resting:
            self._store(version, content)
        for content in held:
            content.suspend()
        self._versions.close()

    def _introduce(self, content: CachedFile, name: ObjectName) -> CachedFile:
        self._used[content.file_name] = _Use(name, content)
        return content

    def _is_due(self, size: int) -> bool:
        # Threads may overwrite each other's sum: the budget is then looked at somewhat later.
        self._growth += size
        if self._growth < STEP:
            return False
        self._growth = 0
        return True

    def _on_growth(self, size: int) -> None:
        if self._is_due(size):
            self.fit()

    def _wait_for_space(self, content: HasSize, size: int) -> None:
        """Return when a writer may add `size` bytes to a content; raise `OSError` ENOSPC if never."""
        if self._is_due(size) and not self._space.wait(lambda: self._outlook(content, size)):
            self._growth = STEP  # whoever writes next looks again
            raise os_error(errno.ENOSPC)

    def _outlook(self, content: HasSize, size: int) -> SpaceOutlook:
        """Make room as far as that goes at once, and begin what will make more."""
        limit = max(self.limit, self._maker.room(content.size))
        self.fit(size)
        if self._unsaved() + size <= limit and self._free() >= RESERVE:
            return SpaceOutlook.ROOM
        hope = self._backlog.start_uploads_for_space()
        with self._lock:
            hope = self._upload_full_segments() or hope or any(use.held for use in self._used.values())
            hope = hope or self._upload_full_segments(holes=True)
        self.fit(size)  # what has ended is no hope any more
        is_over = self._unsaved() + size > limit
        if not is_over and (self._free() >= RESERVE or not hope):
            return SpaceOutlook.ROOM  # where others fill the disk, it says itself when it is full
        return SpaceOutlook.HOPE if hope else SpaceOutlook.NONE

    def _upload_full_segments(self, *, holes: bool = False) -> bool:
        """Begin to upload what can be; return whether anything is under way."""
        contents = [use.content for use in self._used.values() if use.content is not None]
        busy = [content.upload_full_segments(holes=holes) for content in contents]
        return any(busy)

    def _unsaved(self) -> int:
        """Return how many bytes of disk hold what Swift does not have."""
        with self._lock:
            return sum(use.content.unsaved() if use.content else use.bytes for use in self._used.values())

    def _store(self, version: ObjectVersion, content: CachedFile) -> None:
        with self._lock:
            if self._resting.get(version) is not content:
                return
            del self._resting[version]
            kept = content.detach_file()
            if kept is not None:
                self._versions.put(version, kept)
        if kept is None:
            content.discard()

    def peek(self, file: str) -> CachedFile | None:
        """Return the content of a local file in use, for a look only; None when it is suspended or gone."""
        with self._lock:
            use = self._used.get(file)
            return use.content if use else None

    def disk_use(self) -> tuple[int, int]:
        """Return how many bytes of disk the folder takes, and how many of them are nowhere else."""
        with self._lock:
            return self._occupied(), self._unsaved()

    def _excess(self) -> int:
        return max(self._occupied() - self.limit, RESERVE - self._free())

    def _occupied(self) -> int:
        in_use = (use.content.allocated() if use.content else use.bytes for use in self._used.values())
        resting = (content.allocated() for content in self._resting.values())
        return self._versions.bytes + sum(in_use) + sum(resting)

    def _automatic_limit(self) -> int:
        return min(LARGEST_AUTOMATIC, (self._free() + self._versions.bytes) // 2)

    def _free(self) -> int:
        return shutil.disk_usage(self._folder.parent).free


def _can_be_restored(content: CachedFile) -> bool:
    """Return whether nothing but the local file is worth keeping, and no upload reads it."""
    # In this order: an upload that has ended, and stored anything, has begun.
    return content.size <= SMALL and not (content.uploads.is_busy or content.uploads.record.has_begun)
