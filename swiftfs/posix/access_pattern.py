"""Who reads file after file, in which order, and what they will open next.

Programs go through a folder in one of few orders: as `readdir` gave the names (`find`, `tar`, `grep -r`),
sorted (shells, `rsync`), or by inode (`cp -r`); some take the files of a folder before its subfolders.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from cachetools import LRUCache

from swiftfs.concurrency import monotonic
from swiftfs.namespace.entry import Entry
from swiftfs.paths import is_below, join, split

CERTAIN = 3
"""Files opened in order that make a reader: two neighbours may be chance."""

GAIN = 2
"""Files that are expected for each that was opened in order: so much is wasted at most on who stops."""

SIGHT = 200
"""Names that are looked at to find a reader's next files: the folders between may be many and empty."""

READERS = 4
"""Readers that are followed at once."""

CANDIDATES = 2
"""Opened files that may prove to be a reader's first: with more, chance finds one among random opens."""

SLACK = 8
"""How many files a reader with several threads opens too early; one with a thread may leave out as many."""

FRESH_SECONDS = 1.0
"""How long a folder's order is not made anew, whatever comes to be in it: sorting costs milliseconds."""

REMEMBERED_NAMES = 20_000
"""Names whose orders are remembered, of all folders together: some 10 MB."""

Known = Callable[[str, str], Iterable[Entry] | None]
"""Returns the entries of a folder that are in memory, in a huge one from about a name on; None for none."""

Order = Callable[[list[Entry]], list[Entry]]

ORDERS: tuple[Order, ...] = (
    lambda entries: entries,
    lambda entries: sorted(entries, key=lambda entry: entry.name),
    lambda entries: sorted(entries, key=lambda entry: entry.name.casefold()),
    lambda entries: sorted(entries, key=lambda entry: entry.attributes.inode),
    lambda entries: sorted(entries, key=lambda entry: entry.is_directory),
    lambda entries: sorted(entries, key=lambda entry: (entry.is_directory, entry.name)),
)


