"""Folders: containers, markers, and prefixes that only their children imply."""

import errno
import itertools
import stat
from collections.abc import Iterator
from dataclasses import replace

from swiftfs.concurrency import unix_time_ns
from swiftfs.errors import NotFound, os_error
from swiftfs.journal.object_moves import EMPTY, Unmoved
from swiftfs.journal.operations import (
    CreateContainer,
    Delete,
    DeleteContainer,
    MovedObject,
    MoveFolder,
    PutMarker,
    marker_headers,
)
from swiftfs.namespace.entry import Entry, folder_inode, moved_entry
from swiftfs.namespace.inodes import Inodes
from swiftfs.objects import Attributes, Caller, ObjectName
from swiftfs.paths import (
    Folder,
    Source,
    is_below,
    join,
    path_below,
    plain_marker,
    slash_marker,
    split,
)
from swiftfs.posix.file_ops import FileOps
from swiftfs.posix.pending import PendingChanges
from swiftfs.posix.prefetch import version_of
from swiftfs.posix.services import Services


class DirectoryOps:
    """What `mkdir`, `rmdir`, `readdir` and `rename` do to folders."""

    def __init__(
        self, rooms: Services, source: Source, files: FileOps, promises: PendingChanges, inodes: Inodes
    ) -> None:
        self._pending = promises
        self._inodes = inodes
        self._services = rooms
        self._namespace = rooms.namespace
        self._journal = rooms.journal
        self._source = source
        self._files = files
        self._numbers = itertools.count(1)
        self._open: dict[int, str] = {}

    def open(self, path: str) -> int:
        """Open a folder."""
        if not self._namespace.lookup(path, complete=False).is_directory:
            raise os_error(errno.ENOTDIR, path)
        number = next(self._numbers)
        self._open[number] = path
        return number

    def read(self, number: int) -> Iterator[tuple[str, Attributes]]:
        """Yield the names in an open folder as it is now, files that Swift has not got yet included.

        Raise `OSError` ESTALE when the container is gone: the C library takes an ENOENT for the folder's end.
        """
        path = self._open[number]
        try:
            for entry in self._namespace.children(path):
                yield entry.name, self._inodes.of(join(path, entry.name), entry.attributes)
        except NotFound as error:
            raise os_error(errno.ESTALE, path) from error
        for node in self._files.table.unstored_in(path):
            yield split(node.path)[1], self._inodes.of_open(node.path, node.current_attributes)

    def flush(self, number: int) -> None:
        """Have an open folder stored, with all that was closed below it."""
        folder = self._source.folder(self._open[number])
        if folder.prefix:
            plain = plain_marker(folder)
            self._journal.flush([*([plain] if plain else []), slash_marker(folder)])
        self._journal.flush_below(folder)
        self._journal.raise_refusal_below(folder)

    def release(self, number: int) -> None:
        """Close a folder."""
        self._open.pop(number, None)

    def make(self, path: str, mode: int, caller: Caller) -> None:
        """Make a folder by its marker, or a container."""
        if self._namespace.find(path) is not None or self._files.table.at(path) is not None:
            raise os_error(errno.EEXIST, path)
        folder = self._source.folder(path)
        permissions = stat.S_IFDIR | stat.S_IMODE(mode)
        attributes = Attributes(permissions, 0, unix_time_ns(), caller.uid, caller.gid, folder_inode(folder))
        if not folder.prefix:
            self._journal.run_unjournaled(CreateContainer(folder.container))
            self._namespace.record(path, Entry(split(path)[1], None, attributes))
            return
        self._source.object(path)  # the marker's key must not be too long
        entry, marker = self._marked(path, folder, attributes)
        self._pending.submit(path, marker, entry)
        self._namespace.note_new_folder(path, entry)

    def remove(self, path: str) -> None:
        """Remove an empty folder, or an empty container."""
        entry = self._namespace.lookup(path, complete=False)
        if not entry.is_directory:
            raise os_error(errno.ENOTDIR, path)
        self._refuse_unless_empty(path)
        folder = self._source.folder(path)
        if not folder.prefix:
            self._journal.flush_below(folder)
            self._journal.run_unjournaled(DeleteContainer(folder.container))
            self._namespace.record(path, None)
        else:
            self.keep_parent(path)
            markers = {entry.object} if entry.object is not None else set()
            if self._namespace.is_marked_inside(path):
                markers.add(slash_marker(folder))
            self._delete_markers(path, markers)
        self._namespace.invalidate_listings(path)

    def rename(self, old: str, new: str, moving: Entry, target: Entry | None) -> None:
        """Move a folder with all below it over nothing, or over an empty folder.

        What would change something below it meanwhile waits, and goes on under the new name.
        """
        if is_below(new, old):
            raise os_error(errno.EINVAL, new)
        source, destination = self._source.folder(old), self._source.folder(new)
        if not source.prefix or not destination.prefix:
            raise os_error(errno.EXDEV, new)
        if target is not None:
            if not target.is_directory:
                raise os_error(errno.ENOTDIR, new)
            self._refuse_unless_empty(new)
        for node in self._files.table.below(old):
            self._files.flush(node)
            if node.deletion is not None:
                self._files.settle_hidden(node.deletion.name)
        self._journal.flush_below(source)
        self._journal.flush_below(destination)
        self.keep_parent(old)
        marker = moving.object
        renamed = plain_marker(destination) or slash_marker(destination)
        moves_marker = marker is not None and marker == plain_marker(source)
        intent = MoveFolder(
            source.container,
            source.prefix,
            destination.container,
            destination.prefix,
            ((marker, renamed),) if marker is not None and moves_marker else (),
            self._recent_below(old),
            empty=target is None and self._namespace.has_just_listed(new),
            together=self._namespace.are_alone(old, new),
        )
        try:
            left = self._journal.run_move(old, intent)
        except Unmoved as error:
            self._namespace.invalidate(new)
            for deletion in error.left:
                rest = deletion.name.key.removeprefix(destination.prefix)
                self._journal.submit(path_below(new, rest) if rest else new, deletion)
            raise
        self._record_moved(old, new, moving, renamed if moves_marker else None)
        for name in left:
            path = old if name == marker else path_below(old, name.key.removeprefix(source.prefix))
            self._journal.watch(name, self._pending.record(path, None).settle)

    def _recent_below(self, path: str) -> tuple[MovedObject, ...]:
        """Return the objects below a folder that we have stored, and a listing may not show yet."""
        return tuple(
            MovedObject(entry.object.key, EMPTY if entry.is_directory else entry.etag or entry.hash)
            for entry in self._namespace.recent_below(path)
            if entry.object is not None
        )

    def keep_parent(self, path: str) -> None:
        """Give the parent of `path` a marker when it has none and loses its last child: folders stay."""
        parent = split(path)[0]
        if not self._namespace.is_implied(parent) or not self._namespace.is_last(path):
            return
        folder = self._source.folder(parent)
        attributes = self._namespace.lookup(parent, complete=False).attributes
        entry, marker = self._marked(parent, folder, attributes)
        if marker.name == self._source.object(path):
            return  # the child is the file `d/` itself, and no other key can mark the folder `d`
        self._pending.submit(parent, marker, entry, later=True)

    def _marked(self, path: str, folder: Folder, attributes: Attributes) -> tuple[Entry, PutMarker]:
        """Return the entry of a folder that gets a marker, and what makes it."""
        plain = None if self._services.defaults.slash_markers else plain_marker(folder)
        name = plain or slash_marker(folder)
        self._files.settle_hidden(name)
        headers = marker_headers(attributes, typed=self._services.defaults.typed_markers)
        return Entry(split(path)[1], name, attributes, headers=headers), PutMarker(name, headers)

    def _delete_markers(self, path: str, markers: set[ObjectName]) -> None:
        self._namespace.record(path, None)
        for marker in markers:
            self._pending.submit(path, Delete(marker, is_slo=False), None)

    def _refuse_unless_empty(self, path: str) -> None:
        if not self._namespace.is_empty(path) or self._files.table.unstored_in(path):
            raise os_error(errno.ENOTEMPTY, path)

    def _record_moved(self, old: str, new: str, moving: Entry, marker: ObjectName | None) -> None:
        source, destination = self._source.folder(old), self._source.folder(new)
        attributes = replace(moving.attributes, inode=folder_inode(destination))
        self._move_cached(old, source, destination)
        self._namespace.invalidate_tree(new)
        self._namespace.move_recent(old, new)
        self._namespace.invalidate_tree(old)
        self._namespace.record(old, None)
        entry = replace(moving, name=split(new)[1], object=marker, attributes=attributes)
        self._namespace.record(new, entry)
        for node in self._files.table.below(old):
            with node.lock:
                if node.entry is not None and not node.unlinked:
                    key = destination.prefix + node.name.key.removeprefix(source.prefix)
                    node.rename_object(
                        moved_entry(node.entry, node.entry.name, ObjectName(destination.container, key))
                    )
        self._files.table.move(old, new)

    def _move_cached(self, path: str, source: Folder, destination: Folder) -> None:
        """Keep what is cached of the files below `path`, as far as their names are in memory."""
        for entry in self._namespace.known_children(path, "") or ():
            if entry.is_directory:
                self._move_cached(join(path, entry.name), source, destination)
            elif entry.object is not None:
                key = destination.prefix + entry.object.key.removeprefix(source.prefix)
                self._services.contents.moved(version_of(entry), ObjectName(destination.container, key))
