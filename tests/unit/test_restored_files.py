"""Files that come back from the trash: nothing takes them, or their segments, away again."""

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from support.harness import harness, read, write
from support.late_store import LateStore, look, remove, settle, store_file
from support.memory_store import MemoryStore
from support.stored_objects import body, keys, segments
from swiftfs.errors import AccessDenied, StoreError
from swiftfs.maintenance.trash import TrashBin, TrashedFile
from swiftfs.objects import ObjectName
from swiftfs.paths import Source
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.trash_names import RESTORED

MIB = 1024 * 1024
LARGE = "trash=30,segment_size=1M"


@pytest.fixture
def data() -> bytes:
    return os.urandom(2 * MIB)


@pytest.fixture
def box(cache: Path, data: bytes) -> MemoryStore:
    """A store with the large file `a` in the trash, which owns its segments."""
    store = MemoryStore("box", "box_segments")
    with harness(store, cache, LARGE) as filesystem:
        write(filesystem, "/a", data)
        filesystem.unlink("/a")
    return store


def trash_of(store: MemoryStore) -> TrashBin:
    return TrashBin(store, Source("box"))


def twin_of(file: TrashedFile) -> ObjectName:
    """Return the name of another copy of the same file in the trash."""
    return ObjectName("box", file.name.key[:-6] + "999999")


def test_the_mark_of_a_restored_file_is_no_attribute(tmp_path: Path, box: MemoryStore) -> None:
    (file,) = trash_of(box).files()
    trash_of(box).restore(file)
    assert RESTORED in box.head(ObjectName("box", "a")).metadata
    with harness(box, tmp_path, LARGE) as filesystem:
        assert not [name for name in filesystem.listxattr("/a") if "restored" in name]
        filesystem.chmod("/a", 0o600)


def test_a_restore_that_was_killed_at_its_end_is_repeated(
    box: MemoryStore, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file,) = trash_of(box).files()
    with monkeypatch.context() as patch:

        def die(_name: ObjectName) -> None:
            raise KeyboardInterrupt

        patch.setattr(box, "delete", die)
        with pytest.raises(KeyboardInterrupt):
            trash_of(box).restore(file)
    trash_of(box).restore(file)
    assert (keys(box), body(box, "a")) == (["a"], data)


def test_segments_that_the_file_names_again_stay_when_another_copy_ends(
    tmp_path: Path, box: MemoryStore, data: bytes
) -> None:
    """Two mounts that delete a file at once may each put it into the trash, as its segments' owner."""
    (file,) = trash_of(box).files()
    box.copy(file.name, twin_of(file), manifest_only=True)
    trash_of(box).restore(file)
    assert trash_of(box).delete(trash_of(box).files()) == {}
    assert (keys(box), body(box, "a")) == (["a"], data)
    with harness(box, tmp_path, "segment_size=1M") as filesystem:
        filesystem.unlink("/a")
    assert segments(box) == set()


def test_a_copy_that_ends_leaves_the_other_one_whole(box: MemoryStore, data: bytes) -> None:
    (file,) = trash_of(box).files()
    box.copy(file.name, twin_of(file), manifest_only=True)
    assert trash_of(box).delete([file]) == {}
    (other,) = trash_of(box).files()
    trash_of(box).restore(other)
    assert body(box, "a") == data


def test_a_copy_that_cannot_be_deleted_keeps_the_segments(box: MemoryStore, data: bytes) -> None:
    (file,) = trash_of(box).files()
    box.copy(file.name, twin_of(file), manifest_only=True)
    delete_many = box.delete_many

    def refuse_one(names: Iterable[ObjectName]) -> dict[ObjectName, StoreError]:
        wanted = list(names)
        done = delete_many([name for name in wanted if name != file.name])
        return done | {name: AccessDenied("no") for name in wanted if name == file.name}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(box, "delete_many", refuse_one)
        assert set(trash_of(box).delete(trash_of(box).files())) == {file.name}
    trash_of(box).restore(file)
    assert body(box, "a") == data


def test_two_copies_of_a_file_take_its_segments_along(box: MemoryStore) -> None:
    (file,) = trash_of(box).files()
    box.copy(file.name, twin_of(file), manifest_only=True)
    assert trash_of(box).delete(trash_of(box).files()) == {}
    assert (keys(box), segments(box)) == ([], set())


@pytest.mark.store(LateStore, "box")
@pytest.mark.mount_options("settle=0.01,trash=30")
def test_a_restored_version_is_not_taken_for_a_late_request(store: LateStore, filesystem: FileSystem) -> None:
    """A mount looks later whether a PUT that it has repeated was carried out once more."""
    store.lose("put", "file")
    store_file(filesystem, b"old")
    remove(filesystem)
    (file,) = trash_of(store).files()
    trash_of(store).restore(file)
    look(filesystem)
    settle(filesystem)
    filesystem.refresh()
    assert read(filesystem, "/file") == b"old"
    assert keys(store) == ["file"]
