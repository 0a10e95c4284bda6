"""`rename` of files, also of open ones, and of folders.

A file that is not in Swift yet gets its new name in the journal; other objects are copied and deleted.
"""

import errno
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext

from msgspec.structs import replace

from swiftfs.attributes import type_after_rename
from swiftfs.concurrency import monotonic
from swiftfs.errors import NotFound, os_error
from swiftfs.journal.carried_tasks import Carried, CarriedTasks, FolderRename
from swiftfs.journal.moves import EMPTY, Unmoved
from swiftfs.journal.operations import FolderPaths, Move, MovedObject, MoveFolder, MoveObject, Replaced
from swiftfs.journal.shared_copies import CopyLost
from swiftfs.journal.tasks import Done, Task, nobody_waits
from swiftfs.namespace.entry import Entry, moved_entry, retyped_entry
from swiftfs.namespace.inodes import folder_inode
from swiftfs.objects import ObjectName
from swiftfs.paths import Folder, check_new_name, is_below, join, path_below, plain_marker, split
from swiftfs.posix.directory_ops import DirectoryOps, UnlinkOps, deletion_of
from swiftfs.posix.open_file import OpenFile
from swiftfs.posix.pending import PendingChanges, pending_entry, trash_key
from swiftfs.posix.services import Part, Services
from swiftfs.posix.write_back import AttributeChanges, WriteBack
from swiftfs.store.retry import SharedLimit, sharing

NOREPLACE = 1
"""RENAME_NOREPLACE of renameat2(2)."""

Renamed = list[tuple[Entry, Entry]]
"""The old and the new entry of each file or folder that is renamed before Swift has it."""

EntriesAt = Mapping[str, Entry | None]
"""Entries by their paths; None if there is none."""


