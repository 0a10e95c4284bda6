"""A file takes the place of a folder, or the reverse: its object has one name while the old ones wait."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_IMODE

import pytest

from support.harness import ANY_END, LEFT, ME, harness, listed, names, put, read
from support.jobs import wait_until
from support.lagging_store import LaggingStore
from support.late_store import killed, settle
from support.manual_clock import ManualClock
from support.memory_store import MemoryStore
from support.stored_objects import foreign, keys
from swiftfs.errors import Unavailable
from swiftfs.objects import Limits, ObjectName
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.protocol import Headers

SLASH = "dir_marker=slash"

MARKERS = {"plain": ("X", ""), "slash": ("X/", SLASH), "implied": ("", ""), "implied, slash": ("", SLASH)}
"""The key of the folder's marker in Swift, and the options of the mount."""

ENDS = ["kill", "expired listing", "unmount in an outage"]


def make_marker(store: MemoryStore, key: str) -> None:
    if key:
        store.put(ObjectName("box", key), b"", Headers("application/directory"))


def write_synced(filesystem: FileSystem, path: str, data: bytes) -> None:
    """Write a file; return when Swift has it."""
    handle = filesystem.create(path, 0o644, os.O_WRONLY, ME)
    put(filesystem, handle, 0, data)
    filesystem.fsync(handle, False)
    filesystem.flush(handle)
    filesystem.release(handle)


def folder_to_file(filesystem: FileSystem) -> None:
    filesystem.unlink("/X/f")
    filesystem.rmdir("/X")
    write_synced(filesystem, "/X", b"file")


def file_to_folder(filesystem: FileSystem) -> None:
    filesystem.unlink("/X")
    filesystem.mkdir("/X", 0o700, ME)
    filesystem.setxattr("/X", "user.key", b"value", 0)
    write_synced(filesystem, "/X/f", b"new")


def assert_file(filesystem: FileSystem) -> None:
    for _ in range(2):
        assert names(filesystem, "/") == ["X"]
        assert not listed(filesystem, "/")["X"].is_directory
        assert read(filesystem, "/X") == b"file"
        with pytest.raises(FileNotFoundError):
            filesystem.getattr("/X%file")
        filesystem.refresh()


def assert_folder(filesystem: FileSystem) -> None:
    for _ in range(2):
        assert names(filesystem, "/") == ["X"]
        assert listed(filesystem, "/")["X"].is_directory
        assert S_IMODE(filesystem.getattr("/X").mode) == 0o700
        assert filesystem.getxattr("/X", "user.key") == b"value"
        assert names(filesystem, "/X") == ["f"]
        assert read(filesystem, "/X/f") == b"new"
        with pytest.raises(FileNotFoundError):
            filesystem.getattr("/X%file")
        filesystem.refresh()


def withhold(store: MemoryStore, *, markers: bool) -> None:
    """Let nothing be deleted, and with `markers` let the marker of X not be stored."""

    def hook(method: str, subject: str) -> None:
        if "delete" in method or (markers and method == "put" and subject.rstrip("/").endswith("X")):
            raise Unavailable("no answer")

    store.hook = hook


@contextmanager
def after(
    end: str, store: MemoryStore, cache: Path, options: str, change: Callable[[FileSystem], None]
) -> Iterator[FileSystem]:
    """Make a change of which only the synced file gets to Swift; yield the mount after `end`."""
    markers = change is file_to_folder
    if end == "kill":
        with killed(store, cache, f"settle=1000,{options}") as filesystem:
            change(filesystem)
    elif end == "unmount in an outage":
        withhold(store, markers=markers)
        with harness(store, cache, f"settle=0.01,drain=0,{options}", close_error=LEFT) as filesystem:
            change(filesystem)
    withhold(store, markers=markers)
    with harness(store, cache, f"settle=0.01,ttl=0,drain=1,{options}", close_error=ANY_END) as filesystem:
        if end == "expired listing":
            change(filesystem)
            filesystem.refresh()
        yield filesystem


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("kind", MARKERS)
def test_a_file_that_replaces_a_folder_has_one_name(
    store: MemoryStore, cache: Path, tmp_path: Path, kind: str, end: str
) -> None:
    marker, options = MARKERS[kind]
    make_marker(store, marker)
    foreign(store, "X/f", b"1")
    with after(end, store, cache, options, folder_to_file) as filesystem:
        assert_file(filesystem)
        store.hook = None
        settle(filesystem)
        assert_file(filesystem)
    assert keys(store) == ["X"]


@pytest.mark.parametrize("trash", ["", ",trash=3"])
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("options", ["", SLASH])
def test_a_folder_that_replaces_a_file_has_one_name(
    store: MemoryStore, cache: Path, options: str, end: str, trash: str
) -> None:
    foreign(store, "X", b"old")
    with after(end, store, cache, options + trash, file_to_folder) as filesystem:
        assert_folder(filesystem)
        store.hook = None
        settle(filesystem)
        assert_folder(filesystem)
    found = [key for key in keys(store) if not key.startswith(".trash")]
    assert found == sorted(["X/" if options else "X", "X/f"])


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("options", ["", SLASH])
def test_a_removed_tree_stays_removed(store: MemoryStore, cache: Path, options: str, end: str) -> None:
    slash = "/" if options else ""
    for key in (f"d{slash}", f"d/e{slash}"):
        make_marker(store, key)
    foreign(store, "d/e/f", b"1")

    def remove(filesystem: FileSystem) -> None:
        filesystem.unlink("/d/e/f")
        filesystem.rmdir("/d/e")
        filesystem.rmdir("/d")

    with after(end, store, cache, options, remove) as filesystem:
        for _ in range(2):
            assert names(filesystem, "/") == []
            filesystem.refresh()
        store.hook = None
        settle(filesystem)
        assert names(filesystem, "/") == []
        filesystem.refresh()
        assert names(filesystem, "/") == []
    assert keys(store) == []


