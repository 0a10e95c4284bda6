"""Changes of attributes and xattrs: one POST that re-sends all it would drop."""

import errno
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace

from swiftfs.attributes import (
    CACHE_ATTRIBUTE,
    FLUSH_ATTRIBUTE,
    PID_ATTRIBUTE,
    RETRY_ATTRIBUTE,
    STATUS_ATTRIBUTE,
    Stored,
    decode_xattr,
    encode_marker,
    encode_xattr,
    header_to_xattr,
    xattr_to_header,
)
from swiftfs.errors import AccessDenied, NotFound, os_error
from swiftfs.journal.operations import (
    DescribeContainer,
    Description,
    PutMarker,
    ReplaceHeaders,
    SetAttributes,
    marker_headers,
)
from swiftfs.namespace.entry import Entry
from swiftfs.objects import DIRECTORY_TYPE, Attributes, ObjectInfo
from swiftfs.paths import Source, plain_marker, slash_marker
from swiftfs.posix.file_ops import FileOps
from swiftfs.posix.open_files import OpenFile
from swiftfs.posix.pending import PendingChanges
from swiftfs.posix.services import Services
from swiftfs.store.paging import iter_dlo_segments
from swiftfs.store.protocol import Headers, ObjectStore

log = logging.getLogger(__name__)

REFRESH_ATTRIBUTE = "swift.refresh"
"""Setting it, to whatever value, forgets what is known of a path and of all below it."""

XATTR_CREATE = 1
XATTR_REPLACE = 2

OWN_METADATA_ITEMS = 4
OWN_METADATA_BYTES = 100
"""Room for `mtime`, `mode`, `uid` and `gid`: the object must still be stored when they change."""

Update = Callable[[Attributes], Attributes]


