"""A Swift that answers in constant time: objects in memory, in a process of its own.

The real Swift takes 8 ms of CPU for a PUT, which bounds every client on one machine. This one takes a
twentieth of that, and answers each request `delay` seconds after it has come. It has what mounts need: a
login (v1), containers, objects, listings, manifests and bulk deletes. It checks nothing but ETags. With a
long link its connections begin slowly, as those of TCP do (`long_link.py`).
"""

import asyncio
import hashlib
import json
import multiprocessing
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from types import TracebackType
from urllib.parse import parse_qs, unquote, urlsplit

from long_link import Sender

ACCOUNT = "/v1/AUTH_stub"
TOKEN = "AUTH_tkstub"
INFO = {
    "swift": {"version": "2.38.0", "container_listing_limit": 10_000, "max_file_size": 5 * 2**30},
    "slo": {"max_manifest_segments": 1000, "max_manifest_size": 8 * 2**20, "min_segment_size": 1},
    "bulk_delete": {"max_deletes_per_request": 10_000},
}
KEPT = ("content-type", "x-static-large-object", "x-object-manifest")


@dataclass(slots=True)
class Object:
    """An object: `body` is None for a manifest, whose segments are named in `segments`."""

    etag: str
    size: int
    headers: Mapping[str, str]
    body: bytes | None
    segments: list[str] = field(default_factory=list)
    modified: float = field(default_factory=time.time)

    def row(self, name: str) -> dict[str, object]:
        """Return the object's row of a listing."""
        modified = (
            time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(self.modified)) + f"{self.modified % 1:.6f}"[1:]
        )
        kind = self.headers.get("content-type", "application/octet-stream")
        return {
            "name": name,
            "hash": self.etag,
            "bytes": self.size,
            "content_type": kind,
            "last_modified": modified,
        }


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer without the headers that all have; `length` is that of the body a HEAD does not send."""

    status: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    length: int | None = None


NOT_FOUND = Answer("404 Not Found")


class Account:
    """The containers and objects of the only account."""

    def __init__(self) -> None:
        self.containers: dict[str, dict[str, Object]] = {}

    def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Carry out a request."""
        url = urlsplit(target)
        if url.path == "/auth/v1.0":
            storage = f"http://{headers['host']}{ACCOUNT}"
            return Answer("200 OK", headers={"X-Storage-Url": storage, "X-Auth-Token": TOKEN})
        if url.path == "/info":
            return Answer("200 OK", json.dumps(INFO).encode(), {"Content-Type": "application/json"})
        query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        container, _, key = unquote(url.path.removeprefix(ACCOUNT).lstrip("/")).partition("/")
        if key:
            return self._object(method, container, key, query, headers, body)
        if container:
            return self._container(method, container, query)
        return self._account(method, query, body)

    def _account(self, method: str, query: Mapping[str, str], body: bytes) -> Answer:
        if method == "POST" and "bulk-delete" in query:
            return self._bulk_delete(body.decode().split())
        rows = [{"name": name, "count": len(found), "bytes": 0} for name, found in self.containers.items()]
        marker = query.get("marker", "")
        listed = [row for row in sorted(rows, key=lambda one: one["name"]) if row["name"] > marker]
        return _json(method, listed, {"X-Account-Container-Count": str(len(rows))})

    def _bulk_delete(self, names: Iterable[str]) -> Answer:
        gone = Counter(self._delete(*unquote(name).lstrip("/").partition("/")[::2]) for name in names)
        verdict = {
            "Number Deleted": gone[True],
            "Number Not Found": gone[False],
            "Errors": [],
            "Response Status": "200 OK",
            "Response Body": "",
        }
        return _json("POST", verdict)

    def _delete(self, container: str, key: str) -> bool:
        return self.containers.get(container, {}).pop(key, None) is not None

    def _container(self, method: str, container: str, query: Mapping[str, str]) -> Answer:
        if method == "PUT":
            made = container not in self.containers
            self.containers.setdefault(container, {})
            return Answer("201 Created" if made else "202 Accepted")
        objects = self.containers.get(container)
        if objects is None:
            return NOT_FOUND
        used = sum(one.size for one in objects.values()) if method == "HEAD" else 0
        counts = {"X-Container-Object-Count": str(len(objects)), "X-Container-Bytes-Used": str(used)}
        if method == "GET":
            return _json(method, _listing(objects, query), counts)
        return Answer("204 No Content", headers=counts)

    def _object(
        self,
        method: str,
        container: str,
        key: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: bytes,
    ) -> Answer:
        objects = self.containers.get(container)
        if objects is None:
            return NOT_FOUND
        if method == "PUT":
            return self._put(objects, key, query, headers, body)
        found = objects.get(key)
        return NOT_FOUND if found is None else self._stored(found, method, objects, key, query, headers)

    def _stored(
        self,
        found: Object,
        method: str,
        objects: dict[str, Object],
        key: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
    ) -> Answer:
        """Carry out a request about an object that exists."""
        if method == "DELETE":
            del objects[key]
            return Answer("204 No Content")
        if method == "POST":
            found.headers = {**found.headers, **_kept(headers)}
            return Answer("202 Accepted")
        described = {**found.headers, "Etag": found.etag, "Last-Modified": _http_date(found.modified)}
        if method == "HEAD":
            return Answer("200 OK", headers=described, length=found.size)
        return self._get(found, query, headers, described)

    def _put(
        self,
        objects: dict[str, Object],
        key: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: bytes,
    ) -> Answer:
        kept = _kept(headers)
        if query.get("multipart-manifest") == "put":
            parts = json.loads(body)
            etag = hashlib.md5("".join(part["etag"] for part in parts).encode()).hexdigest()
            size = sum(part["size_bytes"] for part in parts)
            kept["x-static-large-object"] = "True"
            objects[key] = Object(etag, size, kept, None, [part["path"] for part in parts])
            return Answer("201 Created", headers={"Etag": f'"{etag}"'})
        etag = hashlib.md5(body).hexdigest()
        if headers.get("etag", etag).strip('"') != etag:
            return Answer("422 Unprocessable Entity")
        objects[key] = Object(etag, len(body), kept, body)
        return Answer("201 Created", headers={"Etag": etag})

    def _get(
        self,
        found: Object,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        described: Mapping[str, str],
    ) -> Answer:
        body = found.body
        if body is None:
            paths = [path.lstrip("/").partition("/")[::2] for path in found.segments]
            segments = [(path, self.containers[path[0]][path[1]]) for path in paths]
            if query.get("multipart-manifest") == "get":
                rows = [one.row(f"/{path[0]}/{path[1]}") for path, one in segments]
                return Answer("200 OK", json.dumps(rows).encode(), described)
            body = b"".join(one.body or b"" for _, one in segments)
        if (wanted := headers.get("range")) is None:
            return Answer("200 OK", body, described)
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        start = int(first) if first else max(0, len(body) - int(last))
        end = min(int(last) + 1 if first and last else len(body), len(body))
        where = {"Content-Range": f"bytes {start}-{end - 1}/{len(body)}"}
        return Answer("206 Partial Content", body[start:end], {**described, **where})


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value for name, value in headers.items() if name in KEPT or name.startswith("x-object-meta-")
    }


