"""The listings in memory, and how long each serves."""

from contextlib import suppress

from cachetools import LRUCache

from swiftfs.concurrency import monotonic
from swiftfs.namespace.listing import Listing
from swiftfs.paths import Folder

WORTH = 10
"""A listing serves at least so many times as long as it took: a walk of a huge folder outlives any `ttl`."""


class Listings:
    """Folders' listings by the time of their last use, `max_entries` names at most.

    One that has expired stays: it serves again where Swift cannot be asked. With a `ttl` of 0 (seconds) none
    is kept. Not locked: the namespace's lock guards it.
    """

    def __init__(self, ttl: float, max_entries: int) -> None:
        self._ttl = ttl
        self._kept: LRUCache[Folder, Listing] = LRUCache(max_entries, getsizeof=lambda one: one.weight)

    def get(self, folder: Folder) -> Listing | None:
        """Return a folder's listing, expired or not, None for one that is not in memory."""
        return self._kept.get(folder)

    def fresh(self, folder: Folder) -> Listing | None:
        """Return a folder's listing unless it has expired."""
        listing = self._kept.get(folder)
        return listing if listing is not None and monotonic() < listing.expires else None

    def keep(self, listing: Listing) -> None:
        """Keep a listing that was just made, in place of an older one of its folder."""
        self._kept.pop(listing.folder, None)
        if self._ttl:
            listing.expires = monotonic() + max(self._ttl, WORTH * listing.seconds)
            with suppress(ValueError):  # a folder larger than the whole cache is not kept
                self._kept[listing.folder] = listing

    def forget(self, folder: Folder) -> None:
        """Drop the listing of a folder."""
        self._kept.pop(folder, None)

    def forget_below(self, folder: Folder) -> None:
        """Drop the listings of a folder and of all below it."""
        for other in [other for other in self._kept if other.is_below(folder)]:
            self._kept.pop(other, None)

    def clear(self) -> None:
        """Drop every listing."""
        self._kept.clear()
