import os
import shutil
from pathlib import Path

import pytest
from bench_filesystem import bench, names, write
from memory_store import MemoryStore
from scenes import wait_until

from swiftfs.journal import log


def test_what_was_closed_a_second_ago_survives_a_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore()
    store.create_container("box")
    cache, disk = tmp_path / "cache", tmp_path / "disk"
    cache.mkdir()
    synced: list[str] = []
    synchronize, fdatasync = log.synchronize, os.fdatasync

    def snapshot(step: str) -> None:
        shutil.rmtree(disk, ignore_errors=True)
        shutil.copytree(cache, disk)
        synced.append(step)

    monkeypatch.setattr(log, "synchronize", lambda folder: (synchronize(folder), snapshot("files")))
    monkeypatch.setattr(os, "fdatasync", lambda file: (fdatasync(file), snapshot("fact")))
    with bench(store, cache, "settle=1000") as filesystem:
        write(filesystem, "/file", b"data")
        before = len(synced)
        wait_until(lambda: synced[before:][-2:] == ["files", "fact"])
        shutil.copytree(disk, tmp_path / "left")
    store.delete(log.ObjectName("box", "file"))
    monkeypatch.setattr(log, "boot_id", lambda: "another boot")
    with bench(store, tmp_path / "left", "settle=1000") as filesystem:
        assert names(filesystem, "/") == ["file"]
    assert not (tmp_path / "left" / "lost").exists()
