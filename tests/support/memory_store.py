"""An `ObjectStore` in memory that answers as Swift does; the contract tests compare it with a real Swift."""

import threading
import time
from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone

from msgspec.structs import replace

from support.memory_container import Container, StoredObject, md5
from swiftfs.concurrency import may_block
from swiftfs.errors import (
    AlreadyExists,
    BadName,
    BadRange,
    BadRequest,
    BodyChanged,
    Conflict,
    Corrupt,
    NameTooLong,
    NotFound,
    PreconditionFailed,
    StoreError,
    TooLarge,
)
from swiftfs.objects import (
    NOTHING,
    History,
    Limits,
    Manifest,
    ObjectInfo,
    ObjectName,
    ObjectVersion,
    OlderName,
    Page,
    Row,
    Segment,
    Usage,
    VersionPage,
    VersionRow,
)
from swiftfs.store.protocol import Body, CopyRequest, Headers, Sink
from swiftfs.store.wire.listings import AFTER_ALL
from swiftfs.store.wire.manifests import manifest_to_wire
from swiftfs.store.wire.object_headers import lower_name, to_wire

Hook = Callable[[str, str], None]


class MemoryStore:
    """A Swift account in memory.

    `requests` has `(method, subject)` of each call, for request budgets. `hook`, if set, is called with the
    same before the call is executed: it may raise a `StoreError`, or wait.
    """

    def __init__(self, *containers: str, limits: Limits | None = None) -> None:
        self.requests: list[tuple[str, str]] = []
        self.hook: Hook | None = None
        self.closed = False
        self._limits = limits or Limits(bulk_delete=10_000)
        self._lock = threading.RLock()
        self._containers = {name: Container() for name in containers}
        self._clock = 0

    def set_quota(self, container: str, *, size: int | None = None, objects: int | None = None) -> None:
        """Set the quotas that `container_usage` returns, in bytes and objects; they are not enforced."""
        found = self._containers[container]
        found.quota_bytes, found.quota_objects = size, objects

    def set_history(self, container: str, history: History, *, enabled: bool = True) -> None:
        """Let a container keep older versions from now on, or without `enabled` no more."""
        found = self._containers[container]
        found.history = history
        found.is_versioned = enabled and history is History.KEPT

    def limits(self) -> Limits:
        return self._limits

    def list_containers(self, *, marker: str = "") -> Page:
        with self._request("list_containers", ""):
            names = [name for name in sorted(self._containers, key=str.encode) if _after(name, marker)]
            return self._page([], names[: self._limits.listing], marker, self._limits.listing)

    def account_usage(self) -> Usage:
        with self._request("account_usage", ""):
            totals = [self._usage(container) for container in self._containers.values()]
            return Usage(sum(one.bytes_used for one in totals), sum(one.objects for one in totals))

    def container_usage(self, container: str) -> Usage:
        with self._request("container_usage", container):
            return self._usage(self._container(container))

    def create_container(self, container: str, *, storage_policy: str = "") -> bool:  # noqa: ARG002
        with self._request("create_container", container):
            if not container or "/" in container:
                raise BadName(container)
            if len(container.encode()) > self._limits.container_name_bytes:
                raise NameTooLong(container)
            if container in self._containers:
                return False
            self._containers[container] = Container()
            return True

    def post_container(self, container: str, metadata: Mapping[str, str]) -> None:
        with self._request("post_container", container):
            self._container(container).metadata.update(metadata)

    def delete_container(self, container: str) -> None:
        with self._request("delete_container", container):
            if self._container(container).objects:
                raise Conflict(container)
            del self._containers[container]

    def list_page(
        self, container: str, *, prefix: str = "", delimiter: str = "", marker: str = "", limit: int = 0
    ) -> Page:
        with self._request("list_page", f"{container}/{prefix}"):
            objects = self._container(container).objects
            most = min(limit or self._limits.listing, self._limits.listing)
            rows: list[Row] = []
            subdirs: list[str] = []
            for key in sorted(objects, key=str.encode):
                if len(rows) + len(subdirs) == most:
                    break
                if not key.startswith(prefix) or not _after(key, marker):
                    continue
                end = key.find(delimiter, len(prefix)) if delimiter else -1
                if end < 0:
                    rows.append(self._row(container, key))
                    continue
                subdir = key[: end + len(delimiter)]
                if subdir not in subdirs and subdir != marker:
                    subdirs.append(subdir)
            return self._page(rows, subdirs, marker, most)

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
        with self._request("list_versions", f"{container}/{prefix}"):
            found = self._container(container)
            most = min(limit or self._limits.listing, self._limits.listing)
            entries: list[VersionRow | str] = []
            for key in sorted({*found.objects, *found.versions}, key=str.encode):
                if not key.startswith(prefix) or key.encode() < marker.encode():
                    continue
                end = key.find(delimiter, len(prefix)) if delimiter else -1
                if end >= 0:
                    subdir = key[: end + len(delimiter)]
                    if subdir not in entries and subdir + AFTER_ALL != marker:
                        entries.append(subdir)
                    continue
                rows = [
                    VersionRow(self._row_of(key, one), number, latest, one.is_deletion)
                    for number, one, latest in found.rows(key)
                ]
                if key == marker:
                    ids = [row.version_id for row in rows]
                    rows = rows[ids.index(version_marker) + 1 :] if version_marker in ids else []
                entries += rows
            return _version_page(entries, most, marker, version_marker)

    def head(self, name: ObjectName) -> ObjectInfo:
        with self._request("head", str(name)):
            return self._info(name, self._object(name))

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
        with self._request("get", str(name)):
            info = self._info(name, self._object(name))
            if etag and etag != info.version.etag:
                raise PreconditionFailed(str(name))
            if length == 0:
                return info
            if (offset or length is not None) and offset >= info.size:
                raise BadRange(str(name))
            if size not in (None, info.size):
                is_plain = not info.is_slo and info.dlo_prefix is None
                raise Corrupt(str(name)) if etag and is_plain else PreconditionFailed(str(name))
            body = self._range(self._object(name), offset, info.size if length is None else offset + length)
        for start in range(0, len(body), 65536):
            sink(offset + start, body[start : start + 65536])
        return info

    def put(
        self, name: ObjectName, body: Body, headers: Headers, *, if_absent: bool = False, etag: str = ""
    ) -> ObjectInfo:
        with self._request("put", str(name)):
            container = self._writable(name)
            if if_absent and name.key in container.objects:
                raise AlreadyExists(str(name))
            if len(body) > self._limits.object_bytes:
                raise TooLarge(str(name))
            sent = bytes(body)
            if etag and md5(sent) != etag:
                raise BodyChanged(f"put {name}: 422")
            stored = StoredObject(sent, _stored(headers), self._now())
            container.store(name.key, stored)
            info = self._info(name, stored)
            return replace(info, size=len(body), version=ObjectVersion(name, stored.md5))

    def check_manifest(self, version: ObjectVersion) -> Manifest | None:
        """Return None: all may be read."""

    def put_manifest(
        self, name: ObjectName, manifest: Manifest, headers: Headers, *, if_absent: bool = False
    ) -> ObjectInfo:
        with self._request("put_manifest", str(name)):
            container = self._writable(name)
            if if_absent and name.key in container.objects:
                raise AlreadyExists(str(name))
            if not manifest.segments:
                raise BadRequest(f"{name}: no segments")
            for segment in manifest.segments:
                if not segment.data:
                    self._check_segment(segment)
            stored = StoredObject(b"", _stored(headers), self._now(), manifest)
            container.store(name.key, stored)
            return self._info(name, stored)

    def manifest(self, name: ObjectName) -> Manifest:
        with self._request("manifest", str(name)):
            manifest = self._object(name).manifest
            if manifest is None:
                raise BadRequest(f"{name} has no manifest")
            return manifest

    def copy(self, request: CopyRequest) -> ObjectVersion:
        source, target, span = request.source, request.target, request.span
        with self._request("copy", str(source)):
            found = self._object(source)
            if request.etag and self._info(source, found).version.etag != request.etag:
                raise PreconditionFailed(str(source))
            container = self._writable(target)
            body = found.body if request.manifest_only else self._content(found)
            manifest = found.manifest if request.manifest_only else None
            if span is not None:
                body = body[span[0] : span[1]]
            if len(body) > self._limits.object_bytes:
                raise TooLarge(str(source))
            copied = StoredObject(body, _headers_of_copy(found.headers, request), self._now(), manifest)
            container.store(target.key, copied)
            return self._info(target, copied).version

    def post(self, name: ObjectName, headers: Headers) -> None:
        with self._request("post", str(name)):
            found = self._object(name)
            stored = _stored(headers)
            wanted = replace(stored, content_type=headers.content_type or found.headers.content_type)
            changed = replace(found, headers=wanted, modified_ns=self._now())
            self._containers[name.container].replace(name.key, changed)

    def delete(self, name: ObjectName) -> None:
        with self._request("delete", str(name)):
            self._object(name)
            self._containers[name.container].remove(name.key, self._now())

    def delete_many(self, names: Iterable[ObjectName]) -> dict[ObjectName, StoreError]:
        pending = list(dict.fromkeys(names))
        size = self._limits.bulk_delete
        for start in range(0, len(pending), size or 1):
            chunk = pending[start : start + (size or 1)]
            with self._request("delete_many" if size else "delete", str(chunk[0])):
                for name in chunk:
                    _check_name(name)
                    container = self._containers.get(name.container)
                    if container is not None:
                        container.remove(name.key, self._now())
        return {}

    def close(self) -> None:
        self.closed = True

    @contextmanager
    def _request(self, method: str, subject: str) -> Iterator[None]:
        may_block(f"sends {method}")
        self.requests.append((method, subject))
        if self.hook is not None:
            self.hook(method, subject)
        with self._lock:
            yield

    def _now(self) -> int:
        """Return the time in ns, later than before, with Swift's precision of 10 us."""
        self._clock = max(self._clock + 10_000, time.time_ns() // 10_000 * 10_000)
        return self._clock

    def _container(self, container: str) -> Container:
        if container not in self._containers:
            raise NotFound(container)
        return self._containers[container]

    def _object(self, name: ObjectName) -> StoredObject:
        _check_name(name)
        container = self._container(name.container)
        if isinstance(name, OlderName):
            found = container.version(name.key, name.version_id)
        else:
            found = container.objects.get(name.key)
        if found is None or found.is_deletion:
            raise NotFound(str(name))
        return found

    def _writable(self, name: ObjectName) -> Container:
        _check_name(name)
        if len(name.key.encode()) > self._limits.name_bytes:
            raise NameTooLong(str(name))
        return self._container(name.container)

    def _content(self, found: StoredObject) -> bytes:
        if found.manifest is not None:
            return b"".join(self._segment_bytes(segment) for segment in found.manifest.segments)
        if found.dlo_prefix is not None:
            return b"".join(self._content(part) for part in self._dlo_parts(found.dlo_prefix))
        return found.body

    def _range(self, found: StoredObject, first: int, end: int) -> bytes:
        """Return a part of an object: of a large one only the segments are joined that have it."""
        if found.manifest is None:
            return self._content(found)[first:end]
        parts, at = [], 0
        for segment in found.manifest.segments:
            # One that is missing is an error wherever it is.
            stored = self._segment_object(segment)
            start, stop = max(first - at, 0), min(end - at, segment.span)
            if start < stop:
                parts.append(self._range(stored, segment.first + start, segment.first + stop))
            at += segment.span
        return b"".join(parts)

    def _segment_bytes(self, segment: Segment) -> bytes:
        body = self._content(self._segment_object(segment))
        return body[segment.first : segment.first + segment.span]

    def _segment_object(self, segment: Segment) -> StoredObject:
        if segment.data:
            return StoredObject(b64decode(segment.data), Headers(""), 0)
        return self._object(segment.name)

    def _dlo_parts(self, dlo_prefix: ObjectName) -> list[StoredObject]:
        container, prefix = dlo_prefix.container, dlo_prefix.key
        objects = self._containers.get(container, Container()).objects
        return [objects[key] for key in sorted(objects, key=str.encode) if key.startswith(prefix)]

    def _check_segment(self, segment: Segment) -> None:
        try:
            found = self._object(segment.name)
        except NotFound as error:
            raise BadRequest(f"segment {error}") from None
        info = self._info(segment.name, found)
        if info.version.etag != segment.etag or info.size != segment.size:
            raise BadRequest(f"segment {segment.name} is not as named")

    def _size(self, found: StoredObject) -> int:
        if found.manifest is not None:
            return found.manifest.size
        return len(self._content(found))

    def _etag(self, found: StoredObject) -> str:
        if found.manifest is not None:
            return md5("".join(_etag_part(one) for one in found.manifest.segments).encode())
        if found.dlo_prefix is not None:
            return md5("".join(self._etag(part) for part in self._dlo_parts(found.dlo_prefix)).encode())
        return found.md5

    def _info(self, name: ObjectName, found: StoredObject) -> ObjectInfo:
        return ObjectInfo(
            version=ObjectVersion(name, self._etag(found)),
            size=self._size(found),
            content_type=found.headers.content_type,
            last_modified_ns=found.modified_ns,
            metadata=dict(found.headers.metadata),
            preserved_headers=dict(found.headers.preserved_headers),
            is_slo=found.manifest is not None,
            dlo_prefix=found.dlo_prefix,
        )

    def _row(self, container: str, key: str) -> Row:
        held = self._containers[container]
        row = self._row_of(key, held.objects[key])
        if not held.is_stripped(key):
            return row
        return replace(row, content_type=row.content_type.partition(";")[0], is_stripped=True)

    @staticmethod
    def _row_of(key: str, found: StoredObject) -> Row:
        moment = datetime.fromtimestamp(found.modified_ns // 10**9, timezone.utc)
        return Row(
            key=key,
            size=len(found.body) if found.manifest is None else found.manifest.size,
            hash=found.md5 if found.manifest is None else md5(manifest_to_wire(found.manifest)),
            content_type=found.headers.content_type,
            last_modified=f"{moment:%Y-%m-%dT%H:%M:%S}.{found.modified_ns // 1000 % 10**6:06d}",
        )

    def _page(self, rows: list[Row], subdirs: list[str], marker: str, most: int) -> Page:
        names = [row.key for row in rows] + subdirs
        last = not names or (self._limits.is_swift and len(names) < most)
        return Page(tuple(rows), tuple(subdirs), max(names, key=str.encode, default=marker), last)

    @staticmethod
    def _usage(container: Container) -> Usage:
        size = sum(len(one.body) for one in container.objects.values())
        return Usage(
            size,
            len(container.objects),
            container.quota_bytes,
            container.quota_objects,
            metadata=dict(container.metadata),
            history=container.history,
            versioning=container.is_versioned,
        )


def _version_page(
    entries: list[VersionRow | str], most: int, marker: str, version_marker: str
) -> VersionPage:
    shown = entries[:most]
    rows = tuple(entry for entry in shown if isinstance(entry, VersionRow))
    subdirs = tuple(entry for entry in shown if isinstance(entry, str))
    end = (marker, version_marker)
    if shown:
        last = shown[-1]
        end = (last + AFTER_ALL, "") if isinstance(last, str) else (last.row.key, last.version_id)
    return VersionPage(rows, subdirs, *end, last=len(shown) < most)


def _after(name: str, marker: str) -> bool:
    return name.encode() > marker.encode()


def _check_name(name: ObjectName) -> None:
    if not name.container or "/" in name.container or not name.key or "\0" in name.key:
        raise BadName(repr(name))
    try:
        name.key.encode()
    except UnicodeEncodeError:
        raise BadName(repr(name)) from None


def _stored(headers: Headers) -> Headers:
    """Check `headers` as the wire format does, and return those that the server keeps."""
    to_wire(headers)
    metadata: Mapping[str, str] = {lower_name(name): value for name, value in headers.metadata.items()}
    return Headers(
        headers.content_type or "application/octet-stream",
        metadata or NOTHING,
        dict(headers.preserved_headers),
    )


def _etag_part(segment: Segment) -> str:
    if segment.length is None:
        return segment.etag
    return f"{segment.etag}:{segment.first}-{segment.first + segment.length - 1};"


def _headers_of_copy(found: Headers, request: CopyRequest) -> Headers:
    kept = dict(found.preserved_headers)
    dlo = kept.pop("X-Object-Manifest", None)
    wanted = replace(found, preserved_headers=kept)
    if request.headers is not None:
        stored = _stored(request.headers)
        wanted = replace(stored, content_type=request.headers.content_type or found.content_type)
    kept = dict(wanted.preserved_headers)
    if request.manifest_only and dlo is not None:
        kept["X-Object-Manifest"] = dlo
    if request.delete_at is not None:
        kept["X-Delete-At"] = str(request.delete_at)
    return replace(wanted, preserved_headers=kept)
