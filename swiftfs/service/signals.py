"""SIGHUP makes a mount drop its cached listings; SIGUSR1 makes it log what it is doing; SIGTERM ends it.

libfuse would end the mount at SIGHUP, and SIGUSR1 ends a process by default. libfuse would also forget a
second SIGTERM. All three are blocked in every thread, and one thread for each receives it with sigwait(3).
"""

import enum
import faulthandler
import logging
import os
import signal
import tempfile
from collections.abc import Callable
from typing import Any

from swiftfs.concurrency import main_thread, new_event, new_thread
from swiftfs.journal.queue_report import AWAY, QueuedChange, QueueReport

log = logging.getLogger(__name__)

ALWAYS = {"always": True}
"""The `extra` of a record that `service.monitoring.Repetition` must not suppress: stacks repeat lines."""


def block_signals() -> None:
    """Block the signals of this module in this thread and in those that it starts later."""
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
