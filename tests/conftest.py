"""What the tests share: one real Swift for the session, and a container of its own for each test."""

import contextlib
import ctypes
import gc
import itertools
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiers
from leaks import Belongings
from mounts import Mount
from swiftclient import Connection

from swiftfs import concurrency
from swiftfs.demo.server import SwiftServer

concurrency.check()

RESIDENT = 200 * 1024 * 1024
"""Bytes of memory that a worker may take before it is made to give some back."""

_numbers = itertools.count(1)


@pytest.fixture(autouse=True)
def nothing_is_left(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Fail a test that leaves a thread, a descriptor or a mount behind when its fixtures have ended."""
    before = Belongings(tmp_path_factory.getbasetemp())
    yield
    if request.node.get_closest_marker("leaves_open") is None:
        assert before.left() == []


@pytest.fixture(autouse=True)
def lock_order() -> Iterator[None]:
    """Fail a test in which any thread took locks out of order, or kept one from others while it waited."""
    concurrency.take_violations()
    yield
    assert concurrency.take_violations() == []


def pytest_configure() -> None:
    """Let children have the default action of signals that we ignore, as in the background or under nohup."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda _number, _frame: None)  # handlers do not survive exec


def pytest_runtest_teardown() -> None:
    """Give memory back: what a test held in several threads stays with the process otherwise."""
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    if resident > RESIDENT:
        gc.collect()
        with contextlib.suppress(AttributeError):  # not glibc
            ctypes.CDLL(None).malloc_trim(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tiers.mark(items)


@pytest.fixture(scope="session")
def swift_server() -> Iterator[SwiftServer]:
    """A real Swift on loopback; tests use `swift`, which finds it without faults and records."""
    with SwiftServer() as server:
        yield server


@pytest.fixture
def swift(swift_server: SwiftServer) -> Iterator[SwiftServer]:
    """The session's Swift, without the faults and records of other tests."""
    swift_server.clear_faults()
    swift_server.reset_requests()
    yield swift_server
    swift_server.clear_faults()


@pytest.fixture
def server() -> Iterator[SwiftServer]:
    """A Swift of the test's own, which may be killed, with the empty container `box`."""
    with SwiftServer() as running:
        client = Connection(running.auth_url, running.user, running.key, retries=0)
        client.put_container("box")
        yield running
        client.close()


@pytest.fixture
def container() -> str:
    """A name that no other test uses."""
    return f"box{next(_numbers)}"


@pytest.fixture
def connection(swift: SwiftServer, container: str) -> Iterator[Connection]:
    """Another client of the same account, with `container` made."""
    client = Connection(swift.auth_url, swift.user, swift.key, retries=0)
    client.put_container(container)
    swift.reset_requests()
    yield client
    client.close()


@pytest.fixture
def mounted(
    swift: SwiftServer, connection: Connection, container: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Mount]:
    """`container`, empty, mounted; `@pytest.mark.mount_options("ttl=0")` sets its `-o`."""
    marker = request.node.get_closest_marker("mount_options")
    with Mount(swift, container, tmp_path, marker.args[0] if marker else "") as mount:
        yield mount
