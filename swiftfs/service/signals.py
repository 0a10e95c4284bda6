"""SIGHUP means "look again", as daemons read it; libfuse alone would end the mount."""

import signal
from collections.abc import Callable

from swiftfs.concurrency import new_event, new_thread


def block_hangup() -> None:
    """Keep SIGHUP from this thread and all that it starts later; it waits for a `HangupWatch`."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})


class HangupWatch:
    """A thread that calls `action` at every SIGHUP of the process. All threads must have it blocked."""

    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action
        self._ended = new_event()
        self._thread = new_thread(self._wait, "hangup")

    def start(self) -> None:
        """Begin; after a fork, if there is one."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, if it was started; later signals wait for ever."""
        self._ended.set()
        if self._thread.ident is not None and self._thread.is_alive():
            signal.pthread_kill(self._thread.ident, signal.SIGHUP)
            self._thread.join()

    def _wait(self) -> None:
        while True:
            signal.sigwait({signal.SIGHUP})
            if self._ended.is_set():
                return
            self._action()
