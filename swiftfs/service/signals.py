"""SIGHUP makes a mount drop its cached listings; SIGUSR1 makes it log what it is doing.

libfuse would end the mount at SIGHUP, and SIGUSR1 ends a process by default. Both are blocked in every
thread, and one thread for each receives it with sigwait(3).
"""

import faulthandler
import logging
import signal
import tempfile
from collections.abc import Callable

from swiftfs.concurrency import new_event, new_thread
from swiftfs.journal.queue_report import QueuedChange, QueueReport

log = logging.getLogger(__name__)

ALWAYS = {"always": True}
"""The `extra` of a record that `service.logging.Repetition` must not suppress: stacks repeat lines."""


def block_signals() -> None:
    """Block SIGHUP and SIGUSR1 in this thread and in those that it starts later, for `SignalWatch`."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, signal.SIGUSR1})


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
    away = "; the server does not answer" if queue.away else ""
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
