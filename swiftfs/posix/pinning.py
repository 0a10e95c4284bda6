"""Xattrs that keep the copies of files in the cache. They are this mount's own, and never sent to Swift."""

import errno
from collections.abc import Callable, Mapping

from swiftfs.attributes import PIN_ATTRIBUTE, PINNED_ATTRIBUTE, UNPIN_ATTRIBUTE
from swiftfs.errors import os_error
from swiftfs.filecache.pins import Pin
from swiftfs.objects import ObjectName
from swiftfs.paths import Source
from swiftfs.posix.services import Services


class Pinning:
    """Pins the copies of a file, or of what is in a folder, by the names of their objects."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self.answers: Mapping[str, Callable[[str], str]] = {
            PINNED_ATTRIBUTE: self._is_pinned,
            PIN_ATTRIBUTE: self._pin,
            UNPIN_ATTRIBUTE: self._unpin,
        }

    def _pin_of(self, path: str) -> Pin:
        """Return the pin of a path; raise `OSError` ENOENT if there is nothing."""
        services = self._services
        if services.open_files.at(path) is None:
            entry = services.namespace.lookup(path, complete=False)
            if entry.is_directory:
                folder = services.source.folder(path)
                return Pin(folder.container, folder.prefix)
        name = services.source.object(path)
        return Pin(name.container, name.key)

    def _is_pinned(self, path: str) -> str:
        pin = self._pin_of(path)
        is_covered = self._services.file_cache.pinned.covers(ObjectName(pin.container, pin.key))
        return str(int(is_covered))

    def _pin(self, path: str) -> str:
        if not self._services.file_cache.pinned.pin(self._pin_of(path)):
            raise os_error(errno.ENOSPC, path)
        return "1"

    def _unpin(self, path: str) -> str:
        self._services.file_cache.pinned.unpin(self._pin_of(path))
        return self._is_pinned(path)


def shown(pin: Pin, source: Source) -> str:
    """Return the path of a pin in the mount, of a folder with a slash at the end."""
    if source.is_account:
        return f"/{pin.container}/{pin.key}" if pin.container else "/"
    return "/" + pin.key.removeprefix(source.prefix)
