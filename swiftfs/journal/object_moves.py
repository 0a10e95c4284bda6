"""Moves: copies on the server, then the deletion of sources that have not changed since.

INVARIANT: an object is deleted only if another name has the same version, and no version of another client is
overwritten or deleted, as far as Swift can say at that moment.
"""

import errno
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice

from msgspec.structs import replace

from swiftfs.concurrency import Event, Executor, Future, monotonic, new_event
from swiftfs.errors import NotFound, StoreError, os_error
from swiftfs.journal.moves import (
    EMPTY,
    CopyKeeper,
    HandOn,
    InterruptedMove,
    Moved,
    MoveEvidence,
    MoveItem,
    NotDeleted,
    RecordMove,
    Remnant,
    Unmoved,
    all_at_once,
    deletion_of,
    etag_of,
    is_copied,
    is_of_this_moment,
    is_to_delete,
    is_unchanged,
    items_of,
    log_not_deleted,
    not_copied,
    prepare,
    rows_of,
    some,
    why_not_deleted,
    with_objects,
)
from swiftfs.journal.operations import ANY_VERSION, Delete, Move, MoveFolder
from swiftfs.journal.segment_removal import SegmentRemoval
from swiftfs.journal.shared_copies import MovedParts, SharedCopies
from swiftfs.namespace.entry import is_marker, is_slash_marker
from swiftfs.objects import ObjectInfo, ObjectName, Row
from swiftfs.store.ambiguous import AmbiguousRequests
from swiftfs.store.protocol import Headers, ObjectStore, find_object, iter_rows, readable_rows

log = logging.getLogger(__name__)

MOMENT = 1.0
"""Seconds for which the listing of the sources counts as current, if no copy took unusually long: another
listing takes about as long, and costs a request."""

MOST_HEADS = 8
"""Rows at the target that a HEAD checks: listings may still show objects that are gone."""


