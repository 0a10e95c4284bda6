"""What every store promises: one suite for the one in memory, the real Swift, and Swift behind retries."""

import hashlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from memory_store import MemoryStore

from swiftfs.demo.server import ServerSettings, SwiftServer
from swiftfs.errors import (
    AlreadyExists,
    BadName,
    BadRange,
    BadRequest,
    Conflict,
    NameTooLong,
    NotFound,
    PreconditionFailed,
    StoreError,
)
from swiftfs.model import Limits, Manifest, ObjectInfo, ObjectName, Page, Segment
from swiftfs.store import FOREGROUND, RetryingStore, SwiftStore, open_account
from swiftfs.store.protocol import Headers, ObjectStore

TEXT = Headers("text/plain")
MODE = "text/plain;mtime=1700000000.123456789;mode=0100644;uid=1000"
STRANGE_KEYS = (
    "with space",
    "new\nline",
    "tab\tand\rreturn",
    "per%20cent%",
    "ques?tion=1&a",
    "ha#sh",
    "a//b",
    "a/",
    "/leading",
    "//two",
    ".",
    "..",
    "d/.",
    "d/..",
    "d/../escape",
    "./x",
    "../x",
    "...",
    "%2E%2E",
    "%2e",
    "semi;colon,comma:",
    "[brackets]{}|\\^`",
    "plus+and&",
    "\"quotes'",
    "한글/日本語",
    "emoji-😀",
    "e\u0301 or \u00e9",
    "~tilde*",
    "\x01control\x7f",
)

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def server() -> Iterator[SwiftServer]:
    with SwiftServer() as running:
        yield running


@pytest.fixture(scope="module")
def small_server() -> Iterator[SwiftServer]:
    """A server whose listings have 5 rows, without bulk-delete."""
    with SwiftServer(settings=ServerSettings(listing_limit=5, without=frozenset({"bulk"}))) as running:
        yield running


@pytest.fixture(scope="module", params=["memory", "swift", "retrying"])
def store(request: pytest.FixtureRequest) -> Iterator[ObjectStore]:
    opened: ObjectStore
    if request.param == "memory":
        opened = MemoryStore()
    else:
        server: SwiftServer = request.getfixturevalue("server")
        opened = SwiftStore(open_account(server.environment()))
        if request.param == "retrying":
            opened = RetryingStore(opened, FOREGROUND)
    yield opened
    opened.close()


@pytest.fixture(scope="module", params=["memory", "swift"])
def small_store(request: pytest.FixtureRequest) -> Iterator[ObjectStore]:
    opened: ObjectStore
    if request.param == "memory":
        opened = MemoryStore(limits=Limits(listing=5, bulk_delete=0))
    else:
        server: SwiftServer = request.getfixturevalue("small_server")
        opened = SwiftStore(open_account(server.environment()))
    yield opened
    opened.close()


@pytest.fixture
def box(store: ObjectStore) -> str:
    return _new_container(store)


@pytest.fixture
def small_box(small_store: ObjectStore) -> str:
    return _new_container(small_store)


def _new_container(store: ObjectStore) -> str:
    name = f"contract-{next(_numbers)}"
    assert store.create_container(name)
    return name


def _read(store: ObjectStore, name: ObjectName, **how: object) -> tuple[bytes, ObjectInfo]:
    parts: dict[int, bytes] = {}
    info = store.get(name, parts.__setitem__, **how)  # type: ignore[arg-type]
    places = sorted(parts)
    for place, following in itertools.pairwise(places):
        assert place + len(parts[place]) == following
    if places:
        assert places[0] == how.get("offset", 0)
    return b"".join(parts[place] for place in places), info


def _keys(page: Page) -> list[str]:
    return [row.key for row in page.rows]


def _pages(list_page: Callable[[str], Page]) -> list[Page]:
    pages = [list_page("")]
    while not pages[-1].last:
        pages.append(list_page(pages[-1].marker))
    return pages


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _put(store: ObjectStore, box: str, key: str, body: bytes = b"") -> Segment:
    name = ObjectName(box, key)
    return Segment(name, store.put(name, body, TEXT).version.etag, len(body))


