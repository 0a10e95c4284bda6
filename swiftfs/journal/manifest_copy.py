"""Copies of large objects with all their segments, independent of the original."""

from collections.abc import Iterable
from dataclasses import replace

from swiftfs.attributes import decode_type, encode_type
from swiftfs.concurrency import new_pool
from swiftfs.errors import Unavailable
from swiftfs.filecache.segment_container import SegmentContainerChooser
from swiftfs.filecache.upload_record import UnreferencedPrefix, segment_prefix
from swiftfs.journal.database import JournalDB
from swiftfs.objects import Manifest, ObjectInfo, ObjectName, Segment
from swiftfs.store.protocol import Headers, ObjectStore

PARALLEL = 16
"""Segments copied at once: the server does the work."""


class ManifestCopier:
    """Copies SLOs on the server; `db` records the new segments until a manifest names them."""

    def __init__(self, store: ObjectStore, places: SegmentContainerChooser, db: JournalDB) -> None:
        self._store = store
        self._places = places
        self._db = db

    def copy(self, info: ObjectInfo, target: ObjectName) -> Manifest:
        """Copy the version `info` of an SLO to `target`, segments and headers; return its own manifest.

        Raise the store's errors, and `Unavailable` if the object has another version now.
        """
        source = info.version.name
        manifest = self._store.manifest(source)
        if manifest.etag != info.version.etag:
            raise Unavailable(f"{source}: another client changed it while it was copied")
        key = segment_prefix(target, self._db.id)
        prefix = self._places.of(target.container).name(key)
        self._db.begin_upload(UnreferencedPrefix(prefix, frozenset(), objects=frozenset({target})))
        copied = self._copy_segments(manifest, prefix)
        self._store.put_manifest(target, copied, _headers(info, copied))
        self._db.end_upload(prefix)
        return manifest

    def _copy_segments(self, manifest: Manifest, prefix: ObjectName) -> Manifest:
        # A manifest may name one segment several times, by ranges or for holes: it is copied once.
        sources = list(dict.fromkeys(segment.name for segment in manifest.segments))
        with new_pool("segment copy", PARALLEL) as pool:
            targets = [
                ObjectName(prefix.container, f"{prefix.key}copy-{number:08d}")
                for number in range(len(sources))
            ]
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
            raise Unavailable(f"{segment.name}: another client changed it while it was copied")
        yield replace(segment, name=name, etag=etag, nested=False)


def _headers(info: ObjectInfo, manifest: Manifest) -> Headers:
    media_type, stored = decode_type(info.content_type)
    if stored.slo is not None:
        stored = replace(stored, slo=manifest.etag)
    return replace(Headers.of(info), content_type=encode_type(media_type, stored))
