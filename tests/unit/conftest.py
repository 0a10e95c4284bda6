"""Fixtures of the tests of a file system over a store in memory, without a kernel."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.harness import harness
from support.manual_clock import ManualClock
from support.memory_store import MemoryStore
from swiftfs.concurrency import use
from swiftfs.posix.filesystem import FileSystem


@pytest.fixture
def store(request: pytest.FixtureRequest) -> MemoryStore:
    """A store with the empty container `box`; `@pytest.mark.store(LateStore, "box")` makes another one."""
    if (marker := request.node.get_closest_marker("store")) is None:
        return MemoryStore("box")
    kind: type[MemoryStore] = marker.args[0]
    return kind(*marker.args[1:], **marker.kwargs)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """The empty cache folder of `filesystem`."""
    (folder := tmp_path / "cache").mkdir()
    return folder


@pytest.fixture
def filesystem(store: MemoryStore, cache: Path, request: pytest.FixtureRequest) -> Iterator[FileSystem]:
    """A file system of `box`; `@pytest.mark.mount_options("ttl=0")` sets its options."""
    marker = request.node.get_closest_marker("mount_options")
    with harness(store, cache, marker.args[0] if marker else "") as built:
        yield built


@pytest.fixture
def clock() -> Iterator[ManualClock]:
    """A clock that stands still; it is that of all code until the test ends."""
    clock = ManualClock()
    before = use(clock)
    yield clock
    use(before)
