"""Moves: copies on the server, then the deletion of what was copied and has not changed since.

INVARIANT: an object is deleted only where another name holds the same version of it, and nothing that another
client has stored is overwritten or deleted, as far as Swift can say at that moment.
"""

import errno
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import md5
from itertools import islice

from swiftfs.attributes import decode_type
from swiftfs.concurrency import Event, Executor, Future, monotonic, new_event, wait_all
from swiftfs.errors import NotFound, StoreError, errno_of, os_error
from swiftfs.journal.operations import ANY_VERSION, Delete, Move, MovedObject, MoveFolder
from swiftfs.journal.segment_removal import SegmentRemoval
from swiftfs.namespace.entry import is_marker, is_slash_marker
from swiftfs.objects import ObjectInfo, ObjectName, Row
from swiftfs.store.paging import iter_rows
from swiftfs.store.protocol import Headers, ObjectStore

log = logging.getLogger(__name__)

MOMENT = 1.0
"""Seconds for which the listing that the copies were made from counts for the sources, if no copy took
unusually long: another listing takes about as long, and costs a request."""

MOST_HEADS = 8
"""Rows at the target that a HEAD checks: listings may still show objects that are gone."""

NAMED = 5
"""Names in one log line."""

EMPTY = md5(usedforsecurity=False).hexdigest()
"""The ETag of an empty object, which a folder's marker and a DLO's manifest are."""

Remnant = tuple[Delete, StoreError]
"""What could not be deleted after it was copied, and why."""

RecordObjects = Callable[[MoveFolder], None]
"""Records the operation with all objects that it moves, before anything is copied."""


class Unmoved(StoreError):
    """A folder was not moved, because of `cause`; copies of its objects may be `left` at the target."""

    def __init__(self, cause: BaseException, left: tuple[Delete, ...] = ()) -> None:
        super().__init__(f"the folder was not moved: {cause}")
        self.errno = errno_of(cause)
        self.left = left


@dataclass(slots=True)
class _Item:
    """An object that moves; `etag` is what it should have, `row` its row in the listing.

    `copied` is the ETag of its copy, None while there is none; `error` is why there is none. The copy took
    `seconds`. `is_slo` is False for what is known to be no SLO.
    """

    source: ObjectName
    target: ObjectName
    etag: str
    row: Row | None = None
    marker: bool = False
    copied: str | None = None
    error: BaseException | None = None
    seconds: float = 0.0
    is_slo: bool | None = None

    @property
    def may_share(self) -> bool:
        """Whether it and its copy may name the same segments: a listing shows another hash for an SLO."""
        if not self.copied or self.copied == EMPTY or self.is_slo is False:
            return False
        return self.row is None or self.row.hash != self.copied


