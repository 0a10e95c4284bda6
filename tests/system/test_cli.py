"""The commands as a user types them: output, exit codes, and what they leave."""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from swiftclient import Connection

from support.commands import one_line, swiftfs
from support.deadlines import within
from support.jobs import wait_until
from support.leaks import mount_lines
from support.mounts import Mount, clean_environment
from swiftfs.attributes import PID_ATTRIBUTE
from swiftfs.demo.server import SwiftServer

HELPER = Path("/sbin/mount.swiftfs")
PROGRAMS = Path(sys.executable).parent


def is_mounted(folder: Path) -> bool:
    return f" {folder} " in "".join(mount_lines())


def process_of(folder: Path) -> int:
    return int(os.getxattr(folder, PID_ATTRIBUTE))


def has_ended(pid: int) -> bool:
    """Return whether a process is gone, or is a zombie that its new parent has not reaped yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A mount point, which is unmounted after the test."""
    folder = tmp_path / "mnt"
    folder.mkdir()
    yield folder
    if is_mounted(folder):
        with contextlib.suppress(OSError):
            os.kill(process_of(folder), signal.SIGKILL)
        subprocess.run(["fusermount", "-uz", str(folder)], check=False)


@pytest.fixture
def background(
    swift: SwiftServer, connection: Connection, container: str, folder: Path, tmp_path: Path
) -> Path:
    """`container` mounted on the folder by a command that has returned."""
    result = swiftfs(
        "mount", container, folder, "--cache-dir", tmp_path / "cache", environment=swift.environment()
    )
    assert result.returncode == 0, result
    assert result.stdout + result.stderr == ""
    return folder


def test_a_background_mount_answers_when_the_command_returns(background: Path) -> None:
    assert is_mounted(background)
    (background / "file").write_text("text")
    assert list(background.iterdir()) == [background / "file"]
    assert Path(f"/proc/{process_of(background)}/cwd").readlink() == Path("/")
    assert swiftfs("umount", background).returncode == 0


def test_a_fault_of_a_background_process_is_in_a_file(background: Path, tmp_path: Path) -> None:
    pid = process_of(background)
    os.kill(pid, signal.SIGBUS)
    wait_until(lambda: has_ended(pid))
    assert "Fatal Python error: Bus error" in (tmp_path / "cache" / "swiftfs.log").read_text()
    subprocess.run(["fusermount", "-uz", str(background)], check=True)


def test_umount_returns_when_the_process_is_gone_and_all_is_stored(
    background: Path, connection: Connection, container: str
) -> None:
    pid = process_of(background)
    (background / "file").write_text("text")
    result = swiftfs("umount", background)
    assert (result.returncode, result.stdout) == (0, "")
    assert not is_mounted(background)
    assert has_ended(pid)
    assert connection.get_object(container, "file")[1] == b"text"


def test_fusermount_ends_the_process_too(background: Path) -> None:
    pid = process_of(background)
    subprocess.run(["fusermount", "-u", str(background)], check=True)
    wait_until(lambda: has_ended(pid))


def test_a_file_open_at_sigterm_is_stored(mounted: Mount, connection: Connection) -> None:
    with (mounted.path / "file").open("wb", buffering=0) as file:
        file.write(b"never closed by its program")
        process = os.pidfd_open(mounted.pid)
        os.kill(mounted.pid, signal.SIGTERM)
        ended, _, _ = select.select([process], [], [], 60)
        os.close(process)
        with contextlib.suppress(OSError):
            file.close()
    assert ended
    mounted.stop()
    assert connection.get_object(mounted.source, "file")[1] == b"never closed by its program"


def test_the_log_goes_to_the_cache_folder_where_there_is_no_syslog(
    background: Path, swift: SwiftServer, tmp_path: Path
) -> None:
    if Path("/dev/log").exists():
        pytest.skip("this machine has a syslog")
    assert (tmp_path / "cache" / "swiftfs.log").exists()
    assert swiftfs("umount", background).returncode == 0


