"""Another client makes a file of a folder that a mount has just made, or the reverse, on a real Swift."""

import stat
from pathlib import Path

import pytest
from swiftclient import Connection

from support.commands import swiftfs
from support.jobs import wait_until
from support.mounts import Mount

pytestmark = pytest.mark.mount_options("settle=0.2,ttl=1")


def is_file(path: Path) -> bool:
    return stat.S_ISREG(path.lstat().st_mode)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_that_another_client_has_made_a_file_is_that_file(
    mounted: Mount, connection: Connection, container: str
) -> None:
    for name in ("removed", "changed", "moved"):
        (mounted.path / name).mkdir()
    assert swiftfs("flush", mounted.path).returncode == 0
    for name in ("removed", "changed", "moved"):
        connection.put_object(container, name, b"of another client", content_type="text/plain")
    wait_until(lambda: all(map(is_file, mounted.path.iterdir())))
    with pytest.raises(NotADirectoryError):
        (mounted.path / "removed").rmdir()
    (mounted.path / "changed").chmod(0o600)
    (mounted.path / "moved").rename(mounted.path / "there")
    assert swiftfs("flush", mounted.path).returncode == 0
    for name in ("removed", "changed", "there"):
        headers, body = connection.get_object(container, name)
        assert (body, headers["content-type"].partition(";")[0]) == (b"of another client", "text/plain")


def test_a_folder_that_another_client_makes_beside_a_file_is_shown(
    mounted: Mount, connection: Connection, container: str
) -> None:
    own = mounted.path / "n"
    own.write_bytes(b"mine")
    assert swiftfs("flush", mounted.path).returncode == 0
    connection.put_object(container, "n/child", b"theirs")
    wait_until(own.is_dir)
    assert names(mounted.path) == ["n", "n%file"]
    assert (own / "child").read_bytes() == b"theirs"
    assert (mounted.path / "n%file").read_bytes() == b"mine"
    assert len({(mounted.path / name).stat().st_ino for name in ("n", "n%file")}) == 2
    (mounted.path / "n%file").unlink()
    assert swiftfs("flush", mounted.path).returncode == 0
    assert names(mounted.path) == ["n"]
    assert [row["name"] for row in connection.get_container(container)[1]] == ["n/child"]