class ObjectMoves:
    """Carries out moves; `removal` deletes objects, and knows the owners of segments.

    `copies` protects copies from what another client does to their sources. A listing younger than `moment`
    seconds counts as current for the objects that it shows, except for large ones. `ambiguous` records what
    was found of a move that another process began.
    """

    def __init__(
        self,
        store: ObjectStore,
        pool: Executor,
        removal: SegmentRemoval,
        copies: SharedCopies,
        ambiguous: AmbiguousRequests,
        moment: float = MOMENT,
    ) -> None:
        self._store = store
        self._find = partial(find_object, store)
        self._pool = pool
        self._removal = removal
        self._copies = copies
        self._parts = MovedParts(store, pool)
        self._late = MoveEvidence(ambiguous)
        self._moment = moment

    def move(self, operation: Move, keeper: CopyKeeper) -> list[Remnant]:
        """Copy, then delete the source if it is still the copied version; return it if that failed.

        Raise `CopyLost` if another client deleted or replaced a large object meanwhile, with its segments.
        """
        if operation.replaces_large is not False:
            # They are of an older attempt to delete the target, which then was another object. This COPY
            # proves the end of what stands there now, but nothing about that object.
            self._removal.forget_expected(operation.target)
        keeper.prepare_copy(operation.source, operation.target, operation.etag or "")
        # Before the COPY, which replaces the manifest that names them.
        replaced = self._removal.segments_of(operation.target, is_slo=operation.replaces_large)
        item = MoveItem(operation.source, operation.target, operation.etag or "", is_slo=operation.is_slo)
        try:
            item.copied = self._late.copy(self._store, operation.source, operation.target)
        except StoreError:
            self._copies.share_copy(item)
            item.copied = self._late.made_copy(self._store, operation)
            if item.copied is None:
                raise
        keeper.keep_copies([item.target])
        remnants = self.delete_unchanged([item])
        if item.not_deleted is NotDeleted.NOT_COPIED:
            self._copies.share_copy(item)  # it may be made late
            raise not_copied(item)
        self._removal.discard(operation.target, replaced, is_slo=operation.is_slo is True)
        if isinstance(item.error, StoreError):
            raise item.error
        return remnants

    def resume_move(self, operation: Move, keeper: CopyKeeper) -> list[Remnant]:
        """Finish a move that a dead process left; a newer version at either name is kept.

        Raise `StoreError` if the objects at both names are kept, which they also are if a mount has served
        files since: a program may have made either.
        """
        source, target = self._find(operation.source), self._find(operation.target)
        expected = source.version.etag if source is not None else operation.etag
        if source is not None or target is not None:  # else the newest version may be lost: it comes back
            self._late.found(operation.source, source)
        # A program may have changed or deleted the copy since a mount has served files.
        copied_from = None if operation.served else operation.source
        self._late.found(operation.target, target, copy_of=copied_from, etag=expected)
        if source is None:
            if target is not None and operation.etag in (None, target.version.etag):
                self._record_done(operation, target)
            return []
        etag = source.version.etag
        if operation.etag in (None, etag) and not operation.served:
            is_replaced = target is None or operation.replaces_etag in (target.version.etag, ANY_VERSION)
            is_copy = target is not None and target.version.etag == etag
            # What stands at the target may be what the move was to replace, an empty file for example. A COPY
            # brings the headers of the source along, so only equal headers make it the copy.
            if is_copy and target is not None and is_replaced:  # both may hold the same bytes
                is_copy = Headers.of(source) == Headers.of(target)
            if is_copy and target is not None:
                keeper.prepare_copy(operation.source, operation.target, operation.etag or "")
                self._list_again(target)
                self._record_replaced(operation)
                keeper.keep_copies([operation.target])
                return self.delete_unchanged(
                    [MoveItem(operation.source, operation.target, etag, copied=etag)]
                )
            if is_replaced:
                return self.move(operation, keeper)
        self._removal.share(operation.source, operation.target)  # the copy may still be carried out
        if target is not None and target.version.etag == operation.etag:
            copy = MoveItem(operation.source, operation.target, "", copied=operation.etag)
            self._copies.separate(copy)
        raise StoreError("source or target may have a newer version: both are kept")

    def _record_done(self, operation: Move, target: ObjectInfo) -> None:
        """Record that a move had been carried out before the process died, as far as Swift tells."""
        if operation.etag is not None:
            self._record_replaced(operation)
        if target.is_slo:
            self._copies.share_gone(operation.source, operation.target)

    def _record_replaced(self, operation: Move) -> None:
        """Record that the copy had replaced what stood at the target before the process died."""
        if operation.replaces_large is not False:
            self._removal.record_replaced(operation.target)

    def move_folder(
        self, operation: MoveFolder, record: RecordMove, keeper: CopyKeeper, hand_on: HandOn = all_at_once
    ) -> Moved:
        """Copy all in parallel, then delete unchanged sources; nothing if `hand_on` returns later moves.

        If a copy fails, the others are deleted again; `Unmoved` names those that could not be.
        Sources that another client has changed or deleted meanwhile are not touched.
        """
        began = monotonic()
        items = self._items(operation, self._list(operation))
        self._parts.refuse_dlos(operation, items)
        if later := hand_on(operation, items):
            return Moved([], later=later)
        prepare(items, keeper)
        # Committed before the first COPY: the next process can tell what moves from what was stored
        # meanwhile.
        record(recorded := with_objects(operation, items))
        record_undone = partial(record, replace(recorded, undone=True))
        copied = self._copy(items, record_undone)
        try:
            self._parts.refuse_slos(operation, copied)
        except Unmoved as error:
            self._undo(copied, error, record_undone)
            raise
        if not copied and not operation.carried:  # else all that the folder has is in the journal
            raise Unmoved(NotFound(f"{operation.container}/{operation.source}: it does not exist any more"))
        keeper.keep_copies([item.target for item in copied])
        rows = None
        if not is_of_this_moment(monotonic() - began, self._moment, copied):
            try:
                rows = {row.key: row for row in iter_rows(self._store, operation.container, operation.source)}
            except StoreError as error:  # all is at the new place, and an undo would meet the same outage
                for item in copied:
                    item.not_deleted = NotDeleted.FAILED
                self._copies.settle(copied)
                return Moved([(deletion_of(item), error) for item in copied], rows_of(copied))
        sure = [item for item in copied if is_unchanged(item, rows)]
        doubtful = [item for item in copied if not is_unchanged(item, rows)]
        remnants = self.delete_unchanged(doubtful, sure)
        return Moved(remnants, rows_of(copied))

    def resume_folder(self, operation: MoveFolder, record: RecordMove, keeper: CopyKeeper) -> Moved:
        """Finish a move that a dead process left; newer versions at either place are kept.

        Only objects that are absent at the target and unchanged at the source are copied. If a mount has
        served files since, both places are kept: programs may have made and deleted files at either. A move
        that was being undone is given up: a late request of that process may delete any copy.
        """
        left, listed, kept = self._found_left(operation)
        # Nothing was copied: what is at the target was there before, and what is carried would replace it.
        if operation.objects is None and operation.carried:
            self._refuse(operation, left.targets.values())
        if operation.served:
            for item in (*listed, *kept):
                self._keep_both(item, left)
            raise Unmoved(StoreError("a mount has served files since: both places are kept"))
        items = [*self._markers_left(operation), *self._unlisted_left(operation, left.sources), *listed]
        found = [item for item in items if item.copied is not None]
        if operation.objects is None and not operation.undone and all(item.keeps_target for item in found):
            record(operation := with_objects(operation, items))  # as when a move begins
        record_undone = partial(record, replace(operation, undone=True))
        for item in kept:
            self._keep_both(item, left)
        # A late DELETE of the process that undid it may take any copy at the target: the sources must stay.
        if operation.undone:
            for item in (*items, *kept):
                if item.target.key not in left.targets:  # it may be made late
                    self._late.found(item.target, None)
            raise self._undone(found, Unmoved(StoreError("it was being undone when the process died")))
        try:
            self._parts.refuse_dlos(operation, items)
            prepare(items, keeper)
            missing = [item for item in items if item.copied is None]
            copied = self._copy(missing, record_undone)
        except Unmoved as error:
            if operation.objects is not None:  # only then it is certain that the copies are this move's
                self._undone(found, error)
            raise
        try:
            self._parts.refuse_slos(operation, items, is_resumed=True)
        except Unmoved as error:
            self._undo(items if operation.objects is not None else copied, error, record_undone)
            raise
        keeper.keep_copies([item.target for item in items])
        if kept:
            what = f"the move of {operation.source} to {operation.target} was interrupted"
            names = some([item.source for item in kept])
            log.warning("%s: %s is kept at the old place, as either may be newer", what, names)
        return Moved(self.delete_unchanged(copied, found), (*rows_of(items), *left.moved_rows()))

    def _found_left(self, operation: MoveFolder) -> tuple[InterruptedMove, list[MoveItem], list[MoveItem]]:
        """Return what is left of a move, and what `InterruptedMove.sort` does."""
        left = InterruptedMove(
            operation,
            iter_rows(self._store, operation.container, operation.source),
            iter_rows(self._store, operation.target_container, operation.target),
        )
        listed, kept = left.sort()
        if kept:  # what seems to be newer may be a listing that lags
            sources = self._pool.map(self._find, [item.source for item in kept])
            targets = self._pool.map(self._find, [item.target for item in kept])
            for item, here, there in zip(kept, sources, targets, strict=True):
                left.correct(item, here, there)
            listed, kept = left.sort()
        self._record_found(left, (*listed, *kept))
        return left, listed, kept

    def _list_again(self, copy: ObjectInfo) -> None:
        """Make Swift list a copy: a server may have died between the COPY and the update of the listing."""
        self._store.post(copy.version.name, Headers.of(copy))

    def _keep_both(self, item: MoveItem, left: InterruptedMove) -> None:
        """Keep a changed source and what is at its target: the copy of the version that the record has."""
        self._copies.share_copy(item)  # it may still be made
        was, there = left.was(item), left.copy_of(item)
        if was is not None and there is not None and there.hash == was.hash:
            item.copied = etag_of(there)
            self._copies.separate(item)

    def _record_found(self, left: InterruptedMove, items: Iterable[MoveItem]) -> None:
        """Record what is found of the `items` that are listed, and of those that are gone."""
        for item in items:
            self._late.found_rows(item.source, item.row, item.target, left.copy_of(item))
        for was, there in left.gone():
            source, target = ObjectName(left.operation.container, was.key), left.operation.target_of(was.key)
            if was.modified:
                self._late.found_rows(source, None, target, there)
            # An SLO that has its copy.
            if there is not None and there.hash == was.hash and etag_of(there) != there.hash:
                self._copies.share_gone(source, target)

    def is_unchanged(self, deletion: Delete) -> bool:
        """Return whether the object of a conditional deletion is still that version; errors of a HEAD."""
        info = self._find(deletion.name)
        self._late.found(deletion.name, info)
        if info is None:
            return False
        if is_to_delete(info, deletion, self._store.limits()) or self._late.is_late(info):
            return True
        log.warning("%s is kept: another client has stored a new version", deletion.name)
        return False

    def _list(self, operation: MoveFolder) -> list[Row]:
        """Return the rows of the objects to move; raise `Unmoved` if there is an object at the target now."""
        source = operation.source
        if operation.together:
            rows = list(iter_rows(self._store, operation.container, source[: source.rfind("/", 0, -1) + 1]))
            self._refuse(operation, rows)
            return [row for row in rows if row.key.startswith(source)]
        if not operation.empty:
            container, target = operation.target_container, operation.target
            page = self._store.list_page(container, prefix=target[:-1], delimiter="/")
            self._refuse(operation, readable_rows(page, container))
            if target in page.subdirs or not page.last:
                page = self._store.list_page(container, prefix=target, limit=MOST_HEADS)
                self._refuse(operation, readable_rows(page, container))
        return list(iter_rows(self._store, operation.container, source))

    def _refuse(self, operation: MoveFolder, rows: Iterable[Row]) -> None:
        """Raise `Unmoved` if the rows show a file at the target, or an object in it.

        A listing may be late: HEADs check the first rows. What a late request of ours has brought back, after
        its deletion or rename, counts as absent: no program sees it.
        """
        markers = {target.key for _, target in operation.markers}
        files = (row for row in rows if row.key in markers and not is_marker(row))
        below = (row for row in rows if row.key.startswith(operation.target))
        filling = (row for row in below if row.key != operation.target or not is_slash_marker(row))
        for number, found in ((errno.ENOTDIR, files), (errno.ENOTEMPTY, filling)):
            asked = [ObjectName(operation.target_container, row.key) for row in islice(found, MOST_HEADS)]
            heads = map(self._find, asked)
            if any(info is not None and not self._late.is_late(info) for info in heads):
                raise Unmoved(os_error(number, operation.target))

    def _items(self, operation: MoveFolder, rows: Iterable[Row]) -> list[MoveItem]:
        """Return the objects to move, markers first: those of the listing, and those just stored."""
        markers = [
            MoveItem(source, target, EMPTY, marker=True, keeps_target=operation.over_folder)
            for source, target in operation.markers
        ]
        items = {item.source.key: item for item in items_of(operation, rows)}
        for own in operation.recent:
            if own.key not in items:
                name = ObjectName(operation.container, own.key)
                items[own.key] = MoveItem(name, operation.target_of(own.key), own.hash)
            if own.hash:
                items[own.key].etag = own.hash
        return [*markers, *items.values()]

    def _markers_left(self, operation: MoveFolder) -> Iterable[MoveItem]:
        """Yield the markers that are still at the old place, as copied if the new place has one."""
        for source, target in operation.markers:
            info = self._find(source)
            self._late.found(source, info)
            if info is None or info.version.etag != EMPTY:
                continue
            there = self._find(target)
            self._late.found(target, there, copy_of=source)
            if there is not None:
                self._list_again(there)
            if there is not None or not operation.undone:
                copied, keeps = EMPTY if there is not None else None, operation.over_folder
                yield MoveItem(source, target, EMPTY, marker=True, copied=copied, keeps_target=keeps)

    def _unlisted_left(self, operation: MoveFolder, listed: Collection[str]) -> Iterable[MoveItem]:
        """Yield objects that had just been stored when the move began and that no listing shows yet."""
        for one in operation.recent if operation.objects is None else operation.objects:
            if one.modified or one.key in listed:
                continue
            source, target = ObjectName(operation.container, one.key), operation.target_of(one.key)
            here, there = self._find(source), self._find(target)
            self._late.found(source, here)
            self._late.found(target, there, copy_of=source, etag=one.hash)
            if here is not None and here.version.etag == one.hash:
                if there is None and not operation.undone:
                    yield MoveItem(source, target, one.hash)
                elif there is not None and there.version.etag == one.hash:
                    yield MoveItem(source, target, one.hash, copied=one.hash)

    def _copy(self, items: Sequence[MoveItem], record_undone: Callable[[], None]) -> list[MoveItem]:
        """Copy all, and return the copied ones, without objects that are gone; undo all if another one fails.

        Raise `Unmoved` then.
        """
        failed = new_event()
        running: list[Future[None]] = [self._pool.submit(self._copy_one, item, failed) for item in items]
        for item, future in zip(items, running, strict=True):
            item.error = future.exception()
        absent = [item for item in items if isinstance(item.error, NotFound)]
        # A 404 may also mean that the target's container is missing.
        for item, found in zip(absent, self._pool.map(self._head_or_error, absent), strict=True):
            if found is None:  # it was listed, or recorded, late
                item.error = None
        if (error := next((item.error for item in items if item.error is not None), None)) is not None:
            raise self._undo(items, Unmoved(error), record_undone) from error
        return [item for item in items if item.copied is not None]

    def _undo(self, items: Iterable[MoveItem], error: Unmoved, record_undone: Callable[[], None]) -> Unmoved:
        """Undo a move that was not undone before, as `_undone` does."""
        with suppress(OSError):  # the disk is full: the next process would continue the move
            # Before the first DELETE: if this process dies, the next one must not take a copy that is about
            # to be deleted for the object's new place, and delete the source.
            record_undone()
        return self._undone(items, error)

    def _copy_one(self, item: MoveItem, failed: Event) -> None:
        """Copy an object, unless a copy has `failed`: in an outage each would be retried to the end."""
        if failed.is_set():
            return
        began = monotonic()
        try:
            item.copied = self._late.copy(self._store, item.source, item.target)
        except NotFound:
            raise
        except BaseException:
            failed.set()
            raise
        item.seconds = monotonic() - began

    def _undone(self, items: Iterable[MoveItem], error: Unmoved) -> Unmoved:
        """Delete the copies that have not changed; return the error with what has become of them.

        If an answer was lost, the object there may be another client's: a HEAD checks each.
        """
        tried = (item for item in items if item.copied is not None or item.error is not None)
        made = [item for item in tried if not item.keeps_target]
        copies = [
            MoveItem(item.target, item.source, "", copied=item.copied or item.etag, is_slo=False)
            for item in made
        ]
        left = [deletion for deletion, _ in self.delete_unchanged(copies)]
        error.undid(copies, left)
        standing = {deletion.name for deletion in left}
        for item in made:
            if item.target in standing or item.error is not None:
                self._copies.share_copy(item)
        return error

    def delete_unchanged(self, doubtful: Sequence[MoveItem], sure: Sequence[MoveItem] = ()) -> list[Remnant]:
        """Delete unchanged sources: the `sure` ones, and others if a HEAD confirms it.

        A source that is not deleted may share the segments with its copy.
        """
        remnants: list[Remnant] = []
        unchanged = {item.source: item for item in sure}
        for item, found in zip(doubtful, self._pool.map(self._head_or_error, doubtful), strict=True):
            if isinstance(found, StoreError):
                item.not_deleted = NotDeleted.FAILED
                remnants.append((deletion_of(item), found))
            elif found is not None and (
                is_copied(found, item.copied) or self._late.is_late(found) or self._is_at_target(item, found)
            ):
                unchanged[item.source] = item
            else:
                self._late.found(item.source, found)
                item.not_deleted = why_not_deleted(item, found)
        for name, error in self._removal.delete_sources(tuple(unchanged)).items():
            item = unchanged[name]
            if isinstance(error, NotFound):
                item.not_deleted = NotDeleted.ABSENT
            else:
                item.not_deleted = NotDeleted.FAILED
                remnants.append((deletion_of(item), error))
        items = (*sure, *doubtful)
        self._copies.settle(items)
        log_not_deleted(items)
        return remnants

    def _is_at_target(self, item: MoveItem, source: ObjectInfo) -> bool:
        """Return whether the target is that version: a COPY may be answered with a wrong ETag."""
        with suppress(StoreError):
            if (there := self._find(item.target)) is not None and there.version.etag == source.version.etag:
                item.copied = source.version.etag
                return True
        return False

    def _head_or_error(self, item: MoveItem) -> ObjectInfo | StoreError | None:
        try:
            return self._find(item.source)
        except StoreError as error:
            return error
