"""Intents that wait a moment: many deletions become one request, and one that is overtaken becomes none.

`rm -rf` is one bulk-delete; a deletion whose name gets a new object before it was sent is never sent; a
marker for a folder that is removed right after its last child is never made.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import Executor
from dataclasses import dataclass

from swiftfs.errors import AlreadyExists, StoreError
from swiftfs.journal.execution import Execution
from swiftfs.journal.intents import Delete, PutMarker
from swiftfs.model import ObjectName
from swiftfs.naming import Folder

log = logging.getLogger(__name__)

BATCH = 1000
"""Deletions sent together: a server answers a bulk-delete of so many within its clients' patience."""

RETRY_SECONDS = 30.0
"""Pause before another attempt, in an outage that outlasts the store's own patience."""

Done = Callable[[StoreError | None], None]
"""Is told that an intent was executed, or why it failed."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    intent: Delete | PutMarker
    due: float
    done: Done


class Settling:
    """One waiting intent a name, executed `seconds` after it came, by a thread of its own.

    The lock guards `_waiting` (in the order of their coming), `_executing` and `_closing`.
    """

    def __init__(self, execution: Execution, pool: Executor) -> None:
        self._execution = execution
        self._pool = pool
        self._waiting: dict[ObjectName, _Waiting] = {}
        self._executing: set[ObjectName] = set()
        self._closing = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def add(self, intent: Delete | PutMarker, seconds: float, done: Done) -> None:
        """Execute `intent` in so many seconds; the call of `done` comes from another thread."""
        with self._changed:
            self._waiting[intent.name] = _Waiting(intent, time.monotonic() + seconds, done)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="settling")
                self._thread.start()
            self._changed.notify_all()

    def take_back(self, name: ObjectName) -> Delete | PutMarker | None:
        """Return the intent of `name` that will not be executed now; one that is under way is waited for."""
        with self._changed:
            self._changed.wait_for(lambda: name not in self._executing)
            waiting = self._waiting.pop(name, None)
            return waiting.intent if waiting else None

    def flush(self, names: Collection[ObjectName]) -> None:
        """Execute what waits for one of `names` now; raise why it failed, though it is tried again later."""
        with self._changed:
            self._changed.wait_for(lambda: self._executing.isdisjoint(names))
            batch = self._begin([name for name in names if name in self._waiting])
        for error in self._execute(batch):
            raise error

    def flush_below(self, folder: Folder) -> None:
        """Execute now what waits below `folder`; errors as in `flush`."""
        with self._changed:
            names = {*self._waiting, *self._executing}
        self.flush([name for name in names if Folder(name.container, name.key).is_below(folder)])

    def waiting(self) -> int:
        """Return how many intents are not executed yet."""
        with self._changed:
            return len(self._waiting) + len(self._executing)

    def close(self) -> None:
        """Execute all that waits and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while batch := self._next_batch():
            self._execute(batch)

    def _next_batch(self) -> list[_Waiting]:
        """Wait for intents that are due; return them with all that wait, for one request serves them."""
        with self._changed:
            while True:
                due = min((waiting.due for waiting in self._waiting.values()), default=None)
                if due is None and self._closing:
                    return []
                seconds = None if due is None else due - time.monotonic()
                if seconds is not None and (seconds <= 0 or self._closing or len(self._waiting) >= BATCH):
                    return self._begin(list(self._waiting)[:BATCH])
                self._changed.wait(seconds)

    def _begin(self, names: list[ObjectName]) -> list[_Waiting]:
        self._executing.update(names)
        return [self._waiting.pop(name) for name in names]

    def _execute(self, batch: list[_Waiting]) -> list[StoreError]:
        """Make markers first, so that no folder is gone for a moment, then delete; return the failures."""
        markers = [waiting for waiting in batch if isinstance(waiting.intent, PutMarker)]
        deletions = [waiting.intent for waiting in batch if isinstance(waiting.intent, Delete)]
        try:
            failures = self._attempt_all(markers)
            failures |= self._execution.delete_together(deletions)
            for waiting in batch:
                self._end(waiting, failures.get(waiting.intent.name))
        finally:
            with self._changed:
                self._executing.difference_update(waiting.intent.name for waiting in batch)
                self._changed.notify_all()
        return list(failures.values())

    def _attempt_all(self, batch: list[_Waiting]) -> dict[ObjectName, StoreError]:
        results = zip(batch, self._pool.map(self._attempt, batch), strict=True)
        return {waiting.intent.name: error for waiting, error in results if error is not None}

    def _end(self, waiting: _Waiting, error: StoreError | None) -> None:
        """Tell how it went, or try again later what an outage stopped."""
        if error is not None and error.retryable:
            with self._changed:
                if not self._closing:
                    log.info("%s; again in %.0f s", error, RETRY_SECONDS)
                    due = time.monotonic() + RETRY_SECONDS
                    self._waiting.setdefault(waiting.intent.name, _Waiting(waiting.intent, due, waiting.done))
                    return
        waiting.done(error)

    def _attempt(self, waiting: _Waiting) -> StoreError | None:
        try:
            self._execution.run(waiting.intent)
        except AlreadyExists:
            return None  # another client made the marker
        except StoreError as error:
            return error
        return None
