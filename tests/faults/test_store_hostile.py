"""A server that breaks the protocol: each answer is one clear error, with little memory."""

import errno
import gc
import gzip
import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from support.hostile_server import HostileServer, Response, hostile_server
from support.stores import TEXT, md5
from swiftfs.errors import Corrupt, NotSwift, PreconditionFailed, StoreError, TimedOut, Unavailable
from swiftfs.objects import ObjectInfo, ObjectName
from swiftfs.store.protocol import iter_rows
from swiftfs.store.swift_store import SwiftStore

pytest_plugins = ["support.hostile_fixtures"]

NAME = ObjectName("c", "o")
NESTED = b"[" * 100_000
DIGITS = "9" * 5000
ROW = {"name": "a", "bytes": 1, "hash": "h", "content_type": "t", "last_modified": "2020-01-01T00:00:00"}


def rows(*changes: dict[str, Any]) -> bytes:
    """Return a listing whose rows differ from ordinary ones by `changes`."""
    return json.dumps([{**ROW, **change} for change in changes]).encode()


def one_line(error: StoreError) -> None:
    """Assert that a message fits on a line of a log, whatever the server sent."""
    assert len(str(error)) < 700
    assert str(error).isprintable()


LISTINGS = {
    "twice": rows({}, {}),
    "not in order": rows({"name": "b"}, {"name": "a"}),
    "subdir not in order": json.dumps([{"subdir": "z/"}, ROW]).encode(),
    "digits": rows({}).replace(b'"bytes": 1', b'"bytes": ' + DIGITS.encode()),
    "no name": rows({"name": None}),
    "list as name": rows({"name": ["a"] * 1000}),
    "NUL": rows({"name": "a\0b"}),
    "surrogate": rows({"name": "\ud800"}),
    "HTML": b"<html>\n<h1>Welcome</h1>\r\n</html>",
    "object": b'{"error": "x"}',
    "nested": NESTED,
    "half": rows({})[:-3],
    "not UTF-8": b'[{"name": "\xff"}]',
    "gzip": gzip.compress(rows({})),
}


@pytest.mark.parametrize("body", LISTINGS.values(), ids=LISTINGS)
def test_wrong_listings_are_refused(hostile: HostileServer, hostile_store: SwiftStore, body: bytes) -> None:
    hostile.response = Response(body)
    with pytest.raises(Corrupt) as caught:
        hostile_store.list_page("c")
    one_line(caught.value)


BROKEN_ROWS: dict[str, dict[str, Any]] = {
    "negative": {"bytes": -1},
    "huge": {"bytes": 2**63},
    "float": {"bytes": 1.5},
    "text as size": {"bytes": "1"},
    "no size": {"bytes": None},
    "truth as size": {"bytes": True},
    "no hash": {"hash": 7},
    "surrogate as hash": {"hash": "\ud800"},
    "no type": {"content_type": None},
    "no time": {"last_modified": ""},
    "list as time": {"last_modified": []},
}


@pytest.mark.parametrize("change", BROKEN_ROWS.values(), ids=BROKEN_ROWS)
def test_an_unreadable_row_hides_neither_itself_nor_others(
    hostile: HostileServer,
    hostile_store: SwiftStore,
    caplog: pytest.LogCaptureFixture,
    change: dict[str, Any],
) -> None:
    hostile.response = Response(rows({}, {"name": "b", **change}, {"name": "c"}))
    page = hostile_store.list_page("c")
    assert ([row.key for row in page.rows], page.unreadable, page.marker) == (["a", "b", "c"], ("b",), "c")
    only_time = "last_modified" in change
    assert (page.rows[1].size, page.rows[1].hash, page.rows[1].content_type) == (
        (1, "h", "t") if only_time else (0, "", "")
    )
    (record,) = [one for one in caplog.records if one.levelname == "WARNING"]
    assert "of 'b' is invalid, and of 0 others" in record.getMessage()
    # What is decided by a row, such as what a rename moves, is not decided by this one.
    with pytest.raises(Corrupt, match="unreadable row of 'b'") as caught:
        list(iter_rows(hostile_store, "c"))
    one_line(caught.value)


