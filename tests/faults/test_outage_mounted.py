"""During an outage known listings are used, nothing is invented, and no call waits for long.

These run in a real mount.
"""

import os
import time
from pathlib import Path

from support.deadlines import within
from support.jobs import wait_until
from support.mounts import Mount, swift_cli
from swiftfs.demo.server import SwiftServer


def test_a_mount_outlives_its_server(server: SwiftServer, tmp_path: Path) -> None:
    with Mount(server, "box", tmp_path, "ttl=1") as mounted:
        mounted.expected.append("expired listings are used")
        folder = mounted.path / "folder"
        folder.mkdir()
        (folder / "file").write_bytes(b"kept")
        os.utime(folder / "file", ns=(0, 10**18))
        free = os.statvfs(mounted.path)
        server.kill()
        wait_until(lambda: folder.stat() and "expired listings are used" in mounted.log.read_text())
        began = time.monotonic()
        for number in range(50):
            assert os.listdir(folder) == ["file"]  # noqa: PTH208
            assert (folder / "file").stat().st_mtime_ns == 10**18
            assert not (folder / f"missing{number}").exists()
        assert time.monotonic() - began < within(5)
        assert os.statvfs(mounted.path) == free
        server.start()
        swift_cli(server, "upload", "box", "--object-name", "folder/other", __file__)
        wait_until((folder / "other").exists)
        assert mounted.log.read_text().count("expired listings are used") == 1
        assert mounted.log.read_text().count("Swift answers again") == 1
