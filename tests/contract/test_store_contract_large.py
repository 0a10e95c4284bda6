"""What every store does with copies and large objects."""

import time
from base64 import b64encode

import pytest
from msgspec.structs import replace

from support.noise import noise
from support.stores import MODE, STRANGE_KEYS, TEXT, keys_of, md5, new_container, put, read
from swiftfs.errors import AlreadyExists, BadRequest, NotFound, PreconditionFailed
from swiftfs.objects import NO_OBJECT, Manifest, ObjectName, Segment
from swiftfs.store.protocol import CopyRequest, Headers, ObjectStore

pytest_plugins = ["support.store_fixtures"]


@pytest.mark.matrix(1)
def test_strange_names_as_copy_target_and_segment(store: ObjectStore, box: str) -> None:
    plain = put(store, box, "plain", b"x")
    for key in STRANGE_KEYS:
        target = ObjectName(box, key)
        store.copy(CopyRequest(plain.name, target))
        slo = ObjectName(box, "slo")
        made = Segment(target, plain.etag, 1)
        store.put_manifest(slo, Manifest((made,)), TEXT)
        assert store.manifest(slo).segments == (made,)


def test_delete_at_is_kept(store: ObjectStore, box: str) -> None:
    name, copy = ObjectName(box, "o"), ObjectName(box, "copy")
    store.put(name, b"", replace(TEXT, preserved_headers={"X-Delete-At": "4102444800"}))
    store.copy(CopyRequest(name, copy))
    assert (
        store.head(name).preserved_headers
        == store.head(copy).preserved_headers
        == {"X-Delete-At": "4102444800"}
    )
    store.copy(CopyRequest(name, copy, headers=TEXT))
    assert store.head(copy).preserved_headers == {}


def test_copy_keeps_the_headers(store: ObjectStore, box: str) -> None:
    source, target = ObjectName(box, "a"), ObjectName(new_container(store), "d/b")
    store.put(source, b"body", Headers(MODE, {"k": "한"}, {"Content-Encoding": "gzip"}))
    version = store.copy(CopyRequest(source, target))
    info = store.head(target)
    assert version == info.version
    assert (info.content_type, info.metadata, info.preserved_headers) == (
        MODE,
        {"k": "한"},
        {"Content-Encoding": "gzip"},
    )
    assert store.head(source).metadata == {"k": "한"}


def test_a_copy_that_ends_keeps_the_rest(store: ObjectStore, box: str) -> None:
    source, target, back = (ObjectName(box, key) for key in ("source", "target", "back"))
    store.put(source, b"data", Headers("a/b;mtime=1", {"note": "1"}, {"Content-Encoding": "gzip"}))
    moment = int(time.time()) + 86_400
    store.copy(CopyRequest(source, target, manifest_only=True, delete_at=moment))
    info = store.head(target)
    assert (info.content_type, info.metadata) == ("a/b;mtime=1", {"note": "1"})
    assert info.preserved_headers == {"Content-Encoding": "gzip", "X-Delete-At": str(moment)}
    assert store.head(source).preserved_headers == {"Content-Encoding": "gzip"}
    # A POST without it takes it off, so that a copy of this one stays.
    store.post(target, Headers("a/b;mtime=1", {"note": "1"}, {"Content-Encoding": "gzip"}))
    store.copy(CopyRequest(target, back, manifest_only=True))
    assert store.head(back).preserved_headers == {"Content-Encoding": "gzip"}


def test_copy_of_a_version(store: ObjectStore, box: str) -> None:
    source, target = ObjectName(box, "a"), ObjectName(box, "b")
    old = store.put(source, b"old", TEXT).version.etag
    assert store.copy(CopyRequest(source, target, etag=old)).etag == old
    store.put(source, b"newer", TEXT)
    with pytest.raises(PreconditionFailed):
        store.copy(CopyRequest(source, target, etag=old))
    assert read(store, target)[0] == b"old"


