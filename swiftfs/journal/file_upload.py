"""Uploads of files: whole, as segments, or as a patch of the existing large object.

INVARIANT: one request replaces the old state by the new one, and nothing of the old one is deleted before it.
"""

import logging
from collections.abc import Callable, Collection, Sequence
from functools import partial
from itertools import accumulate

from msgspec.structs import replace

from swiftfs.concurrency import new_pool
from swiftfs.errors import (
    BadRequest,
    ChangedDuringUpload,
    Corrupt,
    NotFound,
    PreconditionFailed,
    StoreError,
    TooLarge,
)
from swiftfs.filecache.block_map import BaseVersion, Snapshot
from swiftfs.filecache.cached_file import CachedFile
from swiftfs.filecache.segment_layout import PIECE, Gap, Part, compact, plan, span, with_stored
from swiftfs.filecache.segment_storer import SegmentPut, map_bytes, results
from swiftfs.filecache.segment_uploader import SegmentUploader
from swiftfs.filecache.sparse_file import body_of, md5_of
from swiftfs.journal.expiry import SegmentExpiry
from swiftfs.journal.operations import PutFile
from swiftfs.journal.segment_removal import SegmentRemoval
from swiftfs.objects import Manifest, ObjectInfo, ObjectName, ObjectVersion, Segment
from swiftfs.store.ambiguous import AmbiguousRequests
from swiftfs.store.protocol import Body, CopyRequest, ObjectStore

log = logging.getLogger(__name__)

PARALLEL = 8
"""Parallel requests about segments."""

READ_BYTES = 64 * 1024
"""Files up to this size are read into memory for their upload, and not mapped."""

RecordRequest = Callable[[Collection[ObjectName], str, int], None]
"""Records on disk which objects are to be deleted after the next request has succeeded, and the MD5 and size
of what it stores; an MD5 of "" for an SLO."""


