"""How each intent is carried out: the requests, and their order.

INVARIANT: after one request the new state stands, and nothing of the old one is deleted before it.
"""

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace

from swiftfs.concurrency import new_pool
from swiftfs.errors import AlreadyExists, NotFound, StoreError
from swiftfs.filecache.block_map import BaseVersion
from swiftfs.filecache.cached_file import CachedFile
from swiftfs.filecache.segment_uploader import SegmentUploader
from swiftfs.journal.conflicts import Conflicts
from swiftfs.journal.file_upload import FileUpload, RecordSuperseded
from swiftfs.journal.object_moves import Note, ObjectMoves, Remnant
from swiftfs.journal.operations import (
    CreateContainer,
    Delete,
    DeleteContainer,
    DescribeContainer,
    Description,
    Move,
    MoveFolder,
    Operation,
    PutFile,
    PutMarker,
    PutSpecial,
    ReplaceHeaders,
    SetAttributes,
)
from swiftfs.journal.segment_removal import SegmentRemoval
from swiftfs.objects import ObjectInfo, ObjectName
from swiftfs.store.paging import iter_rows
from swiftfs.store.protocol import ObjectStore

log = logging.getLogger(__name__)

PARALLEL = 16
"""Copies, deletions and markers under way at once."""


class Executor:
    """Carries out intents against a store; files above `segment_size` bytes are stored as SLOs."""

    def __init__(
        self, store: ObjectStore, segment_size: int, conflicts: Conflicts, removal: SegmentRemoval
    ) -> None:
        self.removal = removal
        self._store = store
        self._segment_size = segment_size
        self._conflicts = conflicts
        self._pool = new_pool("journal", PARALLEL)
        self._file_upload = FileUpload(store, segment_size, removal)
        self._object_moves = ObjectMoves(store, self._pool, removal)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    def prepare(self, intent: PutFile, content: CachedFile) -> PutFile:
        """Return the intent with what the next process must know of a PUT that this one does not survive.

        Where the file is stored as one object it needs nothing from Swift then: when that object stands, the
        version that the file was changed from is gone.
        """
        if content.size > self._segment_size:
            return intent
        return self._conflicts.note_sent(self._localize(intent, content), content)

    def _localize(self, intent: PutFile, content: CachedFile) -> PutFile:
        if intent.file.is_whole:
            return intent
        if content.uploads is not None and content.uploads.is_in_doubt:
            self._find_own_manifest(intent, content, content.uploads)  # the version may be gone already
        content.own_all()
        return replace(intent, file=content.to_record())

    def put_file(
        self, intent: PutFile, content: CachedFile, record_superseded: RecordSuperseded, *, again: bool
    ) -> ObjectInfo:
        """Store a file; `again` says that it may have been stored already. Errors as in `run`.

        `record_superseded` is told of objects that are to be deleted then, before that is so.
        """
        if content.uploads is not None and content.uploads.is_inherited:
            self._take_up(intent, content, content.uploads)
        elif content.uploads is not None and content.origin is not None and again:
            self._find_own_manifest(intent, content, content.uploads)
        if intent.foreign_headers_unknown:
            intent = self._with_headers(intent, content)
        return self._file_upload.run(
            self._conflicts.settle(intent, content, again=again), content, record_superseded
        )

    def _take_up(self, intent: PutFile, content: CachedFile, uploads: SegmentUploader) -> None:
        """Find the segments that another process left; its manifest may stand already."""
        named = self._find_own_manifest(intent, content, uploads)
        prefix, left = uploads.prefix, self.removal.leftovers()
        rows = iter_rows(self._store, prefix.container, prefix.key)
        uploads.adopt_leftovers(
            (row for row in rows if ObjectName(prefix.container, row.key) not in left), named
        )

    def _find_own_manifest(
        self, intent: PutFile, content: CachedFile, uploads: SegmentUploader
    ) -> Collection[ObjectName]:
        """Return the segments of the manifest that stands, which is the origin if an attempt of ours made it.

        The answer to that attempt was lost: what it has replaced cannot be read any more. A manifest that
        only cuts the old one names no segment of ours, but it is known by its ETag.
        """
        manifest = self.removal.manifest_of(intent.name, is_slo=intent.replaces_large)
        if manifest is None:
            return set()
        named = {segment.name for segment in manifest.segments}
        prefix = uploads.prefix
        if uploads.landed(manifest.etag) or any(
            name.container == prefix.container and name.key.startswith(prefix.key) for name in named
        ):
            content.rebase(BaseVersion(intent.name, manifest.etag, manifest.size, manifest.size, manifest))
        return named

    def _with_headers(self, intent: PutFile, content: CachedFile) -> PutFile:
        """Return the intent with the headers that another client gave the object, if it is still there.

        The answer tells its version too, of which a listing may have told wrongly.
        """
        try:
            info = self._store.head(intent.name)
        except NotFound:
            return replace(intent, replaces_large=False)
        content.correct(info)
        # A DLO's own header would have its segments served instead of the bytes.
        kept = {name: value for name, value in info.preserved_headers.items() if name != "X-Object-Manifest"}
        description = replace(intent.description, metadata=info.metadata, preserved_headers=kept)
        return replace(intent, description=description, replaces_large=info.is_slo)

    def run(self, intent: Operation) -> ObjectInfo | None:
        """Carry out one intent; return what Swift said of an object that was stored.

        Raise what the store raises, while the old state stands, unless the method below says otherwise.
        """
        match intent:
            case PutSpecial():
                replaced = self.removal.segments_of(intent.name, is_slo=intent.replaces_large)
                info = self._store.put(intent.name, intent.body, intent.description.headers())
                self.removal.owners.gone(intent.name)
                self.removal.discard(intent.name, replaced)
                return info
            case PutMarker():
                return self._store.put(intent.name, b"", intent.headers, if_absent=True)
            case SetAttributes():
                self._store.post(intent.name, self._described(intent).headers())
            case ReplaceHeaders():
                self._store.post(intent.name, intent.headers)
            case Delete():
                for error in self.delete_together([intent]).values():
                    raise error
            case CreateContainer():
                if not self._store.create_container(intent.container):
                    raise AlreadyExists(f"container {intent.container} exists")
            case DescribeContainer():
                self._store.post_container(intent.container, intent.metadata)
            case DeleteContainer():
                self._store.delete_container(intent.container)
        return None

    def _described(self, intent: SetAttributes) -> Description:
        """Return the description, which of an SLO names its ETag: a listing alone tells it then.

        It is that of this moment: a wrong one would stay, whatever other clients do to the object.
        """
        if intent.is_slo is False:
            return intent.description
        info = self._store.head(intent.name)
        stored = replace(intent.description.stored, slo=info.version.etag if info.is_slo else None)
        return replace(intent.description, stored=stored)

    def move(self, intent: Move | MoveFolder, note: Note) -> list[Remnant]:
        """Carry out a move, of which `note` keeps what it is about to do; return what it could not delete.

        Raise what the store raises, of a folder `Unmoved`: then the old state stands.
        """
        if isinstance(intent, Move):
            return self._object_moves.move(intent)
        return self._object_moves.move_folder(intent, note)

    def resume(self, intent: Move | MoveFolder) -> list[Remnant]:
        """Go on with a move that a process left when it died; return what it could not delete."""
        if isinstance(intent, Move):
            return self._object_moves.resume_move(intent)
        return self._object_moves.resume_folder(intent)

    def delete_together(self, intents: Sequence[Delete]) -> dict[ObjectName, StoreError]:
        """Delete objects, then the segments of those that are SLOs, in few requests; return what failed."""
        failures: dict[ObjectName, StoreError] = {}
        found: dict[ObjectName, set[ObjectName]] = {}
        intents = self._without_changed(intents, failures)
        for intent, segments in zip(intents, self._pool.map(self._find_segments, intents), strict=True):
            if isinstance(segments, StoreError):
                failures[intent.name] = segments
            else:
                found[intent.name] = segments
        all_segments = set().union(*found.values())
        if self._store.limits().bulk_delete:  # it goes through its names in order
            failed = self.removal.delete_all([*found, *all_segments])
        else:
            failed = self.removal.delete_all(found)
            failed |= self.removal.delete_all(() if failed else all_segments)
        for name, segments in found.items():
            lost = {segment: failed.pop(segment) for segment in segments & failed.keys()}
            if name in failed:
                continue
            self.removal.settle(name, segments, lost)
            self.removal.owners.gone(name)
        return failures | failed

    def _without_changed(
        self, intents: Sequence[Delete], failures: dict[ObjectName, StoreError]
    ) -> list[Delete]:
        """Return what is to be deleted: what a move left behind is not, if it has changed since."""
        wanted = []
        for intent in intents:
            try:
                if not intent.moved or self._object_moves.is_unchanged(intent):
                    wanted.append(intent)
            except StoreError as error:
                failures[intent.name] = error
        return wanted

    def _find_segments(self, intent: Delete) -> set[ObjectName] | StoreError:
        try:
            return self.removal.segments_of(intent.name, is_slo=intent.is_slo)
        except StoreError as error:
            return error
