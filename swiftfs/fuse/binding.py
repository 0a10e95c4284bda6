"""A mount from its start to its end: libfuse's threads, an errno for each failure, reasons for refusals."""

# ruff: noqa: ARG002  the callbacks have libfuse's arguments

import contextlib
import ctypes
import errno
import logging
import os
import signal
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from stat import S_ISDIR
from typing import Any, ClassVar

from swiftfs.concurrency import Local, Rank, is_main_thread, new_condition
from swiftfs.errors import ConfigurationError, Offline, StoreError, SwiftfsError, errno_of, mount_point_error
from swiftfs.fuse.filesystem import FileSystem
from swiftfs.fuse.library import Library
from swiftfs.fuse.operations import Operations

log = logging.getLogger(__name__)

_ensure = ctypes.PYFUNCTYPE(ctypes.c_int)(("PyGILState_Ensure", ctypes.pythonapi))
_release = ctypes.PYFUNCTYPE(None, ctypes.c_int)(("PyGILState_Release", ctypes.pythonapi))
_ThreadExit = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def _exit_hook() -> Callable[[Any], bool] | None:
    """Return a function that registers a callback for the calling thread's end, or None without glibc."""
    register = getattr(ctypes.PyDLL(None), "__cxa_thread_atexit_impl", None)
    if register is None:
        return None
    register.argtypes = (_ThreadExit, ctypes.c_void_p, ctypes.c_void_p)
    # glibc counts the hook against the library that this address lies in, and crashes on NULL.
    library = ctypes.cast(register, ctypes.c_void_p)
    return lambda function: register(function, None, library) == 0


_at_thread_exit = _exit_hook()


class AttachedThreads:
    """libfuse's threads, each of which keeps the Python thread state that its first callback made.

    ctypes creates and destroys a thread state around every callback unless another PyGILState_Ensure holds
    it. A destructor releases it, which glibc runs while the thread still has its thread-local values (pthread
    keys are cleared too early for that), so threads may come and go. Without glibc nothing is kept.
    """

    def __init__(self) -> None:
        self.mark = Local()
        """Has the attribute `kept` in the threads that need no `attach`."""
        self._ended = new_condition(Rank.FUSE_THREADS)
        self._attached = 0
        self._on_exit = _ThreadExit(self._detach)

    def attach(self) -> None:
        """Keep the calling thread's state until the thread ends."""
        if _at_thread_exit is None or not _at_thread_exit(self._on_exit):
            return
        _ensure()
        self.mark.kept = True
        with self._ended:
            self._attached += 1

    def _detach(self, _: int | None) -> None:
        with self._ended:
            self._attached -= 1
            self._ended.notify_all()
        # Last: the thread has no Python state any more when this callback has returned.
        _release(0)

    def join(self, seconds: float) -> None:
        """Wait until all have ended: a thread that runs at the interpreter's end crashes the process."""
        with self._ended:
            self._ended.wait_for(lambda: self._attached == 0, seconds)


log = logging.getLogger("swiftfs.fuse")

OptionValue = str | int | float | bool

SHARED_OPTIONS: Mapping[str, OptionValue] = {
    # libfuse looks at mtime and size at each open, and the kernel keeps its pages of the file only if both
    # are as they were and the look did not fail: see `Library.mark_for_drop`.
    "auto_cache": True,
    "ac_attr_timeout": 0,
    # The data goes from and to the local file in the kernel: see docs/decisions/splice.md.
    "splice_read": True,
    "splice_write": True,
    "splice_move": True,
    # The type in /proc/mounts is `fuse.swiftfs` then, by which `mount_table` finds our mounts.
    "subtype": "swiftfs",
}

_threads = AttachedThreads()


