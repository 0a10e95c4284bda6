"""WSGI filters in front of the demo's proxy: they record requests, make them fail, and serve the parent."""

import contextlib
import ctypes
import io
import json
import re
import socket
from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

import eventlet
from eventlet import event, wsgi

from swiftfs.concurrency import monotonic, unix_time
from swiftfs.demo.server import Fault

Environ = dict[str, Any]
Write = Callable[[bytes], object]
StartResponse = Callable[..., Write]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]
Record = dict[str, Any]
"""The fields of a `RecordedRequest`, filled in while the request runs."""

REMEMBERED_REQUESTS = 100_000
"""Older requests are forgotten: a demo may run for days."""
SECRETS = frozenset({"x-auth-token", "x-auth-key", "x-storage-token", "x-service-token", "authorization"})
BLOCK = 65_536


def request_text(environ: Environ) -> tuple[str, str]:
    """Return the request's path and query as unquoted text."""
    path = environ.get("PATH_INFO", "").encode("latin-1").decode("utf-8", "surrogateescape")
    return path, unquote(environ.get("QUERY_STRING", ""), errors="surrogateescape")


class MemoryCache:
    """The part of memcached that Swift's filters use, for one process."""

    def __init__(self) -> None:
        self._values: dict[str, tuple[float, Any]] = {}

    def get(self, key: str, **_options: Any) -> Any:
        """Return the value, or None if there is none or it has expired."""
        end, value = self._values.get(key, (0.0, None))
        if end and end < unix_time():
            del self._values[key]
            return None
        return value

    def set(self, key: str, value: Any, *, time: float = 0, **_options: Any) -> None:
        """Store the value for `time` seconds, for ever with 0."""
        self._values[key] = (_end_of(time), value)

    def incr(self, key: str, delta: int = 1, time: float = 0) -> int:
        """Add to a counter that never falls below 0, and return it."""
        value = max(0, int(self.get(key) or 0) + delta)
        self._values[key] = (_end_of(time), value)
        return value

    def delete(self, key: str, **_options: Any) -> None:
        """Delete the value."""
        self._values.pop(key, None)


def _end_of(seconds: float) -> float:
    return unix_time() + seconds if seconds else 0.0


def cache_filter(application: Application) -> Application:
    """Give `application` a cache that needs no memcached; tempauth keeps its tokens there."""
    cache = MemoryCache()

    def cached(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        environ["swift.cache"] = cache
        return application(environ, start_response)

    return cached


class CountedInput:
    """A request's body that counts the bytes that are read from it."""

    def __init__(self, body: Any) -> None:
        self._body = body
        self.count = 0

    def read(self, *arguments: Any) -> bytes:
        """Read from the body."""
        return self._counted(self._body.read(*arguments))

    def readline(self, *arguments: Any) -> bytes:
        """Read a line from the body."""
        return self._counted(self._body.readline(*arguments))

    def _counted(self, data: bytes) -> bytes:
        self.count += len(data)
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._body, name)


class Recorder:
    """Records every request, from its arrival on, so that a hanging one is visible too."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self.records: deque[Record] = deque(maxlen=REMEMBERED_REQUESTS)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer as the application does."""
        record = self._begin(environ)
        began = monotonic()
        body = environ["wsgi.input"] = CountedInput(environ["wsgi.input"])

        def start(status: str, *rest: Any) -> Write:
            record["status"] = int(status.split(" ", 1)[0])
            return start_response(status, *rest)

        def finish() -> None:
            record["bytes_in"] = body.count
            record["seconds"] = monotonic() - began

        try:
            answer = self._application(environ, start)
        finally:
            finish()
        return _counted_answer(answer, record, finish)

    def _begin(self, environ: Environ) -> Record:
        path, query = request_text(environ)
        headers = {
            name.title(): value for name, value in environ["headers_raw"] if name.lower() not in SECRETS
        }
        record = {"method": environ["REQUEST_METHOD"], "path": path, "query": query, "headers": headers}
        self.records.append(record)
        return record