class AttributeOps:
    """What `chmod`, `chown`, `utimens` and `setxattr` do."""

    def __init__(self, rooms: Services, source: Source, files: FileOps, promises: PendingChanges) -> None:
        self._services = rooms
        self._pending = promises
        self._source = source
        self._files = files
        journal = rooms.journal
        self._own: Mapping[str, Callable[[], object]] = {
            PID_ATTRIBUTE: os.getpid,
            CACHE_ATTRIBUTE: rooms.cache.absolute,
            STATUS_ATTRIBUTE: lambda: journal.report().to_json(),
        }
        self._orders = {FLUSH_ATTRIBUTE: journal.flush_all, RETRY_ATTRIBUTE: journal.retry}

    def change(self, path: str, update: Update) -> None:
        """Give `path` the attributes that `update` makes of its present ones."""
        node = self._files.table.at(path)
        if node is None:
            self._post(path, self._services.namespace.lookup(path), update, None)
            return
        with node.lock:
            if not node.dirty and not node.unlinked and node.entry is not None:
                node.entry = self._post(path, node.entry, update, None)
            node.attributes = update(node.attributes)

    def get_xattr(self, path: str, name: str) -> bytes:
        """Return an xattr's value; raise `OSError` ENODATA where there is none."""
        if path == "/" and name in self._own:
            return str(self._own[name]()).encode()
        if path == "/" and name in self._orders:
            # A mount with the option `ro` can be asked for an order in no other way.
            self._orders[name]()
            return b""
        if name in _TOLD:
            return str(_TOLD[name](self._services.store, self._stored(path))).encode()
        header = xattr_to_header(name)
        value = self._metadata(path).get(header) if header else None
        if value is None:
            raise os_error(errno.ENODATA, path)
        return decode_xattr(value)

    def list_xattrs(self, path: str) -> list[str]:
        """Return the names of the xattrs."""
        names = (header_to_xattr(header) for header in self._metadata(path))
        return [name for name in names if name is not None]

    def set_xattr(self, path: str, name: str, value: bytes, flags: int) -> None:
        """Set an xattr; `flags` as in setxattr(2).

        Raise `OSError` EOPNOTSUPP for a namespace other than `user.`, E2BIG beyond Swift's limits.
        """
        if name == REFRESH_ATTRIBUTE:
            self._refresh(path)
            return
        if path == "/" and name in self._orders:
            self._orders[name]()
            return
        header = xattr_to_header(name)
        if header is None:
            raise os_error(errno.EOPNOTSUPP, path)
        limits = self._services.store.limits()
        text = encode_xattr(value)
        if len(header) > limits.metadata_name_bytes or len(text) > limits.metadata_value_bytes:
            raise os_error(errno.E2BIG, path)
        metadata = dict(self._metadata(path))
        if flags & XATTR_CREATE and header in metadata:
            raise os_error(errno.EEXIST, path)
        if flags & XATTR_REPLACE and header not in metadata:
            raise os_error(errno.ENODATA, path)
        metadata[header] = text
        size = OWN_METADATA_BYTES + sum(len(name) + len(text.encode()) for name, text in metadata.items())
        if len(metadata) + OWN_METADATA_ITEMS > limits.metadata_items or size > limits.metadata_bytes:
            raise os_error(errno.E2BIG, path)
        self._store_metadata(path, metadata)

    def remove_xattr(self, path: str, name: str) -> None:
        """Remove an xattr; raise `OSError` ENODATA where there is none."""
        header = xattr_to_header(name)
        metadata = dict(self._metadata(path))
        if header is None or metadata.pop(header, None) is None:
            raise os_error(errno.ENODATA, path)
        self._store_metadata(path, metadata)

    def _refresh(self, path: str) -> None:
        if path == "/":
            self._services.namespace.invalidate_all()
        else:
            self._services.namespace.invalidate(path)

    def _stored(self, path: str) -> ObjectInfo:
        """Return what Swift has at `path` at this moment; raise `OSError` ENODATA where it has no object."""
        node = self._files.table.at(path)
        entry = node.entry if node is not None else self._services.namespace.lookup(path, complete=False)
        if entry is None or entry.object is None or (node is not None and node.unlinked):
            raise os_error(errno.ENODATA, path)
        self._services.journal.flush([entry.object])
        try:
            return self._services.store.head(entry.object)
        except NotFound:
            raise os_error(errno.ENODATA, path) from None

    def _metadata(self, path: str) -> Mapping[str, str]:
        node = self._files.table.at(path)
        if node is not None and (node.dirty or node.unlinked):
            self._learn(node)
            return node.description.metadata
        entry = node.entry if node is not None else None
        return self._headers(entry or self._services.namespace.lookup(path)).metadata

    def _store_metadata(self, path: str, metadata: Mapping[str, str]) -> None:
        node = self._files.table.at(path)
        if node is None:
            self._post(path, self._services.namespace.lookup(path), _unchanged, metadata)
            return
        with node.lock:
            kept = node.description.preserved_headers
            if not node.dirty and not node.unlinked and node.entry is not None:
                node.entry = self._post(path, node.entry, _unchanged, metadata)
                kept = self._headers(node.entry).preserved_headers
            node.description = replace(node.description, metadata=metadata, preserved_headers=kept)
            node.foreign_headers_unknown = False

    def _learn(self, node: OpenFile) -> None:
        """Ask for the headers that another client gave an open file's object, before they are changed."""
        if node.foreign_headers_unknown:
            with suppress(NotFound):
                told = self._services.store.head(node.name)
                node.description = replace(
                    node.description, metadata=told.metadata, preserved_headers=told.preserved_headers
                )
            node.foreign_headers_unknown = False

    def _headers(self, entry: Entry) -> Headers:
        """Return all headers of the entry's object, asking for them where they are not known."""
        if entry.headers is not None:
            return entry.headers
        if entry.object is None or (entry.missing and entry.is_directory):
            return Headers(DIRECTORY_TYPE)
        try:
            info = self._services.store.head(entry.object)
        except NotFound:
            if entry.last_modified:
                raise
            return Headers(entry.media_type)  # another client deleted it, and our change will store it again
        return Headers(entry.media_type, info.metadata, info.preserved_headers)

    def _post(self, path: str, entry: Entry, update: Update, metadata: Mapping[str, str] | None) -> Entry:
        """Store an entry's new attributes, and new metadata unless it is None; return the new entry."""
        attributes = update(entry.attributes)
        if attributes == entry.attributes and metadata is None:
            return entry
        entry = self._services.namespace.verify(path, entry, ask=True)
        headers = self._headers(entry)
        if metadata is not None:
            headers = replace(headers, metadata=metadata)
        entry = replace(entry, attributes=attributes, headers=headers)
        if entry.is_directory:
            return self._post_folder(path, entry, headers)
        self._post_file(path, entry, headers)
        return entry

    def _post_file(self, path: str, entry: Entry, headers: Headers) -> None:
        assert entry.object is not None
        stat = entry.attributes
        if "X-Object-Manifest" in headers.preserved_headers:
            # With our mode in its type the 0-byte row of a DLO would pass for an empty file.
            sent = replace(headers, metadata={**headers.metadata, **encode_marker(stat)})
            self._pending.submit(path, ReplaceHeaders(entry.object, sent), entry)
        else:
            slo = entry.etag if entry.is_slo else None
            device = stat.device or None
            stored = Stored(stat.mode, stat.mtime_ns, stat.uid, stat.gid, entry.target, slo, device)
            description = Description(entry.media_type, stored, headers.metadata, headers.preserved_headers)
            self._pending.submit(path, SetAttributes(entry.object, description, entry.is_slo), entry)

    def _describe_container(self, container: str, entry: Entry) -> None:
        metadata = encode_marker(entry.attributes)
        try:
            self._services.journal.run_unjournaled(DescribeContainer(container, metadata))
        except AccessDenied:
            log.info("the root's attributes live as long as the mount: no right to change %s", container)

    def _post_folder(self, path: str, entry: Entry, headers: Headers) -> Entry:
        folder = self._source.folder(path)
        if path == "/" and folder.container and not folder.prefix:
            self._describe_container(folder.container, entry)
        if not folder.prefix:
            # In an account the containers' attributes live as long as the mount.
            self._record(path, entry)
            return entry
        defaults = self._services.defaults
        sent = marker_headers(
            entry.attributes, headers.metadata, headers.preserved_headers, typed=defaults.typed_markers
        )
        intent: ReplaceHeaders | PutMarker
        if entry.object is not None and not entry.missing:
            intent = ReplaceHeaders(entry.object, sent)
        else:
            name = (None if defaults.slash_markers else plain_marker(folder)) or slash_marker(folder)
            self._files.settle_hidden(name)
            intent, entry = PutMarker(name, sent), replace(entry, object=name, missing=False)
        if path == "/":
            self._services.journal.submit(path, intent)
            self._record(path, entry)
        else:
            self._pending.submit(path, intent, entry)
        return entry

    def _record(self, path: str, entry: Entry) -> None:
        if path == "/":
            self._services.namespace.record_root(entry)
        else:
            self._services.namespace.record(path, entry)


def _count_segments(store: ObjectStore, info: ObjectInfo) -> int:
    """Return the number of objects that a large object consists of, 0 for an ordinary one."""
    if info.is_slo:
        return len(store.manifest(info.version.name).segments)
    if info.dlo_prefix is None:
        return 0
    return sum(1 for _ in iter_dlo_segments(store, info.dlo_prefix))


_TOLD: Mapping[str, Callable[[ObjectStore, ObjectInfo], object]] = {
    "swift.etag": lambda _, info: info.version.etag,
    "swift.content_type": lambda _, info: info.content_type,
    "swift.segments": _count_segments,
}
"""Read-only xattrs, which are not listed so that nobody copies them."""


def _unchanged(attributes: Attributes) -> Attributes:
    return attributes