def test_only_the_owner_can_read_what_the_cache_folder_holds(background: Path, tmp_path: Path) -> None:
    """Also if the owner moves a file out of the folder, whose mode keeps others out."""
    (background / "file").write_text("bytes")
    files = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "cache").rglob("*")}
    assert {"journal.reserve", "journal.sqlite", "heads.sqlite", "lock"} <= files.keys()
    assert {name: oct(mode) for name, mode in files.items() if mode & 0o077} == {}
    assert swiftfs("umount", background).returncode == 0


def test_a_second_mount_on_the_same_cache_is_refused(
    background: Path, swift: SwiftServer, container: str, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    result = swiftfs(
        "mount", container, other, "--cache-dir", tmp_path / "cache", environment=swift.environment()
    )
    assert "in use by another mount" in one_line(result)
    assert not is_mounted(other)
    assert swiftfs("umount", background).returncode == 0


def test_umount_reports_what_is_wrong(background: Path, tmp_path: Path) -> None:
    assert "is not a swiftfs mount" in one_line(swiftfs("umount", tmp_path))
    assert "No such file or directory" in one_line(swiftfs("umount", tmp_path / "nothing"))
    with (background / "open").open("w"):
        busy = one_line(swiftfs("umount", background))
    assert "busy" in busy
    assert "has a file or folder open" in busy
    assert is_mounted(background)
    assert swiftfs("umount", background).returncode == 0


def test_a_mount_that_died_is_unmounted_as_was_asked(background: Path) -> None:
    pid = process_of(background)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: has_ended(pid))
    assert one_line(swiftfs("umount", background), 0) == (
        f"swiftfs: {background} is unmounted; its process had died: mount it again to continue "
        "with what is not stored yet\n"
    )
    assert not is_mounted(background)


def test_root_unmounts_without_fusermount(background: Path) -> None:
    """Fusermount needs /etc/mtab, which small containers lack."""
    if os.geteuid():
        pytest.skip("only root may")
    assert swiftfs("umount", background, environment={"PATH": "/nowhere"}).returncode == 0
    assert not is_mounted(background)


def test_a_failed_mount_prints_one_line(swift: SwiftServer, folder: Path, tmp_path: Path) -> None:
    good = swift.environment()
    (tmp_path / "full" / "x").mkdir(parents=True)
    (tmp_path / "file").touch()
    for words, reason in (
        (("mount", "box", tmp_path / "missing"), "No such file"),
        (("mount", "box", tmp_path / "full"), "is not empty"),
        (("mount", "box", tmp_path / "file"), "Not a directory"),
        (("mount", "no-such-container", folder), "no container 'no-such-container'"),
        (("mount", "box", folder, "-o", "tll=3"), "did you mean 'ttl'"),
        (("mount", "box", folder, "-o", "ttl=x"), "expected seconds"),
        (("mount", "/absolute/path", folder), "/absolute/path"),
        (("mount", "box", folder, "--os-cloud", "nowhere"), "nowhere"),
    ):
        result = swiftfs(*words, "--cache-dir", tmp_path / "cache", environment=good)
        assert reason in one_line(result)
    assert not is_mounted(folder)


