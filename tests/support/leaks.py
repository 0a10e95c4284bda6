"""Finds what a test leaves in its process: threads, file descriptors, mounts."""

import gc
import os
import subprocess
import threading
import time
from pathlib import Path

from support.deadlines import within

GRACE_SECONDS = 5
"""Seconds that threads, and sockets of a peer in this process, may take to end after a test."""
MOUNTS = Path("/proc/self/mountinfo")


class Belongings:
    """The threads, descriptors and mounts of the process at one moment; `left` returns later ones."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._threads = set(threading.enumerate())
        self._descriptors = _descriptors()

    def left(self) -> list[str]:
        """Return what is left after `GRACE_SECONDS`, a line each; objects in reference cycles are no leak."""
        found, generations = self._more(), [2, 1]
        ends = time.monotonic() + within(GRACE_SECONDS) if found else 0.0
        while found and time.monotonic() < ends:
            # Most of what a test has left in cycles is young, and a whole collection takes 0.1 s.
            if generations and any(one.startswith("descriptor") for one in found):
                gc.collect(generations.pop())
            else:
                time.sleep(0.01)
            found = self._more()
        return found

    def detach_mounts(self) -> None:
        """Take away the mounts that are left: the next tests would find them too."""
        for point in _mounts_below(self._folder):
            subprocess.run(["fusermount", "-u", "-z", point], check=False, capture_output=True)

    def _more(self) -> list[str]:
        threads = [f"thread {one.name}" for one in set(threading.enumerate()) - self._threads]
        descriptors = [
            f"descriptor {number}: {target}"
            for number, target in _descriptors().items()
            if self._descriptors.get(number) != target
        ]
        return threads + descriptors + [f"mount {point}" for point in _mounts_below(self._folder)]


def mount_lines() -> list[str]:
    """Return the lines of the table of mounts; other programs' mount points have names of any bytes."""
    with MOUNTS.open(errors="surrogateescape", newline="\n") as file:
        return list(file)


def _descriptors() -> dict[int, str]:
    """Return the descriptors of open files and their targets.

    Sockets and pipes are left out: shared fixtures keep theirs open, and Python warns of others.
    """
    found = {}
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - for each of thousands of tests
        try:
            target = os.readlink(f"/proc/self/fd/{name}")  # noqa: PTH115
        except FileNotFoundError:  # the descriptor of the listing itself, or another thread closed it
            continue
        if target.startswith("/"):
            found[int(name)] = target
    return found


def _mounts_below(folder: Path) -> list[str]:
    """Return the mount points below a folder; other test processes may have mounts elsewhere."""
    lines = [line for line in mount_lines() if str(folder) in line]
    return [point for line in lines if (point := line.split()[4]).startswith(f"{folder}/")]