def test_put_head_and_get_agree(store: ObjectStore, box: str) -> None:
    name = ObjectName(box, "d/file")
    put = store.put(name, b"hello", replace(TEXT, content_type=MODE, metadata={"mtime": "1.5"}))
    head = store.head(name)
    body, got = _read(store, name)
    assert body == b"hello"
    assert put.version.etag == head.version.etag == got.version.etag == _md5(b"hello")
    assert put.size == head.size == got.size == 5
    assert put.content_type == head.content_type == got.content_type == MODE
    assert put.metadata == head.metadata == got.metadata == {"mtime": "1.5"}
    assert head.last_modified_ns == got.last_modified_ns > 10**18
    assert not head.is_slo
    assert head.dlo_prefix is None


@pytest.mark.parametrize("size", [0, 1, 65536, 3 * 1024**2 + 7])
@pytest.mark.parametrize("kind", [bytes, memoryview])
def test_bodies_of_any_size(store: ObjectStore, box: str, size: int, kind: type) -> None:
    content = os.urandom(size)
    name = ObjectName(box, "body")
    assert store.put(name, kind(content), TEXT).size == size
    assert _read(store, name)[0] == content


def test_put_replaces_body_and_headers(store: ObjectStore, box: str) -> None:
    name = ObjectName(box, "o")
    store.put(name, b"old", Headers("a/b", {"old": "1"}, {"Content-Encoding": "gzip"}))
    store.put(name, b"newer", Headers("c/d", {"new": "2"}))
    info = store.head(name)
    assert (info.size, info.content_type, info.metadata, info.kept) == (5, "c/d", {"new": "2"}, {})


def test_put_if_absent(store: ObjectStore, box: str) -> None:
    name = ObjectName(box, "once")
    store.put(name, b"first", TEXT, if_absent=True)
    with pytest.raises(AlreadyExists):
        store.put(name, b"second", TEXT, if_absent=True)
    assert _read(store, name)[0] == b"first"


def test_metadata_carries_utf8_and_percent_signs(store: ObjectStore, box: str) -> None:
    name = ObjectName(box, "meta")
    metadata = {"korean": "한글 값", "percent": "%41%zz", "latin": "é", "punct.!#$&'*+^`|~": "x;y=z, w"}
    store.put(name, b"", Headers("text/plain;name=%41", metadata))
    info = store.head(name)
    assert info.metadata == metadata
    assert info.content_type == "text/plain;name=%41"
    assert _read(store, name)[1].metadata == metadata


def test_metadata_names_are_lower_case_and_empty_values_vanish(store: ObjectStore, box: str) -> None:
    name = ObjectName(box, "meta")
    store.put(name, b"", Headers("a/b", {"MixedCase": "1", "empty": ""}))
    assert store.head(name).metadata == {"mixedcase": "1"}


@pytest.mark.parametrize(
    "headers",
    [
        Headers("text/plain\r\nX-Object-Meta-Evil: 1"),
        Headers("a/b", {"x": "line\nbreak"}),
        Headers("a/b", {"x": "nul\0"}),
        Headers("a/b", {"x": " blank"}),
        Headers("a/b", {"x": "\udc80"}),
        Headers("a/b", {"na me": "1"}),
        Headers("a/b", {"name:": "1"}),
        Headers("a/b", {"under_score": "1"}),
        Headers("a/b", {"": "1"}),
        Headers("a/b", {"\u00e9": "1"}),
        Headers("a/b", kept={"X-Auth-Token": "stolen"}),
        Headers("a/b", kept={"Content-Encoding": "gzip\r\nX: y"}),
    ],
)
def test_no_header_can_be_smuggled_in(store: ObjectStore, box: str, headers: Headers) -> None:
    name = ObjectName(box, "evil")
    with pytest.raises(BadRequest):
        store.put(name, b"", headers)
    with pytest.raises(NotFound):
        store.head(name)


