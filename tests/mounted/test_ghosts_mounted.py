"""Ghosts: rows that a listing shows for objects that Swift does not have. They can only be deleted.

These run in a real mount.
"""

import errno
import os
from pathlib import Path

import pytest

from support.mounts import Mount, run
from swiftfs.demo.server import SwiftServer
from swiftfs.demo.values import Fault


@pytest.mark.mount_options("segment_size=1M")
def test_a_large_file_whose_segment_is_gone(mounted: Mount, swift: SwiftServer, container: str) -> None:
    path = mounted.path / "file"
    path.write_bytes(bytes(3_000_000))
    swift.inject(Fault("COPY", f"/{container}/file", status=400, times=1))
    mounted.expected = ["rename"]
    with pytest.raises(OSError, match="file") as caught:
        path.rename(mounted.path / "other")
    assert caught.value.errno == errno.EIO
    assert "400" in mounted.log.read_text()


def test_rm_and_cp_go_on_beside_ghosts(
    mounted: Mount, swift: SwiftServer, container: str, tmp_path: Path
) -> None:
    """For the ghost the server answers a HEAD with 404, and executes a DELETE."""
    at = mounted.path
    (at / "d").mkdir()
    for name in ("alive", "ghost"):
        (at / "d" / name).write_bytes(b"1234567")
    mounted.remount()
    for method in ("GET", "HEAD"):
        swift.inject(Fault(method, f"/{container}/d/ghost", status=404))
    mounted.expected = ["ghost"]
    assert sorted(os.listdir(at / "d")) == ["alive", "ghost"]  # noqa: PTH208
    assert "No such file" in run("cp", "-a", at / "d", tmp_path / "copy", check=False)
    assert (tmp_path / "copy" / "alive").read_bytes() == b"1234567"
    run("rm", "-r", at / "d")
    assert list(at.iterdir()) == []
    mounted.remount()
    assert list(at.iterdir()) == []
