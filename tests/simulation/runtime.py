"""The simulated locks, threads and pools of `concurrency.Runtime`, and names that a seed decides."""

import gc
import logging
import os
import random
import tempfile
import uuid
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from greenlet import GreenletExit

from simulation.scheduler import EPOCH, Scheduler, SimThread
from swiftfs import concurrency
from swiftfs.objects import ObjectName


class SimLock:
    """A lock; when it is released, every waiting thread may take it."""

    def __init__(self, scheduler: Scheduler, *, reentrant: bool) -> None:
        self._scheduler = scheduler
        self._reentrant = reentrant
        self._owner: SimThread | None = None
        self._depth = 0
        self._waiters: list[SimThread] = []

    def __enter__(self) -> object:
        scheduler = self._scheduler
        scheduler.point()
        if self._owner is None:
            self._owner, self._depth = scheduler.running, 1
        else:
            self._take(scheduler.running)
        return True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        if self._scheduler.dead:
            return
        self._depth -= 1
        if self._depth == 0:
            if self._waiters:
                self._give_back()
            else:
                self._owner = None
            self._scheduler.point()

    def _take(self, thread: SimThread) -> None:
        if self._owner is thread and self._reentrant:
            self._depth += 1
            return
        while self._owner is not None:
            self._waiters.append(thread)
            self._scheduler.park()
        self._owner, self._depth = thread, 1

    def _give_back(self) -> None:
        self._owner = None
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            self._scheduler.wake(waiter)


