"""Copies one object on the server: a plain one by a COPY, a large one with its segments.

A copy is of one version. A plain object is copied under the condition that it is the version that was
listed. The segments of a large one are copied each under the same condition, and the manifest is stored last:
until then the target is as it was.

The segments of a large object that is replaced are deleted by the rules of the journal. Without a mount there
is none: a private one in a temporary folder has what must be deleted. If the process dies first,
`swiftfs gc` finds the segments.
"""

import tempfile
from collections.abc import Callable, Collection, Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import quote

from msgspec import Struct
from msgspec.structs import replace

from swiftfs.attributes import NS, decode_type, is_directory_type, parse_last_modified
from swiftfs.concurrency import Executor, sleep, wait_all
from swiftfs.errors import (
    AlreadyExists,
    ConfigurationError,
    Corrupt,
    NotFound,
    PreconditionFailed,
    StoreError,
    Unavailable,
)
from swiftfs.filecache.segment_container import SegmentContainerChooser
from swiftfs.filecache.upload_record import NO_JOURNAL, segment_prefix
from swiftfs.journal import segment_records
from swiftfs.journal.database import JournalDB
from swiftfs.journal.segment_records import SegmentOwnership
from swiftfs.journal.segment_removal import SegmentRemoval
from swiftfs.journal.shared_copies import SegmentChanged, headers_of_copy, renamed_segments
from swiftfs.maintenance.copy_records import CopyRecord, CopyRecords, Unfinished
from swiftfs.maintenance.orphan_segments import may_be_manifest
from swiftfs.objects import Manifest, ObjectInfo, ObjectName, ObjectVersion, Row, Segment
from swiftfs.store.protocol import (
    CopyRequest,
    Headers,
    Histories,
    ObjectMeta,
    ObjectStore,
    iter_dlo_segments,
    iter_rows,
)


class ReplacedSegments:
    """Deletes the segments of replaced versions; `choice` is the option `segments`.

    `needed` returns the names and prefixes of segments that the mounts on this machine may need.
    """

    def __init__(self, store: ObjectStore, choice: str, needed: Callable[[], Iterable[ObjectName]]) -> None:
        self._store = store
        self._choice = choice
        self._needed = needed
        self._stack = ExitStack()
        self._removal: SegmentRemoval | None = None
        self._kept: tuple[ObjectName, ...] = ()

    def open(self) -> None:
        """Make the private journal, if there is none yet; not from several threads at once.

        Raise `ConfigurationError` if that cannot be, or the journals of mounts cannot be read.
        """
        try:
            self._open()
        except OSError as error:
            raise ConfigurationError(f"{tempfile.gettempdir()}: {error.strerror}") from None

    def _open(self) -> None:
        if self._removal is None:
            folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="swiftfs-cp-"))
            database = JournalDB(Path(folder), "swiftfs cp")
            self._stack.callback(database.close)
            self._kept = tuple(self._needed())
            self._removal = SegmentRemoval(self._store, database, SegmentOwnership(database, self._choice))

    def of(self, name: ObjectName) -> set[ObjectName]:
        """Return the segments to delete when `name` has been replaced; raise the store's errors."""
        if self._removal is None:
            return set()
        own = self._removal.segments_of(name, is_slo=None)
        return {one for one in own if not any(_lies_below(one, prefix) for prefix in self._kept)}

    def replaced(self, name: ObjectName, segments: Collection[ObjectName], *, is_slo: bool) -> None:
        """Let the segments be deleted soon: the object now at `name` does not name them."""
        if self._removal is not None and segments:
            self._removal.discard(name, segments, is_slo=is_slo)

    def finish(self) -> None:
        """Delete what was replaced, after its rest; what fails is left to `swiftfs gc`."""
        if self._removal is not None and self._removal.leftovers.all():
            sleep(segment_records.REST_SECONDS)
            try:
                self._removal.end_rests(at_once=True)
            except StoreError:
                return

    def close(self) -> None:
        """Remove the private journal."""
        self._stack.close()


def _lies_below(name: ObjectName, prefix: ObjectName) -> bool:
    return name.container == prefix.container and name.key.startswith(prefix.key)


SEGMENT_TYPE = "application/octet-stream"
"""The media type of segments that cannot keep that of the source's, because other headers change."""

ATTEMPTS = 3
"""How often a source is looked at again that another client changes during its copy."""


