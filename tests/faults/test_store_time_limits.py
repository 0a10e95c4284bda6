"""A server that never ends its answer, but sends a little now and then: no request waits for ever."""

import re
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from support.deadlines import within
from support.hostile_server import HostileServer, Response
from support.stores import TEXT
from swiftfs.errors import StoreError, TimedOut, Unavailable
from swiftfs.objects import Limits, ObjectName
from swiftfs.store.auth import open_account
from swiftfs.store.connect import connect
from swiftfs.store.protocol import CopyRequest
from swiftfs.store.retry import RetryingStore, RetryPolicy, deadline
from swiftfs.store.swift_store import SwiftStore

pytest_plugins = ["support.hostile_fixtures"]

NAME = ObjectName("c", "o")
SILENCE = 0.5
OK = b"HTTP/1.1 200 OK\r\nX-Account-Container-Count: 1\r\nX-Container-Object-Count: 1\r\n"
EMPTY = OK + b"Content-Length: 0\r\n\r\n"

ENDLESS_HEADERS = {
    "a header line": Response(raw=OK + b"X-A: ", endless=b"x"),
    "headers": Response(raw=OK, endless=b"X-A: b\r\n"),
    "100 Continue": Response(endless=b"HTTP/1.1 100 Continue\r\n\r\n"),
    "headers of 100 Continue": Response(raw=b"HTTP/1.1 100 Continue\r\n", endless=b"X: y\r\n"),
    "a status line": Response(raw=b"HTTP/1.1 200 ", endless=b"O"),
}
"""Each of them sends something every 0.02 s, so no silence is ever long."""


@pytest.fixture
def store(hostile: HostileServer) -> Iterator[SwiftStore]:
    opened = SwiftStore(open_account(hostile.environment), longest_silence=SILENCE)
    opened._limits = Limits(bulk_delete=1000)
    yield opened
    opened.close()


def fresh_limits(store: SwiftStore) -> None:
    """Request `/info`; an outage is answered with the limits that are safe anywhere."""
    store._limits = None
    assert not store.limits().is_swift
    raise TimedOut("as expected")


CALLS: dict[str, Callable[[SwiftStore], object]] = {
    "head": lambda store: store.head(NAME),
    "list": lambda store: store.list_page("c"),
    "get": lambda store: store.get(NAME, lambda *_: None),
    "put": lambda store: store.put(NAME, b"x", TEXT),
    "copy": lambda store: store.copy(CopyRequest(NAME, ObjectName("c", "p"))),
    "info": fresh_limits,
    "delete": lambda store: store.delete(NAME),
}


def fails_in_time(call: Callable[[], object], seconds: float, error: type[Exception] = TimedOut) -> str:
    """Assert that `call` fails within `seconds`; return the message, which fits on a line."""
    begun = time.monotonic()
    with pytest.raises(error) as caught:
        call()
    assert time.monotonic() - begun < within(seconds)
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("how", ENDLESS_HEADERS)
def test_endless_headers_end_a_request(hostile: HostileServer, store: SwiftStore, how: str) -> None:
    hostile.response = ENDLESS_HEADERS[how]
    assert re.search("timed out|took too long", fails_in_time(lambda: store.head(NAME), 3))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("call", CALLS)
def test_every_request_ends(hostile: HostileServer, store: SwiftStore, call: str) -> None:
    hostile.response = ENDLESS_HEADERS["100 Continue"]
    fails_in_time(lambda: CALLS[call](store), 3)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("how", ENDLESS_HEADERS)
@pytest.mark.parametrize("kind", ["environment", "keystone_environment"])
def test_a_login_ends(hostile: HostileServer, monkeypatch: pytest.MonkeyPatch, how: str, kind: str) -> None:
    monkeypatch.setattr("swiftfs.store.login.LOGIN_SECONDS", SILENCE)
    hostile.login = ENDLESS_HEADERS[how]
    fails_in_time(lambda: connect(getattr(hostile, kind)), 5, Unavailable)


