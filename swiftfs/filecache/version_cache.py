"""Keeps local files that nobody uses for the next open of their version.

A file with the name of a version never changes. `take` renames it before it is used.
"""

import hashlib
import json
import logging
import math
import os
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from swiftfs.concurrency import Lock
from swiftfs.config.cache_dir import write_whole
from swiftfs.errors import pluralize
from swiftfs.filecache.sparse_file import PINNED, CachedVersion, SparseFile, new_name, synchronize
from swiftfs.filecache.version_index import Row, VersionIndex
from swiftfs.objects import ObjectName, ObjectVersion

log = logging.getLogger(__name__)

_EVICTED_AT_ONCE = 64

_NAME = re.compile(r"[0-9a-f]{64}")
"""The name of a version's file. Files that are used, or that the journal needs, have others."""


MOST_PINS = 10_000
"""How many paths may be pinned: each folder counts once."""


class Pin(Struct, frozen=True, order=True):
    """An object, or everything below a folder: then `key` ends with `/`, or is empty for a whole container.

    An empty `container` is the whole account.
    """

    container: str
    key: str

    @property
    def is_tree(self) -> bool:
        """Whether it is a folder's."""
        return not self.key or self.key.endswith("/")


class Pins:
    """The pins of a cache folder, in the file `path`. Not locked: the file cache's lock guards it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pins: set[Pin] = set()
        with suppress(OSError, ValueError, TypeError):  # without the file nothing is pinned
            self._pins = {Pin(container, key) for container, key in json.loads(path.read_text())}

    def all(self) -> list[Pin]:
        """Return the pins in their order."""
        return sorted(self._pins)

    def has(self, pin: Pin) -> bool:
        """Return whether exactly this was pinned."""
        return pin in self._pins

    def covers(self, name: ObjectName) -> bool:
        """Return whether an object is pinned, itself or by a folder above it."""
        if not self._pins:
            return False
        above = [name.key[: place + 1] for place, letter in enumerate(name.key) if letter == "/"]
        found = (Pin(name.container, key) for key in ("", *above, name.key))
        return Pin("", "") in self._pins or any(pin in self._pins for pin in found)

    def add(self, pin: Pin) -> bool:
        """Add a pin and write the file; return False if there are too many. Raise `OSError`."""
        if pin not in self._pins and len(self._pins) >= MOST_PINS:
            return False
        self._write(self._pins | {pin})
        return True

    def remove(self, pin: Pin) -> None:
        """Remove a pin, of a folder also those of what is below it, and write the file; raise `OSError`."""
        self._write({one for one in self._pins if one != pin and not _is_below(one, pin)})

    def _write(self, pins: set[Pin]) -> None:
        write_whole(self._path, json.dumps([(one.container, one.key) for one in sorted(pins)]))
        self._pins = pins


def _is_below(one: Pin, tree: Pin) -> bool:
    if not tree.is_tree:
        return False
    return not tree.container or (one.container == tree.container and one.key.startswith(tree.key))


UNSYNCED_SECONDS = 5.0
"""How long a record may be written and dropped before the journal is synced, which says that time."""


class LostFiles(Struct, frozen=True):
    """Which local files without a record are kept, in a `folder`: all, or those that had one `since`.

    They are newer than the journal was at its last sync (Unix seconds), and files that a process had only
    open have no mark: so somebody has replaced the journal by an older copy.
    """

    folder: Path
    since: float

    def has(self, file: os.stat_result) -> bool:
        """Return whether a file is kept."""
        if self.since == -math.inf or not file.st_size:
            return file.st_size > 0
        return bool(file.st_mode & PINNED) and file.st_ctime > self.since + UNSYNCED_SECONDS


class VersionCache:
    """The cached versions in `folder`, and the index of their blocks. Not locked.

    No method raises errors of the disk: a file that cannot be cached is removed.
    """

    def __init__(self, folder: Path, index: Path, pins: Pins) -> None:
        self.pins = pins
        self._folder = folder
        self._index = VersionIndex(index)
        self._preferred: set[str] = set()
        self._has_warned = False

    @property
    def bytes(self) -> int:
        """The disk space of all files, in bytes."""
        return self._index.bytes

    @property
    def pinned_bytes(self) -> int:
        """The disk space of the files that stay, in bytes."""
        return self._index.pinned_bytes

    def set_pinned(self, pins: Iterable[Pin], *, pinned: bool) -> None:
        """Keep the files of these objects and folders from now on, or keep them no more."""
        self.save()
        for pin in pins:
            self._index.set_pinned(*_range_of(pin), pinned=pinned)

    def __contains__(self, version: ObjectVersion) -> bool:
        return self._index.has(file_name(version))

    def put(self, version: ObjectVersion, cached: CachedVersion) -> None:
        """Cache a file and close it; remove it if it cannot be cached."""
        name, file = file_name(version), cached.file
        try:
            file.move(name)
        except OSError as error:  # the folder was wiped, or the disk fails
            log.info("%s cannot be cached: %s", file.path, error)
            _remove(file)
            return
        # After the rename, which changes the ctime in the mark.
        pinned = self.pins.covers(version.name)
        of_file = (*file.measure(), cached.manifest, str(version.name))
        file.close()
        if self._index.put(Row(name, cached.present, cached.checked, *of_file, pinned)):
            self.save()

    def save(self) -> None:
        """Write the new rows of the index; remove the files of those that it does not take."""
        for name in self._index.write():
            (self._folder / name).unlink(missing_ok=True)

    def take(self, version: ObjectVersion) -> CachedVersion | None:
        """Remove the file of a version from the cache and return it; None if it is missing or was changed."""
        name = file_name(version)
        # The row goes before the file is used: a process that dies must not leave a row about bytes that have
        # changed.
        row = self._index.pop(name)
        if row is None:
            return None
        try:
            file = SparseFile.open(self._folder, name)
        except OSError:
            return None
        # Anything that wrote to the file or replaced it has changed its ctime.
        if file.mark() == row.mark:
            try:
                file.move(new_name())
            except OSError as error:
                log.info("%s cannot be used again: %s", file.path, error)
            else:
                return CachedVersion(file, row.present, row.checked, row.manifest)
        _remove(file)
        return None

    def prefer(self, versions: Iterable[ObjectVersion], no_more: Iterable[ObjectVersion]) -> None:
        """Evict `versions` last, and `no_more` as others."""
        self._preferred.difference_update(map(file_name, no_more))
        self._preferred.update(map(file_name, versions))

    def evict(self, size: int, most_pinned: int) -> int:
        """Delete the least recently used files, `size` bytes or all; return how many bytes were deleted.

        Pinned ones stay, unless they take more than `most_pinned` bytes.
        """
        freed = self._evict(size)
        if freed < size and (excess := self.pinned_bytes - most_pinned) > 0:
            if not self._has_warned:
                log.warning(
                    "more than %d MiB is pinned: pinned copies are evicted, too; raise cache_size, or unpin",
                    most_pinned >> 20,
                )
                self._has_warned = True
            freed += self._evict(min(size - freed, excess), pinned=True)
        return freed

    def _evict(self, size: int, *, pinned: bool = False) -> int:
        self.save()
        # Preferred versions count as just used, so that the order of the index is enough.
        for name in self._preferred:
            self._index.touch(name)
        freed = 0
        while freed < size and (oldest := self._index.oldest(_EVICTED_AT_ONCE, pinned=pinned)):
            evicted = []
            for name, allocated in oldest:
                if freed >= size:
                    break
                (self._folder / name).unlink(missing_ok=True)
                evicted.append(name)
                freed += allocated
            # The index cannot be written: without this the loop would find the same names for ever.
            if not self._index.delete(evicted):
                break
        return freed

    def sweep(self, used: Collection[str], lost: LostFiles | None) -> None:
        """Delete the files that are neither cached nor `used`, such as those of a process that died.

        Those that are `lost` are moved instead.
        """
        known = self._index.names()
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._folder.chmod(0o700)
        with os.scandir(self._folder) as entries:
            found = {entry.name: entry for entry in entries}
        self._index.delete(known.difference(found))  # somebody has deleted their files
        unknown = [entry for name, entry in found.items() if name not in known and name not in used]
        moved = 0
        for entry in unknown:
            if entry.is_dir(follow_symlinks=False):
                continue
            if lost is not None and lost.has(entry.stat(follow_symlinks=False)):
                lost.folder.mkdir(mode=0o700, exist_ok=True)
                Path(entry.path).rename(lost.folder / entry.name)
                moved += 1
            else:
                Path(entry.path).unlink(missing_ok=True)
        if moved:
            what = pluralize(moved, "local file")
            log.error("%s that the journal may have named: moved to %s", what, lost and lost.folder)

    def close(self) -> None:
        """Sync all files to the disk, and close the index."""
        self.save()
        clean = True
        try:
            if self._index.bytes:
                # Before the index says that the session was clean.
                synchronize(self._folder)
        except OSError as error:
            log.info("%s cannot be synced, so it is not used after a reboot: %s", self._folder, error)
            clean = False
        self._index.close(clean=clean)


def evict_closed(
    folder: Path,
    order: Sequence[str],
    needed: Collection[ObjectVersion],
    is_enough: Callable[[], bool],
) -> int:
    """Delete versions of a cache that no mount uses, in their `order`, until it `is_enough`; return how many.

    Those that are not in the order come first: they are in no index, so the next mount would delete them. The
    `needed` ones stay.
    """
    places = {name: place for place, name in enumerate(order)}
    names = {path.name for path in folder.iterdir() if _NAME.fullmatch(path.name)}
    count = 0
    for name in sorted(names.difference(map(file_name, needed)), key=lambda name: places.get(name, -1)):
        if is_enough():
            break
        (folder / name).unlink(missing_ok=True)
        count += 1
    return count


class PinnedCopies:
    """The copies that stay in the cache. `lock` is the file cache's."""

    def __init__(self, lock: Lock, versions: VersionCache) -> None:
        self._lock = lock
        self._versions = versions

    @property
    def bytes(self) -> int:
        """The disk space of the copies that are pinned and not open, in bytes."""
        return self._versions.pinned_bytes

    def all(self) -> list[Pin]:
        """Return what is pinned."""
        with self._lock:
            return self._versions.pins.all()

    def covers(self, name: ObjectName) -> bool:
        """Return whether the copy of an object stays."""
        with self._lock:
            return self._versions.pins.covers(name)

    def pin(self, pin: Pin) -> bool:
        """Keep the copies of an object or a folder; return False if there are too many. Raise `OSError`."""
        with self._lock:
            if is_added := self._versions.pins.add(pin):
                self._versions.set_pinned([pin], pinned=True)
            return is_added

    def unpin(self, pin: Pin) -> None:
        """Keep them no more, unless a folder above is pinned, too; raise `OSError`."""
        with self._lock:
            pins = self._versions.pins
            pins.remove(pin)
            self._versions.set_pinned([pin], pinned=False)
            self._versions.set_pinned(pins.all(), pinned=True)


_AFTER_ALL = "\U0010ffff"
"""Appended to a prefix, it makes a text that is greater than everything that begins with the prefix."""


def _range_of(pin: Pin) -> tuple[str, str]:
    """Return the names of the objects of a pin: the first one, and the one behind the last one."""
    if not pin.container:
        return "", _AFTER_ALL
    first = f"{pin.container}/{pin.key}"
    return first, first + (_AFTER_ALL if pin.is_tree else "\0")


def file_name(version: ObjectVersion) -> str:
    """Return the file name of a version: a hash of three strings, none of which can have a NUL."""
    text = "\0".join((version.name.container, version.name.key, version.etag))
    return hashlib.sha256(text.encode()).hexdigest()


def _remove(file: SparseFile) -> None:
    try:
        file.remove()
    except OSError as error:
        log.info("%s cannot be deleted: %s", file.path, error)
