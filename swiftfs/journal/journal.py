"""The journal: where the floors above hand in their changes."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from swiftfs.errors import StoreError
from swiftfs.journal.execution import Execution
from swiftfs.journal.intents import Delete, Intent
from swiftfs.model import ObjectInfo, ObjectName
from swiftfs.store.protocol import ObjectStore

log = logging.getLogger(__name__)

PARALLEL = 16
"""Copies and deletions of one intent under way at once."""

SUPERSEDE_SECONDS = 0.5
"""How long a deletion waits for the rename that makes it needless, which comes within milliseconds."""


class Journal:
    """Executes every intent before `submit` returns. The lock guards `_waiting`."""

    def __init__(self, store: ObjectStore, segment_size: int) -> None:
        self._pool = ThreadPoolExecutor(PARALLEL, thread_name_prefix="journal")
        self.execution = Execution(store, self._pool, segment_size)
        self._lock = threading.Lock()
        self._waiting: dict[ObjectName, tuple[Delete, threading.Timer]] = {}

    def submit(self, intent: Intent) -> ObjectInfo | None:
        """Execute the intent; return what Swift said of an object that was stored, raise why it was not."""
        return self.execution.run(intent)

    def delete_soon(self, intent: Delete, failed: Callable[[StoreError], None]) -> None:
        """Delete after a moment, unless `supersede` comes first; `failed` is called when Swift refuses."""
        timer = threading.Timer(SUPERSEDE_SECONDS, self._delete_now, (intent.name, failed))
        timer.daemon = True
        with self._lock:
            self._waiting[intent.name] = intent, timer
        timer.start()

    def supersede(self, name: ObjectName) -> Delete | None:
        """Take back and return the deletion of `name` that waits: the object will be replaced instead."""
        with self._lock:
            intent, timer = self._waiting.pop(name, (None, None))
        if timer is not None:
            timer.cancel()
        return intent

    def drain(self) -> None:
        """Execute what waits, and end the threads."""
        with self._lock:
            timers = [timer for _, timer in self._waiting.values()]
        for timer in timers:
            timer.cancel()
            timer.function(*timer.args)
            timer.join()
        self._pool.shutdown()

    def _delete_now(self, name: ObjectName, failed: Callable[[StoreError], None]) -> None:
        intent = self.supersede(name)
        if intent is None:
            return
        try:
            self.execution.run(intent)
        except StoreError as error:
            log.warning("%s could not be deleted: %s", name, error)
            failed(error)
