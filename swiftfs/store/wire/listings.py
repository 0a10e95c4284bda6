"""Reads listings, of objects and of versions.

An unreadable one is `Corrupt`, never empty: a mirror would delete what seems absent. An unreadable row hides
neither the others nor its own name, which a call may be about to create or delete.

A page is never larger than `MAX_ROWS` and `PAGE_BYTES`, whatever the server sends: what it sends beyond that
is not read, and requested again as the next page.

Source for versions: swift/common/middleware/versioned_writes/object_versioning.py.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise, repeat
from typing import Any, TypeGuard, TypeVar
from urllib.parse import quote

from msgspec.structs import replace

from swiftfs.errors import BadName, Corrupt, TimedOut
from swiftfs.objects import Limits, ObjectName, OlderName, Page, Row, VersionPage, VersionRow
from swiftfs.paths import is_utf8
from swiftfs.store.wire.json_stream import iter_entries
from swiftfs.store.wire.object_headers import MAX_SIZE

T = TypeVar("T")

log = logging.getLogger(__name__)

MAX_ROWS = 10_000
"""The most rows of a page: Swift's default limit."""

PAGE_BYTES = 16 * 1024**2
"""The most that is read of a page: 10,000 names of 1 KiB are shorter."""


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
    chunks: Iterable[bytes], subject: str, *, marker: str, limit: int, limits: Limits, prefix: str = ""
) -> Page:
    """Return the page in an answer to a request with `prefix`, `marker` and `limit`, as its `chunks` arrive.

    If the server is too slow, return what has come in time. Raise `Corrupt` for a body that is no listing,
    and for a listing that does not continue after `marker`, is not in order, or has names without `prefix`:
    such a listing may lack names too.
    """
    broken: dict[str, str] = {}
    entries, ended = read_entries(chunks, subject, lambda entry: read_entry(entry, subject, broken))
    rows = tuple(entry for entry in entries if isinstance(entry, Row))
    subdirs = tuple(entry for entry in entries if isinstance(entry, str))
    names = [entry.key if isinstance(entry, Row) else entry for entry in entries]
    _check_names(names, subject, prefix)
    page = _page(rows, subdirs, subject, marker=marker, limit=limit, limits=limits)
    unreadable = tuple(row.key for row in rows if row.key in broken)
    if unreadable:
        first, count = unreadable[0], len(unreadable)
        log.warning(
            "the listing of %s has rows that cannot be read: %s of %r is invalid, and of %d others",
            subject,
            broken[first],
            first,
            count - 1,
        )
    return replace(page, last=page.last and ended, unreadable=unreadable)


def read_containers(chunks: Iterable[bytes], subject: str, *, marker: str, limits: Limits) -> Page:
    """Return the containers of an account's listing as `subdirs`; raise `Corrupt` as `read_page` does."""
    names, ended = read_entries(chunks, subject, lambda entry: text_field(entry, "name", subject))
    _check_names(names, subject, "")
    page = _page((), tuple(names), subject, marker=marker, limit=0, limits=limits)
    return page if ended else replace(page, last=False)


def read_entries(
    chunks: Iterable[bytes], subject: str, convert: Callable[[dict[str, Any]], T]
) -> tuple[list[T], bool]:
    """Return the converted entries of a page, and whether the server's answer has no more of them."""
    values: list[T] = []
    try:
        # Converted one by one: what else is in an entry may be a hundred times larger.
        for entry in iter_entries(_up_to_page(chunks, subject), subject):
            value = convert(entry)
            if len(values) == MAX_ROWS:
                return values, False
            values.append(value)
    except (_PageFull, TimedOut):
        if not values:
            raise
        return values, False
    return values, True


class _PageFull(Corrupt):
    """The page is longer than `PAGE_BYTES`."""


def _up_to_page(chunks: Iterable[bytes], subject: str) -> Iterator[bytes]:
    """Yield `chunks` up to the longest page; raise `_PageFull` after that."""
    left = PAGE_BYTES
    for chunk in chunks:
        if left < 0:
            raise _PageFull(f"the listing of {subject} is longer than {PAGE_BYTES} bytes")
        yield chunk
        left -= len(chunk)


def _check_names(names: Sequence[str], subject: str, prefix: str) -> None:
    """Raise `Corrupt` unless `names` are in Swift's order, that of their UTF-8, and begin with `prefix`.

    Code points sort as their UTF-8 does.
    """
    if any(first >= second for first, second in pairwise(names)):
        raise Corrupt(f"the listing of {subject} is not in order, or has a name twice")
    if not all(map(str.startswith, names, repeat(prefix))):
        raise Corrupt(f"the listing of {subject} holds other names than {prefix!r}...")
    joined = "".join(names)
    if "\0" in joined or not is_utf8(joined):
        raise Corrupt(f"the listing of {subject} has a name that no object can have")


