"""Names at which the mount has shown what Swift then refused to make."""

import errno

from cachetools import LRUCache

from swiftfs.errors import os_error
from swiftfs.journal.operations import MoveObject, Operation, PutMarker
from swiftfs.objects import ObjectName
from swiftfs.paths import Folder

MOST_NAMES = 50_000
"""More than the objects of the largest rename, all of which Swift may refuse to move."""


class GivenUp:
    """Counts what was given up, by the names at which it was to come. The journal's lock guards it.

    A call that deletes something, or changes its attributes, reads `count` before it looks at what that is.
    If that has been given up when the change is recorded, nothing of it is at the name: whatever is there is
    another client's.
    """

    def __init__(self) -> None:
        self.count = 0
        self._last: LRUCache[ObjectName, int] = LRUCache(MOST_NAMES)
        self._stayed: LRUCache[ObjectName, int] = LRUCache(MOST_NAMES)

    def add(self, operation: Operation) -> None:
        """Record that an operation was given up, after the mount has shown the state before it again."""
        match operation:
            case MoveObject():
                name = operation.target
            case PutMarker():
                name = operation.name
            case _:
                return
        self.count += 1
        self._last[name] = self.count
        if isinstance(operation, MoveObject):
            self._stayed[operation.source] = self.count

    def has(self, name: ObjectName, since: int) -> bool:
        """Return whether what was to come to a name was given up since the count was `since`."""
        return bool(self._last.get(name, 0) > since)

    def has_stayed_below(self, folder: Folder, since: int) -> bool:
        """Return whether an object is at its old name again, or its new one was below a folder, `since`."""
        if self.count <= since:
            return False
        for last in (self._stayed, self._last):
            # A copy: to look one up changes the order.
            for name in [name for name in list(last) if last[name] > since]:
                if name.container == folder.container and name.key.startswith(folder.prefix):
                    return True
        return False

    def check(self, path: str, name: ObjectName, since: int) -> None:
        """Raise `OSError` ESTALE if what was to come to a name was given up since the count was `since`."""
        if self.has(name, since):
            raise os_error(errno.ESTALE, path)