class FileUpload:
    """Stores files; those above `segment_size` bytes become SLOs. `ambiguous` has the lost requests."""

    def __init__(
        self,
        store: ObjectStore,
        segment_size: int,
        removal: SegmentRemoval,
        expiry: SegmentExpiry,
        ambiguous: AmbiguousRequests,
    ) -> None:
        self._expiry = expiry
        self._store = store
        self._ambiguous = ambiguous
        self._segment_size = segment_size
        self._removal = removal

    def run(self, operation: PutFile, cached_file: CachedFile, record: RecordRequest) -> ObjectInfo:
        """Store the current file; the last request replaces the old state, whose segments are then deleted.

        `record` records those segments, and what is stored, before that request.

        Writers continue meanwhile. Every PUT, also when it is repeated, sends the MD5 that the bytes had
        before. It stores the bytes of one moment, or nothing; of a small file those of the time when the
        upload began. Raise `ChangedDuringUpload` if a PUT is refused because the bytes changed, or if the
        segments are of several moments. The next attempt uploads the rest; after some such attempts it
        uploads a copy of one moment.
        """
        snapshot = cached_file.begin_upload()
        try:
            if snapshot.size <= self._segment_size and not cached_file.is_unchanged_slo:
                return self._put(operation, cached_file, snapshot, record)
            return self._put_segments(operation, cached_file, snapshot, record)
        except ChangedDuringUpload:
            cached_file.record_changed_upload()
            raise
        # The server's 422 says that the bytes had another MD5 than their ETag. If a writer was there
        # meanwhile, that is the cause, and not the network.
        except Corrupt as error:
            if cached_file.changed_during_upload:
                cached_file.record_changed_upload()
                raise ChangedDuringUpload(
                    f"{operation.name}: the file changed while it was uploaded"
                ) from error
            raise
        finally:
            # After a success there is no snapshot any more, and this only ends the upload.
            cached_file.upload_failed()

    def _put(
        self,
        operation: PutFile,
        cached_file: CachedFile,
        snapshot: Snapshot,
        record: RecordRequest,
    ) -> ObjectInfo:
        replaced = self._removal.segments_of(operation.name, is_slo=operation.replaces_large)
        send = self._ready(operation, cached_file, snapshot.size, partial(record, replaced))
        info = send()
        self._removal.owners.forget(operation.name)
        _refuse_truncated(operation, cached_file, info.version.etag)
        cached_file.adopt(info)
        in_doubt = cached_file.uploads.record.answered(None)
        never_named = set(cached_file.uploads.commit_manifest(None))
        unused = {*replaced, *operation.superseded_segments} - never_named
        self._discard(
            operation.name, cached_file.uploads, unused, never_named, is_slo=False, in_doubt=in_doubt
        )
        return info

    def _ready(
        self, operation: PutFile, cached_file: CachedFile, size: int, record: Callable[[str, int], None]
    ) -> Callable[[], ObjectInfo]:
        """Return a function that stores the file's first `size` bytes as one object; call `record` before."""
        # After the snapshot was taken: the segment of bytes that have changed since is not the whole file.
        if (segment := cached_file.uploads.whole_copy(size)) is not None:
            record(segment.etag, size)
            return lambda: self._put_copy(operation, cached_file, segment, record)
        cached_file.ensure_verified(0, size)
        source = cached_file.upload_source(size)

        def is_changed() -> bool:
            return cached_file.changed_during_upload

        body: Body
        if size <= READ_BYTES:
            body, etag = body_of(source, size, is_changed)
        else:
            etag, body = md5_of(source, 0, size, is_changed), map_bytes(source, 0, size)
        if is_changed():  # the MD5 may be of bytes that the file never had together
            raise ChangedDuringUpload(f"{operation.name}: the file changed before it was uploaded")
        record(etag, size)
        return lambda: self._store.put(operation.name, body, operation.meta.headers(), etag=etag)

    def _put_copy(
        self,
        operation: PutFile,
        cached_file: CachedFile,
        segment: Segment,
        record: Callable[[str, int], None],
    ) -> ObjectInfo:
        """Store what the server has copied to one segment, as an object of its own: no manifest names it."""
        headers = operation.meta.headers()
        try:
            version = self._store.copy(
                CopyRequest(segment.name, operation.name, headers=headers, etag=segment.etag)
            )
        except (NotFound, PreconditionFailed) as error:
            log.info("%s is uploaded: %s", operation.name, error)
            cached_file.ranges.forget_whole()
            return self._ready(operation, cached_file, segment.size, record)()
        return ObjectInfo(
            version, segment.size, headers.content_type, 0, headers.metadata, headers.preserved_headers
        )

    def _put_segments(
        self,
        operation: PutFile,
        cached_file: CachedFile,
        snapshot: Snapshot,
        record: RecordRequest,
    ) -> ObjectInfo:
        before = snapshot.base.etag if snapshot.base else ""
        if (patched := self._patch(operation, cached_file, cached_file.uploads, snapshot)) is not None:
            try:
                return self._commit(operation, cached_file, *patched, before, record)
            except BadRequest as error:  # segments of the old version are gone: another client replaced it
                log.info("%s is uploaded whole: %s", operation.name, error)
        replaced = self._removal.segments_of(operation.name, is_slo=operation.replaces_large)
        cached_file.verify_rest(snapshot.size)
        manifest = cached_file.uploads.finish(snapshot.size)
        try:
            return self._commit(operation, cached_file, manifest, replaced, before, record)
        except BadRequest as error:
            if not self._look_again(cached_file, manifest):
                raise
            log.info("%s is uploaded again: %s", operation.name, error)
        manifest = cached_file.uploads.finish(snapshot.size)
        return self._commit(operation, cached_file, manifest, replaced, before, record)

    def _look_again(self, cached_file: CachedFile, manifest: Manifest) -> bool:
        """Look at the segments of a manifest that Swift has refused; return False if that is of no use.

        Those that are gone (another client has deleted them with the version of the file that it replaced) or
        are others are uploaded again. Of those that only Swift has, an answer may have said a wrong ETag.
        """
        with new_pool("refused segments", PARALLEL) as pool:
            found = list(pool.map(self._head, manifest.segments))
        ends = accumulate(segment.span for segment in manifest.segments)
        again: list[tuple[int, int]] = []
        corrected = False
        for segment, end, info in zip(manifest.segments, ends, found, strict=True):
            start = end - segment.span
            if info is not None and (info.version.etag, info.size) == (segment.etag, segment.size):
                continue
            if info is None or cached_file.ranges.is_present(start, end):
                again.append((start, end))
            elif info.size == segment.size and cached_file.uploads.correct(start, info.version.etag):
                corrected = True
            else:
                return False
        try:
            for start, end in again:
                cached_file.ensure_verified(start, end)
        except (NotFound, PreconditionFailed):  # nor are their bytes in the local file
            return False
        for start, _end in again:
            cached_file.uploads.supersede(start)
        return corrected or bool(again)

    def _head(self, segment: Segment) -> ObjectInfo | None:
        try:
            return self._store.head(segment.name)
        except NotFound:
            return None

    def _commit(
        self,
        operation: PutFile,
        cached_file: CachedFile,
        manifest: Manifest,
        old: set[ObjectName],
        before: str,
        record: RecordRequest,
    ) -> ObjectInfo:
        """Store the manifest over the version `before`; delete the `old` segments that it does not name."""
        _refuse_truncated(operation, cached_file)
        named = manifest.names
        # What the new manifest names again must not be among them: the record would have it deleted.
        if unused := {*old, *operation.superseded_segments} - named:
            record(unused, "", manifest.size)
        moment = operation.meta.delete_at
        if operation.expiry_changed:
            self._expiry.lengthen(named, moment)
        info = self._put_manifest(operation, cached_file.uploads, manifest, before)
        cached_file.adopt(info, manifest)
        in_doubt = cached_file.uploads.record.answered(manifest)
        never_named = {*cached_file.uploads.commit_manifest(manifest)} - named
        unused = {*old, *operation.superseded_segments} - named - never_named
        self._discard(
            operation.name, cached_file.uploads, unused, never_named, is_slo=True, in_doubt=in_doubt
        )
        self._expiry.follow(operation.name, manifest, moment)
        return info

    def _discard(
        self,
        name: ObjectName,
        uploads: SegmentUploader,
        unused: set[ObjectName],
        never_named: set[ObjectName],
        *,
        is_slo: bool,
        in_doubt: bool,
    ) -> None:
        """Delete segments that the object just stored does not name, and those that no version of it named.

        Those that a record of the journal named are checked later: a manifest that was sent before may still
        be carried out, and after a power cut the journal may be as it was a moment ago.
        """
        # An attempt to store a manifest may come late even if another attempt of it was answered.
        unnamed = unused | never_named
        in_doubt = in_doubt or self._ambiguous.may_name(name, unnamed)
        self._removal.discard(name, unnamed, never_named=never_named, is_slo=is_slo, in_doubt=in_doubt)
        if released := uploads.take_released():
            self._removal.keep_shared(released, {name})

    def _put_manifest(
        self, operation: PutFile, uploads: SegmentUploader, manifest: Manifest, before: str
    ) -> ObjectInfo:
        """Record the manifest, then store it: the answer may be lost."""
        self._removal.owners.record_manifest(operation.name, before, manifest, uploads.record.prefix)
        # A COPY of an earlier rename without an answer may come late, and copy this manifest.
        if copies := self._ambiguous.copies_of(operation.name):
            self._removal.share_all([(operation.name, one.name) for one in copies])
        # Committed before the PUT: if its answer is lost, clean-up must know that this manifest may come to
        # stand.
        is_new = uploads.record.asks(operation.name, manifest)
        headers = operation.meta.with_slo(manifest.etag).headers()
        try:
            info = self._store.put_manifest(operation.name, manifest, headers)
        except StoreError as error:
            # Only then it is certain that no attempt to store this manifest can still succeed.
            if is_new and not error.retryable and not error.may_land:
                uploads.record.refused(manifest)
            raise
        # Claims for other ETags go only now: until the answer, the old version may stay.
        self._removal.owners.record_version(operation.name, manifest.etag)
        return info

    def _patch(
        self, operation: PutFile, cached_file: CachedFile, uploads: SegmentUploader, snapshot: Snapshot
    ) -> tuple[Manifest, set[ObjectName]] | None:
        """Upload the changes; return a manifest of them and of old segments, and the old segments.

        Return None if little of the old object stays, or if it is another version now.
        """
        base = snapshot.base
        least = 0 if cached_file.is_unchanged_slo else PIECE
        # The object of another name goes on naming its segments.
        if base is None or not base.etag or base.size < least or base.name != operation.name:
            return None
        known = self._old_segments(base, operation.replaces_large)
        if known is None:
            return None
        uploads.found_beside(known)
        limit = self._store.limits().slo_segments
        parts = plan(known, base.size, snapshot.size, cached_file.changes(), self._segment_size)
        parts = compact(parts, limit, self._segment_size * 4)
        if len(parts) > limit or sum(span(part) for part in parts if isinstance(part, Segment)) < least:
            return None
        old = Manifest(tuple(known)).names
        if base.name in old and not self._copy_whole(uploads, base, parts):
            return None
        segments = self._upload_gaps(cached_file, uploads, parts)
        # Another mount may have renamed the version since this one has seen it. Its segments belong to that
        # object then. If two manifests name the same segments, a client that deletes one destroys the other.
        # As late as possible, because the other mount may do it at any time.
        if base.manifest is not None and not self._stands(base):
            log.info("%s was moved, deleted or replaced: its segments are copied", base.name)
            if not self._copy_segments(uploads, segments, old):
                return None
            old = {base.name}
        old = self._removal.owners.owned(operation.name, base.etag, old - {base.name})
        return Manifest(tuple(segments)), old

    def _stands(self, base: BaseVersion) -> bool:
        """Return whether Swift still has the version, which is known only from this mount's memory."""
        try:
            return self._store.head(base.name).version.etag == base.etag
        except NotFound:
            return False

    def _copy_segments(
        self, uploads: SegmentUploader, segments: list[Segment], old: Collection[ObjectName]
    ) -> bool:
        """Copy the `old` ones, of a version that was replaced: another object may own them now.

        Return False if one is gone, or too large for that.
        """
        copies: dict[ObjectName, ObjectVersion] = {}
        for index, one in enumerate(segments):
            if one.name in old:
                try:
                    copied = copies.get(one.name) or uploads.copy(ObjectVersion(one.name, one.etag))
                except (NotFound, TooLarge):
                    return False
                copies[one.name] = copied
                segments[index] = replace(one, name=copied.name, etag=copied.etag)
        return True

    def _old_segments(self, base: BaseVersion, is_slo: bool | None) -> Sequence[Segment] | None:
        """Return the segments of the base version; of a plain object, the object as one segment."""
        if base.manifest is not None:
            return base.manifest.segments
        if is_slo is None:
            is_slo = self._store.head(base.name).is_slo
        if not is_slo:
            return (Segment(base.name, base.etag, base.object_size),)
        manifest = self._removal.manifest_of(base.name, is_slo)
        return manifest.segments if manifest and manifest.etag == base.etag else None

    def _copy_whole(self, uploads: SegmentUploader, base: BaseVersion, parts: list[Part]) -> bool:
        """Copy a plain object to a segment, for a manifest cannot name the object that it replaces.

        Return False when the object is too large for that.
        """
        try:
            copied = uploads.copy(ObjectVersion(base.name, base.etag))
        except TooLarge:
            return False
        if copied.etag != base.etag and not self._is_dlo(base):
            raise PreconditionFailed(f"{base.name}: another client changed it while it was written to")
        for index, part in enumerate(parts):
            if isinstance(part, Segment):
                parts[index] = replace(part, name=copied.name, etag=copied.etag)
        return True

    def _is_dlo(self, base: BaseVersion) -> bool:
        """Return whether the version is a DLO's: its ETag is made from its segments' ETags, not the bytes."""
        info = self._store.head(base.name)
        return info.dlo_prefix is not None and info.version.etag == base.etag

    def _upload_gaps(
        self, cached_file: CachedFile, uploads: SegmentUploader, parts: Sequence[Part]
    ) -> list[Segment]:
        """Return the parts as segments: each gap is uploaded, except evicted blocks, which are in Swift."""
        # Bytes that were evicted are only in their segments, so these are named as they are.
        parts = with_stored(parts, cached_file.evicted(), self._segment_size)
        gaps: dict[int, SegmentPut] = {}
        for index, part in enumerate(parts):
            if isinstance(part, Gap):
                cached_file.ensure_verified(part.start, part.end)
                gaps[index] = uploads.upload(part.start, part.end)
        stored = dict(zip(gaps, results(gaps.values()), strict=True))
        return [part if isinstance(part, Segment) else stored[index] for index, part in enumerate(parts)]


def _refuse_truncated(operation: PutFile, cached_file: CachedFile, etag: str = "") -> None:
    """Raise `ChangedDuringUpload` if the upload `etag` has zeros because the file was truncated meanwhile."""
    if cached_file.is_truncated:
        raise ChangedDuringUpload(f"{operation.name}: the file was truncated while it was uploaded", etag)