def test_copy_of_a_part(store: ObjectStore, box: str) -> None:
    """Swift passes the range on to the GET of the source, and makes the MD5 of what it stores."""
    source, target = ObjectName(box, "a"), ObjectName(box, "b")
    expiring = Headers(MODE, {"k": "1"}, {"X-Delete-At": "4102444800"})
    etag = store.put(source, b"0123456789", expiring).version.etag
    copied = store.copy(CopyRequest(source, target, headers=TEXT, etag=etag, span=(2, 7)))
    assert copied.etag == md5(b"23456")
    data, info = read(store, target)
    assert (data, info.size, info.version) == (b"23456", 5, copied)
    assert (info.content_type, info.metadata, info.preserved_headers) == (TEXT.content_type, {}, {})
    store.put(source, b"0123456789+", TEXT)
    with pytest.raises(PreconditionFailed):
        store.copy(CopyRequest(source, ObjectName(box, "c"), etag=etag, span=(2, 7)))
    assert "c" not in keys_of(store.list_page(box))


def test_copy_of_a_part_of_a_large_object(store: ObjectStore, box: str) -> None:
    """The copy is a plain object, of which a manifest can be made, and copies again."""
    name, target, again = (ObjectName(box, key) for key in ("large", "part", "again"))
    made = [put(store, box, f"s/{number}", body) for number, body in enumerate((b"abcdef", b"012345"))]
    etag = store.put_manifest(name, Manifest(tuple(made)), TEXT).version.etag
    copied = store.copy(CopyRequest(name, target, headers=TEXT, etag=etag, span=(4, 9)))
    assert copied.etag == md5(b"ef012")
    data, info = read(store, target)
    assert (data, info.is_slo, info.version.etag) == (b"ef012", False, copied.etag)
    # Its metadata has the ETag of the large object, with which Swift compares.
    whole = store.copy(CopyRequest(target, ObjectName(box, "whole"), headers=TEXT, etag=copied.etag))
    assert whole.etag == copied.etag
    less = store.copy(
        CopyRequest(target, ObjectName(box, "less"), headers=TEXT, etag=copied.etag, span=(1, 3))
    )
    assert less.etag == md5(b"f0")
    part = Segment(target, copied.etag, 5)
    store.put_manifest(again, Manifest((part, made[0])), TEXT)
    assert read(store, again)[0] == b"ef012abcdef"
    store.put_manifest(name, Manifest(tuple(made[:1] * 2)), TEXT)
    with pytest.raises(PreconditionFailed):
        store.copy(CopyRequest(name, again, headers=TEXT, etag=etag, span=(4, 9)))


def test_copy_of_a_large_object_is_refused_by_the_etag_of_a_listing(store: ObjectStore, box: str) -> None:
    """Nor is a DLO copied by that of the empty object that it is."""
    part, large, dlo, target = (ObjectName(box, key) for key in ("parts/1", "large", "dlo", "target"))
    made = store.put(part, b"part", TEXT)
    store.put_manifest(large, Manifest((Segment(part, made.version.etag, 4),)), TEXT)
    store.put(dlo, b"", Headers("x/y", {}, {"X-Object-Manifest": f"{box}/parts/"}))
    for row in store.list_page(box).rows:
        if row.key in ("large", "dlo"):
            with pytest.raises(PreconditionFailed):
                store.copy(CopyRequest(ObjectName(box, row.key), target, etag=row.hash))
    assert "target" not in keys_of(store.list_page(box))


def test_put_manifest_if_absent(store: ObjectStore, box: str) -> None:
    part, name = ObjectName(box, "part"), ObjectName(box, "large")
    manifest = Manifest((Segment(part, store.put(part, b"part", TEXT).version.etag, 4),))
    first = store.put_manifest(name, manifest, TEXT, if_absent=True)
    assert first.version.etag == manifest.etag
    with pytest.raises(AlreadyExists):
        store.put_manifest(name, Manifest(manifest.segments * 2), TEXT, if_absent=True)
    assert read(store, name)[0] == b"part"