def test_a_listing_of_other_names_is_refused(hostile: HostileServer, hostile_store: SwiftStore) -> None:
    hostile.response = Response(rows({"name": "../outside"}))
    with pytest.raises(Corrupt, match="other names"):
        hostile_store.list_page("c", prefix="folder/", delimiter="/")


@pytest.mark.parametrize("answer", [b"204 No Content\r\n", b"200 OK\r\nContent-Length: 2\r\n"])
def test_an_empty_answer_that_is_not_swift_s_is_no_empty_container(
    hostile: HostileServer, hostile_store: SwiftStore, answer: bytes
) -> None:
    """As of a proxy: all files would be missing, and `gc` would delete their segments."""
    hostile.response = Response(raw=b"HTTP/1.1 " + answer + b"Connection: close\r\n\r\n[]")
    calls: list[Callable[[], object]] = [
        lambda: hostile_store.list_page("c"),
        lambda: hostile_store.list_versions("c"),
        hostile_store.list_containers,
    ]
    for call in calls:
        with pytest.raises(NotSwift, match="the answer is not Swift's"):
            call()


def test_a_repeated_page_is_refused(hostile: HostileServer, hostile_store: SwiftStore) -> None:
    hostile.response = Response(rows({}))
    page = hostile_store.list_page("c", limit=1)
    with pytest.raises(Corrupt, match="does not continue"):
        hostile_store.list_page("c", limit=1, marker=page.marker)


def test_more_rows_than_requested_are_read(hostile: HostileServer, hostile_store: SwiftStore) -> None:
    hostile.response = Response(rows(*({"name": f"{number}"} for number in range(9))))
    page = hostile_store.list_page("c", limit=2)
    assert (len(page.rows), page.last) == (9, False)


@pytest.mark.parametrize("how", ["listing", "containers", "manifest", "verdict", "info"])
def test_a_huge_answer_is_not_kept_in_memory(
    hostile: HostileServer, hostile_store: SwiftStore, how: str
) -> None:
    hostile.response = Response(b"[", padding=400, headers={"X-Static-Large-Object": "true"})
    calls: dict[str, Callable[[], object]] = {
        "listing": lambda: hostile_store.list_page("c", limit=10),
        "containers": hostile_store.list_containers,
        "manifest": lambda: hostile_store.manifest(NAME),
        "verdict": lambda: _raise(hostile_store.delete_many([NAME])),
        "info": lambda: _fresh_limits(hostile_store),
    }
    tracemalloc.start()
    try:
        with pytest.raises(Corrupt, match="longer than"):
            calls[how]()
        assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    finally:
        tracemalloc.stop()


def _raise(failures: dict[ObjectName, StoreError]) -> None:
    raise failures[NAME]


def _fresh_limits(store: SwiftStore) -> None:
    store._limits = None
    assert not store.limits().is_swift
    raise Corrupt("longer than what is known safely")


HEADERS = {
    "length of minus one": {"Content-Length": "-1"},
    "no number": {"Content-Length": "many"},
    "beyond 2**63": {"Content-Length": str(2**63)},
    "digits": {"Content-Length": DIGITS},
}


@pytest.mark.parametrize("headers", HEADERS.values(), ids=HEADERS)
def test_wrong_lengths_are_refused(
    hostile: HostileServer, hostile_store: SwiftStore, headers: dict[str, str]
) -> None:
    hostile.response = Response(headers={"Etag": "e", **headers})
    calls: list[Callable[[], object]] = [
        lambda: hostile_store.head(NAME),
        lambda: hostile_store.get(NAME, lambda _offset, _chunk: None),
    ]
    for call in calls:
        with pytest.raises((Corrupt, Unavailable)) as caught:
            call()
        one_line(caught.value)