class FUSE(Operations):
    """A mount. Building one mounts, serves until the mount is unmounted or signalled, and then returns.

    `source` is the name that `df` and /proc/mounts show; the timeouts are in seconds. `on_init` runs in a
    thread of libfuse once the mount is live, and may start threads; when it fails, the mount ends and its
    error is raised here. `on_destroy` runs after the last callback. `options` are further mount options
    (fuse(8)), flags as True, and win over our own. Without `has_set_id` no file ever shows a setuid or
    setgid bit. Where nothing could be mounted, raise `ConfigurationError` with libfuse's reason.

    Call it in the main thread, with the default actions for SIGTERM and SIGHUP: libfuse handles only those.
    There is one subclass for each version of libfuse.
    """

    libfuse: ClassVar[Library]
    """The loaded library."""

    table_type: ClassVar[type[ctypes.Structure]]
    """The library's `struct fuse_operations`; a member is offered if this class has a method of its name."""

    own_options: ClassVar[Mapping[str, OptionValue]]
    """The mount options of this version, which `options` may change."""

    file_info_at: ClassVar[Mapping[str, int]] = {}
    """Which argument is the open file of a callback, where it is not the last."""

    def __init__(
        self,
        filesystem: FileSystem,
        mountpoint: str | Path,
        *,
        source: str,
        attr_timeout: float = 1.0,
        entry_timeout: float = 1.0,
        negative_timeout: float = 0.0,
        on_init: Callable[[], None] | None = None,
        on_destroy: Callable[[], None] | None = None,
        options: Mapping[str, OptionValue] | None = None,
        has_set_id: bool = True,
    ) -> None:
        super().__init__(self.libfuse, filesystem)
        self._mountpoint = Path(mountpoint)
        self._on_init, self._on_destroy = on_init, on_destroy
        self.has_set_id = has_set_id
        self._failure: BaseException | None = None
        self._live = False
        self.timeouts = timeouts = {
            "entry_timeout": entry_timeout,
            "negative_timeout": negative_timeout,
            "attr_timeout": attr_timeout,
        }
        self._serve(_mount_options(source, {**self.own_options, **timeouts, **(options or {})}))

    @abstractmethod
    def run(self, options: bytes, mountpoint: bytes, table: ctypes.Structure) -> bool:
        """Mount, serve, unmount; return whether that failed. An end of the connection is no failure.

        SIGINT is blocked in this thread afterwards (`block_interrupt`).
        """

    def _serve(self, options: str) -> None:
        self._check_mountpoint()
        table = self._table()
        # The calling thread belongs to Python: its state must not be held and given back by us.
        _threads.mark.kept = True
        self._stderr = DivertedStderr()
        said = ""
        try:
            with _default_interrupt():
                failed = self.run(options.encode(), os.fsencode(self._mountpoint.absolute()), table)
        finally:
            said = self._stderr.restore()
        _threads.join(seconds=10)
        if self._failure is not None:
            raise self._failure
        if failed and not self._live:
            raise self._refusal(first_reason(said))
        if failed:
            log.error("libfuse stopped serving %s with an error", self._mountpoint)

    def _check_mountpoint(self) -> None:
        """Refuse a mount point for which the two versions of libfuse differ, in what they accept or say."""
        try:
            if not S_ISDIR(self._mountpoint.stat().st_mode):
                raise self._refusal("it is not a directory")
            if any(self._mountpoint.iterdir()):
                raise self._refusal("mountpoint is not empty")
        except OSError as error:
            raise mount_point_error(self._mountpoint, error) from error

    def _refusal(self, reason: str) -> ConfigurationError:
        return ConfigurationError(f"cannot mount on {self._mountpoint}: {reason}")

    def _table(self) -> ctypes.Structure:
        """Build the C table of the callbacks."""
        table = self.table_type()
        for name, kind, *_ in self.table_type._fields_:
            method = getattr(self, name, None)
            if method is not None and hasattr(kind, "argtypes"):
                setattr(table, name, kind(self._bounded(name, method)))
        return table

    def begin(self) -> None:
        """Record that the mount answers from now on."""
        said = self._stderr.restore()
        if said:
            log.warning("libfuse: %s", " ".join(said.split()))
        self._live = True
        if self._on_init is None:
            return
        try:
            self._on_init()
        except BaseException as error:  # noqa: BLE001  raised again where FUSE() returns
            self.end_with(error)

    def end_with(self, error: BaseException) -> None:
        """End the mount, and raise `error` where FUSE() returns; an exception of a callback would be lost."""
        self._failure = error
        self.libfuse.exit()

    def destroy(self, private_data: int) -> None:
        """End: no callback follows."""
        if self._live and self._on_destroy is not None:
            self._on_destroy()

    def _bounded(self, name: str, method: Callable[..., int | None]) -> Callable[..., int]:
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
                # ctypes only prints a warning about a result that is no int; libfuse sees a random number.
                if answer.__class__ is not int:
                    raise TypeError(f"answered {answer!r}")  # noqa: TRY301  no other place sees every answer
            except BaseException as error:  # noqa: BLE001  even SystemExit must not reach libfuse
                return -log_failure(name, args, self._handle_in(name, args), error)
            return answer

        return callback

    def _handle_in(self, name: str, args: tuple[Any, ...]) -> int | None:
        """Return the handle of the open file that a callback is about, if it has no path."""
        if not args or args[0] is not None:
            return None
        file_info = args[self.file_info_at.get(name, -1)]
        if isinstance(file_info, int):
            return self.libfuse.handle_of(file_info)
        return int(file_info.contents.fh) if file_info else None


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


