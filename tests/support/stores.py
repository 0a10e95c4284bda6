"""Helpers of the tests of stores: containers, bodies, listings, and a quick retry policy."""

import hashlib
import itertools
from collections.abc import Callable

from swiftfs.demo.server import SwiftServer
from swiftfs.errors import StoreError
from swiftfs.objects import ObjectInfo, ObjectName, Page, Segment
from swiftfs.store.protocol import Headers, ObjectStore
from swiftfs.store.retry import RetryPolicy

TEXT = Headers("text/plain")

MODE = "text/plain;mtime=1700000000.123456789;mode=0100644;uid=1000"

QUICK = RetryPolicy(deadline=3.0, first_pause=0.01, longest_pause=0.05)

STRANGE_KEYS = (
    "with space",
    "new\nline",
    "tab\tand\rreturn",
    "per%20cent%",
    "ques?tion=1&a",
    "ha#sh",
    "a//b",
    "a/",
    "/leading",
    "//two",
    ".",
    "..",
    "d/.",
    "d/..",
    "d/../escape",
    "./x",
    "../x",
    "...",
    "%2E%2E",
    "%2e",
    "semi;colon,comma:",
    "[brackets]{}|\\^`",
    "plus+and&",
    "\"quotes'",
    "한글/日本語",
    "emoji-😀",
    "e\u0301 or \u00e9",
    "~tilde*",
    "\x01control\x7f",
)


_numbers = itertools.count(1)


def new_container(store: ObjectStore) -> str:
    """Make a container; return its name, which no other test uses."""
    name = f"contract-{next(_numbers)}"
    assert store.create_container(name)
    return name


def read(store: ObjectStore, name: ObjectName, **how: object) -> tuple[bytes, ObjectInfo]:
    """Return an object's bytes and what `get` returned; `how` has the arguments of `get`.

    Assert that the last attempt gave each byte once, in order.
    """
    parts: dict[int, bytes] = {}

    def sink(offset: int, data: bytes) -> None:
        if offset == how.get("offset", 0):
            parts.clear()  # a new attempt begins
        assert offset not in parts
        parts[offset] = data

    info = store.get(name, sink, **how)  # type: ignore[arg-type]
    places = sorted(parts)
    for place, following in itertools.pairwise(places):
        assert place + len(parts[place]) == following
    if places:
        assert places[0] == how.get("offset", 0)
    return b"".join(parts[place] for place in places), info


def keys_of(page: Page) -> list[str]:
    """Return the keys of a page's rows."""
    return [row.key for row in page.rows]


def pages_of(list_page: Callable[[str], Page]) -> list[Page]:
    """Return all pages of a listing, which `list_page` returns after a marker."""
    pages = [list_page("")]
    while not pages[-1].last:
        pages.append(list_page(pages[-1].marker))
    return pages


def md5(content: bytes) -> str:
    """Return the MD5 as hex digits."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def put(store: ObjectStore, box: str, key: str, body: bytes = b"") -> Segment:
    """Store a small object and return it as a segment."""
    name = ObjectName(box, key)
    return Segment(name, store.put(name, body, TEXT).version.etag, len(body))


def raise_first(failures: dict[ObjectName, StoreError]) -> None:
    """Raise the first failure of a `delete_many`."""
    for error in failures.values():
        raise error


def methods_seen(swift: SwiftServer, name: ObjectName) -> list[tuple[str, int]]:
    """Return method and status of each recorded request for the object's container."""
    return [(one.method, one.status) for one in swift.requests() if name.container in one.path]
