"""The control folder, `.swiftfs` in a mount's root: the mount's status as files that no listing shows.

Only root and the user who mounted may read it. Every change fails with EROFS. No call here reaches Swift.
"""

import errno
import itertools
import logging
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from typing import Concatenate, ParamSpec, TypeVar

from swiftfs.attributes import EXPIRY_ATTRIBUTE, PRIVATE_ATTRIBUTES, SET_ATTRIBUTE
from swiftfs.concurrency import unix_time_ns
from swiftfs.control.live_options import LiveOptions
from swiftfs.errors import os_error
from swiftfs.fuse.filesystem import FileSystem
from swiftfs.namespace.inodes import inode_of
from swiftfs.objects import Attributes, Caller, FileSpan, FilesystemUsage, ObjectName, PageUse
from swiftfs.paths import HIDDEN_FOLDER, beside_hidden, split, without_hidden

log = logging.getLogger(__name__)

Subject = TypeVar("Subject")
Rest = ParamSpec("Rest")
Result = TypeVar("Result")

Call = Callable[Concatenate[Subject, Rest], Result]
"""A call about a path or a handle, its first argument."""

ROOT = f"/{HIDDEN_FOLDER}"

DIRECT_HANDLES = 1 << 62
"""The first handle on these files; those of the filesystem are smaller."""

_CONTAINER = "\0"
"""No container can have this name, so no object can have the inode of one of these files."""


class ControlDir:
    """The files of the folder; `files` renders the full text of each.

    An open file keeps the text of the moment it was opened. stat(2) returns the size of another moment, so
    the kernel must not cache these files. `caller` returns the caller of the current system call. `live` has
    the options that can be changed.
    """

    def __init__(
        self,
        files: Mapping[str, Callable[[], bytes]],
        caller: Callable[[], Caller],
        live: LiveOptions | None = None,
    ) -> None:
        self._files = files
        self._live = live
        self._caller = caller
        self._owner = Caller(os.getuid(), os.getgid())
        self._since = unix_time_ns()
        self._handles = itertools.count(DIRECT_HANDLES)
        self._open: dict[int, tuple[str, int]] = {}

    def check_access(self, path: str, number: int = errno.EACCES) -> None:
        """Raise `OSError` with the errno `number` unless the caller is root or the user who mounted."""
        if self._caller().uid not in (0, self._owner.uid):
            raise os_error(number, path)

    def set_options(self, name: str) -> bytes:
        """Change options as the name of the xattr asks for; return those in force as JSON."""
        self.check_access("/")
        if self._live is None:
            raise os_error(errno.ENODATA, "/")
        return self._live.answer(name.removeprefix(SET_ATTRIBUTE)).encode()

    def is_called_by(self, uid: int) -> bool:
        """Return whether the caller is that user."""
        return self._caller().uid == uid

    def getattr(self, path: str) -> Attributes:
        """Return the attributes of the folder or of a file."""
        if path == ROOT:
            return self._attributes(path, stat.S_IFDIR | 0o500, 0, self._since)
        # The kernel checks modes only with `default_permissions`, and allow_other lets others come so far.
        self.check_access(path)
        return self._attributes(path, stat.S_IFREG | 0o400, len(self._text(path)), unix_time_ns())

    def getattr_handle(self, handle: int) -> Attributes:
        """Return the attributes of an open file."""
        path, descriptor = self._open[handle]
        status = os.fstat(descriptor)
        return self._attributes(path, stat.S_IFREG | 0o400, status.st_size, status.st_mtime_ns)

    def readlink(self, path: str) -> str:
        """Raise `OSError`: there are no links."""
        raise os_error(errno.EINVAL, path)

    def listxattr(self, path: str) -> list[str]:  # noqa: ARG002
        """Return no names."""
        return []

    def is_other_inode(self, path: str) -> bool:  # noqa: ARG002
        """Return False: nothing is replaced here."""
        return False

    def wait_for_move(self, path: str, seconds: float, begun_seconds: float) -> bool:  # noqa: ARG002
        """Return False: no name is moved here."""
        return False

    def opendir(self, path: str) -> int:
        """Return a handle for `readdir`, which needs no release."""
        self.check_access(path)
        if path != ROOT:
            raise os_error(errno.ENOTDIR, path)
        return next(self._handles)

    def readdir(self) -> list[tuple[str, Attributes]]:
        """Return the names of the files."""
        return [
            (name, self._attributes(f"{ROOT}/{name}", stat.S_IFREG | 0o400, 0, self._since))
            for name in self._files
        ]

    def open(self, path: str, flags: int) -> int:
        """Render a file and return a handle on its text."""
        self.check_access(path)
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            raise os_error(errno.EROFS, path)
        text = self._text(path)
        descriptor = os.memfd_create(HIDDEN_FOLDER)
        # A copy of the descriptor, since closing the file would close it.
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(text)
        handle = next(self._handles)
        self._open[handle] = path, descriptor
        return handle

    def read(self, handle: int, offset: int, size: int) -> FileSpan:
        """Return where the bytes are."""
        _, descriptor = self._open[handle]
        return FileSpan(descriptor, offset, max(0, min(size, os.fstat(descriptor).st_size - offset)))

    def lseek(self, handle: int, offset: int, whence: int) -> int:
        """Return where data or a hole begins."""
        return os.lseek(self._open[handle][1], offset, whence)

    def page_use(self, handle: int) -> PageUse:  # noqa: ARG002
        """Return that the kernel keeps no pages: it has the size of another moment."""
        return PageUse.BYPASS

    def is_local(self, handle: int) -> bool:  # noqa: ARG002
        """Return True: a text is in memory."""
        return True

    def fsync(self, handle: int, data_only: bool) -> None:
        """Do nothing: nothing changes here."""

    def release(self, handle: int) -> None:
        """Close a file."""
        os.close(self._open.pop(handle)[1])

    def _text(self, path: str) -> bytes:
        folder, name = split(path)
        if folder != ROOT or name not in self._files:
            raise os_error(errno.EISDIR if path == ROOT else errno.ENOENT, path)
        try:
            return self._files[name]()
        except OSError as error:  # EACCES, of the cache folder, would say that the caller may not read it
            log.warning("%s cannot be made: %s", name, error)
            raise os_error(errno.EIO, path) from error

    def _attributes(self, path: str, mode: int, size: int, mtime_ns: int) -> Attributes:
        inode = inode_of(ObjectName(_CONTAINER, path))
        return Attributes(mode, size, mtime_ns, self._owner.uid, self._owner.gid, inode)


