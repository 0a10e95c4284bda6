"""Fixtures of the tests of late requests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.harness import harness
from support.late_store import LateStore
from swiftfs.posix.filesystem import FileSystem


@pytest.fixture
def store() -> LateStore:
    return LateStore("box")


@pytest.fixture
def filesystem(store: LateStore, tmp_path: Path) -> Iterator[FileSystem]:
    with harness(store, tmp_path, "settle=0.01,segment_size=1M") as filesystem:
        yield filesystem
