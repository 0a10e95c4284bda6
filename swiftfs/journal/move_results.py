"""What a move has done, or left behind, for those that go on with it."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from swiftfs.errors import StoreError, errno_of
from swiftfs.journal.operations import Delete, Move, MoveFolder
from swiftfs.objects import ObjectName, Row

Remnant = tuple[Delete, StoreError]
"""The deletion of a source that failed after the copy, and its error."""


@dataclass(frozen=True, slots=True)
class Moved:
    """What a move that was carried out has left; of a folder's, the old rows of what listings showed.

    Some may be of objects that another client has deleted meanwhile.
    """

    remnants: list[Remnant]
    rows: tuple[Row, ...] = ()


ShowMoved = Callable[[str, Move | MoveFolder, Sequence[Row]], str | None]
"""Shows in the mount that a path was moved, with the rows of `Moved`; returns the new path of a folder."""

RecordMove = Callable[[MoveFolder], None]
"""Records the operation: with all objects that it moves before the first copy, or as `undone`."""


class CopyKeeper(Protocol):
    """Keeps the copies of a move that a lost request may still destroy."""

    def prepare_copy(self, source: ObjectName, target: ObjectName) -> None:
        """Get the bytes of an object that is about to be copied; raise `StoreError` or `OSError`."""

    def keep_copies(self, copies: Collection[ObjectName]) -> None:
        """Keep what was copied just now, while the sources still exist."""


class KeepsNothing:
    """The `CopyKeeper` for the start of a mount."""

    def prepare_copy(self, source: ObjectName, target: ObjectName) -> None:
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
