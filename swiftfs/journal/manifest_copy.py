"""Copies of large objects with all their segments, independent of the original."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace

from swiftfs.attributes import decode_type, encode_type
from swiftfs.concurrency import new_pool
from swiftfs.errors import StoreError, Unavailable
from swiftfs.filecache.segment_container import SegmentContainerChooser
from swiftfs.filecache.upload_record import UnreferencedPrefix, segment_prefix
from swiftfs.journal.database import JournalDB
from swiftfs.journal.segment_removal import SegmentRemoval
from swiftfs.objects import Manifest, ObjectInfo, ObjectName, Segment
from swiftfs.store.protocol import Headers, ObjectStore

log = logging.getLogger(__name__)

PARALLEL = 16
"""Segments copied at once: the server does the work."""


class SegmentChanged(Unavailable):
    """Another client has replaced a segment, so the manifest that names it cannot be read."""


class ManifestCopier:
    """Copies SLOs on the server; `db` records the new segments until a manifest names them."""

    def __init__(
        self,
        store: ObjectStore,
        places: SegmentContainerChooser,
        db: JournalDB,
        removal: SegmentRemoval,
    ) -> None:
        self._store = store
        self._places = places
        self._db = db
        self._removal = removal

    def copy(self, info: ObjectInfo, target: ObjectName) -> Manifest:
        """Copy the version `info` of an SLO to `target`, segments and headers; return its own manifest.

        Raise the store's errors, and `Unavailable` if the object has another version now.
        """
        source = info.version.name
        self._store.check_manifest(info.version)
        manifest = self._store.manifest(source)
        if manifest.etag != info.version.etag:
            raise Unavailable(f"{source}: another client changed it while it was copied")
        key = segment_prefix(target, self._db.id)
        prefix = self._places.of(target.container).name(key)
        # A manifest may name one segment several times, by ranges or for holes: it is copied once.
        sources = list(dict.fromkeys(segment.name for segment in manifest.segments))
        targets = [
            ObjectName(prefix.container, f"{prefix.key}copy-{number:08d}") for number in range(len(sources))
        ]
        sent = frozenset(one.key for one in targets)
        unreferenced = UnreferencedPrefix(prefix, frozenset(), objects=frozenset({target}), sent=sent)
        self._db.begin_upload(unreferenced)
        try:
            copied = self._copy_segments(manifest, sources, targets)
            if source == target:  # that took a while
                self._refuse_changed(info)
        except StoreError:
            self._discard(unreferenced)
            raise
        self._store.put_manifest(target, copied, _headers(info, copied))
        self._db.end_upload(prefix)
        return manifest

    def separate(self, info: ObjectInfo) -> None:
        """Give the version `info` of an SLO segments of its own; errors as in `copy`.

        Raise `NotFound` or `SegmentChanged` if a segment is gone, and the version cannot be read any more.
        """
        self.copy(info, info.version.name)

    def _refuse_changed(self, info: ObjectInfo) -> None:
        if self._store.head(info.version.name).version.etag != info.version.etag:
            raise Unavailable(f"{info.version.name}: another client changed it while it was copied")

    def _discard(self, unreferenced: UnreferencedPrefix) -> None:
        """Delete the segments that were copied; if that fails, the next mount does."""
        try:
            self._removal.discard_below(unreferenced)
        except StoreError as error:
            log.info("segments below %s stay for now: %s", unreferenced.prefix, error)
        else:
            self._db.end_upload(unreferenced.prefix)

    def _copy_segments(
        self, manifest: Manifest, sources: Sequence[ObjectName], targets: Sequence[ObjectName]
    ) -> Manifest:
        with new_pool("segment copy", PARALLEL) as pool:
            copies = list(pool.map(self._store.copy, sources, targets))
        etags = dict(zip(sources, copies, strict=True))
        return Manifest(
            tuple(_copied(manifest.segments, {name: (one.name, one.etag) for name, one in etags.items()}))
        )


def _copied(
    segments: Iterable[Segment], copies: dict[ObjectName, tuple[ObjectName, str]]
) -> Iterable[Segment]:
    """Yield the segments with their new names; one that was an SLO itself is an ordinary object now."""
    for segment in segments:
        name, etag = copies[segment.name]
        if etag != segment.etag and not segment.nested:
            raise SegmentChanged(f"{segment.name}: another client changed it while it was copied")
        yield replace(segment, name=name, etag=etag, nested=False)


def _headers(info: ObjectInfo, manifest: Manifest) -> Headers:
    media_type, stored = decode_type(info.content_type)
    if stored.slo is not None:
        stored = replace(stored, slo=manifest.etag)
    return replace(Headers.of(info), content_type=encode_type(media_type, stored))