class Names:
    """The names of one folder in each order, sorted when first asked for; `made` is in monotonic seconds."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.made = monotonic()
        self._entries = list(entries)
        self._names = {entry.name for entry in self._entries}
        self._sorted: dict[Order, tuple[list[Entry], dict[str, int]]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def __len__(self) -> int:
        return len(self._entries)

    def after(self, order: Order, name: str) -> Iterator[Entry]:
        """Yield what follows `name`, which must be one of them, or empty for all."""
        if order not in self._sorted:
            entries = order(self._entries)
            self._sorted[order] = entries, {entry.name: index for index, entry in enumerate(entries)}
        entries, index = self._sorted[order]
        return map(entries.__getitem__, range(index[name] + 1 if name else 0, len(entries)))


class FileOrder:
    """The orders of the files in a tree, as far as its folders are in memory. Not locked."""

    def __init__(self, known: Known) -> None:
        self._known = known
        # A folder of more names is remembered alone.
        self._folders: LRUCache[str, Names] = LRUCache(
            REMEMBERED_NAMES, getsizeof=lambda names: min(1 + len(names), REMEMBERED_NAMES)
        )

    def after(self, order: Order, path: str, top: str) -> Iterator[tuple[str, Entry]]:
        """Yield the files that follow the one at `path` below the folder `top`, up to an unknown folder."""
        sight = iter(range(SIGHT))
        folder, name = split(path)
        while is_below(folder, top):
            known = yield from self._below(order, folder, name, sight)
            if not known or folder == "/":
                return
            folder, name = split(folder)

    def _below(
        self, order: Order, folder: str, name: str, sight: Iterator[int]
    ) -> Generator[tuple[str, Entry], None, bool]:
        """Yield the files of a folder after `name`; return whether that were all."""
        names = self._names(folder, name)
        if names is None:
            return False
        for entry in names.after(order, name):
            if next(sight, None) is None:
                return False
            path = join(folder, entry.name)
            if not entry.is_directory:
                yield path, entry
            elif not (yield from self._below(order, path, "", sight)):
                return False
        return True

    def _names(self, folder: str, name: str) -> Names | None:
        names = self._folders.get(folder)
        if names is None or (name and name not in names and monotonic() > names.made + FRESH_SECONDS):
            entries = self._known(folder, name)
            if entries is None:
                return None
            names = self._folders[folder] = Names(entries)
        return names if not name or name in names else None


@dataclass(slots=True, eq=False)
class Reader:
    """Someone who has opened `steps` files in order, the last at `path`.

    `orders` are those that fit, `top` is the folder they were seen to go through. `expected` are the paths
    that they will open next, as far as it is worth to look ahead; `decided` is its user's own mark on those.
    """

    path: str
    top: str
    orders: tuple[Order, ...] = ORDERS
    steps: int = 1
    expected: list[str] = field(default_factory=list)
    decided: set[str] = field(default_factory=set)


class Readers:
    """Follows readers by the files they open, and looks ahead at most `window` files. Not locked."""

    def __init__(self, known: Known, window: int) -> None:
        self._files = FileOrder(known)
        self._window = window
        self._readers: deque[Reader] = deque(maxlen=READERS)
        self._candidates: deque[Reader] = deque(maxlen=CANDIDATES)

    def opened(self, path: str) -> Reader | None:
        """Take note that a file was opened to be read; return the reader whose next file it was."""
        if not self._window:
            return None
        for readers in (self._readers, self._candidates):
            for reader in readers:
                if path == reader.path:
                    return None
                if self._follow(reader, path):
                    readers.remove(reader)
                    return self._keep(reader)
        self._candidates.appendleft(Reader(path, split(path)[0]))
        return None

    def _keep(self, reader: Reader) -> Reader:
        if reader.steps < CERTAIN:
            self._candidates.appendleft(reader)
            return reader
        self._readers.appendleft(reader)
        ahead = self._files.after(reader.orders[0], reader.path, reader.top)
        reader.expected = [path for path, _ in islice(ahead, min(GAIN * reader.steps, self._window))]
        reader.decided.intersection_update(reader.expected)
        return reader

    def _follow(self, reader: Reader, path: str) -> bool:
        """Say whether the file is the reader's next, and if so move the reader there."""
        folder = split(path)[0]
        if fitting := tuple(order for order in reader.orders if self._is_next(order, reader.path, path)):
            reader.orders = fitting
            reader.top = _common_folder(reader.top, folder)
        elif fitting := tuple(order for order in reader.orders if self._begins(order, reader.path, path)):
            reader.orders, reader.top = fitting, folder
        elif path in reader.expected[:SLACK]:
            reader.steps = max(CERTAIN, reader.steps // 2)
        else:
            return False
        reader.path = path
        reader.steps += 1
        return True

    def _is_next(self, order: Order, before: str, path: str) -> bool:
        return _is_first(path, self._files.after(order, before, "/"))

    def _begins(self, order: Order, before: str, path: str) -> bool:
        """Say whether a folder was read to its end, and `path` is the first file of another."""
        folder, done = split(path)[0], split(before)[0]
        if is_below(folder, done) or any(
            _is_read(entry) for _, entry in self._files.after(order, before, done)
        ):
            return False
        return _is_first(path, self._files.after(order, join(folder, ""), folder))


def _is_first(path: str, files: Iterable[tuple[str, Entry]]) -> bool:
    """Say whether `path` comes first among the files that everybody opens."""
    for other, entry in files:
        if other == path:
            return True
        if _is_read(entry):
            return False
    return False


def _is_read(entry: Entry) -> bool:
    """Say whether there is something to read; not everybody opens an empty file, and nobody a link."""
    return entry.attributes.size > 0 and not entry.attributes.is_symlink


def _common_folder(one: str, other: str) -> str:
    while not is_below(other, one):
        one = split(one)[0]
    return one
