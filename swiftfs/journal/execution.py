"""How each intent is carried out: the requests, and their order.

INVARIANT: after one request the new state stands, and nothing of the old one is deleted before it.
"""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace

from swiftfs.content.content import Content
from swiftfs.content.origin import Origin
from swiftfs.content.segments import SegmentUpload, Standing
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
from swiftfs.journal.storing import Doom, Storing
from swiftfs.model import ObjectInfo, ObjectName, Row
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

    def __init__(self, store: ObjectStore, segment_size: int, conflicts: Conflicts) -> None:
        self._store = store
        self._segment_size = segment_size
        self._conflicts = conflicts
        self._pool = ThreadPoolExecutor(PARALLEL, thread_name_prefix="journal")
        self._storing = Storing(store, segment_size, self.discard)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    def localize(self, intent: PutFile, content: Content) -> PutFile:
        """Return the intent so that it needs nothing from Swift, where its file is stored as one object.

        For when that object stands, the version that the file was changed from is gone.
        """
        if intent.file.is_whole or content.size > self._segment_size:
            return intent
        content.own_all()
        return replace(intent, file=content.save())

    def put_file(self, intent: PutFile, content: Content, doom: Doom, *, again: bool) -> ObjectInfo:
        """Store a file; `again` says that it may have been stored already. Errors as in `run`.

        `doom` is told of objects that are to be deleted then, before that is so.
        """
        if content.uploads is not None and content.uploads.is_inherited:
            self._take_up(intent, content, content.uploads)
        elif content.uploads is not None and content.origin is not None and again:
            self._find_own_manifest(intent, content, content.uploads.prefix)
        if intent.inherit:
            intent = self._with_headers(intent, content)
        return self._storing.run(self._conflicts.settle(intent, content, again=again), content, doom)

    def _take_up(self, intent: PutFile, content: Content, uploads: SegmentUpload) -> None:
        """Find the segments that another process left; its manifest may stand already."""
        named = self._find_own_manifest(intent, content, uploads.prefix)
        uploads.found(self._rows_below(uploads.prefix.container, uploads.prefix.key), named)

    def _find_own_manifest(
        self, intent: PutFile, content: Content, prefix: ObjectName
    ) -> Collection[ObjectName]:
        """Return the segments of the manifest that stands, which is the origin if an attempt of ours made it.

        The answer to that attempt was lost: what it has replaced cannot be read any more.
        """
        manifest = self._storing.manifest_of(intent.name, large=intent.replaces_large)
        named = {segment.name for segment in manifest.segments} if manifest else set()
        if manifest is not None and any(name.key.startswith(prefix.key) for name in named):
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
                replaced = self._storing.segments_of(intent.name, large=intent.replaces_large)
                info = self._store.put(intent.name, intent.body, intent.description.headers())
                self.discard(replaced)
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
            failed = self.delete_all([*names, *segments])
        else:
            failed = self.delete_all(names)
            failed |= self.delete_all(() if failed else segments)
        self._log_unused({name: failed.pop(name) for name in segments & failed.keys()})
        return failures | failed

    def _find_segments(self, intent: Delete) -> set[ObjectName] | StoreError:
        try:
            return self._storing.segments_of(intent.name, large=intent.large)
        except StoreError as error:
            return error

    def delete_all(self, names: Collection[ObjectName]) -> dict[ObjectName, StoreError]:
        """Delete objects that are no SLOs, many in a request; return those that failed, and why."""
        try:
            if len(names) > 1:
                return self._store.delete_many(names)
            for name in names:
                self._store.delete(name)
        except NotFound:
            pass  # it is gone already
        except StoreError as error:
            return dict.fromkeys(names, error)
        return {}

    def discard(self, names: Iterable[ObjectName]) -> None:
        """Delete objects that are not needed any more; a failure leaves them behind and is logged."""
        self._log_unused(self.delete_all(tuple(names)))

    def discard_below(self, standing: Standing) -> None:
        """Delete the segments below a prefix that no manifest names; raise `StoreError` if they stay."""
        prefix = standing.prefix
        try:
            rows = [row.key for row in self._rows_below(prefix.container, prefix.key)]
        except NotFound:
            return  # so is the container
        names = [ObjectName(prefix.container, key) for key in rows if key not in (standing.named or ())]
        for error in self.delete_all(names).values():
            raise error

    def _log_unused(self, failures: Mapping[ObjectName, StoreError]) -> None:
        for name, error in failures.items():
            log.warning("%s stays in Swift unused: %s", name, error)

    def _move(self, intent: Move) -> None:
        """Copy, then delete; when the deletion fails both names stand, and the move can be repeated."""
        replaced = self._storing.segments_of(intent.target, large=intent.replaces_large)
        self._store.copy(intent.source, intent.target, manifest_only=True)
        self._store.delete(intent.source)
        self.discard(replaced)

    def _move_folder(self, intent: MoveFolder) -> None:
        """Copy all in parallel, then delete.

        When a copy fails the copies are deleted again, for the target was empty before, and so are those
        whose answer was lost; `Unmoved` names those that could not be. When a deletion fails the move stands,
        and what it left behind is logged.
        """
        pairs = list(intent.markers)
        for row in self._rows_below(intent.container, intent.source):
            key = intent.target + row.key.removeprefix(intent.source)
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
            raise Unmoved(failures[0], tuple(self.delete_all(targets)))
        self.discard(source for source, _ in pairs)

    def _is_there(self, name: ObjectName) -> bool:
        try:
            self._store.head(name)
        except NotFound:
            return False
        return True

    def _rows_below(self, container: str, prefix: str) -> Iterable[Row]:
        marker = ""
        while True:
            page = self._store.list_page(container, prefix=prefix, marker=marker)
            yield from page.rows
            if page.last:
                return
            marker = page.marker


def _may_stand(error: BaseException | None) -> bool:
    """Say whether a request that ended with `error` may have been carried out."""
    return error is None or (isinstance(error, StoreError) and error.retryable)
