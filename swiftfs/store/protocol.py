"""The interface of an object store, with the values that it takes: headers, metadata, copies.

The adapters and decorators of this package implement it.

Listings of any length are walks over its pages: the server answers with pages, which continue after a marker.
"""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Protocol
from urllib.parse import unquote

from msgspec import Struct, field
from msgspec.structs import replace

from swiftfs.attributes import (
    NOTHING_STORED,
    Stored,
    decode_type,
    encode_marker,
    encode_type,
    format_time,
    type_after_rename,
)
from swiftfs.concurrency import monotonic
from swiftfs.errors import Corrupt, NotFound, StoreError
from swiftfs.objects import (
    DIRECTORY_TYPE,
    Attributes,
    History,
    Limits,
    Manifest,
    ObjectInfo,
    ObjectName,
    ObjectVersion,
    Page,
    Record,
    Row,
    Usage,
    VersionPage,
    VersionRow,
)

Body = bytes | memoryview
"""The bytes of a PUT. A memoryview of a mapped file keeps large bodies out of the heap."""

Sink = Callable[[int, bytes], None]
"""Receives bytes and their offset in the object. A repeated request delivers the same offsets again."""


class Headers(Record, frozen=True, rename={"preserved_headers": "kept"}):
    """The headers of an object that a client sets; the fields are those of `ObjectInfo`."""

    content_type: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    preserved_headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, info: ObjectInfo) -> "Headers":
        """Return the headers that an object has."""
        return cls(info.content_type, info.metadata, info.preserved_headers)

    def are_those_of(self, info: ObjectInfo) -> bool:
        """Return whether an object has these headers; an empty Content-Type leaves the old one."""
        return (
            self.content_type in ("", info.content_type)
            and _lower(self.metadata) == _lower(info.metadata)
            and _lower(self.preserved_headers) == _lower(info.preserved_headers)
        )


def _lower(values: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in values.items()}


MetaValues = tuple[str, tuple[Any, ...], tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]
"""The values of an `ObjectMeta`."""

DELETE_AT = "X-Delete-At"

SAME = "same"
"""Stands for an mtime that `from_values` gets as an argument."""


class ObjectMeta(Record, frozen=True, rename={"preserved_headers": "kept"}):
    """Everything that is stored with an object's bytes.

    `stored` are the attributes in its Content-Type. Markers of folders and DLOs have theirs in `metadata`.
    """

    media_type: str
    stored: Stored = field(default_factory=lambda: NOTHING_STORED)  # so it is always written
    metadata: Mapping[str, str] = field(default_factory=dict)
    preserved_headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, source: Headers | ObjectInfo) -> "ObjectMeta":
        """Return the meta of an object with these headers."""
        media_type, stored = decode_type(source.content_type)
        return cls(media_type, stored, source.metadata, source.preserved_headers)

    def to_values(self, mtime_ns: int) -> MetaValues:
        """Return the same as values that can be hashed, with `SAME` for an mtime equal to `mtime_ns`."""
        one = self.stored
        mtime = SAME if one.mtime_ns == mtime_ns else one.mtime_ns
        stored = (one.mode, mtime, one.uid, one.gid, one.target, one.slo, one.device)
        return self.media_type, stored, tuple(self.metadata.items()), tuple(self.preserved_headers.items())

    @classmethod
    def from_values(cls, values: MetaValues, mtime_ns: int) -> "ObjectMeta":
        """Return the `ObjectMeta` that `to_values` was called on."""
        media_type, (mode, mtime, *rest), metadata, preserved_headers = values
        stored = Stored(mode, mtime_ns if mtime == SAME else mtime, *rest)
        return cls(media_type, stored, dict(metadata), dict(preserved_headers))

    def headers(self) -> Headers:
        """Return the headers to send, with the time in the metadata too, where rclone and swift read it."""
        metadata = dict(self.metadata)
        if self.stored.mtime_ns is not None:
            metadata["mtime"] = format_time(self.stored.mtime_ns)
        return Headers(encode_type(self.media_type, self.stored), metadata, self.preserved_headers)

    def with_slo(self, etag: str | None) -> "ObjectMeta":
        """Return the same for a large object with this ETag, None for a plain one."""
        return replace(self, stored=replace(self.stored, slo=etag))

    def inherit(self, source: Headers | ObjectInfo) -> "ObjectMeta":
        """Return the same with the metadata and headers that another client gave the object."""
        return replace(self, metadata=source.metadata, preserved_headers=source.preserved_headers)

    def renamed(self, old: str, new: str) -> "ObjectMeta":
        """Return the same for a file that is renamed from the key `old` to `new`, with a type that fits."""
        media_type = type_after_rename(self.media_type, old, new)
        return self if media_type == self.media_type else replace(self, media_type=media_type)

    @property
    def delete_at(self) -> str:
        """The seconds since the epoch at which Swift deletes the object, as text; empty for never."""
        return self.preserved_headers.get(DELETE_AT, "")

    def with_delete_at(self, moment: str) -> "ObjectMeta":
        """Return the same for an object that Swift deletes at that time, never if it is empty."""
        return replace(self, preserved_headers=with_delete_at(self.preserved_headers, moment))

    @property
    def is_dlo(self) -> bool:
        """Whether Swift serves the segments of a DLO in place of the object's bytes."""
        return "X-Object-Manifest" in self.preserved_headers

    @property
    def dlo_prefix(self) -> ObjectName | None:
        """How the names of a DLO's segments begin, None for another object."""
        return dlo_prefix(self.preserved_headers.get("X-Object-Manifest"))

    def without_dlo(self) -> "ObjectMeta":
        """Return the same for an object whose own bytes Swift serves."""
        if not self.is_dlo:
            return self
        kept = {name: value for name, value in self.preserved_headers.items() if name != "X-Object-Manifest"}
        return replace(self, preserved_headers=kept)

    def with_metadata_of(self, attributes: Attributes) -> "ObjectMeta":
        """Return the same with the attributes in the metadata and not in the Content-Type."""
        return replace(self, stored=NOTHING_STORED, metadata={**self.metadata, **encode_marker(attributes)})

    def marker(self, attributes: Attributes, *, typed: bool) -> "ObjectMeta":
        """Return the same for a folder's marker; with `typed` its attributes are in the Content-Type too.

        There a listing shows them, but rclone treats such a marker as a file.
        """
        stored = Stored(attributes.mode, attributes.mtime_ns, attributes.uid, attributes.gid)
        return replace(
            self.with_metadata_of(attributes),
            media_type=DIRECTORY_TYPE,
            stored=stored if typed else NOTHING_STORED,
        )


