"""Operations: changes of Swift, as values with everything that is needed to carry them out, and as text."""

import base64
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, TypeVar, get_args

from msgspec import Struct
from msgspec.json import Decoder, Encoder
from msgspec.structs import replace

from swiftfs.filecache.block_map import FileRecord
from swiftfs.filecache.block_set import Blocks
from swiftfs.namespace.entry import Entry
from swiftfs.objects import DIRECTORY_TYPE, ObjectName, Record, Row
from swiftfs.paths import parent_markers
from swiftfs.store.ambiguous import Ambiguity
from swiftfs.store.protocol import Headers, ObjectMeta


class Replaced(Struct, frozen=True):
    """Swift's object that a file is to replace; the fields are as in `PutFile`."""

    large: bool | None = False
    etag: str | None = None
    creates: bool = False
    trash: str = ""


class PutFile(
    Record,
    frozen=True,
    tag_field="kind",
    tag="PutFile",
    rename={
        "meta": "description",
        "creates": "fresh",
        "foreign_headers_unknown": "inherit",
        "superseded_segments": "garbage",
    },
):
    """Store a file's bytes under `name`: whole, or as an SLO if they are in segments.

    - `replaces_large`: whether an SLO is overwritten, whose segments are deleted then; None is unknown.
    - `replaces_etag`: the ETag of the object that is overwritten; None is unknown.
    - `creates`: whether Swift had no object of this name.
    - `foreign_headers_unknown`: whether to ask for the headers that another client gave the object, to keep
      them.
    - `superseded_segments`: segments of a version that an earlier attempt replaced, to be deleted afterwards.
    - `sent`: ETags of versions that earlier attempts may have stored, and the Content-Types of empty ones;
      only with `conflict=keep`, or if an SLO may be overwritten.
    - `running`: the meta of an older state whose upload has not ended.
    - `trash`: the key to which the object that is replaced is copied before; empty if it is not kept.
    - `expires`: the X-Delete-At for an object that has none, if `foreign_headers_unknown`.
    - `expiry_changed`: whether segments that stay may have another X-Delete-At than the meta.
    """

    name: ObjectName
    file: FileRecord
    meta: ObjectMeta
    replaces_large: bool | None = False
    replaces_etag: str | None = None
    creates: bool = False
    foreign_headers_unknown: bool = False
    superseded_segments: tuple[ObjectName, ...] = ()
    sent: tuple[str, ...] = ()
    running: ObjectMeta | None = None
    trash: str = ""
    expires: str = ""
    expiry_changed: bool = False

    def renamed(self, name: ObjectName, replaced: Replaced) -> "PutFile | None":
        """Return the operation for another name, None if the old name's object is needed."""
        # Headers or bytes of the object at the old name are still needed, and it would be deleted.
        if self.foreign_headers_unknown or not self.file.is_whole:
            return None
        return replace(
            over(self, replaced),
            name=name,
            file=replace(self.file, base=None),
            meta=self.meta.renamed(self.name.key, name.key),
            # They are about the old name's object. Its deletion takes its segments.
            superseded_segments=(),
            sent=(),
        )


class PutSpecial(
    Record, frozen=True, tag_field="kind", tag="PutSmall", rename={"meta": "description", "creates": "fresh"}
):
    """Store a symbolic link or special file: `body` is its target, or empty; the rest is as in `PutFile`."""

    name: ObjectName
    body: bytes
    meta: ObjectMeta
    replaces_large: bool | None = False
    replaces_etag: str | None = None
    creates: bool = False
    trash: str = ""

    def renamed(self, name: ObjectName, replaced: Replaced) -> "PutSpecial":
        """Return the operation for another name."""
        return replace(over(self, replaced), name=name)


FilePut = TypeVar("FilePut", bound=PutFile | PutSpecial)


def over(put: FilePut, replaced: Replaced) -> FilePut:
    """Return the operation that replaces that object."""
    large, etag, creates, trash = replaced.large, replaced.etag, replaced.creates, replaced.trash
    return replace(put, replaces_large=large, replaces_etag=etag, creates=creates, trash=trash)


class PutMarker(Record, frozen=True, tag_field="kind", tag="PutMarker", rename={"creates": "fresh"}):
    """Create a folder. Raises `AlreadyExists` and does not overwrite an object."""

    name: ObjectName
    headers: Headers = Headers(DIRECTORY_TYPE)
    creates: bool = True


class SetAttributes(
    Record, frozen=True, tag_field="kind", tag="Describe", rename={"meta": "description", "is_slo": "large"}
):
    """Replace the `meta` of a file's object, which may be an SLO; `is_slo` None is unknown.

    If `expiry_changed`, the segments get the X-Delete-At, too, or lose it.
    """

    name: ObjectName
    meta: ObjectMeta
    is_slo: bool | None
    expiry_changed: bool = False


class ReplaceHeaders(Record, frozen=True, tag_field="kind", tag="SetHeaders"):
    """Replace all headers of an object: of a folder's marker, or of a DLO."""

    name: ObjectName
    headers: Headers


