"""Reports of pending changes: the values that a status shows, and their JSON.

Clients import this without the rest of the journal.
"""

import json
from collections.abc import Iterable

from msgspec import Struct, to_builtins

from swiftfs.errors import pluralize

MOST_BYTES = 60_000
"""Limit of a report in JSON: the value of an extended attribute has at most 64 KiB (xattr(7))."""

AWAY = "the server does not answer, or asks for a pause"
"""What a report that is `away` says."""


class QueuedChange(Struct, frozen=True):
    """An operation in a status: `state` is waiting, running or parked (blocked); `reason` its last error.

    `bytes` is the size of the file to be stored; while the operation runs, `sent` is how much of it
    need not be sent any more.
    """

    path: str
    kind: str
    state: str
    bytes: int
    attempts: int
    reason: str
    sent: int


class RenameProgress(Struct, frozen=True):
    """A folder that was renamed from `old` to `new`: `left` of its `objects` are to be moved yet."""

    old: str
    new: str
    objects: int
    left: int


class QueueReport(Struct, frozen=True):
    """How many changes are not in Swift yet, by state, and the bytes of their files.

    - `oldest`: seconds since the first of them was handed in, or since the mount began.
    - `away`: the server did not answer the last request, or asked for a pause.
    - `unflushed`: changes of the last flush that are not in Swift; `flushing` of them were not tried since.
    - `changes`: the first changes, those that failed before the others; `left_out` is the number of the rest.
    - `refused`: changes that were given up and not reported yet; `refusals` are the first.
    - `watched`: objects for which a request whose answer was lost could undo a newer change.
    - `put_right` and `overwritten`: such objects that were, and could not be, stored again in this mount.
    - `renames`: folders whose objects move in the background; each of the objects is one of the changes.
    """

    waiting: int
    running: int
    parked: int
    bytes: int
    away: bool
    flushing: int
    unflushed: int
    changes: tuple[QueuedChange, ...] = ()
    left_out: int = 0
    oldest: float = 0.0
    refused: int = 0
    refusals: tuple[QueuedChange, ...] = ()
    watched: int = 0
    put_right: int = 0
    overwritten: int = 0
    renames: tuple[RenameProgress, ...] = ()

    @property
    def total(self) -> int:
        """The number of changes that are not in Swift yet."""
        return self.waiting + self.running + self.parked

    def left_over(self) -> str:
        """Return a message about the changes that a flush could not store."""
        first = next((change for change in self.changes if change.reason), None)
        why = AWAY if self.away else "they could not be stored"
        if first is not None:
            why = f"the first is {first.path}: {first.reason}"
        changes = pluralize(self.unflushed, "change is", "changes are")
        return f"{changes} not stored yet: {why}"

    def to_json(self) -> str:
        """Return it as JSON of at most `MOST_BYTES`, with as many changes as fit."""
        room = MOST_BYTES - len(json.dumps({**to_builtins(self), "changes": [], "refusals": []}))
        refusals = _fitting(self.refusals, room // 2)
        shown = _fitting(self.changes, room - len(json.dumps(refusals)))
        left_out = self.total - len(shown)
        return json.dumps({**to_builtins(self), "changes": shown, "refusals": refusals, "left_out": left_out})

    @classmethod
    def from_json(cls, text: str) -> "QueueReport":
        """Return what `to_json` wrote; raise `ValueError` or `TypeError` for anything else."""
        values = json.loads(text)
        for name in ("changes", "refusals"):
            values[name] = tuple(QueuedChange(**change) for change in values.get(name, ()))
        values["renames"] = tuple(RenameProgress(**one) for one in values.get("renames", ()))
        return cls(**values)


def _fitting(changes: Iterable[QueuedChange], room: int) -> list[dict[str, object]]:
    """Return the first of the changes that take at most `room` bytes of JSON."""
    shown: list[dict[str, object]] = []
    for change in changes:
        room -= len(json.dumps(to_builtins(change))) + 2
        if room < 0:
            break
        shown.append(to_builtins(change))
    return shown
