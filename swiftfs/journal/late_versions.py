"""The versions that may have to be stored again when a late request overwrites them: bytes and headers.

`LateCopies` has a copy of each such file for some minutes after a request was lost. `LateVersions` decides
what is copied, and fetches what only Swift has. What a process may have sent for an operation before it died
may be carried out late, too: `requests_of` names it.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from hashlib import md5
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO

from cachetools import LRUCache
from msgspec.structs import replace

from swiftfs.concurrency import Rank, new_lock
from swiftfs.config.cache_dir import new_file
from swiftfs.errors import NotFound, StoreError
from swiftfs.filecache.block_map import BaseVersion
from swiftfs.filecache.cache import FileCache
from swiftfs.filecache.cached_file import CachedFile
from swiftfs.filecache.sparse_file import md5_of, write_all
from swiftfs.journal.operations import (
    Delete,
    Move,
    MoveFolder,
    MoveObject,
    Operation,
    PutFile,
    PutMarker,
    PutSpecial,
    ReplaceHeaders,
    SetAttributes,
)
from swiftfs.objects import ObjectInfo, ObjectName, ObjectVersion
from swiftfs.store.ambiguous import GONE, SMALL_BODY, Ambiguity, AmbiguousRequests, Effect
from swiftfs.store.protocol import Headers, ObjectStore

log = logging.getLogger(__name__)

MOST_BYTES = 256 * 1024 * 1024
"""The size of all copies together. Others are only in the version cache, where they are evicted last."""

PIECE = 1024 * 1024
"""Bytes that are copied at a time."""


class LateCopies:
    """The copies in `folder`, which is made when needed. The lock guards what is in it.

    `has_room` returns whether so many bytes may be added to the disk.
    """

    def __init__(self, folder: Path, has_room: Callable[[int], bool]) -> None:
        self._folder = folder
        self._has_room = has_room
        self._lock = new_lock(Rank.LATE_COPIES)

    def __contains__(self, version: ObjectVersion) -> bool:
        return self._path(version).exists()

    def fits(self, size: int) -> bool:
        """Return whether there is room for a copy of so many bytes."""
        return self._bytes() + size <= MOST_BYTES and self._has_room(size)

    def put(self, version: ObjectVersion, descriptor: int, size: int) -> None:
        """Copy the bytes of a file; a writer may change them meanwhile, so a reader checks the MD5."""
        with self._lock:
            if not self.fits(size):
                return
            self._folder.mkdir(mode=0o700, exist_ok=True)
            path = self._path(version)
            # Under another name until it is complete: a process may die while it copies.
            unfinished = path.with_suffix(".new")
            with os.fdopen(new_file(unfinished), "wb") as file:
                position = 0
                while data := os.pread(descriptor, min(PIECE, size - position), position):
                    position += file.write(data)
            unfinished.rename(path)

    def reader(self, version: ObjectVersion) -> BinaryIO | None:
        """Open the copy of a version; return None if there is none."""
        try:
            return self._path(version).open("rb")
        except FileNotFoundError:
            return None

    def drop(self, version: ObjectVersion) -> None:
        """Delete the copy of a version, if there is one."""
        with self._lock, suppress(OSError):  # what stays is deleted by the next mount
            self._path(version).unlink(missing_ok=True)
            self._folder.rmdir()  # succeeds when nothing is left

    def sweep(self, wanted: Iterable[ObjectVersion]) -> None:
        """Delete all copies but those of these versions."""
        if not self._folder.exists():
            return
        names = {self._path(version).name for version in wanted}
        with self._lock, suppress(OSError):  # what stays is deleted the next time
            for path in self._folder.iterdir():
                if path.name not in names:
                    path.unlink(missing_ok=True)
            self._folder.rmdir()  # succeeds when nothing is left

    def _bytes(self) -> int:
        if not self._folder.exists():
            return 0
        return sum(path.stat().st_size for path in self._folder.iterdir())

    def _path(self, version: ObjectVersion) -> Path:
        text = "\0".join((version.name.container, version.name.key, version.etag))
        return self._folder / hashlib.sha256(text.encode()).hexdigest()


COPY_BYTES = 1024 * 1024
"""Bytes that are written to a new file at a time."""

PREPARED = 4000
"""How many copies of a move are prepared at most."""


class LateVersions:
    """Keeps the bytes and headers of the versions that `ambiguous` records as the last ones.

    Mostly `cache` has the bytes. What only Swift has, as after a rename, is fetched once for each version
    when a lost request begins to be dangerous.
    """

    def __init__(
        self, ambiguous: AmbiguousRequests, store: ObjectStore, cache: FileCache, folder: Path
    ) -> None:
        self._ambiguous = ambiguous
        self._store = store
        self._cache = cache
        self._copies = LateCopies(folder, cache.space.has_room)
        self._folder = folder.parent
        self._wanted: dict[ObjectName, ObjectVersion] = {}
        # What is known of versions about to be copied; the bytes of larger ones are in `_copies`. The
        # lock guards it.
        self._lock = new_lock(Rank.LATE_COPIES)
        self._prepared: LRUCache[ObjectVersion, Effect] = LRUCache(PREPARED)
        # The versions that were fetched, each with when its request was lost.
        self._fetched: LRUCache[tuple[ObjectVersion, float], bool] = LRUCache(PREPARED)

    def begin(self) -> None:
        """Take over what an earlier mount has kept."""
        found = {one.name: one for one in self._ambiguous.all()}
        self.keep(found)
        self._copies.sweep(only_here(found.values()))

    def keep(self, changed: Mapping[ObjectName, Ambiguity | None]) -> None:
        """Copy what the cache has of what changed records need, and delete what they needed before.

        One thread at a time may call this. There may be thousands of records: only the changed ones count.
        """
        preferred, no_more = [], []
        for name, found in changed.items():
            version = _version(found) if found is not None and _is_only_here(found) else None
            if (before := self._wanted.pop(name, None)) not in (None, version):
                self._copies.drop(before)
                no_more.append(before)
            if found is not None and version is not None:
                self._wanted[name] = version
                if found.is_dangerous:
                    self._copy(version)
                    preferred.append(version)
        self._cache.prefer(preferred, no_more)

    def file_of(self, name: ObjectName, last: Effect) -> CachedFile | None:
        """Return a new file with a version's bytes, for the caller to release; None when they are gone."""
        if last.manifest is not None:  # its segments are in Swift
            size = last.manifest.size
            return self._cache.new(name, BaseVersion(name, last.etag, size, size, last.manifest))
        if (body := last.body) is not None:
            return self._filled(name, last.etag, lambda at: body[at:])
        version = ObjectVersion(name, last.etag)
        if (copy := self._copies.reader(version)) is not None:
            with copy as file:
                cached_file = self._filled(
                    name, last.etag, lambda at: os.pread(file.fileno(), COPY_BYTES, at)
                )
            if cached_file is not None:
                return cached_file
        if (kept := self._cache.find(version)) is None:
            return None
        try:
            if not kept.is_complete():
                return None
            return self._filled(name, last.etag, lambda at: os.pread(kept.descriptor, kept.size - at, at))
        finally:
            self._cache.release(kept)

    def _filled(self, name: ObjectName, etag: str, read: Callable[[int], bytes]) -> CachedFile | None:
        """Return a new file with the bytes that `read` returns from an offset on; None if they are wrong."""
        cached_file, is_right = self._cache.new(name, None), False
        try:
            position = 0
            while data := read(position)[:COPY_BYTES]:
                position += cached_file.write(position, len(data), partial(_write, data))
            # A writer may have changed the local file while it was copied.
            is_right = md5_of(cached_file.descriptor, 0, cached_file.size, bool) == etag
        finally:
            if not is_right:
                self._cache.release(cached_file)
        return cached_file if is_right else None

    def prepare(self, source: ObjectName, target: ObjectName) -> None:
        """Get the headers of an object, and its bytes or manifest, before it is copied to `target`.

        Raise `StoreError` or `OSError`.
        """
        info = self._store.head(source)
        version = ObjectVersion(target, info.version.etag)
        effect = self._get(Effect("put", info.version.etag), info, version)
        with self._lock:
            self._prepared[version] = effect

    def fetch(self, found: Ambiguity) -> None:
        """Get the headers of an object, and its bytes or manifest, unless they are known."""
        last, version = found.last, _version(found)
        if last is None or not _is_only_here(found):
            return
        key = version, found.lost_at
        with self._lock:
            if key in self._fetched:
                return
            ready = self._prepared.pop(version, None)
            self._fetched.update({key: True} if ready is not None else {})
        if ready is not None:
            known = replace(last, headers=ready.headers, body=ready.body, manifest=ready.manifest)
            self._ambiguous.complete(found, known)
            return
        # Nothing needs to be requested: the headers are known, and the bytes are here.
        if last.headers is not None and (version in self._copies or self._is_cached(version)):
            return
        try:
            info = self._store.head(found.name)
            # Another client's version need not be kept.
            complete = self._get(last, info, version) if info.version == version else None
        except NotFound:
            # A version without headers and source is known from a listing, which was late. After an answered
            # COPY a lost DELETE was faster: the next check finds that.
            complete = GONE if last.headers is None and last.source is None else None
        except (StoreError, OSError) as error:
            log.info("%s has no copy in case a late request overwrites it: %s", found.name, error)
            return
        # Not before the answer: a failed attempt is repeated.
        with self._lock:
            self._fetched[key] = True
        if complete is not None:
            self._ambiguous.complete(found, complete)

    def _get(self, last: Effect, info: ObjectInfo, version: ObjectVersion) -> Effect:
        """Return the effect with all that the object `info` has, and keep its bytes as those of `version`."""
        name, etag = info.version.name, info.version.etag
        headers = last.headers or Headers.of(info)
        if info.is_slo:
            return replace(last, headers=headers, manifest=self._store.manifest(name))
        if info.size <= SMALL_BODY:
            body = bytearray(info.size)
            self._store.get(name, partial(_fill, body), etag=etag, size=info.size)
            return replace(last, headers=headers, body=bytes(body))
        if self._copies.fits(info.size) and not self._is_cached(version):
            with TemporaryFile(dir=self._folder) as file:
                self._store.get(name, partial(_pwrite, file.fileno()), etag=etag, size=info.size)
                self._copies.put(version, file.fileno(), info.size)
        return replace(last, headers=headers)

    def _is_cached(self, version: ObjectVersion) -> bool:
        if (cached_file := self._cache.find(version)) is None:
            return False
        try:
            return cached_file.is_complete()
        finally:
            self._cache.release(cached_file)

    def _copy(self, version: ObjectVersion) -> None:
        """Copy a version's bytes: a kill before the last close would lose them, a full cache after it."""
        if version in self._copies or (cached_file := self._cache.find(version)) is None:
            return
        try:
            if cached_file.is_complete():
                self._copies.put(version, cached_file.descriptor, cached_file.size)
        except OSError as error:
            log.info("%s has no copy in case a late request overwrites it: %s", version.name, error)
        finally:
            self._cache.release(cached_file)


