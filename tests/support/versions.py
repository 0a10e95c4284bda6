"""Helpers of the tests of containers that keep older versions."""

import pytest
from swiftclient import Connection

from support.memory_store import MemoryStore
from swiftfs.demo.server import SwiftServer
from swiftfs.objects import History
from swiftfs.store.protocol import ObjectStore
from swiftfs.store.retry import RetryingStore


def set_versioning(
    request: pytest.FixtureRequest, store: ObjectStore, container: str, *, enabled: bool
) -> None:
    """Let a container keep older versions, or no more."""
    below = store._store if isinstance(store, RetryingStore) else store
    if isinstance(below, MemoryStore):
        below.set_history(container, History.KEPT, enabled=enabled)
    else:
        enable_versions(request.getfixturevalue("versioned_server"), container, enabled=enabled)


def enable_versions(server: SwiftServer, container: str, *, enabled: bool = True) -> None:
    """Make the container of a real Swift if there is none, and let it keep older versions, or no more."""
    client = Connection(server.auth_url, server.user, server.key, retries=0)
    client.put_container(container, {"X-Versions-Enabled": str(enabled).lower()})
    client.close()
