"""The sockets of HTTP requests, with limits that a server cannot extend by sending a little now and then.

urllib3's own timeouts end a silence only: a byte of a header line every few seconds, or one `100 Continue`
after another, would hold a request for ever. Here each read and write gets the time that is left.
"""

import io
import math
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from http.client import HTTPMessage, HTTPResponse, IncompleteRead, UnknownProtocol
from typing import Any

from requests.adapters import HTTPAdapter

from swiftfs.store.request import BrokenHead, read_headers
from swiftfs.store.throttle import UNTHROTTLED, Lane, Throttle, busy_time

SEND_SECONDS = 30.0
"""Longest wait for the network to accept a piece of a body, and the time over which its rate is measured."""

PIECE_BYTES = 128 * 1024
"""The most that is handed to a socket at once: over TLS its timeout covers all of it."""

SLICE_BYTES = 1024**2
"""A body is sent, and its progress counted, in slices of this size."""

JOINED_BYTES = 16 * 1024
"""A body of up to so many bytes is sent together with the head of its request."""

LONG_SECONDS = 10.0
"""A longer timeout need not be exact."""

WINDOW_SECONDS = 20.0
"""The time over which the rate of an answer's body is measured."""

LEAST_RATE = 1024
"""Bytes per second; a body that is slower is given up."""

HEADER_BYTES = 1024**2
"""The most that may come before a body: 110 lines of 8 KiB, the longest that Swift takes, are shorter."""

OVERHEAD = 16
"""How many bytes may come for each byte of a body: a chunk of one byte has six. Without a limit the lines
that may follow the last chunk could be endless."""

MAX_DIGITS = 100
"""A longer Content-Length is no length: Python refuses to convert thousands of digits."""


class AnswerTooLong(OSError):
    """The server sent more than the answer may have."""


class Limits:
    """The limits of one request; its methods raise `TimeoutError` or `AnswerTooLong` beyond them.

    The headers of the answer must be complete `silence` seconds after the request was sent, its body `body`
    seconds after that, and both `total` seconds from now. A `paced` body may take longer, while at least
    `LEAST_RATE` bytes a second come; `total` only makes the first measurement earlier. If `most` is given,
    the body has at most so many bytes. The answer is given up once `is_given_up` returns True.

    Both bodies keep the rates of `throttle`, and what they wait for that does not count.
    """

    def __init__(
        self,
        silence: float,
        *,
        body: float,
        total: float = math.inf,
        paced: bool = False,
        most: int | None = None,
        is_given_up: Callable[[], bool] = lambda: False,
        throttle: Throttle = UNTHROTTLED,
    ) -> None:
        self._throttle = throttle
        self._silence = silence
        self._is_given_up = is_given_up
        self._body = body
        self._total = busy_time() + total
        self._paced = paced
        self._most = most
        self._end = math.inf
        self._received = 0
        self._in_body = False
        self._pace: _Pace | None = None
        self._sending: _Pace | None = None
        self.delivered = 0
        """How many bytes of the body its reader has got; the reader adds to it."""

    def send_seconds(self) -> float:
        """Return how long the next piece of the request may take."""
        if self._sending is None:
            self._sending = _Pace(SEND_SECONDS, SEND_SECONDS)
        return min(SEND_SECONDS, self._sending.left())

    @property
    def sends_at_once(self) -> bool:
        """Whether the user has set no limit for what is sent."""
        return self._throttle.sending.is_open

    def turn(self, size: int) -> int:
        """Wait until some of the next `size` bytes of the request's body may be sent; return how many."""
        size = self._throttle.sending.quantum(min(size, PIECE_BYTES))
        self._throttle.sending.take(size, Lane.CHANGES)
        return size

    def sent(self, count: int) -> None:
        """Record that the network has accepted so many bytes of the request."""
        if self._sending is not None:
            self._sending.add(count)

    def begin_headers(self) -> None:
        """Begin to wait for an answer."""
        self._begin(self._silence, in_body=False)

    def begin_body(self) -> None:
        """Begin to wait for the body: the headers are complete."""
        self._begin(math.inf if self._paced else self._body, in_body=True)
        if self._paced:
            first = max(1.0, min(WINDOW_SECONDS, self._total - busy_time()))
            self._end, self._pace = math.inf, _Pace(first, WINDOW_SECONDS)

    def expect_error(self, seconds: float) -> None:
        """Give the body so many seconds at most: it is the text of an error, whatever was asked for."""
        self._begin(min(self._body, seconds), in_body=True)

    def read_seconds(self) -> float:
        """Return how long the next read may take."""
        if self._is_given_up():
            raise TimeoutError("the mount ends")
        left = self._end - busy_time()
        if left <= 0:
            raise TimeoutError("the answer took too long")
        return min(self._silence, left, math.inf if self._pace is None else self._pace.left())

    def read_bytes(self, most: int) -> int:
        """Return how many bytes to read next."""
        return self._throttle.receiving.quantum(most) if self._in_body else most

    def received(self, count: int) -> None:
        """Record that so many bytes of the answer have come; wait until so many of its body may have come."""
        self._received += count
        if self._pace is not None:
            self._pace.add(count)
        most = HEADER_BYTES
        if self._in_body:
            most = HEADER_BYTES + OVERHEAD * self.delivered if self._most is None else self._most
        if self._received > most:
            raise AnswerTooLong(f"the answer is longer than {most} bytes")
        if self._in_body and count:
            self._throttle.receiving.take(count, is_given_up=self._is_given_up)

    def _begin(self, seconds: float, *, in_body: bool) -> None:
        self._in_body, self._received, self._pace = in_body, 0, None
        self._end = min(busy_time() + seconds, self._total)


