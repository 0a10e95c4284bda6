"""Reads listings of versions; an unreadable one is `Corrupt`.

Source: swift/common/middleware/versioned_writes/object_versioning.py.
"""

from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from swiftfs.errors import Corrupt
from swiftfs.objects import Limits, ObjectName, OlderName, VersionPage, VersionRow
from swiftfs.store.wire.listings import listing_query, read_entries, read_entry, text_field

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
