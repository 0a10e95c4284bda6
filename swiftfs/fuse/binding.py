"""fusepy's FUSE with what it lacks: zero-copy data, attached threads, packed stat, and one error boundary."""

# ruff: noqa: ARG002  the callbacks have libfuse's arguments

import contextlib
import ctypes
import errno
import logging
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from stat import S_ISDIR
from typing import Any

import fuse

from swiftfs.concurrency import is_main_thread, unix_time_ns
from swiftfs.errors import ConfigurationError, SwiftfsError, errno_of, mount_point_error
from swiftfs.fuse.failures import log_failure
from swiftfs.fuse.operations import Operations
from swiftfs.fuse.structs import (
    UNKNOWN_INODE,
    UTIME_NOW,
    UTIME_OMIT,
    FuseOperations,
    answer_from_file,
    buffer_size,
    copy_to_file,
    handle_of,
    is_marked_for_drop,
    mark_for_drop,
    run,
    write_stat,
)
from swiftfs.fuse.threads import AttachedThreads, Callers
from swiftfs.objects import PageUse

log = logging.getLogger("swiftfs.fuse")

OptionValue = str | int | float | bool

REQUEST_BYTES = 131072
"""The largest read or write request that libfuse 2.9 can exchange with the kernel."""

DOTS = (b".", b"..")
"""The first names of every folder."""

_OWN_OPTIONS: Mapping[str, OptionValue] = {
    # Without these three libfuse 2 gets 4 KiB with each write, and 1 GiB takes 20 s.
    "big_writes": True,
    "max_read": REQUEST_BYTES,
    "max_write": REQUEST_BYTES,
    "max_readahead": REQUEST_BYTES,
    # The data goes from and to the local file in the kernel: see docs/decisions/splice.md.
    "splice_read": True,
    "splice_write": True,
    "splice_move": True,
    # Our inode numbers: libfuse's own are given by path, and forgotten.
    "use_ino": True,
    # libfuse looks at mtime and size at each open, and the kernel keeps its pages of the file only if both
    # are as they were and the look did not fail: see `mark_for_drop`.
    "auto_cache": True,
    "ac_attr_timeout": 0,
    # The type in /proc/mounts is `fuse.swiftfs` then, by which `mount_table` finds our mounts.
    "subtype": "swiftfs",
}

_NOT_OURS = (b"security.", b"system.posix_acl")
"""Attributes that never reach the filesystem: the kernel asks for `security.capability` at every write."""

ANSWER_THAT_DROPS = -errno.ESTALE
"""Any error would do: only libfuse sees it."""

_NOT_SUPPORTED = -errno.EOPNOTSUPP
"""With this answer `ls -l` asks only once; with ENODATA it would ask again for every file."""


_REMEDIES = {
    "failed to open /dev/fuse: Permission denied": ": its mode should be 666",
    "mount failed: Operation not permitted": ": fusermount should belong to root and be set-user-ID",
    "option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf": ", by root",
}
"""What to do about a message of libfuse or fusermount; it is appended."""

_threads = AttachedThreads()


class _DivertedStderr:
    """Descriptor 2, redirected to memory: libfuse reports only there why it cannot mount."""

    def __init__(self) -> None:
        self._stderr = os.dup(2)
        self._memory = os.memfd_create("libfuse-stderr")
        os.dup2(self._memory, 2)

    def restore(self) -> str:
        """Put descriptor 2 back and return what was written meanwhile (nothing the second time)."""
        if self._memory < 0:
            return ""
        os.dup2(self._stderr, 2)
        text = os.pread(self._memory, 65536, 0).decode("utf-8", "replace")
        os.close(self._stderr)
        os.close(self._memory)
        self._memory = -1
        return text