def test_a_head_without_a_length_is_not_an_empty_object(
    hostile: HostileServer, hostile_store: SwiftStore
) -> None:
    hostile.response = Response(headers={"ETag": "e", "Transfer-Encoding": "chunked"})
    with pytest.raises(Corrupt, match="no Content-Length"):
        hostile_store.head(NAME)


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_two_lengths(hostile: HostileServer, hostile_store: SwiftStore) -> None:
    """urllib3 refuses these itself, and leaves that socket to the garbage collector."""
    hostile.response = Response(headers={"Content-Length": "1, 2"})
    message = ""
    try:
        hostile_store.head(NAME)
    except Corrupt as error:
        message = str(error)
    assert "Content-Length" in message
    gc.collect()


TIMES = ["NaN", "-1", "Infinity", "1e999999999", DIGITS, "soon", "", "99999999999"]


@pytest.mark.parametrize("text", TIMES, ids=lambda text: text[:12])
def test_wrong_times_are_ignored(hostile: HostileServer, hostile_store: SwiftStore, text: str) -> None:
    times = {"X-Timestamp": text, "Last-Modified": text}
    hostile.response = Response(headers={**times, "Content-Length": "0", "ETag": md5(b"")})
    assert hostile_store.head(NAME).last_modified_ns == 0
    hostile.response = Response(status=503, headers={"Retry-After": text})
    with pytest.raises(Unavailable):
        hostile_store.head(NAME)


def test_wrong_counts_are_refused(hostile: HostileServer, hostile_store: SwiftStore) -> None:
    for text in ("-1", DIGITS, "NaN", ""):
        hostile.response = Response(headers={"X-Account-Bytes-Used": text, "X-Container-Bytes-Used": text})
        for call in (hostile_store.account_usage, lambda: hostile_store.container_usage("c")):
            with pytest.raises(Corrupt, match="bytes-used") as caught:
                call()
            one_line(caught.value)


RANGES = ["", "bytes 0-4/5, 6-7/8", f"bytes 1-4/{DIGITS}", "bytes 4-1/9", "bytes 0-4/9", "bytes */9", "x"]


@pytest.mark.parametrize("text", RANGES, ids=lambda text: text[:20])
def test_wrong_ranges_are_refused(hostile: HostileServer, hostile_store: SwiftStore, text: str) -> None:
    hostile.response = Response(
        b"12345", 206, {"Content-Range": text, "Content-Length": "5", "Etag": md5(b"12345")}
    )
    with pytest.raises(Corrupt) as caught:
        hostile_store.get(NAME, lambda _offset, _chunk: None, offset=1, length=4)
    one_line(caught.value)


def test_more_bytes_than_requested_do_not_reach_the_sink(
    hostile: HostileServer, hostile_store: SwiftStore
) -> None:
    hostile.response = Response(b"1234", 206, {"Content-Range": "bytes 0-3/9", "Etag": "e"}, padding=50)
    received = 0

    def sink(_offset: int, chunk: bytes) -> None:
        nonlocal received
        received += len(chunk)

    with pytest.raises(Corrupt) as caught:
        hostile_store.get(NAME, sink, offset=0, length=4)
    assert received <= 4
    one_line(caught.value)


@pytest.mark.parametrize("length", [4, 6])
def test_a_wrong_length_of_the_right_version_is_an_error_of_the_server(
    hostile: HostileServer, hostile_store: SwiftStore, length: int
) -> None:
    """Not ESTALE: the program would open the file again, with the same result."""
    etag = md5(b"12345")
    hostile.response = Response(b"123456"[:length], headers={"Content-Length": str(length), "Etag": etag})
    with pytest.raises(Corrupt, match=f"{length} bytes were announced") as caught:
        hostile_store.get(NAME, lambda *_: pytest.fail("a byte came"), etag=etag, size=5)
    assert caught.value.errno == errno.EIO
    one_line(caught.value)


