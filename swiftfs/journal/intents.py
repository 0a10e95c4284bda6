"""Intents: the changes that can be made to Swift, as values that say all there is to do."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from swiftfs.attributes import Stored, encode_marker, encode_type, format_time
from swiftfs.content.content import Content
from swiftfs.content.segments import SegmentUpload
from swiftfs.model import DIRECTORY_TYPE, NOTHING, Attributes, ObjectName
from swiftfs.store.protocol import Headers


@dataclass(frozen=True, slots=True)
class Description:
    """All that travels with a file besides its bytes."""

    media_type: str
    stored: Stored
    metadata: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    kept: Mapping[str, str] = field(default_factory=lambda: NOTHING)

    def headers(self) -> Headers:
        """Return them as Swift takes them; rclone and the swift CLI read the time in the metadata."""
        metadata = dict(self.metadata)
        if self.stored.mtime_ns is not None:
            metadata["mtime"] = format_time(self.stored.mtime_ns)
        return Headers(encode_type(self.media_type, self.stored), metadata, self.kept)


@dataclass(frozen=True, slots=True)
class PutFile:
    """Store a file's bytes under `name`: whole, or as an SLO when there are segments of them.

    `replaces_large` says whether an SLO is overwritten, whose segments are garbage then; None is unknown.
    """

    name: ObjectName
    content: Content
    segments: SegmentUpload
    description: Description
    replaces_large: bool | None = False


@dataclass(frozen=True, slots=True)
class PutSmall:
    """Store a symbolic link or special file: `body` is its target, or empty."""

    name: ObjectName
    body: bytes
    description: Description


@dataclass(frozen=True, slots=True)
class PutMarker:
    """Make a folder. Raises `AlreadyExists` rather than to overwrite an object."""

    name: ObjectName
    headers: Headers = field(default_factory=lambda: Headers(DIRECTORY_TYPE))


@dataclass(frozen=True, slots=True)
class SetHeaders:
    """Replace the headers of an object."""

    name: ObjectName
    headers: Headers


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete a file's object or a folder's marker, then the segments of an SLO; None is unknown."""

    name: ObjectName
    large: bool | None


@dataclass(frozen=True, slots=True)
class Move:
    """Move a file's object by a copy on the server; `replaces_large` as in `PutFile`."""

    source: ObjectName
    target: ObjectName
    replaces_large: bool | None = False


@dataclass(frozen=True, slots=True)
class MoveFolder:
    """Move every object below the prefix `source` to `target`, and each of `markers` to its new name."""

    container: str
    source: str
    target_container: str
    target: str
    markers: tuple[tuple[ObjectName, ObjectName], ...] = ()


@dataclass(frozen=True, slots=True)
class CreateContainer:
    """Make a container."""

    container: str


@dataclass(frozen=True, slots=True)
class DescribeContainer:
    """Set metadata of a container."""

    container: str
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class DeleteContainer:
    """Delete an empty container."""

    container: str


Intent = (
    PutFile
    | PutSmall
    | PutMarker
    | SetHeaders
    | Delete
    | Move
    | MoveFolder
    | CreateContainer
    | DescribeContainer
    | DeleteContainer
)


def marker_headers(
    attributes: Attributes,
    metadata: Mapping[str, str] = NOTHING,
    kept: Mapping[str, str] = NOTHING,
    *,
    typed: bool,
) -> Headers:
    """Return the headers of a directory marker; with `typed` its attributes are in the Content-Type too.

    There a listing shows them, but rclone takes such a marker for a file.
    """
    content_type = DIRECTORY_TYPE
    if typed:
        stored = Stored(attributes.mode, attributes.mtime_ns, attributes.uid, attributes.gid)
        content_type = encode_type(content_type, stored)
    return Headers(content_type, {**metadata, **encode_marker(attributes)}, kept)
