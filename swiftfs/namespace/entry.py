"""Entries: what is known about each name in a folder, from listings, HEADs and local changes.

Entries of pending changes are packed: there may be 100,000, and few are looked at.
"""

import stat
import struct
from collections.abc import Hashable, Iterable, Iterator
from enum import Enum
from functools import lru_cache
from typing import Any
from weakref import WeakValueDictionary

from msgspec import Struct
from msgspec.structs import force_setattr, replace

from swiftfs.attributes import (
    MAX_LINK,
    NOTHING_STORED,
    SPECIAL_TYPES,
    Stored,
    decode_metadata,
    decode_type,
    is_directory_type,
    parse_last_modified,
)
from swiftfs.namespace.inodes import folder_inode, inode_of
from swiftfs.objects import Attributes, ObjectInfo, ObjectName, ObjectVersion, Record, Row
from swiftfs.paths import SEGMENTS_FOLDER, SEGMENTS_SUFFIX, Folder, escape, plain_marker, slash_marker
from swiftfs.store.protocol import ObjectMeta
from swiftfs.store.trash_names import TRASH_FOLDER


class _Remembering:
    __slots__ = ("__weakref__", "_listed")
    _listed: Attributes


class Entry(_Remembering, Record, frozen=True):
    """A name in a folder, and the file or folder behind it.

    `object` is the file's object or the folder's marker, None for a folder that only its children imply.
    `etag` is the version for `If-Match`, empty while unknown. `hash` and `last_modified` are the listing's,
    and change with every PUT and POST. `is_slo` is None while unknown. `complete` is False when the listing
    does not show all attributes: then a HEAD is needed. `meta` is the object's, None while unknown.

    An `etag` is `hinted` when it comes from the Content-Type. Copies of an object keep its Content-Type, so
    the ETag may be another object's. An entry is `missing` when Swift lists the object but does not have it,
    or when it is a symlink of Swift that leads nowhere.
    """

    name: str
    object: ObjectName | None
    attributes: Attributes
    etag: str = ""
    hash: str = ""
    last_modified: str = ""
    media_type: str = ""
    target: str | None = None
    is_slo: bool | None = False
    complete: bool = True
    meta: ObjectMeta | None = None
    hinted: bool = False
    missing: bool = False

    @property
    def is_directory(self) -> bool:
        """True for a folder."""
        return self.attributes.is_directory

    @property
    def listed(self) -> Attributes:
        """The attributes with all times, as the listing shows them. Remembered: every stat(2) needs them."""
        if not hasattr(self, "_listed"):
            times = self.attributes.mtime_ns, 0, parse_last_modified(self.last_modified)
            force_setattr(self, "_listed", self.attributes.with_times(*times))
        return self._listed

    @property
    def version(self) -> ObjectVersion:
        """The version of a file's object.

        While the ETag is unknown, the listing's `hash` takes its place. For a plain object they are the same.
        An SLO's ETag differs from its row's hash, so there `If-Match` fails.
        """
        assert self.object is not None
        return ObjectVersion(self.object, self.etag or self.hash)

    @property
    def has_listed_time(self) -> bool:
        """True for a file of another client of which the listing may lack only an mtime of its own."""
        is_listed = bool(self.last_modified and self.media_type)
        return is_listed and not self.is_directory and self.attributes.size > 0


NO_TIME = -(2**63)
"""The mtime (ns) of a folder that stores none; `Namespace.dated` replaces it."""

_SET_ID = stat.S_ISUID | stat.S_ISGID


class ForeignTimes(Enum):
    """Where the mtime of another client's object comes from; the values are those of the option `mtime`.

    `AUTO` is the listing's time, unless a cached answer to a HEAD shows that the object had an mtime.
    """

    META = "meta"
    LISTING = "listing"
    AUTO = "auto"


