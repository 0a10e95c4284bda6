"""How a file's bytes come to Swift: whole, as segments, or as a patch of the large object that is there.

INVARIANT: after one request the new state stands, and nothing of the old one is deleted before it.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from swiftfs.content.away import with_placed
from swiftfs.content.content import Content
from swiftfs.content.evicting import Snapshot
from swiftfs.content.origin import Origin
from swiftfs.content.patches import PIECE, Gap, Part, compact, plan, span
from swiftfs.content.segments import SegmentUpload, map_bytes
from swiftfs.content.uploads import Upload
from swiftfs.errors import BadRequest, Corrupt, NotFound, Overtaken, PreconditionFailed, TooLarge
from swiftfs.journal.intents import PutFile
from swiftfs.model import Manifest, ObjectInfo, ObjectName, Segment
from swiftfs.store.protocol import ObjectStore

log = logging.getLogger(__name__)

Discard = Callable[[Iterable[ObjectName]], None]
"""Deletes objects that nothing names any more, and logs what it could not delete."""


Doom = Callable[[set[ObjectName]], None]
"""Remembers, lest the process dies, which objects are to be deleted when the next request has stored."""


class Storing:
    """Stores files; those above `segment_size` bytes become SLOs."""

    def __init__(self, store: ObjectStore, segment_size: int, discard: Discard) -> None:
        self._store = store
        self._segment_size = segment_size
        self._discard = discard

    def run(self, intent: PutFile, content: Content, doom: Doom) -> ObjectInfo:
        """Store the file as it is now; the old state stands until the last request, its segments go after it.

        Before that request `doom` is told of them.

        Writers go on meanwhile. Every PUT sends the MD5 that the bytes had before, so one that succeeds has
        stored the bytes of one moment in between; one that is refused because they changed is `Overtaken`,
        and so is a manifest whose segments would be of several moments. The next attempt takes the rest.
        """
        snapshot = content.begin_upload()
        try:
            if snapshot.size <= self._segment_size:
                return self._put(intent, content, snapshot, doom)
            return self._put_segments(intent, content, snapshot, doom)
        except Corrupt as error:
            if content.overtaken:
                raise Overtaken(f"{intent.name}: the file changed while it was uploaded") from error
            raise
        finally:
            content.upload_failed()

    def _put(self, intent: PutFile, content: Content, snapshot: Snapshot, doom: Doom) -> ObjectInfo:
        replaced = self.segments_of(intent.name, large=intent.replaces_large)
        content.ensure_kept(0, snapshot.size)
        body = map_bytes(content.descriptor, 0, snapshot.size)
        if replaced:
            doom(replaced)
        info = self._store.put(intent.name, body, intent.description.headers())
        _refuse_cut(intent, content)
        content.adopt(info)
        self._discard(
            {*replaced, *intent.garbage, *(content.uploads.settle(None) if content.uploads else ())}
        )
        return info

    def _put_segments(self, intent: PutFile, content: Content, snapshot: Snapshot, doom: Doom) -> ObjectInfo:
        assert content.uploads is not None
        if (patched := self._patch(intent, content, content.uploads, snapshot)) is not None:
            try:
                return self._commit(intent, content, *patched, doom)
            except BadRequest as error:  # segments of the old version are gone: another client replaced it
                log.info("%s is uploaded whole: %s", intent.name, error)
        replaced = self.segments_of(intent.name, large=intent.replaces_large)
        content.keep_rest(snapshot.size)
        return self._commit(intent, content, content.uploads.finish(snapshot.size), replaced, doom)

    def _commit(
        self, intent: PutFile, content: Content, manifest: Manifest, old: set[ObjectName], doom: Doom
    ) -> ObjectInfo:
        assert content.uploads is not None
        _refuse_cut(intent, content)
        named = {segment.name for segment in manifest.segments}
        if old - named:
            doom(old - named)
        described = replace(intent.description, stored=replace(intent.description.stored, slo=manifest.etag))
        info = self._store.put_manifest(intent.name, manifest, described.headers())
        content.adopt(info, manifest)
        self._discard({*old, *intent.garbage, *content.uploads.settle(manifest)} - named)
        return info

    def segments_of(self, name: ObjectName, *, large: bool | None) -> set[ObjectName]:
        """Return the segments of the SLO that `name` is now; none when it is not one, or is not there."""
        manifest = None if large is False else self.manifest_of(name, large)
        return {segment.name for segment in manifest.segments} if manifest else set()

    def manifest_of(self, name: ObjectName, large: bool | None) -> Manifest | None:
        """Return an SLO's manifest; None when another client has put something else there, or nothing."""
        try:
            if large is None and not self._store.head(name).is_slo:
                return None
            return self._store.manifest(name)
        except (NotFound, BadRequest):
            return None

    def _patch(
        self, intent: PutFile, content: Content, uploads: SegmentUpload, snapshot: Snapshot
    ) -> tuple[Manifest, set[ObjectName]] | None:
        """Upload what changed; return the manifest around it, and the old segments.

        None where little of the old object stays, or when it is no longer the version that was changed.
        """
        origin = snapshot.origin
        if origin is None or not origin.etag or origin.size < PIECE:
            return None
        known = self._old_segments(origin, intent.replaces_large)
        if known is None:
            return None
        uploads.found_beside(known)
        limit = self._store.limits().slo_segments
        parts = plan(known, origin.size, snapshot.size, content.changes(), self._segment_size)
        parts = compact(parts, limit, self._segment_size * 4)
        if len(parts) > limit or sum(span(part) for part in parts if isinstance(part, Segment)) < PIECE:
            return None
        old = {segment.name for segment in known}
        if origin.name in old and not self._copy_whole(uploads, origin, parts):
            return None
        return Manifest(tuple(self._uploaded(content, uploads, parts))), old - {origin.name}

    def _old_segments(self, origin: Origin, large: bool | None) -> Sequence[Segment] | None:
        """Return what the origin consists of: its segments, or itself as if it were one."""
        if origin.manifest is not None:
            return origin.manifest.segments
        if large is None:
            large = self._store.head(origin.name).is_slo
        if not large:
            return (Segment(origin.name, origin.etag, origin.whole),)
        manifest = self.manifest_of(origin.name, large)
        return manifest.segments if manifest and manifest.etag == origin.etag else None

    def _copy_whole(self, uploads: SegmentUpload, origin: Origin, parts: list[Part]) -> bool:
        """Copy an object that is no SLO to a segment, for a manifest cannot name the object it replaces.

        Return False when the object is too large for that.
        """
        try:
            copied = uploads.copy(origin.name)
        except TooLarge:
            return False
        if copied.etag != origin.etag and not self._is_dlo(origin):
            raise PreconditionFailed(f"{origin.name}: the object changed while it was written to")
        for index, part in enumerate(parts):
            if isinstance(part, Segment):
                parts[index] = replace(part, name=copied.name, etag=copied.etag)
        return True

    def _is_dlo(self, origin: Origin) -> bool:
        """Say whether the version is a DLO's, whose ETag is made of its segments', not of the bytes."""
        info = self._store.head(origin.name)
        return info.dlo_prefix is not None and info.version.etag == origin.etag

    def _uploaded(self, content: Content, uploads: SegmentUpload, parts: Sequence[Part]) -> list[Segment]:
        """Return the parts with each gap uploaded, but for what was evicted: that is in Swift already."""
        parts = with_placed(parts, content.evicted(), self._segment_size)
        gaps: dict[int, Upload] = {}
        for index, part in enumerate(parts):
            if isinstance(part, Gap):
                content.ensure_kept(part.start, part.end)
                gaps[index] = uploads.upload(part.start, part.end)
        return [
            part if isinstance(part, Segment) else gaps[index].result() for index, part in enumerate(parts)
        ]


def _refuse_cut(intent: PutFile, content: Content) -> None:
    """Raise `Overtaken` when what was uploaded holds zeros where the file was cut, which it never did."""
    if content.is_cut:
        raise Overtaken(f"{intent.name}: the file was truncated while it was uploaded")
