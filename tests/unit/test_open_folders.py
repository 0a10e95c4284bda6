"""Folders that are read part by part: what is there all the time is read once, whatever happens meanwhile."""

import errno
import os
import stat
from typing import Any

import pytest

from support.harness import ME, change, listed, put, write
from support.memory_store import MemoryStore
from support.stored_objects import failing
from swiftfs.errors import NotFound, Unavailable
from swiftfs.objects import Limits, ObjectName
from swiftfs.posix import directory_ops
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.protocol import Headers

PAGE = 50
FILE = Headers("text/plain;mode=0100644")


pytestmark = pytest.mark.store(MemoryStore, "box", limits=Limits(listing=PAGE))


def fill(store: MemoryStore, count: int, form: str = "folder/{:05d}") -> list[str]:
    """Put objects in the folder, and return their names."""
    keys = [form.format(number) for number in range(count)]
    for key in keys:
        store.put(ObjectName("box", key), b"", FILE)
    return [key.rpartition("/")[2] for key in keys]


class Reader:
    """Reads a folder by one handle."""

    def __init__(self, filesystem: FileSystem, path: str = "/folder") -> None:
        self._filesystem = filesystem
        self._handle = filesystem.opendir(path)
        self.found: list[str] = []

    def step(self, most: int = 7) -> list[str]:
        """Return a few names, from where the last call has ended."""
        part = self._filesystem.readdir(self._handle, len(self.found))
        names = [name for name, _ in part][:most]
        self.found += names
        return names

    def at(self, start: int) -> list[str]:
        """Return names from number `start` on, and change nothing else."""
        return [name for name, _ in self._filesystem.readdir(self._handle, start)]

    def rest(self) -> list[str]:
        """Read to the end, and return all names from the first on."""
        while self.step():
            pass
        self._filesystem.releasedir(self._handle)
        return self.found


def requests(store: MemoryStore) -> int:
    """Return the number of requests for listings."""
    return sum(method == "list_page" for method, _ in store.requests)


