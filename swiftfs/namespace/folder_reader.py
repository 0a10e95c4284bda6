"""Reads a folder part by part, for a caller that may take as long as it likes between two parts."""

from collections.abc import Callable, Iterator
from typing import Protocol

from swiftfs.concurrency import Lock, monotonic
from swiftfs.namespace.change_checks import ChangeChecker
from swiftfs.namespace.entry import Defaults, Entry, implied_entry
from swiftfs.namespace.listing import Listing, Unlisted
from swiftfs.namespace.overlay import PENDING, SharedState
from swiftfs.objects import Page
from swiftfs.paths import escape, unescape


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

    It begins with the pages that `start` has, and goes on with `pages`, which is called with the marker. The
    names that this mount has changed come last, because only then it is known what counts.
    """

    def __init__(
        self,
        start: Listing,
        pages: Callable[[str], Iterator[Page]],
        defaults: Defaults,
        shared: SharedState,
        checker: ChangeChecker,
        finish: Callable[[Listing, float], object],
    ) -> None:
        self._defaults = defaults
        self._lock = shared.lock
        self._listings = shared.listings
        self._checker = checker
        self._finish = finish
        self._folder = folder = start.folder
        with shared.lock:
            self._listing: Listing | None = start.continuable()
            # A change since then is not in the pages of `start`.
            self._begun = self._listing.begun if self._listing.end else monotonic()
            changes = shared.overlay.changes_in(folder)
            self._implied = set(map(escape, shared.overlay.subfolders(folder))) - changes.keys()
        for name, change in changes.items():
            if self._begun < change.at != PENDING:
                # Before the folder is read to its end, a newer listing may take it from the overlay.
                self._listing.update(name, change.shown)
        self._changed: dict[str, Entry | None] = dict.fromkeys(changes)
        self._listed = self._listing.rows()
        self._pages = pages(self._listing.end)
        self._has_all = False

    def next(self) -> list[Entry] | None:
        if self._listing is None:
            return None
        if self._has_all:
            own = self._own(self._listing)
            self._listing = None  # the folder may stay open for long
            return own
        entries = next(self._listed, None)
        if entries is None:
            entries = self._next_page(self._listing)
        self._implied.difference_update(entry.name for entry in entries)
        self._changed.update((entry.name, entry) for entry in entries if entry.name in self._changed)
        return [entry for entry in entries if entry.name not in self._changed]

    def _next_page(self, listing: Listing) -> list[Entry]:
        page = next(self._pages)
        with self._lock:
            is_kept = self._listings.has_space(listing)
        self._has_all = page.last
        return listing.add_page(page, is_kept=is_kept)

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
