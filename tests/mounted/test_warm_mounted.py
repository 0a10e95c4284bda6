"""`swiftfs warm` in a real mount: few listing requests, and bytes that stay in the cache."""

import json
from pathlib import Path

import pytest
from swiftclient import Connection

from support.mounts import Mount, run
from swiftfs.demo.server import SwiftServer

FOLDERS, FILES = 12, 5


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
    found = json.loads(run("swiftfs", "warm", mounted.path, "--json"))
    assert found["folders"] == FOLDERS + 2
    assert found["names"] == 1 + FOLDERS + FOLDERS * FILES
    assert found["failed"] == []
    listings = [one for one in swift.requests() if one.method == "GET" and "prefix=" in one.path]
    assert len(listings) <= 4
    assert [one for one in swift.requests() if one.method == "HEAD" and "/top/" in one.path] == []


@pytest.mark.usefixtures("tree")
def test_bytes_are_in_the_cache(mounted: Mount, swift: SwiftServer) -> None:
    said = run("swiftfs", "warm", mounted.path / "top/00", mounted.path / "top/01/3", "--data")
    assert f"{FILES + 1} files" in said
    swift.reset_requests()
    assert (mounted.path / "top/00/4").read_bytes() == b"x" * 1000
    assert [one for one in swift.requests() if one.method == "GET" and "top/00/4" in one.path] == []


@pytest.mark.mount_options("cache_size=64M")
def test_what_does_not_fit_is_left_out(mounted: Mount, connection: Connection, container: str) -> None:
    for number in range(5):
        connection.put_object(container, f"file{number}", bytes(16 * 1024**2))
    said = run("swiftfs", "warm", mounted.path, "--data", check=False)
    assert "4 files" in said
    assert "1 file of 16.8 MB do not fit into the cache and were not read: raise cache_size" in said


@pytest.mark.mount_options("cache_size=64M")
def test_what_is_pinned_keeps_its_space(mounted: Mount, connection: Connection, container: str) -> None:
    for name in ("kept/1", "kept/2", "other/1", "other/2", "other/3"):
        connection.put_object(container, name, bytes(16 * 1024**2))
    run("swiftfs", "pin", mounted.path / "kept")
    assert "2 files" in run("swiftfs", "warm", mounted.path / "kept", "--data")
    assert "2 files" in run("swiftfs", "warm", mounted.path / "other", "--data", check=False)
    assert "2 files" in run("swiftfs", "warm", mounted.path / "kept", "--data")


def test_a_path_without_a_mount_fails(tmp_path: Path) -> None:
    assert "is not a swiftfs mount" in run("swiftfs", "warm", tmp_path, check=False)


@pytest.mark.usefixtures("tree")
def test_pins_are_shown_and_kept(mounted: Mount) -> None:
    run("swiftfs", "warm", mounted.path / "top/00", "--data")
    said = run("swiftfs", "pin", mounted.path / "top/00", mounted.path / "top/01/3")
    assert said.splitlines()[:2] == [f"{mounted.path}/top/00/", f"{mounted.path}/top/01/3"]
    mounted.remount(empty_cache=False)
    found = json.loads(run("swiftfs", "pin", mounted.path, "--json"))
    assert found["pins"] == ["/top/00/", "/top/01/3"]
    assert found["bytes"] > 0
    assert "pinned" in run("swiftfs", "status", mounted.path)
    assert run("swiftfs", "unpin", mounted.path / "top").startswith("0 paths pinned")
    assert "No such file" in run("swiftfs", "pin", mounted.path / "absent", check=False)
