"""A folder's link count, `st_nlink`: two, and one for each folder in it, where its listing is in memory."""

from pathlib import Path

import pytest

from support.harness import ME, harness, names, sync_all, write
from support.memory_store import MemoryStore
from support.stored_objects import NEVER, foreign
from swiftfs.objects import Limits
from swiftfs.posix.filesystem import FileSystem

pytestmark = pytest.mark.mount_options(NEVER)


def filled(store: MemoryStore) -> MemoryStore:
    """Store the files `/d/one/file`, `/d/two/file` and `/d/file`, with no markers."""
    for key in ("d/one/file", "d/two/file", "d/file"):
        foreign(store, key, b"x")
    return store


@pytest.fixture
def store() -> MemoryStore:
    return filled(MemoryStore("box"))


def links_once_read(filesystem: FileSystem, path: str) -> int:
    """Return the link count of a folder that was read."""
    names(filesystem, path)
    return filesystem.getattr(path).links


def test_a_folder_that_was_not_listed_has_one_link(filesystem: FileSystem, store: MemoryStore) -> None:
    filesystem.getattr("/d")
    store.requests.clear()
    assert filesystem.getattr("/d").links == 1
    assert store.requests == []


def test_a_listed_folder_counts_its_folders(filesystem: FileSystem) -> None:
    assert links_once_read(filesystem, "/d") == 4
    assert links_once_read(filesystem, "/d/one") == 2
    assert links_once_read(filesystem, "/") == 3
    assert filesystem.getattr("/d/file").links == 1


def test_the_count_follows_changes(filesystem: FileSystem) -> None:
    assert links_once_read(filesystem, "/d") == 4
    filesystem.mkdir("/d/three", 0o755, ME)
    assert filesystem.getattr("/d").links == 5
    write(filesystem, "/d/three/file", b"x")
    write(filesystem, "/d/other", b"x")
    assert filesystem.getattr("/d").links == 5
    filesystem.rename("/d/three", "/three")
    assert filesystem.getattr("/d").links == 4
    assert links_once_read(filesystem, "/") == 4
    filesystem.unlink("/three/file")
    filesystem.rmdir("/three")
    assert filesystem.getattr("/").links == 3
    sync_all(filesystem)
    filesystem.refresh()
    assert links_once_read(filesystem, "/d") == 4


def test_a_folder_of_several_pages_has_one_link(tmp_path: Path) -> None:
    """To count its folders all its blocks would be unpacked."""
    store = filled(MemoryStore("box", limits=Limits(bulk_delete=10_000, listing=2)))
    with harness(store, tmp_path, NEVER) as filesystem:
        assert links_once_read(filesystem, "/d") == 1
