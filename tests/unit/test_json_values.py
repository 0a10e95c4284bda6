"""Values of dataclasses as JSON: what is written is read again, and anything else is refused."""

from collections.abc import Mapping
from dataclasses import field

import pytest

from swiftfs.json_values import JsonValues
from swiftfs.lazy_dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Point:
    """The first kind of a union."""

    x: int
    y: float = 0.0
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Path:
    """The second kind, with all that an annotation may be."""

    points: tuple[Point, ...]
    ends: tuple[str, int] = ("", 0)
    notes: Mapping[str, str] = field(default_factory=dict)
    data: bytes = b""
    is_closed: bool = False


Shape = Point | Path

VALUES = JsonValues(
    keys={Path: {"is_closed": "closed"}}, kinds={Point: "P", Path: "L"}, repeated={Point: "label"}
)

EVERYTHING = Path((Point(1), Point(-2, 0.5, 'a "ü"')), ("e", 3), {"a": "b"}, b"\0x", is_closed=True)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Point(1), '{"x":1,"kind":"P"}'),
        (Path(()), '{"points":[],"kind":"L"}'),
        (
            EVERYTHING,
            '{"points":[{"x":1},{"x":-2,"y":0.5,"label":"a \\"\\u00fc\\""}],"ends":["e",3],"notes":{"a":"b"},'
            '"data":"AHg=","closed":true,"kind":"L"}',
        ),
    ],
)
def test_a_value_is_read_as_it_was_written(value: Shape, text: str) -> None:
    assert VALUES.write(value, Shape) == text
    assert VALUES.read(text, Shape) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        '{"x":1}',
        '{"kind":"P"}',
        '{"x":1,"kind":"Q"}',
        '{"x":1,"z":2,"kind":"P"}',
        '{"x":"1","kind":"P"}',
        '{"x":1.5,"kind":"P"}',
        '{"x":true,"kind":"P"}',
        '{"x":1,"y":null,"kind":"P"}',
        '{"x":1,"label":2,"kind":"P"}',
        '{"points":{},"kind":"L"}',
        '{"points":[1],"kind":"L"}',
        '{"points":[],"ends":["e"],"kind":"L"}',
        '{"points":[],"notes":{"a":1},"kind":"L"}',
        '{"points":[],"notes":["a"],"kind":"L"}',
        '{"points":[],"data":"?","kind":"L"}',
        '{"points":[],"closed":1,"kind":"L"}',
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  each in its own words
        VALUES.read(text, Shape)


def test_keys_that_belong_to_no_field_can_be_skipped() -> None:
    assert JsonValues(skip_unknown=True).read('{"x":1,"z":2}', Point) == Point(1)
