"""A server that never finishes its answers: programs get an error, and the mount ends when it is told to."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from swiftclient import Connection

from support import mount_with_time_limits
from support.deadlines import within
from support.mounts import Mount
from support.proxies import BLOCK, Proxy
from swiftfs.demo.server import SwiftServer

SILENCE, DEADLINE = "1", "2"


class LyingProxy(Proxy):
    """A proxy that, while it `lies`, answers each request with one header line that has no end."""

    lies = False

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while block := source.recv(BLOCK):
                if self.lies and block.startswith(b"HTTP/"):
                    target.sendall(b"HTTP/1.1 200 OK\r\nX-Endless: ")
                    while self.lies:
                        target.sendall(b"x")
                        time.sleep(0.05)
                target.sendall(self._changed(block))
        except OSError:  # the client has gone
            pass
        super()._pass(source, target)


@pytest.fixture
def proxy(swift: SwiftServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[LyingProxy]:
    for name in ("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    proxy = LyingProxy(swift.port)
    with proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        yield proxy
        proxy.lies = False


def test_calls_and_the_mount_end(
    swift: SwiftServer, connection: Connection, container: str, proxy: LyingProxy, tmp_path: Path
) -> None:
    mount = Mount(swift, container, tmp_path, "settle=0.1,drain=1,ttl=0")
    mount.program = (mount_with_time_limits.__file__, SILENCE, DEADLINE)
    mount.start()
    (mount.path / "folder").mkdir()
    (mount.path / "file").write_text("text")
    os.sync()
    with (mount.path / "kept").open("w") as kept:
        kept.write("kept")
        proxy.lies = True
    programs = [
        subprocess.Popen(["ls", "-l", mount.path / "other"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for _ in range(3)
    ]
    for program in programs:
        said, _ = program.communicate(timeout=within(20))
        assert b"ls: " in said
    process = mount.take_process()
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(within(30)) == 1  # what could not be stored is kept
    proxy.lies = False
    again = Mount(swift, container, tmp_path)
    again.expected += ["ETIMEDOUT", "the next mount continues with"]  # in the log of the first one
    with again:
        assert (again.path / "kept").read_text() == "kept"
        assert (again.path / "file").read_text() == "text"
