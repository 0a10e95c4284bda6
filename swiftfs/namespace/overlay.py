"""Local changes, which override listings until Swift's listings show them."""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol
from weakref import WeakValueDictionary

from msgspec.structs import replace

from swiftfs.concurrency import monotonic
from swiftfs.namespace.entry import Entry, Shown, is_implied, moved_entry, packed
from swiftfs.namespace.inodes import folder_inode
from swiftfs.namespace.listing import Listing, Unlisted
from swiftfs.namespace.local_change import (
    PENDING,
    Contradiction,
    LocalChange,
    Places,
    agrees,
    file_beside,
    second_name,
    show,
)
from swiftfs.objects import ObjectName
from swiftfs.paths import Folder, escape, unescape

LISTING_LAG = 300.0
"""Seconds for which a listing may miss a change: Swift's container updater runs every 5 minutes."""

SWEEP = 10_000
"""After this many changes, those that every listing must show by now are dropped."""


class RecentChange(NamedTuple):
    """A change that this mount or an earlier one has stored; the fields are as in `LocalChange`."""

    name: str
    entry: Entry | None
    at: float
    moved: bool
    of_folder: bool


class RecentStore(Protocol):
    """Keeps what is stored on the disk, for the next mount."""

    def recall(self) -> Mapping[Folder, Iterator[RecentChange]]: ...

    def keep(self, folder: Folder, change: RecentChange) -> None: ...

    def forget_below(self, folder: Folder) -> None: ...


