"""What every store does with the older versions of objects: in memory, a real Swift, and with retries."""

import pytest

from support.stores import MODE, TEXT, md5, new_container, read
from support.versions import set_versioning
from swiftfs.attributes import parse_last_modified
from swiftfs.errors import NotFound, PreconditionFailed
from swiftfs.objects import History, Manifest, ObjectName, OlderName, Segment, VersionRow
from swiftfs.store.protocol import CopyRequest, Headers, ObjectStore, iter_versions

pytest_plugins = ["support.store_fixtures", "support.version_fixtures"]


def versions(store: ObjectStore, container: str, prefix: str = "", limit: int = 0) -> list[VersionRow]:
    """Return all versions of the objects whose keys begin with `prefix`."""
    if not limit:
        return list(iter_versions(store, container, prefix))
    found: list[VersionRow] = []
    marker = ("", "")
    while True:
        page = store.list_versions(
            container, prefix=prefix, marker=marker[0], version_marker=marker[1], limit=limit
        )
        found += page.rows
        if page.last:
            return found
        marker = page.marker, page.version_marker


def older(name: ObjectName, row: VersionRow) -> OlderName:
    return OlderName(name.container, name.key, row.version_id)


def test_a_container_says_whether_it_keeps_versions(
    request: pytest.FixtureRequest, versioned_store: ObjectStore, versioned_box: str
) -> None:
    plain = new_container(versioned_store)
    assert versioned_store.container_usage(plain).history is History.NONE
    assert versioned_store.container_usage(versioned_box).history is History.KEPT
    set_versioning(request, versioned_store, versioned_box, enabled=False)
    assert versioned_store.container_usage(versioned_box).history is History.KEPT


def test_each_version_is_listed_the_newest_first(versioned_store: ObjectStore, versioned_box: str) -> None:
    name = ObjectName(versioned_box, "d/file")
    versioned_store.put(name, b"one", Headers(MODE))
    versioned_store.put(name, b"three", TEXT)
    versioned_store.delete(name)
    deleted, second, first = versions(versioned_store, versioned_box, "d/")
    assert (deleted.is_deletion, deleted.is_latest) == (True, True)
    assert [(one.is_deletion, one.is_latest) for one in (second, first)] == [(False, False)] * 2
    assert (first.row.key, first.row.size, first.row.hash, first.row.content_type) == (
        *("d/file", 3, md5(b"one")),
        MODE,
    )
    assert (second.row.size, second.row.hash) == (5, md5(b"three"))
    assert float(first.version_id) < float(second.version_id) < float(deleted.version_id)
    assert parse_last_modified(first.row.last_modified) == pytest.approx(
        float(first.version_id) * 1e9, abs=1e5
    )
    with pytest.raises(NotFound):
        versioned_store.head(name)
    assert [row for row in versioned_store.list_page(versioned_box).rows if row.key == name.key] == []


def test_an_older_version_is_read(versioned_store: ObjectStore, versioned_box: str) -> None:
    name = ObjectName(versioned_box, "a file?x=1")
    versioned_store.put(name, b"the older bytes", Headers(MODE, {"note": "1"}))
    versioned_store.put(name, b"the newer ones", TEXT)
    _, row = versions(versioned_store, versioned_box)
    version = older(name, row)
    info = versioned_store.head(version)
    assert (info.size, info.content_type, info.metadata, info.is_symlink) == (15, MODE, {"note": "1"}, False)
    assert info.version.name == version
    assert read(versioned_store, version)[0] == b"the older bytes"
    part, got = read(versioned_store, version, offset=4, length=5, etag=info.version.etag, size=15)
    assert (bytes(part[-5:]), got.size) == (b"older", 15)
    current = versioned_store.head(name)
    assert (current.size, current.is_symlink) == (14, False)
    assert read(versioned_store, name)[0] == b"the newer ones"


def test_a_version_that_does_not_exist(versioned_store: ObjectStore, versioned_box: str) -> None:
    name = ObjectName(versioned_box, "file")
    versioned_store.put(name, b"bytes", TEXT)
    versioned_store.delete(name)
    deleted, _ = versions(versioned_store, versioned_box)
    for number in ("1600000000.00000", deleted.version_id):
        with pytest.raises(NotFound):
            versioned_store.head(OlderName(*(versioned_box, "file"), number))


