"""Fixtures of tests with a server that answers as a test says, and with a store that uses it."""

from collections.abc import Iterator

import pytest

from support.hostile_server import HostileServer, hostile_server
from swiftfs.objects import Limits
from swiftfs.store.auth import open_account
from swiftfs.store.swift_store import SwiftStore


@pytest.fixture
def hostile() -> Iterator[HostileServer]:
    """A server that answers as the test says."""
    with hostile_server() as running:
        yield running


@pytest.fixture
def hostile_store(hostile: HostileServer) -> Iterator[SwiftStore]:
    """A store of that server, with limits: it does not ask for any."""
    opened = SwiftStore(open_account(hostile.environment))
    opened._limits = Limits(bulk_delete=1000)
    yield opened
    opened.close()
