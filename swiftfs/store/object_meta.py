"""Everything that is stored with an object's bytes, converted to and from headers."""

from collections.abc import Mapping
from typing import Any

from msgspec import field
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
from swiftfs.objects import DIRECTORY_TYPE, Attributes, ObjectInfo, ObjectName, Record
from swiftfs.store.protocol import Headers
from swiftfs.store.wire.object_headers import dlo_prefix

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
