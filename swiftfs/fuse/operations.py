"""Operations: the callbacks that both libfuse versions call alike, and what the others have in common."""

# ruff: noqa: ARG002  the callbacks have libfuse's arguments

import contextlib
import ctypes
import errno
import os
from functools import partial
from pathlib import Path
from stat import S_IFDIR, S_IMODE
from typing import Any, ClassVar

from swiftfs.concurrency import unix_time_ns
from swiftfs.errors import SwiftfsError, errno_of
from swiftfs.fuse.filesystem import FileSystem
from swiftfs.fuse.library import UNKNOWN_INODE, UTIME_NOW, UTIME_OMIT, Library, answer_from_file
from swiftfs.fuse.name_moves import NameMoves
from swiftfs.objects import Attributes, PageUse

_DEVICES = Path("/sys/class/bdi")
"""Has a folder for each mount, by the number of its device. Only root may write there."""


class KernelReadAhead:
    """Lets the kernel read files that are all local by the largest requests, and others as by itself.

    The kernel reads 128 KiB ahead, whatever libfuse allows. That is a setting of the whole mount, but an open
    file keeps the one of the moment when it was opened (`do_dentry_open` of Linux). More for all files would
    let programs that read little, and mappings, download more than they need.

    Two opens at the same time may get the setting of each other: it is only a hint. Not locked.
    """

    def __init__(self, request_bytes: int) -> None:
        self._largest = request_bytes // 1024
        self._default = self._now = 0
        self._file: int | None = None

    def begin(self, device: int) -> None:
        """Begin to choose for the mount with the number `device`; do nothing where this process may not."""
        path = _DEVICES / f"{os.major(device)}:{os.minor(device)}" / "read_ahead_kb"
        with contextlib.suppress(OSError):
            self._default = self._now = int(path.read_text())
            if self._default < self._largest:
                self._file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)

    def choose(self, *, is_local: bool) -> None:
        """Choose for the file whose open is about to be answered."""
        wanted = self._largest if is_local else self._default
        if self._file is not None and wanted != self._now:
            self._now = wanted
            with contextlib.suppress(OSError):
                os.pwrite(self._file, str(wanted).encode(), 0)

    def end(self) -> None:
        """Choose no more."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


_DOTS = [(name, Attributes(S_IFDIR, 0, 0, 0, 0, UNKNOWN_INODE)) for name in (b".", b"..")]
"""The first entries of every folder."""

_NOT_OURS = (b"security.", b"system.posix_acl")
"""Attributes that never reach the filesystem: the kernel asks for `security.capability` before writes."""

ANSWER_THAT_DROPS = -errno.ESTALE
"""Any error would do: only libfuse sees it."""

_NOT_SUPPORTED = -errno.EOPNOTSUPP
"""With this answer `ls -l` asks only once; with ENODATA it would ask again for every file."""

_BLOCK = 4096
"""The unit in bytes in which `statfs` counts."""

_UNCHANGED = 2**32 - 1
"""The uid or gid in chown(2) that leaves it as it is."""


class Operations:
    """The calls of the kernel, answered by a `FileSystem`. A failure is an exception; None is success.

    The methods convert arguments, and let the kernel look names up again whose files others have replaced.
    One without a docstring does what `FileSystem` says of its name.
    Pointers are ctypes pointers, or addresses where `Library` reads them.
    """

    read_ahead: ClassVar[KernelReadAhead]
    """That of the mount of this process."""

    def __init__(self, library: Library, filesystem: FileSystem) -> None:
        self.library = library
        self.filesystem = filesystem
        self._names = NameMoves(library, filesystem)
        self._caller = library.caller
        self._getattr = filesystem.getattr
        self._fgetattr = filesystem.getattr_handle
        self._moves = filesystem.moves
        self._cut_off = filesystem.cut_off
        self._validity: ctypes.Array[ctypes.c_double] | None = None
        self._usual_validity, self._is_limited = 0.0, False
        self._read = filesystem.read
        self._write = filesystem.write
        self._write_stat = library.write_stat
        self._handle_of = library.handle_of

    def getattr(self, path: bytes | None, stat: int, file_info: int | None = None) -> int | None:
        """Fill `struct stat` of a path or an open file."""
        if file_info:
            if self.library.is_marked_for_drop(file_info):
                return ANSWER_THAT_DROPS
            self._write_stat(stat, self._fgetattr(self._handle_of(file_info)))
        else:
            assert path is not None
            try:
                attributes = self._getattr(path.decode())
                if self._moves:
                    attributes = self._names.after_move(path, attributes)
            except OSError:
                self._names.missed(path)
                if self._moves or self._cut_off or self._is_limited:
                    self._limit_validity()
                raise
            self._write_stat(stat, attributes)
        if self._cut_off or self._is_limited:
            self._limit_validity()
        return None

    def _limit_validity(self) -> None:
        """Limit what the kernel may cache while a replaced file has, or shall lose, its name.

        Sizes of files that are cut off: readers must ask for their own. That a name is not there: the mover
        must find the name, and the kernel would not ask for it.
        """
        is_cut_off = bool(self._cut_off)
        self._is_limited = is_cut_off or bool(self._moves)
        if self._validity is not None:
            usual = self._usual_validity
            self._validity[:] = [0.0 if self._is_limited else usual, 0.0 if is_cut_off else usual]

    def find_validity(self, address: int) -> None:
        """Use two numbers at `address` in libfuse's memory, of seconds.

        For so long the kernel may cache that a name is not there, and attributes.
        """
        self._validity = (ctypes.c_double * 2).from_address(address)
        self._usual_validity = self._validity[1]

    def read_buf(self, path: bytes | None, target: int, size: int, offset: int, file_info: int) -> None:
        """Answer with a range of a local file, which libfuse splices to the kernel."""
        span = self._read(self._handle_of(file_info), offset, size)
        if not 0 <= span.length <= size:
            raise ValueError(f"{span.length} bytes read where {size} were asked")
        answer_from_file(target, span.descriptor, span.position, span.length)

    def write_buf(self, path: bytes | None, source: int, offset: int, file_info: int) -> int:
        """Ask the filesystem where in a local file the data goes, and move it there."""
        size = self.library.buffer_size(source)
        written = self._write(
            self._handle_of(file_info), offset, size, partial(self.library.copy_to_file, source, size)
        )
        if not 0 <= written <= size:
            raise ValueError(f"{written} bytes written where {size} were given")
        return written

    def open(self, path: bytes, file_info: Any) -> None:
        """Open a file; a handle that bypasses the kernel's pages bypasses the size of stat(2) too."""
        info = file_info.contents
        is_change = info.flags & (os.O_ACCMODE | os.O_TRUNC) != os.O_RDONLY
        if is_other := self.filesystem.is_other_inode(path.decode()):
            self._names.wait_and_try_again(path, is_change=is_change)
        try:
            info.fh = self.filesystem.open(path.decode(), info.flags)
        except (SwiftfsError, OSError) as error:
            # The kernel opens only names that it has seen, so its cache is wrong.
            if errno_of(error) in {errno.ENOENT, errno.EBUSY} and not is_other:
                self._names.wait_and_try_again(path, is_change=is_change)
            raise
        use = self.filesystem.page_use(info.fh)
        # What O_TRUNC has emptied must not be closed, which would store it.
        if use is PageUse.LOOK_AGAIN and not is_other and not info.flags & os.O_TRUNC:
            use = self._names.look_again(path, info)
        if use is PageUse.DROP or info.flags & os.O_TRUNC:
            self.library.mark_for_drop(file_info)
        info.direct_io = use in {PageUse.BYPASS, PageUse.LOOK_AGAIN}
        if not is_change and self.library.can_skip_flush:
            info.noflush = True  # to close it hands nothing in: the kernel need not ask
        self.read_ahead.choose(is_local=self.filesystem.is_local(info.fh))
        self._names.done(path)
        self._names.opened(path, info.fh)
        if self._cut_off:
            self._limit_validity()

    def create(self, path: bytes, mode: int, file_info: Any) -> None:
        """Create and open a file."""
        info = file_info.contents
        try:
            info.fh = self.filesystem.create(path.decode(), S_IMODE(mode), info.flags, self._caller())
        except OSError as error:
            if error.errno == errno.EBUSY:  # the folder is locked: the mover begins before the second time
                self._names.try_again(path)
            raise
        self._names.done(path)
        # The kernel keeps no pages, and libfuse looks up the size within the call.
        use = self.filesystem.page_use(info.fh)
        is_other = use is PageUse.LOOK_AGAIN and self.filesystem.is_other_inode(path.decode())
        info.direct_io = is_other or use is PageUse.BYPASS
        self._names.opened(path, info.fh)

    def readlink(self, path: bytes, buffer: Any, size: int) -> None:
        """Fill the buffer with a link's target, shortened to its size, and a zero byte."""
        target = self.filesystem.readlink(path.decode()).encode()
        ctypes.memmove(buffer, target[: size - 1] + b"\0", min(len(target) + 1, size))

    def mknod(self, path: bytes, mode: int, device: int) -> None:
        self.filesystem.mknod(path.decode(), mode, device, self._caller())

    def mkdir(self, path: bytes, mode: int) -> None:
        self.filesystem.mkdir(path.decode(), S_IMODE(mode), self._caller())

    def unlink(self, path: bytes) -> None:
        self.filesystem.unlink(path.decode())

    def rmdir(self, path: bytes) -> None:
        self.filesystem.rmdir(path.decode())

    def symlink(self, target: bytes, path: bytes) -> None:
        self.filesystem.symlink(target.decode(), path.decode(), self._caller())

    def link(self, old: bytes, new: bytes) -> None:
        self.filesystem.link(old.decode(), new.decode())

    def rename(self, old: bytes, new: bytes, flags: int = 0) -> None:
        """Rename a file or folder; libfuse hides an open file in this way."""
        if self._names.hides(new):
            self.filesystem.hide(old.decode(), new.decode())
            return
        if self._names.has_hidden():
            # First of all: the rename may take long, and a kill meanwhile must leave the file at `new`.
            self.filesystem.unhide(new.decode())
        self.filesystem.rename(old.decode(), new.decode(), flags)

    def truncate(self, path: bytes | None, length: int, file_info: int | None = None) -> None:
        """Set the size of a file or an open file."""
        if file_info:
            self.filesystem.truncate_handle(self._handle_of(file_info), length)
            return
        assert path is not None
        if is_other := self.filesystem.is_other_inode(path.decode()):
            self._names.wait_and_try_again(path, is_change=True)
        try:
            self.filesystem.truncate(path.decode(), length)
        except OSError as error:
            # The kernel tries this once more, too.
            if error.errno in {errno.ESTALE, errno.EBUSY} and not is_other:
                self._names.wait_and_try_again(path, is_change=True)
            raise
        self._names.done(path)

    def chmod(self, path: bytes | None, mode: int, file_info: int | None = None) -> None:
        """Set the permission bits."""
        self.filesystem.chmod(self._path(path, file_info), S_IMODE(mode))

    def chown(self, path: bytes | None, uid: int, gid: int, file_info: int | None = None) -> None:
        """Set owner and group; -1 as a C number leaves one unchanged."""
        owner, group = (None if number == _UNCHANGED else number for number in (uid, gid))
        self.filesystem.chown(self._path(path, file_info), owner, group, self._caller())

    def utimens(self, path: bytes | None, times: Any, file_info: int | None = None) -> None:
        """Set times; utimensat(2)'s NOW becomes the current time and OMIT becomes None."""
        if times:
            atime, mtime = _nanoseconds(times.contents.actime), _nanoseconds(times.contents.modtime)
        else:
            atime = mtime = unix_time_ns()
        self.filesystem.utimens(self._path(path, file_info), atime, mtime)

    def _path(self, path: bytes | None, file_info: int | None) -> str:
        """Return the path of a call that gets a handle instead: of an ftruncate(2) that also clears bits."""
        if path is not None:
            return path.decode()
        assert file_info is not None
        return self.filesystem.path_of_handle(self._handle_of(file_info))

    def flush(self, path: bytes | None, file_info: Any) -> None:
        self.filesystem.flush(file_info.contents.fh)

    def fsync(self, path: bytes | None, data_only: int, file_info: Any) -> None:
        self.filesystem.fsync(file_info.contents.fh, bool(data_only))

    def release(self, path: bytes | None, file_info: Any) -> None:
        handle = file_info.contents.fh
        self._names.closed(handle)
        self.filesystem.release(handle)

    def fallocate(self, path: bytes | None, mode: int, offset: int, length: int, file_info: int) -> None:
        """Extend an open file, or make a part of it zeros."""
        self.filesystem.fallocate(self._handle_of(file_info), mode, offset, length)

    def opendir(self, path: bytes, file_info: Any) -> None:
        file_info.contents.fh = self.filesystem.opendir(path.decode())

    def entries_after(
        self, offset: int, handle: int, most: int | None = None
    ) -> list[tuple[bytes, Attributes]]:
        """Return the next entries after `offset`, at most `most` besides the dots.

        Only their inodes and types are certain. An entry's offset is the number of entries up to it. As they
        have offsets, libfuse keeps no copy of them.
        """
        found = self.filesystem.readdir(handle, max(0, offset - len(_DOTS)))[:most]
        return _DOTS[offset:] + [(name.encode(), attributes) for name, attributes in found]

    def fsyncdir(self, path: bytes | None, data_only: int, file_info: Any) -> None:
        self.filesystem.fsyncdir(file_info.contents.fh)

    def releasedir(self, path: bytes | None, file_info: Any) -> None:
        self.filesystem.releasedir(file_info.contents.fh)

    def statfs(self, path: bytes, buffer: Any) -> None:
        """Fill `struct statvfs`."""
        usage, answer = self.filesystem.statfs(path.decode()), buffer.contents
        answer.f_bsize = answer.f_frsize = _BLOCK
        answer.f_blocks = usage.total_bytes // _BLOCK
        answer.f_bfree = answer.f_bavail = usage.free_bytes // _BLOCK
        answer.f_files = usage.total_objects
        answer.f_ffree = answer.f_favail = usage.free_objects
        answer.f_namemax = usage.name_bytes

    def getxattr(self, path: bytes, name: bytes, buffer: Any, size: int) -> int:
        """Fill the buffer with an xattr, and return its size; with size 0 there is no buffer."""
        if name.startswith(_NOT_OURS):
            return _NOT_SUPPORTED
        return _fill(buffer, size, self.filesystem.getxattr(path.decode(), name.decode()))

    def listxattr(self, path: bytes, buffer: Any, size: int) -> int:
        """Fill the buffer with the names of xattrs, each with a zero byte behind it, as `getxattr` does."""
        names = self.filesystem.listxattr(path.decode())
        return _fill(buffer, size, "".join(f"{name}\0" for name in names).encode())

    def setxattr(self, path: bytes, name: bytes, value: Any, size: int, flags: int) -> int | None:
        if name.startswith(_NOT_OURS):
            return _NOT_SUPPORTED
        self.filesystem.setxattr(path.decode(), name.decode(), ctypes.string_at(value, size), flags)
        return None

    def removexattr(self, path: bytes, name: bytes) -> int | None:
        if name.startswith(_NOT_OURS):
            return _NOT_SUPPORTED
        self.filesystem.removexattr(path.decode(), name.decode())
        return None


def _fill(buffer: Any, size: int, data: bytes) -> int:
    if not buffer:
        return len(data)
    if len(data) > size:
        return -errno.ERANGE
    ctypes.memmove(buffer, data, len(data))
    return len(data)


def _nanoseconds(moment: Any) -> int | None:
    """Return a `struct timespec` of utimensat(2) in ns since the epoch, or None for UTIME_OMIT."""
    if moment.tv_nsec == UTIME_NOW:
        return unix_time_ns()
    if moment.tv_nsec == UTIME_OMIT:
        return None
    return int(moment.tv_sec) * 1_000_000_000 + int(moment.tv_nsec)
