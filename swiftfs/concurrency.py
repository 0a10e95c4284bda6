"""Ranked locks, conditions, threads, worker pools, futures, the clock and sleep.

No other module imports `threading` or `concurrent.futures`, or reads a clock. All of it comes from one
`Runtime`. A test may replace it (`use`) before it builds the objects that run on it.

A lock has a rank. A thread takes locks of rising ranks only, so no two threads can wait for each other. With
`check` every acquisition asserts that, and `may_block` asserts that a thread which waits for the network or
another thread holds no lock that others need. Without it the locks are the plain ones.
"""

import enum
import itertools
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable
from concurrent import futures
from concurrent.futures import Executor, Future
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeVar, cast

__all__ = ["Executor", "Future"]

_THREADS = Path("/proc/self/task")
"""Has a folder for each thread of this process, by the kernel's number (proc(5))."""


class Rank(enum.IntEnum):
    """What each lock guards, in the order in which a thread may take them. See docs/concurrency.md."""

    LIVE_OPTIONS = enum.auto()
    """Which options are in force while some are changed."""
    FILE = enum.auto()
    """One open file (`OpenFile`): excludes writers while the file is handed in."""
    BARRIER = enum.auto()
    """Which folders are moving, and which changes are being made."""
    PREFETCH = enum.auto()
    """Which files are fetched ahead, and for which readers."""
    OPEN_FILES = enum.auto()
    """The tables of open files and handles."""
    LATE_ANSWERS = enum.auto()
    """The order in which the records of lost requests are saved."""
    LATE_COPIES = enum.auto()
    """The copies of files that a late request may overwrite."""
    JOURNAL = enum.auto()
    """The queue of tasks and everything about them."""
    CACHE = enum.auto()
    """Which local files are in use, pinned or cached, and the index of the cached ones."""
    CONTENT = enum.auto()
    """One local file: its blocks, its base version, its downloads, its snapshot, its segments."""
    UPLOADS = enum.auto()
    """The segments that wait for their upload."""
    SEGMENT_CONTAINERS = enum.auto()
    """Which container takes the segments of another."""
    NAMESPACE = enum.auto()
    """Cached listings, local changes over them, listings that are being fetched."""
    HEAD_FETCHES = enum.auto()
    """HEADs that are being sent."""
    INODES = enum.auto()
    """The assigned inode numbers."""
    USAGE = enum.auto()
    """The cached answers of `statfs`."""
    REMOVAL = enum.auto()
    """Segments whose deletion waits for a lost PUT."""
    OWNERSHIP = enum.auto()
    """Which segments belong to which object."""
    DATABASE = enum.auto()
    """The journal's database connection."""
    HEAD_CACHE = enum.auto()
    """The database connection of the cached HEADs."""
    KEPT_LISTINGS = enum.auto()
    """The database connection of the listings on the disk."""
    RENEWALS = enum.auto()
    """Logins in progress, by the token that was refused."""
    STORE = enum.auto()
    """Facts about the server, and the threads for single DELETEs."""
    BULK = enum.auto()
    """The number of names in a bulk delete."""
    CONNECTIONS = enum.auto()
    """The idle connections."""
    AMBIGUOUS = enum.auto()
    """The requests whose answer was lost."""
    SERVER_LOAD = enum.auto()
    """How many uploads may run at once."""
    THROTTLE = enum.auto()
    """Whose turn it is under a limit that the user has set, and how much has passed."""
    COUNTERS = enum.auto()
    """The numbers of requests, by class."""
    SPACE = enum.auto()
    """The progress that writers wait for when the cache is full."""
    DEMO = enum.auto()
    """The process of the demo's Swift."""
    FUSE_THREADS = enum.auto()
    """How many threads of libfuse are attached."""


T = TypeVar("T")

_WITH_FILE = frozenset({Rank.FILE})
"""The locks that a thread may hold while it waits for a request or for other threads."""

_ALONE = frozenset({Rank.BARRIER})
"""Conditions that may be waited for only without any lock: a folder's rename locks the files below it."""


