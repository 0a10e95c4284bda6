"""Pending changes: the namespace shows them, and the journal stores them in Swift.

Calls cannot change the paths of older versions, nor the trash: `swiftfs trash` does that.
"""

import errno
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial
from itertools import islice

from cachetools import TTLCache
from msgspec.structs import replace

from swiftfs.attributes import decode_metadata
from swiftfs.concurrency import Rank, monotonic, new_lock
from swiftfs.errors import NotFound, StoreError, SwiftfsError, os_error
from swiftfs.journal.moves import etag_of
from swiftfs.journal.operations import (
    Delete,
    Move,
    MoveFolder,
    MoveObject,
    Operation,
    PutFile,
    PutMarker,
    PutSpecial,
    ReplaceHeaders,
    SetAttributes,
    names_of,
)
from swiftfs.journal.sleeping_tasks import SleepingTask
from swiftfs.journal.tasks import Done, Failure, Mode, nobody_waits
from swiftfs.namespace.entry import Defaults, Entry, Shown, implied_entry, moved_entry, packed
from swiftfs.namespace.inodes import folder_inode, recent_inode_of
from swiftfs.namespace.namespace import Namespace
from swiftfs.namespace.pending_change import PendingChange
from swiftfs.objects import History, ObjectInfo, ObjectName, ObjectVersion, Row
from swiftfs.paths import VERSIONS_FOLDER, Folder, join, split
from swiftfs.posix.open_files import OpenFiles
from swiftfs.posix.services import Part, Services
from swiftfs.store.object_meta import ObjectMeta
from swiftfs.store.trash_names import TrashNames, is_in_trash

MOST_FOLDERS = 1000
"""How many folders are remembered to have no `.versions` of another client."""

VERSIONS = re.compile(rf"/{re.escape(VERSIONS_FOLDER)}(?=/|$)")
"""Finds the folder of versions in a path."""

PART = f"/{VERSIONS_FOLDER}"
"""Part of every path in which `VERSIONS` finds something."""


class ProtectedPaths:
    """Knows which paths are protected. Other paths pass, at the cost of a search in their text.

    The lock guards which folders were seen to have no `.versions` of another client.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._has_trash = bool(services.trash.days)
        self._lock = new_lock(Rank.USAGE)
        self._without_real: TTLCache[str, None] = TTLCache(MOST_FOLDERS, services.options.ttl, monotonic)

    def refuse_change(self, *paths: str) -> None:
        """Raise `OSError` EROFS if one of the paths is about older versions, EPERM if one is in the trash.

        Without the option `trash` a folder of that name is an ordinary one.
        """
        for path in paths:
            if self.are_versions(path):
                raise os_error(errno.EROFS, path)
            if self._has_trash and is_in_trash(path, self._services.source):
                raise os_error(errno.EPERM, path)

    def are_versions(self, path: str) -> bool:
        """Return whether a path is about older versions.

        It is if the container keeps them, unless another client has made a file or folder `.versions`. Raise
        `StoreError` if there is none, and Swift does not say whether the container keeps versions.
        """
        if PART not in path or (found := VERSIONS.search(path)) is None:
            return False
        folder = path[: found.start()] or "/"
        container = self._services.source.folder(folder).container
        if not container:
            return False
        failure: StoreError | None = None
        try:
            if self._services.histories.of(container) is not History.KEPT:
                return False
        except StoreError as error:
            failure = error
        if self._has_real_one(folder):
            return False
        if failure is not None:
            raise failure
        return True

    def _has_real_one(self, folder: str) -> bool:
        """Return whether a file or folder `.versions` exists; in a huge folder that costs requests."""
        with self._lock:
            if folder in self._without_real:
                return False
        if self._services.namespace.find(join(folder, VERSIONS_FOLDER)) is not None:
            return True
        with self._lock:
            self._without_real[folder] = None
        return False


MOST_UNLISTED = 100
"""How many moved objects that no known row shows are looked up after a move, by a HEAD each."""

SUPERSEDE_SECONDS = 0.5
"""How long a deletion waits for a change that may replace it, which comes within milliseconds."""


class JournaledChange:
    """A change that is shown in the mount and is in the journal, which calls it once with the outcome.

    `error` is why the change was given up, None before that.
    """

    __slots__ = ("_open_files", "_pending", "error")

    def __init__(self, pending: PendingChange, open_files: OpenFiles) -> None:
        self.error: Failure | None = None
        self._pending = pending
        self._open_files = open_files

    # A method of its own would be one object more for each change that waits.
    def __call__(self, outcome: ObjectInfo | Failure | None) -> None:
        """Confirm the change, with Swift's answer about a stored object, or roll it back."""
        entry = self._pending.entry
        if isinstance(outcome, Exception):  # the journal logs it, or `submit` raises it
            self.error = outcome
            self._pending.rollback()
        elif outcome is None or entry is None or entry.is_directory:
            self._pending.confirm(entry)
        else:
            stored = stored_entry(entry, outcome)
            self._pending.confirm(stored)
            # The next hand-in of an open file must name the version that Swift has now.
            self._open_files.stored(entry, stored)

    def keep(self) -> None:
        """Forget the state before: the journal has accepted the change."""
        self._pending.keep()

    def rollback(self) -> None:
        """Show the state before again: the journal did not accept the change, or has dropped it."""
        # That may be an earlier pending change.
        self._pending.take_back()