_EVERYDAY = {errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.ENAMETOOLONG, errno.EINVAL}
"""Store errors that programs cause in ordinary use: logged at DEBUG, all others as warnings."""

_FULL = (
    "the disk of the cache folder is full, or cache_size is full of what is not in Swift yet: free space on "
    "that disk, or raise cache_size; 'swiftfs status' shows what waits, and why"
)
"""What to do about an ENOSPC of the local disk; that of Swift has a `StoreError`."""

_TOO_MANY = (
    "programs have as many files open as this mount's process may open: raise its hard limit "
    "('ulimit -Hn', LimitNOFILE= of a service), then mount again"
)
"""What to do about an EMFILE."""


def log_failure(name: str, args: tuple[Any, ...], handle: int | None, error: BaseException) -> int:
    """Log `error`, an unexpected one as an error, and return its positive errno.

    `handle` is that of the open file that the callback `name` is about, None if it has none.
    """
    # Each new file begins with a lookup that fails: no message is made that nobody reads.
    if isinstance(error, FileNotFoundError) and error.errno and not log.isEnabledFor(logging.DEBUG):
        return error.errno
    subject = _subject(name, args, handle)
    # A name that is not UTF-8 cannot be an object's: no fault of ours, so it is not logged as one.
    if isinstance(error, UnicodeDecodeError) and error.object in args:
        number = errno.EILSEQ
    else:
        number = errno_of(error)
        known = getattr(error, "errno", None)
        if not isinstance(error, OSError | SwiftfsError) or known != number:
            log.error(
                "%s %s failed: %r",
                name,
                subject,
                error,
                exc_info=error if log.isEnabledFor(logging.DEBUG) else None,
            )
            return number
    if number == errno.ENOSPC and not isinstance(error, StoreError):
        log.warning("%s %s: ENOSPC: %s", name, subject, _FULL)
    if number == errno.EMFILE:
        log.warning("%s %s: EMFILE: %s", name, subject, _TOO_MANY)
    # That the server is away was logged when that began.
    everyday = not isinstance(error, StoreError) or isinstance(error, Offline) or number in _EVERYDAY
    code = errno.errorcode.get(number, number)
    log.log(logging.DEBUG if everyday else logging.WARNING, "%s %s: %s (%s)", name, subject, code, error)
    return number


def _subject(name: str, args: tuple[Any, ...], handle: int | None) -> str:
    """Return the subject of a callback: its path or, since open files come without one, its handle."""
    path = args[1 if name == "symlink" else 0] if args else None
    if isinstance(path, bytes):
        return repr(path.decode("utf-8", "backslashreplace"))
    return "the mount" if handle is None else f"handle {handle}"


_REMEDIES = (
    ("failed to exec fusermount*: No such file or directory", ": install the package fuse3"),
    ("failed to open /dev/fuse: Permission denied", ": its mode should be 666"),
    ("mount failed: Operation not permitted", ": fusermount should belong to root and be set-user-ID"),
    ("option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf", ", by root"),
    # It runs as root, which the mount of a user does not let in.
    (
        "failed to access mountpoint *: Permission denied",
        ": choose a folder that is not in another FUSE mount",
    ),
)
"""Messages of libfuse and fusermount, as patterns, and what to do about them; it is appended."""


class DivertedStderr:
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


def first_reason(said: str) -> str:
    """Return the first line of libfuse or fusermount without the program's name, and what to do."""
    for line in said.splitlines():
        program, colon, reason = line.partition(": ")
        if line.strip():
            ours = colon and Path(program).name in {"fuse", "fusermount", "fusermount3", "swiftfs"}
            text = reason if ours else line
            return text + next((todo for said, todo in _REMEDIES if fnmatchcase(text, said)), "")
    return "libfuse gives no reason"
