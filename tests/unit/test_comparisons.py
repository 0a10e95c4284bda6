"""What is printed when a comparison of large values fails."""

from collections.abc import Callable

import pytest

from support.comparisons import MOST_LINES
from support.noise import noise

SIZE = 2**18


@pytest.fixture(autouse=True)
def on_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run as CI does, where pytest prints the whole of each difference."""
    monkeypatch.setenv("CI", "true")


def explanation(left: object, right: object) -> list[str]:
    with pytest.raises(AssertionError) as failure:
        assert left == right
    return str(failure.value).splitlines()


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_of_large_bytes_the_first_difference_is_printed(kind: Callable[[bytes], object]) -> None:
    found = noise(4 * SIZE)
    wanted = found[: 3 * SIZE] + b"changed" + found[3 * SIZE + 7 :]
    lines = explanation(kind(found), kind(wanted))
    assert f"first difference at byte {3 * SIZE}; from byte {3 * SIZE - 16} on:" in lines[1]
    assert repr(found[3 * SIZE - 16 : 3 * SIZE + 16]) in lines[2]
    assert repr(wanted[3 * SIZE - 16 : 3 * SIZE + 16]) in lines[3]
    assert len(lines) == 4


def test_of_bytes_that_are_cut_the_lengths_are_printed() -> None:
    found = noise(SIZE)
    lines = explanation(found[:-5], found)
    assert f"{SIZE - 5} bytes == {SIZE} bytes" in lines[1]
    assert f"first difference at byte {SIZE - 5}" in lines[2]


def test_of_a_large_text_the_first_difference_is_printed() -> None:
    lines = explanation("a" * SIZE + "b", "a" * SIZE + "c")
    assert f"first difference at character {SIZE}" in lines[1]


def test_of_large_values_in_containers_the_place_is_printed() -> None:
    found = noise(SIZE)
    lines = explanation({"a": [found, found], "b": 1}, {"a": [found, found[1:]], "c": 1})
    text = "\n".join(lines)
    assert "only on the left: 'b'" in text
    assert "only on the right: 'c'" in text
    assert f"['a'][1]: {SIZE} bytes == {SIZE - 1} bytes" in text
    assert "['a'][1]: first difference at byte 0" in text
    assert "[0]" not in text


def test_of_many_names_a_few_are_printed() -> None:
    names = [f"file{number:05}" for number in range(20_000)]
    assert "only on the left: 'extra'" in explanation({*names, "extra"}, {*names})[1]
    lines = explanation(names, names[1:])
    assert "20000 items == 19999 items" in lines[1]
    assert len(lines) == MOST_LINES + 2
    assert "and more" in lines[-1]


def test_values_of_other_types_are_told_apart() -> None:
    assert "list ['aaa" in explanation(["a" * SIZE], ("a" * SIZE,))[1]


def test_small_values_are_left_to_pytest() -> None:
    assert "At index 1 diff: 2 != 3" in "\n".join(explanation([1, 2], [1, 3]))