SEGMENT = {"name": "/s/1", "bytes": 5, "hash": "h"}

MANIFESTS: dict[str, bytes | list[Any]] = {
    "no list": b'{"a": 1}',
    "numbers": [1, 2],
    "nested": NESTED,
    "HTML": b"<html>\n</html>",
    "negative": [{**SEGMENT, "bytes": -5}],
    "huge": [{**SEGMENT, "bytes": 2**62}] * 3,
    "digits": b'[{"name": "/s/1", "hash": "h", "bytes": ' + DIGITS.encode() + b"}]",
    "no name": [{**SEGMENT, "name": None}],
    "only a container": [{**SEGMENT, "name": "/s"}],
    "no container": [{**SEGMENT, "name": "//x"}],
    "surrogate": [{**SEGMENT, "name": "/s/\ud800"}],
    "no hash": [{**SEGMENT, "hash": 1}],
    "range past the end": [{**SEGMENT, "range": "3-9"}],
    "range backwards": [{**SEGMENT, "range": "3-1"}],
    "suffix longer than all": [{**SEGMENT, "range": "-9"}],
    "range of words": [{**SEGMENT, "range": "a-b"}],
    "list as range": [{**SEGMENT, "range": [1]}],
}


@pytest.mark.parametrize("body", MANIFESTS.values(), ids=MANIFESTS)
def test_wrong_manifests_are_refused(hostile: HostileServer, hostile_store: SwiftStore, body: Any) -> None:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    hostile.response = Response(text, headers={"X-Static-Large-Object": "true"})
    with pytest.raises(Corrupt) as caught:
        hostile_store.manifest(NAME)
    one_line(caught.value)


VERDICTS = [b"", b"<html>", NESTED, b'{"Errors": 5}', b'{"Number Deleted": 1}', b'{"Errors": [["/c/o"]]}']


@pytest.mark.parametrize("body", VERDICTS, ids=lambda body: ascii(body[:20]))
def test_after_wrong_answers_to_bulk_delete_single_deletes_follow(
    hostile: HostileServer, hostile_store: SwiftStore, body: bytes
) -> None:
    hostile.response = Response(body)
    assert hostile_store.delete_many([NAME]) == {}
    assert hostile.paths == ["/v1/a?bulk-delete", "/v1/a/c/o"]


def test_a_body_in_gzip_is_not_unpacked(hostile: HostileServer, hostile_store: SwiftStore) -> None:
    """It was not requested; unpacked it is a thousand times larger."""
    bomb = gzip.compress(bytes(50_000_000))
    headers = {"Content-Encoding": "gzip", "Content-Length": str(len(bomb)), "Etag": md5(bomb)}
    hostile.response = Response(bomb, headers=headers)
    parts: list[bytes] = []
    info = hostile_store.get(NAME, lambda _offset, chunk: parts.append(chunk))
    assert b"".join(parts) == bomb
    assert isinstance(info, ObjectInfo)
    assert info.preserved_headers == {"Content-Encoding": "gzip"}
    with pytest.raises(Corrupt):
        hostile_store.list_page("c")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_gets_no_token(hostile: HostileServer, hostile_store: SwiftStore, status: int) -> None:
    with hostile_server() as elsewhere:
        hostile.response = Response(status=status, headers={"Location": f"{elsewhere.url}/v1/a/c/o"})
        calls: list[Callable[[], object]] = [
            lambda: hostile_store.head(NAME),
            lambda: hostile_store.put(NAME, b"x", TEXT),
        ]
        for call in calls:
            with pytest.raises(NotSwift, match=f"{status} .*a redirect to {elsewhere.url}") as caught:
                call()
            one_line(caught.value)
        assert elsewhere.paths == []
    assert hostile.tokens == ["token", "token"]