class Delete(Record, frozen=True, tag_field="kind", tag="Delete", rename={"is_slo": "large"}):
    """Delete a file's object or a folder's marker, then the segments of an SLO; `is_slo` None is unknown.

    `etag` is the object's ETag when its name was deleted in the mount, or as in `after`; None is unknown. A
    `moved` object was copied elsewhere but could not be deleted: it is deleted only if it is still that
    version, without its segments, which the copy needs. One that has `waited` for the last close of its file,
    maybe for hours, is deleted only if it is still that version, too, and was not stored anew since
    `modified`, the time in its row of a listing, empty if unknown. `sent` and `superseded_segments` are those
    of the `PutFile` that the deletion replaced. An object that is to be kept is first copied to the key
    `trash`. The marker of a folder (`is_marker`) is not deleted if it is a file by now.
    """

    name: ObjectName
    is_slo: bool | None
    etag: str | None = None
    moved: bool = False
    waited: bool = False
    modified: str = ""
    sent: tuple[str, ...] = ()
    trash: str = ""
    superseded_segments: tuple[ObjectName, ...] = ()
    is_marker: bool = False

    @property
    def is_conditional(self) -> bool:
        """Whether the object must still have the ETag."""
        return self.moved or (self.waited and self.etag is not None)

    def after(self, etag: str) -> "Delete":
        """Return the deletion when an upload that had begun before it has stored the version `etag`.

        A file that comes in its place must not take that version for another client's.
        """
        return self if self.moved or self.waited else replace(self, etag=etag)


ANY_VERSION = "*"
"""Means any version of an object, instead of an ETag."""


class Move(Record, frozen=True, tag_field="kind", tag="Move", rename={"is_slo": "large"}):
    """Move a file's object by a copy on the server; `replaces_large` as in `PutFile`.

    - `etag`: the ETag of the source; None is unknown.
    - `replaces_etag`: the ETag of the target, empty if there is no object; None is unknown, and `ANY_VERSION`
      means any object, because its deletion was due: that of the version `deleted`, None if it is unknown.
    - `served`: whether a mount has served files since the move was interrupted.
    - `is_slo`: whether the object is an SLO; None is unknown.
    - `trash`: as in `PutFile`, for the object at the target.
    """

    source: ObjectName
    target: ObjectName
    replaces_large: bool | None = False
    etag: str | None = None
    replaces_etag: str | None = None
    served: bool = False
    is_slo: bool | None = None
    trash: str = ""
    deleted: str | None = None

    def with_versions(self, known: Mapping[ObjectName, str]) -> "Move":
        """Return the move with ETags from `known` where it has none."""
        etag, replaced = self.etag, self.replaces_etag
        return replace(
            self,
            etag=known.get(self.source) if etag is None else etag,
            replaces_etag=known.get(self.target) if replaced is None else replaced,
        )

    def copies(self) -> list[tuple[ObjectName, ObjectName]]:
        """Return the old and new name of what may be a large object."""
        return [] if self.is_slo is False else [(self.source, self.target)]


class MovedObject(Record, frozen=True):
    """An object that moves with its folder: its key, and the version that its row in the listing names.

    If no listing has shown it yet, `modified` is empty and `hash` is the ETag. If this mount `is_recent`ly
    has stored it, the listing may be older: then `modified` proves nothing.
    """

    key: str
    hash: str
    modified: str = ""
    is_recent: bool = False


class FolderPaths(Record, frozen=True):
    """The rename of the folder `old` to `new`, paths in the mount, which moves so many `objects`."""

    old: str
    new: str
    objects: int

    def renamed(self, path: str) -> str:
        """Return the new path of what was at or below the folder."""
        return self.new + path[len(self.old) :]


class MoveObject(Record, frozen=True, tag_field="kind", tag="MoveObject"):
    """Move one object of a folder whose rename has returned: the mount shows it at `target` already.

    - `row`: the version that moves, as listed at the old place; without a time if no listing has shown it.
    - `part_of`: the rename.
    - `is_marker`: whether it is the folder's own marker `d`.
    - `keeps_target`: whether it replaces the marker of an empty folder.
    - `is_recent`: as in `MovedObject`.
    """

    source: ObjectName
    target: ObjectName
    row: Row
    part_of: FolderPaths
    is_marker: bool = False
    keeps_target: bool = False
    is_recent: bool = False


