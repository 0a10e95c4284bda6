"""Two clients changed one object: whose change is kept, and where the other's goes."""

import logging
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import PurePosixPath

from swiftfs.errors import NotFound, Unavailable
from swiftfs.filecache.cached_file import CachedFile
from swiftfs.filecache.sparse_file import md5_of
from swiftfs.journal.manifest_copy import ManifestCopier
from swiftfs.journal.operations import PutFile
from swiftfs.journal.segment_removal import SegmentRemoval
from swiftfs.objects import ObjectInfo, ObjectName
from swiftfs.store.ambiguous import AmbiguousRequests
from swiftfs.store.protocol import ObjectStore

log = logging.getLogger(__name__)

MOST_SENT = 20
"""Versions recorded of what a file's attempts have sent; of more the latest."""


class Conflicts:
    """The last writer wins; with `keep` what would be lost is first copied beside, for one HEAD more.

    `ambiguous` records which versions requests of our own may have made whose answer was lost.
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

    def settle(self, intent: PutFile, content: CachedFile, *, again: bool) -> PutFile:
        """Save the object of another client that `intent` would overwrite; return what is to be done then."""
        if not self._keep or (not intent.creates and intent.replaces_etag is None and not again):
            return intent
        try:
            info = self._store.head(intent.name)
        except NotFound:
            return intent
        if info.version.etag in (intent.replaces_etag, *intent.sent):
            return intent
        if self._ambiguous.may_have_stored(info.version):
            return intent
        if again and _is_ours(info, content):
            return intent
        beside = _beside(intent.name, info)
        segments = self._keep_large(info, beside) if info.is_slo else set()
        if not info.is_slo:
            self._store.copy(intent.name, beside, manifest_only=True)
        log.warning("%s was changed by another client: that version is now %s", intent.name, beside.key)
        return replace(
            intent,
            replaces_large=info.is_slo,
            superseded_segments=tuple(sorted({*intent.superseded_segments, *segments})),
        )

    def note_sent(self, intent: PutFile, content: CachedFile) -> PutFile:
        """Return the intent with the ETag of the version that is about to be sent, if anybody will ask."""
        if not self._keep:
            return intent
        etag = md5_of(content.descriptor, 0, content.size, bool)
        return intent if etag in intent.sent else replace(intent, sent=(*intent.sent, etag)[-MOST_SENT:])

    def _keep_large(self, info: ObjectInfo, beside: ObjectName) -> set[ObjectName]:
        """Copy an SLO with its segments; return those that its own name has no use for then.

        With the manifest alone both would name the same segments, and whoever changes or deletes one object,
        with whatever client, would destroy the other.
        """
        name, etag = info.version.name, info.version.etag
        if self._has_version(beside, etag):  # an attempt before this one has copied it
            manifest = self._store.manifest(name)
        else:
            manifest = self._copier.copy(info, beside)
        if manifest.etag != etag:
            raise Unavailable(f"{name}: another client changed it meanwhile")
        return self._removal.own_segments(name, etag, (segment.name for segment in manifest.segments))

    def _has_version(self, name: ObjectName, etag: str) -> bool:
        try:
            return self._store.head(name).version.etag == etag
        except NotFound:
            return False


def _is_ours(info: ObjectInfo, content: CachedFile) -> bool:
    """Return whether an earlier attempt stored the object: a process that died recorded no more of it."""
    origin = content.origin
    if info.is_slo:
        return origin is not None and origin.etag == info.version.etag
    return info.size == content.size and info.version.etag == md5_of(
        content.descriptor, 0, content.size, bool
    )


def _beside(name: ObjectName, info: ObjectInfo) -> ObjectName:
    """Return a clear name beside an object's, the same for the same version."""
    path = PurePosixPath(name.key)
    moment = datetime.fromtimestamp(info.last_modified_ns / 1e9, tz=timezone.utc)
    suffix = f" (conflict {moment:%Y-%m-%d %H.%M.%S} {info.version.etag[:8]})"
    return ObjectName(name.container, str(path.with_name(path.stem + suffix + path.suffix)))
