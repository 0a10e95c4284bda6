"""The flags of renameat2(2): a rename that must not replace anything."""

import errno
from contextlib import suppress

from swiftfs.errors import NotFound, os_error
from swiftfs.objects import ObjectName
from swiftfs.paths import Folder
from swiftfs.posix.services import Services
from swiftfs.posix.unlink_ops import UnlinkOps
from swiftfs.posix.write_back import WriteBack

NOREPLACE = 1
"""RENAME_NOREPLACE of renameat2(2)."""


class ExclusiveRename:
    """Refuses renames to names that exist, and flags that Swift cannot carry out."""

    def __init__(self, services: Services, write_back: WriteBack, unlinks: UnlinkOps) -> None:
        self._services = services
        self._write_back = write_back
        self._unlinks = unlinks

    def check(self, new: str, flags: int) -> None:
        """Raise `OSError` EINVAL for a flag other than `NOREPLACE`, and EEXIST if `new` must not be replaced.

        Swift is asked, not a listing in memory: another client may have made it since. It may still do so
        until the rename is carried out, because Swift has no copy that fails if there is an object.
        """
        if flags:
            # libfuse has hidden an open file that is about to be replaced.
            self._unlinks.unhide(new)
        if flags & ~NOREPLACE:
            raise os_error(errno.EINVAL, new)
        if flags and self._exists(new):
            raise os_error(errno.EEXIST, new)

    def _exists(self, path: str) -> bool:
        services = self._services
        if services.open_files.at(path) is not None or services.namespace.find(path) is not None:
            return True
        folder = services.source.folder(path)
        if not folder.prefix:
            return False  # a container: no rename makes one
        name = services.namespace.new_object(path)
        # What this mount has deleted there counts as deleted, and Swift says so afterwards.
        self._write_back.free_name(name)
        services.journal.flush([name])
        services.journal.flush_below(folder)
        if not (self._is_stored(name) or self._has_objects(folder)):
            return False
        services.namespace.invalidate(path)  # the listing was old
        return True

    def _is_stored(self, name: ObjectName) -> bool:
        with suppress(NotFound):
            self._services.store.head(name)
            return True
        return False

    def _has_objects(self, folder: Folder) -> bool:
        rows = self._services.store.list_page(folder.container, prefix=folder.prefix, limit=1).rows
        # A listing may still show what was deleted a moment ago.
        return any(self._is_stored(ObjectName(folder.container, row.key)) for row in rows)
