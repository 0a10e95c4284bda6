"""System calls on folders: containers, markers, and prefixes that only their children imply."""

import errno
import itertools
import logging
import stat
from collections.abc import Callable, Collection, Iterator, Sequence

from msgspec.structs import replace

from swiftfs.concurrency import unix_time_ns
from swiftfs.errors import NotFound, os_error
from swiftfs.journal.operations import CreateContainer, Delete, DeleteContainer, PutMarker
from swiftfs.namespace.entry import NO_TIME, Entry, folder_inode
from swiftfs.objects import DIRECTORY_TYPE, Attributes, Caller
from swiftfs.paths import check_new_name, join, plain_marker, slash_marker, split
from swiftfs.posix.pending import PendingChanges
from swiftfs.posix.services import Services, in_folder
from swiftfs.posix.write_back import WriteBack
from swiftfs.store.object_meta import ObjectMeta

log = logging.getLogger(__name__)

MAX_NAME = 1024
"""Bytes in a name; `FUSE_NAME_MAX` of the kernel, for which a longer one makes the whole folder EIO."""

KEPT = 1000
"""Names of an open folder that stay in memory, besides the last part that was read: a page of its listing."""

AT_ONCE = 256
"""Names that `readdir` returns at most. The kernel takes 4 KiB, and since Linux 6.16 as much as the program,
mostly 32 KiB; a name takes 32 bytes with its number, and 160 with all attributes."""

Listed = tuple[str, Attributes]


class DirectoryOps:
    """Creates, reads and removes folders."""

    def __init__(self, services: Services, pending: PendingChanges, write_back: WriteBack) -> None:
        self._namespace = services.namespace
        self._journal = services.journal
        self._defaults = services.defaults
        self._source = services.source
        self._open_files = services.open_files
        self._pending = pending
        self._write_back = write_back
        self._inodes = services.inodes
        self._times = services.times
        self._shown = services.defaults.shown
        self._numbers = itertools.count(1)
        self._open: dict[int, _OpenFolder] = {}

    def opendir(self, path: str) -> int:
        """Open a folder for `readdir`."""
        if not self._namespace.lookup(path, complete=False).is_directory:
            raise os_error(errno.ENOTDIR, path)
        handle = next(self._numbers)
        self._open[handle] = _OpenFolder(path, self._inodes.number(path, is_folder=True), self._begin)
        return handle

    def readdir(self, handle: int, start: int = 0) -> Sequence[Listed]:
        """Return names in an open folder from number `start` on, with the attributes that its listing has.

        There are none only at the end; 0 reads the folder anew. Files that are not in Swift yet are among
        them. Raise `OSError` ESTALE if the container is gone: the C library would take ENOENT for the
        folder's end.
        """
        folder = self._open[handle]
        try:
            return folder.names(start)
        except NotFound as error:
            raise os_error(errno.ESTALE, folder.path) from error

    def path_of(self, handle: int) -> str | None:
        """Return the path of an open folder, None if it was moved: then another may have that path."""
        folder = self._open[handle]
        return folder.path if self._inodes.number(folder.path, is_folder=True) == folder.inode else None

    def _begin(self, path: str) -> Iterator[list[Listed]]:
        """Begin to read a folder, some names at a time; after an error it goes on where it was."""
        self._journal.late.look_in(path, lambda names: self._shown_of(path, names))
        # The namespace has no entry for them, as they are not in the journal yet. Looked at first: one that
        # is closed meanwhile is then found at least once.
        unstored = {
            split(file.path)[1]: self._shown(self._inodes.of_open(file.path, file.current_attributes))
            for file in self._open_files.unstored_in(path)
        }

        def shown(part: list[Entry]) -> list[Listed]:
            return [
                (entry.name, self._shown(self._inodes.of(join(path, entry.name), entry.attributes)))
                for entry in part
                if entry.name not in unstored and _is_listable(entry.name, path)
            ]

        # No generator, which would end at the first error.
        return itertools.chain([list(unstored.items())], map(shown, self._namespace.read(path)))

    def _shown_of(self, path: str, names: Collection[str]) -> set[str]:
        """Return which of the names a folder shows."""
        return {entry.name for entry in self._namespace.children(path) if entry.name in names}

    def fsyncdir(self, handle: int) -> None:
        """Return when the folder and everything closed below it is in Swift, or raise the error."""
        folder = self._source.folder(self._open[handle].path)
        if folder.prefix:
            plain = plain_marker(folder)
            self._journal.flush([*([plain] if plain else []), slash_marker(folder)])
        self._journal.flush_below(folder)
        self._journal.raise_refusal_below(folder)

    def releasedir(self, handle: int) -> None:
        """Close a folder."""
        self._open.pop(handle, None)

    def mkdir(self, path: str, mode: int, caller: Caller) -> None:
        """Create a folder by its marker, or at the top of an account a container."""
        with self._pending.changing(path):
            if self._namespace.find(path) is not None or self._open_files.at(path) is not None:
                raise os_error(errno.EEXIST, path)
            check_new_name(path)
            folder = self._source.folder(path)
            mode, owner = in_folder(self._namespace, path, stat.S_IFDIR | stat.S_IMODE(mode), caller)
            attributes = Attributes(mode, 0, unix_time_ns(), owner.uid, owner.gid, folder_inode(folder))
            if not folder.prefix:
                self._journal.run_unjournaled(CreateContainer(folder.container))
                # Without a time, as a listing of the account will show it: it stays the same.
                attributes = replace(attributes, mtime_ns=NO_TIME)
                self._namespace.record(path, Entry(split(path)[1], None, attributes))
                return
            self._source.object(path)  # the marker's key must not be too long
            entry, operation = self._marked(path, attributes)
            self._pending.submit(path, operation, entry)
            self._namespace.record_new_folder(path, entry)
            self._times.created(path, attributes.mtime_ns, is_folder=True)

    def rmdir(self, path: str) -> None:
        """Remove an empty folder, or an empty container."""
        with self._pending.changing(path):
            since = self._pending.begin_change()
            entry = self._namespace.lookup(path, complete=False)
            if not entry.is_directory:
                raise os_error(errno.ENOTDIR, path)
            self.refuse_unless_empty(path)
            self._remove(path, entry, since)
            self._namespace.invalidate_listings(path)
            self._times.filled(path)
        self._inodes.forget(path, is_folder=True)

    def keep_parent(self, path: str) -> None:
        """Give the parent of `path` a marker if it has none and loses its last child, so that it stays."""
        parent = split(path)[0]
        if not self._namespace.is_implied(parent) or not self._namespace.is_last(path):
            return
        implied = self._namespace.dated(self._namespace.lookup(parent, complete=False))
        self._times.filled(path)
        attributes = self._times.dated(parent, implied).attributes
        entry, operation = self._marked(parent, attributes)
        if operation.name == self._source.object(path):
            return  # the child is the file `d/` itself, and no other key can mark the folder `d`
        # `later`: `rm -r` removes the folder next, and then no marker is sent at all.
        self._pending.submit(parent, operation, entry, later=True)

    def refuse_unless_empty(self, path: str) -> None:
        """Raise `OSError` ENOTEMPTY if anything is in the folder, even a new file that is open."""
        if not self._namespace.is_empty(path) or self._open_files.unstored_in(path):
            raise os_error(errno.ENOTEMPTY, path)

    def _remove(self, path: str, entry: Entry, since: int) -> None:
        folder = self._source.folder(path)
        if not folder.prefix:
            self._journal.flush_below(folder)
            self._journal.run_unjournaled(DeleteContainer(folder.container))
            self._namespace.record(path, None)
            return
        self.keep_parent(path)
        markers = {entry.object} if entry.object is not None else set()
        # Other clients may have written both markers: each of them alone would keep the folder.
        if self._namespace.is_marked_inside(path):
            markers.add(slash_marker(folder))
        self._namespace.record(path, None, of_folder=True)
        for marker in markers:
            self._pending.submit(path, Delete(marker, is_slo=False, is_marker=True), None, since=since)

    def _marked(self, path: str, attributes: Attributes) -> tuple[Entry, PutMarker]:
        """Return the entry of a folder that gets a marker, and the operation that creates it."""
        name = self._namespace.new_marker(path)
        self._write_back.free_name(name)
        meta = ObjectMeta(DIRECTORY_TYPE).marker(attributes, typed=self._defaults.typed_markers)
        return Entry(split(path)[1], name, attributes, meta=meta), PutMarker(name, meta.headers())