class MoveFolder(Record, frozen=True, tag_field="kind", tag="MoveFolder"):
    """Move every object below the prefix `source` to `target`, and each of `markers` to its new name.

    - `recent`: objects that this mount has just stored: a listing may not show them yet, or an older version.
    - `deleted`: keys, without the slash of a marker `d/`, that this mount has deleted or moved away: a
      listing may still show them.
    - `objects`: all objects that move; None until the copies begin.
    - `empty`: whether the target was just seen to be empty.
    - `together`: whether one folder contains both places and, as far as is known, nothing else, so that one
      listing shows both.
    - `served`: as in `Move`.
    - `over_folder`: whether an empty folder is at the target: its marker stays when the move is undone.
    - `undone`: whether a copy failed, so that the others are deleted again.
    - `carried`: the numbers of pending changes below the source, never sent, that get their new names when it
      is done, and keep their old ones if it fails.
    - `background`: its paths, and from how many `objects` on they move in the background, each by a
      `MoveObject`; None for never.
    - `is_handed_on`: whether they do: the journal has a record of each.
    """

    container: str
    source: str
    target_container: str
    target: str
    markers: tuple[tuple[ObjectName, ObjectName], ...] = ()
    recent: tuple[MovedObject, ...] = ()
    objects: tuple[MovedObject, ...] | None = None
    empty: bool = False
    together: bool = False
    served: bool = False
    over_folder: bool = False
    undone: bool = False
    carried: tuple[int, ...] = ()
    background: FolderPaths | None = None
    is_handed_on: bool = False
    deleted: tuple[str, ...] = ()

    def copies(self) -> list[tuple[ObjectName, ObjectName]]:
        """Return the old and new names of the objects; none before they are recorded, and so not copied."""
        names = [(ObjectName(self.container, one.key), one.key) for one in self.objects or ()]
        return [(name, self.target_of(key)) for name, key in names]

    def target_of(self, key: str) -> ObjectName:
        """Return the new name of an object below the source."""
        return ObjectName(self.target_container, self.target + key.removeprefix(self.source))


class CopyFile(Record, frozen=True, tag_field="kind", tag="Copy"):
    """Copy a file's object with all its bytes, of an SLO to segments of its own.

    Raises `AlreadyExists` and does not overwrite an object.
    """

    source: ObjectName
    target: ObjectName


class CreateContainer(Record, frozen=True, tag_field="kind", tag="CreateContainer"):
    """Create a container."""

    container: str


class DescribeContainer(Record, frozen=True, tag_field="kind", tag="DescribeContainer"):
    """Set metadata of a container."""

    container: str
    metadata: Mapping[str, str]


class DeleteContainer(Record, frozen=True, tag_field="kind", tag="DeleteContainer"):
    """Delete an empty container."""

    container: str


Operation = (
    PutFile
    | PutSpecial
    | PutMarker
    | SetAttributes
    | ReplaceHeaders
    | Delete
    | Move
    | MoveObject
    | MoveFolder
    | CopyFile
    | CreateContainer
    | DescribeContainer
    | DeleteContainer
)

KINDS: Mapping[type, str] = {kind: kind.__struct_config__.tag for kind in get_args(Operation)}
"""Names of the kinds in journals on disk and in a status. INVARIANT: a name never changes."""


def names_of(operation: Operation) -> tuple[ObjectName, ...]:
    """Return the objects that an operation is about: for a folder its markers, for a container none."""
    match operation:
        case Move() | MoveObject() | CopyFile():
            return (operation.source, operation.target)
        case MoveFolder():
            return tuple(name for pair in operation.markers for name in pair)
        case CreateContainer() | DescribeContainer() | DeleteContainer():
            return ()
    return (operation.name,)


def parents_of(operation: Operation) -> Iterable[ObjectName]:
    """Return the names of the markers of the folders that contain the operation's objects."""
    return [marker for name in names_of(operation) for marker in parent_markers(name)]


Value = TypeVar("Value")


class Unreadable(ValueError):
    """A text is not a record of this journal."""


# Most small files have the same blocks, all of them: one set serves all.
@lru_cache(maxsize=256)
def _read_blocks(text: str) -> Blocks:
    return Blocks.from_bytes(base64.b64decode(text, validate=True))


def _read_other(_kind: type, value: Any) -> Blocks:
    return _read_blocks(value)


def _write_other(value: Any) -> object:
    """Return blocks or a read-only mapping as what JSON has."""
    return base64.b64encode(value.to_bytes()).decode() if isinstance(value, Blocks) else dict(value)


_ENCODER = Encoder(enc_hook=_write_other)
_OPERATIONS: Decoder[Operation] = Decoder(Operation, dec_hook=_read_other)
_AMBIGUITIES = Decoder(Ambiguity)
_ENTRIES = Decoder(Entry)


def encode(value: Operation | Ambiguity | Entry) -> str:
    """Return an operation, a record of lost requests or an entry as a line of JSON."""
    return _ENCODER.encode(value).decode()


def decode(text: str) -> Operation:
    """Return the operation that `encode` wrote; raise `Unreadable` for anything else."""
    return _read(text, _OPERATIONS, "an operation")


def decode_ambiguity(text: str) -> Ambiguity:
    """Return a record of lost requests; errors as of `decode`."""
    return _read(text, _AMBIGUITIES, "a record of lost requests")


def decode_entry(text: str) -> Entry:
    """Return an entry; errors as of `decode`."""
    return _read(text, _ENTRIES, "an entry")


def _read(text: str, decoder: Decoder[Value], what: str) -> Value:
    try:
        return decoder.decode(text)
    except ValueError as error:
        raise Unreadable(f"not {what}: {text[:200]!r}") from error
