"""The systemd unit, and how a mount notifies systemd."""

import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from support.notify_socket import notify_socket
from swiftfs.config.credentials import read_credentials
from swiftfs.config.sources import build_options, from_environment
from swiftfs.errors import command_line
from swiftfs.posix.filesystem import FileSystem
from swiftfs.service import daemon
from swiftfs.service.daemon import notify
from swiftfs.service.serving import _drain

UNITS = Path(__file__).parents[2] / "systemd"
UNIT = UNITS / "swiftfs@.service"


@pytest.fixture
def channel(tmp_path: Path) -> Iterator[socket.socket]:
    """A notification socket like systemd's."""
    with notify_socket(tmp_path / "notify") as channel:
        yield channel


def example() -> dict[str, str]:
    lines = (UNITS / "example.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


@pytest.mark.parametrize("name", ["swiftfs@.service", "user/swiftfs@.service"])
def test_a_unit_uses_the_variables_of_the_example_and_no_secret_of_it(name: str) -> None:
    text = (UNITS / name).read_text()
    used = set(re.findall(r"\$\{(SWIFTFS_\w+)\}", text))
    assert used == {"SWIFTFS_SOURCE", "SWIFTFS_MOUNTPOINT"} <= example().keys()
    assert build_options([from_environment(example())]).allow_other
    assert not any(variable.startswith(("OS_", "ST_")) for variable in example())
    assert "credentials" in text


def test_the_unit_leaves_the_mount_visible() -> None:
    """systemd.exec(5) names the settings that give a service a mount namespace."""
    namespaced = (
        "PrivateMounts|PrivateTmp|PrivateDevices|ProtectSystem|ProtectHome|ProtectKernel|ReadWritePaths"
    )
    assert not re.search(rf"^({namespaced})", UNIT.read_text(), re.MULTILINE)


def test_the_credentials_of_the_example_are_read(tmp_path: Path) -> None:
    copy = tmp_path / "credentials"
    copy.touch(0o600)
    copy.write_text((UNITS / "example.credentials").read_text())
    assert read_credentials(copy)["OS_USERNAME"] == "alice"


def test_a_drain_reports_the_number_of_pending_changes(
    channel: socket.socket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Draining:
        def close(self, tell: Callable[[int], None], *_: object) -> None:
            tell(3)

    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    _drain(cast(FileSystem, Draining()), tmp_path, "")
    assert channel.recv(100) == b"STATUS=unmounted, still to be stored: 3 changes"


def test_notify_writes_to_files_and_abstract_sockets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for address in (str(tmp_path / "s"), f"\0swiftfs-test-{os.getpid()}"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.bind(address)
            monkeypatch.setenv("NOTIFY_SOCKET", address.replace("\0", "@"))
            notify("READY=1")
            assert channel.recv(100) == b"READY=1"


@pytest.mark.usefixtures("channel")
def test_a_report_that_nobody_reads_does_not_stop_the_mount(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(daemon, "NOTIFY_SECONDS", 0.01)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    longest = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text())
    for number in range(longest + 5):
        notify(f"STATUS={number}")


def test_notify_without_a_listener_does_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    notify("READY=1")
    assert not (tmp_path / "nobody").exists()


def test_a_command_in_a_message_is_one_line_that_a_shell_reads() -> None:
    operands = ("a b", "two\nlines", "it's \\ \x1b")
    line = command_line("mount --create", *operands)
    assert line.isprintable()
    script = line.strip('"').replace("swiftfs mount --create", r"printf '%s\0'")
    said = subprocess.run(["bash", "-c", script], capture_output=True, check=True).stdout
    assert tuple(said.decode().split("\0")[:-1]) == operands
