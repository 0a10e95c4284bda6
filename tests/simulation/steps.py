"""What programs do, as lists of steps: rsync, editors, logrotate, file managers, and random steps."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from simulation.mount import SEGMENT

FILES = ("/a", "/b", "/d/a", "/d/b", "/d/s/a", "/e/a")
FOLDERS = ("/d", "/e", "/d/s", "/f")
SIZES = (10, 10, 10, 40, 5000, SEGMENT - 7, 2 * SEGMENT, 2 * SEGMENT + 100, 3 * SEGMENT + 9)
CUTS = (0, 3, SEGMENT, SEGMENT + 40)
"""Sizes to which files are truncated, or made longer."""

PAUSES = (0.05, 0.5, 1.6, 2.1, 2.5, 6.0, 35.0)


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a program: a verb, and its arguments.

    `slot` numbers the handles that a program keeps open.
    """

    verb: str
    path: str = ""
    other: str = ""
    slot: int = 0
    offset: int = 0
    size: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        words = [self.verb, self.path, self.other and f"to {self.other}"]
        if "slot" in self.verb:
            words.append(f"(handle {self.slot})")
        if self.offset:
            words.append(f"at {self.offset}")
        if self.size:
            words.append(f"{self.size} bytes")
        if self.seconds:
            words.append(f"{self.seconds:g} s")
        return " ".join(word for word in words if word)


Steps = Iterator[Step]


def pause(rng: random.Random) -> Step:
    """Return a pause, often close to the write delay."""
    return Step("pause", seconds=rng.choice(PAUSES))


def rsync(rng: random.Random) -> Steps:
    """Yield the steps with which rsync replaces a file."""
    path = rng.choice(FILES)
    folder, name = path.rsplit("/", 1)
    temporary = f"{folder}/.{name}.X1"
    yield Step("write", temporary, size=rng.choice(SIZES))
    yield Step("utimens", temporary)
    yield Step("chmod", temporary)
    yield Step("rename", temporary, path)


def editor(rng: random.Random) -> Steps:
    """Yield the steps with which an editor saves a file and keeps a backup."""
    path = rng.choice(FILES)
    yield Step("rename", path, f"{path}~")
    yield Step("write", path, size=rng.choice(SIZES))
    if rng.random() < 0.5:
        yield Step("fsync", path)


def logrotate(rng: random.Random) -> Steps:
    """Yield the steps of a log that is rotated while its writer has it open."""
    path = rng.choice(FILES)
    yield Step("open slot", path, slot=0)
    yield Step("append slot", slot=0, size=30)
    if rng.random() < 0.5:
        yield Step("fsync slot", slot=0)
    yield pause(rng)
    yield Step("rename", path, f"{path}.1")
    yield Step("append slot", slot=0, size=30)
    yield Step("write", path, size=30)
    yield Step("close slot", slot=0)


def replace_by_hand(rng: random.Random) -> Steps:
    """Yield `rm b; mv a b`."""
    a, b = rng.sample(FILES, 2)
    for path in (a, b):
        yield Step("write", path, size=rng.choice(SIZES))
    yield rng.choice((Step("fsync", a), Step("sync"), pause(rng)))
    yield rng.choice((Step("fsync", b), pause(rng)))
    yield Step("unlink", b)
    yield Step("pause", seconds=rng.choice((0.0, 1.0, 1.9, 1.99, 2.0, 2.01, 2.1)))
    yield Step("rename", a, b)


def close_twice(rng: random.Random) -> Steps:
    """Yield two changes in place, the second during the upload of the first."""
    path = rng.choice(FILES)
    yield Step("write", path, size=rng.choice(SIZES))
    yield rng.choice((Step("fsync", path), pause(rng)))
    for _ in range(2):
        yield rng.choice((change(rng, path), change(rng, path), Step("write", path, size=rng.choice(SIZES))))
        yield Step("pause", seconds=rng.choice((1.0, 2.0, 2.01, 2.05, 2.5, 3.0)))


def change(rng: random.Random, path: str) -> Step:
    """Return a change of a file in place."""
    kind = rng.random()
    if kind < 0.4:
        return Step("append", path, size=rng.choice((6, 100, SEGMENT)))
    if kind < 0.8:
        return Step("patch", path, offset=rng.choice((0, 5, SEGMENT - 3, SEGMENT + 50)), size=20)
    return Step("truncate", path, size=rng.choice(CUTS))


def patch_large(rng: random.Random) -> Steps:
    """Yield changes of a large file that is stored."""
    path = rng.choice(FILES)
    yield Step("write", path, size=rng.choice(SIZES[-3:]))
    yield rng.choice((Step("fsync", path), pause(rng)))
    yield change(rng, path)
    yield rng.choice((Step("fsync", path), pause(rng), Step("sync")))


def copy(rng: random.Random) -> Steps:
    """Yield copies of a file, and changes of it and of a copy."""
    source, target = rng.sample(FILES, 2)
    if rng.random() < 0.7:
        yield Step("write", source, size=rng.choice(SIZES[4:]))
        yield rng.choice((Step("fsync", source), Step("sync"), pause(rng)))
    for _ in range(rng.randrange(1, 3)):
        yield Step("copy", source, target)
        path = rng.choice((source, target, target))
        yield rng.choice(
            (
                change(rng, path),
                change(rng, path),
                Step("unlink", path),
                Step("read", path),
                Step("fsync", path),
                Step("rename", target, rng.choice(FILES)),
                pause(rng),
            )
        )
        if rng.random() < 0.5:
            yield rng.choice((change(rng, target), pause(rng), Step("read", target)))


