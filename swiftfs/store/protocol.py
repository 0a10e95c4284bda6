"""What a store does for the floors above: a small interface that adapters and decorators share."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from swiftfs.errors import StoreError
from swiftfs.objects import NOTHING, Limits, Manifest, ObjectInfo, ObjectName, ObjectVersion, Page, Usage

Body = bytes | memoryview
"""What a PUT sends: a memoryview over a mapped file keeps large bodies out of the heap."""

Sink = Callable[[int, bytes], None]
"""Takes bytes and their offset in the object; the same offset may come twice when a request is repeated."""


@dataclass(frozen=True, slots=True)
class Headers:
    """What travels with an object besides its bytes; the fields mean what they mean in `ObjectInfo`."""

    content_type: str
    metadata: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    preserved_headers: Mapping[str, str] = field(default_factory=lambda: NOTHING)


class ObjectStore(Protocol):
    """A Swift account. Every method is one request unless it says otherwise, and raises `StoreError`.

    All methods may be called from many threads at once.
    """

    def limits(self) -> Limits:
        """Return what the server can do (asked once)."""

    def list_containers(self, *, marker: str = "") -> Page:
        """Return one page of the account's containers as `subdirs`, without a delimiter."""

    def account_usage(self) -> Usage:
        """Return the account's use and quota."""

    def container_usage(self, container: str) -> Usage:
        """Return the container's use and quota; raise `NotFound` when there is no such container."""

    def create_container(self, container: str) -> bool:
        """Create the container; return False when it existed already.

        Raise `BadRequest` with the server's words when the store was told a storage policy that is none.
        """

    def post_container(self, container: str, metadata: Mapping[str, str]) -> None:
        """Set metadata of the container; what is not in `metadata` stays."""

    def delete_container(self, container: str) -> None:
        """Delete the container; raise `Conflict` when it holds objects."""

    def list_page(
        self, container: str, *, prefix: str = "", delimiter: str = "", marker: str = "", limit: int = 0
    ) -> Page:
        """Return the objects whose keys begin with `prefix` and come after `marker`, bytewise.

        With a delimiter the keys that have it behind the prefix are folded into `subdirs`. A `limit` of 0 is
        the server's own. Raise `NotFound` when there is no such container.
        """

    def head(self, name: ObjectName) -> ObjectInfo:
        """Return what the server knows of the object."""

    def get(
        self, name: ObjectName, sink: Sink, *, offset: int = 0, length: int | None = None, etag: str = ""
    ) -> ObjectInfo:
        """Hand the bytes from `offset` to `sink`: exactly `length` of them, or all up to the end.

        Fewer come only where the object ends. With an `etag`, raise `PreconditionFailed` unless the object is
        that version. `info.size` is the size of the whole object. Bytes that reached the sink count only once
        this returns: `Corrupt` says that they were not what the server had.
        """

    def put(self, name: ObjectName, body: Body, headers: Headers, *, if_absent: bool = False) -> ObjectInfo:
        """Store the object whole, its checksum verified by the server, replacing what was there.

        With `if_absent`, raise `AlreadyExists` when the object exists. Raise `BodyChanged` when the server
        got other bytes than the checksum's because `body` was written to meanwhile.
        """

    def put_manifest(self, name: ObjectName, manifest: Manifest, headers: Headers) -> ObjectInfo:
        """Store an SLO; the server verifies each segment's etag and size."""

    def manifest(self, name: ObjectName) -> Manifest:
        """Return the segments of an SLO."""

    def copy(
        self,
        source: ObjectName,
        target: ObjectName,
        *,
        manifest_only: bool = False,
        headers: Headers | None = None,
    ) -> ObjectVersion:
        """Copy on the server. Without `headers` the copy keeps the source's; with them it has only those.

        With `manifest_only` an SLO's or DLO's manifest is copied and its segments are shared. The answer
        names neither size nor content type: a caller that needs them knows the source.
        """

    def post(self, name: ObjectName, headers: Headers) -> None:
        """Replace the object's headers; everything not in `headers` is dropped by the server."""

    def delete(self, name: ObjectName) -> None:
        """Delete the object, of an SLO only its manifest."""

    def delete_many(self, names: Iterable[ObjectName]) -> dict[ObjectName, StoreError]:
        """Delete each; return the failures. A name that is gone already is no failure.

        Bulk-delete requests where the server has them, parallel DELETEs elsewhere.
        """

    def close(self) -> None:
        """Close every connection."""
