"""`./dev simulate`: runs random histories until the time is up or one fails.

    --seed N       run the history of this seed alone, and print it
    --minutes M    how long (1)
    --first N      the first seed (any)
    --histories N  how many at most (any number)
    --go-on        name every seed that fails, without details
    --jobs J       processes at once (as many as there are cores)
    --hard         harder histories, all with background renames
    --settled      without background renames while listings lag
    --two          with a second mount of the container as the other client
    --trash        in mounts with the option `trash`
    --keep         in mounts with the option `conflict=keep`

The exit code is 1 if a history fails.
"""

import argparse
import gc
import itertools
import math
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from simulation.hard import make_hard
from simulation.history import keeping, make, with_trash, with_two_mounts
from simulation.plan import History
from simulation.run import Outcome, close_left, run
from simulation.runtime import hash_by_fields
from simulation.shrink import shrink
from swiftfs import concurrency

BATCH = 20
"""Histories that a process runs before it reports."""

SHARED_MEMORY = Path("/dev/shm")
"""A folder in memory for cache folders."""


Failure = tuple[int, str]
"""A seed, and the first failure of its history."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long histories are run, how many (None: as many as possible in that time), and which."""

    seconds: float
    histories: int | None
    is_settled: bool = False
    has_trash: bool = False
    is_hard: bool = False
    has_two: bool = False
    keeps: bool = False


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="./dev simulate", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seed", type=int)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--first", type=int)
    parser.add_argument("--histories", type=int)
    parser.add_argument("--go-on", action="store_true")
    parser.add_argument("--settled", action="store_true")
    parser.add_argument("--trash", action="store_true")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--hard", action="store_true")
    parser.add_argument("--two", action="store_true")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args(arguments)
    if os.environ.get("PYTHONHASHSEED") != "0":
        parser.error("run it as ./dev simulate, which sets PYTHONHASHSEED=0: else no seed repeats exactly")
    concurrency.check()
    hash_by_fields()
    if given.seed is not None:
        limits = Limits(0.0, None, False, given.trash, given.hard, given.two, given.keep)
        return _print_failure(given.seed, limits)
    first = given.first if given.first is not None else random.SystemRandom().randrange(10**6) * 1000
    seconds = given.minutes * 60 if given.histories is None else math.inf
    limits = Limits(seconds, given.histories, given.settled, given.trash, given.hard, given.two, given.keep)
    return explore(first, limits, given.jobs, go_on=given.go_on)


def explore(first: int, limits: Limits, jobs: int, *, go_on: bool) -> int:
    """Run histories from the seed `first` on; return 1 if one fails. Print it and stop, unless `go_on`."""
    begin = time.monotonic()
    done, failed = 0, list[Failure]()
    for count, failures in _batches(first, limits, jobs):
        done, failed = done + count, [*failed, *failures]
        for seed, what in failures:
            print(f"seed {seed} FAILS: {what}", flush=True)
        if failed and not go_on:
            break
    took = time.monotonic() - begin
    rate = f"{done} histories from seed {first} in {took:.1f} s: {done / took * 60:.0f} a minute"
    print(f"{rate}, {len(failed)} failed", flush=True)
    if failed and not go_on:
        _print_failure(failed[0][0], limits)
    return 1 if failed else 0


def _batches(first: int, limits: Limits, jobs: int) -> Iterator[tuple[int, list[Failure]]]:
    """Yield for each batch the number of its histories and the failures."""
    most = limits.histories
    numbers = iter(itertools.count(first, BATCH) if most is None else range(first, first + most, BATCH))
    end = time.monotonic() + limits.seconds
    with ProcessPoolExecutor(jobs, initializer=_begin_process) as pool:
        pending: set[Future[tuple[int, list[Failure]]]] = set()
        while True:
            while len(pending) < jobs and time.monotonic() < end:
                if (seed := next(numbers, None)) is None:
                    break
                pending.add(pool.submit(_run_batch, seed, limits))
            if not pending:
                return
            ended, pending = wait(pending, return_when=FIRST_COMPLETED)
            for one in ended:
                yield one.result()


def _begin_process() -> None:
    """Check the locks. Let `close_left` collect garbage, once a batch, and only what histories have made."""
    concurrency.check()
    gc.disable()
    gc.freeze()


def _run_batch(first: int, limits: Limits) -> tuple[int, list[Failure]]:
    failed, done = list[Failure](), 0
    for seed in range(first, first + BATCH):
        history = _made(seed, limits)
        if limits.is_settled and history.lag and "background_rename" in history.options:
            continue
        done += 1
        if failures := _run(history).failures:
            failed.append((seed, failures[0].splitlines()[0][:200]))
    close_left()
    return done, failed


def _made(seed: int, limits: Limits) -> History:
    history = make_hard(seed) if limits.is_hard else make(seed)
    history = with_two_mounts(history) if limits.has_two else history
    history = keeping(history) if limits.keeps else history
    return with_trash(history) if limits.has_trash else history


def _run(history: History) -> Outcome:
    return run(history, SHARED_MEMORY if SHARED_MEMORY.is_dir() else None)


def _print_failure(seed: int, limits: Limits) -> int:
    """Run the history of a seed; if it fails, shorten it and print what happened."""
    history = _made(seed, limits)
    outcome = _run(history)
    if not outcome.failures:
        print(f"seed {seed}: no failure; {outcome.points} points, checksum {outcome.digest:08x}")
        print(history.words())
        return 0
    more = " --hard" * limits.is_hard + " --two" * limits.has_two + " --trash" * limits.has_trash
    more += " --keep" * limits.keeps
    print(f"seed {seed} FAILS, repeat it by ./dev simulate --seed {seed}{more}")
    print("\n".join(outcome.failures), flush=True)
    short = shrink(history, lambda one: _run(one).kind == outcome.kind)
    outcome = _run(short)
    print("\nIn short:", short.words(), "\nWhat happened:", *outcome.story, *outcome.failures, sep="\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
