"""Uploads of files: whole, as segments, or as a patch of the existing large object.

INVARIANT: one request replaces the old state by the new one, and nothing of the old one is deleted before it.
INVARIANT: an object never outlives its segments. Swift deletes at an X-Delete-At only the manifest, or only
the segments.
"""

import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from itertools import accumulate

from msgspec.structs import replace

from swiftfs.concurrency import new_pool, unix_time
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
from swiftfs.filecache.sparse_file import body_of, md5_of
from swiftfs.journal.operations import PutFile
from swiftfs.journal.segment_removal import SegmentRemoval
from swiftfs.objects import Manifest, ObjectInfo, ObjectName, ObjectVersion, Segment
from swiftfs.store.ambiguous import AmbiguousRequests
from swiftfs.store.protocol import (
    DELETE_AT,
    Body,
    CopyRequest,
    Headers,
    ObjectMeta,
    ObjectStore,
    find_object,
    has_version,
    with_delete_at,
)

log = logging.getLogger(__name__)

PARALLEL = 8
"""Parallel requests about segments."""

NEVER = 2**63
"""Later than every X-Delete-At."""


class SegmentExpiry:
    """Changes when Swift deletes segments.

    INVARIANT: an object never outlives its segments, so `lengthen` comes before the request that changes the
    object, and `follow` after it.
    """

    def __init__(self, store: ObjectStore, removal: SegmentRemoval) -> None:
        self._store = store
        self._removal = removal

    def lengthen(self, segments: Collection[ObjectName], moment: str) -> None:
        """Keep the segments until `moment` at least, for ever if it is empty; raise `StoreError`."""
        with new_pool("expiry", PARALLEL) as pool:
            list(pool.map(partial(self._lengthen, moment), sorted(segments)))

    def _lengthen(self, moment: str, name: ObjectName) -> None:
        with suppress(NotFound):  # whoever stores or reads the object is told
            headers = Headers.of(self._store.head(name))
            if _seconds(headers.preserved_headers.get(DELETE_AT, "")) < _seconds(moment):
                self._post(name, headers, moment)

    def follow(self, name: ObjectName, manifest: Manifest, moment: str) -> None:
        """Let Swift delete the segments of the object at `moment`, too; do nothing if it is empty.

        Their storage would be billed for ever. Segments that other objects may name stay as they are. A
        failure is logged: the object is stored, and `gc` finds what stays. Where a container keeps older
        versions, these do not expire, and have no other segments.
        """
        if not moment:
            return
        try:
            if self._removal.are_kept({name}, ()):
                return
        except StoreError as error:
            log.warning("%s: its segments stay when Swift deletes it at its X-Delete-At: %s", name, error)
            return
        named = manifest.names
        own = self._removal.owners.owned(name, manifest.etag, named) - self._removal.shared(named)
        with new_pool("expiry", PARALLEL) as pool:
            failed = [one for one in pool.map(partial(self._follow, moment), sorted(own)) if one is not None]
        if failed:
            text = "%s: %d segments stay when Swift deletes it at its X-Delete-At: %s"
            log.warning(text, name, len(failed), failed[0])

    def _follow(self, moment: str, name: ObjectName) -> StoreError | None:
        try:
            headers = Headers.of(self._store.head(name))
            if headers.preserved_headers.get(DELETE_AT) != moment:
                self._post(name, headers, moment)
        except StoreError as error:
            return error
        return None

    def _post(self, name: ObjectName, headers: Headers, moment: str) -> None:
        kept = with_delete_at(headers.preserved_headers, moment)
        self._store.post(name, replace(headers, preserved_headers=kept))


def _seconds(moment: str) -> int:
    """Return an X-Delete-At as a number, `NEVER` for one that is empty or wrong."""
    return int(moment) if moment.isdecimal() else NEVER


def without_past(name: ObjectName, meta: ObjectMeta) -> ObjectMeta:
    """Return the meta without an X-Delete-At that has passed: Swift would refuse to store the file."""
    if _seconds(meta.delete_at) > unix_time():
        return meta
    log.warning("%s: its X-Delete-At passed before it could be stored: it is stored without one", name)
    return meta.with_delete_at("")


def with_rule(meta: ObjectMeta, moment: str) -> ObjectMeta:
    """Return the meta with `moment`, the X-Delete-At of a rule, unless the object has one."""
    return meta if meta.delete_at else meta.with_delete_at(moment)


READ_BYTES = 64 * 1024
"""Files up to this size are read into memory for their upload, and not mapped."""

