"""`status`, `flush`, `retry`, `export` and `recover`, on real mounts and on cache folders without a mount.

These run in a real mount.
"""

import json
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from swiftclient import Connection

from support.commands import one_line, swiftfs
from support.found_objects import body, keys
from support.jobs import wait_until
from support.mounts import Mount
from swiftfs.demo.server import Fault, SwiftServer

pytestmark = pytest.mark.mount_options("settle=1000")
MTIME = 1_700_000_000_123_456_789


def status(mount: Mount) -> dict[str, Any]:
    """Return what `swiftfs status --json` prints."""
    result = swiftfs("status", mount.path, "--json")
    assert result.returncode == 0, result
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def fill(mount: Mount) -> None:
    """Make all kinds of pending changes: files, one in folders and with a time, and a link."""
    (mount.path / "d" / "e").mkdir(parents=True)
    (mount.path / "d" / "e" / "file").write_bytes(b"deep")
    os.utime(mount.path / "d" / "e" / "file", ns=(MTIME, MTIME))
    (mount.path / "d" / "e" / "file").chmod(0o640)
    (mount.path / "한글 [red]x").write_bytes(bytes(3 * 1024 * 1024))
    (mount.path / "link").symlink_to("d/e/file")


def assert_filled(folder: Path) -> None:
    """Assert that a copy has everything that `fill` made."""
    file = folder / "d" / "e" / "file"
    assert file.read_bytes() == b"deep"
    assert file.stat().st_mtime_ns == MTIME
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert (folder / "한글 [red]x").read_bytes() == bytes(3 * 1024 * 1024)
    assert (folder / "link").readlink() == Path("d/e/file")
    assert sorted(path.name for path in folder.iterdir()) == ["d", "link", "한글 [red]x"]


@pytest.fixture
def refused(mounted: Mount, swift: SwiftServer, container: str) -> Iterator[Mount]:
    """A mount that may not write `no*`, until the test ends."""
    mounted.expected.append("is parked, because it cannot be stored")
    swift.inject(Fault("PUT", f"/{container}/no", status=403))
    yield mounted
    swift.clear_faults()


def test_status_shows_what_waits(mounted: Mount) -> None:
    assert status(mounted)["changes"] == []
    assert "nothing is waiting" in swiftfs("status", mounted.path).stdout
    fill(mounted)
    found = status(mounted)
    assert (found["waiting"], found["parked"], found["bytes"]) == (5, 0, 4 + 3 * 1024 * 1024)
    assert {one["path"]: one["kind"] for one in found["changes"]} == {
        "/d": "PutMarker",
        "/d/e": "PutMarker",
        "/d/e/file": "PutFile",
        "/한글 [red]x": "PutFile",
        "/link": "PutSmall",
    }
    output = swiftfs("status", mounted.path).stdout
    assert "/한글 [red]x" in output
    assert output.endswith("\n5 changes waiting; 3.1 MB of files\n")
    assert "Put" not in output
    assert "swift.status" not in os.listxattr(mounted.path)


def test_flush_returns_when_all_is_in_swift(mounted: Mount, connection: Connection, container: str) -> None:
    fill(mounted)
    assert keys(connection, container) == []
    result = swiftfs("flush", mounted.path)
    assert (result.returncode, result.stdout) == (0, "")
    assert body(connection, container, "d/e/file") == b"deep"
    assert keys(connection, container) == ["d", "d/e", "d/e/file", "link", "한글 [red]x"]
    assert status(mounted)["changes"] == []


def test_flush_names_what_is_refused_and_retry_tries_again(
    refused: Mount, swift: SwiftServer, connection: Connection, container: str
) -> None:
    for name in ("no1", "no2", "yes"):
        (refused.path / name).write_bytes(name.encode())
    result = swiftfs("flush", refused.path)
    assert result.returncode == 1
    lines = sorted(result.stderr.splitlines())
    assert [line.split(": ")[:2] for line in lines] == [["swiftfs", "/no1"], ["swiftfs", "/no2"]]
    assert all("403" in line for line in lines)
    assert keys(connection, container) == ["yes"]
    found = status(refused)
    assert (found["parked"], found["unflushed"]) == (2, 2)
    assert "parked" in swiftfs("status", refused.path).stdout
    assert swiftfs("flush", refused.path).returncode == 1

    swift.clear_faults()
    assert swiftfs("retry", refused.path).returncode == 0
    wait_until(lambda: keys(connection, container) == ["no1", "no2", "yes"])
    wait_until(lambda: not status(refused)["changes"])
    assert swiftfs("flush", refused.path).returncode == 0


@pytest.mark.parametrize("command", ["status", "flush", "retry"])
def test_commands_without_a_mount(command: str, tmp_path: Path) -> None:
    assert one_line(swiftfs(command, tmp_path)) == f"swiftfs: {tmp_path} is not a swiftfs mount\n"
    assert "No such file" in one_line(swiftfs(command, tmp_path / "x"))


def test_export_of_a_live_mount_disturbs_nothing(
    mounted: Mount, connection: Connection, container: str, tmp_path: Path
) -> None:
    fill(mounted)
    result = swiftfs("export", mounted.path, tmp_path / "out")
    assert result.returncode == 0, result
    assert result.stdout == f"copied 2 files, 1 link or special file, 3.1 MB, to {tmp_path / 'out'}\n"
    assert_filled(tmp_path / "out")
    assert status(mounted)["waiting"] == 5
    assert (mounted.path / "d" / "e" / "file").read_bytes() == b"deep"
    assert "is not empty" in one_line(swiftfs("export", mounted.path, tmp_path / "out"))
    assert swiftfs("flush", mounted.path).returncode == 0
    assert body(connection, container, "d/e/file") == b"deep"
    result = swiftfs("export", mounted.path, tmp_path / "again")
    assert result.stdout.startswith("copied 0 files")


def test_export_of_what_a_crash_left(mounted: Mount, tmp_path: Path) -> None:
    fill(mounted)
    os.kill(mounted.pid, signal.SIGKILL)
    wait_until(lambda: "process has died" in one_line(swiftfs("export", mounted.path, tmp_path / "out")))
    assert "process has died" in one_line(swiftfs("status", mounted.path))
    mounted.exit_code = -signal.SIGKILL
    mounted.stop()
    before = {path: path.read_bytes() for path in mounted.cache.rglob("*") if path.is_file()}
    result = swiftfs("export", mounted.cache, tmp_path / "out")
    assert result.returncode == 0, result
    assert_filled(tmp_path / "out")
    assert {path: path.read_bytes() for path in mounted.cache.rglob("*") if path.is_file()} == before
    mounted.exit_code = 0


def test_export_of_what_is_parked_after_its_mount_ended(
    refused: Mount, swift: SwiftServer, tmp_path: Path
) -> None:
    (refused.path / "no").write_bytes(b"data")
    assert swiftfs("flush", refused.path).returncode == 1
    refused.expected.append("stays in")
    refused.exit_code = 1
    refused.stop()
    assert swiftfs("export", refused.cache, tmp_path / "out").returncode == 0
    assert (tmp_path / "out" / "no").read_bytes() == b"data"
    swift.clear_faults()
    refused.exit_code = 0
    refused.start()


def test_export_without_a_mount_and_without_a_cache(tmp_path: Path) -> None:
    for command in ("export", "recover"):
        line = one_line(swiftfs(command, tmp_path, tmp_path / "out"))
        assert line == f"swiftfs: {tmp_path} is neither a swiftfs mount nor a cache folder\n"
        assert not (tmp_path / "out").exists()
