"""The attributes that the kernel gets with a folder's names: those of stat(2), if they cost no request."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pytest

from support.harness import ME, names, put, write
from support.late_store import LateStore, store_file
from support.memory_store import MemoryStore
from swiftfs.objects import Attributes, ObjectName
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.protocol import Headers

OURS = Headers("text/plain;mode=0100644;mtime=1700000000.5")
FOREIGN = Headers("text/plain")


def fill(store: MemoryStore) -> None:
    """Put a folder into the store that has a name of each kind."""
    for key, data, headers in (
        ("folder/file", b"four", OURS),
        ("folder/private", b"", Headers("text/plain;mode=0104600;uid=7;gid=8")),
        ("folder/below/implied", b"x", OURS),
        ("folder/marked", b"", Headers("application/directory;mode=040700;mtime=3")),
        ("folder/link", b"file", Headers("application/symlink;mode=0120777;target=file")),
    ):
        store.put(ObjectName("box", key), data, headers)


@contextmanager
def opened(filesystem: FileSystem, path: str = "/folder") -> Iterator[int]:
    handle = filesystem.opendir(path)
    yield handle
    filesystem.releasedir(handle)


def known(filesystem: FileSystem, wanted: Iterable[str], path: str = "/folder") -> dict[str, Attributes]:
    """Return what is known of names in a folder that has just been read."""
    found = list(wanted)
    with opened(filesystem, path) as handle:
        filesystem.readdir(handle)
        parts = filesystem.known_attributes(handle, found)
    return {name: one for name, one in zip(found, parts, strict=True) if one is not None}


def test_they_are_those_of_stat_and_cost_nothing(filesystem: FileSystem, store: MemoryStore) -> None:
    fill(store)
    write(filesystem, "/folder/new", b"not in the listing")
    every = names(filesystem, "/folder")
    requests = len(store.requests)
    found = known(filesystem, [*every, "missing"])
    assert len(store.requests) == requests
    assert list(found) == every
    assert found == {name: filesystem.getattr(f"/folder/{name}") for name in every}


@pytest.mark.mount_options("mtime=meta")
def test_a_name_that_needs_a_request_is_not_known_before(filesystem: FileSystem, store: MemoryStore) -> None:
    store.put(ObjectName("box", "folder/foreign"), b"x", FOREIGN)
    assert known(filesystem, ["foreign"]) == {}
    assert known(filesystem, ["foreign"]) == {}
    shown = filesystem.getattr("/folder/foreign")
    assert known(filesystem, ["foreign"]) == {"foreign": shown}


def test_an_open_file_is_not_known(filesystem: FileSystem, store: MemoryStore) -> None:
    fill(store)
    handle = filesystem.open("/folder/file", os.O_RDWR)
    created = filesystem.create("/folder/new", 0o600, os.O_RDWR, ME)
    put(filesystem, handle, 4, b"more")
    assert known(filesystem, ["file", "new", "link"]).keys() == {"link"}
    for one in (handle, created):
        filesystem.flush(one)
        filesystem.release(one)
    found = known(filesystem, ["file", "new"])
    assert {name: one.size for name, one in found.items()} == {"file": 8, "new": 0}


def test_a_renamed_file_keeps_its_number(filesystem: FileSystem, store: MemoryStore) -> None:
    fill(store)
    number = filesystem.getattr("/folder/file").inode
    filesystem.rename("/folder/file", "/folder/other")
    found = known(filesystem, ["file", "other"])
    assert {name: one.inode for name, one in found.items()} == {"other": number}


def test_nothing_is_known_of_a_folder_that_has_moved(filesystem: FileSystem, store: MemoryStore) -> None:
    fill(store)
    with opened(filesystem) as handle:
        filesystem.readdir(handle)
        filesystem.rename("/folder", "/moved")
        filesystem.mkdir("/folder", 0o700, ME)
        write(filesystem, "/folder/file", b"another")
        assert filesystem.known_attributes(handle, ["file", "link"]) == [None, None]
    assert known(filesystem, ["file"], "/moved").keys() == {"file"}


@pytest.mark.mount_options("ttl=0")
def test_nothing_is_known_when_no_listing_is_kept(filesystem: FileSystem, store: MemoryStore) -> None:
    fill(store)
    assert known(filesystem, ["file"]) == {}


def test_a_change_that_is_to_be_shown_is_not_passed_over(filesystem: FileSystem, store: MemoryStore) -> None:
    fill(store)
    assert known(filesystem, ["file"]).keys() == {"file"}
    namespace = filesystem.services.namespace
    deferred = namespace.defer("/folder/file", lambda entry: entry)
    assert known(filesystem, ["file"]) == {}
    namespace.take_deferred("/folder/file", deferred, is_made=False)


@pytest.mark.store(LateStore, "box")
@pytest.mark.mount_options("settle=0.01")
def test_a_name_that_a_late_request_may_change_is_looked_at(store: LateStore, filesystem: FileSystem) -> None:
    store.lose("put", "file")
    store_file(filesystem, b"old")
    store_file(filesystem, b"new")
    write(filesystem, "/other", b"x")
    assert known(filesystem, ["file", "other"], "/").keys() == {"other"}
