"""What the store does when the server or the network fails."""

import math
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from msgspec.structs import replace

from support.deadlines import within
from support.jobs import wait_until
from support.stores import QUICK, TEXT, md5, methods_seen, read
from swiftfs.attributes import NS
from swiftfs.demo.server import READER, Fault, SwiftServer
from swiftfs.errors import (
    AccessDenied,
    BadName,
    BadRequest,
    Clash,
    Conflict,
    Corrupt,
    NoSpace,
    NotFound,
    NotSwift,
    PreconditionFailed,
    QuotaExceeded,
    StoreError,
    TimedOut,
    TooLarge,
    Unavailable,
)
from swiftfs.objects import Manifest, ObjectName, Segment
from swiftfs.store.auth import open_account
from swiftfs.store.connect import connect
from swiftfs.store.login import V1Login
from swiftfs.store.protocol import CopyRequest, ObjectStore
from swiftfs.store.request import Request
from swiftfs.store.retry import RetryingStore
from swiftfs.store.swift_store import SwiftStore
from swiftfs.store.transport import Reply
from swiftfs.store.wire.info import UNKNOWN, read_limits

pytest_plugins = ["support.store_fixtures"]


def test_503_twice_then_good(patient: RetryingStore, swift: SwiftServer, name: ObjectName) -> None:
    swift.inject(Fault("GET", name.container, status=503, times=2))
    assert read(patient, name)[0] == b"content"
    assert [status for _, status in methods_seen(swift, name)] == [503, 503, 200]


def test_an_existing_container_is_recognised_despite_a_damaged_answer(
    plain: SwiftStore, swift: SwiftServer, name: ObjectName
) -> None:
    swift.inject(Fault("PUT", truncate_body=3))
    assert not plain.create_container(name.container)


def test_503_for_ever_ends_within_the_deadline(
    patient: RetryingStore, swift: SwiftServer, name: ObjectName
) -> None:
    swift.inject(Fault("", name.container, status=503))
    begun = time.monotonic()
    # The deadline may end the last attempt early.
    with pytest.raises(
        Unavailable, match=r"head .*/o: (503|timed out|no time left|the answer took too long)"
    ):
        patient.head(name)
    assert 1.0 < time.monotonic() - begun < QUICK.deadline + within(0.5)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, BadRequest),
        (403, AccessDenied),
        (404, NotFound),
        (405, BadRequest),
        (408, Unavailable),
        (409, Conflict),
        (412, BadName),
        (413, QuotaExceeded),
        (422, Corrupt),
        (429, Unavailable),
        (302, NotSwift),
        (500, Unavailable),
        (504, Unavailable),
        (507, NoSpace),
    ],
)
def test_statuses(
    plain: SwiftStore, swift: SwiftServer, name: ObjectName, status: int, kind: type[StoreError]
) -> None:
    headers = {"X-Trans-Id": "tx123", "Location": "http://127.0.0.1:1/elsewhere"}
    swift.inject(Fault("PUT", name.container, status=status, headers=headers))
    with pytest.raises(kind, match=rf"put {name}: {status} .*tx") as caught:
        plain.put(name, b"new", TEXT)
    assert "\n" not in str(caught.value)
    swift.clear_faults()
    assert read(plain, name)[0] == b"content"


STORING: list[tuple[str, Callable[[ObjectStore, ObjectName, ObjectName], object]]] = [
    ("PUT", lambda store, _name, new: store.put(new, b"content", TEXT)),
    ("PUT", lambda store, name, new: store.put_manifest(new, manifest_of(name), TEXT)),
    ("COPY", lambda store, name, new: store.copy(CopyRequest(name, new))),
]


def manifest_of(name: ObjectName) -> Manifest:
    """Return a manifest of the object of the fixture."""
    return Manifest((Segment(name, md5(b"content"), 7),))


