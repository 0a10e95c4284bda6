"""Hands in changes to the journal: of open files, and of the attributes, metadata and types of objects.

Also reads and shows the moments at which Swift deletes an object.
"""

import errno
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone

from msgspec.structs import replace

from swiftfs.attributes import Stored, encode_marker
from swiftfs.concurrency import unix_time
from swiftfs.config.options import Rules, parse_age, parse_date
from swiftfs.errors import AccessDenied, NotFound, SwiftfsError, os_error
from swiftfs.journal.operations import DescribeContainer, PutFile, PutMarker, ReplaceHeaders, SetAttributes
from swiftfs.namespace.entry import Entry, retyped_entry
from swiftfs.objects import DIRECTORY_TYPE, Attributes, ObjectName
from swiftfs.paths import is_below
from swiftfs.posix.open_file import Changes, OpenFile
from swiftfs.posix.pending import JournaledChange, PendingChanges, unstored_entry
from swiftfs.posix.services import Part, Services
from swiftfs.store.protocol import ObjectMeta

log = logging.getLogger(__name__)


class WriteBack(Part):
    """Hands in open files to the journal: their changes, and the deletions of unlinked ones."""

    def __init__(self, services: Services, pending: PendingChanges) -> None:
        super().__init__(services)
        self._pending = pending

    def flush(self, file: OpenFile, *, durable: bool = False) -> None:
        """Hand in changes to the journal, unless the file was unlinked; raise the journal's error.

        A `durable` flush returns when the file is in Swift, and so does that of a file whose local file
        somebody has deleted: no later process could store it. So does every flush without a write delay: if
        the change cannot be stored, it is given up and the file stays dirty. It stays pending instead if its
        record in the journal also has a change that an earlier call has promised to store. Raise, once, the
        error of an earlier change of the file that could not be stored. Wait while a folder above the file
        moves.
        """
        # Before the file's lock: the rename of a folder above takes the locks of the files below it.
        with self._open_files.barrier.passing(lambda: (file.path,)):
            is_at_risk = file.dirty and not file.cached_file.has_name()
            self.hand_in_changes(file)
            # Without the file's lock: fsync(2) may take long, and others may write meanwhile.
            if file.unlinked:
                return
            if (durable or is_at_risk) and not self._pending.is_sync:
                self._journal.flush([file.name])
                self._journal.raise_refusal(file.name)
            elif (error := self._journal.failure(file.name)) is not None:
                raise error

    def hand_in_changes(self, file: OpenFile) -> None:
        """Hand in changes to the journal, as `flush` does, without the errors of earlier changes."""
        with file.lock:
            # Its name belongs to nobody, or to another file by now.
            if file.unlinked:
                return
            before, handed_in = file.entry, file.dirty
            try:
                if handed_in:
                    self.hand_in(file)
                # With the file's lock: if the change is refused, the file is dirty again as it was handed in.
                if self._pending.is_sync:
                    self._pending.flush_or_withdraw(file.name)
            except (SwiftfsError, OSError):
                # A task that also has a change which an earlier call was promised stays: then the file is not
                # dirty, and its bytes are stored with that.
                if handed_in and (file.dirty or not self._journal.is_promised(file.name)):
                    file.entry = before
                    file.become(Changes.FAILED)
                raise

    def drain(self, file: OpenFile) -> bool:
        """Hand in changes after the last flush; return whether that succeeded."""
        try:
            self.flush(file)
        except (SwiftfsError, OSError) as error:
            log.error("%s: changes made after close() are lost: %s", file.path, error)
            return False
        return True

    def free_name(self, name: ObjectName) -> None:
        """Hand in the deletion of `name` that waits for a last close: the name is about to be used again.

        The unlinked file may still be read. So its missing bytes are downloaded before it is deleted.
        """
        for file in self._open_files.unlinked(name):
            # Before the deletion: afterwards the missing bytes are nowhere.
            file.cached_file.ensure_all()
            if (deletion := file.held_deletion) is not None:
                file.held_deletion = None
                self._journal.let_go(deletion.seq)

    @contextmanager
    def held_open(self, path: str) -> Iterator[OpenFile | None]:
        """Return the open file at `path`, which is not closed meanwhile; None when there is none."""
        handle = None
        while handle is None and (file := self._open_files.at(path)) is not None:
            handle = self._open_files.share(file, writable=False)
        try:
            yield file
        finally:
            if handle is not None and file is not None:
                self.close(handle, file)

    def close(self, handle: int, file: OpenFile) -> None:
        """Close a handle; with the last one, hand in what changed after its flush, and end the file."""
        # close(2) has returned the error of a `FAILED` file: what could not be stored is dropped, see
        # `dispose`.
        if file.users == 1 and file.changes is Changes.DIRTY:
            self.drain(file)
        if self._open_files.release(handle) is not None:
            self.dispose(file)

    def dispose(self, file: OpenFile) -> None:
        """End a file whose last handle was closed."""
        if not file.unlinked:
            self._learn_version(file)
        if file.dirty and not file.unlinked:
            log.warning("%s: its last changes are lost", file.path)
            # What an earlier close has handed in counts.
            if self._journal.is_idle(file.name):
                self._namespace.discard_change(file.path)
        if (deletion := file.held_deletion) is not None:
            self._journal.was_closed(deletion.seq)
        self._file_cache.release(file.cached_file)

    def hand_in(self, file: OpenFile) -> None:
        """Hand in the file as it is now; its lock is held. Raise `OSError` if the disk refuses the record."""
        operation, before = self._prepare(file), file.entry
        change = self._show(file, operation)
        try:
            self._journal.submit(file.path, operation, change)
        except OSError:
            file.entry = before
            change.rollback()
            raise
        change.keep()
        # After the commit: what a power cut leaves of these uploads is found by the operation.
        file.cached_file.upload_rest()
        # Last: if anything above fails, the next flush hands the file in again.
        file.become(Changes.HANDED_IN)
        file.expiry_changed = False

    def _prepare(self, file: OpenFile) -> PutFile:
        """Return the operation that stores a file as it is now."""
        if file.foreign_headers_unknown and file.cached_file.last_get_info is not None:
            info, file.foreign_headers_unknown = file.cached_file.last_get_info, False
            file.meta = file.meta.inherit(info)
        self._learn_version(file)
        # An earlier file of this name may still be read by its handles: its deletion must come before this
        # upload.
        self.free_name(file.name)
        # Swift would ignore the time in a container with versioning.
        expires = not self._services.histories.known_versioned(file.name.container)
        return file.put(moment_by_rules(file.path, self._services.options.expire) if expires else "")

    def _show(self, file: OpenFile, operation: PutFile) -> JournaledChange:
        """Show a file as `operation` stores it.

        Before that is in the journal: as soon as it is, its upload may end and confirm the change, and the
        journal's thread looks for the open file by the entry.
        """
        entry = unstored_entry(
            file.path,
            file.name,
            file.cached_file.size,
            operation.meta,
            self._defaults,
            foreign_headers_unknown=file.foreign_headers_unknown,
        )
        self._times.wrote(file.known_as, file.attributes.mtime_ns)
        change = self._pending.record(file.path, entry)
        file.since = self._pending.begin_change()  # from now on the name is this file's
        file.entry = entry
        return change

    def _learn_version(self, file: OpenFile) -> None:
        """Record which version the file's bytes came from, if a download has shown it."""
        entry, info, base = file.entry, file.cached_file.last_get_info, file.cached_file.base
        if entry is None or info is None or base is None or info.version.name != entry.object:
            return
        if info.version.etag == base.etag and (entry.hinted or entry.etag not in ("", base.etag)):
            file.entry = self._namespace.learn(file.path, entry, info)