class ExpectedChange:
    """The same for the file at `path` that an earlier process left, which may not be shown yet."""

    __slots__ = ("_change", "_namespace", "_open_files", "_path")

    def __init__(self, namespace: Namespace, open_files: OpenFiles, path: str) -> None:
        self._namespace, self._open_files, self._path = namespace, open_files, path
        self._change: JournaledChange | None = None

    def __call__(self, outcome: ObjectInfo | Failure | None) -> None:
        """Do what `JournaledChange` does."""
        if self._change is None:
            pending = self._namespace.take_expected(self._path)
            self._change = JournaledChange(pending, self._open_files)
        self._change(outcome)


class PendingChanges(Part):
    """Shows changes in the mount and hands them in to the journal, which stores them in Swift."""

    def __init__(self, services: Services, protected: ProtectedPaths) -> None:
        super().__init__(services)
        self.refuse_change = protected.refuse_change

    @property
    def is_sync(self) -> bool:
        """True if each call returns only when its change is in Swift: there is no write delay."""
        return self._journal.mode is Mode.SYNC

    def changing(self, *paths: str) -> AbstractContextManager[None]:
        """Return the context of a change about `paths`, in which no folder above them moves.


        Raise `OSError` EROFS or EPERM if one is protected. The context raises ENOENT if the folder of one has
        moved away while it waited.
        """
        self.refuse_change(*paths)

        def look() -> None:
            for path in paths:
                self._namespace.lookup(split(path)[0], complete=False)

        return self._open_files.barrier.passing(lambda: paths, look)

    def look_up(self, path: str) -> Entry:
        """Return the entry of `path`. If a late request has deleted its object, that is undone first."""
        try:
            return self._namespace.lookup(path)
        except FileNotFoundError:
            if not self._journal.undo_late_requests(path):
                raise
            return self._namespace.lookup(path)

    def begin_change(self) -> int:
        """Return the `since` of a change of an object; call this before looking at what is to be changed."""
        return self._journal.given_up.count

    def submit(
        self,
        path: str,
        operation: Operation,
        entry: Entry | None,
        *,
        later: bool = False,
        since: int | None = None,
    ) -> None:
        """Show `entry` at `path` from now on (None for nothing), and submit `operation`, which stores that.

        Without a write delay the operation is executed before this returns, and its failure is raised. With
        `later` it may still wait, because another change is expected to replace it. With a write
        delay a failure is logged, and the state before is shown again. Raise `OSError` if the journal cannot
        be written, or ESTALE if what is changed has been given up `since`: then nothing has changed.
        """
        # Shown first: the journal may execute the operation, and report that, before `submit` returns.
        deleted = operation.name if isinstance(operation, Delete) else None
        change = JournaledChange(
            self._namespace.record_pending(path, entry, deleted=deleted), self._open_files
        )
        at_least = SUPERSEDE_SECONDS if later else 0.0
        try:
            waits = self._journal.submit(path, operation, change, at_least=at_least, since=since)
        except OSError:
            change.rollback()
            raise
        # It cancelled a change that Swift does not have either.
        if not waits:
            change(None)
        elif self.is_sync and not later:
            self.flush_or_withdraw(names_of(operation)[0])
            if change.error is not None:  # another thread executed it, and the flush found nothing to do
                self._journal.raise_refusal(names_of(operation)[0])
                raise change.error

    def flush_or_withdraw(self, name: ObjectName) -> None:
        """Execute the change of `name` now. If it fails, give it up, as `withdraw` does, and raise."""
        try:
            self._journal.flush([name])
        except (SwiftfsError, OSError) as error:
            self._journal.withdraw(name, error)
            raise

    def hold(
        self, path: str, deletion: Delete, *, until_closed: bool, since: int
    ) -> tuple[int, JournaledChange]:
        """Show nothing at `path` from now on, and hold the deletion; arguments and errors as `Journal.hold`.

        Return the number of the deletion, and the change, which is called with its outcome.
        """
        change = self.record(path, None)
        try:
            seq = self._journal.hold(path, deletion, change, until_closed=until_closed, since=since)
        except OSError:
            change.rollback()
            raise
        return seq, change

    def record(self, path: str, entry: Shown | None) -> JournaledChange:
        """Show `entry` at `path` from now on (None for nothing); the caller submits it to the journal."""
        return JournaledChange(self._namespace.record_pending(path, entry), self._open_files)

    def record_left(self, path: str, name: ObjectName) -> JournaledChange:
        """Show that `path` was moved, although its object stays until the journal has deleted it."""
        return JournaledChange(self._namespace.record_left(path, name), self._open_files)

    def show_deleted(self, copies: Iterable[ObjectName]) -> None:
        """Show that copies of a rename that has failed were deleted again, although listings may lag."""
        for name in copies:
            path = self._services.source.path(replace(name, key=name.key.removesuffix("/")))
            if path is not None:
                self.record_left(path, name)(None)

    def moving(self, move: MoveObject, old: PendingChange, new: PendingChange | None) -> Done:
        """Return the journal's callback for an object that moves in the background, with both its changes."""
        gone = JournaledChange(old, self._open_files)
        there = JournaledChange(new, self._open_files) if new is not None else nobody_waits
        old.begin_move()

        def end(outcome: ObjectInfo | Failure | None) -> None:
            old.end_move()
            there(outcome)
            if isinstance(outcome, Exception):
                gone(outcome)
                self._open_files.stayed(ObjectVersion(move.target, etag_of(move.row)), move.source)
                self._namespace.invalidate(move.part_of.old)  # the folder is there again
            else:  # the object may be left there
                self._journal.watch(move.source, gone)

        return end

    def recovered(self, path: str, operation: Operation) -> Done:
        """Show again a change that an earlier process left; return the journal's callback for the outcome."""
        if isinstance(operation, MoveObject):
            new = operation.part_of.renamed(path)
            row = replace(operation.row, key=operation.target.key)
            entry = self._namespace.folder_moves.entry_of(new, row)
            # Counts if it stays at its old name: listings may not show yet that it came there.
            if (before := self._namespace.folder_moves.entry_of(path, operation.row)) is not None:
                self._namespace.record(path, before)
                if entry is not None and not entry.is_directory:
                    entry = moved_entry(before, entry.name, operation.target)
            there = self._namespace.record_pending(new, entry, moved=True) if entry is not None else None
            return self.moving(operation, self._namespace.record_left(path, operation.source), there)
        if isinstance(operation, SetAttributes | ReplaceHeaders):
            return self._defer_attributes(path, operation)
        # A folder without a marker must not be shown either if this was all in it: it was removed too, or its
        # marker is in the journal.
        if isinstance(operation, Delete):
            return self.record_left(path, operation.name)
        entry = pending_entry(path, operation, self._defaults)
        if entry is None:
            return lambda _outcome: self._namespace.invalidate(path)
        return self.record(path, packed(entry, is_held=False))

    def expect(self, waiting: Iterable[SleepingTask]) -> None:
        """Show files that an earlier process left, when their folders are looked at."""
        folders = defaultdict[str, list[SleepingTask]](list)
        for one in waiting:
            folders[split(one.path)[0]].append(one)
        for folder, files in folders.items():
            self._namespace.expect(folder, map(self._entry_of, files))

    def _entry_of(self, waiting: SleepingTask) -> Shown:
        entry = pending_entry(waiting.path, waiting.operation, self._defaults)
        assert entry is not None
        return packed(entry, is_held=False)

    def expected(self, path: str) -> Done:
        """Return the journal's callback for such a file."""
        return ExpectedChange(self._namespace, self._open_files, path)

    def show_moved(self, path: str, operation: Move | MoveFolder, rows: Sequence[Row]) -> str | None:
        """Show a move of `path` that was finished at the start; `rows` are the old ones of what it moved.

        Listings may show the old names, and not yet the new ones. Return the new path of a folder.
        """
        known: set[ObjectName | None] = set()
        new = None
        if isinstance(operation, MoveFolder):
            new = self._source.path(ObjectName(operation.target_container, operation.target))
            if new is not None:
                self._namespace.folder_moves.record_moved(path, new, rows)
                known = {entry.object for entry in self._namespace.recent_below(new)}
                if known:
                    folder = self._source.folder(new)
                    self._namespace.record(new, implied_entry(split(new)[1], folder, self._defaults))
        self._namespace.record(path, None, of_folder=isinstance(operation, MoveFolder))
        unknown = (name for name in _targets(operation) if name not in known)
        with suppress(StoreError):  # listings will show it
            for name in islice(unknown, MOST_UNLISTED):
                with suppress(NotFound):
                    self._namespace.record_stored(self._store.head(name))
        return new

    def _defer_attributes(self, path: str, operation: SetAttributes | ReplaceHeaders) -> Done:
        """Show new attributes of `path` when it is looked up."""
        if path == "/":
            self._namespace.record_root(self._with_attributes(operation, self._namespace.lookup(path)))
            return nobody_waits
        deferred = self._namespace.defer(path, partial(self._with_attributes, operation))

        def settle(outcome: ObjectInfo | Failure | None) -> None:
            is_made = not isinstance(outcome, Exception)
            pending = self._namespace.take_deferred(path, deferred, is_made=is_made)
            if pending is not None:
                JournaledChange(pending, self._open_files)(outcome)

        return settle

    def _with_attributes(self, operation: SetAttributes | ReplaceHeaders, entry: Entry) -> Entry:
        if isinstance(operation, ReplaceHeaders):
            stored, meta = decode_metadata(operation.headers.metadata), ObjectMeta.of(operation.headers)
        else:
            stored, meta = operation.meta.stored, operation.meta
        attributes = self._defaults.apply(entry.attributes, stored)
        # A listing will show the time of this change. A folder's time shows that its marker was listed.
        last_modified = entry.last_modified if entry.is_directory else ""
        return replace(entry, attributes=attributes, meta=meta, last_modified=last_modified)


