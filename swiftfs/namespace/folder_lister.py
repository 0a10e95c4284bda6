"""Lists folders: alone, with the subtree below, page by page, or from the disk while the server is away.

A folder may also be read part by part, by a caller that takes as long as it likes between two parts. A
program that lists folder after folder walks (`find`, `du`, `ls -R`, `rsync`): it gets a subtree at once.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress

from msgspec.structs import replace

from swiftfs.concurrency import Lock, monotonic, unix_time
from swiftfs.errors import BadName, NotFound
from swiftfs.namespace.change_checks import ChangeChecker
from swiftfs.namespace.entry import Defaults, Entry, entries_of, head_entries, implied_entry
from swiftfs.namespace.head_fetcher import EntryCompleter, HeadFetcher
from swiftfs.namespace.inodes import folder_inode
from swiftfs.namespace.kept_listings import KeptFolder, KeptListings
from swiftfs.namespace.listing import ENTRY_BYTES, Listing, Unlisted, listings_of, parts_of, unpack
from swiftfs.namespace.listing_fetcher import LimitedPages
from swiftfs.namespace.local_change import PENDING, LocalChange, hide_folder, show
from swiftfs.namespace.pending_change import SharedState
from swiftfs.objects import Page
from swiftfs.paths import Folder, escape, is_second, unescape
from swiftfs.store.protocol import ObjectStore, iter_container_pages, iter_pages

WINDOW = 30.0
"""Seconds in which listings belong to one walk."""

REMEMBERED = 16
"""How many listings are remembered."""

FIRST_ROWS = 1000
"""Rows of a walk's first flat page. Few: a user who looks into two folders may stop there."""

USED_SHARE = 4
"""A walk continues while at least one in this many of the folders on its last page is used."""


class WalkDetector:
    """Detects walks by the folders that are listed. Not locked: the namespace's lock guards it."""

    def __init__(self) -> None:
        self._recent: deque[tuple[float, Folder]] = deque(maxlen=REMEMBERED)
        self._served: set[Folder] = set()
        self._unused: set[Folder] = set()
        self._next: Folder | None = None
        self._asks_ahead = self._is_ahead = False

    def notice(self, folder: Folder) -> tuple[Folder, int] | None:
        """Record that `folder` must be listed; return the subtree to list flat, and how many rows.

        None means to list the folder alone; 0 rows mean a page of the server's own size.
        """
        now = monotonic()
        recent = [other for at, other in self._recent if now - at < WINDOW]
        self._recent.append((now, folder))
        above = [other for other in recent if other != folder and folder.is_below(other)]
        if not above:
            return None
        root = min(above, key=lambda other: len(other.prefix))
        # Too few for a walk: whoever opens a path lists the folders on it.
        if sum(other.is_below(root) for other in recent) < 2:
            return None
        # The folders between come from flat pages: without this, `root` would be forgotten.
        self._recent.append((now, root))
        if not self._served:
            return root, FIRST_ROWS
        # A walk that leaves most folders out (`find -prune`) costs less folder by folder.
        if not self._is_ahead and not self._is_used():
            self._served, self._unused, self._next = set(), set(), None
            return None
        return root, 0

    def _is_used(self) -> bool:
        used = len(self._served) - len(self._unused)
        return used * USED_SHARE >= len(self._served)

    def record_page(self, folders: set[Folder], following: Folder | None) -> None:
        """Record which folders a flat page showed completely, and the `following` one, None if unknown."""
        self._served, self._unused, self._next = folders, set(folders), following
        # A page that was requested ahead is not used yet, but the one before it was.
        self._is_ahead, self._asks_ahead = self._asks_ahead, False

    @property
    def is_walking(self) -> bool:
        """Whether `record_use` has anything to do."""
        return self._next is not None or bool(self._unused)

    def record_use(self, folder: Folder) -> Folder | None:
        """Record that a folder's listing was used; return a folder to list ahead, or None.

        It is where the page ended, as soon as the walk is seen to go on: so the server makes the next page
        while the program reads this one.
        """
        if folder in self._unused:
            self._unused.discard(folder)
            self._is_ahead = False
        if self._next is None or self._is_ahead or not self._is_used():
            return None
        following, self._next, self._asks_ahead = self._next, None, True
        return following


