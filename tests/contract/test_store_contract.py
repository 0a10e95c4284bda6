"""What every store does with objects and containers: in memory, a real Swift, and with retries."""

import os
import threading
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from support.deadlines import within
from support.stores import MODE, STRANGE_KEYS, TEXT, keys_of, md5, new_container, put, raise_first, read
from swiftfs.attributes import parse_last_modified
from swiftfs.errors import (
    AlreadyExists,
    BadName,
    BadRange,
    BadRequest,
    BodyChanged,
    Conflict,
    Corrupt,
    NameTooLong,
    NotFound,
    PreconditionFailed,
)
from swiftfs.objects import Manifest, ObjectName, Segment
from swiftfs.store.protocol import CopyRequest, Headers, ObjectStore

pytest_plugins = ["support.store_fixtures"]


def test_put_head_and_get_agree(store: ObjectStore, box: str) -> None:
    name = ObjectName(box, "d/file")
    stored = store.put(name, b"hello", replace(TEXT, content_type=MODE, metadata={"mtime": "1.5"}))
    head = store.head(name)
    body, got = read(store, name)
    assert body == b"hello"
    assert stored.version.etag == head.version.etag == got.version.etag == md5(b"hello")
    assert stored.size == head.size == got.size == 5
    assert stored.content_type == head.content_type == got.content_type == MODE
    assert stored.metadata == head.metadata == got.metadata == {"mtime": "1.5"}
    assert head.last_modified_ns == got.last_modified_ns > 10**18
    assert not head.is_slo
    assert head.dlo_prefix is None


@pytest.mark.parametrize("size", [0, 1, 65536, 3 * 1024**2 + 7])
@pytest.mark.parametrize("kind", [bytes, memoryview])
def test_bodies_of_any_size(store: ObjectStore, box: str, size: int, kind: type) -> None:
    content = os.urandom(size)
    name = ObjectName(box, "body")
    assert store.put(name, kind(content), TEXT).size == size
    assert read(store, name)[0] == content


def test_put_replaces_body_and_headers(store: ObjectStore, box: str) -> None:
    name = ObjectName(box, "o")
    store.put(name, b"old", Headers("a/b", {"old": "1"}, {"Content-Encoding": "gzip"}))
    store.put(name, b"newer", Headers("c/d", {"new": "2"}))
    info = store.head(name)
    assert (info.size, info.content_type, info.metadata, info.preserved_headers) == (
        5,
        "c/d",
        {"new": "2"},
        {},
    )


ODD_METADATA = {
    name: f"the value of {number}"
    for number, name in enumerate(
        ("my note", "größe", "grÖsse", "한글", "a(b)", "tab\tbed", "\x01\x7f", "blank ", " ", "é" * 60)
    )
}
"""Names that are no tokens of HTTP, which Swift takes from other clients nevertheless."""


def test_metadata_of_any_name(store: ObjectStore, box: str) -> None:
    name, copied = ObjectName(box, "noted"), ObjectName(box, "copied")
    headers = Headers("text/plain", {**ODD_METADATA, "plain": "1", "value": "\x01 한글\t\x7f"})
    assert store.put(name, b"hello", headers).metadata == headers.metadata
    assert store.head(name).metadata == headers.metadata
    body, got = read(store, name)
    assert (body, got.metadata, got.size) == (b"hello", headers.metadata, 5)
    changed = replace(headers, metadata={**headers.metadata, "plain": "2"})
    store.post(name, changed)
    assert store.head(name).metadata == changed.metadata
    store.copy(CopyRequest(name, copied))
    assert store.head(copied).metadata == changed.metadata
    store.copy(CopyRequest(name, copied, headers=headers))
    assert store.head(copied).metadata == headers.metadata


