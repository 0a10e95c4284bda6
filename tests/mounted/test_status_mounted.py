"""`swiftfs status`: all that an administrator sees of running mounts, and no secret.

These run in a real mount.
"""

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from swiftclient import Connection

from support.commands import one_line, swiftfs
from support.deadlines import within
from support.jobs import wait_until
from support.leaks import mount_lines
from support.mount_states import MIB, shown
from support.mounts import Mount, clean_environment
from support.other_users import as_root, refused_to_nobody
from swiftfs import __version__
from swiftfs.cli.status import look
from swiftfs.control.client import mountpoints, read_state, state_of
from swiftfs.demo.server import Fault, SwiftServer


def status(mount: Mount) -> dict[str, Any]:
    result = swiftfs("status", mount.path, "--json")
    assert result.returncode == 0, result
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.mark.mount_options("segment_size=1M,uploads=1,settle=0.1")
def test_the_progress_of_a_large_file_is_shown(mounted: Mount, swift: SwiftServer, container: str) -> None:
    swift.inject(Fault("PUT", f"{container}_segments/", delay=0.3))
    (mounted.path / "film").write_bytes(os.urandom(6 * MIB))
    seen: set[int] = set()

    def upload() -> bool:
        changes = read_state(mounted.path).report.changes
        seen.update(change.sent for change in changes if change.state == "running")
        return not changes

    wait_until(upload)
    assert max(seen) <= 6 * MIB
    assert len(seen) > 2, "it was not seen to move"
    found = status(mounted)
    assert found["requests"]["put"]["bytes_sent"] == 6 * MIB
    assert found["server"]["software"].startswith("Swift 2.")
    assert found["limits"]["listing"] == 10_000


@pytest.mark.mount_options("settle=0.1")
def test_the_progress_of_a_small_file_is_shown(mounted: Mount, swift: SwiftServer, container: str) -> None:
    # The answer is held back, and then it is another one: the file is sent once more.
    swift.inject(Fault("PUT", f"/{container}/photo", times=1, after=True, delay=60.0, status=503))
    (mounted.path / "photo").write_bytes(bytes(3 * MIB))

    def is_sent() -> bool:
        state = read_state(mounted.path)
        if [one.sent for one in state.report.changes] != [3 * MIB]:
            return False
        assert re.search(r"━ 100% 3\.1 MB of 3\.1 MB +/photo\n", shown(state))
        return True

    def is_stored() -> bool:
        swift.end_delays()  # again: Swift may still be at work, and the delay comes after that
        return not read_state(mounted.path).report.total

    wait_until(is_sent)
    wait_until(is_stored)


@pytest.mark.mount_options("segment_size=1M,settle=0.1")
def test_a_file_that_is_being_written_is_shown(mounted: Mount) -> None:
    with (mounted.path / "tape").open("wb", buffering=0) as file:
        file.write(os.urandom(3 * MIB))

        def is_sent() -> bool:
            file.write(b"x")  # a segment is uploaded at a write after its write delay
            (writing,) = read_state(mounted.path).writing
            assert (writing.path, writing.bytes) == ("/tape", file.tell())
            return writing.sent == 3 * MIB

        wait_until(is_sent)
        assert re.search(r" 99% 3\.1 MB of 3\.1 MB, being written +/tape\n", shown(read_state(mounted.path)))
    assert read_state(mounted.path).writing == ()


def test_status_describes_the_mount(mounted: Mount) -> None:
    (mounted.path / "file").write_text("text")
    found = status(mounted)
    assert found["version"] == __version__
    assert (found["source"], found["mountpoint"]) == (mounted.source, str(mounted.path))
    assert (found["pid"], found["cache_folder"]) == (mounted.pid, str(mounted.cache))
    assert found["since"] <= found["now"] < found["since"] + 60
    assert found["read_only"] is False
    assert mounted.swift.auth_url in found["server"]["account"]
    assert found["cost"] is None
    assert found["requests"]["put"] == {
        "requests": 1,
        "failures": 0,
        "bytes_sent": 4,
        "bytes_received": 0,
        "seconds": found["requests"]["put"]["seconds"],
    }
    output = swiftfs("status", mounted.path).stdout
    assert f"{mounted.source} on {mounted.path}" in output
    assert "nothing is waiting" in output


def test_status_uses_the_prices_of_the_option_s_file(
    swift: SwiftServer, connection: Connection, container: str, tmp_path: Path
) -> None:
    prices = tmp_path / "prices.toml"
    prices.write_text('currency = "EUR"\n[requests]\nput = 5000\n[traffic]\nsent = 1000_000_000\n')
    with Mount(swift, container, tmp_path, f"prices={prices}") as mount:
        (mount.path / "file").write_text("text")
        assert status(mount)["cost"] == {"currency": "EUR", "requests": 5.0, "traffic": 4.0, "total": 9.0}
        assert "; about 9.00 EUR" in " ".join(swiftfs("status", mount.path).stdout.split())
    prices.write_text('currency = "EUR"\n[requests]\nputt = 5')
    line = one_line(
        swiftfs("mount", container, mount.path, "--prices", prices, environment=swift.environment())
    )
    assert (
        line == f"swiftfs: option prices={prices}: requests.putt is not a known price; did you mean 'put'?\n"
    )