def _version(found: Ambiguity) -> ObjectVersion:
    return ObjectVersion(found.name, found.last.etag if found.last is not None else "")


def _is_only_here(found: Ambiguity) -> bool:
    """Return whether only a local file would have a version's bytes after a late request overwrote it."""
    last = found.last
    if last is None or last.kind != "put" or not last.etag:
        return False
    return last.body is None and last.manifest is None


def only_here(found: Iterable[Ambiguity]) -> Iterator[ObjectVersion]:
    """Yield the versions of which only a local file would have the bytes after a late request."""
    return map(_version, filter(_is_only_here, found))


def _fill(body: bytearray, position: int, data: bytes) -> None:
    body[position : position + len(data)] = data


def _pwrite(descriptor: int, position: int, data: bytes) -> None:
    write_all(descriptor, data, position)


def _write(data: bytes, descriptor: int, position: int) -> int:
    return os.pwrite(descriptor, data, position)


Request = tuple[ObjectName, Effect]


def requests_of(operation: Operation) -> Iterator[Request]:
    """Yield what an operation from the journal may have sent, each with its object.

    The ETag of a file is not known before its bytes are read.
    """
    match operation:
        case PutFile():
            for meta in filter(None, (operation.running, operation.meta)):
                yield operation.name, Effect("put", headers=meta.headers())
        case PutSpecial():
            yield operation.name, _put(operation.body, operation.meta.headers())
        case PutMarker():
            yield operation.name, _put(b"", operation.headers, if_absent=True)
        case SetAttributes():
            yield operation.name, Effect("post", headers=operation.meta.headers())
        case ReplaceHeaders():
            yield operation.name, Effect("post", headers=operation.headers)
        case Delete():
            yield operation.name, GONE
        case Move() | MoveObject():
            yield from _moving(operation.source, operation.target)
        case MoveFolder():
            yield from _moving_folder(operation)


def _moving_folder(operation: MoveFolder) -> Iterator[Request]:
    """Yield nothing if the objects are not recorded: that happens before the first request."""
    if operation.objects is None:
        return
    for source, target in (*operation.markers, *operation.copies()):
        yield from _moving(source, target)
        # Its copies were being deleted again: both the COPY and the DELETE of a target may come late.
        if operation.undone:
            yield target, GONE


def _moving(source: ObjectName, target: ObjectName) -> Iterator[Request]:
    yield target, Effect("copy", source=source)
    yield source, GONE


def _put(body: bytes, headers: Headers, *, if_absent: bool = False) -> Effect:
    small = body if len(body) <= SMALL_BODY else None
    return Effect(
        "put", md5(body, usedforsecurity=False).hexdigest(), headers, body=small, if_absent=if_absent
    )