class _OpenFolder:
    """An open folder with its inode number, and the names that were read of it last.

    `begin` begins to read a path. A name's number is its place in the order in which the names were read.
    seekdir(3) to a name that is not kept any more reads the folder anew, and counts.
    """

    def __init__(self, path: str, inode: int, begin: Callable[[str], Iterator[list[Listed]]]) -> None:
        self.path = path
        self.inode = inode
        self._begin = begin
        self._following: Iterator[list[Listed]] | None = None
        self._kept: list[Listed] = []
        self._dropped = 0

    def names(self, start: int) -> Sequence[Listed]:
        """Return names from number `start` on, none only at the end."""
        if self._following is None or not start or start < self._dropped:
            # First: if it fails, the next call must not continue what was read before.
            self._kept, self._dropped, self._following = [], 0, None
            self._following = self._begin(self.path)
        while start >= self._dropped + len(self._kept):
            part = next(self._following, None)
            if part is None:
                return ()
            # Only when there are others: of a folder of one part all names are kept.
            dropped = max(0, len(self._kept) - KEPT) if part else 0
            del self._kept[:dropped]
            self._dropped += dropped
            self._kept += part
        at = start - self._dropped
        return self._kept[at : at + AT_ONCE]


def _is_listable(name: str, folder: str) -> bool:
    """Return whether the kernel takes a name; log one that it does not."""
    if len(name) * 4 <= MAX_NAME or len(name.encode()) <= MAX_NAME:
        return True
    log.warning(
        "%s: an object is not shown, as its name has more than %d bytes: %.100s…", folder, MAX_NAME, name
    )
    return False
