"""How far the kernel reads ahead: a setting of the mount at the moment when a file is opened."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.harness import ME, put
from support.memory_store import MemoryStore
from swiftfs.filecache.block_map import BLOCK
from swiftfs.fuse import operations
from swiftfs.fuse.operations import KernelReadAhead
from swiftfs.objects import ObjectName
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.protocol import Headers

DEVICE = os.makedev(0, 39)


@pytest.fixture
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file that stands for the kernel's, as it is at the begin of a mount."""
    monkeypatch.setattr(operations, "_DEVICES", tmp_path)
    folder = tmp_path / "0:39"
    folder.mkdir()
    (folder / "read_ahead_kb").write_text("128\n")
    return folder / "read_ahead_kb"


@pytest.fixture
def chosen(setting: Path) -> Iterator[KernelReadAhead]:
    """Return what chooses, with requests of 512 KiB."""
    assert setting.exists()
    chooses = KernelReadAhead(512 * 1024)
    chooses.begin(DEVICE)
    yield chooses
    chooses.end()


def test_only_a_file_that_is_all_local_is_read_by_large_requests(
    chosen: KernelReadAhead, setting: Path
) -> None:
    for is_local, kib in ((False, "128\n"), (True, "512\n"), (True, "512\n"), (False, "128\n")):
        chosen.choose(is_local=is_local)
        assert setting.read_text() == kib


def test_a_larger_setting_of_the_administrator_stays(chosen: KernelReadAhead, setting: Path) -> None:
    setting.write_text("4096\n")
    chosen.end()
    chosen.begin(DEVICE)
    chosen.choose(is_local=True)
    assert setting.read_text() == "4096\n"


def test_nothing_is_chosen_where_the_kernel_does_not_allow_it(tmp_path: Path) -> None:
    chooses = KernelReadAhead(512 * 1024)
    chooses.choose(is_local=True)  # before the mount answers
    chooses.begin(os.makedev(4095, 1))  # no such mount
    chooses.choose(is_local=True)
    chooses.end()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [1, 3 * BLOCK])
def test_a_file_is_local_when_nothing_is_left_to_download(
    filesystem: FileSystem, store: MemoryStore, size: int
) -> None:
    store.put(ObjectName("box", "stored"), bytes(size), Headers("text/plain"))
    handle = filesystem.open("/stored", os.O_RDONLY)
    assert filesystem.is_local(handle) == (size == 1)  # the kernel reads no more of a small one anyway
    for offset in range(0, size, BLOCK):
        filesystem.read(handle, offset, BLOCK)
    assert filesystem.is_local(handle)
    filesystem.release(handle)


def test_a_file_that_is_being_written_is_local(filesystem: FileSystem) -> None:
    handle = filesystem.create("/new", 0o644, os.O_WRONLY, ME)
    put(filesystem, handle, 0, bytes(3 * BLOCK))
    assert filesystem.is_local(handle)
    filesystem.flush(handle)
    filesystem.release(handle)