def test_every_name_reaches_its_own_object(store: ObjectStore, box: str) -> None:
    for key in STRANGE_KEYS:
        store.put(ObjectName(box, key), key.encode(), TEXT)
    assert _keys(store.list_page(box)) == sorted(STRANGE_KEYS, key=str.encode)
    for key in STRANGE_KEYS:
        name = ObjectName(box, key)
        assert _read(store, name)[0] == key.encode()
        assert store.head(name).version.etag == _md5(key.encode())
        store.post(name, replace(TEXT, metadata={"key": "posted"}))
        copy = ObjectName(box, f"copies/{key}")
        store.copy(name, copy)
        assert _read(store, copy)[0] == key.encode()
    for key in STRANGE_KEYS[::2]:
        store.delete(ObjectName(box, key))
    assert store.delete_many(ObjectName(box, key) for key in STRANGE_KEYS[1::2]) == {}
    left = _keys(store.list_page(box))
    assert left == sorted((f"copies/{key}" for key in STRANGE_KEYS), key=str.encode)


def test_strange_names_as_copy_target_and_segment(store: ObjectStore, box: str) -> None:
    plain = _put(store, box, "plain", b"x")
    for key in STRANGE_KEYS:
        target = ObjectName(box, key)
        store.copy(plain.name, target)
        slo = ObjectName(box, "slo")
        made = Segment(target, plain.etag, 1)
        store.put_manifest(slo, Manifest((made,)), TEXT)
        assert store.manifest(slo).segments == (made,)


def test_names_that_cannot_be(store: ObjectStore, box: str) -> None:
    with pytest.raises(NameTooLong):
        store.put(ObjectName(box, "é" * 512 + "x"), b"", TEXT)
    assert store.put(ObjectName(box, "é" * 512), b"", TEXT).size == 0
    for key in ("", "\0", "not utf-8: \udcff"):
        with pytest.raises(BadName):
            store.put(ObjectName(box, key), b"", TEXT)
    for container in ("", "a/b"):
        with pytest.raises(BadName):
            store.put(ObjectName(container, "k"), b"", TEXT)
    with pytest.raises(NameTooLong):
        store.create_container("c" * 257)


def test_an_empty_key_never_addresses_the_container(store: ObjectStore) -> None:
    box = _new_container(store)
    for delete in (store.delete, lambda name: _raise_first(store.delete_many([name]))):
        with pytest.raises(BadName):
            delete(ObjectName(box, ""))
    assert store.container_usage(box).objects == 0


def _raise_first(failures: dict[ObjectName, StoreError]) -> None:
    for error in failures.values():
        raise error


def test_what_is_absent_is_not_found(store: ObjectStore, box: str) -> None:
    for container in (box, "no-such-container"):
        name = ObjectName(container, "absent")
        actions: list[Callable[[], object]] = [
            lambda name=name: store.head(name),
            lambda name=name: store.get(name, lambda _offset, _chunk: None),
            lambda name=name: store.post(name, TEXT),
            lambda name=name: store.copy(name, ObjectName(box, "target")),
            lambda name=name: store.delete(name),
            lambda name=name: store.manifest(name),
        ]
        for action in actions:
            with pytest.raises(NotFound):
                action()
    no_container: list[Callable[[], object]] = [
        lambda: store.list_page("no-such-container"),
        lambda: store.container_usage("no-such-container"),
        lambda: store.delete_container("no-such-container"),
        lambda: store.put(ObjectName("no-such-container", "o"), b"", TEXT),
    ]
    for action in no_container:
        with pytest.raises(NotFound):
            action()


def test_containers(store: ObjectStore) -> None:
    box = _new_container(store)
    assert store.create_container(box) is False
    assert box in store.list_containers().subdirs
    store.put(ObjectName(box, "o"), b"", TEXT)
    with pytest.raises(Conflict):
        store.delete_container(box)
    store.delete(ObjectName(box, "o"))
    store.delete_container(box)
    assert box not in store.list_containers().subdirs