class _Pace:
    """A stream that must have `LEAST_RATE` bytes a second: in the `first` seconds, then in each `window`."""

    def __init__(self, first: float, window: float) -> None:
        self._window = window
        self._begin(first)

    def add(self, count: int) -> None:
        self._missing -= count

    def left(self) -> float:
        """Return the seconds in which more must come, infinity if enough has come already."""
        left = self._end - busy_time()
        if left > 0:
            return left if self._missing > 0 else math.inf
        if self._missing > 0:
            raise TimeoutError(f"less than {LEAST_RATE} bytes a second are passing")
        self._begin(self._window)
        return self._window

    def _begin(self, seconds: float) -> None:
        self._end = busy_time() + seconds
        self._missing = seconds * LEAST_RATE


_limits: ContextVar[Limits | None] = ContextVar("swiftfs_limits", default=None)


@contextmanager
def limited(limits: Limits) -> Iterator[None]:
    """Apply `limits` to the request that this thread sends in the block, and to its answer, however late."""
    token = _limits.set(limits)
    try:
        yield
    finally:
        _limits.reset(token)


class LimitedAdapter(HTTPAdapter):
    """Sends requests over sockets that keep the limits of `limited`."""

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        _limit_pools(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        known = proxy in self.proxy_manager
        manager = super().proxy_manager_for(proxy, **options)
        if not known:
            _limit_pools(manager)
        return manager


def _limit_pools(manager: Any) -> None:
    """Let a pool manager of urllib3, for a proxy or none, make our connections."""
    manager.pool_classes_by_scheme = {
        scheme: _limited_pool(pool) for scheme, pool in manager.pool_classes_by_scheme.items()
    }


def _limited_pool(pool: Any) -> Any:
    connection = type("LimitedConnection", (LimitedConnection, pool.ConnectionCls), {})
    return type(pool.__name__, (pool,), {"ConnectionCls": connection})


class Response(HTTPResponse):
    """An answer read within `limits`, its headers in `fields`: http.client takes longer for its head."""

    may_outlive_socket = False

    def __init__(self, sock: socket.socket, limits: Limits | None, method: str | None = None) -> None:
        self._limits = limits
        if limits is not None:
            limits.begin_headers()
        readable: Any = _Readable(sock, limits, may_be_closed=self.may_outlive_socket)
        super().__init__(readable, method=method)

    def begin(self) -> None:
        if self.headers is None:
            self._read_head()
        if self._limits is not None:
            self._limits.begin_body()

    def _read_head(self) -> None:
        """Read the head as `HTTPResponse.begin` does, but all of its lines."""
        status = 100
        while status < 200:  # interim answers, such as 103 (RFC 9110, 15.2)
            version, status, reason = self._read_status()  # type: ignore[attr-defined]
            fields = read_headers(self.fp)
        if not version.startswith(("HTTP/1.", "HTTP/0.9")):
            raise UnknownProtocol(version)
        self.code = self.status = int(status)
        self.reason, self.version = reason.strip(), 10 if version in ("HTTP/1.0", "HTTP/0.9") else 11
        self.fields = fields
        headers: Any = {name.lower(): value for name, value in reversed(fields)}
        lengths = [value for name, value in fields if name.lower() == "content-length"]
        if len(lengths) > 1 and len(set(lengths)) > 1:
            raise BrokenHead("it has several lengths")
        self.headers = headers  # which `_check_close` looks into
        self._frame(headers)

    def _frame(self, headers: Mapping[str, str]) -> None:
        """Set where the body ends, and whether the connection does (RFC 9112, 6.3 and 9.3)."""
        self.chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        self.chunk_left, self.length = None, None
        length = headers.get("content-length", "")
        if not self.chunked and length.isascii() and length.isdecimal() and len(length) < MAX_DIGITS:
            self.length = int(length)
        # No Content, Not Modified. The names of HTTPStatus take longer than all else here.
        has_body = self.status not in (204, 304) and self.status >= 200
        if not has_body or self._method == "HEAD":  # type: ignore[attr-defined]
            self.length = 0
        is_endless = self.length is None and not self.chunked
        self.will_close = is_endless or self._check_close()  # type: ignore[attr-defined]

    def read1(self, n: int = -1) -> bytes:
        """Return some bytes of the body, none only at its end; raise `IncompleteRead` if it ends early."""
        data = super().read1(n)
        if not data and n and self.length:
            raise IncompleteRead(b"", self.length)
        return data

    @property
    def may_go_on(self) -> bool:
        """Whether the connection may take another request: the body was read completely."""
        is_read = self.fp is None or (self.length == 0 and not self.chunked)
        return is_read and not self.will_close


class _LibraryResponse(Response):
    """The answer that urllib3 gets, and that of a proxy to CONNECT: within the limits of `limited`."""

    may_outlive_socket = True

    def __init__(self, sock: socket.socket, *_: Any, method: str | None = None, **__: Any) -> None:
        super().__init__(sock, _limits.get(), method)

    def begin(self) -> None:
        super().begin()
        self.headers = self.msg = HTTPMessage()
        for name, value in self.fields:
            # As its own parser does: `headers[name] = value` refuses some names in newer releases of Python.
            self.headers.set_raw(name, value)


class LimitedConnection:
    """Overrides methods of urllib3's connections: it comes first among the base classes of ours."""

    response_class = _LibraryResponse
    sock: socket.socket | None
    _in_body = False

    def exchange(
        self, method: str, head: bytes, body: memoryview, limits: Limits, count: Callable[[int], None]
    ) -> Response:
        """Send a request, whose head is complete, and return the answer, its body unread.

        `count` is called with the size of each slice of the body that was sent. urllib3's own methods take
        ten times as long to build and to check a small request.
        """
        assert self.sock is not None
        # The server may have answered, and closed, before it has read all.
        with suppress(BrokenPipeError, ConnectionResetError):
            if len(body) <= JOINED_BYTES and limits.sends_at_once:
                # Without a look at the time limit: the buffer of an idle socket has room for it.
                joined = head + body
                if (sent := self.sock.send(joined)) < len(joined):
                    self._send_rest(memoryview(joined)[sent:], limits)
                count(len(body))
            else:
                self._send_pieces(memoryview(head), limits, in_body=False)
                for start in range(0, len(body), SLICE_BYTES):
                    piece = body[start : start + SLICE_BYTES]
                    self._send_pieces(piece, limits, in_body=True)
                    count(len(piece))
        response = Response(self.sock, limits, method)
        try:
            response.begin()
        except BaseException:
            response.close()
            raise
        return response

    def putrequest(self, *args: Any, **options: Any) -> None:
        """Begin a request."""
        self._in_body = False
        super().putrequest(*args, **options)  # type: ignore[misc]

    def endheaders(self, *args: Any, **options: Any) -> None:
        """Send the headers; what is sent after them is the body."""
        super().endheaders(*args, **options)  # type: ignore[misc]
        self._in_body = True

    def send(self, data: Any) -> None:
        """Send a part of the request in pieces, each within the limits."""
        limits = _limits.get()
        if limits is None or self.sock is None or not isinstance(data, bytes | bytearray | memoryview):
            super().send(data)  # type: ignore[misc]
            return
        self._send_pieces(memoryview(data).cast("B"), limits, in_body=self._in_body)

    def _send_pieces(self, rest: memoryview, limits: Limits, *, in_body: bool) -> None:
        while rest:
            piece = rest[: limits.turn(len(rest)) if in_body else PIECE_BYTES]
            rest = rest[len(piece) :]
            self._send_rest(piece, limits)

    def _send_rest(self, piece: memoryview, limits: Limits) -> None:
        assert self.sock is not None
        while piece:
            set_timeout(self.sock, limits.send_seconds())
            count = self.sock.send(piece)
            limits.sent(count)
            piece = piece[count:]


def set_timeout(sock: socket.socket, seconds: float) -> None:
    """Set a socket's timeout; a long one in whole seconds, since each change is a system call."""
    seconds = math.ceil(seconds) if seconds > LONG_SECONDS else seconds
    if sock.gettimeout() != seconds:
        sock.settimeout(seconds)


class _Readable:
    """The part of a socket that `HTTPResponse` uses."""

    def __init__(self, sock: socket.socket, limits: Limits | None, *, may_be_closed: bool) -> None:
        self._sock, self._limits, self._may_be_closed = sock, limits, may_be_closed

    def makefile(self, mode: str) -> Any:
        if self._limits is None:
            return self._sock.makefile(mode)  # type: ignore[call-overload]
        reader = _HoldingReader if self._may_be_closed else _LimitedReader
        return io.BufferedReader(reader(self._sock, self._limits))


class _LimitedReader(io.RawIOBase):
    """Reads a socket, each time within what is left of the limits; the socket is closed after it."""

    def __init__(self, sock: socket.socket, limits: Limits) -> None:
        self._sock, self._limits = sock, limits

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        set_timeout(self._sock, self._limits.read_seconds())
        count = self._sock.recv_into(buffer, self._limits.read_bytes(len(buffer)))
        self._limits.received(count)
        return count


class _HoldingReader(_LimitedReader):
    """Goes on when the socket is closed: http.client does that first when the server will close it."""

    def __init__(self, sock: socket.socket, limits: Limits) -> None:
        super().__init__(sock, limits)
        self._held = sock.makefile("rb", buffering=0)

    def close(self) -> None:
        if not self.closed:
            self._held.close()
        super().close()
