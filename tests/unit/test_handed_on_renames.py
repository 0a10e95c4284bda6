"""A kill when the moves of a folder's objects are recorded, but not the names of what it carries along."""

from collections.abc import Callable
from pathlib import Path

import pytest

from support.background_renames import OPTIONS, folder_of_many, moved_keys
from support.harness import copy_live, harness, names, read, write
from support.stored_objects import as_of_now, body, keys
from swiftfs.journal.carried_tasks import CarriedTasks


@pytest.fixture
def at_the_new_names(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Let a function be called just before the changes below a folder get their new names."""
    rename = CarriedTasks.rename

    def call(before: Callable[[], object]) -> None:
        def also(*arguments: object) -> None:
            before()
            rename(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(CarriedTasks, "rename", also)

    return call


def test_what_waited_below_the_folder_is_at_its_new_name_in_the_next_mount(
    cache: Path, at_the_new_names: Callable[[Callable[[], object]], None]
) -> None:
    store, image = folder_of_many(), cache.with_name("image")
    with harness(store, cache, "settle=60,background_rename=10") as filesystem:
        write(filesystem, "/d/07", b"newer")
        write(filesystem, "/d/sub/new", b"new")
        twin = as_of_now(store)
        at_the_new_names(lambda: copy_live(cache, image))
        filesystem.rename("/d", "/e")
    with harness(twin, image, OPTIONS) as filesystem:
        assert names(filesystem, "/") == ["e"]
        assert names(filesystem, "/e/sub") == ["new", "x"]
        assert read(filesystem, "/e/07") == b"newer"
        assert read(filesystem, "/e/sub/new") == b"new"
    assert (body(twin, "e/07"), body(twin, "e/sub/new")) == (b"newer", b"new")
    assert keys(twin) == moved_keys("e/sub/new")


@pytest.mark.usefixtures("no_retries")
def test_it_is_stored_after_the_moves_when_that_mount_is_killed_too(
    cache: Path, at_the_new_names: Callable[[Callable[[], object]], None]
) -> None:
    store, first, second = folder_of_many(), cache.with_name("first"), cache.with_name("second")
    with harness(store, cache, "settle=60,background_rename=10") as filesystem:
        write(filesystem, "/d/07", b"newer")
        twin = as_of_now(store)
        at_the_new_names(lambda: copy_live(cache, first))
        filesystem.rename("/d", "/e")
    with harness(as_of_now(twin), first, OPTIONS):
        copy_live(first, second)
    with harness(twin, second, OPTIONS) as filesystem:
        assert read(filesystem, "/e/07") == b"newer"
    assert body(twin, "e/07") == b"newer"
    assert keys(twin) == moved_keys()
