"""Listings in memory, and the requests for others: one request for all threads that wait for a folder.

The listing of one folder is bounded: a server may send pages without an end.
"""

import logging
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from weakref import WeakSet

from cachetools import LRUCache, TTLCache
from msgspec import Struct, field

from swiftfs.concurrency import Future, Lock, monotonic, new_future, new_pool, wait_all
from swiftfs.errors import FolderTooLarge, Offline, StoreError, TimedOut, printable
from swiftfs.namespace.listing import PACKED_BYTES, Listing
from swiftfs.objects import Page
from swiftfs.paths import Folder
from swiftfs.store.retry import shared_limit

log = logging.getLogger(__name__)

FOLDER_BYTES = 512 * 1024**2
"""Limit of the bytes that the names of one folder take: four million names of 100 bytes. The program that
lists the folder keeps them in its memory."""

NAME_BYTES = 24
"""Bytes that count for each name besides its text."""

PATIENCE = 600.0
"""Seconds that the pages of a folder may take, besides the time for its names."""

NAMES_PER_SECOND = 10
"""The rate that gives the time for the names: a row has some 200 bytes, so a line of 20 kbit/s is enough."""


class LimitedPages(Iterator[Page]):
    """The `pages` of a folder, up to a limit.

    Raise `FolderTooLarge` when their names take more than `most` bytes (`FOLDER_BYTES`), with `each` more for
    each name, and `TimedOut` when they come too slowly. After an error of `pages` the next call asks for the
    same page again.
    """

    def __init__(
        self, folder: Folder, pages: Iterator[Page], most: int | None = None, each: int = NAME_BYTES
    ) -> None:
        self._folder = folder
        self._pages = pages
        self._most = self._left = FOLDER_BYTES if most is None else most
        self._each = each - len(folder.prefix.encode())
        self._seconds = 0.0
        self._names = 0

    def __next__(self) -> Page:
        self._check()
        began = monotonic()
        try:
            page = next(self._pages)
        finally:
            self._seconds += monotonic() - began
        names = [*(row.key for row in page.rows), *page.subdirs]
        self._names += len(names)
        self._left -= len("".join(names).encode()) + self._each * len(names)
        self._check(is_last=page.last)
        return page

    def _check(self, *, is_last: bool = False) -> None:
        where = printable(f"{self._folder.container}/{self._folder.prefix}")
        if self._left < 0:
            raise FolderTooLarge(f"{where}: its names take more than {self._most >> 20} MiB")
        if not is_last and self._seconds > PATIENCE + self._names / NAMES_PER_SECOND:
            raise TimedOut(f"{where}: {self._names} names came in {self._seconds:.0f} s, which is too slow")


SERVES_TIMES = 10
"""A listing is fresh for at least this multiple of the time that it took: walking a huge folder takes longer
than the option `ttl`."""


