"""SLO manifests in JSON, as they are sent (`multipart-manifest=put`) and as they come back (`=get`)."""

import hashlib
import json
from base64 import b64decode
from collections.abc import Iterable
from itertools import islice
from typing import Any

from msgspec import Struct

from swiftfs.errors import Corrupt, UnknownManifest
from swiftfs.objects import NO_OBJECT, Manifest, ObjectName, Segment
from swiftfs.store.wire.json_stream import iter_entries
from swiftfs.store.wire.object_headers import MAX_SIZE

MAX_SEGMENTS = 50_000
"""The most segments of a manifest; Swift's own limit is 1000, and an operator may raise it."""

MAX_INLINE = 8 * 1024**2
"""The longest entry of a manifest, in characters: Swift's default for a whole manifest."""


def manifest_to_wire(manifest: Manifest) -> bytes:
    """Return the JSON to PUT. `size_bytes` is that of the whole object; `range` includes its last byte."""
    # Not escaped: `\uXXXX` is twice as long as UTF-8, and a manifest's size has a limit (2 MiB in old
    # releases).
    return json.dumps([_entry(segment) for segment in manifest.segments], ensure_ascii=False).encode()


def manifest_from_wire(chunks: Iterable[bytes], subject: str) -> Manifest:
    """Return the segments in an answer, as its `chunks` arrive.

    A segment that is an SLO itself is one segment here, with the ETag and size of that SLO. Raise
    `UnknownManifest` for an entry of another kind, and `Corrupt` for what is no list of right entries.
    """
    entries = islice(iter_entries(chunks, subject, MAX_INLINE), MAX_SEGMENTS + 1)
    segments = tuple(_segment(entry, subject) for entry in entries)
    if len(segments) > MAX_SEGMENTS:
        raise Corrupt(f"the manifest of {subject} is longer than {MAX_SEGMENTS} segments")
    manifest = Manifest(segments)
    if manifest.size > MAX_SIZE:
        raise Corrupt(f"the manifest of {subject} describes {manifest.size} bytes")
    return manifest


class Named(Struct, frozen=True):
    """The objects that a manifest names, and which are manifests; `manifest` is None if one is unknown."""

    objects: tuple[tuple[ObjectName, bool], ...] = ()
    manifest: Manifest | None = None


def named_objects(chunks: Iterable[bytes], subject: str) -> Named:
    """Return what the manifest in an answer names, as its `chunks` arrive.

    Raise `UnknownManifest` if that is not certain, and `Corrupt` for what is no list of entries.
    """
    objects: list[tuple[ObjectName, bool]] = []
    segments: list[Segment] | None = []
    for number, entry in enumerate(iter_entries(chunks, subject, MAX_INLINE)):
        name = entry.get("name")
        if number == MAX_SEGMENTS:
            raise Corrupt(f"the manifest of {subject} is longer than {MAX_SEGMENTS} segments")
        if not isinstance(name, str | None):
            raise _unknown(entry, subject)
        if name is not None:
            objects.append((ObjectName.parse(name.removeprefix("/")), entry.get("sub_slo") is True))
        try:
            if segments is not None:
                segments.append(_segment(entry, subject))
        except (UnknownManifest, Corrupt):
            segments = None
    return Named(tuple(objects), Manifest(tuple(segments)) if segments else None)


def _entry(segment: Segment) -> dict[str, Any]:
    if segment.data:
        return {"data": segment.data}
    entry: dict[str, Any] = {"path": f"/{segment.name}", "etag": segment.etag, "size_bytes": segment.size}
    if segment.length is not None:
        entry["range"] = f"{segment.first}-{segment.first + segment.length - 1}"
    return entry


def _segment(entry: dict[str, Any], subject: str) -> Segment:
    if not {"name", "data"} & entry.keys():
        raise _unknown(entry, subject)
    try:
        return _named(entry) if "name" in entry else _inline(entry["data"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Corrupt(f"the manifest of {subject} has a wrong entry: {_shown(entry)}") from None


def _unknown(entry: dict[str, Any], subject: str) -> UnknownManifest:
    return UnknownManifest(f"the manifest of {subject} has an entry of an unknown kind: {_shown(entry)}")


def _shown(entry: dict[str, Any]) -> str:
    return json.dumps(entry)[:200]


def _inline(data: str) -> Segment:
    """Return the segment whose bytes are in the manifest. Source: "Inline Data" in Swift's slo.py."""
    body = b64decode(data, validate=True)
    if not body:
        raise ValueError(data)
    return Segment(NO_OBJECT, hashlib.md5(body, usedforsecurity=False).hexdigest(), len(body), data=data)


def _named(entry: dict[str, Any]) -> Segment:
    name = ObjectName.parse(entry["name"].removeprefix("/"))
    size = entry["bytes"]
    if not name.container or not name.key or not isinstance(size, int) or size < 0:
        raise ValueError(entry)
    entry["name"].encode()  # raises a ValueError for text that is not UTF-8
    first, length = _span(entry.get("range"), size)
    etag, nested = entry["hash"].strip('"'), entry.get("sub_slo") is True
    return Segment(name, etag, size, first, length, nested)


def _span(text: str | None, size: int) -> tuple[int, int | None]:
    if not text:
        return 0, None
    start, end = text.removeprefix("bytes=").split("-")
    if not start:
        start, end = str(size - int(end)), ""
    last = int(end) if end else size - 1
    if not 0 <= int(start) <= last < size:
        raise ValueError(text)
    return int(start), last - int(start) + 1
