"""In which pieces the body of an answer is passed on."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from support.manual_clock import ManualClock
from swiftfs.errors import StoreError
from swiftfs.store.request import Request
from swiftfs.store.sockets import Limits, Response
from swiftfs.store.transport import JOIN_SECONDS, PIECE_BYTES, Answer

RECORD = 16 * 1024
BODY = bytes(range(256)) * (4 * PIECE_BYTES // 256) + b"rest"


class Records(socket.socket):
    """A socket that reads at most a record at once, as TLS does, each after `seconds` of a clock."""

    clock: ManualClock | None = None
    seconds = 0.0

    def recv_into(self, buffer: object, nbytes: int = 0, flags: int = 0) -> int:
        if self.clock is not None:
            self.clock.now += self.seconds
        return super().recv_into(buffer, min(nbytes, RECORD), flags)  # type: ignore[arg-type]


@contextmanager
def answered(head: str, sent: bytes) -> Iterator[tuple[Records, Answer]]:
    ours, theirs = socket.socketpair()
    records = Records(fileno=ours.detach())
    with records, theirs:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * len(BODY))
        theirs.sendall(f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n".encode() + sent)
        theirs.close()
        limits = Limits(5, body=5)
        response = Response(records, limits)
        response.begin()
        try:
            yield records, Answer(Request("get", "GET", "box", "file"), response, limits, Response.close)
        finally:
            response.close()


def test_the_first_bytes_are_passed_on_at_once_and_then_whole_blocks() -> None:
    with answered(f"Content-Length: {len(BODY)}", BODY) as (_, answer):
        pieces = list(answer.chunks())
    assert b"".join(pieces) == BODY
    assert len(pieces[0]) <= RECORD
    ends = [sum(map(len, pieces[: number + 1])) for number in range(len(pieces))]
    assert [end // PIECE_BYTES for end in ends] == [0, 1, 2, 3, 4]


def test_a_slow_body_is_passed_on_as_it_comes(clock: ManualClock) -> None:
    with answered(f"Content-Length: {len(BODY)}", BODY) as (records, answer):
        records.clock, records.seconds = clock, 2 * JOIN_SECONDS
        sizes = [len(piece) for piece in answer.chunks()]
    assert sum(sizes) == len(BODY)
    assert max(sizes) <= RECORD


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_bytes_before_a_failure_are_passed_on_and_then_it_is_raised(framing: str) -> None:
    """Of a body in chunks the end after a failure must not look like that of the body."""
    sent, head = BODY[: PIECE_BYTES - RECORD], f"Content-Length: {len(BODY)}"
    if framing == "chunks":
        head = "Transfer-Encoding: chunked"
        sent = b"%x\r\n%b\r\n" % (RECORD, sent[:RECORD]) + b"%x\r\n%b" % (PIECE_BYTES, sent[RECORD:])
    pieces: list[bytes] = []
    with answered(head, sent) as (_, answer), pytest.raises(StoreError):
        pieces.extend(answer.chunks())
    assert b"".join(pieces) == BODY[: PIECE_BYTES - RECORD]
