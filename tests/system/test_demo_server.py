"""The demo's Swift: what other tests rely on when they count its requests and inject faults."""

import hashlib
import http.client
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
import requests
import swiftclient
from swiftclient.exceptions import ClientException

from support.deadlines import within
from support.jobs import wait_until
from swiftfs.demo import server as server_module
from swiftfs.demo.server import OPERATOR, READER, Fault, RecordedRequest, ServerSettings, SwiftServer
from swiftfs.errors import ConfigurationError

HARD_NAME = "a folder/50% off?\n#é"


def connect(server: SwiftServer, user: str = "", key: str = "") -> Any:
    return swiftclient.Connection(
        server.auth_url, user or server.user, key or server.key, retries=0, timeout=20
    )


@pytest.fixture(scope="module")
def swift() -> Iterator[SwiftServer]:
    with SwiftServer() as server:
        yield server


@pytest.fixture
def client(swift: SwiftServer) -> Iterator[Any]:
    swift.clear_faults()
    connection = connect(swift)
    connection.put_container("c")
    swift.reset_requests()
    yield connection
    connection.close()
    swift.clear_faults()


def seen(server: SwiftServer) -> list[tuple[str, str, int]]:
    return [(request.method, request.path, request.status) for request in server.requests()]


def status_of(call: Callable[..., object], *arguments: object, **options: object) -> int:
    with pytest.raises(ClientException) as caught:
        call(*arguments, **options)
    return int(caught.value.http_status)


@contextmanager
def raw(
    server: SwiftServer, client: Any, method: str, path: str, **headers: str
) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    target = f"{urlsplit(client.url).path}/{path}"
    connection.request(method, target, headers={"X-Auth-Token": client.token, **headers})
    try:
        yield connection.getresponse()
    finally:
        connection.close()


def test_an_object_of_any_name_is_stored_listed_and_read(client: Any) -> None:
    client.put_object("c", HARD_NAME, b"content", content_type="text/plain;mtime=1.5")
    row = next(row for row in client.get_container("c")[1] if row["name"] == HARD_NAME)
    assert (row["bytes"], row["content_type"]) == (7, "text/plain;mtime=1.5")
    assert client.get_object("c", HARD_NAME)[1] == b"content"


def test_large_objects_of_both_kinds_are_read_whole(swift: SwiftServer, client: Any) -> None:
    parts = [b"first,", b"second"]
    for number, part in enumerate(parts):
        client.put_object("c", f"part/{number}", part)
    manifest = [
        {"path": f"/c/part/{number}", "etag": hashlib.md5(part).hexdigest(), "size_bytes": len(part)}
        for number, part in enumerate(parts)
    ]
    client.put_object("c", "slo", json.dumps(manifest), query_string="multipart-manifest=put")
    client.put_object("c", "dlo", b"", headers={"X-Object-Manifest": "c/part/"})
    assert client.get_object("c", "slo")[1] == client.get_object("c", "dlo")[1] == b"first,second"
    with raw(swift, client, "COPY", "c/slo?multipart-manifest=get", Destination="/c/slo%20copy") as answer:
        assert answer.status == 201
    assert client.head_object("c", "slo copy")["x-static-large-object"] == "True"
    client.delete_object("c", "slo")
    assert client.get_object("c", "slo copy")[1] == b"first,second"


def test_many_objects_are_deleted_by_one_request(swift: SwiftServer, client: Any) -> None:
    names = [HARD_NAME, "plain"]
    for name in names:
        client.put_object("c", name, b"")
    swift.reset_requests()
    body = "\n".join(quote(f"c/{name}") for name in [*names, "missing"])
    headers = {"Content-Type": "text/plain", "Accept": "application/json"}
    answer = json.loads(client.post_account(headers, query_string="bulk-delete", data=body)[1])
    assert (answer["Number Deleted"], answer["Number Not Found"], answer["Errors"]) == (2, 1, [])
    assert [request.query for request in swift.requests()] == ["bulk-delete"]


