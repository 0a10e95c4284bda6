"""Stretches of a file, found by a range of its bytes."""

from bisect import bisect_right, insort
from collections.abc import Collection
from typing import Generic, Protocol, TypeVar


class Span(Protocol):
    """What holds a file's bytes from `start` to `end`."""

    @property
    def start(self) -> int:
        """The first of the bytes."""

    @property
    def end(self) -> int:
        """One past the last of them."""


Value = TypeVar("Value", bound=Span)


class Spans(Generic[Value]):
    """Stretches of one file by their first byte, of which no two have the same. Not locked.

    They may overlap. `_starts` are sorted, and apart by the bits of the length: one that reaches into a range
    begins at most a length before it. So a look costs no more where there are more of them elsewhere.
    """

    def __init__(self) -> None:
        self._values: dict[int, Value] = {}
        self._starts: dict[int, list[int]] = {}

    def put(self, value: Value) -> None:
        """Add a stretch, in place of another with its first byte; both end behind that."""
        self.pop(value.start)
        self._values[value.start] = value
        insort(self._starts.setdefault(_bits(value), []), value.start)

    def get(self, start: int) -> Value | None:
        """Return the stretch that begins at `start`."""
        return self._values.get(start)

    def pop(self, start: int) -> Value | None:
        """Remove and return the stretch that begins at `start`."""
        value = self._values.pop(start, None)
        if value is not None:
            starts = self._starts[_bits(value)]
            del starts[bisect_right(starts, start) - 1]
        return value

    def clear(self) -> None:
        """Remove all."""
        self._values.clear()
        self._starts.clear()

    def values(self) -> Collection[Value]:
        """Return all, in no order; they must not be added to or removed meanwhile."""
        return self._values.values()

    def touching(self, start: int, end: int) -> list[Value]:
        """Return those that hold a byte from `start` to before `end`, in order of their first bytes."""
        found: list[Value] = []
        for bits, starts in self._starts.items():
            first = bisect_right(starts, start - (1 << bits))
            for index in range(first, len(starts)):
                if starts[index] >= end:
                    break
                if (value := self._values[starts[index]]).end > start:
                    found.append(value)
        return sorted(found, key=lambda value: value.start) if len(found) > 1 else found

    def __bool__(self) -> bool:
        return bool(self._values)


def _bits(value: Span) -> int:
    return (value.end - value.start).bit_length()
