"""SIGTERM: the first stores what is pending, the second ends the process at once and loses nothing."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from swiftclient import Connection

from support import mount_with_signal
from support.deadlines import within
from support.jobs import wait_until
from support.leaks import mount_lines
from support.mounts import Mount, clean_environment
from support.proxies import BLOCK, Proxy
from swiftfs.demo.server import Fault, ServerSettings, SwiftServer
from swiftfs.store.auth import open_account
from swiftfs.store.swift_store import SwiftStore

SIZE = 8 * 2**20

LONG = 60.0
"""Longer than any request of this mount may take, in seconds."""


def test_a_second_sigterm_ends_at_once_and_loses_nothing(
    swift: SwiftServer, connection: Connection, container: str, tmp_path: Path
) -> None:
    mount = Mount(swift, container, tmp_path, "settle=0.1")
    mount.start()
    swift.inject(Fault("PUT", f"/{container}/file", delay=LONG, status=503))
    (mount.path / "file").write_text("text")
    wait_until(lambda: any(one.path.endswith(f"/{container}/file") for one in swift.requests()))
    process = mount.take_process()
    os.kill(process.pid, signal.SIGTERM)
    wait_until(lambda: str(mount.path) not in mounts())
    assert process.poll() is None
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(within(5)) == 1
    assert "a second signal" in mount.log.read_text()
    mount.expected.append("a second signal")
    swift.clear_faults()
    swift.end_delays()
    with mount:
        assert (mount.path / "file").read_text() == "text"
    assert any(one.method == "PUT" and one.status == 201 for one in swift.requests())


def test_a_second_sigterm_ends_a_mount_whose_program_waits(
    swift: SwiftServer, connection: Connection, container: str, tmp_path: Path
) -> None:
    """libfuse waits for the threads that answer programs."""
    mount = Mount(swift, container, tmp_path)
    mount.start()
    (mount.path / "folder").mkdir()
    mount.remount()
    swift.inject(Fault("GET", "prefix=folder", delay=LONG, status=503))
    with subprocess.Popen(["ls", mount.path / "folder"], stderr=subprocess.DEVNULL) as program:
        wait_until(lambda: any("prefix=folder" in one.query for one in swift.requests()))
        process = mount.take_process()
        os.kill(process.pid, signal.SIGTERM)
        wait_until(lambda: received(process.pid))
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(within(5)) == 1
        program.wait(within(10))
    swift.end_delays()
    subprocess.run(["fusermount", "-uz", str(mount.path)], check=False, capture_output=True)


def test_sigterm_ends_a_mount_whose_folder_has_no_end(tmp_path: Path) -> None:
    with SwiftServer(settings=ServerSettings(listing_limit=5)) as server:
        store = SwiftStore(open_account(server.environment()))
        store.create_container("box")
        store.close()
        mount = Mount(server, "box", tmp_path)
        mount.start()
        server.add_rows("box", [f"folder/{number:05d}" for number in range(20_000)], size=1)
        with subprocess.Popen(["ls", mount.path / "folder"], stderr=subprocess.DEVNULL) as program:
            wait_until(lambda: sum("prefix=folder" in one.query for one in server.requests()) > 10)
            process = mount.take_process()
            os.kill(process.pid, signal.SIGTERM)
            assert process.wait(within(10)) == 0
            program.wait(within(10))
        pages = sum("prefix=folder" in one.query for one in server.requests())
    assert pages < 2000


def test_sigterm_during_the_start_ends_the_mount(
    swift: SwiftServer, connection: Connection, container: str, tmp_path: Path
) -> None:
    """libfuse's loop does not run yet: the signal was lost, and the mount served on."""
    (folder := tmp_path / "mnt").mkdir()
    words = ["mount", container, folder, "--foreground", "--cache-dir", tmp_path / "cache"]
    command = [sys.executable, mount_with_signal.__file__, *map(str, words)]
    environment = {**clean_environment(), **swift.environment()}
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(command, env=environment, stderr=log) as process,
    ):
        try:
            assert process.wait(within(20)) == 0, (tmp_path / "log").read_text()
            assert str(folder) not in mounts()
        finally:
            process.kill()
            subprocess.run(["fusermount", "-uz", str(folder)], check=False, capture_output=True)


class TricklingProxy(Proxy):
    """A proxy that passes on answers at `bytes_per_second`, 0 for as fast as it can."""

    bytes_per_second = 0

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        if source.getpeername()[1] == self._port:
            with suppress(OSError):
                while block := source.recv(self.bytes_per_second // 10 or BLOCK):
                    target.sendall(block)
                    time.sleep(0.1 if self.bytes_per_second else 0)
        super()._pass(source, target)


@contextmanager
def trickling_proxy(server: SwiftServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[TricklingProxy]:
    """Let a mount reach the server over such a proxy."""
    for name in ("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    proxy = TricklingProxy(server.port)
    with proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        yield proxy


def test_sigterm_ends_a_mount_whose_server_sends_a_file_slowly(
    server: SwiftServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first signal does, although the bytes come fast enough to be waited for."""
    with trickling_proxy(server, monkeypatch) as proxy:
        mount = Mount(server, "box", tmp_path, "settle=0.1")
        mount.start()
        (mount.path / "file").write_bytes(os.urandom(SIZE))
        mount.remount()
        assert (mount.path / "file").stat().st_size == SIZE
        (mount.path / "new").write_text("text")
        proxy.bytes_per_second = 4096
        with subprocess.Popen(["cat", mount.path / "file"], stdout=subprocess.DEVNULL) as program:
            wait_until(lambda: is_sent(server, "GET", "/box/file"))
            process = mount.take_process()
            os.kill(process.pid, signal.SIGTERM)
            assert process.wait(within(30)) == 0
            assert program.wait(within(10)) != 0
    assert is_sent(server, "PUT", "/box/new")


def is_sent(server: SwiftServer, method: str, end: str) -> bool:
    """Return whether the server got such a request."""
    return any(one.method == method and one.path.endswith(end) for one in server.requests())


def mounts() -> str:
    """Return the table of mounts."""
    return "".join(mount_lines())


def received(pid: int) -> bool:
    """Return whether no SIGTERM of the process is pending."""
    status = Path(f"/proc/{pid}/status").read_text()
    pending = next(line for line in status.splitlines() if line.startswith("ShdPnd"))
    return not int(pending.split()[1], 16) & 1 << signal.SIGTERM - 1


def test_one_sigterm_after_an_unmount_interrupts_nothing(
    swift: SwiftServer, connection: Connection, container: str, tmp_path: Path
) -> None:
    mount = Mount(swift, container, tmp_path, "settle=0.1")
    mount.start()
    swift.inject(Fault("PUT", f"/{container}/file", delay=2.0, times=1))
    (mount.path / "file").write_text("text")
    process = mount.take_process()
    subprocess.run(["fusermount", "-u", str(mount.path)], check=True)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(within(30)) == 0
    assert [one.status for one in swift.requests() if one.path.endswith(f"/{container}/file")] == [201]
