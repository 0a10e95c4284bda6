"""A cache folder over a store in memory, which tests can close, open again and inspect."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.deadlines import within
from support.memory_store import MemoryStore
from support.no_backlog import NoBacklog
from swiftfs.filecache.block_map import BLOCK, BaseVersion
from swiftfs.filecache.cache import CachedFileFactory, FileCache
from swiftfs.filecache.cached_file import CachedFile
from swiftfs.filecache.file_state import FileState
from swiftfs.filecache.segment_layout import SegmentLayout
from swiftfs.objects import ObjectInfo, ObjectName, ObjectVersion
from swiftfs.store.protocol import Headers, Sink

MIB = 1024 * 1024
PLAIN = Headers("application/octet-stream")


class CorruptingStore(MemoryStore):
    """A store that corrupts answers to GETs; no ETag or MD5 shows it.

    The last byte of each of the next `wrong` answers is wrong, and so is the byte at the offset `wrong_at`,
    always, if that is not negative.
    """

    wrong = 0
    wrong_at = -1

    def get(self, name: ObjectName, sink: Sink, **how: Any) -> ObjectInfo:
        wrong = self.wrong > 0
        self.wrong -= wrong

        def corrupted(position: int, data: bytes) -> None:
            body = bytearray(data)
            body[-1] ^= wrong
            if position <= self.wrong_at < position + len(data):
                body[self.wrong_at - position] ^= 1
            sink(position, bytes(body))

        return super().get(name, corrupted, **how)


class CacheRig:
    """A store, and a cache folder, which `restart` closes and opens again. Sizes are in bytes."""

    def __init__(self, folder: Path, limit: int | None, read_ahead: int, threads: int) -> None:
        self.store = CorruptingStore("box")
        self.folder = folder
        self.files = folder / "content"
        self._limit = limit
        self._read_ahead = read_ahead
        self._threads = threads
        self._lent: list[CachedFile] = []
        self.enter()

    def enter(self) -> None:
        """Open the cache folder."""
        maker = CachedFileFactory(
            self.store,
            SegmentLayout(1024 * MIB),
            lambda _standing: None,
            connections=self._threads,
            uploads=1,
            read_ahead=self._read_ahead,
        )
        self.pool = maker._downloads
        self.cache = FileCache(self.folder, self._limit, maker, {}, NoBacklog())

    def restart(self) -> None:
        """Close the cache folder and open it again."""
        self.cache.close()
        self.enter()

    def put(self, key: str, body: bytes) -> BaseVersion:
        """Store an object; return it as the base version of a file."""
        name = ObjectName("box", key)
        return BaseVersion(name, self.store.put(name, body, PLAIN).version.etag, len(body), len(body))

    def open(self, base: BaseVersion) -> CachedFile:
        """Open a file of this version, with the blocks that the cache has."""
        cached_file = self.cache.acquire_version(ObjectVersion(base.name, base.etag)) or self.cache.new(
            base.name, base
        )
        self._lent.append(cached_file)
        return cached_file

    def forget(self, cached_file: CachedFile) -> None:
        """Do not close a file in `close`: the test does that."""
        self._lent.remove(cached_file)

    def keep(self, cached_file: CachedFile) -> None:
        """Close a file, and leave its blocks in the cache."""
        self.forget(cached_file)
        self.cache.keep(cached_file)

    def read(self, base: BaseVersion, offset: int = 0, size: int = 2**40) -> bytes:
        """Open a file of this version, read a range, and close it."""
        cached_file = self.open(base)
        data = read(cached_file, offset, size)
        self.keep(cached_file)
        return data

    def gets(self) -> int:
        """Return the number of GETs since the last call."""
        count = sum(method == "get" for method, _ in self.store.requests)
        self.store.requests.clear()
        return count

    def kept(self) -> list[Path]:
        """Return the local files in the cache folder."""
        return sorted(self.files.iterdir())

    @contextmanager
    def stalled_pool(self) -> Iterator[None]:
        """Let the only thread of the pool be busy until the end of the `with`."""
        begun, go_on = threading.Event(), threading.Event()

        def stall() -> bool:
            begun.set()
            return go_on.wait(within(60))

        stalled = self.pool.submit(stall)
        assert begun.wait(within(10))
        yield
        assert not stalled.done()
        go_on.set()
        assert stalled.result(within(10))

    def close(self) -> None:
        """Close the open files and the cache folder."""
        for cached_file in self._lent:
            self.cache.drop(cached_file)
        self.cache.close()


class DiskUsage:
    """A result of `shutil.disk_usage`, with only the free bytes."""

    def __init__(self, free: int) -> None:
        self.free = free


def no_memory(_state: FileState, base: BaseVersion) -> CachedFile:
    """Fail: the disk is never full."""
    raise AssertionError(base)


def read(cached_file: CachedFile, offset: int = 0, size: int = 2**40) -> bytes:
    """Read a range of a file."""
    span = cached_file.read(offset, size)
    return os.pread(span.descriptor, span.length, span.position)


def write(cached_file: CachedFile, offset: int, data: bytes) -> None:
    """Write bytes at an offset."""
    assert cached_file.write(offset, len(data), lambda file, at: os.pwrite(file, data, at)) == len(data)


def read_in_pieces(cached_file: CachedFile) -> bytes:
    """Read a file in order, a block at a time."""
    return b"".join(read(cached_file, offset, BLOCK) for offset in range(0, cached_file.size, BLOCK))


def settle(cached_file: CachedFile) -> None:
    """Wait until no download and no check of the file runs."""
    idle = threading.Event()
    cached_file.when_idle(idle.set)
    assert idle.wait(within(10))
