"""Reading ahead from a slow server, by one program or several.

These run in a real mount.
"""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from swiftclient import Connection

from support.cache_rig import MIB
from support.jobs import counted
from support.mounts import Mount
from support.noise import noise
from swiftfs.demo.server import ServerSettings, SwiftServer
from swiftfs.filecache.block_map import BLOCK

pytest_plugins = ["support.cache_fixtures"]
NEEDLESS = 1.1
"""Limit of downloaded bytes, as a multiple of the bytes of the file."""


@contextmanager
def busy_cores(count: int = 2) -> Iterator[None]:
    """Keep so many cores busy with other processes."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


PERIOD = MIB + 77
"""Bytes after which the files repeat."""
SIZES = {"big": 96 * MIB, "quarters": 100 * MIB}


TWO_PERIODS = 2 * noise(PERIOD)


def expected(start: int, stop: int) -> bytes:
    """Return up to 1 MiB of the files, without holding a whole one in memory."""
    first = start % PERIOD
    return TWO_PERIODS[first : first + stop - start]


@pytest.fixture(scope="module")
def far_away() -> Iterator[SwiftServer]:
    """A Swift with a delay of 300 ms for each request."""
    with SwiftServer(settings=ServerSettings(delay=0.3)) as server:
        client = Connection(server.auth_url, server.user, server.key, retries=0)
        client.put_container("far")
        for name, size in SIZES.items():
            parts = (expected(at, min(at + MIB, size)) for at in range(0, size, MIB))
            client.put_object("far", name, parts)
        client.close()
        yield server


@pytest.fixture
def far_mount(far_away: SwiftServer, tmp_path: Path) -> Iterator[Mount]:
    far_away.reset_requests()
    with Mount(far_away, "far", tmp_path) as mount:
        yield mount


def read_file(path: Path, start: int, stop: int) -> bool:
    """Read a range as `cp` does; return whether the bytes are those that `far_away` has."""
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        for offset in range(start, stop, BLOCK):
            if file.read(min(BLOCK, stop - offset)) != expected(offset, min(offset + BLOCK, stop)):
                return False
    return True


def assert_cost(mount: Mount, requests: int, size: int) -> None:
    cost = [one for one in counted(mount.swift) if one.method in ("GET", "HEAD")]
    came = sum(one.bytes_out for one in cost)
    print(f"{len(cost)} requests, {came / MIB:.1f} MiB")
    assert len(cost) <= requests
    assert came <= NEEDLESS * size


@pytest.mark.parametrize("busy", [False, True])
def test_a_large_file_of_a_distant_server(far_mount: Mount, busy: bool) -> None:
    path = far_mount.path / "big"
    size = SIZES["big"]
    assert path.stat().st_size == size
    with busy_cores(2 if busy else 0):
        assert read_file(path, 0, size)
    assert_cost(far_mount, 40, size)


def test_four_programs_read_a_distant_file(far_mount: Mount) -> None:
    path = far_mount.path / "quarters"
    assert path.stat().st_size == 100 * MIB
    with ThreadPoolExecutor(4) as programs:
        parts = [(first * 25 * MIB, (first + 1) * 25 * MIB) for first in range(4)]
        assert all(programs.map(lambda part: read_file(path, *part), parts))
    assert_cost(far_mount, 44, 100 * MIB)
