"""What the kernel does with its pages after downloaded bytes were found wrong, with its calls played."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.cache_rig import CorruptingStore
from support.harness import get, harness
from support.jobs import wait_until
from support.noise import noise
from support.stored_objects import foreign
from swiftfs.filecache.block_map import BLOCK
from swiftfs.objects import PageUse
from swiftfs.posix import open_file
from swiftfs.posix.filesystem import FileSystem

SIZE = 5_000_000
"""Larger than what is checked before it is read."""


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> CorruptingStore:
    monkeypatch.setattr(open_file, "ANSWER_SECONDS", 0.0)
    return CorruptingStore("box")


@pytest.fixture
def filesystem(store: CorruptingStore, tmp_path: Path) -> Iterator[FileSystem]:
    for name in ("file", "other"):
        foreign(store, name, noise(SIZE))
    with harness(store, tmp_path, "sync,read_ahead=0") as built:
        built.services.open_files.wrong_pages.serve()
        yield built
        built.services.open_files.wrong_pages.stop()


def open_and_read(filesystem: FileSystem, path: str) -> PageUse:
    """Open a file, read all of it, and close it; return what the kernel did with its pages."""
    handle = filesystem.open(path, os.O_RDONLY)
    use = filesystem.page_use(handle)
    for offset in range(0, SIZE, BLOCK):
        get(filesystem, handle, offset, BLOCK)
    filesystem.release(handle)
    return use


def test_the_next_open_of_each_file_drops_its_pages(filesystem: FileSystem, store: CorruptingStore) -> None:
    opened = filesystem.open("/other", os.O_RDONLY)
    filesystem.page_use(opened)
    assert open_and_read(filesystem, "/other") is PageUse.KEEP
    store.wrong = 1
    open_and_read(filesystem, "/file")
    wait_until(lambda: open_and_read(filesystem, "/file") is PageUse.DROP)
    assert open_and_read(filesystem, "/other") is PageUse.DROP
    wait_until(lambda: open_and_read(filesystem, "/file") is PageUse.KEEP)
    assert open_and_read(filesystem, "/other") is PageUse.KEEP
    filesystem.release(opened)


def test_a_file_that_is_open_is_opened_once_more(filesystem: FileSystem, store: CorruptingStore) -> None:
    store.wrong = 1
    handle = filesystem.open("/file", os.O_RDONLY)
    filesystem.page_use(handle)
    open_and_read(filesystem, "/file")
    file = filesystem.services.open_files.wrong_pages.next()
    assert file is not None
    assert file.path == "/file"
    filesystem.release(handle)
