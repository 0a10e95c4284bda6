"""What the tests share: one real Swift for the session, and a container of its own for each test."""

import itertools
from collections.abc import Iterator

import pytest

from swiftfs.demo.server import SwiftServer

_numbers = itertools.count(1)


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
def container() -> str:
    """A name that no other test uses."""
    return f"box{next(_numbers)}"
