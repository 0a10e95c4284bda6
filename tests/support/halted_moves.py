"""Holds requests of a store back while a folder moves."""

import threading

from support.deadlines import within
from support.memory_store import MemoryStore


class Halt:
    """Holds the store's requests of one method until `go_on`; then they fail with `error`, if given.

    With a `subject` only those about it.
    """

    def __init__(
        self, store: MemoryStore, method: str, error: type[Exception] | None = None, subject: str = ""
    ) -> None:
        self.reached = threading.Event()
        self._released = threading.Event()
        self._store, self._method, self._error, self._subject = store, method, error, subject
        store.hook = self._hook

    def _hook(self, method: str, subject: str) -> None:
        if method != self._method or self._subject not in ("", subject):
            return
        self.reached.set()
        assert self._released.wait(within(20))
        if self._error is not None:
            raise self._error("no")

    def go_on(self) -> None:
        """Let the requests continue."""
        self._released.set()