def test_requests_are_recorded_in_order_with_their_bytes(swift: SwiftServer, client: Any) -> None:
    client.put_object("c", HARD_NAME, b"x" * 200_000, content_type="text/plain")
    client.get_object("c", HARD_NAME, headers={"Range": "bytes=10-109"})
    client.head_object("c", HARD_NAME)
    client.get_container("c", prefix="a folder/", delimiter="/")
    assert status_of(client.get_object, "c", "missing") == 404
    put, get, head, listing, missing = swift.requests()
    path = f"/v1/AUTH_test/c/{HARD_NAME}"
    assert (put.method, put.path, put.status, put.bytes_in, put.bytes_out) == ("PUT", path, 201, 200_000, 0)
    assert (get.status, get.bytes_in, get.bytes_out) == (206, 0, 100)
    assert (head.method, head.status, head.bytes_out) == ("HEAD", 200, 0)
    assert listing.query == "format=json&prefix=a folder/&delimiter=/"
    assert missing.status == 404
    assert put.headers["Content-Type"] == "text/plain"
    assert get.headers["Range"] == "bytes=10-109"
    assert "X-Auth-Token" not in put.headers
    assert all(request.seconds > 0 for request in (put, get, head, listing, missing))
    swift.reset_requests()
    assert swift.requests() == []


def test_a_record_is_complete_when_the_answer_is(swift: SwiftServer, client: Any) -> None:
    client.put_object("c", "big", b"x" * 3_000_000)
    for _ in range(10):
        swift.reset_requests()
        client.get_object("c", "big")
        assert [request.bytes_out for request in swift.requests()] == [3_000_000]


def test_requests_from_many_threads_are_all_recorded(swift: SwiftServer, client: Any) -> None:
    def put(number: int) -> None:
        swiftclient.put_object(client.url, client.token, "c", f"many/{number}", b"1")
        assert any(request.path.endswith(f"/many/{number}") for request in swift.requests())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, range(40)))
    assert len([request for request in swift.requests() if request.method == "PUT"]) == 40


def test_a_fault_answers_instead_of_swift_as_often_as_requested(swift: SwiftServer, client: Any) -> None:
    swift.inject(Fault(method="PUT", path="/c/fail", status=503, headers={"Retry-After": "7"}, times=2))
    with pytest.raises(ClientException) as caught:
        client.put_object("c", "fail", b"x" * 100_000)
    assert (caught.value.http_status, caught.value.http_response_headers["retry-after"]) == (503, "7")
    assert status_of(client.head_object, "c", "fail") == 404
    client.put_object("c", "other", b"")
    assert status_of(client.put_object, "c", "fail", b"1") == 503
    client.put_object("c", "fail", b"1")
    assert client.get_object("c", "fail")[1] == b"1"
    assert swift.requests()[0].bytes_in == 100_000


@pytest.mark.parametrize("status", [401, 403, 413, 500, 507])
def test_a_fault_without_a_path_spares_the_token(swift: SwiftServer, client: Any, status: int) -> None:
    swift.inject(Fault(status=status))
    assert status_of(client.head_container, "c") == status
    other = connect(swift)
    assert other.get_auth()[1]
    swift.inject(Fault(path="^/auth", status=status))
    assert status_of(connect(swift).get_auth) == status
    swift.clear_faults()
    assert client.head_container("c")


def test_a_fault_finds_names_and_queries_unquoted(swift: SwiftServer, client: Any) -> None:
    swift.inject(Fault(path="50% off", status=503))
    swift.inject(Fault(path=r"\?.*prefix=a b/", status=507))
    assert status_of(client.get_object, "c", HARD_NAME) == 503
    assert status_of(client.get_container, "c", prefix="a b/") == 507
    assert client.get_container("c")


def test_a_fault_after_the_request_loses_only_the_answer(swift: SwiftServer, client: Any) -> None:
    swift.inject(Fault(method="PUT", status=500, after=True, times=1))
    assert status_of(client.put_object, "c", "done", b"all the same") == 500
    assert client.get_object("c", "done")[1] == b"all the same"
    swift.inject(Fault(method="DELETE", reset=True, after=True, times=1))
    with pytest.raises(requests.ConnectionError, match="reset"):
        client.delete_object("c", "done")
    assert status_of(client.head_object, "c", "done") == 404