def _counted_answer(
    answer: Iterable[bytes], record: Record, finish: Callable[[], None]
) -> Generator[bytes, None, None]:
    """Pass the answer on, one block late: the record is complete before the client has the last byte."""
    waiting = b""
    record["bytes_out"] = 0
    try:
        for block in answer:
            if waiting:
                yield waiting
            waiting = block
            record["bytes_out"] += len(block)
        finish()
        if waiting:
            yield waiting
    finally:
        finish()
        close(answer)


def close(answer: Iterable[bytes]) -> None:
    """Close a WSGI answer that may have something to close."""
    if hasattr(answer, "close"):
        answer.close()


@dataclass
class ActiveFault:
    """A fault and how often it will still apply, negative for ever."""

    fault: Fault
    pattern: re.Pattern[str]
    left: int

    def fits(self, method: str, text: str) -> bool:
        """Return whether the fault applies to a request."""
        if not self.left or self.fault.method not in {"", method}:
            return False
        if text.startswith("/auth") and "/auth" not in self.fault.path:
            return False
        return self.pattern.search(text) is not None


class Faults:
    """Delays every request by `delay` seconds, and makes those fail that match an injected fault."""

    def __init__(self, application: Application, delay: float) -> None:
        self._application = application
        self._delay = delay
        self._active: list[ActiveFault] = []
        self._delays_end = event.Event()

    def inject(self, fault: Fault) -> None:
        """Add a fault; raise `re.error` if its path is not a regular expression."""
        self._active.append(ActiveFault(fault, re.compile(fault.path), fault.times))

    def clear(self) -> None:
        """Remove all faults."""
        self._active.clear()

    def end_delays(self) -> None:
        """Let the requests go on that a fault delays now."""
        ended, self._delays_end = self._delays_end, event.Event()
        ended.send()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer as the application or the first matching fault does."""
        if self._delay:
            eventlet.sleep(self._delay)
        fault = self._take(environ)
        if fault is None:
            return self._application(environ, start_response)
        return self._fail(fault, environ, start_response)

    def _take(self, environ: Environ) -> Fault | None:
        if not self._active:
            return None
        path, query = request_text(environ)
        for active in self._active:
            if active.fits(environ["REQUEST_METHOD"], f"{path}?{query}"):
                active.left -= 1
                return active.fault
        return None

    def _fail(self, fault: Fault, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if fault.after:
            _drain(self._application(environ, lambda *_: lambda _: None))
        if fault.late:
            self._carry_out_later(environ, fault.late)
        if fault.delay:
            self._delays_end.wait(fault.delay)
        if fault.reset and fault.truncate_body < 0:
            environ["wsgi.input"].read(fault.accept_body)
            _abort(environ)
            wsgi.WSGI_LOCAL.already_handled = True
            return []
        if fault.status:
            return _refuse(fault, environ, start_response)
        return self._damaged(fault, environ, _with_headers(fault, start_response))

    def _carry_out_later(self, environ: Environ, seconds: float) -> None:
        """Read the request now, and let Swift carry it out some seconds later."""
        body = environ["wsgi.input"].read()
        later = {**environ, "wsgi.input": io.BytesIO(body), "eventlet.posthooks": []}

        def carry_out() -> None:
            _drain(self._application(later, lambda *_: lambda _: None))

        eventlet.spawn_after(seconds, carry_out)

    def _damaged(self, fault: Fault, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        answer = self._application(environ, start_response)
        if fault.truncate_body >= 0:
            environ["eventlet.posthooks"].append((_abort if fault.reset else _hang_up, (), {}))
            return _first(fault.truncate_body, answer)
        if fault.flip_byte:
            return _with_flipped_byte(answer)
        return _stalled(fault.stall, answer) if fault.stall else answer


def _refuse(fault: Fault, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    _drain(iter(lambda: environ["wsgi.input"].read(BLOCK), b""))
    body = fault.body.encode()
    request_id = {} if fault.is_foreign else {"X-Trans-Id": "tx-of-a-fault"}
    headers = {"Content-Length": str(len(body)), **request_id, **fault.headers}
    standard = fault.status in HTTPStatus.__members__.values()
    phrase = HTTPStatus(fault.status).phrase if standard else "Not Standard"
    start_response(f"{fault.status} {phrase}", [*headers.items()])
    return [body]


def _with_headers(fault: Fault, start_response: StartResponse) -> StartResponse:
    """Return a `start_response` that replaces headers by the fault's headers of the same names.

    An empty text removes the header.
    """
    replaced = {name.lower() for name in fault.headers}

    def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Write:
        kept = [(name, value) for name, value in headers if name.lower() not in replaced]
        changed = [(name, value) for name, value in fault.headers.items() if value]
        return start_response(status, [*kept, *changed], *rest)

    return start


def _hang_up(environ: Environ) -> None:
    """Close the connection after the answer."""
    with contextlib.suppress(OSError):
        environ["eventlet.input"].get_socket().shutdown(socket.SHUT_RDWR)


def _drain(blocks: Iterable[bytes]) -> None:
    try:
        deque(blocks, maxlen=0)
    finally:
        close(blocks)


def _first(size: int, blocks: Iterable[bytes]) -> Generator[bytes, None, None]:
    try:
        for block in blocks:
            yield block[:size]
            size -= len(block)
            if size <= 0:
                return
    finally:
        close(blocks)


def _with_flipped_byte(blocks: Iterable[bytes]) -> Generator[bytes, None, None]:
    done = False
    try:
        for block in blocks:
            if block and not done:
                done = True
                yield bytes([block[0] ^ 1]) + block[1:]
            else:
                yield block
    finally:
        close(blocks)


def _stalled(seconds: float, blocks: Iterable[bytes]) -> Generator[bytes, None, None]:
    """Pause before the last byte; the two blocks before it are two because the recorder keeps one back."""
    try:
        body = b"".join(blocks)
    finally:
        close(blocks)
    yield body[:-2]
    yield body[-2:-1]
    if body:
        eventlet.sleep(seconds)
    yield body[-1:]


def _abort(environ: Environ) -> None:
    """Send RST: connect(2) to AF_UNSPEC aborts a TCP connection and leaves the descriptor to its owner."""
    nowhere = ctypes.create_string_buffer(16)
    ctypes.CDLL(None).connect(environ["eventlet.input"].get_socket().fileno(), nowhere, len(nowhere))


class Control:
    """The parent's interface: `/_control/…` answers it and is neither recorded nor delayed."""

    def __init__(self, recorder: Recorder, faults: Faults, add_rows: Callable[..., None]) -> None:
        self._recorder = recorder
        self._faults = faults
        self._add_rows = add_rows

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer the parent in JSON, and others as the recorder does."""
        path = environ.get("PATH_INFO", "")
        if not path.startswith("/_control/"):
            return self._recorder(environ, start_response)
        value = json.loads(environ["wsgi.input"].read() or b"null")
        try:
            status, answer = self._answer(environ["REQUEST_METHOD"], path.rpartition("/")[2], value)
        except Exception as error:  # noqa: BLE001 - the parent gets it as the answer
            status, answer = HTTPStatus.BAD_REQUEST, repr(error)
        body = json.dumps(answer).encode()
        start_response(f"{status.value} {status.phrase}", [("Content-Length", str(len(body)))])
        return [body]

    def _answer(self, method: str, subject: str, value: Any) -> tuple[HTTPStatus, object]:
        match (method, subject):
            case ("GET", "requests"):
                return HTTPStatus.OK, list(self._recorder.records)
            case ("DELETE", "requests"):
                self._recorder.records.clear()
            case ("POST", "rows"):
                self._add_rows(**value)
            case ("POST", "faults"):
                self._faults.inject(Fault(**value))
            case ("DELETE", "faults"):
                self._faults.clear()
            case ("DELETE", "delays"):
                self._faults.end_delays()
            case _:
                return HTTPStatus.NOT_FOUND, f"no {subject}"
        return HTTPStatus.OK, None
