"""Random operations on a file, compared with the bytes that it should hold, in the manner of fsx."""

import hashlib
import os
import random
from collections import deque
from collections.abc import Callable
from typing import Protocol

from support.system_calls import KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE

KIB, MIB = 1024, 1024**2

LONGEST = 256 * KIB
"""Bytes of the longest single read or write: two of the kernel's requests."""

PIECE = 4 * MIB
"""Bytes of a read when a whole file is compared: a file may have more than a worker's memory."""

TAIL = 40
"""How many of the last operations a failure shows."""

EDGES = (1, 4 * KIB, 128 * KIB, MIB)
"""Offsets and sizes are often multiples of these: any byte, pages, blocks of the cache, segments."""


class File(Protocol):
    """One file, whatever the access to it. Offsets and sizes are in bytes."""

    def read(self, offset: int, size: int) -> bytes:
        """Return the bytes of a range, fewer at the end of the file."""

    def write(self, offset: int, data: bytes) -> None:
        """Write the bytes at `offset`."""

    def append(self, data: bytes) -> None:
        """Write the bytes at the current end."""

    def map_read(self, offset: int, size: int) -> bytes:
        """Return bytes of the file through a mapping."""

    def map_write(self, offset: int, data: bytes) -> None:
        """Change bytes of the file through a mapping."""

    def truncate(self, size: int) -> None:
        """Set the size through the handle."""

    def truncate_path(self, size: int) -> None:
        """Set the size by the file's name."""

    def allocate(self, mode: int, offset: int, length: int) -> None:
        """Call fallocate(2)."""

    def size(self) -> int:
        """Return the size, as stat(2) does."""

    def sync(self) -> None:
        """Return when the bytes are in Swift."""

    def forget(self) -> None:
        """Drop the kernel's cache of the file, if there is one."""

    def second_handle(self) -> None:
        """Continue with a second handle; the first one stays open until the next `reopen`."""

    def reopen(self) -> None:
        """Close all handles and open a new one."""

    def remount(self, *, empty_cache: bool) -> None:
        """Close all handles, mount again, and open a new handle."""

    def downloaded_md5(self) -> str:
        """Return the MD5 of what another client downloads."""


