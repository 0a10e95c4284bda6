"""Reads a folder part by part, for a caller that may take as long as it likes between two parts."""

from collections.abc import Callable, Iterator
from typing import Protocol

from swiftfs.concurrency import Lock, monotonic
from swiftfs.namespace.change_checks import ChangeChecker
from swiftfs.namespace.entry import Defaults, Entry, implied_entry
from swiftfs.namespace.listing import Listing, Unlisted
from swiftfs.namespace.overlay import SharedState
from swiftfs.objects import Page
from swiftfs.paths import Folder, escape, unescape


class FolderReader(Protocol):
    """What is in the folder all the time is in exactly one part. One thread at a time may use it."""

    def next(self) -> list[Entry] | None:
        """Return the next part, which may be empty, and None after the last; raise `StoreError`.

        At most one page is requested. After an error it can be called again, and goes on where it was.
        """


class ListingReader:
    """Reads a listing in memory. `lock` is the namespace's."""

    def __init__(self, listing: Listing, lock: Lock) -> None:
        self._chunks = listing.chunks()
        self._lock = lock

    def next(self) -> list[Entry] | None:
        with self._lock:
            return next(self._chunks, None)


class StreamReader:
    """Reads a folder larger than a page from Swift, and makes its listing, which `finish` gets at the end.

    The names that this mount has changed come last, because only then it is known what counts.
    """

    def __init__(
        self,
        folder: Folder,
        pages: Iterator[Page],
        defaults: Defaults,
        shared: SharedState,
        checker: ChangeChecker,
        finish: Callable[[Listing, float], object],
    ) -> None:
        self._pages = pages
        self._defaults = defaults
        self._lock = shared.lock
        self._listings = shared.listings
        self._checker = checker
        self._finish = finish
        self._begun = monotonic()
        self._folder = folder
        self._listing: Listing | None = Listing(folder, defaults)
        with shared.lock:
            self._changed: dict[str, Entry | None] = dict.fromkeys(shared.overlay.changes_in(folder))
            self._implied = set(map(escape, shared.overlay.subfolders(folder))) - self._changed.keys()
        self._has_all = False

    def next(self) -> list[Entry] | None:
        if self._listing is None:
            return None
        if self._has_all:
            own = self._own(self._listing)
            self._listing = None  # the folder may stay open for long
            return own
        page = next(self._pages)
        with self._lock:
            is_kept = self._listings.has_space(self._listing)
        entries = self._listing.add_page(page, is_kept=is_kept)
        self._has_all = page.last
        self._implied.difference_update(entry.name for entry in entries)
        self._changed.update((entry.name, entry) for entry in entries if entry.name in self._changed)
        return [entry for entry in entries if entry.name not in self._changed]

    def _own(self, listing: Listing) -> list[Entry]:
        """Return the names that this mount has changed, and the folders that exist because of that."""
        self._finish(listing, self._begun)
        found: list[Entry | None] = []
        unlisted = []
        with self._lock:
            for name in (*self._changed, *self._implied):
                try:
                    found.append(listing.get(name))
                except Unlisted:  # too many to be kept: then the page counts that showed it
                    found.append(self._changed.get(name))
                    unlisted += [unescape(name)[0]] if name in self._implied else []
        for component in self._checker.implied(self._folder, unlisted):
            below = self._folder.subfolder(component)
            found.append(implied_entry(escape(component), below, self._defaults))
        return [entry for entry in found if entry is not None]