def test_copy_with_headers_has_only_those(store: ObjectStore, box: str) -> None:
    source, target = ObjectName(box, "a"), ObjectName(box, "b")
    store.put(source, b"body", Headers(MODE, {"old": "1"}, {"Content-Encoding": "gzip"}))
    store.copy(
        CopyRequest(
            source, target, headers=Headers("x/y;mtime=2", {"new": "2"}, {"Cache-Control": "no-store"})
        )
    )
    info = store.head(target)
    assert (info.content_type, info.metadata) == ("x/y;mtime=2", {"new": "2"})
    assert info.preserved_headers == {"Cache-Control": "no-store"}
    assert read(store, target)[0] == b"body"
    store.copy(CopyRequest(source, source, headers=Headers("", {"self": "1"})))
    assert (store.head(source).content_type, store.head(source).metadata) == (MODE, {"self": "1"})


def test_slo_of_whole_and_partial_segments(store: ObjectStore, box: str) -> None:
    first, second = put(store, box, "s/1", b"abcdef"), put(store, box, "s/2", b"0123456789")
    manifest = Manifest((first, replace(second, first=2, length=3), replace(first, first=5, length=1)))
    name = ObjectName(box, "slo")
    stored = store.put_manifest(name, manifest, Headers(MODE, {"mtime": "1"}))
    head = store.head(name)
    assert stored.version == head.version
    assert stored.is_slo
    assert head.is_slo
    assert '"' not in head.version.etag
    assert stored.size == head.size == manifest.size == 10
    assert (head.content_type, head.metadata) == (MODE, {"mtime": "1"})
    assert store.manifest(name) == manifest
    assert read(store, name)[0] == b"abcdef234f"
    assert read(store, name, offset=4, length=4, etag=head.version.etag)[0] == b"ef23"
    with pytest.raises(PreconditionFailed):
        read(store, name, etag=first.etag)
    row = next(row for row in store.list_page(box).rows if row.key == "slo")
    assert (row.size, row.content_type) == (10, MODE)


def test_copies_of_an_slo(store: ObjectStore, box: str) -> None:
    first, second = put(store, box, "s/1", b"abc"), put(store, box, "s/2", b"defgh")
    manifest = Manifest((first, replace(second, first=1, length=2)))
    slo, shared, fresh, flat = (ObjectName(box, key) for key in ("slo", "shared", "fresh", "flat"))
    original = store.put_manifest(slo, manifest, Headers(MODE, {"a": "1"}))
    version = store.copy(CopyRequest(slo, shared, manifest_only=True))
    assert version.etag == original.version.etag == store.head(shared).version.etag
    assert store.manifest(shared) == manifest
    assert (store.head(shared).content_type, store.head(shared).metadata) == (MODE, {"a": "1"})
    store.copy(CopyRequest(slo, fresh, manifest_only=True, headers=Headers("n/n", {"b": "2"})))
    assert (store.head(fresh).content_type, store.head(fresh).metadata) == ("n/n", {"b": "2"})
    with pytest.raises(PreconditionFailed):
        store.copy(CopyRequest(slo, shared, manifest_only=True, etag=first.etag))
    assert store.copy(CopyRequest(slo, shared, manifest_only=True, etag=version.etag)) == version
    store.delete(slo)
    assert read(store, shared)[0] == read(store, fresh)[0] == b"abcef"
    store.copy(CopyRequest(shared, flat))
    info = store.head(flat)
    assert (info.is_slo, info.size, info.version.etag) == (False, 5, md5(b"abcef"))


def test_an_slo_inside_an_slo(store: ObjectStore, box: str) -> None:
    part = put(store, box, "s/1", b"abc")
    inner = ObjectName(box, "inner")
    info = store.put_manifest(inner, Manifest((part, part)), TEXT)
    whole = Segment(inner, info.version.etag, 6, nested=True)
    nested = Manifest((whole, replace(part, first=1, length=1)))
    outer = ObjectName(box, "outer")
    store.put_manifest(outer, nested, TEXT)
    assert store.manifest(outer) == nested
    assert read(store, outer)[0] == b"abcabcb"


def inline(body: bytes) -> Segment:
    return Segment(NO_OBJECT, md5(body), len(body), data=b64encode(body).decode())


