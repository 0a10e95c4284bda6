"""What the binding on both libfuse versions serves; whoever implements it does not know FUSE."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from swiftfs.objects import Attributes, Caller, FileSpan, FilesystemUsage, PageUse


class FileSystem(Protocol):
    """The methods that the binding calls, from many threads at once.

    Paths begin with `/`. Failures are `OSError` or `SwiftfsError` with an errno; everything else is EIO.
    Times are in ns since the epoch, sizes and offsets in bytes; `mode` has only permission bits, except in
    `mknod`.
    """

    def getattr(self, path: str, /) -> Attributes:
        """Return the result of stat(2)."""

    def getattr_handle(self, handle: int, /) -> Attributes:
        """Return the result of fstat(2)."""

    def readlink(self, path: str, /) -> str:
        """Return a symbolic link's target."""

    def opendir(self, path: str, /) -> int:
        """Return a handle for `readdir`."""

    def readdir(self, handle: int, start: int = 0, /) -> Sequence[tuple[str, Attributes]]:
        """Return names in a folder without `.` and `..`, from number `start` on: none only at the end.

        0 reads the folder anew. The caller may use fewer, and ask for the others again. A handle is read by
        one thread at a time.
        """

    def known_attributes(self, handle: int, names: Sequence[str], /) -> Sequence[Attributes | None]:
        """Return the results of stat(2) for names in an open folder, None where that could have to wait.

        They are what the kernel is told with the names, so that it does not ask for them.
        """

    def fsyncdir(self, handle: int, /) -> None:
        """Return when the folder and its contents are stored."""

    def releasedir(self, handle: int, /) -> None:
        """Release the handle."""

    def mkdir(self, path: str, mode: int, caller: Caller, /) -> None:
        """Make a folder."""

    def rmdir(self, path: str, /) -> None:
        """Remove an empty folder."""

    def unlink(self, path: str, /) -> None:
        """Remove a file."""

    def rename(self, old: str, new: str, flags: int = 0, /) -> None:
        """Move, replacing `new`; `flags` are those of renameat2(2). `unhide(new)` is included."""

    def hide(self, path: str, hidden: str, /) -> None:
        """Move an open file to the name `hidden`, as libfuse does before it is deleted or replaced."""

    def unhide(self, path: str, /) -> None:
        """Move back the file that this thread has hidden just now, if any: it was hidden for a rename."""

    def symlink(self, target: str, path: str, caller: Caller, /) -> None:
        """Make `path` a symbolic link to `target`."""

    def link(self, old: str, new: str, /) -> None:
        """Make `new` another name of the file `old`, or a copy."""

    def mknod(self, path: str, mode: int, device: int, caller: Caller, /) -> None:
        """Make a file of the type in `mode`."""

    def chmod(self, path: str, mode: int, /) -> None:
        """Set the permission bits."""

    def chown(self, path: str, uid: int | None, gid: int | None, caller: Caller, /) -> None:
        """Set the owner and group; None leaves them unchanged."""

    def utimens(self, path: str, atime_ns: int | None, mtime_ns: int | None, /) -> None:
        """Set the times; None leaves them unchanged."""

    def truncate(self, path: str, size: int, /) -> None:
        """Set a file's size."""

    def truncate_handle(self, handle: int, size: int, /) -> None:
        """Set an open file's size."""

    def create(self, path: str, mode: int, flags: int, caller: Caller, /) -> int:
        """Make a file and return a handle on it."""

    def open(self, path: str, flags: int, /) -> int:
        """Return a handle on a file."""

    def path_of_handle(self, handle: int, /) -> str:
        """Return the path by which libfuse knows an open file."""

    def page_use(self, handle: int, /) -> PageUse:
        """Return what the kernel does with its pages of a file that it opens with the new handle."""

    def is_local(self, handle: int, /) -> bool:
        """Return whether no read of an open file has to wait; of a small one that does not matter."""

    @property
    def moves(self) -> Mapping[str, object]:
        """The files that will be shown as another inode in a moment, by paths; mostly empty."""

    @property
    def cut_off(self) -> Sequence[object]:
        """The open files whose size the kernel must ask for at each read behind it; mostly empty."""

    def wait_for_move(self, path: str, seconds: float, begun_seconds: float, /) -> bool:
        """Wait until `path` has left `moves`; return whether it has.

        It is waited for until `seconds` after it came there, and `begun_seconds` after its move has begun.
        """

    def check_exists(self, path: str, /) -> None:
        """Raise `OSError` ENOENT if what is shown at `path` is there only until it has left `moves`."""

    def is_other_inode(self, path: str, /) -> bool:
        """Return whether the kernel has to look a name up again before it opens it."""

    def read(self, handle: int, offset: int, size: int, /) -> FileSpan:
        """Return where the bytes are; fewer than `size` only at the file's end.

        The descriptor must stay open and the bytes in place until the handle is released: the kernel reads
        them after this has returned.
        """

    def write(self, handle: int, offset: int, size: int, fill: Callable[[int, int], int], /) -> int:
        """Call `fill(descriptor, position)` once, which writes the bytes there, and return its result."""

    def flush(self, handle: int, /) -> None:
        """Handle a close(2), possibly one of several; its failure is the result of close(2)."""

    def fsync(self, handle: int, data_only: bool, /) -> None:
        """Return when the file is stored."""

    def release(self, handle: int, /) -> None:
        """Release the handle; a failure is not reported."""

    def fallocate(self, handle: int, mode: int, offset: int, length: int, /) -> None:
        """Do what fallocate(2) does."""

    def copy_file_range(
        self, handle_in: int, offset_in: int, handle_out: int, offset_out: int, length: int, flags: int, /
    ) -> int:
        """Copy bytes between two handles, and return how many.

        Raise `OSError` EOPNOTSUPP where the kernel has to read and write them.
        """

    def lseek(self, handle: int, offset: int, whence: int, /) -> int:
        """Do what lseek(2) does for SEEK_DATA and SEEK_HOLE."""

    def statfs(self, path: str, /) -> FilesystemUsage:
        """Return the result of statvfs(3)."""

    def getxattr(self, path: str, name: str, /) -> bytes:
        """Return an extended attribute, never one of `security` or `system`."""

    def listxattr(self, path: str, /) -> list[str]:
        """Return the names of the extended attributes."""

    def setxattr(self, path: str, name: str, value: bytes, flags: int, /) -> None:
        """Set an extended attribute; `flags` are those of setxattr(2)."""

    def removexattr(self, path: str, name: str, /) -> None:
        """Remove an extended attribute."""
