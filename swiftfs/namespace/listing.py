"""Listings in memory: a folder's entries. Those of a huge folder are packed in small blocks."""

import json
import sys
import zlib
from bisect import bisect_left, bisect_right
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import NamedTuple, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from swiftfs.namespace.entry import Defaults, Entry, Shown, entries_of, is_slash_marker, unpacked
from swiftfs.objects import Page, Row
from swiftfs.paths import Folder, is_second, unescape

BLOCK = 32
"""Names that are unpacked together. Few, because `find` and `rm` look names up by inode number, which is a
random order here."""

CHUNK_BLOCKS = 4
"""Blocks that `chunks` yields together: about as many names as readdir(2) reads at a time."""

EXPANDED = 1000
"""Blocks of a huge folder that stay unpacked."""

EXPANDED_BYTES = 32 * 1024**2
"""The most that the texts in these take: a name may have 1 KiB."""

PACKED_BYTES = 64 * 1024**2
"""The most that the packed rows of all huge folders take: a million with names of 100 bytes have 60 MB. What
is listed after them is not kept, and looked up name by name."""

BLOCK_BYTES = 200
"""What a block takes besides its texts."""

ENTRY_BYTES = 500
"""How much text an entry of weight 1 has: a name of 100 bytes, twice, a hash, a time, and our attributes."""

NEAR = 32
"""Blocks that `near` unpacks: enough for a reader for a while."""

PACKED_WEIGHT = 16
"""How many packed rows take the memory of one entry: about 40 bytes each against 700."""

PACKED_ENTRY_BYTES = 700
"""How many packed bytes weigh as much as an entry."""

MOST_FOLDERS = 20_000
"""The most folders of a flat page. One row can have a name of 500 folders, a page of such rows millions."""

HeadQueue = OrderedDict[tuple[Folder, str], None]
"""Names whose entries need a HEAD, in the order of the listing."""


class Unlisted(Exception):
    """The name is in the part of a huge folder that was not listed yet."""


_Any = TypeVar("_Any", bound=Shown)


class PackedBlock(NamedTuple):
    """A part of a huge folder: its last name, its packed rows, and how many bytes their texts take."""

    end: str
    packed: bytes
    text: int


class _Block(Struct):
    """Rows and subdirs of `text` bytes up to the name `end` (with its `/`); `entries` while unpacked."""

    end: str
    packed: bytes
    text: int
    entries: dict[str, Entry] | None = None


