"""Copies of what a change is about to delete or replace: in the trash, or of another client's version.

INVARIANT: the copy comes first. If it is refused, the object is neither deleted nor replaced.

In the trash, the copy of a large object is its manifest, which names the same segments. They belong to the
copy as soon as the object is gone, and not before: until then two manifests name them, and nobody may delete
them. The metadata `OWNER` of the copy says that they do, to whoever empties the trash. Without it, after a
crash in between for example, they stay until `swiftfs gc` finds them.
"""

import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import datetime, timezone
from pathlib import PurePosixPath
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from swiftfs.concurrency import Executor, Rank, new_lock, unix_time
from swiftfs.errors import NotFound, StoreError, Unavailable
from swiftfs.filecache.cached_file import CachedFile
from swiftfs.filecache.upload_record import UploadRecord
from swiftfs.journal.operations import Delete, Move, PutFile, PutSpecial
from swiftfs.journal.segment_removal import SegmentRemoval
from swiftfs.journal.shared_copies import ManifestCopier
from swiftfs.namespace.entry import is_marker
from swiftfs.objects import ObjectInfo, ObjectName
from swiftfs.store.ambiguous import AmbiguousRequests
from swiftfs.store.protocol import CopyRequest, Headers, ObjectStore, find_object, has_version
from swiftfs.store.trash_names import OWNER, is_over, parse

log = logging.getLogger(__name__)

DAY = 86_400

Replacing = TypeVar("Replacing", PutFile, PutSpecial, Move)


class Kept(Struct, frozen=True):
    """The copy `entry` of the object `name` in the trash.

    A `large` one shares its segments with `name`; `owned` is its ETag if it gets them all, else empty.
    `is_earlier` means that an earlier attempt has made it: by now `name` may be what that attempt has stored.
    """

    name: ObjectName
    entry: ObjectName
    large: bool
    owned: str = ""
    is_earlier: bool = False


