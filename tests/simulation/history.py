"""Makes the history of a seed."""

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from simulation.adversary import CHANGES, READS, Fault, Outage
from simulation.plan import BEGIN, END, History, Kill, Life
from simulation.scenarios import SCENARIOS
from simulation.scheduler import SwitchRates
from simulation.steps import Step, other, program, writer

CALM, FAILING, LOSING, REFUSING, MEAN = range(5)
"""Kinds of faults that a history has; `MEAN` has all of them."""

_KINDS = {
    CALM: (),
    FAILING: ("fails", "slow", "cut"),
    LOSING: ("lost", "lost", "late", "fails"),
    REFUSING: ("413", "507", "fails", "lost"),
    MEAN: ("fails", "slow", "lost", "late", "413", "507", "cut", "flipped", "theirs"),
}


POWER_CUTS = 0.15
"""In how many histories the power is cut where the others kill the mount."""


KILLS_BETWEEN = 0.15
"""In how many histories mounts are killed as they begin, or as they end."""


DISK_FULL = 0.2
"""In how many histories the disk of the cache is full for some time."""


TAGS = 0.2
"""Of how many histories the programs may set extended attributes."""


def make(seed: int) -> History:
    """Return the history of a seed: a random one, or one of the scenarios."""
    rng = random.Random(f"history {seed}")
    history = random_history(seed, rng)
    history = history if rng.random() < 0.6 else rng.choice(SCENARIOS)(rng, history)
    # What another client does is not promised to survive a power cut together with what is done here.
    has_others = history.has_others
    if seed % 2:
        # Of half of the seeds every folder that Swift has is moved in the background.
        history = replace(history, options={**history.options, "background_rename": 1})
    history = with_kills_between(with_tags(history))
    more = random.Random(f"disk {seed}")
    if not has_others and more.random() < POWER_CUTS:
        history = with_power_cuts(history)
    if more.random() < DISK_FULL:
        full = Outage(more.choice((0.0, 0.5, 2.0, 6.0)), more.choice((0.5, 3.0, 30.0)))
        history = replace(history, disk_full=(full,))
    return history


def with_kills_between(history: History) -> History:
    """Return a history in which some mounts are also killed as they begin after a kill, or as they end."""
    rng = random.Random(f"kills between {history.seed}")
    if rng.random() >= KILLS_BETWEEN:
        return history
    lives = list[Life]()
    for life in history.lives:
        points = int(10 ** rng.uniform(0.5, 2.7))
        if life.kill is not None:
            lives += [life, Life((), Kill(BEGIN, points))]
        else:
            lives.append(replace(life, kill=Kill(END, points)))
    return replace(history, lives=tuple(lives))


def with_tags(history: History) -> History:
    """Return a history in which programs may set an extended attribute of files that they have written."""
    rng = random.Random(f"tags {history.seed}")
    if rng.random() >= TAGS:
        return history
    return replace(history, lives=tuple(_with_tags(life, rng) for life in history.lives))


def _with_tags(life: Life, rng: random.Random) -> Life:
    kill, programs = life.kill, []
    for number, steps in enumerate(life.programs):
        more = list[Step]()
        for index, step in enumerate(steps):
            if kill is not None and number == 0 and index == kill.step:
                kill = replace(kill, step=len(more))
            more.append(step)
            if step.verb in ("write", "append", "patch", "chmod", "utimens") and rng.random() < 0.3:
                more.append(Step("tag", step.path))
        programs.append(tuple(more))
    return Life(tuple(programs), kill)


def keeping(history: History) -> History:
    """Return a history in mounts that keep what another client has stored meanwhile."""
    return replace(history, options={**history.options, "conflict": "keep"})


def with_trash(history: History) -> History:
    """Return a history in mounts with a trash, of which the model knows only that nothing else changes.

    Its copies are not refused: then a deletion is, which the model does not expect. Nor is one overtaken by
    another client: a deletion takes the newer version, with a trash or without.
    """
    faults = tuple(
        one for one in history.faults if one.method != "copy" or one.kind in ("lost", "late", "fails")
    )
    return replace(history, options={**history.options, "trash": 30}, faults=faults)


def with_two_mounts(history: History) -> History:
    """Return a history in which the other client is a second mount, in which a program works in each life."""
    rng = random.Random(f"two mounts {history.seed}")
    lives = (
        Life(
            (*life.programs, other(rng)),
            replace(life.kill, cut=False) if life.kill is not None else None,
        )
        for life in history.lives
    )
    return replace(history, lives=tuple(lives), disk_full=(), two_mounts=True)


def with_power_cuts(history: History) -> History:
    """Return a history in which every kill is a power cut."""
    lives = (
        replace(life, kill=replace(life.kill, cut=True)) if life.kill is not None else life
        for life in history.lives
    )
    return replace(history, lives=tuple(lives))


def random_history(seed: int, rng: random.Random) -> History:
    """Return a history of random programs, faults and options."""
    kind = rng.choice((CALM, FAILING, LOSING, LOSING, REFUSING, MEAN))
    lives = [_life(rng) for _ in range(rng.choice((1, 1, 2, 2, 3)))]
    outages = []
    if kind != CALM and rng.random() < 0.2:
        outages.append(Outage(rng.choice((0.5, 2.0, 4.0, 10.0)), rng.choice((1.0, 20.0, 60.0))))
    return History(
        seed,
        tuple(lives),
        tuple(_faults(rng, kind)),
        tuple(outages),
        _options(rng),
        SwitchRates(rng.choice((20, 100, 300)), rng.choice((0, 1, 3))),
        rng.choice((0.0, 0.0, 0.0, 0.5, 5.0, 40.0)),
        rng.choice((10_000, 10_000, 10_000, 0)),
    )


def _life(rng: random.Random) -> Life:
    programs = [program(rng)]
    if rng.random() < 0.4:
        programs.append(writer(rng))
    kill = None
    if rng.random() < 0.6:
        kill = Kill(rng.randrange(len(programs[0])), int(10 ** rng.uniform(0, 3.7)))
    return Life(tuple(programs), kill)


def _faults(rng: random.Random, kind: int) -> Iterator[Fault]:
    kinds = _KINDS[kind]
    for _ in range(rng.randrange(1, 7) if kinds else 0):
        what = rng.choice(kinds)
        if what in ("cut", "flipped"):
            yield Fault(what, "get", int(rng.random() ** 2 * 8))
        elif what == "theirs":
            yield Fault(what, "copy", rng.randrange(3))
        elif what in ("413", "507"):
            seconds = rng.choice((2.0, 30.0, 1000.0))
            yield Fault(what, rng.choice(("put", "put_manifest", "copy")), rng.randrange(6), seconds)
        else:
            method = rng.choice((*CHANGES, *CHANGES, *READS))
            seconds = rng.choice((0.5, 1.5, 5.0, 20.0)) if what == "slow" else 0.0
            which = int(rng.random() ** 2 * 12)
            for again in range(rng.choice((1, 1, 1, 2, 6))):
                yield Fault(what, method, which + again, seconds)


def _options(rng: random.Random) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if rng.random() < 0.15:
        options["sync"] = True
    if rng.random() < 0.2:
        options["cache_size"] = 1024 * 1024
    if rng.random() < 0.3:
        options["ttl"] = rng.choice((0.0, 1.0))
    if rng.random() < 0.15:
        options["conflict"] = "keep"
    if rng.random() < 0.3:
        options["drain"] = rng.choice((1.0, 20.0))
    return options