@pytest.mark.parametrize(("method", "change"), STORING, ids=["put", "put_manifest", "copy"])
def test_what_swift_accepts_but_does_not_store_is_sent_again(
    plain: SwiftStore,
    patient: RetryingStore,
    swift: SwiftServer,
    name: ObjectName,
    method: str,
    change: Callable[[ObjectStore, ObjectName, ObjectName], object],
) -> None:
    """The proxy of a Swift that has a version with a later timestamp answers 202."""
    new = replace(name, key="new")
    swift.inject(Fault(method, name.container, status=202, times=1))
    with pytest.raises(Clash, match="later version"):
        change(plain, name, new)
    swift.inject(Fault(method, name.container, status=202, times=1))
    change(patient, name, new)
    assert read(plain, new)[0] == b"content"


@pytest.mark.parametrize("status", [200, 201])
def test_a_copy_that_is_only_said_to_be_made_is_an_error(
    plain: SwiftStore, patient: RetryingStore, swift: SwiftServer, name: ObjectName, status: int
) -> None:
    new = replace(name, key="new")
    for text in (b"", b"other content"):  # nothing, and what was there before
        if text:
            plain.put(new, text, TEXT)
        swift.inject(Fault("COPY", name.container, status=status, times=1))
        with pytest.raises(Corrupt, match="the server says that it is done") as caught:
            plain.copy(CopyRequest(name, new, manifest_only=True))
        assert caught.value.may_land
    swift.inject(Fault("COPY", name.container, status=status, times=1))
    assert patient.copy(CopyRequest(name, new)).etag == md5(b"content")  # made again
    swift.inject(Fault("COPY", name.container, status=status, after=True, times=1))
    assert plain.copy(CopyRequest(name, new)).etag == md5(b"content")
    assert methods_seen(swift, name)[-3:] == [("COPY", status), ("HEAD", 200), ("HEAD", 200)]


def test_a_copy_without_its_condition_is_of_the_version_that_was_seen(
    plain: SwiftStore, name: ObjectName, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Swift compares the condition with the ETag of the large object, which is in the copy's metadata."""
    large, flat, target = (replace(name, key=key) for key in ("large", "flat", "target"))
    plain.put_manifest(large, manifest_of(name), TEXT)
    etag = plain.copy(CopyRequest(large, flat)).etag
    plain.copy(CopyRequest(flat, target, etag=etag))
    plain.delete(target)
    # Swift compares whole seconds.
    wait_until(lambda: time.time_ns() > plain.head(flat).last_modified_ns + NS)
    send = plain._transport.send
    seen: list[Request] = []

    def change_after_head(request: Request) -> Reply:
        answer = send(request)
        if request.method == "HEAD" and request.key == flat.key and not seen:
            seen.append(request)
            plain.put(flat, b"another client's", TEXT)
        return answer

    monkeypatch.setattr(plain._transport, "send", change_after_head)
    with pytest.raises(PreconditionFailed) as caught:
        plain.copy(CopyRequest(flat, target, etag=etag))
    assert seen
    assert not caught.value.may_land
    with pytest.raises(NotFound):
        plain.head(target)


def test_copy_413_is_too_large_unless_it_names_a_quota(
    plain: SwiftStore, swift: SwiftServer, name: ObjectName
) -> None:
    swift.inject(Fault("COPY", name.container, status=413))
    with pytest.raises(TooLarge):
        plain.copy(CopyRequest(name, replace(name, key="copy")))


def test_a_container_quota(plain: SwiftStore, swift: SwiftServer, name: ObjectName) -> None:
    _set_quota(plain, name.container, 10)
    usage = plain.container_usage(name.container)
    assert (usage.quota_bytes, usage.bytes_used) == (10, 7)
    other = replace(name, key="second")
    with pytest.raises(QuotaExceeded):
        plain.put(other, b"too much", TEXT)
    with pytest.raises(QuotaExceeded):
        plain.copy(CopyRequest(name, other))


def test_another_user_is_refused(swift: SwiftServer, name: ObjectName) -> None:
    environment = {**swift.environment(), "ST_USER": READER.name, "ST_KEY": READER.key}
    connected = connect(environment)
    try:
        with pytest.raises(AccessDenied, match="403"):
            connected.store.head(name)
    finally:
        connected.close()


def test_one_login_for_many_threads(plain: SwiftStore, swift: SwiftServer, name: ObjectName) -> None:
    plugin = plain._account.session.auth
    assert isinstance(plugin, V1Login)
    plain._account.token()
    assert plugin._access is not None
    plugin._access = plugin._access._replace(token="AUTH_tk_expired")
    plain._account._known_token = "AUTH_tk_expired", math.inf
    logins_before = sum("/auth" in one.path for one in swift.requests())
    barrier = threading.Barrier(12)

    def work(_number: int) -> bytes:
        barrier.wait(within(20))
        return read(plain, name)[0]

    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(work, range(12))) == [b"content"] * 12
    seen = swift.requests()
    assert sum("/auth" in one.path for one in seen) - logins_before == 1
    assert 1 <= sum(one.status == 401 for one in seen) <= 12
    swift.reset_requests()
    assert read(plain, name)[0] == b"content"
    assert methods_seen(swift, name) == [("GET", 200)]


