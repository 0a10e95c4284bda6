"""The fault matrix of a mount: the errno of a system call if a request of it fails, and what is left.

`outcome` defines it: the tests compare it with what happens, and the table in docs/reference/mount-faults.md
is made of it.
"""

import errno
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

from support import fault_matrix
from support.fault_matrix import KINDS, Kind, Outcome
from support.fault_operations import OPERATIONS
from support.mount_operations import MOUNT_OPERATIONS, MountOperation, States
from swiftfs.errors import AlreadyExists, StoreError


@dataclass(frozen=True)
class MountOutcome:
    """The errno of the call, 0 for success, and the possible states of the folder after the fault."""

    errno: int
    afterwards: tuple[States, ...]


def outcome(mount_operation: MountOperation, kind: Kind, *, always: bool) -> MountOutcome:
    """Return the outcome of a fault that happens once, or at every attempt."""
    operation = next(one for one in OPERATIONS if one.name == mount_operation.store)
    meanings = {**operation.meanings, **mount_operation.meanings}
    operation = replace(operation, meanings=meanings, checked=operation.checked or mount_operation.is_empty)
    found = fault_matrix.outcome(operation, kind, always=always)
    if (
        not always
        and (mount_operation.is_asked_twice or kind.fault.status in mount_operation.retried_statuses)
    ) or (mount_operation.is_looked_for and found.error and found.error.retryable and found.done):
        found = Outcome(None, done=True, repeated=True)
    number = found.error.errno if found.error else 0
    if mount_operation.is_reading:
        return MountOutcome(number, (mount_operation.old,))
    return MountOutcome(number, _afterwards(mount_operation, found.error, found.done))


def _afterwards(
    mount_operation: MountOperation, error: type[StoreError] | None, done: bool | None
) -> tuple[States, ...]:
    if error is None:
        return (mount_operation.new,) if done else (mount_operation.new, mount_operation.old)
    if error is AlreadyExists:
        return (mount_operation.old,)
    if mount_operation.is_journaled and (error.retryable or not mount_operation.may_be_refused):
        return (mount_operation.new,)
    if done is False or not mount_operation.partial:
        return (mount_operation.old,)
    if mount_operation.is_looked_for and done is None:  # it may be too early to find it
        return (mount_operation.new, mount_operation.old, mount_operation.partial)
    return (mount_operation.old, mount_operation.partial)


def table() -> str:
    """Return the matrix in Markdown; kinds with equal outcomes, and operations of one kind, share rows."""
    rows = ["| fault | operations | happens once | at every attempt | afterwards |", "|---|---|---|---|---|"]
    kinds: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for kind in KINDS:
        kinds[tuple(_rows(kind))].append(kind.name)
    return "\n".join(
        [*rows, *(f"| {', '.join(names)} | {row} |" for cells, names in kinds.items() for row in cells)]
    )


def _rows(kind: Kind) -> Iterator[str]:
    """Yield a kind's rows, those of most operations first; reading joins changes with the same errors."""
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for mount_operation in sorted(MOUNT_OPERATIONS, key=lambda mount_operation: mount_operation.is_reading):
        if mount_operation.is_predictable(kind):
            once, always = (outcome(mount_operation, kind, always=always) for always in (False, True))
            cells: tuple[str, ...] = (_word(once), _word(always), _state(mount_operation, once, always))
            if mount_operation.is_reading:
                cells = next((group for group in groups if group[:2] == cells[:2]), cells)
            groups[cells].append(mount_operation.name)
    ranked = sorted(groups.items(), key=lambda group: -len(group[1]))
    for position, (cells, names) in enumerate(ranked):
        who = ", ".join(names) if position else "all" if len(ranked) == 1 else "all others"
        yield " | ".join([who, *cells])


def _word(found: MountOutcome) -> str:
    return errno.errorcode[found.errno] if found.errno else "success"


def _state(mount_operation: MountOperation, once: MountOutcome, always: MountOutcome) -> str:
    words = {
        id(mount_operation.new): "as wanted",
        id(mount_operation.old): "as before",
        id(mount_operation.partial): "under both names",
    }
    if mount_operation.is_reading:
        return ""
    found = [" or ".join(words[id(state)] for state in one.afterwards) for one in (once, always)]
    return "; ".join(dict.fromkeys(found))
