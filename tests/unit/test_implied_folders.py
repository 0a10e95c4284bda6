"""A folder without a marker, in which this mount has changes: they imply it when Swift has nothing of it."""

import os
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from support.harness import ME, change, copy_live, harness, names, read, write
from support.memory_store import MemoryStore
from support.stored_objects import NEVER, body, foreign, keys
from swiftfs.objects import ObjectName, Page
from swiftfs.posix.filesystem import FileSystem

FOLDER = "/a/b"
THEIRS = ObjectName("box", "a/b/theirs")


class LaggingStore(MemoryStore):
    """Its listings show nothing while they are `late`."""

    late = False

    def list_page(self, container: str, **how: Any) -> Page:
        page = super().list_page(container, **how)
        return replace(page, rows=(), subdirs=()) if self.late else page


@pytest.fixture
def store() -> LaggingStore:
    store = LaggingStore("box")
    foreign(store, "a/b/theirs", b"of another client")
    return store


def begun(filesystem: FileSystem) -> None:
    """Write a file into the folder; it waits."""
    write(filesystem, f"{FOLDER}/ours", b"closed", os.O_WRONLY | os.O_CREAT)


def is_whole(filesystem: FileSystem) -> bool:
    """Return whether the file and its folders are shown."""
    return (
        read(filesystem, f"{FOLDER}/ours") == b"closed"
        and names(filesystem, "/") == ["a"]
        and names(filesystem, "/a") == ["b"]
        and names(filesystem, FOLDER) == ["ours"]
        and filesystem.getattr(FOLDER).is_directory
    )


def test_the_next_mount_shows_a_file_whose_folder_is_gone(store: LaggingStore, tmp_path: Path) -> None:
    cache, image = tmp_path / "cache", tmp_path / "image"
    cache.mkdir()
    with harness(store, cache, NEVER) as filesystem:
        begun(filesystem)
        filesystem.unlink(f"{FOLDER}/theirs")
        copy_live(cache, image)
        store.delete(THEIRS)
        with harness(store, image, NEVER) as again:
            assert is_whole(again)
            change(again, f"{FOLDER}/ours", 6, b" and more")
        assert body(store, "a/b/ours") == b"closed and more"


def test_the_next_mount_shows_a_file_beside_one_whose_deletion_waits(
    store: LaggingStore, tmp_path: Path
) -> None:
    image = tmp_path / "image"
    (tmp_path / "cache").mkdir()
    with harness(store, tmp_path / "cache", NEVER) as filesystem:
        begun(filesystem)
        filesystem.unlink(f"{FOLDER}/theirs")
        copy_live(tmp_path / "cache", image)
    foreign(store, "a/b/theirs", b"of another client")
    with harness(store, image, NEVER) as filesystem:
        assert names(filesystem, "/a") == ["b"]
        assert names(filesystem, FOLDER) == ["ours"]


def test_a_file_that_waits_keeps_its_folder_when_another_client_empties_it(
    store: LaggingStore, tmp_path: Path
) -> None:
    with harness(store, tmp_path, NEVER) as filesystem:
        begun(filesystem)
        store.delete(THEIRS)
        filesystem.refresh()
        assert is_whole(filesystem)
        change(filesystem, f"{FOLDER}/ours", 6, b" and more")
    assert body(store, "a/b/ours") == b"closed and more"


def test_a_file_that_waits_keeps_its_folder_when_another_client_makes_that_a_file(
    store: LaggingStore, tmp_path: Path
) -> None:
    with harness(store, tmp_path, NEVER) as filesystem:
        begun(filesystem)
        store.delete(THEIRS)
        foreign(store, "a", b"of another client")
        filesystem.refresh()
        assert names(filesystem, "/") == ["a", "a%file"]
        assert read(filesystem, f"{FOLDER}/ours") == b"closed"
        assert read(filesystem, "/a%file") == b"of another client"
    assert keys(store) == ["a", "a/b/ours"]


def test_a_folder_that_is_gone_is_back_with_the_next_close(store: LaggingStore, tmp_path: Path) -> None:
    with harness(store, tmp_path, NEVER) as filesystem:
        handle = filesystem.create(f"{FOLDER}/ours", 0o644, os.O_WRONLY | os.O_CREAT, ME)
        store.delete(THEIRS)
        filesystem.refresh()
        assert names(filesystem, "/") == []
        filesystem.flush(handle)
        filesystem.release(handle)
        assert names(filesystem, FOLDER) == ["ours"]
        assert names(filesystem, "/") == ["a"]


def test_a_stored_file_keeps_its_folder_while_listings_lag(store: LaggingStore, tmp_path: Path) -> None:
    with harness(store, tmp_path, "sync,ttl=0") as filesystem:
        store.delete(THEIRS)
        store.late = True
        begun(filesystem)
        assert is_whole(filesystem)
        # Only a request tells a listing that lags from a file that another client has deleted.
        store.delete(ObjectName("box", "a/b/ours"))
        filesystem.refresh()
        assert names(filesystem, "/") == []


def test_a_folder_that_is_removed_is_not_implied(store: LaggingStore, tmp_path: Path) -> None:
    with harness(store, tmp_path, NEVER) as filesystem:
        begun(filesystem)
        for name in ("ours", "theirs"):
            filesystem.unlink(f"{FOLDER}/{name}")
        filesystem.rmdir(FOLDER)
        filesystem.rmdir("/a")
        filesystem.refresh()
        assert names(filesystem, "/") == []


def test_a_folder_that_is_renamed_is_implied_at_its_new_place(store: LaggingStore, tmp_path: Path) -> None:
    with harness(store, tmp_path, NEVER) as filesystem:
        begun(filesystem)
        filesystem.unlink(f"{FOLDER}/theirs")
        filesystem.rename("/a", "/c")
        filesystem.refresh()
        assert names(filesystem, "/") == ["c"]
        assert names(filesystem, "/c/b") == ["ours"]


@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize("is_deep", [False, True])
def test_a_renamed_folder_is_gone_when_another_client_has_emptied_it(
    store: LaggingStore, tmp_path: Path, is_deep: bool, is_late: bool
) -> None:
    """While its files are there it is shown, though listings do not show it yet."""
    keys = ["c/theirs", *(f"c/deep/{number}" for number in range(20) if is_deep)]
    for key in keys[1:]:
        foreign(store, f"a/b{key[1:]}", b"of another client")
    with harness(store, tmp_path, "sync,ttl=1000") as filesystem:
        filesystem.rename(FOLDER, "/c")
        store.late = is_late
        filesystem.refresh()
        assert "c" in names(filesystem, "/")
        store.late = False
        for key in keys:
            store.delete(ObjectName("box", key))
        filesystem.refresh()
        assert names(filesystem, "/") == ["a"]
        with pytest.raises(FileNotFoundError):
            filesystem.getattr("/c")
