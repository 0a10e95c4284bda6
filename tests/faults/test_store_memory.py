"""Whatever a server sends, swiftfs holds little of it: measured in a process of its own."""

import json
import subprocess
import sys
from collections.abc import Callable

import pytest

from support import hostile_client
from support.deadlines import within
from support.hostile_server import HostileServer, Response

pytest_plugins = ["support.hostile_fixtures"]

MIB = 2**20
MOST = 200
"""The most memory of a process, in MiB; python and the libraries have 50 of them."""

ROW = {"name": "a", "bytes": 1, "hash": "h", "content_type": "t", "last_modified": "2020-01-01T00:00:00"}
SLO = b"HTTP/1.1 200 OK\r\nX-Static-Large-Object: true\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nX-Account-Container-Count: 1\r\nX-Container-Object-Count: 1\r\n\r\n"
INFO = {"swift": {"max_object_name_length": 1024, "container_listing_limit": 10**15}}
ABSURD = json.dumps(
    {
        "swift": {**INFO["swift"], "max_file_size": 10**30, "max_meta_overall_size": 10**15},
        "slo": {"max_manifest_segments": 10**15},
        "bulk_delete": {"max_deletes_per_request": 10**15},
    }
).encode()


def endless(begin: bytes, again: bytes, head: bytes = OK) -> Response:
    """Return an answer whose body has `begin` and then `again` for ever."""
    return Response(raw=head + begin, endless=again * (MIB // len(again)), pause=0.0)


def rows(count: int) -> bytes:
    """Return the beginning of a listing of `count` short rows."""
    each = json.dumps({**ROW, "hash": "", "content_type": ""})
    return ("[" + ",".join(each.replace('"a"', f'"{number:07}"') for number in range(count)) + ",").encode()


def segments(count: int) -> bytes:
    """Return the beginning of a manifest of `count` segments."""
    return b"[" + b'{"name":"/s/1","bytes":5,"hash":"h"},' * count


LONG_ROW = json.dumps({**ROW, "x": [[{}] * 20_000]})[1:-1].encode()
"""The fields of a row with many values that nobody needs."""


def values(count: int) -> bytes:
    """Return `count` rows with many values that nobody needs."""
    return b"[" + b",".join(b"{" + LONG_ROW.replace(b'"a"', b'"%07d"' % n) + b"}" for n in range(count))


ANSWERS: dict[str, tuple[str, Callable[[], Response]]] = {
    "objects": ("list", lambda: endless(b"[", b"{},")),
    "lists": ("list", lambda: endless(b"[", b"[],")),
    "blanks": ("list", lambda: endless(b"[", b" ")),
    "nested": ("list", lambda: endless(b"[", b"[")),
    "one row": ("list", lambda: endless(b'[{"name":"', b"a")),
    "emoji": ("list", lambda: endless('[{"name":"\U0001f600'.encode(), b"a")),
    "rows": ("list", lambda: endless(rows(200_000), b" ")),
    "large rows": ("list", lambda: endless(values(400) + b",", b" ")),
    "containers": ("containers", lambda: endless(b"[", b"{},")),
    "containers of rows": ("containers", lambda: endless(rows(200_000), b" ")),
    "manifest of objects": ("manifest", lambda: endless(b"[", b"{},", SLO)),
    "manifest of segments": ("manifest", lambda: endless(segments(400_000), b" ", SLO)),
    "info": ("info", lambda: endless(b"", b" ")),
    "info of objects": ("info", lambda: endless(b'{"swift":[', b"{},")),
    "verdict": ("delete many", lambda: endless(b'{"Errors":[', b"[],")),
    "text of an error": ("get", lambda: endless(b"", b"x", b"HTTP/1.1 403 No\r\n\r\n")),
    "more than requested": ("get", lambda: endless(b"", b"x")),
    "a header": (
        "head",
        lambda: Response(raw=b"HTTP/1.1 200 OK\r\nX-Object-Meta-A: ", endless=b"x" * MIB, pause=0.0),
    ),
    "headers": (
        "head",
        lambda: Response(raw=b"HTTP/1.1 200 OK\r\n", endless=b"X-A: b\r\n" * 1000, pause=0.0),
    ),
    "continue": ("head", lambda: Response(endless=b"HTTP/1.1 100 C\r\n\r\n" * 1000, pause=0.0)),
    "continue with headers": (
        "head",
        lambda: Response(endless=b"HTTP/1.1 100 C\r\n" + b"X: " + b"x" * 60_000 + b"\r\n\r\n", pause=0.0),
    ),
}
"""By names: the call, and what makes the answer, which takes much memory."""


def peak(call: str, environment: dict[str, str]) -> tuple[int, str]:
    """Make the call in another process; return the most memory that it held, in MiB, and what came of it."""
    words = [f"{name}={value}" for name, value in environment.items()]
    result = subprocess.run(
        [sys.executable, hostile_client.__file__, call, *words],
        capture_output=True,
        text=True,
        check=True,
        timeout=within(60),
    )
    kib, said = result.stdout.splitlines()
    return int(kib) // 1024, said


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.matrix(8)
def test_an_answer_takes_little_memory(hostile: HostileServer, name: str) -> None:
    call, make = ANSWERS[name]
    hostile.response = make()
    hostile.info = Response(ABSURD) if call != "info" else None
    mib, said = peak(call, hostile.environment)
    print(mib, said)
    assert mib < MOST, said


@pytest.mark.parametrize("kind", ["environment", "keystone_environment"])
@pytest.mark.parametrize("begin", ["", '{"token":{"catalog":[{}'], ids=["blanks", "objects"])
def test_a_login_takes_little_memory(hostile: HostileServer, kind: str, begin: str) -> None:
    head = b"HTTP/1.1 201 Created\r\nX-Subject-Token: t\r\n\r\n"
    hostile.login = endless(begin.encode(), b",{}" if begin else b" ", head)
    mib, said = peak("login", getattr(hostile, kind))
    assert mib < MOST, said
    assert "longer than" in said or "cannot authenticate" in said


def test_a_page_that_is_too_long_goes_on_with_the_next(hostile: HostileServer) -> None:
    """A server with a larger limit is asked for fewer names; one that does not heed that is cut off."""
    hostile.info = Response(ABSURD)
    hostile.response = endless(rows(200_000), b" ")
    _, said = peak("list", hostile.environment)
    assert said == "10000"
    assert hostile.paths[-1] == "/v1/a/c?format=json&limit=10000"