def _page(
    rows: tuple[Row, ...], subdirs: tuple[str, ...], subject: str, *, marker: str, limit: int, limits: Limits
) -> Page:
    """Build the page. The last one is the first that is not full; with look-alikes, the first empty one."""
    count = len(rows) + len(subdirs)
    last = not count or (limits.is_swift and count < (limit or limits.listing))
    end = max([row.key for row in rows[-1:]] + list(subdirs[-1:]), default=marker)
    # The pager would ask for the same page for ever.
    if count and end <= marker:
        raise Corrupt(f"the listing of {subject} does not continue after {marker!r}")
    return Page(rows, subdirs, end, last)


def read_entry(entry: dict[str, Any], subject: str, broken: dict[str, str]) -> Row | str:
    return text_field(entry, "subdir", subject) if "subdir" in entry else _row(entry, subject, broken)


def _row(entry: dict[str, Any], subject: str, broken: dict[str, str]) -> Row:
    """Return an object's row; record in `broken`, by its key, which field is invalid."""
    key, size = text_field(entry, "name", subject), entry.get("bytes")
    texts = [entry.get(field) for field in ("hash", "content_type", "last_modified")]
    digest, content_type, time = (text if isinstance(text, str) and is_utf8(text) else None for text in texts)
    if not _is_size(size) or digest is None or content_type is None:
        broken[key] = "the size" if not _is_size(size) else "the hash" if digest is None else "the type"
        # Only the name is trusted: a HEAD shows what the object is.
        return Row(key, 0, "", "", time or "")
    if not time:
        broken[key] = "the time"
    # In a container with versioning the row is that of a link to the version, until the next POST.
    is_stripped = entry.get("version_symlink") is True and ";" not in content_type
    return Row(key, size, digest, content_type, time or "", is_stripped, "symlink_path" in entry)


def _is_size(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_SIZE


def text_field(entry: dict[str, Any], field: str, subject: str) -> str:
    value = entry.get(field)
    if not isinstance(value, str) or not value:
        raise Corrupt(f"the listing of {subject} has an entry whose {field} is {repr(value)[:80]}")
    return value


DELETED_TYPE = "application/x-deleted;swift_versions_deleted=1"
"""The Content-Type of the row that tells when an object was deleted."""

CURRENT = "null"
"""The id of an object that was stored while its container had no versioning."""

AFTER_ALL = "\U0010ffff"
"""Sorts after every name in a folder: the server would list the folder again after its own name."""


def versions_query(
    *, prefix: str = "", delimiter: str = "", marker: str = "", version_marker: str = "", limit: int = 0
) -> str:
    """Return the query of a listing of versions; raise `BadName` for text that is not UTF-8."""
    query = listing_query(prefix=prefix, delimiter=delimiter, marker=marker, limit=limit)
    return f"versions=true&{query}" + (f"&version_marker={quote(version_marker)}" if version_marker else "")


def version_query(name: ObjectName, query: str = "") -> str:
    """Return the query of a request about an object or one of its versions."""
    if not isinstance(name, OlderName):
        return query
    return "&".join([*([query] if query else []), f"version-id={quote(name.version_id, safe='')}"])


def read_versions(
    chunks: Iterable[bytes], subject: str, *, prefix: str, marker: tuple[str, str], limit: int, limits: Limits
) -> VersionPage:
    """Return the page in an answer to a request with `prefix`, `limit`, and `marker` with `version_marker`.

    Raise `Corrupt` for what is no listing of versions: a server without the feature answers with an ordinary
    one.
    """
    broken: dict[str, str] = {}
    entries, ended = read_entries(chunks, subject, lambda entry: _entry(entry, subject, broken))
    rows = tuple(entry for entry in entries if isinstance(entry, VersionRow))
    subdirs = tuple(entry for entry in entries if isinstance(entry, str))
    names = [entry if isinstance(entry, str) else entry.row.key for entry in entries]
    if broken or not all(name.startswith(prefix) for name in names):
        raise Corrupt(f"the versions of {subject}: the listing has rows that cannot be read")
    if not entries:
        return VersionPage((), (), *marker, last=True)
    end = entries[-1]
    after = (end + AFTER_ALL, "") if isinstance(end, str) else (end.row.key, end.version_id)
    if after == marker or after[0] < marker[0]:
        raise Corrupt(f"the versions of {subject}: the listing does not continue after {marker[0]!r}")
    return VersionPage(rows, subdirs, *after, last=ended and len(entries) < (limit or limits.listing))


def _entry(entry: dict[str, Any], subject: str, broken: dict[str, str]) -> VersionRow | str:
    row = read_entry(entry, subject, broken)
    if isinstance(row, str):
        return row
    version_id = text_field(entry, "version_id", subject)
    return VersionRow(row, version_id, entry.get("is_latest") is True, row.content_type == DELETED_TYPE)
