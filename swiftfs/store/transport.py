"""Sends requests: leases a connection, adds the token, counts, and turns failures into `StoreError`s.

Requests are counted by class, because providers charge for each of them.
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache

from msgspec import Struct

from swiftfs.concurrency import may_block, monotonic
from swiftfs.errors import Corrupt, StoreError, TimedOut
from swiftfs.objects import Count
from swiftfs.store.auth import Account
from swiftfs.store.error_map import (
    NETWORK_ERRORS,
    RequestIds,
    is_refused_as_older,
    network_error,
    status_error,
)
from swiftfs.store.pool import Connection, ConnectionPool
from swiftfs.store.request import ANSWER_SECONDS, LONGEST_WORK_SECONDS, RETRIEVAL_STATE, Request
from swiftfs.store.retry import remaining
from swiftfs.store.server_state import TOO_MANY, ServerState
from swiftfs.store.sockets import Limits, Response
from swiftfs.store.throttle import Lane, busy_time
from swiftfs.store.wire.object_headers import content_length, lower_name, text_of

CHUNK_BYTES = 512 * 1024
"""The most that is read of a body at once."""

PIECE_BYTES = 128 * 1024
"""A block of a cached file: fewer bytes are of no use to a reader, and to pass on any piece takes as long.
TLS has records of 16 KiB, each of which is read alone."""

JOIN_SECONDS = 0.02
"""After so long no further read is begun for a piece: a slow body is passed on as it comes."""

ERROR_TEXT_BYTES = 64 * 1024
"""The most that is read of an error's body, in bytes; a server may send a whole page."""

log = logging.getLogger(__name__)


class Reply(Struct, frozen=True):
    """A complete answer with a 2xx status; `headers` have lower-case names."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Answer:
    """An answer whose body was not read yet. It is read at most once, and only inside `Transport.open`."""

    def __init__(
        self, request: Request, response: Response, limits: Limits, release: Callable[[Response], None]
    ) -> None:
        self.request = request
        self._release = release
        self._limits = limits
        self.status = response.status
        self.headers: Mapping[str, str] = _headers(response)
        self.received = 0
        self._response = response
        self._failure: Exception | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is no body to read."""
        if self.request.method == "HEAD":
            return True
        return self._response.length == 0 and self.headers.get("content-length", "0") == "0"

    def chunks(self) -> Iterator[bytes]:
        """Yield the body as it arrives: its first bytes, then whole blocks if it is fast.

        Raise `Corrupt` unless it is exactly as long as announced, `TimedOut` if it takes too long, and
        network errors.
        """
        expected = content_length(self.headers)
        while chunk := self._next():
            self.received += len(chunk)
            self._limits.delivered += len(chunk)
            yield chunk
        # A proxy may cut a body without an error.
        if expected is not None and self.received != expected:
            raise Corrupt(
                f"{self.request.operation} {self.request.subject}: {self.received} bytes of {expected} came"
            )

    def _next(self) -> bytes:
        """Return what comes next of the body, none at its end; raise network errors."""
        if self._failure is not None:
            raise network_error(self.request, self._failure) from self._failure
        parts: list[bytes] = []
        # Up to a block's end, if the body begins at one. The first bytes at once: their time is measured.
        missing = PIECE_BYTES - self.received % PIECE_BYTES if self.received else 1
        begun = monotonic()
        try:
            while missing > 0 and (not parts or monotonic() - begun < JOIN_SECONDS):
                parts.append(self._response.read1(CHUNK_BYTES))
                missing -= len(parts[-1])
                if not parts[-1] or self._response.length == 0:
                    break
        except NETWORK_ERRORS as error:
            if not parts:
                raise network_error(self.request, error) from error
            self._failure = error  # when the bytes before it have been passed on
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def error_text(self) -> str:
        """Return the beginning of the body of an answer that is an error."""
        # The long time limit of the work itself does not apply to the text of an error.
        self._limits.expect_error(ANSWER_SECONDS)
        text = b""
        try:
            for chunk in () if self.request.method == "HEAD" else self.chunks():
                text += chunk
                if len(text) >= ERROR_TEXT_BYTES:
                    break
        except StoreError:
            log.debug("%s: the text of the error is incomplete", self.request.subject)
        return text.decode("utf-8", "replace")

    def close(self) -> None:
        """Release the connection; an unread body breaks it."""
        self._release(self._response)

    def limited_chunks(self) -> Iterator[bytes]:
        """Yield the body as `chunks` does, and raise `Corrupt` above the request's `max_bytes`."""
        for chunk in self.chunks():
            if self.received > self.request.max_bytes:
                raise Corrupt(
                    f"{self.request.operation} {self.request.subject}: "
                    f"the answer is longer than {self.request.max_bytes} bytes"
                )
            yield chunk

    def body(self) -> bytes:
        """Return the whole body; errors as in `limited_chunks`."""
        return b"".join(self.limited_chunks())


