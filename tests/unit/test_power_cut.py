"""A power cut, simulated by a copy of the files that were synced to the disk."""

import os
import shutil
import threading
from pathlib import Path

import pytest

from support.harness import copy_live, harness, names, read, write
from support.jobs import wait_until
from support.memory_store import MemoryStore
from swiftfs.filecache.sparse_file import synchronize
from swiftfs.journal import database
from swiftfs.objects import ObjectName


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
