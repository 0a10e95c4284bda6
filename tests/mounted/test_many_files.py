"""Very many small files, created, listed, found and removed with write-back."""

import os
import time
from pathlib import Path

import pytest
from swiftclient import Connection

from support.jobs import Job, methods
from support.mount_operations import settle
from support.mounts import Mount, run
from swiftfs.control.client import flush
from swiftfs.demo.server import SwiftServer

FILES = int(os.environ.get("SWIFTFS_MANY_FILES", "2000"))
"""100,000 take a quarter of an hour, most of it in the server."""

IN_A_FOLDER = 100

BASE_MEMORY = 100 * 1024**2
FILE_MEMORY = 6 * 1024
"""Bytes of memory: of a mount without files, and the most for each pending change."""

LARGEST_RATIO = 4.0
"""How much longer the last tenth of the files may take than the first: the machine is shared."""


def make(root: Path, count: int) -> list[float]:
    """Make half of the files in one folder, half in folders of 100; return the seconds of each tenth."""
    (root / "flat").mkdir()
    times = []
    for tenth in range(10):
        began = time.monotonic()
        for number in range(tenth * count // 10, (tenth + 1) * count // 10):
            folder = root / "flat" if number % 2 else root / f"folder{number // (2 * IN_A_FOLDER)}"
            if not number % (2 * IN_A_FOLDER):
                folder.mkdir()
            (folder / f"file{number}").write_bytes(b"%d" % number)
        times.append(time.monotonic() - began)
    return times


def count_names(path: Path) -> int:
    """Return the number of paths that `find` lists below a folder."""
    return run("find", path, "-mindepth", "1").count("\n")


@pytest.mark.slow
@pytest.mark.timeout(300 + FILES // 10)
def test_very_many_files(swift: SwiftServer, connection: Connection, container: str, tmp_path: Path) -> None:
    folders = 1 + -(-FILES // (2 * IN_A_FOLDER))
    with Mount(swift, container, tmp_path, "settle=5") as mount:
        mount.expected.append(
            "expired listings are used"
        )  # a busy server needs seconds for a listing of 10,000 names
        job = Job(mount)
        times = make(mount.path, FILES)
        job.step("create")
        print("tenths:", [round(one, 2) for one in times])
        print(
            "journal:", sum(one.stat().st_size for one in mount.cache.glob("journal.sqlite*")) // 1024, "KiB"
        )
        assert times[-1] < LARGEST_RATIO * times[0]
        settle(mount.path / "flat")
        job.step("sync")
        assert flush(mount.path, lambda _report: None).total == 0
        job.step("flush")
        assert mount.rss_peak() < BASE_MEMORY + FILES * FILE_MEMORY
        assert run("ls", "-f", mount.path / "flat").count("\n") == FILES // 2 + 2
        job.step("ls -f")
        assert count_names(mount.path) == FILES + folders
        job.step("find")
        mount.remount()
        job.step("remount")
        assert count_names(mount.path) == FILES + folders
        assert len(job.step("find, cold")) < 20 + folders + FILES // 2000
        assert (mount.path / "flat" / "file1").read_bytes() == b"1"
        run("rm", "-rf", mount.path / "flat", *mount.path.glob("folder*"))
        job.step("rm -rf")
        assert flush(mount.path, lambda _report: None).total == 0
        requests = job.step("flush")
        assert methods(requests)["DELETE"] == 0
        assert len(requests) < 20 + folders + FILES // 100
    assert connection.get_container(container)[1] == []