class Transport:
    """Sends requests to one account, from any thread.

    No request waits for its answer longer than `longest_silence` seconds. When the `reading` of `state` has
    ended, requests that change nothing fail. Requests and bodies keep the limits of its `throttle`, which
    `close` ends, and wait while its `load` says so.
    """

    def __init__(self, account: Account, state: ServerState, longest_silence: float) -> None:
        self._throttle = state.throttle
        self._account = account
        self._counters = state.counters
        self._longest_silence = longest_silence
        self._reading = state.reading
        self._pool = ConnectionPool(account)
        self._pacer = state.load.pacer
        self._request_ids = RequestIds(self._ask)

    def send(self, request: Request) -> Reply:
        """Send `request` and return the whole answer; raise `StoreError`."""
        with self.open(request) as answer:
            body = b"" if answer.is_empty else answer.body()
            return Reply(answer.status, answer.headers, body)

    @contextmanager
    def open(self, request: Request) -> Iterator[Answer]:
        """Send `request` and provide the answer, its body unread. Raise `StoreError` unless it is within 2xx.

        After a 401 the token is renewed, once for all threads, and the request is sent once more.
        """
        may_block(f"sends {request.operation}")
        if _is_read(request) and self._reading.has_ended():
            raise _ended(request)
        # Before the connection is taken: a server closes one that is idle meanwhile.
        self._wait_for_turn(request)
        connection = self._pool.lease()
        try:
            token = "" if request.info else self._account.token()
            with self._attempt(connection, request, token) as answer:
                if answer.status != 401 or request.info:
                    yield self._good(answer)
                    return
            # Once: a new token that is refused too says that the user may not do this.
            token = self._account.renew(token)
            self._wait_for_turn(request)
            with self._attempt(connection, request, token) as answer:
                yield self._good(answer)
        finally:
            self._pool.give_back(connection)

    def _ask(self) -> Mapping[str, str]:
        """Return the headers with which the server answers a HEAD of the account, whatever they say."""
        request = Request("account_usage", "HEAD")
        self._wait_for_turn(request)
        connection = self._pool.lease()
        try:
            with self._attempt(connection, request, self._account.token()) as answer:
                return answer.headers
        finally:
            self._pool.give_back(connection)

    def _good(self, answer: Answer) -> Answer:
        self._request_ids.check(answer.request, answer.status, answer.headers)
        if 200 <= answer.status < 300 and not is_refused_as_older(answer.request, answer.status):
            return answer
        raise status_error(answer.request, answer.status, answer.headers, answer.error_text())

    def _wait_for_turn(self, request: Request) -> None:
        """Return when the limit of requests a second allows one more."""
        is_read = _is_read(request)
        lane, ends = (Lane.READS, self._reading.has_ended) if is_read else (Lane.CHANGES, lambda: False)
        try:
            self._throttle.requests.take(1, lane, ends)
        except TimeoutError:
            raise _ended(request) from None

    def close(self) -> None:
        """Close every connection, to the authentication server too, and end the reads."""
        self._reading.end()
        self._throttle.end()
        self._pool.close()
        self._account.close()

    @contextmanager
    def _attempt(self, connection: Connection, request: Request, token: str) -> Iterator[Answer]:
        """Send a request once, provide the answer, and count it when its body was read or left."""
        began, answer = busy_time(), None
        try:
            self._pacer.wait(remaining)
            answer = self._send(connection, request, token)
            if answer.status in TOO_MANY and RETRIEVAL_STATE not in answer.headers:
                self._pacer.refused()
            yield answer
        finally:
            seconds = busy_time() - began
            if answer is not None:
                answer.close()
            self._count(request, answer, seconds)

    def _send(self, connection: Connection, request: Request, token: str) -> Answer:
        # A long request is not cut off at the deadline: the server would go on with it, and its result be
        # unknown.
        timeout = request.read_timeout if request.long_running else min(request.read_timeout, remaining())
        if timeout <= 0:
            raise TimedOut(f"{request.operation} {request.subject}: no time left", may_land=False)
        timeout = min(timeout, self._longest_silence)
        limits = self._limits(request, timeout)
        try:
            with self._counters.body(f"{request.container}/{request.key}") as count:
                response = connection.send(request, token, timeout, limits, count)
            return Answer(request, response, limits, connection.release)
        except NETWORK_ERRORS as error:
            raise network_error(request, error) from error

    def _limits(self, request: Request, timeout: float) -> Limits:
        """Return the limits of a request whose headers may take `timeout` seconds."""
        if request.long_running:
            return Limits(timeout, body=LONGEST_WORK_SECONDS, throttle=self._throttle)
        if not _is_read(request):  # a body takes as long as the network needs; what is answered is short
            total = math.inf if request.body else remaining()
            return Limits(timeout, body=timeout, total=total, throttle=self._throttle)
        return Limits(
            timeout,
            body=timeout,
            total=remaining(),
            paced=request.transfer,
            is_given_up=self._reading.has_ended,
            throttle=self._throttle,
        )

    def _count(self, request: Request, answer: Answer | None, seconds: float) -> None:
        """Count an attempt that took so long; None is no answer."""
        status = answer.status if answer else 0
        sent = len(memoryview(request.body).cast("B")) if request.body else 0
        received = answer.received if answer else 0
        # A 404 to a HEAD or DELETE is an ordinary answer: the write probe of a mount expects it.
        failed = not (200 <= status < 300 or (status == 404 and request.method in ("HEAD", "DELETE")))
        self._counters.add(request.operation, Count(1, int(failed), sent, received, seconds))
        if log.isEnabledFor(logging.DEBUG):
            subject, result = request.subject, status or "no answer"
            log.debug("%s %s: %s in %.3f s", request.operation, subject, result, seconds)


def _ended(request: Request) -> TimedOut:
    return TimedOut(f"{request.operation} {request.subject}: the mount ends", may_land=False)


def _is_read(request: Request) -> bool:
    return request.method in ("GET", "HEAD")


def _headers(response: Response) -> dict[str, str]:
    return {
        _lower_name(name): value if value.isascii() else text_of(value) for name, value in response.fields
    }


@lru_cache(maxsize=256)
def _lower_name(name: str) -> str:
    """Return a header's name, decoded as Latin-1, in lower case; a server sends the same ones always."""
    return lower_name(text_of(name))
