"""Open files: their bytes, and how they come to the journal."""

import errno
import logging
import os
from contextlib import suppress
from dataclasses import replace

from swiftfs.attributes import Stored, guess_type
from swiftfs.concurrency import unix_time_ns
from swiftfs.errors import NotFound, PreconditionFailed, StoreError, SwiftfsError, os_error
from swiftfs.filecache.block_map import BaseVersion
from swiftfs.filecache.cached_file import Fill
from swiftfs.journal.operations import Description, PutFile
from swiftfs.namespace.entry import Entry
from swiftfs.objects import Attributes, FileSpan, ObjectName
from swiftfs.posix.open_files import OpenFile, OpenFiles
from swiftfs.posix.pending import PendingChanges, file_change
from swiftfs.posix.prefetch import Prefetch, version_of
from swiftfs.posix.services import Services
from swiftfs.store.protocol import Headers

log = logging.getLogger(__name__)


class FileOps:
    """Opens, reads and writes files."""

    def __init__(self, rooms: Services, promises: PendingChanges, table: OpenFiles) -> None:
        self._services = rooms
        self._pending = promises
        self._journal = rooms.journal
        self.table = table
        self._contents = rooms.contents
        self._prefetch = Prefetch(rooms.namespace, self._contents, table, rooms.options)

    def create(self, path: str, name: ObjectName, attributes: Attributes, flags: int) -> int:
        """Open a new, empty file; the journal gets it when it is flushed."""
        content = self._contents.new(name, None)
        description = Description(guess_type(name.key), Stored())
        node = OpenFile(path, name, content, attributes, description, None, dirty=True)
        return self._open(node, flags)

    def open(self, path: str, entry: Entry, flags: int) -> int:
        """Open the file that `entry` describes; with O_TRUNC it is empty, and Swift's until the flush."""
        node = self._stored_node(path, entry)
        if flags & (os.O_ACCMODE | os.O_TRUNC) == os.O_RDONLY:
            self._prefetch.opened(path)
        return self.reopen(node, flags)

    def current(self, path: str, *, ask: bool = True) -> OpenFile | None:
        """Return the open file at `path`; None if there is none, or another client has replaced it.

        The handles that are open keep the old version. A file with changes of our own is current: the last
        writer wins. Unless Swift may be `ask`ed, what is not in memory is as it was.
        """
        node = self.table.at(path)
        before = node.entry if node is not None else None
        if node is None or before is None or node.dirty or node.unlinked or not _etags(before):
            return node
        try:
            found = self._services.namespace.find(path) if ask else self._services.namespace.known(path)
        except SwiftfsError as error:
            log.info("%s: whether it was replaced is not known: %s", path, error)
            return node
        is_other = _is_other(before, found) if found is not None else ask
        if node.entry is not before or node.dirty or not is_other:
            return node
        self.table.replace(node)
        return None

    def reopen(self, node: OpenFile, flags: int) -> int:
        """Open another handle on a node, or the first one."""
        number = self._open(node, flags)
        if flags & os.O_TRUNC:
            self.truncate(self.table.handle(number).node, 0)
        return number

    def read(self, number: int, offset: int, size: int) -> FileSpan:
        """Return where the bytes lie; see `CachedFile.read`."""
        node = self.table.handle(number).node
        name = node.name
        try:
            return node.content.read(offset, size)
        except (NotFound, PreconditionFailed) as error:
            self.table.barrier.wait(lambda: node.path)
            if node.name != name:  # its folder moved: the bytes are under another name now
                return self.read(number, offset, size)
            if isinstance(error, PreconditionFailed):
                if node.entry is not None and node.content.is_untouched():
                    # It may be gone, or never have been there.
                    self._services.namespace.check(node.path, node.entry)
                self._services.namespace.invalidate(node.path)
            raise

    def write(self, number: int, offset: int, size: int, fill: Fill) -> int:
        """Let `fill` copy `size` bytes to `offset`, with O_APPEND to the end; return how many it copied."""
        handle = self.table.handle(number)
        node = handle.node
        if offset + size > self._services.layout.largest_file:
            raise os_error(errno.EFBIG, node.path)
        with node.lock:
            copied = node.content.write(node.content.size if handle.append else offset, size, fill)
            self._touch(node)
        return copied

    def truncate(self, node: OpenFile, size: int) -> None:
        """Make the file `size` bytes long."""
        if size > self._services.layout.largest_file:
            raise os_error(errno.EFBIG, node.path)
        with node.lock:
            if size == 0 and self._contents.is_pinned(node.content):
                # What was promised before must outlive a crash before the next flush.
                before, node.content = node.content, self._contents.new(node.name, None)
                self._contents.release(before)
            elif size != node.content.size:
                node.content.truncate(size)
            self._touch(node)

    def flush(self, node: OpenFile, *, durable: bool = False) -> None:
        """Hand what changed to the journal, unless the file was unlinked; raise why it does not take it.

        A `durable` one is in Swift when this returns. So is every one where nothing settles: what cannot be
        stored is given up there, and the node stays dirty. Otherwise raise why what was handed in before
        could not be stored for good, once. While a folder above it moves this waits.
        """
        with self.table.barrier.passing(lambda: (node.path,)):
            self._flush(node, durable=durable)

    def _flush(self, node: OpenFile, *, durable: bool) -> None:
        with node.lock:
            if node.unlinked:
                return
            before, handed_in = node.entry, node.dirty
            try:
                if handed_in:
                    self._hand_in(node)
                if not self._journal.seconds:
                    self._pending.flush_or_withdraw(node.name)
            except (SwiftfsError, OSError):
                if handed_in:
                    node.entry, node.dirty, node.failed = before, True, True
                raise
        if durable and self._journal.seconds:
            self._journal.flush([node.name])
            self._journal.raise_refusal(node.name)
        elif (error := self._journal.failure(node.name)) is not None:
            raise error

    def release(self, number: int) -> None:
        """Close a handle; with the last one, hand in changes that came after its flush, as a mapping's do.

        While others are open it is theirs to say when the file is whole.
        """
        node = self.table.handle(number).node
        if node.dirty or node.deletion is not None:
            with self.table.barrier.passing(lambda: (node.path,)):
                self._release(number, node)
        else:
            self._release(number, node)

    def _release(self, number: int, node: OpenFile) -> None:
        if node.users == 1 and node.dirty and not node.failed:
            self.drain(node)
        if self.table.release(number) is not None:
            self._dispose(node)

    def drain(self, node: OpenFile) -> bool:
        """Hand in the changes of a file that was never closed; say whether that succeeded."""
        try:
            self.flush(node)
        except (SwiftfsError, OSError) as error:
            log.error("%s: changes made after close() are lost: %s", node.path, error)
            return False
        return True

    def settle_hidden(self, name: ObjectName) -> None:
        """Hand in the deletion of `name` that waits for a last close, for the name is about to be used again.

        The unlinked file that is still read has its bytes brought in before they are deleted.
        """
        for node in self.table.unlinked(name):
            node.content.ensure_all()
            deletion, settled, node.deletion, node.settled = node.deletion, node.settled, None, None
            if deletion is not None and settled is not None:
                self._journal.let_go(node.held, node.unlinked_path, deletion, settled)

    def close(self) -> None:
        """Close every file, and end the threads."""
        for node in self.table.all():
            self._dispose(node)
        self._prefetch.close()

    def _open(self, node: OpenFile, flags: int) -> int:
        writable = flags & os.O_ACCMODE != os.O_RDONLY
        number, shared = self.table.open(node, writable=writable, append=bool(flags & os.O_APPEND))
        if shared is not node:
            self._contents.release(node.content)
        return number

    def _stored_node(self, path: str, entry: Entry) -> OpenFile:
        assert entry.object is not None
        content = self._journal.acquire_pending(entry.object)
        if content is None:
            if not (entry.etag or entry.hash):  # Swift has got it since `entry` was looked up
                entry = self._services.namespace.lookup(path)
            entry = self._confirmed(path, entry)
            version, size = version_of(entry), entry.attributes.size
            origin = BaseVersion(version.name, entry.etag, size, size)
            content = self._prefetch.take(version) or self._contents.new(version.name, origin)
        content.last_get_info = None  # what a download of an earlier opening told may have changed
        headers = entry.headers or Headers(entry.media_type)
        description = Description(headers.content_type, Stored(), headers.metadata, headers.preserved_headers)
        node = OpenFile(path, version_of(entry).name, content, entry.attributes, description, entry)
        node.foreign_headers_unknown = entry.headers is None
        return node

    def _confirmed(self, path: str, entry: Entry) -> Entry:
        """Return the entry with its true version before what is kept of it is taken for the file's bytes.

        Where nothing is kept, the download finds out. While Swift is away what is kept serves.
        """
        try:
            return self._services.namespace.verify(path, entry, ask=version_of(entry) in self._contents)
        except StoreError as error:
            if not error.retryable:
                raise
            return entry

    def _learn(self, node: OpenFile) -> None:
        """Let an open file, and whoever looks it up, know the version that its bytes came from in fact."""
        entry, told, origin = node.entry, node.content.last_get_info, node.content.origin
        if entry is None or told is None or origin is None or told.version.name != entry.object:
            return
        if told.version.etag == origin.etag and (entry.hinted or entry.etag not in ("", origin.etag)):
            node.entry = self._services.namespace.learn(node.path, entry, told)

    def _touch(self, node: OpenFile) -> None:
        node.attributes = replace(node.attributes, mtime_ns=unix_time_ns())
        node.dirty, node.failed = True, False

    def _hand_in(self, node: OpenFile) -> None:
        if node.foreign_headers_unknown and node.content.last_get_info is not None:
            told, node.foreign_headers_unknown = node.content.last_get_info, False
            node.description = replace(
                node.description, metadata=told.metadata, preserved_headers=told.preserved_headers
            )
        self._learn(node)
        self.settle_hidden(node.name)
        before = node.entry or node.replaces
        description = node.describe()
        intent = PutFile(
            node.name,
            node.content.to_record(),
            description,
            replaces_large=before.is_slo if before else False,
            replaces_etag=(before.etag or None) if before else None,
            creates=before is None,
            foreign_headers_unknown=node.foreign_headers_unknown,
        )
        entry = file_change(
            node.path,
            node.name,
            node.content.size,
            description,
            self._services.defaults,
            foreign_headers_unknown=node.foreign_headers_unknown,
        )
        change = self._pending.record(node.path, entry)
        before, node.entry = node.entry, entry
        try:
            self._journal.submit(node.path, intent, change.settle)
        except OSError:
            node.entry = before
            change.rollback()
            raise
        node.dirty = False

    def _dispose(self, node: OpenFile) -> None:
        if not node.unlinked:
            self._learn(node)
        if node.dirty and not node.unlinked:
            log.warning("%s: its last changes are dropped", node.path)
            self._services.namespace.discard_change(node.path)
        if node.deletion is not None and node.settled is not None:
            self._journal.let_go(node.held, node.unlinked_path, node.deletion, node.settled)
            if not self._journal.seconds:
                with suppress(SwiftfsError, OSError):  # it is logged, or tried again
                    self._journal.flush([node.deletion.name])
        self._contents.release(node.content)


def _etags(entry: Entry) -> set[str]:
    """Return what tells the version of a file: of an SLO the listing has another hash than its ETag."""
    return {entry.etag, entry.hash} - {""}


def _is_other(before: Entry, found: Entry) -> bool:
    """Say whether Swift has another version than the entry `before`; not while one of ours is under way."""
    return bool(_etags(found)) and not _etags(found) & _etags(before)
