"""Moves of the objects of a folder whose rename has returned: many at a time, each with its own outcome.

INVARIANT: as for any move. Besides, no other change of this mount comes to either name of an object before
its move has ended: those wait for it in the queue, also after a crash. So whatever stands at the new name is
the copy of an earlier attempt, or another client's.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial

from msgspec import Struct, field
from msgspec.structs import replace

from swiftfs.concurrency import Event, Executor, monotonic, new_event, wait_all
from swiftfs.errors import NotFound, PreconditionFailed, StoreError, Unavailable
from swiftfs.journal.moves import (
    EMPTY,
    CopyKeeper,
    MoveEvidence,
    MoveItem,
    Overwritten,
    PlannedMove,
    Remnant,
    as_listed,
    etag_of,
    is_unchanged,
)
from swiftfs.journal.object_moves import ObjectMoves
from swiftfs.journal.operations import MoveFolder, MoveObject
from swiftfs.journal.shared_copies import MovedParts, SharedCopies
from swiftfs.namespace.entry import is_marker, row_of
from swiftfs.objects import DIRECTORY_TYPE, ObjectName, Row
from swiftfs.paths import escape, join
from swiftfs.store.protocol import ObjectStore, find_object

MOST_OBJECTS = 20_000
"""Objects of one rename that move in the background: each is a task in memory and a record on the disk."""

SLACK = 20
"""Rows more than are wanted in a page of a listing: other objects may be among them."""

LISTED_FROM = 4
"""From how many objects on a listing is requested instead of HEADs."""


class _Attempt(Struct):
    """One object, its `item`, and what was found: `here` at the old name, `there` at the new one.

    An `is_ambiguous` one was tried before. It `was_copied` by this attempt; it `was_done` before. Its source
    `is_overwritten` if a late request has changed it.
    """

    operation: MoveObject
    item: MoveItem
    is_ambiguous: bool
    here: Row | None = None
    there: Row | None = None
    error: Exception | None = None
    was_copied: bool = False
    was_done: bool = False
    is_overwritten: bool = False


class MoveOutcome(Struct, frozen=True):
    """What has become of an object: an `error` if it stays at its old name; else what it `left` there."""

    error: Exception | None = None
    left: tuple[Remnant, ...] = field(default=())


class BackgroundMoves:
    """Plans and carries out such moves, with the requests of `moves`. `pool` sends those of one batch."""

    def __init__(
        self,
        store: ObjectStore,
        pool: Executor,
        moves: ObjectMoves,
        copies: SharedCopies,
        late: MoveEvidence,
    ) -> None:
        self._store = store
        self._find = partial(find_object, store)
        self._pool = pool
        self._moves = moves
        self._parts = MovedParts(store, pool)
        self._copies = copies
        self._late = late

    def plan(self, operation: MoveFolder, items: Sequence[MoveItem]) -> list[PlannedMove]:
        """Return the old path and the move of each object; none if the folder is to move at once.

        Raise `StoreError` if Swift does not answer about an object that no listing shows; `Unmoved` if an
        object moves with the objects that have its bytes.
        """
        wanted = operation.background
        if wanted is None or not wanted.objects <= len(items) <= MOST_OBJECTS:
            return []
        if not self._parts.may_move_later(operation, items):
            return []
        gone = {*operation.deleted}
        rows = list(
            self._pool.map(lambda item: self._row(item, is_doubtful=_plain(item.source) in gone), items)
        )
        found = [(item, row) for item, row in zip(items, rows, strict=True) if row is not None]
        part_of = replace(wanted, objects=len(found))
        recent = {one.key for one in operation.recent}
        shadows = _Folders(operation.source, [row for item, row in found if not item.marker])
        return [
            (
                part_of.old if item.marker else shadows.path(part_of.old, row),
                MoveObject(
                    item.source,
                    item.target,
                    row,
                    part_of,
                    item.marker,
                    item.keeps_target,
                    is_recent=item.source.key in recent,
                ),
            )
            for item, row in found
        ]

    def _row(self, item: MoveItem, *, is_doubtful: bool) -> Row | None:
        """Return the row of the version that moves; None if there is no such object any more.

        If it `is_doubtful` whether there is one, a HEAD tells.
        """
        if item.row is not None and item.etag == etag_of(item.row) and not is_doubtful:
            return item.row
        if item.marker:  # a HEAD shows its attributes when they are needed
            return Row(item.source.key, 0, EMPTY, DIRECTORY_TYPE, "")
        info = self._find(item.source)
        return row_of(info) if info is not None else None

    def run(self, operations: Mapping[MoveObject, bool], keeper: CopyKeeper) -> dict[ObjectName, MoveOutcome]:
        """Move objects; return what has become of each, by its old name.

        The value of an operation is whether it was tried before, perhaps by an earlier process.
        """
        attempts = [_Attempt(one, _item(one), was_tried) for one, was_tried in operations.items()]
        try:
            self._look(attempts, keeper)
        except StoreError as error:
            return {one.operation.source: MoveOutcome(error) for one in attempts}
        for one in attempts:
            self._judge(one)
        self._prepare(attempts, keeper)
        self._copy([one for one in attempts if one.error is None and not _has_copy(one)], keeper)
        there = [one for one in attempts if one.error is None]
        keeper.keep_copies([one.item.target for one in there])
        left = self._delete([one for one in there if not one.was_done])
        return {
            one.operation.source: MoveOutcome(one.error, tuple(left.get(one.operation.source, ())))
            for one in attempts
        }

    def _look(self, attempts: Sequence[_Attempt], keeper: CopyKeeper) -> None:
        """Find what is at the new name of each object, and at the old one after an earlier attempt.

        At a first attempt the version of the rename counts: the deletion checks that it is still there.
        """
        for one in attempts:
            one.here = None if one.is_ambiguous else one.operation.row
        listed = [one for one in attempts if not one.operation.is_marker]
        if len(listed) < LISTED_FROM:
            listed = []
        tried = [one for one in listed if one.is_ambiguous]
        here = self._rows([one.item.source for one in tried])
        there = self._rows([one.item.target for one in listed])
        for one in tried:
            one.here = here.get(one.item.source)
        for one in listed:
            one.there = there.get(one.item.target)
            if one.is_ambiguous and one.here is not None and one.there is None:
                self._late.found_rows(one.item.source, one.here, one.item.target, None)
        # A listing may lag, and show an older version too: where it is not as expected, HEADs decide.
        known = {
            one.operation.source
            for one in listed
            if one.there is None and one.here is not None and self._is_version(one.here, one.operation)
            if not self._late.is_watched(one.operation.source)
        }
        unknown = [one for one in attempts if one.operation.source not in known]
        for _ in self._pool.map(lambda one: self._look_at(one, keeper), unknown):
            pass

    def _look_at(self, one: _Attempt, keeper: CopyKeeper) -> None:
        """Send HEADs instead of trusting a listing."""
        there = self._find(one.item.target)
        one.there = as_listed(there, one.there)
        if not one.is_ambiguous and there is None and not self._late.is_watched(one.item.source):
            return
        here = self._find(one.item.source)
        one.here = as_listed(here, one.here)
        if here is not None or there is None:
            one.is_overwritten = keeper.has_overwritten(one.item.source, here)
        if one.is_overwritten:
            return
        if one.is_ambiguous:
            self._late.found(one.item.source, here)
            self._late.found(one.item.target, there, copy_of=one.item.source, etag=one.item.etag)
        if here is None and there is not None and there.is_slo:
            self._copies.share_gone(one.item.source, one.item.target)

    def _rows(self, names: Collection[ObjectName]) -> dict[ObjectName, Row]:
        """Return the rows that listings show of objects in one container; most are next to each other."""
        if not names:
            return {}
        container = next(iter(names)).container
        keys = {name.key for name in names}
        first, last = min(keys, key=str.encode), max(keys, key=str.encode)
        found: dict[ObjectName, Row] = {}
        prefix = _common(first, last)
        marker, limit, is_last = first[:-1], len(keys) + SLACK, False
        while not is_last and marker.encode() < last.encode():
            page = self._store.list_page(container, prefix=prefix, marker=marker, limit=limit)
            found.update((ObjectName(container, row.key), row) for row in page.rows if row.key in keys)
            marker, is_last, limit = page.marker, page.last, 0
        return found

    def _judge(self, one: _Attempt) -> None:
        """Decide what to do with an object: nothing if it has an error, else a copy unless it has one."""
        item, here, there = one.item, one.here, one.there
        is_changed = one.is_ambiguous and here is not None and not self._is_version(here, one.operation)
        if (one.is_overwritten or is_changed) and _is_copy(one):
            item.copied, item.row = item.etag, None  # the deletion finds that the source has changed
        elif one.is_overwritten:
            one.error = Overwritten(item.source)
        elif here is None and there is None:
            one.error = NotFound(f"{item.source}: it does not exist any more")
        elif here is None:
            one.was_done = True  # by an attempt whose answer was lost, or by another client
        elif is_changed:
            # It was changed, or came to the old name, after an attempt that may have moved the version meant.
            one.error = PreconditionFailed(f"{item.source}: another client has changed it")
            self._copies.share_copy(item)
        elif there is None or one.operation.keeps_target or self._late.is_late_row(item.target, there):
            item.row = here if here.last_modified else None
            item.etag = etag_of(here)
        elif (etag_of(there), there.content_type) == (etag_of(here), here.content_type):
            item.copied = item.etag = etag_of(here)
            item.row = None  # only a HEAD tells that it is still so
        else:
            one.error = PreconditionFailed(f"{item.target}: another client has stored an object there")

    def _prepare(self, attempts: Iterable[_Attempt], keeper: CopyKeeper) -> None:
        for one in attempts:
            if one.error is not None:
                continue
            try:
                with suppress(NotFound):  # the copy will tell
                    keeper.prepare_copy(one.item.source, one.item.target, one.item.etag)
            except (StoreError, OSError) as error:
                one.error = error

    def _copy(self, attempts: Sequence[_Attempt], keeper: CopyKeeper) -> None:
        away = new_event()
        wait_all([self._pool.submit(self._copy_one, one, away, keeper) for one in attempts])

    def _copy_one(self, one: _Attempt, away: Event, keeper: CopyKeeper) -> None:
        """Copy an object, unless the server is `away`: each request would be retried to the end."""
        if away.is_set():
            one.error = Unavailable("the server did not answer", may_land=False)
            return
        began, item = monotonic(), one.item
        try:
            item.copied = self._late.copy(self._store, item.source, item.target)
            item.seconds, one.was_copied = monotonic() - began, True
        except NotFound as error:
            self._settle_missing(one, error, keeper)
        except Overwritten as error:
            one.error = error
        except StoreError as error:
            one.error = error
            if error.retryable:
                away.set()
            else:
                self._expect_copy(item.target)
        if one.error is not None:
            self._copies.share_copy(item)

    def _expect_copy(self, target: ObjectName) -> None:
        """Record what stands where a lost COPY may be carried out late, although its object stays."""
        if target in self._late:
            with suppress(StoreError):
                self._late.found(target, self._find(target))

    def _settle_missing(self, one: _Attempt, error: NotFound, keeper: CopyKeeper) -> None:
        """Find out whether an object is gone, or was moved by an attempt whose answer was lost."""
        one.error, one.is_ambiguous = error, True  # the container at the target may be missing
        try:
            self._look_at(one, keeper)
        except StoreError as unknown:
            one.error = unknown
        else:
            if one.is_overwritten:
                one.error = Overwritten(one.item.source)
            elif one.here is None and one.there is not None:
                one.error, one.was_done = None, True

    def _delete(self, attempts: Sequence[_Attempt]) -> dict[ObjectName, list[Remnant]]:
        """Delete the old objects that have not changed; return what must be deleted later."""
        names = [one.item.source for one in attempts if one.was_copied and not one.item.marker]
        rows: dict[str, Row] = {}
        if len(names) >= LISTED_FROM:
            with suppress(StoreError):  # HEADs decide, and fail as well
                rows = {name.key: row for name, row in self._rows(names).items()}
        sure, doubtful = list[MoveItem](), list[MoveItem]()
        for one in attempts:
            # No listing shows the folder's own marker: a HEAD tells that no other client has replaced it.
            is_known = one.was_copied and one.item.row is not None and not one.item.marker
            (sure if is_known and is_unchanged(one.item, rows) else doubtful).append(one.item)
        left: dict[ObjectName, list[Remnant]] = {}
        for deletion, error in self._moves.delete_unchanged(doubtful, sure):
            left.setdefault(deletion.name, []).append((deletion, error))
        for one in attempts:
            if isinstance(one.item.error, Exception):
                one.error = one.item.error
        return left

    def _is_version(self, here: Row, operation: MoveObject) -> bool:
        """Return whether an object is still the version that was to move.

        A HEAD shows no time of a listing; what was stored again after a late request has another one.
        """
        was = operation.row
        is_timeless = operation.is_recent or self._late.is_watched(operation.source)
        if here.last_modified and was.last_modified and not is_timeless:
            return (here.hash, here.last_modified) == (was.hash, was.last_modified)
        return etag_of(here) == etag_of(was)


class _Folders:
    """Which names at the old place are of folders: a file of such a name has another path."""

    def __init__(self, source: str, rows: Iterable[Row]) -> None:
        self._source = source
        self._keys: set[str] = set()
        for row in rows:
            above = row.key.rpartition("/")[0]
            while len(above) > len(source) and above not in self._keys:
                self._keys.add(above)
                above = above.rpartition("/")[0]
            if is_marker(row):
                self._keys.add(row.key)

    def path(self, folder: str, row: Row) -> str:
        """Return the path of an object below the folder at the path `folder`."""
        components = row.key.removeprefix(self._source).removesuffix("/").split("/")
        for component in components[:-1]:
            folder = join(folder, escape(component))
        shadowed = not is_marker(row) and row.key in self._keys
        return join(folder, escape(components[-1], shadowed=shadowed))


def _has_copy(one: _Attempt) -> bool:
    return one.was_done or one.item.copied is not None


def _is_copy(one: _Attempt) -> bool:
    """Return whether an earlier attempt has made what is at the new name, of the version that was to move."""
    was, there = one.operation.row, one.there
    if not one.is_ambiguous or there is None:
        return False
    return (etag_of(there), there.content_type) == (etag_of(was), was.content_type)


def _item(operation: MoveObject) -> MoveItem:
    return MoveItem(
        operation.source,
        operation.target,
        etag_of(operation.row),
        operation.row,
        marker=operation.is_marker,
        keeps_target=operation.keeps_target,
    )


def _plain(name: ObjectName) -> str:
    return name.key.removesuffix("/")


def _common(first: str, last: str) -> str:
    """Return the folder that contains two keys."""
    length = 0
    for one, other in zip(first, last, strict=False):
        if one != other:
            break
        length += 1
    return first[:length].rpartition("/")[0] + "/" if "/" in first[:length] else ""
