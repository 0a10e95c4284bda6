"""Bytes of an object as one answer brought them, not yet verified."""

import hashlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

PIECE = 1024 * 1024
"""Bytes of an answer that are in memory at a time, however large the answer is."""


class Answer:
    """Bytes from `offset` to `end` of an object; those above `PIECE` are in an unnamed file in `folder`.

    One thread uses it. All offsets are those of the object.
    """

    def __init__(self, folder: Path, offset: int, end: int) -> None:
        self.offset, self.end = offset, end
        self._file: IO[bytes] = BytesIO() if end - offset <= PIECE else TemporaryFile(dir=folder)  # noqa: SIM115

    def write(self, position: int, data: bytes) -> None:
        """Store bytes of the answer; raise `OSError` when the disk is full."""
        self._file.seek(position - self.offset)
        self._file.write(data)

    def pieces(self, start: int, end: int) -> Iterator[bytes]:
        """Yield the bytes from `start` to `end` in order, at most `PIECE` at a time."""
        for position in range(start, end, PIECE):
            self._file.seek(position - self.offset)
            yield self._file.read(min(PIECE, end - position))

    def md5(self, start: int, end: int) -> str:
        """Return the MD5 of the bytes from `start` to `end` in hex."""
        digest = hashlib.md5(usedforsecurity=False)
        for piece in self.pieces(start, end):
            digest.update(piece)
        return digest.hexdigest()

    def agrees(self, other: "Answer", start: int, end: int) -> bool:
        """Return whether both have the same bytes from `start` to `end`."""
        both = zip(self.pieces(start, end), other.pieces(start, end), strict=True)
        return all(one == another for one, another in both)

    def close(self) -> None:
        """Free the memory or the disk."""
        self._file.close()
