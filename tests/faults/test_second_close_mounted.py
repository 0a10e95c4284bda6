"""A file that is changed and closed again during its upload, in a real mount."""

import pytest
from swiftclient import Connection

from support.jobs import wait_until
from support.mounts import Mount
from support.noise import noise
from swiftfs.control.client import read_report, retry
from swiftfs.demo.server import Fault, SwiftServer

pytestmark = [
    pytest.mark.mount_options("settle=0.2,segment_size=4M,cache_size=64M"),
    pytest.mark.parametrize(("size", "first"), [(1000, 300), (9_000_000, 300), (1000, 9_000_000)]),
    pytest.mark.matrix(1),
]


def append_during(mount: Mount, swift: SwiftServer, status: int, size: int, first: int) -> bytes:
    """Store a file, append to it, and twice more while the upload of that is held; return all bytes.

    The held upload is refused with the status when this returns, and so are all others.
    """
    data = noise(size)
    (mount.path / "file").write_bytes(data)
    mount.remount()
    path = f"/{mount.source}/file"
    swift.inject(Fault("PUT", path, status=status, times=1, delay=600))
    swift.inject(Fault("PUT", path, status=status))
    swift.reset_requests()
    for number, more in enumerate((first, 300, 300)):
        with (mount.path / "file").open("ab") as file:
            file.write(noise(more, number))
        data += noise(more, number)
        # Its manifest or the file itself. Without a fault it would be stored now.
        wait_until(lambda: any(one.method == "PUT" and one.path.endswith(path) for one in swift.requests()))
    swift.end_delays()
    return data


def test_a_file_refused_by_a_quota_is_complete_after_retry(
    mounted: Mount, swift: SwiftServer, connection: Connection, container: str, size: int, first: int
) -> None:
    mounted.expected.append("/file is parked, because it cannot be stored")
    data = append_during(mounted, swift, 413, size, first)
    wait_until(lambda: read_report(mounted.path).parked == 1)
    assert read_report(mounted.path).total == 1
    swift.clear_faults()
    retry(mounted.path)
    wait_until(lambda: read_report(mounted.path).total == 0)
    mounted.remount()
    assert (mounted.path / "file").read_bytes() == data
    assert connection.get_object(container, "file")[1] == data


def test_a_second_close_outlives_an_outage_and_a_kill(
    mounted: Mount, swift: SwiftServer, connection: Connection, container: str, size: int, first: int
) -> None:
    mounted.expected.append("/file")
    data = append_during(mounted, swift, 503, size, first)
    mounted.kill()
    swift.clear_faults()
    mounted.start()
    assert (mounted.path / "file").read_bytes() == data
    mounted.remount()
    assert connection.get_object(container, "file")[1] == data