class FUSE(fuse.FUSE):  # type: ignore[misc]
    """A mount. Building one mounts, serves until the mount is unmounted or signalled, and then returns.

    `source` is the name that `df` and /proc/mounts show; the timeouts are in seconds. `on_init` runs in a
    thread of libfuse once the mount is live, and may start threads; when it fails, the mount ends and its
    error is raised here. `on_destroy` runs after the last callback. `options` are further mount options
    (fuse(8)), flags as True, and win over our own. Where nothing could be mounted, raise
    `ConfigurationError` with libfuse's reason.

    Call it in the main thread, with the default actions for SIGTERM and SIGHUP: libfuse handles only those.
    """

    def __init__(
        self,
        operations: Operations,
        mountpoint: str | Path,
        *,
        source: str,
        attr_timeout: float = 1.0,
        entry_timeout: float = 1.0,
        negative_timeout: float = 0.0,
        on_init: Callable[[], None] | None = None,
        on_destroy: Callable[[], None] | None = None,
        options: Mapping[str, OptionValue] | None = None,
    ) -> None:
        # fusepy's own constructor knows only the shorter operations table, so it is not called.
        self.operations = operations
        self.raw_fi = False
        self.encoding = "utf-8"
        self.use_ns = True
        self._mountpoint = Path(mountpoint)
        self._on_init, self._on_destroy = on_init, on_destroy
        self._failure: BaseException | None = None
        self._live = False
        self._callers = Callers()
        self._bind_hot_operations()
        timeouts = {
            "attr_timeout": attr_timeout,
            "entry_timeout": entry_timeout,
            "negative_timeout": negative_timeout,
        }
        self._serve(_mount_options(source, {**_OWN_OPTIONS, **timeouts, **(options or {})}))

    def _bind_hot_operations(self) -> None:
        self._getattr = self.operations.getattr
        self._fgetattr = self.operations.fgetattr
        self._moves = self.operations.moves
        self._read = self.operations.read_buf
        self._write = self.operations.write_buf

    def _serve(self, options: str) -> None:
        self._check_mountpoint()
        # `-f`: a process with threads must not fork. `service/daemon.py` has done that before.
        words = [b"swiftfs", b"-f", b"-o", options.encode(), os.fsencode(self._mountpoint.absolute())]
        arguments = (ctypes.c_char_p * len(words))(*words)
        table = self._table()
        # The calling thread belongs to Python: its state must not be held and given back by us.
        _threads.mark.kept = True
        self._stderr = _DivertedStderr()
        said = ""
        try:
            with _default_interrupt():
                failed = run(arguments, table)
        finally:
            said = self._stderr.restore()
        _threads.join(seconds=10)
        if self._failure is not None:
            raise self._failure
        if failed and not self._live:
            raise self._refusal(_first_reason(said))
        if failed:
            log.error("libfuse stopped serving %s with an error", self._mountpoint)

    def _check_mountpoint(self) -> None:
        """Refuse a mount point that libfuse would accept, such as a file, or report with other words."""
        try:
            if not S_ISDIR(self._mountpoint.stat().st_mode):
                raise self._refusal("it is not a directory")
        except OSError as error:
            raise mount_point_error(self._mountpoint, error) from error

    def _refusal(self, reason: str) -> ConfigurationError:
        return ConfigurationError(f"cannot mount on {self._mountpoint}: {reason}")

    def _table(self) -> FuseOperations:
        """Build the C table: a member is offered when the operations have it, as in fusepy."""
        table = FuseOperations()
        for name, kind, *_ in FuseOperations._fields_:
            # fusepy's `ftruncate` calls the operation `truncate` with a handle.
            value = getattr(self.operations, name.replace("ftruncate", "truncate"), None)
            if value is None:
                continue
            if hasattr(kind, "argtypes"):
                value = kind(_bounded(name, getattr(self, name)))
            setattr(table, name, value)
        return table

    def init(self, connection: int) -> None:
        """Begin: the mount answers from now on."""
        said = self._stderr.restore()
        if said:
            log.warning("libfuse: %s", " ".join(said.split()))
        self._live = True
        if self._on_init is None:
            return
        try:
            self._on_init()
        except BaseException as error:  # noqa: BLE001  raised again where FUSE() returns
            # An exception that leaves a callback is lost in ctypes.
            self._failure = error
            fuse.fuse_exit()

    def destroy(self, private_data: int) -> None:
        """End: no callback follows."""
        if self._live and self._on_destroy is not None:
            self._on_destroy()

    def getattr(self, path: bytes, stat: int) -> None:
        """Fill `struct stat` of a path."""
        try:
            attributes = self._getattr(path.decode())
            if self._moves and self.operations.wait_for_move(path.decode(), self._callers.patience(path)):
                attributes = self._getattr(path.decode())
        except OSError:
            self._callers.missed(path)
            raise
        write_stat(stat, attributes)

    def fgetattr(self, path: bytes | None, stat: int, file_info: int) -> int | None:
        """Fill `struct stat` of an open file."""
        if is_marked_for_drop(file_info):
            return ANSWER_THAT_DROPS
        write_stat(stat, self._fgetattr(handle_of(file_info)))
        return None

    def readdir(self, path: bytes | None, buffer: int, filler: Any, offset: int, file_info: Any) -> None:
        """Pass the entries after `offset`, with inode and type, as many as libfuse takes.

        An entry's offset is how many there are up to it. With offsets libfuse keeps none of them.
        """
        # One image for all names: to make one for each would take longer than the call.
        image = fuse.c_stat(st_ino=UNKNOWN_INODE, st_mode=0o040000)
        stat = ctypes.addressof(image)
        for name in DOTS[offset:]:
            offset += 1
            filler(buffer, name, stat, offset)
        for text, attributes in self.operations.readdir(None, file_info.contents.fh, offset - len(DOTS)):
            offset += 1
            image.st_ino = attributes.inode or UNKNOWN_INODE
            image.st_mode = attributes.mode
            if filler(buffer, text.encode(), stat, offset):
                return

    def read_buf(self, path: bytes | None, target: int, size: int, offset: int, file_info: int) -> None:
        """Answer with a range of a local file, which libfuse splices to the kernel."""
        span = self._read(handle_of(file_info), offset, size)
        if not 0 <= span.length <= size:
            raise ValueError(f"{span.length} bytes read where {size} were asked")
        answer_from_file(target, span.descriptor, span.position, span.length)

    def write_buf(self, path: bytes | None, source: int, offset: int, file_info: int) -> int:
        """Ask the filesystem where in a local file the data goes, and move it there."""
        size = buffer_size(source)
        written = self._write(handle_of(file_info), offset, size, partial(copy_to_file, source, size))
        if not 0 <= written <= size:
            raise ValueError(f"{written} bytes written where {size} were given")
        return written

    def open(self, path: bytes, file_info: Any) -> None:
        """Open a file; a handle that bypasses the kernel's pages bypasses the size of stat(2) too."""
        info = file_info.contents
        if is_other := self.operations.is_other_inode(path.decode()):
            self._callers.try_again(path)
        try:
            info.fh = self.operations.open(path.decode(), info.flags)
        except (SwiftfsError, OSError) as error:
            # The kernel opens only names that it has seen, so its cache is wrong.
            if errno_of(error) == errno.ENOENT and not is_other:
                self._callers.try_again(path)
            raise
        use = self.operations.page_use(info.fh)
        # What O_TRUNC has emptied must not be closed, which would store it.
        if use is PageUse.LOOK_AGAIN and not is_other and not info.flags & os.O_TRUNC:
            use = self._look_again(path, info)
        if use is PageUse.DROP or info.flags & os.O_TRUNC:
            mark_for_drop(file_info)
        info.direct_io = use in {PageUse.BYPASS, PageUse.LOOK_AGAIN}
        self._callers.done(path)
        self._callers.opened(path, info.fh)

    def rename(self, old: bytes, new: bytes) -> None:
        """Rename a file or folder; libfuse hides an open file in this way."""
        rename = self.operations.hide if self._callers.hides(new) else self.operations.rename
        rename(old.decode(), new.decode())

    def _look_again(self, path: bytes, info: Any) -> PageUse:
        """Let the kernel open the file again, once; then open what its inode has, and return how."""
        try:
            self._callers.try_again(path)
        except OSError:
            self.operations.release(None, info.fh)
            raise
        if self.operations.is_other_inode(path.decode()):  # it was replaced since the kernel looked
            self.operations.release(None, info.fh)
            info.fh = self.operations.open(path.decode(), info.flags)
        return self.operations.page_use(info.fh)

    def truncate(self, path: bytes, length: int) -> None:
        """Set the size of a file that need not be open."""
        if self.operations.is_other_inode(path.decode()):
            self._callers.try_again(path)
        try:
            self.operations.truncate(path.decode(), length)
        except OSError as error:
            # The kernel tries this once more, too.
            if error.errno == errno.ESTALE:
                self._callers.try_again(path)
            raise
        self._callers.done(path)

    def create(self, path: bytes, mode: int, file_info: Any) -> None:
        """Create and open a file (fusepy passes no flags)."""
        info = file_info.contents
        info.fh = self.operations.create(path.decode(), mode, info.flags)
        # The kernel keeps no pages, and libfuse looks up the size within the call.
        use = self.operations.page_use(info.fh)
        is_other = use is PageUse.LOOK_AGAIN and self.operations.is_other_inode(path.decode())
        info.direct_io = is_other or use is PageUse.BYPASS
        self._callers.opened(path, info.fh)

    def release(self, path: bytes | None, file_info: Any) -> None:
        """Close a handle."""
        handle = file_info.contents.fh
        self._callers.closed(handle)
        self.operations.release(None, handle)

    def utimens(self, path: bytes, times: Any) -> None:
        """Set times; utimensat(2)'s NOW becomes the current time and OMIT becomes None."""
        if times:
            atime, mtime = _nanoseconds(times.contents.actime), _nanoseconds(times.contents.modtime)
        else:
            atime = mtime = unix_time_ns()
        self.operations.utimens(path.decode(), (atime, mtime))

    def fallocate(self, path: bytes | None, mode: int, offset: int, length: int, file_info: int) -> None:
        """Reserve, zero or punch a part of an open file."""
        self.operations.fallocate(handle_of(file_info), mode, offset, length)

    def getxattr(self, path: bytes, name: bytes, value: Any, size: int, *args: Any) -> int:
        """Return an xattr."""
        if name.startswith(_NOT_OURS):
            return _NOT_SUPPORTED
        return int(super().getxattr(path, name, value, size, *args))

    def setxattr(
        self, path: bytes, name: bytes, value: Any, size: int, options: int, *args: Any
    ) -> int | None:
        """Set an xattr."""
        if name.startswith(_NOT_OURS):
            return _NOT_SUPPORTED
        super().setxattr(path, name, value, size, options, *args)
        return None

    def removexattr(self, path: bytes, name: bytes) -> int | None:
        """Remove an xattr."""
        if name.startswith(_NOT_OURS):
            return _NOT_SUPPORTED
        super().removexattr(path, name)
        return None


