"""Large objects that are copied or moved: a manifest is copied as it is, and names the same segments.

`ManifestCopier` copies the segments too. `SharedCopies` looks after copies that name those of their source: a
client that replaces or deletes the source deletes them, at once or soon after. `MovedParts` refuses to move
large objects of other clients whose bytes lie in objects that move as well.
"""

import errno
import logging
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import partial

from msgspec.structs import replace

from swiftfs.attributes import decode_type, encode_type
from swiftfs.concurrency import Executor, new_pool
from swiftfs.errors import AccessDenied, BadRequest, NotFound, StoreError, Unavailable, os_error
from swiftfs.filecache.segment_container import SegmentContainerChooser
from swiftfs.filecache.upload_record import UnreferencedPrefix, segment_prefix
from swiftfs.journal.database import JournalDB
from swiftfs.journal.moves import MoveItem, NotDeleted, Unmoved
from swiftfs.journal.operations import MoveFolder
from swiftfs.journal.segment_removal import SegmentRemoval
from swiftfs.namespace.entry import is_marker
from swiftfs.objects import Manifest, ObjectInfo, ObjectName, ObjectVersion, Segment
from swiftfs.store.ambiguous import AmbiguousRequests
from swiftfs.store.protocol import CopyRequest, Headers, ObjectStore, find_object, has_version

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

        The target may be the object itself, which gets segments of its own then. Raise the store's errors,
        and `Unavailable` if the object has another version now; `NotFound` or `SegmentChanged` if a segment
        is gone, so that the version cannot be read any more.
        """
        source = info.version.name
        self._store.check_manifest(info.version)
        manifest = self._store.manifest(source)
        if manifest.etag != info.version.etag:
            raise Unavailable(f"{source}: another client changed it while it was copied")
        key = segment_prefix(target, self._db.id)
        prefix = self._places.of(target.container).name(key)
        # A manifest may name one segment several times, by ranges or for holes: it is copied once. The copy
        # of one that is an SLO itself is an ordinary object with another ETag.
        etags = {one.name: "" if one.nested else one.etag for one in manifest.segments if not one.data}
        sources = [ObjectVersion(name, etag) for name, etag in etags.items()]
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
            self._removal.discard_prefix(unreferenced)
            raise
        self._store.put_manifest(target, copied, headers_of_copy(info, copied))
        self._db.end_upload(prefix)
        return manifest

    def _refuse_changed(self, info: ObjectInfo) -> None:
        if self._store.head(info.version.name).version.etag != info.version.etag:
            raise Unavailable(f"{info.version.name}: another client changed it while it was copied")

    def _copy_segments(
        self, manifest: Manifest, sources: Sequence[ObjectVersion], targets: Sequence[ObjectName]
    ) -> Manifest:
        with new_pool("segment copy", PARALLEL) as pool:
            requests = [
                CopyRequest(one.name, target, likely=one.etag)
                for one, target in zip(sources, targets, strict=True)
            ]
            copies = list(pool.map(self._store.copy, requests))
        made = {one.name: (copy.name, copy.etag) for one, copy in zip(sources, copies, strict=True)}
        return Manifest(tuple(renamed_segments(manifest.segments, made)))


def renamed_segments(
    segments: Iterable[Segment], copies: dict[ObjectName, tuple[ObjectName, str]]
) -> Iterable[Segment]:
    """Yield the segments with their new names; one that was an SLO itself is an ordinary object now."""
    for segment in segments:
        if segment.data:
            yield segment
            continue
        name, etag = copies[segment.name]
        if etag != segment.etag and not segment.nested:
            raise SegmentChanged(f"{segment.name}: another client changed it while it was copied")
        yield replace(segment, name=name, etag=etag, nested=False)


def headers_of_copy(info: ObjectInfo, manifest: Manifest) -> Headers:
    """Return the headers of an SLO that is stored anew with this manifest."""
    media_type, stored = decode_type(info.content_type)
    if stored.slo is not None:
        stored = replace(stored, slo=manifest.etag)
    return replace(Headers.of(info), content_type=encode_type(media_type, stored))


class CopyLost(StoreError):
    """A large object was not moved: another client deleted or replaced it first, with its segments.

    There is no copy of it. ESTALE lets the kernel begin the rename again, with the newer version.
    """

    def __init__(self, source: ObjectName, *, is_absent: bool) -> None:
        what = "deleted" if is_absent else "replaced"
        super().__init__(f"{source}: another client {what} it before it was moved")
        self.errno = errno.ENOENT if is_absent else errno.ESTALE


class SharedCopies:
    """Gives copies segments of their own, or records that they share those of their source.

    A copy that cannot be read any more is deleted.
    """

    def __init__(
        self,
        store: ObjectStore,
        copier: ManifestCopier,
        removal: SegmentRemoval,
        ambiguous: AmbiguousRequests,
    ) -> None:
        self._store = store
        self.copier = copier
        self._removal = removal
        self._ambiguous = ambiguous

    def settle(self, items: Iterable[MoveItem]) -> None:
        """Record whose the segments of moved SLOs are.

        Sources that Swift did not delete, or that a lost PUT may store again, name them too. Copies of
        sources that another client has changed or deleted are separated.
        """
        for item in items:
            if not item.may_share:
                continue
            if item.not_deleted in (NotDeleted.CHANGED, NotDeleted.ABSENT):
                self.separate(item)
            else:
                stays = item.not_deleted is not None or self._ambiguous.may_store(item.source)
                self._removal.record_move(item.source, item.target, item.copied or "", stays=stays)

    def separate(self, item: MoveItem) -> None:
        """Separate the copy of `item` from its source, which another client has changed or deleted.

        If segments of the copy are gone, it is deleted, and `item.error` is what the move fails with. After
        another failure the copy still names the segments of its source, and does not own them. It cannot be
        read any more when the other client has deleted them; a later attempt would mostly be too late, for
        clients do that at once.
        """
        try:
            info = self._store.head(item.target)
            # The COPY may have been answered with a wrong ETag.
            if not info.is_slo or info.version.etag not in (item.copied, item.etag):
                return  # it shares nothing, or another client has replaced it
            item.copied = info.version.etag
            self.copier.copy(info, item.target)
        except (NotFound, SegmentChanged):
            self._delete(item.target, item.copied or "")
            is_absent = item.not_deleted is NotDeleted.ABSENT
            item.error, item.copied = CopyLost(item.source, is_absent=is_absent), None
            log.warning("%s; its copy %s had lost its segments", item.error, item.target)
        except StoreError as error:
            log.warning(
                "%s cannot be separated from %s, which another client may delete with its segments: %s",
                item.target,
                item.source,
                error,
            )
            # Without claims: another mount may have renamed the source, and needs the segments.
            self._removal.share(item.source, item.target)
        else:
            log.info("%s has segments of its own, for another client changed %s", item.target, item.source)
            self._removal.owners.forget(item.target)
            self._removal.owners.record_version(item.source, "")

    def share_copy(self, item: MoveItem) -> None:
        """Keep the segments for a copy that failed or was undone: it may exist, now or later.

        The last answer does not prove that there is none: the answer to an earlier attempt may have been
        lost.
        """
        stored = decode_type(item.row.content_type)[1] if item.row is not None else None
        is_small = stored is not None and stored.mode is not None and stored.slo is None
        if item.is_slo is not False and not is_small:
            self._removal.share(item.source, item.target)

    def share_gone(self, source: ObjectName, target: ObjectName) -> None:
        """Keep the segments of a copy whose source is gone: they are not the copy's own.

        That the process which died has deleted the source is likely, but not proven: another mount may have
        renamed it since, and needs the segments.
        """
        log.info("%s was gone when its interrupted move was taken up: %s owns no segments", source, target)
        self._removal.share(source, target)

    def _delete(self, name: ObjectName, etag: str) -> None:
        """Delete the copy, unless another client has replaced it."""
        try:
            if has_version(self._store, name, etag):
                self._store.delete(name)
        except StoreError as error:
            log.warning("%s cannot be read, and stays: %s", name, error)
        self._removal.owners.forget(name)


MOST_ASKED = 100
"""The most HEADs about objects of other clients before a folder moves in the background. They take about as
long as the COPYs, for which the rename does not wait then."""


MOST_NESTED = 10
"""How deep manifests may name others: Swift serves no more levels (`max_recursion_depth` in its slo.py)."""


class MovedParts:
    """Refuses to move a folder with a large object and its parts; `pool` sends the requests.

    The manifest would name the old places.

    The error is `Unmoved`: EXDEV, with which mv(1) copies the folder, or that of a request.
    """

    def __init__(self, store: ObjectStore, pool: Executor) -> None:
        self._store = store
        self._pool = pool

    def refuse_dlos(self, operation: MoveFolder, items: Iterable[MoveItem]) -> None:
        """Raise `Unmoved` if a DLO moves with its segments.

        A HEAD asks about each object that may be one, before any is copied.
        """
        items = list(items)
        keys = sorted(item.source.key for item in items)
        self._refuse(operation, items, [item for item in items if _may_be_dlo(item, keys)])

    def refuse_slos(
        self, operation: MoveFolder, items: Iterable[MoveItem], *, is_resumed: bool = False
    ) -> None:
        """As `refuse_dlos`, for SLOs: only after its COPY is one of another client known.

        The copies that another process has made tell nothing: with `is_resumed` a HEAD asks about them.
        """
        large = [item for item in items if item.may_share or (is_resumed and _is_foreign(item))]
        self._refuse(operation, items, [item for item in large if item.row is not None and item.row.size])

    def may_move_later(self, operation: MoveFolder, items: Iterable[MoveItem]) -> bool:
        """As `refuse_slos`, before any COPY; return False if too many HEADs would be needed.

        A HEAD asks about each object of another client. One to which a mount gave attributes names its ETag.
        """
        filled = [item for item in items if item.row is not None and item.row.size]
        if sum(map(_is_foreign, filled)) > MOST_ASKED:
            return False
        self._refuse(operation, items, [item for item in filled if _is_foreign(item) or _is_hinted(item)])
        return True

    def _refuse(self, operation: MoveFolder, items: Iterable[MoveItem], large: list[MoveItem]) -> None:
        if not large:
            return
        moving = {item.source for item in items} | {source for source, _ in operation.copies()}
        try:
            found = list(self._pool.map(partial(self._has_parts, moving), large))
        except StoreError as error:
            raise Unmoved(error) from error
        if any(found):
            log.info(
                "%s is not renamed to %s, as %s has bytes in other objects there: only copies can be made",
                operation.source,
                operation.target,
                large[found.index(True)].source,
            )
            raise Unmoved(os_error(errno.EXDEV, operation.target))

    def _has_parts(self, moving: set[ObjectName], item: MoveItem) -> bool:
        """Return whether an object takes bytes from others that are `moving`."""
        name = item.source
        if not item.may_share and (_is_foreign(item) or not _is_hinted(item)):
            info = find_object(self._store, name)
            if info is not None and (prefix := info.dlo_prefix) is not None:
                others = (one for one in moving if one != name and one.container == prefix.container)
                return any(one.key.startswith(prefix.key) for one in others)
            if info is None or not info.is_slo:
                return False
        return self._names_any(moving, name, MOST_NESTED)

    def _names_any(self, moving: set[ObjectName], name: ObjectName, levels: int) -> bool:
        """Return whether a manifest, or one that it names, names any of the objects."""
        try:
            manifest = self._store.manifest(name)
        # Another client has deleted or replaced it, or nobody here may read it.
        except (NotFound, BadRequest, AccessDenied):
            return False
        if not moving.isdisjoint(manifest.names):
            return True
        nested = {segment.name for segment in manifest.segments if segment.nested} if levels else ()
        return any(self._names_any(moving, one, levels - 1) for one in nested)


def _is_foreign(item: MoveItem) -> bool:
    """Return whether a listed object may be another client's: it lacks our mode."""
    return item.row is not None and decode_type(item.row.content_type)[1].mode is None


def _is_hinted(item: MoveItem) -> bool:
    """Return whether a listed object has bytes and names the ETag of an SLO: a DLO has none in a listing."""
    row = item.row
    return row is not None and row.size > 0 and decode_type(row.content_type)[1].slo is not None


def _may_be_dlo(item: MoveItem, keys: Sequence[str]) -> bool:
    """Return whether only a HEAD can tell that an object is no DLO; as `file_entry` decides.

    One with bytes of its own may be one as well, but to ask about each file would double the requests: only
    if the name of another of the sorted `keys` is its own and more, as those of segments mostly are.
    """
    row = item.row
    if row is None or item.marker or is_marker(row):
        return False
    if row.size:
        return _is_foreign(item) and _has_longer(item.source.key, keys)
    return _is_foreign(item) or decode_type(row.content_type)[1].slo is not None


def _has_longer(key: str, keys: Sequence[str]) -> bool:
    """Return whether one of the sorted keys is this key with a separator and more behind it."""
    number = bisect_right(keys, key)
    while number < len(keys) and keys[number].startswith(key):
        if not keys[number][len(key)].isalnum():
            return True
        number += 1
    return False