class Defaults(Struct, frozen=True):
    """The attributes of objects that store none, and the mount's options about names.

    `times` says where the mtime of another client's object comes from. With `slash_markers` the markers of
    new folders are `d/`, with `typed_markers` a marker's Content-Type has its attributes. `show_segments`
    shows the containers of segments too, `special` what `shown` leaves out. In each container the trash below
    the prefix `hidden_trash` is not shown; None hides none.
    """

    uid: int
    gid: int
    umask: int = 0o022
    times: ForeignTimes = ForeignTimes.META
    slash_markers: bool = False
    typed_markers: bool = False
    show_segments: bool = False
    special: bool = False
    hidden_trash: str | None = None

    def shown(self, attributes: Attributes) -> Attributes:
        """Return what stat(2) shows: no setuid and setgid bits of files, and no devices, unless `special`.

        Anybody who can write to the container can make them, and root may copy them to a local disk.
        """
        kind = stat.S_IFMT(attributes.mode)
        if self.special or (kind == stat.S_IFREG and not attributes.mode & _SET_ID) or kind == stat.S_IFDIR:
            return attributes
        if kind in (stat.S_IFCHR, stat.S_IFBLK):
            kind = stat.S_IFREG
        return replace(attributes, mode=kind | stat.S_IMODE(attributes.mode) & ~_SET_ID, device=0)

    def marker(self, folder: Folder) -> ObjectName:
        """Return the object that marks a folder which this mount makes."""
        return (None if self.slash_markers else plain_marker(folder)) or slash_marker(folder)

    def shows_container(self, container: str) -> bool:
        """Return whether a container is shown in the root of an account."""
        return self.show_segments or not container.endswith(SEGMENTS_SUFFIX)

    def hidden_in(self, folder: Folder) -> list[str]:
        """Return the components that are not shown in a folder."""
        hidden = [] if folder.prefix else [SEGMENTS_FOLDER]
        return [*hidden, TRASH_FOLDER] if folder.prefix == self.hidden_trash else hidden

    def directory(self, inode: int) -> Attributes:
        """Return the attributes of a folder whose marker stores none."""
        return Attributes(stat.S_IFDIR | 0o777 & ~self.umask, 0, NO_TIME, self.uid, self.gid, inode)

    def file(self, size: int, mtime_ns: int, inode: int) -> Attributes:
        """Return the attributes of a file whose object stores none."""
        return Attributes(stat.S_IFREG | 0o666 & ~self.umask, size, mtime_ns, self.uid, self.gid, inode)

    def stored_file(self, size: int, mtime_ns: int, inode: int, stored: Stored) -> Attributes:
        """Return the attributes of a file whose object stores `stored`."""
        return possible(self.apply(self.file(size, mtime_ns, inode), stored), stored.target)

    def apply(self, base: Attributes, stored: Stored) -> Attributes:
        """Return `base` with the attributes that the object stores, but with the file type of `base`."""
        if stored is NOTHING_STORED:
            return base
        mode = base.mode
        # Whether it is a folder is decided by what the object is: a copy by another client keeps our
        # parameters.
        if stored.mode is not None and stat.S_ISDIR(stored.mode) == base.is_directory:
            mode = stored.mode
        return Attributes(
            mode,
            base.size,
            base.mtime_ns if stored.mtime_ns is None else stored.mtime_ns,
            base.uid if stored.uid is None else stored.uid,
            base.gid if stored.gid is None else stored.gid,
            base.inode,
            stored.device or 0,
        )


def implied_entry(name: str, folder: Folder, defaults: Defaults) -> Entry:
    """Return the entry of a folder that has no marker, or one that the listing did not show."""
    marker = ObjectName(folder.container, folder.prefix) if defaults.slash_markers and folder.prefix else None
    attributes = defaults.directory(folder_inode(folder))
    return Entry(name, marker, attributes, complete=marker is None)


def is_implied(entry: Entry) -> bool:
    """Return whether an entry of a listing is a folder that only its children show."""
    has_plain_marker = entry.object is not None and not entry.object.key.endswith("/")
    return entry.is_directory and not entry.last_modified and not has_plain_marker


def marker_entry(name: str, folder: Folder, row: Row, defaults: Defaults) -> Entry:
    """Return the entry of a folder whose marker is `row`."""
    attributes = defaults.directory(folder_inode(folder))
    base, stored = decode_type(row.content_type)
    return Entry(
        name,
        ObjectName(folder.container, row.key),
        defaults.apply(attributes, stored),
        etag=row.hash,
        hash=row.hash,
        last_modified=row.last_modified,
        media_type=base,
        complete=stored.mode is not None,
    )


def possible(attributes: Attributes, target: str | None) -> Attributes:
    """Return the attributes of a file, with another type if its bytes show that it is regular.

    A symbolic link has a target of 1 to `MAX_LINK` bytes, which are the object's bytes; a FIFO, a socket and
    a device have none. What another client stored can have any type, and gigabytes.
    """
    kind = stat.S_IFMT(attributes.mode)
    if kind == stat.S_IFREG:
        return attributes
    if kind == stat.S_IFLNK:
        is_target = target is None or len(target.encode()) == attributes.size
        is_possible = 0 < attributes.size <= MAX_LINK and is_target
    else:
        is_possible = not attributes.size
    if is_possible:
        return attributes
    return replace(attributes, mode=stat.S_IFREG | stat.S_IMODE(attributes.mode), device=0)


