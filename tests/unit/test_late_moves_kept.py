"""Renames to a name whose deletion was lost: the deletion is carried out between their requests."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from support.harness import ANY_END, ME, copy_live, harness, read
from support.late_store import LATE, OPTIONS, LateStore, away, remove, repair, store_file
from support.stored_objects import body, keys, refuse
from swiftfs.errors import AccessDenied, SwiftfsError
from swiftfs.objects import ObjectName
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.protocol import CopyRequest

pytestmark = LATE

MIB = 1024 * 1024

Rename = Callable[[FileSystem], None]


def rename_file(filesystem: FileSystem) -> None:
    filesystem.rename("/d/other", "/e/file")


def rename_folder(filesystem: FileSystem) -> None:
    filesystem.rename("/d", "/e")


def before(store: LateStore, cache: Path, data: bytes, rename: Rename) -> Path:
    """Store what is renamed, with a mount of its own; return the cache folder of the next mount."""
    name = "other" if rename is rename_file else "file"
    with harness(store, cache / "before", OPTIONS) as filesystem:
        for folder in ("/d", "/e"):
            filesystem.mkdir(folder, 0o755, ME)
        store_file(filesystem, data, f"/d/{name}")
        store_file(filesystem, b"old", "/e/file")
    return cache / "mount"


@pytest.fixture(autouse=True)
def folders(tmp_path: Path) -> None:
    (tmp_path / "before").mkdir()
    (tmp_path / "mount").mkdir()


@pytest.mark.parametrize("when", ["head", "get", "delete"])
@pytest.mark.parametrize("rename", [rename_file, rename_folder])
@pytest.mark.parametrize("size", [10, 200_000, 3 * MIB])
def test_a_late_deletion_within_a_rename_is_undone(
    store: LateStore, tmp_path: Path, size: int, rename: Rename, when: str
) -> None:
    data = os.urandom(size)
    with harness(store, before(store, tmp_path, data, rename), OPTIONS) as filesystem:
        store.lose("delete", "e/file")
        remove(filesystem, "/e/file")
        assert store.lost == 1

        def land(method: str, subject: str) -> None:
            is_copied = any(method == "copy" for method, _ in store.requests)
            where = "box/d" if when == "delete" else "box/e"
            if is_copied and method.startswith(when) and where in f"{subject}box/d":
                store.hook = None
                store.land()

        store.requests.clear()
        store.hook = land
        rename(filesystem)
        store.hook = None
        store.land()  # if no such request was sent
        repair(filesystem)
        assert body(store, "e/file") == data


def killed_rename(store: LateStore, cache: Path, rename: Rename) -> Path:
    """Kill a mount just before the COPY of its rename; return the cache folder of the next mount."""
    died = cache.with_name("died")

    def kill(method: str, subject: str) -> None:
        if method == "copy":
            copy_live(cache, died)
            store.hook = away
            away(method, subject)

    with harness(store, cache, f"{OPTIONS},drain=0", close_error=ANY_END) as filesystem:
        store.lose("delete", "e/file")
        remove(filesystem, "/e/file")
        store.hook = kill
        with suppress(SwiftfsError, OSError):
            rename(filesystem)
    store.hook = None
    return died


@pytest.mark.parametrize("rename", [rename_file, rename_folder])
@pytest.mark.parametrize("size", [10, 200_000, 3 * MIB])
def test_a_late_deletion_within_a_rename_that_the_next_mount_finishes(
    store: LateStore, tmp_path: Path, size: int, rename: Rename
) -> None:
    data = os.urandom(size)
    died = killed_rename(store, before(store, tmp_path, data, rename), rename)
    assert store.lost == 1

    def land(method: str, subject: str) -> None:
        if method.startswith("delete") and "e/file" not in subject:
            store.hook = None
            store.land()

    store.hook = land
    with harness(store, died, OPTIONS) as filesystem:
        assert store.lost == 0
        repair(filesystem)
        assert body(store, "e/file") == data


@pytest.mark.parametrize("rename", [rename_file, rename_folder])
@pytest.mark.parametrize("size", [10, 3 * MIB])
def test_a_copy_over_what_was_deleted_before_is_no_late_request(
    store: LateStore, tmp_path: Path, size: int, rename: Rename
) -> None:
    """The mount dies after the COPY; all that the next one knows of its target is that it was deleted."""
    data = os.urandom(size)
    died = killed_rename(store, before(store, tmp_path, data, rename), rename)
    source = "d/other" if rename is rename_file else "d/file"
    store.copy(CopyRequest(ObjectName("box", source), ObjectName("box", "e/file"), manifest_only=True))
    with harness(store, died, OPTIONS) as filesystem:
        repair(filesystem)
        assert body(store, "e/file") == data
        assert read(filesystem, "/e/file") == data


@pytest.mark.parametrize("rename", [rename_file, rename_folder])
def test_a_rename_whose_bytes_cannot_be_kept_fails_before_it_copies(
    store: LateStore, tmp_path: Path, rename: Rename
) -> None:
    with harness(store, before(store, tmp_path, b"new", rename), OPTIONS) as filesystem:
        store.lose("delete", "e/file")
        remove(filesystem, "/e/file")

        store.requests.clear()
        refuse(store, "get", AccessDenied, about="^box/d/")
        with pytest.raises(SwiftfsError):
            rename(filesystem)
        store.hook = None
        assert not any(method == "copy" for method, _ in store.requests)
        store.land()
        repair(filesystem)
        assert any(key.startswith("d/") and key != "d/" for key in keys(store))
        rename(filesystem)
        assert body(store, "e/file") == b"new"


@pytest.mark.parametrize("rename", [rename_file, rename_folder])
def test_a_late_deletion_just_before_the_copy_is_undone(
    store: LateStore, tmp_path: Path, rename: Rename
) -> None:
    """The rename fails, and what it was to move is stored again at its old name."""
    path = "/d/other" if rename is rename_file else "/d/file"
    with harness(store, before(store, tmp_path, b"old", rename), OPTIONS) as filesystem:
        remove(filesystem, "/e/file")
        store.lose("delete", path[1:])
        remove(filesystem, path)
        store_file(filesystem, b"new", path)

        def land(method: str, _subject: str) -> None:
            if method == "copy":
                store.hook = None
                store.land()

        store.hook = land
        with pytest.raises(SwiftfsError):
            rename(filesystem)
        assert store.lost == 0
        repair(filesystem)
        assert body(store, path[1:]) == b"new"
        rename(filesystem)
        assert body(store, "e/file") == b"new"
