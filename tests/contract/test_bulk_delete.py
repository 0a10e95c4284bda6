"""Bulk-delete where the server refuses it, answers nothing useful, or is slow."""

import json
import logging
import time
from collections.abc import Iterator, Sequence

import pytest
from swiftclient import Connection

from support.hostile_server import TRICKLE_PAUSE, HostileServer, Response
from support.mounts import Mount, run
from support.stores import QUICK, TEXT, new_container
from swiftfs.demo.server import Fault, SwiftServer
from swiftfs.errors import AccessDenied, BadName, StoreError, TimedOut, Unavailable
from swiftfs.objects import Limits, ObjectName
from swiftfs.store.auth import open_account
from swiftfs.store.deletion import BulkDeletes, bulk_outcome
from swiftfs.store.request import Request
from swiftfs.store.retry import RetryingStore
from swiftfs.store.swift_store import SwiftStore

pytest_plugins = ["support.hostile_fixtures"]

BULK = ("POST", "bulk-delete")
NAMES = [ObjectName("c", f"n{number}") for number in range(40)]


@pytest.fixture
def store(swift: SwiftServer) -> Iterator[SwiftStore]:
    opened = SwiftStore(open_account(swift.environment()))
    yield opened
    opened.close()


def stored(store: SwiftStore, count: int) -> list[ObjectName]:
    """Store so many objects in a new container."""
    box = new_container(store)
    found = [ObjectName(box, f"n{number:02}") for number in range(count)]
    for name in found:
        store.put(name, b"x", TEXT)
    return found


@pytest.fixture
def names(store: SwiftStore) -> list[ObjectName]:
    return stored(store, 8)


@pytest.fixture
def short_timeout_store(hostile: HostileServer) -> Iterator[SwiftStore]:
    """A store that waits 0.5 s for each byte."""
    opened = SwiftStore(open_account(hostile.environment), longest_silence=0.5)
    opened._limits = Limits(bulk_delete=10_000)
    yield opened
    opened.close()


def verdict(
    deleted: int = 0, status: str = "200 OK", errors: Sequence[Sequence[str]] = (), missing: int = 0
) -> bytes:
    return json.dumps(
        {
            "Number Deleted": deleted,
            "Number Not Found": missing,
            "Response Status": status,
            "Response Body": "",
            "Errors": errors,
        }
    ).encode()


def counted(swift: SwiftServer, method: str) -> int:
    return len([one for one in swift.requests() if one.method == method])


def listed(store: SwiftStore, names: list[ObjectName]) -> list[str]:
    return [row.key for row in store.list_page(names[0].container).rows]


@pytest.mark.matrix(4)
@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 406, 409, 411, 412, 415, 501])
def test_after_a_refusal_names_are_deleted_one_by_one(
    swift: SwiftServer,
    store: SwiftStore,
    names: list[ObjectName],
    status: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "swiftfs.store.deletion")
    swift.inject(Fault(*BULK, status=status))
    assert store.delete_many([*names[:4], ObjectName(names[0].container, "absent")]) == {}
    assert listed(store, names) == [name.key for name in names[4:]]
    assert store.limits().bulk_delete == 0
    swift.reset_requests()
    assert store.delete_many(names[4:]) == {}
    assert listed(store, names) == []
    assert (counted(swift, "POST"), counted(swift, "DELETE")) == (0, 4)
    assert len([record for record in caplog.records if "one by one" in record.message]) == 1


BODIES = {
    "a page": b"<html>Welcome</html>",
    "nothing": b"",
    "plain text": b"Number Deleted: 0\nNumber Not Found: 0\nResponse Status: 200 OK\nErrors:\n",
    "other JSON": b"[]",
    "nothing done": verdict(),
    **{
        status: verdict(status=status)
        for status in (
            "400 Bad Request",
            "403 Forbidden",
            "404 Not Found",
            "405 Method Not Allowed",
            "412 x",
            "501 x",
        )
    },
}


@pytest.mark.matrix(4)
@pytest.mark.parametrize(
    ("status", "body"), [(204, b""), *((200, body) for body in BODIES.values())], ids=["no content", *BODIES]
)
def test_an_answer_that_deleted_nothing_is_no_success(
    swift: SwiftServer, store: SwiftStore, names: list[ObjectName], status: int, body: bytes
) -> None:
    swift.inject(Fault(*BULK, status=status, body=body.decode()))
    assert RetryingStore(store, QUICK, owns=False).delete_many(names) == {}
    assert listed(store, names) == []
    store.put(names[0], b"x", TEXT)
    assert store.delete_many(names[:1]) == {}
    swift.reset_requests()
    assert store.delete_many(names[:1]) == {}
    assert counted(swift, "POST") == 0