class ControlDirFS:
    """`filesystem` with `control` in its root; an object of that name gets another path.

    Each call goes to the one to which its path or its handle belongs.
    """

    def __init__(self, filesystem: FileSystem, control: ControlDir) -> None:
        self._filesystem = filesystem
        self._control = control
        self._roots: set[int] = set()

        self.getattr = _by_path(control.getattr, filesystem.getattr)
        self.getattr_handle = _by_handle(control.getattr_handle, filesystem.getattr_handle)
        self.readlink = _by_path(control.readlink, filesystem.readlink)
        self.chmod, self.chown = _changing(filesystem.chmod), _changing(filesystem.chown)
        self.utimens = _changing(filesystem.utimens)

        self.fsyncdir = _by_handle(_do_nothing, filesystem.fsyncdir)
        self.mkdir, self.rmdir = _changing(filesystem.mkdir), _changing(filesystem.rmdir)
        self.unlink, self.mknod = _changing(filesystem.unlink), _changing(filesystem.mknod)
        self.unhide = _by_path(_do_nothing, filesystem.unhide)

        self.open = _by_path(control.open, filesystem.open)
        self.create = _changing(filesystem.create)
        self.read = _by_handle(control.read, filesystem.read)
        self.write = _writing(filesystem.write)
        self.lseek = _by_handle(control.lseek, filesystem.lseek)
        self.truncate = _changing(filesystem.truncate)
        self.truncate_handle = _writing(filesystem.truncate_handle)
        self.fallocate = _writing(filesystem.fallocate)
        self.flush = _by_handle(_do_nothing, filesystem.flush)
        self.fsync = _by_handle(control.fsync, filesystem.fsync)
        self.release = _by_handle(control.release, filesystem.release)

        self.moves, self.cut_off = filesystem.moves, filesystem.cut_off
        self.wait_for_move = _by_path(control.wait_for_move, filesystem.wait_for_move)
        self.check_exists = _by_path(_do_nothing, filesystem.check_exists)
        self.is_other_inode = _by_path(control.is_other_inode, filesystem.is_other_inode)
        self.path_of_handle = _writing(filesystem.path_of_handle)
        self.page_use = _by_handle(control.page_use, filesystem.page_use)
        self.is_local = _by_handle(control.is_local, filesystem.is_local)
        self.listxattr = _by_path(control.listxattr, filesystem.listxattr)

    def opendir(self, path: str) -> int:
        if _is_control(path):
            return self._control.opendir(path)
        handle = self._filesystem.opendir(without_hidden(path))
        if path == "/":
            # Only a listing of the root needs its names changed, and readdir(2) knows the handle only.
            self._roots.add(handle)
        return handle

    def readdir(self, handle: int, start: int = 0) -> Sequence[tuple[str, Attributes]]:
        if handle >= DIRECT_HANDLES:
            return self._control.readdir()[start:]
        entries = self._filesystem.readdir(handle, start)
        if handle in self._roots:
            return [(beside_hidden(name), attributes) for name, attributes in entries]
        return entries

    def known_attributes(self, handle: int, names: Sequence[str]) -> Sequence[Attributes | None]:
        if handle >= DIRECT_HANDLES:
            return [None] * len(names)
        if handle in self._roots:
            names = [without_hidden(f"/{name}")[1:] for name in names]
        return self._filesystem.known_attributes(handle, names)

    def releasedir(self, handle: int) -> None:
        if handle < DIRECT_HANDLES:
            self._roots.discard(handle)
            self._filesystem.releasedir(handle)

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        if _is_control(old):
            self.unhide(new)  # it was hidden for this call if it is open
        self._filesystem.rename(_changeable(old), _changeable(new), flags)

    def hide(self, path: str, hidden: str) -> None:
        self._filesystem.hide(_changeable(path), hidden)

    def symlink(self, target: str, path: str, caller: Caller) -> None:
        self._filesystem.symlink(target, _changeable(path), caller)

    def link(self, old: str, new: str) -> None:
        self._filesystem.link(_changeable(old), _changeable(new))

    def copy_file_range(
        self, handle_in: int, offset_in: int, handle_out: int, offset_out: int, length: int, flags: int
    ) -> int:
        if handle_in >= DIRECT_HANDLES:
            raise os_error(errno.EOPNOTSUPP)
        return self._filesystem.copy_file_range(
            handle_in, offset_in, _writable(handle_out), offset_out, length, flags
        )

    def statfs(self, path: str) -> FilesystemUsage:
        return self._filesystem.statfs("/" if _is_control(path) else without_hidden(path))

    def getxattr(self, path: str, name: str) -> bytes:
        if _is_control(path):
            raise os_error(errno.ENODATA, path)
        if path == "/" and name.startswith(SET_ATTRIBUTE):
            return self._control.set_options(name)
        if name in PRIVATE_ATTRIBUTES:
            self._control.check_access(path)
        return self._filesystem.getxattr(without_hidden(path), name)

    def setxattr(self, path: str, name: str, value: bytes, flags: int) -> None:
        path = _changeable(path)
        if name in PRIVATE_ATTRIBUTES:
            self._control.check_access(path, errno.EPERM)
        self._check_owner(path, name)
        self._filesystem.setxattr(path, name, value, flags)

    def removexattr(self, path: str, name: str) -> None:
        path = _changeable(path)
        self._check_owner(path, name)
        self._filesystem.removexattr(path, name)

    def _check_owner(self, path: str, name: str) -> None:
        """Raise `OSError` EPERM if the caller may not set the expiry: the kernel does not check it."""
        if name == EXPIRY_ATTRIBUTE and not self._control.is_called_by(self._filesystem.getattr(path).uid):
            self._control.check_access(path, errno.EPERM)


