"""Histories in which several rare events coincide.

Each replaces parts of a random history.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace

from simulation.adversary import Fault
from simulation.mount import SEGMENT
from simulation.plan import History, Kill, Life
from simulation.scheduler import SwitchRates
from simulation.steps import FOLDERS, SIZES, Step, change, pause, program

LARGE = SIZES[-3:]

HOUR = 3600.0


def interrupted_move(rng: random.Random, history: History) -> History:
    """Kill a mount in a folder's rename; the next may not finish it, and its programs use both places."""
    old, new = rng.sample(FOLDERS[:2], 2)
    steps = [*_folder(rng, old), Step("sync"), Step("rename", old, new), pause(rng)]
    begun = Life((tuple(steps),), Kill(len(steps) - 2, rng.randrange(40, 140)))
    places = (old, new, new)
    writes = [Step("write", f"{rng.choice(places)}/{name}", size=rng.choice(SIZES)) for name in "ab"]
    between = [Step("mkdir", new), *writes, Step("sync"), pause(rng)]
    if rng.random() < 0.5:
        between.append(Step("unlink", f"{new}/a"))
    # The first listings of a mount are those of the root, then of the moves that it finishes.
    faults = [Fault("503", "list_page", rng.choice((3, 3, 4, 5)), 30.0)]
    if rng.random() < 0.3:
        faults.append(Fault("413", "copy", rng.randrange(6), 10.0))
    later = Life((tuple(between),), rng.choice((None, Kill(len(between) - 1, 200))))
    return replace(history, lives=(begun, later), faults=tuple(faults), outages=(), options={}, lag=0.0)


def lost_manifest(rng: random.Random, history: History) -> History:
    """Lose the answer to a manifest, then kill the mount, or unmount it with a short drain time."""
    path = rng.choice(("/a", "/b"))
    steps = [Step("write", path, size=rng.choice(LARGE))]
    number = 0
    if rng.random() < 0.6:
        steps += [Step("fsync", path), change(rng, path)]
        number = 1
    steps += [Step("pause", seconds=rng.choice((2.2, 2.6, 4.0))), pause(rng)]
    kind = rng.choice(("lost", "lost", "lost", "late"))
    faults = [Fault(kind, "put_manifest", number + more) for more in range(rng.choice((1, 3, 12)))]
    kill = Kill(len(steps) - 1, int(10 ** rng.uniform(0, 2.5))) if rng.random() < 0.7 else None
    options = {**history.options, "drain": 1.0}
    second = Life((program(rng),))
    lives = (Life((tuple(steps),), kill), *([second] if rng.random() < 0.4 else []))
    return replace(history, lives=lives, faults=tuple(faults), options=options, outages=())


def remnants(rng: random.Random, history: History) -> History:
    """Refuse to delete what a rename has copied, and let programs use both places."""
    old, new = rng.sample(FOLDERS[:2], 2)
    rename = rng.choice((Step("rename", old, new), Step("rename", f"{old}/a", f"{old}/c")))
    steps = [*_folder(rng, old), rename, pause(rng)]
    after = [
        rng.choice((Step("rmtree", old), change(rng, f"{new}/a"), Step("unlink", f"{old}/a"), pause(rng))),
        rng.choice((Step("write", f"{old}/a", size=rng.choice(LARGE)), change(rng, f"{old}/c"), pause(rng))),
        Step("sync"),
        pause(rng),
    ]
    faults = [Fault("403", "copy", number, rng.choice((1.0, 60.0, HOUR))) for number in range(6)]
    if rng.random() < 0.5:
        lives = (Life((tuple(steps),), rng.choice((None, Kill(len(steps) - 1, 50)))), Life((tuple(after),)))
    else:
        lives = (Life((tuple(steps + after),)), Life((program(rng),)))
    return replace(history, lives=lives, faults=tuple(faults), outages=())


def others_at_target(rng: random.Random, history: History) -> History:
    """Let another client store files at the target of a folder's rename, and let some copies fail."""
    old, new = rng.sample(FOLDERS[:2], 2)
    theirs = Step("theirs", f"{new}/{rng.choice(('a', 'b', 't'))}")
    steps = [Step("mkdir", new), *_folder(rng, old), theirs, Step("rename", old, new), pause(rng)]
    faults = []
    if rng.random() < 0.4:
        steps.remove(theirs)
        faults = [Fault("theirs first", "copy", rng.randrange(1, 3))]
    elif rng.random() < 0.7:
        kind = rng.choice(("413", "fails", "fails"))
        number = rng.randrange(3)
        faults = [Fault(kind, "copy", number + more, 20.0) for more in range(20)]
    return replace(history, lives=(Life((tuple(steps),)),), faults=tuple(faults), outages=(), lag=0.0)


