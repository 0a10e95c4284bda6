"""A page that a proxy or a captive portal sends for Swift counts as no answer, whatever its status."""

from collections.abc import Callable

import pytest

from support.hostile_server import HostileServer, Response
from support.stores import TEXT, md5, new_container, read
from swiftfs.demo.server import Fault, SwiftServer
from swiftfs.errors import BadRequest, Corrupt, NotFound, NotSwift
from swiftfs.objects import ObjectName
from swiftfs.store.protocol import CopyRequest, Headers, ObjectStore
from swiftfs.store.retry import RetryingStore
from swiftfs.store.swift_store import SwiftStore

pytest_plugins = ["support.hostile_fixtures", "support.store_fixtures"]

Call = Callable[[ObjectStore, ObjectName], object]

CHANGES: dict[str, Call] = {
    "DELETE": lambda store, name: store.delete(name),
    "POST": lambda store, name: store.post(name, Headers("a/b")),
    "PUT": lambda store, name: store.put(name, b"other", TEXT),
    "COPY": lambda store, name: store.copy(CopyRequest(name, ObjectName(name.container, "copy"))),
}

READS: dict[str, Call] = {
    "HEAD": lambda store, name: store.head(name),
    "GET": lambda store, name: store.get(name, lambda *_: pytest.fail("a byte came")),
}

CONTAINERS: dict[str, Call] = {
    "DELETE": lambda store, name: store.delete_container(name.container),
    "POST": lambda store, name: store.post_container(name.container, {"a": "b"}),
    "PUT": lambda store, name: store.create_container(name.container),
    "HEAD": lambda store, name: store.container_usage(name.container),
}

CALLS = {
    **{f"{method} of an object": (method, call) for method, call in {**CHANGES, **READS}.items()},
    **{f"{method} of a container": (method, call) for method, call in CONTAINERS.items()},
}


def page(method: str, path: str, status: int, *, times: int = -1) -> Fault:
    """Return the page of a portal for some requests."""
    body = "" if status == 204 else "<html>Please log in</html>"
    headers = {"Content-Type": "text/html"}
    return Fault(method, path, status=status, headers=headers, body=body, is_foreign=True, times=times)


def learn(store: ObjectStore, name: ObjectName) -> None:
    """Send what the first requests of a mount send."""
    store.container_usage(name.container)
    with pytest.raises(NotFound):
        store.delete(ObjectName(name.container, "missing"))


@pytest.mark.parametrize("status", [200, 202, 204, 404])
@pytest.mark.parametrize("kind", CALLS)
def test_a_page_is_no_answer(
    plain: SwiftStore, swift: SwiftServer, name: ObjectName, kind: str, status: int
) -> None:
    method, call = CALLS[kind]
    learn(plain, name)
    swift.inject(page(method, f"/{name.container}", status))
    with pytest.raises(
        NotSwift, match=rf"{name.container}.*: {status} .*the answer is not Swift's, it has no"
    ):
        call(plain, name)
    swift.clear_faults()
    assert read(plain, name)[0] == b"content"
    assert plain.head(name).content_type == TEXT.content_type


@pytest.mark.parametrize("method", CHANGES)
@pytest.mark.parametrize("status", [200, 404])
def test_a_change_is_sent_again(
    patient: RetryingStore, swift: SwiftServer, name: ObjectName, method: str, status: int
) -> None:
    learn(patient, name)
    swift.inject(page(method, f"/{name.container}", status, times=2))
    swift.reset_requests()
    CHANGES[method](patient, name)
    assert [one.status for one in swift.requests() if one.method == method][2:3] != []


@pytest.mark.parametrize("status", [200, 404])
def test_a_bulk_delete_is_proved_by_its_verdict(
    plain: SwiftStore, swift: SwiftServer, name: ObjectName, status: int
) -> None:
    """A gateway may refuse it with any page: then the objects are deleted one by one."""
    learn(plain, name)
    assert plain.limits().bulk_delete
    swift.inject(page("POST", "bulk-delete", status))
    swift.inject(page("DELETE", f"/{name.container}", status, times=1))
    failures = plain.delete_many([name])
    assert isinstance(failures[name], NotSwift)
    assert read(plain, name)[0] == b"content"
    assert plain.delete_many([name]) == {}
    with pytest.raises(NotFound):
        plain.head(name)


