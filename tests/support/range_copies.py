"""copy_file_range(2) as programs use it, over a store in memory."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from support.harness import ME, get, put
from support.memory_store import MemoryStore
from support.noise import noise
from support.stored_objects import segments, segments_of
from swiftfs.objects import Manifest, ObjectInfo, ObjectName, Segment
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.protocol import Headers

PLAIN = Headers("application/octet-stream")
BIG = noise(5 * 1024 * 1024 + 300_007)


def copy_range(
    filesystem: FileSystem,
    source: int,
    target: int,
    offset_in: int = 0,
    offset_out: int = 0,
    length: int = 1 << 40,
) -> int:
    return filesystem.copy_file_range(source, offset_in, target, offset_out, length, 0)


@contextmanager
def opened(filesystem: FileSystem, old: str, new: str, flags: int = os.O_TRUNC) -> Iterator[tuple[int, int]]:
    """Open a file for reading and make another one; close both."""
    source = filesystem.open(old, os.O_RDONLY)
    target = filesystem.create(new, 0o644, os.O_RDWR | flags, ME)
    try:
        yield source, target
        filesystem.flush(target)
    finally:
        filesystem.release(source)
        filesystem.release(target)


def append(filesystem: FileSystem, source: int, target: int, at: int = 0) -> int:
    """Append a file as cp(1) and cat(1) do: the kernel copies what the mount refuses.

    Return how many bytes the mount has copied, of that which was appended at `at`.
    """
    copied = read_and_written = 0
    while True:
        done = copied + read_and_written
        try:
            if not (count := copy_range(filesystem, source, target, done, at + done)):
                return copied
            copied += count
        except OSError as error:
            assert error.errno == errno.EOPNOTSUPP  # noqa: PT017
            data = get(filesystem, source, done)
            put(filesystem, target, at + done, data)
            read_and_written += len(data)


def cp(filesystem: FileSystem, old: str, new: str) -> int:
    """Copy a file; return how many bytes the mount has copied."""
    with opened(filesystem, old, new) as (source, target):
        return append(filesystem, source, target)


def left(store: MemoryStore, *names: str) -> set[str]:
    """Return the segments that none of the objects names."""
    return segments(store).difference(*(segments_of(store, name) for name in names))


def put_slo(store: MemoryStore, key: str, data: bytes, size: int) -> ObjectInfo:
    """Store an SLO as another client does, in segments of `size` bytes."""
    store.create_container("theirs")
    parts = []
    for start in range(0, len(data), size):
        name = ObjectName("theirs", f"{key}/{start:09d}")
        part = data[start : start + size]
        parts.append(Segment(name, store.put(name, part, PLAIN).version.etag, len(part)))
    return store.put_manifest(ObjectName("box", key), Manifest(tuple(parts)), PLAIN)