class Trash:
    """Copies objects to the trash, where Swift deletes plain ones after some `days`.

    The lock guards how many files were put there since the mount began.
    """

    def __init__(self, store: ObjectStore, removal: SegmentRemoval, days: int) -> None:
        self._store = store
        self._removal = removal
        self._days = days
        self._lock = new_lock(Rank.COUNTERS)
        self._count = 0

    @property
    def count(self) -> int:
        """How many files were put into the trash since the mount began."""
        with self._lock:
            return self._count

    def replacing(self, operation: Replacing, *, ambiguous: bool) -> AbstractContextManager[Replacing]:
        """Keep what an operation replaces; provide the operation to carry out, and end when it is.

        An `ambiguous` one may have been carried out already: then a copy that is there is not made again, for
        it would have the new version. Raise `StoreError` if there can be no copy.
        """
        is_new = not isinstance(operation, Move) and operation.creates
        if is_new or not operation.trash:
            return nullcontext(operation)
        return self._keeping(operation, ambiguous=ambiguous)

    @contextmanager
    def _keeping(self, operation: Replacing, *, ambiguous: bool) -> Iterator[Replacing]:
        name = operation.target if isinstance(operation, Move) else operation.name
        # An answered PUT may have to be repeated too, if the file was truncated meanwhile.
        ambiguous = ambiguous or (isinstance(operation, PutFile) and bool(operation.sent))
        kept = self._keep(name, operation.trash, is_slo=operation.replaces_large, ambiguous=ambiguous)
        try:
            yield _sparing_segments(operation, kept) if kept is not None and kept.large else operation
        except StoreError as error:
            if kept is not None:
                self._give_back(kept, error)
            raise
        if kept is not None:
            self._hand_over(kept)

    def keep_deleted(
        self, deletions: list[Delete], failures: dict[ObjectName, StoreError], pool: Executor
    ) -> tuple[list[Delete], dict[ObjectName, Kept]]:
        """Keep the objects of deletions; return the deletions to send, and the copies by the old names.

        `failures` gets those that must not be deleted, because they cannot be copied.
        """
        kept: dict[ObjectName, Kept] = {}
        ready = []
        away: list[StoreError] = []
        copies = pool.map(lambda one: self._keep_one(one, away), deletions)
        for deletion, copy in zip(deletions, copies, strict=True):
            if isinstance(copy, StoreError):
                failures[deletion.name] = copy
                continue
            if copy is not None:
                kept[deletion.name] = copy
            # Of a plain object there are no segments, and those of a large one stay.
            ready.append(deletion if copy is None else replace(deletion, is_slo=False))
        return ready, kept

    def deleted(
        self, kept: Mapping[ObjectName, Kept], failures: Mapping[ObjectName, StoreError], pool: Executor
    ) -> None:
        """Record that the objects of copies are deleted, or that this failed."""
        for name in kept.keys() & failures.keys():
            self._give_back(kept[name], failures[name])
        for _ in pool.map(self._hand_over, [one for name, one in kept.items() if name not in failures]):
            pass  # errors of the pool's threads are raised here

    def forget_ended(self, prefix: str, days: int, now_ns: int) -> None:
        """Forget what is recorded of copies below `prefix` that have been there for so many days."""
        owners = self._removal.owners
        for name in owners.claimants():
            entry = parse(name.key, prefix)
            if entry is not None and is_over(entry.day, days, now_ns):
                owners.forget(name)

    def _keep_one(self, deletion: Delete, away: list[StoreError]) -> Kept | StoreError | None:
        """Keep the object of a deletion, unless one of the same batch has found the server `away`."""
        if away and deletion.trash:  # in an outage each would be repeated to the end
            return away[0]
        try:
            return self._keep(deletion.name, deletion.trash, is_slo=deletion.is_slo)
        except StoreError as error:
            if isinstance(error, Unavailable):
                away.append(error)
            return error

    def _keep(
        self, name: ObjectName, key: str, *, is_slo: bool | None, ambiguous: bool = False
    ) -> Kept | None:
        """Copy an object to `key`; return None if there is nothing to keep."""
        if not key:
            return None
        entry = ObjectName(name.container, key)
        try:
            if ambiguous and (found := find_object(self._store, entry)) is not None:
                # Of the segments of a DLO nothing tells that a copy names them.
                return Kept(name, entry, large=is_slo is not False, is_earlier=found.dlo_prefix is None)
            kept = self._copy(name, entry, is_slo=is_slo)
        except NotFound:
            return None
        except StoreError as error:
            error.args = (f"the trash cannot take the stored version: {error}",)
            raise
        if kept is not None:
            with self._lock:
                self._count += 1
        return kept

    def _copy(self, name: ObjectName, entry: ObjectName, *, is_slo: bool | None) -> Kept | None:
        is_dlo = False
        if is_slo is None:
            info = self._store.head(name)
            is_slo, is_dlo = info.is_slo, info.dlo_prefix is not None
            if not (info.size or is_slo or is_dlo):
                return None  # empty
        if is_slo:
            return self._copy_manifest(name, entry)
        # If Swift deleted a DLO by itself, its segments would stay. `manifest_only` copies a symlink of Swift
        # as such.
        delete_at = None if is_dlo else int(unix_time()) + self._days * DAY
        self._store.copy(CopyRequest(name, entry, manifest_only=True, delete_at=delete_at))
        return Kept(name, entry, large=is_dlo)

    def _copy_manifest(self, name: ObjectName, entry: ObjectName) -> Kept | None:
        manifest = self._removal.manifest_of(name, is_slo=True)
        if manifest is None:  # another client has replaced it
            return self._copy(name, entry, is_slo=None)
        owners = self._removal.owners
        named = manifest.names
        self._removal.found_manifest(name, named)
        is_own = owners.owned(name, manifest.etag, named) == named and not self._removal.shared(named)
        # Before the copy: from now on whatever would delete these segments reads its manifest first.
        owners.record_copy(name, entry, manifest.etag)
        self._removal.share(name, entry)
        etag = self._store.copy(CopyRequest(name, entry, manifest_only=True, likely=manifest.etag)).etag
        return Kept(name, entry, large=True, owned=etag if is_own and etag == manifest.etag else "")

    def _hand_over(self, kept: Kept) -> None:
        """Give the segments to the copy: the object does not name them any more."""
        if not kept.owned:
            return
        self._removal.owners.unshare(kept.entry)
        try:
            info = self._store.head(kept.entry)
            if info.version.etag == kept.owned:
                headers = Headers.of(info)
                owned = {**headers.metadata, OWNER: "yes"}
                self._store.post(kept.entry, replace(headers, metadata=owned))
        except StoreError as error:
            log.warning(
                "%s does not get its segments, which 'swiftfs gc' finds when it is gone: %s",
                kept.entry,
                error,
            )

    def _give_back(self, kept: Kept, error: StoreError) -> None:
        """Delete the copy of an object that stays, unless it may be gone, or the attempt is repeated."""
        if error.retryable or error.may_land:
            return
        with suppress(StoreError):
            self._store.delete(kept.entry)
            self._removal.owners.forget(kept.entry)


def _sparing_segments(operation: Replacing, kept: Kept) -> Replacing:
    """Return the operation as if no segments were replaced: those of the older version stay.

    What an earlier attempt has replaced (`superseded_segments`) does not, unless a copy names it. Nor does
    what it has stored itself: who looks that up spares the segments that a copy names.
    """
    if kept.is_earlier and isinstance(operation, PutFile):
        return operation
    return replace(operation, replaces_large=False)


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
