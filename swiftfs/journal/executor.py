"""The requests of each operation, and their order.

INVARIANT: one request replaces the old state by the new one, and nothing of the old one is deleted before it.
"""

import logging
from collections.abc import Callable, Collection, Mapping
from functools import partial
from hashlib import md5

from msgspec.structs import replace

from swiftfs.attributes import is_directory_type
from swiftfs.concurrency import new_pool
from swiftfs.errors import AlreadyExists, NotBegun, NotFound, StoreError, Unavailable
from swiftfs.filecache.block_map import BaseVersion
from swiftfs.filecache.cached_file import CachedFile
from swiftfs.journal.background_moves import BackgroundMoves, MoveOutcome
from swiftfs.journal.deletions import Deletions, is_file
from swiftfs.journal.file_upload import FileUpload, SegmentExpiry, with_rule, without_past
from swiftfs.journal.kept_copies import Conflicts, Trash, has_replaced
from swiftfs.journal.moves import CopyKeeper, Moved, MoveEvidence, Overwritten, RecordMove
from swiftfs.journal.object_moves import ObjectMoves
from swiftfs.journal.operations import (
    CopyFile,
    CreateContainer,
    Delete,
    DeleteContainer,
    DescribeContainer,
    Move,
    MoveFolder,
    MoveObject,
    Operation,
    PutFile,
    PutMarker,
    PutSpecial,
    ReplaceHeaders,
    SetAttributes,
)
from swiftfs.journal.segment_removal import SegmentRemoval
from swiftfs.journal.shared_copies import SharedCopies
from swiftfs.objects import ObjectInfo, ObjectName
from swiftfs.store.ambiguous import AmbiguousRequests, Effect
from swiftfs.store.protocol import CopyRequest, Headers, ObjectMeta, ObjectStore, find_object, iter_rows
from swiftfs.store.server_state import Presence

log = logging.getLogger(__name__)

PARALLEL = 16
"""Parallel copies, deletions and markers."""

RecordSent = Callable[[Collection[ObjectName], Collection[str]], None]
"""Records on disk which objects are to be deleted after the next request, and what identifies its version."""