class Changed(Unavailable):
    """Another client changes the source again and again."""


class Transfer(Struct, frozen=True):
    """An object to copy, as it is listed, its target, and what is listed there, None if nothing is."""

    source: ObjectName
    row: Row
    target: ObjectName
    replaces: Row | None = None

    @property
    def size(self) -> int:
        """The bytes of the source, as far as the listing tells; 0 of a DLO."""
        return self.row.size


class CopyOptions(Struct, frozen=True):
    """How objects are copied.

    Without `expiry` copies lose the date at which the source is deleted. With `no_clobber` an object that
    comes to the target meanwhile stays, if the server can make sure of that; with `update`, too: it is newer.
    """

    expiry: bool = True
    no_clobber: bool = False
    update: bool = False


class ObjectCopier:
    """Copies objects. Its methods may be called from several threads.

    `segments` are the threads that copy segments; `on_bytes` is called with the bytes that were copied.
    """

    def __init__(
        self,
        store: ObjectStore,
        places: SegmentContainerChooser,
        records: CopyRecords,
        replaced: ReplacedSegments,
        segments: Executor,
        options: CopyOptions,
        on_bytes: Callable[[int], None],
    ) -> None:
        self._store = store
        self._places = places
        self._records = records
        self._replaced = replaced
        self._segments = segments
        self._options = options
        self._on_bytes = on_bytes
        self._histories = Histories(store)

    def copy(self, transfer: Transfer) -> bool:
        """Copy; return False if the target stays. Raise the store's errors, `Changed` after `ATTEMPTS`."""
        for _ in range(ATTEMPTS):
            try:
                return self._attempt(transfer)
            except (PreconditionFailed, SegmentChanged):
                continue
            except AlreadyExists:
                return False
        raise Changed(f"{transfer.source}: another client changes it again and again", may_land=False)

    def _attempt(self, transfer: Transfer) -> bool:
        if self._may_be_copied_unseen(transfer.row):
            try:
                self._copy_plain(transfer, transfer.row.hash)
            except PreconditionFailed:
                pass  # it is a large object or has changed since it was listed
            else:
                return True
        info = self._store.head(transfer.source)
        if info.is_slo or info.dlo_prefix is not None:
            return self._copy_large(transfer, info)
        if info.is_symlink:
            # The symlink of Swift itself: its target may be what others may not read.
            self._store.copy(CopyRequest(transfer.source, transfer.target, manifest_only=True))
            return True
        has_expiry = "X-Delete-At" in info.preserved_headers
        headers = None if self._options.expiry or not has_expiry else self._allowed(Headers.of(info))
        self._copy_plain(transfer, info.version.etag, headers)
        return True

    def _may_be_copied_unseen(self, row: Row) -> bool:
        """Return whether a COPY may be sent without a HEAD: only Swift heeds a large object's ETag."""
        is_large = decode_type(row.content_type)[1].slo is not None
        is_sure = self._store.limits().is_swift or not may_be_manifest(row)
        return self._options.expiry and not is_large and is_sure

    def _copy_plain(self, transfer: Transfer, etag: str, headers: Headers | None = None) -> None:
        segments = self._segments_at(transfer)
        self._store.copy(CopyRequest(transfer.source, transfer.target, headers=headers, etag=etag))
        self._replaced.replaced(transfer.target, segments, is_slo=False)
        self._on_bytes(transfer.size)

    def _allowed(self, headers: Headers) -> Headers:
        """Return the headers without what copies are to lose."""
        if self._options.expiry:
            return headers
        kept = {name: text for name, text in headers.preserved_headers.items() if name != "X-Delete-At"}
        return replace(headers, preserved_headers=kept)

    def _segments_at(self, transfer: Transfer) -> set[ObjectName]:
        """Return the segments that are not needed when the target is replaced."""
        if transfer.replaces is None or not may_be_manifest(transfer.replaces):
            return set()
        return self._replaced.of(transfer.target)

    def _copy_large(self, transfer: Transfer, info: ObjectInfo) -> bool:
        manifest = self._manifest(info)
        if self._stands(transfer, info.version.etag):
            self._records.forget(transfer.target)
            self._on_bytes(transfer.size)
            return False
        record = self._records.open(transfer.target)
        try:
            self._copy_recorded(transfer, info, manifest, record)
        finally:
            record.close()
        return True

    def _stands(self, transfer: Transfer, etag: str) -> bool:
        """Return whether the target is a large object with this ETag already."""
        row = transfer.replaces
        if row is None or not etag or self._options.no_clobber:
            return False
        if decode_type(row.content_type)[0] != decode_type(transfer.row.content_type)[0]:
            return False
        try:
            found = self._store.head(transfer.target)
        except NotFound:
            return False
        return found.version.etag == etag and (found.is_slo or found.dlo_prefix is not None)

    def _manifest(self, info: ObjectInfo) -> Manifest:
        """Return the segments of an SLO or DLO; raise `PreconditionFailed` if it is another version now."""
        checked = self._store.check_manifest(info.version)
        if info.dlo_prefix is not None:
            return self._dlo_manifest(info, info.dlo_prefix)
        manifest = checked or self._store.manifest(info.version.name)
        if manifest.etag != info.version.etag:
            raise PreconditionFailed(f"{info.version.name}: another client changed it")
        return manifest

    def _dlo_manifest(self, info: ObjectInfo, prefix: ObjectName) -> Manifest:
        rows = list(iter_dlo_segments(self._store, prefix))
        manifest = Manifest(
            tuple(Segment(ObjectName(prefix.container, row.key), row.hash, row.size) for row in rows)
        )
        # Swift makes a DLO's ETag of those of its segments, unless they fill more than a page.
        is_known = bool(info.version.etag) and len(rows) < self._store.limits().listing
        if is_known and manifest.etag != info.version.etag:
            raise PreconditionFailed(f"{info.version.name}: another client changed its segments")
        return manifest

    def _copy_recorded(
        self, transfer: Transfer, info: ObjectInfo, manifest: Manifest, record: CopyRecord
    ) -> None:
        """Copy the segments and then the manifest; `record` is there until the target names them."""
        unfinished, stored = self._resume(transfer.target, info.version, record)
        try:
            headers = self._segment_headers(info, transfer.target)
            copied = self._copy_segments(manifest, unfinished.prefix, stored, headers)
        except SegmentChanged:
            self._discard(unfinished.prefix)
            record.found = None
            raise
        segments = self._segments_at(transfer)
        record.write(replace(unfinished, may_stand=True))
        try:
            is_slo = self._store_manifest(transfer, info, copied, unfinished.prefix)
        except AlreadyExists:  # another client was faster, and `no_clobber` or `update` is asked for
            self._discard(unfinished.prefix)
            record.found = None
            raise
        record.remove()
        self._replaced.replaced(transfer.target, segments, is_slo=is_slo)

    def _segment_headers(self, info: ObjectInfo, target: ObjectName) -> Headers:
        """Return the headers of the segments of a copy, whatever those of the source's segments are.

        They must not stay longer than the object, as they would be left behind, nor end before it: in a
        container with versioning it gets no X-Delete-At.
        """
        expiry = info.preserved_headers.get("X-Delete-At", "") if self._options.expiry else ""
        if expiry and self._histories.is_versioned(target.container):
            expiry = ""
        return Headers(SEGMENT_TYPE, {}, {"X-Delete-At": expiry} if expiry else {})

    def _resume(
        self, target: ObjectName, source: ObjectVersion, record: CopyRecord
    ) -> tuple[Unfinished, dict[str, Row]]:
        """Return where the segments go, and those that an earlier run has stored there already."""
        found = record.found
        # An object that was renamed since may name the segments of a manifest that was sent.
        if found is not None and not found.may_stand:
            if found.source == source:
                rows = iter_rows(self._store, found.prefix.container, found.prefix.key)
                return found, {row.key: row for row in rows}
            self._discard(found.prefix)
        prefix = self._places.of(target.container).name(segment_prefix(target, NO_JOURNAL))
        unfinished = Unfinished(source, prefix)
        record.write(unfinished)
        return unfinished, {}

    def _discard(self, prefix: ObjectName) -> None:
        """Delete segments that no manifest was ever sent for; a failure leaves them to `swiftfs gc`."""
        try:
            rows = iter_rows(self._store, prefix.container, prefix.key)
            self._store.delete_many([ObjectName(prefix.container, row.key) for row in rows])
        except StoreError:
            return

    def _copy_segments(
        self, manifest: Manifest, prefix: ObjectName, stored: dict[str, Row], headers: Headers
    ) -> Manifest:
        """Copy each segment once, however often the manifest names it; return the manifest of the copies."""
        sources = {segment.name: segment for segment in manifest.segments if not segment.data}
        targets = {
            name: ObjectName(prefix.container, f"{prefix.key}copy-{number:08d}")
            for number, name in enumerate(sources)
        }
        futures = {
            name: self._segments.submit(self._copy_segment, segment, targets[name], stored, headers)
            for name, segment in sources.items()
        }
        try:
            etags = {name: future.result() for name, future in futures.items()}
        except BaseException:
            for future in futures.values():
                future.cancel()
            wait_all(futures.values())  # before anything is deleted, or they would leave segments behind
            raise
        copies = {name: (targets[name], etag) for name, etag in etags.items()}
        return Manifest(tuple(renamed_segments(manifest.segments, copies)))

    def _copy_segment(
        self, segment: Segment, target: ObjectName, stored: dict[str, Row], headers: Headers
    ) -> str:
        """Copy a segment unless it is `stored` already; return its ETag."""
        row = stored.get(target.key)
        if row is None or (row.hash, row.size) != (segment.etag, segment.size):
            etag = self._copy_segment_now(segment, target, headers)
        else:
            etag = row.hash
        self._on_bytes(segment.size)
        return etag

    def _copy_segment_now(self, segment: Segment, target: ObjectName, headers: Headers) -> str:
        try:
            # One that is an SLO itself becomes an ordinary object with another ETag.
            condition = "" if segment.nested else segment.etag
            return self._store.copy(CopyRequest(segment.name, target, headers=headers, etag=condition)).etag
        except NotFound:
            raise SegmentChanged(f"{segment.name}: another client deleted it", may_land=False) from None
        except PreconditionFailed:
            raise SegmentChanged(f"{segment.name}: another client changed it", may_land=False) from None

    def _check_unchanged(self, target: ObjectName, listed: Row) -> None:
        """Raise `AlreadyExists` if another client has changed the target since it was listed."""
        with suppress(NotFound):
            changed = self._store.head(target).last_modified_ns
            # A header tells whole seconds, rounded up.
            if listed.last_modified and changed > parse_last_modified(listed.last_modified) + NS:
                raise AlreadyExists(f"{target}: another client changed it", may_land=False)

    def _store_manifest(
        self, transfer: Transfer, info: ObjectInfo, copied: Manifest, prefix: ObjectName
    ) -> bool:
        """Store the manifest; return whether it is an SLO's.

        A DLO becomes an SLO: its segments are known, and no other client's can come between them. It remains
        a DLO where the server takes no SLO with so many segments.
        """
        limits = self._store.limits()
        filled = Manifest(tuple(one for one in copied.segments if one.span))
        if_absent = self._options.no_clobber or (self._options.update and transfer.replaces is None)
        if self._options.update and transfer.replaces is not None:
            self._check_unchanged(transfer.target, transfer.replaces)
        if info.dlo_prefix is None or (limits.slo and 0 < len(filled.segments) <= limits.slo_segments):
            source = replace(info, preserved_headers=ObjectMeta.of(info).without_dlo().preserved_headers)
            headers = self._allowed(headers_of_copy(source, filled))
            stored = self._store.put_manifest(transfer.target, filled, headers, if_absent=if_absent)
            if stored.version.etag != filled.etag:
                raise Corrupt(f"{transfer.target}: Swift made {stored.version.etag} of {filled.etag}")
            return True
        where = quote(f"{prefix.container}/{prefix.key}")
        headers = self._allowed(Headers.of(info))
        kept = {**headers.preserved_headers, "X-Object-Manifest": where}
        self._store.put(transfer.target, b"", replace(headers, preserved_headers=kept), if_absent=if_absent)
        return False


def check_kinds(transfer: Transfer) -> None:
    """Raise `ConfigurationError` if a file would replace a folder, or a folder a file, as cp(1) does."""
    if transfer.replaces is None:
        return
    is_folder, was_folder = is_folder_marker(transfer.row), is_folder_marker(transfer.replaces)
    if was_folder and not is_folder:
        raise ConfigurationError(f"{transfer.target}: cannot overwrite a folder with a file")
    if is_folder and not was_folder:
        raise ConfigurationError(f"{transfer.target}: cannot overwrite a file with a folder")


def is_folder_marker(row: Row) -> bool:
    """Return whether a listed object stands for a folder."""
    return row.key.endswith("/") or (row.size == 0 and is_directory_type(decode_type(row.content_type)[0]))