def test_usage(store: ObjectStore, box: str) -> None:
    _put(store, box, "a", b"12345")
    _put(store, box, "b", b"67")
    usage = store.container_usage(box)
    assert (usage.bytes_used, usage.objects) == (7, 2)
    assert (usage.quota_bytes, usage.quota_objects) == (None, None)
    assert store.account_usage().quota_bytes is None


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [
        (0, None, b"0123456789"),
        (0, 4, b"0123"),
        (3, 4, b"3456"),
        (9, 1, b"9"),
        (3, None, b"3456789"),
        (0, 10, b"0123456789"),
        (0, 99, b"0123456789"),
        (7, 99, b"789"),
        (2, 0, b""),
    ],
)
def test_ranges(store: ObjectStore, box: str, offset: int, length: int | None, expected: bytes) -> None:
    name = _put(store, box, "digits", b"0123456789").name
    body, info = _read(store, name, offset=offset, length=length)
    assert body == expected
    assert info.size == 10


@pytest.mark.parametrize(("body", "offset"), [(b"0123", 4), (b"0123", 9), (b"", 0), (b"", 1)])
def test_ranges_past_the_end(store: ObjectStore, box: str, body: bytes, offset: int) -> None:
    name = _put(store, box, "short", body).name
    with pytest.raises(BadRange):
        _read(store, name, offset=offset, length=5)


def test_get_of_a_version(store: ObjectStore, box: str) -> None:
    name = _put(store, box, "o", b"one").name
    assert _read(store, name, etag=_md5(b"one"))[0] == b"one"
    for how in ({}, {"offset": 1}, {"length": 0}):
        with pytest.raises(PreconditionFailed):
            _read(store, name, etag=_md5(b"two"), **how)


def test_a_failing_sink_is_not_a_store_error(store: ObjectStore, box: str) -> None:
    name = _put(store, box, "o", b"x" * 300_000).name

    def full(_offset: int, _chunk: bytes) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        store.get(name, full)
    assert _read(store, name)[0] == b"x" * 300_000


def test_post_drops_what_it_does_not_send(store: ObjectStore, box: str) -> None:
    name = ObjectName(box, "o")
    kept = {"Content-Encoding": "gzip", "Cache-Control": "no-cache", "Content-Disposition": "inline"}
    store.put(name, b"body", Headers(MODE, {"a": "1", "b": "2"}, kept))
    assert store.head(name).kept == kept
    before = store.head(name)
    store.post(name, Headers("", {"b": "3"}, {"Content-Encoding": "gzip"}))
    after = store.head(name)
    assert after.metadata == {"b": "3"}
    assert after.kept == {"Content-Encoding": "gzip"}
    assert after.content_type == MODE
    assert (after.version, after.size) == (before.version, before.size)
    assert after.last_modified_ns > before.last_modified_ns
    store.post(name, Headers("image/png"))
    assert store.head(name).content_type == "image/png"
    assert [row.content_type for row in store.list_page(box).rows] == ["image/png"]
    assert _read(store, name)[0] == b"body"


def test_delete_at_is_kept(store: ObjectStore, box: str) -> None:
    name, copy = ObjectName(box, "o"), ObjectName(box, "copy")
    store.put(name, b"", replace(TEXT, kept={"X-Delete-At": "4102444800"}))
    store.copy(name, copy)
    assert store.head(name).kept == store.head(copy).kept == {"X-Delete-At": "4102444800"}
    store.copy(name, copy, headers=TEXT)
    assert store.head(copy).kept == {}


def test_copy_keeps_the_headers(store: ObjectStore, box: str) -> None:
    source, target = ObjectName(box, "a"), ObjectName(_new_container(store), "d/b")
    store.put(source, b"body", Headers(MODE, {"k": "한"}, {"Content-Encoding": "gzip"}))
    version = store.copy(source, target)
    info = store.head(target)
    assert version == info.version
    assert (info.content_type, info.metadata, info.kept) == (MODE, {"k": "한"}, {"Content-Encoding": "gzip"})
    assert store.head(source).metadata == {"k": "한"}