def others_at_source(rng: random.Random, history: History) -> History:
    """Let another client replace a file after a rename has copied it."""
    steps = [Step("write", "/a", size=rng.choice(SIZES)), Step("fsync", "/a"), Step("rename", "/a", "/b")]
    faults = (Fault("theirs", "copy", 0),)
    return replace(history, lives=(Life(((*steps, pause(rng)),)),), faults=faults, outages=(), lag=0.0)


def conflicts(rng: random.Random, history: History) -> History:
    """Let another client change a large file that is changed here, with `conflict=keep`."""
    steps = [
        Step("write", "/a", size=rng.choice(LARGE)),
        Step("fsync", "/a"),
        *([Step("patch", "/a", offset=5, size=20)] if rng.random() < 0.5 else []),
        Step("their patch", "/a"),
        Step("patch", "/a", offset=rng.choice((5, SEGMENT + 5)), size=20),
        rng.choice((Step("sync"), pause(rng))),
        Step("unlink", "/a") if rng.random() < 0.5 else change(rng, "/a"),
        pause(rng),
    ]
    options = {**history.options, "conflict": "keep"}
    return replace(history, lives=(Life((tuple(steps),)),), options=options, outages=())


def second_close(rng: random.Random, history: History) -> History:
    """Change a file in place just before its upload begins, with threads that often stall."""
    path = rng.choice(("/a", "/b"))
    steps = [Step("write", path, size=rng.choice(SIZES)), rng.choice((Step("sync"), pause(rng)))]
    for _ in range(rng.randrange(2, 4)):
        steps.append(Step("append", path, size=rng.choice((6, 100, SEGMENT))))
        steps.append(Step("pause", seconds=rng.choice((0.5, 2.0, 2.01, 2.3, 3.0))))
    life = Life((tuple(steps),), rng.choice((None, Kill(len(steps) - 1, rng.randrange(1, 200)))))
    rates = SwitchRates(rng.choice((100, 300)), rng.choice((20, 50, 100)))
    return replace(history, lives=(life,), rates=rates, outages=(), lag=0.0)


def write_while_moving(rng: random.Random, history: History) -> History:
    """Write to an open file, and close it, while its folder is renamed."""
    old, new = rng.sample(FOLDERS[:2], 2)
    path = f"{old}/a"
    steps = [*_folder(rng, old), Step("pause", seconds=5.0), Step("rename", old, new), pause(rng)]
    writes = [
        Step("pause", seconds=4.0),
        Step("open slot", path, slot=2),
        Step("pause", seconds=rng.choice((1.0, 1.05, 1.2, 2.0))),
        Step("patch slot", slot=2, offset=rng.choice((0, 3, SEGMENT)), size=20),
        Step("pause", seconds=rng.choice((0.0, 0.1, 0.5, 2.0))),
        rng.choice((Step("close slot", slot=2), Step("close mapped slot", slot=2, size=20))),
        pause(rng),
    ]
    faults = [Fault("slow", method, rng.randrange(3), 1.0) for method in ("copy", "delete_many", "list_page")]
    life = Life((tuple(steps), tuple(writes)))
    return replace(history, lives=(life,), faults=tuple(faults), outages=(), lag=0.0)


