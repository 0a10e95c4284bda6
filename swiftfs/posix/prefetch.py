"""Prefetch: small files are downloaded before a program that goes through a folder opens them.

Programs do that in one of a few orders: as `readdir` returned the names (`find`, `tar`, `grep -r`), sorted
(shells, `rsync`), or by inode number (`cp -r`). Some read the files of a folder before its subfolders.
"""

import stat
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from itertools import islice

from cachetools import LRUCache
from msgspec import Struct, field

from swiftfs.concurrency import Rank, monotonic, new_lock, new_pool
from swiftfs.config.options import Options
from swiftfs.filecache.block_map import BaseVersion
from swiftfs.filecache.cache import FileCache
from swiftfs.filecache.cached_file import CachedFile
from swiftfs.filecache.read_ahead import FIRST_PIECE
from swiftfs.namespace.entry import Entry
from swiftfs.namespace.namespace import Namespace
from swiftfs.objects import ObjectVersion
from swiftfs.paths import is_below, join, split
from swiftfs.posix.open_files import OpenFiles

CERTAIN = 3
"""A reader has opened this many files in order; two neighbours may be chance."""

GAIN = 2
"""Files expected for each file that was opened in order. It limits the waste when a reader stops."""

SIGHT = 200
"""How many names are searched for a reader's next files: there may be many empty folders in between."""

READERS = 4
"""How many readers are followed at once."""

CANDIDATES = 2
"""How many opened files are remembered as the possible first one of a reader. More would take random opens
for readers."""

SLACK = 8
"""Tolerated reordering (multi-threaded readers) or skips, in files."""

FRESH_SECONDS = 1.0
"""Seconds for which a sorted folder is used even if names have been added: sorting takes milliseconds."""

REMEMBERED_NAMES = 20_000
"""How many names are kept sorted, of all folders together: about 10 MB."""

Known = Callable[[str, str], Iterable[Entry] | None]
"""Returns the entries of a folder from memory, of a huge one only some near a name; None if unknown."""

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
    """The names of one folder in each order, sorted when first needed; `made` is in monotonic seconds."""

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
        """Yield the entries after `name`, which must be one of them, or all when it is empty."""
        entries, index = self._in_order(order)
        return map(entries.__getitem__, range(index[name] + 1 if name else 0, len(entries)))

    def next(self, order: Order, name: str) -> Entry | None:
        """Return the first of `after`, None at the end."""
        entries, index = self._in_order(order)
        place = index[name] + 1
        return entries[place] if place < len(entries) else None

    def _in_order(self, order: Order) -> tuple[list[Entry], dict[str, int]]:
        if (found := self._sorted.get(order)) is None:
            entries = order(self._entries)
            found = entries, {entry.name: index for index, entry in enumerate(entries)}
            self._sorted[order] = found
        return found


class FileOrder:
    """The files of a tree in each order, if its folders are in memory. Not locked."""

    def __init__(self, known: Known) -> None:
        self._known = known
        # `min`, so that a folder of more names is kept too, alone.
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

    def fitting(self, orders: Iterable[Order], before: str, path: str) -> tuple[Order, ...]:
        """Return those orders in which `path` is the first file after `before` that every program opens."""
        folder, name = split(before)
        if (names := self._names(folder, name)) is None:
            return ()
        found = []
        for order in orders:
            entry = names.next(order, name)
            if entry is not None and join(folder, entry.name) == path:
                found.append(order)
            # Mostly the next name decides: each open comes here, for each reader.
            elif entry is not None and not entry.is_directory and _is_read(entry):
                continue
            elif _is_first(path, self.after(order, before, "/")):
                found.append(order)
        return tuple(found)

    def _below(
        self, order: Order, folder: str, name: str, sight: Iterator[int]
    ) -> Generator[tuple[str, Entry], None, bool]:
        """Yield the files of a folder after `name`; return False when not all are known or in sight."""
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