def test_copy_with_headers_has_only_those(store: ObjectStore, box: str) -> None:
    source, target = ObjectName(box, "a"), ObjectName(box, "b")
    store.put(source, b"body", Headers(MODE, {"old": "1"}, {"Content-Encoding": "gzip"}))
    store.copy(source, target, headers=Headers("x/y;mtime=2", {"new": "2"}, {"Cache-Control": "no-store"}))
    info = store.head(target)
    assert (info.content_type, info.metadata) == ("x/y;mtime=2", {"new": "2"})
    assert info.kept == {"Cache-Control": "no-store"}
    assert _read(store, target)[0] == b"body"
    store.copy(source, source, headers=Headers("", {"self": "1"}))
    assert (store.head(source).content_type, store.head(source).metadata) == (MODE, {"self": "1"})


def test_slo_of_whole_and_partial_segments(store: ObjectStore, box: str) -> None:
    first, second = _put(store, box, "s/1", b"abcdef"), _put(store, box, "s/2", b"0123456789")
    manifest = Manifest((first, replace(second, first=2, length=3), replace(first, first=5, length=1)))
    name = ObjectName(box, "slo")
    put = store.put_manifest(name, manifest, Headers(MODE, {"mtime": "1"}))
    head = store.head(name)
    assert put.version == head.version
    assert put.is_slo
    assert head.is_slo
    assert '"' not in head.version.etag
    assert put.size == head.size == manifest.size == 10
    assert (head.content_type, head.metadata) == (MODE, {"mtime": "1"})
    assert store.manifest(name) == manifest
    assert _read(store, name)[0] == b"abcdef234f"
    assert _read(store, name, offset=4, length=4, etag=head.version.etag)[0] == b"ef23"
    with pytest.raises(PreconditionFailed):
        _read(store, name, etag=first.etag)
    row = next(row for row in store.list_page(box).rows if row.key == "slo")
    assert (row.size, row.content_type) == (10, MODE)


def test_copies_of_an_slo(store: ObjectStore, box: str) -> None:
    first, second = _put(store, box, "s/1", b"abc"), _put(store, box, "s/2", b"defgh")
    manifest = Manifest((first, replace(second, first=1, length=2)))
    slo, shared, fresh, flat = (ObjectName(box, key) for key in ("slo", "shared", "fresh", "flat"))
    original = store.put_manifest(slo, manifest, Headers(MODE, {"a": "1"}))
    version = store.copy(slo, shared, manifest_only=True)
    assert version.etag == original.version.etag == store.head(shared).version.etag
    assert store.manifest(shared) == manifest
    assert (store.head(shared).content_type, store.head(shared).metadata) == (MODE, {"a": "1"})
    store.copy(slo, fresh, manifest_only=True, headers=Headers("n/n", {"b": "2"}))
    assert (store.head(fresh).content_type, store.head(fresh).metadata) == ("n/n", {"b": "2"})
    store.delete(slo)
    assert _read(store, shared)[0] == _read(store, fresh)[0] == b"abcef"
    store.copy(shared, flat)
    info = store.head(flat)
    assert (info.is_slo, info.size, info.version.etag) == (False, 5, _md5(b"abcef"))


def test_an_slo_inside_an_slo(store: ObjectStore, box: str) -> None:
    part = _put(store, box, "s/1", b"abc")
    inner = ObjectName(box, "inner")
    info = store.put_manifest(inner, Manifest((part, part)), TEXT)
    nested = Manifest((Segment(inner, info.version.etag, 6), replace(part, first=1, length=1)))
    outer = ObjectName(box, "outer")
    store.put_manifest(outer, nested, TEXT)
    assert store.manifest(outer) == nested
    assert _read(store, outer)[0] == b"abcabcb"


def test_post_keeps_an_slo(store: ObjectStore, box: str) -> None:
    part = _put(store, box, "s/1", b"abc")
    name = ObjectName(box, "slo")
    before = store.put_manifest(name, Manifest((part,)), Headers(MODE, {"a": "1"}))
    store.post(name, Headers("x/y", {"b": "2"}))
    after = store.head(name)
    assert (after.version, after.size, after.is_slo) == (before.version, 3, True)
    assert (after.content_type, after.metadata) == ("x/y", {"b": "2"})


