"""Renames of large folders: the objects move when the call has returned, and are shown as if they had."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.halted_moves import Halt
from support.harness import ANY_END, change, copy_live, harness, names, read, write
from support.jobs import wait_until
from support.memory_store import MemoryStore
from support.stored_objects import body, foreign, keys
from swiftfs.errors import AccessDenied
from swiftfs.posix.filesystem import FileSystem

COUNT = 30
OPTIONS = "settle=0.05,background_rename=10"


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore("box")
    for number in range(COUNT):
        foreign(store, f"d/{number:02}", b"%d" % number)
    foreign(store, "d/sub/x", b"below")
    return store


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir()
    return folder


@pytest.fixture
def filesystem(store: MemoryStore, cache: Path) -> Iterator[FileSystem]:
    with harness(store, cache, OPTIONS) as built:
        yield built


ALL = [*(f"{number:02}" for number in range(COUNT)), "sub"]


def is_quiet(filesystem: FileSystem) -> Callable[[], bool]:
    return lambda: not filesystem.waiting()


def test_a_rename_returns_before_anything_is_copied(filesystem: FileSystem, store: MemoryStore) -> None:
    halt = Halt(store, "copy")
    filesystem.rename("/d", "/e")
    assert names(filesystem, "/") == ["e"]
    assert names(filesystem, "/e") == ALL
    assert names(filesystem, "/e/sub") == ["x"]
    assert halt.reached.wait(20)
    assert keys(store)[0] == "d/00"
    assert read(filesystem, "/e/07") == b"7"
    assert read(filesystem, "/e/sub/x") == b"below"
    for path in ("/d", "/d/07", "/d/sub/x"):
        with pytest.raises(FileNotFoundError):
            filesystem.getattr(path)
    halt.go_on()
    store.hook = None
    wait_until(is_quiet(filesystem))
    assert keys(store) == [*(f"e/{number:02}" for number in range(COUNT)), "e/sub/x"]
    filesystem.refresh()
    assert names(filesystem, "/") == ["e"]
    assert names(filesystem, "/e") == ALL
    assert read(filesystem, "/e/08") == b"8"


def test_few_objects_move_before_the_rename_returns(store: MemoryStore, cache: Path) -> None:
    options = f"settle=0.05,background_rename={COUNT + 2}"
    with harness(store, cache, options) as filesystem:
        filesystem.rename("/d", "/e")
        assert keys(store)[0] == "e/00"


@pytest.mark.parametrize("options", ["sync", "settle=0.05,background_rename=0"])
def test_where_all_renames_wait_this_one_does(store: MemoryStore, cache: Path, options: str) -> None:
    with harness(store, cache, options) as filesystem:
        filesystem.rename("/d", "/e")
        assert keys(store)[0] == "e/00"


def test_an_fsync_of_one_file_waits_for_that_only(filesystem: FileSystem, store: MemoryStore) -> None:
    halt = Halt(store, "copy")
    filesystem.rename("/d", "/e")
    assert halt.reached.wait(20)
    change(filesystem, "/e/11", 0, b"new")
    assert read(filesystem, "/e/11") == b"new"
    halt.go_on()
    handle = filesystem.open("/e/11", os.O_RDWR)
    filesystem.fsync(handle, False)
    assert body(store, "e/11") == b"new"
    assert "d/11" not in keys(store)
    filesystem.release(handle)


def test_the_next_mount_goes_on(store: MemoryStore, cache: Path) -> None:
    image = cache.with_name("image")
    with harness(store, cache, OPTIONS, close_error=ANY_END) as filesystem:
        halt = Halt(store, "copy", AccessDenied)
        filesystem.rename("/d", "/e")
        write(filesystem, "/e/00", b"newer")
        assert halt.reached.wait(20)
        copy_live(cache, image)
        store.hook = None
        halt.go_on()
    # The first COPYs of the killed mount were refused, and it had no time for others.
    missing = [key for key in keys(store) if key.startswith("d/")]
    halt = Halt(store, "copy")
    with harness(store, image, OPTIONS) as filesystem:
        assert names(filesystem, "/e") == ALL
        assert read(filesystem, "/e/00") == b"newer"
        assert read(filesystem, "/e/12") == b"12"
        assert missing
        halt.go_on()
        store.hook = None
        wait_until(is_quiet(filesystem))
        assert body(store, "e/00") == b"newer"
    assert keys(store) == [*(f"e/{number:02}" for number in range(COUNT)), "e/sub/x"]