@pytest.mark.parametrize("kind", CALLS)
def test_the_first_404_is_not_believed_if_swift_cannot_be_reached(
    plain: SwiftStore, swift: SwiftServer, name: ObjectName, kind: str
) -> None:
    """A mount with `ro`, or of an account, begins without a 404."""
    _, call = CALLS[kind]
    plain.container_usage(name.container)
    swift.inject(page("", "", 404))
    with pytest.raises(NotSwift, match=r": 404 .*the answer is not Swift's, it has no"):
        call(plain, name)
    swift.clear_faults()
    assert read(plain, name)[0] == b"content"
    swift.reset_requests()
    with pytest.raises(NotFound):
        plain.head(ObjectName(name.container, "missing"))
    assert len(swift.requests()) == 1


def test_the_pages_of_404_of_a_proxy_are_believed(
    plain: SwiftStore, swift: SwiftServer, name: ObjectName
) -> None:
    plain.container_usage(name.container)
    swift.inject(page("HEAD", "missing", 404))
    swift.reset_requests()
    for _ in range(2):
        with pytest.raises(NotFound):
            plain.head(ObjectName(name.container, "missing"))
    assert len(swift.requests()) == 3  # one finds out that Swift can be reached


def test_errors_of_a_proxy_are_as_swift_s(plain: SwiftStore, swift: SwiftServer, name: ObjectName) -> None:
    """It refuses what is too large or malformed before Swift sees it."""
    learn(plain, name)
    swift.inject(page("DELETE", f"/{name.container}", 400))
    with pytest.raises(BadRequest):
        plain.delete(name)


NAME = ObjectName("c", "o")


@pytest.mark.parametrize("header", ["X-Trans-Id", "X-Openstack-Request-Id"])
def test_an_id_is_expected_of_successes_and_of_404s_when_one_had_it(
    hostile: HostileServer, hostile_store: SwiftStore, header: str
) -> None:
    """A proxy may remove it, or replace the pages of errors."""

    def delete(status: int, *, has_id: bool) -> None:
        answer = Response(status=status, headers={header: "tx1"} if has_id else {})
        account = Response(headers={header: "tx1"})
        hostile.respond = lambda _: answer if hostile.paths[-1].endswith(f"/{NAME}") else account
        hostile_store.delete(NAME)

    delete(204, has_id=False)
    with pytest.raises(NotFound):
        delete(404, has_id=False)
    delete(204, has_id=True)
    with pytest.raises(NotSwift):
        delete(204, has_id=False)
    with pytest.raises(NotFound):
        delete(404, has_id=False)
    with pytest.raises(NotFound):
        delete(404, has_id=True)
    with pytest.raises(NotSwift):
        delete(404, has_id=False)


def test_a_whole_object_is_read_though_its_length_and_the_range_are_removed(
    hostile: HostileServer, hostile_store: SwiftStore
) -> None:
    received: list[tuple[int, bytes]] = []

    def get(etag: str, size: int | None) -> None:
        received.clear()
        hostile.response = Response(b"12345", headers={"ETag": etag})
        hostile_store.get(
            NAME,
            lambda offset, chunk: received.append((offset, bytes(chunk))),
            length=10,
            etag=etag,
            size=size,
        )

    get(md5(b"12345"), 5)
    assert received == [(0, b"12345")]
    for etag, size in ((md5(b"12345"), None), (md5(b"12345"), 6), ("e", 6), ("e", 4), ("e", 11)):
        with pytest.raises(Corrupt):
            get(etag, size)


def test_a_container_of_another_name_is_not_asked(plain: SwiftStore, swift: SwiftServer) -> None:
    """What was learned holds for the whole account."""
    name = ObjectName(new_container(plain), "o")
    learn(plain, name)
    other = ObjectName(new_container(plain), "o")
    plain.put(other, b"content", TEXT)
    swift.inject(page("DELETE", f"/{other.container}", 204))
    with pytest.raises(NotSwift):
        plain.delete(other)
