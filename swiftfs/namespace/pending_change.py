"""Changes that are not in Swift yet: of a name, until it is confirmed or taken back, and of moved folders."""

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from swiftfs.concurrency import Lock, monotonic
from swiftfs.namespace.entry import Defaults, Entry, entries_of
from swiftfs.namespace.listing import Listing, listings_of, parts_of
from swiftfs.namespace.listing_fetcher import Listings
from swiftfs.namespace.local_change import PENDING, LocalChange, show
from swiftfs.namespace.overlay import Overlay
from swiftfs.objects import ObjectName, Page, Row
from swiftfs.paths import Folder, Source, slash_marker, split, unescape


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


MOMENT = 0.5
"""Seconds for which a listing counts as current for the call that it was made for."""

MOST_MOVED = 20_000
"""How many names that a folder's rename has moved are remembered, until a listing shows them."""

Moving = tuple[PendingChange, PendingChange]
"""The changes of the old and the new name of an object that is about to move."""


class FolderMoves:
    """The part of the namespace that renames of folders use. The lock of `shared` is the namespace's."""

    def __init__(self, shared: SharedState, source: Source, defaults: Defaults) -> None:
        self._shared = shared
        self._lock, self._overlay, self._listings = shared
        self._source = source
        self._defaults = defaults

    def has_only(self, path: str, names: Collection[ObjectName]) -> bool:
        """Return whether there is nothing below the folder at `path` but objects of `names`.

        It is False if a listing of it or of a folder below it is not in memory.
        """
        folders = [self._source.folder(path)]
        with self._lock:
            while folders:
                folder = folders.pop()
                listing = self._listings.fresh(folder)
                if listing is None or not listing.complete:
                    return False
                if listing.marked and slash_marker(folder) not in names:
                    return False
                for entry in listing.entries():
                    if entry.object not in names:
                        return False
                    if entry.is_directory:
                        component = unescape(entry.name)[0]
                        folders.append(Folder(folder.container, f"{folder.prefix}{component}/"))
        return True

    def pending(self, path: str) -> Entry | None:
        """Return the entry of `path` that is not in Swift yet; None if there is none."""
        parent, name = split(path)
        with self._lock:
            change = self._overlay.newest(self._source.folder(parent), name)
        return change.entry if change is not None and change.at == PENDING else None

    def deleted_below(self, path: str) -> list[str]:
        """Return the keys, without a last slash, of what was removed or moved away below a folder."""
        with self._lock:
            deleted = self._overlay.deletions_below(self._source.folder(path))
        return [folder.child(unescape(name)[0]).key for folder, name, _ in deleted]

    def record_moved(self, old: str, new: str, rows: Sequence[Row]) -> None:
        """Record that all below the folder at `old` is below `new` now, although listings may lag behind.

        `rows` are those of the moved objects at the old place.
        """
        source, target = self._source.folder(old), self._source.folder(new)
        rows = rows[:MOST_MOVED]
        gone, there = self._made_of(source, rows), self._made_of(target, _moved(rows, source, target))
        with self._lock:
            # Listings may still show what was deleted at either place before, and so would the folder.
            deleted = self._overlay.deletions_below(source, target)
            self._move_below(source, target)
            for listing in there:
                self._overlay.record_moved(listing)
            for listing in gone:
                for entry in listing.entries():
                    self._overlay.record(listing.folder, entry.name, None)
            self._overlay.put_back(deleted)

    def record_moving(self, old: str, new: str, rows: Sequence[Row]) -> dict[ObjectName, Moving]:
        """Record that all below the folder at `old` counts as below `new`, although Swift has it below `old`.

        `rows` are as in `record_moved`. Return the changes by the new name of each object; a marker `d/` has
        none, because no listing shows it as an entry.
        """
        source, target = self._source.folder(old), self._source.folder(new)
        moved = _moved(rows, source, target)
        there, keys, moving = self._made_of(target, moved), {row.key for row in moved}, {}
        with self._lock:
            deleted = self._overlay.deletions_below(source, target)
            # Counts again where an object stays at its old name.
            stored = self._overlay.stored_in(source)
            was_here = {(folder, name) for folder, name, _ in deleted}
            self._move_below(source, target)
            for listing in there:
                folder = listing.folder
                before = Folder(source.container, source.prefix + folder.prefix.removeprefix(target.prefix))
                own = self._overlay.changes_in(folder)
                for entry in listing.entries():
                    if entry.object is None or entry.object.key not in keys:
                        # A folder without a marker: a listing that lags shows it at the old place.
                        self._overlay.record(before, entry.name, None)
                        continue
                    change = own.get(entry.name)
                    known = change.entry if change is not None else None
                    # Nothing is there until the object has moved, though a listing that lags may show it.
                    is_away = change is not None or (folder, entry.name) in was_here
                    away = LocalChange(None, monotonic()) if is_away else None
                    if known is None or known.object != entry.object:
                        known = replace(entry, last_modified="")
                    moving[entry.object] = (
                        self._record_pending(before, entry.name, None, stored.get((before, entry.name))),
                        self._record_pending(folder, entry.name, known, away),
                    )
            self._overlay.put_back(deleted)
        return moving

    def entry_of(self, path: str, row: Row) -> Entry | None:
        """Return the entry of an object that is at `path`, as far as is known; None for a marker `d/`."""
        parent, name = split(path)
        folder = self._source.folder(parent)
        subdirs = [f"{row.key}/"] if unescape(name)[1] else []
        entries = entries_of(folder, [row], subdirs, self._defaults)
        found = next((one for one in entries if one.name == name and one.hash == row.hash), None)
        if found is None:
            return None
        with self._lock:
            change = self._overlay.newest(folder, name)
        own = change.entry if change is not None else None
        # The entry of this mount's change counts if it is of that version: the listing may be older.
        if own is None or own.object is None or found.object is None or own.version != found.version:
            own = found
        return replace(own, last_modified="")

    def _made_of(self, folder: Folder, rows: Iterable[Row]) -> Collection[Listing]:
        """Return the listings that rows make of a folder and of those below it."""
        page = Page(tuple(rows), (), "", True)
        return listings_of(parts_of(page, folder, folder, ""), self._defaults).values()

    def _move_below(self, source: Folder, target: Folder) -> None:
        """Let own changes count at the new place, and no listing of either place. Lock held."""
        self._overlay.discard_below(target)
        self._listings.invalidate_below(target)
        self._overlay.move_below(source, target)
        self._listings.invalidate_below(source)

    def _record_pending(
        self, folder: Folder, name: str, entry: Entry | None, stored: LocalChange | None
    ) -> PendingChange:
        """Record a change over what this mount has `stored` at that name. Lock held."""
        is_new = entry is not None
        change = self._overlay.record(folder, name, entry, pending=True, moved=is_new, left=not is_new)
        change.stored = stored
        if stored is not None:
            self._overlay.keep(folder, name, stored)
        return PendingChange(self._shared, folder, name, change, None, None)

    def are_alone(self, *paths: str) -> bool:
        """Return whether the paths are in one folder and nothing else is in it; False if that is unknown."""
        parents, names = {split(path)[0] for path in paths}, {split(path)[1] for path in paths}
        if len(parents) > 1:
            return False
        with self._lock:
            listing = self._listings.fresh(self._source.folder(parents.pop()))
            if listing is None or not listing.complete:
                return False
            return all(entry.name in names for entry in listing.entries())

    def has_just_listed(self, path: str) -> bool:
        """Return whether the folder that contains `path` was listed a moment ago, for the current call.

        A listing that was read was made for another call; other clients may have changed the folder since.
        """
        with self._lock:
            listing = self._listings.fresh(self._source.folder(split(path)[0]))
            if listing is None or listing.was_read:
                return False
            return monotonic() - listing.begun < MOMENT


def _moved(rows: Iterable[Row], source: Folder, target: Folder) -> list[Row]:
    """Return the rows at their new place."""
    return [replace(row, key=target.prefix + row.key.removeprefix(source.prefix)) for row in rows]
