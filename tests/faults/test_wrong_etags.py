"""Answers with a wrong ETag, or none, to requests that Swift has carried out: a HEAD decides."""

import pytest
from msgspec.structs import replace

from support.stores import TEXT, md5, methods_seen, read
from swiftfs.demo.server import Fault, SwiftServer
from swiftfs.errors import Corrupt, NotSwift, PreconditionFailed
from swiftfs.objects import Manifest, ObjectName, Segment
from swiftfs.store.protocol import CopyRequest
from swiftfs.store.swift_store import SwiftStore

pytest_plugins = ["support.store_fixtures"]

ETAG = md5(b"content")
WRONG = "0" * 32
SAID = pytest.mark.parametrize("said", [WRONG, "", f'"{ETAG}"', ETAG.upper()])


def manifest_of(name: ObjectName) -> Manifest:
    """Return a manifest of the object of the fixture."""
    return Manifest((Segment(name, ETAG, 7),))


@SAID
@pytest.mark.parametrize("by", ["etag", "likely", ""])
def test_a_copy(plain: SwiftStore, swift: SwiftServer, name: ObjectName, said: str, by: str) -> None:
    new = replace(name, key="new")
    request = replace(CopyRequest(name, new), **({by: ETAG} if by else {}))
    swift.inject(Fault("COPY", name.container, headers={"Etag": said}, times=1))
    swift.reset_requests()
    assert plain.copy(request).etag == ETAG
    heads = methods_seen(swift, name)[1:]
    assert heads == [("HEAD", 200)] * len(heads)
    # Without an ETag, and without one that is expected, also of the source.
    assert len(heads) == (0 if by and said.strip('"') == ETAG else 1 if by or said else 2)


def test_another_version_that_was_copied(plain: SwiftStore, swift: SwiftServer, name: ObjectName) -> None:
    """A server that ignores the condition."""
    new = replace(name, key="new")
    plain.put(new, b"another", TEXT)
    swift.inject(Fault("COPY", name.container, status=201, headers={"Etag": md5(b"another")}, times=1))
    with pytest.raises(PreconditionFailed) as caught:
        plain.copy(CopyRequest(name, new, etag=ETAG))
    assert caught.value.may_land
    swift.inject(Fault("COPY", name.container, status=201, headers={"Etag": md5(b"another")}, times=1))
    assert plain.copy(CopyRequest(name, new, likely=ETAG)).etag == md5(b"another")


def test_a_copy_with_a_wrong_etag_that_is_not_there(
    plain: SwiftStore, swift: SwiftServer, name: ObjectName
) -> None:
    swift.inject(Fault("COPY", name.container, status=201, headers={"Etag": WRONG}, times=1))
    with pytest.raises(Corrupt, match="there is no copy") as caught:
        plain.copy(CopyRequest(name, replace(name, key="new"), likely=ETAG))
    assert caught.value.may_land


def test_a_copy_of_another_object(plain: SwiftStore, swift: SwiftServer, name: ObjectName) -> None:
    odd = replace(name, key="ö/%41 b")
    plain.put(odd, b"content", TEXT)
    assert plain.copy(CopyRequest(odd, replace(name, key="new"), manifest_only=True)).etag == ETAG
    swift.inject(Fault("COPY", name.container, headers={"X-Copied-From": f"{name.container}/other"}, times=1))
    with pytest.raises(Corrupt, match=r"the server says that it has copied .*other") as caught:
        plain.copy(CopyRequest(name, replace(name, key="new"), manifest_only=True))
    assert caught.value.may_land


@SAID
def test_a_manifest(plain: SwiftStore, swift: SwiftServer, name: ObjectName, said: str) -> None:
    new, manifest = replace(name, key="new"), manifest_of(name)
    said = said.replace(ETAG, manifest.etag).replace(ETAG.upper(), manifest.etag.upper())
    swift.inject(Fault("PUT", "manifest=put", headers={"Etag": said}, times=1))
    info = plain.put_manifest(new, manifest, TEXT)
    assert info.version.etag == manifest.etag
    assert read(plain, new)[0] == b"content"


def test_a_manifest_that_is_not_there(plain: SwiftStore, swift: SwiftServer, name: ObjectName) -> None:
    new, manifest = replace(name, key="new"), manifest_of(name)
    plain.put(new, b"another", TEXT)
    swift.inject(Fault("PUT", "manifest=put", status=201, headers={"Etag": WRONG}, times=1))
    with pytest.raises(Corrupt, match="put_manifest") as caught:
        plain.put_manifest(new, manifest, TEXT)
    assert caught.value.may_land


@SAID
def test_an_object_is_stored_again(
    plain: SwiftStore, swift: SwiftServer, name: ObjectName, said: str
) -> None:
    """The next attempt of whoever stores it."""
    swift.inject(Fault("PUT", name.container, headers={"Etag": said}, times=1))
    if said.strip('"') != ETAG:
        error, text = (Corrupt, "the server stored") if said else (NotSwift, "it has no etag")
        with pytest.raises(error, match=text) as caught:
            plain.put(name, b"content", TEXT)
        assert caught.value.may_land
    assert plain.put(name, b"content", TEXT).version.etag == ETAG