class Exerciser:
    """Random operations on a `File`, which depend on `seed` alone, so that a failure can be repeated.

    The file holds `start` at first and never grows beyond `limit` bytes.
    """

    def __init__(self, file: File, seed: int, limit: int, start: bytes = b"") -> None:
        self._file = file
        self._seed = seed
        self._limit = limit
        self._chance = random.Random(seed)
        self._model = bytearray(start)
        self._log: deque[str] = deque(maxlen=TAIL)
        self._weights: dict[Callable[[], None], float] = {
            self._read: 25,
            self._write: 25,
            self._append: 6,
            self._truncate: 6,
            self._map_read: 6,
            self._map_write: 2,
            self._allocate: 3,
            self._zero: 3,
            self._forget: 5,
            self._second_handle: 5,
            self._sync: 1,
            self._truncate_path: 0.5,
            self._reopen: 2,
            self._remount: 0.08,
        }

    def run(self, count: int) -> None:
        """Do so many operations; compare all bytes in the end, as we and as another client read them."""
        weights = list(self._weights.values())
        for number in range(count):
            self._run(number, self._chance.choices(list(self._weights), weights)[0])
        self._run(count, self._reopen)
        self._run(count, self._check_stored)

    def _run(self, number: int, operation: Callable[[], None]) -> None:
        try:
            operation()
        except Exception as error:
            log = "\n".join(self._log)
            raise AssertionError(
                f"seed {self._seed}, limit {self._limit}, operation {number}: {error!r}, after\n{log}"
            ) from error

    def _note(self, text: str) -> None:
        self._log.append(f"{text} (size {len(self._model)})")

    def _position(self, end: int) -> int:
        """Return a random number up to `end`, often next to a boundary."""
        edge = self._chance.choice(EDGES)
        position = self._chance.randint(0, end) // edge * edge + self._chance.choice((0, 0, -1, 1))
        return min(max(position, 0), end)

    def _length(self, most: int) -> int:
        """Return a random length from 1 to `most`; half of them are short."""
        return self._chance.randrange(1, 2 + min(most - 1, 1 << self._chance.randrange(19)))

    def _span(self) -> tuple[int, int]:
        """Return the offset and length of a random range within the limit."""
        offset = self._position(min(len(self._model) + LONGEST, self._limit - 1))
        return offset, self._length(min(LONGEST, self._limit - offset))

    def _inner_span(self) -> tuple[int, int]:
        """Return the offset and length of a random range within the file, which must not be empty."""
        offset = self._position(len(self._model) - 1)
        return offset, self._length(min(LONGEST, len(self._model) - offset))

    def _read(self) -> None:
        offset, length = self._span()
        self._note(f"read {offset}+{length}")
        self._compare(offset, length, self._file.read(offset, length))

    def _write(self) -> None:
        offset, length = self._span()
        self._note(f"write {offset}+{length}")
        data = self._chance.randbytes(length)
        self._file.write(offset, data)
        self._put(offset, data)

    def _append(self) -> None:
        length = min(self._length(LONGEST), self._limit - len(self._model))
        if length:
            self._note(f"append {length}")
            data = self._chance.randbytes(length)
            self._file.append(data)
            self._put(len(self._model), data)

    def _truncate(self) -> None:
        size = self._new_size()
        self._note(f"truncate {size}")
        self._file.truncate(size)
        self._resize(size)

    def _truncate_path(self) -> None:
        size = self._new_size()
        self._note(f"truncate by path {size}")
        self._file.truncate_path(size)
        self._resize(size)

    def _allocate(self) -> None:
        offset, length = self._span()
        mode = self._chance.choice((0, KEEP_SIZE))
        self._note(f"allocate, mode {mode}, {offset}+{length}")
        self._file.allocate(mode, offset, length)
        self._resize(max(len(self._model), 0 if mode else offset + length))

    def _zero(self) -> None:
        offset, length = self._span()
        mode = self._chance.choice((PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE | KEEP_SIZE, ZERO_RANGE))
        self._note(f"make zeros, mode {mode}, {offset}+{length}")
        self._file.allocate(mode, offset, length)
        if mode & KEEP_SIZE:
            length = max(0, min(length, len(self._model) - offset))
        if length:
            self._put(offset, bytes(length))
        self._check_size()

    def _map_read(self) -> None:
        if self._model:
            offset, length = self._inner_span()
            self._note(f"map and read {offset}+{length}")
            self._compare(offset, length, self._file.map_read(offset, length))

    def _map_write(self) -> None:
        if self._model:
            offset, length = self._inner_span()
            self._note(f"map and write {offset}+{length}")
            data = self._chance.randbytes(length)
            self._file.map_write(offset, data)
            self._put(offset, data)

    def _forget(self) -> None:
        self._note("forget")
        self._file.forget()

    def _second_handle(self) -> None:
        self._note("second handle")
        self._file.second_handle()

    def _sync(self) -> None:
        self._note("sync")
        self._check_stored()

    def _reopen(self) -> None:
        self._note("reopen")
        self._file.reopen()
        self._check_whole()

    def _remount(self) -> None:
        empty_cache = self._chance.random() < 0.5
        self._note(f"remount, {'empty' if empty_cache else 'same'} cache")
        self._file.remount(empty_cache=empty_cache)
        # In half of the cases the next operations work on a file that is not downloaded.
        if self._chance.random() < 0.5:
            self._check_whole()

    def _new_size(self) -> int:
        """Return a random size, often close to the current one."""
        if self._chance.random() < 0.5:
            return self._position(self._limit)
        near = len(self._model) + self._chance.randint(-LONGEST, LONGEST)
        return min(max(near, 0), self._limit)

    def _put(self, offset: int, data: bytes) -> None:
        self._model.extend(bytes(max(0, offset - len(self._model))))
        self._model[offset : offset + len(data)] = data
        self._check_around(offset, len(data))

    def _resize(self, size: int) -> None:
        before = len(self._model)
        del self._model[size:]
        self._model.extend(bytes(size - len(self._model)))
        self._check_around(min(size, before), min(abs(size - before), LONGEST))

    def _check_around(self, offset: int, length: int) -> None:
        """Compare the size, and sometimes the bytes that were just changed and those around them."""
        self._check_size()
        if self._chance.random() < 0.25:
            start = max(0, offset - 5000)
            self._compare(start, length + 10_000, self._file.read(start, length + 10_000))

    def _check_size(self) -> None:
        size = self._file.size()
        assert size == len(self._model), f"{size} bytes where {len(self._model)} were expected"

    def _check_whole(self) -> None:
        self._check_size()
        for start in range(0, len(self._model), PIECE):
            self._compare(start, PIECE, self._file.read(start, PIECE))

    def _check_stored(self) -> None:
        self._file.sync()
        expected = hashlib.md5(self._model, usedforsecurity=False).hexdigest()
        assert self._file.downloaded_md5() == expected, "another client downloads other bytes"

    def _compare(self, offset: int, length: int, found: bytes) -> None:
        expected = memoryview(self._model)[offset : offset + length]
        same = found == expected
        wrong = "" if same else _difference(offset, expected.tobytes(), found)
        # A bytearray cannot change its size while a view of it exists.
        expected.release()
        assert same, wrong


def _difference(offset: int, expected: bytes, found: bytes) -> str:
    """Return where two strings of bytes differ."""
    if len(expected) != len(found):
        return f"{len(found)} bytes at {offset} where {len(expected)} were expected"
    places = [place for place in range(len(found)) if found[place] != expected[place]]
    first, last = places[0], places[-1]
    return (
        f"{len(places)} bytes differ from {offset + first} to {offset + last}: found "
        f"{found[first : first + 8].hex()}, expected {expected[first : first + 8].hex()}"
    )


def scale() -> int:
    """Return `SWIFTFS_FSX_SCALE`, the factor of operations compared with a usual run."""
    return int(os.environ.get("SWIFTFS_FSX_SCALE", "1"))
