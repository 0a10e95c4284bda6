"""The sparse local file of a cached file, and the copy of its bytes of one moment, for a file that changes
all the time.
"""

import ctypes
import errno
import fcntl
import hashlib
import mmap
import os
import resource
import stat
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct

from swiftfs.errors import CutFile, os_error
from swiftfs.filecache.block_map import BLOCK
from swiftfs.filecache.block_set import Blocks
from swiftfs.objects import Manifest

_FALLOC_FL_KEEP_SIZE = 1
_FALLOC_FL_PUNCH_HOLE = 2
_TMPFS_MAGIC = 0x01021994
_STATFS_BYTES = 256
"""More than a `struct statfs` has; it begins with the type of the file system."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]

_IN_USE = "open-"
"""How the names of files in use begin."""

_MIB = 1024 * 1024
_SECTOR = 512
"""The unit of `st_blocks` in bytes, whatever the file system's own is (inode(7))."""

RESERVED = 128
"""Descriptors that programs do not get: the journal needs them to sync and store what was closed. Where the
limit is low, a quarter of it."""


def check_descriptor(number: int) -> None:
    """Raise `OSError` EMFILE if a new descriptor, the lowest that was free, is one of those reserved."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if number >= most - min(RESERVED, most // 4):
        raise os_error(errno.EMFILE)


class Mark(NamedTuple):
    """What the file system says of a file, times in ns; every change of the file changes it."""

    inode: int
    size: int
    mtime: int
    ctime: int


PINNED = stat.S_ISVTX
"""The mode bit of a local file that an operation of the journal names, which means nothing else for files. If
no record names such a file, the journal was replaced by an older copy."""


class SparseFile:
    """An open file of a folder. The descriptor is good until `close` or `remove`."""

    def __init__(self, descriptor: int, folder: Path, name: str) -> None:
        self.descriptor = descriptor
        self.folder = folder
        self.name = name

    @property
    def path(self) -> Path:
        """The file's present path."""
        return self.folder / self.name

    @classmethod
    def create(cls, folder: Path) -> "SparseFile":
        """Create an empty file with a new name, and the folder if it is missing."""
        name = new_name()
        path = f"{folder}/{name}"  # a `Path` of each new file takes longer than to open it
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            return cls(os.open(path, flags, 0o600), folder, name)
        except FileNotFoundError:
            folder.mkdir(mode=0o700, exist_ok=True)
            return cls(os.open(path, flags, 0o600), folder, name)

    @classmethod
    def open(cls, folder: Path, name: str) -> "SparseFile":
        """Open a file of the folder; raise `OSError` if that fails."""
        return cls(os.open(f"{folder}/{name}", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC), folder, name)

    def move(self, name: str) -> None:
        """Rename the file; replace a file of that name."""
        # Three `Path`s would take longer than the system call.
        os.rename(f"{self.folder}/{self.name}", f"{self.folder}/{name}")  # noqa: PTH104
        self.name = name

    def measure(self) -> tuple[int, Mark]:
        """Return how many bytes of disk the file takes, and its mark; a rename changes that too."""
        now = os.fstat(self.descriptor)
        mark = Mark(now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns)
        return now.st_blocks * _SECTOR, mark

    def mark(self) -> Mark:
        """Return the mark of the file's present state."""
        return self.measure()[1]

    def set_pinned(self, is_pinned: bool) -> None:
        """Mark the file, for the next process, as one that the journal needs; see `PINNED`."""
        os.fchmod(self.descriptor, 0o600 | PINNED if is_pinned else 0o600)

    def allocated(self) -> int:
        """Return how many bytes of disk the file takes."""
        return os.fstat(self.descriptor).st_blocks * _SECTOR

    def close(self) -> None:
        """Close the file and keep it."""
        os.close(self.descriptor)

    def remove(self) -> None:
        """Close the file and delete it; it may have been deleted before."""
        try:
            os.close(self.descriptor)
        finally:
            self.path.unlink(missing_ok=True)


class MemoryFile(SparseFile):
    """A file in memory (memfd_create(2)) beside a local one, whose folder and name it has: that one stays."""

    def __init__(self, beside: SparseFile) -> None:
        super().__init__(os.memfd_create("swiftfs"), beside.folder, beside.name)

    def remove(self) -> None:
        self.close()


def new_name() -> str:
    """Return a new name for a file in use."""
    return f"{_IN_USE}{os.urandom(16).hex()}"


class CachedVersion(Struct, frozen=True):
    """A local file with the `present` blocks of a version; `checked` means that their MD5 was right.

    `manifest` is that of an SLO, if it is known.
    """

    file: SparseFile
    present: Blocks
    checked: bool
    manifest: Manifest | None = None


def body_of(descriptor: int, size: int, stopped: Callable[[], bool]) -> tuple[bytes, str]:
    """Return the `size` bytes of a small file and their MD5; raise `CutFile` if it is shorter.

    To map them, as those of large files, would take longer. Once `stopped` returns True the bytes are wrong.
    """
    data = os.pread(descriptor, size, 0)
    if len(data) != size and not stopped():
        raise CutFile("", "too short")
    return data, hashlib.md5(data, usedforsecurity=False).hexdigest()


def md5_of(descriptor: int, start: int, end: int, stopped: Callable[[], bool]) -> str:
    """Return the MD5 of a file's bytes from `start` to `end`, or of fewer once `stopped` returns True."""
    digest = hashlib.md5(usedforsecurity=False)
    for offset in range(start, end, _MIB):
        if stopped():
            break
        digest.update(os.pread(descriptor, min(_MIB, end - offset), offset))
    return digest.hexdigest()


