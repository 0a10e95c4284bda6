"""The flags of renameat2(2): a rename that must not replace anything."""

import errno

from swiftfs.errors import os_error
from swiftfs.posix.services import Services
from swiftfs.posix.unlink_ops import UnlinkOps

NOREPLACE = 1
"""RENAME_NOREPLACE of renameat2(2)."""


class ExclusiveRename:
    """Refuses renames to names that exist, and flags that Swift cannot carry out."""

    def __init__(self, services: Services, unlinks: UnlinkOps) -> None:
        self._services = services
        self._unlinks = unlinks

    def check(self, new: str, flags: int) -> None:
        """Raise `OSError` EINVAL for a flag other than `NOREPLACE`, and EEXIST if stat(2) would find `new`.

        Swift is not asked anew. It has no copy that fails if there is an object, so another client could
        always be faster; and every rename of mv(1) has this flag, which would cost two requests.
        """
        if flags:
            # libfuse has hidden an open file that is about to be replaced.
            self._unlinks.unhide(new)
        if flags & ~NOREPLACE:
            raise os_error(errno.EINVAL, new)
        services = self._services
        if flags and (services.open_files.at(new) or services.namespace.find(new)) is not None:
            raise os_error(errno.EEXIST, new)
