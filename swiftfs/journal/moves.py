"""The values of a move: its objects and their versions, what it has done or left, and its callbacks."""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from enum import Enum
from hashlib import md5

from msgspec import Struct
from msgspec.structs import replace

from swiftfs.attributes import NS, decode_type, parse_last_modified
from swiftfs.errors import Corrupt, NotFound, PreconditionFailed, StoreError, errno_of
from swiftfs.filecache.cached_file import CachedFile
from swiftfs.journal.operations import Delete, Move, MovedObject, MoveFolder, MoveObject, Operation
from swiftfs.namespace.entry import row_of
from swiftfs.objects import Limits, ObjectInfo, ObjectName, ObjectVersion, Row
from swiftfs.store.ambiguous import GONE, Ambiguity, AmbiguousRequests, Effect
from swiftfs.store.protocol import CopyRequest, Headers, ObjectStore, find_object, has_version

log = logging.getLogger(__name__)

EMPTY = md5(usedforsecurity=False).hexdigest()
"""The ETag of an empty object, which a folder's marker and a DLO's manifest are."""

NAMED = 5
"""Names in one log line."""


class NotDeleted(Enum):
    """Why the source of a copy was not deleted."""

    FAILED = "Swift did not delete it"
    CHANGED = "another client has stored a new version"
    ABSENT = "another client has deleted or renamed it"
    NOT_COPIED = "the server says that it is copied, but it is not"


class MoveItem(Struct):
    """An object that moves; `etag` is what it should have, `row` its row in the listing.

    `copied` is the ETag of its copy, None while there is none; `error` is why there is none. The copy took
    `seconds`. `is_slo` is False if the object is certainly not an SLO. With `keeps_target` the target is the
    marker of a folder that existed before, and no undo deletes it. `not_deleted` is why the source was not
    deleted after the copy, None if it was.
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
    keeps_target: bool = False
    not_deleted: NotDeleted | None = None

    @property
    def may_share(self) -> bool:
        """Whether it and its copy may name the same segments. For an SLO a listing shows another hash."""
        if not self.copied or self.copied == EMPTY or self.is_slo is False:
            return False
        # A listing's hash of an SLO is not its ETag; of a plain object both are the MD5.
        return self.row is None or self.row.hash != self.copied


class InterruptedMove:
    """What listings show of a folder's move that a dead process left: the rows at both places, by key."""

    def __init__(self, operation: MoveFolder, sources: Iterable[Row], targets: Iterable[Row]) -> None:
        self.operation = operation
        self.sources = {row.key: row for row in sources}
        self.targets = {row.key: row for row in targets}
        self._recorded = {one.key: one for one in operation.objects or ()}

    def was(self, item: MoveItem) -> MovedObject | None:
        """Return the version that was to move; None if the record has none."""
        return self._recorded.get(item.source.key)

    def copy_of(self, item: MoveItem) -> Row | None:
        """Return the row at an object's new name."""
        return self.targets.get(item.target.key)

    def correct(self, item: MoveItem, here: ObjectInfo | None, there: ObjectInfo | None) -> None:
        """Take over what HEADs say of both names: a listing may show what is not there any more."""
        target = item.target.key
        source = as_listed(here, item.row)
        copy = as_listed(there, self.targets.get(target))
        if here is not None and there is not None and here.version.etag == there.version.etag:
            copy = replace(source, key=target) if source is not None else None
        for rows, key, row in ((self.sources, item.source.key, source), (self.targets, target, copy)):
            if row is not None:
                rows[key] = row
            else:
                rows.pop(key, None)

    def sort(self) -> tuple[list[MoveItem], list[MoveItem]]:
        """Return the listed objects that still move, and those that are kept at both places.

        Those that have their copy count as copied.
        """
        moving: list[MoveItem] = []
        kept: list[MoveItem] = []
        for item in items_of(self.operation, self.sources.values()):
            was, there = self.was(item), self.copy_of(item)
            # Not what was to be moved: it came to the old place, or was changed there, after the move began.
            if self.operation.objects is not None and (was is None or not is_version(item, was)):
                kept.append(item)
            elif there is not None and item.row is not None and there.hash == item.row.hash:
                item.copied = item.etag
                moving.append(item)
            elif there is not None or self.operation.undone:
                kept.append(item)
            else:
                moving.append(item)
        return moving, kept

    def gone(self) -> Iterator[tuple[MovedObject, Row | None]]:
        """Yield the recorded objects that the old place does not show any more, with the row of each copy."""
        for key, one in self._recorded.items():
            if key not in self.sources:
                yield one, self.targets.get(self.operation.target_of(key).key)

    def moved_rows(self) -> list[Row]:
        """Return the old rows of the objects that are gone from the old place, and have their copy."""
        found = ((was, there) for was, there in self.gone() if there is not None)
        return [replace(there, key=was.key) for was, there in found if there.hash == was.hash]


