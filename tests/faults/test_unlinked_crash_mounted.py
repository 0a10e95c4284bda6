"""A file is deleted while it is open and partly downloaded, and the mount dies before it sends the DELETE.

These run in a real mount.
"""

from contextlib import suppress

import pytest
from swiftclient import Connection

from support.jobs import wait_until
from support.mounts import Mount
from support.noise import LARGE
from swiftfs.control.client import read_report
from swiftfs.demo.server import Fault, SwiftServer


@pytest.mark.mount_options("settle=0.5,read_ahead=0")
def test_a_mount_that_is_killed_while_the_file_is_open(
    mounted: Mount, connection: Connection, container: str
) -> None:
    path = mounted.path / "file"
    path.write_bytes(LARGE)
    mounted.remount()
    with suppress(OSError), path.open("rb", buffering=0) as file:  # it is closed when the mount is dead
        assert file.read(10) == LARGE[:10]
        path.unlink()
        assert file.read(10) == LARGE[10:20]
        mounted.kill()
    mounted.start()
    assert list(mounted.path.iterdir()) == []
    mounted.stop()
    assert connection.get_container(container)[1] == []


@pytest.mark.mount_options("settle=1,read_ahead=0")
def test_a_mount_that_is_killed(mounted: Mount, swift: SwiftServer, container: str) -> None:
    path = mounted.path / "file"
    path.write_bytes(LARGE)
    mounted.remount()
    mounted.expected.append("file")
    swift.inject(Fault("DELETE", f"/{container}/file", status=503))
    swift.inject(Fault("POST", "bulk-delete", status=503))
    with path.open("rb", buffering=0) as file:
        assert file.read(10) == LARGE[:10]
        path.unlink()
    wait_until(lambda: read_report(mounted.path).total == 1)
    mounted.kill()
    mounted.start()
    assert list(mounted.path.iterdir()) == []
    swift.clear_faults()
    mounted.remount()
    assert list(mounted.path.iterdir()) == []