def test_a_late_request_is_carried_out_after_its_answer_was_lost(swift: SwiftServer, client: Any) -> None:
    client.put_object("c", "late", b"old")
    swift.inject(Fault(method="PUT", path="/c/late", status=504, late=1.5, times=1))
    assert status_of(client.put_object, "c", "late", b"late") == 504
    client.put_object("c", "late", b"new")
    assert client.get_object("c", "late")[1] == b"new"
    wait_until(lambda: client.get_object("c", "late")[1] == b"late")
    with pytest.raises(ValueError, match="after"):
        Fault(late=1.0)


@pytest.mark.parametrize("size", [0, 1, 5_000, 150_000])
def test_a_body_is_cut_where_the_fault_says(swift: SwiftServer, client: Any, size: int) -> None:
    client.put_object("c", "cut", b"x" * 200_000)
    swift.reset_requests()
    swift.inject(Fault(method="GET", path="/c/cut", truncate_body=size, times=1))
    with raw(swift, client, "GET", "c/cut") as answer:
        assert (answer.status, answer.headers["Content-Length"]) == (200, "200000")
        with pytest.raises(http.client.IncompleteRead) as caught:
            answer.read()
    assert len(caught.value.partial) == size
    assert client.get_object("c", "cut")[1] == b"x" * 200_000
    assert [request.bytes_out for request in swift.requests()] == [size, 200_000]


def test_a_flipped_byte_changes_nothing_else(swift: SwiftServer, client: Any) -> None:
    body = os.urandom(100_000)
    client.put_object("c", "flip", body)
    swift.inject(Fault(method="GET", flip_byte=True, times=1))
    damaged = client.get_object("c", "flip")[1]
    assert [a != b for a, b in zip(body, damaged, strict=True)].count(True) == 1
    assert client.get_object("c", "flip")[1] == body


def test_a_reset_is_an_rst_without_an_answer(swift: SwiftServer, client: Any) -> None:
    swift.inject(Fault(path="/c", reset=True, times=1))
    with pytest.raises(ConnectionResetError), raw(swift, client, "GET", "c"):
        pass
    assert swift.requests()[-1].status == 0
    assert client.head_container("c")


def test_a_test_can_end_a_delay(swift: SwiftServer, client: Any) -> None:
    swift.inject(Fault(method="HEAD", delay=within(60), times=1))
    began = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        head = pool.submit(client.head_container, "c")
        while not head.done():  # again, as the request may not have arrived
            swift.end_delays()
        assert head.result()
    assert time.monotonic() - began < within(30)


def test_a_delay_concerns_only_matching_requests(swift: SwiftServer, client: Any) -> None:
    swift.inject(Fault(method="HEAD", delay=0.3, times=1))
    client.head_container("c")
    client.head_container("c")
    slow, fast = swift.requests()
    assert slow.seconds >= 0.3 > fast.seconds


def test_an_impossible_fault_is_refused(swift: SwiftServer) -> None:
    with pytest.raises(ValueError, match="refused"):
        swift.inject(Fault(path="("))
    with pytest.raises(ValueError, match="after"):
        Fault(after=True)


def test_rights_and_quotas_are_enforced(swift: SwiftServer, client: Any) -> None:
    reader = connect(swift, READER.name, READER.key)
    assert status_of(reader.get_container, "c") == 403
    assert status_of(connect(swift, key="wrong").get_auth) == 401
    client.post_container("c", {"X-Container-Meta-Quota-Bytes": "1000"})
    assert status_of(client.put_object, "c", "large", b"x" * 1001) == 413
    client.post_container("c", {"X-Container-Meta-Quota-Bytes": ""})
    operator = connect(swift, OPERATOR.name, OPERATOR.key)
    operator.url, operator.token = swift.storage_url, operator.get_auth()[1]
    operator.post_account({"X-Account-Meta-Quota-Bytes": "5000"})
    assert status_of(client.put_object, "c", "large", b"x" * 5001) == 413
    operator.post_account({"X-Account-Meta-Quota-Bytes": ""})
    client.put_object("c", "large", b"x" * 5001)
    operator.close()
    reader.close()


