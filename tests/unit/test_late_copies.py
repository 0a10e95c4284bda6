"""Copies that are carried out late, after their rename failed: no stray second name stays."""

import os
from pathlib import Path

import pytest

from support.harness import ME, harness, read
from support.interrupted_moves import leave
from support.late_store import LATE, OPTIONS, LateStore, late, repair, settle, store_file
from support.noise import OLD
from support.stored_objects import body, foreign, keys, segments, segments_of, ten_minutes_later
from swiftfs.errors import StoreError
from swiftfs.journal.moves import Unmoved
from swiftfs.journal.operations import MovedObject, MoveFolder
from swiftfs.posix.filesystem import FileSystem

pytestmark = LATE

MIB = 1024 * 1024


def fail_to_copy(store: LateStore, key: str) -> None:
    """Lose the next COPY to a key, and refuse its repetition."""

    def refuse() -> None:
        store.on_loss = None
        store.refused_copies.add(key)

    store.lose("copy", key)
    store.on_loss = refuse


def land(store: LateStore, filesystem: FileSystem) -> None:
    """Let the lost COPY be carried out, and have what it did put right."""
    store.refused_copies.clear()
    assert store.lost
    store.land()
    repair(filesystem)


@pytest.mark.parametrize("size", [10, 3 * MIB])
def test_a_late_copy_after_a_failed_rename_of_a_folder(
    store: LateStore, filesystem: FileSystem, size: int
) -> None:
    filesystem.mkdir("/d", 0o755, ME)
    data = os.urandom(size)
    for name in "abc":
        store_file(filesystem, data, f"/d/{name}")
    settle(filesystem)
    fail_to_copy(store, "e/c")
    with pytest.raises(Unmoved):
        filesystem.rename("/d", "/e")
    land(store, filesystem)
    assert keys(store) == ["d", "d/a", "d/b", "d/c"]
    assert [body(store, f"d/{name}") for name in "abc"] == [data] * 3


@pytest.mark.parametrize("size", [10, 3 * MIB])
@pytest.mark.parametrize("old", [None, b"old", OLD], ids=["new", "small", "large"])
def test_a_late_copy_after_a_failed_rename_of_a_file(
    store: LateStore, filesystem: FileSystem, size: int, old: bytes | None
) -> None:
    data = os.urandom(size)
    store_file(filesystem, data, "/a")
    if old is not None:
        store_file(filesystem, old, "/b")
    settle(filesystem)
    fail_to_copy(store, "b")
    with pytest.raises(StoreError):
        filesystem.rename("/a", "/b")
    if old is not None:
        late(filesystem).fetch()
    land(store, filesystem)
    assert body(store, "a") == data
    if old is None:
        assert keys(store) == ["a"]
    else:
        assert body(store, "b") == old


@pytest.mark.parametrize("size", [10, 3 * MIB])
@pytest.mark.parametrize("is_deleted", [True, False])
def test_a_rename_whose_copy_was_made_but_not_answered_succeeds_though_the_next_attempt_is_refused(
    store: LateStore, tmp_path: Path, is_deleted: bool, size: int
) -> None:
    """What it has replaced is gone, so its segments must go too."""
    data = os.urandom(size)
    with harness(store, tmp_path, OPTIONS) as filesystem:
        store_file(filesystem, OLD, "/new")
        store_file(filesystem, data, "/old")
        if is_deleted:  # libfuse does so before a rename(2), if it is open
            filesystem.hide("/new", "/.fuse_hidden0000000100000001")
        fail_to_copy(store, "new")
        store.answers_only.add(("copy", "new"))
        filesystem.rename("/old", "/new")
        repair(filesystem)
        assert keys(store) == ["new"]
        assert body(store, "new") == read(filesystem, "/new") == data
    ten_minutes_later(store, tmp_path)
    assert segments(store) == segments_of(store, "new")


@pytest.mark.parametrize("path", ["/d", "/d/a"])
def test_a_late_manifest_under_the_old_name_keeps_its_segments(
    store: LateStore, tmp_path: Path, path: str
) -> None:
    data = OLD
    with harness(store, tmp_path, OPTIONS) as filesystem:
        for folder in ("/d", "/other"):
            filesystem.mkdir(folder, 0o755, ME)
        store.lose("put_manifest", "d/a")
        store_file(filesystem, data, "/d/a")
        settle(filesystem)
        moved = "/e" if path == "/d" else "/other/a"
        filesystem.rename(path, moved)
        store.land()
        filesystem.unlink("/e/a" if path == "/d" else moved)
        settle(filesystem)
        assert body(store, "d/a") == data
        repair(filesystem)
        assert "d/a" not in keys(store)
    ten_minutes_later(store, tmp_path)
    assert keys(store, "box_segments") == []


def test_a_late_copy_of_a_killed_process_that_was_undoing_it(store: LateStore, tmp_path: Path) -> None:
    foreign(store, "d/a", b"data")
    (row,) = store.list_page("box").rows
    moved = (MovedObject(row.key, row.hash, row.last_modified),)
    leave(tmp_path, MoveFolder("box", "d/", "box", "e/", objects=moved, undone=True))
    with harness(store, tmp_path, OPTIONS, close_error="it was being undone") as filesystem:
        foreign(store, "e/a", b"data")  # by the COPY of that process
        repair(filesystem)
        assert keys(store) == ["d/a"]
