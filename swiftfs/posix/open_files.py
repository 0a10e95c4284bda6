"""Open files, each shared by its handles, and the table of all of them."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from cachetools import TTLCache

from swiftfs.attributes import Stored
from swiftfs.concurrency import Lock, Rank, monotonic, new_lock
from swiftfs.filecache.cached_file import CachedFile
from swiftfs.namespace.entry import Entry
from swiftfs.objects import Attributes, ObjectName, PageUse
from swiftfs.paths import is_below, split
from swiftfs.posix.kernel_pages import UNKNOWN, FilePages, KernelPages, ShownSizes
from swiftfs.posix.rename_barrier import RenameBarrier
from swiftfs.store.object_meta import ObjectMeta

ALIASES = 1000
"""Limit of the names of files that were hidden and are back; libfuse never gives such a name twice."""

RELEASED_SECONDS = 1.0
RELEASED_FILES = 1000
"""How long, and how many, files count as just released."""


@dataclass(frozen=True, slots=True)
class HeldDeletion:
    """The deletion of an unlinked file's object `name`, which has the number `seq` in the journal.

    It waits for the last close while bytes of the file are missing, else for a moment.
    """

    seq: int
    name: ObjectName


@dataclass(slots=True)
class OpenFile:
    """The current state of an open file, which may be newer than the journal's.

    `entry` is its entry in the namespace, None for a new file before its first flush. A file is `dirty`
    while bytes or attributes are not in the journal yet, and `failed` if close() or fsync() has raised an
    error about it. An `unlinked` file has lost its name by unlink(2) or rename(2): it lives until its last
    handle is closed, and then its `held_deletion` is executed. `replaces` is the entry that a new file
    replaces. With `foreign_headers_unknown` the object may have headers of another client that were not
    requested yet. An `aliased` file was hidden and is back: libfuse knows it by two names. `users` counts the
    handles. `pages` is what the kernel has of the file.

    The lock excludes writers while the file is handed in. It is the only lock that may be held during a
    request.
    """

    path: str
    name: ObjectName
    cached_file: CachedFile
    attributes: Attributes
    meta: ObjectMeta
    entry: Entry | None
    dirty: bool = False
    failed: bool = False
    unlinked: bool = False
    held_deletion: HeldDeletion | None = None
    replaces: Entry | None = None
    foreign_headers_unknown: bool = False
    aliased: bool = False
    users: int = 0
    pages: FilePages = field(default_factory=FilePages)
    lock: Lock = field(default_factory=partial(new_lock, Rank.FILE, reentrant=True))

    @property
    def current_attributes(self) -> Attributes:
        """The attributes with the current size."""
        return replace(self.attributes, size=self.cached_file.size)

    def rename_object(self, entry: Entry) -> None:
        """Change to the name that the object was moved to."""
        assert entry.object is not None
        self.entry = entry
        self.take_name(entry.object)

    def take_name(self, name: ObjectName) -> None:
        """Change to an object's name that `entry` has already."""
        self.name = name
        self.cached_file.rename(name)

    def current_meta(self) -> ObjectMeta:
        """Return what an upload would store in addition to the bytes.

        Headers that another client gave the object are preserved as xattrs are. Content-Encoding is one of
        them: the mount shows and takes the encoded bytes. A DLO's manifest header is not preserved, for Swift
        would serve the DLO's segments instead of the bytes.
        """
        stat = self.attributes
        stored = Stored(stat.mode, stat.mtime_ns, stat.uid, stat.gid)
        return replace(self.meta, stored=stored).without_dlo()


@dataclass(frozen=True, slots=True)
class Handle:
    """One open(): its file, whether it may write, and whether every write is at the end (O_APPEND)."""

    file: OpenFile
    writable: bool
    append: bool


