"""The trash as system calls meet it: what goes there, and that nobody changes it by accident."""

import errno
import os
from collections.abc import Callable

from swiftfs.errors import os_error
from swiftfs.namespace.entry import Entry
from swiftfs.paths import Source
from swiftfs.store.trash_names import TrashNames, is_in_trash


def trash_entry(entry: Entry | None, trash: TrashNames) -> str:
    """Return the key in the trash for the object of a file; empty if it is not kept."""
    if entry is None or entry.object is None or entry.is_directory or entry.missing:
        return ""
    # A listing shows a DLO as empty.
    is_dlo = entry.meta is not None and entry.meta.is_dlo
    return trash.entry_of(entry.object, entry.attributes.size or int(is_dlo))


class TrashGuard:
    """Refuses system calls that would change the trash: `swiftfs trash` does that.

    Without a trash nothing is refused: then the folder is one like the others.
    """

    def __init__(self, source: Source, trash: TrashNames) -> None:
        self._source = source
        self._is_on = bool(trash.days)

    def refuse_change(self, path: str) -> None:
        """Raise `OSError` EPERM for a path in the trash."""
        if self._is_on and is_in_trash(path, self._source):
            raise os_error(errno.EPERM, path)

    def reading(self, opening: Callable[[str, int], int]) -> Callable[[str, int], int]:
        """Return the call that opens a file, with EPERM for a path in the trash unless it is only read."""
        if not self._is_on:
            return opening

        def checked(path: str, flags: int) -> int:
            if flags & (os.O_ACCMODE | os.O_TRUNC) != os.O_RDONLY:
                self.refuse_change(path)
            return opening(path, flags)

        return checked
