"""Measures the sets of a file's blocks, by the size of the file and the number of runs.

Run it as `python benchmarks/block_map.py`; it needs no extra, and prints the CPU time of each call.
"""

import os
import platform
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from swiftfs.filecache.block_map import BLOCK
from swiftfs.filecache.block_set import Blocks
from swiftfs.filecache.segment_layout import plan
from swiftfs.objects import ObjectName, Segment

TIB = 1024**4
SIZES = {"1 TiB": TIB, "3.5 TiB": 7 * TIB // 2}
SEGMENTS = 1000
PLACES = 1000
"""Random places of the file that each figure is the average of; the best of three rounds is taken."""

ROUNDS = 3


@dataclass(frozen=True, slots=True)
class File:
    """The blocks of a file of `size` bytes, and another set that differs in few blocks."""

    size: int
    blocks: Blocks
    other: Blocks

    @property
    def end(self) -> int:
        """The number after its last block."""
        return self.size // BLOCK


def few(size: int) -> Blocks:
    """Return all blocks but ten, so that there are eleven runs."""
    blocks, end = Blocks(), size // BLOCK
    blocks.add(0, end)
    for number in range(1, 11):
        blocks.discard(number * end // 11, number * end // 11 + 1)
    return blocks


def many(size: int) -> Blocks:
    """Return every second block."""
    return Blocks.from_bytes(b"\x55" * (size // BLOCK // 8))


def plan_patch(file: File, _place: int) -> None:
    """Plan an upload of the blocks of the set."""
    length = file.size // SEGMENTS
    old = [Segment(ObjectName("segments", f"{number}"), "", length) for number in range(SEGMENTS)]
    plan(old, length * SEGMENTS, length * SEGMENTS, file.blocks, length)


Call = Callable[[File, int], object]

CALLS: dict[str, Call] = {
    "`add` a block": lambda file, place: file.blocks.copy().add(place, place + 1),
    "`discard` a block": lambda file, place: file.blocks.copy().discard(place, place + 1),
    "`missing` of two blocks": lambda file, place: list(file.blocks.missing(place, place + 2)),
    "`missing` of 1 MiB": lambda file, place: list(file.blocks.missing(place, place + 8)),
    "`covers` 16 MiB": lambda file, place: file.blocks.covers(place, place + 128),
    "the first that is missing of all": lambda file, place: next(file.blocks.missing(0, file.end), place),
    "`discard` the rest of the file": lambda file, place: file.blocks.copy().discard(place, file.end),
    "`copy`": lambda file, _: file.blocks.copy(),
    "`len`": lambda file, _: len(file.blocks),
    "`update` by a similar set": lambda file, _: file.blocks.copy().update(file.other),
}

SLOW_CALLS: dict[str, Call] = {
    "`to_bytes`": lambda file, _: file.blocks.to_bytes(),
    "`to_bytes` and `from_bytes`": lambda file, _: Blocks.from_bytes(file.blocks.to_bytes()),
    "plan a patch of 1000 segments": plan_patch,
}
"""Calls that a close or an upload makes once."""


def measure(call: Call, file: File, places: list[int]) -> float:
    """Return the CPU time of a call, in µs."""
    best = float("inf")
    for _ in range(ROUNDS):
        started = time.thread_time()
        for place in places:
            call(file, place)
        best = min(best, time.thread_time() - started)
    return 1e6 * best / len(places)


def make(size: int, fill: Callable[[int], Blocks]) -> File:
    """Return the blocks of a file, and a copy that differs at three places."""
    blocks, end = fill(size), size // BLOCK
    other = blocks.copy()
    for place in (end // 7, end // 3, end // 2):
        other.add(place, place + 3)
    return File(size, blocks, other)


def main() -> None:
    """Print a row for each call."""
    print(f"{os.cpu_count()} CPUs, Linux {platform.release()}, Python {platform.python_version()}; in µs\n")
    files = [make(size, fill) for fill in (few, many) for size in SIZES.values()]
    names = [f"{name}, {runs}" for runs in ("few runs", "many") for name in SIZES]
    print("| what | " + " | ".join(names) + " |")
    print("|---|" + "---|" * len(names))
    for calls, count in ((CALLS, PLACES), (SLOW_CALLS, 1)):
        for name, call in calls.items():
            figures = []
            for file in files:
                chosen = random.Random(0)
                places = [chosen.randrange(file.end - 128) for _ in range(count)]
                figures.append(f"{measure(call, file, places):,.1f}")
            print(f"| {name} | " + " | ".join(figures) + " |")


if __name__ == "__main__":
    main()