def test_a_401_that_a_new_token_does_not_end(
    patient: RetryingStore, swift: SwiftServer, name: ObjectName
) -> None:
    swift.inject(Fault("HEAD", name.container, status=401))
    with pytest.raises(AccessDenied, match="401"):
        patient.head(name)
    assert methods_seen(swift, name) == [("HEAD", 401), ("HEAD", 401)]


@pytest.mark.parametrize(
    "fault",
    [
        Fault("GET", truncate_body=100_000, times=1),
        Fault("GET", flip_byte=True, times=1),
        Fault("GET", reset=True, times=1),
        Fault("GET", status=500, after=True, times=1),
    ],
    ids=["truncated", "flipped", "reset", "lost"],
)
def test_a_broken_body_is_read_again(
    patient: RetryingStore, swift: SwiftServer, name: ObjectName, fault: Fault
) -> None:
    content = os.urandom(700_000)
    patient.put(name, content, TEXT)
    swift.reset_requests()
    swift.inject(replace(fault, path=name.container))
    assert read(patient, name)[0] == content
    assert [method for method, _ in methods_seen(swift, name)] == ["GET", "GET"]


def test_broken_bodies_are_errors_without_retries(
    plain: SwiftStore, swift: SwiftServer, name: ObjectName
) -> None:
    for fault, kind in (
        (Fault("GET", name.container, truncate_body=3), (Unavailable, Corrupt)),
        (Fault("GET", name.container, flip_byte=True), (Corrupt,)),
        (Fault("GET", name.container, reset=True), (Unavailable,)),
    ):
        swift.inject(fault)
        with pytest.raises(kind):
            read(plain, name)
        swift.clear_faults()
    assert read(plain, name)[0] == b"content"


@pytest.mark.parametrize("fault", [Fault(truncate_body=9), Fault(status=200)], ids=["half", "empty"])
def test_half_a_listing_is_no_listing(
    plain: SwiftStore, swift: SwiftServer, name: ObjectName, fault: Fault
) -> None:
    swift.inject(replace(fault, path=f"{name.container}\\?", method="GET"))
    with pytest.raises((Corrupt, Unavailable)):
        plain.list_page(name.container)


def test_a_stalled_answer_is_timed_out(patient: RetryingStore, swift: SwiftServer, name: ObjectName) -> None:
    swift.inject(Fault("HEAD", name.container, delay=30.0, times=1))
    begun = time.monotonic()
    with pytest.raises(TimedOut):
        RetryingStore(patient, replace(QUICK, deadline=0.8), owns=False).head(name)
    assert time.monotonic() - begun < within(1.5)


