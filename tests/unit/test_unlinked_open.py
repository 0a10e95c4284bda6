"""A file that is unlinked while it is open and partly downloaded: its object is deleted at the last close."""

import os

import pytest

from support.harness import get, names, read
from support.jobs import wait_until
from support.memory_store import MemoryStore
from support.noise import LARGE
from support.stored_objects import refuse
from swiftfs.errors import AccessDenied
from swiftfs.journal import journal
from swiftfs.objects import ObjectName
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.protocol import Headers

NAME = ObjectName("box", "file")
TYPE = "text/plain;mtime=1.000000;mode=0100644;uid=0;gid=0"


@pytest.fixture(autouse=True)
def short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Delete the file soon after its last close: no rename to its name follows here."""
    monkeypatch.setattr(journal, "HIDDEN_SECONDS", 0.02)


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore("box")
    store.put(NAME, LARGE, Headers(TYPE))
    return store


pytestmark = pytest.mark.mount_options("ttl=0,read_ahead=0")


def open_and_unlink(filesystem: FileSystem) -> int:
    handle = filesystem.open("/file", os.O_RDONLY)
    get(filesystem, handle, 0, 10)
    filesystem.unlink("/file")
    assert names(filesystem, "/") == []
    return handle


def test_it_is_read_to_its_end_and_then_deleted(filesystem: FileSystem, store: MemoryStore) -> None:
    handle = open_and_unlink(filesystem)
    assert get(filesystem, handle, 0, len(LARGE)) == LARGE
    filesystem.release(handle)
    wait_until(
        lambda: ("delete", str(NAME)) in [(method, str(subject)) for method, subject in store.requests]
    )


def test_another_clients_new_file_of_that_name_is_seen(filesystem: FileSystem, store: MemoryStore) -> None:
    filesystem.release(open_and_unlink(filesystem))
    wait_until(lambda: not filesystem.waiting())
    store.put(NAME, b"new", Headers(TYPE))
    assert names(filesystem, "/") == ["file"]
    assert read(filesystem, "/file") == b"new"


def test_a_deletion_that_is_refused_brings_the_file_back(filesystem: FileSystem, store: MemoryStore) -> None:
    handle = open_and_unlink(filesystem)

    refuse(store, "delete", AccessDenied)
    filesystem.release(handle)
    wait_until(lambda: not filesystem.waiting())
    store.hook = None
    with pytest.raises(AccessDenied):  # else the unmount reports it
        filesystem.services.journal.raise_refusal(NAME)
    assert names(filesystem, "/") == ["file"]
    assert read(filesystem, "/file") == LARGE