def fresh_folder(rng: random.Random, history: History) -> History:
    """Rename a folder before all of it is stored, once or twice, and kill the mount meanwhile."""
    old, new = rng.sample(FOLDERS[:2], 2)
    steps = [*_folder(rng, old)] if rng.random() < 0.6 else [Step("mkdir", old)]
    if rng.random() < 0.3:
        steps += [Step("mkdir", new), Step("write", f"{new}/{rng.choice('ac')}", size=10), Step("sync")]
        steps.append(Step("rmtree", new))
    steps += [Step("mkdir", f"{old}/s")] if rng.random() < 0.6 else []
    for path in rng.sample(("a", "b", "c", "s/a", "s/b"), 3):
        steps.append(Step("write", f"{old}/{path}", size=rng.choice(SIZES)))
    if rng.random() < 0.4:
        steps.append(
            rng.choice((Step("unlink", f"{old}/a"), change(rng, f"{old}/a"), Step("chmod", f"{old}/b")))
        )
    if rng.random() < 0.5:
        steps.append(Step("pause", seconds=rng.choice((1.0, 1.9, 2.0, 2.01, 2.1, 2.3))))
    first = len(steps)
    steps.append(Step("rename", old, new))
    more = (
        Step("rename", new, old),
        Step("rename", new, f"{new}x"),
        Step("write", f"{new}/c", size=10),
        Step("rmtree", new),
        Step("mkdir", old),
        Step("fsync", f"{new}/b"),
        pause(rng),
    )
    steps += rng.sample(more, rng.randrange(4))
    writes = [
        Step("pause", seconds=rng.choice((0.5, 1.0, 2.0))),
        Step("open slot", f"{old}/b", slot=2),
        Step("patch slot", slot=2, offset=rng.choice((0, 3, SEGMENT)), size=20),
        Step("pause", seconds=rng.choice((0.0, 0.1, 2.0, 2.5))),
        rng.choice((Step("close slot", slot=2), Step("fsync slot", slot=2))),
    ]
    programs = (tuple(steps), *([tuple(writes)] if rng.random() < 0.4 else []))
    kill = (
        Kill(rng.randrange(first, len(steps)), int(10 ** rng.uniform(0, 2.5))) if rng.random() < 0.7 else None
    )
    lives = (Life(programs, kill), *([Life((program(rng),))] if rng.random() < 0.5 else []))
    faults = history.faults if rng.random() < 0.5 else ()
    return replace(history, lives=lives, faults=faults, outages=())


def moving_on(rng: random.Random, history: History) -> History:
    """Use both names of a folder whose objects move after its rename, and kill the mount meanwhile."""
    old, new = rng.sample(FOLDERS[:2], 2)
    steps = [
        *_folder(rng, old),
        Step("mkdir", f"{old}/s"),
        Step("write", f"{old}/s/a", size=10),
        Step("sync"),
    ]
    steps.append(Step("rename", old, new))
    first = len(steps)
    more = (
        Step("rename", new, old),
        Step("rename", f"{new}/s", f"{new}/t"),
        Step("rename", f"{new}/a", f"{new}/c"),
        Step("rename", f"{new}/a", f"{new}/b"),
        Step("rename", new, f"{new}x"),
        Step("write", f"{new}/c", size=10),
        Step("write", f"{new}/a", size=rng.choice(SIZES)),
        change(rng, f"{new}/b"),
        Step("unlink", f"{new}/b"),
        Step("rmtree", new),
        Step("mkdir", old),
        Step("write", f"{old}/a", size=rng.choice(SIZES)),
        Step("fsync", f"{new}/b"),
        Step("read", f"{new}/b"),
        Step("theirs", f"{old}/{rng.choice('abt')}"),
        Step("theirs", f"{new}/{rng.choice('abt')}"),
        pause(rng),
    )
    steps += rng.sample(more, rng.randrange(1, 6))
    kill = None
    if rng.random() < 0.6:
        kill = Kill(rng.randrange(first - 1, len(steps)), int(10 ** rng.uniform(0, 2.5)))
    lives = (Life((tuple(steps),), kill), *([Life((program(rng),))] if rng.random() < 0.5 else []))
    faults = list(history.faults) if rng.random() < 0.4 else []
    for _ in range(rng.randrange(3)):
        kind = rng.choice(("lost", "late", "413", "slow", "slow", "fails"))
        method = rng.choice(("copy", "copy", "delete_many", "delete", "head", "list_page"))
        method = "copy" if kind == "413" else method
        faults.append(Fault(kind, method, rng.randrange(6), rng.choice((1.0, 20.0))))
    options = {name: value for name, value in history.options.items() if name != "sync"}
    return replace(history, lives=lives, faults=tuple(faults), options=options)


def _folder(rng: random.Random, path: str) -> Iterator[Step]:
    """Yield the steps that make a folder with two files and store it."""
    yield Step("mkdir", path)
    for name in ("a", "b"):
        yield Step("write", f"{path}/{name}", size=rng.choice(SIZES))
    yield rng.choice((Step("sync"), Step("sync"), pause(rng)))


SCENARIOS: tuple[Callable[[random.Random, History], History], ...] = (
    interrupted_move,
    lost_manifest,
    remnants,
    others_at_target,
    others_at_source,
    conflicts,
    second_close,
    write_while_moving,
    fresh_folder,
    moving_on,
)
