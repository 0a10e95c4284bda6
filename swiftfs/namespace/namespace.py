"""The namespace: which files and folders exist, from listings in memory or by one request for each folder."""

import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import chain, islice

from msgspec.structs import replace

from swiftfs.attributes import Stored, decode_metadata
from swiftfs.concurrency import Rank, monotonic, new_lock, unix_time, unix_time_ns
from swiftfs.errors import Ghost, NotFound, os_error
from swiftfs.namespace.entry import (
    NO_TIME,
    Defaults,
    Entry,
    Shown,
    head_entries,
    implied_entry,
    is_marker,
    with_head,
)
from swiftfs.namespace.folder_lister import FolderLister, FolderReader, read_listing
from swiftfs.namespace.head_fetcher import EntryCompleter, HeadFetcher, OutdatedHeads
from swiftfs.namespace.inodes import folder_inode
from swiftfs.namespace.kept_listings import KeptChanges, KeptListings
from swiftfs.namespace.listing import Listing, Unlisted
from swiftfs.namespace.listing_fetcher import ListingFetcher, Listings
from swiftfs.namespace.local_change import PENDING, LocalChange, second_name, show
from swiftfs.namespace.overlay import Overlay, RecentStore
from swiftfs.namespace.pending_change import FolderMoves, PendingChange, SharedState
from swiftfs.objects import ObjectInfo, ObjectName, Page, Usage
from swiftfs.paths import Folder, Source, escape, join, plain_marker, slash_marker, split, unescape
from swiftfs.store.protocol import ObjectStore


class DeferredChange:
    """A pending change of a name whose entry is not known yet: `update` returns an entry with the change.

    `pending` is the change as it is shown, None until the name is looked up. The namespace's lock guards it.
    """

    def __init__(self, update: Callable[[Entry], Entry]) -> None:
        self.update = update
        self.pending: PendingChange | None = None