@pytest.mark.parametrize(
    "location",
    ["http://[::1", "http://a\x1b[2J/", "http://a\uff0fb/", "http://a:99999/", "http://[127.0.0.1:1]@a/"],
)
def test_a_redirect_to_what_is_no_url(
    hostile: HostileServer, hostile_store: SwiftStore, location: str
) -> None:
    """requests would prepare to follow it, and fail with an error that is none of its own."""
    named = location.encode().decode("latin-1")
    hostile.response = Response(status=302, headers={"Location": named})
    with pytest.raises(NotSwift, match=r"302 .*a redirect to .*which gets no token") as caught:
        hostile_store.head(NAME)
    one_line(caught.value)


def test_cookies_are_not_kept(hostile: HostileServer, hostile_store: SwiftStore) -> None:
    """A new one with every answer would take more and more memory."""
    for number in range(3):
        cookie = {"Set-Cookie": f"name{number}=x; Path=/"}
        hostile.response = Response(headers={"ETag": "e", "Content-Length": "0", **cookie})
        hostile_store.head(NAME)
    (connection,) = hostile_store._transport._pool._idle
    assert list(connection._http.request_session.cookies) == []


def test_an_error_page_is_one_short_line(hostile: HostileServer, hostile_store: SwiftStore) -> None:
    headers = {"X-Trans-Id": "tx\x1b[31m" + "x" * 5000, "Retry-After": DIGITS}
    hostile.response = Response(b"\x1b]0;title\x07\r\n\0<b>\n" + b"long " * 100_000, 403, headers, padding=50)
    with pytest.raises(StoreError) as caught:
        hostile_store.get(NAME, lambda _offset, _chunk: None)
    one_line(caught.value)


OBJECT = b"HTTP/1.1 200 OK\r\nConnection: close\r\nETag: e\r\nContent-Type: a/b\r\n"
LENGTH = b"Content-Length: 5\r\n\r\n"

BROKEN_HEADS = {
    "no colon": OBJECT + b"X-Object-Meta-A\r\n" + LENGTH,
    "no name": OBJECT + b": x\r\n" + LENGTH,
    "NUL": OBJECT + b"X-Object-Meta-A: \0\r\n" + LENGTH,
    "NUL in a name": OBJECT + b"X-Object-Meta-\0: a\r\n" + LENGTH,
    "bare CR": OBJECT + b"X-Object-Meta-A: b\rContent-Length: 7\r\n" + LENGTH,
    "blank first": b"HTTP/1.1 200 OK\r\n X: y\r\n" + LENGTH,
    "too many": OBJECT + b"".join(b"X-%d: x\r\n" % number for number in range(1001)) + LENGTH,
    "too long": OBJECT + b"X: " + b"x" * 70_000 + b"\r\n" + LENGTH,
    "cut": OBJECT,
    "cut in a line": OBJECT + b"Content-Length: 5",
    "cut after 100": b"HTTP/1.1 100 Continue\r\n",
}


@pytest.mark.parametrize("raw", BROKEN_HEADS.values(), ids=BROKEN_HEADS)
def test_a_head_is_read_whole_or_not_at_all(
    hostile: HostileServer, hostile_store: SwiftStore, raw: bytes
) -> None:
    hostile.response = Response(raw=raw)
    calls: list[Callable[[], object]] = [
        lambda: hostile_store.head(NAME),
        lambda: hostile_store.get(NAME, lambda *_: None),
        lambda: hostile_store.list_page("c"),
    ]
    for call in calls:
        with pytest.raises(Corrupt) as caught:
            call()
        one_line(caught.value)


