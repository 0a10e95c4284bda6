"""Listings in memory: a folder's entries, those of a huge folder packed page by page."""

import pickle
import zlib
from bisect import bisect_left
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass

from swiftfs.model import Page, Row
from swiftfs.namespace.entry import Defaults, Entry, entries_of, is_slash_marker
from swiftfs.naming import Folder, unescape

EXPANDED = 4
"""Pages of a huge folder that are unpacked at once: readers go through it more or less in order."""

PACKED_WEIGHT = 16
"""A packed row takes about this fraction of an entry's memory: some 40 bytes against 700."""

Unasked = OrderedDict[tuple[Folder, str], None]
"""Names that a HEAD would tell more of, in the order of the listing that showed them."""


class Unlisted(Exception):
    """The name lies in the part of a huge folder that was not listed."""


@dataclass(slots=True)
class _Page:
    """The rows that are decided once the listing has reached `end`; `entries` while they are unpacked."""

    end: str
    packed: bytes
    entries: dict[str, Entry] | None = None


class Listing:
    """The entries of a folder as Swift listed them, and over them what is known better.

    `marked` says that the object `d/` was seen in it; `seconds` is how long listing it took. A listing that
    is not `complete` knows the names before `end` and raises `Unlisted` for others. Not locked: the
    namespace's lock guards it.
    """

    def __init__(self, folder: Folder, defaults: Defaults) -> None:
        self.folder = folder
        self.complete = False
        self.marked = False
        self.end = ""
        self.seconds = 0.0
        self.unasked: Unasked = OrderedDict()
        self._defaults = defaults
        self._entries: dict[str, Entry] = {}
        self._pages: list[_Page] = []
        self._expanded: deque[_Page] = deque()
        self._rows = 0
        self._carried: list[Row] = []
        self._better: dict[str, Entry | None] = {}

    @property
    def weight(self) -> int:
        """The memory it takes, in entries."""
        return 1 + len(self._entries) + self._rows // PACKED_WEIGHT + len(self._better)

    def add_page(self, page: Page) -> list[Entry]:
        """Take the next page of the folder's listing; return the entries that it decides.

        A row `a` waits for the page that would show the folder `a/`: until then it may be a second name.
        """
        rows = self._carried + list(page.rows)
        prefix = self.folder.prefix
        self.marked = self.marked or any(row.key == prefix and is_slash_marker(row) for row in page.rows)
        self.complete, self.end = page.last, page.marker
        decided = [row for row in rows if page.last or row.key + "/" <= page.marker]
        self._carried = [row for row in rows if not page.last and row.key + "/" > page.marker]
        entries = list(entries_of(self.folder, decided, page.subdirs, self._defaults))
        if page.last and not self._pages:
            self._entries = {entry.name: entry for entry in entries}
            self._note_unasked(self._entries)
        else:
            packed = zlib.compress(pickle.dumps((decided, page.subdirs), pickle.HIGHEST_PROTOCOL), 1)
            self._pages.append(_Page(self.end, packed))
            self._rows += len(entries)
        return entries

    def get(self, name: str) -> Entry | None:
        """Return the entry of that name, None when there is none; raise `Unlisted` when it cannot be told."""
        if not self._pages:
            return self._entries.get(name)
        if name in self._better:
            return self._better[name]
        component, _ = unescape(name)
        decisive = self.folder.prefix + component + "/"
        index = bisect_left(self._pages, decisive, key=lambda page: page.end)
        if index == len(self._pages):
            if not self.complete:
                raise Unlisted
            index -= 1
        return self._expand(self._pages[index]).get(name)

    def update(self, name: str, entry: Entry | None) -> None:
        """Make `entry` what `name` is, None for nothing, whatever Swift listed."""
        if self._pages:
            self._better[name] = entry
        else:
            set_entry(self._entries, name, entry)

    def refine(self, entry: Entry, better: Entry | None) -> None:
        """Replace `entry` by what a HEAD told, unless it has changed meanwhile."""
        if self._better.get(entry.name) is entry:
            self._better[entry.name] = better
            return
        for entries in (self._entries, *(page.entries for page in self._expanded)):
            if entries is not None and entries.get(entry.name) is entry:
                set_entry(entries, entry.name, better)
                return

    def chunks(self) -> Iterator[list[Entry]]:
        """Yield the entries known so far, a page at a time."""
        if not self._pages:
            yield list(self._entries.values())
            return
        for page in self._pages:
            yield [entry for entry in self._expand(page).values() if entry.name not in self._better]
        yield [entry for entry in self._better.values() if entry is not None]

    def _expand(self, page: _Page) -> dict[str, Entry]:
        if page.entries is None:
            rows, subdirs = pickle.loads(zlib.decompress(page.packed))
            decided = entries_of(self.folder, rows, subdirs, self._defaults)
            page.entries = {entry.name: entry for entry in decided}
            self._expanded.append(page)
            if len(self._expanded) > EXPANDED:
                self._expanded.popleft().entries = None
            self.unasked.clear()
            self._note_unasked(page.entries)
        return page.entries

    def _note_unasked(self, entries: dict[str, Entry]) -> None:
        for entry in entries.values():
            if not entry.asked:
                self.unasked[self.folder, entry.name] = None


def set_entry(entries: dict[str, Entry], name: str, entry: Entry | None) -> None:
    """Make `entry` what `name` is, None for nothing."""
    if entry is None:
        entries.pop(name, None)
    else:
        entries[name] = entry


def listings_in(
    page: Page, folder: Folder, root: Folder, marker: str, defaults: Defaults
) -> dict[Folder, Listing]:
    """Return the folders that a page of a flat listing of `root` after `marker` shows from end to end.

    `folder` is one of them if the page reaches behind it, even when nothing is in it. They share one queue of
    unasked names, for a walk goes from one to the next.
    """
    rows: dict[str, list[Row]] = {}
    subdirs: dict[str, dict[str, None]] = {}
    for row in page.rows:
        prefix = row.key[: row.key.rfind("/") + 1]
        if prefix not in rows:
            rows[prefix] = []
            _add_ancestors(prefix, root.prefix, subdirs)
        rows[prefix].append(row)
    unasked: Unasked = OrderedDict()
    listings = {}
    for prefix in dict.fromkeys([folder.prefix, *rows, *subdirs]):
        ends = page.last or (page.marker > prefix and not page.marker.startswith(prefix))
        if prefix <= marker or not ends:
            continue
        listing = Listing(Folder(root.container, prefix), defaults)
        listing.add_page(Page(tuple(rows.get(prefix, ())), tuple(subdirs.get(prefix, ())), "", True))
        unasked.update(listing.unasked)
        listing.unasked = unasked
        listings[listing.folder] = listing
    return listings


def _add_ancestors(prefix: str, root: str, subdirs: dict[str, dict[str, None]]) -> None:
    while len(prefix) > len(root):
        parent = prefix[: prefix[:-1].rfind("/") + 1]
        known = subdirs.setdefault(parent, {})
        if prefix in known:
            return
        known[prefix] = None
        prefix = parent