class Lock(Protocol):
    """A lock that is held by `with`."""

    def __enter__(self) -> object: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


class Condition(Lock, Protocol):
    """A lock, which the same thread may take again, and a way to wait for changes of what it guards."""

    def wait(self, timeout: float | None = None) -> bool: ...

    def wait_for(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool: ...

    def notify_all(self) -> None: ...


class Event(Protocol):
    """A flag that is set once, and that threads can wait for."""

    def set(self) -> None: ...

    def is_set(self) -> bool: ...

    def wait(self, timeout: float | None = None) -> bool: ...


class Thread(Protocol):
    """A thread that `start` begins."""

    @property
    def ident(self) -> int | None: ...

    def start(self) -> None: ...

    def is_alive(self) -> bool: ...

    def join(self, timeout: float | None = None) -> None: ...


class _PlainCondition(type(threading.RLock()), threading.Condition):  # type: ignore[misc]
    """A condition that is its own lock, so that to take it is no call of Python: each file takes some 20."""

    def __init__(self) -> None:
        self._waiters: deque[Any] = deque()


class Runtime:
    """Threads of the operating system and its clock."""

    _began: float | None = None

    def lock(self, *, reentrant: bool) -> Lock:
        """Return a lock; a `reentrant` one may be taken again by the thread that holds it."""
        return threading.RLock() if reentrant else threading.Lock()

    def condition(self) -> Condition:
        """Return a condition with a reentrant lock."""
        return _PlainCondition()

    def event(self) -> Event:
        """Return an event that has not happened."""
        return threading.Event()

    def thread(
        self, target: Callable[..., object], name: str, args: Iterable[Any], *, daemon: bool
    ) -> Thread:
        """Return a thread that was not started."""
        return threading.Thread(target=target, name=name, args=tuple(args), daemon=daemon)

    def pool(self, name: str, size: int) -> Executor:
        """Return `size` threads, each started when it is needed."""
        return futures.ThreadPoolExecutor(size, thread_name_prefix=name)

    def future(self) -> "Future[Any]":
        """Return a future whose result its maker sets."""
        return Future()

    def wait(self, pending: Collection["Future[Any]"], timeout: float | None) -> bool:
        """Wait for all of `pending` to end; return whether they have."""
        return not futures.wait(pending, timeout).not_done

    def thread_id(self) -> int:
        """Return the kernel's number of the calling thread."""
        return threading.get_native_id()

    thread_key = staticmethod(threading.get_ident)
    """Return a number of the calling thread that no other running thread has, without a system call."""

    # Looked up at each call: tests set these clocks.
    def monotonic(self) -> float:
        """Return seconds since some moment; never goes back."""
        return time.monotonic()

    def unix_time(self) -> float:
        """Return Unix time in seconds."""
        return time.time()

    def unix_time_ns(self) -> int:
        """Return Unix time in nanoseconds."""
        return time.time_ns()

    def ended_threads(self, threads: Collection[int]) -> set[int]:
        """Return the numbers whose threads have ended; none if /proc cannot be read."""
        try:
            return set(threads).difference(int(path.name) for path in _THREADS.iterdir())
        except OSError:
            return set()

    def steady_time(self) -> float:
        """Return the Unix time, in seconds, as if nobody had set the clock since the first call."""
        if self._began is None:
            self._began = self.unix_time() - self.monotonic()
        return self._began + self.monotonic()

    def sleep(self, seconds: float) -> None:
        """Sleep for `seconds`."""
        time.sleep(seconds)


class LockOrderError(AssertionError):
    """A thread took locks in an order, or waited with locks, that can end in a deadlock."""


class _Checks:
    """Checks the lock order: knows the locks of each thread, in the order in which it took them."""

    def __init__(self) -> None:
        self.violations: list[str] = []
        self._held: defaultdict[int, list[_CheckedLock]] = defaultdict(list)

    @property
    def held(self) -> "list[_CheckedLock]":
        return self._held[_runtime.thread_key()]

    def may_take(self, lock: "_CheckedLock", held: "list[_CheckedLock]") -> None:
        """Assert that the calling thread, which has the locks `held`, may take `lock`."""
        # Not only the last one: it may have been taken again, below others.
        if any(one.key >= lock.key for one in held) and not (lock.reentrant and lock in held):
            self.refuse(f"takes {lock}")

    def may_block(self, what: str, allowed: Collection[Rank], *, but: "_CheckedLock | None" = None) -> None:
        """Assert that the calling thread holds nothing but locks of `allowed` ranks."""
        if any(lock.rank not in allowed and lock is not but for lock in self.held):
            self.refuse(what)

    def refuse(self, what: str) -> None:
        """Record a violation and raise it."""
        held = ", ".join(map(str, self.held))
        said = f"lock order: thread {threading.current_thread().name} holds {held} and {what}"
        self.violations.append(said)
        sys.stderr.write(said + "\n")  # a pool's thread may swallow its exceptions
        raise LockOrderError(said)


class _CheckedLock:
    """A lock that asserts its rank. Of two with the same rank, the one that was made first is taken first."""

    def __init__(self, raw: Lock, rank: Rank, checks: _Checks, *, reentrant: bool) -> None:
        self.rank, self.reentrant = rank, reentrant
        # Only files may be locked together: all other ranks have one key, and so refuse a second lock.
        self.key = (rank, next(_numbers) if rank is Rank.FILE else 0)
        self._raw, self._checks = raw, checks

    def __str__(self) -> str:
        return self.rank.name

    def __enter__(self) -> object:
        if held := self._checks.held:
            self._checks.may_take(self, held)
        # After the check: a thread that would deadlock here must report it first.
        self._raw.__enter__()
        held.append(self)
        return True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        held = self._checks.held
        if held[-1] is self:
            held.pop()
        else:  # the last one, as a reentrant lock may be in the list several times
            del held[len(held) - 1 - held[::-1].index(self)]
        self._raw.__exit__(kind, error, trace)


class _CheckedCondition(_CheckedLock):
    """A condition that asserts its rank, and that a waiting thread holds no other lock."""

    def __init__(self, raw: Condition, rank: Rank, checks: _Checks) -> None:
        super().__init__(raw, rank, checks, reentrant=True)
        self._condition = raw

    def wait(self, timeout: float | None = None) -> bool:
        self._may_wait()
        return self._condition.wait(timeout)

    def wait_for(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        # Only a wait that really waits is refused.
        if not predicate():
            self._may_wait()
        return self._condition.wait_for(predicate, timeout)

    def notify_all(self) -> None:
        self._condition.notify_all()

    def _may_wait(self) -> None:
        allowed = frozenset[Rank]() if self.rank in _ALONE else _WITH_FILE
        self._checks.may_block(f"waits for {self}", allowed, but=self)


class _CheckedFuture(Future[Any]):
    """A future that asserts that its waiters hold no lock but a file's."""

    def result(self, timeout: float | None = None) -> Any:
        self._may_wait()
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self._may_wait()
        return super().exception(timeout)

    def _may_wait(self) -> None:
        if not self.done():
            may_block("waits for a future")


class _CheckedPool(Executor):
    """A pool whose futures assert what `_CheckedFuture` does; so does its end."""

    def __init__(self, raw: Executor) -> None:
        self._raw = raw

    def submit(self, call: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
        return _checked(self._raw.submit(call, *args, **options))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        if wait:
            may_block("waits for a pool to end")
        self._raw.shutdown(wait=wait, cancel_futures=cancel_futures)


def _checked(future: Future[Any]) -> Future[Any]:
    """Return the future; with `check` it asserts which locks its waiters hold."""
    if _checks is not None and type(future) is Future:
        future.__class__ = _CheckedFuture  # a pool cannot be told which class of future to make
    return future


_numbers = itertools.count()
_runtime = Runtime()
_checks: _Checks | None = None


def use(runtime: Runtime) -> Runtime:
    """Use `runtime` for the clock and for all objects made from now on; return the previous one."""
    global _runtime
    before, _runtime = _runtime, runtime
    return before


def check() -> None:
    """Assert the ranks of the locks that are made from now on. For tests."""
    global _checks  # noqa: PLW0603
    _checks = _checks or _Checks()


def take_violations() -> list[str]:
    """Return the violations in all threads since the last call."""
    if _checks is None:
        return []
    found, _checks.violations = _checks.violations, []
    return found


def may_block(what: str) -> None:
    """Assert, after `check`, that the calling thread holds no lock but a file's.

    Call it before every request, and before every other wait that may be long.
    """
    if _checks is not None:
        _checks.may_block(what, _WITH_FILE)


def new_lock(rank: Rank, *, reentrant: bool = False) -> Lock:
    """Return a lock of `rank`; a `reentrant` one may be taken again by the thread that holds it."""
    raw = _runtime.lock(reentrant=reentrant)
    return raw if _checks is None else _CheckedLock(raw, rank, _checks, reentrant=reentrant)


def new_condition(rank: Rank) -> Condition:
    """Return a condition whose lock has a rank; the thread that holds it may take it again."""
    raw = _runtime.condition()
    return raw if _checks is None else _CheckedCondition(raw, rank, _checks)


def new_event() -> Event:
    """Return an event that has not happened."""
    return _runtime.event()


def new_thread(
    target: Callable[..., object], name: str, args: Iterable[Any] = (), *, daemon: bool = False
) -> Thread:
    """Return a thread that was not started."""
    return _runtime.thread(target, name, args, daemon=daemon)


def report_thread_failures(report: Callable[[str, BaseException], None]) -> None:
    """Let `report` be called with the name of each thread that an exception ends, and that exception."""

    def hook(failure: threading.ExceptHookArgs) -> None:
        if failure.exc_value is not None and not isinstance(failure.exc_value, SystemExit):
            report(failure.thread.name if failure.thread is not None else "unknown", failure.exc_value)

    threading.excepthook = hook


def new_pool(name: str, size: int) -> Executor:
    """Return a pool of at most `size` threads called `name`; the caller shuts it down."""
    raw = _runtime.pool(name, size)
    return raw if _checks is None else _CheckedPool(raw)


def new_future() -> "Future[T]":
    """Return a future whose result its maker sets."""
    return _checked(_runtime.future())


def wait_all(pending: Collection["Future[Any]"], timeout: float | None = None) -> bool:
    """Wait for all of `pending` to end; return whether they have after `timeout` seconds at most."""
    if timeout != 0:
        may_block("waits for futures")
    return _runtime.wait(pending, timeout)


Local = threading.local
"""Values of one thread each; only `fuse/` needs them, for threads that libfuse makes."""


def thread_id() -> int:
    """Return the kernel's number of the calling thread."""
    return _runtime.thread_id()


def thread_key() -> int:
    """Return a number of the calling thread that no other running thread has, without a system call."""
    return _runtime.thread_key()


def ended_threads(threads: Collection[int]) -> set[int]:
    """Return the numbers, from `thread_id`, whose threads have ended; none if /proc cannot be read."""
    return _runtime.ended_threads(threads)


def main_thread() -> int:
    """Return the number of Python's main thread, for `signal.pthread_kill`."""
    return cast("int", threading.main_thread().ident)  # it has started


def is_main_thread() -> bool:
    """Return whether the calling thread is Python's main thread."""
    return threading.current_thread() is threading.main_thread()


def monotonic() -> float:
    """Return seconds since some moment; never goes back."""
    return _runtime.monotonic()


def unix_time() -> float:
    """Return Unix time in seconds."""
    return _runtime.unix_time()


def steady_time() -> float:
    """Return Unix time in seconds, in which a step of the clock counts only for the next process."""
    return _runtime.steady_time()


def unix_time_ns() -> int:
    """Return Unix time in nanoseconds."""
    return _runtime.unix_time_ns()


def sleep(seconds: float) -> None:
    """Sleep for `seconds`."""
    may_block("sleeps")
    _runtime.sleep(seconds)