def test_a_listing_of_many_rows_needs_no_objects(swift: SwiftServer, client: Any) -> None:
    client.put_container("rows")
    names = [f"{number:05}" for number in range(25_000)]
    swift.add_rows("rows", names, size=7)
    rows = client.get_container("rows", full_listing=True)[1]
    assert [row["name"] for row in rows] == names
    assert {row["bytes"] for row in rows} == {7}
    assert len([request for request in swift.requests() if request.method == "GET"]) == 4


def test_a_child_that_died_is_started_again() -> None:
    with SwiftServer() as server:
        pid = server.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        server.start()
        assert server.pid != pid
        assert server.requests() == []


def test_an_account_has_the_sum_of_its_containers(client: Any) -> None:
    def bytes_used() -> tuple[int, int]:
        account, containers = client.get_account()
        return int(account["x-account-bytes-used"]), sum(row["bytes"] for row in containers)

    before, _ = bytes_used()
    client.put_object("c", f"{before}", b"x" * 1234)
    wait_until(lambda: bytes_used()[0] >= before + 1234)
    assert len(set(bytes_used())) == 1


def test_settings_change_the_limits_filters_and_speed() -> None:
    settings = ServerSettings(
        listing_limit=3,
        without=frozenset({"bulk", "symlink"}),
        delay=0.05,
        constraints={"max_object_name_length": "20"},
    )
    with SwiftServer(settings=settings) as server:
        client = connect(server)
        info = client.get_capabilities()
        assert info["swift"]["container_listing_limit"] == 3
        assert {"bulk_delete", "bulk_upload", "symlink"}.isdisjoint(info)
        assert {"slo", "tempauth"} <= set(info)
        client.put_container("c")
        for number in range(4):
            client.put_object("c", str(number), b"")
        assert [row["name"] for row in client.get_container("c")[1]] == ["0", "1", "2"]
        assert status_of(client.get_container, "c", limit=4) == 412
        assert status_of(client.put_object, "c", "n" * 21, b"") == 400
        assert all(request.seconds >= 0.05 for request in server.requests())
        client.close()


def test_an_outage_keeps_the_data_and_the_port(tmp_path: Path) -> None:
    with SwiftServer(tmp_path / "data") as server:
        client = connect(server)
        client.put_container("c")
        client.put_object("c", "kept", b"kept")
        address = server.auth_url
        server.kill()
        with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", server.port)):
            pass
        server.start()
        assert server.auth_url == address
        assert client.get_object("c", "kept")[1] == b"kept"
        assert [request.method for request in server.requests()] == ["GET"], "the token is good still"
        client.close()
    with SwiftServer(tmp_path / "data") as server:
        assert connect(server).get_object("c", "kept")[1] == b"kept"


def test_stopping_leaves_nothing_behind() -> None:
    server = SwiftServer()
    server.start()
    pid, data = server.pid, server.data
    assert pid is not None
    assert data is not None
    assert data.is_dir()
    assert set(server.environment()) == {"ST_AUTH", "ST_USER", "ST_KEY"}
    server.stop()
    server.stop()
    assert not data.exists()
    assert not Path(f"/proc/{pid}").exists()
    assert server.pid is None


def test_the_child_dies_with_its_parent_and_removes_the_private_folder() -> None:
    code = (
        "import os, signal\n"
        "from swiftfs.demo.server import SwiftServer\n"
        "server = SwiftServer(); server.start()\n"
        "print(server.pid, server.data, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=False)
    pid, data = done.stdout.split()
    wait_until(lambda: not Path(data).exists())
    wait_until(lambda: not _runs(int(pid)))


def _runs(pid: int) -> bool:
    """Return whether a process is running; a zombie is not, which may stay in a container without an init."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_failed_start_is_reported_in_one_line(swift: SwiftServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=f"port {swift.port} cannot be used"):
        SwiftServer(port=swift.port).start()
    broken = SwiftServer(settings=ServerSettings(constraints={"max_file_size": "many"}))
    with pytest.raises(ConfigurationError, match=r"does not start: ValueError.*many") as caught:
        broken.start()
    assert "\n" not in str(caught.value)
    assert broken.data is None
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match=r"pip install 'swiftfs\[demo\]'"):
        SwiftServer().start()


def test_values_are_shared_with_the_server_module() -> None:
    assert server_module.Fault is Fault
    assert RecordedRequest("GET", "/").status == 0
