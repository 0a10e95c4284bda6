"""A file takes the place of a folder, or the reverse, and the mount is killed before all is in Swift."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from swiftclient import Connection

from support.commands import swiftfs
from support.mounts import Mount

pytestmark = pytest.mark.mount_options("settle=1000")


def write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize(
    "marker",
    ["plain", pytest.param("slash", marks=pytest.mark.mount_options("settle=1000,dir_marker=slash"))],
)
def test_rsync_keeps_a_file_that_has_replaced_a_folder_before_a_kill(
    mounted: Mount, connection: Connection, container: str, tmp_path: Path, marker: str
) -> None:
    """The file had a second name, which rsync deleted, and with it the only object."""
    source = tmp_path / "source"
    source.mkdir()
    (mounted.path / "X").mkdir()
    (mounted.path / "X" / "f").write_bytes(b"1")
    assert swiftfs("flush", mounted.path).returncode == 0
    (source / "X").write_bytes(b"file")
    shutil.rmtree(mounted.path / "X")
    write_synced(mounted.path / "X", b"file")
    mounted.kill()
    mounted.start()
    assert tree(mounted.path) == ["X"]
    subprocess.run(["rsync", "-a", "--delete", f"{source}/", f"{mounted.path}/"], check=True)
    assert swiftfs("flush", mounted.path).returncode == 0
    assert tree(mounted.path) == ["X"]
    assert [row["name"] for row in connection.get_container(container)[1]] == ["X"], marker
    assert connection.get_object(container, "X")[1] == b"file"


def test_a_folder_that_has_replaced_a_file_before_a_kill_has_no_file_beside_it(
    mounted: Mount, connection: Connection, container: str
) -> None:
    (mounted.path / "X").write_bytes(b"old")
    assert swiftfs("flush", mounted.path).returncode == 0
    (mounted.path / "X").unlink()
    (mounted.path / "X").mkdir(mode=0o700)
    os.setxattr(mounted.path / "X", "user.key", b"value")
    write_synced(mounted.path / "X" / "f", b"new")
    mounted.kill()
    mounted.start()
    assert tree(mounted.path) == ["X", "X/f"]
    assert swiftfs("flush", mounted.path).returncode == 0
    assert tree(mounted.path) == ["X", "X/f"]
    assert [row["name"] for row in connection.get_container(container)[1]] == ["X", "X/f"]
    assert os.getxattr(mounted.path / "X", "user.key") == b"value"
    assert (mounted.path / "X").stat().st_mode & 0o777 == 0o700
