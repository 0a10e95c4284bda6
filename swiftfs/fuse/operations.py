"""The operations of both libfuse versions for a `FileSystem`, which does not know FUSE."""

from collections.abc import Callable, Mapping, Sequence
from stat import S_IMODE
from typing import Protocol

from swiftfs.objects import Attributes, Caller, FileSpan, FilesystemUsage, PageUse

_BLOCK = 4096
"""The unit in bytes in which `statfs` counts."""

_UNCHANGED = 2**32 - 1
"""The uid or gid in chown(2) that leaves it as it is."""


class FileSystem(Protocol):
    """The methods that the binding calls, from many threads at once.

    Paths begin with `/`. Failures are `OSError` or `SwiftfsError` with an errno; everything else is EIO.
    Times are in ns since the epoch, sizes and offsets in bytes; `mode` has only permission bits, except in
    `mknod`.
    """

    def getattr(self, path: str) -> Attributes:
        """Return the result of stat(2)."""

    def getattr_handle(self, handle: int) -> Attributes:
        """Return the result of fstat(2)."""

    def readlink(self, path: str) -> str:
        """Return a symbolic link's target."""

    def opendir(self, path: str) -> int:
        """Return a handle for `readdir`."""

    def readdir(self, handle: int, start: int = 0) -> Sequence[tuple[str, Attributes]]:
        """Return names in a folder without `.` and `..`, from number `start` on: none only at the end.

        0 reads the folder anew. The caller may use fewer, and ask for the others again. A handle is read by
        one thread at a time.
        """

    def known_attributes(self, handle: int, names: Sequence[str]) -> Sequence[Attributes | None]:
        """Return the results of stat(2) for names in an open folder, None where that could have to wait.

        They are what the kernel is told with the names, so that it does not ask for them.
        """

    def fsyncdir(self, handle: int) -> None:
        """Return when the folder and its contents are stored."""

    def releasedir(self, handle: int) -> None:
        """Release the handle."""

    def mkdir(self, path: str, mode: int, caller: Caller) -> None:
        """Make a folder."""

    def rmdir(self, path: str) -> None:
        """Remove an empty folder."""

    def unlink(self, path: str) -> None:
        """Remove a file."""

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        """Move, replacing `new`; `flags` are those of renameat2(2). `unhide(new)` is included."""

    def hide(self, path: str, hidden: str) -> None:
        """Move an open file to the name `hidden`, as libfuse does before it is deleted or replaced."""

    def unhide(self, path: str) -> None:
        """Move back the file that this thread has hidden just now, if any."""

    def symlink(self, target: str, path: str, caller: Caller) -> None:
        """Make `path` a symbolic link to `target`."""

    def link(self, old: str, new: str) -> None:
        """Make `new` another name of the file `old`, or a copy."""

    def mknod(self, path: str, mode: int, device: int, caller: Caller) -> None:
        """Make a file of the type in `mode`."""

    def chmod(self, path: str, mode: int) -> None:
        """Set the permission bits."""

    def chown(self, path: str, uid: int | None, gid: int | None, caller: Caller) -> None:
        """Set the owner and group; None leaves them unchanged."""

    def utimens(self, path: str, atime_ns: int | None, mtime_ns: int | None) -> None:
        """Set the times; None leaves them unchanged."""

    def truncate(self, path: str, size: int) -> None:
        """Set a file's size."""

    def truncate_handle(self, handle: int, size: int) -> None:
        """Set an open file's size."""

    def create(self, path: str, mode: int, flags: int, caller: Caller) -> int:
        """Make a file and return a handle on it."""

    def open(self, path: str, flags: int) -> int:
        """Return a handle on a file."""

    def path_of_handle(self, handle: int) -> str:
        """Return the path by which libfuse knows an open file."""

    def page_use(self, handle: int) -> PageUse:
        """Return what the kernel does with its pages of a file that it opens with the new handle."""

    @property
    def moves(self) -> Mapping[str, object]:
        """The files that will be shown as another inode in a moment, by paths; mostly empty."""

    def wait_for_move(self, path: str, seconds: float, begun_seconds: float) -> bool:
        """Wait until `path` has left `moves`; return whether it has.

        It is waited for until `seconds` after it came there, and `begun_seconds` after its move has begun.
        """

    def check_exists(self, path: str) -> None:
        """Raise `OSError` ENOENT if what is shown at `path` is there only until it has left `moves`."""

    def is_other_inode(self, path: str) -> bool:
        """Return whether the kernel has to look a name up again before it opens it."""

    def read(self, handle: int, offset: int, size: int) -> FileSpan:
        """Return where the bytes are; fewer than `size` only at the file's end.

        The descriptor must stay open and the bytes in place until the handle is released: the kernel reads
        them after this has returned.
        """

    def write(self, handle: int, offset: int, size: int, fill: Callable[[int, int], int]) -> int:
        """Call `fill(descriptor, position)` once, which writes the bytes there, and return its result."""

    def flush(self, handle: int) -> None:
        """Handle a close(2), possibly one of several; its failure is the result of close(2)."""

    def fsync(self, handle: int, data_only: bool) -> None:
        """Return when the file is stored."""

    def release(self, handle: int) -> None:
        """Release the handle; a failure is not reported."""

    def fallocate(self, handle: int, mode: int, offset: int, length: int) -> None:
        """Do what fallocate(2) does."""

    def copy_file_range(
        self, handle_in: int, offset_in: int, handle_out: int, offset_out: int, length: int, flags: int
    ) -> int:
        """Copy bytes between two handles, and return how many.

        Raise `OSError` EOPNOTSUPP where the kernel has to read and write them.
        """

    def lseek(self, handle: int, offset: int, whence: int) -> int:
        """Do what lseek(2) does for SEEK_DATA and SEEK_HOLE."""

    def statfs(self, path: str) -> FilesystemUsage:
        """Return the result of statvfs(3)."""

    def getxattr(self, path: str, name: str) -> bytes:
        """Return an extended attribute, never one of `security` or `system`."""

    def listxattr(self, path: str) -> list[str]:
        """Return the names of the extended attributes."""

    def setxattr(self, path: str, name: str, value: bytes, flags: int) -> None:
        """Set an extended attribute; `flags` are those of setxattr(2)."""

    def removexattr(self, path: str, name: str) -> None:
        """Remove an extended attribute."""


