"""Files that get other names, or lose theirs while they are open."""

from swiftfs.errors import NotFound
from swiftfs.journal.operations import Delete, Move
from swiftfs.namespace.entry import Entry, moved_entry
from swiftfs.objects import ObjectName
from swiftfs.paths import split
from swiftfs.posix.directory_ops import DirectoryOps
from swiftfs.posix.file_ops import FileOps
from swiftfs.posix.open_files import OpenFile
from swiftfs.posix.pending import PendingChanges
from swiftfs.posix.prefetch import version_of
from swiftfs.posix.services import Services


class RenameOps:
    """What `rename` does to files: a new name in the journal where Swift has them not, else a COPY."""

    def __init__(
        self, rooms: Services, files: FileOps, folders: DirectoryOps, promises: PendingChanges
    ) -> None:
        self._namespace = rooms.namespace
        self._journal = rooms.journal
        self._contents = rooms.contents
        self._files = files
        self._folders = folders
        self._pending = promises

    def hide(self, path: str, hidden: str) -> None:
        """Take the name from an open file; it lives on without one, and its object is deleted."""
        node = self._files.table.at(path)
        entry = self._namespace.find(path)
        assert node is not None
        with node.lock:
            self._folders.keep_parent(path)
            node.unlinked, node.unlinked_path = True, path
            self._files.table.move(path, hidden)
            if entry is None or entry.object is None:
                return
            node.content.pin()
            if node.content.is_complete():
                self._pending.submit(path, deletion_of(entry), None, later=True)
            else:
                deletion = deletion_of(entry)
                node.held = self._journal.hold(path, deletion)
                node.deletion = deletion
                node.settled = self._pending.record(path, None).settle

    def rename_open(self, node: OpenFile, new: str, name: ObjectName, target: Entry | None) -> None:
        """Rename an open file to `new`, which is the object `name`, over `target`; its lock is held."""
        old = node.path
        if node.entry is None:  # only this process knows of it: the flush will give it the new name
            node.name = name
            node.replaces = target
        else:
            self._files.flush(node)
            node.rename_object(self.move(old, new, name, node.entry, target))
        self._files.table.move(old, new)

    def move(self, old: str, new: str, name: ObjectName, entry: Entry, target: Entry | None) -> Entry:
        """Move the file `entry` from `old` to `new`, which is the object `name`; return its new entry.

        Raise why Swift does not move what it has already, and `NotFound` when another client deleted it.
        """
        assert entry.object is not None
        self._files.settle_hidden(name)
        self._folders.keep_parent(old)
        moved = moved_entry(entry, split(new)[1], name)
        if self._move_promise(old, new, entry.object, moved, target):
            return moved
        intent = Move(
            entry.object,
            name,
            replaces_large=target.is_slo if target else False,
            etag=entry.etag or None,
            replaces_etag=(target.etag or None) if target else "",
            is_slo=entry.is_slo,
        )
        try:
            left = self._journal.run_move(old, intent)
        except NotFound:
            self._namespace.invalidate(old)
            raise
        self._contents.moved(version_of(entry), name)
        # What waited for the old name is executed: Swift has said what it made of it.
        moved = moved_entry(self._namespace.known(old) or entry, split(new)[1], name)
        if left:
            self._journal.watch(entry.object, self._pending.record(old, None).settle)
        else:
            self._namespace.record(old, None)
        self._namespace.record(new, moved)
        return moved

    def _move_promise(
        self, old: str, new: str, source: ObjectName, moved: Entry, target: Entry | None
    ) -> bool:
        """Give a file that Swift has not got yet its new name at once; say whether that was possible."""
        assert moved.object is not None
        if not self._journal.rename(
            source,
            moved.object,
            new,
            lambda: (self._pending.record(new, moved).settle, self._pending.record(old, None).settle),
            replaces_large=target.is_slo if target else False,
            replaces_etag=(target.etag or None) if target else None,
            creates=target is None,
        ):
            return False
        if not self._journal.seconds:
            self._journal.flush([source, moved.object])
        return True


def deletion_of(entry: Entry) -> Delete:
    """Return what deletes a file's object."""
    assert entry.object is not None
    return Delete(entry.object, entry.is_slo, entry.etag or None)