def _bounded(name: str, method: Callable[..., int | None]) -> Callable[..., int]:
    """Return the callback for libfuse: it always returns an int, for a failure a negative errno."""
    mark, attach = _threads.mark, _threads.attach

    def callback(*args: Any) -> int:
        try:
            try:
                mark.kept  # noqa: B018  the cheapest question whether this thread is attached
            except AttributeError:
                attach()
            answer = method(*args)
            if answer is None:
                return 0
            # ctypes only prints a warning about a result that is no int, and libfuse sees a random number.
            if answer.__class__ is not int:
                raise TypeError(f"answered {answer!r}")  # noqa: TRY301  no other place sees every answer
        except BaseException as error:  # noqa: BLE001  even SystemExit must not reach libfuse
            return -log_failure(name, args, error)
        return answer

    return callback


def _nanoseconds(moment: Any) -> int | None:
    """Return a `struct timespec` of utimensat(2) in ns since the epoch, or None for UTIME_OMIT."""
    if moment.tv_nsec == UTIME_NOW:
        return unix_time_ns()
    if moment.tv_nsec == UTIME_OMIT:
        return None
    return int(moment.tv_sec) * 1_000_000_000 + int(moment.tv_nsec)


def _mount_options(source: str, options: Mapping[str, OptionValue]) -> str:
    """Join the options as libfuse parses them: a backslash protects a comma or backslash inside a value."""
    words = []
    for name, value in {"fsname": source, **options}.items():
        if value is True:
            words.append(name)
        elif value is not False:
            text = str(value).replace("\\", "\\\\").replace(",", "\\,")
            words.append(f"{name}={text}")
    return ",".join(words)


def _first_reason(said: str) -> str:
    """Return the first line of libfuse or fusermount without the program's name, and what to do."""
    for line in said.splitlines():
        program, colon, reason = line.partition(": ")
        if line.strip():
            ours = colon and Path(program).name in {"fuse", "fusermount", "fusermount3", "swiftfs"}
            text = reason if ours else line
            return text + _REMEDIES.get(text, "")
    return "libfuse gives no reason"


@contextlib.contextmanager
def _default_interrupt() -> Iterator[None]:
    """Remove Python's SIGINT handler: libfuse handles only signals that have their default action."""
    if not is_main_thread():
        yield
        return
    # A Python handler would only run in the main thread between bytecodes, and that thread is in libfuse.
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