def test_status_mentions_a_damaged_journal(mounted: Mount) -> None:
    mounted.stop()
    mounted.expected.append("set aside")
    (mounted.cache / "journal.sqlite").write_bytes(b"no journal" * 1000)
    mounted.start()
    assert [name[:15] for name in status(mounted)["set_aside"]][:1] == ["journal.damaged"]
    output = " ".join(swiftfs("status", mounted.path).stdout.split())
    assert f"swiftfs recover {mounted.cache}" in output


def status_of_all(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `swiftfs status` as if only the mounts below `folder` existed: others may hang."""
    ours = [line for line in mount_lines() if str(folder) in line]
    (folder / "mounts").write_text("".join(ours))
    return status_by(folder / "mounts", *words)


def status_by(mounts: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `swiftfs status` with another table of mounts."""
    code = (
        "import sys; from pathlib import Path; from swiftfs.control import client; "
        "from swiftfs.cli.app import main; client.OWN_TABLE = Path(sys.argv[1]); "
        "main(['status', *sys.argv[2:]])"
    )
    command = [sys.executable, "-c", code, str(mounts), *words]
    environment = {**clean_environment(), "COLUMNS": "200"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_without_a_mountpoint_all_mounts_are_shown(
    mounted: Mount, swift: SwiftServer, connection: Connection, container: str, tmp_path: Path
) -> None:
    with Mount(swift, container, tmp_path / "한 글\ttab\u2028\\") as other:
        assert {mounted.path, other.path} <= set(mountpoints())
        found = json.loads(status_of_all(tmp_path, "--json").stdout)
        assert {str(mounted.path), str(other.path)} == {one["mountpoint"] for one in found}
        output = status_of_all(tmp_path).stdout
        assert f"{container} on {mounted.path}" in output


def test_status_shows_a_dead_mount_beside_the_others(
    mounted: Mount, swift: SwiftServer, connection: Connection, container: str, tmp_path: Path
) -> None:
    other = Mount(swift, container, tmp_path / "other")
    other.exit_code = -signal.SIGKILL
    with other:
        os.kill(other.pid, signal.SIGKILL)
        line = f"swiftfs: {other.path}: its process has died: mount it again to continue\n"

        def is_told() -> bool:
            result = status_of_all(tmp_path)
            assert result.returncode == 0
            assert f"{container} on {mounted.path}" in result.stdout
            return line in result.stderr

        wait_until(is_told)
        assert one_line(swiftfs("status", other.path)).startswith(line)


def test_mounts_that_have_gone_are_passed_over(mounted: Mount, tmp_path: Path) -> None:
    """They were unmounted between the reading of the table and the look at them."""
    ours = next(line for line in mount_lines() if str(mounted.path) in line)
    (tmp_path / "left").mkdir()
    gone = [ours.replace(str(mounted.path), str(tmp_path / name)) for name in ("left", "gone", "mounts/x")]
    (tmp_path / "mounts").write_text("".join([*gone, ours]))
    result = status_by(tmp_path / "mounts")
    assert (result.returncode, result.stderr) == (0, "")
    assert f"{mounted.source} on {mounted.path}\n" in result.stdout
    (tmp_path / "mounts").write_text("".join(gone))
    assert one_line(status_by(tmp_path / "mounts")) == "swiftfs: no swiftfs mounts on this machine\n"


@as_root
@pytest.mark.reachable
def test_mounts_of_others_are_counted_but_not_complained_of(mounted: Mount, tmp_path: Path) -> None:
    told = refused_to_nobody(lambda: look(None))
    assert re.fullmatch(r"no swiftfs mounts of yours on this machine, but \d+ of other users", told), told


@as_root
@pytest.mark.reachable
def test_a_path_in_a_mount_of_others_is_one_in_a_mount(mounted: Mount) -> None:
    for path in (mounted.path, mounted.path / "folder"):
        told = refused_to_nobody(lambda path=path: state_of(path))  # type: ignore[misc]
        assert told.startswith(f"{mounted.path}: only the user who mounted it may do this"), told


def test_what_another_program_reads_has_whole_lines_and_no_padding(mounted: Mount) -> None:
    (mounted.path / ("a long name" * 20)).write_text("text")
    swiftfs("flush", mounted.path)
    output = swiftfs("status", mounted.path, environment={"COLUMNS": "40"}).stdout
    assert [line for line in output.splitlines() if line != line.rstrip()] == []
    cache = next(line for line in output.splitlines() if line.startswith("  cache "))
    assert cache.endswith(f" of it not in Swift yet; {mounted.cache}")
    assert "names a listing, 10,000 names a bulk delete\n" in output


def test_a_mount_point_is_named_alike_by_all_commands(mounted: Mount) -> None:
    """Also if it is given as a relative path, or as the current folder."""
    mounted.flags = ("--ro",)
    mounted.remount()
    for word, folder in ((mounted.path.name, mounted.path.parent), (".", mounted.path)):
        told = swiftfs("flush", word, folder=folder).stdout
        assert told == f"{mounted.path} is mounted read-only and has nothing to store\n"
        assert f"{mounted.source} on {mounted.path}\n" in swiftfs("status", word, folder=folder).stdout
    for command in ("status", "flush", "retry", "umount"):
        line = one_line(swiftfs(command, "cache", folder=mounted.path.parent))
        assert line == f"swiftfs: {mounted.cache} is not a swiftfs mount\n"


def test_what_a_mount_looks_for_at_its_start_is_no_failure(mounted: Mount) -> None:
    """Its write probe deletes an object that does not exist."""
    requests = status(mounted)["requests"]
    assert requests["delete"]["requests"] == 1
    assert [name for name, count in requests.items() if count["failures"]] == []


@pytest.mark.mount_options("segment_size=64M,cache_size=64M")
def test_a_cache_smaller_than_two_segments_is_warned_of(mounted: Mount) -> None:
    warning = "the cache (64M) is smaller than two segments (64M each)"
    mounted.expected.append(warning)
    assert warning in mounted.log.read_text()


def test_status_where_nothing_is_mounted(tmp_path: Path) -> None:
    (tmp_path / "mounts").write_text("30 1 0:1 / / rw - ext4 /dev/x rw\n31 1 0:2 / /a rw - fuse.sshfs x rw\n")
    result = status_by(tmp_path / "mounts")
    assert one_line(result) == "swiftfs: no swiftfs mounts on this machine\n"


@contextmanager
def terminal(*words: object) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[bytes], bool]]]:
    """Run `swiftfs` on a terminal; yield a function that waits until it has printed a text."""
    master, slave = pty.openpty()
    environment = {**clean_environment(), "TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
    process = subprocess.Popen(
        [sys.executable, "-m", "swiftfs", *map(str, words)],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment,
        start_new_session=True,
    )
    os.close(slave)
    os.set_blocking(master, False)
    printed: list[bytes] = []

    def has_printed(text: bytes) -> bool:
        with suppress(OSError):
            printed.append(os.read(master, 65536))
        return text in b"".join(printed)

    try:
        yield process, has_printed
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        os.close(master)


@pytest.mark.mount_options("settle=1000")
def test_watch_follows_until_interrupted(mounted: Mount) -> None:
    with terminal("status", mounted.path, "--watch") as (process, printed):
        wait_until(lambda: printed(b"nothing is waiting"))
        (mounted.path / "file").write_text("x")
        wait_until(lambda: printed(b"1 change waiting"))
        process.send_signal(signal.SIGINT)
        wait_until(lambda: printed(b"\x1b[?25h"))
        assert process.wait(within(30)) == 0
        assert not printed(b"Traceback")
        assert not printed(b"Aborted")


def test_watch_ends_with_the_mount(mounted: Mount) -> None:
    with terminal("status", mounted.path, "--watch") as (process, printed):
        wait_until(lambda: printed(b"nothing is waiting"))
        mounted.stop()
        assert process.wait(within(30)) == 0


def test_watch_as_json_prints_a_line_each_second(mounted: Mount) -> None:
    command = [sys.executable, "-m", "swiftfs", "status", str(mounted.path), "--watch", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=clean_environment()) as process:
        assert process.stdout is not None
        first, second = (json.loads(process.stdout.readline()) for _ in range(2))
        process.send_signal(signal.SIGINT)
        assert process.wait(within(30)) == 0
    assert first["pid"] == second["pid"] == mounted.pid
    assert second["now"] > first["now"]


@pytest.mark.mount_options("debug")
def test_status_shows_no_secret(
    swift: SwiftServer, connection: Connection, container: str, tmp_path: Path
) -> None:
    token = connection.get_auth()[1]
    with Mount(swift, container, tmp_path, "debug") as mount:
        mount.expected.append("DEBUG")
        (mount.path / "file").write_text("x")
        mount.remount()
        assert (mount.path / "file").read_text() == "x"
        folder = mount.path / ".swiftfs"
        output = "".join((folder / name).read_text() for name in ("status.json", "metrics.prom", "log"))
        output += swiftfs("status", mount.path).stdout + os.getxattr(mount.path, "swift.status").decode()
        output += mount.log.read_text()
    assert swift.user in output
    assert f"put {container}/file" in output
    for secret in (swift.key, token, "X-Auth-Token", "X-Auth-Key"):
        assert secret.lower() not in output.lower()
