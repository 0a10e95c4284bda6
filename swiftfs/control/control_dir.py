"""The folder `.swiftfs` in a mount's root: what the mount tells of itself, as files that no listing shows.

Only whoever mounted, and root, may read there; every change is EROFS. Nothing of it reaches Swift.
"""

import errno
import itertools
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn, cast

from swiftfs.attributes import FLUSH_ATTRIBUTE, RETRY_ATTRIBUTE, STATUS_ATTRIBUTE
from swiftfs.concurrency import unix_time_ns
from swiftfs.errors import os_error
from swiftfs.fuse.operations import FileSystem
from swiftfs.namespace.entry import inode_of
from swiftfs.objects import DIRECT_HANDLES, Attributes, Caller, FileSpan, FilesystemUsage, ObjectName
from swiftfs.paths import HIDDEN_FOLDER, beside_hidden, split, without_hidden

ROOT = f"/{HIDDEN_FOLDER}"

PRIVATE = frozenset({STATUS_ATTRIBUTE, FLUSH_ATTRIBUTE, RETRY_ATTRIBUTE})
"""Attributes of the mount's root that the same people may use."""

_CONTAINER = "\0"
"""No container has this name, so no object has the inodes of these files."""


class ControlDir:
    """The folder as a file system of its own; `files` render the whole text of each.

    A handle keeps the text that the file had at its open. The size that stat(2) told may be that of another
    moment, so these files are read directly. `caller` tells who asks, `usage` answers statvfs(3).
    """

    def __init__(
        self,
        files: Mapping[str, Callable[[], bytes]],
        caller: Callable[[], Caller],
        usage: Callable[[str], FilesystemUsage],
    ) -> None:
        self._files = files
        self._caller = caller
        self._usage = usage
        self._owner = Caller(os.getuid(), os.getgid())
        self._since = unix_time_ns()
        self._numbers = itertools.count(DIRECT_HANDLES)
        self._open: dict[int, tuple[str, int]] = {}

    def admit(self, path: str, number: int = errno.EACCES) -> None:
        """Raise `OSError` with that errno unless root or whoever mounted asks."""
        if self._caller().uid not in (0, self._owner.uid):
            raise os_error(number, path)

    def getattr(self, path: str) -> Attributes:
        if path == ROOT:
            return self._attributes(path, stat.S_IFDIR | 0o500, 0, self._since)
        self.admit(path)
        return self._attributes(path, stat.S_IFREG | 0o400, len(self._text(path)), unix_time_ns())

    def getattr_handle(self, handle: int) -> Attributes:
        path, descriptor = self._open[handle]
        found = os.fstat(descriptor)
        return self._attributes(path, stat.S_IFREG | 0o400, found.st_size, found.st_mtime_ns)

    def readlink(self, path: str) -> str:
        raise os_error(errno.EINVAL, path)

    def opendir(self, path: str) -> int:
        self.admit(path)
        if path != ROOT:
            raise os_error(errno.ENOTDIR, path)
        return next(self._numbers)

    def readdir(self, _handle: int) -> Iterable[tuple[str, Attributes]]:
        return [
            (name, self._attributes(f"{ROOT}/{name}", stat.S_IFREG | 0o400, 0, self._since))
            for name in self._files
        ]

    def open(self, path: str, flags: int) -> int:
        self.admit(path)
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            raise os_error(errno.EROFS, path)
        text = self._text(path)
        descriptor = os.memfd_create(HIDDEN_FOLDER)
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(text)
        number = next(self._numbers)
        self._open[number] = path, descriptor
        return number

    def read(self, handle: int, offset: int, size: int) -> FileSpan:
        _, descriptor = self._open[handle]
        return FileSpan(descriptor, offset, max(0, min(size, os.fstat(descriptor).st_size - offset)))

    def release(self, handle: int) -> None:
        os.close(self._open.pop(handle)[1])

    def statfs(self, _path: str) -> FilesystemUsage:
        return self._usage("/")

    def getxattr(self, path: str, _name: str) -> bytes:
        raise os_error(errno.ENODATA, path)

    def listxattr(self, _path: str) -> list[str]:
        return []

    def _nothing(self, handle: int, *_: Any, **__: Any) -> None:
        """Nothing was written that could be stored."""

    def _refuse(self, path: str | int, *_: Any, **__: Any) -> NoReturn:
        raise os_error(errno.EROFS, str(path))

    flush = fsync = fsyncdir = releasedir = _nothing
    mkdir = rmdir = unlink = rename = symlink = mknod = chmod = chown = utimens = _refuse
    truncate = create = setxattr = removexattr = truncate_handle = write = fallocate = _refuse

    def _text(self, path: str) -> bytes:
        folder, name = split(path)
        if folder != ROOT or name not in self._files:
            raise os_error(errno.EISDIR if path == ROOT else errno.ENOENT, path)
        return self._files[name]()

    def _attributes(self, path: str, mode: int, size: int, mtime_ns: int) -> Attributes:
        inode = inode_of(ObjectName(_CONTAINER, path))
        return Attributes(mode, size, mtime_ns, self._owner.uid, self._owner.gid, inode)


