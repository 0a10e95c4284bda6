"""The ways in which programs read a large file: in order, in parts, by several threads, backwards, in jumps.

Each pattern is what a program was seen to do, without the program, and compares the bytes.
"""

import mmap
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from support.noise import noise

KIB, MIB = 1024, 1024**2
SIZE = 100 * MIB
"""Bytes of the file."""

PERIOD = MIB + 77
"""Bytes after which the file repeats: no multiple of a block, so that no block is taken for another."""


@cache
def _periods() -> bytes:
    return 6 * noise(PERIOD)


def body(start: int, stop: int) -> bytes:
    """Return up to 4 MiB of the file, without holding all of it in memory."""
    first = start % PERIOD
    return _periods()[first : first + stop - start]


def parts() -> Iterator[bytes]:
    """Yield the file's bytes, for an upload."""
    return (body(at, min(at + MIB, SIZE)) for at in range(0, SIZE, MIB))


class File:
    """An open file that is compared with `body`; may be used by several threads."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self, offset: int, size: int) -> None:
        """Read a range with one system call."""
        found = os.pread(self._descriptor, size, offset)
        assert found == body(offset, offset + size), f"wrong bytes at {offset}"

    def read_all(self, start: int, stop: int, piece: int) -> None:
        """Read a range in order, in pieces."""
        for offset in range(start, stop, piece):
            self.read(offset, min(piece, stop - offset))

    def read_direct(self, offset: int, size: int) -> None:
        """Read a range with one system call into memory that is aligned, as O_DIRECT needs it."""
        with mmap.mmap(-1, size) as memory:
            count = os.preadv(self._descriptor, [memory], offset)
            assert memory[:count] == body(offset, min(offset + size, SIZE)), f"wrong bytes at {offset}"


@contextmanager
def opened(path: Path, flags: int = 0) -> Iterator[File]:
    """Open the file."""
    descriptor = os.open(path, os.O_RDONLY | flags)
    try:
        yield File(descriptor)
    finally:
        os.close(descriptor)


def in_order(path: Path) -> None:
    """Read all, as `cat` and `cp` do."""
    with opened(path) as file:
        file.read_all(0, SIZE, 128 * KIB)


def by_quarters(path: Path) -> None:
    """Read a quarter in each of four programs, as four `dd` do, or `rclone copyto` with four streams."""

    def read(start: int) -> None:
        with opened(path) as file:
            file.read_all(start, start + SIZE // 4, 64 * KIB)

    with ThreadPoolExecutor(4) as programs:
        list(programs.map(read, range(0, SIZE, SIZE // 4)))


def both_halves(path: Path) -> None:
    """Read both halves by turns, with one descriptor."""
    with opened(path) as file:
        for offset in range(0, SIZE // 2, 256 * KIB):
            file.read(offset, 256 * KIB)
            file.read(offset + SIZE // 2, 256 * KIB)


def direct(path: Path) -> None:
    """Read all past the kernel's cache, as `dd bs=4M iflag=direct` does."""
    with opened(path, os.O_DIRECT) as file:
        for offset in range(0, SIZE, 4 * MIB):
            file.read_direct(offset, 4 * MIB)


def out_of_order(path: Path) -> None:
    """Read all with eight requests under way, as `qemu-img convert` does, which looks at the header first."""
    with opened(path) as file, ThreadPoolExecutor(8) as threads:
        file.read(0, 2 * KIB)
        list(threads.map(lambda offset: file.read(offset, 2 * MIB), range(0, SIZE, 2 * MIB)))


def backwards(path: Path) -> None:
    """Read all from the end to the beginning."""
    with opened(path) as file:
        for offset in range(SIZE - MIB, -1, -MIB):
            file.read(offset, MIB)


def the_tail(path: Path) -> None:
    """Read the last MiB, as `tail -c` does."""
    with opened(path) as file:
        file.read_all(SIZE - MIB, SIZE, 8 * KIB)


PLAYED = 24 * MIB
FRAME_SECONDS = 0.025
"""The time for which a player plays 128 KiB: a film of 40 Mbit/s."""


def as_a_player(path: Path) -> None:
    """Read the head, the index at the tail, and play from the middle on, as a player of mp4 does."""
    with opened(path) as file:
        file.read_all(0, 256 * KIB, 32 * KIB)
        file.read_all(SIZE - 512 * KIB, SIZE, 32 * KIB)
        begun = time.monotonic()
        for number, offset in enumerate(range(40 * MIB, 40 * MIB + PLAYED, 128 * KIB)):
            time.sleep(max(0, begun + number * FRAME_SECONDS - time.monotonic()))
            file.read(offset, 128 * KIB)


PLACES = range(2 * MIB, SIZE - 2 * MIB, 4 * MIB)


def in_jumps(path: Path) -> None:
    """Read blocks at one distance from each other, as a program that samples each chunk does."""
    with opened(path) as file:
        for offset in PLACES:
            file.read(offset, 128 * KIB)


def on_a_grid(path: Path) -> None:
    """Read the same blocks in no order."""
    with opened(path) as file:
        for offset in random.Random(5).sample(PLACES, len(PLACES)):
            file.read(offset, 128 * KIB)


def here_and_there(path: Path) -> None:
    """Read blocks in no order and without a common distance, as a database does."""
    dice = random.Random(5)
    with opened(path) as file:
        for offset in dice.sample(PLACES, len(PLACES)):
            file.read(offset + dice.randrange(8) * 128 * KIB, 128 * KIB)


def three_blocks(path: Path) -> None:
    """Read the beginning, as `dd bs=128k count=3` does."""
    with opened(path) as file:
        file.read_all(0, 3 * 128 * KIB, 128 * KIB)


def first_byte(path: Path) -> None:
    """Read one byte."""
    with opened(path) as file:
        file.read(0, 1)


@dataclass(frozen=True)
class Pattern:
    """A way to read, the bytes that it needs, and its limits: requests, and a multiple of these bytes."""

    title: str
    run: Callable[[Path], None]
    needed: int = SIZE
    requests: int = 40
    multiple: float = 1.1


PATTERNS: Mapping[str, Pattern] = {
    "in order": Pattern("in order, as `cp`", in_order),
    "quarters": Pattern("a quarter by each of four `dd`", by_quarters),
    "halves": Pattern("both halves by turns, one descriptor", both_halves),
    "direct": Pattern("in order, `O_DIRECT`, 4 MiB each", direct),
    "out of order": Pattern("eight reads of 2 MiB at once, as `qemu-img`", out_of_order),
    "backwards": Pattern("backwards, 1 MiB each", backwards, requests=30),
    "tail": Pattern("the last MiB, as `tail -c`", the_tail, needed=MIB, requests=1),
    # The slower the machine, the more is downloaded ahead of a player: `test_read_ahead.py` is exact.
    "player": Pattern(
        "head, tail, then the middle, as a player", as_a_player, PLAYED + 768 * KIB, multiple=1.5
    ),
    "in jumps": Pattern("blocks of 128 KiB, 4 MiB apart", in_jumps, len(PLACES) * 128 * KIB, len(PLACES)),
    "grid": Pattern("the same blocks in no order", on_a_grid, len(PLACES) * 128 * KIB, len(PLACES)),
    "here and there": Pattern(
        "blocks of 128 KiB here and there", here_and_there, len(PLACES) * 128 * KIB, len(PLACES)
    ),
    "three blocks": Pattern("three blocks, as `dd bs=128k count=3`", three_blocks, needed=MIB, requests=1),
    "first byte": Pattern("one byte", first_byte, needed=MIB, requests=1),
}