@pytest.mark.parametrize("interim", [b"100 Continue", b"102 Processing", b"103 Early Hints"])
def test_an_interim_answer_is_not_the_answer(
    hostile: HostileServer, hostile_store: SwiftStore, interim: bytes
) -> None:
    """Otherwise the answer itself would be taken for that of the next request."""
    hostile.response = Response(
        raw=b"HTTP/1.1 " + interim + b"\r\nLink: x\r\n\r\n" + OBJECT + LENGTH + b"hello"
    )
    for info in (hostile_store.head(NAME), hostile_store.get(NAME, lambda *_: None)):
        assert info.size == 5


@pytest.mark.parametrize("name", ["my note", "größe", "\x01"])
def test_no_header_hides_those_behind_it(
    hostile: HostileServer, hostile_store: SwiftStore, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    caplog.set_level("INFO")
    line = f"X-Object-Meta-{name}: x\r\n".encode()
    skipped = b"HTTP/1.1 100 Continue\r\nX-Object-Meta-Not This: x\r\n\r\n"
    hostile.response = Response(
        raw=skipped + OBJECT + line + b"X-Static-Large-Object: True\r\n" + LENGTH + b"hello"
    )
    for info in (hostile_store.head(NAME), hostile_store.get(NAME, lambda *_: None)):
        assert (info.size, info.is_slo, dict(info.metadata)) == (5, True, {name: "x"})
    usage = b"Connection: close\r\nX-Container-Bytes-Used: 7\r\nX-Container-Object-Count: 1\r\n\r\n"
    hostile.response = Response(raw=b"HTTP/1.1 204 No Content\r\n" + line + usage)
    assert hostile_store.container_usage("c").bytes_used == 7
    listing = b"HTTP/1.1 200 OK\r\n" + line + b"Content-Length: %d\r\n" % len(rows({})) + usage + rows({})
    hostile.response = Response(raw=listing)
    assert len(hostile_store.list_page("c").rows) == 1
    assert not caplog.records


ENDLESS = {
    "no length": (b"\r\n", Corrupt, "more bytes came"),
    "long": (
        b"Content-Length: 99999999999\r\n\r\n",
        PreconditionFailed,
        "99999999999 bytes instead of 300000",
    ),
    "chunked": (b"Transfer-Encoding: chunked\r\n\r\n", Corrupt, "more bytes came"),
    "DLO": (b"X-Object-Manifest: c/parts\r\n\r\n", PreconditionFailed, "more than 300000 bytes"),
}


@pytest.mark.parametrize(("rest", "kind", "said"), ENDLESS.values(), ids=ENDLESS)
def test_no_more_bytes_are_read_than_the_object_has(
    hostile: HostileServer, hostile_store: SwiftStore, rest: bytes, kind: type[StoreError], said: str
) -> None:
    body = b"%x\r\n%s\r\n" % (10_000, b"Z" * 10_000) if b"chunked" in rest else b"Z" * 10_000
    hostile.response = Response(raw=OBJECT + rest, endless=body, pause=0.001)
    got: list[int] = []
    with pytest.raises(kind, match=said) as caught:
        hostile_store.get(NAME, lambda at, data: got.append(at + len(data)), etag="e", size=300_000)
    one_line(caught.value)
    assert max(got, default=0) <= 300_000


def test_a_folded_header_is_one_line(hostile: HostileServer, hostile_store: SwiftStore) -> None:
    hostile.response = Response(raw=OBJECT + b"X-Object-Meta-A: b\r\n\t c \r\n  d\r\n" + LENGTH)
    info = hostile_store.head(NAME)
    assert (dict(info.metadata), info.size) == ({"a": "b c d"}, 5)


def test_a_body_that_trickles_ends_the_request(
    hostile: HostileServer, hostile_store: SwiftStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swiftfs.store.sockets.WINDOW_SECONDS", 0.2)
    hostile.response = Response(b"x", headers={"Content-Length": "1000000", "ETag": "e"}, trickles=True)
    with pytest.raises(TimedOut, match=r"get c/o: (timed out|less than 1024 bytes a second)"):
        hostile_store.get(NAME, lambda *_: None)
