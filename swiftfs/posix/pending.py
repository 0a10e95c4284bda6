"""Changes that were promised: the namespace and the journal have them at once, Swift in a moment."""

from dataclasses import replace
from functools import partial

from swiftfs.attributes import decode_metadata, decode_type
from swiftfs.concurrency import monotonic
from swiftfs.errors import SwiftfsError
from swiftfs.journal.operations import (
    Delete,
    Description,
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
from swiftfs.namespace.overlay import LocalChange
from swiftfs.objects import ObjectInfo, ObjectName
from swiftfs.paths import Folder, split
from swiftfs.posix.open_files import OpenFiles
from swiftfs.posix.services import Services
from swiftfs.store.protocol import Headers

SUPERSEDE_SECONDS = 0.5
"""How long a deletion waits for the rename that makes it needless, which comes within milliseconds."""


RECALL_SECONDS = 1.0
"""How long the start of a mount asks Swift what described files are: each folder of them costs a listing."""


class PendingChanges:
    """Hands changes to the journal, and tells the namespace what became of them."""

    def __init__(self, rooms: Services, table: OpenFiles) -> None:
        self._services = rooms
        self._namespace = rooms.namespace
        self._journal = rooms.journal
        self._table = table
        self._recalling = 0.0

    def submit(self, path: str, intent: Operation, entry: Entry | None, *, later: bool = False) -> None:
        """Let `path` be `entry` from now on, or nothing, which `intent` makes true in Swift.

        Where nothing settles it is executed before this returns, unless it may come `later` because another
        change is about to make it needless; a failure is raised then, and later it is logged: what was there
        is there again. Raise `OSError` when the disk does not take the change.
        """
        settled, change = self.record(path, entry)
        failures: list[Failure] = []

        def done(outcome: ObjectInfo | Failure | None) -> None:
            if isinstance(outcome, Exception):
                failures.append(outcome)
            settled(outcome)

        try:
            waits = self._journal.submit(path, intent, done, at_least=SUPERSEDE_SECONDS if later else 0.0)
        except OSError:
            self._namespace.rollback(path, change)
            raise
        if not waits:
            self._namespace.confirm(path, change)
        elif self._journal.mode is Mode.SYNC and not later:
            self.flush_or_withdraw(names_of(intent)[0])
            if failures:  # another thread was faster, and nothing was left to see to
                raise failures[0]

    def flush_or_withdraw(self, name: ObjectName) -> None:
        """Have the change of `name` executed; when that fails it is given up, and the failure is raised."""
        try:
            self._journal.flush([name])
        except (SwiftfsError, OSError) as error:
            self._journal.withdraw(name, error)
            raise

    def record(self, path: str, entry: Entry | None) -> tuple[Done, LocalChange]:
        """Let `path` be `entry` from now on; return what must be told how that went, and the change."""
        change = self._namespace.record(path, entry, pending=True)
        return partial(self._settled, path, change), change

    def recovered(self, path: str, intent: Operation) -> Done:
        """Let `path` be again what an earlier process promised; return what is told how it went.

        Of many files whose description waits, some show the old one until Swift has the new one.
        """
        entry = pending_entry(path, intent, self._services.defaults)
        if isinstance(intent, SetAttributes | ReplaceHeaders):
            entry = self._described(path, intent)
        if entry is None and not isinstance(intent, Delete):
            return lambda _outcome: self._namespace.invalidate(path)
        return self.record(path, entry)[0]

    def _described(self, path: str, intent: SetAttributes | ReplaceHeaders) -> Entry | None:
        """Return what is at `path` as it will be described; None when that cannot be said now, or in time."""
        if self._recalling >= RECALL_SECONDS:
            return None
        began = monotonic()
        try:
            entry = self._namespace.lookup(path)
        except (SwiftfsError, OSError):
            return None
        finally:
            self._recalling += monotonic() - began
        if isinstance(intent, ReplaceHeaders):
            stored, headers = decode_metadata(intent.headers.metadata), intent.headers
        else:
            sent = intent.description.headers()
            stored = intent.description.stored
            headers = Headers(intent.description.media_type, sent.metadata, sent.preserved_headers)
        attributes = self._services.defaults.apply(entry.attributes, stored)
        return replace(entry, attributes=attributes, headers=headers)

    def _settled(self, path: str, change: LocalChange, outcome: ObjectInfo | Failure | None) -> None:
        if isinstance(outcome, Exception):  # the journal logs it, or it is raised
            self._namespace.rollback(path, change)
        elif outcome is None or change.entry is None or change.entry.is_directory:
            self._namespace.confirm(path, change)
        else:
            entry = stored_entry(change.entry, outcome)
            self._namespace.confirm(path, change, entry)
            self._table.stored(change.entry, entry)


def stored_entry(entry: Entry, info: ObjectInfo) -> Entry:
    """Return the entry of a file as a listing will show it, now that Swift has stored it."""
    etag = info.version.etag
    headers = entry.headers or Headers(entry.media_type, info.metadata, info.preserved_headers)
    return replace(entry, etag=etag, hash="" if info.is_slo else etag, is_slo=info.is_slo, headers=headers)


def file_change(
    path: str,
    name: ObjectName,
    size: int,
    description: Description,
    defaults: Defaults,
    *,
    foreign_headers_unknown: bool = False,
) -> Entry:
    """Return the entry of a file of `size` bytes that Swift has not got yet; `inherit` as in `PutFile`."""
    media_type, stored = description.media_type, description.stored
    if ";" in media_type or stored.target is not None:  # a listing may show something else than was sent
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


def pending_entry(path: str, intent: Operation, defaults: Defaults) -> Entry | None:
    """Return what `path` is when `intent` is executed, None when it does not say."""
    match intent:
        case PutFile():
            size, inherit = intent.file.size, intent.foreign_headers_unknown
            return file_change(
                path, intent.name, size, intent.description, defaults, foreign_headers_unknown=inherit
            )
        case PutSpecial():
            return file_change(path, intent.name, len(intent.body), intent.description, defaults)
        case PutMarker():
            folder = Folder(intent.name.container, intent.name.key.removesuffix("/") + "/")
            attributes = defaults.apply(
                defaults.directory(folder_inode(folder)), decode_metadata(intent.headers.metadata)
            )
            return Entry(split(path)[1], intent.name, attributes, headers=intent.headers)
    return None
