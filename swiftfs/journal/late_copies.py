"""Copies of the files that a late request may overwrite, for some minutes after a request was lost."""

import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from swiftfs.filecache.cached_file import CachedFile
from swiftfs.objects import ObjectVersion

MOST_BYTES = 256 * 1024 * 1024
"""The size of all copies together. Others are only in the version cache, where they are evicted last."""

PIECE = 1024 * 1024


class LateCopies:
    """The copies in `folder`, which is created when needed. One thread at a time may change it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __contains__(self, version: ObjectVersion) -> bool:
        return self._path(version).exists()

    def put(self, version: ObjectVersion, cached_file: CachedFile) -> None:
        """Copy the bytes of a file; a writer may change them meanwhile, so a reader checks the MD5."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        if self._bytes() + cached_file.size > MOST_BYTES:
            return
        path = self._path(version)
        unfinished = path.with_suffix(".new")
        with unfinished.open("wb") as file:
            position = 0
            while data := os.pread(cached_file.descriptor, min(PIECE, cached_file.size - position), position):
                position += file.write(data)
        unfinished.rename(path)

    def reader(self, version: ObjectVersion) -> BinaryIO | None:
        """Open the copy of a version; return None if there is none."""
        try:
            return self._path(version).open("rb")
        except FileNotFoundError:
            return None

    def sweep(self, wanted: Iterable[ObjectVersion]) -> None:
        """Delete all copies but those of these versions."""
        if not self._folder.exists():
            return
        names = {self._path(version).name for version in wanted}
        with suppress(OSError):  # what stays is deleted the next time
            for path in self._folder.iterdir():
                if path.name not in names:
                    path.unlink(missing_ok=True)
            self._folder.rmdir()  # succeeds when nothing is left

    def _bytes(self) -> int:
        return sum(path.stat().st_size for path in self._folder.iterdir())

    def _path(self, version: ObjectVersion) -> Path:
        text = "\0".join((version.name.container, version.name.key, version.etag))
        return self._folder / hashlib.sha256(text.encode()).hexdigest()
