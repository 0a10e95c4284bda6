"""A pytest plugin that explains failed comparisons of large values.

Under CI pytest prints the whole difference. Its time grows with the square of the size: 8 KiB take more than
a minute, and of a megabyte nothing is printed before the time limit.
"""

import itertools
from collections.abc import Generator, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from reprlib import Repr

import pytest

LARGE = 4 * 1024
"""Sum of the sizes (see `_size`) from which on a comparison is explained here; of less pytest says more."""
ITEM = 8
"""What an item without a length of its own adds to a size."""
MOST_LINES = 20
AROUND = 16
"""Bytes or characters to print on each side of the first difference."""
BINARY = (bytes, bytearray, memoryview)

_short = Repr()
_short.maxstring = _short.maxother = 100


class _Explained(Exception):
    """Ends the call of the hook before pytest's own implementation is called."""


@pytest.hookimpl(wrapper=True)
def pytest_assertrepr_compare() -> Generator[None, list[list[str]], list[list[str]]]:
    try:
        return (yield)
    except _Explained as explained:
        return [list(explained.args)]


@pytest.hookimpl(tryfirst=True, specname="pytest_assertrepr_compare")
def pytest_explain_large(op: str, left: object, right: object) -> None:
    """Explain a failed `==`; pytest finds this function by the beginning of its name."""
    if op == "==" and _size(left) + _size(right) >= LARGE:
        lines = list(itertools.islice(differences(left, right), MOST_LINES + 1))
        if len(lines) > MOST_LINES:
            lines[MOST_LINES:] = ["and more"]
        raise _Explained("two large values are equal, but are not:", *lines)


def differences(left: object, right: object, where: str = "") -> Iterator[str]:
    """Yield the differences of two values, a line each; `where` is their place in what was compared."""
    place = f"{where}: " if where else ""
    if isinstance(left, BINARY) and isinstance(right, BINARY):
        yield from _text_differences(bytes(left), bytes(right), place, "byte")
    elif isinstance(left, str) and isinstance(right, str):
        yield from _text_differences(left, right, place, "character")
    elif type(left) is not type(right):
        names = type(left).__name__, type(right).__name__
        yield f"{place}{names[0]} {_short.repr(left)} == {names[1]} {_short.repr(right)}"
    elif isinstance(left, Mapping) and isinstance(right, Mapping):
        yield from _only(left.keys(), right.keys(), place)
        for key in [key for key in left if key in right]:
            yield from differences(left[key], right[key], f"{where}[{_short.repr(key)}]")
    elif isinstance(left, AbstractSet) and isinstance(right, AbstractSet):
        yield from _only(left, right, place)
    elif isinstance(left, Sequence) and isinstance(right, Sequence):
        if len(left) != len(right):
            yield f"{place}{len(left)} items == {len(right)} items"
        for number, (one, other) in enumerate(zip(left, right, strict=False)):
            yield from differences(one, other, f"{where}[{number}]")
    elif left != right:
        yield f"{place}{_short.repr(left)} == {_short.repr(right)}"


def _text_differences(left: bytes | str, right: bytes | str, place: str, unit: str) -> Iterator[str]:
    if left == right:
        return
    if len(left) != len(right):
        yield f"{place}{len(left)} {unit}s == {len(right)} {unit}s"
    at = _common_length(left, right)
    begins = max(0, at - AROUND)
    yield f"{place}first difference at {unit} {at}; from {unit} {begins} on:"
    yield f"  {left[begins : at + AROUND]!r} =="
    yield f"  {right[begins : at + AROUND]!r}"


def _common_length(left: bytes | str, right: bytes | str) -> int:
    """Return how many bytes or characters at the beginning are equal."""
    equal, end = 0, min(len(left), len(right))
    while equal < end:
        middle = (equal + end + 1) // 2
        if left[equal:middle] == right[equal:middle]:
            equal = middle
        else:
            end = middle - 1
    return equal


def _only(left: AbstractSet[object], right: AbstractSet[object], place: str) -> Iterator[str]:
    for side, extra in (("left", left - right), ("right", right - left)):
        for one in extra:
            yield f"{place}only on the {side}: {_short.repr(one)}"


def _size(value: object) -> int:
    """Return about how many characters are printed of a value: of texts the length, of containers the sum."""
    if isinstance(value, (str, bytes, bytearray, memoryview)):
        return len(value)
    if isinstance(value, Mapping):
        return sum(_size(one) for pair in value.items() for one in pair)
    if isinstance(value, (Sequence, AbstractSet)) and not isinstance(value, range):
        return ITEM + sum(map(_size, value))
    return ITEM
