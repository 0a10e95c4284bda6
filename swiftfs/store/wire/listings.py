"""Reads listings. An unreadable one is `Corrupt`, never empty: a mirror would delete what seems absent."""

import json
from collections.abc import Sequence
from itertools import pairwise, repeat
from typing import Any
from urllib.parse import quote

from swiftfs.errors import BadName, Corrupt
from swiftfs.objects import Limits, Page, Row
from swiftfs.store.wire.object_headers import MAX_SIZE


def listing_query(*, prefix: str = "", delimiter: str = "", marker: str = "", limit: int = 0) -> str:
    """Return the query of a JSON listing; raise `BadName` for text that is not UTF-8."""
    fields = {"prefix": prefix, "delimiter": delimiter, "marker": marker, "limit": str(limit or "")}
    try:
        given = [
            f"{name}={quote(value, safe='', errors='strict')}" for name, value in fields.items() if value
        ]
    except UnicodeEncodeError:
        raise BadName(f"{prefix or marker!r} is not UTF-8") from None
    return "&".join(["format=json", *given])


def read_page(
    body: bytes, subject: str, *, marker: str, limit: int, limits: Limits, prefix: str = ""
) -> Page:
    """Return the page in an answer to a request with `prefix`, `marker` and `limit`.

    Raise `Corrupt` for a body that is no listing, and for a listing that does not continue after `marker`, is
    not in order, or has names without `prefix`: such a listing may lack names too.
    """
    entries = _entries(body, subject)
    rows = tuple(_row(entry, subject) for entry in entries if "subdir" not in entry)
    subdirs = tuple(_text(entry, "subdir", subject) for entry in entries if "subdir" in entry)
    _check_names([entry.get("subdir") or entry["name"] for entry in entries], subject, prefix)
    return _page(rows, subdirs, subject, marker=marker, limit=limit, limits=limits)


def read_containers(body: bytes, subject: str, *, marker: str, limits: Limits) -> Page:
    """Return the containers of an account's listing as `subdirs`; raise `Corrupt` as `read_page` does."""
    names = tuple(_text(entry, "name", subject) for entry in _entries(body, subject))
    _check_names(names, subject, "")
    return _page((), names, subject, marker=marker, limit=0, limits=limits)


def _check_names(names: Sequence[str], subject: str, prefix: str) -> None:
    """Raise `Corrupt` unless `names` are in Swift's order, that of their UTF-8, and begin with `prefix`.

    Code points sort as their UTF-8 does.
    """
    if any(first >= second for first, second in pairwise(names)):
        raise Corrupt(f"the listing of {subject} is not in order, or has a name twice")
    if not all(map(str.startswith, names, repeat(prefix))):
        raise Corrupt(f"the listing of {subject} holds other names than {prefix!r}...")
    joined = "".join(names)
    if "\0" in joined or not _is_utf8(joined):
        raise Corrupt(f"the listing of {subject} has a name that no object can have")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _page(
    rows: tuple[Row, ...],
    subdirs: tuple[str, ...],
    subject: str,
    *,
    marker: str,
    limit: int,
    limits: Limits,
) -> Page:
    """Build the page. Swift's last page is one that is not full, that of look-alikes an empty one."""
    count = len(rows) + len(subdirs)
    last = not count or (limits.is_swift and count < (limit or limits.listing))
    end = max([row.key for row in rows[-1:]] + list(subdirs[-1:]), default=marker)
    # The pager would ask for the same page for ever.
    if count and end <= marker:
        raise Corrupt(f"the listing of {subject} does not continue after {marker!r}")
    return Page(rows, subdirs, end, last)


def _entries(body: bytes, subject: str) -> list[dict[str, Any]]:
    try:
        entries = json.loads(body)
    except (ValueError, RecursionError):
        raise Corrupt(f"the listing of {subject} is not JSON: {body[:80]!r}") from None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise Corrupt(f"the listing of {subject} is not a list of entries: {body[:80]!r}")
    return entries


def _row(entry: dict[str, Any], subject: str) -> Row:
    size = entry.get("bytes")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= MAX_SIZE:
        name, said = repr(entry.get("name"))[:200], repr(size)[:80]
        raise Corrupt(f"the listing of {subject} gives {name} the size {said}")
    return Row(
        key=_text(entry, "name", subject),
        size=size,
        hash=_text(entry, "hash", subject, empty=True),
        content_type=_text(entry, "content_type", subject, empty=True),
        last_modified=_text(entry, "last_modified", subject),
    )


def _text(entry: dict[str, Any], field: str, subject: str, *, empty: bool = False) -> str:
    value = entry.get(field)
    if not isinstance(value, str) or not (value or empty):
        raise Corrupt(f"the listing of {subject} has an entry whose {field} is {repr(value)[:80]}")
    return value