class RenameOps(Part):
    """Renames files and folders."""

    def __init__(
        self,
        services: Services,
        pending: PendingChanges,
        write_back: WriteBack,
        directories: DirectoryOps,
        unlinks: UnlinkOps,
        changes: AttributeChanges,
    ) -> None:
        super().__init__(services)
        self._waits_below = services.options.background_rename
        self._pending = pending
        self._write_back = write_back
        self._directories = directories
        self._unlinks = unlinks
        self._changes = changes

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        """Rename a file or folder, and replace what POSIX and the flags of renameat2(2) allow."""
        if flags:
            self._check_flags(new, flags)
        if old != new:
            with sharing(SharedLimit()):
                self._rename(old, new, hides=False)

    def _check_flags(self, new: str, flags: int) -> None:
        """Raise `OSError` EINVAL for a flag other than `NOREPLACE`, and EEXIST if stat(2) would find `new`.

        Swift is not asked anew. It has no copy that fails if there is an object, so another client could
        always be faster; and every rename of mv(1) has this flag, which would cost two requests.
        """
        self._unlinks.unhide(new)  # libfuse has hidden an open file that is about to be replaced
        if flags & ~NOREPLACE:
            raise os_error(errno.EINVAL, new)
        if self._open_files.at(new) is not None or self._namespace.find(new) is not None:
            raise os_error(errno.EEXIST, new)

    def hide(self, path: str, hidden: str) -> None:
        """Rename an open file to `hidden`, as libfuse does before the file is unlinked or replaced."""
        self._rename(path, hidden, hides=True)

    def _rename(self, old: str, new: str, *, hides: bool) -> None:
        if self._open_files.replaced.renamed(old, new):
            self._inodes.move(old, new)
            return
        try:
            self._pending.refuse_change(old, new)
            self._journal.undo_late_requests(old, moving=True)
            since = self._pending.begin_change()
            # Outside of the barrier: which part of it to pass depends on whether it is a folder.
            moving = self._namespace.find(old) if self._open_files.at(old) is None else None
        except BaseException:
            self._unlinks.unhide(new)
            raise
        if moving is not None and moving.is_directory:
            # Reads go on, and so do writes to open files; only what hands something in waits.
            with self._open_files.barrier.closed(old, new):
                self._rename_folder(old, new, moving, since)
        else:
            # Not for a folder: the kernel renames none to an existing file, so what was hidden was deleted.
            with self._unlinks.unhidden(new), self._pending.changing(old, new):
                if hides:
                    self._unlinks.hide(old, new)
                else:
                    self._rename_file(old, new)

    def _rename_file(self, old: str, new: str) -> None:
        # A version that another client has replaced is not what moves.
        self._open_files.current(old)
        with self._write_back.held_open(old) as file:
            since = self._pending.begin_change()
            moving, target = self._namespace.find(old), self._namespace.find(new)
            if target is not None and target.is_directory:
                raise os_error(errno.EISDIR, new)
            if file is None and moving is None:
                raise os_error(errno.ENOENT, old)
            if file is None and moving is not None and moving.is_directory:
                # It has come back since the first look, as Swift refused to move it: the kernel begins again.
                raise os_error(errno.ESTALE, old)
            _check_name(old, new, target)
            # Not within the lock of `file`: of two open files one may be locked at a time.
            with self._unlinks.replacing(new) as replaced, file.lock if file is not None else nullcontext():
                if file is not None:
                    self._rename_open(file, new, target, since)
                elif moving is not None:
                    self._move(old, new, self._namespace.new_object(new), moving, target)
                replaced()
                self._open_files.move(old, new)
                self._inodes.move(old, new)
        self._record_times(old, new, is_folder=False)

    def _rename_open(self, file: OpenFile, new: str, target: Entry | None, since: int) -> None:
        """Rename an open file over `target`, of which nothing was given up `since`; its lock is held."""
        old, name = file.path, self._namespace.new_object(new)
        trash = trash_key(target, self._services.trash)
        if file.entry is None:  # only this process knows it: the flush will use the new name
            self._delete_replaced(file)
            file.meta = file.meta.renamed(file.name.key, name.key)
            file.name = name
            file.replaces, file.since, file.trash = target, since, trash
        else:
            # Within its lock, which is reentrant: no writer comes between this and the new name.
            self._write_back.hand_in_changes(file)
            before = file.entry.media_type
            moved = self._move(old, new, name, file.entry, target)
            file.rename_object(moved)
            file.since = self._pending.begin_change()
            file.trash = ""  # the journal has it: that is about the object at the old name
            if moved.media_type != before:
                file.meta = replace(file.meta, media_type=moved.media_type)

    def _delete_replaced(self, file: OpenFile) -> None:
        """Delete what a new file was to replace: no flush will do it under the old name any more."""
        if file.replaces is None or file.replaces.object is None:
            return
        self._directories.keep_parent(file.path)
        try:
            deletion = replace(deletion_of(file.replaces, self._services.trash), trash=file.trash)
            self._pending.submit(file.path, deletion, None, since=file.since)
        except OSError as error:
            if error.errno != errno.ESTALE:  # it never came to that name, and there is nothing to delete
                raise

    def _move(self, old: str, new: str, name: ObjectName, entry: Entry, target: Entry | None) -> Entry:
        """Move the file `entry` from `old` to `new`, which is the object `name`; return its new entry.

        Raise the error if Swift cannot move its object, and `NotFound` if another client deleted it.
        """
        assert entry.object is not None
        self._write_back.free_name(name)
        self._directories.keep_parent(old)
        moved = moved_entry(entry, split(new)[1], name)
        media_type = type_after_rename(entry.media_type, entry.object.key, name.key)
        retyped = retyped_entry(moved, media_type)
        if self._rename_queued(old, new, entry.object, retyped, target):
            return retyped

        def record(task: Task) -> None:
            nonlocal moved
            moved = self._record_move(task, old, new, name, entry)

        operation = Move(
            entry.object,
            name,
            replaces_large=target.is_slo if target else False,
            etag=entry.etag or None,
            replaces_etag=(target.etag or None) if target else "",
            is_slo=entry.is_slo,
            trash=trash_key(target, self._services.trash),
        )
        try:
            self._journal.run_move(old, operation, record)
        except NotFound:
            # The listing was wrong: the next lookup asks Swift.
            self._namespace.invalidate(old)
            raise
        except CopyLost:
            self._namespace.discard_change(old)
            self._namespace.discard_change(new)
            raise
        return moved if media_type == moved.media_type else self._changes.retype(new, moved, media_type)

    def _record_move(self, task: Task, old: str, new: str, name: ObjectName, entry: Entry) -> Entry:
        """Show a move that was carried out, and return the new entry."""
        self._file_cache.moved(entry.version, name)
        # Changes of the old name were executed before the move: the entry is the result.
        moved = moved_entry(self._namespace.known(old) or entry, split(new)[1], name)
        if task.left:
            # The object that could not be deleted must not appear again: its old name counts as deleted until
            # it is.
            self._journal.watch(entry.version.name, self._pending.record_left(old, entry.version.name))
        else:
            self._namespace.record(old, None)
        self._namespace.record(new, moved)
        return moved

    def _rename_queued(
        self, old: str, new: str, source: ObjectName, moved: Entry, target: Entry | None
    ) -> bool:
        """Rename a file that is not in Swift yet at once; return whether that was possible."""
        assert moved.object is not None

        def record() -> tuple[Done, Done]:
            return self._pending.record(new, moved), self._pending.record(old, None)

        is_renamed = self._journal.rename(
            source,
            moved.object,
            new,
            record,
            Replaced(
                target.is_slo if target else False,
                (target.etag or None) if target else None,
                creates=target is None,
                trash=trash_key(target, self._services.trash),
            ),
        )
        if is_renamed and self._pending.is_sync:
            self._journal.flush([source, moved.object])
        return is_renamed

    def _rename_folder(self, old: str, new: str, moving: Entry, since: int) -> None:
        """Move a folder with its contents to a free name, or over an empty folder. The barrier is closed.

        The folder is `moving`, unless its marker has been given up `since`.
        """
        # After the barrier is closed: no change of this mount comes between this look and the move.
        target = self._namespace.find(new)
        source, destination = self._source.folder(old), self._source.folder(new)
        rename = FolderRename(old, new, source, destination, over_folder=target is not None)
        self._check_folder_rename(rename, target)
        self._hand_in_below(rename)
        with self._journal.carrying(rename) as carried:
            if carried.have_stayed(since):  # neither folder is as it was: the kernel begins again
                raise os_error(errno.ESTALE, new)
            self._directories.keep_parent(old)
            # By the old paths, at which they are shown until now.
            before = {path: self._namespace.folder_moves.pending(path) for path in carried.paths()}
            if moving.object is not None and carried.was_given_up(moving.object, since):
                moving = replace(moving, object=None)  # what is there is another client's
            if target is None and self._is_all_carried(carried, old, moving):
                renamed = self._rename_carried(carried, rename, before)
            else:
                renamed = self._move_folder(carried, rename, moving, before)
            # Before any of it can be stored: then the open files must have the entry that gets its version.
            self._open_files.renamed(renamed)
        # Afterwards: a writer that waits for disk space has its file's lock, and what is stored gives some.
        self._move_open(rename, since)
        self._inodes.move_folder(old, new)
        self._record_times(old, new, is_folder=True)

    def _record_times(self, old: str, new: str, *, is_folder: bool) -> None:
        for path in (old, new):
            self._times.filled(path)
        self._times.changed(new, is_folder=is_folder)

    def _is_all_carried(self, carried: CarriedTasks, old: str, moving: Entry) -> bool:
        """Return whether the folder and all below it is `carried`, as far as is known."""
        names = carried.names()
        return moving.object in names and self._namespace.folder_moves.has_only(old, names)

    def _rename_carried(self, carried: CarriedTasks, rename: FolderRename, before: EntriesAt) -> Renamed:
        """Rename a folder of which Swift has nothing; return the old and the new entries."""
        renamed: Renamed = []

        def record(changes: Sequence[Carried]) -> list[tuple[Done, Done]]:
            self._namespace.folder_moves.record_moved(rename.old, rename.new, ())
            self._namespace.record(rename.old, None)
            since = monotonic()
            renamed.extend(self._renamed_entries(changes, before))
            # Nothing else is in these folders: that saves the requests for their listings. A folder comes
            # before those in it.
            shown = zip(changes, renamed, strict=True)
            for change, (_, entry) in sorted(shown, key=lambda one: one[0].path):
                if entry.is_directory:
                    self._namespace.record_new_folder(change.path, entry, since)
            return self._record_carried(changes, renamed)

        carried.rename(record)
        return renamed

    def _move_folder(
        self, carried: CarriedTasks, rename: FolderRename, moving: Entry, before: EntriesAt
    ) -> Renamed:
        """Move what Swift has of a folder, and then rename what is `carried`; return the entries of that."""
        old, new, source, destination = rename.old, rename.new, rename.source, rename.target
        self._journal.flush_below(destination)
        marker = None if moving.object in carried.names() else moving.object
        is_plain = marker is not None and marker == plain_marker(source)
        new_marker = rename.new_marker if is_plain else None
        background = self._in_background(old, new)
        operation = MoveFolder(
            source.container,
            source.prefix,
            destination.container,
            destination.prefix,
            ((marker, new_marker),) if marker is not None and new_marker is not None else (),
            self._recent_below(old),
            empty=not rename.over_folder and self._namespace.folder_moves.has_just_listed(new),
            together=self._namespace.folder_moves.are_alone(old, new),
            over_folder=rename.over_folder,
            carried=carried.numbers,
            background=background,
            deleted=tuple(self._namespace.folder_moves.deleted_below(old)) if background is not None else (),
        )
        entry = _renamed_folder(moving, split(new)[1], destination, new_marker)
        renamed: Renamed = []

        def record_carried(changes: Sequence[Carried]) -> list[tuple[Done, Done]]:
            renamed.extend(self._renamed_entries(changes, before))
            return self._record_carried(changes, renamed)

        def record(task: Task) -> None:
            if task.later:
                self._record_moving(task, rename, entry)
            else:
                self._record_folder_move(task, rename, marker, entry)
            carried.rename(record_carried, task)

        self._run_folder_move(rename, operation, record)
        return renamed

    def _in_background(self, old: str, new: str) -> FolderPaths | None:
        """Return what a move needs whose objects may follow after the call; None if they may not."""
        if not self._waits_below or self._pending.is_sync:
            return None
        return FolderPaths(old, new, self._waits_below)

    def _record_moving(self, task: Task, rename: FolderRename, entry: Entry) -> None:
        """Show a folder, `entry`, at its new name; its objects move afterwards."""
        old, new = rename.old, rename.new
        self._move_cached(old, rename)
        moves = {one: one.operation for one in task.later if isinstance(one.operation, MoveObject)}
        rows = [move.row for move in moves.values() if not move.is_marker]
        moving = self._namespace.folder_moves.record_moving(old, new, rows)
        if not any(move.is_marker for move in moves.values()):
            self._namespace.record(old, None, of_folder=True)
            self._namespace.record(new, entry)
        for one, move in moves.items():
            if move.is_marker:
                moving[move.target] = (
                    self._namespace.record_left(old, move.source),
                    self._namespace.record_pending(new, entry),
                )
            if (changes := moving.get(move.target)) is not None:
                one.done = self._pending.moving(move, *changes)

    def _renamed_entries(self, changes: Sequence[Carried], before: EntriesAt) -> Renamed:
        """Return the old and the new entry of each change."""
        renamed: Renamed = []
        for change in changes:
            path, name = change.path, split(change.path)[1]
            was = before[change.old] or pending_entry(path, change.operation, self._defaults)
            assert was is not None
            if was.is_directory:
                now = _renamed_folder(was, name, self._source.folder(path), change.operation.name)
            else:
                now = moved_entry(was, name, change.operation.name)
            renamed.append((was, now))
        return renamed

    def _record_carried(self, changes: Sequence[Carried], renamed: Renamed) -> list[tuple[Done, Done]]:
        """Show changes under their new names; return the callbacks as `RecordCarried` does."""
        return [
            (
                self._pending.record(change.path, now),
                self._pending.record(change.old, None) if change.leaves else nobody_waits,
            )
            for change, (_, now) in zip(changes, renamed, strict=True)
        ]

    def _check_folder_rename(self, rename: FolderRename, target: Entry | None) -> None:
        """Raise `OSError` when POSIX, or the folder being a container, forbids the rename over `target`."""
        old, new = rename.old, rename.new
        if is_below(new, old):
            raise os_error(errno.EINVAL, new)
        if not rename.source.prefix or not rename.target.prefix:
            raise os_error(errno.EXDEV, new)
        _check_name(old, new, target)
        if target is not None:
            if not target.is_directory:
                raise os_error(errno.ENOTDIR, new)
            self._directories.refuse_unless_empty(new)

    def _hand_in_below(self, rename: FolderRename) -> None:
        """Hand in open files below the two folders, and the deletions that wait for a last close."""
        files = self._open_files.below(rename.old)
        for file in files:
            self._write_back.hand_in_changes(file)
        # Deletions that wait for a last close: the objects would move with the folder and come back under the
        # new names, or fill a target that is shown as empty.
        for file in [*files, *self._open_files.below(rename.new)]:
            if file.held_deletion is not None:
                self._write_back.free_name(file.held_deletion.name)
        if (marker := plain_marker(rename.target)) is not None:
            self._write_back.free_name(marker)  # a file may have had it

    def _run_folder_move(
        self, rename: FolderRename, operation: MoveFolder, record: Callable[[Task], None]
    ) -> None:
        """Execute a folder's move; if it fails, delete the copies that are left."""
        try:
            self._journal.run_move(rename.old, operation, record)
        except Unmoved as error:
            new = rename.new
            # The target is not as its listing showed it, or copies are left there.
            self._namespace.invalidate(new)
            self._pending.show_deleted(error.gone)
            for deletion in error.left:
                rest = deletion.name.key.removeprefix(rename.target.prefix)
                self._journal.submit(path_below(new, rest) if rest else new, deletion)
            raise

    def _recent_below(self, path: str) -> tuple[MovedObject, ...]:
        """Return what this mount has stored below a folder, or moved there: listings may lack it."""
        return tuple(
            MovedObject(entry.object.key, EMPTY if entry.is_directory else entry.etag or entry.hash)
            for entry in self._namespace.recent_below(path)
            if entry.object is not None
        )

    def _record_folder_move(
        self, task: Task, rename: FolderRename, marker: ObjectName | None, entry: Entry
    ) -> None:
        """Show a folder's move that was carried out: `entry` is the folder now, `marker` its old marker."""
        old, new = rename.old, rename.new
        self._move_cached(old, rename)
        self._namespace.folder_moves.record_moved(old, new, task.rows)
        self._namespace.record(old, None, of_folder=True)
        self._namespace.record(new, entry)
        for name in task.left:
            path = old if name == marker else path_below(old, name.key.removeprefix(rename.source.prefix))
            self._journal.watch(name, self._pending.record_left(path, name))

    def _move_open(self, rename: FolderRename, since: int) -> None:
        """Give open files below a folder their new names; the rename began when `since` had been given up."""
        for file in self._open_files.below(rename.old):
            with file.lock:
                file.since = since
                if file.entry is not None and not file.unlinked:
                    name = rename.name(file.name)
                    # One that was renamed in the journal has its new entry, which another thread may be
                    # replacing by the stored one.
                    if file.entry.object == name:
                        file.take_name(name)
                    else:
                        file.rename_object(moved_entry(file.entry, file.entry.name, name))
        self._open_files.move(rename.old, rename.new, is_folder=True)

    def _move_cached(self, path: str, rename: FolderRename) -> None:
        """Give the cached files below `path` their new names, as far as listings are in memory."""
        for entry in self._namespace.known_children(path, "") or ():
            if entry.is_directory:
                self._move_cached(join(path, entry.name), rename)
            elif entry.object is not None and entry.version.etag:
                self._file_cache.moved(entry.version, rename.name(entry.object))


def _check_name(old: str, new: str, target: Entry | None) -> None:
    """Raise `OSError` ENAMETOOLONG if `new` is a name that must not be made.

    Another client may have made it: then it can be replaced, and moved to another folder.
    """
    if target is None and split(old)[1] != split(new)[1]:
        check_new_name(new)


def _renamed_folder(moving: Entry, name: str, destination: Folder, marker: ObjectName | None) -> Entry:
    """Return the entry of a folder at its new place."""
    attributes = replace(moving.attributes, inode=folder_inode(destination))
    return replace(moving, name=name, object=marker, attributes=attributes)
