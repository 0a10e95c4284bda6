"""Contents of closed files, kept for the next open of the same version."""

import threading
from collections import OrderedDict

from swiftfs.content.content import Content
from swiftfs.model import ObjectVersion

MAX_FILES = 256
"""Each kept content holds a file descriptor; the usual limit of a process is 1024."""


class ContentCache:
    """Clean contents by version, least recently used first to go.

    `limit` is the disk they may take together, in bytes. A content is in the cache or in use, never both.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._contents: OrderedDict[ObjectVersion, Content] = OrderedDict()

    def take(self, version: ObjectVersion) -> Content | None:
        """Return the content of `version` and leave it to the caller, or None."""
        with self._lock:
            return self._contents.pop(version, None)

    def keep(self, content: Content) -> None:
        """Keep an unchanged content that nobody uses any more; close those that have no room left."""
        origin = content.origin
        surplus = [content]
        if origin is not None and origin.etag:
            version = ObjectVersion(origin.name, origin.etag)
            with self._lock:
                surplus = [old] if (old := self._contents.pop(version, None)) is not None else []
                self._contents[version] = content
                size = sum(kept.present_bytes() for kept in self._contents.values())
                while size > self._limit or len(self._contents) > MAX_FILES:
                    _, oldest = self._contents.popitem(last=False)
                    size -= oldest.present_bytes()
                    surplus.append(oldest)
        for unwanted in surplus:
            unwanted.close()

    def close(self) -> None:
        """Close all that is kept."""
        with self._lock:
            contents, self._contents = list(self._contents.values()), OrderedDict()
        for content in contents:
            content.close()