class ObjectMoves:
    """Carries out moves; `removal` deletes objects, and knows whose segments are whose.

    A listing younger than `moment` seconds counts for the objects that it shows.
    """

    def __init__(
        self,
        store: ObjectStore,
        pool: Executor,
        removal: SegmentRemoval,
        moment: float = MOMENT,
    ) -> None:
        self._store = store
        self._pool = pool
        self._removal = removal
        self._moment = moment

    def move(self, operation: Move) -> list[Remnant]:
        """Copy, then delete the source if it is still what was copied; return it if that was not possible."""
        if operation.replaces_large is not False:
            self._removal.forget_expected(operation.target)
        replaced = self._removal.segments_of(operation.target, is_slo=operation.replaces_large)
        item = _Item(operation.source, operation.target, "", is_slo=operation.is_slo)
        try:
            item.copied = self._store.copy(operation.source, operation.target, manifest_only=True).etag
        except StoreError:
            self._share_copy(item)
            raise
        remnants = self._delete_unchanged([item])
        self._removal.discard(operation.target, replaced)
        return remnants

    def resume_move(self, operation: Move) -> list[Remnant]:
        """Finish a move that a process left when it died; what is newer at either name stays.

        Raise `StoreError` when both names stay.
        """
        source, target = self._head(operation.source), self._head(operation.target)
        if source is None:
            if target is not None and operation.etag in (None, target.version.etag):
                self._record_done(operation, target)
            return []
        etag = source.version.etag
        if operation.etag in (None, etag):
            is_replaced = target is None or operation.replaces_etag in (target.version.etag, ANY_VERSION)
            is_copy = target is not None and target.version.etag == etag
            if is_copy and target is not None and is_replaced:  # both may hold the same bytes
                is_copy = Headers.of(source) == Headers.of(target)
            if is_copy:
                self._record_replaced(operation)
                return self._delete_unchanged([_Item(operation.source, operation.target, etag, copied=etag)])
            if is_replaced and not operation.served:
                return self.move(operation)
        self._removal.share(operation.source, operation.target)  # the copy may still be made
        raise StoreError("one of both names is newer, or unknown: both stay as they are")

    def _record_done(self, operation: Move, target: ObjectInfo) -> None:
        """Record that a move had been carried out before the process died, as far as Swift tells."""
        if operation.etag is not None:
            self._record_replaced(operation)
        if target.is_slo:
            self._removal.record_move(operation.source, operation.target, target.version.etag)

    def _record_replaced(self, operation: Move) -> None:
        """Record that the copy had replaced what stood at the target before the process died."""
        if operation.replaces_large is not False:
            self._removal.record_replaced(operation.target)

    def move_folder(self, operation: MoveFolder, record_objects: RecordObjects) -> list[Remnant]:
        """Copy all in parallel, then delete what has not changed since; return what could not be deleted.

        When a copy fails those that were made are deleted again; `Unmoved` names those that could not be.
        What another client has changed or deleted meanwhile stays as it is.
        """
        began = monotonic()
        items = self._items(operation, self._list(operation))
        moved = (MovedObject(i.source.key, *_version(i)) for i in items[len(operation.markers) :])
        record_objects(replace(operation, objects=tuple(moved)))
        copied = self._copy(items)
        if not copied:
            raise Unmoved(NotFound(f"{operation.container}/{operation.source}: nothing is there any more"))
        rows = None
        if not self._is_of_this_moment(began, copied):
            rows = {row.key: row for row in iter_rows(self._store, operation.container, operation.source)}
        sure = [item for item in copied if _is_unchanged(item, rows)]
        doubtful = [item for item in copied if not _is_unchanged(item, rows)]
        return self._delete_unchanged(doubtful, sure)

    def resume_folder(self, operation: MoveFolder) -> list[Remnant]:
        """Finish a move that a process left when it died; what is newer at either place stays.

        Only what is absent at the target and has not changed at the source is copied, and only before a mount
        has served files again: after that nobody knows whether it was deleted at the target on purpose.
        """
        sources = {row.key: row for row in iter_rows(self._store, operation.container, operation.source)}
        targets = {
            row.key: row for row in iter_rows(self._store, operation.target_container, operation.target)
        }
        recorded = {one.key: one for one in operation.objects or ()}
        items = [*self._markers_left(operation), *self._unlisted_left(operation, sources)]
        kept: list[_Item] = []
        for item in _items_of(operation, sources.values()):
            was, there = recorded.get(item.source.key), targets.get(item.target.key)
            if operation.objects is not None and (was is None or not _is_version(item, was)):
                kept.append(item)
            elif there is not None and item.row is not None and there.hash == item.row.hash:
                item.copied = item.etag
                items.append(item)
            elif there is not None or operation.served:
                kept.append(item)
            else:
                items.append(item)
        for key in recorded.keys() - sources.keys():
            self._record_gone(operation, recorded[key], targets.get(_target_of(operation, key).key))
        found = [item for item in items if item.copied is not None]
        try:
            copied = self._copy([item for item in items if item.copied is None])
        except Unmoved as error:
            if operation.objects is not None:  # only then it is certain that the copies are this move's
                error.left += self._undo(found)
            raise
        for item in kept:
            self._share_copy(item)
        if kept:
            log.warning(
                "moving %s to %s was interrupted, and at the old place %s stays, for one of both is newer",
                operation.source,
                operation.target,
                _some([item.source for item in kept]),
            )
        return self._delete_unchanged(copied, found)

    def _record_gone(self, operation: MoveFolder, was: MovedObject, there: Row | None) -> None:
        """Record whose the segments are of an SLO whose source had gone before the process died."""
        if there is not None and there.hash == was.hash and _etag_of(there) != there.hash:
            source = ObjectName(operation.container, was.key)
            self._removal.record_move(source, _target_of(operation, was.key), _etag_of(there))

    def is_unchanged(self, deletion: Delete) -> bool:
        """Return whether what a move left behind is still the version that was copied; errors of a HEAD."""
        info = self._head(deletion.name)
        if info is None or _is_copied(info, deletion.etag):
            return info is not None
        log.warning("%s stays: another client has stored it anew", deletion.name)
        return False

    def _list(self, operation: MoveFolder) -> list[Row]:
        """Return the rows of what moves; raise `Unmoved` when Swift has something at the target now."""
        source = operation.source
        if operation.together:
            rows = list(iter_rows(self._store, operation.container, source[: source.rfind("/", 0, -1) + 1]))
            self._refuse(operation, rows)
            return [row for row in rows if row.key.startswith(source)]
        if not operation.empty:
            container, target = operation.target_container, operation.target
            page = self._store.list_page(container, prefix=target[:-1], delimiter="/")
            self._refuse(operation, page.rows)
            if target in page.subdirs or not page.last:
                self._refuse(
                    operation, self._store.list_page(container, prefix=target, limit=MOST_HEADS).rows
                )
        return list(iter_rows(self._store, operation.container, source))

    def _refuse(self, operation: MoveFolder, rows: Iterable[Row]) -> None:
        """Raise `Unmoved` when the rows show a file in the place of the target, or something in it.

        A listing may be late: HEADs check the first rows.
        """
        markers = {target.key for _, target in operation.markers}
        files = (row for row in rows if row.key in markers and not is_marker(row))
        below = (row for row in rows if row.key.startswith(operation.target))
        filling = (row for row in below if row.key != operation.target or not is_slash_marker(row))
        for number, found in ((errno.ENOTDIR, files), (errno.ENOTEMPTY, filling)):
            asked = [ObjectName(operation.target_container, row.key) for row in islice(found, MOST_HEADS)]
            if any(self._head(name) is not None for name in asked):
                raise Unmoved(os_error(number, operation.target))

    def _items(self, operation: MoveFolder, rows: Iterable[Row]) -> list[_Item]:
        """Return what moves, markers first: what the listing shows, and what this mount has just stored."""
        markers = [_Item(source, target, EMPTY, marker=True) for source, target in operation.markers]
        items = {item.source.key: item for item in _items_of(operation, rows)}
        for own in operation.recent:
            if own.key not in items:
                name = ObjectName(operation.container, own.key)
                items[own.key] = _Item(name, _target_of(operation, own.key), own.hash)
            if own.hash:
                items[own.key].etag = own.hash
        return [*markers, *items.values()]

    def _markers_left(self, operation: MoveFolder) -> Iterable[_Item]:
        """Yield the markers that still stand at the old place, as copied where the new place has one."""
        for source, target in operation.markers:
            if (info := self._head(source)) is None or info.version.etag != EMPTY:
                continue
            stands = self._head(target) is not None
            if stands or not operation.served:
                yield _Item(source, target, EMPTY, marker=True, copied=EMPTY if stands else None)

    def _unlisted_left(self, operation: MoveFolder, listed: Collection[str]) -> Iterable[_Item]:
        """Yield what had just been stored when the move began and no listing shows yet."""
        for one in operation.objects or ():
            if one.modified or one.key in listed or operation.served:
                continue
            source, target = ObjectName(operation.container, one.key), _target_of(operation, one.key)
            here, there = self._head(source), self._head(target)
            if here is not None and here.version.etag == one.hash:
                if there is None:
                    yield _Item(source, target, one.hash)
                elif there.version.etag == one.hash:
                    yield _Item(source, target, one.hash, copied=one.hash)

    def _copy(self, items: Sequence[_Item]) -> list[_Item]:
        """Copy all; return those that were copied, without what is gone; undo all after any other failure."""
        failed = new_event()
        running: list[Future[None]] = [self._pool.submit(self._copy_one, item, failed) for item in items]
        wait_all(running)
        for item, future in zip(items, running, strict=True):
            item.error = future.exception()
        absent = [item for item in items if isinstance(item.error, NotFound)]
        for item, found in zip(absent, self._pool.map(self._head_or_error, absent), strict=True):
            if found is None:  # it was listed, or recorded, late
                item.error = None
        for item in items:
            if item.error is not None:
                raise Unmoved(item.error, self._undo(items)) from item.error
        return [item for item in items if item.copied is not None]

    def _copy_one(self, item: _Item, failed: Event) -> None:
        """Copy an object, unless a copy has `failed`: in an outage each would be retried to the end."""
        if failed.is_set():
            return
        began = monotonic()
        try:
            item.copied = self._store.copy(item.source, item.target, manifest_only=True).etag
        except NotFound:
            raise
        except BaseException:
            failed.set()
            raise
        item.seconds = monotonic() - began

    def _undo(self, items: Iterable[_Item]) -> tuple[Delete, ...]:
        """Delete the copies that are still what we copied; return those that could not be deleted.

        The answer to some copies was lost, and what stands there may be another client's: a HEAD checks each.
        """
        made = [item for item in items if item.copied is not None or item.error is not None]
        copies = [
            _Item(item.target, item.source, "", copied=item.copied or item.etag, is_slo=False)
            for item in made
        ]
        left = tuple(deletion for deletion, _ in self._delete_unchanged(copies))
        standing = {deletion.name for deletion in left}
        for item in made:
            if item.target in standing or item.error is not None:
                self._share_copy(item)
        return left

    def _share_copy(self, item: _Item) -> None:
        """Keep the segments for a copy that failed or was undone: it may stand, now or later.

        The last answer does not prove that there is none: the answer to an attempt before may have been lost.
        """
        stored = decode_type(item.row.content_type)[1] if item.row is not None else None
        is_small = stored is not None and stored.mode is not None and stored.slo is None
        if item.is_slo is not False and not is_small:
            self._removal.share(item.source, item.target)

    def _is_of_this_moment(self, began: float, copied: Sequence[_Item]) -> bool:
        """Return whether the listing of the sources is young enough to delete them by it."""
        seconds = sorted(item.seconds for item in copied)
        usual = seconds[(len(seconds) - 1) // 3] if len(seconds) > 1 else 0.0
        return monotonic() - began < self._moment and seconds[-1] < usual * 3 + 0.25

    def _delete_unchanged(self, doubtful: Sequence[_Item], sure: Sequence[_Item] = ()) -> list[Remnant]:
        """Delete sources that are still what was copied: the `sure` ones, and others if a HEAD confirms it.

        What is not deleted may stand; then it and its copy share the segments.
        """
        remnants: list[Remnant] = []
        names = [item.source for item in sure]
        changed, absent = [], []
        for item, found in zip(doubtful, self._pool.map(self._head_or_error, doubtful), strict=True):
            if isinstance(found, StoreError):
                remnants.append((_deletion(item), found))
            elif found is None:
                absent.append(item.source)
            elif _is_copied(found, item.copied) or self._is_at_target(item, found):
                names.append(item.source)
            else:
                changed.append(item.source)
        if changed:
            log.warning("another client changed %s while it was moved: that stays", _some(changed))
        if absent:
            log.info("%s was deleted while it was moved", _some(absent))
        items = {item.source: item for item in (*sure, *doubtful)}
        failures = self._removal.delete_all(names)
        remnants += [(_deletion(items[name]), error) for name, error in failures.items()]
        left = {deletion.name for deletion, _ in remnants}
        for name, item in items.items():
            if item.may_share:
                stays = name in (*left, *changed, *absent)
                self._removal.record_move(name, item.target, item.copied or "", stays=stays)
        return remnants

    def _is_at_target(self, item: _Item, source: ObjectInfo) -> bool:
        """Return whether the target is that version after all: a COPY may be answered with a wrong ETag."""
        with suppress(StoreError):
            if (there := self._head(item.target)) is not None and there.version.etag == source.version.etag:
                item.copied = source.version.etag
                return True
        return False

    def _head_or_error(self, item: _Item) -> ObjectInfo | StoreError | None:
        try:
            return self._head(item.source)
        except StoreError as error:
            return error

    def _head(self, name: ObjectName) -> ObjectInfo | None:
        try:
            return self._store.head(name)
        except NotFound:
            return None


def _items_of(operation: MoveFolder, rows: Iterable[Row]) -> list[_Item]:
    return [
        _Item(ObjectName(operation.container, row.key), _target_of(operation, row.key), _etag_of(row), row)
        for row in rows
    ]


def _target_of(operation: MoveFolder, key: str) -> ObjectName:
    return ObjectName(operation.target_container, operation.target + key.removeprefix(operation.source))


def _etag_of(row: Row) -> str:
    """Return the ETag of a row's object; for an SLO of another client it is wrong, for no row has that."""
    return decode_type(row.content_type)[1].slo or row.hash


def _version(item: _Item) -> tuple[str, str]:
    """Return a version's hash and time for the record; the ETag and no time for what we have just stored."""
    if item.row is None or item.etag != _etag_of(item.row):
        return item.etag, ""
    return item.row.hash, item.row.last_modified


def _is_version(item: _Item, was: MovedObject) -> bool:
    """Return whether an object is still the version of the record."""
    if item.row is None or not was.modified:
        return item.etag == was.hash
    return (item.row.hash, item.row.last_modified) == (was.hash, was.modified)


def _is_unchanged(item: _Item, rows: Mapping[str, Row] | None) -> bool:
    """Return whether the copy is of the version that was listed, and that is still listed.

    No listing of a folder shows its own marker, which holds no bytes.
    """
    if item.copied != item.etag:
        return False
    if rows is None or item.marker:
        return True
    now = rows.get(item.source.key)
    if now is None:
        return False
    return now == item.row if item.row is not None else _etag_of(now) == item.etag


def _is_copied(info: ObjectInfo, etag: str | None) -> bool:
    """Return whether an object is the version that was copied; the copy of a DLO's manifest is empty."""
    return info.version.etag == etag or (info.dlo_prefix is not None and etag == EMPTY)


def _deletion(item: _Item) -> Delete:
    return Delete(item.source, is_slo=False, etag=item.copied, moved=True)


def _some(names: Sequence[ObjectName]) -> str:
    """Return the first of many names, and how many there are."""
    more = len(names) - NAMED
    return ", ".join(map(str, names[:NAMED])) + (f" and {more} more" if more > 0 else "")
