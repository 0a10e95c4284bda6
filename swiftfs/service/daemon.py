"""The process of a mount: in the background or under systemd, its log, and the signals that it takes.

SIGHUP makes a mount drop its cached listings; SIGUSR1 makes it log what it is doing; SIGTERM ends it. libfuse
would end the mount at SIGHUP, and SIGUSR1 ends a process by default. libfuse would also forget a second
SIGTERM. All three are blocked in every thread, and one thread for each receives it with sigwait(3).
"""

import contextlib
import ctypes
import enum
import faulthandler
import logging
import logging.handlers
import os
import resource
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

from swiftfs.concurrency import main_thread, new_event, new_thread, report_thread_failures
from swiftfs.config.cache_dir import LOG
from swiftfs.errors import ConfigurationError
from swiftfs.journal.queue_report import AWAY, QueuedChange, QueueReport
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


log = logging.getLogger(__name__)

ALWAYS = {"always": True}
"""The `extra` of a record that `service.monitoring.Repetition` must not suppress: stacks repeat lines."""


def block_signals() -> None:
    """Block SIGHUP, SIGUSR1 and SIGTERM in this thread and in those that it starts later."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM})


def end_loop() -> None:
    """Let libfuse's loop end."""
    # SIGINT is the same to libfuse, and it is not blocked. Only the main thread wakes up from its loop; a
    # signal by kill(2) may reach the thread that calls it.
    signal.pthread_kill(main_thread(), signal.SIGINT)


class SignalWatch:
    """A thread that calls `action` at every signal `number` of the process; all threads have it blocked.

    Each signal has its own thread, so that SIGUSR1 works even if the action of SIGHUP hangs.
    """

    def __init__(self, number: signal.Signals, action: Callable[[], None]) -> None:
        self._number = number
        self._action = action
        self._ended = new_event()
        self._thread = new_thread(self._wait, number.name)

    def start(self) -> None:
        """Begin; after a fork, if there is one."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, if it was started; later signals stay pending."""
        self._ended.set()
        if self._thread.ident is not None and self._thread.is_alive():
            # sigwait(3) has no time limit: only the signal itself ends it.
            signal.pthread_kill(self._thread.ident, self._number)
            self._thread.join()

    def _wait(self) -> None:
        while True:
            signal.sigwait({self._number})
            if self._ended.is_set():
                return
            self._action()


class _Phase(enum.Enum):
    STARTING = enum.auto()
    MOUNTING = enum.auto()
    SERVING = enum.auto()
    DRAINING = enum.auto()


class Termination:
    """What SIGTERM does: it kills a process that starts, and ends a mount that serves.

    After an unmount the first SIGTERM is ignored: a machine that shuts down sends it to every process, and it
    must not interrupt the last uploads. SIGINT does the same then. A second signal ends the process at once.

    A signal that comes while libfuse mounts counts when the mount answers: before that the loop cannot be
    ended, and a process that dies then leaves a dead mount.
    """

    def __init__(self) -> None:
        self._phase = _Phase.STARTING
        self._count = 0
        self._forwarded = False
        self._interrupted: Any = None
        self._end_calls: Callable[[], None] = lambda: None
        self._at_once: Callable[[], None] = lambda: None
        self._watch = SignalWatch(signal.SIGTERM, self._terminate)

    def start(self) -> None:
        """Begin to watch."""
        self._watch.start()

    def serve(self, end_calls: Callable[[], None], at_once: Callable[[], None]) -> None:
        """Let SIGTERM end the mount that is being made.

        `end_calls` is called before, because libfuse waits for the calls that are running, and `at_once`
        before a second signal ends the process.
        """
        self._end_calls, self._at_once = end_calls, at_once
        # libfuse takes it while it serves. Later Python would raise KeyboardInterrupt amid the last uploads.
        self._interrupted = signal.signal(signal.SIGINT, self._interrupt)
        self._phase = _Phase.MOUNTING

    def mounted(self) -> bool:
        """Let signals end libfuse's loop from now on; return whether one has come already."""
        self._phase = _Phase.SERVING
        return self._count > 0

    def drain(self) -> None:
        """Let changes be stored; call it when the loop has ended."""
        self._phase = _Phase.DRAINING

    def stop(self) -> None:
        """Let SIGINT do what it did before, and watch no more."""
        self._phase = _Phase.STARTING
        if self._interrupted is not None:
            signal.signal(signal.SIGINT, self._interrupted)
        self._watch.stop()

    def _terminate(self) -> None:
        if self._phase is _Phase.STARTING:
            # Nothing is mounted: as if it were not blocked.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            os.kill(os.getpid(), signal.SIGTERM)
            return
        self._end()

    def _interrupt(self, _number: int, _frame: object) -> None:
        if self._forwarded:  # it came when libfuse's loop had ended already
            self._forwarded = False
        else:
            self._end()

    def _end(self) -> None:
        self._count += 1
        if self._count > 1:
            log.warning("a second signal: ended at once; the next mount stores the remaining changes")
            self._at_once()
            # Not sys.exit(): threads may wait for a server that does not answer. The journal survives it.
            os._exit(1)
        if self._phase is _Phase.DRAINING:
            log.info("changes are still being stored; another signal ends this at once")
            return
        self._end_calls()
        if self._phase is _Phase.SERVING:
            self._forwarded = True
            end_loop()


def log_state(report: Callable[[], QueueReport]) -> None:
    """Log the stacks of all threads, and the changes that are not in Swift yet."""
    # The stacks come first and need no lock: `report` waits for the journal's lock, which may hang.
    # faulthandler writes to a descriptor only.
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        for line in file.read().splitlines():
            log.info("%s", line, extra=ALWAYS)
    queue = report()
    away = f"; {AWAY}" if queue.away else ""
    log.info(
        "changes: %d waiting, %d running, %d parked%s",
        *(queue.waiting, queue.running, queue.parked, away),
        extra=ALWAYS,
    )
    for change in queue.changes:
        log.info("%s", _line(change), extra=ALWAYS)
    if queue.left_out:
        log.info("and %d more", queue.left_out, extra=ALWAYS)


def _line(change: QueuedChange) -> str:
    parts = [f"{change.state} {change.kind} {change.path}"]
    if change.bytes:
        parts.append(f"{change.sent} of {change.bytes} bytes sent")
    if change.attempts:
        parts.append(f"tried {change.attempts} times: {change.reason}")
    return ", ".join(parts)
