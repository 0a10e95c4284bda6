"""Disk space that only the journal's database may take, for closes and mounts on a full disk."""

import os
import shutil
from contextlib import suppress
from pathlib import Path

from swiftfs.config.cache_dir import new_file

RESERVE = 1024 * 1024
"""Bytes of disk space reserved for the database: enough for thousands of records."""


class Reserve:
    """A file that takes the space, until it is released."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def release(self) -> bool:
        """Free the space; return whether there was any."""
        try:
            self._path.unlink()
        except FileNotFoundError:
            return False
        return True

    def fill(self) -> None:
        """Reserve the space, unless the database may need it now."""
        with suppress(OSError):
            if not self._path.exists() and shutil.disk_usage(self._path.parent).free >= 2 * RESERVE:
                # Written, and not a hole: a hole reserves nothing.
                with os.fdopen(new_file(self._path), "wb") as file:
                    file.write(bytes(RESERVE))