@pytest.mark.timeout(60)
def test_a_renewal_ends_with_the_call_that_needs_it(hostile: HostileServer, store: SwiftStore) -> None:
    """Its login may take no longer than the rest of the call's time, for threads that share it too."""
    hostile.response = Response(status=401)
    store._account.token()
    hostile.login = ENDLESS_HEADERS["headers"]
    patient = RetryingStore(store, RetryPolicy(deadline=1.0), owns=False)
    fails_in_time(lambda: patient.head(NAME), 4, Unavailable)
    assert len(hostile.logins) >= 2


@pytest.mark.timeout(60)
def test_bodies_end_within_the_time_of_a_call(hostile: HostileServer) -> None:
    store = SwiftStore(open_account(hostile.environment))
    store._limits = Limits()
    hostile.response = Response(raw=OK + b"Content-Length: 1000000\r\n\r\n[", endless=b" ")
    calls: list[Callable[[], object]] = [
        lambda: store.list_page("c"),
        store.list_containers,
        lambda: store.get(NAME, lambda *_: None),
    ]
    for call in calls:
        with deadline(1.0):
            fails_in_time(call, 5)
    store.close()


@pytest.mark.timeout(60)
def test_the_text_of_an_error_ends(
    hostile: HostileServer, store: SwiftStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also that of a long request, whose answer itself may take an hour."""
    monkeypatch.setattr("swiftfs.store.transport.ANSWER_SECONDS", 0.5)
    hostile.response = Response(raw=b"HTTP/1.1 403 No\r\n\r\nno", endless=b" ")
    text = fails_in_time(lambda: store.copy(CopyRequest(NAME, ObjectName("c", "p"))), 3, StoreError)
    assert "403" in text


@pytest.mark.timeout(60)
def test_a_slow_download_that_goes_on_is_not_cut(
    hostile: HostileServer, store: SwiftStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes longer than the deadline of its call, and than every window."""
    monkeypatch.setattr("swiftfs.store.sockets.WINDOW_SECONDS", 0.2)
    monkeypatch.setattr("swiftfs.store.sockets.LEAST_RATE", 10)
    headers = {"Content-Length": "200", "ETag": "e"}
    hostile.response = Response(b"x" * 100, headers=headers, blanks=100)
    received = 0

    def sink(_offset: int, chunk: bytes) -> None:
        nonlocal received
        received += len(chunk)

    with deadline(0.3):
        store.get(NAME, sink)
    assert received == 200


@pytest.mark.timeout(60)
def test_trailers_without_end(hostile: HostileServer, store: SwiftStore) -> None:
    raw = OK + b"ETag: e\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"
    hostile.response = Response(raw=raw, endless=b"X: " + b"y" * 50_000 + b"\r\n", pause=0.0)
    text = fails_in_time(lambda: store.get(NAME, lambda *_: None), 20, StoreError)
    assert re.search("longer than [0-9]+ bytes", text)


@pytest.mark.timeout(60)
def test_a_server_that_takes_no_body(store: SwiftStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its receive window stays full: the network accepts nothing more."""
    monkeypatch.setattr("swiftfs.store.sockets.SEND_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        store._account.token()
        store._account._endpoint = f"http://127.0.0.1:{deaf.getsockname()[1]}/v1/a"
        fails_in_time(lambda: store.put(NAME, bytes(32 * 2**20), TEXT), 5)


@pytest.mark.parametrize(
    "call", [lambda store: store.head(NAME), lambda store: store.post(NAME, TEXT)], ids=["head", "post"]
)
def test_keep_alive_after_an_answer_that_was_read(
    hostile: HostileServer, store: SwiftStore, call: Callable[[SwiftStore], object]
) -> None:
    hostile.response = Response(raw=EMPTY, stays=True)
    for _ in range(3):
        call(store)
    assert list(hostile.connections.values()) == [3]


def test_a_connection_that_was_not_read_to_its_end_is_closed(
    hostile: HostileServer, store: SwiftStore
) -> None:
    hostile.response = Response(raw=OK + b"Content-Length: 9\r\n\r\n<listing", stays=True)
    for _ in range(2):
        with pytest.raises(StoreError):
            store.list_page("c")
    assert list(hostile.connections.values()) == [1, 1]