class SimCondition(SimLock):
    """A condition with a reentrant lock."""

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__(scheduler, reentrant=True)
        self._sleepers: list[SimThread] = []

    def wait(self, timeout: float | None = None) -> bool:
        thread = self._scheduler.running
        assert self._owner is thread, "wait without the lock"
        depth = self._depth
        self._sleepers.append(thread)
        self._give_back()
        try:
            return self._scheduler.park(timeout)
        finally:
            if not self._scheduler.dead:
                if thread in self._sleepers:
                    self._sleepers.remove(thread)
                self._take(thread)
                self._depth = depth

    def wait_for(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        end = None if timeout is None else self._scheduler.now + timeout
        while not (result := predicate()):
            left = None if end is None else end - self._scheduler.now
            if left is not None and left <= 0:
                break
            self.wait(left)
        return result

    def notify_all(self) -> None:
        if self._scheduler.dead:
            return
        sleepers, self._sleepers = self._sleepers, []
        for sleeper in sleepers:
            self._scheduler.wake(sleeper)


class SimEvent:
    """An event that threads can wait for."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._is_set = False
        self._waiters: list[SimThread] = []

    def set(self) -> None:
        if self._scheduler.dead:
            return
        self._is_set = True
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            self._scheduler.wake(waiter)

    def is_set(self) -> bool:
        return self._is_set

    def wait(self, timeout: float | None = None) -> bool:
        self._scheduler.point()
        if not self._is_set:
            _wait_in(self._waiters, self._scheduler, timeout)
        return self._is_set


def _wait_in(waiters: list[SimThread], scheduler: Scheduler, timeout: float | None) -> None:
    """Add the current thread to a list of waiters, and wait for `timeout` seconds at most."""
    thread = scheduler.running
    waiters.append(thread)
    if not scheduler.park(timeout):
        waiters.remove(thread)


class _Thread:
    """A thread that `start` begins."""

    def __init__(self, scheduler: Scheduler, target: Callable[[], object], name: str) -> None:
        self._scheduler = scheduler
        self._target = target
        self._thread = SimThread(scheduler, name)

    @property
    def ident(self) -> int | None:
        return self._thread.ident

    def start(self) -> None:
        self._scheduler.begin(self._thread, self._target)

    def is_alive(self) -> bool:
        return self._thread.ident is not None and not self._thread.ended

    def join(self, timeout: float | None = None) -> None:
        self._scheduler.point()
        if not self._thread.ended:
            _wait_in(self._thread.joiners, self._scheduler, timeout)


class SimPool(Executor):
    """Threads that run submitted calls; each begins when it is needed."""

    def __init__(self, scheduler: Scheduler, name: str, size: int) -> None:
        self._scheduler = scheduler
        self._name = name
        self._size = size
        self._jobs: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._idle: list[SimThread] = []
        self._workers: list[_Thread] = []
        self._ended = False

    def submit(self, call: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
        if self._scheduler.dead:
            raise GreenletExit
        if self._ended:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future = new_future(self._scheduler)
        self._jobs.append((future, lambda: call(*args, **options)))
        if self._idle:
            self._scheduler.wake(self._idle.pop())
        elif len(self._workers) < self._size:
            worker = _Thread(self._scheduler, self._work, f"{self._name}_{len(self._workers)}")
            self._workers.append(worker)
            worker.start()
        self._scheduler.point()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        if self._scheduler.dead:
            return
        self._ended = True
        if cancel_futures:
            for future, _ in self._jobs:
                future.cancel()
        idle, self._idle = self._idle, []
        for thread in idle:
            self._scheduler.wake(thread)
        if wait:
            for worker in self._workers:
                worker.join()

    def _work(self) -> None:
        while True:
            while not self._jobs:
                if self._ended:
                    return
                self._idle.append(self._scheduler.running)
                self._scheduler.park()
            future, call = self._jobs.popleft()
            if future.set_running_or_notify_cancel():
                _fulfil(future, call)
            del future, call
            self._scheduler.point()


def _fulfil(future: Future[Any], call: Callable[[], Any]) -> None:
    try:
        result = call()
    except GreenletExit:
        raise
    except BaseException as error:  # noqa: BLE001  the future has it
        future.set_exception(error)
    else:
        future.set_result(result)


def new_future(scheduler: Scheduler) -> Future[Any]:
    """Return a future on which simulated threads can wait."""
    future: Future[Any] = Future()
    future._condition = SimCondition(scheduler)  # type: ignore[assignment]  # what it uses of one
    return future


class SimRuntime(concurrency.Runtime):
    """The threads and the clock of a scheduler."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def lock(self, *, reentrant: bool) -> concurrency.Lock:
        return SimLock(self._scheduler, reentrant=reentrant)

    def condition(self) -> concurrency.Condition:
        return SimCondition(self._scheduler)

    def event(self) -> concurrency.Event:
        return SimEvent(self._scheduler)

    def thread(
        self, target: Callable[..., object], name: str, args: Iterable[Any], *, daemon: bool
    ) -> concurrency.Thread:
        del daemon  # a simulation ends all threads
        return _Thread(self._scheduler, lambda: target(*args), name)

    def pool(self, name: str, size: int) -> Executor:
        return SimPool(self._scheduler, name, size)

    def future(self) -> Future[Any]:
        return new_future(self._scheduler)

    def wait(self, pending: Collection[Future[Any]], timeout: float | None) -> bool:
        end = None if timeout is None else self._scheduler.now + timeout
        for future in pending:
            condition = future._condition
            left = None if end is None else max(0.0, end - self._scheduler.now)
            with condition:
                condition.wait_for(future.done, left)
        return all(future.done() for future in pending)

    def thread_id(self) -> int:
        return self._scheduler.running.ident or 0

    def thread_key(self) -> int:
        return self._scheduler.running.ident or 0

    def ended_threads(self, threads: Collection[int]) -> set[int]:
        del threads  # the numbers are Python's, which may be used again
        return set()

    def monotonic(self) -> float:
        return self._scheduler.now

    def unix_time_ns(self) -> int:
        return int((EPOCH + self._scheduler.now) * 1e9)

    def unix_time(self) -> float:
        return EPOCH + self._scheduler.now

    def sleep(self, seconds: float) -> None:
        self._scheduler.sleep(seconds)


def hash_by_fields() -> None:
    """Let sets of objects' names have one order in every process; call it before any is hashed.

    The hash of a msgspec value depends on the address of its class, which differs in each process.
    """
    ObjectName.__hash__ = _hash_of_name  # type: ignore[method-assign,assignment]


def _hash_of_name(name: ObjectName) -> int:
    return hash((name.container, name.key))


@contextmanager
def seeded(scheduler: Scheduler, handler: logging.Handler) -> Iterator[None]:
    """Let swiftfs run on the scheduler, with names and delays from its seed."""
    names = random.Random(scheduler.random.random())
    before = concurrency.use(SimRuntime(scheduler))
    log = logging.getLogger("swiftfs")
    log.addHandler(handler)
    level, propagate = log.level, log.propagate
    log.setLevel(logging.INFO)
    log.propagate = False
    uuid4 = uuid.uuid4
    uuid.uuid4 = lambda: uuid.UUID(int=names.getrandbits(128), version=4)
    urandom = os.urandom
    os.urandom = random.Random(names.random()).randbytes
    sequence = tempfile._name_sequence  # type: ignore[attr-defined]
    tempfile._name_sequence = (f"{names.getrandbits(64):016x}" for _ in iter(int, 1))  # type: ignore[attr-defined]
    state = random.getstate()
    random.seed(names.random())
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        scheduler.dispose()
        if collects:
            gc.enable()
        random.setstate(state)
        tempfile._name_sequence = sequence  # type: ignore[attr-defined]
        os.urandom = urandom
        uuid.uuid4 = uuid4
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = propagate
        concurrency.use(before)
