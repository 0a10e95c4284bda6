"""Conflicts: another client changed an object that this mount is about to overwrite or delete."""

import logging
from collections.abc import Collection
from datetime import datetime, timezone
from pathlib import PurePosixPath

from msgspec.structs import replace

from swiftfs.errors import Unavailable
from swiftfs.filecache.cached_file import CachedFile
from swiftfs.filecache.upload_record import UploadRecord
from swiftfs.journal.operations import PutFile
from swiftfs.journal.segment_removal import SegmentRemoval
from swiftfs.journal.shared_copies import ManifestCopier
from swiftfs.namespace.entry import is_marker
from swiftfs.objects import ObjectInfo, ObjectName
from swiftfs.store.ambiguous import AmbiguousRequests
from swiftfs.store.protocol import CopyRequest, ObjectStore, find_object, has_version

log = logging.getLogger(__name__)


class Conflicts:
    """Lets the last writer win. With `keep` another client's version is copied first, at the cost of a HEAD.

    `ambiguous` has the versions that requests of this mount may have stored although their answer was lost.
    """

    def __init__(
        self,
        store: ObjectStore,
        copier: ManifestCopier,
        removal: SegmentRemoval,
        ambiguous: AmbiguousRequests,
        *,
        keep: bool,
    ) -> None:
        self._store = store
        self._ambiguous = ambiguous
        self._copier = copier
        self._removal = removal
        self._keep = keep

    def resolve(self, operation: PutFile, cached_file: CachedFile, *, ambiguous: bool) -> PutFile:
        """Copy the object of another client that `operation` would overwrite; return the updated operation.

        An `ambiguous` operation may have been executed: Swift's object may be its own.
        """
        # Without a version to compare with, nothing can be said to be another client's.
        if not self._keep or (not operation.creates and operation.replaces_etag is None and not ambiguous):
            return operation
        info = find_object(self._store, operation.name)
        # The version that this file was made from, or one that an earlier attempt has stored.
        if info is None or info.version.etag in (operation.replaces_etag, *operation.sent):
            return operation
        # A request of ours whose answer was lost: its version is no one else's. And of a folder's marker that
        # was deleted the mount knows no ETag; it has no bytes to keep.
        if self._ambiguous.may_have_stored(info.version) or is_marker(info):
            return operation
        if ambiguous and _is_ours(info, cached_file):
            return operation
        # The same name at each attempt, so that a second attempt makes no second copy.
        beside = _name_beside(operation.name, info)
        segments = self._copy_large(info, beside) if info.is_slo else set()
        if not info.is_slo:
            # `manifest_only` copies a DLO's manifest, and makes no difference for other objects.
            self._store.copy(CopyRequest(operation.name, beside, manifest_only=True))
        if info.dlo_prefix is not None:  # then both name the same segments
            self._removal.share(operation.name, beside)
        log.warning("%s was changed by another client: its version is kept as %s", operation.name, beside.key)
        return replace(
            operation,
            replaces_large=info.is_slo,
            superseded_segments=tuple(sorted({*operation.superseded_segments, *segments})),
        )

    def unrecorded(self, operation: PutFile, md5: str, size: int) -> list[str]:
        """Return what identifies a version that is about to be sent, unless the operation has it already.

        Without `keep` it is needed only if the version may replace an SLO, whose segments are then deleted.
        An SLO has an `md5` of "": its segments identify it.
        """
        if not md5 or (not self._keep and operation.replaces_large is False):
            return []
        versions = [md5, *([] if size else [operation.meta.headers().content_type])]
        return [one for one in versions if one not in operation.sent]

    def _copy_large(self, info: ObjectInfo, beside: ObjectName) -> set[ObjectName]:
        """Copy an SLO with its segments; return the old segments, which the old name will not need any more.

        A copy of the manifest alone would name the same segments: any client that changes or deletes one
        object would destroy the other.
        """
        name, etag = info.version.name, info.version.etag
        if has_version(self._store, beside, etag):  # an attempt before this one has copied it
            manifest = self._store.manifest(name)
        else:
            manifest = self._copier.copy(info, beside)
        # The caller deletes the segments of this manifest, so it must be the one that was copied.
        if manifest.etag != etag:
            raise Unavailable(f"{name}: another client changed it while it was copied")
        return self._removal.owners.owned(name, etag, manifest.names)


def has_replaced(
    store: ObjectStore,
    removal: SegmentRemoval,
    name: ObjectName,
    sent: Collection[str],
    record: UploadRecord | None = None,
) -> bool:
    """Return whether an earlier attempt has stored what stands, although its answer was lost.

    `sent` is as in `PutFile`, and `record` that of the file's segments, if it is known.
    """
    if (info := find_object(store, name)) is None:
        return False
    if info.is_slo:
        # The attempt may have been one of another local file, which this one has replaced since.
        landed = record is not None and record.landed(info.version.etag)
        if landed or removal.has_landed(name):
            return True
    # An empty one must have the Content-Type too, which has its time: any client makes empty files.
    return (info.version.etag if info.size else info.content_type) in sent


def _is_ours(info: ObjectInfo, cached_file: CachedFile) -> bool:
    """Return whether an earlier attempt stored the object, even if its process died before the answer."""
    base = cached_file.base
    if info.is_slo:
        return base is not None and base.etag == info.version.etag
    return info.size == cached_file.size and info.version.etag == cached_file.ranges.md5()


def _name_beside(name: ObjectName, info: ObjectInfo) -> ObjectName:
    """Return the name for a copy of a version, in the same folder; each version has one such name."""
    path = PurePosixPath(name.key)
    moment = datetime.fromtimestamp(info.last_modified_ns / 1e9, tz=timezone.utc)
    suffix = f" (conflict {moment:%Y-%m-%d %H.%M.%S} {info.version.etag[:8]})"
    return ObjectName(name.container, str(path.with_name(path.stem + suffix + path.suffix)))