class Overlay:
    """The changes of each folder. Not locked: the namespace's lock guards it.

    It begins with the changes of an earlier mount, from `recent`, and adds to `recent` what is stored.
    """

    def __init__(self, recent: RecentStore) -> None:
        self._recent = recent
        self._recalled = dict(recent.recall())
        self._recalled_until = monotonic() + LISTING_LAG
        self._expected: dict[Folder, list[Iterator[Shown]]] = {}
        self._awaited: dict[Folder, dict[str, LocalChange]] = {}
        self._folders: dict[Folder, dict[str, LocalChange]] = {}
        # A file may have taken the folder's name. Weak: the journal has what waits.
        self._markers: WeakValueDictionary[ObjectName, LocalChange] = WeakValueDictionary()
        # What is about to move away, by its old name: see `PendingChange.begin_move`.
        self.moving: dict[tuple[Folder, str], LocalChange] = {}
        self._recorded = 0
        self._has_left = False
        self._subfolders: dict[Folder, set[str]] = {}
        self._index()

    def record(
        self,
        folder: Folder,
        name: str,
        entry: Entry | None,
        *,
        pending: bool = False,
        moved: bool = False,
        left: bool = False,
    ) -> LocalChange:
        """Add a change: `name` is now `entry`, or gone; the flags as in `LocalChange`."""
        change = LocalChange(entry, PENDING if pending else monotonic(), moved=moved, left=left)
        self.put(folder, name, change)
        return change

    def put(
        self, folder: Folder, name: str, change: LocalChange, marker: ObjectName | None = None
    ) -> LocalChange | None:
        """Add a change of `name`; return the one that it has replaced.

        `marker` is the object if it is the marker `d/` of the folder `d` that waits for its deletion.
        """
        before = self._in(folder).get(name)
        # A listing that shows the folder may be of before its removal, and the next one lack it.
        change.moved |= change.is_folder and before is not None and before.shown is None
        if change.at == PENDING and change.shown is not None:
            change.shown = packed(change.shown)
        self._has_left |= change.left
        if marker is not None:
            self._markers[marker] = change
        places = Places.of(name, before, change, of_marker=marker is not None)
        if places.change is None:
            return before
        changes = self._changes(folder)
        if change.is_file:
            changes.pop(second_name(name), None)  # of the same object
        if before is not None and places.before is None and change.at == PENDING:
            change.stored = before.in_swift()
        elif before is not None and places.before is not None and places.before != name:
            self._set(folder, places.before, before)
        self._set(folder, places.change, change)
        self._recorded += 1
        if self._recorded % SWEEP == 0:
            self._sweep()
        return before

    def _set(self, folder: Folder, name: str, change: LocalChange) -> None:
        if change.at != PENDING:
            self.keep(folder, name, change)
        self._changes(folder)[name] = change

    def name_of(self, folder: Folder, name: str, change: LocalChange) -> str | None:
        """Return the name for which a change counts, which may be that beside a folder; None if none does."""
        own = self._in(folder)
        return next((one for one in (name, second_name(name)) if own.get(one) is change), None)

    def deletes(self, name: ObjectName) -> bool:
        """Return whether this mount is about to delete an object."""
        marker = self._markers.get(name)
        if marker is not None and not marker.settled:
            return True
        above, slash, component = name.key.rpartition("/")
        own = self._in(Folder(name.container, above + slash))
        changes = [own.get(escape(component)), own.get(escape(component, shadowed=True))]
        return any(one is not None and one.is_deletion and not one.of_folder for one in changes)

    def expect(self, folder: Folder, entries: Iterator[Shown]) -> None:
        """Add pending changes of an earlier mount to those of a folder that no listing in memory shows.

        The entries are made when somebody asks for the folder's changes.
        """
        self._expected.setdefault(folder, []).append(entries)
        self._add_to_index(folder)

    def take_expected(self, folder: Folder, name: str) -> LocalChange:
        """Return an expected change, once: the outcome of it is known."""
        self._in(folder)
        return self._awaited[folder].pop(name)

    def with_version(self, folder: Folder, name: str, entry: Entry) -> Entry:
        """Return the entry of new attributes with the version that this mount has stored, if it has none.

        They may have been changed during an upload, whose version was not known yet.
        """
        newest = self.newest(folder, name)
        stored = newest.in_swift() if newest is not None else None
        known = stored.entry if stored is not None else None
        if entry.is_directory or entry.etag or entry.hash or known is None or known.object != entry.object:
            return entry
        return replace(entry, etag=known.etag, hash=known.hash, is_slo=known.is_slo)

    def confirm(self, folder: Folder, name: str, change: LocalChange, entry: Entry | None) -> bool:
        """Record that Swift has made a pending change, with `entry`; return False if there is a newer one."""
        name = self.name_of(folder, name, change) or name
        newest = self._in(folder).get(name)
        stored = LocalChange(
            entry, monotonic(), moved=change.moved, left=change.left, of_folder=change.of_folder
        )
        change.settled = True
        if newest is change:
            self._folders[folder][name] = stored
        elif newest is not None and newest.at == PENDING and not change.of_folder:
            newest.stored = stored
        else:
            return False
        self.keep(folder, name, stored)
        return newest is change

    def roll_back(self, folder: Folder, name: str) -> None:
        """Drop a pending change of `name`: what this mount stored before it counts again, if it did."""
        change = self.newest(folder, name)
        if change is None or change.at != PENDING:
            return
        self.discard(folder, name)
        if change.stored is not None and (change.stored.shown is None or change.stored.shown.name == name):
            self._changes(folder)[name] = change.stored
            self.keep(folder, name, change.stored)

    def take_back(self, folder: Folder, name: str, before: LocalChange | None) -> LocalChange | None:
        """Drop the pending change of `name` as if it had never been made; return what counts again.

        That is `before`, which it had replaced, or what `before` has become.
        """
        change = self._folders[folder][name]
        counts = change.stored if before is None or before.settled else before
        if counts is not None and counts.shown is not None and counts.shown.name != name:
            counts = None  # a folder has taken its name
        self.discard(folder, name)
        if counts is not None:
            if self.newest(folder, second_name(name)) is counts:
                self.discard(folder, second_name(name))
            self._changes(folder)[name] = counts
        return counts

    def correct(
        self, folder: Folder, found: Contradiction, entries: Mapping[str, Entry | None]
    ) -> Mapping[str, Entry | None]:
        """Record what Swift has, instead of the change that a listing contradicts; return what counts of it.

        If that listing does not show it either, it lags behind, as the next one may.
        """
        if self.newest(folder, found.name) is not found.change:
            return {}  # a newer change counts
        for name, entry in entries.items():
            if name == found.name and entry is found.listed:
                self.discard(folder, name)
            elif name != found.name or entry is not found.change.entry:
                self.record(folder, name, entry)
        return entries

    def discard(self, folder: Folder, name: str) -> None:
        """Drop the change of `name`, so that the listing counts again."""
        if (changes := self._folders.get(folder)) is not None:
            changes.pop(name, None)
            if not changes:
                del self._folders[folder]

    def left_in(self, listing: Listing) -> list[str]:
        """Return the folders without a marker in `listing` that contain objects which a rename has left.

        And those beside a file that may contain nothing but what this mount deletes.
        """
        below = [escape(component) for component in self.subfolders(listing.folder)]
        emptied = [
            name
            for name in below
            if listing.may_have_beside(second_name(name)) and listing.known(second_name(name)) is not None
            if self._is_emptied(listing.folder.subfolder(unescape(name)[0]))
        ]
        entries = {name: listing.known(name) for name in [*emptied, *self._left_below(listing)]}
        return [name for name, entry in entries.items() if entry is not None and is_implied(entry)]

    def _left_below(self, listing: Listing) -> list[str]:
        if not self._has_left:
            return []
        start = len(listing.folder.prefix)
        return [
            escape(folder.prefix[start:].partition("/")[0])
            for folder, changes in self._folders.items()
            if folder != listing.folder and folder.is_below(listing.folder)
            if any(change.left for change in changes.values())
        ]

    def _is_emptied(self, folder: Folder) -> bool:
        """Return whether a deletion in a folder, or below it, waits."""
        if any(change.is_deletion for change in self._in(folder).values()):
            return True
        return any(self._is_emptied(folder.subfolder(component)) for component in self.subfolders(folder))

    def left_folders(self, listing: Listing) -> list[str]:
        """Return the folders in `listing` whose marker a rename has left: others may have stayed in them."""
        if not self._has_left:
            return []
        changes = self._in(listing.folder).items()
        left = [name for name, change in changes if change.left and change.at == PENDING]
        return [name for name in left if (entry := listing.known(name)) is not None and entry.is_directory]

    def subfolders(self, folder: Folder) -> list[str]:
        """Return the components of the folder in which, or below which, there are changes."""
        return list(self._subfolders.get(folder, ()))

    def entries_below(self, folder: Folder) -> Iterator[LocalChange]:
        """Yield the changes in a folder, and in all folders below it, that are not deletions."""
        yield from (change for change in self._in(folder).values() if change.shown is not None)
        for component in self.subfolders(folder):
            yield from self.entries_below(folder.subfolder(component))

    def newest(self, folder: Folder, name: str) -> LocalChange | None:
        """Return the last change of `name`."""
        return self._in(folder).get(name)

    def changes_in(self, folder: Folder) -> dict[str, LocalChange]:
        """Return a copy of the folder's changes by name."""
        return dict(self._in(folder))

    def apply(self, listing: Listing, begun: float) -> list[Contradiction]:
        """Apply the changes to a listing begun at `begun` (monotonic seconds), and drop what it shows.

        Return the older changes that the listing contradicts. The listing lags behind, or another client
        changed the name after us: only a HEAD can tell which. Names that the listing of a huge folder does
        not include are not contradicted.
        """
        contradicted = []
        for name, change in self.changes_in(listing.folder).items():
            # A change after the listing was begun, or one that is not in Swift yet, cannot be in it: it
            # always counts.
            if change.at <= begun:
                found = self._compare(listing, name, change)
                is_old = begun - change.at > LISTING_LAG and not self._empties(listing.folder, name, change)
                # A deletion stays: a listing without the name may lack its PUT, which the next one shows. So
                # does what was moved: it may have been here before, and be away in the next listing.
                if is_old or (found is True and change.shown is not None and not change.moved):
                    self.discard(listing.folder, name)
                if is_old or found is True:
                    continue
                if isinstance(found, Contradiction):
                    contradicted.append(found)
                listing.update(name, change.shown)
            else:
                show(listing, name, change)
        return contradicted

    def _compare(self, listing: Listing, name: str, change: LocalChange) -> "Contradiction | bool":
        """Return True if the listing shows the change, False if it does not include the name.

        A file that the listing shows beside a folder of its name, or no more beside one, is shown, too.
        """
        try:
            listed = listing.get(name)
        except Unlisted:
            return False
        if agrees(listed, change):
            return True
        beside = file_beside(listing, name)
        is_shown = beside is not None and change.is_file and self._is_placed(listing.folder, name)
        if beside is None or not is_shown or not agrees(beside, change):
            return Contradiction(name, change, listed, beside)
        self.discard(listing.folder, name)
        if change.moved:
            self._changes(listing.folder)[beside.name] = LocalChange(beside, change.at, moved=True)
        return True

    def _is_placed(self, folder: Folder, name: str) -> bool:
        """Return whether no change of this mount explains that a listing has a file at its other name."""
        component, shadowed = unescape(name)
        if shadowed:
            # This mount may have made a folder that the listing does not show yet.
            own = self.newest(folder, escape(component))
            return own is None or own.shown is None
        # A listing may still show what this mount has deleted in the folder.
        return not self.deletions_below(folder.subfolder(component))

    def apply_again(self, listing: Listing, begun: float) -> None:
        """Apply the changes to a listing that `apply` has compared with them."""
        for name, change in self.changes_in(listing.folder).items():
            if change.at > begun or change.of_folder:
                show(listing, name, change)
            else:  # what is beside it was compared, too
                listing.update(name, change.shown)

    def _empties(self, folder: Folder, name: str, change: LocalChange) -> bool:
        """Return whether a folder was removed, but what was in it waits for its deletion."""
        component, shadowed = unescape(name)
        return change.shown is None and not shadowed and self._is_emptied(folder.subfolder(component))

    def _sweep(self) -> None:
        old = monotonic() - LISTING_LAG
        for folder, changes in list(self._folders.items()):
            for name in [name for name, change in changes.items() if change.at < old]:
                self.discard(folder, name)
        self._index()

    def stored_below(self, folder: Folder) -> list[Entry]:
        """Return the entries that this mount has stored in a folder and in all folders below it."""
        changes = [change for other in self._below(folder) for change in self._in(other).values()]
        stored = [change.in_swift() for change in changes]
        return [change.entry for change in stored if change is not None and change.entry is not None]

    def stored_in(self, folder: Folder) -> dict[tuple[Folder, str], LocalChange]:
        """Return the changes that are in Swift, in a folder and in all folders below it."""
        return {
            (other, name): stored
            for other in self._below(folder)
            for name, change in self._in(other).items()
            if (stored := change.in_swift()) is not None
        }

    def move_below(self, source: Folder, target: Folder) -> None:
        """Record the changes stored below a folder that has moved as changes below its new place.

        Its objects were copied just now, and listings may not show that yet, nor that the old names are gone.
        What is not in Swift yet is dropped: it gets its new name by a change of its own.
        """
        moved = {folder: self._in(folder) for folder in self._below(source)}
        self.discard_below(source)
        for folder, changes in moved.items():
            there = Folder(target.container, target.prefix + folder.prefix.removeprefix(source.prefix))
            for name, newest in changes.items():
                change = newest if newest.shown is None else newest.in_swift()
                if change is None:
                    continue
                self.record(folder, name, None)
                if change.entry is not None:
                    self.record(there, name, _entry_in(there, change.entry), moved=change.moved)

    def record_moved(self, listing: Listing) -> None:
        """Record rows from the old place of a folder that has moved; changes of this mount count more."""
        own = self._in(listing.folder)
        for entry in [entry for entry in listing.entries() if entry.name not in own]:
            # A listing will show the time of the copy.
            self.record(listing.folder, entry.name, replace(entry, last_modified=""), moved=True)

    def deletions_below(self, *folders: Folder) -> list[tuple[Folder, str, LocalChange]]:
        """Return the deletions in these folders and in all folders below them."""
        return [
            (other, name, change)
            for folder in folders
            for other in self._below(folder)
            for name, change in self._folders[other].items()
            if change.shown is None
        ]

    def put_back(self, changes: Iterable[tuple[Folder, str, LocalChange]]) -> None:
        """Let discarded changes count again, unless their names were changed since."""
        for folder, name, change in changes:
            counts = self._changes(folder).setdefault(name, change)
            if counts is change and change.at != PENDING:
                self.keep(folder, name, change)

    def discard_below(self, folder: Folder) -> None:
        """Drop the changes in a folder and in all folders below it."""
        for other in self._below(folder):
            del self._folders[other]
        self._recent.forget_below(folder)

    def _changes(self, folder: Folder) -> dict[str, LocalChange]:
        """Return the folder's changes by name, to add one."""
        if (changes := self._folders.get(folder)) is None:
            self._add_to_index(folder)
            changes = self._folders[folder] = {}
        return changes

    def _index(self) -> None:
        self._subfolders.clear()
        for folder in [*self._folders, *self._recalled, *self._expected]:
            self._add_to_index(folder)

    def _add_to_index(self, folder: Folder) -> None:
        while folder.prefix:
            folder, component = folder.split()
            known = self._subfolders.setdefault(folder, set())
            if component in known:
                return
            known.add(component)

    def _in(self, folder: Folder) -> Mapping[str, LocalChange]:
        """Return the folder's changes by name; at first those that an earlier mount has made."""
        if self._recalled and monotonic() > self._recalled_until:
            self._recalled.clear()
        if (recalled := self._recalled.pop(folder, None)) is not None:
            # Not before they are needed: there may be thousands, and a mount is to start at once.
            self._folders[folder] = {
                one.name: LocalChange(one.entry, one.at, moved=one.moved, of_folder=one.of_folder)
                for one in recalled
            }
        for entries in self._expected.pop(folder, ()):
            changes, awaited = self._changes(folder), self._awaited.setdefault(folder, {})
            for entry in entries:
                before = changes.get(entry.name)
                stored = before.in_swift() if before is not None else None
                changes[entry.name] = awaited[entry.name] = LocalChange(entry, PENDING, stored)
        return self._folders.get(folder, {})

    def _below(self, folder: Folder) -> list[Folder]:
        """Return the folder and all below it in which there are changes."""
        for other in [other for other in (*self._recalled, *self._expected) if other.is_below(folder)]:
            self._in(other)
        return [other for other in self._folders if other.is_below(folder)]

    def keep(self, folder: Folder, name: str, stored: LocalChange) -> None:
        """Let the next mount know what Swift has as `name`."""
        change = RecentChange(name, stored.entry, stored.at, stored.moved, stored.of_folder)
        self._recent.keep(folder, change)


def _entry_in(folder: Folder, entry: Entry) -> Entry:
    """Return the entry in `folder` of a file or folder that has moved there with its folder."""
    if entry.object is None:
        return entry
    slash = "/" if entry.object.key.endswith("/") else ""
    target = folder.child(entry.object.key.removesuffix("/").rpartition("/")[2] + slash)
    moved = moved_entry(entry, entry.name, target)
    if not entry.is_directory:
        return moved
    inode = folder_inode(Folder(target.container, target.key.removesuffix("/") + "/"))
    attributes = replace(entry.attributes, inode=inode)
    # Without a time a marker `d/` would count as a folder that only its children imply.
    return replace(moved, attributes=attributes, last_modified=entry.last_modified)
