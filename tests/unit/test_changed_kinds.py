"""Another client makes a file of a folder that this mount has just made, or the reverse."""

import os
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from support.harness import ME, harness, listed, put, read, sync_all, write
from support.memory_store import MemoryStore
from support.stored_objects import contents, foreign
from swiftfs.errors import NotFound
from swiftfs.journal.deletions import FEWEST_MARKERS
from swiftfs.objects import ObjectName
from swiftfs.paths import join
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.protocol import Headers

Own = Callable[[FileSystem], None]
Other = Callable[[MemoryStore], None]


def folder(filesystem: FileSystem, path: str) -> None:
    filesystem.mkdir(path, 0o755, ME)


def renamed_file(filesystem: FileSystem) -> None:
    write(filesystem, "/before", b"mine")
    filesystem.rename("/before", "/n")


def file_renamed_away(filesystem: FileSystem) -> None:
    write(filesystem, "/n", b"mine")
    filesystem.rename("/n", "/after")


def renamed_folder(filesystem: FileSystem) -> None:
    folder(filesystem, "/before")
    write(filesystem, "/before/own", b"mine")
    filesystem.rename("/before", "/n")


def folder_renamed_away(filesystem: FileSystem) -> None:
    folder(filesystem, "/n")
    write(filesystem, "/n/own", b"mine")
    filesystem.rename("/n", "/after")


def changed_file(filesystem: FileSystem) -> None:
    write(filesystem, "/n", b"mine")
    filesystem.chmod("/n", 0o600)


def changed_folder(filesystem: FileSystem) -> None:
    folder(filesystem, "/n")
    filesystem.chmod("/n", 0o700)


def removed_file(filesystem: FileSystem) -> None:
    write(filesystem, "/n", b"mine")
    filesystem.unlink("/n")


def removed_folder(filesystem: FileSystem) -> None:
    folder(filesystem, "/n")
    filesystem.rmdir("/n")


def removed_tree(filesystem: FileSystem) -> None:
    folder(filesystem, "/n")
    write(filesystem, "/n/own", b"mine")
    filesystem.unlink("/n/own")
    filesystem.rmdir("/n")


def folder_in_place_of_a_file(filesystem: FileSystem) -> None:
    removed_file(filesystem)
    folder(filesystem, "/n")


def file_in_place_of_a_folder(filesystem: FileSystem) -> None:
    removed_tree(filesystem)
    write(filesystem, "/n", b"mine")


def filled_folder(filesystem: FileSystem) -> None:
    folder(filesystem, "/n")
    write(filesystem, "/n/own", b"mine")


OWN: dict[str, Own] = {
    "mkdir": lambda filesystem: folder(filesystem, "/n"),
    "write": lambda filesystem: write(filesystem, "/n", b"mine"),
    "touch": lambda filesystem: write(filesystem, "/n", b""),
    "rename of a file": renamed_file,
    "rename of a folder": renamed_folder,
    "symlink": lambda filesystem: filesystem.symlink("target", "/n", ME),
    "chmod of a file": changed_file,
    "chmod of a folder": changed_folder,
    "unlink": removed_file,
    "rmdir": removed_folder,
    "rm -r": removed_tree,
    "file renamed away": file_renamed_away,
    "folder renamed away": folder_renamed_away,
    "unlink, mkdir": folder_in_place_of_a_file,
    "rm -r, write": file_in_place_of_a_folder,
    "mkdir, write inside": filled_folder,
}


def put_marker(store: MemoryStore, key: str) -> None:
    store.put(ObjectName("box", key), b"", Headers("application/directory"))


def delete(store: MemoryStore, *keys: str) -> None:
    for key in keys:
        with suppress(NotFound):
            store.delete(ObjectName("box", key))


def file_and_child(store: MemoryStore) -> None:
    foreign(store, "n", b"of another client")
    foreign(store, "n/child", b"theirs")


def child_only(store: MemoryStore) -> None:
    delete(store, "n")
    foreign(store, "n/child", b"theirs")


OTHERS: dict[str, Other] = {
    "file": lambda store: foreign(store, "n", b"of another client"),
    "empty file": lambda store: foreign(store, "n", b""),
    "marker n": lambda store: put_marker(store, "n"),
    "marker n/": lambda store: put_marker(store, "n/"),
    "child": lambda store: foreign(store, "n/child", b"theirs"),
    "file and child": file_and_child,
    "child instead": child_only,
    "deletion": lambda store: delete(store, "n"),
    "deletion of all": lambda store: delete(store, "n", "n/", "n/own"),
}