class OpenFiles:
    """The open files by handle and by path. The lock guards the tables and the counts of users.

    The `barrier` excludes flushes of files during renames of folders above them.

    A file that another client replaced is found only by its handles. The kernel has one page cache for all
    handles of a path. So new handles bypass that cache until no handle of the old version is open.

    libfuse knows a file by the name under which it was hidden, though it has its own name again: that is an
    *alias*. For a moment the kernel also opens what has replaced the file by it.
    """

    def __init__(self) -> None:
        self.barrier = RenameBarrier()
        self._lock = new_lock(Rank.OPEN_FILES)
        self._numbers = itertools.count(1)
        self._handles: dict[int, Handle] = {}
        self._by_path: dict[str, OpenFile] = {}
        self._replaced: list[OpenFile] = []
        self._aliases: dict[str, tuple[str, OpenFile | None]] = {}
        self.shown_sizes = ShownSizes()
        self._pages = KernelPages(self.shown_sizes)
        self._released: TTLCache[str, None] = TTLCache(RELEASED_FILES, RELEASED_SECONDS, monotonic)

    def at(self, path: str) -> OpenFile | None:
        """Return the open file at `path`, if there is one."""
        return self._by_path.get(path)

    def add_alias(self, alias: str, path: str, file: OpenFile | None) -> None:
        """Let calls about the path `alias` be about `file`, which was hidden under that name.

        When it is not open any more, they are about what is at `path`, where it was.
        """
        with self._lock:
            self._aliases[alias] = path, file
            if len(self._aliases) > ALIASES:
                del self._aliases[next(iter(self._aliases))]

    def resolve(self, path: str) -> str:
        """Return the path that is meant by an alias, else `path`."""
        if (meant := self._aliases.get(path)) is None:
            return path
        there, file = meant
        return file.path if file is not None and file.users else there

    def is_alias(self, path: str) -> bool:
        """Return whether a path is the name under which a file was hidden that has its own name again."""
        return path in self._aliases

    def move_one(self, file: OpenFile, path: str) -> None:
        """Move a file that was hidden, or is to be, to `path`; its aliases stay about where it was."""
        with self._lock:
            # Another thread may have closed it meanwhile.
            if self._by_path.get(file.path) is file:
                del self._by_path[file.path]
                self._by_path[path] = file
            file.path = path

    def handle(self, number: int) -> Handle:
        """Return the handle with a number."""
        return self._handles[number]

    def open(self, file: OpenFile, *, writable: bool, append: bool = False) -> tuple[int, OpenFile]:
        """Add a handle on the new `file`, or on the one that is open at its path already; return both."""
        with self._lock:
            return self._add(self._by_path.setdefault(file.path, file), writable=writable, append=append)

    def share(self, file: OpenFile, *, writable: bool, append: bool = False) -> int | None:
        """Add a handle on a file that was open a moment ago; return None when it is open no more.

        INVARIANT: a file whose last handle is closed is never opened again: its local file has another owner.
        """
        with self._lock:
            if self._by_path.get(file.path) is not file:
                return None
            return self._add(file, writable=writable, append=append)[0]

    def _add(self, shared: OpenFile, *, writable: bool, append: bool) -> tuple[int, OpenFile]:
        """Add a handle. Lock held."""
        shared.users += 1
        number = next(self._numbers)
        self._handles[number] = Handle(shared, writable, append)
        return number, shared

    def page_use(self, number: int) -> PageUse:
        """Return what the kernel does with the pages of a file that it opens with this handle."""
        with self._lock:
            handle = self._handles[number]
            file = handle.file
            # As long as a handle of the old version is open its pages come back with every read. Of a file
            # that libfuse knows by two names the kernel has two caches.
            is_mixed = file.aliased or any(one.path == file.path for one in self._replaced)
            return self._pages.open(
                file.path, file.pages, file.cached_file, writable=handle.writable, is_mixed=is_mixed
            )

    def replace(self, file: OpenFile) -> None:
        """Let `file` be found only by its handles: its path is another version's from now on."""
        with self._lock:
            if self._by_path.get(file.path) is file:
                del self._by_path[file.path]
                # It keeps its handles, but no open finds it any more.
                self._replaced.append(file)

    def release(self, number: int) -> OpenFile | None:
        """Remove a handle; return its file when that was the last one."""
        with self._lock:
            file = self._handles.pop(number).file
            file.users -= 1
            if file.users:
                return None
            if file in self._replaced:
                self._replaced.remove(file)
                self._forget_pages(file)
                return file
            if self._by_path.get(file.path) is file:
                del self._by_path[file.path]
            if file.aliased:
                self._forget_pages(file)
            else:
                self._pages.close(file.path, file.pages, file.cached_file)
            # libfuse may still count the handle as open: see `UnlinkOps.hide`.
            self._released[file.path] = None
            return file

    def _forget_pages(self, file: OpenFile) -> None:
        """Let the next open of the path use no page and no size of a file that was there too. Lock held."""
        new = self._by_path.get(file.path)
        self._pages.forget(file.path, new.pages if new is not None else None)
        self.shown_sizes.show(file.path, UNKNOWN)

    def was_just_released(self, path: str) -> bool:
        """Return whether the last handle of the file at `path` was closed a moment ago."""
        with self._lock:
            return path in self._released

    def move(self, old: str, new: str, *, is_folder: bool = False) -> None:
        """Move the file at `old`, or those below it, to `new`."""
        with self._lock:
            for path in [path for path in self._by_path if is_below(path, old)]:
                file = self._by_path.pop(path)
                file.path = new + path[len(old) :]
                self._by_path[file.path] = file
            for file in self._replaced:
                if is_below(file.path, old):
                    file.path = new + file.path[len(old) :]
            for alias, (path, hidden) in self._aliases.items():
                if is_below(path, old):
                    self._aliases[alias] = new + path[len(old) :], hidden
            # The pages move along.
            if is_folder:
                self._pages.forget_all()
            else:
                self._pages.forget(new)
                self.shown_sizes.move(old, new)

    def stored(self, pending: Entry, entry: Entry) -> None:
        """Set the entry of the file that was handed in as `pending` to `entry`, which is in Swift."""
        with self._lock:
            # By the entry, and not by the path: the file may have been renamed or handed in again since.
            for file in [*self._by_path.values(), *self._replaced]:
                if file.entry is pending:
                    file.entry = entry

    def renamed(self, entries: Sequence[tuple[Entry, Entry]]) -> None:
        """Set the entry of each file that has the first one of a pair to the second: its name has changed."""
        # By identity, as in `stored`. An entry of the argument lives until this returns.
        new = {id(before): after for before, after in entries}
        with self._lock:
            for file in [*self._by_path.values(), *self._replaced]:
                file.entry = new.get(id(file.entry), file.entry)

    def below(self, folder: str) -> list[OpenFile]:
        """Return the files in a folder and in all folders below it."""
        with self._lock:
            files = [*self._by_path.values(), *self._replaced]
            return [file for file in files if is_below(file.path, folder)]

    def unstored_in(self, folder: str) -> list[OpenFile]:
        """Return the files of a folder that no listing shows, because they were not flushed yet."""
        files = self.below(folder)
        new = [file for file in files if file.entry is None and not file.unlinked]
        return [file for file in new if split(file.path)[0] == folder]

    def unlinked(self, name: ObjectName) -> list[OpenFile]:
        """Return the unlinked files whose last close would delete the object `name`."""
        held = ((file, file.held_deletion) for file in self.all())
        return [file for file, deletion in held if deletion is not None and deletion.name == name]

    def all(self) -> list[OpenFile]:
        """Return every open file."""
        with self._lock:
            return [*self._by_path.values(), *self._replaced]
