"""`swiftfs warm` in a real mount: few listing requests, and bytes that stay in the cache."""

import json
from pathlib import Path

import pytest
from swiftclient import Connection

from support.commands import swiftfs
from support.mounts import Mount
from swiftfs.demo.server import SwiftServer

FOLDERS, FILES = 12, 5


def succeeding(*words: object) -> str:
    """Run a command that must succeed; return what it prints."""
    result = swiftfs(*words)
    assert result.returncode == 0, result
    return result.stdout


def failing(*words: object) -> str:
    """Run a command that must fail; return what it prints, and why it fails."""
    result = swiftfs(*words)
    assert result.returncode == 1, result
    return result.stdout + result.stderr


@pytest.fixture
def tree(connection: Connection, container: str) -> None:
    """Some folders of another client's files."""
    for folder in range(FOLDERS):
        for file in range(FILES):
            connection.put_object(container, f"top/{folder:02d}/{file}", b"x" * 1000)


@pytest.mark.usefixtures("tree")
@pytest.mark.mount_options("offline=yes")
def test_a_tree_is_listed_by_few_requests(mounted: Mount, swift: SwiftServer) -> None:
    swift.reset_requests()
    found = json.loads(succeeding("warm", mounted.path, "--json"))
    assert found["folders"] == FOLDERS + 2
    assert found["names"] == 1 + FOLDERS + FOLDERS * FILES
    assert found["failed"] == []
    listings = [one for one in swift.requests() if one.method == "GET" and "prefix=" in one.path]
    assert len(listings) <= 4
    assert [one for one in swift.requests() if one.method == "HEAD" and "/top/" in one.path] == []


@pytest.mark.usefixtures("tree")
def test_a_tree_that_is_known_is_listed_anew(mounted: Mount, connection: Connection, container: str) -> None:
    before = json.loads(succeeding("warm", mounted.path, "--json"))["names"]
    connection.put_object(container, "top/00/new", b"")
    assert not (mounted.path / "top/00/new").exists()
    assert json.loads(succeeding("warm", mounted.path, "--json"))["names"] == before + 1


@pytest.mark.usefixtures("tree")
def test_bytes_are_in_the_cache(mounted: Mount, swift: SwiftServer) -> None:
    said = succeeding("warm", mounted.path / "top/00", mounted.path / "top/01/3", "--data")
    assert f"{FILES + 1} files" in said
    swift.reset_requests()
    assert (mounted.path / "top/00/4").read_bytes() == b"x" * 1000
    assert [one for one in swift.requests() if one.method == "GET" and "top/00/4" in one.path] == []


@pytest.mark.mount_options("cache_size=64M")
def test_what_does_not_fit_is_left_out(mounted: Mount, connection: Connection, container: str) -> None:
    for number in range(5):
        connection.put_object(container, f"file{number}", bytes(16 * 1024**2))
    said = failing("warm", mounted.path, "--data")
    assert "4 files" in said
    assert "1 file of 16.8 MB do not fit into the cache and were not read: raise cache_size" in said


@pytest.mark.mount_options("cache_size=64M")
def test_what_is_pinned_keeps_its_space(mounted: Mount, connection: Connection, container: str) -> None:
    for name in ("kept/1", "kept/2", "other/1", "other/2", "other/3"):
        connection.put_object(container, name, bytes(16 * 1024**2))
    succeeding("pin", mounted.path / "kept")
    assert "2 files" in succeeding("warm", mounted.path / "kept", "--data")
    assert "2 files" in failing("warm", mounted.path / "other", "--data")
    assert "2 files" in succeeding("warm", mounted.path / "kept", "--data")


def test_a_path_without_a_mount_fails(tmp_path: Path) -> None:
    assert f"{tmp_path} is not in a swiftfs mount" in failing("warm", tmp_path)


@pytest.mark.usefixtures("tree")
def test_pins_are_shown_and_kept(mounted: Mount) -> None:
    succeeding("warm", mounted.path / "top/00", "--data")
    said = succeeding("pin", mounted.path / "top/00", mounted.path / "top/01/3")
    assert said.splitlines()[:2] == [f"{mounted.path}/top/00/", f"{mounted.path}/top/01/3"]
    mounted.remount(empty_cache=False)
    found = json.loads(succeeding("pin", mounted.path, "--json"))
    assert found["pins"] == ["/top/00/", "/top/01/3"]
    assert found["bytes"] > 0
    assert "pinned" in succeeding("status", mounted.path)
    assert succeeding("unpin", mounted.path / "top").startswith("0 paths pinned")
    assert "No such file" in failing("pin", mounted.path / "absent")


@pytest.mark.usefixtures("tree")
def test_a_link_to_a_mount_leads_into_it(mounted: Mount, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(mounted.path)
    assert f"{mounted.path}/top/00/\n" in succeeding("pin", link / "top/00")
    assert "00" in succeeding("pin", link)
    assert succeeding("unpin", link / "top").startswith("0 paths pinned")
