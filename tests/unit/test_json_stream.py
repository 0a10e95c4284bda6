"""Lists of entries are read as they arrive, with the result of reading them whole."""

import json
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swiftfs.errors import Corrupt, TimedOut
from swiftfs.objects import Limits
from swiftfs.store.wire.info import UNKNOWN, read_limits
from swiftfs.store.wire.json_stream import MAX_ENTRY, iter_entries, parse_small
from swiftfs.store.wire.listings import MAX_ROWS, PAGE_BYTES, read_page

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
ROW = {"name": "a", "bytes": 1, "hash": "h", "content_type": "t", "last_modified": "2020"}


def cut(body: bytes, size: int) -> list[bytes]:
    return [body[start : start + size] for start in range(0, len(body), size)]


def rows(first: int, count: int) -> bytes:
    return ",".join(json.dumps({**ROW, "name": f"{first + n:07}"}) for n in range(count)).encode()


@pytest.mark.usual
@given(
    entries=st.lists(st.dictionaries(st.text(max_size=8), VALUES, max_size=4), max_size=8),
    size=st.integers(1, 60),
    spaced=st.booleans(),
    escaped=st.booleans(),
)
def test_any_list_in_any_pieces(entries: list[object], size: int, spaced: bool, escaped: bool) -> None:
    text = json.dumps(entries, indent=1 if spaced else None, ensure_ascii=escaped)
    body = text.encode("utf-8", "surrogatepass")
    try:
        body.decode()
    except UnicodeDecodeError:
        return
    assert list(iter_entries(cut(body, size), "c")) == entries


@pytest.mark.usual
@settings(max_examples=300, deadline=None)
@given(body=st.binary(max_size=40) | st.text('[]{}",: a1').map(str.encode), size=st.integers(1, 9))
def test_anything_else_is_corrupt(body: bytes, size: int) -> None:
    try:
        expected = json.loads(body.decode())
    except (ValueError, RecursionError):
        expected = None
    if isinstance(expected, list) and all(isinstance(one, dict) for one in expected):
        assert list(iter_entries(cut(body, size), "c")) == expected
        return
    with pytest.raises(Corrupt) as caught:
        list(iter_entries(cut(body, size), "c"))
    assert str(caught.value).isprintable()


def test_an_entry_has_a_longest_size() -> None:
    with pytest.raises(Corrupt, match="is not JSON"):
        list(iter_entries([b'[{"a": "', *[b"x" * 1000] * (MAX_ENTRY // 1000 + 2), b'"}]'], "c"))


def test_many_values_are_not_parsed() -> None:
    assert parse_small(b'[1, {"a": 2}]', 10) == [1, {"a": 2}]
    with pytest.raises(ValueError, match="too many"):
        parse_small(b"[" + b"{}," * 10, 10)


def test_a_page_that_takes_too_long_is_what_has_come() -> None:
    """A slow link can list a folder nevertheless, a page of what it carries in the time of a call."""

    def slow() -> Iterator[bytes]:
        yield b"[" + rows(0, 3) + b","
        raise TimedOut("slow")

    page = read_page(slow(), "c", marker="", limit=0, limits=Limits())
    assert (len(page.rows), page.last, page.marker) == (3, False, "0000002")
    with pytest.raises(TimedOut):
        read_page(iter_of_nothing(), "c", marker="", limit=0, limits=Limits())


def iter_of_nothing() -> Iterator[bytes]:
    yield b"["
    raise TimedOut("slow")


def test_a_page_has_a_longest_size() -> None:
    page = read_page([b"[" + rows(0, MAX_ROWS + 5) + b"]"], "c", marker="", limit=0, limits=UNKNOWN)
    assert (len(page.rows), page.last) == (MAX_ROWS, False)
    blanks = [b" " * 2**20] * (PAGE_BYTES // 2**20 + 2)
    page = read_page([b"[" + rows(0, 2) + b",", *blanks], "c", marker="", limit=0, limits=Limits())
    assert (len(page.rows), page.last) == (2, False)


def test_a_full_page_is_read_to_its_end() -> None:
    """Otherwise its connection could not be used again."""
    pieces = iter([b"[" + rows(0, MAX_ROWS), b"]", b"\n"])
    page = read_page(pieces, "c", marker="", limit=0, limits=Limits())
    assert (len(page.rows), page.last, list(pieces)) == (MAX_ROWS, False, [])


def test_absurd_limits_are_cut() -> None:
    body = json.dumps({"swift": {"max_object_name_length": 10**30, "container_listing_limit": 10**15}})
    limits = read_limits(body.encode(), {})
    assert (limits.listing, limits.listing_is_cut, limits.name_bytes) == (10_000, True, 65_536)
