"""Changes of the attributes, metadata and types of objects, as `chmod`, `setfattr` and a rename make them."""

import logging
from collections.abc import Callable

from msgspec.structs import replace

from swiftfs.attributes import Stored, encode_marker
from swiftfs.errors import AccessDenied, NotFound, SwiftfsError
from swiftfs.journal.operations import DescribeContainer, PutMarker, ReplaceHeaders, SetAttributes
from swiftfs.namespace.entry import Entry, retyped_entry
from swiftfs.objects import DIRECTORY_TYPE, Attributes
from swiftfs.posix.pending import PendingChanges
from swiftfs.posix.services import Services
from swiftfs.posix.write_back import WriteBack
from swiftfs.store.object_meta import ObjectMeta

log = logging.getLogger(__name__)

Update = Callable[[Attributes], Attributes]
MetaChange = Callable[[ObjectMeta], ObjectMeta]


class AttributeChanges:
    """Hands in new attributes of files and folders: one POST each, or a part of a pending upload."""

    def __init__(self, services: Services, pending: PendingChanges, write_back: WriteBack) -> None:
        self._store = services.store
        self._namespace = services.namespace
        self._journal = services.journal
        self._defaults = services.defaults
        self._source = services.source
        self._pending = pending
        self._write_back = write_back

    def meta(self, entry: Entry) -> ObjectMeta:
        """Return the meta of the entry's object, by a HEAD if it is not known."""
        if entry.meta is not None:
            return entry.meta
        if entry.object is None or (entry.missing and entry.is_directory):
            return ObjectMeta(DIRECTORY_TYPE)
        try:
            info = self._store.head(entry.object)
        except NotFound:
            if entry.hash:
                raise
            return ObjectMeta(entry.media_type)  # another client deleted it; our change will store it again
        return ObjectMeta(entry.media_type).inherit(info)

    def submit(self, path: str, entry: Entry, update: Update, change: MetaChange | None, since: int) -> Entry:
        """Store an entry's new attributes, and what `change` makes of its meta; return the new entry.

        Raise `OSError` ESTALE if what the entry shows has been given up `since`, as `PendingChanges.submit`.
        """
        attributes = update(entry.attributes)
        if attributes == entry.attributes and change is None:
            return entry
        # A hinted ETag must not be sent again: the listing would show it as that of this object.
        entry = self._namespace.verify(path, entry, ask=True)
        meta = self.meta(entry)
        before = meta.delete_at
        if change is not None:
            meta = change(meta)
        entry = replace(entry, attributes=attributes, meta=meta)
        if entry.is_directory:
            return self._submit_folder(path, entry, meta, since)
        entry = replace(entry, last_modified="")  # a listing will show the time of this change
        self._submit_file(path, entry, meta, since, expiry_changed=meta.delete_at != before)
        return entry

    def retype(self, path: str, entry: Entry, media_type: str) -> Entry:
        """Store another media type of a file, and return its new entry; the old one if the type is not ours.

        A failure is logged: whoever renames the file has moved it already.
        """
        try:
            entry = self._namespace.verify(path, entry, ask=True)
            meta = self.meta(entry)
            # Of an object that another client stored, the type is that client's.
            if meta.stored.mode is None:
                return entry
            retyped = replace(retyped_entry(replace(entry, meta=meta), media_type), last_modified="")
            self._submit_file(path, retyped, meta)
        except (SwiftfsError, OSError) as error:
            log.warning("%s keeps its Content-Type %s: %s", path, entry.media_type, error)
            return entry
        return retyped

    def _submit_file(
        self,
        path: str,
        entry: Entry,
        meta: ObjectMeta,
        since: int | None = None,
        *,
        expiry_changed: bool = False,
    ) -> None:
        assert entry.object is not None
        new = entry.attributes
        if meta.is_dlo:
            # With our mode in its type the 0-byte row of a DLO would look like an empty file.
            sent = meta.with_metadata_of(new).headers()
            self._pending.submit(path, ReplaceHeaders(entry.object, sent), entry, since=since)
        else:
            slo = entry.etag if entry.is_slo else None
            device = new.device or None
            stored = Stored(new.mode, new.mtime_ns, new.uid, new.gid, entry.target, slo, device)
            meta = replace(meta, media_type=entry.media_type, stored=stored)
            operation = SetAttributes(entry.object, meta, entry.is_slo, expiry_changed=expiry_changed)
            self._pending.submit(path, operation, entry, since=since)

    def _submit_folder(self, path: str, entry: Entry, meta: ObjectMeta, since: int) -> Entry:
        folder = self._source.folder(path)
        if path == "/" and folder.container and not folder.prefix:
            # The container has no marker object: its metadata has the root's attributes.
            self._describe_container(folder.container, entry)
        if not folder.prefix:
            # In an account mount the containers' attributes are lost at the unmount.
            self._record(path, entry)
            return entry
        sent = meta.marker(entry.attributes, typed=self._defaults.typed_markers).headers()
        operation: ReplaceHeaders | PutMarker
        if entry.object is not None and not entry.missing:
            operation = ReplaceHeaders(entry.object, sent)
        else:
            name = self._namespace.new_marker(path)
            self._write_back.free_name(name)
            operation, entry = PutMarker(name, sent), replace(entry, object=name, missing=False)
        if path == "/":
            self._journal.submit(path, operation)
            self._record(path, entry)
        else:
            self._pending.submit(path, operation, entry, since=since)
        return entry

    def _describe_container(self, container: str, entry: Entry) -> None:
        metadata = encode_marker(entry.attributes)
        try:
            self._journal.run_unjournaled(DescribeContainer(container, metadata))
        except AccessDenied:
            log.info("the root's attributes are lost at the unmount: no permission to change %s", container)

    def _record(self, path: str, entry: Entry) -> None:
        if path == "/":
            self._namespace.record_root(entry)
        else:
            self._namespace.record(path, entry)
