"""Fixtures of the tests of containers that keep older versions."""

import itertools
from collections.abc import Iterator

import pytest

from support.store_fixtures import STORES, open_store
from support.versions import set_versioning
from swiftfs.store.protocol import ObjectStore

_numbers = itertools.count(1)


@pytest.fixture(scope="module", params=STORES)
def versioned_store(request: pytest.FixtureRequest) -> Iterator[ObjectStore]:
    """The store in memory or a real Swift, as it is or with retries; one per module."""
    opened = open_store(request, "versioned_server")
    yield opened
    opened.close()


@pytest.fixture
def versioned_box(request: pytest.FixtureRequest, versioned_store: ObjectStore) -> str:
    """A new container that keeps older versions."""
    name = f"versions-{next(_numbers)}"
    versioned_store.create_container(name)
    set_versioning(request, versioned_store, name, enabled=True)
    return name