def test_as_much_metadata_as_swift_takes(store: ObjectStore, box: str) -> None:
    name = ObjectName(box, "much")
    preserved = dict.fromkeys(
        ("Cache-Control", "Content-Disposition", "Content-Encoding", "X-Robots-Tag"), "a"
    )
    headers = Headers("text/plain", {f"key-{number}": "v" for number in range(90)}, preserved)
    store.put(name, b"hello", headers)
    info = store.head(name)
    assert (info.metadata, info.preserved_headers, info.size) == (headers.metadata, preserved, 5)


def test_put_of_other_bytes_than_the_md5_is_of(store: ObjectStore, box: str) -> None:
    name = ObjectName(box, "changed")
    assert store.put(name, b"first", TEXT, etag=md5(b"first")).version.etag == md5(b"first")
    with pytest.raises(BodyChanged):
        store.put(name, b"second", TEXT, etag=md5(b"first"))
    assert read(store, name)[0] == b"first"


@pytest.mark.parametrize("size", [0, 4, 6])
@pytest.mark.parametrize("part", [{}, {"offset": 1, "length": 2}])
def test_get_of_an_object_of_another_size(
    store: ObjectStore, box: str, size: int, part: dict[str, int]
) -> None:
    name = ObjectName(box, "five")
    store.put(name, b"bytes", TEXT)
    assert read(store, name, size=5, **part)[1].size == 5
    with pytest.raises(PreconditionFailed):
        store.get(name, lambda *_: pytest.fail("a byte came"), size=size, **part)  # type: ignore[arg-type]
    with pytest.raises(Corrupt):  # the version is the right one: the server must have said a wrong size
        read(store, name, size=size, etag=md5(b"bytes"), **part)


def test_put_if_absent(store: ObjectStore, box: str) -> None:
    name = ObjectName(box, "once")
    store.put(name, b"first", TEXT, if_absent=True)
    with pytest.raises(AlreadyExists):
        store.put(name, b"second", TEXT, if_absent=True)
    assert read(store, name)[0] == b"first"


def test_metadata_carries_utf8_and_percent_signs(store: ObjectStore, box: str) -> None:
    name = ObjectName(box, "meta")
    metadata = {"korean": "한글 값", "percent": "%41%zz", "latin": "é", "punct.!#$&'*+^`|~": "x;y=z, w"}
    store.put(name, b"", Headers("text/plain;name=%41", metadata))
    info = store.head(name)
    assert info.metadata == metadata
    assert info.content_type == "text/plain;name=%41"
    assert read(store, name)[1].metadata == metadata


def test_metadata_names_are_lower_case_and_values_may_be_empty(store: ObjectStore, box: str) -> None:
    name = ObjectName(box, "meta")
    store.put(name, b"", Headers("a/b", {"MixedCase": "1", "empty": ""}))
    assert store.head(name).metadata == {"mixedcase": "1", "empty": ""}


@pytest.mark.parametrize(
    "headers",
    [
        Headers("text/plain\r\nX-Object-Meta-Evil: 1"),
        Headers("a/b", {"x": "line\nbreak"}),
        Headers("a/b", {"x": "nul\0"}),
        Headers("a/b", {"x": " blank"}),
        Headers("a/b", {"x": "\udc80"}),
        Headers("a/b", {"na\rme": "1"}),
        Headers("a/b", {"name:": "1"}),
        Headers("a/b", {"under_score": "1"}),
        Headers("a/b", {"": "1"}),
        Headers("a/b", {"\udce9": "1"}),
        Headers("a/b", {"na\0me": "1"}),
        Headers("a/b", preserved_headers={"X-Auth-Token": "stolen"}),
        Headers("a/b", preserved_headers={"Content-Encoding": "gzip\r\nX: y"}),
    ],
)
def test_no_header_can_be_injected(store: ObjectStore, box: str, headers: Headers) -> None:
    name = ObjectName(box, "evil")
    with pytest.raises(BadRequest):
        store.put(name, b"", headers)
    with pytest.raises(NotFound):
        store.head(name)


