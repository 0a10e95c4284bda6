"""A file is deleted while it is open and partly downloaded, and the mount dies before it sends the DELETE."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from support.harness import ME, copy_live, get, harness, names, write
from support.jobs import wait_until
from support.memory_store import MemoryStore
from support.noise import LARGE
from support.stored_objects import refuse
from swiftfs.errors import AccessDenied
from swiftfs.journal import journal
from swiftfs.objects import ObjectName
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.protocol import Headers

TYPE = "text/plain;mtime=1.000000;mode=0100644;uid=0;gid=0"
NEVER = "settle=1000,read_ahead=0"
HIDDEN = "/dir/.fuse_hidden0000001600000002"


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore("box")
    for key in ("dir/file", "dir/other"):
        store.put(ObjectName("box", key), LARGE, Headers(TYPE))
    return store


def open_partly(filesystem: FileSystem, path: str = "/dir/file") -> int:
    handle = filesystem.open(path, os.O_RDONLY)
    get(filesystem, handle, 0, 10)
    return handle


def everything(store: MemoryStore) -> list[str]:
    """Return the keys of all objects with bytes, segments included."""
    return sorted(row.key for one in store._containers for row in store.list_page(one).rows if row.size)


def restore_later(store: MemoryStore) -> Callable[[], None]:
    """Return what puts the objects back as they are now, as if the requests since had never been sent."""
    saved = {name: replace(one, objects={**one.objects}) for name, one in store._containers.items()}
    return lambda: setattr(store, "_containers", saved)


def unlink(filesystem: FileSystem, way: str) -> None:
    """Unlink the open file as libfuse does, or as with `hard_remove`."""
    if way == "hidden":
        filesystem.hide("/dir/file", HIDDEN)
    else:
        filesystem.unlink("/dir/file")


@pytest.mark.usefixtures("no_retries")
@pytest.mark.parametrize("way", ["hidden", "at once"])
def test_it_stays_deleted(store: MemoryStore, tmp_path: Path, way: str) -> None:
    (cache := tmp_path / "cache").mkdir()
    with harness(store, cache, NEVER) as filesystem:
        handle = open_partly(filesystem)
        unlink(filesystem, way)
        filesystem.release(handle)
        assert [one.path for one in filesystem.waiting()] == ["/dir/file"]
        copy_live(cache, tmp_path / "image")
        restore = restore_later(store)
    restore()
    with harness(store, tmp_path / "image", NEVER) as filesystem:
        assert [one.path for one in filesystem.waiting()] == ["/dir/file"]
        assert names(filesystem, "/dir") == ["other"]
        with pytest.raises(OSError, match="dir/file"):
            filesystem.getattr("/dir/file")
    assert [row.key for row in store.list_page("box").rows if row.size] == ["dir/other"]


@pytest.mark.usefixtures("no_retries")
@pytest.mark.matrix(4)
@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize("options", [NEVER, "read_ahead=0"])
@pytest.mark.parametrize("way", ["hidden", "at once"])
def test_it_stays_deleted_when_the_crash_comes_before_the_last_close(
    store: MemoryStore, tmp_path: Path, way: str, options: str, size: str
) -> None:
    (cache := tmp_path / "cache").mkdir()
    if size == "large":
        with harness(store, cache, "segment_size=1M") as filesystem:
            write(filesystem, "/dir/file", LARGE)
        shutil.rmtree(cache)
        cache.mkdir()
    with harness(store, cache, options) as filesystem:
        handle = open_partly(filesystem)
        unlink(filesystem, way)
        assert filesystem.waiting() == []
        copy_live(cache, tmp_path / "image")
        assert get(filesystem, handle, 0, len(LARGE)) == LARGE
        assert store.head(ObjectName("box", "dir/file")).size == len(LARGE)
        restore = restore_later(store)
        filesystem.release(handle)
    restore()
    with harness(store, tmp_path / "image", NEVER) as filesystem:
        assert [one.path for one in filesystem.waiting()] == ["/dir/file"]
        assert names(filesystem, "/dir") == ["other"]
    assert everything(store) == ["dir/other"]


@pytest.mark.parametrize("way", ["hidden", "at once"])
def test_after_the_last_close_no_later_mount_deletes_a_new_file_of_that_name(
    store: MemoryStore, tmp_path: Path, way: str
) -> None:
    (cache := tmp_path / "cache").mkdir()
    with harness(store, cache, "settle=0,read_ahead=0") as filesystem:
        handle = open_partly(filesystem)
        unlink(filesystem, way)
        filesystem.release(handle)
        write(filesystem, "/dir/file", b"new")
        handle = open_partly(filesystem, "/dir/other")
        filesystem.hide("/dir/other", HIDDEN) if way == "hidden" else filesystem.unlink("/dir/other")
        filesystem.mkdir("/dir/other", 0o755, ME)
        wait_until(lambda: not filesystem.waiting())
        copy_live(cache, tmp_path / "image")
        filesystem.release(handle)
    with harness(store, tmp_path / "image", NEVER) as filesystem:
        assert filesystem.waiting() == []
        assert names(filesystem, "/dir") == ["file", "other"]


@pytest.mark.parametrize("way", ["hidden", "at once"])
def test_it_stays_deleted_when_its_folder_was_renamed(store: MemoryStore, tmp_path: Path, way: str) -> None:
    with harness(store, tmp_path, NEVER) as filesystem:
        handle = open_partly(filesystem)
        unlink(filesystem, way)
        filesystem.rename("/dir", "/moved")
        assert get(filesystem, handle, 0, len(LARGE)) == LARGE
        filesystem.release(handle)
        assert names(filesystem, "/") == ["moved"]
        assert names(filesystem, "/moved") == ["other"]
    assert "file" not in "".join(row.key for row in store.list_page("box").rows)


def write_anew(filesystem: FileSystem) -> None:
    write(filesystem, "/dir/file", b"new")


def rename_over(filesystem: FileSystem) -> None:
    write(filesystem, "/dir/new", b"new")
    filesystem.rename("/dir/new", "/dir/file")


@pytest.mark.parametrize("make", [write_anew, rename_over])
@pytest.mark.parametrize("way", ["hidden", "at once"])
def test_a_new_file_of_that_name_outlives_a_crash(
    store: MemoryStore, tmp_path: Path, way: str, make: Callable[[FileSystem], None]
) -> None:
    """The deletion is recorded before the new file, under the name of both."""
    (cache := tmp_path / "cache").mkdir()
    with harness(store, cache, NEVER) as filesystem:
        handle = open_partly(filesystem)
        unlink(filesystem, way)
        make(filesystem)
        filesystem.release(handle)
        assert [one.path for one in filesystem.waiting()] == ["/dir/file"]
        copy_live(cache, tmp_path / "image")
    with harness(store, tmp_path / "image", NEVER) as filesystem:
        assert names(filesystem, "/dir") == ["file", "other"]
        assert filesystem.getattr("/dir/file").size == 3


@pytest.mark.parametrize("way", ["hidden", "at once"])
def test_a_refusal_names_the_file(
    store: MemoryStore,
    tmp_path: Path,
    way: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(journal, "HIDDEN_SECONDS", 0.02)

    with harness(store, tmp_path, "settle=0.01,read_ahead=0") as filesystem:
        refuse(store, "delete delete_many", AccessDenied)
        handle = open_partly(filesystem)
        unlink(filesystem, way)
        filesystem.release(handle)
        wait_until(lambda: bool(filesystem.services.journal.refused()))
        assert [one.path for one in filesystem.services.journal.refused()] == ["/dir/file"]
        assert "/dir/file: could not be deleted: no" in caplog.text
        assert ".fuse_hidden" not in caplog.text
        assert names(filesystem, "/dir") == ["file", "other"]
        store.hook = None
        filesystem.unlink("/dir/file")


def test_a_folder_removed_before_it_was_stored_is_not_shown(tmp_path: Path) -> None:
    """Only the deletion of its file is in the journal."""
    store, image = MemoryStore("box"), tmp_path / "image"
    (tmp_path / "cache").mkdir()
    with harness(store, tmp_path / "cache", NEVER) as filesystem:
        filesystem.mkdir("/new", 0o755, ME)
        handle = filesystem.create("/new/file", 0o644, os.O_WRONLY, ME)
        filesystem.fsync(handle, False)
        filesystem.release(handle)
        filesystem.unlink("/new/file")
        filesystem.rmdir("/new")
        copy_live(tmp_path / "cache", image)
        with harness(store, image, NEVER) as again:
            assert names(again, "/") == []
    assert everything(store) == []


def test_a_folder_takes_the_place_of_one_whose_deleted_file_is_open(
    store: MemoryStore, tmp_path: Path
) -> None:
    with harness(store, tmp_path, NEVER) as filesystem:
        filesystem.mkdir("/new", 0o755, ME)
        filesystem.unlink("/dir/other")
        handle = open_partly(filesystem)
        unlink(filesystem, "hidden")
        filesystem.rmdir("/dir")
        assert names(filesystem, "/") == ["new"]
        filesystem.rename("/new", "/dir")
        assert names(filesystem, "/") == ["dir"]
        assert names(filesystem, "/dir") == []
        assert get(filesystem, handle, 0, len(LARGE)) == LARGE
        filesystem.release(handle)
    assert everything(store) == []
