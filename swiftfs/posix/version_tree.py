"""The folders `.versions`: older versions of files as read-only files, where the container keeps them.

`d/.versions/NAME/` has a file for each older version of `d/NAME`, named by the time at which that was stored
(`2026-11-28T10:15:30.123450Z`) and with the ending of NAME. Beside them are the names below `d/NAME/`, so
that deleted folders can be entered too. A file or folder `.versions` of another client counts instead.
"""

import errno
import itertools
import os
import stat
from collections.abc import Callable, Sequence
from typing import Concatenate, ParamSpec, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from swiftfs.errors import os_error
from swiftfs.namespace.entry import Entry, with_head
from swiftfs.namespace.inodes import folder_inode
from swiftfs.objects import Attributes, ObjectName
from swiftfs.paths import Folder, escape, join, unescape
from swiftfs.posix.file_ops import FileOps
from swiftfs.posix.pending import PART, VERSIONS, ProtectedPaths
from swiftfs.posix.services import Services
from swiftfs.posix.versions import Node, OlderVersions, stored_at_ns, version_entry

VERSION_HANDLES = 1 << 61
"""The first handle on one of these folders; those of other folders are smaller."""

Subject = TypeVar("Subject")
Rest = ParamSpec("Rest")
Result = TypeVar("Result")

Call = Callable[Concatenate[Subject, Rest], Result]
"""A call about a path or a handle, its first argument."""


class VersionTree:
    """The calls about paths with a `.versions`, as far as `protected` knows them."""

    def __init__(self, services: Services, files: FileOps, protected: ProtectedPaths) -> None:
        self._services = services
        self._protected = protected
        self._namespace = services.namespace
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
        return _Place(path, folder or "/", self._services.source.folder(folder or "/"), tuple(keys))

    def _version(self, place: "_Place") -> Entry | None:
        """Return the version that a path names, None if it is a folder."""
        if len(place.keys) < 2:
            return None
        name = place.above.name
        node = self._versions.node(name)
        found = node.versions.get(escape(place.keys[-1]))
        return version_entry(name.container, found, self._services.defaults) if found is not None else None

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
        number = folder_inode(self._services.source.folder(place.path))
        return Attributes(mode, 0, mtime_ns, real.uid, real.gid, number)

    def _names(self, place: "_Place", attributes: Attributes) -> list[tuple[str, Attributes]]:
        """Return the names in a folder: its versions, and the keys below it as folders like itself."""
        found: dict[str, Attributes] = {}
        if self._versions.node(place.name).has_children if place.keys else True:
            hidden = self._services.defaults.hidden_in(place.folder)
            components = self._versions.children(place.folder)
            for component in (one for one in components if one not in hidden):
                name = escape(component)
                number = folder_inode(self._services.source.folder(join(place.path, name)))
                found[name] = replace(attributes, inode=number)
        if place.keys:
            for version in self._versions.node(place.name).versions.values():
                entry = version_entry(place.top.container, version, self._services.defaults)
                found[entry.name] = self._shown(join(place.path, entry.name), entry)
        return list(found.items())

    def _shown(self, path: str, entry: Entry) -> Attributes:
        """Return the attributes of a version, with the inode number that it has when it is open."""
        attributes = self._services.inodes.of_open(path, entry.attributes)
        return self._services.defaults.shown(attributes)

    def _complete(self, entry: Entry) -> Entry:
        """Return the entry with the version's true ETag and size, by a HEAD where its listing lacks them."""
        if entry.complete and entry.etag and not entry.hinted:
            return entry
        assert entry.object is not None
        return with_head(entry, self._services.store.head(entry.object), self._services.defaults)


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