def test_every_name_reaches_its_own_object(store: ObjectStore, box: str) -> None:
    for key in STRANGE_KEYS:
        store.put(ObjectName(box, key), key.encode(), TEXT)
    assert keys_of(store.list_page(box)) == sorted(STRANGE_KEYS, key=str.encode)
    for key in STRANGE_KEYS:
        name = ObjectName(box, key)
        assert read(store, name)[0] == key.encode()
        assert store.head(name).version.etag == md5(key.encode())
        store.post(name, replace(TEXT, metadata={"key": "posted"}))
        copy = ObjectName(box, f"copies/{key}")
        store.copy(CopyRequest(name, copy))
        assert read(store, copy)[0] == key.encode()
    for key in STRANGE_KEYS[::2]:
        store.delete(ObjectName(box, key))
    assert store.delete_many(ObjectName(box, key) for key in STRANGE_KEYS[1::2]) == {}
    left = keys_of(store.list_page(box))
    assert left == sorted((f"copies/{key}" for key in STRANGE_KEYS), key=str.encode)


def test_impossible_names_are_refused(store: ObjectStore, box: str) -> None:
    with pytest.raises(NameTooLong):
        store.put(ObjectName(box, "x" * 1025), b"", TEXT)
    assert store.put(ObjectName(box, "é" * 512), b"", TEXT).size == 0
    for key in ("", "\0", "not utf-8: \udcff"):
        with pytest.raises(BadName):
            store.put(ObjectName(box, key), b"", TEXT)
    for container in ("", "a/b"):
        for action in actions_on_a_container(store, container):
            with pytest.raises((BadName, NotFound)):
                action()
    with pytest.raises(NameTooLong):
        store.create_container("c" * 257)


def test_an_empty_key_never_addresses_the_container(store: ObjectStore) -> None:
    box = new_container(store)
    for delete in (store.delete, lambda name: raise_first(store.delete_many([name]))):
        with pytest.raises(BadName):
            delete(ObjectName(box, ""))
    assert store.container_usage(box).objects == 0


def test_missing_objects_are_not_found(store: ObjectStore, box: str) -> None:
    for container in (box, "no-such-container"):
        for action in actions_on_an_object(store, ObjectName(container, "absent"), ObjectName(box, "target")):
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
    box = new_container(store)
    assert store.create_container(box) is False
    assert box in store.list_containers().subdirs
    store.put(ObjectName(box, "o"), b"", TEXT)
    with pytest.raises(Conflict):
        store.delete_container(box)
    store.delete(ObjectName(box, "o"))
    store.delete_container(box)
    assert box not in store.list_containers().subdirs


def test_container_metadata_is_set_and_the_rest_stays(store: ObjectStore, box: str) -> None:
    store.post_container(box, {"mtime": "1.5", "mode": "0040755"})
    store.post_container(box, {"mtime": "2.5"})
    assert store.container_usage(box).metadata == {"mtime": "2.5", "mode": "0040755"}


def test_usage(store: ObjectStore, box: str) -> None:
    put(store, box, "a", b"12345")
    put(store, box, "b", b"67")
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
    name = put(store, box, "digits", b"0123456789").name
    body, info = read(store, name, offset=offset, length=length)
    assert body == expected
    assert info.size == 10


@pytest.mark.parametrize(("body", "offset"), [(b"0123", 4), (b"0123", 9), (b"", 0), (b"", 1)])
def test_ranges_past_the_end(store: ObjectStore, box: str, body: bytes, offset: int) -> None:
    name = put(store, box, "short", body).name
    with pytest.raises(BadRange):
        read(store, name, offset=offset, length=5)


def test_get_of_a_version(store: ObjectStore, box: str) -> None:
    name = put(store, box, "o", b"one").name
    assert read(store, name, etag=md5(b"one"))[0] == b"one"
    for how in ({}, {"offset": 1}, {"length": 0}):
        with pytest.raises(PreconditionFailed):
            read(store, name, etag=md5(b"two"), **how)


