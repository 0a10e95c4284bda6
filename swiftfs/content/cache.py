"""The cache folder: a budget of disk for contents in use, and files kept for the next open of their version.

A content in use has a file of its own; when the last user goes and nothing was changed, the file takes the
name of its version, a row of the index says what it holds, and its descriptor is closed. The next user takes
both back. So a file under the name of a version never changes.
"""

import hashlib
import logging
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from weakref import WeakSet

from swiftfs.content.content import Content
from swiftfs.content.index import Index, Row
from swiftfs.content.localfile import Kept, LocalFile, synchronize
from swiftfs.content.origin import Origin
from swiftfs.model import ObjectVersion

log = logging.getLogger(__name__)

Make = Callable[[Path, Origin | None, Kept | None], Content]
"""Makes a content in a folder, of an origin, with the kept file of its version if there is one."""

MIB = 1024 * 1024

LARGEST_AUTOMATIC = 10 * 1024 * MIB

STEP = 8 * MIB
"""So much may be added before the budget is looked at again, which costs an fstat(2) for each open file."""

RESERVE = 4 * STEP
"""Free disk below which clean files go, whatever the budget: some writers may each be a step ahead."""

_EVICTED_AT_ONCE = 64


class ContentCache:
    """Makes contents, keeps those that nobody uses, and holds all of them to `limit` bytes of disk.

    Without a limit it is half of the disk that is free, at most 10 GiB. Clean data of files nobody uses goes
    first, longest unused first, then what open files can download again. Data that is not in Swift stays,
    whatever the limit. The lock guards the index and the names in the folder; it comes before a content's.
    """

    def __init__(self, cache: Path, limit: int | None, make: Make) -> None:
        self._folder = cache / "content"
        self._make = make
        self._lock = threading.Lock()
        self._index = Index(cache / "content.sqlite")
        self._resting: dict[ObjectVersion, Content] = {}
        self._used: WeakSet[Content] = WeakSet()
        self._growth = 0
        self._sweep()
        self.limit = self._automatic_limit() if limit is None else limit

    def new(self, origin: Origin | None) -> Content:
        """Return a content that has nothing yet."""
        content = self._make(self._folder, origin, None)
        with self._lock:
            return self._introduce(content)

    def __contains__(self, version: ObjectVersion) -> bool:
        """Say whether something of `version` is kept."""
        with self._lock:
            return version in self._resting or self._index.has(_name(version))

    def take(self, version: ObjectVersion) -> Content | None:
        """Return the content of `version` and leave it to the caller, or None."""
        with self._lock:
            content = self._resting.pop(version, None)
            if content is None and (kept := self._reopen(_name(version))) is not None:
                size = kept.file.mark().size
                origin = Origin(version.name, version.etag, size, size)
                content = self._introduce(self._make(self._folder, origin, kept))
            return content

    def keep(self, content: Content) -> None:
        """Keep an unchanged content that nobody uses any more, when the downloads under way have ended."""
        origin = content.origin
        if origin is None or not origin.etag:
            content.close()
            return
        version = ObjectVersion(origin.name, origin.etag)
        with self._lock:
            replaced = self._resting.pop(version, None)
            self._resting[version] = content
        if replaced is not None:
            replaced.close()
        content.rest(lambda: self._store(version, content))

    def fit(self) -> None:
        """Give disk back until the budget is kept, as far as clean data goes."""
        with self._lock:
            excess = self._excess()
            if excess > 0:
                excess -= self._evict(excess)
            for content in list(self._used):
                if excess <= 0:
                    return
                excess -= content.shed(excess)

    def close(self) -> None:
        """Store what rests; the folder is then complete and on the disk."""
        with self._lock:
            resting = list(self._resting.items())
        for version, content in resting:
            self._store(version, content)
        clean = True
        try:
            if self._index.bytes:
                synchronize(self._folder)
        except OSError as error:
            log.info("%s: %s", self._folder, error)
            clean = False
        self._index.close(clean=clean)

    def _introduce(self, content: Content) -> Content:
        content.grew = self._grew
        self._used.add(content)
        return content

    def _grew(self, size: int) -> None:
        # Threads may overwrite each other's sum: the budget is then looked at somewhat later.
        self._growth += size
        if self._growth >= STEP:
            self._growth = 0
            self.fit()

    def _store(self, version: ObjectVersion, content: Content) -> None:
        with self._lock:
            if self._resting.get(version) is not content:
                return
            del self._resting[version]
            kept = content.give_up()
            if kept is not None and not self._put(_name(version), kept):
                _remove(kept.file)
        if kept is None:
            content.close()

    def _put(self, name: str, kept: Kept) -> bool:
        """Give a file the name of its version and close it; say whether that succeeded."""
        file = kept.file
        try:
            file.move(self._folder / name)
        except OSError as error:  # the folder was wiped, or the disk fails
            log.info("%s: %s", file.path, error)
            return False
        if not self._index.put(Row(name, kept.present, kept.checked, file.allocated(), file.mark())):
            return False
        file.close()
        return True

    def _reopen(self, name: str) -> Kept | None:
        row = self._index.pop(name)
        if row is None:
            return None
        try:
            file = LocalFile.open(self._folder / name)
        except OSError:
            return None
        if file.mark() == row.mark:
            try:
                file.rename_open()
            except OSError as error:
                log.info("%s: %s", file.path, error)
            else:
                return Kept(file, row.present, row.checked)
        _remove(file)
        return None

    def _excess(self) -> int:
        used = self._index.bytes + sum(content.allocated() for content in self._used)
        return max(used - self.limit, RESERVE - self._free())

    def _evict(self, size: int) -> int:
        """Delete the files that were used longest ago, `size` bytes or all; return how many it were."""
        freed = 0
        while freed < size and (oldest := self._index.oldest(_EVICTED_AT_ONCE)):
            doomed = []
            for name, allocated in oldest:
                if freed >= size:
                    break
                (self._folder / name).unlink(missing_ok=True)
                doomed.append(name)
                freed += allocated
            if not self._index.delete(doomed):
                break
        return freed

    def _automatic_limit(self) -> int:
        return min(LARGEST_AUTOMATIC, (self._free() + self._index.bytes) // 2)

    def _free(self) -> int:
        return shutil.disk_usage(self._folder.parent).free

    def _sweep(self) -> None:
        """Delete what the index does not know: files in use when a process died, and those of others."""
        known = self._index.names()
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._folder.chmod(0o700)
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name not in known and not entry.is_dir(follow_symlinks=False):
                    Path(entry.path).unlink(missing_ok=True)


def _name(version: ObjectVersion) -> str:
    """Return the file name of a version; none of the three parts of what it hashes can hold a NUL."""
    text = "\0".join((version.name.container, version.name.key, version.etag))
    return hashlib.sha256(text.encode()).hexdigest()


def _remove(file: LocalFile) -> None:
    try:
        file.remove()
    except OSError as error:
        log.info("%s: %s", file.path, error)
