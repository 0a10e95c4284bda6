"""The trash as system calls meet it: what goes there, and that nobody changes it by accident."""

import errno
import os
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from swiftfs.errors import os_error
from swiftfs.namespace.entry import Entry
from swiftfs.paths import Source
from swiftfs.store.trash_names import TrashNames, is_in_trash

P = ParamSpec("P")
R = TypeVar("R")


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

    def refusing(self, change: Callable[P, R]) -> Callable[P, R]:
        """Return the call, with EPERM for a path in the trash."""
        if not self._is_on:
            return change

        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            for path in args:
                # What is no path, such as the name of an xattr, does not begin with a slash.
                if isinstance(path, str) and path.startswith("/"):
                    self._refuse(path)
            return change(*args, **kwargs)

        return checked

    def reading(self, opening: Callable[[str, int], int]) -> Callable[[str, int], int]:
        """Return the call that opens a file, with EPERM for a path in the trash unless it is only read."""
        if not self._is_on:
            return opening

        def checked(path: str, flags: int) -> int:
            if flags & (os.O_ACCMODE | os.O_TRUNC) != os.O_RDONLY:
                self._refuse(path)
            return opening(path, flags)

        return checked

    def _refuse(self, path: str) -> None:
        if is_in_trash(path, self._source):
            raise os_error(errno.EPERM, path)