def test_a_failing_sink_is_not_a_store_error(store: ObjectStore, box: str) -> None:
    name = put(store, box, "o", b"x" * 300_000).name

    def full(_offset: int, _chunk: bytes) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        store.get(name, full)
    assert read(store, name)[0] == b"x" * 300_000


def test_post_drops_what_it_does_not_send(store: ObjectStore, box: str) -> None:
    name = ObjectName(box, "o")
    kept = {"Content-Encoding": "gzip", "Cache-Control": "no-cache", "Content-Disposition": "inline"}
    store.put(name, b"body", Headers(MODE, {"a": "1", "b": "2"}, kept))
    assert store.head(name).preserved_headers == kept
    before = store.head(name)
    store.post(name, Headers("", {"b": "3"}, {"Content-Encoding": "gzip"}))
    after = store.head(name)
    assert after.metadata == {"b": "3"}
    assert after.preserved_headers == {"Content-Encoding": "gzip"}
    assert after.content_type == MODE
    assert (after.version, after.size) == (before.version, before.size)
    assert after.last_modified_ns > before.last_modified_ns
    store.post(name, Headers("image/png"))
    assert store.head(name).content_type == "image/png"
    assert [row.content_type for row in store.list_page(box).rows] == ["image/png"]
    assert read(store, name)[0] == b"body"


def test_listings_have_the_time_of_heads(store: ObjectStore, box: str) -> None:
    def check(name: ObjectName) -> int:
        (row,) = store.list_page(box, prefix=name.key).rows
        found = store.head(name).last_modified_ns
        assert parse_last_modified(row.last_modified) == found
        return found

    name, copy, large = (ObjectName(box, key) for key in ("file", "copy", "large"))
    info = store.put(name, b"body", TEXT)
    times = [check(name)]
    for headers in (Headers("", {"a": "1"}), Headers("image/png")):
        store.post(name, headers)
        times.append(check(name))
    store.put(name, b"body", TEXT)
    times.append(check(name))
    assert times == sorted(set(times))
    store.copy(CopyRequest(name, copy))
    store.put_manifest(large, Manifest((Segment(name, info.version.etag, 4),)), TEXT)
    times += [check(copy), check(large)]
    store.post(large, Headers("image/png"))
    times.append(check(large))
    assert times == sorted(set(times))


def test_many_threads_at_once(store: ObjectStore, box: str) -> None:
    contents = [os.urandom(20_000 + number) for number in range(24)]
    received: dict[int, bytes] = {}

    def work(number: int) -> None:
        name = ObjectName(box, f"t{number}")
        store.put(name, contents[number], TEXT)
        received[number] = read(store, name)[0]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(within(60))
    assert [received.get(number) for number in range(24)] == contents


def test_limits(store: ObjectStore) -> None:
    limits = store.limits()
    assert limits.is_swift
    assert limits.slo
    assert limits.bulk_delete == 10_000
    assert limits.name_bytes == 1024
    assert store.limits() is limits


def actions_on_a_container(store: ObjectStore, container: str) -> list[Callable[[], object]]:
    name = ObjectName(container, "k")
    return [
        lambda: store.put(name, b"", TEXT),
        lambda: store.head(name),
        lambda: store.delete(name),
        lambda: raise_first(store.delete_many([name])),
        lambda: store.copy(CopyRequest(name, name)),
        lambda: store.create_container(container),
        lambda: store.container_usage(container),
        lambda: store.list_page(container),
        lambda: store.delete_container(container),
    ]


def actions_on_an_object(
    store: ObjectStore, name: ObjectName, target: ObjectName
) -> list[Callable[[], object]]:
    return [
        lambda: store.head(name),
        lambda: store.get(name, lambda _offset, _chunk: None),
        lambda: store.post(name, TEXT),
        lambda: store.copy(CopyRequest(name, target)),
        lambda: store.delete(name),
        lambda: store.manifest(name),
    ]
