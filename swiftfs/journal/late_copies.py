"""Copies of the files that a late request may overwrite, for some minutes after a request was lost."""

import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from swiftfs.concurrency import Rank, new_lock
from swiftfs.config.cache_dir import new_file
from swiftfs.objects import ObjectVersion

MOST_BYTES = 256 * 1024 * 1024
"""The size of all copies together. Others are only in the version cache, where they are evicted last."""

PIECE = 1024 * 1024


class LateCopies:
    """The copies in `folder`, which is made when needed. The lock guards what is in it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = new_lock(Rank.LATE_COPIES)

    def __contains__(self, version: ObjectVersion) -> bool:
        return self._path(version).exists()

    def fits(self, size: int) -> bool:
        """Return whether there is room for a copy of so many bytes."""
        return self._bytes() + size <= MOST_BYTES

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