def with_delete_at(headers: Mapping[str, str], moment: str) -> dict[str, str]:
    """Return preserved headers with that X-Delete-At, without any if it is empty."""
    kept = {name: value for name, value in headers.items() if name != DELETE_AT}
    return {**kept, DELETE_AT: moment} if moment else kept


def dlo_prefix(value: str | None) -> ObjectName | None:
    """Read an X-Object-Manifest header: `container/prefix`, percent-encoded (Swift's dlo middleware)."""
    return None if value is None else ObjectName.parse(unquote(value))


class CopyRequest(Struct, frozen=True):
    """A copy on the server, from `source` to `target`.

    Without `headers` the copy keeps the source's; with them it has only those. With `delete_at` (Unix
    seconds) Swift deletes the copy then; what else it keeps is the same.

    With `manifest_only`, only the manifest of an SLO or DLO is copied, so that both objects share the
    segments, and a symlink of Swift is copied as a symlink; a container with versioning needs a HEAD for
    that. The answer contains neither size nor content type; they are the source's.

    With an `etag`, `PreconditionFailed` is raised unless that version of the source is copied. It is the MD5
    of a plain object, whose bytes are its own, so that `check_manifest` is not needed.

    With a `span`, the copy has only the bytes from the first number to before the second, and an ETag of its
    own, which is as the answer says it: look at such copies. A server that ignores ranges here copies all of
    the object. One that cannot verify a part raises `Corrupt` and copies nothing.

    `likely` is the ETag that the copy has unless the source is another version. If the answer has another one
    than that or `etag`, a HEAD of the copy decides.
    """

    source: ObjectName
    target: ObjectName
    manifest_only: bool = False
    headers: Headers | None = None
    delete_at: int | None = None
    etag: str = ""
    span: tuple[int, int] | None = None
    likely: str = ""


