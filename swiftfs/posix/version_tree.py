"""The folders `.versions`: older versions of files as read-only files, where the container keeps them.

`d/.versions/NAME/` has a file for each older version of `d/NAME`, named by the time at which that was stored
(`2026-11-28T10:15:30.123450Z`) and with the ending of NAME. Beside them are the names below `d/NAME/`, so
that deleted folders can be entered too. A file or folder `.versions` of another client counts instead.
"""

import errno
import itertools
import os
import stat
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Concatenate, ParamSpec, TypeVar

from cachetools import TTLCache
from msgspec import Struct, field
from msgspec.structs import replace

from swiftfs.attributes import stored_at, stored_at_ns
from swiftfs.concurrency import Rank, monotonic, new_lock
from swiftfs.errors import FolderTooLarge, os_error
from swiftfs.namespace.entry import Defaults, Entry, file_entry, is_marker, with_head
from swiftfs.namespace.head_fetcher import head_as_listed
from swiftfs.namespace.inodes import folder_inode
from swiftfs.objects import Attributes, ObjectName, OlderName, VersionPage, VersionRow
from swiftfs.paths import Folder, escape, join, unescape
from swiftfs.posix.file_ops import FileOps
from swiftfs.posix.pending import PART, VERSIONS, ProtectedPaths
from swiftfs.posix.services import Part, Services
from swiftfs.store.protocol import ObjectStore

MOST_KEPT = 50_000
"""How many versions, with their names, are kept at most."""

MOST_LISTED = 500_000
"""How many versions a folder may have: they are held in memory, some 0.5 KB each, while it is read."""

AT_ONCE = 1000
"""How many versions are asked for to look up one name."""


class Node(Struct):
    """What is kept of a key: its older `versions` by file names, newest first; if it `has_children`."""

    versions: dict[str, VersionRow] = field(default_factory=dict)
    has_children: bool = False

    def __bool__(self) -> bool:
        return bool(self.versions) or self.has_children

    def add(self, version: VersionRow) -> None:
        """Add what is shown of a version of the key."""
        if not (version.is_deletion or version.is_latest or is_marker(version.row)):
            self.versions[version_name(version.row.key, version)] = version


class OlderVersions:
    """Lists older versions, and keeps the answers for `ttl` seconds. The lock guards what is kept."""

    def __init__(self, store: ObjectStore, ttl: float) -> None:
        self._store = store
        self._lock = new_lock(Rank.USAGE)
        self._nodes: TTLCache[ObjectName, Node] = TTLCache(MOST_KEPT, ttl, monotonic, _size)

    def node(self, name: ObjectName) -> Node:
        """Return what is kept of a key."""
        with self._lock:
            if (node := self._nodes.get(name)) is not None:
                return node
        node, below = Node(), name.key + "/"
        for entry in self._entries(name.container, name.key, AT_ONCE):
            key = entry if isinstance(entry, str) else entry.row.key
            if key != name.key:
                # Names that only begin so may come before the folder, each with its versions.
                node.has_children = key == below or (key < below and self._is_folder(name.container, below))
                break
            if isinstance(entry, VersionRow):
                node.add(entry)
        self._keep({name: node})
        return node

    def _is_folder(self, container: str, prefix: str) -> bool:
        page = self._store.list_versions(container, prefix=prefix, limit=1)
        return bool(page.rows)

    def children(self, folder: Folder) -> dict[str, Node]:
        """Return what is kept in a folder, by component; components without older versions are left out.

        Raise `FolderTooLarge` beyond `MOST_LISTED` versions.
        """
        found: dict[str, Node] = defaultdict(Node)
        for number, entry in enumerate(self._entries(folder.container, folder.prefix, 0)):
            if number == MOST_LISTED:
                raise FolderTooLarge(f"{folder.container}/{folder.prefix}: more than {MOST_LISTED} versions")
            if isinstance(entry, str):
                found[entry[len(folder.prefix) : -1]].has_children = True
            else:
                found[entry.row.key.removeprefix(folder.prefix)].add(entry)
        nodes = {component: node for component, node in found.items() if node}
        self._keep({folder.child(component): node for component, node in nodes.items()})
        return nodes

    def _entries(self, container: str, prefix: str, limit: int) -> Iterator[VersionRow | str]:
        marker, version_marker, last = "", "", False
        while not last:
            page = self._store.list_versions(
                container,
                prefix=prefix,
                delimiter="/",
                marker=marker,
                version_marker=version_marker,
                limit=limit,
            )
            yield from _in_order(page)
            marker, version_marker, last = page.marker, page.version_marker, page.last

    def _keep(self, nodes: dict[ObjectName, Node]) -> None:
        with self._lock:
            self._nodes.update((name, node) for name, node in nodes.items() if _size(node) < MOST_KEPT)