def file_entry(name: str, container: str, row: Row, defaults: Defaults) -> Entry:
    """Return the entry of a file.

    A row of 0 bytes may be a DLO, whose size only a HEAD shows. A row with our mode in its Content-Type is
    not a DLO, unless the type also has the ETag of an SLO: a segmented copy by another client keeps it.
    Of a row without the parameters of its Content-Type the entry has no media type until a HEAD shows all.
    """
    base, stored = decode_type(row.content_type)
    target = ObjectName(container, row.key)
    mtime_ns = parse_last_modified(row.last_modified) if stored.mtime_ns is None else stored.mtime_ns
    foreign = stored.mode is None
    unknown = foreign or (stored.slo is not None and not row.size)
    attributes = defaults.stored_file(row.size, mtime_ns, inode_of(target), stored)
    if row.is_stripped:
        attributes = possible(replace(attributes, mode=_kind_of(base) | stat.S_IMODE(attributes.mode)), None)
    return Entry(
        name,
        target,
        attributes,
        etag=(stored.slo or row.hash) if not unknown else "",
        hash=row.hash,
        last_modified=row.last_modified,
        media_type="" if row.is_stripped else base,
        target=stored.target,
        is_slo=None if unknown else stored.slo is not None,
        complete=not unknown
        or (row.size > 0 and defaults.times is ForeignTimes.LISTING and not row.is_stripped),
        hinted=not unknown and stored.slo is not None,
    )


def _kind_of(media_type: str) -> int:
    """Return the file type that a media type stands for in what this program has stored."""
    return next((kind for kind, text in SPECIAL_TYPES.items() if text == media_type), stat.S_IFREG)


def with_head(entry: Entry, info: ObjectInfo, defaults: Defaults) -> Entry:
    """Return the entry with the answer of a HEAD."""
    if not (entry.is_directory or entry.media_type):
        # Its row was unreadable, or stripped: the HEAD has the Content-Type with our attributes, too.
        entry = _from_head(entry, info, defaults)
    attributes = entry.attributes
    if not entry.hinted:  # else they are in the Content-Type, which the listing showed
        attributes = defaults.apply(attributes, decode_metadata(info.metadata))
    if not entry.is_directory:
        attributes = possible(replace(attributes, size=info.size), entry.target)
    # A listing shows no meta: that of a hinted entry is a pending change, which the HEAD may not show yet.
    pending = entry.meta if entry.hinted else None
    return replace(
        entry,
        object=info.version.name,
        attributes=attributes,
        etag=info.version.etag,
        is_slo=info.is_slo,
        complete=True,
        meta=pending or ObjectMeta.of(info),
        hinted=False,
        missing=info.unreadable,
    )


def _from_head(entry: Entry, info: ObjectInfo, defaults: Defaults) -> Entry:
    """Return the entry that a readable row of the object would have made."""
    name, inode = info.version.name, entry.attributes.inode
    row = replace(row_of(info), last_modified=entry.last_modified)
    made = file_entry(entry.name, name.container, row, defaults)
    has_time = entry.last_modified or decode_type(info.content_type)[1].mtime_ns is not None
    mtime_ns = made.attributes.mtime_ns if has_time else info.last_modified_ns
    attributes = replace(made.attributes, mtime_ns=mtime_ns, inode=inode)
    return replace(made, hash=entry.hash or made.hash, attributes=attributes)


def moved_entry(entry: Entry, name: str, target: ObjectName) -> Entry:
    """Return the entry of a file that was moved to `target`; a listing will show the time of the copy."""
    attributes = replace(entry.attributes, inode=inode_of(target))
    return replace(entry, name=name, object=target, attributes=attributes, last_modified="")


def retyped_entry(entry: Entry, media_type: str) -> Entry:
    """Return the entry of a file whose object gets another media type."""
    meta = replace(entry.meta, media_type=media_type) if entry.meta is not None else None
    return replace(entry, media_type=media_type, meta=meta)


def row_of(info: ObjectInfo) -> Row:
    """Return the row that a listing would show for an object, without the time of its last change."""
    return Row(info.version.name.key, info.size, info.version.etag, info.content_type, "")


def head_entries(
    folder: Folder, info: ObjectInfo, subdirs: Iterable[str], defaults: Defaults
) -> Iterator[Entry]:
    """Yield the entries of a folder that the answer of a HEAD shows, and those of `subdirs`."""
    has_time = decode_type(info.content_type)[1].mtime_ns is not None
    for entry in entries_of(folder, [row_of(info)], subdirs, defaults):
        if entry.object != info.version.name:
            yield entry
        elif has_time or entry.is_directory:
            yield with_head(entry, info, defaults)
        else:
            attributes = replace(entry.attributes, mtime_ns=info.last_modified_ns)
            yield with_head(replace(entry, attributes=attributes), info, defaults)


def is_marker(found: Row | ObjectInfo) -> bool:
    """Return whether an object is a folder's marker. An object with bytes is a file, whatever its type."""
    return found.size == 0 and is_directory_type(found.content_type)


