"""The fault matrix: what fails, in which operation of the store, and what the result must be.

`outcome` defines it: the tests compare it with what happens, and `./dev docs` makes the table in
docs/reference/store-faults.md of it.
"""

import errno
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from support.fault_operations import OPERATIONS, Operation
from swiftfs.demo.server import Fault
from swiftfs.errors import (
    AccessDenied,
    BadName,
    Clash,
    Conflict,
    Corrupt,
    NoSpace,
    NotFound,
    PreconditionFailed,
    QuotaExceeded,
    StoreError,
    TimedOut,
    Unavailable,
)

SILENCE = 1.0
"""Seconds without an answer after which the store of the tests ends a request."""

STATUSES: dict[int, type[StoreError]] = {
    403: AccessDenied,
    404: NotFound,
    408: Unavailable,
    409: Conflict,
    412: BadName,
    413: QuotaExceeded,
    429: Unavailable,
    498: Unavailable,
    500: Unavailable,
    503: Unavailable,
    507: NoSpace,
}


@dataclass(frozen=True)
class Kind:
    """A kind of fault; after a `silent` one the client waits for an answer that never comes."""

    name: str
    fault: Fault
    silent: bool = False


KINDS = (
    Kind("answer too late", Fault(delay=2 * SILENCE), silent=True),
    Kind("401", Fault(status=401)),
    *(Kind(str(status), Fault(status=status)) for status in STATUSES if status != 429),
    Kind("429 with Retry-After", Fault(status=429, headers={"Retry-After": "0"})),
    Kind("500 after doing it", Fault(status=500, after=True)),
    Kind("wrong ETag", Fault(headers={"Etag": '"00000000000000000000000000000000"'})),
    Kind("flipped byte", Fault(flip_byte=True)),
    Kind("stall in the body", Fault(stall=2 * SILENCE), silent=True),
    Kind("RST before", Fault(reset=True)),
    Kind("RST within the request", Fault(reset=True, accept_body=2)),
    Kind("RST after doing it", Fault(reset=True, after=True)),
    # Last: they close a connection after a whole answer, when the next request may already be sent on it.
    Kind("truncated body", Fault(truncate_body=3)),
    Kind("RST within the answer", Fault(reset=True, truncate_body=3)),
)


@dataclass(frozen=True)
class Outcome:
    """How a call must end.

    `error` is None for success. `done`: whether Swift has executed the request, None if either is possible.
    `repeated`: whether more than one request is sent.
    """

    error: type[StoreError] | None
    done: bool | None
    repeated: bool


DOUBTED = {("get of a version", "412"), ("get of a version", "wrong ETag"), ("copy of a version", "412")}
"""Faults in operations that have the version as a condition: it is sent again without it."""


def outcome(operation: Operation, kind: Kind, *, always: bool) -> Outcome:
    """Return the outcome of a fault that happens once, or at every attempt."""
    error, done = _attempt(operation, kind)
    if _falls_back(operation, kind, error):
        return Outcome(None, done=True, repeated=kind.name == "401")
    if operation.name == "limits":  # until the next call the limits of any server apply
        return Outcome(None, done=True, repeated=False)
    if kind.name == "401" and error is not None:
        return Outcome(error if always else None, done=not always, repeated=True)
    # A HEAD shows that the version is unchanged.
    is_doubted = (operation.name, kind.name) in DOUBTED
    if error is None or not (error.retryable or is_doubted or _is_clash(operation, error)):
        # After a 409 a HEAD asks whether the object is a symlink of Swift that leads to itself.
        return Outcome(error, done, repeated=operation.name == "head" and error is Clash)
    if not always or (operation.name == "put if absent" and error is Corrupt):
        # The repeated PUT finds its own bytes: they are stored, despite the first answer.
        return Outcome(None, done=True, repeated=True)
    return Outcome(error, done, repeated=True)


def _is_clash(operation: Operation, error: type[StoreError]) -> bool:
    """Say whether it is a change of an object that Swift takes with a new timestamp."""
    return error is Clash and operation.done is not None and not operation.name.endswith("_container")


def _falls_back(operation: Operation, kind: Kind, error: type[StoreError] | None) -> bool:
    """Return whether single DELETEs follow: bulk-delete is refused, or its answer has no verdict.

    Swift does not announce the length of that answer, so HTTP takes half of it for all.
    """
    if operation.name != "delete_many in bulk" or error is None:
        return False
    return not error.retryable or error is Corrupt or kind.fault.truncate_body >= 0


def _attempt(operation: Operation, kind: Kind) -> tuple[type[StoreError] | None, bool | None]:
    """Return the error of a single attempt, and whether Swift has executed the request."""
    fault = kind.fault
    if fault.status and not fault.after:
        error = AccessDenied if fault.status == 401 else STATUSES[fault.status]
        if error is Conflict and operation.name != "delete_container":
            error = Clash
        return operation.meanings.get(fault.status, error), False
    if fault.delay:
        return TimedOut, None
    if fault.after:
        return Unavailable, True
    if fault.reset and fault.truncate_body < 0:
        return Unavailable, False
    return _damaged(operation, kind), True


def _damaged(operation: Operation, kind: Kind) -> type[StoreError] | None:
    """Return the error of an attempt whose answer is damaged."""
    if kind.name == "wrong ETag":
        if not operation.checked:
            return None
        return PreconditionFailed if operation.name.endswith("of a version") else Corrupt
    if not operation.body:
        return None
    if kind.fault.flip_byte:
        return None if operation.unread else Corrupt
    return TimedOut if kind.fault.stall else Unavailable


def table() -> str:
    """Return the matrix in Markdown; operations with equal outcomes share a row."""
    rows = ["| fault | operations | happens once | at every attempt | sent again | a change afterwards |"]
    rows += ["|---|---|---|---|---|---|", *_rows()]
    return "\n".join(rows)


def _rows() -> Iterator[str]:
    """Yield the rows, without `limits`: if `/info` fails the store assumes the limits of any server."""
    for kind in KINDS:
        groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for operation in sorted(OPERATIONS[1:], key=lambda operation: operation.done is None):
            groups[_group(operation, kind, groups)].append(operation.name)
        ranked = sorted(groups.items(), key=lambda group: -len(group[1]))
        for position, (cells, names) in enumerate(ranked):
            who = ", ".join(names) if position else "all" if len(ranked) == 1 else "all others"
            yield "| " + " | ".join([kind.name, who, *cells]) + " |"


def _group(operation: Operation, kind: Kind, known: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """Return the cells of an operation; one that only reads joins changes with the same errors."""
    once, always = (outcome(operation, kind, always=always) for always in (False, True))
    cells = (_word(once), _word(always), "yes" if once.repeated else "no")
    if operation.done is None:
        return next((group for group in known if group[:3] == cells), (*cells, ""))
    states = dict.fromkeys((_STATES[once.done], _STATES[always.done]))
    return *cells, "; ".join(states)


_STATES = {True: "done", False: "not done", None: "perhaps done"}


def _word(one: Outcome) -> str:
    return "success" if one.error is None else errno.errorcode[one.error.errno]