def test_a_wrong_manifest_is_refused(store: ObjectStore, box: str) -> None:
    part = _put(store, box, "s/1", b"abc")
    name = ObjectName(box, "slo")
    absent = replace(part, name=ObjectName(box, "absent"))
    for wrong in (replace(part, etag="0" * 32), replace(part, size=4), absent):
        with pytest.raises(BadRequest):
            store.put_manifest(name, Manifest((part, wrong)), TEXT)
        with pytest.raises(NotFound):
            store.head(name)


def test_a_plain_object_has_no_manifest(store: ObjectStore, box: str) -> None:
    name = _put(store, box, "plain", b"[]").name
    with pytest.raises(BadRequest):
        store.manifest(name)


def test_dlo(store: ObjectStore, box: str) -> None:
    _put(store, box, "parts é/1", b"abc")
    _put(store, box, "parts é/2", b"de")
    name, copy = ObjectName(box, "dlo"), ObjectName(box, "copy")
    value = f"{box}/parts%20%C3%A9/"
    put = store.put(name, b"", replace(TEXT, kept={"X-Object-Manifest": value}))
    assert put.dlo_prefix == f"{box}/parts é/"
    info = store.head(name)
    assert (info.size, info.dlo_prefix, info.is_slo) == (5, f"{box}/parts é/", False)
    assert info.kept == {"X-Object-Manifest": value}
    assert _read(store, name)[0] == b"abcde"
    assert _read(store, name, offset=2, length=2)[0] == b"cd"
    assert [row.size for row in store.list_page(box).rows if row.key == "dlo"] == [0]
    store.copy(name, copy, manifest_only=True)
    assert store.head(copy).kept == {"X-Object-Manifest": value}
    store.copy(name, copy)
    assert (store.head(copy).size, store.head(copy).kept) == (5, {})
    store.post(name, TEXT)
    assert store.head(name).size == 0


def test_delete_of_an_slo_leaves_its_segments(store: ObjectStore, box: str) -> None:
    part = _put(store, box, "s/1", b"abc")
    for delete in (store.delete, lambda name: store.delete_many([name])):
        name = ObjectName(box, "slo")
        store.put_manifest(name, Manifest((part,)), TEXT)
        delete(name)
        assert _keys(store.list_page(box)) == ["s/1"]


def test_delete_many(store: ObjectStore, box: str) -> None:
    other = _new_container(store)
    names = [ObjectName(box, f"n/{number}") for number in range(200)] + [ObjectName(other, "o")]
    for name in names:
        store.put(name, b"", TEXT)
    absent = [ObjectName(box, f"absent/{number}") for number in range(12_000)]
    gone = [ObjectName("no-such-container", "x")]
    in_memory = isinstance(store, MemoryStore)
    assert store.delete_many([*names[:-1], *absent[: 12_000 if in_memory else 300], *gone, names[-1]]) == {}
    assert store.list_page(box).rows == store.list_page(other).rows == ()
    assert store.delete_many([]) == {}


def test_one_directory_of_a_listing(store: ObjectStore, box: str) -> None:
    keys = ["a", "d", "d/", "d/1", "d/2", "d/sub/3", "d-0", "d.txt", "e//f", "z"]
    for key in keys:
        _put(store, box, key)
    page = store.list_page(box, delimiter="/")
    assert (_keys(page), page.subdirs) == (["a", "d", "d-0", "d.txt", "z"], ("d/", "e/"))
    assert page.last
    page = store.list_page(box, prefix="d/", delimiter="/")
    assert (_keys(page), page.subdirs) == (["d/", "d/1", "d/2"], ("d/sub/",))
    page = store.list_page(box, prefix="e/", delimiter="/")
    assert (_keys(page), page.subdirs) == ([], ("e//",))
    assert _keys(store.list_page(box)) == sorted(keys)
    assert _keys(store.list_page(box, prefix="d/s")) == ["d/sub/3"]
    assert _keys(store.list_page(box, marker="d/2")) == ["d/sub/3", "e//f", "z"]
    assert _keys(store.list_page(box, prefix="absent/")) == []


