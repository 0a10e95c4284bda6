"""Shows objects at the names that a rename gives them, before Swift has copied them there.

A folder that is renamed in the background has its new name at once, its objects get theirs one after the
other.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from msgspec.structs import replace

from swiftfs.attributes import is_directory_type
from swiftfs.errors import BadRequest, NotFound, PreconditionFailed
from swiftfs.objects import Manifest, ObjectInfo, ObjectName, ObjectVersion
from swiftfs.store.protocol import ObjectStore, Sink

T = TypeVar("T")


class MovedNames:
    """The versions still at their old names, by their new ones. No lock: each call is one step."""

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
        self.limits = store.limits
        self.list_containers = store.list_containers
        self.account_usage = store.account_usage
        self.container_usage = store.container_usage
        self.create_container = store.create_container
        self.post_container = store.post_container
        self.delete_container = store.delete_container
        self.list_page = store.list_page
        self.list_versions = store.list_versions
        self.put = store.put
        self.put_manifest = store.put_manifest
        self.copy = store.copy
        self.post = store.post
        self.delete = store.delete
        self.delete_many = store.delete_many
        self.close = store.close

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


def _named(info: ObjectInfo, name: ObjectName) -> ObjectInfo:
    """Return `info` with `name` as the name of the object."""
    if info.version.name == name:
        return info
    return replace(info, version=replace(info.version, name=name))