def move_folder(rng: random.Random) -> Steps:
    """Yield the steps of a folder with files that is renamed, and perhaps removed."""
    old, new = rng.sample(FOLDERS, 2)
    if rng.random() < 0.3:
        yield Step("rmtree", new)
    yield Step("mkdir", old)
    for name in rng.sample(("a", "b", "c"), 2):
        yield Step("write", f"{old}/{name}", size=rng.choice(SIZES))
    yield rng.choice((Step("sync"), pause(rng)))
    if rng.random() < 0.5:
        yield change(rng, f"{old}/a")
    yield Step("rename", old, new)
    if rng.random() < 0.3:
        yield pause(rng)
        yield Step("rmtree", rng.choice((old, new)))


def remove_all(rng: random.Random) -> Steps:
    """Yield `rm -r`."""
    yield Step("rmtree", rng.choice(FOLDERS))


def unlink_open(rng: random.Random) -> Steps:
    """Yield the steps of a file that is deleted while it is open, and perhaps created again."""
    path = rng.choice(FILES)
    yield Step("open slot", path, slot=1)
    yield Step("append slot", slot=1, size=20)
    yield Step("unlink", path)
    yield pause(rng)
    yield Step("append slot", slot=1, size=20)
    if rng.random() < 0.5:
        yield Step("write", path, size=10)
    yield Step("close slot", slot=1)


def describe(rng: random.Random) -> Steps:
    """Yield changes of a file's attributes, before, during and after its upload, and of its name."""
    path = rng.choice(FILES)
    if rng.random() < 0.7:
        yield Step("write", path, size=rng.choice(SIZES))
        yield Step("pause", seconds=rng.choice((0.0, 1.9, 1.99, 2.0, 2.01, 2.05, 35.0)))
    for _ in range(rng.randrange(1, 4)):
        yield rng.choice((Step("chmod", path), Step("utimens", path)))
        yield rng.choice((Step("pause", seconds=rng.choice((0.0, 1.99, 2.01))), change(rng, path)))
    if rng.random() < 0.4:
        yield Step("rename", *rng.choice(((path, rng.choice(FILES)), rng.sample(FOLDERS, 2))))


def anything(rng: random.Random) -> Steps:
    """Yield a few random steps."""
    for _ in range(rng.randrange(1, 6)):
        path = rng.choice(FILES)
        yield rng.choice(
            (
                Step("write", path, size=rng.choice(SIZES)),
                change(rng, path),
                change(rng, path),
                Step("read", path),
                Step("unlink", path),
                Step("chmod", path),
                Step("utimens", path),
                Step("rename", path, rng.choice(FILES)),
                Step("mkdir", rng.choice(FOLDERS)),
                Step("fsync", path),
                Step("theirs", f"{rng.choice(FOLDERS)}/t"),
                Step("their patch", path),
                Step("rename", rng.choice(FOLDERS), rng.choice(FOLDERS)),
                pause(rng),
                pause(rng),
            )
        )


WORKLOADS: tuple[Callable[[random.Random], Steps], ...] = (
    rsync,
    editor,
    logrotate,
    replace_by_hand,
    close_twice,
    patch_large,
    copy,
    move_folder,
    remove_all,
    unlink_open,
    describe,
    anything,
    anything,
)


def program(rng: random.Random) -> tuple[Step, ...]:
    """Return the steps of a program that changes names and bytes."""
    steps = [Step("mkdir", "/d"), *([Step("mkdir", "/e")] if rng.random() < 0.5 else [])]
    for _ in range(rng.randrange(1, 4)):
        steps += rng.choice(WORKLOADS)(rng)
        if rng.random() < 0.6:
            steps.append(pause(rng))
    return tuple(steps)


def maker(rng: random.Random) -> tuple[Step, ...]:
    """Return the steps of a program that makes a folder again, and has a new file open in it for long."""
    folder = rng.choice(FOLDERS[:2])
    return (
        pause(rng),
        Step("mkdir", folder),
        Step("make slot", f"{folder}/{rng.choice('ab')}", slot=3),
        pause(rng),
        Step("append slot", slot=3, size=10),
        pause(rng),
        Step("close slot", slot=3),
    )


def writer(rng: random.Random) -> tuple[Step, ...]:
    """Return the steps of a program that changes files which it has open."""
    steps = [pause(rng)]
    for _ in range(rng.randrange(1, 4)):
        steps += [Step("open slot", rng.choice(FILES), slot=2), pause(rng)]
        for _ in range(rng.randrange(1, 3)):
            append = Step("append slot", slot=2, size=rng.choice((10, 100, SEGMENT)))
            patch = Step("patch slot", slot=2, offset=rng.choice((0, 3, SEGMENT - 3)), size=20)
            truncate = Step("truncate slot", slot=2, size=rng.choice(CUTS))
            steps.append(rng.choice((append, append, patch, patch, truncate)))
            steps.append(rng.choice((Step("fsync slot", slot=2), pause(rng))))
        steps += [Step("close slot", slot=2), pause(rng)]
    return tuple(steps)


def other(rng: random.Random) -> tuple[Step, ...]:
    """Return the steps of a program in a second mount, which replaces, changes, renames and deletes files."""
    steps = [pause(rng)]
    for _ in range(rng.randrange(1, 5)):
        path = rng.choice(FILES)
        write = Step("their write", path, size=rng.choice(SIZES))
        rename = Step("their rename", path, rng.choice(FILES))
        more = (Step("their patch", path, size=20), Step("their unlink", path), rename)
        steps += [rng.choice((write, write, *more)), pause(rng)]
    return tuple(steps)