def _targets(operation: Move | MoveFolder) -> Iterator[ObjectName]:
    """Yield the new names of a move without markers that end in a slash; the folder's marker is the last."""
    if isinstance(operation, Move):
        yield operation.target
        return
    below = (operation.target_of(one.key) for one in operation.objects or ())
    yield from (name for name in below if not name.key.endswith("/"))
    # The markers last: what is below shows that there is a folder, but not its attributes.
    yield from (target for _, target in operation.markers if not target.key.endswith("/"))


def stored_entry(entry: Entry, info: ObjectInfo) -> Entry:
    """Return the entry of a file as a listing will show it, now that Swift has stored it."""
    etag = info.version.etag
    meta = entry.meta or ObjectMeta(entry.media_type).inherit(info)
    # The file may have grown or shrunk between its close and the upload.
    attributes = replace(entry.attributes, size=info.size)
    listed = "" if info.is_slo else etag
    return replace(entry, attributes=attributes, etag=etag, hash=listed, is_slo=info.is_slo, meta=meta)


def trash_key(entry: Entry | None, trash: TrashNames) -> str:
    """Return the key in the trash for the object of a file; empty if it is not kept."""
    if entry is None or entry.object is None or entry.is_directory or entry.missing:
        return ""
    # A listing shows a DLO as empty.
    is_dlo = entry.meta is not None and entry.meta.is_dlo
    return trash.entry_of(entry.object, entry.attributes.size or int(is_dlo))


