"""A file's bytes: a local file that fills itself from one version of an object and takes changes.

The kernel reads and writes the local file by its descriptor. What is `present` in it is right; the rest is
fetched before it is answered. A reader gets the bytes of one version and its own changes, never a mixture:
every fetch names the version, and a version that is gone is `PreconditionFailed`.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from swiftfs.content.blocks import BLOCK, Blocks, block_range
from swiftfs.content.localfile import open_nameless, punch_hole
from swiftfs.content.readahead import ReadAhead
from swiftfs.errors import NotFound, PreconditionFailed
from swiftfs.model import FileSpan, ObjectInfo, ObjectName
from swiftfs.store.protocol import ObjectStore

Fill = Callable[[int, int], int]
"""Copies the bytes of a write into a descriptor at a position, and returns how many it copied."""


class Watcher(Protocol):
    """Is told the offset and length in bytes of every change, while the content's lock is held."""

    def written(self, offset: int, length: int) -> None:
        """Bytes were written."""

    def changed(self, offset: int, length: int) -> None:
        """Bytes changed otherwise: the file was truncated or extended."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The version whose bytes fill the file: the first `size` bytes of it, `etag` empty while unknown.

    `whole` is the size of the object, which `size` falls below when the file is truncated.
    """

    name: ObjectName
    etag: str
    size: int
    whole: int


class Fetch:
    """A download under way; whoever waits for its blocks learns its failure."""

    def __init__(self, first: int, last: int) -> None:
        self.first = first
        self.last = last
        self.error: BaseException | None = None

    def touches(self, first: int, last: int) -> bool:
        """Say whether it brings a block of the range."""
        return self.first < last and first < self.last


