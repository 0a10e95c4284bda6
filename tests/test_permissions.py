"""Owners and modes: the defaults that options set, and the checks that `default_permissions` asks for."""

import os
import stat
import subprocess
from pathlib import Path

import pytest
from mounts import Mount
from swiftclient import Connection

NOBODY = 65534

as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root may act for other users")


def nobody(*words: str) -> int:
    """Run a command as a user without rights; return its exit code."""
    return subprocess.run(words, user=NOBODY, group=NOBODY, capture_output=True, check=False).returncode


def reachable(path: Path) -> None:
    """Let every user pass the folders above `path`, which pytest makes for its own user."""
    for folder in path.parents:
        if folder.owner() == path.owner() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o011)


@pytest.mark.mount_options("uid=1234,gid=4321,umask=027")
def test_what_carries_no_owner_and_mode_gets_those_of_the_options(
    mounted: Mount, connection: Connection, container: str
) -> None:
    connection.put_object(container, "implied/file", b"x")
    for name, mode in (("implied", stat.S_IFDIR | 0o750), ("implied/file", stat.S_IFREG | 0o640)):
        status = (mounted.path / name).stat()
        assert (status.st_mode, status.st_uid, status.st_gid) == (mode, 1234, 4321)


def test_what_carries_them_keeps_them(mounted: Mount) -> None:
    path = mounted.path / "file"
    path.write_text("x")
    path.chmod(0o604)
    if os.getuid() == 0:
        os.chown(path, 77, 88)
    before = path.stat()
    mounted.remount()
    after = path.stat()
    assert stat.S_IMODE(after.st_mode) == 0o604
    assert (after.st_uid, after.st_gid) == (before.st_uid, before.st_gid)


@as_root
@pytest.mark.mount_options("allow_other,default_permissions")
def test_the_kernel_checks_modes_where_it_is_asked_to(mounted: Mount) -> None:
    reachable(mounted.path)
    private, public = mounted.path / "private", mounted.path / "public"
    private.write_text("mine")
    private.chmod(0o600)
    public.write_text("all's")
    public.chmod(0o644)
    assert nobody("cat", str(public)) == 0
    assert nobody("cat", str(private)) != 0
    assert nobody("cp", "/dev/null", str(public)) != 0


@as_root
def test_other_users_are_kept_out_unless_allowed(mounted: Mount) -> None:
    reachable(mounted.path)
    (mounted.path / "file").write_text("x")
    (mounted.path / "file").chmod(0o644)
    assert nobody("cat", str(mounted.path / "file")) != 0


@pytest.mark.mount_options("ro")
def test_a_read_only_mount_refuses_changes(mounted: Mount, connection: Connection, container: str) -> None:
    connection.put_object(container, "file", b"there")
    assert (mounted.path / "file").read_bytes() == b"there"
    for change in (
        lambda: (mounted.path / "new").write_text("x"),
        (mounted.path / "file").unlink,
        lambda: (mounted.path / "file").chmod(0o600),
        (mounted.path / "folder").mkdir,
    ):
        with pytest.raises(OSError, match="Read-only file system"):
            change()
