"""Shows objects at the names that a rename gives them, before Swift has copied them there.

A folder that is renamed in the background has its new name at once, its objects get theirs one after the
other.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

from swiftfs.attributes import is_directory_type
from swiftfs.errors import BadRequest, NotFound, PreconditionFailed, StoreError
from swiftfs.objects import Limits, Manifest, ObjectInfo, ObjectName, ObjectVersion, Page, Usage, VersionPage
from swiftfs.store.protocol import Body, Headers, ObjectStore, Sink

T = TypeVar("T")


class MovedNames:
    """The versions that are still at their old names, by their new ones.

    It needs no lock: each call is one operation on a dictionary.
    """

    def __init__(self) -> None:
        self._sources: dict[ObjectName, ObjectVersion] = {}
        self._markers: set[ObjectName] = set()

    def begin(self, source: ObjectVersion, target: ObjectName, *, is_marker: bool) -> None:
        """Record that the version `source` is to be read when `target` is asked for."""
        self._sources[target] = source
        if is_marker:
            self._markers.add(target)

    def end(self, target: ObjectName) -> None:
        """Record that an object is at its new name, or will not come there."""
        self._sources.pop(target, None)
        self._markers.discard(target)

    def source_of(self, target: ObjectName) -> ObjectVersion | None:
        """Return the old name and version of an object that was not copied yet, None for any other object."""
        return self._sources.get(target)

    def is_marker(self, target: ObjectName) -> bool:
        """Return whether such an object is the marker of a folder."""
        return target in self._markers


class MovedView:
    """An `ObjectStore` that reads an object of `store` at its old name until it has been copied.

    If another client has stored a new version at the old name, the copy at the new one counts, if there is
    one: a mount that died may have made it. Listings are passed on unchanged: the namespace knows what this
    mount has renamed. So are requests that change an object: none is sent before the object has moved.
    """

    def __init__(self, store: ObjectStore, moved: MovedNames) -> None:
        self._store = store
        self._moved = moved

    def _read(self, name: ObjectName, request: Callable[[ObjectName], T], etag: Callable[[T], str]) -> T:
        """Send a read to where the object is now; `etag` returns the version that an answer is about."""
        source = self._moved.source_of(name)
        if source is None:
            return request(name)
        try:
            found = request(source.name)
        except (NotFound, BadRequest):  # it has been moved since, or what is there has no manifest
            return request(name)
        if etag(found) == source.etag:
            return found
        try:
            return request(name)
        except NotFound:
            return found  # it will be copied from there

    def head(self, name: ObjectName) -> ObjectInfo:
        """Return the object's headers.

        A marker costs one request more: another client may have stored a file at its new name, which is shown
        beside the folder. At that of a file it is not shown.
        """
        if self._moved.is_marker(name):
            with suppress(NotFound):
                there = self._store.head(name)
                if there.size or not is_directory_type(there.content_type):
                    return there
        return _named(self._read(name, self._store.head, lambda info: info.version.etag), name)

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
        """Pass the bytes on to `sink`."""

        def request(where: ObjectName) -> ObjectInfo:
            return self._store.get(where, sink, offset=offset, length=length, etag=etag, size=size)

        source = self._moved.source_of(name)
        if source is None:
            return request(name)
        if not etag and self.head(name).version.etag != source.etag:
            return request(name)
        try:
            return _named(request(source.name), name)
        except (NotFound, PreconditionFailed) as error:
            try:
                return request(name)
            except NotFound:
                raise error from None

    def manifest(self, name: ObjectName) -> Manifest:
        """Return the segments of an SLO."""
        return self._read(name, self._store.manifest, lambda manifest: manifest.etag)

    def check_manifest(self, version: ObjectVersion) -> Manifest | None:
        """Raise `ForeignManifest` if the object may not be read."""
        source = self._moved.source_of(version.name)
        if source is not None and source.etag == version.etag:
            with suppress(NotFound):  # it has been moved since
                return self._store.check_manifest(replace(version, name=source.name))
        return self._store.check_manifest(version)

    def limits(self) -> Limits:
        """Return the server's limits."""
        return self._store.limits()

    def list_containers(self, *, marker: str = "") -> Page:
        """Return one page of the containers."""
        return self._store.list_containers(marker=marker)

    def account_usage(self) -> Usage:
        """Return the account's usage."""
        return self._store.account_usage()

    def container_usage(self, container: str) -> Usage:
        """Return the container's usage."""
        return self._store.container_usage(container)

    def create_container(self, container: str, *, storage_policy: str = "") -> bool:
        """Create the container."""
        return self._store.create_container(container, storage_policy=storage_policy)

    def post_container(self, container: str, metadata: Mapping[str, str]) -> None:
        """Set metadata of the container."""
        self._store.post_container(container, metadata)

    def delete_container(self, container: str) -> None:
        """Delete the container."""
        self._store.delete_container(container)

    def list_page(
        self, container: str, *, prefix: str = "", delimiter: str = "", marker: str = "", limit: int = 0
    ) -> Page:
        """Return one page of a listing."""
        return self._store.list_page(
            container, prefix=prefix, delimiter=delimiter, marker=marker, limit=limit
        )

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
        """Return one page of the versions in a container."""
        return self._store.list_versions(
            container,
            prefix=prefix,
            delimiter=delimiter,
            marker=marker,
            version_marker=version_marker,
            limit=limit,
        )

    def put(
        self, name: ObjectName, body: Body, headers: Headers, *, if_absent: bool = False, etag: str = ""
    ) -> ObjectInfo:
        """Store the whole object."""
        return self._store.put(name, body, headers, if_absent=if_absent, etag=etag)

    def put_manifest(
        self, name: ObjectName, manifest: Manifest, headers: Headers, *, if_absent: bool = False
    ) -> ObjectInfo:
        """Store an SLO."""
        return self._store.put_manifest(name, manifest, headers, if_absent=if_absent)

    def copy(
        self,
        source: ObjectName,
        target: ObjectName,
        *,
        manifest_only: bool = False,
        headers: Headers | None = None,
        etag: str = "",
        delete_at: int | None = None,
        span: tuple[int, int] | None = None,
    ) -> ObjectVersion:
        """Copy on the server."""
        return self._store.copy(
            source,
            target,
            manifest_only=manifest_only,
            headers=headers,
            etag=etag,
            delete_at=delete_at,
            span=span,
        )

    def post(self, name: ObjectName, headers: Headers) -> None:
        """Replace the object's headers."""
        self._store.post(name, headers)

    def delete(self, name: ObjectName) -> None:
        """Delete the object."""
        self._store.delete(name)

    def delete_many(self, names: Iterable[ObjectName]) -> dict[ObjectName, StoreError]:
        """Delete the objects."""
        return self._store.delete_many(names)

    def close(self) -> None:
        """Close every connection."""
        self._store.close()


def _named(info: ObjectInfo, name: ObjectName) -> ObjectInfo:
    """Return `info` with `name` as the name of the object."""
    if info.version.name == name:
        return info
    return replace(info, version=replace(info.version, name=name))