def items_of(operation: MoveFolder, rows: Iterable[Row]) -> list[MoveItem]:
    """Return the items of the objects that a listing of the folder shows."""
    return [
        MoveItem(
            ObjectName(operation.container, row.key),
            operation.target_of(row.key),
            etag_of(row),
            row,
            keeps_target=operation.over_folder and row.key == operation.source,  # the marker `d/`
        )
        for row in rows
    ]


def etag_of(row: Row) -> str:
    """Return the ETag of a row's object; for another client's SLO it is wrong, as no row shows its ETag."""
    return decode_type(row.content_type)[1].slo or row.hash


def as_listed(info: ObjectInfo | None, row: Row | None) -> Row | None:
    """Return what a HEAD has shown: the `row` of a listing if that is of the same version.

    The listing may show the attributes of before, and the copy of the object has those of the HEAD.
    """
    if info is None:
        return None
    if row is not None and info.version.etag == etag_of(row):
        now = replace(row, content_type=info.content_type)
        return now if etag_of(now) == info.version.etag else row
    return row_of(info)


def version_of(item: MoveItem) -> tuple[str, str]:
    """Return a version's hash and time for the record; for an object just stored, its ETag and no time."""
    if item.row is None or item.etag != etag_of(item.row):
        return item.etag, ""
    return item.row.hash, item.row.last_modified


def with_objects(operation: MoveFolder, items: Iterable[MoveItem]) -> MoveFolder:
    """Return the record of a folder's move with the versions of all objects that it moves."""
    recent = {one.key for one in operation.recent}
    moved = (
        MovedObject(item.source.key, *version_of(item), is_recent=item.source.key in recent)
        for item in items
        if not item.marker
    )
    return replace(operation, objects=tuple(moved))


def is_version(item: MoveItem, was: MovedObject) -> bool:
    """Return whether an object is still the version of the record."""
    if item.row is None or not was.modified:
        return item.etag == was.hash
    # A HEAD that has corrected a listing shows no time of one; of an SLO it shows another hash.
    if not item.row.last_modified or was.is_recent:
        return item.row.hash == was.hash
    return (item.row.hash, item.row.last_modified) == (was.hash, was.modified)


def is_unchanged(item: MoveItem, rows: Mapping[str, Row] | None) -> bool:
    """Return whether the copied version was listed, and is still listed.

    No listing of a folder shows its own marker, which holds no bytes.
    """
    if item.copied != item.etag:
        return False
    if rows is None or item.marker:
        return True
    now = rows.get(item.source.key)
    # It may be listed late, or be deleted: a HEAD decides.
    if now is None:
        return False
    return now == item.row if item.row is not None else etag_of(now) == item.etag


