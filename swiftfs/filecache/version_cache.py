"""Files that nobody uses, kept for the next open of their version.

A file under the name of a version never changes: whoever takes it gives it a name of its own.
"""

import hashlib
import logging
import os
from collections.abc import Collection, Iterable
from pathlib import Path

from swiftfs.filecache.sparse_file import CachedVersion, SparseFile, synchronize
from swiftfs.filecache.version_index import Row, VersionIndex
from swiftfs.objects import ObjectVersion

log = logging.getLogger(__name__)

_EVICTED_AT_ONCE = 64


class VersionCache:
    """The files of versions in `folder`, and the index that says what each holds. Not locked.

    Nothing here raises for what the disk does: what cannot be kept is not.
    """

    def __init__(self, folder: Path, index: Path) -> None:
        self._folder = folder
        self._index = VersionIndex(index)
        self._preferred: frozenset[str] = frozenset()

    @property
    def bytes(self) -> int:
        """The disk that all take, in bytes."""
        return self._index.bytes

    def __contains__(self, version: ObjectVersion) -> bool:
        return self._index.has(_name(version))

    def put(self, version: ObjectVersion, kept: CachedVersion) -> None:
        """Keep a file, which is closed then; one that cannot be kept is removed."""
        name, file = _name(version), kept.file
        try:
            file.move(self._folder / name)
        except OSError as error:  # the folder was wiped, or the disk fails
            log.info("%s: %s", file.path, error)
            _remove(file)
            return
        row = Row(name, kept.present, kept.checked, file.allocated(), file.mark(), kept.manifest)
        if self._index.put(row):
            file.close()
        else:
            _remove(file)

    def take(self, version: ObjectVersion) -> CachedVersion | None:
        """Return the file of a version, which is not kept any more; None without one, or a changed one."""
        name = _name(version)
        row = self._index.pop(name)
        if row is None:
            return None
        try:
            file = SparseFile.open(self._folder / name)
        except OSError:
            return None
        if file.mark() == row.mark:
            try:
                file.rename_open()
            except OSError as error:
                log.info("%s: %s", file.path, error)
            else:
                return CachedVersion(file, row.present, row.checked, row.manifest)
        _remove(file)
        return None

    def prefer(self, versions: Iterable[ObjectVersion]) -> None:
        """Evict these versions last, from now on."""
        self._preferred = frozenset(map(_name, versions))

    def evict(self, size: int) -> int:
        """Delete the files that were used longest ago, `size` bytes or all; return how many it were."""
        for name in self._preferred:
            self._index.touch(name)
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

    def sweep(self, used: Collection[str], lost: Path | None) -> None:
        """Delete the files that are neither kept nor `used`: those of a process that died, or others'.

        With a folder `lost` they go there.
        """
        known = self._index.names() | set(used)
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._folder.chmod(0o700)
        with os.scandir(self._folder) as entries:
            unknown = [entry for entry in entries if entry.name not in known]
        for entry in unknown:
            if entry.is_dir(follow_symlinks=False):
                continue
            if lost is not None:
                Path(entry.path).rename(lost / entry.name)
            else:
                Path(entry.path).unlink(missing_ok=True)

    def close(self) -> None:
        """End it when all is on the disk."""
        clean = True
        try:
            if self._index.bytes:
                synchronize(self._folder)
        except OSError as error:
            log.info("%s: %s", self._folder, error)
            clean = False
        self._index.close(clean=clean)


def _name(version: ObjectVersion) -> str:
    """Return the file name of a version; none of the three parts of what it hashes can hold a NUL."""
    text = "\0".join((version.name.container, version.name.key, version.etag))
    return hashlib.sha256(text.encode()).hexdigest()


def _remove(file: SparseFile) -> None:
    try:
        file.remove()
    except OSError as error:
        log.info("%s: %s", file.path, error)
