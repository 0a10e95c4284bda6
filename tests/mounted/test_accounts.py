"""Programs in the mount of a whole account, whose top folders are containers."""

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest
from swiftclient import Connection

from support.jobs import path_of
from support.mounts import Mount, run
from swiftfs.demo.server import SwiftServer


@pytest.fixture
def account(swift: SwiftServer, connection: Connection, container: str, tmp_path: Path) -> Iterator[Mount]:
    """The whole account, mounted, with `container` in it."""
    with Mount(swift, "/", tmp_path, "ttl=0") as mount:
        yield mount


def containers(connection: Connection) -> list[str]:
    return [row["name"] for row in connection.get_account(full_listing=True)[1]]


def test_containers_are_made_and_removed(account: Mount, connection: Connection, container: str) -> None:
    made = account.path / f"{container}-made"
    made.mkdir()
    assert made.name in containers(connection)
    assert made.is_dir()
    assert made.name in [path.name for path in account.path.iterdir()]
    (made / "file").write_bytes(b"body")
    assert connection.get_object(made.name, "file")[1] == b"body"
    with pytest.raises(OSError, match=made.name) as caught:
        made.rmdir()
    assert caught.value.errno == errno.ENOTEMPTY
    (made / "file").unlink()
    made.rmdir()
    assert made.name not in containers(connection)
    assert not made.exists()


def test_a_container_that_another_client_fills_is_not_removed(
    account: Mount, swift: SwiftServer, connection: Connection, container: str
) -> None:
    """Swift's 409 decides, whatever the mount has cached."""
    assert list((account.path / container).iterdir()) == []
    connection.put_object(container, "late", b"x")
    with pytest.raises(OSError, match=container) as caught:
        (account.path / container).rmdir()
    assert caught.value.errno == errno.ENOTEMPTY
    assert (account.path / container / "late").read_bytes() == b"x"


def test_files_cannot_lie_beside_containers(account: Mount) -> None:
    with pytest.raises(PermissionError):
        (account.path / "file").touch()
    with pytest.raises(PermissionError):
        (account.path / "link").symlink_to("target")


def test_a_file_moves_to_another_container_by_copy(
    account: Mount, swift: SwiftServer, connection: Connection, container: str
) -> None:
    there = account.path / f"{container}-there"
    there.mkdir()
    (account.path / container / "file").write_bytes(b"moving")
    swift.reset_requests()
    (account.path / container / "file").rename(there / "moved")
    sent = [(one.method, one.path) for one in swift.requests() if one.method in ("COPY", "PUT", "DELETE")]
    source = path_of(swift, container, "file")
    assert sent == [("COPY", source), ("DELETE", source)]
    assert (there / "moved").read_bytes() == b"moving"
    assert connection.get_object(there.name, "moved")[1] == b"moving"


def test_a_container_is_walked_and_removed_with_all_in_it(
    account: Mount, connection: Connection, container: str
) -> None:
    for number in range(3):
        connection.put_object(container, f"folder/sub{number}/file", b"x")
    found = run("find", account.path / container, "-type", "f").splitlines()
    assert sorted(found) == [str(account.path / container / "folder" / f"sub{n}" / "file") for n in range(3)]
    run("rm", "-rf", account.path / container)
    assert container not in containers(connection)