def is_slash_marker(row: Row) -> bool:
    """Return whether the object `d/` marks the folder `d`: it is empty and does not store a mode."""
    return row.size == 0 and decode_type(row.content_type)[1].mode is None


def entries_of(
    folder: Folder, rows: Iterable[Row], subdirs: Iterable[str], defaults: Defaults
) -> Iterator[Entry]:
    """Yield the entries of a folder's listing in its order, folders without a marker last."""
    cut = len(folder.prefix)
    subfolders = {subdir[cut:-1]: Folder(folder.container, subdir) for subdir in subdirs}
    # The object `d/` in the listing of `d/` is the folder itself.
    rows = [row for row in rows if row.key != folder.prefix or not is_slash_marker(row)]
    for component in defaults.hidden_in(folder):
        subfolders.pop(component, None)
        rows = [row for row in rows if row.key[cut:] != component]
    marked = {row.key[cut:] for row in rows if is_marker(row)}
    folders = subfolders.keys() | marked
    for row in rows:
        component = row.key[cut:]
        if component in marked and is_marker(row):
            below = Folder(folder.container, row.key + "/")
            yield marker_entry(escape(component), below, row, defaults)
        else:
            yield file_entry(
                escape(component, shadowed=component in folders), folder.container, row, defaults
            )
    for component, below in subfolders.items():
        if component not in marked:
            yield implied_entry(escape(component), below, defaults)


_NUMBERS = struct.Struct("<QqQ")
"""What differs from file to file: the size, the mtime, the inode number."""


class PackedEntry:
    """An entry in about 130 bytes instead of 500: files of one folder have most in common.

    INVARIANT: while anybody has the entry, `unpack` returns that object: others find it by identity. The
    namespace's lock is held for every call.
    """

    __slots__ = ("__weakref__", "_common", "_name", "_numbers")

    def __init__(self, entry: Entry, *, is_held: bool = True) -> None:
        stat = entry.attributes
        self._name = entry.name
        self._numbers = _NUMBERS.pack(stat.size, stat.mtime_ns, stat.inode)
        self._common = _shared(
            (
                _to_folder(entry),
                (stat.mode, stat.uid, stat.gid, stat.device),
                (entry.etag, entry.hash, entry.last_modified, entry.media_type, entry.target),
                (entry.is_slo, entry.complete),
                entry.meta.to_values(stat.mtime_ns) if entry.meta is not None else None,
                (entry.hinted, entry.missing),
            )
        )
        if is_held:
            _living[self] = entry

    @property
    def name(self) -> str:
        """The entry's name."""
        return self._name

    @property
    def is_directory(self) -> bool:
        """True for a folder."""
        return stat.S_ISDIR(self._common[1][0])

    def unpack(self) -> Entry:
        """Return the entry."""
        entry = _living.get(self)
        if entry is None:
            entry = _living[self] = self._unpack()
        return entry

    def _unpack(self) -> Entry:
        folder, (mode, uid, gid, device), texts, states, values, flags = self._common
        size, mtime_ns, inode = _NUMBERS.unpack(self._numbers)
        attributes = Attributes(mode, size, mtime_ns, uid, gid, inode, device)
        meta = ObjectMeta.from_values(values, mtime_ns) if values is not None else None
        fields = (*texts, *states, meta, *flags)
        return Entry(self._name, _from_folder(folder, self._name), attributes, *fields)


Shown = Entry | PackedEntry
"""An entry, packed or not."""


def packed(entry: Shown, *, is_held: bool = True) -> Shown:
    """Return the entry packed, unless it has numbers that no file has: another client may store anything.

    `is_held` is False if nobody has the entry, or will find it by identity.
    """
    if isinstance(entry, PackedEntry):
        return entry
    try:
        return PackedEntry(entry, is_held=is_held)
    except struct.error:
        return entry


def unpacked(shown: Shown | None) -> Entry | None:
    """Return the entry of what may be packed."""
    return shown.unpack() if isinstance(shown, PackedEntry) else shown


_living: WeakValueDictionary[PackedEntry, Entry] = WeakValueDictionary()
"""The entries in use, of all namespaces."""


@lru_cache(maxsize=1024)
def _shared(values: Hashable) -> Any:
    """Return equal values as one object."""
    return values


def _to_folder(entry: Entry) -> tuple[str, str, bool] | None:
    """Return an entry's object: its container, its key without the entry's name, and whether it ended so."""
    if entry.object is None:
        return None
    key, ends = entry.object.key, entry.object.key.endswith(entry.name)
    return entry.object.container, key[: len(key) - len(entry.name)] if ends else key, ends


def _from_folder(folder: tuple[str, str, bool] | None, name: str) -> ObjectName | None:
    if folder is None:
        return None
    container, key, ends = folder
    return ObjectName(container, key + name if ends else key)
