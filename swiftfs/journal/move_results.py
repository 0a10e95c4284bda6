"""What a move has done, or left behind, for those that go on with it."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

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

KeepCopies = Callable[[Collection[ObjectName]], None]
"""Gets the copies that a lost request may still destroy, while their sources exist too."""


def keep_nothing(_copies: object) -> None:
    """Do nothing: a `KeepCopies` for the start of a mount."""


class Unmoved(StoreError):
    """A folder was not moved because of `cause`; copies of its objects may be `left` at the target."""

    def __init__(self, cause: BaseException, left: tuple[Delete, ...] = ()) -> None:
        super().__init__(f"the folder was not moved: {cause}")
        self.errno = errno_of(cause)
        self.left = left
