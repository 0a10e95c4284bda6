"""The moment by which the current call must have its answer, known to every floor of the store."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from swiftfs.concurrency import monotonic

_END: ContextVar[float] = ContextVar("swiftfs_deadline", default=math.inf)


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Let every request begun inside wait no longer than until `seconds` from now; nesting only shortens."""
    token = _END.set(min(_END.get(), monotonic() + seconds))
    try:
        yield
    finally:
        _END.reset(token)


def remaining() -> float:
    """Return the seconds left in this thread's call: infinity without a deadline, never below 0."""
    return max(0.0, _END.get() - monotonic())
