"""Entries of pending changes are packed, and come back as they were."""

import stat
import sys

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import fields

from swiftfs.attributes import Stored
from swiftfs.namespace.entry import Entry, PackedEntry, packed, unpacked
from swiftfs.objects import Attributes, ObjectName
from swiftfs.store.protocol import ObjectMeta

texts = st.text(max_size=20)
numbers = st.integers(0, 2**64)
maybe_number = st.none() | numbers
headers = st.dictionaries(texts, texts, max_size=3)
stored = st.builds(
    Stored,
    maybe_number,
    st.none() | st.integers(-(2**63), 2**63),
    maybe_number,
    maybe_number,
    st.none() | texts,
    st.none() | texts,
    maybe_number,
)
entries = st.builds(
    Entry,
    texts,
    st.none() | st.builds(ObjectName, texts, texts),
    st.builds(Attributes, *[numbers] * 2, st.integers(-(2**63), 2**63), *[numbers] * 4),
    etag=texts,
    hash=texts,
    last_modified=texts,
    media_type=texts,
    target=st.none() | texts,
    is_slo=st.none() | st.booleans(),
    complete=st.booleans(),
    meta=st.none() | st.builds(ObjectMeta, texts, stored, headers, headers),
    hinted=st.booleans(),
    missing=st.booleans(),
)


@given(entries)
def test_an_entry_comes_back_as_it_was(entry: Entry) -> None:
    shown, text = packed(entry), repr(entry)
    assert unpacked(shown) is entry
    del entry
    assert repr(unpacked(shown)) == text


def test_everybody_gets_the_same_entry_while_somebody_has_it() -> None:
    one = PackedEntry(file_entry())
    first = one.unpack()
    assert one.unpack() is first
    assert unpacked(one) is first
    assert unpacked(first) is first
    assert unpacked(None) is None


def test_files_of_one_folder_share_what_they_have_in_common() -> None:
    one, other = PackedEntry(file_entry("one.png")), PackedEntry(file_entry("other.png"))
    assert one._common is other._common
    assert sys.getsizeof(one) + sys.getsizeof(one._numbers) < 150


def file_entry(name: str = "holiday.png") -> Entry:
    attributes = Attributes(
        stat.S_IFREG | 0o644, 4711, 1_712_345_678_901_234_567, 501, 20, 123456789012345678
    )
    meta = ObjectMeta("image/png", Stored(attributes.mode, attributes.mtime_ns, 501, 20))
    return Entry(
        name,
        ObjectName("pictures", f"2026/summer/{name}"),
        attributes,
        media_type="image/png",
        is_slo=None,
        meta=meta,
    )


def test_a_new_field_must_be_packed_too() -> None:
    counts = [len(fields(kind)) for kind in (Entry, Attributes, ObjectMeta, Stored)]
    # `atime_ns` and `ctime_ns` are only in what stat(2) returns, never in an entry.
    assert counts == [13, 7 + 2, 4, 7], "pack the new field, and count it here"