def test_a_version_is_copied_to_its_name(versioned_store: ObjectStore, versioned_box: str) -> None:
    name = ObjectName(versioned_box, "file")
    versioned_store.put(name, b"one", Headers(MODE, {"note": "1"}))
    versioned_store.put(name, b"two", TEXT)
    first = versions(versioned_store, versioned_box)[-1]
    assert versioned_store.copy(CopyRequest(older(name, first), name, manifest_only=True)).etag == md5(b"one")
    info = versioned_store.head(name)
    assert (info.size, info.content_type, info.metadata) == (3, MODE, {"note": "1"})
    versioned_store.delete(name)
    versioned_store.copy(CopyRequest(older(name, first), name))
    assert read(versioned_store, name)[0] == b"one"
    assert len(versions(versioned_store, versioned_box)) == 5


@pytest.mark.parametrize("times", [1, 2])
def test_a_copy_is_of_the_current_version(
    versioned_store: ObjectStore, versioned_box: str, times: int
) -> None:
    source, target = ObjectName(versioned_box, "old"), ObjectName(versioned_box, "new")
    for body in (b"one", b"two"):
        versioned_store.put(source, body, Headers(MODE, {"note": "1"}))
    for _ in range(times):  # the second time the store knows the container
        assert versioned_store.copy(CopyRequest(source, target, manifest_only=True)).etag == md5(b"two")
    versioned_store.delete(source)
    info = versioned_store.head(target)
    assert (info.size, info.content_type, info.metadata) == (3, MODE, {"note": "1"})
    assert read(versioned_store, target)[0] == b"two"


def test_an_object_from_before_is_copied_and_kept(
    request: pytest.FixtureRequest, versioned_store: ObjectStore
) -> None:
    box = new_container(versioned_store)
    name, target = ObjectName(box, "file"), ObjectName(box, "copy")
    versioned_store.put(name, b"before", TEXT)
    set_versioning(request, versioned_store, box, enabled=True)
    versioned_store.copy(CopyRequest(name, target, manifest_only=True))
    assert read(versioned_store, target)[0] == b"before"
    (row,) = versions(versioned_store, box, "file")
    assert (row.version_id, row.is_latest) == ("null", True)
    assert read(versioned_store, older(name, row))[0] == b"before"
    versioned_store.put(name, b"after", TEXT)
    _, row = versions(versioned_store, box, "file")
    assert read(versioned_store, older(name, row))[0] == b"before"


def test_an_older_large_object_is_read_and_copied(versioned_store: ObjectStore, versioned_box: str) -> None:
    name, plain = ObjectName(versioned_box, "large"), new_container(versioned_store)
    parts = [ObjectName(plain, f"part-{number}") for number in range(2)]
    bodies = [b"first" * 10, b"second" * 10]
    for part, body in zip(parts, bodies, strict=True):
        versioned_store.put(part, body, TEXT)
    manifest = Manifest(
        tuple(Segment(part, md5(body), len(body)) for part, body in zip(parts, bodies, strict=True))
    )
    versioned_store.put_manifest(name, manifest, Headers(MODE))
    versioned_store.put(name, b"small", TEXT)
    row = versions(versioned_store, versioned_box)[-1]
    version = older(name, row)
    assert row.row.size == 110
    info = versioned_store.head(version)
    assert (info.is_slo, info.size, info.version.etag) == (True, 110, manifest.etag)
    assert versioned_store.manifest(version) == manifest
    assert read(versioned_store, version)[0] == b"".join(bodies)
    assert read(versioned_store, version, offset=48, length=5, etag=manifest.etag)[0][-5:] == b"stsec"
    versioned_store.check_manifest(info.version)
    assert versioned_store.copy(CopyRequest(version, name, manifest_only=True)).etag == manifest.etag
    assert versioned_store.manifest(name) == manifest