def test_a_killed_server_is_unavailable_and_comes_back() -> None:
    with SwiftServer() as server:
        connected = connect(server.environment(), policy=replace(QUICK, deadline=1.0))
        try:
            store = connected.store
            store.create_container("c")
            name = ObjectName("c", "o")
            store.put(name, b"kept", TEXT)
            server.kill()
            begun = time.monotonic()
            for action in (store.head, store.delete, lambda name: store.put(name, b"lost", TEXT)):
                with pytest.raises(Unavailable):
                    action(name)
            assert time.monotonic() - begun < within(5.0)
            server.start()
            parts: list[bytes] = []
            store.get(name, lambda _offset, chunk: parts.append(chunk))
            assert b"".join(parts) == b"kept"
        finally:
            connected.close()


def test_info_that_is_absent_or_no_json(swift: SwiftServer) -> None:
    opened = SwiftStore(open_account(swift.environment()))
    try:
        for fault in (Fault("GET", "^/info", status=503), Fault("GET", "^/info", status=404)):
            swift.clear_faults()
            swift.inject(fault)
            assert opened.limits() == UNKNOWN
        swift.reset_requests()
        assert opened.limits() == UNKNOWN
        assert swift.requests() == []
        assert read_limits(b"<html>", {}) == UNKNOWN
        assert read_limits(b'{"swift": []}', {}) == UNKNOWN
    finally:
        swift.clear_faults()
        opened.close()


def test_requests_are_counted(plain: SwiftStore, swift: SwiftServer, name: ObjectName) -> None:
    before = plain.counters.snapshot()
    plain.put(name, b"12345", TEXT)
    read(plain, name)
    plain.list_page(name.container)
    with pytest.raises(NotFound):
        plain.head(replace(name, key="absent"))
    after = plain.counters.snapshot()
    assert after.classes["put"].bytes_sent - before.classes["put"].bytes_sent == 5
    assert (after.classes["get"].requests, after.classes["get"].bytes_received) == (1, 5)
    assert (after.classes["head"].requests, after.classes["head"].failures) == (1, 0)
    assert after.classes["list_page"].bytes_received > 50
    assert after.total.requests - before.total.requests == 4
    assert 0 < after.classes["get"].seconds < 10


def test_no_thread_and_no_descriptor_is_left(swift: SwiftServer, container: str) -> None:
    process = psutil.Process()
    threads = set(threading.enumerate())
    sockets = len(process.net_connections())
    connected = connect(swift.environment(), policy=QUICK)
    box = container
    connected.store.create_container(box)
    name = ObjectName(box, "o")
    connected.store.put(name, os.urandom(400_000), TEXT)

    def fetch(_number: int) -> None:
        connected.store.get(name, lambda _offset, _chunk: None)

    def stop(_offset: int, _chunk: bytes) -> None:
        raise KeyboardInterrupt

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(fetch, range(40)))
    with pytest.raises(KeyboardInterrupt):
        connected.store.get(name, stop)
    connected.close()
    assert set(threading.enumerate()) == threads
    assert len(process.net_connections()) <= sockets


def test_a_connection_is_kept_for_the_next_request(plain: SwiftStore, name: ObjectName) -> None:
    process = psutil.Process()
    plain.head(name)
    before = {one.laddr for one in process.net_connections() if one.status == "ESTABLISHED"}
    for _ in range(5):
        read(plain, name)
        plain.list_page(name.container)
        with pytest.raises(NotFound):
            plain.head(replace(name, key="absent"))
    assert {one.laddr for one in process.net_connections() if one.status == "ESTABLISHED"} == before


def _set_quota(store: SwiftStore, container: str, size: int) -> None:
    headers = {"X-Container-Meta-Quota-Bytes": str(size)}
    store._transport.send(Request("quota", "POST", container, headers=headers))