@pytest.mark.parametrize("flags", [(), ("--foreground",)])
def test_wrong_credentials_are_reported_within_seconds_and_without_the_key(
    swift: SwiftServer, folder: Path, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{nobody.getsockname()[1]}/auth/v1.0"
        for change, expected in (
            ({"ST_KEY": "not-the-key"}, "wrong user or key"),
            ({"ST_AUTH": closed}, "no answer"),
        ):
            credentials = {**swift.environment(), **change}
            began = time.monotonic()
            words = ("mount", "box", folder, "--cache-dir", tmp_path / "cache", *flags)
            line = one_line(swiftfs(*words, environment=credentials))
            assert time.monotonic() - began < within(10)
            assert expected in line
            assert credentials["ST_AUTH"] in line
            assert credentials["ST_USER"] in line
            assert credentials["ST_KEY"] not in line
    assert "no credentials" in one_line(swiftfs("mount", "box", folder, *flags))


def test_an_interrupted_mount_does_not_appear_later(folder: Path, tmp_path: Path) -> None:
    """The login hangs, and the user interrupts it; then nothing may be left."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        auth = f"http://127.0.0.1:{silent.getsockname()[1]}/auth/v1.0"
        command = [sys.executable, "-m", "swiftfs", "mount", "box", str(folder), "--cache-dir"]
        process = subprocess.Popen(
            [*command, str(tmp_path / "cache")],
            env={**clean_environment(), "ST_AUTH": auth, "ST_USER": "u", "ST_KEY": "k"},
            stderr=subprocess.PIPE,
        )
        with process, silent.accept()[0]:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            process.send_signal(signal.SIGINT)
            assert process.wait(within(20)) == 1
    assert len(children) == 1
    assert has_ended(int(children[0]))


def test_a_credentials_file_is_enough(
    swift: SwiftServer, connection: Connection, container: str, folder: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    lines = [f"{name}='{value}'" for name, value in swift.environment().items()]
    secret.write_text("\n".join(["# of the demo", "", "export " + lines[0], *lines[1:]]))
    words = ("mount", container, folder, "--cache-dir", tmp_path / "cache", "-o", f"credentials={secret}")
    secret.chmod(0o640)
    assert "can be read by other users" in one_line(swiftfs(*words))
    secret.chmod(0o600)
    assert swiftfs(*words, environment={"ST_KEY": "of somebody else", "OS_CLOUD": "x"}).returncode == 0
    assert swiftfs("umount", folder).returncode == 0
    secret.write_text("ST_KEY")
    line = one_line(swiftfs(*words))
    assert "line 1" in line
    assert "credentials file" in one_line(swiftfs(*words, "-o", f"credentials={tmp_path / 'missing'}"))


@pytest.fixture
def helper() -> Iterator[None]:
    """`mount.swiftfs` where mount(8) looks for it."""
    if os.getuid() != 0:
        pytest.skip("only root mounts by mount(8)")
    if HELPER.is_symlink() or HELPER.exists():
        pytest.skip(f"{HELPER} is not ours")
    HELPER.symlink_to(PROGRAMS / "mount.swiftfs")
    yield
    HELPER.unlink()


@pytest.mark.usefixtures("helper")
def test_mount_8_finds_the_helper(
    swift: SwiftServer, connection: Connection, container: str, folder: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.touch(0o600)
    secret.write_text("\n".join(f"{name}={value}" for name, value in swift.environment().items()))
    options = f"credentials={secret},cache_dir={tmp_path / 'cache'},_netdev,nofail,ttl=5"
    table = tmp_path / "fstab"
    table.write_text(f"swift:{container} {folder} swiftfs noauto,{options} 0 0\n")
    (tmp_path / container).mkdir()  # mount(8) would take the bare name for this folder

    def mount(*words: object) -> subprocess.CompletedProcess[str]:
        command = ["mount", *map(str, words)]
        return subprocess.run(
            command, cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, check=False
        )

    for words in (
        ("-t", "swiftfs", f"swift:{container}", folder, "-o", options),
        ("-T", table, folder),
    ):
        result = mount(*words)
        assert result.returncode == 0, result
        assert is_mounted(folder)
        subprocess.run(["umount", str(folder)], check=True)
        wait_until(lambda: not cache_is_locked(tmp_path / "cache"))
    refused = mount("-t", "swiftfs", "swift:no-such-box", folder, "-o", options)
    assert "no container 'no-such-box'" in one_line(refused, 32)
    assert "swift:CONTAINER" in one_line(mount("-t", "swiftfs", container, folder, "-o", options), 32)
    assert "bad" in one_line(mount("-f", "-t", "swiftfs", "swift:x", folder, "-o", "bad=1"), 32)
    assert not is_mounted(folder)


def cache_is_locked(cache: Path) -> bool:
    # The process of the mount holds the lock until it ends.
    return subprocess.run(["flock", "-n", str(cache / "lock"), "true"], check=False).returncode != 0


def test_the_help_and_the_version_are_complete() -> None:
    assert swiftfs("--version").stdout.startswith("swiftfs, version ")
    text = swiftfs("mount", "--help").stdout
    for word in ("--foreground", "--cache-dir", "--sync", "--os-cloud", "--segment-size", "--config"):
        assert word in text
