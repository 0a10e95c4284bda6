"""A scheduler of simulated threads in virtual time: a seed decides which thread runs next.

A simulated thread is a greenlet: all run in one thread of the operating system. Threads change only at
certain points: before a lock is taken and after it is released, and where a thread waits, submits a call or
sleeps. Time passes only while every thread waits.
"""

import heapq
import itertools
import random
import traceback
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from greenlet import GreenletExit, getcurrent, greenlet

EPOCH = 1_800_000_000.0
"""The Unix time at which every simulation begins."""

STALLS = (0.01, 0.3, 2.0, 10.0)
"""Seconds for which a stalled thread does not run."""

MOST_POINTS = 3_000_000
"""A history with more points counts as endless."""


class SimulationError(AssertionError):
    """The threads cannot continue, or do not end."""


class Deadlock(SimulationError):
    """Every thread waits for another one."""


@dataclass(frozen=True, slots=True)
class SwitchRates:
    """How often another thread runs, or the current one stalls, per thousand points."""

    switches: int = 100
    stalls: int = 2


@dataclass(eq=False)
class SimThread:
    """A simulated thread, its greenlet, and whether it waits; `is_other`: it is another client's."""

    scheduler: "Scheduler"
    name: str
    label: bytes = b""
    ident: int | None = None
    body: greenlet | None = None
    waiting: bool = False
    timed_out: bool = False
    parks: int = 0
    error: BaseException | None = None
    ended: bool = False
    joiners: "list[SimThread]" = field(default_factory=list)
    is_other: bool = False

    def stack(self) -> str:
        """Return the current stack, as Python prints stacks."""
        frame = self.body.gr_frame if self.body is not None else None
        lines = traceback.format_stack(frame) if frame is not None else ["  (not running)\n"]
        return f"thread {self.name}:\n{''.join(lines)}"


class _Timer(NamedTuple):
    """Ends the wait number `park` of a thread, or makes a call."""

    when: float
    order: int
    thread: SimThread | None
    park: int
    call: Callable[[], object] = lambda: None


