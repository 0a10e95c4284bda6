"""Shortens a history that fails: omits whatever is not needed for the same failure."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

from simulation.plan import History, Kill, Life, Programs
from simulation.scheduler import SwitchRates

T = TypeVar("T")

SECONDS = 120.0
"""Longest time of shortening, in seconds."""

OTHER_SEEDS = (0, 1, 2)
"""Added to the seed if a shorter history does not fail: the threads then run in another order."""


def shrink(history: History, fails: Callable[[History], bool], seconds: float = SECONDS) -> History:
    """Return a shorter history that still `fails`."""
    end = time.monotonic() + seconds
    while True:
        for shorter in _shorter(history):
            if time.monotonic() > end:
                return history
            found = next((one for one in _reseeded(shorter) if fails(one)), None)
            if found is not None:
                history = found
                break
        else:
            return history


def _reseeded(history: History) -> Iterator[History]:
    for more in OTHER_SEEDS:
        yield replace(history, seed=history.seed + more * 1_000_003)


def _shorter(history: History) -> Iterator[History]:
    """Yield histories without a part, the largest parts first."""
    lives = history.lives
    if len(lives) > 1:
        for number in range(len(lives)):
            yield replace(history, lives=lives[:number] + lives[number + 1 :])
    for number, life in enumerate(lives):
        for shorter in _shorter_lives(life):
            yield replace(history, lives=(*lives[:number], shorter, *lives[number + 1 :]))
    for outages in _without(history.outages):
        yield replace(history, outages=outages)
    for full in _without(history.disk_full):
        yield replace(history, disk_full=full)
    for faults in _without(history.faults):
        yield replace(history, faults=faults)
    for name in history.options:
        rest = {one: value for one, value in history.options.items() if one != name}
        yield replace(history, options=rest)
    if history.lag:
        yield replace(history, lag=0.0)
    if not history.bulk:
        yield replace(history, bulk=10_000)
    if history.rates.stalls:
        yield replace(history, rates=SwitchRates(history.rates.switches, 0))


def _shorter_lives(life: Life) -> Iterator[Life]:
    if len(life.programs) > 1:
        yield replace(life, programs=life.programs[:1])
    if life.kill is not None:
        yield replace(life, kill=None)
    for number, steps in enumerate(life.programs):
        for begin, end in _parts(len(steps)):
            rest = steps[:begin] + steps[end:]
            programs: Programs = (*life.programs[:number], rest, *life.programs[number + 1 :])
            kill = life.kill if number else _moved(life.kill, begin, end)
            if life.kill is None or kill is not None:
                yield Life(programs, kill)


def _moved(kill: Kill | None, begin: int, end: int) -> Kill | None:
    """Return the same kill for fewer steps; None if its own step is omitted."""
    if kill is None or kill.step < begin:
        return kill
    return None if kill.step < end else replace(kill, step=kill.step - (end - begin))


def _parts(length: int) -> Iterator[tuple[int, int]]:
    """Yield parts of a list: halves, quarters, and so on."""
    size = length
    while size:
        for begin in range(0, length, size):
            yield begin, min(begin + size, length)
        size //= 2


def _without(items: tuple[T, ...]) -> Iterator[tuple[T, ...]]:
    for begin, end in _parts(len(items)):
        yield items[:begin] + items[end:]
