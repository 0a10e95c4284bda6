"""The states of a task, and which may follow which."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from swiftfs.errors import SwiftfsError

Failure = SwiftfsError | OSError

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0
"""Seconds between two attempts of a task, doubled each time, after the store's own retries have ended."""


def pause_after(attempts: int) -> float:
    """Return the seconds to wait after so many failed attempts of a task."""
    # 32 doublings are more than any pause takes; 2 to the power of all attempts in a day without a server is
    # no float.
    return min(FIRST_PAUSE * 2.0 ** min(attempts - 1, 32), LONGEST_PAUSE)


@dataclass(frozen=True, slots=True, eq=False)
class Waiting:
    """It is executed at `due` (monotonic seconds), or when what it waits for has ended, if that is later."""

    due: float
    error: ClassVar[None] = None


@dataclass(frozen=True, slots=True, eq=False)
class Retrying:
    """Its last attempt has failed with `error`; it is tried again at `due` (monotonic seconds) or later."""

    due: float
    error: Failure


@dataclass(frozen=True, slots=True, eq=False)
class Running:
    """An attempt runs; `error` is that of the attempt before it."""

    error: Failure | None


@dataclass(frozen=True, slots=True, eq=False)
class Blocked:
    """It is parked, for users: its last attempt has failed, and it is not tried again by itself."""

    error: Failure


@dataclass(frozen=True, slots=True, eq=False)
class Succeeded:
    """Swift has carried it out."""

    error: ClassVar[None] = None


@dataclass(frozen=True, slots=True, eq=False)
class Cancelled:
    """It was given up because of `error`; without one it is not needed, or another has taken over."""

    error: Failure | None = None


State = Waiting | Retrying | Running | Blocked | Succeeded | Cancelled

_FOLLOWING: Mapping[type, tuple[type, ...]] = {
    Waiting: (Waiting, Running, Cancelled),
    Retrying: (Waiting, Retrying, Running, Cancelled),
    Running: (Waiting, Retrying, Blocked, Succeeded, Cancelled),
    Blocked: (Waiting, Retrying, Cancelled),
    Succeeded: (),
    Cancelled: (),
}


def check_transition(before: State, after: State) -> None:
    """Raise `RuntimeError` if a task in the state `before` cannot come into the state `after`."""
    if type(after) not in _FOLLOWING[type(before)]:
        raise RuntimeError(f"a task cannot change from {before} to {after}")