def unstored_entry(
    path: str,
    name: ObjectName,
    size: int,
    meta: ObjectMeta,
    defaults: Defaults,
    *,
    foreign_headers_unknown: bool = False,
) -> Entry:
    """Return the entry of a file of `size` bytes that is not in Swift yet; arguments as in `PutFile`."""
    if ";" in meta.media_type or meta.stored.target is not None:  # a listing may show less than was sent
        meta = ObjectMeta.of(meta.headers())
    return Entry(
        split(path)[1],
        name,
        defaults.stored_file(size, 0, recent_inode_of(name), meta.stored),
        media_type=meta.media_type,
        target=meta.stored.target,
        is_slo=None,
        meta=None if foreign_headers_unknown else meta,
    )


def pending_entry(path: str, operation: Operation, defaults: Defaults) -> Entry | None:
    """Return the entry of `path` after `operation`, None if the operation alone does not determine it."""
    match operation:
        case PutFile():
            size, unknown = operation.file.size, operation.foreign_headers_unknown
            return unstored_entry(
                path, operation.name, size, operation.meta, defaults, foreign_headers_unknown=unknown
            )
        case PutSpecial():
            return unstored_entry(path, operation.name, len(operation.body), operation.meta, defaults)
        case PutMarker():
            folder = Folder(operation.name.container, operation.name.key.removesuffix("/") + "/")
            attributes = defaults.apply(
                defaults.directory(folder_inode(folder)), decode_metadata(operation.headers.metadata)
            )
            return Entry(split(path)[1], operation.name, attributes, meta=ObjectMeta.of(operation.headers))
    return None
