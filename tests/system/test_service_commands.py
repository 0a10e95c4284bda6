"""The systemd unit, and how a mount notifies systemd, on a real Swift."""

import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from swiftclient import Connection

from support.deadlines import within
from support.mounts import Mount, clean_environment
from support.notify_socket import notify_socket
from swiftfs.demo.server import SwiftServer

UNITS = Path(__file__).parents[2] / "systemd"
UNIT = UNITS / "swiftfs@.service"


@pytest.fixture
def channel(tmp_path: Path) -> Iterator[socket.socket]:
    """A notification socket like systemd's."""
    with notify_socket(tmp_path / "notify") as channel:
        yield channel


def setting(name: str, unit: Path = UNIT) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", unit.read_text(), re.MULTILINE)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
@pytest.mark.parametrize(
    "name",
    [
        "swiftfs@.service",
        "user/swiftfs@.service",
        "srv-photos.mount",
        "swiftfs-check@.service",
        "swiftfs-check@.timer",
    ],
)
def test_systemd_finds_no_error_in_the_units(tmp_path: Path, name: str) -> None:
    copy = tmp_path / Path(name).name
    program = str(Path(sys.executable).with_name("swiftfs"))
    text = (UNITS / name).read_text()
    copy.write_text(text.replace("/usr/local/bin/swiftfs", program).replace("%h/.local/bin/swiftfs", program))
    if name.endswith(".timer"):  # the unit that it starts
        shutil.copy(UNITS / name.replace(".timer", ".service"), tmp_path)
    command = ["systemd-analyze", "verify", "--man=no", *(["--user"] if "user/" in name else []), str(copy)]
    # Not `tmp_path`: the sockets of other packages' units are there, and their paths may have 107 bytes.
    with tempfile.TemporaryDirectory(dir="/tmp") as runtime:
        environment = {**os.environ, "XDG_RUNTIME_DIR": runtime}
        result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


def unit_command(name: str, source: str, folder: Path) -> list[str]:
    """Return a command of the unit for a mount on `mnt` in `folder`."""
    values = {
        "SWIFTFS_SOURCE": source,
        "SWIFTFS_MOUNTPOINT": str(folder / "mnt"),
        "CACHE_DIRECTORY": str(folder / "cache"),
    }
    (command,) = setting(name)
    program, *rest = (re.sub(r"\$\{(\w+)\}", lambda m: values[m[1]], word) for word in command.split())
    return [str(Path(sys.executable).with_name(Path(program).name)), *rest]


def test_an_offline_service_starts_before_its_server(
    server: SwiftServer, tmp_path: Path, channel: socket.socket
) -> None:
    """Boot order does not matter once it was mounted."""
    folder = tmp_path / "mnt"
    folder.mkdir()
    environment = {**clean_environment(), **server.environment(), "NOTIFY_SOCKET": str(tmp_path / "notify")}
    environment["SWIFTFS_OPTIONS"] = "offline=yes"
    start, stop = (unit_command(name, "box", tmp_path) for name in ("ExecStart", "ExecStop"))
    for is_first in (True, False):
        if not is_first:
            server.kill()
        with subprocess.Popen(start, env=environment, stderr=subprocess.PIPE, text=True) as service:
            assert channel.recv(100) == b"READY=1"
            if is_first:
                (folder / "file").write_text("text")
            assert [path.name for path in folder.iterdir()] == ["file"]
            assert (folder / "file").read_text() == "text"
            subprocess.run(stop, env=environment, check=True)
            assert service.wait(within(60)) == 0
        assert channel.recv(100) == b"STOPPING=1"
        channel.setblocking(False)
        while select.select([channel], [], [], 0)[0]:
            channel.recv(100)
        channel.settimeout(60)


def test_the_unit_s_commands_mount_and_drain(
    swift: SwiftServer,
    connection: Connection,
    container: str,
    tmp_path: Path,
    channel: socket.socket,
) -> None:
    """Run ExecStart and ExecStop with the example's variables, as systemd would."""
    folder = tmp_path / "mnt"
    folder.mkdir()
    environment = {**clean_environment(), **swift.environment(), "NOTIFY_SOCKET": str(tmp_path / "notify")}
    start, stop = (unit_command(name, container, tmp_path) for name in ("ExecStart", "ExecStop"))
    with subprocess.Popen(start, env=environment, stderr=subprocess.PIPE, text=True) as service:
        assert channel.recv(100) == b"READY=1"
        (folder / "file").write_text("text")
        subprocess.run(stop, env=environment, check=True)
        assert service.poll() == 0
        assert channel.recv(100) == b"STOPPING=1"
    assert connection.get_object(container, "file")[1] == b"text"


def test_the_check_s_command_finds_what_is_missing(
    swift: SwiftServer, connection: Connection, container: str, tmp_path: Path
) -> None:
    """Run ExecStart with the variables of an environment file, as systemd would."""
    connection.put_object(container, "file", b"text")
    (tmp_path / "file").write_text("text")
    (command,) = setting("ExecStart", UNITS / "swiftfs-check@.service")
    words = command.replace("${SWIFTFS_SOURCE}", container)
    words = words.replace("$SWIFTFS_CHECK", f"--against {tmp_path} --no-times")
    program = str(Path(sys.executable).with_name("swiftfs"))
    environment = {**clean_environment(), **swift.environment(), "SWIFTFS_OPTIONS": "allow_other"}
    environment["SWIFTFS_CHECK"] = f"--against {tmp_path}"

    def code() -> int:
        return subprocess.run([program, *words.split()[1:]], env=environment, check=False).returncode

    assert code() == 0
    connection.delete_object(container, "file")
    assert code() == 1


def test_sigterm_drains_and_the_service_ends_well(mounted: Mount, connection: Connection) -> None:
    (mounted.path / "file").write_text("text")
    process = os.pidfd_open(mounted.pid)
    os.kill(mounted.pid, signal.SIGTERM)
    ended, _, _ = select.select([process], [], [], 60)
    os.close(process)
    assert ended
    mounted.stop()
    assert connection.get_object(mounted.source, "file")[1] == b"text"


def test_a_failed_start_never_notifies_ready(
    swift: SwiftServer, tmp_path: Path, channel: socket.socket
) -> None:
    folder = tmp_path / "mnt"
    folder.mkdir()
    command = [sys.executable, "-m", "swiftfs", "mount", "no-such-box", str(folder), "--foreground"]
    environment = {**clean_environment(), **swift.environment(), "NOTIFY_SOCKET": str(tmp_path / "notify")}
    result = subprocess.run(
        [*command, "--cache-dir", str(tmp_path / "cache")], env=environment, capture_output=True, check=False
    )
    assert result.returncode == 1
    channel.settimeout(0)
    said = []
    while True:
        try:
            said.append(channel.recv(100))
        except BlockingIOError:
            break
    assert b"READY=1" not in said