class Listings:
    """Folders' listings, `max_entries` names at most; the least recently used ones are dropped.

    Expired ones are kept: they are used again when Swift does not answer. With a `ttl` of 0 (seconds) none
    is kept. A listing that was invalidated while it was fetched has expired when it comes. Not locked: the
    namespace's lock guards it.
    """

    def __init__(self, ttl: float, max_entries: int) -> None:
        self._ttl = ttl
        # The most recently used one last, with its weight when it was added. No LRUCache: to look into one
        # takes several times as long, and every lookup does that.
        self._listings: OrderedDict[Folder, Listing] = OrderedDict()
        self._weights: dict[Folder, int] = {}
        self._left = self._most = max_entries
        self._invalidated: LRUCache[Folder, float] = LRUCache(MOST_INVALIDATED)
        self._all_invalidated = -math.inf
        # All that are in memory, also those that only a reader keeps there.
        self._packed: WeakSet[Listing] = WeakSet()

    def get(self, folder: Folder) -> Listing | None:
        """Return a folder's listing, expired or not, None when it is not in memory."""
        listing = self._listings.get(folder)
        if listing is not None:
            self._listings.move_to_end(folder)
        return listing

    def _keep(self, folder: Folder, listing: Listing) -> None:
        """Keep a listing, and drop others for it; do nothing if it is larger than all may be together."""
        weight = listing.weight
        if weight > self._most:
            return
        while weight > self._left:
            self._drop(next(iter(self._listings)))
        self._listings[folder], self._weights[folder] = listing, weight
        self._left -= weight

    def _drop(self, folder: Folder) -> None:
        self._listings.pop(folder, None)
        self._left += self._weights.pop(folder, 0)

    def fresh(self, folder: Folder) -> Listing | None:
        """Return a folder's listing unless it has expired."""
        listing = self.get(folder)
        return listing if listing is not None and monotonic() < listing.expires else None

    def add(self, listing: Listing, *, is_expired: bool = False) -> None:
        """Add a new listing; it replaces an older one of its folder. One from the disk has expired."""
        known = self._listings.get(listing.folder)
        if known is not None and known.begun > listing.begun:
            return
        # First: if the new one is too large to be kept, the older one must not stay either.
        self._drop(listing.folder)
        if self._ttl:
            is_valid = not is_expired and listing.begun >= self.invalidated_at(listing.folder)
            serves = max(self._ttl, SERVES_TIMES * listing.seconds) if is_valid else 0.0
            listing.expires = monotonic() + serves
            self._keep(listing.folder, listing)
            if listing.packed:
                self._packed.add(listing)

    def walked(self, folder: Folder, seconds: float) -> None:
        """Record that a walk has come to `folder`, by a page that took so many seconds.

        The folders above it serve the walk to its end, as if that were a part of their listings. But the next
        walk finds them expired after `ttl`.
        """
        now = monotonic()
        for end in [0, *(at + 1 for at, char in enumerate(folder.prefix[:-1]) if char == "/")]:
            listing = self.fresh(Folder(folder.container, folder.prefix[:end]))
            if listing is not None and listing.walked_to < folder.prefix:
                listing.walked_to = folder.prefix
                listing.seconds += seconds
                longest = listing.begun + SERVES_TIMES * listing.seconds
                listing.expires = max(listing.expires, min(now + self._ttl, longest))

    def has_space(self, listing: Listing) -> bool:
        """Return whether the listing of a huge folder may become larger.

        Those of other huge folders are dropped for it, the oldest first. One that is being read stays.
        """
        self._packed.add(listing)
        packed = [folder for folder, one in self._listings.items() if one.packed and one is not listing]
        for folder in packed:
            if self._has_space():
                break
            self._drop(folder)
        return self._has_space()

    def _has_space(self) -> bool:
        return sum(one.packed for one in self._packed) < PACKED_BYTES

    def invalidated_at(self, folder: Folder) -> float:
        """Return when a folder was last invalidated (monotonic seconds), -inf if never."""
        return max(self._invalidated.get(folder, -math.inf), self._all_invalidated)

    def invalidate(self, folder: Folder) -> None:
        """Drop the listing of a folder."""
        self._invalidated[folder] = monotonic()
        self._drop(folder)

    def invalidate_below(self, folder: Folder) -> None:
        """Drop the listings of a folder and of all folders below it."""
        self._all_invalidated = monotonic()  # of all that are being fetched: that costs a request at most
        for other in [other for other in self._listings if other.is_below(folder)]:
            self._drop(other)

    def clear(self) -> None:
        """Drop every listing."""
        self._all_invalidated = monotonic()
        self._listings.clear()
        self._weights.clear()
        self._left = self._most


MOST_INVALIDATED = 10_000
"""Folders of which the time of the last invalidation is kept."""

PARALLEL = 16
"""Parallel listings, of different folders."""

ANSWER_SECONDS = 5.0
"""Seconds to wait for an answer while there is an expired listing: a page of 10,000 names takes a few over a
slow line. An answer that comes later is for the next lookup."""

OUTAGE_SECONDS = 30.0
"""Seconds for which an outage of Swift is assumed after a failure. The store tries a lookup for less (25 s):
while there are lookups, one attempt follows another, and only the first is waited for."""

LONG_SECONDS = 1.0
"""A failure that took longer is shared with those who ask for the folder a moment later."""

SHARED_SECONDS = 2.0
"""The moment. The kernel keeps back lookups of one name, with libfuse 2 all in a folder, until the one before
has ended: each would wait as long again, one after another."""

MOST_SHARED = 1000
"""Folders whose failures are shared at once."""


class _Request(Struct):
    """A listing that is being fetched since `begun` (monotonic seconds)."""

    begun: float
    future: Future[Listing] = field(default_factory=new_future)


