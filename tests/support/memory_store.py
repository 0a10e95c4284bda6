"""An `ObjectStore` in memory that answers as Swift does; the contract tests compare it with a real Swift."""

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import cached_property
from urllib.parse import unquote

from swiftfs.concurrency import may_block
from swiftfs.errors import (
    AlreadyExists,
    BadName,
    BadRange,
    BadRequest,
    BodyChanged,
    Conflict,
    NameTooLong,
    NotFound,
    PreconditionFailed,
    StoreError,
    TooLarge,
)
from swiftfs.objects import (
    NOTHING,
    Limits,
    Manifest,
    ObjectInfo,
    ObjectName,
    ObjectVersion,
    Page,
    Row,
    Segment,
    Usage,
)
from swiftfs.store.protocol import Body, Headers, Sink
from swiftfs.store.wire.manifests import manifest_to_wire
from swiftfs.store.wire.object_headers import lower_name, to_wire

Hook = Callable[[str, str], None]


@dataclass(frozen=True)
class _Object:
    body: bytes
    headers: Headers
    modified_ns: int
    manifest: Manifest | None = None

    @cached_property
    def md5(self) -> str:
        """The MD5 of `body`, which every answer has: kept, because `body` may be 100 MB."""
        return _md5(self.body)

    @property
    def dlo_prefix(self) -> ObjectName | None:
        text = self.headers.preserved_headers.get("X-Object-Manifest")
        return None if text is None else ObjectName.parse(unquote(text))