class Operations:
    """The calls of the kernel, answered by a `FileSystem`: each method only converts arguments.

    `caller` returns who made the system call that the current thread answers.
    """

    def __init__(self, filesystem: FileSystem, caller: Callable[[], Caller]) -> None:
        self._filesystem = filesystem
        self._caller = caller
        # These operations are the filesystem's own methods, without a call in between.
        self.getattr = filesystem.getattr
        self.fgetattr = filesystem.getattr_handle
        self.read_buf = filesystem.read
        self.write_buf = filesystem.write
        self.readlink = filesystem.readlink
        self.opendir = filesystem.opendir
        self.readdir = filesystem.readdir
        self.known_attributes = filesystem.known_attributes
        self.releasedir = filesystem.releasedir
        self.fsyncdir = filesystem.fsyncdir
        self.open = filesystem.open
        self.path_of_handle = filesystem.path_of_handle
        self.page_use = filesystem.page_use
        self.is_other_inode = filesystem.is_other_inode
        self.moves = filesystem.moves
        self.wait_for_move = filesystem.wait_for_move
        self.check_exists = filesystem.check_exists
        self.link = filesystem.link
        self.unlink = filesystem.unlink
        self.rmdir = filesystem.rmdir
        self.rename = filesystem.rename
        self.hide = filesystem.hide
        self.truncate = filesystem.truncate
        self.ftruncate = filesystem.truncate_handle
        self.utimens = filesystem.utimens
        self.flush = filesystem.flush
        self.fsync = filesystem.fsync
        self.release = filesystem.release
        self.getxattr = filesystem.getxattr
        self.listxattr = filesystem.listxattr
        self.setxattr = filesystem.setxattr
        self.removexattr = filesystem.removexattr
        self.fallocate = filesystem.fallocate
        self.copy_file_range = filesystem.copy_file_range
        self.lseek = filesystem.lseek

    def mkdir(self, path: str, mode: int) -> None:
        """Make a folder."""
        self._filesystem.mkdir(path, S_IMODE(mode), self._caller())

    def symlink(self, target: str, path: str) -> None:
        """Make `path` a symbolic link to `target`."""
        self._filesystem.symlink(target, path, self._caller())

    def mknod(self, path: str, mode: int, device: int) -> None:
        """Make a file, FIFO, socket or device."""
        self._filesystem.mknod(path, mode, device, self._caller())

    def chmod(self, path: str, mode: int) -> None:
        """Set the permission bits."""
        self._filesystem.chmod(path, S_IMODE(mode))

    def chown(self, path: str, uid: int, gid: int) -> None:
        """Set owner and group; -1 as a C number leaves one unchanged."""
        owner, group = (None if number == _UNCHANGED else number for number in (uid, gid))
        self._filesystem.chown(path, owner, group, self._caller())

    def create(self, path: str, mode: int, flags: int) -> int:
        """Make and open a file."""
        return self._filesystem.create(path, S_IMODE(mode), flags, self._caller())

    def statfs(self, path: str) -> dict[str, int]:
        """Return the fields of `struct statvfs`."""
        usage = self._filesystem.statfs(path)
        free = usage.free_bytes // _BLOCK
        return {
            "f_bsize": _BLOCK,
            "f_frsize": _BLOCK,
            "f_blocks": usage.total_bytes // _BLOCK,
            "f_bfree": free,
            "f_bavail": free,
            "f_files": usage.total_objects,
            "f_ffree": usage.free_objects,
            "f_favail": usage.free_objects,
            "f_namemax": usage.name_bytes,
        }
