"""What the kernel may have in its page cache of each file."""

from cachetools import LRUCache, TTLCache

from swiftfs.concurrency import monotonic
from swiftfs.filecache.cached_file import CachedFile
from swiftfs.objects import PageUse

CLOSED_FILES = 10_000
"""Limit of the closed files of which the kernel may use its pages again."""

UNCACHED_SECONDS = 1.0
UNCACHED_FILES = 1000
"""How long libfuse and the kernel cache a size; and of how many files another one may be known meanwhile."""

ANSWER_SECONDS = 1.0
"""After this time an open has been answered, and the kernel has dropped its pages."""


class FilePages:
    """What the kernel's pages have of one open file.

    At `began` (monotonic seconds) an open first made the kernel drop what was of other versions, -inf if
    there was none; None while there may be some. `is_bypassed` means that the file may be written without
    the pages.
    """

    __slots__ = ("began", "is_bypassed")

    def __init__(self) -> None:
        self.began: float | None = None
        self.is_bypassed = False


class KernelPages:
    """Which version the kernel's pages are of, by path. The caller's lock guards it.

    The kernel keeps the pages of a closed file. libfuse lets it use them at an open, if mtime and size are as
    at the last look. But another version can have the same ones, as a backup that is restored has, and that
    look may be older than a change. So only pages of the version that is opened are kept.
    """

    def __init__(self) -> None:
        self._versions: LRUCache[str, str] = LRUCache(CLOSED_FILES)
        self._uncached: TTLCache[str, None] = TTLCache(UNCACHED_FILES, UNCACHED_SECONDS, monotonic)

    def open(
        self, path: str, pages: FilePages, cached_file: CachedFile, *, writable: bool, is_mixed: bool
    ) -> PageUse:
        """Return how the kernel opens a file; `is_mixed` if it may read pages of two versions at `path`."""
        if is_mixed or pages.is_bypassed or path in self._uncached:
            # Pages that others read meanwhile do not get what is written past them.
            pages.is_bypassed |= writable
            self.forget(path, pages)
            return PageUse.BYPASS
        now = monotonic()
        if pages.began is None:
            known = self._versions.get(path, "")
            pages.began = -float("inf") if known and known == _version(cached_file) else now
        # The open before may not have been answered yet.
        return PageUse.KEEP if pages.began + ANSWER_SECONDS < now else PageUse.DROP

    def close(self, path: str, pages: FilePages, cached_file: CachedFile) -> None:
        """Record of which version the pages are when the last handle of a file is closed."""
        version = _version(cached_file) if pages.began is not None else ""
        if version:
            self._versions[path] = version
        else:
            self._versions.pop(path, None)

    def forget(self, path: str, pages: FilePages | None = None) -> None:
        """Let the next open of `path`, and of the file that is open there, drop the pages."""
        self._versions.pop(path, None)
        if pages is not None:
            pages.began = None

    def forget_all(self) -> None:
        """Let the next open of each closed file drop its pages."""
        self._versions.clear()

    def add_resized(self, path: str) -> None:
        """Open the file at `path` for a moment without the pages: a read would end at another size of it."""
        self._uncached[path] = None


def _version(cached_file: CachedFile) -> str:
    """Return the ETag of the version that a file's bytes are; "" with changes that are not stored."""
    base = cached_file.base
    return "" if base is None or cached_file.is_dirty() else base.etag
