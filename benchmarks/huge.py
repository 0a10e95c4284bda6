"""Lists huge folders and walks huge trees, through real mounts: a million names or objects each.

Run it as `python benchmarks/huge.py [JOB …]`; it needs the extra `test`. For each command it prints requests,
seconds, and the mount's memory, and before them how long the server takes to list the container to a client
that does nothing with it, page by page: no walk can be faster.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from urllib.parse import quote
from urllib.request import Request, urlopen

from swiftclient import Connection

from swiftfs.demo.server import SwiftServer

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.mounts import Mount, run

ROWS = 20_000
"""Names per request that fills the container."""

PAGE = 10_000
"""Names in an answer of the server."""

LONG_NAME = "huge/{:07d}-" + "backup-of-the-server-" * 4 + "2026.tgz"


@dataclass(frozen=True, slots=True)
class Job:
    """`each` objects for each of `count` numbers, named in this form, and commands for the folder `top`."""

    form: str
    count: int
    each: int
    top: str
    commands: tuple[tuple[str, ...], ...]

    def names(self) -> Iterator[str]:
        """Yield all names, in order."""
        for number in range(self.count):
            for part in range(self.each):
                yield self.form.format(number, part)


TREE = "tree/part{0:05d}/file{1:03d}"
NAMES = "huge/name{:07d}"
JOBS: Mapping[str, Job] = {
    "names": Job(NAMES, 1_000_000, 1, "huge", (("ls", "-f"),)),
    "long-names": Job(LONG_NAME, 1_000_000, 1, "huge", (("ls", "-f"),)),
    "tree": Job(TREE, 10_000, 100, "tree", (("find",), ("du", "-s"), ("du", "-s"))),
    "folder-200k": Job(NAMES, 200_000, 1, "huge", (("ls", "-l"),)),
    "folder-100k": Job(NAMES, 100_000, 1, "huge", (("ls", "-l"),)),
}


def server_seconds(client: Connection, box: str) -> tuple[int, float]:
    """Return how many pages a listing of the container has, and how long the server takes for them."""
    url, token = client.get_auth()
    pages, marker, begun = 0, "", time.monotonic()
    while True:
        where = f"{url}/{box}?format=json&limit={PAGE}&marker={quote(marker)}"
        with urlopen(Request(where, headers={"X-Auth-Token": token})) as answer:
            body = answer.read()
        pages += 1
        at = body.rfind(b'"name": "')
        if at < 0:
            return pages, time.monotonic() - begun
        marker = body[at + 9 : body.index(b'"', at + 9)].decode()


def measure(server: SwiftServer, client: Connection, name: str, folder: Path) -> None:
    """Fill a container, run the commands of a job in a new mount, and print their cost."""
    job = JOBS[name]
    client.put_container(name)
    wanted = job.names()
    while rows := list(islice(wanted, ROWS)):
        server.add_rows(name, rows, size=1)
    pages, seconds = server_seconds(client, name)
    print(f"{name}: {job.count * job.each:,} objects, {pages} pages in {seconds:.1f} s", flush=True)
    with Mount(server, name, folder, "mtime=listing") as mount:
        for command in job.commands:
            server.reset_requests()
            started = time.monotonic()
            shown = run(*command, mount.path / job.top).count("\n")
            seconds = time.monotonic() - started
            requests = len(server.requests())
            memory = mount.rss_peak() / 2**20
            words = f"{shown} lines, {requests} requests, {seconds:.1f} s, {memory:.0f} MiB"
            print(f"    {' '.join(command)}: {words}", flush=True)


def main() -> None:
    """Run every job."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("jobs", nargs="*", metavar="JOB", help=f"any of {', '.join(JOBS)}; default: all")
    jobs = parser.parse_args().jobs or list(JOBS)
    with SwiftServer() as server, tempfile.TemporaryDirectory() as folder:
        client = Connection(server.auth_url, server.user, server.key)
        for name in jobs:
            measure(server, client, name, Path(folder) / name)
            shutil.rmtree(Path(folder) / name / "cache")
        client.close()


if __name__ == "__main__":
    main()