def test_one_answer_without_a_verdict_is_no_refusal(
    swift: SwiftServer, store: SwiftStore, names: list[ObjectName]
) -> None:
    swift.inject(Fault(*BULK, flip_byte=True, times=1))
    assert store.delete_many(names[:4]) == {}
    swift.reset_requests()
    assert store.delete_many(names[4:]) == {}
    assert (counted(swift, "POST"), counted(swift, "DELETE")) == (1, 0)
    assert listed(store, names) == []


def test_refusals_of_single_deletes_are_reported(
    swift: SwiftServer, store: SwiftStore, names: list[ObjectName]
) -> None:
    swift.inject(Fault(*BULK, status=403))
    swift.inject(Fault("DELETE", "/n05", status=403))
    failures = RetryingStore(store, QUICK, owns=False).delete_many(names)
    assert {name.key: type(error) for name, error in failures.items()} == {"n05": AccessDenied}
    assert listed(store, names) == ["n05"]


def test_a_refusal_where_nothing_may_be_deleted_does_not_disable_bulk_delete(
    swift: SwiftServer, store: SwiftStore, names: list[ObjectName]
) -> None:
    swift.inject(Fault(*BULK, status=403))
    swift.inject(Fault("DELETE", "/n", status=403))
    failures = store.delete_many(names)
    assert [type(error) for error in failures.values()] == [AccessDenied] * len(names)
    swift.clear_faults()
    swift.reset_requests()
    assert store.delete_many(names) == {}
    assert (counted(swift, "POST"), counted(swift, "DELETE")) == (1, 0)


def test_an_impossible_name_does_not_affect_others(
    swift: SwiftServer, store: SwiftStore, names: list[ObjectName]
) -> None:
    bad = ObjectName(names[0].container, "\udc80")
    failures = store.delete_many([bad, *names])
    assert {name: type(error) for name, error in failures.items()} == {bad: BadName}
    assert listed(store, names) == []
    assert store.limits().bulk_delete
    assert counted(swift, "POST") == 0


def test_a_request_that_is_too_large_is_sent_in_halves(
    hostile: HostileServer, short_timeout_store: SwiftStore
) -> None:
    hostile.response = Response(verdict(status="413 Request Entity Too Large"))
    assert short_timeout_store.delete_many(NAMES[:4]) == {}
    sent = [path.rpartition("/")[2] for path in hostile.paths]
    assert sent[:3] == ["a?bulk-delete"] * 3
    assert sorted(sent[3:]) == ["n0", "n1", "n2", "n3"]


def test_a_server_that_finds_every_request_too_large_has_no_bulk_delete(
    swift: SwiftServer, store: SwiftStore, names: list[ObjectName]
) -> None:
    swift.inject(Fault(*BULK, status=413))
    assert store.delete_many(names) == {}
    assert listed(store, names) == []
    assert counted(swift, "POST") == len([8, 4, 2, 1])
    assert store.limits().bulk_delete == 0


def test_in_an_outage_one_request_is_sent(
    swift: SwiftServer, store: SwiftStore, names: list[ObjectName]
) -> None:
    store._deletion._bulk._size = 5
    swift.inject(Fault(*BULK, status=503))
    failures = store.delete_many(names)
    assert {type(error) for error in failures.values()} == {Unavailable}
    assert list(failures) == names
    assert (counted(swift, "POST"), counted(swift, "DELETE")) == (1, 0)
    assert listed(store, names) == [name.key for name in names]


