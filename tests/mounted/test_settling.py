"""Deletions wait for the write delay: what replaces them makes them needless, and failed ones are undone."""

import errno
import os
from collections import Counter
from pathlib import Path

import pytest
from swiftclient import Connection

from support.found_objects import keys
from support.jobs import methods, path_of, wait_until
from support.mounts import Mount, run
from swiftfs.demo.server import Fault, RecordedRequest, SwiftServer

pytestmark = pytest.mark.mount_options("settle=2")

DIRECTORY = "application/directory"
BULK = "bulk-delete"


def changes(swift: SwiftServer) -> list[RecordedRequest]:
    """Return the requests that change something."""
    return [one for one in swift.requests() if one.method in ("PUT", "POST", "DELETE", "COPY")]


def settled(mount: Mount) -> Counter[str]:
    """Wait until all changes are stored; return the methods of the requests that changed something."""
    mount.stop()
    found = methods(changes(mount.swift))
    mount.start()
    return found


def test_a_file_deleted_and_created_again_is_one_put(
    mounted: Mount, swift: SwiftServer, connection: Connection, container: str
) -> None:
    path = mounted.path / "file"
    path.write_bytes(b"before")
    swift.reset_requests()
    path.unlink()
    assert not path.exists()
    path.write_bytes(b"after")
    assert settled(mounted) == {"PUT": 1}
    assert connection.get_object(container, "file")[1] == b"after"
    assert path.read_bytes() == b"after"


def test_a_name_that_was_just_deleted_is_renamed_over(
    mounted: Mount, swift: SwiftServer, connection: Connection, container: str
) -> None:
    (mounted.path / "old").write_bytes(b"old")
    (mounted.path / "new").write_bytes(b"new")
    mounted.remount()
    assert (mounted.path / "old").stat().st_size == 3
    swift.reset_requests()
    (mounted.path / "old").unlink()
    (mounted.path / "new").rename(mounted.path / "old")
    assert settled(mounted) == {"COPY": 1, "DELETE": 1}
    assert connection.get_object(container, "old")[1] == b"new"
    assert keys(connection, container) == ["old"]


def make_tree(top: Path) -> None:
    for folder in ("a", "a/b", "c"):
        (top / folder).mkdir(parents=True)
        for number in range(3):
            (top / folder / f"file{number}").write_bytes(f"{folder} {number}".encode())


def test_a_tree_that_is_removed_and_created_again(
    mounted: Mount, connection: Connection, container: str, tmp_path: Path
) -> None:
    make_tree(mounted.path / "tree")
    mounted.remount()
    wanted = [(row["name"], row["hash"]) for row in connection.get_container(container)[1]]
    for _ in range(2):
        run("rm", "-rf", mounted.path / "tree")
        assert not (mounted.path / "tree").exists()
        make_tree(mounted.path / "tree")
    mounted.remount()
    assert [(row["name"], row["hash"]) for row in connection.get_container(container)[1]] == wanted
    assert (mounted.path / "tree" / "a" / "b" / "file1").read_bytes() == b"a/b 1"


def test_removing_an_implied_folder_makes_no_marker(
    mounted: Mount, swift: SwiftServer, connection: Connection, container: str
) -> None:
    for number in range(3):
        connection.put_object(container, f"implied/deep/file{number}", b"x")
    mounted.remount()
    swift.reset_requests()
    run("rm", "-rf", mounted.path / "implied")
    assert not (mounted.path / "implied").exists()
    assert settled(mounted) == {"POST": 1}
    assert keys(connection, container) == []


def test_a_folder_that_stays_gets_its_marker(
    mounted: Mount, swift: SwiftServer, connection: Connection, container: str
) -> None:
    connection.put_object(container, "implied/file", b"x")
    mounted.remount()
    swift.reset_requests()
    (mounted.path / "implied" / "file").unlink()
    wait_until(lambda: keys(connection, container) == ["implied"])
    assert (mounted.path / "implied").is_dir()
    sent = [one.method for one in changes(swift)]
    assert sent[0] == "PUT"
    assert len(sent) == 2


def test_what_cannot_be_deleted_is_shown_again(
    mounted: Mount, swift: SwiftServer, connection: Connection, container: str
) -> None:
    for name in ("one", "two"):
        (mounted.path / name).write_bytes(name.encode())
    mounted.remount()
    assert len(list(mounted.path.iterdir())) == 2
    mounted.expected.append("/one: could not be deleted")
    mounted.expected.append("/two: could not be deleted")
    mounted.expected.append("2 changes were refused and given up")
    mounted.exit_code = 1
    swift.inject(Fault("POST", BULK, status=403))
    swift.inject(Fault("DELETE", f"/{container}/", status=403))
    (mounted.path / "one").unlink()
    (mounted.path / "two").unlink()
    wait_until(lambda: len(mounted_warnings(mounted)) == 2)
    assert (mounted.path / "one").read_bytes() == b"one"
    assert (mounted.path / "two").read_bytes() == b"two"
    assert sorted(line.split(":")[1].strip() for line in mounted_warnings(mounted)) == ["/one", "/two"]
    assert keys(connection, container) == ["one", "two"]


def mounted_warnings(mount: Mount) -> list[str]:
    return [line for line in mount.log.read_text().splitlines() if line.startswith("WARNING:")]


def test_unmounting_sends_pending_deletions(
    mounted: Mount, swift: SwiftServer, connection: Connection, container: str
) -> None:
    make_tree(mounted.path / "tree")
    mounted.remount()
    run("rm", "-rf", mounted.path / "tree")
    mounted.stop()
    assert keys(connection, container) == []


@pytest.mark.mount_options("settle=60")
def test_deletions_pending_at_a_kill_are_sent_by_the_next_mount(
    mounted: Mount, swift: SwiftServer, connection: Connection, container: str
) -> None:
    make_tree(mounted.path / "tree")
    mounted.remount()
    before = keys(connection, container)
    run("rm", "-rf", mounted.path / "tree")
    process = mounted.take_process()
    process.kill()
    process.wait()
    run("fusermount", "-uz", mounted.path)
    assert keys(connection, container) == before
    mounted.start()
    assert not (mounted.path / "tree").exists()
    mounted.stop()
    assert keys(connection, container) == []


@pytest.mark.mount_options("sync")
def test_with_sync_a_deletion_is_immediate_and_its_error_is_returned(
    mounted: Mount, swift: SwiftServer, connection: Connection, container: str
) -> None:
    for name in ("one", "two"):
        (mounted.path / name).write_bytes(b"x")
    (mounted.path / "folder").mkdir()
    swift.reset_requests()
    (mounted.path / "one").unlink()
    (mounted.path / "folder").rmdir()
    assert keys(connection, container) == ["two"]
    assert [one.path for one in changes(swift)] == [
        path_of(swift, container, "one"),
        path_of(swift, container, "folder"),
    ]
    mounted.expected.append("unlink '/two': EACCES")
    swift.inject(Fault("DELETE", "/two", status=403))
    with pytest.raises(OSError, match="two") as caught:
        (mounted.path / "two").unlink()
    assert caught.value.errno == errno.EACCES
    assert os.path.exists(mounted.path / "two")  # noqa: PTH110  the kernel's answer, not a cached one
