"""From a command to a background process: a fork, and a pipe that reports the result. Or to systemd."""

import contextlib
import ctypes
import faulthandler
import logging
import logging.handlers
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO

from swiftfs.concurrency import report_thread_failures
from swiftfs.config.cache_dir import LOG
from swiftfs.errors import ConfigurationError
from swiftfs.service.monitoring import (
    JournalFormatter,
    LineFormatter,
    Recent,
    Repetition,
    Told,
    reads_journal,
)
from swiftfs.sqlite import leaves_room

Ready = Callable[[], None]

_READY = b"ready"

SYSLOG = "/dev/log"

_PR_SET_DUMPABLE = 4
"""From Linux' `linux/prctl.h`."""


def run_in_background(work: Callable[[Ready], None]) -> None:
    """Run `work` in its own process; return when it calls its argument.

    Raise `ConfigurationError` with the child's message if `work` fails before that. If the wait is
    interrupted the child ends too. Threads do not survive a fork: `work` starts the first ones.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        # Not sys.exit(): the clean-up of the parent, which this process is a copy of, must not run twice.
        os._exit(_child(work, writer))
    os.close(writer)
    said = b""
    try:
        with os.fdopen(reader, "rb") as pipe:
            # It ends when the child closes its end or dies, whatever the reason.
            said = pipe.read()
    finally:
        if said != _READY:
            os.kill(child, signal.SIGTERM)
            os.waitpid(child, 0)
    if said != _READY:
        raise ConfigurationError(os.fsdecode(said) or "the mount ended before it answered")


def _child(work: Callable[[Ready], None], writer: int) -> int:
    told = False

    def ready() -> None:
        nonlocal told
        told = True
        os.setsid()  # not earlier: until it is mounted, an automount lets only systemd's process group pass
        os.chdir("/")  # not earlier: paths of certificates and clouds.yaml may be relative
        _leave_terminal()
        os.write(writer, _READY)
        os.close(writer)

    try:
        work(ready)
    except BaseException as error:
        if told:
            logging.getLogger(__name__).critical("the mount ended: %s", error)
        else:
            logging.getLogger(__name__).debug("where it failed", exc_info=error)
            os.write(writer, os.fsencode(" ".join(str(error).split()) or repr(error)))
        return 1
    return 0


FEWEST_FILES = 64
"""How many files a mount must be able to open: a third are open all the time, and requests need some."""


def allow_many_files() -> None:
    """Let this process open all files that the system allows; raise `ConfigurationError` if too few."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= most < FEWEST_FILES:
        raise ConfigurationError(
            f"this process may open only {most} files, and a mount needs {FEWEST_FILES}: "
            "raise the hard limit ('ulimit -Hn', LimitNOFILE= of a service)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def forbid_core_dumps() -> None:
    """Let nobody but root read this process's memory, which has the account's keys: no dump, no debugger."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Its failure is harmless: it fails for an argument other than 0 and 1 only; PR_SET_DUMPABLE(2const).
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0)


def _leave_terminal() -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    os.close(nothing)


class _Terminal(logging.StreamHandler[TextIO]):
    """Writes to the current standard error by its own descriptor, as libfuse's messages are caught at 2.

    `close` closes the descriptor, so that a reader of our standard error sees its end.
    """

    def __init__(self) -> None:
        descriptor = os.dup(sys.stderr.fileno())
        super().__init__(os.fdopen(descriptor, "w", encoding=sys.stderr.encoding, errors="backslashreplace"))

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, unless the handler has been replaced meanwhile."""
        if not self.stream.closed:
            super().emit(record)

    def close(self) -> None:
        """Close the descriptor."""
        with self.lock or contextlib.nullcontext():
            super().close()
            with contextlib.suppress(OSError):  # nobody reads it any more
                self.stream.close()


class _OwnLog(logging.handlers.RotatingFileHandler):
    """A log that only its owner can read: it has the names of files."""

    def _open(self) -> TextIOWrapper:
        return _open_own(self.baseFilename)

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record; while the disk has only the journal's space left, warnings and errors only."""
        if record.levelno >= logging.WARNING or leaves_room(Path(self.baseFilename).parent):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Do nothing: the disk is full, and no terminal may be there to say so."""


def _open_own(path: str | Path) -> TextIOWrapper:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o600), "a", encoding="utf-8", errors="backslashreplace")


def report_crashes(path: Path | None = None) -> None:
    """Let a fault of this process, such as SIGBUS on a full tmpfs, write a line and the stacks to a file.

    Without `path` that is standard error. An error that ends a thread is logged.
    """
    # A descriptor of its own, as libfuse's messages are caught at 2.
    file = os.fdopen(os.dup(sys.stderr.fileno()), "w") if path is None else _open_own(path)
    faulthandler.enable(file)  # it keeps the file, and lets go of the one before
    report_thread_failures(_log_failure)


def _log_failure(thread: str, error: BaseException) -> None:
    logging.getLogger(__name__).critical("the thread %r ended: %r", thread, error, exc_info=error)


def log_to_terminal(level: int | str, *, in_background: bool = False) -> None:
    """Write the log to standard error, with priorities if systemd's journal reads it.

    For a mount `in_background`, write only what its user must see, in the form of other messages.
    """
    form = "swiftfs: %(message)s" if in_background else "%(levelname)s: %(message)s"
    handler = _Terminal()
    if in_background:
        handler.addFilter(Told())
    handler.setFormatter(JournalFormatter() if reads_journal(sys.stderr.fileno()) else LineFormatter(form))
    _log_to(handler, level)


def log_to_system(level: int, folder: Path) -> None:
    """Write the log to syslog or, if there is none, to `swiftfs.log` in `folder`."""
    handler: logging.Handler
    if _listens(SYSLOG):
        handler = logging.handlers.SysLogHandler(SYSLOG, logging.handlers.SysLogHandler.LOG_DAEMON)
        form = f"swiftfs[{os.getpid()}]: %(message)s"
    else:
        handler = _OwnLog(folder / LOG, maxBytes=4_000_000, backupCount=2)
        form = "%(asctime)s %(levelname)s %(message)s"
    handler.setFormatter(LineFormatter(form))
    _log_to(handler, level)


def _log_to(handler: logging.Handler, level: int | str) -> None:
    handler.addFilter(Repetition())
    recent = [one for one in logging.getLogger().handlers if isinstance(one, Recent)]
    logging.basicConfig(level=level, handlers=[handler, *recent], force=True)


def _listens(address: str) -> bool:
    """Return whether a process reads the socket; without one, `SysLogHandler` drops records silently."""
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, kind) as probe:
            probe.connect(address)
            return True
    return False


NOTIFY_SECONDS = 1.0
"""How long a report waits while the queue of the socket is full."""


def notify(state: str) -> None:
    """Report a state such as `READY=1` to systemd; do nothing without a `NOTIFY_SOCKET`.

    A supervisor that does not read it must not stop the mount: a report that is not taken is dropped.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.settimeout(NOTIFY_SECONDS)
        with contextlib.suppress(OSError):
            channel.sendto(os.fsencode(state), address)


def is_service() -> bool:
    """Return whether systemd has started this process and waits for its `READY=1`."""
    return bool(os.environ.get("NOTIFY_SOCKET"))
