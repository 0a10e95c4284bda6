"""What a large object consists of, and whether its segments are there: by manifests and listings."""

import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from itertools import count

from msgspec import Struct

from swiftfs.attributes import decode_metadata, decode_type
from swiftfs.errors import BadRequest, NotFound
from swiftfs.objects import Manifest, ObjectInfo, ObjectName, Row, Segment
from swiftfs.store.protocol import ObjectStore, iter_dlo_segments

MAX_DEPTH = 10
"""How deep manifests may name manifests: Swift's own limit."""

_NUMBERED = re.compile(r"(.*?)(\d+)", re.DOTALL)
_DECLARED_SIZE = re.compile(r".*/\d+\.\d+/(\d+)(?:/\d+)?/?", re.DOTALL)
"""The size in the prefix of a DLO that the swift CLI or an older rclone has uploaded."""


class Part(Struct, frozen=True):
    """Bytes of an object, in their order: `md5` is None for a range of a segment."""

    size: int
    md5: str | None


class Needed(Struct, frozen=True):
    """A segment that the manifest `named_by` names, for the file at `path`."""

    segment: Segment
    named_by: ObjectName
    path: str


class Content(Struct, frozen=True):
    """The bytes of an object: its parts, the ETag to ask for them, the segments that it needs.

    `mtime_ns` is None if nothing that was read says it. A DLO has `gaps` if segments seem to be missing.
    """

    parts: tuple[Part, ...]
    etag: str = ""
    mtime_ns: int | None = None
    needed: tuple[Needed, ...] = ()
    gaps: str = ""
    is_large: bool = False
    expires: str = ""

    @property
    def size(self) -> int:
        """The size in bytes."""
        return sum(part.size for part in self.parts)

    @property
    def spans(self) -> list[int]:
        """The sizes of the parts."""
        return [part.size for part in self.parts]


def plain_content(row: Row) -> Content:
    """Return the content of an ordinary object as its row says it."""
    return Content((Part(row.size, row.hash),), row.hash)


def content_of(store: ObjectStore, name: ObjectName, path: str, *, is_slo: bool) -> Content:
    """Return an object's content, by one request if it `is_slo` for sure; raise the store's errors."""
    if is_slo:
        try:
            return _of_slo(store, name, path)
        except BadRequest:  # its Content-Type came with a copy
            pass
    info = store.head(name)
    metadata = decode_metadata(info.metadata)
    stored = decode_type(info.content_type)[1]
    mtime_ns = metadata.mtime_ns if stored.mtime_ns is None else stored.mtime_ns
    expires = info.preserved_headers.get("X-Delete-At", "")
    if info.is_slo:
        found = _of_slo(store, name, path)
        return Content(found.parts, info.version.etag, mtime_ns, found.needed, is_large=True, expires=expires)
    if info.dlo_prefix is not None:
        return _of_dlo(store, info.dlo_prefix, mtime_ns, expires)
    return _of_plain(info, mtime_ns, expires)


def _of_plain(info: ObjectInfo, mtime_ns: int | None, expires: str) -> Content:
    gaps = "a symlink of Swift that leads to no object" if info.unreadable else ""
    return Content(
        (Part(info.size, info.version.etag),), info.version.etag, mtime_ns, gaps=gaps, expires=expires
    )


def _of_slo(store: ObjectStore, name: ObjectName, path: str) -> Content:
    manifest = store.manifest(name)
    parts: list[Part] = []
    needed: list[Needed] = []
    _add(store, name, manifest, path, parts, needed, 0)
    return Content(tuple(parts), manifest.etag, None, tuple(dict.fromkeys(needed)), is_large=True)


def _add(
    store: ObjectStore,
    name: ObjectName,
    manifest: Manifest,
    path: str,
    parts: list[Part],
    needed: list[Needed],
    depth: int,
) -> None:
    """Add the segments of a manifest, and those of the manifests among them."""
    for segment in manifest.segments:
        if not segment.data:
            needed.append(Needed(segment, name, path))
        is_whole = segment.length is None or (segment.first == 0 and segment.length == segment.size)
        if not segment.nested:
            parts.append(Part(segment.span, segment.etag if is_whole else None))
            continue
        inner: list[Part] = []
        try:
            if depth < MAX_DEPTH:
                _add(store, segment.name, store.manifest(segment.name), path, inner, needed, depth + 1)
        except (NotFound, BadRequest):  # it will be found missing
            inner.clear()
        parts += inner if inner and is_whole else [Part(segment.span, None)]