def is_of_this_moment(passed: float, moment: float, copied: Sequence[MoveItem]) -> bool:
    """Return whether a listing of the sources of `passed` seconds ago is recent enough to delete them.

    It never is for an SLO: a client that replaced it has deleted its segments, and the copy names them.
    """
    if any(item.row is not None and item.may_share for item in copied):
        return False
    seconds = sorted(item.seconds for item in copied)
    # One copy that took much longer than the others leaves its source unwatched for that time. The limits are
    # chosen, not measured: copies of one folder differ by less. The fastest third is the measure, so that of
    # two copies it is the faster one.
    usual = seconds[(len(seconds) - 1) // 3] if len(seconds) > 1 else 0.0
    return passed < moment and max(seconds, default=0.0) < usual * 3 + 0.25


def why_not_deleted(item: MoveItem, source: ObjectInfo | None) -> NotDeleted:
    """Return why a source is not deleted that is not the version of its copy, by the answer of a HEAD."""
    if source is None:
        return NotDeleted.ABSENT
    # It is still what was to be copied, and the copy is something else.
    return NotDeleted.NOT_COPIED if source.version.etag == item.etag else NotDeleted.CHANGED


def not_copied(item: MoveItem) -> Corrupt:
    """Return the error of a COPY that was answered, and not made."""
    text = f"copy {item.source}: the server says that it is done, but {item.target} is another object"
    return Corrupt(text, may_land=True)


def is_copied(info: ObjectInfo, etag: str | None) -> bool:
    """Return whether an object is the version that was copied; the copy of a DLO's manifest is empty."""
    return info.version.etag == etag or ((info.dlo_prefix is not None or info.is_symlink) and etag == EMPTY)


def is_same(one: ObjectInfo | None, other: ObjectInfo) -> bool:
    """Return whether two objects have the same bytes and headers; a COPY brings both along."""
    return one is not None and one.version.etag == other.version.etag and Headers.of(one) == Headers.of(other)


def is_to_delete(info: ObjectInfo, deletion: Delete, limits: Limits) -> bool:
    """Return whether an object is still the version of a conditional deletion.

    Only a Swift has one time in its listings and HEADs, which each PUT and POST changes. Without X-Timestamp
    a HEAD has whole seconds, rounded up, and they prove nothing.
    """
    listed, found = parse_last_modified(deletion.modified), info.last_modified_ns
    is_newer = limits.is_swift and 0 < listed < found and found % NS != 0
    return is_copied(info, deletion.etag) and not is_newer


def deletion_of(item: MoveItem) -> Delete:
    """Return the deletion of a source that was copied, as long as it is the copied version."""
    return Delete(item.source, is_slo=False, etag=item.copied, moved=True)


def some(names: Sequence[ObjectName]) -> str:
    """Return the first of many names, and how many there are."""
    more = len(names) - NAMED
    return ", ".join(map(str, names[:NAMED])) + (f" and {more} more" if more > 0 else "")


def rows_of(items: Iterable[MoveItem]) -> tuple[Row, ...]:
    """Return the rows of the items that a listing has shown."""
    return tuple(item.row for item in items if item.row is not None)


def log_not_deleted(items: Sequence[MoveItem]) -> None:
    """Log which sources another client has changed or deleted; the move fails with the `error` of others."""
    changed = [item for item in items if item.not_deleted is NotDeleted.CHANGED and item.error is None]
    absent = [item for item in items if item.not_deleted is NotDeleted.ABSENT]
    if changed:
        names = some([item.source for item in changed])
        log.warning("another client changed %s while it was moved: the changed version is kept", names)
    if absent:
        log.info("%s was deleted while it was moved", some([item.source for item in absent]))


Remnant = tuple[Delete, StoreError]
"""The deletion of a source that failed after the copy, and its error."""


class Moved(Struct, frozen=True):
    """What a move that was carried out has left; of a folder's, the old rows of what listings showed.

    Some may be of objects that another client has deleted meanwhile. If the objects of a folder are to move
    in the background, nothing was moved, and `later` are their moves.
    """

    remnants: list[Remnant]
    rows: tuple[Row, ...] = ()
    later: Sequence["PlannedMove"] = ()


PlannedMove = tuple[str, MoveObject]
"""The move of one object, and the path of what it moves."""

HandOn = Callable[[MoveFolder, Sequence[MoveItem]], Sequence[PlannedMove]]
"""Returns the moves of a folder's objects that are made later, none if all are to be made at once."""


def all_at_once(_operation: MoveFolder, _items: Sequence[MoveItem]) -> Sequence[PlannedMove]:
    """Return that nothing is moved later: a `HandOn`."""
    return ()


RecordMove = Callable[[MoveFolder], None]
"""Records the operation: with all objects that it moves before the first copy, or as `undone`."""


class Overwritten(StoreError):
    """A late request has changed or deleted what is to move: the newer version must be stored again first."""

    retryable = True

    def __init__(self, source: ObjectName) -> None:
        super().__init__(
            f"{source}: a request whose answer was lost was carried out late, over a newer change"
        )


Restored = tuple[Operation | None, CachedFile | None]
"""The operation that restores an object, None if none can, and the file with its bytes if it stores one."""


class CopyKeeper:
    """Keeps the copies of a move that a lost request may still destroy; this one keeps nothing."""

    def has_overwritten(self, _source: ObjectName, _stands: ObjectInfo | None) -> bool:
        """Return whether what stands at the name of a moving object was made by a late request.

        Raise `StoreError`.
        """
        return False

    @contextmanager
    def restoring(self, _source: ObjectName) -> Iterator[Restored]:
        """Yield what restores an object that is about to move; raise `StoreError` or `OSError`."""
        yield None, None

    def prepare_copy(self, source: ObjectName, target: ObjectName, etag: str) -> None:
        """Get the bytes of an object that is about to be copied; raise `StoreError` or `OSError`.

        `etag` is that of its version, "" while it is unknown.
        """

    def keep_copies(self, copies: Collection[ObjectName]) -> None:
        """Keep what was copied just now, while the sources still exist."""


class Unmoved(StoreError):
    """A folder was not moved because of `cause`; copies may be `left` at the target, others are `gone`."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(f"the folder was not moved: {cause}")
        self.errno = errno_of(cause)
        self.left: list[Delete] = []
        self.gone: list[ObjectName] = []

    def undid(self, copies: Iterable[MoveItem], left: Iterable[Delete]) -> None:
        """Record what has become of copies, as `sources` of a move back."""
        self.left += left
        self.gone += [one.source for one in copies if one.not_deleted in (None, NotDeleted.ABSENT)]


def prepare(items: Iterable[MoveItem], keeper: CopyKeeper) -> None:
    """Get the bytes that lost requests may destroy at the targets of a folder's move; raise `Unmoved`."""
    try:
        for item in items:
            with suppress(NotFound):  # the copy will tell
                keeper.prepare_copy(item.source, item.target, item.etag)
    except (StoreError, OSError) as error:
        raise Unmoved(error) from error


class MoveEvidence:
    """Tells `ambiguous` what stands where a request whose answer was lost may be carried out late.

    What such a request has stored over a newer change is no other client's: it never moves, and may be
    deleted.
    """

    def __init__(self, ambiguous: AmbiguousRequests) -> None:
        self._ambiguous = ambiguous

    def __contains__(self, name: ObjectName) -> bool:
        """Return whether a lost request about a name is watched."""
        return name in self._ambiguous

    def is_watched(self, name: ObjectName) -> bool:
        """Return whether a lost request would undo a newer change of an object."""
        return self._ambiguous.dangerous_at(name) is not None

    def is_late(self, info: ObjectInfo) -> bool:
        """Return whether a late request has stored this version over a newer change."""
        return self._ambiguous.is_late(info.version, info)

    def is_late_row(self, name: ObjectName, row: Row) -> bool:
        """Return whether a late request has stored the version of a row over a newer change."""
        return self._ambiguous.is_late(ObjectVersion(name, etag_of(row)))

    def copy(self, store: ObjectStore, source: ObjectName, target: ObjectName) -> str:
        """Copy an object, with the manifest alone; return its ETag.

        Raise `Overwritten` if a late request has deleted it, or has stored what stands there over a newer
        version, and the errors of `ObjectStore.copy`.
        """
        watched = self._ambiguous.dangerous_at(source)
        last = watched.last if watched is not None else None
        etag = last.etag if last is not None and last.kind == "put" else ""
        request = CopyRequest(source, target, manifest_only=True, etag=etag)
        try:
            made = store.copy(request).etag
        except NotFound:
            lost = watched.lost if watched is not None and not watched.is_gone else ()
            if any(one.kind == "delete" for one in lost) and not (etag and has_version(store, target, etag)):
                raise Overwritten(source) from None
            raise  # an earlier process has moved it: its deletion counts as lost, too
        except PreconditionFailed:
            if not etag:
                raise
            stands = store.head(source)
            if self.is_late(stands):
                raise Overwritten(source) from None
            return store.copy(replace(request, etag=stands.version.etag)).etag
        if watched is not None and made == etag:
            self._correct(store, target, watched)
        return made

    def _correct(self, store: ObjectStore, target: ObjectName, watched: Ambiguity) -> None:
        """Give a copy the newest headers of its source if a late request had undone them just before it."""
        newest = watched.last.headers if watched.last is not None else None
        copy = find_object(store, target) if newest is not None else None
        if newest is None or copy is None or newest.are_those_of(copy):
            return
        if any(one.headers is not None and one.headers.are_those_of(copy) for one in watched.lost):
            store.post(target, newest)

    def made_copy(self, store: ObjectStore, operation: Move) -> str | None:
        """Return the ETag of the copy if a COPY that failed in the end was carried out, without an answer.

        If not, or if that is unknown, return None, and record what stands at the target.
        """
        if operation.target not in self._ambiguous:
            return None
        with suppress(StoreError):
            there = find_object(store, operation.target)
            if there is None or there.version.etag == operation.replaces_etag:
                self.found(operation.target, there)
            elif is_same(find_object(store, operation.source), there):
                self.found(operation.target, there, copy_of=operation.source)
                return there.version.etag
        return None

    def found(
        self,
        name: ObjectName,
        info: ObjectInfo | None,
        copy_of: ObjectName | None = None,
        etag: str | None = None,
    ) -> None:
        """Tell that `info`, or nothing, stands at a name.

        It is the copy of `copy_of` if it has this `etag`, or if that is None. Such a copy is newer than any
        change of the name that is known: it belongs to a move that is to be finished.
        """
        effect = GONE
        if info is not None:
            source = copy_of if etag in (None, info.version.etag) else None
            # What must be stored again is known. The copy that a late request has made is meant to be there.
            if source is None and self.is_late(info):
                return
            headers = None if info.is_slo else Headers.of(info)  # they are fetched with the manifest
            effect = Effect("put", info.version.etag, headers, source=source)
        self._tell(name, effect)

    def found_rows(self, source: ObjectName, here: Row | None, target: ObjectName, there: Row | None) -> None:
        """Tell what listings show at both places of an object; what is absent at the target may come."""
        stands = GONE if here is None else Effect("put", etag_of(here))
        if here is None or not self.is_late_row(source, here):
            self._tell(source, stands)
        if there is not None:
            is_copy = here is None or here.hash == there.hash
            copy = Effect("put", etag_of(there), source=source if is_copy else None)
            self._tell(target, copy)

    def _tell(self, name: ObjectName, stands: Effect) -> None:
        """Tell what stands at a name; what is known of the same version stays known."""
        last = found.last if (found := self._ambiguous.get(name)) is not None else None
        if last is not None and last.etag and (last.kind, last.etag) == (stands.kind, stands.etag):
            headers = stands.headers or last.headers
            stands = replace(stands, headers=headers, body=last.body, manifest=last.manifest)
        self._ambiguous.done(name, lambda: stands)