class ControlDirFS:
    """A file system with the folder in its root: each call goes to the one that its path or handle names."""

    def __init__(self, filesystem: FileSystem, hidden: ControlDir) -> None:
        self._filesystem = filesystem
        self._hidden = hidden
        self._roots: set[int] = set()
        for name in (name for name in vars(FileSystem) if not name.startswith("_")):
            if not hasattr(self, name):
                route = _by_handle if name in _BY_HANDLE else _by_path
                setattr(self, name, route(getattr(filesystem, name), getattr(hidden, name)))

    def opendir(self, path: str) -> int:
        if _is_hidden(path):
            return self._hidden.opendir(path)
        number = self._filesystem.opendir(without_hidden(path))
        if path == "/":
            self._roots.add(number)
        return number

    def readdir(self, handle: int) -> Iterable[tuple[str, Attributes]]:
        if handle >= DIRECT_HANDLES:
            return self._hidden.readdir(handle)
        entries = self._filesystem.readdir(handle)
        if handle in self._roots:
            return ((beside_hidden(name), attributes) for name, attributes in entries)
        return entries

    def releasedir(self, handle: int) -> None:
        if handle < DIRECT_HANDLES:
            self._roots.discard(handle)
            self._filesystem.releasedir(handle)

    def rename(self, old: str, new: str) -> None:
        if _is_hidden(old) or _is_hidden(new):
            self._hidden.rename(new)
        self._filesystem.rename(without_hidden(old), without_hidden(new))

    def symlink(self, target: str, path: str, caller: Caller) -> None:
        if _is_hidden(path):
            self._hidden.symlink(path)
        self._filesystem.symlink(target, without_hidden(path), caller)

    def getxattr(self, path: str, name: str) -> bytes:
        if _is_hidden(path):
            return self._hidden.getxattr(path, name)
        if path == "/" and name in PRIVATE:
            self._hidden.admit(path)
        return self._filesystem.getxattr(without_hidden(path), name)

    def setxattr(self, path: str, name: str, value: bytes, flags: int) -> None:
        if _is_hidden(path):
            self._hidden.setxattr(path)
        if path == "/" and name in PRIVATE:
            self._hidden.admit(path, errno.EPERM)
        self._filesystem.setxattr(without_hidden(path), name, value, flags)


def with_control_dir(filesystem: FileSystem, hidden: ControlDir) -> FileSystem:
    """Return `filesystem` with `hidden` in its root, whose own objects of that name get another one."""
    return cast(FileSystem, ControlDirFS(filesystem, hidden))


_BY_HANDLE = frozenset(
    {"getattr_handle", "truncate_handle", "read", "write", "flush", "fsync", "fsyncdir", "release"}
    | {"fallocate"}
)
"""The calls whose first argument is a handle; that of all others is a path."""


def _is_hidden(path: str) -> bool:
    return path.startswith(ROOT) and path[len(ROOT) :][:1] in ("", "/")


def _by_path(plain: Callable[..., Any], hidden: Callable[..., Any]) -> Callable[..., Any]:
    def call(path: str, *rest: Any) -> Any:
        if path.startswith((ROOT, "/%")):
            if _is_hidden(path):
                return hidden(path, *rest)
            path = without_hidden(path)
        return plain(path, *rest)

    return call


def _by_handle(plain: Callable[..., Any], hidden: Callable[..., Any]) -> Callable[..., Any]:
    def call(handle: int, *rest: Any) -> Any:
        return plain(handle, *rest) if handle < DIRECT_HANDLES else hidden(handle, *rest)

    return call
