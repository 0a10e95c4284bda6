"""Everything that is stored with an object's bytes, converted to and from headers."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from swiftfs.attributes import (
    NOTHING_STORED,
    Stored,
    decode_type,
    encode_marker,
    encode_type,
    format_time,
)
from swiftfs.objects import DIRECTORY_TYPE, NOTHING, Attributes, ObjectInfo
from swiftfs.store.protocol import Headers

_Number = int | None
_Text = str | None

MetaValues = tuple[
    str, tuple[_Number, _Number, _Number, _Number, _Text, _Text, _Number], dict[str, str], dict[str, str]
]
"""The values of an `ObjectMeta`, which `marshal` can write."""


@dataclass(frozen=True, slots=True)
class ObjectMeta:
    """Everything that is stored with an object's bytes.

    `stored` are the attributes in its Content-Type. Markers of folders and DLOs have theirs in `metadata`.
    """

    media_type: str
    stored: Stored = NOTHING_STORED
    metadata: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    preserved_headers: Mapping[str, str] = field(default_factory=lambda: NOTHING)

    @classmethod
    def of(cls, source: Headers | ObjectInfo) -> "ObjectMeta":
        """Return the meta of an object with these headers."""
        media_type, stored = decode_type(source.content_type)
        return cls(media_type, stored, source.metadata, source.preserved_headers)

    def to_values(self) -> MetaValues:
        """Return the same as plain values, for `from_values`."""
        one = self.stored
        stored = (one.mode, one.mtime_ns, one.uid, one.gid, one.target, one.slo, one.device)
        return self.media_type, stored, dict(self.metadata), dict(self.preserved_headers)

    @classmethod
    def from_values(cls, values: MetaValues) -> "ObjectMeta":
        """Return what `to_values` was called of."""
        media_type, stored, metadata, preserved_headers = values
        return cls(media_type, Stored(*stored), metadata, preserved_headers)

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

    @property
    def is_dlo(self) -> bool:
        """Whether Swift serves the segments of a DLO in place of the object's bytes."""
        return "X-Object-Manifest" in self.preserved_headers

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