FolderReader = Iterator[list[Entry]]
"""Yields the entries of a folder in parts, which may be empty.

A name that is there from the beginning to the end is in exactly one part. For each part at most one page is
requested. After a `StoreError` it goes on where it was. One thread at a time may use it.
"""


def read_listing(listing: Listing, lock: Lock) -> FolderReader:
    """Read a listing in memory. `lock` is the namespace's."""
    chunks = listing.chunks()
    while True:
        with lock:
            part = next(chunks, None)
        if part is None:
            return
        yield part


class StreamReader(FolderReader):
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
                show(self._listing, name, change)
        self._changed: dict[str, Entry | None] = dict.fromkeys(changes)
        self._listed = self._listing.rows()
        self._pages = pages(self._listing.end)
        self._has_all = False

    def __next__(self) -> list[Entry]:
        if self._listing is None:
            raise StopIteration
        if self._has_all:
            own = self._own(self._listing)
            self._listing = None  # the folder may stay open for long
            return own
        entries = next(self._listed, None)
        if entries is None:
            entries = self._next_page(self._listing)
        self._implied.difference_update(entry.name for entry in entries)
        for entry in entries:  # its object may be what has changed under the other name
            if is_second(entry.name) and escape(unescape(entry.name)[0]) in self._changed:
                self._changed[entry.name] = entry
        self._changed.update((entry.name, entry) for entry in entries if entry.name in self._changed)
        return [entry for entry in entries if entry.name not in self._changed]

    def _next_page(self, listing: Listing) -> list[Entry]:
        page = next(self._pages)
        with self._lock:
            is_kept = self._listings.has_space(listing)
        self._has_all = page.last
        return listing.add_page(page, is_kept=is_kept)

    def _own(self, listing: Listing) -> list[Entry]:
        """Return the names that this mount has changed, and the folders above them."""
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


BEFORE_SLASH = ".\U0010ffff"
"""After a folder's name it is a listing marker just before the folder's objects: `.` sorts before `/`."""

ACCOUNT_BYTES = 64 * 1024**2
"""Limit of the memory for the containers of an account: that of 100,000 with names of 30 bytes."""


