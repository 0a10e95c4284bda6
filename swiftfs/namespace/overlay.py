"""Local changes, which override listings until Swift's listings show them."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol

from msgspec import Struct
from msgspec.structs import replace

from swiftfs.concurrency import monotonic
from swiftfs.namespace.entry import Entry, Shown, folder_inode, is_implied, moved_entry, packed, unpacked
from swiftfs.namespace.listing import Listing, Unlisted
from swiftfs.paths import Folder, escape, unescape

LISTING_LAG = 300.0
"""Seconds for which a listing may miss a change: Swift's container updater runs every 5 minutes."""


PENDING = math.inf
"""The time of a change that is not in Swift yet: later than every listing."""

SWEEP = 10_000
"""After this many changes, those that every listing must show by now are dropped."""


class LocalChange(Struct, eq=False):
    """The last change of a name by this mount: what is `shown`, None for deleted, and when it was stored.

    `at` is in monotonic seconds, `PENDING` before it is in Swift. A pending change has replaced `stored`,
    which counts again if Swift refuses it; it is `settled` when Swift has made or refused it. A `moved` entry
    is from a row of its folder's old place. What is `left` was moved, but Swift could not delete it yet.
    """

    shown: Shown | None
    at: float
    stored: "LocalChange | None" = None
    settled: bool = False
    moved: bool = False
    left: bool = False

    @property
    def entry(self) -> Entry | None:
        """The entry, None for deleted."""
        return unpacked(self.shown)

    def in_swift(self) -> "LocalChange | None":
        """Return this change if it is in Swift; else the last one before it that is, or None."""
        return self if self.at != PENDING else self.stored


class Contradiction(Struct, frozen=True):
    """A change of `name` that a newer listing does not show, which has `listed` for it.

    `beside` is the file that the listing shows under the second name of its object: `a%file` of `a`, or the
    reverse.
    """

    name: str
    change: LocalChange
    listed: Entry | None
    beside: Entry | None = None


class RecentChange(NamedTuple):
    """A change that an earlier mount has stored; the fields are as in `LocalChange`."""

    name: str
    entry: Entry | None
    at: float
    moved: bool


class RecentStore(Protocol):
    """Keeps what is stored on the disk, for the next mount."""

    def recall(self) -> Mapping[Folder, Iterator[RecentChange]]: ...

    def keep(self, folder: Folder, name: str, entry: Entry | None, *, moved: bool) -> None: ...

    def forget_below(self, folder: Folder) -> None: ...


