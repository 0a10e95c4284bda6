"""Servers that limit the rate of requests, such as Selectel's: swiftfs slows down and does not fail."""

from collections import deque
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.deadlines import within
from support.hostile_server import HostileServer, Response
from swiftfs.concurrency import monotonic, unix_time
from swiftfs.objects import ObjectName
from swiftfs.store.connect import connect

pytest_plugins = ["support.hostile_fixtures"]

RATE = 60
"""Requests a second that the server takes."""

THREADS, CALLS = 24, 300


class Limiter:
    """Answers at most `RATE` requests in any second, the others with `status`."""

    def __init__(self, status: int) -> None:
        self.refused = 0
        self._status = status
        self._taken: deque[float] = deque()

    def respond(self, _body: bytes) -> Response:
        now = monotonic()
        while self._taken and self._taken[0] <= now - 1.0:
            self._taken.popleft()
        if len(self._taken) >= RATE:
            self.refused += 1
            return Response(status=self._status)
        self._taken.append(now)
        return Response(headers={"Content-Length": "0", "X-Timestamp": f"{unix_time():.5f}", "Etag": "x"})


@pytest.mark.parametrize("status", [429, 498])
def test_requests_above_the_rate_are_slowed_down(hostile: HostileServer, status: int) -> None:
    limiter = Limiter(status)
    hostile.respond = limiter.respond
    connected = connect(hostile.environment)
    try:
        begun = monotonic()
        with ThreadPoolExecutor(THREADS) as pool:
            heads = [
                pool.submit(connected.store.head, ObjectName("box", f"{number}")) for number in range(CALLS)
            ]
        assert all(head.exception() is None for head in heads)
        # No slower than a quarter of what the server takes, and few requests in vain.
        assert monotonic() - begun < within(4 * CALLS / RATE)
        assert limiter.refused < CALLS
    finally:
        connected.close()


def test_two_dates_in_an_answer_are_no_failure(hostile: HostileServer) -> None:
    date = "Date: Sun, 29 Nov 2026 12:00:00 GMT\r\n"
    head = f"HTTP/1.1 200 OK\r\n{date}Content-Length: 7\r\n{date}Etag: x\r\nX-Timestamp: 1700000000.5\r\n\r\n"
    hostile.response = Response(raw=head.encode())
    connected = connect(hostile.environment)
    try:
        info = connected.store.head(ObjectName("box", "object"))
        assert (info.size, info.last_modified_ns) == (7, 1_700_000_000_500_000_000)
    finally:
        connected.close()
