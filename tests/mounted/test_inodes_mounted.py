"""Inode numbers: two files never share one, and a file keeps its number when it is renamed.

These run in a real mount.
"""

import os
import subprocess
from pathlib import Path

from swiftclient import Connection

from support.mounts import Mount, run


def test_programs_see_two_files_with_two_inode_numbers(mounted: Mount) -> None:
    at = mounted.path
    (at / "a").write_text("1\n")
    with (at / "a").open("rb") as held:
        run("mv", at / "a", at / "b")
        (at / "a").write_text("2222\n")
        assert subprocess.run(["cmp", "-s", at / "b", at / "a"], check=False).returncode == 1
        assert os.fstat(held.fileno()).st_ino == (at / "b").stat().st_ino != (at / "a").stat().st_ino
        run("cp", at / "b", at / "a")
        assert (at / "a").read_text() == "1\n"


def test_a_file_that_nobody_has_open_keeps_its_number_in_the_kernel(
    mounted: Mount, connection: Connection, container: str
) -> None:
    at = mounted.path
    connection.put_object(container, "folder/deep/x", b"1")
    connection.put_object(container, "y", b"2")
    before = [(at / path).stat().st_ino for path in ("folder/deep/x", "folder", "y")]
    (at / "y").rename(at / "z")
    (at / "folder").rename(at / "moved")
    assert [(at / path).stat().st_ino for path in ("moved/deep/x", "moved", "z")] == before
    for folder in (at, at / "moved", at / "moved" / "deep"):
        for entry in os.scandir(folder):
            assert entry.inode() == (folder / entry.name).stat().st_ino


def test_tail_follows_a_log_that_is_rotated(mounted: Mount, tmp_path: Path) -> None:
    log = mounted.path / "log"
    log.write_text("first\n")
    command = ["tail", "-F", "-s", "0.1", "--max-unchanged-stats=1", str(log)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as tail:
        try:
            assert tail.stdout is not None
            assert tail.stdout.readline() == "first\n"
            log.rename(mounted.path / "log.1")
            log.write_text("a second one\n")
            assert tail.stdout.readline() == "a second one\n"
        finally:
            tail.kill()
