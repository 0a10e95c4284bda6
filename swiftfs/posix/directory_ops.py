"""System calls on folders (containers, markers, or implied by their children), and `unlink` in them."""

import errno
import itertools
import logging
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from cachetools import TTLCache
from msgspec import Struct
from msgspec.structs import replace

from swiftfs.concurrency import Rank, monotonic, new_lock, thread_id, unix_time_ns
from swiftfs.errors import NotFound, os_error
from swiftfs.journal.journal import HIDDEN_SECONDS
from swiftfs.journal.operations import CreateContainer, Delete, DeleteContainer, PutMarker
from swiftfs.namespace.entry import NO_TIME, Entry
from swiftfs.namespace.inodes import folder_inode
from swiftfs.objects import DIRECTORY_TYPE, Attributes, Caller
from swiftfs.paths import check_new_name, join, plain_marker, slash_marker, split
from swiftfs.posix.open_file import Changes, HeldDeletion, OpenFile
from swiftfs.posix.pending import JournaledChange, PendingChanges, trash_key
from swiftfs.posix.services import Part, Services, in_folder
from swiftfs.posix.write_back import WriteBack
from swiftfs.store.protocol import ObjectMeta
from swiftfs.store.trash_names import TrashNames

log = logging.getLogger(__name__)

MAX_NAME = 1024
"""Bytes in a name; `FUSE_NAME_MAX` of the kernel, for which a longer one makes the whole folder EIO."""

KEPT = 1000
"""Names of an open folder that stay in memory, besides the last part that was read: a page of its listing."""

AT_ONCE = 256
"""Names that `readdir` returns at most. The kernel takes 4 KiB, and since Linux 6.16 as much as the program,
mostly 32 KiB; a name takes 32 bytes with its number, and 160 with all attributes."""

Listed = tuple[str, Attributes]


class DirectoryOps(Part):
    """Creates, reads and removes folders."""

    def __init__(self, services: Services, pending: PendingChanges, write_back: WriteBack) -> None:
        super().__init__(services)
        self._pending = pending
        self._write_back = write_back
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
        self._look_in(path)
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

    def _look_in(self, path: str) -> bool:
        """Hide or show what late requests have changed in a folder; return whether any had."""
        children = self._namespace.children
        return self._journal.late.look_in(
            path, lambda names: {one.name for one in children(path) if one.name in names}
        )

    def fsyncdir(self, handle: int) -> None:
        """Return when the folder and everything closed below it is in Swift, or raise the error."""
        folder = self._source.folder(self._open[handle].path)
        if folder.prefix:
            plain = plain_marker(folder)
            self._journal.flush([*([plain] if plain else []), slash_marker(folder)])
        self._journal.flush_below(folder)
        self._journal.raise_refusal(folder)

    def releasedir(self, handle: int) -> None:
        """Close a folder."""
        self._open.pop(handle, None)

    def mkdir(self, path: str, mode: int, caller: Caller) -> None:
        """Create a folder by its marker, or at the top of an account a container."""
        with self._pending.changing(path):
            since = monotonic()
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
            self._namespace.record_new_folder(path, entry, since)
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
        is_empty = self._namespace.is_empty(path)
        # All that is there may be what a program has deleted, and a late request has brought back.
        if not is_empty and self._look_in(path):
            is_empty = self._namespace.is_empty(path)
        if not is_empty or self._open_files.unstored_in(path):
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


THREADS = 1000
"""More threads than libfuse has."""


class Hidden(Struct, frozen=True):
    """A file that was renamed from `path` to `hidden`.

    `file` is the open file, `seq` the number of its held deletion in the journal, and `change` shows that
    deletion; None if there is none.
    """

    path: str
    hidden: str
    file: OpenFile | None
    seq: int | None
    change: JournaledChange | None


class Seen(Struct, frozen=True):
    """What a look-up has found: an `entry`, and of a file that `was_open` just before that its own."""

    entry: Entry | None
    of_open_file: Entry | None
    was_open: bool