class Listing:
    """The entries of a folder as Swift listed them, and newer knowledge of some of them.

    `marked` is True when the object `d/` is in it. Listing it took `seconds`; `begun` and `expires` are on
    the monotonic clock. `was_read` is True when a call has read the whole folder; `packed` is how many bytes
    the blocks of a huge one take. A listing that is not `complete` has the names before `end`, and raises
    `Unlisted` for others. A walk has come as far as the folder `walked_to`. Not locked: the namespace's lock
    guards it.
    """

    def __init__(self, folder: Folder, defaults: Defaults) -> None:
        self.folder = folder
        self.complete = False
        self.marked = False
        self.end = ""
        self.seconds = 0.0
        self.begun = 0.0
        self.expires = 0.0
        self.walked_to = ""
        self.was_read = False
        self.packed = 0
        self.head_queue: HeadQueue = OrderedDict()
        self._defaults = defaults
        self._entries: dict[str, Shown] = {}
        self._huge = False
        self._blocks: list[_Block] = []
        self._expanded: deque[_Block] = deque()
        self._expanded_bytes = 0
        self._rows = 0
        self._text = 0
        self._is_cut = False
        self._undecided: list[Row] = []
        self._overrides: dict[str, Shown | None] = {}
        self._second_names: set[str] = set()

    @property
    def weight(self) -> int:
        """The memory it takes, in entries with texts of usual length."""
        entries = max(len(self._entries), self._text // ENTRY_BYTES)
        packed = max(self._rows // PACKED_WEIGHT, self.packed // PACKED_ENTRY_BYTES)
        return 1 + entries + packed + len(self._overrides)

    def add_page(self, page: Page, *, is_kept: bool = True) -> list[Entry]:
        """Add the next page of the folder's listing; return the entries that are certain now.

        A file `a` is not certain before the page that would show a folder `a/`: then it has another name.
        From the first page that is not kept on, none is.
        """
        rows = self._undecided + list(page.rows)
        prefix = self.folder.prefix
        self.marked = self.marked or any(row.key == prefix and is_slash_marker(row) for row in page.rows)
        self.seconds += page.seconds
        is_kept = is_kept and not self._is_cut and self.packed < PACKED_BYTES
        self._is_cut = not is_kept
        if is_kept:
            self.complete, self.end = page.last, page.marker
        # `a` sorts before `a/`, with names such as `a.txt` between them, so they may be on different pages.
        decided = [row for row in rows if page.last or row.key + "/" <= page.marker]
        self._undecided = [row for row in rows if not page.last and row.key + "/" > page.marker]
        entries = list(entries_of(self.folder, decided, page.subdirs, self._defaults))
        if page.last and not self._huge:
            self._entries = {entry.name: entry for entry in entries}
            self._text = sys.getsizeof(self.folder.prefix) + _text_of(decided, page.subdirs)
            self._queue_heads(entries)
        elif is_kept:
            self._huge = True
            self._second_names.update(name for entry in entries if is_second(name := entry.name))
            # Packed at once: as entries 120,000 names would take 80 MB.
            blocks = list(_blocks_of(decided, page.subdirs))
            self._blocks += blocks
            self.packed += sum(map(_size_of, blocks))
            self._rows += len(entries)
        return entries

    def continuable(self) -> "Listing":
        """Return another listing that begins like this one, as Swift listed it, to add the rest of the pages.

        One whose pages are not all kept begins with none. Then `end` is empty, and `begun` is to be set.
        """
        other = Listing(self.folder, self._defaults)
        if self.complete or self._is_cut:
            return other
        other.marked, other.end, other.seconds, other.begun = self.marked, self.end, self.seconds, self.begun
        other.packed, other._rows, other._huge = self.packed, self._rows, self._huge
        other._second_names = set(self._second_names)
        other._blocks = [replace(block, entries=None) for block in self._blocks]
        other._undecided = list(self._undecided)
        return other

    @property
    def is_huge(self) -> bool:
        """Whether it is packed in blocks."""
        return self._huge

    def packed_blocks(self) -> list[PackedBlock]:
        """Return the blocks of a huge folder, as Swift listed it."""
        return [PackedBlock(block.end, block.packed, block.text) for block in self._blocks]

    def restore_blocks(self, blocks: Iterable[PackedBlock], *, marked: bool) -> None:
        """Make the new listing that of a huge folder with the `packed_blocks` of an earlier one."""
        self._huge = self.complete = True
        self.marked = marked
        # Not unpacked: a million names would take seconds.
        self._blocks = [_Block(*block) for block in blocks]
        self._rows = BLOCK * len(self._blocks)
        self.packed = sum(map(_size_of, self._blocks))

    def rows(self) -> Iterator[list[Entry]]:
        """Yield the entries of a huge folder as Swift listed them, some at a time, and keep none unpacked."""
        for start in range(0, len(self._blocks), CHUNK_BLOCKS):
            blocks = self._blocks[start : start + CHUNK_BLOCKS]
            yield [entry for block in blocks for entry in self._unpack(block).values()]

    def get(self, name: str) -> Entry | None:
        """Return the entry of that name, None if there is none; raise `Unlisted` if that is unknown."""
        return unpacked(self._get(name))

    def _get(self, name: str) -> Shown | None:
        if not self._huge:
            return self._entries.get(name)
        if name in self._overrides:
            return self._overrides[name]
        decisive, index = self._place_of(name)
        if index < len(self._blocks):
            return self._expand(self._blocks[index]).get(name)
        if not self.complete and decisive > self.end:
            raise Unlisted
        return None

    def lacks_folder(self, name: str) -> bool:
        """Return whether there is no folder of this name; False in the part that was not listed yet."""
        try:
            shown = self._get(name)
        except Unlisted:
            return False
        return shown is None or not shown.is_directory

    def may_have_beside(self, name: str) -> bool:
        """Return whether a file may be known by a name like `a%file`. Cheap, as nearly none is."""
        return name in (self._second_names if self._huge else self._entries)

    def near(self, name: str) -> list[Entry]:
        """Return the folder's entries; of a huge folder only some, beginning near `name`."""
        if not self._huge:
            return list(_unpacked(self._entries.values()))
        start = self._place_of(name)[1]
        # Not kept unpacked: they would push out the blocks that lookups use.
        blocks = [self._unpack(block) for block in self._blocks[start : start + NEAR]]
        return [
            unpacked(self._overrides.get(name)) or entry for block in blocks for name, entry in block.items()
        ]

    def known(self, name: str) -> Entry | None:
        """Return the entry of that name, None if there is none or if that is unknown."""
        try:
            return self.get(name)
        except Unlisted:
            return None

    def update(self, name: str, entry: Shown | None) -> None:
        """Set the entry of `name`, None for nothing, instead of what Swift listed."""
        if self._huge:
            self._overrides[name] = entry
        else:
            set_entry(self._entries, name, entry)

    def refine(self, entry: Entry, better: Entry | None) -> None:
        """Replace `entry` by the result of a HEAD, unless the name was changed meanwhile."""
        # By identity: an entry that was changed after the HEAD was sent is newer than its answer.
        if unpacked(self._overrides.get(entry.name)) is entry:
            self._overrides[entry.name] = better
            return
        if unpacked(self._entries.get(entry.name)) is entry:
            set_entry(self._entries, entry.name, better)
            return
        for block in self._expanded:
            if block.entries is not None and block.entries.get(entry.name) is entry:
                set_entry(block.entries, entry.name, better)
                return

    def chunks(self) -> Iterator[list[Entry]]:
        """Yield the entries that are known, some at a time: as they are when the first ones are wanted."""
        if not self._huge:
            yield list(_unpacked(self._entries.values()))
            return
        # What is changed from now on comes as it was, and not again among the changes.
        overrides = dict(self._overrides)
        for start in range(0, len(self._blocks), CHUNK_BLOCKS):
            blocks = self._blocks[start : start + CHUNK_BLOCKS]
            entries = [entry for block in blocks for entry in self._expand(block).values()]
            yield [entry for entry in entries if entry.name not in overrides]
        yield list(_unpacked(overrides.values()))

    def entries(self) -> Iterator[Entry]:
        """Yield the entries that are known, as `chunks` does."""
        return chain.from_iterable(self.chunks())

    def _place_of(self, name: str) -> tuple[str, int]:
        """Return the key of a folder of that name, and the index of the block that may have the name."""
        component, _ = unescape(name)
        decisive = self.folder.prefix + component + "/"
        return decisive, bisect_left(self._blocks, decisive, key=lambda block: block.end)

    def _unpack(self, block: _Block) -> dict[str, Entry]:
        if block.entries is not None:
            return block.entries
        decided = entries_of(self.folder, *unpack(block.packed), self._defaults)
        return {entry.name: entry for entry in decided}

    def _expand(self, block: _Block) -> dict[str, Entry]:
        if block.entries is not None:
            return block.entries
        entries = block.entries = self._unpack(block)
        self._expanded.append(block)
        self._expanded_bytes += block.text
        while len(self._expanded) > EXPANDED or self._expanded_bytes > EXPANDED_BYTES:
            oldest = self._expanded.popleft()
            self._expanded_bytes -= oldest.text
            oldest.entries = None
        # HEADs are sent ahead only within the block that was used last.
        self.head_queue.clear()
        self._queue_heads(entries.values())
        return entries

    def _queue_heads(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            if not entry.complete:
                self.head_queue[self.folder, entry.name] = None


def _blocks_of(rows: Iterable[Row], subdirs: Iterable[str]) -> Iterator[_Block]:
    """Yield a page in blocks, ordered by names as folders: a file `a` and a folder `a/` share one."""
    rows = sorted(rows, key=_as_folder)
    subdirs = sorted(subdirs)
    names = sorted({*map(_as_folder, rows), *subdirs})
    for start in range(0, len(names), BLOCK):
        end = names[start : start + BLOCK][-1]
        low, high = bisect_left(rows, names[start], key=_as_folder), bisect_right(rows, end, key=_as_folder)
        below = subdirs[bisect_left(subdirs, names[start]) : bisect_right(subdirs, end)]
        yield _Block(end, pack(rows[low:high], below), _text_of(rows[low:high], below))


def pack(rows: Iterable[Row], subdirs: Iterable[str]) -> bytes:
    """Return a part of a listing in few bytes."""
    # Faster than pickle, which calls a method of each row; and a file may hold it.
    values = [(one.key, one.size, one.hash, one.content_type, one.last_modified) for one in rows]
    return zlib.compress(json.dumps([values, list(subdirs)], separators=(",", ":")).encode(), 1)


def unpack(packed: bytes) -> tuple[list[Row], list[str]]:
    """Return the rows and subdirs of `pack`."""
    values, subdirs = json.loads(zlib.decompress(packed))
    return [Row(*one) for one in values], subdirs


def _size_of(block: _Block) -> int:
    return BLOCK_BYTES + sys.getsizeof(block.end) + len(block.packed)


def _text_of(rows: Iterable[Row], subdirs: Iterable[str]) -> int:
    """Return how many bytes the texts of entries take: they have each name twice."""
    texts = [text for row in rows for text in (row.key, row.key, row.hash, row.content_type)]
    return sum(map(sys.getsizeof, texts)) + 2 * sum(map(sys.getsizeof, subdirs))


def _as_folder(row: Row) -> str:
    return row.key + "/"


def _unpacked(entries: Iterable[Shown | None]) -> Iterator[Entry]:
    return (entry for entry in map(unpacked, entries) if entry is not None)


def set_entry(entries: dict[str, _Any], name: str, entry: _Any | None) -> None:
    """Set the entry of `name`, None for nothing."""
    if entry is None:
        entries.pop(name, None)
    else:
        entries[name] = entry


def listings_of(parts: Mapping[Folder, Page], defaults: Defaults) -> dict[Folder, Listing]:
    """Return listings of a page each; they share one `head_queue`, as a walk goes from one to the next."""
    head_queue: HeadQueue = OrderedDict()
    listings = {}
    for folder, part in parts.items():
        listing = listings[folder] = Listing(folder, defaults)
        listing.add_page(part)
        head_queue.update(listing.head_queue)
        listing.head_queue = head_queue
    return listings


def parts_of(page: Page, folder: Folder, root: Folder, marker: str) -> dict[Folder, Page]:
    """Return the folders that a page of a flat listing of `root` after `marker` shows completely.

    There are none if the page has more than `MOST_FOLDERS`. `folder` is one of them if the page reaches past
    it, even if it is empty.
    """
    rows: dict[str, list[Row]] = {}
    subdirs: dict[str, dict[str, None]] = {}
    for row in page.rows:
        prefix = row.key[: row.key.rfind("/") + 1]
        if prefix not in rows:
            rows[prefix] = []
            _add_ancestors(prefix, root.prefix, subdirs)
            if len(subdirs) > MOST_FOLDERS:
                return {}
        rows[prefix].append(row)
    parts = {}
    for prefix in dict.fromkeys([folder.prefix, *rows, *subdirs]):
        # Of a folder in which the page ends only a part was shown, and before `marker` the page says nothing.
        ends = page.last or (page.marker > prefix and not page.marker.startswith(prefix))
        if prefix <= marker or not ends:
            continue
        parts[Folder(root.container, prefix)] = Page(
            tuple(rows.get(prefix, ())), tuple(subdirs.get(prefix, ())), "", True, seconds=page.seconds
        )
    return parts


def _add_ancestors(prefix: str, root: str, subdirs: dict[str, dict[str, None]]) -> None:
    while len(prefix) > len(root):
        parent = prefix[: prefix[:-1].rfind("/") + 1]
        known = subdirs.setdefault(parent, {})
        # Its ancestors are known too.
        if prefix in known:
            return
        known[prefix] = None
        prefix = parent