class Scheduler:
    """Chooses which thread runs next, and keeps the clock.

    `points` counts the points that were passed; at number `kill_at` all threads freeze. `digest` is a
    checksum of all choices: two runs with one seed have the same. `running` is the thread that runs, and
    `dead` is True while the threads are unwound. Both are read at every point, so they are no properties.
    `folder` is the path of the cache folder, another one in each process: events do not name it.
    """

    def __init__(self, seed: int, rates: SwitchRates | None = None) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.points = 0
        self.kill_at = -1
        self.killed = False
        self.may_stall = True
        self.digest = 0
        self.events: deque[tuple[float, str]] = deque(maxlen=4000)
        self.failures: list[str] = []
        self.folder = "/no folder"
        self._rates = rates or SwitchRates()
        self._most = self._rates.stalls + self._rates.switches
        self._draw = self.random.random
        self.dead = False
        self._hub = getcurrent()
        self._hub_thread = SimThread(self, "hub", ident=0)
        self._numbers = itertools.count(1)
        self._order = itertools.count()
        self._timers: list[_Timer] = []
        self._ready: list[SimThread] = []
        self._threads: dict[SimThread, None] = {}
        self._frozen: list[SimThread] = []
        self.running = self._hub_thread

    @property
    def threads(self) -> list[SimThread]:
        """The threads that have begun and not ended."""
        return list(self._threads)

    def record(self, text: str) -> None:
        """Add a text to the events of the history, and to the digest."""
        text = text.replace(self.folder, "CACHE")
        self.events.append((self.now, text))
        self.digest = zlib.crc32(f"{self.now:.6f} {text}".encode(), self.digest)

    def spawn(self, target: Callable[[], object], name: str) -> SimThread:
        """Begin a thread."""
        thread = SimThread(self, name)
        self.begin(thread, target)
        return thread

    def begin(self, thread: SimThread, target: Callable[[], object]) -> None:
        """Begin a thread that was made before."""
        self.point()
        thread.label = thread.name.encode()
        thread.ident, thread.is_other = next(self._numbers), self.running.is_other

        def run() -> None:
            try:
                target()
            except GreenletExit:
                return
            except BaseException as error:  # noqa: BLE001  it is reported
                thread.error = error
                self.failures.append(f"thread {thread.name} ended with\n{_format(error)}")
            thread.ended = True
            self._threads.pop(thread, None)
            for joiner in thread.joiners:
                self.wake(joiner)

        thread.body = greenlet(run, parent=self._hub)
        self._threads[thread] = None
        self._ready.append(thread)

    def run(self, until: Callable[[], bool]) -> None:
        """Run the threads until a condition holds, or until the kill."""
        while not self.killed and not until():
            if self.points > MOST_POINTS:
                raise SimulationError(f"no end after {MOST_POINTS} points\n{self.stacks()}")
            if self._ready:
                self._switch_to(self._take_ready())
            elif self._timers:
                self._advance()
            else:
                raise Deadlock(f"every thread waits\n{self.stacks()}")

    def point(self) -> None:
        """Let another thread run, or let this one stall, if the seed says so."""
        thread = self.running
        if thread is self._hub_thread:
            return
        if self.dead:
            raise GreenletExit
        self.points += 1
        if self.points == self.kill_at:
            self.killed = True
            self._hub.switch()
        chance = self._draw() * 1000
        if chance >= self._most:
            return
        if chance >= self._rates.stalls or not self.may_stall:
            self._ready.append(thread)
            self._hub.switch()
        else:
            if thread.name != "journal sync":  # it does little else
                self.record(f"{thread.name} stalls")
            self.sleep(self.random.choice(STALLS))

    def park(self, timeout: float | None = None) -> bool:
        """Wait until `wake`; return False if `timeout` seconds pass before."""
        if self.dead:
            raise GreenletExit
        thread = self.running
        assert thread is not self._hub_thread, "the hub must not wait"
        thread.waiting, thread.timed_out = True, False
        thread.parks += 1
        if timeout is not None:
            timer = _Timer(self.now + max(0.0, timeout), next(self._order), thread, thread.parks)
            heapq.heappush(self._timers, timer)
        self._hub.switch()
        return not thread.timed_out

    def wake(self, thread: SimThread) -> None:
        """Make a parked thread ready; others are not changed."""
        if thread.waiting:
            thread.waiting = False
            self._ready.append(thread)

    def sleep(self, seconds: float) -> None:
        """Return after so many virtual seconds."""
        self.park(seconds)

    def at(self, seconds: float, call: Callable[[], None]) -> None:
        """Make a call, which must not wait, after so many seconds; a kill does not stop it."""
        heapq.heappush(self._timers, _Timer(self.now + seconds, next(self._order), None, 0, call))

    def freeze(self) -> None:
        """Stop every thread for good, as a kill does; calls made by `at` still happen."""
        self._frozen += self._threads
        self._threads.clear()
        self._ready.clear()
        self._timers = [timer for timer in self._timers if timer.thread is None]
        heapq.heapify(self._timers)
        self.killed, self.kill_at = False, -1

    def dispose(self) -> None:
        """End all threads, also frozen ones: they are unwound, and cannot do anything meanwhile."""
        self.dead = True
        for thread in [*self._frozen, *self._threads]:
            self.running = thread
            for _ in range(100):
                if thread.body is None or thread.body.dead:
                    break
                thread.body.throw(GreenletExit)
        self.running = self._hub_thread

    def stacks(self) -> str:
        """Return the stacks of all threads."""
        return "\n".join(thread.stack() for thread in self._threads)

    def _take_ready(self) -> SimThread:
        index = int(self.random.random() * len(self._ready))
        thread = self._ready[index]
        self._ready[index] = self._ready[-1]
        self._ready.pop()
        return thread

    def _switch_to(self, thread: SimThread) -> None:
        assert thread.body is not None
        self.digest = zlib.crc32(thread.label, self.digest)
        self.running = thread
        thread.body.switch()
        self.running = self._hub_thread

    def _advance(self) -> None:
        timer = heapq.heappop(self._timers)
        if timer.thread is None:
            self.now = max(self.now, timer.when)
            timer.call()
        elif timer.thread.waiting and timer.thread.parks == timer.park:
            self.now = max(self.now, timer.when)
            timer.thread.timed_out = True
            self.wake(timer.thread)


@contextmanager
def scheduling(seed: int, rates: SwitchRates | None = None) -> Iterator[Scheduler]:
    """Return a scheduler, whose threads end with the block."""
    scheduler = Scheduler(seed, rates)
    try:
        yield scheduler
    finally:
        scheduler.dispose()


def _format(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))
