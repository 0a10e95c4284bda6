"""A power cut, simulated by a copy of the files that were synced to the disk."""

import os
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from support.harness import ME, change, copy_live, harness, names, read, write
from support.jobs import wait_until
from support.memory_store import MemoryStore
from support.noise import noise
from support.power_cut import Disk
from support.stored_objects import NEVER, body
from swiftfs.filecache.sparse_file import synchronize
from swiftfs.journal import database
from swiftfs.objects import ObjectName
from swiftfs.posix.filesystem import FileSystem


def test_a_file_closed_a_second_before_survives_a_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore()
    store.create_container("box")
    cache, disk = tmp_path / "cache", tmp_path / "disk"
    cache.mkdir()
    synced: list[str] = []
    fdatasync = os.fdatasync

    def snapshot(step: str) -> None:
        shutil.rmtree(disk, ignore_errors=True)
        copy_live(cache, disk)
        synced.append(step)

    def sync_files(folder: Path) -> None:
        synchronize(folder)
        snapshot("files")

    def sync_fact(file: int) -> None:
        fdatasync(file)
        snapshot("fact")

    monkeypatch.setattr(database, "synchronize", sync_files)
    monkeypatch.setattr(os, "fdatasync", sync_fact)
    with harness(store, cache, "settle=1000") as filesystem:
        write(filesystem, "/file", b"data")
        before = len(synced)
        wait_until(lambda: synced[before:][-2:] == ["files", "fact"])
        copy_live(disk, tmp_path / "left")
    store.delete(ObjectName("box", "file"))
    monkeypatch.setattr(database, "boot_id", lambda: "another boot")
    with harness(store, tmp_path / "left", "settle=1000") as filesystem:
        assert names(filesystem, "/") == ["file"]
    assert not (tmp_path / "left" / "lost").exists()


def test_new_attributes_make_no_bytes_doubtful(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file that was closed long before, only the attributes changed in the last second."""
    store, go_on = MemoryStore("box"), threading.Event()
    (cache := tmp_path / "cache").mkdir()
    with harness(store, cache, "settle=1000") as filesystem:
        write(filesystem, "/file", b"data")
        db = filesystem.services.journal._db
        wait_until(lambda: 0 < db._commits == db._synced)
        monkeypatch.setattr(database, "synchronize", lambda _folder: go_on.wait(60))
        filesystem.chmod("/file", 0o600)
        write(filesystem, "/other", b"too late")
        copy_live(cache, tmp_path / "left")
        go_on.set()
    monkeypatch.setattr(database, "boot_id", lambda: "another boot")
    with harness(MemoryStore("box"), tmp_path / "left", "settle=1000") as filesystem:
        assert names(filesystem, "/") == ["file"]
        assert read(filesystem, "/file") == b"data"
        assert filesystem.getattr("/file").mode & 0o777 == 0o600


OLD = noise(300_000)
NEW = noise(250_000, seed=1)
PATCHED = OLD[:1000] + NEW[:200_000] + OLD[201_000:]
CUT = 140_000


def _save(filesystem: FileSystem) -> None:
    write(filesystem, "/file~", NEW)
    filesystem.rename("/file~", "/file")


def _make_again(filesystem: FileSystem) -> None:
    filesystem.unlink("/file")
    write(filesystem, "/file", NEW)


def _rotate(filesystem: FileSystem) -> None:
    filesystem.rename("/file", "/file.1")
    write(filesystem, "/file", NEW)


def _save_backwards(filesystem: FileSystem) -> None:
    filesystem.rename("/file", "/file~")
    write(filesystem, "/file", NEW)
    filesystem.unlink("/file~")


def _link(filesystem: FileSystem) -> None:
    filesystem.unlink("/file")
    filesystem.symlink("elsewhere", "/file", ME)


CHANGES: dict[str, tuple[Callable[[FileSystem], object], set[bytes]]] = {
    "rewritten": (lambda filesystem: write(filesystem, "/file", NEW), {OLD}),
    "appended": (lambda filesystem: change(filesystem, "/file", len(OLD), NEW), {OLD}),
    # Within bytes that were synced a disk may have any of the newer ones.
    "patched": (lambda filesystem: change(filesystem, "/file", 1000, NEW[:200_000]), {OLD, PATCHED}),
    "cut": (lambda filesystem: filesystem.truncate("/file", CUT), {OLD, OLD[:CUT]}),
    "emptied": (lambda filesystem: filesystem.truncate("/file", 0), {OLD}),
    "saved": (_save, {OLD}),
    "deleted": (lambda filesystem: filesystem.unlink("/file"), {OLD}),
    "made again": (_make_again, {OLD}),
    "rotated": (_rotate, {OLD}),
    "saved backwards": (_save_backwards, {OLD}),
    "a link now": (_link, {OLD}),
    "renamed": (lambda filesystem: filesystem.rename("/file", "/other"), {OLD}),
    "mode": (lambda filesystem: filesystem.chmod("/file", 0o600), {OLD}),
}
"""Ways to change a file, and what it may be after a power cut that comes before the next sync."""


@pytest.mark.parametrize("journal_is_newest", [True, False])
@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("way", CHANGES)
def test_what_was_synced_survives_a_change_in_the_last_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, times: int, journal_is_newest: bool
) -> None:
    disk = Disk(tmp_path, monkeypatch)
    make, left = CHANGES[way]
    with harness(MemoryStore("box"), disk.cache, NEVER) as filesystem:
        for _ in range(times):
            with suppress(FileNotFoundError):
                filesystem.unlink("/other")
            write(filesystem, "/file", NEW)
            disk.sync(filesystem)
            write(filesystem, "/file", OLD)
            disk.sync(filesystem)
            make(filesystem)
        image = disk.cut(journal_is_newest=journal_is_newest)
    disk.restart()
    store = MemoryStore("box")
    with harness(store, image, NEVER) as filesystem:
        assert read(filesystem, "/file") in left
    assert body(store, "file") in left
