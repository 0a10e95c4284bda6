"""Reads the headers of an answer: each of its lines, or an error, but never a part of them.

http.client's own parser ends the headers at the first line that it does not understand, such as
`X-Object-Meta-My Note: x`, which Swift stores and sends. A Content-Length behind that line would be lost,
and a large file be an empty one. It also is the email package's, which takes five times as long.
"""

from collections.abc import Iterator
from http.client import HTTPException
from typing import BinaryIO

MAX_LINES = 1000
"""The most header lines. An object in Swift may have 90 of metadata, and 20 others."""

MAX_LINE = 65536
"""The longest line in bytes; those of Swift have at most 8 KiB."""

_BLANK = " \t"


class BrokenHead(HTTPException):
    """The head of the answer is incomplete, or not HTTP."""


def read_headers(file: BinaryIO) -> list[tuple[str, str]]:
    """Read the headers and the empty line after them, their text decoded as Latin-1.

    Raise `BrokenHead` and network errors.
    """
    headers: list[tuple[str, str]] = []
    for line in _lines(file):
        if line[0] in _BLANK:  # it continues the line before (RFC 9112, 5.2)
            if not headers:
                raise BrokenHead("the first header line begins with a blank")
            name, value = headers.pop()
            headers.append((name, f"{value} {line.strip(_BLANK)}"))
            continue
        # The name as it is: Swift takes blanks, control characters and any UTF-8, and sends them like that.
        name, colon, value = line.partition(":")
        if not (colon and name):
            raise BrokenHead(f"the header line {line[:80]!r} has no name")
        headers.append((name, value.strip(_BLANK)))
    return headers


def _lines(file: BinaryIO) -> Iterator[str]:
    """Yield the lines up to the empty one, without their ends."""
    for _ in range(MAX_LINES + 1):
        line = file.readline(MAX_LINE + 1)
        if len(line) > MAX_LINE:
            raise BrokenHead(f"a header line is longer than {MAX_LINE} bytes")
        if not line.endswith(b"\n"):  # http.client takes this for the end of the headers
            raise BrokenHead("the connection ended within the headers")
        text = line.removesuffix(b"\n").removesuffix(b"\r").decode("latin-1")
        if not text:
            return
        if "\r" in text or "\0" in text:  # another parser may see two lines here (RFC 9110, 5.5)
            raise BrokenHead(f"the header line {text[:80]!r} has a control character")
        yield text
    raise BrokenHead(f"there are more than {MAX_LINES} header lines")
