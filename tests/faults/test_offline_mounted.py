"""A real mount that starts without its server, and catches up when it is back."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.commands import swiftfs
from support.deadlines import within
from support.jobs import wait_until
from support.mounts import Mount, swift_cli
from swiftfs.demo.server import Fault, SwiftServer

OPTIONS = "offline=yes,settle=0.1,ttl=1"

AT_ONCE = 3.0
"""Seconds that a call may take that would have to ask the server."""


def is_offline(mount: Mount) -> bool:
    status = json.loads((mount.path / ".swiftfs/status.json").read_text())
    assert status["offline"] == (status["offline_since"] is not None)
    return bool(status["offline"])


@pytest.fixture
def mount(server: SwiftServer, tmp_path: Path) -> Iterator[Mount]:
    """A mount that was stopped, and whose cache folder knows a folder and the bytes of one file."""
    swift_cli(server, "upload", "box", "--object-name", "folder/foreign", __file__)
    mount = Mount(server, "box", tmp_path, OPTIONS)
    mount.expected += ["offline, the server is away", "still offline"]
    with mount:
        (mount.path / "folder/known").write_bytes(b"kept")
        (mount.path / "folder/other").write_bytes(b"not kept")
        assert (mount.path / "folder/known").read_bytes() == b"kept"
        assert [path.name for path in mount.path.iterdir()] == ["folder"]
    yield mount
    mount.stop()


def test_a_mount_starts_without_its_server_and_catches_up(server: SwiftServer, mount: Mount) -> None:
    server.kill()
    mount.start()
    folder = mount.path / "folder"
    assert sorted(path.name for path in folder.iterdir()) == ["foreign", "known", "other"]
    assert (folder / "foreign").stat().st_size == Path(__file__).stat().st_size
    assert (folder / "known").read_bytes() == b"kept"
    began = time.monotonic()
    with pytest.raises(OSError, match="Input/output error"):
        (folder / "foreign").read_bytes()
    assert not (folder / "absent").exists()
    assert os.statvfs(mount.path).f_blocks
    assert time.monotonic() - began < within(AT_ONCE)
    (folder / "written").write_bytes(b"while it was away")
    (folder / "new").mkdir()
    (folder / "other").unlink()
    assert is_offline(mount)
    assert "offline for" in swiftfs("status", mount.path).stdout

    mount.kill()
    mount.start()
    assert (folder / "written").read_bytes() == b"while it was away"
    assert is_offline(mount)

    server.start()
    wait_until(lambda: not is_offline(mount))
    assert swiftfs("flush", mount.path).returncode == 0
    listed = swift_cli(server, "list", "box").split()
    assert listed == ["folder/foreign", "folder/known", "folder/new", "folder/written"]
    assert (folder / "foreign").read_bytes() == Path(__file__).read_bytes()
    said = mount.log.read_text()
    assert said.count("offline, the server is away") == 2  # of two processes
    assert said.count("the server is back, after") == 1


def test_a_running_mount_goes_offline_and_comes_back(server: SwiftServer, mount: Mount) -> None:
    mount.start()
    server.kill()
    mount.expected.append("EIO")  # before it is known to be away
    with pytest.raises(OSError, match="Input/output error"):
        (mount.path / "folder/foreign").read_bytes()
    wait_until(lambda: is_offline(mount))
    began = time.monotonic()
    with pytest.raises(OSError, match="Input/output error"):
        (mount.path / "folder/foreign").read_bytes()
    assert time.monotonic() - began < within(AT_ONCE)
    server.start()
    wait_until(lambda: not is_offline(mount))
    assert (mount.path / "folder/foreign").read_bytes() == Path(__file__).read_bytes()


@pytest.mark.parametrize(
    ("status", "header"), [(200, "Content-Type: text/html"), (302, "Location: http://portal.invalid/login")]
)
def test_a_captive_portal_counts_as_no_server(
    server: SwiftServer, mount: Mount, status: int, header: str
) -> None:
    """Under a running mount, and at the start of one: its answers are not Swift's."""
    mount.start()
    name, _, value = header.partition(": ")
    for path in ("", "/auth"):
        body = "<html>Log in</html>"
        server.inject(Fault(path=path, status=status, headers={name: value}, body=body, is_foreign=True))
    mount.expected += ["EIO", "change stays in"]
    with pytest.raises(OSError, match="Input/output error"):  # before it is known to be away
        (mount.path / "folder/foreign").read_bytes()
    wait_until(lambda: is_offline(mount))

    def goes_on(name: str) -> None:
        folder = mount.path / "folder"
        assert {path.name for path in folder.iterdir()} >= {"foreign", "known", "other"}
        assert (folder / "known").read_bytes() == b"kept"
        (folder / name).write_bytes(b"behind the portal")

    goes_on("written")
    mount.exit_code = 1  # a change stays; the `drain` of five minutes is not waited for
    mount.stop()
    mount.exit_code = 0
    mount.start()
    assert is_offline(mount)
    goes_on("later")
    server.clear_faults()
    wait_until(lambda: not is_offline(mount))
    assert swiftfs("flush", mount.path).returncode == 0
    listed = swift_cli(server, "list", "box").split()
    assert {"folder/written", "folder/later"} <= set(listed)


@pytest.mark.slow
def test_a_container_that_is_gone_costs_nothing(server: SwiftServer, mount: Mount) -> None:
    server.kill()
    mount.start()
    (mount.path / "folder/written").write_bytes(b"while it was away")
    # It must not look before the container is gone.
    os.kill(mount.pid, signal.SIGSTOP)
    try:
        server.start()
        swift_cli(server, "delete", "box")
    finally:
        os.kill(mount.pid, signal.SIGCONT)
    wait_until(lambda: "still offline, and every change is kept: no container 'box'" in mount.log.read_text())
    assert is_offline(mount)
    assert (mount.path / "folder/written").read_bytes() == b"while it was away"
    mount.exit_code = 1
    mount.expected += ["the next mount continues with"]


def fails(mount: Mount, server: SwiftServer) -> str:
    """Mount, which must fail; return what that prints."""
    words = ("mount", "--foreground", "--cache-dir", mount.cache, "-o", OPTIONS, "box", mount.path)
    result = swiftfs(*words, environment=server.environment())
    assert result.returncode == 1
    return result.stderr


def test_without_a_listing_the_mount_fails(server: SwiftServer, tmp_path: Path) -> None:
    mount = Mount(server, "box", tmp_path, OPTIONS)
    server.kill()
    assert "was never listed with this cache folder" in fails(mount, server)
    assert not mount.cache.exists()


def test_a_wrong_key_is_not_offline(server: SwiftServer, mount: Mount) -> None:
    right, server.key = server.key, "wrong"
    try:
        assert "wrong" in fails(mount, server)
    finally:
        server.key = right


def test_a_trash_that_cannot_be_emptied_offline_is_no_news(server: SwiftServer, mount: Mount) -> None:
    server.kill()
    mount.options += ",trash=30,debug"
    mount.start()
    assert is_offline(mount)
    wait_until(lambda: "the trash: the server is away" in mount.log.read_text())
    assert "could not be emptied" not in mount.log.read_text()
