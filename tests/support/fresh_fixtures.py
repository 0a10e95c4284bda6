"""Fixtures of the tests of folders whose files are not in Swift yet."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.fresh_folders import OPTIONS
from support.harness import harness, names
from support.memory_store import MemoryStore
from swiftfs.posix.filesystem import FileSystem


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore("box", "box_segments")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    (cache := tmp_path / "cache").mkdir()
    return cache


@pytest.fixture
def filesystem(store: MemoryStore, cache: Path) -> Iterator[FileSystem]:
    with harness(store, cache, OPTIONS) as built:
        names(built, "/")
        yield built
