"""Attributes: what is written into headers is read back, and values of other clients do no harm."""

import re
import stat

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from swiftfs.attributes import (
    NOTHING_STORED,
    NS,
    Stored,
    decode_metadata,
    decode_type,
    decode_xattr,
    encode_marker,
    encode_type,
    encode_xattr,
    format_time,
    header_to_xattr,
    is_directory_type,
    parse_last_modified,
    parse_time,
    xattr_to_header,
)
from swiftfs.namespace.entry import Defaults, file_entry, with_head
from swiftfs.objects import Attributes, ObjectInfo, ObjectName, ObjectVersion, Row
from swiftfs.store.protocol import Headers
from swiftfs.store.wire.object_headers import to_wire

UTF8 = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
TIMES = st.integers(-(10**11) * NS, 10**11 * NS)
IDS = st.integers(0, 2**32 - 2)
MODES = st.builds(
    lambda kind, bits: kind | bits,
    st.sampled_from([stat.S_IFREG, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK]),
    st.integers(0, 0o7777),
)
STORED = st.builds(
    Stored,
    mode=st.none() | MODES,
    mtime_ns=st.none() | TIMES,
    uid=st.none() | IDS,
    gid=st.none() | IDS,
    target=st.none() | UTF8.filter(lambda text: "\0" not in text),
    slo=st.none() | st.from_regex(r"[0-9a-f]{32}", fullmatch=True),
)
TYPES = st.sampled_from(["text/plain", "application/octet-stream", "text/html; charset=utf-8", "x"])
SAFE = re.compile(r"[A-Za-z0-9._+~%-]*")


@given(TYPES, STORED)
def test_attributes_are_read_back_from_a_content_type(base: str, stored: Stored) -> None:
    written = encode_type(base, stored)
    assert decode_type(written) == (base, stored)
    assert to_wire(Headers(written)) == {"Content-Type": written}


@given(STORED)
def test_parameters_need_no_quotes(stored: Stored) -> None:
    for part in encode_type("text/plain", stored).split(";")[1:]:
        name, _, value = part.partition("=")
        assert not name.startswith("swift_")
        assert SAFE.fullmatch(value)


def test_a_long_target_stays_in_the_body() -> None:
    assert "target" not in encode_type("inode/symlink", Stored(target="x" * 2000))
    assert decode_type(encode_type("inode/symlink", Stored(target="x" * 1000)))[1].target == "x" * 1000


@given(st.lists(UTF8 | st.sampled_from(["mode=rw", "mtime=", "uid=-1", "slo=x", "mode=0100644"]), max_size=5))
def test_any_content_type_can_be_read(parts: list[str]) -> None:
    written = ";".join(parts)
    base, stored = decode_type(written)
    assert decode_type(encode_type(base, stored)) == (base, stored)
    assert stored.uid is None


@given(TIMES)
@example(-1)
@example(999_999_999)
def test_times_are_exact(ns: int) -> None:
    assert parse_time(format_time(ns)) == ns


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1700000000", 1_700_000_000 * NS),
        ("1700000000.5", 1_700_000_000 * NS + NS // 2),
        (" 1.123456789123 ", 1_123_456_789),
        ("1e9", None),
        ("nan", None),
        ("", None),
        (None, None),
        ("1700000000,5", None),
    ],
)
def test_times_of_other_clients_are_read(text: str | None, ns: int | None) -> None:
    assert parse_time(text) == ns


def test_last_modified_of_a_listing_is_read() -> None:
    assert parse_last_modified("2023-11-14T22:13:20.123450") == 1_700_000_000_123_450_000
    assert parse_last_modified("1969-12-31T23:59:59.500000") == -NS // 2
    assert parse_last_modified("2023-11-14T22:13:20Z") == 1_700_000_000 * NS
    assert parse_last_modified("2023-11-14T22:13:20.123") == 1_700_000_000_123_000_000
    assert parse_last_modified("") == 0
    assert parse_last_modified("yesterday") == 0


@given(st.integers(0, 0o7777), TIMES, IDS, IDS)
def test_attributes_are_read_back_from_a_marker(bits: int, mtime_ns: int, uid: int, gid: int) -> None:
    attributes = Attributes(stat.S_IFDIR | bits, 0, mtime_ns, uid, gid)
    stored = decode_metadata(encode_marker(attributes))
    assert stored == Stored(attributes.mode, mtime_ns, uid, gid)


def test_metadata_of_other_clients_is_read() -> None:
    assert decode_metadata({"mtime": "1.5", "mode": "rw", "uid": "me", "colour": "red"}) == Stored(
        mtime_ns=1_500_000_000
    )


@pytest.mark.parametrize(
    ("content_type", "is_directory"),
    [
        ("application/directory", True),
        ("Application/Directory; charset=utf-8", True),
        ("text/directory", True),
        ("application/pseudo-folder", True),
        ("application/x-directory", True),
        ("application/x-www-form-urlencoded; charset=UTF-8", True),
        ("application/x-www-form-urlencoded", False),
        ("text/plain", False),
        ("application/directory-listing", False),
    ],
)
def test_directory_types(content_type: str, is_directory: bool) -> None:
    assert is_directory_type(content_type) == is_directory


@given(UTF8.filter(bool), UTF8.filter(bool))
def test_no_two_xattrs_share_a_header(one: str, other: str) -> None:
    headers = {xattr_to_header(f"user.{name}") for name in {one, other}} - {None}
    names = {one, other} - {"mtime", "mode", "uid", "gid"}
    assert len(headers) == len(names)


