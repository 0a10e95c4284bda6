"""Pending changes: the namespace shows them, and the journal stores them in Swift."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from swiftfs.attributes import decode_metadata, decode_type
from swiftfs.concurrency import monotonic
from swiftfs.errors import SwiftfsError
from swiftfs.journal.operations import (
    Delete,
    Description,
    Move,
    MoveFolder,
    Operation,
    PutFile,
    PutMarker,
    PutSpecial,
    ReplaceHeaders,
    SetAttributes,
    names_of,
)
from swiftfs.journal.tasks import Done, Failure, Mode
from swiftfs.namespace.entry import Defaults, Entry, folder_inode, inode_of
from swiftfs.namespace.overlay import PendingChange
from swiftfs.objects import ObjectInfo, ObjectName
from swiftfs.paths import Folder, split
from swiftfs.posix.open_files import OpenFiles
from swiftfs.posix.services import Services
from swiftfs.store.protocol import Headers

SUPERSEDE_SECONDS = 0.5
"""How long a deletion waits for a change that may replace it, which comes within milliseconds."""

RECALL_SECONDS = 1.0
"""Seconds that the start of a mount spends on lookups of files with pending attributes: each folder of them
costs a listing."""


class JournaledChange:
    """A change that is shown in the mount and is in the journal, which calls `settle` once with the outcome.

    `error` is why the change was given up, None before that.
    """

    def __init__(self, pending: PendingChange, open_files: OpenFiles) -> None:
        self.error: Failure | None = None
        self._pending = pending
        self._open_files = open_files

    def settle(self, outcome: ObjectInfo | Failure | None) -> None:
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
            self._open_files.stored(entry, stored)

    def rollback(self) -> None:
        """Show the state before again, because the journal did not accept the change."""
        self._pending.rollback()


class PendingChanges:
    """Shows changes in the mount and hands them in to the journal, which stores them in Swift."""

    def __init__(self, services: Services, open_files: OpenFiles) -> None:
        self._services = services
        self._namespace = services.namespace
        self._journal = services.journal
        self._open_files = open_files
        self._lookup_seconds = 0.0

    @property
    def is_sync(self) -> bool:
        """True if each call returns only when its change is in Swift: there is no write delay."""
        return self._journal.mode is Mode.SYNC

    @contextmanager
    def changing(self, *paths: str) -> Iterator[None]:
        """Make a change about `paths` while no folder above them moves.

        Raise `OSError` ENOENT if the folder of one has moved away while this waited.
        """
        with self._open_files.barrier.passing(lambda: paths) as waited:
            if waited:
                for path in paths:
                    self._namespace.lookup(split(path)[0], complete=False)
            yield

    def submit(self, path: str, operation: Operation, entry: Entry | None, *, later: bool = False) -> None:
        """Show `entry` at `path` from now on (None for nothing), and submit `operation`, which stores that.

        Without a write delay the operation is executed before this returns, and its failure is raised. With
        `later` it may still wait, because another change is expected to replace it. With a write
        delay a failure is logged, and the state before is shown again. Raise `OSError` if the journal cannot
        be written: then nothing has changed.
        """
        change = self.record(path, entry)
        at_least = SUPERSEDE_SECONDS if later else 0.0
        try:
            waits = self._journal.submit(path, operation, change.settle, at_least=at_least)
        except OSError:
            change.rollback()
            raise
        if not waits:
            change.settle(None)
        elif self.is_sync and not later:
            self.flush_or_withdraw(names_of(operation)[0])
            if change.error is not None:  # another thread executed it, and the flush found nothing to do
                raise change.error

    def flush_or_withdraw(self, name: ObjectName) -> None:
        """Execute the change of `name` now. If it fails, give it up, as `withdraw` does, and raise."""
        try:
            self._journal.flush([name])
        except (SwiftfsError, OSError) as error:
            self._journal.withdraw(name, error)
            raise

    def record(self, path: str, entry: Entry | None) -> JournaledChange:
        """Show `entry` at `path` from now on (None for nothing); the caller submits it to the journal."""
        return JournaledChange(self._namespace.record_pending(path, entry), self._open_files)

    def recovered(self, path: str, operation: Operation) -> Done:
        """Show again a change that an earlier process left; return the journal's callback for the outcome.

        A move is finished by then: its old name is shown as gone, which listings may not show yet.
        If new attributes of many files are pending, some files show the old ones until Swift has the new
        ones: the lookups would take longer than `RECALL_SECONDS`.
        """
        entry = pending_entry(path, operation, self._services.defaults)
        if isinstance(operation, SetAttributes | ReplaceHeaders):
            entry = self._described_entry(path, operation)
        if isinstance(operation, Move | MoveFolder):
            self._namespace.invalidate_all()  # a lookup above may have listed what has moved
        elif entry is None and not isinstance(operation, Delete):
            return lambda _outcome: self._namespace.invalidate(path)
        return self.record(path, entry).settle

    def _described_entry(self, path: str, operation: SetAttributes | ReplaceHeaders) -> Entry | None:
        """Return the entry of `path` with its new attributes; None if it cannot be looked up in time."""
        if self._lookup_seconds >= RECALL_SECONDS:
            return None
        begun = monotonic()
        try:
            entry = self._namespace.lookup(path)
        except (SwiftfsError, OSError):
            return None
        finally:
            self._lookup_seconds += monotonic() - begun
        if isinstance(operation, ReplaceHeaders):
            stored, headers = decode_metadata(operation.headers.metadata), operation.headers
        else:
            sent = operation.description.headers()
            stored = operation.description.stored
            headers = Headers(operation.description.media_type, sent.metadata, sent.preserved_headers)
        attributes = self._services.defaults.apply(entry.attributes, stored)
        return replace(entry, attributes=attributes, headers=headers)


def stored_entry(entry: Entry, info: ObjectInfo) -> Entry:
    """Return the entry of a file as a listing will show it, now that Swift has stored it."""
    etag = info.version.etag
    headers = entry.headers or Headers(entry.media_type, info.metadata, info.preserved_headers)
    return replace(entry, etag=etag, hash="" if info.is_slo else etag, is_slo=info.is_slo, headers=headers)


def unstored_entry(
    path: str,
    name: ObjectName,
    size: int,
    description: Description,
    defaults: Defaults,
    *,
    foreign_headers_unknown: bool = False,
) -> Entry:
    """Return the entry of a file of `size` bytes that is not in Swift yet; arguments as in `PutFile`."""
    media_type, stored = description.media_type, description.stored
    if ";" in media_type or stored.target is not None:  # a listing may show less than was sent
        media_type, stored = decode_type(description.headers().content_type)
    attributes = defaults.apply(defaults.file(size, 0, inode_of(name)), stored)
    headers = (
        None
        if foreign_headers_unknown
        else Headers(description.media_type, description.sent_metadata(), description.preserved_headers)
    )
    return Entry(
        split(path)[1],
        name,
        attributes,
        media_type=media_type,
        target=stored.target,
        is_slo=None,
        headers=headers,
    )


def pending_entry(path: str, operation: Operation, defaults: Defaults) -> Entry | None:
    """Return the entry of `path` after `operation`, None if the operation alone does not determine it."""
    match operation:
        case PutFile():
            size, unknown = operation.file.size, operation.foreign_headers_unknown
            return unstored_entry(
                path, operation.name, size, operation.description, defaults, foreign_headers_unknown=unknown
            )
        case PutSpecial():
            return unstored_entry(path, operation.name, len(operation.body), operation.description, defaults)
        case PutMarker():
            folder = Folder(operation.name.container, operation.name.key.removesuffix("/") + "/")
            attributes = defaults.apply(
                defaults.directory(folder_inode(folder)), decode_metadata(operation.headers.metadata)
            )
            return Entry(split(path)[1], operation.name, attributes, headers=operation.headers)
    return None