class Overlay:
    """The changes of each folder. Not locked: the namespace's lock guards it.

    It begins with the changes of an earlier mount, from `recent`, and adds to `recent` what is stored.
    """

    def __init__(self, recent: RecentStore | None = None) -> None:
        self._recent = recent
        self._recalled = dict(recent.recall()) if recent is not None else {}
        self._recalled_until = monotonic() + LISTING_LAG
        self._expected: dict[Folder, list[Iterator[Shown]]] = {}
        self._awaited: dict[Folder, dict[str, LocalChange]] = {}
        self._folders: dict[Folder, dict[str, LocalChange]] = {}
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
        return self.put(folder, name, entry, pending=pending, moved=moved, left=left)[0]

    def put(
        self, folder: Folder, name: str, entry: Shown | None, *, pending: bool, moved: bool, left: bool
    ) -> tuple[LocalChange, LocalChange | None]:
        """Do what `record` does; return the change, and the one that it has replaced."""
        before = self._in(folder).get(name)
        # A listing that shows the folder may be of before its removal, and the next one lack it.
        moved |= entry is not None and entry.is_directory and before is not None and before.shown is None
        shown = packed(entry) if pending and entry is not None else entry
        change = LocalChange(shown, PENDING if pending else monotonic(), moved=moved, left=left)
        self._has_left = self._has_left or left
        if not pending:
            self.keep(folder, name, change)
        elif before is not None:
            change.stored = before.in_swift()
        self._changes(folder)[name] = change
        self._recorded += 1
        if self._recorded % SWEEP == 0:
            self._sweep()
        return change, before

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
        newest = self._in(folder).get(name)
        stored = LocalChange(entry, monotonic(), moved=change.moved, left=change.left)
        change.settled = True
        if newest is change:
            self._folders[folder][name] = stored
        elif newest is not None and newest.at == PENDING:
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
        if change.stored is not None:
            self._changes(folder)[name] = change.stored
            self.keep(folder, name, change.stored)

    def take_back(self, folder: Folder, name: str, before: LocalChange | None) -> LocalChange | None:
        """Drop the pending change of `name` as if it had never been made; return what counts again.

        That is `before`, which it had replaced, or what `before` has become.
        """
        change = self._folders[folder][name]
        counts = change.stored if before is None or before.settled else before
        self.discard(folder, name)
        if counts is not None:
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
        changes = self._folders.get(folder)
        if changes is not None:
            changes.pop(name, None)
            if not changes:
                del self._folders[folder]

    def left_in(self, listing: Listing) -> list[str]:
        """Return the folders without a marker in `listing` that contain objects which a rename has left."""
        if not self._has_left:
            return []
        start = len(listing.folder.prefix)
        below = [
            escape(folder.prefix[start:].partition("/")[0])
            for folder, changes in self._folders.items()
            if folder != listing.folder and folder.is_below(listing.folder)
            if any(change.left for change in changes.values())
        ]
        entries = {name: listing.known(name) for name in below}
        return [name for name, entry in entries.items() if entry is not None and is_implied(entry)]

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
                is_old = begun - change.at > LISTING_LAG
                # A deletion stays: a listing without the name may lack its PUT, which the next one shows. So
                # does what was moved: it may have been here before, and be away in the next listing.
                if is_old or (found is True and change.shown is not None and not change.moved):
                    self.discard(listing.folder, name)
                if is_old or found is True:
                    continue
                if isinstance(found, Contradiction):
                    contradicted.append(found)
            elif change.shown is not None and not change.shown.is_directory:
                hide_beside(listing, name)
            listing.update(name, change.shown)
        return contradicted

    def _compare(self, listing: Listing, name: str, change: LocalChange) -> "Contradiction | bool":
        """Return True if the listing shows the change, False if it does not include the name.

        A file that the listing shows beside a folder of its name, or no more beside one, is shown, too.
        """
        try:
            listed = listing.get(name)
        except Unlisted:
            return False
        if _agrees(listed, change):
            return True
        beside = _file_beside(listing, name)
        if beside is None or change.shown is None or change.shown.is_directory:
            return Contradiction(name, change, listed, beside)
        component, shadowed = unescape(name)
        if shadowed:
            # This mount may have made a folder that the listing does not show yet.
            own = self.newest(listing.folder, escape(component))
            is_placed = own is None or own.shown is None
        else:
            # A listing may still show what this mount has deleted in the folder.
            is_placed = not self.deletions_below(listing.folder.subfolder(component))
        if not is_placed or not _agrees(beside, change):
            return Contradiction(name, change, listed, beside)
        self.discard(listing.folder, name)
        if change.moved:
            self._changes(listing.folder)[beside.name] = LocalChange(beside, change.at, moved=True)
        return True

    def apply_again(self, listing: Listing) -> None:
        """Apply the changes to a listing that `apply` has compared with them."""
        for name, change in self.changes_in(listing.folder).items():
            listing.update(name, change.shown)

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
        """Record the entries of `listing`, made of rows from the old place of a folder that has moved.

        Changes of this mount count more than those rows.
        """
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
        if self._recent is not None:
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
                name: LocalChange(entry, at, moved=moved) for name, entry, at, moved in recalled
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
        if self._recent is not None:
            self._recent.keep(folder, name, stored.entry, moved=stored.moved)


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


def _file_beside(listing: Listing, name: str) -> Entry | None:
    """Return the file that a listing shows under the second name of an object, None if there is none."""
    component, shadowed = unescape(name)
    plain = escape(component)
    if shadowed == listing.lacks_folder(plain):
        beside = listing.known(plain if shadowed else escape(component, shadowed=True))
        return beside if beside is not None and not beside.is_directory else None
    return None


def hide_beside(listing: Listing, name: str) -> None:
    """Do not show an older version of the file `name` beside the folder whose place the file takes."""
    # In a huge folder looking at each name costs too much.
    if not listing.is_huge and (beside := _file_beside(listing, name)) is not None:
        listing.update(beside.name, None)


def _agrees(listed: Entry | None, change: LocalChange) -> bool:
    """Return whether a listing that has `listed` shows the change."""
    changed = change.entry
    if listed is None or changed is None:
        return listed is changed
    if listed.is_directory or changed.is_directory:
        # A folder may be listed because something is in it. That does not show that its marker `d` is there.
        shown = changed.object is None or changed.object.key.endswith("/") or listed.object is not None
        return listed.is_directory == changed.is_directory and shown
    # Two versions may have one size and time, as after `cp -p` or `tar`.
    if listed.etag and changed.etag and listed.etag != changed.etag:
        return False
    # Of a large object the listing's hash is not the ETag.
    if changed.hash == changed.etag != "" and listed.hash != changed.hash:
        return False
    attributes = changed.attributes
    if change.moved and listed.hash == changed.hash:  # without a time of its own it has the copy's
        attributes = replace(attributes, mtime_ns=listed.attributes.mtime_ns)
    return listed.attributes == attributes and listed.object == changed.object