@pytest.mark.parametrize("kind", MARKERS)
def test_an_outage_of_ten_minutes_changes_nothing(
    store: MemoryStore, cache: Path, clock: ManualClock, kind: str
) -> None:
    """Listings count more than what was stored so long ago, but not than what waits."""
    marker, options = MARKERS[kind]
    make_marker(store, marker)
    foreign(store, "X/f", b"1")
    foreign(store, "Y/f", b"1")
    withhold(store, markers=False)
    with harness(store, cache, f"settle=0.01,drain=0,{options}", close_error=ANY_END) as filesystem:
        folder_to_file(filesystem)
        filesystem.unlink("/Y/f")
        filesystem.rmdir("/Y")
        clock.now += 600
        assert_file(filesystem)
        store.hook = None


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("options", ["", SLASH])
def test_another_clients_file_in_the_folder_stays_shown(
    store: MemoryStore, cache: Path, options: str, end: str
) -> None:
    make_marker(store, "X/" if options else "X")
    foreign(store, "X/f", b"1")
    with after(end, store, cache, options, folder_to_file) as filesystem:
        foreign(store, "X/theirs", b"2")
        filesystem.refresh()
        assert names(filesystem, "/") == ["X", "X%file"]
        assert names(filesystem, "/X") == ["theirs"]
        assert read(filesystem, "/X%file") == b"file"
        store.hook = None
        settle(filesystem)
    assert keys(store) == ["X", "X/theirs"]


def test_the_marker_that_is_stored_first_shows_no_file_beside_the_folder(
    store: MemoryStore, cache: Path
) -> None:
    foreign(store, "X", b"old")
    withhold(store, markers=False)
    with harness(store, cache, f"settle=0.01,drain=0,{SLASH}", close_error=LEFT) as filesystem:
        file_to_folder(filesystem)
        wait_until(lambda: "X/" in keys(store))
        assert_folder(filesystem)
    with harness(store, cache, f"settle=0.01,{SLASH}", close_error=ANY_END) as filesystem:
        assert_folder(filesystem)
        store.hook = None
        settle(filesystem)
        assert_folder(filesystem)
    assert keys(store) == ["X/", "X/f"]


def test_a_file_beside_a_folder_gets_its_name_when_the_folder_is_removed(
    store: MemoryStore, cache: Path
) -> None:
    for key in ("X", "X/f"):
        foreign(store, key, b"theirs")
    with harness(store, cache, "settle=1000") as filesystem:
        assert names(filesystem, "/") == ["X", "X%file"]
        filesystem.unlink("/X/f")
        filesystem.rmdir("/X")
        for _ in range(2):
            assert names(filesystem, "/") == ["X"]
            assert read(filesystem, "/X") == b"theirs"
            filesystem.refresh()


@pytest.mark.store(LaggingStore, "box")
@pytest.mark.parametrize("options", ["", SLASH])
def test_a_file_that_is_deleted_already_is_not_shown_beside_a_folder_while_listings_lag(
    store: LaggingStore, cache: Path, options: str
) -> None:
    foreign(store, "X", b"old")
    with harness(store, cache, f"ttl=0,{options}".rstrip(",")) as filesystem:
        assert names(filesystem, "/") == ["X"]
        foreign(store, "X/f", b"theirs")
        store.stop()
        filesystem.unlink("/X%file")
        filesystem.refresh()
        assert names(filesystem, "/") == ["X"]
        filesystem.unlink("/X/f")
        filesystem.rmdir("/X")
        filesystem.mkdir("/X", 0o700, ME)
        for _ in range(2):
            assert names(filesystem, "/") == ["X"]
            assert filesystem.getattr("/X").is_directory
            filesystem.refresh()


@pytest.mark.store(MemoryStore, "box", limits=Limits(listing=3))
@pytest.mark.parametrize("is_read", [True, False])
@pytest.mark.parametrize("change", [folder_to_file, file_to_folder])
@pytest.mark.parametrize("options", ["", SLASH])
def test_a_name_in_a_folder_of_many_pages(
    store: MemoryStore, cache: Path, options: str, change: Callable[[FileSystem], None], is_read: bool
) -> None:
    """The folder is read to its end before names are looked up, or they are asked for alone."""
    others = [f"{first}{number}" for first in "AX" for number in range(5)]
    for name in others:
        foreign(store, name, b"x")
    if change is file_to_folder:
        foreign(store, "X", b"old")
    else:
        make_marker(store, "X/" if options else "X")
        foreign(store, "X/f", b"1")
    with after("expired listing", store, cache, f"{options},ttl=60".lstrip(","), change) as filesystem:
        if is_read:
            assert names(filesystem, "/") == sorted([*others, "X"])
        filesystem.refresh()
        with pytest.raises(FileNotFoundError):
            filesystem.getattr("/X%file")
        assert filesystem.getattr("/X").is_directory == (change is file_to_folder)
        assert names(filesystem, "/") == sorted([*others, "X"])
        with pytest.raises(FileNotFoundError):
            filesystem.getattr("/X%file")
        store.hook = None
        settle(filesystem)
