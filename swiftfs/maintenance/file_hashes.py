"""MD5s of the parts of a file or of an object, as its bytes come."""

import hashlib
import os
from collections.abc import Sequence

from swiftfs.errors import SwiftfsError
from swiftfs.objects import ObjectName
from swiftfs.store.protocol import ObjectStore

READ_BYTES = 1024 * 1024
"""Bytes of a read: while they are hashed, other threads run."""

PIECE = 64 * 1024 * 1024
"""Bytes of a GET: what a broken connection repeats at most."""

_READING = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class ChangedMeanwhile(SwiftfsError):
    """A local file changed while it was read."""


class SpanHasher:
    """Hashes bytes that come in order, cut into spans of the given lengths."""

    def __init__(self, spans: Sequence[int]) -> None:
        self._spans = spans
        self._digests: list[str] = []
        self._current = hashlib.md5(usedforsecurity=False)
        self._left = spans[0] if spans else 0
        self._skip_empty()

    def feed(self, data: bytes | memoryview) -> None:
        """Take the next bytes; what comes behind the last span is ignored."""
        view = memoryview(data)
        while view and len(self._digests) < len(self._spans):
            part = view[: self._left]
            self._current.update(part)
            self._left -= len(part)
            view = view[len(part) :]
            self._skip_empty()

    def _skip_empty(self) -> None:
        while not self._left and len(self._digests) < len(self._spans):
            self._digests.append(self._current.hexdigest())
            self._current = hashlib.md5(usedforsecurity=False)
            number = len(self._digests)
            self._left = self._spans[number] if number < len(self._spans) else 0

    def copy(self) -> "SpanHasher":
        """Return one in the same state."""
        other = SpanHasher(())
        other._spans, other._digests = self._spans, list(self._digests)
        other._current, other._left = self._current.copy(), self._left
        return other

    @property
    def digests(self) -> list[str]:
        """The MD5s of the spans that are complete."""
        return self._digests


def hash_file(path: str, spans: Sequence[int], status: os.stat_result) -> list[str]:
    """Return the MD5s of the spans of a file, whose state must stay as in `status`.

    Raise `OSError`, and `ChangedMeanwhile`.
    """
    hasher = SpanHasher(spans)
    descriptor = os.open(path, _READING)
    try:
        buffer = memoryview(bytearray(min(READ_BYTES, max(1, status.st_size))))
        left = sum(spans)
        while left and (count := os.readv(descriptor, [buffer[: min(left, len(buffer))]])):
            hasher.feed(buffer[:count])
            left -= count
        after = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if left or _version(after) != _version(status):
        raise ChangedMeanwhile("it changed while it was read")
    return hasher.digests


def _version(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def hash_object(store: ObjectStore, name: ObjectName, spans: Sequence[int], *, etag: str = "") -> list[str]:
    """Return the MD5s of the spans of an object, which are as long as the object together.

    Its bytes are never in memory together. Errors are those of `get`.
    """
    hasher, size = SpanHasher(spans), sum(spans)
    for start in range(0, size, PIECE):
        hasher = _hash_piece(store, name, hasher, start, min(PIECE, size - start), etag, size)
    return hasher.digests


def _hash_piece(
    store: ObjectStore, name: ObjectName, before: SpanHasher, start: int, length: int, etag: str, size: int
) -> SpanHasher:
    hasher, expected = before.copy(), start

    def take(offset: int, data: bytes) -> None:
        nonlocal hasher, expected
        if offset == start != expected:  # the request is repeated
            hasher, expected = before.copy(), start
        hasher.feed(data)
        expected = offset + len(data)

    store.get(name, take, offset=start, length=length, etag=etag, size=size)
    return hasher