class UnlinkOps(Part):
    """Takes names away from files, and gives them back to hidden ones.

    libfuse hides a file that it counts as open before the file is unlinked, or replaced by a rename(2). In
    the second case that rename is the next call of the same thread, but the first call does not show which
    case it is. So a hidden file is deleted a moment later, and it gets its name back if the thread renames
    another file to that name: if Swift refuses the rename, the file must still be there.
    """

    def __init__(
        self, services: Services, pending: PendingChanges, write_back: WriteBack, directories: DirectoryOps
    ) -> None:
        super().__init__(services)
        self._pending = pending
        self._write_back = write_back
        self._directories = directories
        self._numbers = itertools.count(1)
        self._lock = new_lock(Rank.OPEN_FILES)
        # By the thread that has hidden it. The lock guards the table.
        self._hidden: TTLCache[int, Hidden] = TTLCache(THREADS, HIDDEN_SECONDS, monotonic)

    def unlink(self, path: str) -> None:
        """Delete a file, a link or a special file."""
        # libfuse deletes a hidden name after the last close. A file that is back has another name now.
        if self._open_files.is_alias(path) or self._open_files.replaced.is_removed(path):
            return
        with self._pending.changing(path):
            since = self._pending.begin_change()
            seen = self._look_up(path)
            with self._write_back.held_open(path) as file:
                if file is not None:
                    self._unlink_open(file, seen, self._hidden_path(path), since)
                    self._times.filled(path)
                    return
            self._directories.keep_parent(path)
            deletion = deletion_of(self._entry_of_closed(path, seen), self._services.trash)
            self._pending.submit(path, deletion, None, since=since)
            self._inodes.forget(path)
            self._times.filled(path)

    def hide(self, path: str, hidden: str) -> None:
        """Delete the file at `path` in a moment.

        It may be closed by now: libfuse counts a handle as open until after its release, and has decided
        before this call. It does not delete `hidden` then, so its object must never have that name.
        """
        since = self._pending.begin_change()
        seen = self._look_up(path)
        with self._write_back.held_open(path) as file:
            if file is not None:
                found = self._unlink_open(file, seen, hidden, since)
            elif seen.entry is None and self._open_files.replaced.shares_inode(path):
                found = self._take_name(path, hidden)  # another client has deleted it
            else:
                found = self._unlink_released(path, self._entry_of_closed(path, seen), hidden, since)
        self._open_files.replaced.hide(path, hidden)
        self._times.filled(path)
        with self._lock:
            self._hidden[thread_id()] = found

    def unhide(self, path: str) -> None:
        """Give `path` back to the file that this thread has hidden just now: a rename to it is refused."""
        with self.unhidden(path):
            pass

    @contextmanager
    def unhidden(self, path: str) -> Iterator[None]:
        """Give `path` back to the file that this thread has hidden just now: another one is renamed to it.

        A call that has deleted the file may have returned. So its deletion stays in the journal until the
        rename is recorded, and if the process dies before that the next one executes it.
        """
        with self._lock:
            hidden = self._hidden.pop(thread_id(), None)
        if hidden is None or hidden.path != path:
            yield
        elif hidden.seq is None:
            self._give_back(hidden)
            yield
        else:
            with self._journal.taking_back(hidden.seq) as is_held:
                if is_held:  # else the time was up, or its name has been used: it is deleted
                    self._give_back(hidden)
                yield

    def _give_back(self, hidden: Hidden) -> None:
        path = hidden.path
        if hidden.change is not None:
            hidden.change.rollback()
        if hidden.file is not None:
            with hidden.file.lock:
                hidden.file.unlinked, hidden.file.held_deletion, hidden.file.aliased = False, None, True
                self._open_files.move_one(hidden.file, path)
        self._open_files.add_alias(hidden.hidden, path, hidden.file)
        self._inodes.move(hidden.hidden, path)

    @contextmanager
    def replacing(self, path: str) -> Iterator[Callable[[], None]]:
        """Replace the open file at `path`, if there is one; the caller calls what this yields when it has.

        Until then the file keeps its name, but what is written to it is not stored.
        """
        with self._write_back.held_open(path) as file:
            if file is None:
                yield _nothing
                return
            with file.lock:
                file.unlinked = True
            try:
                # When its object is replaced, the missing bytes are nowhere.
                file.cached_file.ensure_all()
                yield lambda: self._move_away(file, path)
            except BaseException:
                with file.lock:
                    file.unlinked = False
                if file.changes is Changes.DIRTY:  # a close(2) may have come meanwhile
                    self._write_back.drain(file)
                raise

    def _move_away(self, file: OpenFile, path: str) -> None:
        hidden = self._hidden_path(path)
        self._open_files.move_one(file, hidden)
        self._inodes.move(path, hidden)

    def _hidden_path(self, path: str) -> str:
        """Return a path for a file that is open, but is not at `path` any more."""
        return f"{path}.fuse_hidden{next(self._numbers)}"

    def _look_up(self, path: str) -> Seen:
        opened = self._open_files.at(path)
        of_open_file = opened.entry if opened is not None else None
        entry = self._namespace.find(path)
        if entry is None and opened is None and self._journal.undo_late_requests(path):
            entry = self._namespace.find(path)
        if entry is not None and entry.is_directory:
            raise os_error(errno.EISDIR, path)
        return Seen(entry, of_open_file, opened is not None)

    def _entry_of_closed(self, path: str, seen: Seen) -> Entry:
        """Return the entry of a file that is not open any more: `seen` may be older than its close(2)."""
        entry = self._namespace.find(path) if seen.was_open else seen.entry
        if entry is None or entry.object is None:
            raise os_error(errno.ENOENT, path)
        return entry

    def _unlink_open(self, file: OpenFile, seen: Seen, hidden: str, since: int) -> Hidden:
        """Remove the name of an open file; it is now `hidden`, and its object is deleted.

        If bytes are missing locally, the object is needed until they have come: then its deletion is held
        until the last close.
        """
        path = file.path
        seq = change = None
        with file.lock:
            self._directories.keep_parent(path)
            # The file may have been handed in since, by a close(2) that still runs.
            entry = seen.entry if file.entry is seen.of_open_file else file.entry
            if entry is not None and entry.object is not None:
                deletion = deletion_of(entry, self._services.trash)
                # What is here must stay: when the object is gone it can be downloaded no more.
                file.cached_file.keep_all()
                until_closed = not file.cached_file.is_complete()
                # By the ETag alone, the same bytes that another client stores meanwhile would be deleted.
                deletion = replace(deletion, modified=entry.last_modified if until_closed else "")
                # Committed at once: if the process dies the file is not open any more, and must not come
                # back.
                seq, change = self._pending.hold(path, deletion, until_closed=until_closed, since=since)
                file.held_deletion = HeldDeletion(seq, entry.object)
            file.unlinked = True
            self._open_files.move_one(file, hidden)
        self._inodes.move(path, hidden)
        return Hidden(path, hidden, file, seq, change)

    def _take_name(self, path: str, hidden: str) -> Hidden:
        self._inodes.move(path, hidden)
        return Hidden(path, hidden, None, None, None)

    def _unlink_released(self, path: str, entry: Entry, hidden: str, since: int) -> Hidden:
        self._directories.keep_parent(path)
        deletion = deletion_of(entry, self._services.trash)
        seq, change = self._pending.hold(path, deletion, until_closed=False, since=since)
        return replace(self._take_name(path, hidden), seq=seq, change=change)


def deletion_of(entry: Entry, trash: TrashNames) -> Delete:
    """Return the operation that deletes a file's object, and puts it into the `trash` before."""
    assert entry.object is not None
    # A DLO is no SLO, but may have segments too: unknown means that the object is looked at.
    is_slo = None if entry.meta is not None and entry.meta.is_dlo else entry.is_slo
    return Delete(entry.object, is_slo, entry.etag or None, trash=trash_key(entry, trash))


def _nothing() -> None:
    """Do nothing: no open file is replaced."""
