"""Deletions and kept folders: told to the namespace at once, to Swift in a moment."""

import logging
from functools import partial

from swiftfs.errors import StoreError
from swiftfs.files import Rooms
from swiftfs.journal.intents import Delete, PutMarker
from swiftfs.journal.settling import Done
from swiftfs.namespace.changes import Change
from swiftfs.namespace.entry import Entry

log = logging.getLogger(__name__)


class Removals:
    """What `unlink` and `rmdir` leave to be done."""

    def __init__(self, rooms: Rooms) -> None:
        self._namespace = rooms.namespace
        self._journal = rooms.journal

    def delete(self, path: str, intent: Delete, *, at_once: bool = False) -> None:
        """Delete the object of `path`, which does not exist from now on.

        `at_once` raises what Swift says. Otherwise a failure is logged, and what was there is there again.
        """
        if at_once:
            self._journal.submit(intent)
            self._namespace.record(path, None)
            return
        self._journal.settle(intent, self.note(path))

    def note(self, path: str) -> Done:
        """Take `path` from the namespace; return what must be told how its deletion went."""
        return partial(self._settled, path, self._namespace.record(path, None, pending=True))

    def make_marker(self, path: str, intent: PutMarker, entry: Entry) -> None:
        """Give the folder `path` a marker; it is `entry` from now on."""
        change = self._namespace.record(path, entry, pending=True)
        self._journal.settle(intent, partial(self._settled, path, change))

    def _settled(self, path: str, change: Change, error: StoreError | None) -> None:
        if error is None:
            self._namespace.confirm(path, change)
            return
        log.warning("%s: could not be %s: %s", path, "kept" if change.entry else "deleted", error)
        self._namespace.retract(path, change)