class Content:
    """The bytes of one open or cached file.

    INVARIANT: the local file is never made shorter, for uploads map it, and a page behind the end kills.
    INVARIANT: blocks behind the origin's size hold zeros or our own bytes, and count as present.
    The lock guards every field and each change of the local file; it is not held across the network.
    """

    def __init__(
        self, store: ObjectStore, pool: Executor, directory: Path, origin: Origin | None, read_ahead: int
    ) -> None:
        self._store = store
        self._pool = pool
        self.descriptor = open_nameless(directory)
        self._origin = origin
        self._present = Blocks()
        self._fetches: list[Fetch] = []
        self._changed = threading.Condition()
        self._ahead = ReadAhead(read_ahead)
        self._closed = False
        self.watcher: Watcher | None = None
        self.size = 0
        if origin is not None:
            self._grow(origin.size)

    @property
    def origin(self) -> Origin | None:
        """Return the version that fills the file, None for a new file."""
        return self._origin

    def present_bytes(self) -> int:
        """Return about how many bytes of disk the file takes."""
        return len(self._present) * BLOCK

    def read(self, offset: int, size: int) -> FileSpan:
        """Return where the bytes from `offset` lie, downloading what is missing.

        Fewer than `size` bytes come only where the file ends. Raise `PreconditionFailed` (ESTALE) when the
        version is gone, and what the store raises.
        """
        end = min(offset + size, self.size)
        if end <= offset:
            return FileSpan(self.descriptor, offset, 0)
        self._read_ahead(offset, end)
        self.ensure(offset, end)
        return FileSpan(self.descriptor, offset, end - offset)

    def write(self, offset: int, size: int, fill: Fill) -> int:
        """Let `fill` copy `size` bytes to `offset`; return how many it copied.

        A block that the write covers in part is downloaded first.
        """
        end = offset + size
        first, last = block_range(offset, end)
        for edge in {offset // BLOCK, last - 1}:
            if not offset <= edge * BLOCK < (edge + 1) * BLOCK <= end:
                self.ensure(edge * BLOCK, (edge + 1) * BLOCK)
        with self._changed:
            copied = fill(self.descriptor, offset)
            self._present.add(first, last)
            self.size = max(self.size, offset + copied)
            if self.watcher:
                self.watcher.written(offset, copied)
        return copied

    def truncate(self, size: int) -> None:
        """Make the file `size` bytes long; what is new reads as zeros."""
        if size < self.size and size % BLOCK:
            self.ensure(size - 1, size)
        with self._changed:
            before = self.size
            if size < before:
                if self._origin is not None and size < self._origin.size:
                    self._origin = replace(self._origin, size=size)
                self._present.discard(block_range(0, size)[1], block_range(0, before)[1])
                punch_hole(self.descriptor, size, before - size)
                self.size = size
            else:
                self._grow(size)
            if self.watcher:
                self.watcher.changed(min(size, before), abs(before - size))

    def ensure(self, offset: int, end: int) -> None:
        """Download what is missing of the bytes from `offset` to `end`, or wait for whoever does."""
        while (fetch := self._claim(offset, end)) is not None:
            self._run(fetch)
            if fetch.error is not None:
                raise fetch.error

    def ensure_all(self) -> None:
        """Download all that is missing."""
        self.ensure(0, self.size)

    def is_complete(self) -> bool:
        """Say whether nothing is left to download."""
        with self._changed:
            return self._first_missing(0, self.size) is None

    def adopt(self, info: ObjectInfo) -> None:
        """Take the stored version `info`, which these bytes are, as the origin."""
        with self._changed:
            self._origin = Origin(info.version.name, info.version.etag, self.size, self.size)
            self._present.add(*block_range(0, self.size))

    def rename(self, name: ObjectName) -> None:
        """Fetch from `name` from now on: the object was moved there."""
        with self._changed:
            if self._origin is not None:
                self._origin = replace(self._origin, name=name)

    def close(self) -> None:
        """Close the local file when the last download has ended."""
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: not self._fetches)
            os.close(self.descriptor)

    def _claim(self, offset: int, end: int) -> Fetch | None:
        """Return a download for the caller to run, None when all is present; wait for those under way."""
        with self._changed:
            while (run := self._first_missing(offset, end)) is not None:
                under_way = [fetch for fetch in self._fetches if fetch.touches(*run)]
                if not under_way:
                    return self._begin(*run)
                self._changed.wait()
                for fetch in under_way:
                    if fetch.error is not None:
                        raise fetch.error
        return None

    def _begin(self, first: int, last: int) -> Fetch:
        fetch = Fetch(first, last)
        self._fetches.append(fetch)
        return fetch

    def _first_missing(self, offset: int, end: int) -> tuple[int, int] | None:
        if self._origin is None:
            return None
        first, last = block_range(offset, min(end, self._origin.size))
        return next(self._present.missing(first, last), None)

    def _read_ahead(self, offset: int, end: int) -> None:
        with self._changed:
            if self._origin is None or self._closed:
                return
            for start, stop in self._ahead.plan(offset, end, self._origin.size):
                first, last = block_range(start, stop)
                for run in list(self._present.missing(first, last)):
                    if not any(fetch.touches(*run) for fetch in self._fetches):
                        self._pool.submit(self._run, self._begin(*run))

    def _run(self, fetch: Fetch) -> None:
        try:
            self._download(fetch)
        except BaseException as error:  # noqa: BLE001  whoever waits raises it
            fetch.error = error
        finally:
            with self._changed:
                self._fetches.remove(fetch)
                self._changed.notify_all()

    def _download(self, fetch: Fetch) -> None:
        origin = self._origin
        if origin is None or self._closed:
            return
        offset = fetch.first * BLOCK
        length = min(fetch.last * BLOCK, origin.size) - offset
        if length <= 0:
            return
        whole = offset == 0 and length == origin.whole
        # Bytes of a known version may be answered as they come; a whole object's are verified first.
        arrived = self._arrive if origin.etag and not whole else self._store_bytes
        try:
            info = self._store.get(
                origin.name, arrived, offset=offset, length=None if whole else length, etag=origin.etag
            )
        except NotFound:
            raise PreconditionFailed(f"{origin.name}: the object was deleted while it was read") from None
        if info.size != origin.whole or (origin.etag and info.version.etag != origin.etag):
            raise PreconditionFailed(f"{origin.name}: the object changed while it was read")
        with self._changed:
            if self._origin is not None and not self._origin.etag:
                self._origin = replace(self._origin, etag=info.version.etag)
            self._present.add(fetch.first, fetch.last)

    def _store_bytes(self, offset: int, data: bytes) -> None:
        """Write downloaded bytes wherever we have none of our own."""
        with self._changed:
            if self._origin is None:
                return
            end = min(offset + len(data), self._origin.size)
            for first, last in list(self._present.missing(*block_range(offset, end))):
                start, stop = max(offset, first * BLOCK), min(end, last * BLOCK)
                os.pwrite(self.descriptor, memoryview(data)[start - offset : stop - offset], start)

    def _arrive(self, offset: int, data: bytes) -> None:
        self._store_bytes(offset, data)
        with self._changed:
            end = offset + len(data)
            last = end // BLOCK if self._origin is None or end < self._origin.size else -(-end // BLOCK)
            # The first block is whole because a fetch begins at a block and its chunks come in order.
            self._present.add(offset // BLOCK, last)
            self._changed.notify_all()

    def _grow(self, size: int) -> None:
        os.ftruncate(self.descriptor, max(size, os.fstat(self.descriptor).st_size))
        self.size = size