def _size(node: Node) -> int:
    return 1 + len(node.versions)


def _in_order(page: VersionPage) -> list[VersionRow | str]:
    entries: list[VersionRow | str] = [*page.rows, *page.subdirs]
    return sorted(entries, key=lambda one: one if isinstance(one, str) else one.row.key)


def version_name(key: str, version: VersionRow) -> str:
    """Return the name of a version as a file: its time, and the ending by which programs know its kind."""
    endings = PurePosixPath(escape(key.rpartition("/")[2])).suffixes
    count = 2 if endings[-2:-1] == [".tar"] else 1
    return stored_at(version) + "".join(endings[-count:])


def version_entry(container: str, version: VersionRow, defaults: Defaults) -> Entry:
    """Return the entry of a version as a file, with the inode number of the object."""
    key = version.row.key
    entry = file_entry(version_name(key, version), container, version.row, defaults)
    return replace(entry, object=OlderName(container, key, version.version_id))


VERSION_HANDLES = 1 << 61
"""The first handle on one of these folders; those of other folders are smaller."""

Subject = TypeVar("Subject")
Rest = ParamSpec("Rest")
Result = TypeVar("Result")

Call = Callable[Concatenate[Subject, Rest], Result]
"""A call about a path or a handle, its first argument."""


class VersionTree(Part):
    """The calls about paths with a `.versions`, as far as `protected` knows them."""

    def __init__(self, services: Services, files: FileOps, protected: ProtectedPaths) -> None:
        super().__init__(services)
        self._protected = protected
        self._files = files
        self._versions = OlderVersions(services.store, services.options.ttl)
        self._numbers = itertools.count(VERSION_HANDLES)
        self._open: dict[int, list[tuple[str, Attributes]]] = {}

    def before(self, own: Call[str, Rest, Result], other: Call[str, Rest, Result]) -> Call[str, Rest, Result]:
        """Return a call that is `own` for the paths of this tree, and else `other`."""
        are_versions = self._protected.are_versions

        def call(path: str, /, *rest: Rest.args, **named: Rest.kwargs) -> Result:
            # Looked for here too: this runs at every lookup.
            return (own if PART in path and are_versions(path) else other)(path, *rest, **named)

        return call

    def handles(
        self, own: Call[int, Rest, Result], other: Call[int, Rest, Result]
    ) -> Call[int, Rest, Result]:
        """Return a call that is `own` for the handles of this tree, and else `other`."""

        def call(handle: int, /, *rest: Rest.args, **named: Rest.kwargs) -> Result:
            return (own if handle >= VERSION_HANDLES else other)(handle, *rest, **named)

        return call

    def getattr(self, path: str) -> Attributes:
        """Return the attributes of a folder or version."""
        place = self._place(path)
        entry = self._version(place)
        return self._shown(path, entry) if entry is not None else self._folder(place)

    def opendir(self, path: str) -> int:
        """Return a handle for `readdir`."""
        place = self._place(path)
        if self._version(place) is not None:
            raise os_error(errno.ENOTDIR, path)
        attributes = self._folder(place)
        handle = next(self._numbers)
        self._open[handle] = self._names(place, attributes)
        return handle

    def readdir(self, handle: int, start: int = 0) -> Sequence[tuple[str, Attributes]]:
        """Return the names in a folder, as they were when it was opened."""
        return self._open[handle][start:]

    def known_attributes(self, handle: int, names: Sequence[str]) -> Sequence[Attributes | None]:  # noqa: ARG002
        """Return nothing: these folders are rarely listed."""
        return [None] * len(names)

    def releasedir(self, handle: int) -> None:
        """Close a folder."""
        del self._open[handle]

    def fsyncdir(self, handle: int) -> None:
        """Do nothing: nothing changes here."""

    def open(self, path: str, flags: int) -> int:
        """Open a version; the handle is that of an ordinary file."""
        entry = self._version(self._place(path))
        if entry is None:
            raise os_error(errno.EISDIR, path)
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            raise os_error(errno.EROFS, path)
        return self._files.open_version(path, self._complete(entry))

    def readlink(self, path: str) -> str:
        """Return the target of a symbolic link as it was."""
        entry = self._version(self._place(path))
        if entry is None or not entry.attributes.is_symlink:
            raise os_error(errno.EINVAL, path)
        return self._files.target_of(path, self._complete(entry))

    def getxattr(self, path: str, name: str) -> bytes:  # noqa: ARG002
        """Raise `OSError`: there are no xattrs."""
        raise os_error(errno.ENODATA, path)

    def listxattr(self, path: str) -> list[str]:  # noqa: ARG002
        """Return no names."""
        return []

    def _place(self, path: str) -> "_Place":
        """Return what a path of this tree is about; raise `OSError` ENOENT for an impossible name."""
        folder, rest = VERSIONS.split(path, maxsplit=1)
        keys = []
        for name in rest[1:].split("/") if rest else ():
            component, is_shadowed = unescape(name)
            if is_shadowed:
                raise os_error(errno.ENOENT, path)
            keys.append(component)
        return _Place(path, folder or "/", self._source.folder(folder or "/"), tuple(keys))

    def _version(self, place: "_Place") -> Entry | None:
        """Return the version that a path names, None if it is a folder."""
        if len(place.keys) < 2:
            return None
        name = place.above.name
        node = self._versions.node(name)
        found = node.versions.get(escape(place.keys[-1]))
        return version_entry(name.container, found, self._defaults) if found is not None else None

    def _folder(self, place: "_Place") -> Attributes:
        """Return the attributes of a folder of this tree: those of the real folder, and nobody may write."""
        node = self._versions.node(place.name) if place.keys else Node(has_children=True)
        if not node:
            raise os_error(errno.ENOENT, place.path)
        real = self._namespace.dated(self._namespace.lookup(place.real)).attributes
        if not real.is_directory:
            raise os_error(errno.ENOTDIR, place.path)
        mode = stat.S_IFDIR | stat.S_IMODE(real.mode) & 0o555
        times = [stored_at_ns(version) for version in node.versions.values()]
        mtime_ns = max(times, default=real.mtime_ns)
        number = folder_inode(self._source.folder(place.path))
        return Attributes(mode, 0, mtime_ns, real.uid, real.gid, number)

    def _names(self, place: "_Place", attributes: Attributes) -> list[tuple[str, Attributes]]:
        """Return the names in a folder: its versions, and the keys below it as folders like itself."""
        found: dict[str, Attributes] = {}
        if self._versions.node(place.name).has_children if place.keys else True:
            hidden = self._defaults.hidden_in(place.folder)
            components = self._versions.children(place.folder)
            for component in (one for one in components if one not in hidden):
                name = escape(component)
                number = folder_inode(self._source.folder(join(place.path, name)))
                found[name] = replace(attributes, inode=number)
        if place.keys:
            for version in self._versions.node(place.name).versions.values():
                entry = version_entry(place.top.container, version, self._defaults)
                found[entry.name] = self._shown(join(place.path, entry.name), entry)
        return list(found.items())

    def _shown(self, path: str, entry: Entry) -> Attributes:
        """Return the attributes of a version, with the inode number that it has when it is open."""
        attributes = self._inodes.of_open(path, entry.attributes)
        return self._defaults.shown(attributes)

    def _complete(self, entry: Entry) -> Entry:
        """Return the entry with the version's true ETag and size, by a HEAD where its listing lacks them."""
        if entry.complete and entry.etag and not entry.hinted:
            return entry
        return with_head(entry, head_as_listed(self._store, entry), self._defaults)


class _Place(Struct, frozen=True):
    """What a path is about: `keys` below the `.versions` of the folder at `real`, whose place is `top`."""

    path: str
    real: str
    top: Folder
    keys: tuple[str, ...]

    @property
    def folder(self) -> Folder:
        """The folder whose versions lie below the path."""
        return Folder(self.top.container, self.top.prefix + "".join(f"{key}/" for key in self.keys))

    @property
    def name(self) -> ObjectName:
        """The object whose versions lie in the path."""
        return ObjectName(self.top.container, self.folder.prefix[:-1])

    @property
    def above(self) -> "_Place":
        """The folder that has the path."""
        return replace(self, keys=self.keys[:-1])
