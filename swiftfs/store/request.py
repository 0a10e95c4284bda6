"""A request to Swift as a value, how names are quoted in its URL, and how the head of its answer is read.

Each line of the head is read, or it is an error, but never a part of them. http.client's own parser ends the
headers at the first line that it does not understand, such as `X-Object-Meta-My Note: x`, which Swift stores
and sends. A Content-Length behind that line would be lost, and a large file be an empty one. It also uses the
email package, and takes five times as long.
"""

import re
from collections.abc import Iterator, Mapping
from http.client import HTTPException
from io import BufferedReader
from urllib.parse import quote

from msgspec import Struct, field

from swiftfs.errors import BadName, StoreError, printable
from swiftfs.objects import NOTHING, ObjectName
from swiftfs.store.protocol import Body

ANSWER_SECONDS = 20.0
"""Longest silence of the server before a lookup or a read counts as failed."""

WORK_SECONDS = 600.0
"""Longest silence of a server that works: it copies 5 GiB or checks 1000 segments before it answers."""

LONGEST_WORK_SECONDS = 3600.0
"""Longest time for the body of an answer to such work: Swift sends blanks in it while it works."""

ANSWER_BYTES = 16 * 1024**2
"""The longest answer; a manifest of 1000 segments and the verdict on 10,000 deletions are shorter."""

RETRIEVAL_STATE, RETRIEVAL_DELAY = "x-ovh-retrieval-state", "x-ovh-retrieval-delay"
"""What OVH's Public Cloud Archive says of each object; the delay is in seconds.

Source: "Unfreezing your data stored in the Public Cloud Archive", docs.ovhcloud.com.
"""

_DOT_SEGMENT = re.compile(r"(?<=/)\.{1,2}(?=/|\?|$)")


class Request(Struct, frozen=True):
    """A request about an account, a container or an object.

    `operation` is its class in the counters and its name in messages. `meaning` maps statuses to errors where
    they differ from the common table. Without a container it is about the account; an empty name is refused,
    as a DELETE would delete the account. `read_timeout` is the longest silence in seconds, and the longest
    time until the headers are complete; the deadline of the call shortens it unless the request is
    `long_running`. The body of the answer must be complete within the deadline too, unless the request is
    `long_running` or a `transfer`: the bytes of an object, which may take as long as they keep coming. An
    answer that must be held in memory has at most `max_bytes` bytes. `info` requests `/info`, which takes no
    token. With `has_verdict` the body of the answer says what was done.
    """

    operation: str
    method: str
    container: str | None = None
    key: str | None = None
    query: str = ""
    headers: Mapping[str, str] = NOTHING
    body: Body | None = None
    meaning: Mapping[int, type[StoreError]] = field(default_factory=dict)
    read_timeout: float = ANSWER_SECONDS
    max_bytes: int = ANSWER_BYTES
    long_running: bool = False
    transfer: bool = False
    info: bool = False
    has_verdict: bool = False

    @property
    def subject(self) -> str:
        """What the request is about, printable on one line."""
        text = "the account" if self.container is None else self.container
        if self.key is not None:
            text = f"{text}/{self.key}"
        return printable(text)

    def path(self, base: str) -> str:
        """Return the quoted path and query below the storage URL's path `base`; raise `BadName`."""
        if self.info:
            # `/info` belongs to the server, not to the account: it lies beside `/v1`.
            return re.sub(r"/v\d+(\.\d+)?(/.*)?$", "", base.rstrip("/")) + "/info"
        path = base.rstrip("/")
        if self.container is not None:
            path += "/" + quoted_container(self.container)
        if self.key is not None:
            path += "/" + quoted_key(self.key)
        return escape_dots(f"{path}?{self.query}" if self.query else path)


def quoted_container(container: str) -> str:
    """Return the container's name as a URL segment; raise `BadName` for an invalid one."""
    if not container or "/" in container:
        raise BadName(f"{container!r} is not a container name")
    return _quoted(container, safe="")


def quoted_key(key: str) -> str:
    """Return the object's name as a URL path; raise `BadName` for "", which would address the container."""
    if not key:
        raise BadName("an object's name cannot be empty")
    return _quoted(key, safe="/")


def quoted_path(name: ObjectName) -> str:
    """Return `/container/key` quoted, as bulk delete and COPY want it."""
    return f"/{quoted_container(name.container)}/{quoted_key(name.key)}"


_UNQUOTED = re.compile(r"[A-Za-z0-9_.~/-]+")
"""Names that `quote` returns as they are."""


def _quoted(text: str, safe: str) -> str:
    if _UNQUOTED.fullmatch(text) and (safe or "/" not in text):
        return text
    try:
        # Strict: a name that is not UTF-8 would become another object's with replacement characters.
        return quote(text, safe=safe, errors="strict")
    except UnicodeEncodeError:
        raise BadName(f"{text!r} is not UTF-8") from None


def escape_dots(url: str) -> str:
    """Percent-encode path segments `.` and `..`, which clients and proxies resolve (RFC 3986, 5.2.4)."""
    path, mark, query = url.partition("?")
    return _DOT_SEGMENT.sub(lambda found: "%2E" * len(found.group()), path) + mark + query


MAX_LINES = 1000
"""The most header lines. An object in Swift may have 90 of metadata, and 20 others."""

MAX_LINE = 65536
"""The longest line in bytes; those of Swift have at most 8 KiB."""

_BLANK = " \t"


class BrokenHead(HTTPException):
    """The head of the answer is incomplete, or not HTTP."""


_PLAIN_HEAD = re.compile(rb"(?:[^ \t:\r\n\0][^:\r\n\0]*:[^\r\n\0]*\r\n){1,1000}\r\n")
"""Headers as nearly all servers send them."""

_PLAIN_LINE = re.compile(r"([^:]+):[ \t]*([^\r]*[^\r \t]|)[ \t]*\r\n")


def read_headers(file: BufferedReader) -> list[tuple[str, str]]:
    """Read the headers, in Latin-1, and the empty line after them; raise `BrokenHead` and network errors."""
    # Mostly all of it has come, and is plain: one look takes a fifth of the time.
    if (plain := _PLAIN_HEAD.match(file.peek(1))) is not None:
        text = file.read(plain.end()).decode("latin-1")
        return _PLAIN_LINE.findall(text)
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


def _lines(file: BufferedReader) -> Iterator[str]:
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
