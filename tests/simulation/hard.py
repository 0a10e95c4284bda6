"""Makes harder histories: each renames folders in the background, most use such a folder while it moves."""

import random
from dataclasses import replace

from simulation.adversary import Fault, Outage
from simulation.history import random_history, with_power_cuts, with_tags
from simulation.plan import History, Kill, Life
from simulation.scenarios import (
    fresh_folder,
    interrupted_move,
    moving_on,
    others_at_target,
    remnants,
    write_while_moving,
)
from simulation.steps import maker, program, writer

_MOVING = (moving_on, moving_on, moving_on, moving_on)

_SCENARIOS = (*_MOVING, interrupted_move, remnants, others_at_target, write_while_moving, fresh_folder)

_KINDS = ("lost", "late", "413", "507", "slow", "fails", "403", "theirs", "theirs first")

_METHODS = ("copy", "copy", "delete_many", "delete", "head", "list_page", "put", "post")


def make_hard(seed: int) -> History:
    """Return the hard history of a seed: a scenario, and besides faults, lag and a second program."""
    rng = random.Random(f"hard {seed}")
    history = random_history(seed, rng)
    history = rng.choice(_SCENARIOS)(rng, history)
    faults = list(history.faults)
    for _ in range(rng.choice((0, 0, 1, 2, 4))):
        faults.append(_fault(rng))
    lag = rng.choice((0.0, 0.0, 0.5, 5.0, 40.0))
    outages = history.outages
    if rng.random() < 0.15:
        outages = (Outage(rng.choice((1.0, 3.0, 6.0)), rng.choice((1.0, 10.0, 60.0))),)
    options = {name: value for name, value in history.options.items() if name != "sync"}
    history = replace(
        history,
        faults=tuple(faults),
        lag=lag,
        outages=outages,
        lives=_lives(rng, history),
        options={**options, "background_rename": 1},
    )
    if not history.has_others and rng.random() < 0.25:
        history = with_power_cuts(history)
    if rng.random() < 0.1 and not any(life.kill for life in history.lives):
        full = Outage(rng.choice((0.0, 0.5, 2.0, 6.0)), rng.choice((0.5, 3.0, 30.0)))
        history = replace(history, disk_full=(full,))
    if rng.random() < 0.25:
        first, *others = history.lives
        first = replace(first, programs=(*first.programs, maker(rng)))
        history = replace(history, lives=(first, *others))
    return with_tags(history)


def _fault(rng: random.Random) -> Fault:
    kind, method = rng.choice(_KINDS), rng.choice(_METHODS)
    if kind in ("413", "507"):
        method = rng.choice(("copy", "copy", "put", "put_manifest"))
    if kind in ("403", "theirs", "theirs first"):
        method = "copy"
    return Fault(kind, method, rng.randrange(8), rng.choice((1.0, 20.0, 60.0)))


def _lives(rng: random.Random, history: History) -> tuple[Life, ...]:
    """Return the lives, perhaps with a second program beside the first, and with one life more."""
    first, *others = history.lives
    if rng.random() < 0.5 and len(first.programs) == 1:
        first = replace(first, programs=(*first.programs, writer(rng)))
    lives = [first, *others]
    if len(lives) < 3 and rng.random() < 0.3:
        steps = program(rng)
        kill = Kill(rng.randrange(len(steps)), int(10 ** rng.uniform(0, 3)))
        lives.append(Life((steps,), rng.choice((None, kill))))
    return tuple(lives)