def _http_date(seconds: float) -> str:
    return time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(seconds))


def _json(method: str, value: object, counts: Mapping[str, str] | None = None) -> Answer:
    body = json.dumps(value).encode()
    headers = {"Content-Type": "application/json; charset=utf-8", **(counts or {})}
    return Answer("200 OK", b"" if method == "HEAD" else body, headers, len(body))


def _listing(objects: Mapping[str, Object], query: Mapping[str, str]) -> list[dict[str, object]]:
    prefix, delimiter, marker = (query.get(name, "") for name in ("prefix", "delimiter", "marker"))
    limit = int(query.get("limit") or 10_000)
    rows: list[dict[str, object]] = []
    for name in sorted(name for name in objects if name.startswith(prefix) and name > marker):
        rest, mark, _ = name[len(prefix) :].partition(delimiter) if delimiter else (name, "", "")
        if mark:
            folder = prefix + rest + mark
            if folder != marker and (not rows or rows[-1].get("subdir") != folder):
                rows.append({"subdir": folder})
        else:
            rows.append(objects[name].row(name))
        if len(rows) == limit:
            break
    return rows


class _Client(asyncio.Protocol):
    """A connection of a client: reads its requests and answers each `delay` seconds after its end.

    Over a long link the first one comes a `delay` later, which is what the handshake takes.
    """

    def __init__(self, account: Account, delay: float, counts: "Counter[str]", *, is_long: bool) -> None:
        self._account = account
        self._delay = delay
        self._counts = counts
        self._round_trip = delay if is_long else 0.0
        self._handshake = self._round_trip
        self._sender: Sender | None = None
        self._input = bytearray()
        self._head: tuple[str, str, dict[str, str]] | None = None
        self._missing = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._sender = Sender(transport, self._round_trip, self._sent)

    def _sent(self, size: int) -> None:
        self._counts["bytes"] += size

    def data_received(self, data: bytes) -> None:
        self._input += data
        while self._take():
            pass

    def _take(self) -> bool:
        """Take a complete request from what has come; return whether there was one."""
        if self._head is None:
            head, end, rest = self._input.partition(b"\r\n\r\n")
            if not end:
                return False
            lines = head.decode("latin-1").split("\r\n")
            method, target, _ = lines[0].split(" ", 2)
            headers = {
                name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
            }
            self._input, self._head = rest, (method, target, headers)
            if headers.get("expect", "").lower() == "100-continue":
                self._write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if (body := self._body(self._head[2])) is None:
            return False
        (method, target, headers), self._head = self._head, None
        self._counts[method] += 1
        answer = self._account.answer(method, target, headers, body)
        delay, self._handshake = self._delay + self._handshake, 0.0
        asyncio.get_running_loop().call_later(delay, self._answer, answer, method)
        return True

    def _answer(self, answer: Answer, method: str) -> None:
        assert self._sender is not None
        self._sender.send(_head(answer))
        # Apart from the head: together they would be a copy of a large body.
        self._sender.send(b"" if method == "HEAD" else answer.body)

    def _body(self, headers: Mapping[str, str]) -> bytes | None:
        """Take the body of a request from what has come; None if it is not complete."""
        if headers.get("transfer-encoding", "").lower() != "chunked":
            length = int(headers.get("content-length") or 0)
            if len(self._input) < length:
                return None
            body, self._input = bytes(self._input[:length]), self._input[length:]
            return body
        at, pieces = 0, []
        while (end := self._input.find(b"\r\n", at)) >= 0:
            size = int(self._input[at:end].split(b";")[0], 16)
            if len(self._input) < end + 2 + size + 2:
                return None
            pieces.append(bytes(self._input[end + 2 : end + 2 + size]))
            at = end + 2 + size + 2
            if not size:
                self._input = self._input[at:]
                return b"".join(pieces)
        return None

    def _write(self, text: bytes) -> None:
        assert self._transport is not None
        if not self._transport.is_closing():
            self._transport.write(text)