def _by_path(own: Call[str, Rest, Result], other: Call[str, Rest, Result]) -> Call[str, Rest, Result]:
    """Return a call that is `own` for paths of the control folder, and else `other`."""

    def call(path: str, /, *rest: Rest.args, **named: Rest.kwargs) -> Result:
        if _is_control(path):
            return own(path, *rest, **named)
        return other(without_hidden(path), *rest, **named)

    return call


def _by_handle(own: Call[int, Rest, Result], other: Call[int, Rest, Result]) -> Call[int, Rest, Result]:
    """Return a call that is `own` for handles of the control folder, and else `other`."""

    def call(handle: int, /, *rest: Rest.args, **named: Rest.kwargs) -> Result:
        return (own if handle >= DIRECT_HANDLES else other)(handle, *rest, **named)

    return call


def _changing(call: Call[str, Rest, Result]) -> Call[str, Rest, Result]:
    """Return `call` for paths that may be changed; see `_changeable`."""
    return lambda path, /, *rest, **named: call(_changeable(path), *rest, **named)


def _writing(call: Call[int, Rest, Result]) -> Call[int, Rest, Result]:
    """Return `call` for handles that may be written to; see `_writable`."""
    return lambda handle, /, *rest, **named: call(_writable(handle), *rest, **named)


def _do_nothing(_path_or_handle: object, /) -> None:
    """Do nothing: nothing changes in the control folder."""


def _is_control(path: str) -> bool:
    """Return whether a path is the control folder or below it."""
    return path.startswith(ROOT) and path[len(ROOT) :][:1] in ("", "/")


def _changeable(path: str) -> str:
    """Return the path in the filesystem; raise `OSError` EROFS for one in the control folder."""
    if _is_control(path):
        raise os_error(errno.EROFS, path)
    return without_hidden(path)


def _writable(handle: int) -> int:
    """Return the handle; raise `OSError` EROFS for one in the control folder."""
    if handle >= DIRECT_HANDLES:
        raise os_error(errno.EROFS)
    return handle
