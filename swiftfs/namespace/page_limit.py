"""Bounds the listing of one folder: a server may send pages without an end."""

from collections.abc import Iterable, Iterator

from swiftfs.errors import FolderTooLarge, Unavailable, printable
from swiftfs.objects import Page
from swiftfs.paths import Folder

FOLDER_BYTES = 120 * 1024**2
"""The most that the names of one folder take: a million of 100 bytes do. libfuse keeps all of them in memory
until the folder is closed."""

NAME_BYTES = 24
"""What libfuse keeps with each name (`struct fuse_dirent`)."""


class PageLimit:
    """Passes on the pages of a folder, up to a limit and to the end of the mount."""

    def __init__(self) -> None:
        self._ending = False

    def end(self) -> None:
        """Let the calls that list a folder of many pages fail after the current page: the mount ends."""
        self._ending = True

    def pages(self, folder: Folder, pages: Iterable[Page]) -> Iterator[Page]:
        """Yield the pages of a folder.

        Raise `FolderTooLarge` when their names take more than `FOLDER_BYTES`, and `Unavailable` when the
        mount ends.
        """
        left, prefix = FOLDER_BYTES, len(folder.prefix.encode())
        for page in pages:
            names = [*(row.key for row in page.rows), *page.subdirs]
            left -= len("".join(names).encode()) + (NAME_BYTES - prefix) * len(names)
            if left < 0:
                where = printable(f"{folder.container}/{folder.prefix}")
                raise FolderTooLarge(f"{where}: its names take more than {FOLDER_BYTES >> 20} MiB")
            if self._ending:
                raise Unavailable("the mount ends")
            yield page
