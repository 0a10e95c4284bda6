"""How many requests and bytes the ways of reading a large file cost, on an idle machine and on a busy one.

These run in a real mount.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from swiftclient import Connection

from support.jobs import counted
from support.libfuse import is_libfuse3
from support.mounts import Mount
from support.read_patterns import MIB, PATTERNS, SIZE, opened, parts
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
        # libfuse answers a read that the kernel made ahead of the program, after the mount is gone.
        mount.expected.append("fuse: splice from pipe: No such file or directory")
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


@pytest.mark.matrix(1)
@pytest.mark.parametrize("name", ["in order", "quarters", "three blocks", "grid"])
def test_a_way_to_read_from_far_away(far: SwiftServer, tmp_path: Path, name: str) -> None:
    assert_cost(far, tmp_path, name, busy=True)


@pytest.mark.skipif(os.geteuid() != 0 or not is_libfuse3(), reason="only root may set it, for large requests")
def test_the_kernel_reads_further_ahead_in_a_local_file_only(near: SwiftServer, tmp_path: Path) -> None:
    with Mount(near, "files", tmp_path) as mount:
        device = mount.path.stat().st_dev
        setting = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
        if not os.access(setting, os.W_OK):
            pytest.skip("sysfs is read-only")
        default = int(setting.read_text())
        with opened(mount.path / "file") as file:
            assert int(setting.read_text()) == default
            file.read_all(0, SIZE, MIB)
        with opened(mount.path / "file") as file:
            assert int(setting.read_text()) == 512 > default
            file.read(0, MIB)