@pytest.mark.matrix(4)
@pytest.mark.parametrize("limit", [1, 2, 3])
def test_pages_of_versions(versioned_store: ObjectStore, versioned_box: str, limit: int) -> None:
    for key in ("a", "b", "b/x", "bc"):
        for body in (b"1", b"2"):
            versioned_store.put(ObjectName(versioned_box, key), body, TEXT)
    versioned_store.delete(ObjectName(versioned_box, "b"))
    whole = versions(versioned_store, versioned_box)
    assert [one.row.key for one in whole] == ["a"] * 2 + ["b"] * 3 + ["b/x"] * 2 + ["bc"] * 2
    paged = versions(versioned_store, versioned_box, limit=limit)
    assert [one.version_id for one in paged] == [one.version_id for one in whole]


@pytest.mark.parametrize("limit", [1, 2, 0])
def test_a_delimiter_folds_folders(versioned_store: ObjectStore, versioned_box: str, limit: int) -> None:
    for key in ("d/a", "d/b/x", "d/b/y", "d/b0", "d/c/z", "e"):
        versioned_store.put(ObjectName(versioned_box, key), b"1", TEXT)
    versioned_store.delete(ObjectName(versioned_box, "d/b/x"))
    marker, keys = ("", ""), []
    subdirs: list[str] = []
    while True:
        page = versioned_store.list_versions(
            versioned_box,
            prefix="d/",
            delimiter="/",
            marker=marker[0],
            version_marker=marker[1],
            limit=limit,
        )
        keys += [one.row.key for one in page.rows]
        subdirs += page.subdirs
        if page.last:
            break
        marker = page.marker, page.version_marker
    assert (keys, subdirs) == (["d/a", "d/b0"], ["d/b/", "d/c/"])


def test_versions_stay_when_versioning_was_ended(
    request: pytest.FixtureRequest, versioned_store: ObjectStore, versioned_box: str
) -> None:
    name = ObjectName(versioned_box, "file")
    versioned_store.put(name, b"one", TEXT)
    set_versioning(request, versioned_store, versioned_box, enabled=False)
    versioned_store.put(name, b"two", TEXT)
    current, first = versions(versioned_store, versioned_box)
    assert (current.version_id, current.is_latest, first.is_latest) == ("null", True, False)
    assert read(versioned_store, older(name, first))[0] == b"one"


def test_a_listing_strips_the_content_type_until_a_post(
    versioned_store: ObjectStore, versioned_box: str
) -> None:
    name = ObjectName(versioned_box, "file")
    versioned_store.put(name, b"bytes", Headers(MODE))
    (row,) = versioned_store.list_page(versioned_box).rows
    assert (row.content_type, row.is_stripped) == ("text/plain", True)
    assert versioned_store.head(name).content_type == MODE
    versioned_store.post(name, Headers(MODE))
    (row,) = versioned_store.list_page(versioned_box).rows
    assert (row.content_type, row.is_stripped) == (MODE, False)


def test_a_conditional_copy(versioned_store: ObjectStore, versioned_box: str) -> None:
    name, target = ObjectName(versioned_box, "file"), ObjectName(versioned_box, "copy")
    etag = versioned_store.put(name, b"bytes", Headers(MODE)).version.etag
    assert versioned_store.copy(CopyRequest(name, target, etag=etag)).etag == etag
    versioned_store.put(name, b"other", Headers(MODE))
    with pytest.raises(PreconditionFailed):
        versioned_store.copy(CopyRequest(name, target, etag=etag))
    assert read(versioned_store, target)[0] == b"bytes"


def test_swift_takes_no_expiry_where_it_keeps_versions(
    request: pytest.FixtureRequest, versioned_store: ObjectStore, versioned_box: str
) -> None:
    headers = Headers(MODE, {}, {"X-Delete-At": "9999999999"})
    for enabled in (True, False):
        set_versioning(request, versioned_store, versioned_box, enabled=enabled)
        assert versioned_store.container_usage(versioned_box).versioning is enabled
        for name in (ObjectName(versioned_box, f"{how}-{enabled}") for how in ("put", "post")):
            versioned_store.put(name, b"data", headers if name.key.startswith("put") else Headers(MODE))
            if name.key.startswith("post"):
                versioned_store.post(name, headers)
            assert bool(versioned_store.head(name).preserved_headers) is not enabled
