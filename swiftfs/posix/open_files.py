"""The table of the open files and their handles, and the barrier for renames of folders."""

import itertools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from swiftfs.concurrency import Rank, monotonic, new_condition, thread_key
from swiftfs.errors import SwiftfsError
from swiftfs.filecache.block_map import BLOCK
from swiftfs.namespace.entry import Entry
from swiftfs.namespace.namespace import Namespace
from swiftfs.objects import ObjectName, ObjectVersion, PageUse
from swiftfs.paths import is_below, split
from swiftfs.posix.open_file import UNKNOWN_SIZE, Handle, KernelPages, OpenFile, ShownSizes
from swiftfs.posix.replaced_files import ReplacedFiles, WrongPages

log = logging.getLogger(__name__)


class RenameBarrier:
    """Makes changes wait while a folder above them moves, and a folder's rename while changes below it run.

    A change passes with its paths: until it ends, no folder above them begins to move. Its thread may make
    further changes within it. The rename of a folder waits for the changes that have begun below its two
    paths; later ones wait for its end. Readers never wait.

    LOCK ORDER: a thread that waits here holds no open file's lock, because a rename takes the locks of the
    files below the folder.
    """

    def __init__(self) -> None:
        self._changed = new_condition(Rank.BARRIER)
        self._moving: dict[int, tuple[str, str]] = {}
        self._passing: dict[int, tuple[str, ...]] = {}

    def passing(
        self, paths: Callable[[], tuple[str, ...]], waited: Callable[[], None] | None = None
    ) -> "_Passing":
        """Return the context of a change; if it has to wait, `paths` and `waited` are called after it."""
        return _Passing(self, paths, waited)

    def begin(self, paths: Callable[[], tuple[str, ...]]) -> tuple[bool, bool]:
        """Begin a change; return whether it is one of its own, which has to `end`, and whether it waited."""
        thread = thread_key()
        waited = False
        with self._changed:
            # A call within a change (`truncate` opens, flushes and closes) would wait for a rename that waits
            # for it.
            if thread in self._passing or thread in self._moving:
                return False, False
            while self._moving and self._is_moving(paths()):
                waited = True
                self._changed.wait()
            # Called again: an open file has a new path after its folder has moved.
            self._passing[thread] = paths()
        return True, waited

    def end(self) -> None:
        """End the calling thread's change."""
        with self._changed:
            del self._passing[thread_key()]
            if self._moving:  # only a rename waits for changes
                self._changed.notify_all()

    @contextmanager
    def closed(self, old: str, new: str) -> Iterator[None]:
        """Rename a folder: wait for the changes below the two paths, and block others meanwhile."""
        thread = thread_key()
        with self._changed:
            self._changed.wait_for(lambda: not self._overlaps(old, new))
            # Before the changes that have begun are waited for: otherwise new ones could come for ever.
            self._moving[thread] = old, new
            self._changed.wait_for(
                lambda: not any(_lies_below(paths, (old, new)) for paths in self._passing.values())
            )
        try:
            yield
        finally:
            with self._changed:
                del self._moving[thread]
                self._changed.notify_all()

    def is_passed(self, path: str) -> bool:
        """Return whether a change about `path` is being made; it needs no lock."""
        return any(path in paths for paths in list(self._passing.values()))

    def wait(self, path: Callable[[], str]) -> None:
        """Wait until no folder above `path` is moving."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_moving((path(),)))

    def _is_moving(self, paths: tuple[str, ...]) -> bool:
        return any(_lies_below(paths, pair) for pair in self._moving.values())

    def _overlaps(self, old: str, new: str) -> bool:
        return any(
            is_below(one, other) or is_below(other, one)
            for pair in self._moving.values()
            for one in pair
            for other in (old, new)
        )


class _Passing:
    """A change that passes the barrier, for `with`. A class: this runs several times for each file."""

    __slots__ = ("_barrier", "_is_own", "_paths", "_waited")

    def __init__(
        self, barrier: RenameBarrier, paths: Callable[[], tuple[str, ...]], waited: Callable[[], None] | None
    ) -> None:
        self._barrier, self._paths, self._waited = barrier, paths, waited

    def __enter__(self) -> None:
        self._is_own, had_to_wait = self._barrier.begin(self._paths)
        if had_to_wait and self._waited is not None:
            try:
                self._waited()
            except BaseException:
                self.__exit__()
                raise

    def __exit__(self, *_error: object) -> None:
        if self._is_own:
            self._barrier.end()


def _lies_below(paths: tuple[str, ...], folders: tuple[str, str]) -> bool:
    return any(is_below(path, folder) for path in paths for folder in folders)


ALIASES = 1000
"""Limit of the names of files that were hidden and are back; libfuse never gives such a name twice."""

RELEASED_SECONDS = 1.0
RELEASED_FILES = 1000
"""How long, and how many, files count as just released."""

UNCHECKED_SECONDS = 60.0
"""How long after an error stat(2) takes an open file for current: each attempt may take long."""


class OpenFiles:
    """The open files by handle and by path. The lock guards the tables and the counts of users.

    The `barrier` excludes flushes of files during renames of folders above them.

    A file that another client replaced is found only by its handles, see `ReplacedFiles`. As long as it
    shares the kernel's inode with the new version, new handles bypass the kernel's page cache.

    A file that was hidden and has its own name again keeps the hidden name in libfuse: that is an *alias*.
    For a moment the kernel also opens what has replaced the file by its alias.
    """

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self.barrier = RenameBarrier()
        self._lock = changed = new_condition(Rank.OPEN_FILES)
        self._numbers = itertools.count(1)
        self._handles: dict[int, Handle] = {}
        self._by_path: dict[str, OpenFile] = {}
        self.replaced = ReplacedFiles(changed)
        self.wrong_pages = WrongPages(changed)
        self._aliases: dict[str, tuple[str, OpenFile | None]] = {}
        self.shown_sizes = ShownSizes()
        self._pages = KernelPages(self.shown_sizes)
        self._released: dict[str, float] = {}  # when, in monotonic seconds

    def at(self, path: str) -> OpenFile | None:
        """Return the open file at `path`, if there is one."""
        return self._by_path.get(path)

    def current(self, path: str, *, for_stat: bool = False) -> OpenFile | None:
        """Return the open file at `path`; None if there is none, or another client has replaced it.

        Open handles keep the old version. A file with local changes is current: the last
        writer wins. After an error a call `for_stat` sends no request for a while.
        """
        file = self.at(path)
        before = file.entry if file is not None else None
        if file is None or before is None or file.dirty or file.unlinked or not _etags(before):
            return file
        is_unchecked = for_stat and monotonic() < file.unchecked_until
        if is_unchecked or not self._is_replaced(path, file, before):
            return file
        # A rename that is being made here shows the file at its new path before the file has that.
        with self.barrier.passing(lambda: (path,)), file.lock:
            if file.path != path:
                return self.at(path)
            # Once more: the lookup may have sent a request, during which the file was changed or stored.
            if file.entry is not before or file.dirty or file.unlinked:
                return file
            log.info("%s: another client has replaced it, while a program has the older version open", path)
            self._replace(file)
            return None

    def check_exists(self, path: str) -> None:
        """Raise `OSError` ENOENT if nothing is at `path` but an older version, whose name is being moved."""
        if path in self.replaced.moves and self.current(path) is None:
            self._namespace.lookup(path)

    def _is_replaced(self, path: str, file: OpenFile, before: Entry) -> bool:
        """Return whether Swift has another version than `before`; False if it does not answer."""
        try:
            found = self._namespace.find(path)
        except SwiftfsError as error:
            file.unchecked_until = monotonic() + UNCHECKED_SECONDS
            log.info("%s: cannot find out whether another client replaced it: %s", path, error)
            return False
        return found is None or _is_other(before, found)

    def is_being_made(self, path: str) -> bool:
        """Return whether a call may be making a file at `path`, or one that is open has changes there.

        It needs no lock: the journal asks with its own, of what its queue does not show yet.
        """
        file = self._by_path.get(path)
        return (file is not None and file.dirty) or self.barrier.is_passed(path)

    def add_alias(self, alias: str, path: str, file: OpenFile | None) -> None:
        """Let calls about `path` be about the hidden `file`; about what was there when it is closed."""
        with self._lock:
            self._aliases[alias] = path, file
            if len(self._aliases) > ALIASES:
                del self._aliases[next(iter(self._aliases))]

    def resolve(self, path: str) -> str:
        """Return the path that is meant by an alias, or by the name of a file that is aside, else `path`."""
        if (aside := self.replaced.at(path)) is not None:
            return aside.path
        if (meant := self._aliases.get(path)) is None:
            return path
        there, file = meant
        return file.path if file is not None and file.users else there

    def is_concerned(self, path: str) -> bool:
        """Return whether a file is open at a path, or the path may stand for another one than that listed."""
        replaced = self.replaced
        is_open = path in self._by_path or path in self._aliases
        return is_open or (replaced.has_names and replaced.concerns(path))

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
            if self._by_path.get(file.path) is not file and not self.replaced.holds(file):
                return None
            return self._add(file, writable=writable, append=append)[0]

    def _add(self, shared: OpenFile, *, writable: bool, append: bool) -> tuple[int, OpenFile]:
        """Add a handle. Lock held."""
        shared.users += 1
        number = next(self._numbers)
        self._handles[number] = Handle(shared, writable, append)
        return number, shared

    def path_of_handle(self, number: int) -> str:
        """Return the path by which libfuse knows the file of a handle."""
        return self.handle(number).file.known_as

    def page_use(self, number: int) -> PageUse:
        """Return what the kernel does with the pages of a file that it opens with this handle."""
        with self._lock:
            handle = self._handles[number]
            file = handle.file
            if self.replaced.holds(file):
                # The inode that the kernel opens may be that of another version.
                return PageUse.BYPASS
            # As long as a handle of the old version is open its pages come back with every read. Of a file
            # that libfuse knows by two names the kernel has two caches.
            is_mixed = file.aliased or self.replaced.shares_inode(file.path)
            use = self._pages.open(file, writable=handle.writable, is_mixed=is_mixed)
            return PageUse.LOOK_AGAIN if file.path in self.replaced.moves else use

    def is_local(self, number: int) -> bool:
        """Return whether the file of a handle is all on the local disk, or has no more than a block."""
        cached_file = self.handle(number).file.cached_file
        return cached_file.size <= BLOCK or cached_file.is_complete()

    def found_wrong(self, local_file: str) -> None:
        """Record that a local file had wrong bytes, which the kernel may have read; it has none now."""
        with self._lock:
            self._pages.found_wrong()
            for file in self._all():
                if file.cached_file.file_name == local_file:
                    self.wrong_pages.add(file)

    def _replace(self, file: OpenFile) -> None:
        """Let `file` be found only by its handles: its path is another version's from now on."""
        with self._lock:
            if self._by_path.get(file.path) is file:
                del self._by_path[file.path]
                # It keeps its handles, but no open finds it any more.
                self.replaced.add(file)

    def release(self, number: int) -> OpenFile | None:
        """Remove a handle; return its file when that was the last one."""
        with self._lock:
            file = self._handles.pop(number).file
            file.users -= 1
            if file.users:
                return None
            if self.replaced.remove(file):
                if not file.aside:
                    self._forget_pages(file)
                return file
            if self._by_path.get(file.path) is file:
                del self._by_path[file.path]
            if file.aliased:
                self._forget_pages(file)
            else:
                self._pages.close(file)
            self._released.pop(file.path, None)
            self._released[file.path] = monotonic()
            if len(self._released) > RELEASED_FILES:
                del self._released[next(iter(self._released))]
            return file

    def _forget_pages(self, file: OpenFile) -> None:
        """Let the next open of the path use no page and no size of a file that was there too. Lock held."""
        new = self._by_path.get(file.path)
        self._pages.forget(file.path, new.pages if new is not None else None)
        self.shown_sizes.show(file.path, UNKNOWN_SIZE)

    def was_just_released(self, path: str) -> bool:
        """Return whether the last handle of the file at `path` was closed a moment ago."""
        with self._lock:
            return monotonic() - self._released.get(path, -math.inf) < RELEASED_SECONDS

    def move(self, old: str, new: str, *, is_folder: bool = False) -> None:
        """Move the file at `old`, or those below it, to `new`."""
        with self._lock:
            for path in [path for path in self._by_path if is_below(path, old)]:
                file = self._by_path.pop(path)
                file.path = new + path[len(old) :]
                self._by_path[file.path] = file
            self.replaced.path_moved(old, new, is_folder=is_folder)
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
            for file in self._all():
                if file.entry is pending:
                    # What the upload has replaced is in the trash.
                    file.entry, file.trash = entry, ""

    def stayed(self, version: ObjectVersion, name: ObjectName) -> None:
        """Read the open files of a version from `name`, where its object has stayed: it could not move."""
        for file in self.all():
            base = file.cached_file.base
            if base is not None and ObjectVersion(base.name, base.etag) == version:
                file.cached_file.rename(name)

    def renamed(self, entries: Sequence[tuple[Entry, Entry]]) -> None:
        """Set the entry of each file that has the first one of a pair to the second: its name has changed."""
        # By identity, as in `stored`. An entry of the argument lives until this returns.
        new = {id(before): after for before, after in entries}
        with self._lock:
            for file in self._all():
                file.entry = new.get(id(file.entry), file.entry)

    def below(self, folder: str) -> list[OpenFile]:
        """Return the files in a folder and in all folders below it."""
        with self._lock:
            return [file for file in self._all() if is_below(file.path, folder)]

    def unstored_in(self, folder: str) -> list[OpenFile]:
        """Return the files of a folder that no listing shows, because they were not flushed yet."""
        files = self.below(folder)
        new = [file for file in files if file.entry is None and not file.unlinked]
        return [file for file in new if split(file.path)[0] == folder]

    def unlinked(self, name: ObjectName) -> list[OpenFile]:
        """Return the unlinked files whose last close would delete the object `name`."""
        held = [(file, file.held_deletion) for file in self.all()]
        return [file for file, deletion in held if deletion is not None and deletion.name == name]

    def all(self) -> list[OpenFile]:
        """Return every open file."""
        with self._lock:
            return self._all()

    def _all(self) -> list[OpenFile]:
        return [*self._by_path.values(), *self.replaced.all()]


def _etags(entry: Entry) -> set[str]:
    """Return the strings that identify the version; an SLO's hash in the listing differs from its ETag."""
    return {entry.etag, entry.hash} - {""}


def _is_other(before: Entry, found: Entry) -> bool:
    """Return whether Swift has another version than `before`; False while a local change is pending."""
    if found.is_directory:
        return True
    return bool(_etags(found)) and not _etags(found) & _etags(before)