def is_in_memory(descriptor: int) -> bool:
    """Return whether a file is on a tmpfs (statfs(2))."""
    buffer = ctypes.create_string_buffer(_STATFS_BYTES)
    if _libc.fstatfs(descriptor, buffer) != 0:
        raise os_error(ctypes.get_errno())
    return ctypes.c_long.from_buffer(buffer).value == _TMPFS_MAGIC


def is_hole(descriptor: int, start: int, end: int) -> bool:
    """Return whether the file has no data from `start` to `end`, so that it reads as zeros."""
    return next_data(descriptor, start, end) >= end


def next_data(descriptor: int, start: int, end: int) -> int:
    """Return where data from `start` on begins, at most `end`; raise `OSError` if the disk fails."""
    return _seek(descriptor, start, end, os.SEEK_DATA, otherwise=start)


def next_hole(descriptor: int, start: int, end: int) -> int:
    """Return where the data at `start` ends, at most `end`; raise `OSError` if the disk fails."""
    return _seek(descriptor, start, end, os.SEEK_HOLE, otherwise=end)


def _seek(descriptor: int, start: int, end: int, whence: int, *, otherwise: int) -> int:
    """Call lseek(2); return `otherwise` where the file system does not know its holes: all counts as data.

    Other errors must not count as "no data": zeros would be stored in place of the file's bytes.
    """
    try:
        return min(os.lseek(descriptor, start, whence), end)
    except OSError as error:
        if error.errno == errno.ENXIO:  # no data from `start` up to the file's end
            return end
        if error.errno == errno.EINVAL:
            return otherwise
        raise


def map_zeros(length: int) -> memoryview:
    """Return zeros that take no memory: all pages are the kernel's page of zeros (mmap(2))."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    return memoryview(mmap.mmap(-1, length, flags=flags, prot=mmap.PROT_READ))


def punch_hole(descriptor: int, offset: int, length: int) -> None:
    """Make `length` bytes from `offset` read as zeros and free their disk space; keep the size."""
    if length <= 0:
        return
    # By ctypes: os.posix_fallocate() knows no modes.
    if _libc.fallocate(descriptor, _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE, offset, length) == 0:
        return
    number = ctypes.get_errno()
    if number != errno.EOPNOTSUPP:
        raise os_error(number)
    # A file system without holes: the bytes must read as zeros all the same.
    zeros = bytes(_MIB)
    while length > 0:
        write_all(descriptor, zeros[:length], offset)
        offset, length = offset + len(zeros), length - len(zeros)


def write_all(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of `data` at `offset`; raise `OSError` if the disk does not take it.

    A disk that becomes full in the middle takes a part, and pwrite(2) returns how much, without an error.
    """
    left = memoryview(data)
    while left:
        written = os.pwrite(descriptor, left, offset)
        left, offset = left[written:], offset + written


def synchronize(folder: Path) -> None:
    """Sync all that was written to the folder's file system to the disk (syncfs(2)); raise `OSError`."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(descriptor) != 0:
            raise os_error(ctypes.get_errno())
    finally:
        os.close(descriptor)


_FICLONE = 0x40049409
"""The ioctl by which a file system makes one file share the blocks of another (ioctl_ficlone(2))."""

_NO_COPY_RANGE = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


class FrozenCopy:
    """A file without a name that holds `blocks` of another one. They do not change once an upload uses it.

    The descriptor is closed when the object is freed, because uploads that have not begun will map it.
    """

    def __init__(self, folder: Path) -> None:
        file = SparseFile.create(folder)
        # Without a name nothing is left of it if the process dies.
        file.path.unlink()
        self.descriptor = file.descriptor
        self.blocks = Blocks()
        weakref.finalize(self, os.close, file.descriptor)

    def covers(self, start: int, end: int) -> bool:
        """Return whether it has the bytes from `start` to `end`."""
        return self.blocks.covers(start // BLOCK, -(-end // BLOCK))

    def allocated(self) -> int:
        """Return how many bytes of disk it takes; blocks that it shares count too."""
        return os.fstat(self.descriptor).st_blocks * 512

    def clone(self, source: int) -> bool:
        """Share all blocks of the file `source`, which takes no disk; return whether that is possible."""
        try:
            fcntl.ioctl(self.descriptor, _FICLONE, source)
        except OSError:
            return False
        return True

    def copy(self, source: int, blocks: Blocks, size: int) -> None:
        """Copy blocks of the file `source`, `size` bytes long, in the kernel; holes stay holes.

        Raise `OSError` ENOSPC when the disk has no space for it.
        """
        if os.fstat(self.descriptor).st_size < size:
            os.ftruncate(self.descriptor, size)
        for first, last in blocks.runs(0, -(-size // BLOCK)):
            start, end = first * BLOCK, min(last * BLOCK, size)
            # The copy may have older bytes here, from `FrozenCopier.begin`, where the source is a hole now.
            punch_hole(self.descriptor, start, end - start)
            while (start := next_data(source, start, end)) < end:
                start += self._copy(source, start, next_hole(source, start, end) - start)

    def _copy(self, source: int, start: int, length: int) -> int:
        try:
            # It shares blocks where the file system can; sendfile(2) is for kernels and file systems without
            # it.
            copied = os.copy_file_range(source, self.descriptor, length, start, start)
        except OSError as error:
            if error.errno not in _NO_COPY_RANGE:
                raise
            os.lseek(self.descriptor, start, os.SEEK_SET)
            copied = os.sendfile(self.descriptor, source, start, length)
        if not copied:  # the source was truncated: `FrozenCopier.end` copies these bytes again
            return length
        return copied
