"""Renaming folders: completely or not at all, also if a request fails or the process dies."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from swiftclient import Connection

from support.found_objects import keys
from support.jobs import methods, path_of, wait_until
from support.mounts import Mount, run, swift_cli
from swiftfs.demo.server import Fault, SwiftServer

DIRECTORY = "application/directory"
OWN_TYPE = "text/plain;mtime=1700000000.000000001;mode=0100640;uid=12;gid=34"
FILES = 15


@pytest.fixture
def account(swift: SwiftServer, connection: Connection, container: str, tmp_path: Path) -> Iterator[Mount]:
    """The whole account, mounted, with `container` and `<container>-2` in it."""
    connection.put_container(f"{container}-2")
    with Mount(swift, "/", tmp_path) as mount:
        yield mount


def bodies(connection: Connection, container: str, prefix: str) -> dict[str, bytes]:
    """Return the bytes of the objects below a prefix, by the rest of their keys."""
    return {
        key.removeprefix(prefix): connection.get_object(container, key)[1]
        for key in keys(connection, container, prefix)
    }


def put_folder(connection: Connection, container: str) -> dict[str, bytes]:
    """Make the folder `old` with a marker, files and two subfolders, one without marker; return its bytes."""
    connection.put_object(container, "old", b"", content_type=DIRECTORY)
    connection.put_object(container, "old/marked", b"", content_type=DIRECTORY)
    for number in range(FILES):
        folder = ("", "marked/", "implied/deep/")[number % 3]
        connection.put_object(
            container, f"old/{folder}file{number:02d}", f"body {number}", content_type=OWN_TYPE
        )
    return bodies(connection, container, "old")


def test_all_kinds_of_things_move(
    mounted: Mount, swift: SwiftServer, connection: Connection, container: str, tmp_path: Path
) -> None:
    put_folder(connection, container)
    body = os.urandom(2_500_000)
    (tmp_path / "large").write_bytes(body)
    swift_cli(swift, "upload", container, "large", "-S", "1000000", "--use-slo", cwd=tmp_path)
    mounted.remount()
    old, new = mounted.path / "old", mounted.path / "new"
    (mounted.path / "large").rename(old / "large")
    os.utime(old / "large", ns=(0, 1))
    (old / "link").symlink_to("marked/file01")
    os.mkfifo(old / "fifo")
    (old / "own").write_bytes(b"own")
    (old / "own").chmod(0o600)
    os.setxattr(old / "own", "user.note", b"kept")
    shown = run("ls", "-lR", "--time-style=+%s.%N", cwd=old)
    segments = keys(connection, f"{container}_segments")
    swift.reset_requests()
    old.rename(new)
    # The manifest of the large file, and the folder again if the copies took longer than its listing lasts.
    assert methods(swift.requests())["GET"] <= 3
    assert not old.exists()
    for _ in range(2):
        assert run("ls", "-lR", "--time-style=+%s.%N", cwd=new) == shown
        assert (new / "large").read_bytes() == body
        assert (new / "link").read_bytes() == b"body 1"
        assert os.getxattr(new / "own", "user.note") == b"kept"
        mounted.remount()
    assert keys(connection, container, "old") == []
    assert keys(connection, f"{container}_segments") == segments
    assert connection.head_object(container, "new/large")["x-static-large-object"] == "True"


def test_a_copy_that_fails_leaves_the_old_state(
    mounted: Mount, swift: SwiftServer, connection: Connection, container: str
) -> None:
    wanted = put_folder(connection, container)
    mounted.remount()
    run("ls", "-lR", mounted.path)
    mounted.expected.append("the folder was not moved")
    swift.inject(Fault("COPY", "/old/marked/file13", status=403))
    with pytest.raises(PermissionError):
        (mounted.path / "old").rename(mounted.path / "new")
    swift.clear_faults()
    assert (mounted.path / "old" / "marked" / "file13").read_bytes() == b"body 13"
    assert not (mounted.path / "new").exists()
    wait_until(lambda: not keys(connection, container, "new"))
    assert bodies(connection, container, "old") == wanted
    swift.inject(Fault("COPY", "/old/marked/file13", reset=True, times=1))
    (mounted.path / "old").rename(mounted.path / "new")
    assert bodies(connection, container, "new") == wanted
    assert keys(connection, container, "old") == []


def sent(swift: SwiftServer, method: str) -> int:
    """Return how many requests of a method have come; not all of them are carried out yet."""
    return methods(swift.requests())[method]


def killed_when(mount: Mount, reached: Callable[[], bool]) -> None:
    """Begin to rename `old` to `new`, and kill the mount when so much is done."""
    mount.swift.reset_requests()
    renaming = os.fork()
    if not renaming:
        try:
            os.rename(mount.path / "old", mount.path / "new")  # noqa: PTH104  a child that only renames
        finally:
            os._exit(0)
    wait_until(reached)
    mount.kill()
    os.waitpid(renaming, 0)


@pytest.mark.matrix(2)
@pytest.mark.parametrize("method", ["COPY", "POST", "after POST"])
def test_a_move_that_was_killed_is_finished_at_the_next_mount(
    mounted: Mount, swift: SwiftServer, connection: Connection, container: str, method: str
) -> None:
    wanted = put_folder(connection, container)
    mounted.remount()
    if method == "COPY":
        swift.inject(Fault("COPY", "/old/implied", delay=1.0))
        killed_when(mounted, lambda: sent(swift, "COPY") >= 10)
    elif method == "POST":
        swift.inject(Fault("POST", "bulk-delete", delay=60, status=503))
        killed_when(mounted, lambda: sent(swift, "POST") >= 1)
    else:
        swift.inject(Fault("POST", "bulk-delete", delay=60, status=503, after=True))
        # Not when the request has come: its names may not have been sent yet.
        killed_when(mounted, lambda: not keys(connection, container, "old"))
    swift.clear_faults()
    mounted.start()
    assert bodies(connection, container, "new") == wanted
    assert keys(connection, container, "old") == []
    assert (mounted.path / "new" / "marked" / "file01").read_bytes() == b"body 1"
    assert not (mounted.path / "old").exists()
    mounted.remount(empty_cache=False)
    assert mounted.log.read_text().count(" is done") == 1


def test_what_a_renamed_folder_can_replace(mounted: Mount, connection: Connection, container: str) -> None:
    put_folder(connection, container)
    connection.put_object(container, "full/child", b"x")
    mounted.remount()
    old = mounted.path / "old"
    (mounted.path / "empty").mkdir()
    (mounted.path / "file").touch()
    for target, number in (
        ("full", errno.ENOTEMPTY),
        ("file", errno.ENOTDIR),
        ("old/marked/x", errno.EINVAL),
    ):
        with pytest.raises(OSError, match=target) as caught:
            old.rename(mounted.path / target)
        assert caught.value.errno == number
    assert len(keys(connection, container, "old/")) == FILES + 1
    old.rename(mounted.path / "empty")
    assert (mounted.path / "empty" / "file00").read_bytes() == b"body 0"
    assert keys(connection, container, "old") == []
    with pytest.raises(IsADirectoryError):
        (mounted.path / "file").rename(mounted.path / "full")


def test_open_files_are_usable_while_their_folder_moves(
    mounted: Mount, connection: Connection, container: str
) -> None:
    put_folder(connection, container)
    mounted.remount()
    with (
        (mounted.path / "old" / "file00").open("rb") as read,
        (mounted.path / "old" / "own").open("w") as own,
    ):
        own.write("before")
        (mounted.path / "old").rename(mounted.path / "new")
        assert read.read() == b"body 0"
        own.write(" and after")
    assert (mounted.path / "new" / "own").read_text() == "before and after"
    mounted.remount()
    assert connection.get_object(container, "new/own")[1] == b"before and after"
    assert keys(connection, container, "old") == []


def test_moves_between_containers(
    account: Mount, swift: SwiftServer, connection: Connection, container: str
) -> None:
    wanted = put_folder(connection, container)
    connection.put_object(container, "file", b"a file")
    there = account.path / f"{container}-2"
    swift.reset_requests()
    (account.path / container / "file").rename(there / "moved")
    copies = [one for one in swift.requests() if one.method == "COPY"]
    assert [one.path for one in copies] == [path_of(swift, container, "file")]
    (account.path / container / "old").rename(there / "new")
    assert not {"GET", "PUT"} & {
        one.method for one in swift.requests() if one.path.startswith(path_of(swift, container, "old/"))
    }
    assert (there / "moved").read_bytes() == b"a file"
    assert bodies(connection, f"{container}-2", "new") == wanted
    account.remount()
    assert keys(connection, container, "old") == []


def test_a_container_moves_by_copies(account: Mount, connection: Connection, container: str) -> None:
    put_folder(connection, container)
    source = account.path / container
    with pytest.raises(OSError, match=container) as caught:
        source.rename(account.path / f"{container}-3")
    assert caught.value.errno == errno.EXDEV
    run("mv", source, account.path / f"{container}-3")
    assert (account.path / f"{container}-3" / "old" / "file00").read_bytes() == b"body 0"
    account.remount()
    assert container not in [row["name"] for row in connection.get_account()[1]]
    assert len(keys(connection, f"{container}-3")) >= FILES


def test_what_was_read_is_not_downloaded_again_under_its_new_name(
    mounted: Mount, swift: SwiftServer, connection: Connection, container: str
) -> None:
    bodies = put_folder(connection, container)
    large = os.urandom(3_000_000)
    connection.put_object(container, "old/large", large, content_type=OWN_TYPE)
    old, new = mounted.path / "old", mounted.path / "new"
    for path in [*old.rglob("*"), old / "large"]:
        assert path.is_dir() or path.read_bytes()
    (old / "large").rename(old / "huge")
    old.rename(new)
    swift.reset_requests()
    assert (new / "huge").read_bytes() == large
    for key, body in bodies.items():
        path = mounted.path / f"new{key}"
        assert path.is_dir() or path.read_bytes() == body
    files = path_of(swift, container, "new")
    assert not [one for one in swift.requests() if one.method == "GET" and one.path.startswith(files)]
