"""The same system calls in a mount and in a local folder have the same results."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.differential import Caller, Step, all_flags, compare, random_steps, tree
from support.mounts import Mount

pytestmark = pytest.mark.mount_options("sync")

STATES: dict[str, list[Step]] = {
    "missing": [],
    "file": [("open", "0", "p", "O_WRONLY|O_CREAT"), ("write", "0", "content"), ("close", "0")],
    "empty file": [("open", "0", "p", "O_WRONLY|O_CREAT"), ("close", "0")],
    "folder": [("mkdir", "p")],
    "link to a file": [
        ("open", "0", "q", "O_WRONLY|O_CREAT"),
        ("write", "0", "content"),
        ("close", "0"),
        ("symlink", "q", "p"),
    ],
    "link to a folder": [("mkdir", "q"), ("symlink", "q", "p")],
    "link to nothing": [("symlink", "q", "p")],
    "link to itself": [("symlink", "p", "p")],
}

USES: list[Step] = [
    ("fstat", "1"),
    ("read", "1", "3"),
    ("write", "1", "xy"),
    ("seek", "1", "0"),
    ("read", "1", "100"),
    ("ftruncate", "1", "4"),
    ("close", "1"),
    ("lstat", "p"),
    ("lstat", "q"),
]

SEEDS = range(12)
STEPS = 250

REGRESSIONS: dict[str, list[Step]] = {
    "a folder moved to where a link was deleted": [
        ("symlink", "b", "b"),
        ("mkdir", "d"),
        ("unlink", "b"),
        ("rename", "d", "b"),
    ],
    "a file made by O_RDONLY and deleted": [
        ("open", "1", "p", "O_RDONLY|O_CREAT"),
        ("close", "1"),
        ("lstat", "p"),
        ("unlink", "p"),
        ("listdir", ""),
        ("lstat", "p"),
    ],
}
"""Sequences of calls that once failed."""


@pytest.fixture
def native() -> Iterator[Caller]:
    """A local folder in memory."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        caller = Caller(Path(folder))
        yield caller
        caller.close_all()


@pytest.fixture
def ours(mounted: Mount) -> Iterator[Caller]:
    caller = Caller(mounted.path)
    yield caller
    caller.close_all()


def clear(caller: Caller) -> None:
    """Delete everything in the folder."""
    for child in caller.top.iterdir():
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        else:
            child.unlink()


@pytest.mark.matrix(3)
@pytest.mark.parametrize("state", STATES)
def test_open_flags(ours: Caller, native: Caller, state: str) -> None:
    differences = []
    before: object = None
    for flags in all_flags():
        if tree(native.top) != before:
            for caller in (ours, native):
                clear(caller)
            assert compare(ours, native, STATES[state]) == ""
            before = tree(native.top)
        differences.append(compare(ours, native, [("open", "1", "p", flags), *USES]))
        for caller in (ours, native):
            caller.close_all()
    assert [text for text in differences if text] == []


def check(mounted: Mount, ours: Caller, native: Caller, steps: list[Step]) -> None:
    assert compare(ours, native, steps) == ""
    for caller in (ours, native):
        caller.close_all()
    assert tree(ours.top) == tree(native.top)
    mounted.remount()
    assert tree(ours.top) == tree(native.top)


@pytest.mark.matrix(2)
@pytest.mark.parametrize("seed", SEEDS)
def test_random_calls(mounted: Mount, ours: Caller, native: Caller, seed: int) -> None:
    check(mounted, ours, native, random_steps(seed, STEPS))


@pytest.mark.parametrize("steps", REGRESSIONS.values(), ids=REGRESSIONS)
def test_calls_that_once_failed(mounted: Mount, ours: Caller, native: Caller, steps: list[Step]) -> None:
    check(mounted, ours, native, steps)