class FolderLister:
    """Makes the listings of the namespace, with this mount's changes over them.

    `kept` keeps them on the disk, unless it is None. The lock of `shared` is the namespace's.
    """

    def __init__(
        self,
        store: ObjectStore,
        head_fetcher: HeadFetcher,
        defaults: Defaults,
        shared: SharedState,
        completer: EntryCompleter,
        kept: KeptListings | None,
    ) -> None:
        self._store = store
        self._head_fetcher = head_fetcher
        self._defaults = defaults
        self._shared = shared
        self._lock, self._overlay, self._listings = shared
        self._completer = completer
        self.walk_detector = WalkDetector()
        self._kept = kept
        self._change_checker = ChangeChecker(store, head_fetcher, defaults, shared)

    def fetch(self, folder: Folder) -> Listing:
        """List a folder; raise `StoreError`."""
        begun = monotonic()
        if not folder.container:
            page = self._containers(folder)
            return self._finish(self._listing_of(folder, page), begun, page)
        with self._lock:
            walk = self.walk_detector.notice(folder)
        if walk is not None and (listing := self._fetch_flat(folder, *walk)) is not None:
            return listing
        page = self._store.list_page(folder.container, prefix=folder.prefix, delimiter="/")
        listing = self._finish(self._listing_of(folder, page), begun, page)
        self._completer.recall({folder: listing}, listing.head_queue)
        return listing

    def _fetch_flat(self, folder: Folder, root: Folder, rows: int) -> Listing | None:
        """List the subtree of `root` from `folder` on; return `folder` if the page shows all of it."""
        begun = monotonic()
        marker = folder.prefix[:-1] + BEFORE_SLASH
        page = self._store.list_page(root.container, prefix=root.prefix, marker=marker, limit=rows)
        parts = parts_of(page, folder, root, marker)
        listings = listings_of(parts, self._defaults)
        with self._lock:
            self.walk_detector.record_page(set(listings), _following(page, root, marker))
            self._listings.walked(folder, monotonic() - begun)
            listings = {other: new for other, new in listings.items() if not self._listings.fresh(other)}
        for other, listing in listings.items():
            self._finish(listing, begun, parts[other])
        if listings:
            self._completer.recall(listings, next(iter(listings.values())).head_queue)
        return listings.get(folder)

    def stream(self, start: Listing) -> StreamReader:
        """Begin to read a folder that is larger than a page, from the end of `start` on."""
        folder = start.folder

        def pages(marker: str) -> LimitedPages:
            found = iter_pages(self._store, folder.container, folder.prefix, delimiter="/", marker=marker)
            return LimitedPages(folder, found)

        return StreamReader(start, pages, self._defaults, self._shared, self._change_checker, self._finish)

    def _finish(self, listing: Listing, begun: float, page: Page | None = None) -> Listing:
        """Apply local changes to a listing, of all of `page` if not huge; check them by HEADs; keep it."""
        with self._lock:
            hidden = self._overlay.left_folders(listing)  # `apply` hides them
            contradicted = self._overlay.apply(listing, begun)
            left = self._overlay.left_in(listing)
            subfolders = self._overlay.subfolders(listing.folder)
            lacking = [component for component in subfolders if listing.lacks_folder(escape(component))]
        checked = self._change_checker.check(listing.folder, contradicted)
        gone = self._change_checker.without_others(listing.folder, [*left, *hidden])
        implied = self._change_checker.implied(listing.folder, lacking)
        implied += [unescape(name)[0] for name in hidden if name not in gone]
        with self._lock:
            for name in gone:
                hide_folder(listing, name)
            for found, entries in checked:
                for name, entry in self._overlay.correct(listing.folder, found, entries).items():
                    listing.update(name, entry)
            self._overlay.apply_again(listing, begun)
            for component in implied:
                self.show_implied(listing, component)
            listing.begun = begun
            self._listings.add(listing)
            if self._kept is not None:
                listed = unix_time() - (monotonic() - begun)
                self._kept.keep(listing, page, listed, self._overlay.changes_in(listing.folder))
        return listing

    def recall(self, folder: Folder) -> Listing | None:
        """Return a folder's listing from the disk, which has expired, None if it is not known."""
        found = self._kept.recall(folder) if self._kept is not None else None
        if found is None:
            return None
        listing = self._restored(found)
        with self._lock:
            for name, entry in found.changes.items():
                if entry is None and not listing.lacks_folder(name):
                    hide_folder(listing, name)
                else:
                    listing.update(name, entry)
            self._overlay.apply(listing, -math.inf)
            for name in self._overlay.left_in(listing):
                hide_folder(listing, name)
            for component in self._overlay.subfolders(folder):
                if any(self._overlay.entries_below(folder.subfolder(component))):
                    self.show_implied(listing, component)
            listing.begun = -math.inf
            self._listings.add(listing, is_expired=True)
        self._completer.recall({folder: listing}, listing.head_queue)
        return listing

    def _restored(self, found: KeptFolder) -> Listing:
        if found.is_huge:
            listing = Listing(found.folder, self._defaults)
            with self._lock:
                self._listings.has_space(listing)  # others make room
            listing.restore_blocks(found.blocks, marked=found.marked)
            return listing
        rows, subdirs = unpack(found.blocks[0].packed)
        return self._listing_of(found.folder, Page(tuple(rows), tuple(subdirs), "", True))

    def look_up(self, listing: Listing, name: str) -> Entry | None:
        """Ask for one name of a huge folder: for its object, and whether there are objects below it."""
        folder = listing.folder
        component, _ = unescape(name)
        target = folder.child(component)
        asked = self._head_fetcher.ask(Entry(name, target, self._defaults.file(0, 0, 0), complete=False))
        below = self._store.list_page(folder.container, prefix=target.key + "/", limit=1)
        info = None
        with suppress(NotFound, BadName):  # no object has the name of the folder before a leading `/`
            info = asked.result()
        subdirs = [target.key + "/"] if below.rows and not self._is_emptied(folder, component) else []
        if info is None:
            entries = entries_of(folder, [], subdirs, self._defaults)
        else:
            entries = head_entries(folder, info, subdirs, self._defaults)
        found: dict[str, Entry | None] = {name: None, **{entry.name: entry for entry in entries}}
        implied = self._change_checker.implied(folder, [] if entries else [component])
        with self._lock:
            own = self._own_changes(folder, component)
            for known, better in found.items():
                listing.update(known, own[known].shown if known in own else better)
            for one in implied:
                self.show_implied(listing, one)
            return listing.get(name)

    def _is_emptied(self, folder: Folder, component: str) -> bool:
        """Return whether nothing is in a folder but what this mount deletes."""
        with self._lock:
            below = self._overlay.subfolders(folder)
            is_changed = component in below or bool(self._own_changes(folder, component))
        return is_changed and bool(self._change_checker.without_others(folder, [escape(component)]))

    def _own_changes(self, folder: Folder, component: str) -> dict[str, LocalChange]:
        """Return the changes of an object, and of the folder of its name, by its names. Lock held."""
        names = (escape(component, shadowed=shadowed) for shadowed in (False, True))
        found = {name: self._overlay.newest(folder, name) for name in names}
        return {name: change for name, change in found.items() if change is not None}

    def _listing_of(self, folder: Folder, page: Page) -> Listing:
        """Return the listing that begins with `page`; without a container its subdirs are the containers."""
        listing = Listing(folder, self._defaults)
        if folder.container:
            listing.add_page(page)
            return listing
        listing.add_page(Page((), (), "", True))
        for container in filter(self._defaults.shows_container, page.subdirs):
            name = escape(container)
            attributes = self._defaults.directory(folder_inode(Folder(container, "")))
            listing.update(name, Entry(name, None, attributes))
        return listing

    def _containers(self, folder: Folder) -> Page:
        pages = iter_container_pages(self._store)
        limited = LimitedPages(folder, pages, ACCOUNT_BYTES, ENTRY_BYTES)
        return Page((), tuple(name for page in limited for name in page.subdirs), "", True)

    def show_implied(self, listing: Listing, component: str) -> None:
        """Show a folder without a marker in a listing that lacks it. Lock held."""
        name = escape(component)
        if not listing.lacks_folder(name) or component in self._defaults.hidden_in(listing.folder):
            return
        if (file := listing.known(name)) is not None:
            own = self._overlay.newest(listing.folder, name)
            if own is not None and not own.of_folder:
                return  # it is this mount's own, in the place of the folder
            shadowed = escape(component, shadowed=True)
            listing.update(shadowed, replace(file, name=shadowed))
        listing.update(name, implied_entry(name, listing.folder.subfolder(component), self._defaults))


def _following(page: Page, root: Folder, marker: str) -> Folder | None:
    """Return the folder that a walk lists next after a flat page of `root` from `marker` on, None if unknown.

    It is the uppermost one that begins on the page, and ends behind it.
    """
    if page.last:
        return None
    end = page.marker.find("/", len(root.prefix))
    while end >= 0 and page.marker[: end + 1] <= marker:
        end = page.marker.find("/", end + 1)
    return Folder(root.container, page.marker[: end + 1]) if end >= 0 else None
