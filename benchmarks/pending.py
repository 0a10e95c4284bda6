"""Measures a mount with many waiting files: its memory, close(2), and the start of the next mount.

Run it as `python benchmarks/pending.py [--files N] [--folder DIR]`; it needs the extra `test`, and prints a
table. The file system runs without a kernel, over a store in memory. Each part is a process of its own.
"""

import argparse
import gc
import os
import platform
import subprocess
import sys
import tempfile
import time
from array import array
from pathlib import Path
from statistics import median, quantiles

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.harness import ME, harness, put
from support.memory_store import MemoryStore

OPTIONS = "settle=1000000,drain=0"
"""Nothing is uploaded."""

PER_FOLDER = 1000


def resident() -> str:
    """Return the resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return f"{pages * os.sysconf('SC_PAGE_SIZE') / 2**20:.0f} MiB"


def path_of(number: int) -> str:
    return f"/folder{number // PER_FOLDER:04d}/file{number:06d}"


def fill(cache: Path, files: int) -> None:
    """Make the files, print the figures, and die."""
    print(f"| memory of an empty mount | {resident()} |")
    milliseconds = array("d", bytes(8 * files))
    with harness(MemoryStore("box"), cache, OPTIONS) as filesystem:
        for number in range(0, files, PER_FOLDER):
            filesystem.mkdir(path_of(number).rpartition("/")[0], 0o755, ME)
        for number in range(files):
            handle = filesystem.create(path_of(number), 0o644, os.O_WRONLY | os.O_EXCL, ME)
            put(filesystem, handle, 0, b"x" * 100)
            started = time.thread_time()
            filesystem.flush(handle)
            milliseconds[number] = 1000 * (time.thread_time() - started)
            filesystem.release(handle)
        memory = resident()
        p99 = quantiles(milliseconds, n=100)[98]
        last = median(milliseconds[-max(1, files // 10) :])
        print(f"| close(), CPU: median, p99 | {median(milliseconds):.2f}, {p99:.2f} ms |")
        print(f"| close(), CPU: median of the last tenth | {last:.2f} ms |")
        print(f"| memory with {files:,} waiting files | {memory} |", flush=True)
        os._exit(0)


def start(cache: Path, files: int) -> None:
    """Start the next mount, print the figures, and die before anything is uploaded."""
    store = MemoryStore("box")
    started, cpu = time.perf_counter(), time.process_time()
    gc.disable()  # as `swiftfs mount` does
    with harness(store, cache, OPTIONS) as filesystem:
        gc.freeze()
        gc.enable()
        filesystem.getattr(path_of(files - 1))
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        print(f"| first getattr of the next mount | after {seconds:.1f} s, {cpu:.1f} s of CPU |")
        print(f"| memory of the next mount | {resident()} |", flush=True)
        os._exit(0)


def main() -> None:
    """Measure each part in a process of its own."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="folder for the cache folder")
    parser.add_argument("--part", choices=("fill", "start"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part is not None:
        (fill if arguments.part == "fill" else start)(arguments.folder, arguments.files)
        return
    print(f"{os.cpu_count()} CPUs, Linux {platform.release()}, Python {platform.python_version()}\n")
    print("| what | |")
    print("|---|---|", flush=True)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for part in ("fill", "start"):
            words = ["--files", str(arguments.files), "--folder", folder, "--part", part]
            subprocess.run([sys.executable, __file__, *words], check=True)


if __name__ == "__main__":
    main()
