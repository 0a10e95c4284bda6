"""The pool for uploads of segments: it runs as many at once as the server takes."""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from swiftfs.concurrency import Executor, Future, Rank, new_future, new_lock, new_pool
from swiftfs.store.server_load import MOST, ParallelLimit


class UploadPool(Executor):
    """Runs calls in their order, at most `most` at once, and no more than `limit` allows now.

    `most` may be changed: it counts from the next upload that begins or ends.
    `_waiting` are those that have not begun, with their futures, which can still be cancelled.
    """

    def __init__(self, limit: ParallelLimit, most: int) -> None:
        self._limit = limit
        self.most = most
        self._threads = new_pool("upload", MOST)  # a thread is only made when it is needed
        self._lock = new_lock(Rank.UPLOADS)
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._running = 0

    def submit(self, call: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = new_future()
        with self._lock:
            self._waiting.append((future, partial(call, *args, **options)))
            self._begin()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Return when the calls that run have ended; the others are cancelled, whatever is asked for."""
        with self._lock:
            waiting, self._waiting = self._waiting, deque()
        for future, _ in waiting:
            future.cancel()
        self._threads.shutdown(wait, cancel_futures=cancel_futures)

    def _begin(self) -> None:
        """Begin as many calls as may run. Lock held."""
        while self._waiting and self._running < min(self._limit.now, self.most):
            self._running += 1
            self._threads.submit(self._work, *self._waiting.popleft())

    def _work(self, future: Future[Any], call: Callable[[], Any]) -> None:
        try:
            if future.set_running_or_notify_cancel():
                _fulfil(future, call)
        finally:
            with self._lock:
                self._running -= 1
                self._begin()


def _fulfil(future: Future[Any], call: Callable[[], Any]) -> None:
    try:
        result = call()
    except BaseException as error:  # noqa: BLE001  whoever waits raises it
        future.set_exception(error)
    else:
        future.set_result(result)