class ListingFetcher:
    """Calls `fetch` in its threads: that gets a listing and adds it to `listings`.

    `recall` returns what is known of a folder without the server, None if nothing is. `lock` is the
    namespace's. It guards the listings, the running requests and the outage.
    """

    def __init__(
        self,
        lock: Lock,
        listings: Listings,
        fetch: Callable[[Folder], Listing],
        recall: Callable[[Folder], Listing | None],
    ) -> None:
        self._recall = recall
        self._lock = lock
        self._listings = listings
        self._fetch = fetch
        self._outage = _Outage()
        self._pool = new_pool("listing", PARALLEL)
        self._requests: dict[Folder, _Request] = {}
        self._failed: TTLCache[Folder, _Request] = TTLCache(MOST_SHARED, SHARED_SECONDS, timer=monotonic)

    def listing(self, folder: Folder) -> Listing:
        """Return the folder's listing from memory, or request it; raise `StoreError`.

        If Swift does not answer, an expired listing is returned. In an outage only one attempt runs at a
        time, and a caller with an expired listing does not wait for it.
        """
        with self._lock:
            if (listing := self._listings.fresh(folder)) is not None:
                return listing
            expired, in_outage = self._listings.get(folder), self._outage.lasts
            # One request for all threads that want this folder: they wait for its future, not for the lock.
            request = self._joinable(folder)
            if request is None and (expired is None or not in_outage or not self._requests):
                request = self._begin(folder)
        # Without a listing there is nothing to show: unknown is not empty, so the caller waits, or gets the
        # error.
        if expired is None:
            assert request is not None
            return self._first(folder, request, in_outage=in_outage)
        if request is not None and wait_all([request], 0 if in_outage else ANSWER_SECONDS):
            if not _is_outage(request.exception()):
                return request.result()
        elif not in_outage:
            self._note_timeout(folder)
        with self._lock:
            self._outage.log_once()
        return expired

    def list_ahead(self, folder: Folder) -> None:
        """Begin to list a folder that will be needed. Lock held."""
        if self._listings.fresh(folder) is None and self._joinable(folder) is None and not self._outage.lasts:
            with suppress(RuntimeError):  # the threads have ended
                self._begin(folder)

    def close(self) -> None:
        """Wait for the running requests and end the threads."""
        self._pool.shutdown(cancel_futures=True)

    def _first(self, folder: Folder, request: Future[Listing], *, in_outage: bool) -> Listing:
        """Return the answer to a request, or what was known at an earlier time if there is none.

        In an outage that is not waited for.
        """
        if in_outage and (known := self._recall(folder)) is not None:
            return known
        try:
            return request.result()
        except StoreError as error:
            if not _is_outage(error) or (known := self._recall(folder)) is None:
                raise
            if (shared := shared_limit()) is not None:
                shared.failed(error)  # the request was another thread's
            return known

    def _joinable(self, folder: Folder) -> Future[Listing] | None:
        """Return a folder's request that runs or has just failed, unless it is older than an invalidation."""
        request = self._requests.get(folder) or self._failed.get(folder)
        if request is None or request.begun < self._listings.invalidated_at(folder):
            return None
        return request.future

    def _begin(self, folder: Folder) -> Future[Listing]:
        request = self._requests[folder] = _Request(monotonic())
        request.future = self._pool.submit(self._run, folder, request)
        return request.future

    def _note_timeout(self, folder: Folder) -> None:
        with self._lock:
            if folder in self._requests:  # else the answer has just come
                self._outage.notice(f"no answer within {ANSWER_SECONDS:.0f} s")

    def _run(self, folder: Folder, request: _Request) -> Listing:
        try:
            listing = self._fetch(folder)
        except StoreError as error:
            with self._lock:
                if _is_outage(error):
                    self._outage.notice(error)
                    if monotonic() - request.begun > LONG_SECONDS:
                        self._failed[folder] = request
            raise
        else:
            with self._lock:
                self._outage.end()
            return listing
        finally:
            with self._lock:
                # After the listing was stored: a thread that finds no request finds the listing.
                if self._requests.get(folder) is request:  # not one that was begun since
                    del self._requests[folder]


class _Outage:
    """Whether Swift did not answer a moment ago. Not locked: the namespace's lock guards it."""

    def __init__(self) -> None:
        self._noticed = -math.inf
        self._reason: object = None
        self._logged = False

    @property
    def lasts(self) -> bool:
        """True for `OUTAGE_SECONDS` after a failure, unless an answer comes."""
        return monotonic() - self._noticed < OUTAGE_SECONDS

    def notice(self, reason: object) -> None:
        """Record that Swift did not answer."""
        self._noticed = monotonic()
        self._reason = reason

    def log_once(self) -> None:
        """Log that expired listings are used, once in an outage."""
        # Whoever knows already that the server is away has said so.
        if self.lasts and not self._logged and not isinstance(self._reason, Offline):
            log.warning("Swift does not answer; expired listings are used meanwhile: %s", self._reason)
            self._logged = True

    def end(self) -> None:
        """Record that Swift answered."""
        self._noticed = -math.inf
        if self._logged:
            log.info("Swift answers again")
        self._logged = False


def _is_outage(error: BaseException | None) -> bool:
    """Return whether the failure says nothing about the folder, whose contents may be unchanged."""
    return isinstance(error, StoreError) and error.retryable
