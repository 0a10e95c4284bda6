"""`unlink`, also of open files, and what libfuse makes of it: a rename to `.fuse_hidden…`.

libfuse hides a file that it counts as open before the file is unlinked, or replaced by a rename(2). In the
second case that rename is the next call of the same thread, but the first call does not show which case it
is. So a hidden file is deleted a moment later, and it gets its name back if the thread renames another file
to that name: if Swift refuses the rename, the file must still be there.
"""

import errno
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cachetools import TTLCache
from msgspec import Struct
from msgspec.structs import replace

from swiftfs.concurrency import Rank, monotonic, new_lock, thread_id
from swiftfs.errors import os_error
from swiftfs.journal.journal import HIDDEN_SECONDS
from swiftfs.journal.operations import Delete
from swiftfs.namespace.entry import Entry
from swiftfs.posix.directory_ops import DirectoryOps
from swiftfs.posix.open_file import Changes, HeldDeletion, OpenFile
from swiftfs.posix.pending import JournaledChange, PendingChanges, trash_key
from swiftfs.posix.services import Services
from swiftfs.posix.write_back import WriteBack
from swiftfs.store.trash_names import TrashNames

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
    """What a look-up has found: the `entry` of a path, and just before that the one of the open file.

    `was_open` is whether there was one.
    """

    entry: Entry | None
    of_open_file: Entry | None
    was_open: bool


class UnlinkOps:
    """Takes names away from files, and gives them back to hidden ones."""

    def __init__(
        self, services: Services, pending: PendingChanges, write_back: WriteBack, directories: DirectoryOps
    ) -> None:
        self._namespace = services.namespace
        self._journal = services.journal
        self._open_files = services.open_files
        self._pending = pending
        self._write_back = write_back
        self._directories = directories
        self._inodes = services.inodes
        self._times = services.times
        self._trash = services.trash
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
            deletion = deletion_of(self._entry_of_closed(path, seen), self._trash)
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
        """Return the entry of a file that is not open, or not any more.

        What a look-up has found may be older than a close(2) that came during it.
        """
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
                deletion = deletion_of(entry, self._trash)
                # What is here must stay: when the object is gone it can be downloaded no more.
                file.cached_file.pin()
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
        deletion = deletion_of(entry, self._trash)
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
