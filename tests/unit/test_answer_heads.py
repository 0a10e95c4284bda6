"""The head of an answer is read alike, whether all of it has come at once or each byte alone."""

import io
from typing import Any, cast

import pytest

from swiftfs.store.request import MAX_LINES, BrokenHead, read_headers

HEADS = [
    b"\r\n",
    b"\r\nbody\r\n\r\n",
    b"Etag: x\r\n\r\nContent-Length: 3\r\n\r\n",
    b"Content-Length: 0\r\nX-Object-Meta-My Note:  a:b \t\r\nEmpty:\r\nBlanks: \t \r\n\r\n",
    "X-Object-Meta-Größe: 1 €\r\nX-Object-Meta-größe: ü\r\nX: \x85\xa0\r\n\r\n".encode(),
    b"Date: 1\r\nDate: 2\r\nLong: " + b"x y" * 4000 + b"\r\n\r\n",
    b"A: 1\nB: 2\r\n\n",
    b"A: 1\r\n 2\r\n\t3\r\nB:\r\n\r\n",
    b"".join(b"X-%d: %d\r\n" % (number, number) for number in range(MAX_LINES)) + b"\r\n",
]

BROKEN = [
    b"",
    b"A: 1\r\n",
    b" A: 1\r\n\r\n",
    b": 1\r\n\r\n",
    b"A\r\n\r\n",
    b"A: 1\rB: 2\r\n\r\n",
    b"A: 1\0\r\n\r\n",
    b"A: 1\r\n\r\r\n",
    b"X: 1\r\n" * (MAX_LINES + 1) + b"\r\n",
]


class Trickle(io.RawIOBase):
    """Delivers one byte at a time."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._data.readinto(memoryview(buffer)[:1])


def byte_by_byte(data: bytes) -> io.BufferedReader:
    """Return a file whose reads return a byte each."""
    return io.BufferedReader(cast(io.RawIOBase, Trickle(data)))


def at_once(data: bytes) -> io.BufferedReader:
    """Return a file whose first read returns all of a head."""
    return io.BufferedReader(cast(io.RawIOBase, io.BytesIO(data)), len(data) + 1)


@pytest.mark.parametrize("head", HEADS, ids=range(len(HEADS)))
def test_a_head_is_read_alike_at_once_and_byte_by_byte(head: bytes) -> None:
    rest = b"Not: read\r\n\r\n"
    whole, slow = at_once(head + rest), byte_by_byte(head + rest)
    assert read_headers(whole) == read_headers(slow)
    assert whole.read() == slow.read()


@pytest.mark.parametrize("head", BROKEN, ids=range(len(BROKEN)))
def test_a_broken_head_is_refused_alike(head: bytes) -> None:
    with pytest.raises(BrokenHead) as slow:
        read_headers(byte_by_byte(head))
    with pytest.raises(BrokenHead) as whole:
        read_headers(at_once(head))
    assert str(whole.value) == str(slow.value)
