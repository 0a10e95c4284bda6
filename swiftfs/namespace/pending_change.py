"""A change that is not in Swift yet. It is shown until whoever stores it confirms it, or takes it back."""

from typing import NamedTuple

from swiftfs.concurrency import Lock
from swiftfs.namespace.entry import Entry
from swiftfs.namespace.listing_fetcher import Listings
from swiftfs.namespace.local_change import LocalChange, show
from swiftfs.namespace.overlay import Overlay
from swiftfs.paths import Folder


class SharedState(NamedTuple):
    """What all pending changes of a namespace share; the lock guards the others."""

    lock: Lock
    overlay: Overlay
    listings: Listings


class PendingChange:
    """A local change of a name that is not in Swift yet.

    No listing contradicts it before one of the methods is called. They do nothing if the name has been
    changed again: the newer change counts. It has replaced the change `before`, and the entry `was`. The lock
    of `shared` is the namespace's.
    """

    __slots__ = ("_before", "_change", "_folder", "_name", "_shared", "_was")

    def __init__(
        self,
        shared: SharedState,
        folder: Folder,
        name: str,
        change: LocalChange,
        before: LocalChange | None,
        was: Entry | None,
    ) -> None:
        self._shared = shared
        self._folder = folder
        self._name = name
        self._change = change
        self._before = before
        self._was = was

    @property
    def entry(self) -> Entry | None:
        """The entry of the name after this change, None for nothing."""
        with self._shared.lock:
            return self._change.entry

    def begin_move(self) -> None:
        """Record that this hides the old name of an object until `end_move`.

        It counts again when a new file of that name, which was never stored, is gone.
        """
        with self._shared.lock:
            self._shared.overlay.moving[self._folder, self._name] = self._change

    def end_move(self) -> None:
        """Record that the object has moved, or stays; `confirm` or `rollback` follows."""
        with self._shared.lock:
            self._shared.overlay.moving.pop((self._folder, self._name), None)

    def confirm(self, entry: Entry | None) -> None:
        """Record that the change is in Swift, and that the name is now `entry`."""
        with self._shared.lock:
            if entry is not None:
                entry = self._shared.overlay.with_version(self._folder, self._name, entry)
            elif (moving := self._shared.overlay.moving.get((self._folder, self._name))) is not None:
                if (name := self._counts_as()) is not None:
                    self._shared.overlay.take_back(self._folder, name, moving)
                return
            is_newest = self._shared.overlay.confirm(self._folder, self._name, self._change, entry)
            # The same entry is in the listing since it was recorded, and a HEAD may have refined it there.
            if not is_newest or entry is self._change.entry:
                return
            if (listing := self._shared.listings.get(self._folder)) is not None:
                listing.update(self._name, entry)

    def rollback(self) -> None:
        """Show Swift's state again: the change could not be made."""
        with self._shared.lock:
            self._change.settled = True
            if (name := self._counts_as()) is not None:
                self._shared.overlay.roll_back(self._folder, name)
                self._shared.listings.invalidate(self._folder)

    def keep(self) -> None:
        """Forget what the change has replaced: the change is in the journal, and will not be taken back."""
        self._before = self._was = None

    def take_back(self) -> None:
        """Show the state before again: the change was not meant, and nothing was sent for it."""
        with self._shared.lock:
            if (name := self._counts_as()) is not None:
                counts = self._shared.overlay.take_back(self._folder, name, self._before)
                if (listing := self._shared.listings.get(self._folder)) is None:
                    return
                if counts is None:
                    listing.update(name, self._was)
                else:
                    show(listing, name, counts)

    def _counts_as(self) -> str | None:
        """Return the name for which this is the newest change, None if there is a newer one."""
        return self._shared.overlay.name_of(self._folder, self._name, self._change)
