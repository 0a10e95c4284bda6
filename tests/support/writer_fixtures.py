"""Fixtures of the tests of files that are uploaded while they are written to."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.upload_rig import Writer


@pytest.fixture
def build_writer(tmp_path: Path) -> Iterator[Callable[..., Writer]]:
    """Return a function that makes a `Writer` with so many threads, by default one."""
    writers: list[Writer] = []

    def build_one(threads: int = 1) -> Writer:
        writers.append(Writer(tmp_path, threads))
        return writers[-1]

    yield build_one
    for one in writers:
        one.close()


@pytest.fixture
def writer(build_writer: Callable[..., Writer]) -> Writer:
    """A `Writer` with one thread."""
    return build_writer()
