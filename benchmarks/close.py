"""Measures close(2) of a small file on this machine, while nothing is uploaded.

Run it as `python benchmarks/close.py [--files N] [--size BYTES] [--folder DIR]`; it needs the extra `test`,
and prints a table. The cache folder is in DIR, by default in the folder for temporary files.
"""

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles

from swiftclient import Connection

from swiftfs.demo.server import SwiftServer
from swiftfs.posix.filesystem import FileSystem

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.harness import LEFT, ME, harness, put
from support.memory_store import MemoryStore
from support.mounts import Mount

OPTIONS = "settle=1000000,drain=0"
"""Nothing is uploaded, not even at the end."""

STEPS = ("open and write", "close", "release")

Times = dict[str, list[float]]
"""Seconds of each file, by step."""


@contextmanager
def timed(times: Times, step: str) -> Iterator[None]:
    """Add the seconds of the block to the times of `step`."""
    started = time.perf_counter()
    yield
    times.setdefault(step, []).append(time.perf_counter() - started)


def through_system_calls(folder: Path, files: int, data: bytes) -> Times:
    """Make files by system calls."""
    times: Times = {}
    for number in range(files):
        with timed(times, "open and write"):
            descriptor = os.open(folder / f"file{number:05d}", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            os.write(descriptor, data)
        with timed(times, "close"):
            os.close(descriptor)
    return times


def without_kernel(filesystem: FileSystem, files: int, data: bytes) -> Times:
    """Make files with the calls of the kernel; the release comes after close(2) has returned."""
    times: Times = {}
    for number in range(files):
        with timed(times, "open and write"):
            handle = filesystem.create(f"/file{number:05d}", 0o644, os.O_WRONLY | os.O_EXCL, ME)
            put(filesystem, handle, 0, data)
        with timed(times, "close"):
            filesystem.flush(handle)
        with timed(times, "release"):
            filesystem.release(handle)
    return times


def in_plain_folder(folder: Path, files: int, data: bytes) -> Times:
    """Measure a local folder."""
    return through_system_calls(folder, files, data)


def in_file_system(folder: Path, files: int, data: bytes) -> Times:
    """Measure a file system without a kernel."""
    store = MemoryStore()
    store.create_container("box")
    with harness(store, folder, OPTIONS, close_error=LEFT) as filesystem:
        return without_kernel(filesystem, files, data)


def in_mount(folder: Path, files: int, data: bytes) -> Times:
    """Measure a mount of a real Swift."""
    with SwiftServer() as server:
        connection = Connection(server.auth_url, server.user, server.key)
        connection.put_container("box")
        connection.close()
        mount = Mount(server, "box", folder, OPTIONS)
        mount.exit_code = 1
        mount.expected = [f"{files} changes stay in"]
        with mount:
            return through_system_calls(mount.path, files, data)


PLACES: dict[str, Callable[[Path, int, bytes], Times]] = {
    "a folder of the disk": in_plain_folder,
    "the file system, without a kernel": in_file_system,
    "a mount": in_mount,
}


def show(place: str, times: Times) -> None:
    """Print the rows of a place, in ms."""
    for step in STEPS:
        if step in times:
            milliseconds = [1000 * seconds for seconds in times[step]]
            tenth = max(1, len(milliseconds) // 10)
            first, last = median(milliseconds[:tenth]), median(milliseconds[-tenth:])
            figures = median(milliseconds), quantiles(milliseconds, n=100)[98], max(milliseconds), first, last
            print(f"| {place} | {step} | " + " | ".join(f"{figure:.2f}" for figure in figures) + " |")


def main() -> None:
    """Measure each place."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--size", type=int, default=1024, help="bytes of each file")
    parser.add_argument("--folder", type=Path, help="folder for the cache folder")
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} CPUs, Linux {platform.release()}, Python {platform.python_version()}; ", end="")
    print(f"{arguments.files} files of {arguments.size} bytes, in ms\n")
    print("| where | what | median | p99 | longest | median of the first tenth | of the last |")
    print("|---|---|---|---|---|---|---|")
    for place, measure in PLACES.items():
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            show(place, measure(Path(folder), arguments.files, os.urandom(arguments.size)))


if __name__ == "__main__":
    main()