def _of_dlo(store: ObjectStore, prefix: ObjectName, mtime_ns: int | None, expires: str) -> Content:
    try:
        rows = list(iter_dlo_segments(store, prefix))
    except NotFound:
        rows = []
    parts = tuple(Part(row.size, row.hash) for row in rows)
    return Content(parts, "", mtime_ns, gaps=_gaps(prefix, rows), is_large=True, expires=expires)


def _gaps(prefix: ObjectName, rows: Sequence[Row]) -> str:
    """Return which segments of a DLO seem to be missing, by their numbers and the size in their names."""
    if not rows:
        return f"no segments begin with {prefix}"
    matches = [_NUMBERED.fullmatch(row.key[len(prefix.key) :]) for row in rows]
    numbered = [match for match in matches if match]
    if len(numbered) == len(rows) and len({(match[1], len(match[2])) for match in numbered}) == 1:
        found = {int(match[2]) for match in numbered}
        # Clients count from 0 or 1.
        first = min(1, *found)
        if lost := max(found) + 1 - first - len(found):
            number = next(number for number in count(first) if number not in found)
            others = f", and {lost - 1} others" if lost > 1 else ""
            return f"segment {number:0{len(numbered[0][2])}} of {prefix} is missing{others}"
    size, declared = sum(row.size for row in rows), _DECLARED_SIZE.fullmatch(prefix.key)
    if declared and int(declared[1]) != size:
        return f"the segments of {prefix} have {size} bytes instead of {int(declared[1])}"
    return ""


class NeededSegments:
    """The segments that manifests name, in a private database on disk: there may be millions."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute(
            "CREATE TABLE needed (container, key, etag, size, nested, by_container, by_key, path,"
            " PRIMARY KEY (container, key, by_container, by_key, etag)) WITHOUT ROWID"
        )
        self.count = 0

    def add(self, needed: Iterable[Needed]) -> None:
        """Add segments."""
        rows = [
            (
                *(one.segment.name.container, one.segment.name.key, one.segment.etag, one.segment.size),
                *(one.segment.nested, one.named_by.container, one.named_by.key, one.path),
            )
            for one in needed
        ]
        self._database.executemany("INSERT OR IGNORE INTO needed VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def unlisted(self, store: ObjectStore) -> Iterator[Needed]:
        """Yield the segments that the listings do not show as the manifests name them.

        Errors are those of `list_page`, but for a container that does not exist.
        """
        rows = self._database.execute("SELECT * FROM needed ORDER BY container, key")
        listing: _Listing | None = None
        for container, key, etag, size, nested, by_container, by_key, path in rows:
            if listing is None or listing.container != container:
                listing = _Listing(store, container)
            row = listing.find(key)
            self.count += 1
            # The row of a segment that is an SLO itself does not have its ETag.
            if row is None or row.size != size or (row.hash != etag and not nested):
                segment = Segment(ObjectName(container, key), etag, size, nested=bool(nested))
                yield Needed(segment, ObjectName(by_container, by_key), path)

    def close(self) -> None:
        """Drop the database."""
        self._database.close()


class _Listing:
    """Finds keys of a container in ascending order, and skips pages in which there are none."""

    def __init__(self, store: ObjectStore, container: str) -> None:
        self.container = container
        self._store = store
        self._rows: dict[str, Row] = {}
        self._end = ""
        self._is_last = False

    def find(self, key: str) -> Row | None:
        """Return the row of a key, which sorts after the last one that was asked for."""
        if key > self._end and not self._is_last:
            # The names that sort between this and the key are few.
            marker = max(self._end, key[:-1])
            try:
                page = self._store.list_page(self.container, marker=marker)
            except NotFound:
                self._rows, self._is_last = {}, True
                return None
            self._rows = {row.key: row for row in page.rows if row.key not in page.unreadable}
            self._end, self._is_last = page.marker, page.last
        return self._rows.get(key)


def problem_of(store: ObjectStore, one: Needed) -> str:
    """Return what is wrong with a segment that its listing does not show, or an empty string.

    A listing may be late, and another client may have replaced the file meanwhile: both are asked.
    """
    segment = one.segment
    try:
        info = store.head(segment.name)
        if info.size != segment.size:
            text = f"segment {segment.name} has {info.size} bytes instead of {segment.size}"
        elif info.version.etag != segment.etag:
            text = f"segment {segment.name} has ETag {info.version.etag} instead of {segment.etag}"
        else:
            return ""
    except NotFound:
        text = f"segment {segment.name} is missing"
    try:
        named = store.manifest(one.named_by).segments
    except (NotFound, BadRequest):
        return ""
    return text if any(other.name == segment.name and other.etag == segment.etag for other in named) else ""
