"""Final refusals: the change is given up, and no command reports success for it, in a real mount."""

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from swiftclient import Connection

from support.commands import swiftfs
from support.deadlines import within
from support.harness import copy_live, harness, put, read, write
from support.jobs import wait_until
from support.memory_store import MemoryStore
from support.mounts import Mount
from support.stored_objects import NEVER, body, refuse
from swiftfs.demo.server import Fault, SwiftServer
from swiftfs.errors import AccessDenied
from swiftfs.posix.filesystem import FileSystem


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore("box")


def append(filesystem: FileSystem) -> None:
    handle = filesystem.open("/new", os.O_WRONLY)
    try:
        put(filesystem, handle, 5, b" and more")
        filesystem.flush(handle)
    finally:
        filesystem.release(handle)


def close_unchanged(filesystem: FileSystem) -> None:
    handle = filesystem.open("/new", os.O_RDWR)
    try:
        filesystem.flush(handle)
    finally:
        filesystem.release(handle)


@pytest.mark.parametrize(
    "call", [append, close_unchanged, lambda filesystem: filesystem.chmod("/new", 0o600)]
)
def test_with_sync_a_refused_call_keeps_the_changes_of_an_earlier_mount(
    store: MemoryStore, tmp_path: Path, call: Callable[[FileSystem], None]
) -> None:
    (tmp_path / "cache").mkdir()
    with harness(store, tmp_path / "cache", NEVER) as filesystem:
        write(filesystem, "/new", b"bytes")
        copy_live(tmp_path / "cache", tmp_path / "killed")
        filesystem.unlink("/new")
    refuse(store, "put", AccessDenied)
    with harness(store, tmp_path / "killed", close_error="1 change stays") as filesystem:
        with pytest.raises(AccessDenied):
            call(filesystem)
        assert read(filesystem, "/new").startswith(b"bytes")
    store.hook = None
    with harness(store, tmp_path / "killed") as filesystem:
        assert read(filesystem, "/new").startswith(b"bytes")
    assert body(store, "new").startswith(b"bytes")


@pytest.fixture
def refused(mounted: Mount, swift: SwiftServer, connection: Connection, container: str) -> Mount:
    """A mount with a file, a folder and a file that Swift does not allow to change."""
    for name in ("one", "two"):
        connection.put_object(container, name, name)
    connection.put_object(container, "folder", "", content_type="application/directory")
    mounted.expected += ["could not be", "refused and given up"]
    return mounted


@pytest.mark.matrix(1)
@pytest.mark.mount_options("settle=1000")
@pytest.mark.parametrize("status", [403, 405, 409, 423])
def test_umount_reports_what_was_not_deleted(refused: Mount, swift: SwiftServer, status: int) -> None:
    (refused.path / "one").unlink()
    swift.inject(Fault("DELETE", "/one", status=status))
    refused.exit_code = 1
    result = swiftfs("umount", refused.path)
    assert result.returncode == 1
    assert "1 change was refused and given up; it is /one: " in result.stderr
    assert str(status) in result.stderr
    assert "WARNING: /one: could not be deleted" in refused.log.read_text().replace("WARNING:  ", "WARNING: ")
    process = refused.take_process()
    assert process.wait(within(10)) == 1


@pytest.mark.mount_options("settle=0.1")
def test_flush_reports_once_what_was_not_changed(
    refused: Mount, swift: SwiftServer, connection: Connection, container: str
) -> None:
    swift.inject(Fault("DELETE", f"/{container}/(one|folder)", status=403))
    swift.inject(Fault("POST", f"/{container}/two", status=403))
    before = stat.S_IMODE((refused.path / "two").stat().st_mode)
    (refused.path / "one").unlink()
    (refused.path / "two").chmod(0o600)
    wait_until(lambda: state(refused)["refused"] == 2)
    shown = swiftfs("status", refused.path).stdout
    assert "2 changes refused and given up" in " ".join(shown.split())
    result = swiftfs("flush", refused.path)
    assert result.returncode == 1
    lines = sorted(line.split(" and was given up")[0] for line in result.stderr.splitlines())
    assert lines == ["swiftfs: /one: could not be deleted", "swiftfs: /two: could not be changed"]
    assert swiftfs("flush", refused.path).returncode == 0
    assert state(refused)["refused"] == 0
    (refused.path / "folder").rmdir()
    assert swiftfs("flush", refused.path).returncode == 1
    # The kernel caches the attributes of the chmod for a second, and the commands may be faster.
    wait_until(lambda: stat.S_IMODE((refused.path / "two").stat().st_mode) == before)
    assert sorted(path.name for path in refused.path.iterdir()) == ["folder", "one", "two"]
    assert sorted(one["name"] for one in connection.get_container(container)[1]) == ["folder", "one", "two"]


@pytest.mark.mount_options("settle=0.1")
def test_flush_fails_after_a_deletion_that_was_refused(
    refused: Mount, swift: SwiftServer, container: str
) -> None:
    swift.inject(Fault("DELETE", f"/{container}/one", status=403))
    (refused.path / "one").unlink()
    wait_until(lambda: any(request.method == "DELETE" for request in swift.requests()))
    result = swiftfs("flush", refused.path)
    assert result.returncode == 1
    assert "swiftfs: /one: could not be deleted" in result.stderr
    assert (refused.path / "one").read_text() == "one"


def state(mount: Mount) -> dict[str, int]:
    found: dict[str, int] = json.loads(swiftfs("status", "--json", mount.path).stdout)
    return found
