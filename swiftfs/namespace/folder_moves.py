"""Folders that are renamed: what is known of them without a request, and how their new names are shown."""

from collections.abc import Collection, Sequence
from dataclasses import replace

from swiftfs.concurrency import Lock, monotonic
from swiftfs.namespace.entry import Defaults, Entry
from swiftfs.namespace.listing import listings_in
from swiftfs.namespace.listing_fetcher import Listings
from swiftfs.namespace.overlay import PENDING, Overlay
from swiftfs.objects import ObjectName, Page, Row
from swiftfs.paths import Folder, Source, slash_marker, split, unescape

MOMENT = 0.5
"""Seconds for which a listing counts as current for the call that it was made for."""

MOST_MOVED = 20_000
"""How many names that a folder's rename has moved are remembered, until a listing shows them."""


class FolderMoves:
    """The part of the namespace that renames of folders use. `lock` is the namespace's."""

    def __init__(
        self, lock: Lock, overlay: Overlay, listings: Listings, source: Source, defaults: Defaults
    ) -> None:
        self._lock = lock
        self._overlay = overlay
        self._listings = listings
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
                for entry in (entry for chunk in listing.chunks() for entry in chunk):
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

    def record_moved(self, old: str, new: str, rows: Sequence[Row]) -> None:
        """Record that all below the folder at `old` is below `new` now, where listings may not show it yet.

        `rows` are those of the moved objects at the old place.
        """
        source, target = self._source.folder(old), self._source.folder(new)
        gone = Page(tuple(rows[:MOST_MOVED]), (), "", True)
        moved = [replace(row, key=target.prefix + row.key.removeprefix(source.prefix)) for row in gone.rows]
        there = Page(tuple(moved), (), "", True)
        with self._lock:
            # Listings may still show what was deleted at either place before, and so would the folder.
            deleted = self._overlay.deletions_below(source, target)
            self._overlay.discard_below(target)
            self._listings.invalidate_below(target)
            self._overlay.move_below(source, target)
            self._listings.invalidate_below(source)
            for listing in listings_in(there, target, target, "", self._defaults).values():
                self._overlay.record_moved(listing)
            for listing in listings_in(gone, source, source, "", self._defaults).values():
                for entry in [entry for chunk in listing.chunks() for entry in chunk]:
                    self._overlay.record(listing.folder, entry.name, None)
            self._overlay.put_back(deleted)

    def are_alone(self, *paths: str) -> bool:
        """Return whether the paths are in one folder and nothing else is in it; False if that is unknown."""
        parents, names = {split(path)[0] for path in paths}, {split(path)[1] for path in paths}
        if len(parents) > 1:
            return False
        with self._lock:
            listing = self._listings.fresh(self._source.folder(parents.pop()))
            if listing is None or not listing.complete:
                return False
            return all(entry.name in names for chunk in listing.chunks() for entry in chunk)

    def has_just_listed(self, path: str) -> bool:
        """Return whether the folder that contains `path` was listed a moment ago, for the current call.

        A listing that was read was made for another call; other clients may have changed the folder since.
        """
        with self._lock:
            listing = self._listings.fresh(self._source.folder(split(path)[0]))
            if listing is None or listing.was_read:
                return False
            return monotonic() - listing.begun < MOMENT
