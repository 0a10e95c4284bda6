"""Mounts with default options: close() returns at once, and Swift gets everything later."""

import os
import threading
from pathlib import Path

import pytest
from swiftclient import Connection

from support.deadlines import within
from support.jobs import wait_until
from support.mounts import Mount, run
from swiftfs.control.client import flush
from swiftfs.demo.server import Fault, SwiftServer

FILES = 200


def make_tree(top: Path) -> None:
    for number in range(FILES):
        path = top / f"folder{number % 20}" / f"file{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"number {number}".encode())
        os.utime(path, ns=(0, (1_500_000_000 + number) * 10**9))


def test_rsync_outlives_an_outage(server: SwiftServer, tmp_path: Path) -> None:
    make_tree(tmp_path / "tree")
    with Mount(server, "box", tmp_path, "settle=0.2") as mounted:
        mounted.expected += ["expired listings are used"]
        copied = threading.Thread(target=run, args=("rsync", "-a", tmp_path / "tree", mounted.path))
        copied.start()
        wait_until(lambda: len([one for one in server.requests() if one.method == "PUT"]) > 50)
        server.kill()
        copied.join(within(120))
        assert not copied.is_alive()
        server.start()
        assert run("rsync", "-ani", tmp_path / "tree", mounted.path) == ""
        mounted.stop()
        mounted.remount()
        assert run("rsync", "-acni", tmp_path / "tree", mounted.path) == ""


@pytest.mark.mount_options("settle=1000")
def test_fsync_of_a_folder_stores_what_is_in_it(
    mounted: Mount, connection: Connection, container: str
) -> None:
    (mounted.path / "folder").mkdir()
    (mounted.path / "folder" / "file").write_bytes(b"data")
    (mounted.path / "other").write_bytes(b"waits")
    assert connection.get_container(container)[1] == []
    run("sync", mounted.path / "folder")
    assert connection.get_object(container, "folder/file")[1] == b"data"
    assert {row["name"] for row in connection.get_container(container)[1]} == {"folder", "folder/file"}


@pytest.mark.mount_options("settle=1000")
def test_fsync_returns_the_server_s_error(mounted: Mount, swift: SwiftServer, container: str) -> None:
    mounted.expected += ["is parked, because it cannot be stored", "fsync handle"]
    swift.inject(Fault(method="PUT", path=f".*/{container}/file", status=403))
    descriptor = os.open(mounted.path / "file", os.O_WRONLY | os.O_CREAT)
    os.write(descriptor, b"data")
    with pytest.raises(PermissionError):
        os.fsync(descriptor)
    swift.clear_faults()
    os.fsync(descriptor)
    os.close(descriptor)
    assert (mounted.path / "file").read_bytes() == b"data"


@pytest.mark.mount_options("settle=1000,drain=1")
def test_changes_that_unmounting_cannot_store_are_stored_by_the_next_mount(
    mounted: Mount, swift: SwiftServer, connection: Connection, container: str
) -> None:
    (mounted.path / "file").write_bytes(b"data")
    swift.inject(Fault(method="PUT", path=f".*/{container}/file", status=503))
    mounted.expected.append("1 change stays in")
    mounted.exit_code = 1
    mounted.stop()
    swift.clear_faults()
    mounted.exit_code = 0
    mounted.start()
    assert (mounted.path / "file").read_bytes() == b"data"
    assert flush(mounted.path, lambda _report: None).total == 0  # a busy machine needs more than the drain
    mounted.stop()
    assert connection.get_object(container, "file")[1] == b"data"


@pytest.mark.mount_options("settle=1000,drain=1,segment_size=1M")
def test_unmounting_ends_though_the_server_refuses_changes(
    mounted: Mount, swift: SwiftServer, connection: Connection, container: str
) -> None:
    """Each segment creates its container first, one after the other, with retries for 25 s."""
    swift.inject(Fault(method="PUT", status=503))
    (mounted.path / "file").write_bytes(bytes(8_000_000))
    mounted.expected.append("1 change stays in")
    mounted.exit_code = 1
    mounted.stop()
    swift.clear_faults()
    mounted.exit_code = 0
    mounted.start()
    assert flush(mounted.path, lambda _report: None).total == 0  # a busy machine needs more than the drain
    mounted.stop()
    assert connection.get_object(container, "file")[1] == bytes(8_000_000)
