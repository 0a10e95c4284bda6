"""A model of TCP over a long way: what a connection carries begins small, doubles, and ends at a window.

A network within one machine has no latency worth naming, and its connections carry all at once. On a real one
a new connection costs a round trip, sends ten segments in the first one after that, twice as many in each
that follows, and never more than the receiver's window. One that was idle begins again (RFC 5681).
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

FIRST_FLIGHT = 10 * 1460
"""Bytes that a connection sends in its first round trip (RFC 6928)."""

WINDOW = 3 * 1024**2
"""Bytes that Linux lets be under way to a receiver: half of the 6 MiB of `tcp_rmem`."""

IDLE_SECONDS = 0.2
"""After so long without data, and a round trip, a connection begins with the first flight again."""

STEP_SECONDS = 0.004
"""How often a connection sends: short beside a round trip."""


@dataclass(slots=True)
class Sender:
    """Sends what one connection carries, over a way with a round trip of so many seconds.

    `sent` is called with the size of each piece. Without a round trip everything is sent at once.
    """

    transport: asyncio.Transport
    round_trip: float
    sent: Callable[[int], None]
    _queue: list[memoryview] = field(default_factory=list)
    _window: float = FIRST_FLIGHT
    _credit: float = 0.0
    _last: float = -1.0

    def send(self, data: bytes) -> None:
        """Send data after what was handed in before."""
        if not data:
            return
        if not self.round_trip:
            self._write(data)
            return
        loop = asyncio.get_running_loop()
        self._queue.append(memoryview(data))
        if len(self._queue) > 1:
            return
        if self._last + self.round_trip + IDLE_SECONDS < loop.time():
            self._window = FIRST_FLIGHT
        # A first flight leaves at once; acknowledgements spread later windows over their round trip.
        self._credit = self._window if self._window == FIRST_FLIGHT else 0.0
        self._last = loop.time()
        self._step()

    def _step(self) -> None:
        loop = asyncio.get_running_loop()
        seconds, self._last = loop.time() - self._last, loop.time()
        self._credit += self._window * seconds / self.round_trip
        self._window = min(self._window * 2 ** (seconds / self.round_trip), WINDOW)
        # What the receiver has not taken fills its window.
        self._credit = min(self._credit, WINDOW - self.transport.get_write_buffer_size())
        while self._queue and self._credit >= 1:
            piece = self._queue[0][: int(self._credit)]
            self._write(piece)
            self._credit -= len(piece)
            rest = self._queue[0][len(piece) :]
            self._queue[:1] = [rest] if rest else []
        if self._queue and not self.transport.is_closing():
            loop.call_later(STEP_SECONDS, self._step)

    def _write(self, piece: bytes | memoryview) -> None:
        if not self.transport.is_closing():
            self.transport.write(piece)
            self.sent(len(piece))
