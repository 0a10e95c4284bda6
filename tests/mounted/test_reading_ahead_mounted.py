"""How many requests and bytes the ways of reading a large file cost, on an idle machine and on a busy one.

These run in a real mount.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from swiftclient import Connection

from support.jobs import counted
from support.mounts import Mount
from support.read_patterns import MIB, PATTERNS, SIZE, parts
from swiftfs.demo.server import ServerSettings, SwiftServer

NEAR, FAR = 0.02, 0.3
"""Seconds of delay of each request."""


@contextmanager
def busy_cores(count: int) -> Iterator[None]:
    """Keep so many cores busy with other processes."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


@contextmanager
def server(delay: float) -> Iterator[SwiftServer]:
    """Run a Swift with a delay, which has the file."""
    with SwiftServer(settings=ServerSettings(delay=delay)) as swift:
        client = Connection(swift.auth_url, swift.user, swift.key, retries=0)
        client.put_container("files")
        client.put_object("files", "file", parts())
        client.close()
        yield swift


@pytest.fixture(scope="module")
def near() -> Iterator[SwiftServer]:
    with server(NEAR) as swift:
        yield swift


@pytest.fixture(scope="module")
def far() -> Iterator[SwiftServer]:
    with server(FAR) as swift:
        yield swift


def assert_cost(swift: SwiftServer, folder: Path, name: str, *, busy: bool) -> None:
    """Read the file in the way `name` in a new mount, and check what that costs."""
    pattern = PATTERNS[name]
    with Mount(swift, "files", folder) as mount, busy_cores(2 if busy else 0):
        assert (mount.path / "file").stat().st_size == SIZE
        swift.reset_requests()
        pattern.run(mount.path / "file")
        mount.stop()
        cost = counted(swift)
        came = sum(one.bytes_out for one in cost)
        print(f"{name}: {len(cost)} requests, {came / MIB:.1f} MiB")
    assert {one.method for one in cost} == {"GET"}
    assert 1 <= len(cost) <= pattern.requests
    assert came <= pattern.multiple * pattern.needed


@pytest.mark.matrix(len(PATTERNS))
@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("name", PATTERNS)
def test_a_way_to_read(near: SwiftServer, tmp_path: Path, name: str, busy: bool) -> None:
    assert_cost(near, tmp_path, name, busy=busy)


@pytest.mark.parametrize("name", ["in order", "quarters", "three blocks", "grid"])
def test_a_way_to_read_from_far_away(far: SwiftServer, tmp_path: Path, name: str) -> None:
    assert_cost(far, tmp_path, name, busy=True)
