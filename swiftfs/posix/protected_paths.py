"""Paths that nobody may change: those of older versions, and the trash, which `swiftfs trash` changes."""

import errno
import re

from cachetools import TTLCache

from swiftfs.concurrency import Rank, monotonic, new_lock
from swiftfs.errors import StoreError, os_error
from swiftfs.objects import History
from swiftfs.paths import VERSIONS_FOLDER, join
from swiftfs.posix.services import Services
from swiftfs.store.trash_names import is_in_trash

MOST_FOLDERS = 1000
"""How many folders are remembered to have no `.versions` of another client."""

VERSIONS = re.compile(rf"/{re.escape(VERSIONS_FOLDER)}(?=/|$)")
"""Where the folder of versions is in a path."""

_PART = f"/{VERSIONS_FOLDER}"


class ProtectedPaths:
    """Knows which paths are protected. Other paths pass, at the cost of a search in their text.

    The lock guards which folders were seen to have no `.versions` of another client.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._has_trash = bool(services.trash.days)
        self._lock = new_lock(Rank.USAGE)
        self._without_real: TTLCache[str, None] = TTLCache(MOST_FOLDERS, services.options.ttl, monotonic)

    def refuse_change(self, *paths: str) -> None:
        """Raise `OSError` EROFS if one of the paths is about older versions, EPERM if one is in the trash.

        Without a trash its folder is one like the others.
        """
        for path in paths:
            if self.are_versions(path):
                raise os_error(errno.EROFS, path)
            if self._has_trash and is_in_trash(path, self._services.source):
                raise os_error(errno.EPERM, path)

    def are_versions(self, path: str) -> bool:
        """Return whether a path is about older versions: its container keeps them, and nobody has the name.

        Raise `StoreError` if Swift does not say it, and nothing else has the name.
        """
        if _PART not in path or (found := VERSIONS.search(path)) is None:
            return False
        folder = path[: found.start()] or "/"
        container = self._services.source.folder(folder).container
        if not container:
            return False
        failure: StoreError | None = None
        try:
            if self._services.histories.of(container) is not History.KEPT:
                return False
        except StoreError as error:
            failure = error
        if self._has_real_one(folder):
            return False
        if failure is not None:
            raise failure
        return True

    def _has_real_one(self, folder: str) -> bool:
        """Return whether a file or folder `.versions` exists; in a huge folder that costs requests."""
        with self._lock:
            if folder in self._without_real:
                return False
        if self._services.namespace.find(join(folder, VERSIONS_FOLDER)) is not None:
            return True
        with self._lock:
            self._without_real[folder] = None
        return False