class ObjectStore(Protocol):
    """A Swift account. Every method is one request unless it says otherwise, and raises `StoreError`.

    All methods may be called from many threads at once. `head`, `get`, `manifest`, `check_manifest` and the
    source of `copy` may be an `OlderName`: then they are about that version.
    """

    def limits(self) -> Limits:
        """Return the server's limits; they are requested once."""

    def list_containers(self, *, marker: str = "") -> Page:
        """Return one page of the account's containers as `subdirs`, without a delimiter."""

    def account_usage(self) -> Usage:
        """Return the account's usage and quota."""

    def container_usage(self, container: str) -> Usage:
        """Return the container's usage and quota; raise `NotFound` when there is no such container."""

    def create_container(self, container: str, *, storage_policy: str = "") -> bool:
        """Create the container; return False when it existed already.

        It gets the storage policy that the user chose, else `storage_policy`, else the server's default one.
        Raise `BadContainer` with the server's message for a bad name or an unknown storage policy.
        """

    def post_container(self, container: str, metadata: Mapping[str, str]) -> None:
        """Set metadata of the container; items that `metadata` does not name stay."""

    def delete_container(self, container: str) -> None:
        """Delete the container; raise `Conflict` when it holds objects."""

    def list_page(
        self, container: str, *, prefix: str = "", delimiter: str = "", marker: str = "", limit: int = 0
    ) -> Page:
        """Return one page of the objects whose keys begin with `prefix` and sort after `marker`, bytewise.

        With a delimiter, keys that contain it after the prefix are folded into `subdirs`. A `limit` of 0
        means the server's own limit. Raise `NotFound` when there is no such container.
        """

    def list_versions(
        self,
        container: str,
        *,
        prefix: str = "",
        delimiter: str = "",
        marker: str = "",
        version_marker: str = "",
        limit: int = 0,
    ) -> VersionPage:
        """Return one page of all versions of the objects whose keys begin with `prefix`, deleted ones too.

        It begins after the version `version_marker` of the object `marker`, without one after all of that
        object's. Only a container whose `history` is kept has such a listing.
        """

    def head(self, name: ObjectName) -> ObjectInfo:
        """Return the object's headers."""

    def get(
        self,
        name: ObjectName,
        sink: Sink,
        *,
        offset: int = 0,
        length: int | None = None,
        etag: str = "",
        size: int | None = None,
    ) -> ObjectInfo:
        """Pass the bytes from `offset` on to `sink`: exactly `length` of them, or all up to the end.

        Fewer come only at the object's end. With an `etag`, raise `PreconditionFailed` unless the object is
        that version; with a `size`, unless the object has that size, or `Corrupt` if it is a plain one and of
        the version: then the server says a wrong size. `size` also ends an answer of unknown length. The
        returned size is that of the whole object. Do not use the bytes before this returns: `Corrupt` means
        that the sink received wrong ones.
        """

    def put(
        self, name: ObjectName, body: Body, headers: Headers, *, if_absent: bool = False, etag: str = ""
    ) -> ObjectInfo:
        """Store the whole object, replacing an existing one; the server verifies its checksum.

        With `if_absent`, raise `AlreadyExists` when the object exists. Raise `BodyChanged` when `body` was
        modified while it was sent, so that the server received bytes that do not match the checksum. `etag`
        is the MD5 of `body` if the caller knows it; then a repeated request sends the same one.
        """

    def put_manifest(
        self, name: ObjectName, manifest: Manifest, headers: Headers, *, if_absent: bool = False
    ) -> ObjectInfo:
        """Store an SLO; the server verifies each segment's etag and size. `if_absent` is as of `put`."""

    def manifest(self, name: ObjectName) -> Manifest:
        """Return the segments of an SLO."""

    def check_manifest(self, version: ObjectVersion) -> Manifest | None:
        """Raise `ForeignManifest` if an SLO or DLO takes its bytes from where they may not be read.

        `get` checks the same before it passes on a byte, and `copy` without `manifest_only` before it sends
        the COPY. The check is one request, and one for each manifest that the object names, unless this
        version was checked already. Return the manifest if it was read.
        """

    def copy(self, request: CopyRequest) -> ObjectVersion:
        """Copy an object on the server, and make sure that the copy is there.

        Raise `Corrupt` if it is not, and `PreconditionFailed` with `may_land` if it is of another version.
        """

    def post(self, name: ObjectName, headers: Headers) -> None:
        """Replace the object's headers; the server drops every header that is not in `headers`."""

    def delete(self, name: ObjectName) -> None:
        """Delete the object; of an SLO, only the manifest."""

    def delete_many(self, names: Iterable[ObjectName]) -> dict[ObjectName, StoreError]:
        """Delete the objects; return the failures by name. A name that does not exist is no failure.

        Send bulk deletes if the server supports them, else parallel DELETEs.
        """

    def close(self) -> None:
        """Close every connection."""


def find_object(store: ObjectStore, name: ObjectName) -> ObjectInfo | None:
    """Return what a HEAD says of an object, None if there is none; raise its other errors."""
    try:
        return store.head(name)
    except NotFound:
        return None


def has_version(store: ObjectStore, name: ObjectName, etag: str) -> bool:
    """Return whether an object has this ETag now; errors as of `find_object`."""
    info = find_object(store, name)
    return info is not None and info.version.etag == etag


