"""Unmounting a mount that another mount namespace, or another mount point, still holds."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from swiftclient import Connection

from support.commands import swiftfs
from support.deadlines import within
from support.jobs import wait_until
from support.mounts import Mount, run
from swiftfs.control.mount_table import find_holders
from swiftfs.control.unmount import Drain
from swiftfs.demo.server import Fault, SwiftServer

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root may make mount namespaces")

HELPER = "from swiftfs.cli.mount_helper import unmount_main; unmount_main()"


WITH_ONE = """
awk '/ - fuse.swiftfs / && $5 != mine { print $5 }' mine="$0" /proc/self/mountinfo | xargs -r umount -l
exec "$@"
"""
"""Run in a new namespace: other workers' mounts are not held there but for some milliseconds."""


def in_namespace(mount: Mount, *words: str) -> list[str]:
    """Return a command that runs `words` in a mount namespace with a copy of one swiftfs mount."""
    return ["unshare", "-m", "sh", "-c", WITH_ONE, str(mount.path), *words]


@contextmanager
def namespace(mount: Mount) -> Iterator[int]:
    """Keep a mount namespace with a copy of a mount; yield the process in it."""
    before = Path("/proc/self/ns/mnt").readlink()
    with subprocess.Popen(in_namespace(mount, "sleep", "1000")) as process:
        try:
            wait_until(lambda: _is_in_place(process.pid, before))
            yield process.pid
        finally:
            process.kill()


def _is_in_place(pid: int, outside: Path) -> bool:
    with suppress(OSError):
        folder = Path("/proc") / str(pid)
        return (folder / "ns" / "mnt").readlink() != outside and (folder / "comm").read_text() == "sleep\n"
    return False


def ends(mount: Mount) -> None:
    """Wait until the process of an unmounted mount has ended; assert that it ended well.

    Meanwhile a namespace that another worker's test has made may hold the mount.
    """
    process = mount.take_process()
    assert process.wait(within(120)) == 0, mount.log.read_text()
    assert not mount.noise()


@pytest.mark.mount_options("settle=60")
def test_umount_returns_when_all_is_stored_though_a_namespace_holds_the_mount(
    mounted: Mount, connection: Connection, container: str
) -> None:
    with namespace(mounted) as holder:
        (mounted.path / "file").write_text("text")
        begun = time.monotonic()
        result = swiftfs("umount", mounted.path)
        assert time.monotonic() - begun < within(20)
        assert (result.returncode, result.stdout) == (0, "")
        assert "everything is stored" in result.stderr
        assert f"{mounted.path} in the mount namespace of process {holder} (sleep)" in result.stderr
        assert result.stderr.count("\n") == 1
        assert connection.get_object(container, "file")[1] == b"text"
        assert not mounted.path.is_mount()
        inside = Path(f"/proc/{holder}/root{mounted.path}")
        assert (inside / "file").read_text() == "text"
        (inside / "later").write_text("more")
    ends(mounted)
    assert connection.get_object(container, "later")[1] == b"more"


def test_the_helper_of_umount_reports_it_too(mounted: Mount) -> None:
    with namespace(mounted) as holder:
        command = [sys.executable, "-c", HELPER, str(mounted.path)]
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=within(60))
        assert result.returncode == 0
        assert f"process {holder} (sleep)" in result.stderr
    ends(mounted)


@pytest.mark.mount_options("settle=60")
def test_unstored_changes_are_reported_though_the_mount_is_held(
    mounted: Mount, swift: SwiftServer, connection: Connection, container: str
) -> None:
    mounted.expected += ["403", "is parked, because it cannot be stored"]
    with namespace(mounted):
        (mounted.path / "file").write_text("text")
        swift.inject(Fault("PUT", "/file", status=403))
        result = swiftfs("umount", mounted.path)
        assert result.returncode == 1
        assert "1 change is not stored yet: the first is /file: " in result.stderr
        assert "403" in result.stderr
        swift.clear_faults()
    ends(mounted)
    assert connection.get_object(container, "file")[1] == b"text"


@pytest.mark.mount_options("settle=60")
def test_a_mount_that_is_bound_elsewhere_is_held_too(
    mounted: Mount, connection: Connection, container: str, tmp_path: Path
) -> None:
    other = tmp_path / "other place"
    other.mkdir()
    run("mount", "--bind", mounted.path, other)
    try:
        (mounted.path / "file").write_text("text")
        result = swiftfs("umount", mounted.path)
        assert result.returncode == 0
        assert f"still mounted on {other} in" in result.stderr
        assert connection.get_object(container, "file")[1] == b"text"
    finally:
        run("umount", other)
    ends(mounted)


@pytest.mark.mount_options("settle=60")
def test_changes_are_stored_at_once_after_a_lazy_unmount(
    mounted: Mount, connection: Connection, container: str
) -> None:
    with (mounted.path / "open").open("w"):
        (mounted.path / "file").write_text("text")
        run("fusermount", "-uz", mounted.path)
        wait_until(lambda: "file" in [row["name"] for row in connection.get_container(container)[1]])
        wait_until(lambda: Drain.read(mounted.cache).held)
    ends(mounted)
    assert Drain.read(mounted.cache) == Drain(0)


@pytest.mark.mount_options("settle=60")
def test_a_mount_that_was_moved_is_unmounted_as_any_other(
    mounted: Mount, connection: Connection, container: str, tmp_path: Path
) -> None:
    """Its process knows only its first place, and must not be taken for one that continues."""
    other = tmp_path / "other"
    other.mkdir()
    (mounted.path / "file").write_text("text")
    moved = subprocess.run(["mount", "--move", mounted.path, other], capture_output=True, check=False)
    if moved.returncode:  # below a shared mount nothing can be moved
        pytest.skip(moved.stderr.decode())
    wait_until(lambda: Drain.read(mounted.cache).held)
    result = swiftfs("umount", other)
    assert (result.returncode, result.stderr) == (0, "")
    ends(mounted)
    assert connection.get_object(container, "file")[1] == b"text"


@pytest.mark.mount_options("settle=60")
def test_a_process_in_another_namespace_is_asked_through_that(
    mounted: Mount, connection: Connection, container: str
) -> None:
    """An unmount in a copy of its namespace does not unmount it there."""
    (mounted.path / "file").write_text("text")
    command = in_namespace(mounted, sys.executable, "-m", "swiftfs", "umount", str(mounted.path))
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=within(60))
    assert result.returncode == 0, result
    assert f"still mounted on {mounted.path} in" in result.stderr
    assert connection.get_object(container, "file")[1] == b"text"
    assert mounted.path.is_mount()


def test_an_ordinary_unmount_prints_nothing_and_does_not_wait(mounted: Mount) -> None:
    device = mounted.path.stat().st_dev
    assert [one.mountpoint for one in find_holders(device)] == [mounted.path]
    begun = time.monotonic()
    result = swiftfs("umount", mounted.path)
    assert (result.returncode, result.stderr, result.stdout) == (0, "", "")
    assert time.monotonic() - begun < within(10)
    assert mounted.path not in [one.mountpoint for one in find_holders(device)]
    ends(mounted)
