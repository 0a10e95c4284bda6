"""How each intent is carried out: the requests, and their order.

INVARIANT: after one request the new state stands, and nothing of the old one is deleted before it.
"""

import logging
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace

from swiftfs.content.content import Content
from swiftfs.content.origin import Origin
from swiftfs.content.segments import SegmentUpload
from swiftfs.errors import AlreadyExists, NotFound, StoreError, errno_of
from swiftfs.journal.conflicts import Conflicts
from swiftfs.journal.intents import (
    CreateContainer,
    Delete,
    DeleteContainer,
    Describe,
    DescribeContainer,
    Description,
    Intent,
    Move,
    MoveFolder,
    PutFile,
    PutMarker,
    PutSmall,
    SetHeaders,
)
from swiftfs.journal.removal import Removal
from swiftfs.journal.storing import Doom, Storing
from swiftfs.model import ObjectInfo, ObjectName
from swiftfs.store.protocol import ObjectStore

log = logging.getLogger(__name__)

PARALLEL = 16
"""Copies, deletions and markers under way at once."""


class Unmoved(StoreError):
    """A folder was not moved, because of `cause`; copies of its objects may be `left` at the target."""

    def __init__(self, cause: BaseException, left: tuple[ObjectName, ...]) -> None:
        super().__init__(f"the folder was not moved: {cause}")
        self.errno = errno_of(cause)
        self.left = left


