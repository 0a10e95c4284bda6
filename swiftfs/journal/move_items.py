"""The objects of a move, and whether each is still the version that moves."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import md5

from swiftfs.attributes import decode_type
from swiftfs.journal.operations import Delete, MovedObject, MoveFolder
from swiftfs.objects import ObjectInfo, ObjectName, Row

EMPTY = md5(usedforsecurity=False).hexdigest()
"""The ETag of an empty object, which a folder's marker and a DLO's manifest are."""

NAMED = 5
"""Names in one log line."""


@dataclass(slots=True)
class MoveItem:
    """An object that moves; `etag` is what it should have, `row` its row in the listing.

    `copied` is the ETag of its copy, None while there is none; `error` is why there is none. The copy took
    `seconds`. `is_slo` is False if the object is certainly not an SLO. With `keeps_target` the target is the
    marker of a folder that existed before, and no undo deletes it.
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

    @property
    def may_share(self) -> bool:
        """Whether it and its copy may name the same segments. For an SLO a listing shows another hash."""
        if not self.copied or self.copied == EMPTY or self.is_slo is False:
            return False
        # A listing's hash of an SLO is not its ETag; of a plain object both are the MD5.
        return self.row is None or self.row.hash != self.copied


def items_of(operation: MoveFolder, rows: Iterable[Row]) -> list[MoveItem]:
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


def version_of(item: MoveItem) -> tuple[str, str]:
    """Return a version's hash and time for the record; for an object just stored, its ETag and no time."""
    if item.row is None or item.etag != etag_of(item.row):
        return item.etag, ""
    return item.row.hash, item.row.last_modified


def is_version(item: MoveItem, was: MovedObject) -> bool:
    """Return whether an object is still the version of the record."""
    if item.row is None or not was.modified:
        return item.etag == was.hash
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


def is_copied(info: ObjectInfo, etag: str | None) -> bool:
    """Return whether an object is the version that was copied; the copy of a DLO's manifest is empty."""
    return info.version.etag == etag or (info.dlo_prefix is not None and etag == EMPTY)


def deletion_of(item: MoveItem) -> Delete:
    return Delete(item.source, is_slo=False, etag=item.copied, moved=True)


def some(names: Sequence[ObjectName]) -> str:
    """Return the first of many names, and how many there are."""
    more = len(names) - NAMED
    return ", ".join(map(str, names[:NAMED])) + (f" and {more} more" if more > 0 else "")
