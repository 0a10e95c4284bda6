"""How a file's bytes come to Swift: whole, as segments, or as a patch of the large object that is there.

INVARIANT: after one request the new state stands, and nothing of the old one is deleted before it.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import replace

from swiftfs.content.content import Content
from swiftfs.content.origin import Origin
from swiftfs.content.patches import PIECE, Gap, Part, compact, plan, span
from swiftfs.content.segments import map_bytes
from swiftfs.errors import BadRequest, NotFound, PreconditionFailed, TooLarge
from swiftfs.journal.intents import PutFile
from swiftfs.model import Manifest, ObjectInfo, ObjectName, Segment
from swiftfs.store.protocol import ObjectStore

log = logging.getLogger(__name__)

Discard = Callable[[Iterable[ObjectName]], None]
"""Deletes objects that nothing names any more, and logs what it could not delete."""


class Storing:
    """Stores files; those above `segment_size` bytes become SLOs."""

    def __init__(self, store: ObjectStore, segment_size: int, discard: Discard) -> None:
        self._store = store
        self._segment_size = segment_size
        self._discard = discard

    def run(self, intent: PutFile) -> ObjectInfo:
        """Store the file; the old state stands until the last request, and its segments go after it."""
        content, segments = intent.content, intent.segments
        content.pin()
        if content.size <= self._segment_size:
            replaced = self.segments_of(intent.name, large=intent.replaces_large)
            content.ensure_all()
            body = map_bytes(content.descriptor, 0, content.size)
            info = self._store.put(intent.name, body, intent.description.headers())
            content.adopt(info)
            self._discard({*replaced, *segments.settle(None)})
            return info
        if (patched := self._patch(intent)) is not None:
            try:
                return self._commit(intent, *patched)
            except BadRequest as error:  # segments of the old version are gone: another client replaced it
                log.info("%s is uploaded whole: %s", intent.name, error)
        return self._commit(intent, *self._segments(intent))

    def _commit(self, intent: PutFile, manifest: Manifest, old: set[ObjectName]) -> ObjectInfo:
        described = replace(intent.description, stored=replace(intent.description.stored, slo=manifest.etag))
        info = self._store.put_manifest(intent.name, manifest, described.headers())
        intent.content.adopt(info, manifest)
        named = {segment.name for segment in manifest.segments}
        self._discard({*old, *intent.segments.settle(manifest)} - named)
        return info

    def segments_of(self, name: ObjectName, *, large: bool | None) -> set[ObjectName]:
        """Return the segments of the SLO that `name` is now; none when it is not one, or is not there."""
        manifest = None if large is False else self._manifest(name, large)
        return {segment.name for segment in manifest.segments} if manifest else set()

    def _manifest(self, name: ObjectName, large: bool | None) -> Manifest | None:
        """Return an SLO's manifest; None when another client has put something else there, or nothing."""
        try:
            if large is None and not self._store.head(name).is_slo:
                return None
            return self._store.manifest(name)
        except (NotFound, BadRequest):
            return None

    def _segments(self, intent: PutFile) -> tuple[Manifest, set[ObjectName]]:
        """Upload the whole file; return its manifest, and the segments of what it replaces."""
        replaced = self.segments_of(intent.name, large=intent.replaces_large)
        intent.content.ensure_all()
        return intent.segments.finish(intent.content.size), replaced

    def _patch(self, intent: PutFile) -> tuple[Manifest, set[ObjectName]] | None:
        """Upload what changed; return the manifest around it, and the old segments.

        None where little of the old object stays, or when it is no longer the version that was changed.
        """
        content, origin = intent.content, intent.content.origin
        if origin is None or not origin.etag or origin.size < PIECE:
            return None
        known = self._old_segments(origin, intent.replaces_large)
        if known is None:
            return None
        intent.segments.found_beside(known)
        limit = self._store.limits().slo_segments
        parts = plan(known, origin.size, content.size, content.changes(), self._segment_size)
        parts = compact(parts, limit, self._segment_size * 4)
        if len(parts) > limit or sum(span(part) for part in parts if isinstance(part, Segment)) < PIECE:
            return None
        old = {segment.name for segment in known}
        copy = None
        if origin.name in old and (copy := self._copy_whole(intent, origin, parts)) is None:
            return None
        try:
            return Manifest(tuple(self._uploaded(intent, content, parts))), old - {origin.name}
        except BaseException:
            self._discard([copy] if copy else [])
            raise

    def _old_segments(self, origin: Origin, large: bool | None) -> Sequence[Segment] | None:
        """Return what the origin consists of: its segments, or itself as if it were one."""
        if origin.manifest is not None:
            return origin.manifest.segments
        if large is None:
            large = self._store.head(origin.name).is_slo
        if not large:
            return (Segment(origin.name, origin.etag, origin.whole),)
        manifest = self._manifest(origin.name, large)
        return manifest.segments if manifest and manifest.etag == origin.etag else None

    def _copy_whole(self, intent: PutFile, origin: Origin, parts: list[Part]) -> ObjectName | None:
        """Copy an object that is no SLO to a segment, for a manifest cannot name the object it replaces.

        Return the segment, None when the object is too large for that.
        """
        target = intent.segments.own_name()
        try:
            copied = self._store.copy(origin.name, target)
        except TooLarge:
            return None
        if copied.etag != origin.etag and not self._is_dlo(origin):
            self._discard([target])
            raise PreconditionFailed(f"{origin.name}: the object changed while it was written to")
        for index, part in enumerate(parts):
            if isinstance(part, Segment):
                parts[index] = replace(part, name=target, etag=copied.etag)
        return target

    def _is_dlo(self, origin: Origin) -> bool:
        """Say whether the version is a DLO's, whose ETag is made of its segments', not of the bytes."""
        info = self._store.head(origin.name)
        return info.dlo_prefix is not None and info.version.etag == origin.etag

    def _uploaded(self, intent: PutFile, content: Content, parts: Sequence[Part]) -> list[Segment]:
        """Return the parts with each gap uploaded; when one fails the others are deleted again."""
        uploads: dict[int, Future[Segment]] = {}
        try:
            for index, part in enumerate(parts):
                if isinstance(part, Gap):
                    content.ensure(part.start, part.end)
                    uploads[index] = intent.segments.upload(part.start, part.end)
            return [
                part if isinstance(part, Segment) else uploads[i].result() for i, part in enumerate(parts)
            ]
        except BaseException:
            self._discard(upload.result().name for upload in uploads.values() if upload.exception() is None)
            raise