class Execution:
    """Carries out intents against a store; files above `segment_size` bytes are stored as SLOs."""

    def __init__(self, store: ObjectStore, segment_size: int, conflicts: Conflicts, removal: Removal) -> None:
        self.removal = removal
        self._store = store
        self._segment_size = segment_size
        self._conflicts = conflicts
        self._pool = ThreadPoolExecutor(PARALLEL, thread_name_prefix="journal")
        self._storing = Storing(store, segment_size, removal)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    def localize(self, intent: PutFile, content: Content) -> PutFile:
        """Return the intent so that it needs nothing from Swift, where its file is stored as one object.

        For when that object stands, the version that the file was changed from is gone.
        """
        if intent.file.is_whole or content.size > self._segment_size:
            return intent
        if content.uploads is not None and content.uploads.is_in_doubt:
            self._find_own_manifest(intent, content, content.uploads)  # the version may be gone already
        content.own_all()
        return replace(intent, file=content.save())

    def put_file(self, intent: PutFile, content: Content, doom: Doom, *, again: bool) -> ObjectInfo:
        """Store a file; `again` says that it may have been stored already. Errors as in `run`.

        `doom` is told of objects that are to be deleted then, before that is so.
        """
        if content.uploads is not None and content.uploads.is_inherited:
            self._take_up(intent, content, content.uploads)
        elif content.uploads is not None and content.origin is not None and again:
            self._find_own_manifest(intent, content, content.uploads)
        if intent.inherit:
            intent = self._with_headers(intent, content)
        return self._storing.run(self._conflicts.settle(intent, content, again=again), content, doom)

    def _take_up(self, intent: PutFile, content: Content, uploads: SegmentUpload) -> None:
        """Find the segments that another process left; its manifest may stand already."""
        named = self._find_own_manifest(intent, content, uploads)
        prefix, left = uploads.prefix, self.removal.leftovers()
        rows = self.removal.rows_below(prefix.container, prefix.key)
        uploads.found((row for row in rows if ObjectName(prefix.container, row.key) not in left), named)

    def _find_own_manifest(
        self, intent: PutFile, content: Content, uploads: SegmentUpload
    ) -> Collection[ObjectName]:
        """Return the segments of the manifest that stands, which is the origin if an attempt of ours made it.

        The answer to that attempt was lost: what it has replaced cannot be read any more. A manifest that
        only cuts the old one names no segment of ours, but it is known by its ETag.
        """
        manifest = self.removal.manifest_of(intent.name, large=intent.replaces_large)
        if manifest is None:
            return set()
        named = {segment.name for segment in manifest.segments}
        prefix = uploads.prefix
        if uploads.has_asked(manifest.etag) or any(
            name.container == prefix.container and name.key.startswith(prefix.key) for name in named
        ):
            content.rebase(Origin(intent.name, manifest.etag, manifest.size, manifest.size, manifest))
        return named

    def _with_headers(self, intent: PutFile, content: Content) -> PutFile:
        """Return the intent with the headers that another client gave the object, if it is still there.

        The answer tells its version too, of which a listing may have told wrongly.
        """
        try:
            info = self._store.head(intent.name)
        except NotFound:
            return replace(intent, replaces_large=False)
        content.correct(info)
        # A DLO's own header would have its segments served instead of the bytes.
        kept = {name: value for name, value in info.kept.items() if name != "X-Object-Manifest"}
        description = replace(intent.description, metadata=info.metadata, kept=kept)
        return replace(intent, description=description, replaces_large=info.is_slo)

    def run(self, intent: Intent) -> ObjectInfo | None:
        """Carry out one intent; return what Swift said of an object that was stored.

        Raise what the store raises, while the old state stands, unless the method below says otherwise.
        """
        match intent:
            case PutSmall():
                replaced = self.removal.segments_of(intent.name, large=intent.replaces_large)
                info = self._store.put(intent.name, intent.body, intent.description.headers())
                self.removal.owners.stands(intent.name, info.version.etag)
                self.removal.discard(replaced)
                return info
            case PutMarker():
                return self._store.put(intent.name, b"", intent.headers, if_absent=True)
            case Describe():
                self._store.post(intent.name, self._described(intent).headers())
            case SetHeaders():
                self._store.post(intent.name, intent.headers)
            case Delete():
                for error in self.delete_together([intent]).values():
                    raise error
            case Move():
                self._move(intent)
            case MoveFolder():
                self._move_folder(intent)
            case CreateContainer():
                if not self._store.create_container(intent.container):
                    raise AlreadyExists(f"container {intent.container} exists")
            case DescribeContainer():
                self._store.post_container(intent.container, intent.metadata)
            case DeleteContainer():
                self._store.delete_container(intent.container)
        return None

    def _described(self, intent: Describe) -> Description:
        """Return the description, which of an SLO names its ETag: a listing alone tells it then.

        It is that of this moment: a wrong one would stay, whatever other clients do to the object.
        """
        if intent.large is False:
            return intent.description
        info = self._store.head(intent.name)
        stored = replace(intent.description.stored, slo=info.version.etag if info.is_slo else None)
        return replace(intent.description, stored=stored)

    def resume(self, intent: Move | MoveFolder) -> None:
        """Go on with a move that a process left when it died: what it has deleted has moved."""
        if isinstance(intent, Move):
            if self._is_there(intent.source):
                # What the target holds may be the moved object already, whose segments are in use.
                self._move(replace(intent, replaces_large=False))
            return
        self._move_folder(
            replace(intent, markers=tuple(pair for pair in intent.markers if self._is_there(pair[0])))
        )

    def delete_together(self, intents: Sequence[Delete]) -> dict[ObjectName, StoreError]:
        """Delete objects, then the segments of those that are SLOs, in few requests; return what failed."""
        failures: dict[ObjectName, StoreError] = {}
        segments: set[ObjectName] = set()
        for intent, found in zip(intents, self._pool.map(self._find_segments, intents), strict=True):
            if isinstance(found, StoreError):
                failures[intent.name] = found
            else:
                segments |= found
        names = [intent.name for intent in intents if intent.name not in failures]
        if self._store.limits().bulk_delete:  # it goes through its names in order
            failed = self.removal.delete_all([*names, *segments])
        else:
            failed = self.removal.delete_all(names)
            failed |= self.removal.delete_all(() if failed else segments)
        self.removal.log_unused({name: failed.pop(name) for name in segments & failed.keys()})
        for intent in intents:
            if intent.name not in failures and intent.name not in failed:
                self.removal.owners.stands(intent.name, "")
        return failures | failed

    def _find_segments(self, intent: Delete) -> set[ObjectName] | StoreError:
        try:
            return self.removal.segments_of(intent.name, large=intent.large)
        except StoreError as error:
            return error

    def _move(self, intent: Move) -> None:
        """Copy, then delete; when the deletion fails both names stand, and the move can be repeated."""
        replaced = self.removal.segments_of(intent.target, large=intent.replaces_large)
        copied = self._store.copy(intent.source, intent.target, manifest_only=True)
        self._store.delete(intent.source)
        if intent.large is not False:
            self.removal.owners.moved(intent.source, intent.target, copied.etag)
        self.removal.discard(replaced)

    def _move_folder(self, intent: MoveFolder) -> None:
        """Copy all in parallel, then delete.

        When a copy fails the copies are deleted again, for the target was empty before, and so are those
        whose answer was lost; `Unmoved` names those that could not be. When a deletion fails the move stands,
        and what it left behind is logged.
        """
        pairs = list(intent.markers)
        etags: dict[ObjectName, str] = {}
        for row in self.removal.rows_below(intent.container, intent.source):
            key = intent.target + row.key.removeprefix(intent.source)
            etags[ObjectName(intent.container, row.key)] = row.hash
            pairs.append((ObjectName(intent.container, row.key), ObjectName(intent.target_container, key)))
        copies = [
            self._pool.submit(self._store.copy, source, target, manifest_only=True)
            for source, target in pairs
        ]
        wait(copies)
        failures = [error for copy in copies if (error := copy.exception()) is not None]
        if failures:
            targets = [
                target
                for (_, target), copy in zip(pairs, copies, strict=True)
                if _may_stand(copy.exception())
            ]
            raise Unmoved(failures[0], tuple(self.removal.delete_all(targets)))
        failed = self.removal.delete_all([source for source, _ in pairs])
        self.removal.log_unused(failed)
        for (source, target), copy in zip(pairs, copies, strict=True):
            etag = copy.result().etag
            if source not in failed and etag != etags.get(
                source, etag
            ):  # a listing shows another one of an SLO
                self.removal.owners.moved(source, target, etag)

    def _is_there(self, name: ObjectName) -> bool:
        try:
            self._store.head(name)
        except NotFound:
            return False
        return True


def _may_stand(error: BaseException | None) -> bool:
    """Say whether a request that ended with `error` may have been carried out."""
    return error is None or (isinstance(error, StoreError) and error.retryable)