class Namespace:
    """The files and folders of the mount by their paths in it. Every method may raise `StoreError`.

    The lock guards the listings, the requests for them, the overlay, `recent` and the walk detector. It is
    never held during a request.
    """

    def __init__(
        self,
        store: ObjectStore,
        head_fetcher: HeadFetcher,
        source: Source,
        defaults: Defaults,
        *,
        ttl: float,
        max_entries: int,
        recent: RecentStore | None = None,
        kept: KeptListings | None = None,
    ) -> None:
        self._store = store
        self._head_fetcher = head_fetcher
        self._source = source
        self._defaults = defaults
        self._root = Entry("", None, defaults.directory(folder_inode(source.folder("/"))))
        self._lock = new_lock(Rank.NAMESPACE)
        self._listings = Listings(ttl, max_entries)
        self._kept = kept
        recent = recent if kept is None or recent is None else KeptChanges(recent, kept)
        self._overlay = Overlay(OutdatedHeads(recent, head_fetcher))
        self._shared = SharedState(self._lock, self._overlay, self._listings)
        self._completer = EntryCompleter(head_fetcher, defaults, self._shared)
        self._lister = FolderLister(store, head_fetcher, defaults, self._shared, self._completer, kept)
        self._listing_fetcher = ListingFetcher(
            self._lock, self._listings, self._lister.fetch, self._lister.recall
        )
        self.folder_moves = FolderMoves(self._shared, source, defaults)
        self._deferred: dict[str, DeferredChange] = {}

    def close(self) -> None:
        """End the threads."""
        self._listing_fetcher.close()
        self._head_fetcher.close()
        if self._kept is not None:
            self._kept.close()

    def load_root(self, usage: Usage | None) -> None:
        """Ask Swift for what `usage` does not say about the root; raise `NotFound` if it has no container."""
        folder = self._source.folder("/")
        if usage is None:
            ask = self._store.container_usage
            usage = ask(folder.container) if folder.container else self._store.account_usage()
        stored, marker = decode_metadata(usage.metadata), None
        mtime_ns = usage.modified_ns
        if folder.prefix:
            stored, name = Stored(), plain_marker(folder) or slash_marker(folder)
            with suppress(NotFound):
                info = self._store.head(name)
                if is_marker(info) or name.key.endswith("/"):  # and no file
                    stored, marker, mtime_ns = decode_metadata(info.metadata), name, info.last_modified_ns
        # Some servers do not say when an account was made: then it is the time of the mount, never 1970.
        made = replace(self._root.attributes, mtime_ns=mtime_ns or unix_time_ns())
        attributes = self._defaults.apply(made, stored)
        self._root = replace(self._root, object=marker, attributes=attributes)
        if self._kept is not None:
            self._kept.put_root(self._root)

    def recall_root(self) -> bool:
        """Show the root as it was when the server said what it is; return False if nothing is known."""
        root = self._kept.root() if self._kept is not None else None
        if root is None:
            return False
        self._root = root
        return True

    def lookup(self, path: str, *, complete: bool = True) -> Entry:
        """Return the entry of a path, by a HEAD if it must be `complete`; raise `OSError` ENOENT."""
        if path == "/":
            return self._root
        if path in self._deferred:
            return self._show_deferred(path, self._look_up_listed(path, complete=True))
        return self._look_up_listed(path, complete=complete)

    def dated(self, entry: Entry) -> Entry:
        """Return the entry, with the root's time if it stores none: a rename makes a new marker."""
        if entry.attributes.mtime_ns != NO_TIME:
            return entry
        return replace(entry, attributes=replace(entry.attributes, mtime_ns=self._root.attributes.mtime_ns))

    def _look_up_listed(self, path: str, *, complete: bool) -> Entry:
        if (entry := self._find_listed(path, complete=complete)) is None:
            raise os_error(errno.ENOENT, path)
        return entry

    def _find_listed(self, path: str, *, complete: bool) -> Entry | None:
        parent, name = split(path)
        listing = self._listing(self._source.folder(parent))
        try:
            with self._lock:
                entry = listing.get(name)
        except Unlisted:
            entry = self._lister.look_up(listing, name)
        if complete and entry is not None and not entry.complete:
            entry = self._completer.complete(listing, entry)
        return entry

    def _show_deferred(self, path: str, entry: Entry) -> Entry:
        """Return the entry with the deferred change of `path`, which is a pending one from now on."""
        with self._lock:
            deferred = self._deferred.get(path)
            if deferred is not None:
                entry = deferred.update(entry)
                deferred.pending = self._record(path, LocalChange(entry, PENDING))
                return entry
        return self.lookup(path)  # another thread has shown it, or it has ended

    def defer(self, path: str, update: Callable[[Entry], Entry]) -> DeferredChange:
        """Record a change that is not in Swift yet, to be shown when `path` is looked up.

        The entry is not looked up now: for thousands of names that would cost a listing of each folder.
        """
        with self._lock:
            deferred = self._deferred[path] = DeferredChange(update)
        return deferred

    def take_deferred(self, path: str, deferred: DeferredChange, *, is_made: bool) -> PendingChange | None:
        """End a deferred change; return the pending one that is shown, None if nobody looked it up.

        If the change `is_made` in Swift, every lookup that begins later sees it: neither an older listing
        counts any more, nor what this mount stored under the name before.
        """
        parent, name = split(path)
        with self._lock:
            is_newest = self._deferred.get(path) is deferred
            if is_newest:
                del self._deferred[path]
            if deferred.pending is None:
                self._invalidate(path)
                before = self._overlay.newest(self._source.folder(parent), name)
                if is_made:
                    self._forget_heads(path)
                if is_newest and is_made and before is not None and before.entry is not None:
                    self._record(path, LocalChange(deferred.update(before.entry), monotonic()))
                elif is_made and self._kept is not None:
                    self._kept.forget(self._source.folder(parent))
            return deferred.pending

    def _forget_heads(self, path: str) -> None:
        """Drop what HEADs have said about the file or the folder at a path."""
        for name in (self._source.object(path), slash_marker(self._source.folder(path))):
            self._head_fetcher.forget(name)

    def verify(self, path: str, entry: Entry, *, ask: bool) -> Entry:
        """Return `entry` with its true version, if it has only the one in the Content-Type.

        The true one may be in the cache of HEADs; else, with `ask`, a HEAD is sent. Raise `NotFound` if there
        is no object.
        """
        if not entry.hinted:
            return entry
        info = self._head_fetcher.recall(entry)
        if info is None and ask:
            info = self._head_fetcher.ask(entry).result()
        if info is None:
            return entry
        better = with_head(entry, info, self._defaults)
        self._refine(path, entry, better)
        return better

    def check(self, path: str, entry: Entry) -> None:
        """Send a HEAD of the entry's object; raise `NotFound`, or `Ghost` if Swift lists the object."""
        try:
            self._head_fetcher.ask(entry).result()
        except Ghost:
            self._refine(path, entry, replace(entry, missing=True))
            raise

    def learn(self, path: str, entry: Entry, info: ObjectInfo) -> Entry:
        """Return `entry` with Swift's answer about its object, and keep that for `path`."""
        better = with_head(entry, info, self._defaults)
        self._head_fetcher.remember(entry, info)
        self._refine(path, entry, better)
        return better

    def _refine(self, path: str, entry: Entry, better: Entry) -> None:
        with self._lock:
            if (listing := self._listings.get(self._source.folder(split(path)[0]))) is not None:
                listing.refine(entry, better)

    def find(self, path: str) -> Entry | None:
        """Return the entry of `path` as in its folder's listing; None if it does not exist."""
        if path != "/" and path not in self._deferred:
            return self._find_listed(path, complete=False)
        try:
            return self.lookup(path, complete=False)
        except FileNotFoundError:
            return None

    def new_object(self, path: str) -> ObjectName:
        """Return the object that a new file at `path` is stored as.

        Raise `OSError` EINVAL for a name that no listing would show. The second name `a%file` exists only
        beside a folder `a`.
        """
        parent, name = split(path)
        component, shadowed = unescape(name)
        if escape(component, shadowed=shadowed) != name:
            raise os_error(errno.EINVAL, path)
        if shadowed:
            folder = self.find(join(parent, escape(component)))
            if folder is None or not folder.is_directory:
                raise os_error(errno.EINVAL, path)
        return self._source.object(path)

    def new_marker(self, path: str) -> ObjectName:
        """Return the object that a new marker of the folder at `path` is: `d/` beside a file `d`."""
        folder = self._source.folder(path)
        marker = self._defaults.marker(folder)
        parent, name = split(path)
        beside = self.known(join(parent, second_name(name))) if path != "/" else None
        return slash_marker(folder) if beside is not None and beside.object == marker else marker

    def children(self, path: str) -> Iterator[Entry]:
        """Return the entries of the folder at `path`, one by one, as `read` does."""
        return chain.from_iterable(self.read(path))

    def read(self, path: str) -> FolderReader:
        """Begin to read the entries of the folder at `path`, with the attributes of the listing.

        A folder larger than a page is listed while it is read, in bounded memory, from the end of its
        listing on.
        """
        listing = self._listing(self._source.folder(path))
        listing.was_read = True
        return read_listing(listing, self._lock) if listing.complete else self._lister.stream(listing)

    def known(self, path: str) -> Entry | None:
        """Return the entry of `path` from memory; None if it does not exist or is not in memory."""
        parent, name = split(path)
        with self._lock:
            listing = self._listings.fresh(self._source.folder(parent))
            return None if listing is None else listing.known(name)

    def known_in(self, folder: str, names: Sequence[str]) -> list[Entry | None]:
        """Return the entries of names in a folder from memory, None for those that are not there."""
        with self._lock:
            listing = self._listings.fresh(self._source.folder(folder))
            if listing is None:
                return [None] * len(names)
            deferred = self._deferred
            return [
                None if deferred and join(folder, name) in deferred else listing.known(name) for name in names
            ]

    def known_children(self, path: str, near: str) -> list[Entry] | None:
        """Return the children near the name `near`, of a huge folder only some; None if not in memory."""
        with self._lock:
            listing = self._listings.fresh(self._source.folder(path))
            return None if listing is None else listing.near(near)

    def is_empty(self, path: str) -> bool:
        """Return whether the folder at `path` has no children."""
        return next(self.children(path), None) is None

    def is_last(self, path: str) -> bool:
        """Return whether `path` is the only child of its folder."""
        parent, name = split(path)
        return all(entry.name == name for entry in islice(self.children(parent), 2))

    def is_implied(self, path: str) -> bool:
        """Return whether the folder at `path` has no marker, so that it would not exist without children."""
        folder = self._source.folder(path)
        if not folder.prefix or folder.prefix == self._source.prefix:
            return False
        entry = self.lookup(path, complete=False)
        return (entry.object is None or entry.missing) and not self._listing(folder).marked

    def is_marked_inside(self, path: str) -> bool:
        """Return whether the folder at `path` has the marker `d/`."""
        return self._listing(self._source.folder(path)).marked

    def record(self, path: str, entry: Entry | None, *, of_folder: bool = False) -> None:
        """Record a change that is in Swift: `path` is now `entry`, or gone. Listings may show it later.

        What is gone `of_folder` was a folder: a file that other clients have of its name stays.
        """
        with self._lock:
            self._record(path, LocalChange(entry, monotonic(), of_folder=of_folder))

    def record_pending(
        self, path: str, entry: Shown | None, *, moved: bool = False, deleted: ObjectName | None = None
    ) -> PendingChange:
        """Record a change that is not in Swift yet: `path` is now `entry`, or gone; it may be `moved`.

        `deleted` is the object that waits for its deletion, if that may be the marker `d/` of a folder `d`.
        """
        with self._lock:
            return self._record(path, LocalChange(entry, PENDING, moved=moved), deleted)

    def expect(self, path: str, entries: Iterator[Shown]) -> None:
        """Record pending changes of an earlier mount in the folder at `path`, while no listing is in memory.

        The entries are made when the folder is looked at, with the lock held: there may be 100,000.
        """
        with self._lock:
            self._overlay.expect(self._source.folder(path), entries)

    def take_expected(self, path: str) -> PendingChange:
        """Return the change of `path` that was expected. Call it once, for its outcome."""
        parent, name = split(path)
        folder = self._source.folder(parent)
        with self._lock:
            change = self._overlay.take_expected(folder, name)
        return PendingChange(self._shared, folder, name, change, None, None)

    def record_left(self, path: str, deleted: ObjectName) -> PendingChange:
        """Record that the object at `path` was moved, although it stays until Swift deletes it."""
        with self._lock:
            return self._record(path, LocalChange(None, PENDING, left=True), deleted)

    def _record(self, path: str, change: LocalChange, deleted: ObjectName | None = None) -> PendingChange:
        """Record a change, in place of a deferred one. Lock held."""
        parent, name = split(path)
        entry = change.shown
        if entry is not None and entry.name == name:
            name = entry.name  # one text for both
        folder = self._source.folder(parent)
        self._deferred.pop(path, None)
        # The path of a file `d/` ends in the name of the empty component.
        marker = (
            deleted if deleted is not None and deleted.key == f"{folder.prefix}{unescape(name)[0]}/" else None
        )
        change.of_folder |= marker is not None
        before = self._overlay.put(folder, name, change, marker)
        was = None
        if (listing := self._listings.get(folder)) is not None:
            was = listing.known(name)
            if (counts := self._overlay.name_of(folder, name, change)) is not None:
                show(listing, counts, change)
        if entry is not None:
            self._imply(folder)
        return PendingChange(self._shared, folder, name, change, before, was)

    def _imply(self, folder: Folder) -> None:
        """Show a folder that has a change in the listings that were made without it. Lock held."""
        while folder.prefix and folder.prefix != self._source.prefix:
            folder, component = folder.split()
            if (listing := self._listings.get(folder)) is not None:
                self._lister.show_implied(listing, component)

    def record_stored(self, info: ObjectInfo) -> None:
        """Record an object that Swift has, and the folders that it implies: listings may not show them yet.

        Only for the start of a mount: it overrides what listings in memory know of these folders.
        """
        if (path := self._source.path(info.version.name)) is None:
            return
        folder = self._source.folder(split(path)[0])
        for entry in head_entries(folder, info, [], self._defaults):
            self.record(path, entry)
        while (path := split(path)[0]) != "/":
            parent, name = split(path)
            with self._lock:
                known = self._overlay.newest(self._source.folder(parent), name)
            if known is None or not known.is_folder:  # else it may have a marker
                self.record(path, implied_entry(name, self._source.folder(path), self._defaults))

    def record_root(self, entry: Entry) -> None:
        """Record the root's new attributes."""
        self._root = entry

    def record_new_folder(self, path: str, entry: Entry, since: float) -> None:
        """Record that a new folder is empty: that saves the request for its listing.

        Do nothing if its listing was invalidated after `since` (monotonic seconds), when nothing was at the
        path: an object that Swift has refused to move away may be there again.
        """
        listing = Listing(self._source.folder(path), self._defaults)
        page = Page((), (), "", True)
        listing.add_page(page)
        listing.marked = entry.object is not None and entry.object.key == listing.folder.prefix
        listing.begun = monotonic()
        with self._lock:
            if self._listings.invalidated_at(listing.folder) >= since:
                return
            self._listings.add(listing)
            if self._kept is not None:
                self._kept.keep(listing, page, unix_time(), {})

    def discard_change(self, path: str) -> None:
        """Drop the pending change of `path`, and ask Swift again."""
        parent, name = split(path)
        folder = self._source.folder(parent)
        with self._lock:
            self._overlay.roll_back(folder, name)
            self._listings.invalidate(folder)

    def invalidate(self, path: str) -> None:
        """Drop the listing that contains `path`, and those below it: Swift is asked again."""
        with self._lock:
            self._invalidate(path)

    def _invalidate(self, path: str) -> None:
        self._listings.invalidate(self._source.folder(split(path)[0]))
        self._listings.invalidate_below(self._source.folder(path))

    def invalidate_all(self) -> None:
        """Drop every listing, but no local changes."""
        with self._lock:
            self._listings.clear()

    def invalidate_listings(self, path: str) -> None:
        """Drop the listings of the folder at `path` and of all folders below it."""
        with self._lock:
            self._listings.invalidate_below(self._source.folder(path))

    def recent_below(self, path: str) -> list[Entry]:
        """Return the entries stored or moved below a folder, which listings may lack."""
        folder = self._source.folder(path)
        with self._lock:
            return self._overlay.stored_below(folder)

    def _listing(self, folder: Folder) -> Listing:
        listing = self._listing_fetcher.listing(folder)
        if not self._lister.walk_detector.is_walking:  # mostly; no lock, as to be late does no harm
            return listing
        with self._lock:
            if (following := self._lister.walk_detector.record_use(folder)) is not None:
                self._listing_fetcher.list_ahead(following)
        return listing
