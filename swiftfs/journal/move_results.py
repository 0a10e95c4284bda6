"""What a move has done, or left behind, for those that go on with it."""

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from swiftfs.errors import NotFound, StoreError, errno_of
from swiftfs.journal.move_items import MoveItem
from swiftfs.journal.operations import Delete, Move, MoveFolder, MoveObject
from swiftfs.objects import ObjectName, Row

Remnant = tuple[Delete, StoreError]
"""The deletion of a source that failed after the copy, and its error."""


@dataclass(frozen=True, slots=True)
class Moved:
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


ShowMoved = Callable[[str, Move | MoveFolder, Sequence[Row]], str | None]
"""Shows in the mount that a path was moved, with the rows of `Moved`; returns the new path of a folder."""

RecordMove = Callable[[MoveFolder], None]
"""Records the operation: with all objects that it moves before the first copy, or as `undone`."""


class CopyKeeper(Protocol):
    """Keeps the copies of a move that a lost request may still destroy."""

    def prepare_copy(self, source: ObjectName, target: ObjectName, etag: str) -> None:
        """Get the bytes of an object that is about to be copied; raise `StoreError` or `OSError`.

        `etag` is that of its version, "" while it is unknown.
        """

    def keep_copies(self, copies: Collection[ObjectName]) -> None:
        """Keep what was copied just now, while the sources still exist."""


class KeepsNothing:
    """The `CopyKeeper` where nobody looks for what lost requests have done."""

    def prepare_copy(self, source: ObjectName, target: ObjectName, etag: str) -> None:
        """Do nothing."""

    def keep_copies(self, copies: Collection[ObjectName]) -> None:
        """Do nothing."""


KEEPS_NOTHING = KeepsNothing()


class Unmoved(StoreError):
    """A folder was not moved because of `cause`; copies of its objects may be `left` at the target."""

    def __init__(self, cause: BaseException, left: tuple[Delete, ...] = ()) -> None:
        super().__init__(f"the folder was not moved: {cause}")
        self.errno = errno_of(cause)
        self.left = left


def prepare(items: Iterable[MoveItem], keeper: CopyKeeper) -> None:
    """Get the bytes that lost requests may destroy at the targets of a folder's move; raise `Unmoved`."""
    try:
        for item in items:
            with suppress(NotFound):  # the copy will tell
                keeper.prepare_copy(item.source, item.target, item.etag)
    except (StoreError, OSError) as error:
        raise Unmoved(error) from error
