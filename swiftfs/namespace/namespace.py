"""The namespace: lookups and listings from memory, one request for a folder's siblings."""

import errno
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace

from cachetools import TTLCache

from swiftfs.attributes import Stored, decode_metadata
from swiftfs.errors import NotFound, os_error
from swiftfs.model import ObjectInfo, Page, Row
from swiftfs.namespace.changes import Changes, set_entry
from swiftfs.namespace.details import Details
from swiftfs.namespace.entry import (
    Defaults,
    Entry,
    container_entry,
    entries_of,
    folder_inode,
    is_slash_marker,
    with_details,
)
from swiftfs.naming import Folder, Source, escape, plain_marker, slash_marker, split
from swiftfs.store.protocol import ObjectStore

SEGMENTS_SUFFIX = "_segments"


@dataclass(slots=True)
class Listing:
    """A folder as last listed, with our changes on it.

    `marked` says that the object `d/` was seen in it; `unasked` are names worth a HEAD, in listing order.
    """

    entries: dict[str, Entry]
    marked: bool = False
    unasked: OrderedDict[str, None] = field(default_factory=OrderedDict)


class Namespace:
    """What exists below the mount point, by paths that begin there. Every method may raise `StoreError`.

    The lock guards the cache, the changes and the flights; it is never held across a request.
    """

    def __init__(
        self, store: ObjectStore, source: Source, defaults: Defaults, *, ttl: float, max_entries: int
    ) -> None:
        self._store = store
        self._source = source
        self._defaults = defaults
        self._details = Details(store)
        self._root = Entry("", None, defaults.directory(folder_inode(source.folder("/"))))
        self._lock = threading.Lock()
        self._listings: TTLCache[Folder, Listing] = TTLCache(
            max_entries, ttl, getsizeof=lambda listing: len(listing.entries) + 1
        )
        self._flights: dict[Folder, Future[Listing]] = {}
        self._changes = Changes()

    def close(self) -> None:
        """End the threads."""
        self._details.close()

    def load_root(self) -> None:
        """Ask Swift for the mount's root; raise `NotFound` when its container does not exist."""
        folder = self._source.folder("/")
        if not folder.container:
            self._store.account_usage()
            return
        usage = self._store.container_usage(folder.container)
        stored, marker = decode_metadata(usage.metadata), None
        if folder.prefix:
            marker = plain_marker(folder) or slash_marker(folder)
            try:
                stored = decode_metadata(self._store.head(marker).metadata)
            except NotFound:
                stored, marker = Stored(), None
        attributes = self._defaults.apply(self._root.attributes, stored)
        self._root = replace(self._root, object=marker, attributes=attributes)

    def lookup(self, path: str, *, complete: bool = True) -> Entry:
        """Return what `path` is; raise `OSError` ENOENT when it does not exist.

        With `complete` its attributes are all known, if need be by a HEAD.
        """
        if path == "/":
            return self._root
        parent, name = split(path)
        listing = self._listing(self._source.folder(parent))
        entry = listing.entries.get(name)
        if complete and entry is not None and not entry.asked:
            entry = self._complete(listing, entry)
        if entry is None:
            raise os_error(errno.ENOENT, path)
        return entry

    def find(self, path: str) -> Entry | None:
        """Return what `path` is as its folder's listing knows it, or None when it does not exist."""
        try:
            return self.lookup(path, complete=False)
        except FileNotFoundError:
            return None

    def children(self, path: str) -> list[Entry]:
        """Return the entries of the folder at `path`, attributes as the listing knows them."""
        return list(self._listing(self._source.folder(path)).entries.values())

    def is_implied(self, path: str) -> bool:
        """Say whether the folder at `path` has no marker: without children it would cease to exist."""
        folder = self._source.folder(path)
        if not folder.prefix or folder.prefix == self._source.prefix:
            return False
        return self.lookup(path, complete=False).object is None and not self._listing(folder).marked

    def is_marked_inside(self, path: str) -> bool:
        """Say whether the folder at `path` has the marker `d/`."""
        return self._listing(self._source.folder(path)).marked

    def record(self, path: str, entry: Entry | None) -> None:
        """Lay our own change over the listing: `path` is now `entry`, or gone."""
        if path == "/":
            assert entry is not None
            self._root = entry
            return
        parent, name = split(path)
        folder = self._source.folder(parent)
        with self._lock:
            self._changes.record(folder, name, entry)
            if (listing := self._listings.get(folder)) is not None:
                set_entry(listing.entries, name, entry)

    def record_new_folder(self, path: str, entry: Entry) -> None:
        """Record a folder we made; being new it is known to be empty, which saves its listing.

        Its marker `d/`, if it has that one, is known from `entry`.
        """
        self.record(path, entry)
        with self._lock:
            folder = self._source.folder(path)
            marked = entry.object is not None and entry.object.key == folder.prefix
            self._listings[folder] = Listing({}, marked)

    def forget(self, path: str) -> None:
        """Forget the listing that holds `path` and all below it: Swift is asked again."""
        with self._lock:
            self._listings.pop(self._source.folder(split(path)[0]), None)
            self._drop_listings(self._source.folder(path))

    def forget_all(self) -> None:
        """Forget every listing; our own changes stay."""
        with self._lock:
            self._listings.clear()

    def drop_below(self, path: str) -> None:
        """Forget all that is known below the folder at `path`, our own changes included: it moved or went."""
        folder = self._source.folder(path)
        with self._lock:
            self._changes.forget_below(folder)
            self._drop_listings(folder)

    def _drop_listings(self, folder: Folder) -> None:
        for other in [other for other in self._listings if other.is_below(folder)]:
            self._listings.pop(other, None)

    def _listing(self, folder: Folder) -> Listing:
        with self._lock:
            listing = self._listings.get(folder)
            if listing is not None:
                return listing
            flight = self._flights.get(folder)
            leads = flight is None
            if flight is None:
                flight = self._flights[folder] = Future()
        if not leads:
            return flight.result()
        try:
            listing = self._fetch(folder)
        except BaseException as error:
            with self._lock:
                del self._flights[folder]
            flight.set_exception(error)
            raise
        flight.set_result(listing)
        return listing

    def _fetch(self, folder: Folder) -> Listing:
        begun = time.monotonic()
        listing = self._objects(folder) if folder.container else self._containers()
        with self._lock:
            doubtful = self._changes.overlay(folder, dict(listing.entries), begun)
        refuted = [name for name, listed in doubtful.items() if not self._stands(folder, name, listed)]
        with self._lock:
            for name in refuted:
                self._changes.forget(folder, name)
            self._changes.overlay(folder, listing.entries, begun)
            del self._flights[folder]
            with suppress(ValueError):  # a folder larger than the whole cache is not kept
                self._listings[folder] = listing
        return listing

    def _stands(self, folder: Folder, name: str, listed: Entry | None) -> bool:
        """Ask Swift whether our change of `name` is still the newest, since the listing does not show it."""
        change = self._changes.of(folder).get(name)
        if change is None:
            return True
        seen = change.entry or listed
        if seen is None or seen.object is None:
            return True
        try:
            info = self._store.head(seen.object)
        except NotFound:
            return change.entry is None
        return change.entry is not None and change.entry.etag in ("", info.version.etag)

    def _objects(self, folder: Folder) -> Listing:
        rows: list[Row] = []
        subdirs: list[str] = []
        for page in self._pages(folder):
            rows.extend(page.rows)
            subdirs.extend(page.subdirs)
        entries = {}
        for entry in entries_of(folder, rows, subdirs, self._defaults):
            known = None if entry.asked else self._details.recall(entry)
            entries[entry.name] = entry if known is None else with_details(entry, known, self._defaults)
        marked = any(row.key == folder.prefix and is_slash_marker(row) for row in rows)
        unasked = OrderedDict((entry.name, None) for entry in entries.values() if not entry.asked)
        return Listing(entries, marked, unasked)

    def _pages(self, folder: Folder) -> Iterator[Page]:
        marker = ""
        while True:
            page = self._store.list_page(folder.container, prefix=folder.prefix, delimiter="/", marker=marker)
            yield page
            if page.last:
                return
            marker = page.marker

    def _containers(self) -> Listing:
        entries: dict[str, Entry] = {}
        marker = ""
        while True:
            page = self._store.list_containers(marker=marker)
            for container in page.subdirs:
                if not container.endswith(SEGMENTS_SUFFIX):
                    name = escape(container)
                    entries[name] = container_entry(name, Folder(container, ""), self._defaults)
            if page.last:
                return Listing(entries)
            marker = page.marker

    def _complete(self, listing: Listing, entry: Entry) -> Entry | None:
        """Ask for what the listing did not say of `entry`, and ahead of being asked for its next siblings."""
        wanted = self._ask(listing, entry)
        with self._lock:
            count = min(self._details.room(), len(listing.unasked))
            ahead = [listing.entries.get(listing.unasked.popitem(last=False)[0]) for _ in range(count)]
        for sibling in ahead:
            if sibling is not None and not sibling.asked:
                self._ask(listing, sibling)
        return self._answered(entry, wanted)

    def _ask(self, listing: Listing, entry: Entry) -> Future[ObjectInfo]:
        def settle(answer: Future[ObjectInfo]) -> None:
            if answer.cancelled() or not isinstance(answer.exception(), NotFound | None):
                return
            completed = self._answered(entry, answer)
            with self._lock:
                if listing.entries.get(entry.name) is entry:
                    set_entry(listing.entries, entry.name, completed)

        flight = self._details.ask(entry)
        flight.add_done_callback(settle)
        return flight

    def _answered(self, entry: Entry, answer: Future[ObjectInfo]) -> Entry | None:
        """Return the entry with the answer in it; None when the object is gone."""
        try:
            return with_details(entry, answer.result(), self._defaults)
        except NotFound:
            return replace(entry, object=None, asked=True) if entry.is_directory else None
