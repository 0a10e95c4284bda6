"""Prefetch: small files are downloaded before a program that goes through a folder opens them."""

import stat
from collections import OrderedDict, deque
from contextlib import suppress

from swiftfs.concurrency import Rank, new_lock, new_pool
from swiftfs.config.options import Options
from swiftfs.filecache.block_map import BaseVersion
from swiftfs.filecache.cache import FileCache
from swiftfs.filecache.cached_file import CachedFile
from swiftfs.filecache.read_ahead import FIRST_PIECE
from swiftfs.namespace.entry import Entry
from swiftfs.namespace.namespace import Namespace
from swiftfs.objects import ObjectVersion
from swiftfs.posix.access_pattern import READERS, Reader, Readers
from swiftfs.posix.open_files import OpenFiles

BYTES_AHEAD = 32 * 1024 * 1024 // READERS
"""How many bytes are downloaded ahead for one reader. All readers together may waste 32 MiB."""

PER_CONNECTION = 2
"""Downloads at once for each connection of the option: small files mostly wait for the answer."""

OPENED = 64
"""How many opened versions are remembered: more than are being opened at any moment. Later they are
open files."""


class Prefetch:
    """Downloads the files that a reader will open next, as whole objects.

    A file that is downloaded ahead is kept here until it is opened, even if it is not complete. If it is not
    opened, it is put into the cache in the end. A failed download is dropped: the open of the file begins
    another.

    The lock guards every field. It is taken before those of the open files, the cache, a cached file
    and the namespace.
    """

    def __init__(
        self, namespace: Namespace, cache: FileCache, open_files: OpenFiles, options: Options
    ) -> None:
        self._namespace = namespace
        self._cache = cache
        self._open_files = open_files
        self._lock = new_lock(Rank.PREFETCH)
        parallel = PER_CONNECTION * options.connections
        self._pool = new_pool("prefetch", parallel)
        # Twice the number of parallel downloads, so that no thread is idle while the reader opens the files.
        window = 2 * parallel
        self._is_on = options.prefetch
        self._max_ahead = READERS * window
        self._readers = Readers(namespace.known_children, window)
        self._ahead: OrderedDict[ObjectVersion, CachedFile] = OrderedDict()
        self._opened: deque[ObjectVersion] = deque(maxlen=OPENED)
        self._stopped = False

    def acquire(self, version: ObjectVersion) -> CachedFile | None:
        """Return the cached file of `version`, for the caller to release; None when there is none."""
        with self._lock:
            # Complete or not: its reader waits for the download that has begun, instead of beginning another.
            self._opened.append(version)
            return self._ahead.pop(version, None) or self._cache.acquire_version(version)

    def opened(self, path: str) -> None:
        """Record that the file at `path` was opened for reading; start to download the next ones."""
        with self._lock:
            reader = self._readers.opened(path) if self._is_on else None
            if reader is not None and not self._stopped:
                self._fetch_for(reader)
            while len(self._ahead) > self._max_ahead:
                self._cache.keep(self._ahead.popitem(last=False)[1])

    def switch(self, on: bool) -> None:
        """Download in advance from now on, or not."""
        with self._lock:
            self._is_on = on

    def stop(self) -> None:
        """Download nothing in advance any more, whatever `switch` says."""
        with self._lock:
            self._stopped = True

    def close(self) -> None:
        """Put complete files into the cache, and end the threads; no file is opened any more."""
        with self._lock:
            while self._ahead:
                cached_file = self._ahead.popitem()[1]
                if cached_file.is_complete():
                    self._cache.keep(cached_file)
                else:
                    self._cache.drop(cached_file)
        self._pool.shutdown()

    def _fetch_for(self, reader: Reader) -> None:
        budget = BYTES_AHEAD
        for path in reader.expected:
            entry = self._namespace.known(path)
            if entry is None or not entry.complete:
                continue  # a HEAD may be running
            if _is_small_file(entry):
                budget -= entry.attributes.size
            if budget < 0:
                return
            # Each file once: what was left out or has been dropped is not tried again at every open.
            if path not in reader.decided:
                reader.decided.add(path)
                if _is_small_file(entry) and not self._is_used(path):
                    self._fetch(entry)

    def _is_used(self, path: str) -> bool:
        """Return whether the file is open, or was a moment ago: then it may not be in the cache yet."""
        # In this order: it is closed at any moment.
        return self._open_files.at(path) is not None or self._open_files.was_just_released(path)

    def _fetch(self, entry: Entry) -> None:
        version, size = entry.version, entry.attributes.size
        # `_opened`: its reader has its bytes or downloads them, and may be on the way to the open files.
        if version in self._ahead or version in self._opened or version in self._cache:
            return
        with suppress(OSError):  # the disk is full: the open of this file will report it
            cached_file = self._cache.new(version.name, BaseVersion(version.name, version.etag, size, size))
            cached_file.begin(self._pool)
            self._ahead[version] = cached_file


def _is_small_file(entry: Entry) -> bool:
    """Return whether this is a regular file, not empty, that one request downloads."""
    attributes = entry.attributes
    return (
        entry.object is not None
        and stat.S_ISREG(attributes.mode)
        and 0 < attributes.size <= FIRST_PIECE
        and not entry.is_slo
        and bool(entry.etag or entry.hash)  # Swift has it
    )