def test_rows_of_a_listing(store: ObjectStore, box: str) -> None:
    name = ObjectName(box, "o")
    store.put(name, b"hello", replace(TEXT, content_type=MODE))
    (row,) = store.list_page(box).rows
    assert (row.key, row.size, row.hash, row.content_type) == ("o", 5, _md5(b"hello"), MODE)
    store.post(name, replace(TEXT, content_type=MODE))
    (again,) = store.list_page(box).rows
    assert again.last_modified > row.last_modified


def test_a_listing_in_asked_pages(store: ObjectStore, box: str) -> None:
    keys = [f"k{number}" for number in range(7)]
    for key in keys:
        _put(store, box, key)
    pages = _pages(lambda marker: store.list_page(box, marker=marker, limit=3))
    assert [_keys(page) for page in pages] == [keys[:3], keys[3:6], keys[6:]]


def test_the_servers_own_pages(small_store: ObjectStore, small_box: str) -> None:
    keys = [f"{number:02}/{leaf}" for number in range(6) for leaf in "ab"] + ["é\n", "日本"]
    for key in keys:
        _put(small_store, small_box, key)
    pages = _pages(lambda marker: small_store.list_page(small_box, marker=marker))
    assert [key for page in pages for key in _keys(page)] == keys
    assert [len(page.rows) for page in pages] == [5, 5, 4]
    pages = _pages(lambda marker: small_store.list_page(small_box, delimiter="/", marker=marker, limit=99))
    assert [subdir for page in pages for subdir in page.subdirs] == [f"{number:02}/" for number in range(6)]
    assert [key for page in pages for key in _keys(page)] == ["é\n", "日本"]
    assert small_store.limits().listing == 5


def test_full_last_page_is_followed_by_an_empty_one(small_store: ObjectStore, small_box: str) -> None:
    for number in range(5):
        _put(small_store, small_box, f"k{number}")
    first = small_store.list_page(small_box)
    assert (len(first.rows), first.last) == (5, False)
    second = small_store.list_page(small_box, marker=first.marker)
    assert (second.rows, second.last) == ((), True)


def test_containers_in_pages(small_store: ObjectStore) -> None:
    made = [f"paged-{number}" for number in range(12)]
    for name in made:
        small_store.create_container(name)
    pages = _pages(lambda marker: small_store.list_containers(marker=marker))
    listed = [name for page in pages for name in page.subdirs]
    assert set(made) <= set(listed)
    assert listed == sorted(listed)


def test_the_size_of_a_dlo_longer_than_a_page(small_store: ObjectStore, small_box: str) -> None:
    for number in range(12):
        _put(small_store, small_box, f"p/{number:02}", b"abc")
    name = ObjectName(small_box, "dlo")
    small_store.put(name, b"", replace(TEXT, kept={"X-Object-Manifest": f"{small_box}/p/"}))
    assert small_store.head(name).size == 36
    body, info = _read(small_store, name)
    assert (body, info.size) == (b"abc" * 12, 36)


def test_deletes_without_bulk(small_store: ObjectStore, small_box: str) -> None:
    names = [_put(small_store, small_box, f"n{number}").name for number in range(20)]
    assert small_store.limits().bulk_delete == 0
    assert small_store.delete_many([*names, ObjectName(small_box, "absent")]) == {}
    assert small_store.list_page(small_box).rows == ()


def test_many_threads_at_once(store: ObjectStore, box: str) -> None:
    contents = [os.urandom(20_000 + number) for number in range(24)]
    read: dict[int, bytes] = {}

    def work(number: int) -> None:
        name = ObjectName(box, f"t{number}")
        store.put(name, contents[number], TEXT)
        read[number] = _read(store, name)[0]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [read.get(number) for number in range(24)] == contents


def test_limits(store: ObjectStore) -> None:
    limits = store.limits()
    assert limits.is_swift
    assert limits.slo
    assert limits.bulk_delete == 10_000
    assert limits.name_bytes == 1024
    assert store.limits() is limits
