"""Open files: their bytes, their uploads, and how they meet the namespace."""

import errno
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from swiftfs.attributes import Stored, guess_type
from swiftfs.config import Options
from swiftfs.content.cache import ContentCache
from swiftfs.content.content import Content, Fill
from swiftfs.content.localfile import Kept
from swiftfs.content.origin import Origin
from swiftfs.content.segments import Layout, SegmentContainers, SegmentUpload
from swiftfs.errors import NotFound, PreconditionFailed, SwiftfsError, os_error
from swiftfs.handles import Node, OpenFiles
from swiftfs.journal.intents import Delete, Description, PutFile
from swiftfs.journal.journal import Journal
from swiftfs.model import Attributes, FileSpan, ObjectInfo, ObjectName, Row
from swiftfs.namespace.entry import Defaults, Entry, file_entry
from swiftfs.namespace.namespace import Namespace
from swiftfs.naming import split
from swiftfs.prefetch import Prefetch, version_of
from swiftfs.store.protocol import Headers, ObjectStore

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Rooms:
    """What the file system is made of; `mount` builds it, everything above shares it."""

    store: ObjectStore
    namespace: Namespace
    journal: Journal
    options: Options
    defaults: Defaults
    cache: Path


class Files:
    """Reads, writes and uploads of open files."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self.table = OpenFiles()
        self._cache = ContentCache(rooms.cache, rooms.options.cache_size, self._make_content)
        self._downloads = ThreadPoolExecutor(rooms.options.connections, thread_name_prefix="download")
        self._uploads = ThreadPoolExecutor(rooms.options.uploads, thread_name_prefix="upload")
        self._prefetch = Prefetch(rooms.namespace, self._cache, self.table, rooms.options)
        self._containers = SegmentContainers(rooms.store)
        self._layout = Layout(rooms.options.segment_size)

    def create(self, path: str, name: ObjectName, attributes: Attributes, flags: int) -> int:
        """Open a new, empty file; Swift gets it when it is flushed."""
        content = self._cache.new(None)
        description = Description(guess_type(name.key), Stored())
        node = self._node(path, name, content, attributes, description, None)
        node.dirty = True
        return self._open(node, flags)

    def open(self, path: str, entry: Entry, flags: int) -> int:
        """Open the file that `entry` describes; with O_TRUNC it is empty, and Swift's until the flush."""
        node = self._stored_node(path, entry)
        if flags & (os.O_ACCMODE | os.O_TRUNC) == os.O_RDONLY:
            self._prefetch.opened(path)
        return self.reopen(node, flags)

    def reopen(self, node: Node, flags: int) -> int:
        """Open another handle on a node, or the first one."""
        number = self._open(node, flags)
        if flags & os.O_TRUNC:
            self.truncate(self.table.handle(number).node, 0)
        return number

    def read(self, number: int, offset: int, size: int) -> FileSpan:
        """Return where the bytes lie; see `Content.read`."""
        node = self.table.handle(number).node
        try:
            return node.content.read(offset, size)
        except PreconditionFailed:
            self._rooms.namespace.forget(node.path)
            raise

    def write(self, number: int, offset: int, size: int, fill: Fill) -> int:
        """Let `fill` copy `size` bytes to `offset`, with O_APPEND to the end; return how many it copied."""
        handle = self.table.handle(number)
        node = handle.node
        if offset + size > self._layout.largest_file:
            raise os_error(errno.EFBIG, node.path)
        with node.lock:
            copied = node.content.write(node.content.size if handle.append else offset, size, fill)
            self._touch(node)
        return copied

    def truncate(self, node: Node, size: int) -> None:
        """Make the file `size` bytes long."""
        if size > self._layout.largest_file:
            raise os_error(errno.EFBIG, node.path)
        with node.lock:
            if size != node.content.size:
                node.content.truncate(size)
            self._touch(node)

    def flush(self, node: Node) -> None:
        """Upload what changed, unless the file was unlinked; return when it is in Swift, or raise why not."""
        with node.lock:
            if not node.dirty or node.hidden:
                return
            try:
                self._upload(node)
            except Exception as error:
                node.failed = error
                raise
            node.failed = None

    def release(self, number: int) -> None:
        """Close a handle; with the last one, upload changes that came after its flush, as a mapping's do.

        While others are open it is theirs to say when the file is whole.
        """
        node = self.table.handle(number).node
        if node.users == 1 and node.dirty and node.failed is None:
            try:
                self.flush(node)
            except (SwiftfsError, OSError) as error:
                log.error("%s: changes made after close() were not stored: %s", node.path, error)
        if self.table.release(number) is not None:
            self._dispose(node)

    def claim(self, name: ObjectName) -> Delete | None:
        """Take back the deletion of `name` that still waits, for a new object gets the name; return it.

        An unlinked file that is still read has its bytes brought in before they are replaced.
        """
        claimed = self._rooms.journal.take_back(name)
        for node in self.table.hidden(name):
            node.content.ensure_all()
            claimed, node.deletion = node.deletion, None
        return claimed if isinstance(claimed, Delete) else None

    def vacate(self, name: ObjectName) -> None:
        """Execute the deletion of `name` that still waits, for what is no file's bytes gets the name.

        A marker is made only where nothing is, and nobody would delete the segments that a link replaces.
        """
        self._rooms.journal.flush(name)
        for node in self.table.hidden(name):
            node.content.ensure_all()
            assert node.deletion is not None
            self._rooms.journal.submit(node.deletion)
            node.deletion = None
            if node.settled is not None:
                node.settled(None)

    def drain(self, node: Node) -> bool:
        """Upload the changes of a file that was never closed, and drop it; say whether all is in Swift."""
        stored = True
        try:
            self.flush(node)
        except (SwiftfsError, OSError) as error:
            log.error("%s could not be stored: %s", node.path, error)
            stored = False
        self._dispose(node)
        return stored

    def close(self) -> None:
        """End the threads and drop what is cached."""
        self._uploads.shutdown()
        self._prefetch.close()
        self._downloads.shutdown()
        self._cache.close()

    def _open(self, node: Node, flags: int) -> int:
        writable = flags & os.O_ACCMODE != os.O_RDONLY
        number, shared = self.table.open(node, writable=writable, append=bool(flags & os.O_APPEND))
        if shared is not node:
            self._keep(node)
        return number

    def _stored_node(self, path: str, entry: Entry) -> Node:
        assert entry.object is not None
        content = self._prefetch.take(version_of(entry)) or self._cache.new(
            Origin(entry.object, entry.etag, entry.attributes.size, entry.attributes.size)
        )
        content.told = None  # what a download of an earlier opening told may have changed
        headers = entry.headers or Headers(entry.media_type)
        description = Description(headers.content_type, Stored(), headers.metadata, headers.kept)
        return self._node(path, entry.object, content, entry.attributes, description, entry)

    def _node(
        self,
        path: str,
        name: ObjectName,
        content: Content,
        attributes: Attributes,
        description: Description,
        entry: Entry | None,
    ) -> Node:
        segments = SegmentUpload(
            self._rooms.store, self._containers, self._uploads, content.descriptor, name, self._layout
        )
        content.watcher = segments
        return Node(path, name, content, segments, attributes, description, entry)

    def _make_content(self, folder: Path, origin: Origin | None, kept: Kept | None) -> Content:
        # What was read in advance must not push out what is about to be read.
        read_ahead = min(self._rooms.options.read_ahead, self._cache.limit // 4)
        return Content(self._rooms.store, self._downloads, folder, origin, read_ahead, kept)

    def _touch(self, node: Node) -> None:
        node.stat = replace(node.stat, mtime_ns=time.time_ns())
        node.dirty = True
        node.failed = None

    def _upload(self, node: Node) -> None:
        waiting = self.claim(node.name)
        replaces_large = waiting.large if waiting else node.entry.large if node.entry else node.replaces_large
        if node.entry is not None and node.entry.headers is None:
            try:
                info = node.content.told or self._rooms.store.head(node.name)
            except NotFound:  # another client deleted it, and nothing of it is left to keep
                replaces_large = False
            else:
                node.description = replace(node.description, metadata=info.metadata, kept=info.kept)
                replaces_large = info.is_slo
        description = node.describe()
        intent = PutFile(node.name, node.content, node.segments, description, replaces_large)
        stored = self._rooms.journal.submit(intent)
        assert stored is not None
        node.entry = stored_entry(node.path, stored, node.content.size, description, self._rooms.defaults)
        node.dirty = False
        self._rooms.namespace.record(node.path, node.entry)

    def _dispose(self, node: Node) -> None:
        if node.dirty:
            self._rooms.journal.execution.discard(node.segments.abandon())
            if not node.hidden:
                log.warning("%s: its last changes are dropped: %s", node.path, node.failed)
                self._rooms.namespace.disown(node.path)
        if node.deletion is not None and node.settled is not None:
            error = self._rooms.journal.execution.delete_together([node.deletion]).get(node.deletion.name)
            node.settled(error)
        self._keep(node)

    def _keep(self, node: Node) -> None:
        if node.dirty or node.hidden:
            node.content.close()
        else:
            self._cache.keep(node.content)


def stored_entry(
    path: str, info: ObjectInfo, size: int, description: Description, defaults: Defaults
) -> Entry:
    """Return the entry of an object as we have just stored it, as a listing will show it."""
    slo = info.version.etag if info.is_slo else None
    description = replace(description, stored=replace(description.stored, slo=slo))
    headers = description.headers()
    name = info.version.name
    row = Row(name.key, size, info.version.etag, headers.content_type, "")
    entry = file_entry(split(path)[1], name.container, row, defaults)
    return replace(entry, headers=Headers(description.media_type, headers.metadata, headers.kept))
