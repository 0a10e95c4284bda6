"""Compares 100,000 files with a local copy: `swiftfs check`, and `md5sum` of the same files for comparison.

Run it as `python benchmarks/check.py [FILES [BYTES]]`; it needs the extra `test`.
"""

import hashlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from swiftclient import Connection

from swiftfs.attributes import Stored, encode_type
from swiftfs.demo.server import SwiftServer

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.mounts import clean_environment

FILES, BYTES, FOLDERS = 100_000, 4_000, 100
TIME_NS = 1_700_000_000_000_000_000
ROUNDS = 3


def make(server: SwiftServer, folder: Path, files: int, size: int) -> None:
    """Make the files, and rows of objects that are the same."""
    data = os.urandom(size)
    etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
    names = [f"part{number % FOLDERS:03}/file{number:07}" for number in range(files)]
    for name in names:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        os.utime(path, ns=(TIME_NS, TIME_NS))
    kind = encode_type("text/plain", Stored(mode=0o100644, mtime_ns=TIME_NS))
    for start in range(0, files, 20_000):
        chunk = names[start : start + 20_000]
        server.add_rows("box", chunk, size=size, etag=etag, content_type=kind)


def measure(server: SwiftServer, environment: Mapping[str, str], *words: object) -> None:
    """Run a command, and print its cost."""
    server.reset_requests()
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [str(word) for word in words]
    code = subprocess.run(command, env=environment, capture_output=True, check=False).returncode
    seconds, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    name = f"{Path(command[0]).name} {command[1]}"
    count, load = len(server.requests()), os.getloadavg()[0]
    print(f"{name}: exit {code}, {count} requests, {seconds:.1f} s, {cpu:.1f} s of CPU, load {load:.1f}")
    print(f"  largest process so far: {after.ru_maxrss / 1024:.0f} MiB")


def main() -> None:
    """Run both, alternately."""
    files, size = [int(word) for word in sys.argv[1:]] + [FILES, BYTES][len(sys.argv) - 1 :]
    with SwiftServer() as server, tempfile.TemporaryDirectory() as folder:
        connection = Connection(server.auth_url, server.user, server.key)
        connection.put_container("box")
        connection.close()
        make(server, Path(folder), files, size)
        environment = {**clean_environment(), **server.environment()}
        program = Path(sys.executable).parent / "swiftfs"
        for _ in range(ROUNDS):
            measure(server, environment, program, "check", "box", "--against", folder)
            measure(server, environment, "find", folder, "-type", "f", "-exec", "md5sum", "{}", "+")


if __name__ == "__main__":
    main()