Update = Callable[[Attributes], Attributes]
MetaChange = Callable[[ObjectMeta], ObjectMeta]


class AttributeChanges(Part):
    """Hands in new attributes of files and folders: one POST each, or a part of a pending upload."""

    def __init__(self, services: Services, pending: PendingChanges, write_back: WriteBack) -> None:
        super().__init__(services)
        self._pending = pending
        self._write_back = write_back

    def meta(self, entry: Entry) -> ObjectMeta:
        """Return the meta of the entry's object, by a HEAD if it is not known."""
        if entry.meta is not None:
            late = self._journal.late
            return entry.meta if entry.object is None else late.newest_meta(entry.object, entry.meta)
        if entry.object is None or (entry.missing and entry.is_directory):
            return ObjectMeta(DIRECTORY_TYPE)
        try:
            info = self._store.head(entry.object)
        except NotFound:
            if entry.hash:
                raise
            return ObjectMeta(entry.media_type)  # another client deleted it; our change will store it again
        return ObjectMeta(entry.media_type).inherit(self._journal.late.newest_headers(info))

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


LATEST_EXPIRY = 2**33
"""Seconds since the epoch, in the year 2242; Swift's own limit is ten digits."""

_SECONDS = re.compile(r"\d{1,10}")


def moment_by_rules(path: str, rules: Rules) -> str:
    """Return the X-Delete-At of a file that is stored at `path` now, empty for never."""
    if not rules:
        return ""
    ages = {
        len(folder): age for folder, age in rules if path != f"/{folder}" and is_below(path, f"/{folder}")
    }
    # The rule of the longest folder counts.
    return str(int(unix_time()) + ages[max(ages)]) if ages else ""


def parse_moment(value: bytes, path: str) -> str:
    """Read `+30d`, a date and time (ISO 8601) or Unix seconds as an X-Delete-At; raise `OSError` EINVAL.

    A date without a zone is in the machine's zone. A time that has passed is refused, as Swift does.
    """
    try:
        seconds = _seconds(value.decode("ascii").strip().rstrip("\0"))
    except ValueError:
        raise os_error(errno.EINVAL, path) from None
    if not unix_time() < seconds < LATEST_EXPIRY:
        raise os_error(errno.EINVAL, path)
    return str(seconds)


def _seconds(text: str) -> int:
    if text.startswith("+"):
        return int(unix_time()) + parse_age(text[1:])
    if _SECONDS.fullmatch(text):
        return int(text)
    return int(parse_date(text).timestamp())


def show_moment(moment: str) -> bytes:
    """Return an X-Delete-At as a date and time in UTC; unchanged if it is none."""
    if not _SECONDS.fullmatch(moment):
        return moment.encode()
    return datetime.fromtimestamp(int(moment), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ").encode()
