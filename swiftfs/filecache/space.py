"""What a cached file asks before it takes disk space."""

import errno
from collections.abc import Callable
from typing import Protocol

from swiftfs.errors import is_disk_full, os_error

ATTEMPTS = 8
"""How often room is made for one write: others may take it."""


class HasSize(Protocol):
    """An object with a size, as a file has."""

    @property
    def size(self) -> int:
        """The length in bytes."""


class Space:
    """What a cached file asks before it takes disk space. This one is for a file of no cache: all is granted.

    The caller holds no lock of a file, except for `progress`.
    """

    def grow(self, size: int) -> None:
        """Record that `size` bytes are about to be downloaded or copied."""

    def wait(self, file: HasSize, size: int) -> None:
        """Return when `size` bytes may be written to `file`; raise `OSError` if there will be none."""

    def download(self, _size: int, download: Callable[[], None]) -> None:
        """Call `download`, which fetches about `_size` bytes for a change, again when a full disk has space.

        Raise its `OSError` if there will be no space.
        """
        download()

    def progress(self) -> None:
        """Record that something was stored, or is not needed any more: writers that wait look again."""

    def has_room(self, _size: int) -> bool:
        """Return whether `_size` bytes may be added to the disk."""
        return True

    def accepts(self, _size: int) -> bool:
        """Return whether `_size` bytes that have come may be written; not each call asks the disk."""
        return True

    def has_spare(self, _size: int) -> bool:
        """Return whether `_size` bytes leave the disk ample: a copy is only made then."""
        return True

    def make_room(self, _size: int, *, is_ahead: bool) -> bool:  # noqa: ARG002
        """Evict about `_size` bytes for a download; return whether anything was evicted.

        For one that `is_ahead` of the readers nothing is evicted that they are about to read.
        """
        return False

    def with_room(self, size: int, write: Callable[[], None], *, is_ahead: bool = False) -> None:
        """Call `write`, which writes up to `size` bytes; when the disk is full make room and call it again.

        Raise its `OSError` if there is no room.
        """
        for _ in range(ATTEMPTS):
            try:
                return self._write(size, write)
            except OSError as error:
                if not (is_disk_full(error) and self.make_room(size, is_ahead=is_ahead)):
                    raise
        return self._write(size, write)

    def _write(self, size: int, write: Callable[[], None]) -> None:
        if not self.accepts(size):
            raise os_error(errno.ENOSPC)
        write()


UNLIMITED = Space()