@pytest.mark.parametrize("count", [30, 500])
@pytest.mark.parametrize("is_known", [False, True])
def test_names_that_stay_are_read_once(
    filesystem: FileSystem, store: MemoryStore, count: int, is_known: bool
) -> None:
    """Also if others come and go: new files, deletions, renames and changes, before and after the reader."""
    names = fill(store, count)
    write(filesystem, "/folder/00003", b"mine")
    write(filesystem, "/folder/own-1", b"mine")
    if is_known:
        listed(filesystem, "/folder")
    unstored = filesystem.create("/folder/unstored", 0o600, os.O_WRONLY, ME)
    reader = Reader(filesystem)
    reader.step()
    for number in (1, count // 2, count - 1):
        filesystem.chmod(f"/folder/{names[number]}", 0o600)
        change(filesystem, f"/folder/{names[number - 1]}", 0, b"x")
    filesystem.chmod("/folder/own-1", 0o600)
    filesystem.unlink("/folder/00005")
    filesystem.rename(f"/folder/{names[count - 3]}", "/folder/renamed")
    write(filesystem, "/folder/new", b"x")
    put(filesystem, unstored, 0, b"x")
    filesystem.flush(unstored)
    filesystem.release(unstored)
    found = reader.rest()
    assert len(set(found)) == len(found)
    gone = {"00005", names[count - 3]}
    assert {*names, "own-1", "unstored"} - gone <= set(found)
    assert set(found) <= {*names, "own-1", "unstored", "renamed", "new"}
    assert set(listed(filesystem, "/folder")) == {*names, "own-1", "unstored", "renamed", "new"} - gone


@pytest.mark.usual
@pytest.mark.parametrize("is_known", [False, True])
def test_all_names_are_deleted_while_they_are_read(
    filesystem: FileSystem, store: MemoryStore, is_known: bool
) -> None:
    """As `rm -rf` does with a folder of 100,000 names."""
    names = fill(store, 300)
    if is_known:
        listed(filesystem, "/folder")
    reader = Reader(filesystem)
    while part := reader.step():
        for name in part:
            filesystem.unlink(f"/folder/{name}")
    assert reader.found == names
    assert not listed(filesystem, "/folder")
    filesystem.rmdir("/folder")


def test_a_failed_page_is_asked_for_again(filesystem: FileSystem, store: MemoryStore) -> None:
    """The names before it are not read again, nor is the rest taken for the end."""
    names = fill(store, 200)
    reader = Reader(filesystem)
    for _ in range(10):
        reader.step()
    with failing(store, "", Unavailable("away")), pytest.raises(Unavailable):
        reader.rest()
    before = requests(store)
    assert reader.rest() == names
    assert requests(store) - before <= 4


def test_a_rewind_that_fails_is_made_up_for(filesystem: FileSystem, store: MemoryStore) -> None:
    names = fill(store, 200)
    reader = Reader(filesystem)
    for _ in range(10):
        reader.step()
    filesystem.refresh()
    with failing(store, "", Unavailable("away")), pytest.raises(Unavailable):
        reader.at(0)
    assert reader.at(60)[0] == names[60]
    assert reader.rest() == names


def test_each_page_is_asked_for_once(filesystem: FileSystem, store: MemoryStore) -> None:
    """A part asks for one page at most: the first one lists the folder, and the reader goes on after it."""
    names = fill(store, 480)
    reader, costs, is_end = Reader(filesystem), [], False
    while not is_end:
        before = requests(store)
        is_end = not reader.step(1000)
        costs.append(requests(store) - before)
    assert costs == [1] * 10 + [0]
    assert reader.found == names
    assert listed(filesystem, "/folder").keys() == set(names)
    assert requests(store) == before


def test_the_page_of_a_lookup_is_not_asked_for_again(filesystem: FileSystem, store: MemoryStore) -> None:
    """Nor does what has happened since count as contained in it: then it would have to be checked."""
    names = fill(store, 120)
    assert filesystem.getattr("/folder/00007").size == 0
    filesystem.chmod("/folder/00003", 0o600)
    for name in ("00010", "00010-new", "new"):
        write(filesystem, f"/folder/{name}", b"changed")
    before = len(store.requests)
    reader = Reader(filesystem)
    found = reader.rest()
    assert len(set(found)) == len(found)
    assert [method for method, _ in store.requests[before:]] == ["list_page"] * 2
    changed = dict.fromkeys(("00010", "00010-new", "new"), 7)
    shown = listed(filesystem, "/folder")
    assert {name: one.size for name, one in shown.items()} == dict.fromkeys(names, 0) | changed
    assert stat.S_IMODE(shown["00003"].mode) == 0o600


def test_reading_again_from_the_start_shows_what_is_new(filesystem: FileSystem, store: MemoryStore) -> None:
    for name in fill(store, 10):
        assert filesystem.getattr(f"/folder/{name}").size == 0
    reader = Reader(filesystem)
    first = reader.at(0)
    write(filesystem, "/folder/new", b"x")
    assert reader.at(3) == first[3:]
    assert reader.at(len(first)) == []
    assert sorted(reader.at(0)) == sorted([*first, "new"])


@pytest.mark.parametrize("count", [40, 900])
def test_any_place_can_be_read_again(
    filesystem: FileSystem, store: MemoryStore, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swiftfs.posix.directory_ops.KEPT", 100)
    names = fill(store, count)
    reader = Reader(filesystem)
    reader.found = names[: count - 20]
    assert reader.step()[0] == names[count - 20]
    for start in (0, 10, count // 2, count - 1, 5, count, count - 30):
        found = reader.at(start)
        assert found == names[start : start + len(found)]
        assert bool(found) == (start < count)


def test_few_names_stay_in_memory(
    filesystem: FileSystem, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swiftfs.posix.directory_ops.KEPT", 10)
    opened: list[directory_ops._OpenFolder] = []

    class Recorded(directory_ops._OpenFolder):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            opened.append(self)

    monkeypatch.setattr(directory_ops, "_OpenFolder", Recorded)
    fill(store, 1000)
    reader = Reader(filesystem)
    (folder,) = opened
    most = 0
    while reader.step():
        most = max(most, len(folder._kept))
    assert most <= 2 * PAGE + 10


def test_the_container_of_an_open_folder_is_deleted(filesystem: FileSystem, store: MemoryStore) -> None:
    """ENOENT would be the end of the folder for the C library."""
    fill(store, 200)
    reader = Reader(filesystem)
    reader.step(50)
    with failing(store, "", NotFound("gone")), pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
        reader.rest()