def tree(filesystem: FileSystem, path: str = "/") -> dict[str, bytes | None]:
    """Return all paths below a folder with the bytes of files, None for folders."""
    found: dict[str, bytes | None] = {}
    for name, attributes in listed(filesystem, path).items():
        below = join(path, name)
        assert filesystem.getattr(below).is_directory == attributes.is_directory
        if attributes.is_directory:
            found |= {below: None} | tree(filesystem, below)
        else:
            found[below] = read(filesystem, below) if attributes.mode & 0o170000 == 0o100000 else b"(link)"
    numbers = [filesystem.getattr(one).inode for one in found]
    assert len(set(numbers)) == len(numbers)
    return found


@pytest.mark.matrix(16)
@pytest.mark.parametrize("options", ["", "dir_marker=slash"])
@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("own", OWN)
def test_what_another_client_makes_of_a_name_is_shown(
    store: MemoryStore, tmp_path: Path, own: str, other: str, options: str
) -> None:
    """As a new mount shows it, and the next state, too."""
    for name in ("cache", "new", "newer"):
        (tmp_path / name).mkdir()
    with harness(store, tmp_path / "cache", options) as filesystem:
        OWN[own](filesystem)
        OTHERS[other](store)
        filesystem.refresh()
        shown = tree(filesystem)
        with harness(store, tmp_path / "new", options) as new:
            assert shown == tree(new)
        delete(store, "n/child", "n/")
        filesystem.refresh()
        with harness(store, tmp_path / "newer", options) as new:
            assert tree(filesystem) == tree(new)


def test_a_file_that_is_written_to_takes_the_place_of_a_folder_until_it_is_stored(
    filesystem: FileSystem, store: MemoryStore
) -> None:
    write(filesystem, "/n", b"mine")
    handle = filesystem.open("/n", os.O_RDWR)
    put(filesystem, handle, 0, b"more")
    foreign(store, "n/child", b"theirs")
    filesystem.refresh()
    assert set(listed(filesystem, "/")) == {"n", "n%file"}
    filesystem.flush(handle)
    filesystem.release(handle)
    assert tree(filesystem) == {"/n": b"more"}
    filesystem.refresh()
    assert tree(filesystem) == {"/n%file": b"more", "/n": None, "/n/child": b"theirs"}


@pytest.mark.parametrize("options", ["sync", "settle=1000"])
@pytest.mark.parametrize("folders", [1, FEWEST_MARKERS])
def test_a_file_that_no_listing_has_shown_yet_stays_when_its_folder_is_removed(
    store: MemoryStore, cache: Path, folders: int, options: str, caplog: pytest.LogCaptureFixture
) -> None:
    with harness(store, cache, options) as filesystem:
        for number in range(folders):
            folder(filesystem, f"/d{number}")
        sync_all(filesystem)
        foreign(store, "d0", b"of another client")
        for number in range(folders):
            filesystem.rmdir(f"/d{number}")
        sync_all(filesystem)
        assert contents(store) == {"d0": b"of another client"}
        assert "d0 is kept" in caplog.text
        filesystem.refresh()
        assert tree(filesystem) == {"/d0": b"of another client"}


def test_a_listing_shows_which_markers_may_be_deleted(store: MemoryStore, cache: Path) -> None:
    with harness(store, cache, "settle=1000") as filesystem:
        for number in range(100):
            folder(filesystem, f"/d{number}")
        sync_all(filesystem)
        store.requests.clear()
        for number in range(100):
            filesystem.rmdir(f"/d{number}")
        sync_all(filesystem)
        assert Counter(method for method, _ in store.requests) == {"list_page": 1, "delete_many": 1}


def test_a_file_keeps_its_type_when_the_folder_that_it_was_gets_another_mode(
    filesystem: FileSystem, store: MemoryStore
) -> None:
    folder(filesystem, "/n")
    foreign(store, "n", b"of another client")
    with pytest.raises(NotFound):
        filesystem.chmod("/n", 0o700)
    assert store.head(ObjectName("box", "n")).content_type == "text/plain"
    filesystem.refresh()
    assert tree(filesystem) == {"/n": b"of another client"}