def iter_pages(
    store: ObjectStore, container: str, prefix: str = "", *, delimiter: str = "", marker: str = ""
) -> Iterator[Page]:
    """Yield the pages of a listing after `marker`, each when it is wanted. Errors are those of `list_page`.

    After an error the next page is the one that failed.
    """
    return _Pages(
        lambda after: store.list_page(container, prefix=prefix, delimiter=delimiter, marker=after), marker
    )


def iter_rows(store: ObjectStore, container: str, prefix: str = "") -> Iterator[Row]:
    """Yield the objects whose keys begin with `prefix`, in bytewise order."""
    for page in iter_pages(store, container, prefix):
        yield from readable_rows(page, container)


def readable_rows(page: Page, container: str) -> tuple[Row, ...]:
    """Return the rows of a page for a decision about their objects; raise `Corrupt` if one is unreadable."""
    if page.unreadable:
        raise Corrupt(f"the listing of {container} has an unreadable row of {page.unreadable[0]!r}")
    return page.rows


def iter_versions(store: ObjectStore, container: str, prefix: str = "") -> Iterator[VersionRow]:
    """Yield all versions of the objects whose keys begin with `prefix`, of each object the newest first."""
    marker, version_marker, last = "", "", False
    while not last:
        page = store.list_versions(container, prefix=prefix, marker=marker, version_marker=version_marker)
        yield from page.rows
        marker, version_marker, last = page.marker, page.version_marker, page.last


def iter_dlo_segments(store: ObjectStore, dlo_prefix: ObjectName) -> Iterator[Row]:
    """Yield the segments of a DLO: the objects whose names begin with its prefix."""
    return iter_rows(store, dlo_prefix.container, dlo_prefix.key)


def dlo_segments(store: ObjectStore, dlo_prefix: ObjectName) -> set[ObjectName]:
    """Return the names of a DLO's segments; none if their container does not exist."""
    try:
        return {ObjectName(dlo_prefix.container, row.key) for row in iter_dlo_segments(store, dlo_prefix)}
    except NotFound:
        return set()


def iter_containers(store: ObjectStore) -> Iterator[str]:
    """Yield the names of the account's containers."""
    for page in iter_container_pages(store):
        yield from page.subdirs


def iter_container_pages(store: ObjectStore) -> Iterator[Page]:
    """Yield the pages of the account's listing: containers are `subdirs`."""
    return _Pages(lambda marker: store.list_containers(marker=marker))


class _Pages(Iterator[Page]):
    """The pages that `request` returns after `start`; one that failed is requested again by `next`."""

    def __init__(self, request: Callable[[str], Page], start: str = "") -> None:
        self._request = request
        self._start = start
        self._page: Page | None = None

    def __next__(self) -> Page:
        if self._page is not None and self._page.last:
            raise StopIteration
        page = self._page = self._request(self._start if self._page is None else self._page.marker)
        return page


log = logging.getLogger(__name__)

HISTORY_SECONDS = 60.0
"""How long an answer is used again: somebody may switch versioning on at any time."""


class Histories:
    """The `History` of containers, by one HEAD each. It needs no lock: each call is one step."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._known: dict[str, tuple[float, History]] = {}
        self._versioned: set[str] = set()

    def learn(self, container: str, history: History, *, versioning: bool = False) -> None:
        """Record what an answer has said about a container."""
        self._known[container] = monotonic(), history
        if versioning:
            self._versioned.add(container)
        else:
            self._versioned.discard(container)

    def of(self, container: str) -> History:
        """Return whether a container keeps older versions; raise `StoreError` if Swift does not say it."""
        since, history = self._known.get(container, (-math.inf, History.NONE))
        if monotonic() - since < HISTORY_SECONDS:
            return history
        usage = None
        with suppress(NotFound):
            usage = self._store.container_usage(container)
        history = usage.history if usage is not None else History.NONE
        self.learn(container, history, versioning=usage is not None and usage.versioning)
        return history

    def known_versioned(self, container: str) -> bool:
        """Return whether each change makes a version in a container, as the last answer said; ask nothing."""
        return container in self._versioned

    def is_versioned(self, container: str) -> bool:
        """Return the same, asked for once a minute; where Swift does not say it, as it was known before."""
        try:
            self.of(container)
        except StoreError as error:
            log.info("cannot find out whether %s keeps older versions: %s", container, error)
        return self.known_versioned(container)

    def may_have_versions(self, container: str) -> bool:
        """Return whether older versions may exist, also if it is refused; raise retryable errors only."""
        try:
            return self.of(container) is not History.NONE
        except StoreError as error:
            if error.retryable:
                raise
            log.info("cannot find out whether %s keeps older versions: %s", container, error)
            return True
