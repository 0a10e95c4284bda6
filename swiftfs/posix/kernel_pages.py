"""What the kernel may have in its page cache of each file."""

from cachetools import LRUCache

from swiftfs.concurrency import monotonic
from swiftfs.filecache.cached_file import CachedFile
from swiftfs.objects import PageUse
from swiftfs.posix.open_file import FilePages, OpenFile
from swiftfs.posix.replaced_files import AskedCalls

CLOSED_FILES = 10_000
"""Limit of the closed files whose pages the kernel may use again."""

ATTRIBUTE_SECONDS = 1.0
"""How long the kernel caches a size."""

ANSWER_SECONDS = 1.0
"""After this time an open has been answered, and the kernel has dropped its pages."""


UNKNOWN = -1
"""In place of a shown size: the kernel may have any size."""


class ShownSizes:
    """The sizes that were shown in the last one or two `ATTRIBUTE_SECONDS`, by path: the kernel may use them.

    Not locked: each method is called for every stat(2), and one lost size does no harm.
    """

    def __init__(self) -> None:
        self._sizes: dict[str, int] = {}
        self._older: dict[str, int] = {}
        self._until = 0.0

    def show(self, path: str, size: int) -> None:
        """Record the size that a file is shown with, or that the kernel has from the writes it has sent."""
        now = monotonic()
        if now > self._until:
            self._older, self._sizes, self._until = self._sizes, {}, now + ATTRIBUTE_SECONDS
        self._sizes[path] = size

    def differs(self, path: str, size: int) -> bool:
        """Return whether the kernel may have another size of the file at `path`."""
        shown = self._sizes.get(path, self._older.get(path, size))
        return shown != size

    def move(self, old: str, new: str) -> None:
        """Take the size of a file to its new path."""
        self._older.pop(new, None)
        size = self._sizes.pop(old, self._older.pop(old, None))
        if size is None:
            self._sizes.pop(new, None)
        else:
            self._sizes[new] = size


class KernelPages:
    """Which version the kernel's pages are of, by path. The caller's lock guards it.

    The kernel keeps the pages of a closed file. libfuse lets it use them at an open if mtime and size are the
    same as when libfuse last looked. But another version can have the same mtime and size, such as a restored
    backup, and that look may be older than a change. So only pages of the version that is opened are kept.

    Pages that are older than the last discovery of wrong bytes, in any file, are dropped too: that is rare,
    and the bytes are still in the local files.
    """

    def __init__(self, shown_sizes: ShownSizes) -> None:
        self._shown_sizes = shown_sizes
        self._versions: LRUCache[str, str] = LRUCache(CLOSED_FILES)
        self._finds = 0

    def open(self, file: OpenFile, *, writable: bool, is_mixed: bool) -> PageUse:
        """Return how the kernel opens a file; `is_mixed` if it may read pages of two versions at its path."""
        path, pages, cached_file = file.path, file.pages, file.cached_file
        # The kernel knows the size of a file that is open already: it has sent the writes itself.
        is_resized = pages.began is None and self._shown_sizes.differs(path, cached_file.size)
        if is_resized or is_mixed or pages.is_bypassed:
            # Pages that others read meanwhile do not get what is written past them.
            pages.is_bypassed |= writable
            self.forget(path, pages)
            return PageUse.LOOK_AGAIN if is_resized else PageUse.BYPASS
        now = monotonic()
        if pages.began is None:
            known = self._versions.get(path, "")
            pages.began = -float("inf") if known and known == _version(cached_file) else now
        elif pages.finds != self._finds:
            pages.began = now
        pages.finds = self._finds
        # The open before may not have been answered yet.
        return PageUse.KEEP if pages.began + ANSWER_SECONDS < now else PageUse.DROP

    def close(self, file: OpenFile) -> None:
        """Record what the kernel has of a file when its last handle is closed."""
        path, pages, cached_file = file.path, file.pages, file.cached_file
        if pages.began is not None:
            self._shown_sizes.show(path, cached_file.size)
        is_right = pages.began is not None and pages.finds == self._finds
        version = _version(cached_file) if is_right else ""
        if version:
            self._versions[path] = version
        else:
            self._versions.pop(path, None)

    def forget(self, path: str, pages: FilePages | None = None) -> None:
        """Let the next open of `path`, and of the file that is open there, drop the pages."""
        self._versions.pop(path, None)
        if pages is not None:
            pages.began = None

    def found_wrong(self) -> None:
        """Let the next open of each file drop its pages: downloaded bytes were wrong."""
        self._finds += 1
        self.forget_all()

    def forget_all(self) -> None:
        """Let the next open of each closed file drop its pages."""
        self._versions.clear()


class WrongPages(AskedCalls[OpenFile]):
    """Open files of which the kernel may have bytes in its page cache that arrived wrong.

    The local file is repaired, or its bytes are refused, but the kernel answers reads from its own pages. An
    open makes it drop the pages of the file, also for existing handles and mappings. Programs may not open
    the file again, so a thread does it. If none serves them, only the opens of programs drop pages.
    """

    def add(self, file: OpenFile) -> None:
        """Add a file that is to be opened."""
        with self._changed:
            if self._is_served and not any(one is file for one in self._queue):
                self._ask(file)

    def is_asked(self, call: OpenFile) -> bool:
        """Return whether a file is still open."""
        return bool(call.users)


def _version(cached_file: CachedFile) -> str:
    """Return the ETag of the version that a file's bytes are; "" with changes that are not stored."""
    base = cached_file.base
    return "" if base is None or cached_file.is_dirty() else base.etag
