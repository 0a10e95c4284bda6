"""`conflict=keep`: what this mount has stored itself, and deletes, is not kept by the next process."""

import os
from collections.abc import Callable
from pathlib import Path
from threading import Event

import pytest
from msgspec.structs import replace

from support.harness import ME, copy_live, harness, put, write
from support.jobs import wait_until
from support.memory_store import MemoryStore
from support.stored_objects import body, foreign, keys
from swiftfs.journal.operations import Replaced
from swiftfs.journal.tasks import Done, nobody_waits
from swiftfs.objects import ObjectName
from swiftfs.paths import Folder
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.protocol import Headers

OPTIONS = "settle=1000,conflict=keep"


def flush(filesystem: FileSystem) -> None:
    filesystem.services.journal.flush_below(Folder("box", ""))


def recorded() -> tuple[Done, Done]:
    return nobody_waits, nobody_waits


def unlink(filesystem: FileSystem) -> int | None:
    filesystem.unlink("/file")
    return None


def unlink_open(filesystem: FileSystem) -> int | None:
    handle = filesystem.open("/file", os.O_RDONLY)
    filesystem.hide("/file", "/.fuse_hidden0000000100000001")
    return handle


@pytest.mark.parametrize("existed", [True, False])
@pytest.mark.parametrize("remove", [unlink, unlink_open])
def test_a_version_that_was_deleted_while_it_was_stored(
    tmp_path: Path, remove: Callable[[FileSystem], int | None], existed: bool
) -> None:
    store, arrived, goes_on, is_copied = MemoryStore("box"), Event(), Event(), Event()
    if existed:
        foreign(store, "file", b"at first")

    def hook(method: str, _subject: str) -> None:
        if method == "put":
            arrived.set()
            goes_on.wait()
        elif method in ("delete", "delete_many"):
            is_copied.wait()

    (cache := tmp_path / "cache").mkdir()
    with harness(store, cache, "settle=0.01,conflict=keep") as filesystem:
        store.hook = hook
        write(filesystem, "/file", b"stored")
        arrived.wait()
        handle = remove(filesystem)
        goes_on.set()
        wait_until(lambda: all(one.kind == "Delete" for one in filesystem.waiting()))
        copy_live(cache, tmp_path / "image")
        is_copied.set()
        if handle is not None:
            filesystem.release(handle)
    foreign(store, "file", b"stored")
    with harness(store, tmp_path / "image", OPTIONS) as filesystem:
        write(filesystem, "/file", b"newer")
    assert keys(store) == ["file"]
    assert body(store, "file") == b"newer"


def test_a_marker_that_a_file_replaces(store: MemoryStore, tmp_path: Path) -> None:
    (cache := tmp_path / "cache").mkdir()
    with harness(store, tmp_path / "cache", "settle=0.01,conflict=keep") as filesystem:
        filesystem.mkdir("/name", 0o755, ME)
        wait_until(lambda: not filesystem.waiting())
    with harness(store, cache, OPTIONS) as filesystem:
        filesystem.rmdir("/name")
        copy_live(cache, tmp_path / "image")
    store.put(ObjectName("box", "name"), b"", Headers("application/directory"))
    with harness(store, tmp_path / "image", OPTIONS) as filesystem:
        write(filesystem, "/name", b"file")
    assert keys(store) == ["name"]
    assert body(store, "name") == b"file"


@pytest.mark.parametrize("is_moved", [True, False])
def test_a_change_that_was_handed_in_before_the_file_learned_its_version(
    store: MemoryStore, tmp_path: Path, is_moved: bool
) -> None:
    (cache := tmp_path / "cache").mkdir()
    path = "/other" if is_moved else "/file"
    with harness(store, cache, OPTIONS) as filesystem:
        handle = filesystem.create(path, 0o644, os.O_RDWR, ME)
        put(filesystem, handle, 0, b"1")
        filesystem.flush(handle)
        file = filesystem.services.open_files.at(path)
        assert file is not None
        before = file.entry
        flush(filesystem)
        file.entry = before
        if is_moved:
            filesystem.rename(path, "/file")
            assert file.entry is not None
            file.entry = replace(file.entry, etag="")
        put(filesystem, handle, 1, b"2")
        filesystem.flush(handle)
        copy_live(cache, tmp_path / "image")
        filesystem.release(handle)
    foreign(store, "file", b"1")
    with harness(store, tmp_path / "image", OPTIONS):
        pass
    assert keys(store) == ["file"]
    assert body(store, "file") == b"12"


def test_a_rename_over_a_file_before_its_version_was_learned(store: MemoryStore, tmp_path: Path) -> None:
    (cache := tmp_path / "cache").mkdir()
    source, target = ObjectName("box", "other"), ObjectName("box", "file")
    with harness(store, cache, OPTIONS) as filesystem:
        write(filesystem, "/file", b"1")
        flush(filesystem)
        write(filesystem, "/other", b"2")
        assert filesystem.services.journal.rename(source, target, "/file", recorded, Replaced())
        copy_live(cache, tmp_path / "image")
    foreign(store, "file", b"1")
    with harness(store, tmp_path / "image", OPTIONS):
        pass
    assert keys(store) == ["file"]
    assert body(store, "file") == b"2"
