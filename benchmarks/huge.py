"""Lists a million names in one folder, and walks 200,000 objects in 2,000 folders, through real mounts.

Run it as `python benchmarks/huge.py`; it needs the extra `test` and prints requests, seconds and memory.
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from swiftclient import Connection

from swiftfs.demo.server import SwiftServer

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.mounts import Mount, run

ROWS = 20_000
"""Names per request that fills the container."""

LONG_NAME = "huge/{:07d}-" + "backup-of-the-server-" * 4 + "2026.tgz"

JOBS = {
    "ls -f of 1,000,000 names": ("huge/name{:07d}", 1_000_000, 1, ("ls", "-f"), "huge"),
    "ls -f of 1,000,000 names of 100 bytes": (LONG_NAME, 1_000_000, 1, ("ls", "-f"), "huge"),
    "find in 2,000 folders of 100": ("tree/part{0:04d}/file{1:03d}", 2_000, 100, ("find",), "tree"),
}


def names(form: str, count: int, each: int) -> Iterator[str]:
    """Yield `each` names for each of `count` numbers, in this form."""
    for number in range(count):
        for part in range(each):
            yield form.format(number, part)


def measure(server: SwiftServer, box: str, job: str, folder: Path) -> None:
    """Fill the container, run the job in a new mount, and print its cost."""
    form, count, each, command, top = JOBS[job]
    wanted = names(form, count, each)
    while rows := list(islice(wanted, ROWS)):
        server.add_rows(box, rows, size=1)
    with Mount(server, box, folder, "mtime=listing") as mount:
        server.reset_requests()
        started = time.monotonic()
        shown = run(*command, mount.path / top).count("\n")
        seconds = time.monotonic() - started
        requests = len(server.requests())
        memory = mount.rss_peak() / 2**20
    print(f"{job}: {shown} lines, {requests} requests, {seconds:.1f} s, {memory:.0f} MiB")


def main() -> None:
    """Run every job."""
    with SwiftServer() as server, tempfile.TemporaryDirectory() as folder:
        connection = Connection(server.auth_url, server.user, server.key)
        for number, job in enumerate(JOBS):
            connection.put_container(f"huge{number}")
            measure(server, f"huge{number}", job, Path(folder) / str(number))
            shutil.rmtree(Path(folder) / str(number) / "cache")
        connection.close()


if __name__ == "__main__":
    main()