RecordRequest = Callable[[Collection[ObjectName], str, int], None]
"""Records on disk which objects are to be deleted after the next request has succeeded, and the MD5 and size
of what it stores; an MD5 of "" for an SLO."""


class FileUpload:
    """The upload of a file; one above `segment_size` bytes becomes an SLO. `ambiguous` has the lost requests.

    `record` records the segments of the old state, and what is stored, before the request that replaces it.
    """

    def __init__(
        self,
        store: ObjectStore,
        segment_size: int,
        removal: SegmentRemoval,
        expiry: SegmentExpiry,
        ambiguous: AmbiguousRequests,
        operation: PutFile,
        cached_file: CachedFile,
        record: RecordRequest,
    ) -> None:
        self._store = store
        self._segment_size = segment_size
        self._removal = removal
        self._expiry = expiry
        self._ambiguous = ambiguous
        self._operation = operation
        self._name = operation.name
        self._file = cached_file
        self._uploads = cached_file.uploads
        self._record = record

    def run(self) -> ObjectInfo:
        """Store the current file; the last request replaces the old state, whose segments are then deleted.

        Writers continue meanwhile. Every PUT, also when it is repeated, sends the MD5 that the bytes had
        before. It stores the bytes of one moment, or nothing; of a small file those of the time when the
        upload began. Raise `ChangedDuringUpload` if a PUT is refused because the bytes changed, or if the
        segments are of several moments. The next attempt uploads the rest; after some such attempts it
        uploads a copy of one moment.
        """
        snapshot = self._file.begin_upload()
        try:
            if snapshot.size <= self._segment_size and not self._file.is_unchanged_slo:
                return self._put(snapshot.size)
            return self._put_segments(snapshot)
        except ChangedDuringUpload:
            self._file.record_changed_upload()
            raise
        # The server's 422 says that the bytes had another MD5 than their ETag. If a writer was there
        # meanwhile, that is the cause, and not the network.
        except Corrupt as error:
            if self._file.changed_during_upload:
                self._file.record_changed_upload()
                raise ChangedDuringUpload(f"{self._name}: the file changed while it was uploaded") from error
            raise
        finally:
            # After a success there is no snapshot any more, and this only ends the upload.
            self._file.upload_failed()

    def _put(self, size: int) -> ObjectInfo:
        """Store the file as one object."""
        replaced = self._segments_replaced()
        send = self._ready(size, partial(self._record, replaced))
        info = send()
        self._removal.owners.forget(self._name)
        self._refuse_truncated(info.version.etag)
        self._file.adopt(info)
        self._end(replaced, None)
        return info

    def _segments_replaced(self) -> set[ObjectName]:
        return self._removal.segments_of(self._name, is_slo=self._operation.replaces_large)

    def _ready(self, size: int, record: Callable[[str, int], None]) -> Callable[[], ObjectInfo]:
        """Return a function that stores the file's first `size` bytes as one object; call `record` before."""
        # After the snapshot was taken: the segment of bytes that have changed since is not the whole file.
        if (segment := self._uploads.whole_copy(size)) is not None:
            record(segment.etag, size)
            return lambda: self._put_copy(segment, record)
        self._file.ensure_verified(0, size)
        source = self._file.upload_source(size)

        def is_changed() -> bool:
            return self._file.changed_during_upload

        body: Body
        if size <= READ_BYTES:
            body, etag = body_of(source, size, is_changed)
        else:
            etag, body = md5_of(source, 0, size, is_changed), map_bytes(source, 0, size)
        if is_changed():  # the MD5 may be of bytes that the file never had together
            raise ChangedDuringUpload(f"{self._name}: the file changed before it was uploaded")
        record(etag, size)
        return lambda: self._store.put(self._name, body, self._operation.meta.headers(), etag=etag)

    def _put_copy(self, segment: Segment, record: Callable[[str, int], None]) -> ObjectInfo:
        """Store what the server has copied to one segment, as an object of its own: no manifest names it."""
        headers = self._operation.meta.headers()
        try:
            version = self._store.copy(
                CopyRequest(segment.name, self._name, headers=headers, etag=segment.etag)
            )
        except (NotFound, PreconditionFailed) as error:
            log.info("%s is uploaded: %s", self._name, error)
            self._uploads.supersede(0)
            return self._ready(segment.size, record)()
        return ObjectInfo(
            version, segment.size, headers.content_type, 0, headers.metadata, headers.preserved_headers
        )

    def _put_segments(self, snapshot: Snapshot) -> ObjectInfo:
        before = snapshot.base.etag if snapshot.base else ""
        if (patched := self._patch(snapshot)) is not None:
            try:
                return self._commit(*patched, before)
            except BadRequest as error:  # segments of the old version are gone: another client replaced it
                log.info("%s is uploaded whole: %s", self._name, error)
        replaced = self._segments_replaced()
        self._file.verify_rest(snapshot.size)
        manifest = self._uploads.finish(snapshot.size)
        try:
            return self._commit(manifest, replaced, before)
        except BadRequest as error:
            if not self._look_again(manifest):
                raise
            log.info("%s is uploaded again: %s", self._name, error)
        return self._commit(self._uploads.finish(snapshot.size), replaced, before)

    def _look_again(self, manifest: Manifest) -> bool:
        """Look at the segments of a manifest that Swift has refused; return False if that is of no use.

        Those that are gone (another client has deleted them with the version of the file that it replaced) or
        are others are uploaded again. Of those that only Swift has, an answer may have said a wrong ETag.
        """
        with new_pool("refused segments", PARALLEL) as pool:
            found = list(pool.map(lambda one: find_object(self._store, one.name), manifest.segments))
        ends = accumulate(segment.span for segment in manifest.segments)
        again: list[tuple[int, int]] = []
        corrected = False
        for segment, end, info in zip(manifest.segments, ends, found, strict=True):
            start = end - segment.span
            if info is not None and (info.version.etag, info.size) == (segment.etag, segment.size):
                continue
            if info is None or self._file.ranges.is_present(start, end):
                again.append((start, end))
            elif info.size == segment.size and self._uploads.correct(start, info.version.etag):
                corrected = True
            else:
                return False
        try:
            for start, end in again:
                self._file.ensure_verified(start, end)
        except (NotFound, PreconditionFailed):  # nor are their bytes in the local file
            return False
        for start, _end in again:
            self._uploads.supersede(start)
        return corrected or bool(again)

    def _commit(self, manifest: Manifest, old: set[ObjectName], before: str) -> ObjectInfo:
        """Store the manifest over the version `before`; delete the `old` segments that it does not name."""
        self._refuse_truncated()
        # What the new manifest names again must not be among them: the record would have it deleted.
        if unused := {*old, *self._operation.superseded_segments} - manifest.names:
            self._record(unused, "", manifest.size)
        moment = self._operation.meta.delete_at
        if self._operation.expiry_changed:
            self._expiry.lengthen(manifest.names, moment)
        info = self._put_manifest(manifest, before)
        self._file.adopt(info, manifest)
        self._end(old, manifest)
        self._expiry.follow(self._name, manifest, moment)
        return info

    def _end(self, old: set[ObjectName], manifest: Manifest | None) -> None:
        """Delete segments that the object just stored does not name, and those that no version of it named.

        Those that a record of the journal named are checked later: a manifest that was sent before may still
        be carried out, and after a power cut the journal may be as it was a moment ago.
        """
        in_doubt = self._uploads.record.answered(manifest)
        named = manifest.names if manifest is not None else set()
        never_named = {*self._uploads.commit_manifest(manifest)} - named
        unnamed = ({*old, *self._operation.superseded_segments} - named) | never_named
        # An attempt to store a manifest may come late even if another attempt of it was answered.
        in_doubt = in_doubt or self._ambiguous.may_name(self._name, unnamed)
        is_slo = manifest is not None
        self._removal.discard(self._name, unnamed, never_named=never_named, is_slo=is_slo, in_doubt=in_doubt)
        if released := self._uploads.take_released():
            self._removal.keep_shared(released, {self._name})

    def _put_manifest(self, manifest: Manifest, before: str) -> ObjectInfo:
        """Record the manifest, then store it: the answer may be lost."""
        name, record = self._name, self._uploads.record
        self._removal.owners.record_manifest(name, before, manifest, record.prefix)
        # A COPY of an earlier rename without an answer may come late, and copy this manifest.
        if copies := self._ambiguous.copies_of(name):
            self._removal.share_all([(name, one.name) for one in copies])
        # Committed before the PUT: if its answer is lost, clean-up must know that this manifest may come to
        # stand.
        is_new = record.asks(name, manifest)
        headers = self._operation.meta.with_slo(manifest.etag).headers()
        try:
            info = self._store.put_manifest(name, manifest, headers)
        except StoreError as error:
            # Only then it is certain that no attempt to store this manifest can still succeed.
            if is_new and not error.retryable and not error.may_land:
                record.refused(manifest)
            raise
        # Claims for other ETags go only now: until the answer, the old version may stay.
        self._removal.owners.record_version(name, manifest.etag)
        return info

    def _patch(self, snapshot: Snapshot) -> tuple[Manifest, set[ObjectName]] | None:
        """Upload the changes; return a manifest of them and of old segments, and the old segments.

        Return None if little of the old object stays, or if it is another version now.
        """
        base = snapshot.base
        least = 0 if self._file.is_unchanged_slo else PIECE
        # The object of another name goes on naming its segments.
        if base is None or not base.etag or base.size < least or base.name != self._name:
            return None
        known = self._old_segments(base)
        if known is None:
            return None
        self._uploads.found_beside(known)
        limit = self._store.limits().slo_segments
        parts = plan(known, base.size, snapshot.size, self._file.changes(), self._segment_size)
        parts = compact(parts, limit, self._segment_size * 4)
        if len(parts) > limit or sum(span(part) for part in parts if isinstance(part, Segment)) < least:
            return None
        old = Manifest(tuple(known)).names
        if base.name in old and not self._copy_whole(base, parts):
            return None
        segments = self._upload_gaps(parts)
        # Another mount may have renamed the version since this one has seen it. Its segments belong to that
        # object then. If two manifests name the same segments, a client that deletes one destroys the other.
        # As late as possible, because the other mount may do it at any time.
        if base.manifest is not None and not has_version(self._store, base.name, base.etag):
            log.info("%s was moved, deleted or replaced: its segments are copied", base.name)
            if not self._copy_segments(segments, old):
                return None
            old = {base.name}
        old = self._removal.owners.owned(self._name, base.etag, old - {base.name})
        return Manifest(tuple(segments)), old

    def _copy_segments(self, segments: list[Segment], old: Collection[ObjectName]) -> bool:
        """Copy the `old` ones, of a version that was replaced: another object may own them now.

        Return False if one is gone, or too large for that.
        """
        copies: dict[ObjectName, ObjectVersion] = {}
        for index, one in enumerate(segments):
            if one.name in old:
                try:
                    copied = copies.get(one.name) or self._uploads.copy(ObjectVersion(one.name, one.etag))
                except (NotFound, TooLarge):
                    return False
                copies[one.name] = copied
                segments[index] = replace(one, name=copied.name, etag=copied.etag)
        return True

    def _old_segments(self, base: BaseVersion) -> Sequence[Segment] | None:
        """Return the segments of the base version; of a plain object, the object as one segment."""
        if base.manifest is not None:
            return base.manifest.segments
        is_slo = self._operation.replaces_large
        if is_slo is None:
            is_slo = self._store.head(base.name).is_slo
        if not is_slo:
            return (Segment(base.name, base.etag, base.object_size),)
        manifest = self._removal.manifest_of(base.name, is_slo)
        if manifest is None or manifest.etag != base.etag:
            return None
        if manifest.size != base.object_size:  # as a HEAD has said it, which a proxy may have spoiled
            raise Corrupt(f"{base.name}: its segments have {manifest.size} bytes, not {base.object_size}")
        return manifest.segments

    def _copy_whole(self, base: BaseVersion, parts: list[Part]) -> bool:
        """Copy a plain object to a segment, for a manifest cannot name the object that it replaces.

        Return False when the object is too large for that.
        """
        try:
            copied = self._uploads.copy(ObjectVersion(base.name, base.etag))
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

    def _upload_gaps(self, parts: Sequence[Part]) -> list[Segment]:
        """Return the parts as segments: each gap is uploaded, except evicted blocks, which are in Swift."""
        # Bytes that were evicted are only in their segments, so these are named as they are.
        parts = with_stored(parts, self._file.evicted(), self._segment_size)
        gaps: dict[int, SegmentPut] = {}
        for index, part in enumerate(parts):
            if isinstance(part, Gap):
                self._file.ensure_verified(part.start, part.end)
                gaps[index] = self._uploads.upload(part.start, part.end)
        stored = dict(zip(gaps, results(gaps.values()), strict=True))
        return [part if isinstance(part, Segment) else stored[index] for index, part in enumerate(parts)]

    def _refuse_truncated(self, etag: str = "") -> None:
        """Raise `ChangedDuringUpload` if the upload `etag` has zeros: the file was truncated meanwhile."""
        if self._file.is_truncated:
            raise ChangedDuringUpload(f"{self._name}: the file was truncated while it was uploaded", etag)