class Reader(Struct, eq=False):
    """A program that has opened `steps` files in order, the last at `path`.

    `orders` are those that fit. `top` is the folder that contains all files opened so far. `expected` are the
    paths that it will probably open next. The caller of `Readers` adds to `decided` those that it has
    handled, each with a number.
    """

    path: str
    top: str
    orders: tuple[Order, ...] = ORDERS
    steps: int = 1
    expected: list[str] = field(default_factory=list)
    decided: dict[str, int] = field(default_factory=dict)


class Readers:
    """Finds readers by the files that are opened; expects at most `window` files of each. Not locked."""

    def __init__(self, known: Known, window: int) -> None:
        self._files = FileOrder(known)
        self._window = window
        self._readers: deque[Reader] = deque(maxlen=READERS)
        self._candidates: deque[Reader] = deque(maxlen=CANDIDATES)

    def opened(self, path: str) -> Reader | None:
        """Record that a file was opened for reading; return the reader whose next file it is, or None."""
        if not self._window:
            return None
        # Readers first: a file that one of them expects begins no new one.
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
        self._expect(reader, min(GAIN * reader.steps, self._window))
        reader.decided = {path: reader.decided[path] for path in reader.expected if path in reader.decided}
        return reader

    def _expect(self, reader: Reader, count: int) -> None:
        """Expect the next `count` files of a reader: those that are expected still, and the ones after."""
        known = reader.expected
        ahead = self._files.after(reader.orders[0], known[-1] if known else reader.path, reader.top)
        more = islice(ahead, max(0, count - len(known)))
        reader.expected = [*known[:count], *(path for path, _ in more)]

    def _follow(self, reader: Reader, path: str) -> bool:
        """Return whether the file is the reader's next; if so, move the reader there."""
        folder = split(path)[0]
        before = reader.orders[0], reader.top
        if fitting := self._files.fitting(reader.orders, reader.path, path):
            reader.orders = fitting
            reader.top = _common_folder(reader.top, folder)
        elif fitting := self._beginning(reader.orders, reader.path, path):
            reader.orders, reader.top = fitting, folder
        elif path in reader.expected[:SLACK]:
            # It looks less certain, so less is fetched ahead.
            reader.steps = max(CERTAIN, reader.steps // 2)
        else:
            return False
        is_expected = reader.expected[:1] == [path] and before == (reader.orders[0], reader.top)
        reader.expected = reader.expected[1:] if is_expected else []
        reader.path = path
        reader.steps += 1
        return True

    def _beginning(self, orders: Iterable[Order], before: str, path: str) -> tuple[Order, ...]:
        """Return those in which a folder was read to its end, and `path` is the first file of another one."""
        folder, done = split(path)[0], split(before)[0]
        if is_below(folder, done):
            return ()
        return tuple(order for order in orders if self._begins(order, before, path))

    def _begins(self, order: Order, before: str, path: str) -> bool:
        folder, done = split(path)[0], split(before)[0]
        if any(_is_read(entry) for _, entry in self._files.after(order, before, done)):
            return False
        return _is_first(path, self._files.after(order, join(folder, ""), folder))


def _is_first(path: str, files: Iterable[tuple[str, Entry]]) -> bool:
    """Return whether `path` is the first of the files that every program opens."""
    for other, entry in files:
        if other == path:
            return True
        if _is_read(entry):
            return False
    return False


def _is_read(entry: Entry) -> bool:
    """Return whether every program opens the file: some skip empty files, and all skip links."""
    return entry.attributes.size > 0 and not entry.attributes.is_symlink


def _common_folder(one: str, other: str) -> str:
    while not is_below(other, one):
        one = split(one)[0]
    return one


BYTES_AHEAD = 32 * 1024 * 1024 // READERS
"""How many bytes are downloaded ahead for one reader. All readers together may waste 32 MiB."""

PER_CONNECTION = 2
"""Parallel downloads for each of `connections`: a small file mostly waits for the server's answer."""

OPENED = 64
"""How many opened versions are remembered: more than are being opened at any moment. Later they are
open files."""


class Prefetch:
    """Downloads the files that a reader will open next, as whole objects.

    A file that is downloaded ahead is kept here until it is opened, even if it is not complete. If it is not
    opened, it is put into the cache in the end. A failed download is dropped: the open of the file begins
    another.

    The lock guards every field. It is taken before those of the open files, the cache, a cached file
    and the namespace.
    """

    def __init__(
        self, namespace: Namespace, cache: FileCache, open_files: OpenFiles, options: Options
    ) -> None:
        self._namespace = namespace
        self._cache = cache
        self._open_files = open_files
        self._lock = new_lock(Rank.PREFETCH)
        parallel = PER_CONNECTION * options.connections
        self._pool = new_pool("prefetch", parallel)
        # Twice the number of parallel downloads, so that no thread is idle while the reader opens the files.
        window = 2 * parallel
        self._is_on = options.prefetch
        self._max_ahead = READERS * window
        self._readers = Readers(namespace.known_children, window)
        self._ahead: OrderedDict[ObjectVersion, CachedFile] = OrderedDict()
        self._opened: deque[ObjectVersion] = deque(maxlen=OPENED)
        self._stopped = False

    def acquire(self, version: ObjectVersion) -> CachedFile | None:
        """Return the cached file of `version`, for the caller to release; None when there is none."""
        with self._lock:
            # Complete or not: its reader waits for the download that has begun, instead of beginning another.
            self._opened.append(version)
            return self._ahead.pop(version, None) or self._cache.acquire_version(version)

    def opened(self, path: str) -> None:
        """Record that the file at `path` was opened for reading; start to download the next ones."""
        with self._lock:
            reader = self._readers.opened(path) if self._is_on else None
            if reader is not None and not self._stopped:
                self._fetch_for(reader)
            while len(self._ahead) > self._max_ahead:
                self._cache.keep(self._ahead.popitem(last=False)[1])

    def switch(self, on: bool) -> None:
        """Download in advance from now on, or not."""
        with self._lock:
            self._is_on = on

    def stop(self) -> None:
        """Download nothing in advance any more, whatever `switch` says."""
        with self._lock:
            self._stopped = True

    def close(self) -> None:
        """Put complete files into the cache, and end the threads; no file is opened any more."""
        with self._lock:
            while self._ahead:
                cached_file = self._ahead.popitem()[1]
                if cached_file.is_complete():
                    self._cache.keep(cached_file)
                else:
                    self._cache.drop(cached_file)
        self._pool.shutdown()

    def _fetch_for(self, reader: Reader) -> None:
        budget = BYTES_AHEAD
        for path in reader.expected:
            # Each file once: what was left out or has been dropped is not tried again at every open.
            if (size := reader.decided.get(path)) is not None:
                budget -= size
                continue
            entry = self._namespace.known(path)
            if entry is None or not entry.complete:
                continue  # a HEAD may be running
            size = entry.attributes.size if _is_small_file(entry) else 0
            budget -= size
            if budget < 0:
                return
            reader.decided[path] = size
            if size and not self._is_used(path):
                self._fetch(entry)

    def _is_used(self, path: str) -> bool:
        """Return whether the file is open, or was a moment ago: then it may not be in the cache yet."""
        # In this order: it is closed at any moment.
        return self._open_files.at(path) is not None or self._open_files.was_just_released(path)

    def _fetch(self, entry: Entry) -> None:
        version, size = entry.version, entry.attributes.size
        # `_opened`: its reader has its bytes or downloads them, and may be on the way to the open files.
        if version in self._ahead or version in self._opened or version in self._cache:
            return
        with suppress(OSError):  # the disk is full: the open of this file will report it
            cached_file = self._cache.new(version.name, BaseVersion(version.name, version.etag, size, size))
            cached_file.begin(self._pool)
            self._ahead[version] = cached_file


def _is_small_file(entry: Entry) -> bool:
    """Return whether this is a regular file, not empty, that one request downloads."""
    attributes = entry.attributes
    return (
        entry.object is not None
        and stat.S_ISREG(attributes.mode)
        and 0 < attributes.size <= FIRST_PIECE
        and not entry.is_slo
        and bool(entry.etag or entry.hash)  # Swift has it
    )