def test_only_names_not_known_to_be_deleted_are_sent_again(swift: SwiftServer, store: SwiftStore) -> None:
    names = stored(store, 20)
    store._deletion._bulk._size = 5
    swift.inject(Fault(*BULK, delay=0.1, times=2))
    swift.inject(Fault(*BULK, status=503, after=True, times=1))
    swift.reset_requests()
    assert RetryingStore(store, QUICK, owns=False).delete_many(names) == {}
    posts = [one.bytes_in for one in swift.requests() if one.method == "POST"]
    line = len(f"/{names[0]}\n")
    assert [-(-sent // line) for sent in posts] == [5, 10, 5, 5][: len(posts)]
    assert listed(store, names) == []


def test_a_token_that_expired_during_a_request_is_renewed(
    hostile: HostileServer, short_timeout_store: SwiftStore
) -> None:
    errors = [[f"/{NAMES[1]}", "401 Unauthorized"]]
    hostile.response = Response(verdict(1, "401 Unauthorized", errors))
    assert short_timeout_store.delete_many(NAMES[:2]) == {}
    assert [path.rpartition("/")[2] for path in hostile.paths] == ["a?bulk-delete", "n1"]
    assert short_timeout_store.limits().bulk_delete


def test_missing_names_are_no_failures() -> None:
    errors = [[f"/{NAMES[0]}", "404 Not Found"], [f"/{NAMES[1]}", "403 Forbidden"]]
    outcome = bulk_outcome(NAMES[:2], verdict(status="400 Bad Request", errors=errors))
    assert {name: type(error) for name, error in outcome.failures.items()} == {NAMES[1]: AccessDenied}
    assert outcome.single == []
    outcome = bulk_outcome(NAMES[:3], verdict(1, "502 Bad Gateway"))
    assert {type(error) for error in outcome.failures.values()} == {Unavailable}
    assert set(outcome.failures) == set(NAMES[:3])


@pytest.fixture
def false_verdict(request: pytest.FixtureRequest, swift: SwiftServer, names: list[ObjectName]) -> None:
    """Let bulk-delete do nothing, and answer that none of the names exists."""
    body = verdict(missing=len(names))
    if request.param == "named":
        body = verdict(errors=[[f"/{name}", "404 Not Found"] for name in names])
    swift.inject(Fault(*BULK, status=200, body=body.decode()))


@pytest.mark.parametrize("false_verdict", ["counted", "named"], indirect=True)
@pytest.mark.usefixtures("false_verdict")
def test_names_that_exist_despite_the_verdict_are_deleted(
    swift: SwiftServer, store: SwiftStore, names: list[ObjectName], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "swiftfs.store.deletion")
    swift.reset_requests()
    assert store.delete_many(names) == {}
    assert listed(store, names) == []
    assert (counted(swift, "POST"), counted(swift, "DELETE")) == (1, 1 + len(names))
    assert store.limits().bulk_delete == 0
    assert len([record for record in caplog.records if "one by one" in record.message]) == 1


@pytest.mark.parametrize("false_verdict", ["counted"], indirect=True)
@pytest.mark.usefixtures("false_verdict")
def test_a_verdict_that_cannot_be_checked_is_not_trusted(
    swift: SwiftServer, store: SwiftStore, names: list[ObjectName]
) -> None:
    swift.inject(Fault("DELETE", f"/{names[0]}", status=403))
    failures = store.delete_many(names)
    assert {name: type(error) for name, error in failures.items()} == {names[0]: AccessDenied}
    assert listed(store, names) == [names[0].key]


@pytest.mark.parametrize("false_verdict", ["counted"], indirect=True)
@pytest.mark.usefixtures("false_verdict")
def test_nothing_is_deleted_when_the_verdict_cannot_be_checked(
    swift: SwiftServer, store: SwiftStore, names: list[ObjectName]
) -> None:
    swift.inject(Fault("DELETE", f"/{names[0]}", status=503))
    failures = store.delete_many(names)
    assert {name: error.retryable for name, error in failures.items()} == dict.fromkeys(names, True)
    assert len(listed(store, names)) == len(names)


def test_missing_names_cost_one_request_more(
    swift: SwiftServer, store: SwiftStore, names: list[ObjectName]
) -> None:
    assert store.delete_many(names) == {}
    swift.reset_requests()
    assert store.delete_many(names) == {}
    assert (counted(swift, "POST"), counted(swift, "DELETE")) == (1, 1)
    assert store.limits().bulk_delete


def test_blanks_sent_while_a_server_works_are_no_trickle(
    hostile: HostileServer, short_timeout_store: SwiftStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come for longer than a body may trickle, and than the store waits for a byte."""
    monkeypatch.setattr("swiftfs.store.sockets.WINDOW_SECONDS", 0.1)
    hostile.response = Response(verdict(len(NAMES)), blanks=int(1.0 / TRICKLE_PAUSE))
    assert short_timeout_store.delete_many(NAMES) == {}
    assert len(hostile.paths) == 1


MANY = [ObjectName("c", f"n{number:04}") for number in range(6000)]


class SteadyServer:
    """Deletes what it is asked to, in `pace` seconds a name; `sent` counts the names of each request.

    The seconds pass on a simulated clock. The first request for `refused` is answered with a 503.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, pace: float, refused: str = "") -> None:
        self.sent: list[int] = []
        self._pace = pace
        self._refused = refused
        self._ahead = 0.0
        clock = time.monotonic
        monkeypatch.setattr("time.monotonic", lambda: clock() + self._ahead)

    def __call__(self, body: bytes) -> Response:
        names = body.decode().split("\n")
        self.sent.append(len(names))
        self._ahead += self._pace * len(names)
        if self._refused and any(name.endswith(self._refused) for name in names):
            self._refused = ""
            return Response(status=503)
        return Response(verdict(len(names)))


def test_a_slow_server_gets_requests_that_it_answers_in_time(
    hostile: HostileServer, short_timeout_store: SwiftStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = hostile.respond = SteadyServer(monkeypatch, pace=0.05)
    assert short_timeout_store.delete_many(MANY) == {}
    assert sum(server.sent) == len(MANY)
    assert max(server.sent) <= 1000
    assert max(server.sent[2:]) * 0.05 <= 20


def test_names_that_are_gone_are_not_sent_again_after_an_error(
    hostile: HostileServer, short_timeout_store: SwiftStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = hostile.respond = SteadyServer(monkeypatch, pace=0.0, refused=MANY[-1].key)
    assert RetryingStore(short_timeout_store, QUICK, owns=False).delete_many(MANY) == {}
    assert sum(server.sent) == len(MANY) + server.sent[-2]
    assert server.sent[-2] < len(MANY)


def test_silence_ends_a_bulk_delete(hostile: HostileServer, short_timeout_store: SwiftStore) -> None:
    hostile.response = Response(b" ", headers={"Content-Length": "100"}, silence=1.0)
    failures = short_timeout_store.delete_many(NAMES)
    assert {type(error) for error in failures.values()} == {TimedOut}
    assert len(hostile.paths) == 1


class Clock:
    """`time.monotonic` of a test, and a server that takes `pace` seconds a name."""

    def __init__(self, pace: float) -> None:
        self.now = 0.0
        self.pace = pace
        self.sent: list[int] = []
        self.error: StoreError | None = None

    def answer(self, request: Request) -> bytes:
        count = len(bytes(request.body or b"").split(b"\n"))
        self.sent.append(count)
        self.now += count * self.pace
        if self.error is not None:
            raise self.error
        return verdict(count)


def delete_all(bulk: BulkDeletes, count: int, most: int = 10_000) -> None:
    names = [ObjectName("c", str(number)) for number in range(count)]
    while names:
        size = bulk.batch(most)
        assert bulk.delete(names[:size]).failures == {}
        names = names[size:]


@pytest.mark.parametrize(
    ("pace", "sent"),
    [
        (0.0001, [1000, 2000, 4000, 8000, 10_000]),
        (0.015, [1000] * 25),
        (0.1, [1000, 500, 250, 125]),
    ],
)
def test_a_batch_has_as_many_names_as_are_deleted_in_time(
    monkeypatch: pytest.MonkeyPatch, pace: float, sent: list[int]
) -> None:
    clock = Clock(pace)
    monkeypatch.setattr("time.monotonic", lambda: clock.now)
    bulk = BulkDeletes(clock.answer)
    delete_all(bulk, 25_000)
    assert clock.sent[: len(sent)] == sent
    assert max(clock.sent[3:]) * pace <= 20


def test_a_batch_that_took_too_long_and_failed_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(1.0)
    monkeypatch.setattr("time.monotonic", lambda: clock.now)
    bulk = BulkDeletes(clock.answer)
    clock.error = TimedOut("nothing came")
    for size in (1000, 20, 20):
        names = NAMES[:size]
        assert bulk.batch(10_000) == size
        with pytest.raises(TimedOut):
            bulk.delete(names)
    assert clock.sent == [40, 20, 20]


@pytest.mark.matrix(1)
@pytest.mark.mount_options("settle=1")
@pytest.mark.parametrize("status", [403, 404, 405])
def test_a_tree_is_removed_where_bulk_delete_is_refused(
    mounted: Mount, swift: SwiftServer, connection: Connection, container: str, status: int
) -> None:
    tree = mounted.path / "tree"
    tree.mkdir()
    for number in range(12):
        (tree / f"file{number}").write_text("x")
    mounted.remount()
    swift.inject(Fault(*BULK, status=status))
    run("rm", "-rf", tree)
    mounted.stop()
    assert connection.get_container(container)[1] == []