@dataclass
class _Container:
    objects: dict[str, _Object] = field(default_factory=dict)
    quota_bytes: int | None = None
    quota_objects: int | None = None
    metadata: dict[str, str] = field(default_factory=dict)


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
        self._containers = {name: _Container() for name in containers}
        self._clock = 0

    def set_quota(self, container: str, *, size: int | None = None, objects: int | None = None) -> None:
        """Set the quotas that `container_usage` returns, in bytes and objects; they are not enforced."""
        found = self._containers[container]
        found.quota_bytes, found.quota_objects = size, objects

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
            self._containers[container] = _Container()
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
                raise PreconditionFailed(str(name))
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
            if etag and _md5(sent) != etag:
                raise BodyChanged(f"put {name}: 422")
            container.objects[name.key] = stored = _Object(sent, _stored(headers), self._now())
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
                self._check_segment(segment)
            stored = _Object(b"", _stored(headers), self._now(), manifest)
            container.objects[name.key] = stored
            return self._info(name, stored)

    def manifest(self, name: ObjectName) -> Manifest:
        with self._request("manifest", str(name)):
            manifest = self._object(name).manifest
            if manifest is None:
                raise BadRequest(f"{name} has no manifest")
            return manifest

    def copy(
        self,
        source: ObjectName,
        target: ObjectName,
        *,
        manifest_only: bool = False,
        headers: Headers | None = None,
        delete_at: int | None = None,
        etag: str = "",
    ) -> ObjectVersion:
        with self._request("copy", str(source)):
            found = self._object(source)
            if etag and self._info(source, found).version.etag != etag:
                raise PreconditionFailed(str(source))
            container = self._writable(target)
            kept = dict(found.headers.preserved_headers)
            dlo = kept.pop("X-Object-Manifest", None)
            wanted = replace(found.headers, preserved_headers=kept)
            if headers is not None:
                stored = _stored(headers)
                wanted = replace(stored, content_type=headers.content_type or wanted.content_type)
            if manifest_only and dlo is not None:
                wanted = replace(
                    wanted, preserved_headers={**wanted.preserved_headers, "X-Object-Manifest": dlo}
                )
            if delete_at is not None:
                kept = {**wanted.preserved_headers, "X-Delete-At": str(delete_at)}
                wanted = replace(wanted, preserved_headers=kept)
            body = found.body if manifest_only else self._content(found)
            manifest = found.manifest if manifest_only else None
            if len(body) > self._limits.object_bytes:
                raise TooLarge(str(source))
            container.objects[target.key] = copied = _Object(body, wanted, self._now(), manifest)
            return self._info(target, copied).version

    def post(self, name: ObjectName, headers: Headers) -> None:
        with self._request("post", str(name)):
            found = self._object(name)
            stored = _stored(headers)
            wanted = replace(stored, content_type=headers.content_type or found.headers.content_type)
            self._containers[name.container].objects[name.key] = replace(
                found, headers=wanted, modified_ns=self._now()
            )

    def delete(self, name: ObjectName) -> None:
        with self._request("delete", str(name)):
            self._object(name)
            del self._containers[name.container].objects[name.key]

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
                        container.objects.pop(name.key, None)
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

    def _container(self, container: str) -> _Container:
        if container not in self._containers:
            raise NotFound(container)
        return self._containers[container]

    def _object(self, name: ObjectName) -> _Object:
        _check_name(name)
        found = self._container(name.container).objects.get(name.key)
        if found is None:
            raise NotFound(str(name))
        return found

    def _writable(self, name: ObjectName) -> _Container:
        _check_name(name)
        if len(name.key.encode()) > self._limits.name_bytes:
            raise NameTooLong(str(name))
        return self._container(name.container)

    def _content(self, found: _Object) -> bytes:
        if found.manifest is not None:
            return b"".join(self._segment_bytes(segment) for segment in found.manifest.segments)
        if found.dlo_prefix is not None:
            return b"".join(part.body for part in self._dlo_parts(found.dlo_prefix))
        return found.body

    def _range(self, found: _Object, first: int, end: int) -> bytes:
        """Return a part of an object: of a large one only the segments are joined that have it."""
        if found.manifest is None:
            return self._content(found)[first:end]
        parts, at = [], 0
        for segment in found.manifest.segments:
            stored = self._object(segment.name)  # one that is missing is an error wherever it is
            start, stop = max(first - at, 0), min(end - at, segment.span)
            if start < stop:
                parts.append(self._range(stored, segment.first + start, segment.first + stop))
            at += segment.span
        return b"".join(parts)

    def _segment_bytes(self, segment: Segment) -> bytes:
        body = self._content(self._object(segment.name))
        return body[segment.first : segment.first + segment.span]

    def _dlo_parts(self, dlo_prefix: ObjectName) -> list[_Object]:
        container, prefix = dlo_prefix.container, dlo_prefix.key
        objects = self._containers.get(container, _Container()).objects
        return [objects[key] for key in sorted(objects, key=str.encode) if key.startswith(prefix)]

    def _check_segment(self, segment: Segment) -> None:
        try:
            found = self._object(segment.name)
        except NotFound as error:
            raise BadRequest(f"segment {error}") from None
        info = self._info(segment.name, found)
        if info.version.etag != segment.etag or info.size != segment.size:
            raise BadRequest(f"segment {segment.name} is not as named")

    def _size(self, found: _Object) -> int:
        if found.manifest is not None:
            return found.manifest.size
        return len(self._content(found))

    def _etag(self, found: _Object) -> str:
        if found.manifest is not None:
            return _md5("".join(_etag_part(one) for one in found.manifest.segments).encode())
        if found.dlo_prefix is not None:
            return _md5("".join(self._etag(part) for part in self._dlo_parts(found.dlo_prefix)).encode())
        return found.md5

    def _info(self, name: ObjectName, found: _Object) -> ObjectInfo:
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
        found = self._containers[container].objects[key]
        moment = datetime.fromtimestamp(found.modified_ns // 10**9, timezone.utc)
        return Row(
            key=key,
            size=len(found.body) if found.manifest is None else found.manifest.size,
            hash=found.md5 if found.manifest is None else _md5(manifest_to_wire(found.manifest)),
            content_type=found.headers.content_type,
            last_modified=f"{moment:%Y-%m-%dT%H:%M:%S}.{found.modified_ns // 1000 % 10**6:06d}",
        )

    def _page(self, rows: list[Row], subdirs: list[str], marker: str, most: int) -> Page:
        names = [row.key for row in rows] + subdirs
        last = not names or (self._limits.is_swift and len(names) < most)
        return Page(tuple(rows), tuple(subdirs), max(names, key=str.encode, default=marker), last)

    @staticmethod
    def _usage(container: _Container) -> Usage:
        size = sum(len(one.body) for one in container.objects.values())
        return Usage(
            size,
            len(container.objects),
            container.quota_bytes,
            container.quota_objects,
            metadata=dict(container.metadata),
        )


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


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def dump(store: MemoryStore) -> str:
    """Return container, key and content type of each object, for the message of an assertion."""
    found = {
        f"{container}/{key}": one.headers.content_type
        for container, held in store._containers.items()
        for key, one in held.objects.items()
    }
    return json.dumps(found, indent=1, sort_keys=True)
