"""Fixtures of the tests of stores: in memory, on a real Swift, and with retries."""

import itertools
from collections.abc import Iterator

import pytest

from support.deadlines import within
from support.memory_store import MemoryStore
from support.stores import QUICK, TEXT, new_container
from swiftfs.demo.server import ServerSettings, SwiftServer
from swiftfs.objects import Limits, ObjectName
from swiftfs.store.auth import open_account
from swiftfs.store.protocol import ObjectStore
from swiftfs.store.retry import RetryingStore, RetryPolicy
from swiftfs.store.swift_store import SwiftStore

_numbers = itertools.count(1)

ON_SWIFT = (pytest.mark.swift, pytest.mark.leaves_open("the module's store keeps the threads of its pool"))
SWIFT = pytest.param("swift", marks=ON_SWIFT)
STORES = ["memory", "retrying", SWIFT, pytest.param("retrying swift", marks=[*ON_SWIFT, pytest.mark.slow])]
"""What retries do with answers and errors shows over the store in memory, at a tenth of the time."""


@pytest.fixture(scope="session")
def small_server() -> Iterator[SwiftServer]:
    """A server whose listings have 5 rows, without bulk-delete."""
    with SwiftServer(settings=ServerSettings(listing_limit=5, without=frozenset({"bulk"}))) as running:
        yield running


@pytest.fixture(scope="module", params=STORES)
def store(request: pytest.FixtureRequest) -> Iterator[ObjectStore]:
    """The store in memory or a real Swift, as it is or with retries; one per module."""
    opened = open_store(request, "swift_server")
    yield opened
    opened.close()


def open_store(request: pytest.FixtureRequest, server: str) -> ObjectStore:
    """Return the store that `request.param` names; a real one is that of the fixture `server`."""
    opened: ObjectStore
    if request.param in ("memory", "retrying"):
        opened = MemoryStore()
    else:
        running: SwiftServer = request.getfixturevalue(server)
        opened = SwiftStore(open_account(running.environment()))
    if "retrying" not in request.param:
        return opened
    # Nothing here is worth waiting for: a temporary error is repeated, and then raised. With pauses that grow
    # to the end the deadline seldom cuts an attempt, whose error would be another one.
    longest = within(1.0)
    return RetryingStore(opened, RetryPolicy(deadline=longest, first_pause=0.1, longest_pause=longest))


@pytest.fixture(scope="module", params=["memory", SWIFT])
def small_store(request: pytest.FixtureRequest) -> Iterator[ObjectStore]:
    """The store in memory or a real Swift, with listings of 5 rows and without bulk-delete."""
    opened: ObjectStore
    if request.param == "memory":
        opened = MemoryStore(limits=Limits(listing=5, bulk_delete=0))
    else:
        server: SwiftServer = request.getfixturevalue("small_server")
        opened = SwiftStore(open_account(server.environment()))
    yield opened
    opened.close()


@pytest.fixture
def box(store: ObjectStore) -> str:
    """A new container of `store`."""
    return new_container(store)


@pytest.fixture
def small_box(small_store: ObjectStore) -> str:
    """A new container of `small_store`."""
    return new_container(small_store)


@pytest.fixture
def plain(swift: SwiftServer) -> Iterator[SwiftStore]:
    """A store without retries; the server has no faults and no recorded requests of other tests."""
    opened = SwiftStore(open_account(swift.environment()))
    opened.limits()
    swift.reset_requests()
    yield opened
    swift.clear_faults()
    opened.close()


@pytest.fixture
def patient(plain: SwiftStore) -> RetryingStore:
    """The store `plain` with retries."""
    return RetryingStore(plain, QUICK, owns=False)


@pytest.fixture
def name(plain: SwiftStore, swift: SwiftServer) -> ObjectName:
    """An object of 7 bytes in a container of its own."""
    box = f"faults-{next(_numbers)}"
    plain.create_container(box)
    found = ObjectName(box, "o")
    plain.put(found, b"content", TEXT)
    swift.reset_requests()
    return found