class Executor:
    """Carries out operations against a store; files above `segment_size` bytes are stored as SLOs.

    None is begun while the server is away by `presence`. `delete` is that of `Deletions`.
    """

    def __init__(
        self,
        store: ObjectStore,
        segment_size: int,
        conflicts: Conflicts,
        removal: SegmentRemoval,
        copies: SharedCopies,
        ambiguous: AmbiguousRequests,
        trash: Trash,
        presence: Presence,
    ) -> None:
        self.removal = removal
        self.trash = trash
        self._presence = presence
        self.store = store
        self._segment_size = segment_size
        self._conflicts = conflicts
        self._copies = copies
        self.ambiguous = ambiguous
        self._pool = new_pool("journal", PARALLEL)
        self._segment_expiry = SegmentExpiry(store, removal)
        self._upload = partial(FileUpload, store, segment_size, removal, self._segment_expiry, ambiguous)
        self._object_moves = ObjectMoves(store, self._pool, removal, copies, ambiguous)
        self.delete = Deletions(store, self._pool, self._object_moves, removal, trash).delete
        late = MoveEvidence(ambiguous)
        self._background_moves = BackgroundMoves(store, self._pool, self._object_moves, copies, late)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    def prepare(self, operation: PutFile, cached_file: CachedFile) -> PutFile:
        """Return the operation as the next process must see it if this one dies during the PUT.

        A file that is stored as one object is downloaded completely first: after the PUT, its base version
        is gone.
        """
        self._presence.check(NotBegun)
        # A large file's manifest can name the base version's segments, so its bytes need not be here.
        if cached_file.size > self._segment_size or cached_file.is_unchanged_slo:
            return operation
        if cached_file.uploads.whole_copy(cached_file.size) is None:
            operation = self._localize(operation, cached_file)
        return operation

    def _localize(self, operation: PutFile, cached_file: CachedFile) -> PutFile:
        if operation.file.is_whole:
            return operation
        if cached_file.uploads.record.is_unanswered:
            self._find_own_manifest(operation, cached_file)  # the base version may be gone already
        cached_file.own_all()
        return replace(operation, file=cached_file.to_record())

    def put_file(
        self,
        operation: PutFile,
        cached_file: CachedFile,
        record: RecordSent,
        *,
        ambiguous: bool,
    ) -> ObjectInfo:
        """Store a file; an `ambiguous` one may have been stored already. Errors as in `run`.

        `record` is called before the last request.
        """
        self._presence.check(NotBegun)
        operation = self._without_unproven(operation, cached_file)
        # Segments that a dead process stored are used again: most of a large file may be there.
        if cached_file.uploads.record.is_inherited:
            self._adopt_leftovers(operation, cached_file)
        # If the lost attempt was carried out, the base version cannot be read any more, and its segments are
        # about to be deleted: a patch must not name them.
        elif cached_file.base is not None and ambiguous:
            self._find_own_manifest(operation, cached_file)
        if operation.foreign_headers_unknown:
            operation = self._with_headers(operation, cached_file)
        operation = replace(operation, meta=without_past(operation.name, operation.meta))
        operation = self._conflicts.resolve(operation, cached_file, ambiguous=ambiguous)

        def record_request(superseded: Collection[ObjectName], md5: str, size: int) -> None:
            sent = self._conflicts.unrecorded(operation, md5, size)
            if superseded or sent:
                record(superseded, sent)

        with self.trash.replacing(operation, ambiguous=ambiguous) as kept:
            return self._upload(kept, cached_file, record_request).run()

    def _without_unproven(self, operation: PutFile, cached_file: CachedFile) -> PutFile:
        """Return the operation without the segments that an earlier attempt was to replace, unless it did.

        Another mount may have renamed their object since. This attempt looks up what stands now.
        """
        superseded, record = operation.superseded_segments, cached_file.uploads.record
        if not superseded or has_replaced(self.store, self.removal, operation.name, operation.sent, record):
            return operation
        log.info("%s: segments of an older version stay until it is known to be gone", operation.name)
        return replace(operation, superseded_segments=())

    def _adopt_leftovers(self, operation: PutFile, cached_file: CachedFile) -> None:
        """Adopt the segments that another process left; its manifest may be stored already."""
        named = self._find_own_manifest(operation, cached_file)
        prefix, left = cached_file.uploads.record.prefix, self.removal.leftovers.all()
        rows = list(iter_rows(self.store, prefix.container, prefix.key))
        unlisted = cached_file.uploads.take_unlisted({row.key for row in rows}, named)
        self.removal.keep_unanswered(unlisted, {operation.name, *cached_file.uploads.record.state().objects})
        # Without leftovers, which are deleted at their time: a new manifest must not name them.
        cached_file.uploads.adopt_leftovers(
            [row for row in rows if ObjectName(prefix.container, row.key) not in left], named
        )

    def _find_own_manifest(self, operation: PutFile, cached_file: CachedFile) -> Collection[ObjectName]:
        """Return the segments of the current manifest; it becomes the base version if it is ours.

        Then the answer to our attempt was lost, and the version that it replaced cannot be read any more. A
        manifest that only truncates the old one names no segment of ours; its ETag shows that it is ours.
        """
        manifest = self.removal.manifest_of(operation.name, is_slo=operation.replaces_large)
        if manifest is None:
            return set()
        named = manifest.names
        record = cached_file.uploads.record
        prefix = record.prefix
        # By the ETag, or by a segment below our prefix, which no other upload has.
        if record.landed(manifest.etag) or any(
            name.container == prefix.container and name.key.startswith(prefix.key) for name in named
        ):
            cached_file.rebase(
                BaseVersion(operation.name, manifest.etag, manifest.size, manifest.size, manifest)
            )
        return named

    def _with_headers(self, operation: PutFile, cached_file: CachedFile) -> PutFile:
        """Return the operation with the headers that another client gave the object, if it is still there.

        The answer also has the current version; a listing may have had an old one.
        """
        if (info := find_object(self.store, operation.name)) is None:
            # A late request may have deleted it: its headers are still known then.
            found = self.ambiguous.dangerous_at(operation.name)
            headers = found.last.headers if found is not None and found.last is not None else None
            meta = operation.meta if headers is None else operation.meta.inherit(headers).without_dlo()
            return replace(operation, meta=with_rule(meta, operation.expires), replaces_large=False)
        cached_file.correct(info)
        # Without the manifest header of a DLO: Swift would serve the DLO's segments instead of the bytes.
        meta = with_rule(operation.meta.inherit(info).without_dlo(), operation.expires)
        return replace(operation, meta=meta, replaces_large=info.is_slo)

    def run(self, operation: Operation, *, ambiguous: bool = False) -> ObjectInfo | None:
        """Carry out one operation; return Swift's answer about a stored object.

        An `ambiguous` one may have been carried out already. Raise the store's errors; the old state is then
        unchanged, unless the method below says otherwise.
        """
        self._presence.check(NotBegun)
        match operation:
            case PutSpecial():
                with self.trash.replacing(operation, ambiguous=ambiguous) as kept:
                    return self._put_special(kept, ambiguous=ambiguous)
            case PutMarker():
                return self._put_marker(operation, ambiguous=ambiguous)
            case SetAttributes() | ReplaceHeaders():
                self._describe(operation)
            case Delete():
                for error in self.delete([operation]).values():
                    raise error
            case CopyFile():
                return self._copy_file(operation)
            case CreateContainer():
                if not self.store.create_container(operation.container):
                    raise AlreadyExists(f"container {operation.container} exists")
            case DescribeContainer():
                self.store.post_container(operation.container, operation.metadata)
            case DeleteContainer():
                self.store.delete_container(operation.container)
        return None

    def _put_special(self, operation: PutSpecial, *, ambiguous: bool) -> ObjectInfo:
        if ambiguous and self.removal.has_unproven(operation.name) and self._is_stored(operation):
            self.removal.record_replaced(operation.name)  # by an attempt that had no answer
        # Before the PUT: afterwards nobody can read the manifest that named them.
        replaced = self.removal.segments_of(operation.name, is_slo=operation.replaces_large)
        meta = without_past(operation.name, operation.meta)
        info = self.store.put(operation.name, operation.body, meta.headers())
        self.removal.owners.forget(operation.name)
        self.removal.discard(operation.name, replaced, is_slo=False)
        return info

    def _copy_file(self, operation: CopyFile) -> ObjectInfo:
        """Copy a file and return its copy, which shares nothing with it: either may be deleted any time."""
        if find_object(self.store, operation.target) is not None:
            raise AlreadyExists(f"{operation.target}: another client made it")
        info = self.store.head(operation.source)
        if info.is_slo:
            self._copies.copier.copy(info, operation.target)
            return self.store.head(operation.target)
        # Of a DLO this copies the bytes. So the copy does not keep the header that names the segments.
        request = CopyRequest(operation.source, operation.target, likely=info.version.etag)
        version = self.store.copy(request)
        kept = {name: value for name, value in info.preserved_headers.items() if name != "X-Object-Manifest"}
        return replace(info, version=version, dlo_prefix=None, preserved_headers=kept)

    def _is_stored(self, operation: PutSpecial) -> bool:
        etag = md5(operation.body, usedforsecurity=False).hexdigest()
        info = find_object(self.store, operation.name)
        return info is not None and (info.version.etag, Headers.of(info)) == (etag, operation.meta.headers())

    def _put_marker(self, operation: PutMarker, *, ambiguous: bool) -> ObjectInfo:
        """Make a folder; one that an `ambiguous` operation may have made counts as made.

        Raise `AlreadyExists` for any other, and for a file.
        """
        try:
            return self.store.put(operation.name, b"", operation.headers, if_absent=True)
        except AlreadyExists as error:
            if not ambiguous:
                raise
            if (found := find_object(self.store, operation.name)) is None:
                raise Unavailable(f"{operation.name} existed, and is gone") from error
            if found.size or not (operation.name.key.endswith("/") or is_directory_type(found.content_type)):
                raise AlreadyExists(f"{operation.name}: another client made a file there") from error
        # A server that died between the two has the object, but does not list it: a POST lists it again.
        self.store.post(operation.name, Headers.of(found))
        return found

    def _describe(self, operation: SetAttributes | ReplaceHeaders) -> None:
        """Store attributes. What a late request has deleted comes back with them.

        Raise `NotFound` for a folder whose marker another client has made a file: it keeps its headers.
        """
        if isinstance(operation, ReplaceHeaders) and not ObjectMeta.of(operation.headers).is_dlo:
            answer = is_file(self.store, operation.name)
            if isinstance(answer, StoreError):
                raise answer
            if answer:
                raise NotFound(f"{operation.name}: another client has made a file of the folder")
        try:
            if isinstance(operation, SetAttributes):
                self._set_attributes(operation)
            else:
                self.store.post(operation.name, operation.headers)
        except NotFound:
            found = self.ambiguous.dangerous_at(operation.name)
            if found is None or found.last is None or found.is_gone:
                raise
            if isinstance(operation, SetAttributes):
                slo = found.last.etag if found.last.manifest is not None else None
                headers = operation.meta.with_slo(slo).headers()
            else:
                headers = operation.headers
            self.ambiguous.done(operation.name, lambda: Effect("post", headers=headers))

    def _set_attributes(self, operation: SetAttributes) -> None:
        """Store the meta, that of an SLO with its ETag, so that a listing shows the ETag.

        The ETag is requested now: a POST with a wrong one would hide the version of another client.
        """
        if operation.is_slo is False:
            self.store.post(operation.name, operation.meta.headers())
            return
        info = self.store.head(operation.name)
        meta = operation.meta.with_slo(info.version.etag if info.is_slo else None)
        if not (info.is_slo and operation.expiry_changed):
            self.store.post(operation.name, meta.headers())
            return
        manifest = self.store.manifest(operation.name)
        if ObjectMeta.of(info).delete_at:
            self._segment_expiry.lengthen(manifest.names, meta.delete_at)
        self.store.post(operation.name, meta.headers())
        self._segment_expiry.follow(operation.name, manifest, meta.delete_at)

    def move(self, operation: Move | MoveFolder, record: RecordMove, keeper: CopyKeeper) -> Moved:
        """Carry out a move.

        `record` gets a folder's move with all its objects before the first copy, and again when it is undone;
        `keeper` keeps what lost requests may destroy at the names of the copies.
        Raise the store's errors, and for a folder `Unmoved`: then the old state stands.
        """
        if isinstance(operation, Move):
            with self.trash.replacing(operation, ambiguous=False) as kept:
                return Moved(self._object_moves.move(kept, keeper))
        return self._object_moves.move_folder(operation, record, keeper, self._background_moves.plan)

    def move_objects(
        self, operations: Mapping[MoveObject, bool], keeper: CopyKeeper
    ) -> dict[ObjectName, MoveOutcome]:
        """Move objects of folders that were renamed; see `BackgroundMoves.run`.

        What a late request has overwritten or deleted is stored again first.
        """
        outcomes = self._background_moves.run(operations, keeper)
        again = {}
        for operation in operations:
            source = operation.source
            if isinstance(outcomes[source].error, Overwritten):
                if (error := self._store_again(source, keeper)) is None:
                    again[operation] = True
                else:
                    outcomes[source] = MoveOutcome(error)
        return outcomes | self._background_moves.run(again, keeper) if again else outcomes

    def _store_again(self, source: ObjectName, keeper: CopyKeeper) -> StoreError | OSError | None:
        try:
            with keeper.restoring(source) as (operation, cached_file):
                if isinstance(operation, PutFile) and cached_file is not None:
                    self.put_file(operation, cached_file, lambda *_: None, ambiguous=False)
                elif operation is not None:
                    self.run(operation)
        except (StoreError, OSError) as error:
            return error
        return None

    def resume(self, operation: Move | MoveFolder, record: RecordMove, keeper: CopyKeeper) -> Moved:
        """Finish a move that an earlier process began; `record` is called if it is undone instead.

        Raise `StoreError`.
        """
        try:
            if isinstance(operation, Move):
                with self.trash.replacing(operation, ambiguous=True) as kept:
                    return Moved(self._object_moves.resume_move(kept, keeper))
            return self._object_moves.resume_folder(operation, record, keeper)
        except StoreError:
            # The dead process may have made any of the copies, and both names may be changed from now on.
            self.removal.share_all(operation.copies())
            raise
