"""Renames of folders whose listings do not show yet what this mount has just changed in them."""

import os
import threading
from pathlib import Path

import pytest

from support.halted_moves import Halt
from support.harness import ME, copy_live, harness, names, write
from support.jobs import wait_until
from support.lagging_store import LaggingStore
from support.memory_store import MemoryStore
from support.stored_objects import as_of_now, foreign, keys
from swiftfs.posix.filesystem import FileSystem

COUNT = 6
BACKGROUND = "settle=0.05,background_rename=2"
FOREGROUND = "settle=0.05"
BOTH = pytest.mark.parametrize("options", [BACKGROUND, FOREGROUND])


@pytest.fixture
def store() -> LaggingStore:
    store = LaggingStore("box")
    for number in range(COUNT):
        foreign(store, f"d/{number}", b"%d" % number)
    return store


def is_quiet(filesystem: FileSystem) -> bool:
    return not filesystem.waiting()


def killed_while_copying(
    filesystem: FileSystem, store: LaggingStore, cache: Path
) -> tuple[MemoryStore, Path]:
    """Rename `/d` to `/e`; return what Swift has before the first copy, and the cache folder."""
    reached, lock, image = threading.Event(), threading.Lock(), cache.with_name("image")
    twin: list[MemoryStore] = []

    def hook(method: str, _subject: str) -> None:
        with lock:  # the copies are sent in parallel
            if method == "copy" and not twin:
                twin.append(as_of_now(store))
                copy_live(cache, image)
                reached.set()

    store.hook = hook
    filesystem.rename("/d", "/e")
    assert reached.wait(20)
    return twin[0], image


def test_a_folder_that_was_made_again_is_shown_while_listings_show_the_time_between(
    store: LaggingStore, cache: Path
) -> None:
    with harness(store, cache, FOREGROUND) as filesystem:
        filesystem.mkdir("/e", 0o755, ME)
        wait_until(lambda: is_quiet(filesystem))
        store.stop()
        filesystem.rmdir("/e")
        wait_until(lambda: is_quiet(filesystem))
        between = dict(store._containers["box"].objects)
        filesystem.mkdir("/e", 0o755, ME)
        wait_until(lambda: is_quiet(filesystem))
        filesystem.refresh()
        assert names(filesystem, "/") == ["d", "e"]
        store.shown = between
        filesystem.refresh()
        assert names(filesystem, "/") == ["d", "e"]
        store.go_on()


def test_a_file_that_was_deleted_just_before_does_not_move(store: LaggingStore, cache: Path) -> None:
    left = [f"{number}" for number in range(COUNT) if number != 3]
    with harness(store, cache, BACKGROUND) as filesystem:
        store.stop()
        filesystem.unlink("/d/3")
        wait_until(lambda: is_quiet(filesystem))
        halt = Halt(store, "copy")
        filesystem.rename("/d", "/e")
        assert halt.reached.wait(20)
        assert names(filesystem, "/e") == left
        with pytest.raises(FileNotFoundError):
            filesystem.open("/e/3", os.O_RDONLY)
        copy_live(cache, cache.with_name("image"))
        twin = as_of_now(store)
        halt.go_on()
    with harness(twin, cache.with_name("image"), BACKGROUND) as filesystem:
        assert names(filesystem, "/") == ["e"]
        assert names(filesystem, "/e") == left
    assert keys(twin) == [f"e/{name}" for name in left]


@BOTH
def test_a_file_whose_mode_was_changed_just_before_moves_after_a_kill(
    store: LaggingStore, cache: Path, options: str
) -> None:
    """The listing has the time of the version before."""
    with harness(store, cache, options) as filesystem:
        assert names(filesystem, "/d") == [f"{number}" for number in range(COUNT)]
        store.stop()
        filesystem.chmod("/d/3", 0o600)
        write(filesystem, "/d/4", b"4")  # the same bytes
        wait_until(lambda: is_quiet(filesystem))
        twin, image = killed_while_copying(filesystem, store, cache)
        store.go_on()
    with harness(twin, image, options) as filesystem:
        assert names(filesystem, "/") == ["e"]
        assert filesystem.getattr("/e/3").mode & 0o777 == 0o600
        wait_until(lambda: is_quiet(filesystem))
    assert keys(twin) == [f"e/{number}" for number in range(COUNT)]
