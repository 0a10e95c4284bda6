"""Ranges of a file's bytes, found by the bytes they contain."""

from bisect import bisect_right, insort
from collections.abc import Collection
from typing import Generic, Protocol, TypeVar


class Span(Protocol):
    """An object that has a file's bytes from `start` to `end`."""

    @property
    def start(self) -> int:
        """The first of the bytes."""

    @property
    def end(self) -> int:
        """One past the last of them."""


Value = TypeVar("Value", bound=Span)


class Spans(Generic[Value]):
    """Spans of one file by their first bytes, which are all different. Not locked.

    Spans may overlap. `_starts` has one sorted list for each bit length of a span's length. A span that
    reaches into a range begins at most its length before it, so the time of a search does not depend on the
    number of spans elsewhere.
    """

    def __init__(self) -> None:
        self._values: dict[int, Value] = {}
        self._starts: dict[int, list[int]] = {}

    def put(self, value: Value) -> None:
        """Add a span, which is not empty; replace one with the same first byte."""
        self.pop(value.start)
        self._values[value.start] = value
        insort(self._starts.setdefault(_bits(value), []), value.start)

    def get(self, start: int) -> Value | None:
        """Return the span that begins at `start`, or None."""
        return self._values.get(start)

    def pop(self, start: int) -> Value | None:
        """Remove and return the span that begins at `start`, or return None."""
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
        """Return all spans, in no order. None may be added or removed while the result is used."""
        return self._values.values()

    def touching(self, start: int, end: int) -> list[Value]:
        """Return the spans with a byte from `start` to before `end`, in the order of their first bytes."""
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