def test_bytes_in_the_manifest(store: ObjectStore, box: str) -> None:
    first, second = put(store, box, "s/1", b"abc"), put(store, box, "s/2", b"defgh")
    manifest = Manifest((inline(b"<"), first, inline(b"-+-"), replace(second, first=1, length=2)))
    name, shared, flat = (ObjectName(box, key) for key in ("slo", "shared", "flat"))
    info = store.put_manifest(name, manifest, TEXT)
    assert (info.version.etag, info.size) == (manifest.etag, 9)
    assert store.head(name).version == info.version
    assert store.manifest(name) == manifest
    assert manifest.names == {first.name, second.name}
    assert read(store, name)[0] == b"<abc-+-ef"
    assert read(store, name, offset=3, length=3)[0] == b"c-+"
    store.copy(CopyRequest(name, shared, manifest_only=True))
    assert store.manifest(shared) == manifest
    store.copy(CopyRequest(shared, flat))
    assert read(store, flat)[0] == b"<abc-+-ef"


def test_many_bytes_in_the_manifest(store: ObjectStore, box: str) -> None:
    body = noise(1_000_000)
    manifest = Manifest((put(store, box, "s/1", b"abc"), inline(body), inline(b"end")))
    name = ObjectName(box, "slo")
    store.put_manifest(name, manifest, TEXT)
    assert store.manifest(name) == manifest
    assert read(store, name)[0] == b"abc" + body + b"end"


def test_post_keeps_an_slo(store: ObjectStore, box: str) -> None:
    part = put(store, box, "s/1", b"abc")
    name = ObjectName(box, "slo")
    before = store.put_manifest(name, Manifest((part,)), Headers(MODE, {"a": "1"}))
    store.post(name, Headers("x/y", {"b": "2"}))
    after = store.head(name)
    assert (after.version, after.size, after.is_slo) == (before.version, 3, True)
    assert (after.content_type, after.metadata) == ("x/y", {"b": "2"})


def test_a_wrong_manifest_is_refused(store: ObjectStore, box: str) -> None:
    part = put(store, box, "s/1", b"abc")
    name = ObjectName(box, "slo")
    absent = replace(part, name=ObjectName(box, "absent"))
    for wrong in (replace(part, etag="0" * 32), replace(part, size=4), absent):
        with pytest.raises(BadRequest):
            store.put_manifest(name, Manifest((part, wrong)), TEXT)
        with pytest.raises(NotFound):
            store.head(name)


def test_a_plain_object_has_no_manifest(store: ObjectStore, box: str) -> None:
    name = put(store, box, "plain", b"[]").name
    with pytest.raises(BadRequest):
        store.manifest(name)


def test_dlo(store: ObjectStore, box: str) -> None:
    put(store, box, "parts é/1", b"abc")
    put(store, box, "parts é/2", b"de")
    name, copy = ObjectName(box, "dlo"), ObjectName(box, "copy")
    value = f"{box}/parts%20%C3%A9/"
    stored = store.put(name, b"", replace(TEXT, preserved_headers={"X-Object-Manifest": value}))
    assert stored.dlo_prefix == ObjectName(box, "parts é/")
    info = store.head(name)
    assert (info.size, info.dlo_prefix, info.is_slo) == (5, ObjectName(box, "parts é/"), False)
    assert info.preserved_headers == {"X-Object-Manifest": value}
    assert read(store, name)[0] == b"abcde"
    assert read(store, name, offset=2, length=2)[0] == b"cd"
    assert [row.size for row in store.list_page(box).rows if row.key == "dlo"] == [0]
    store.copy(CopyRequest(name, copy, manifest_only=True))
    assert store.head(copy).preserved_headers == {"X-Object-Manifest": value}
    store.copy(CopyRequest(name, copy))
    assert (store.head(copy).size, store.head(copy).preserved_headers) == (5, {})
    store.post(name, TEXT)
    assert store.head(name).size == 0


def test_delete_of_an_slo_leaves_its_segments(store: ObjectStore, box: str) -> None:
    part = put(store, box, "s/1", b"abc")
    for delete in (store.delete, lambda name: store.delete_many([name])):
        name = ObjectName(box, "slo")
        store.put_manifest(name, Manifest((part,)), TEXT)
        delete(name)
        assert keys_of(store.list_page(box)) == ["s/1"]