def _head(answer: Answer) -> bytes:
    length = len(answer.body) if answer.length is None else answer.length
    headers = {"Content-Length": str(length), "X-Trans-Id": "tx-stub", **answer.headers}
    lines = [f"HTTP/1.1 {answer.status}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "Date: " + _http_date(time.time()), "\r\n"]).encode("latin-1")


async def _serve(delay: float, control: Connection, *, is_long: bool) -> None:
    account, counts = Account(), Counter[str]()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: _Client(account, delay, counts, is_long=is_long), "127.0.0.1", 0, backlog=512
    )
    control.send(server.sockets[0].getsockname()[1])
    ended = loop.create_future()

    def command() -> None:
        try:
            what, container = control.recv()
        except EOFError:
            loop.remove_reader(control.fileno())
            ended.set_result(None)
            return
        if what == "count":
            control.send(len(account.containers.get(container, ())))
        else:
            control.send(dict(counts))
            counts.clear()

    loop.add_reader(control.fileno(), command)
    await ended
    server.close()


def _run(delay: float, control: Connection, is_long: bool) -> None:
    asyncio.run(_serve(delay, control, is_long=is_long))


class StubSwift:
    """The server's process while its context is open; `delay` is in seconds, `is_long` the kind of its link.

    It has the names that `contenders.py` needs of a `SwiftServer`.
    """

    user, key = "test:tester", "testing"

    def __init__(self, delay: float = 0.0, *, is_long: bool = False) -> None:
        context = multiprocessing.get_context("spawn")
        self._control, child = context.Pipe()
        self._child = child
        self._process = context.Process(target=_run, args=(delay, child, is_long), name="stub-swift")
        self.port = 0
        self.sent = 0

    def __enter__(self) -> "StubSwift":
        self._process.start()
        self._child.close()
        self.port = self._control.recv()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._control.close()
        self._process.join(5)
        self._process.kill()

    @property
    def auth_url(self) -> str:
        """Where clients log in."""
        return f"http://127.0.0.1:{self.port}/auth/v1.0"

    def environment(self) -> dict[str, str]:
        """Return the variables with which swiftfs logs in."""
        return {"ST_AUTH": self.auth_url, "ST_USER": self.user, "ST_KEY": self.key}

    def count(self, container: str) -> int:
        """Return the number of objects in a container."""
        self._control.send(("count", container))
        return int(self._control.recv())

    def take_counts(self) -> dict[str, int]:
        """Return the number of requests by method since the last call; `sent` is of bytes since then."""
        self._control.send(("counts", ""))
        counts: dict[str, int] = self._control.recv()
        self.sent = counts.pop("bytes", 0)
        return counts