@pytest.mark.parametrize("name", ["user.", "user.mtime", "user.mode", "trusted.x", "security.x", "x"])
def test_names_outside_user_are_no_xattrs(name: str) -> None:
    assert xattr_to_header(name) is None


def test_metadata_of_our_attributes_is_no_xattr() -> None:
    assert [header_to_xattr(name) for name in ("mtime", "mode", "uid", "gid")] == [None] * 4
    assert header_to_xattr("colour") == "user.colour"


@given(st.binary(max_size=80))
@example(b"")
@example(b"data:;base64,eA==")
@example(b" outer blanks ")
@example(b"two\nlines")
@example("ümläut".encode())
def test_values_of_xattrs_are_read_back(value: bytes) -> None:
    text = encode_xattr(value)
    assert decode_xattr(text) == value
    assert to_wire(Headers("", {"x": text}))


@pytest.mark.parametrize("text", ["plain", "data:;base64,no base64!", "ümläut"])
def test_xattr_values_of_other_clients_are_their_bytes(text: str) -> None:
    assert decode_xattr(text) == text.encode()


@pytest.mark.parametrize(
    "parameter",
    [
        *("uid=4294967295", "gid=9999999999", "uid=-1", "uid=+1"),
        *("mode=0000644", "mode=0644", "mode=0030644", "mode=7777777", "mode=0170644", "mode=0200644"),
        *("rdev=4096.0", "rdev=1.1048576", "rdev=1"),
        *("target=%00", "target=a%00b", "target=%ff%fe", "target=%ed%a0%80"),
        *("slo=x", "mtime=1e9"),
    ],
)
def test_values_out_of_range_are_another_clients(parameter: str) -> None:
    assert decode_type(f"text/plain;{parameter}") == (f"text/plain;{parameter}", NOTHING_STORED)


@pytest.mark.parametrize("values", [{"uid": "4294967295"}, {"mode": "0000644"}, {"mode": "0030000"}])
def test_metadata_out_of_range_is_ignored(values: dict[str, str]) -> None:
    assert decode_metadata(values) == Stored()


@pytest.mark.parametrize(
    "header", ["a%00b", "%00", "%ff", "foo_bar", "UPPER", "%2", "x" * 256, "%c3%a9" * 126, "\udc80"]
)
def test_metadata_that_no_xattr_can_name_is_not_listed(header: str) -> None:
    assert header_to_xattr(header) is None


@given(st.text(max_size=300))
@example("")
def test_a_listed_xattr_is_found(header: str) -> None:
    name = header_to_xattr(header)
    assert name is None or (xattr_to_header(name) == header and "\0" not in name)


LINK, PIPE = stat.S_IFLNK | 0o777, stat.S_IFIFO | 0o640


@pytest.mark.parametrize(
    ("mode", "size", "target", "kind"),
    [
        (LINK, 4, "there", stat.S_IFREG),
        (LINK, 5, "there", stat.S_IFLNK),
        (LINK, 2, "é", stat.S_IFLNK),
        (LINK, 0, None, stat.S_IFREG),
        (LINK, 0, "", stat.S_IFREG),
        (LINK, 3, "", stat.S_IFREG),
        (LINK, 4095, None, stat.S_IFLNK),
        (LINK, 4096, None, stat.S_IFREG),
        (LINK, 1 << 40, "there", stat.S_IFREG),
        (PIPE, 0, None, stat.S_IFIFO),
        (PIPE, 1, None, stat.S_IFREG),
        (stat.S_IFCHR | 0o640, 1, None, stat.S_IFREG),
    ],
)
def test_the_bytes_decide_whether_a_file_is_special(
    mode: int, size: int, target: str | None, kind: int
) -> None:
    content_type = encode_type("inode/x", Stored(mode, target=target, device=259))
    row = Row("key", size, "hash", content_type, "2026-01-01T00:00:00")
    entry = file_entry("key", "box", row, Defaults(0, 0))
    assert entry.attributes.mode == kind | stat.S_IMODE(mode)
    assert entry.attributes.size == size


def test_a_head_makes_no_link_of_gigabytes() -> None:
    entry = file_entry(
        "key", "box", Row("key", 5, "hash", "text/plain", "2026-01-01T00:00:00"), Defaults(0, 0)
    )
    name = ObjectName("box", "key")
    info = ObjectInfo(ObjectVersion(name, "etag"), 1 << 40, "text/plain", 0, {"mode": f"{LINK:o}"}, {})
    assert with_head(entry, info, Defaults(0, 0)).attributes.mode == stat.S_IFREG | 0o777


@pytest.mark.parametrize(
    ("mode", "shown"),
    [
        (stat.S_IFREG | 0o4755, stat.S_IFREG | 0o755),
        (stat.S_IFREG | 0o2755, stat.S_IFREG | 0o755),
        (stat.S_IFREG | 0o1644, stat.S_IFREG | 0o1644),
        (stat.S_IFDIR | 0o2755, stat.S_IFDIR | 0o2755),
        (stat.S_IFCHR | 0o666, stat.S_IFREG | 0o666),
        (stat.S_IFBLK | 0o4660, stat.S_IFREG | 0o660),
        (PIPE, PIPE),
        (LINK, LINK),
    ],
)
def test_what_root_must_not_copy_is_not_shown(mode: int, shown: int) -> None:
    some = Attributes(mode, 0, 1, 0, 0, 5, 259)
    assert Defaults(0, 0).shown(some).mode == shown
    assert Defaults(0, 0, special=True).shown(some) == some
