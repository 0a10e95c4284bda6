"""Which local files are in use, and by whom: by openings, and by the journal."""

from typing import Protocol

from msgspec import Struct

from swiftfs.concurrency import Rank, new_lock
from swiftfs.filecache.cached_file import CachedFile
from swiftfs.filecache.segment_uploader import SegmentUploader
from swiftfs.objects import ObjectName, ObjectVersion


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
