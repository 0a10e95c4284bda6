"""Another client has deleted a large file with its segments, while a change of it waits or is made."""

import os
from collections.abc import Callable

import pytest

from support.harness import ME, get, put, write
from support.memory_store import MemoryStore
from support.noise import NEW
from support.stored_objects import body
from swiftfs.objects import ObjectName
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.protocol import Headers

NAME = ObjectName("box", "a")

pytestmark = pytest.mark.mount_options("segment_size=1M")

Other = Callable[[MemoryStore], None]


def delete_all(store: MemoryStore) -> None:
    """Delete the object and its segments, as another mount does that replaces or deletes the file."""
    named = [segment.name for segment in store.manifest(NAME).segments]
    store.delete(NAME)
    for name in named:
        store.delete(name)


def delete_first_segment(store: MemoryStore) -> None:
    store.delete(store.manifest(NAME).segments[0].name)


def replace(store: MemoryStore) -> None:
    delete_all(store)
    store.put(NAME, b"theirs", Headers("text/plain"))


OTHERS = pytest.mark.parametrize("other", [delete_all, delete_first_segment, replace])


@OTHERS
@pytest.mark.parametrize("offset", [0, len(NEW)])
def test_a_file_that_stays_open_is_stored_whole(
    store: MemoryStore, filesystem: FileSystem, other: Other, offset: int
) -> None:
    handle = filesystem.create("/a", 0o644, os.O_RDWR, ME)
    put(filesystem, handle, 0, NEW)
    filesystem.fsync(handle, False)
    other(store)
    put(filesystem, handle, offset, b"new")
    filesystem.fsync(handle, False)
    after = NEW[:offset] + b"new" + NEW[offset + 3 :]
    assert body(store, "a") == get(filesystem, handle) == after
    filesystem.release(handle)


@OTHERS
def test_a_file_of_which_all_bytes_are_here_is_stored_whole(
    store: MemoryStore, filesystem: FileSystem, other: Other
) -> None:
    write(filesystem, "/a", NEW)
    handle = filesystem.open("/a", os.O_RDWR)
    filesystem.fsync(handle, False)
    put(filesystem, handle, len(NEW), b"new")
    other(store)
    filesystem.fsync(handle, False)
    filesystem.release(handle)
    assert body(store, "a") == NEW + b"new"
