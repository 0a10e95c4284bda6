"""A file system in a dictionary, the reference for the real one."""

import errno
from dataclasses import dataclass, field

from swiftfs.errors import os_error
from swiftfs.paths import is_below, split


@dataclass
class Thing:
    """A file, folder or link; `body` is the target of a link, and unused for a folder."""

    kind: str
    body: bytes = b""
    mode: int = 0o644
    mtime_ns: int | None = None
    tags: dict[str, bytes] = field(default_factory=dict)


class ReferenceModel:
    """POSIX's rules for paths: each method raises the `OSError` that the real file system must raise."""

    def __init__(self) -> None:
        self.things: dict[str, Thing] = {"/": Thing("folder")}

    def at(self, path: str) -> Thing:
        """Return the object at a path."""
        self._folder_of(path)
        if path not in self.things:
            raise os_error(errno.ENOENT, path)
        return self.things[path]

    def children(self, path: str) -> list[str]:
        """Return the names in a folder, sorted."""
        return sorted(split(other)[1] for other in self.things if other != "/" and split(other)[0] == path)

    def write(self, path: str, body: bytes) -> None:
        """Make a file of these bytes, or replace its bytes."""
        self._folder_of(path)
        thing = self.things.setdefault(path, Thing("file"))
        if thing.kind == "folder":
            raise os_error(errno.EISDIR, path)
        thing.body, thing.mtime_ns = body, None

    def patch(self, path: str, offset: int, body: bytes) -> None:
        """Write bytes into a file."""
        thing = self._file(path)
        before = thing.body
        thing.body = before[:offset].ljust(offset, b"\0") + body + before[offset + len(body) :]
        thing.mtime_ns = None

    def truncate(self, path: str, size: int) -> None:
        """Set the size of a file."""
        thing = self._file(path)
        thing.body, thing.mtime_ns = thing.body[:size].ljust(size, b"\0"), None

    def mkdir(self, path: str) -> None:
        """Make a folder."""
        self._new(path, Thing("folder", mode=0o755))

    def symlink(self, target: str, path: str) -> None:
        """Make a symbolic link."""
        self._new(path, Thing("link", target.encode(), 0o777))

    def unlink(self, path: str) -> None:
        """Delete a file or link."""
        if self.at(path).kind == "folder":
            raise os_error(errno.EISDIR, path)
        del self.things[path]

    def rmdir(self, path: str) -> None:
        """Delete an empty folder."""
        if self.at(path).kind != "folder":
            raise os_error(errno.ENOTDIR, path)
        if self.children(path):
            raise os_error(errno.ENOTEMPTY, path)
        del self.things[path]

    def rename(self, old: str, new: str) -> None:
        """Rename, over what POSIX allows to replace."""
        moving = self.at(old)
        self._folder_of(new)
        if old == new:
            return
        if is_below(new, old):
            raise os_error(errno.EINVAL, new)
        target = self.things.get(new)
        if target is not None:
            if moving.kind == "folder" and target.kind != "folder":
                raise os_error(errno.ENOTDIR, new)
            if moving.kind != "folder" and target.kind == "folder":
                raise os_error(errno.EISDIR, new)
            if target.kind == "folder" and self.children(new):
                raise os_error(errno.ENOTEMPTY, new)
        moved = {path: thing for path, thing in self.things.items() if is_below(path, old)}
        self.things = {path: thing for path, thing in self.things.items() if path not in moved}
        self.things.update({new + path[len(old) :]: thing for path, thing in moved.items()})

    def _file(self, path: str) -> Thing:
        thing = self.at(path)
        if thing.kind == "folder":
            raise os_error(errno.EISDIR, path)
        return thing

    def _new(self, path: str, thing: Thing) -> None:
        self._folder_of(path)
        if path in self.things:
            raise os_error(errno.EEXIST, path)
        self.things[path] = thing

    def _folder_of(self, path: str) -> None:
        """Raise unless the path's folders are folders, as the kernel does before a call."""
        components = split(path)[0].strip("/").split("/")
        for end in range(1, len(components) + 1):
            above = self.things.get("/" + "/".join(components[:end]))
            if above is None:
                raise os_error(errno.ENOENT, path)
            if above.kind != "folder":
                raise os_error(errno.ENOTDIR, path)
