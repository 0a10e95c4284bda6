"""Ghosts: rows that a listing shows for objects that Swift does not have. They can only be deleted.

These run in a real mount.
"""

import errno
import os
from pathlib import Path

import pytest
from swiftclient import Connection

from support.mounts import Mount, run
from swiftfs.demo.server import Fault, SwiftServer


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


LOOPS: tuple[tuple[str, ...], ...] = (("b", "c"), ("a", "d", "e", "f", "g"))


def test_links_that_lead_nowhere(
    mounted: Mount, connection: Connection, container: str, tmp_path: Path
) -> None:
    """A HEAD of a symlink of Swift that has no end is answered with 409; the link itself can be reached."""
    for loop in LOOPS:
        for name, target in zip(loop, loop[1:] + loop[:1], strict=True):
            link = {"X-Symlink-Target": f"{container}/{target}"}
            connection.put_object(container, name, b"", headers=link, content_type="a/b")
    connection.put_object(container, "plain", b"bytes")
    at = mounted.path
    names = sorted({name for loop in LOOPS for name in loop} | {"plain"})
    assert run("ls", "-l", at).count("\n") == 1 + len(names)
    assert (at / "a").stat().st_size == 0
    for call in ((at / "a").read_bytes, lambda: (at / "a").open("ab")):
        with pytest.raises(FileNotFoundError):
            call()
    assert run("cp", at / "plain", at / "b") == ""
    assert (at / "c").rename(at / "moved") == at / "moved"
    run("rm", at / "a", at / "moved", at / "d")
    mounted.remount()
    assert sorted(path.name for path in at.iterdir()) == sorted({*names} - {"a", "c", "d"})
    assert (at / "b").read_bytes() == b"bytes"
    run("rm", "-r", *at.iterdir())
    assert connection.get_container(container)[1] == []


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
