"""A file that is changed and closed again during its upload, in a real mount."""

import pytest
from swiftclient import Connection

from support.deadlines import within
from support.jobs import wait_until
from support.mounts import Mount
from support.noise import noise
from swiftfs.control.client import read_report, retry
from swiftfs.demo.server import Fault, SwiftServer


def append(mount: Mount, swift: SwiftServer, first: int) -> bytes:
    """Append to the file, and twice more while that is uploaded; return all appended bytes."""
    added = b""
    for number, size in enumerate((first, 300, 300)):
        with (mount.path / "file").open("ab") as file:
            file.write(noise(size, number))
        added += noise(size, number)
        wait_until(
            lambda: any(one.method == "PUT" and one.path.endswith("/file") for one in swift.requests())
        )
    return added


def append_during(mount: Mount, swift: SwiftServer, fault: Fault, size: int, first: int) -> bytes:
    """Store a file of `size` bytes, and append to it during the fault; return all bytes."""
    data = noise(size)
    (mount.path / "file").write_bytes(data)
    mount.remount()
    swift.inject(fault)
    swift.reset_requests()
    return data + append(mount, swift, first)


@pytest.mark.matrix(1)
@pytest.mark.mount_options("settle=0.2,segment_size=4M,cache_size=64M")
@pytest.mark.parametrize(("size", "first"), [(1000, 300), (9_000_000, 300), (1000, 80_000_000)])
def test_a_file_refused_by_a_quota_is_complete_after_retry(
    mounted: Mount, swift: SwiftServer, connection: Connection, container: str, size: int, first: int
) -> None:
    mounted.expected.append("/file is parked, because it cannot be stored")
    refused = Fault("PUT", f"/{container}/file", status=413, delay=within(2))
    data = append_during(mounted, swift, refused, size, first)
    wait_until(lambda: read_report(mounted.path).parked == 1)
    assert read_report(mounted.path).total == 1
    swift.clear_faults()
    retry(mounted.path)
    wait_until(lambda: read_report(mounted.path).total == 0)
    mounted.remount()
    assert (mounted.path / "file").read_bytes() == data
    assert connection.get_object(container, "file")[1] == data


@pytest.mark.matrix(1)
@pytest.mark.mount_options("settle=0.2,segment_size=4M,cache_size=64M")
@pytest.mark.parametrize(("size", "first"), [(1000, 300), (9_000_000, 300), (1000, 80_000_000)])
def test_a_second_close_outlives_an_outage_and_a_kill(
    mounted: Mount, swift: SwiftServer, connection: Connection, container: str, size: int, first: int
) -> None:
    mounted.expected.append("/file")
    data = append_during(mounted, swift, Fault("PUT", f"/{container}/file", status=503), size, first)
    mounted.kill()
    swift.clear_faults()
    mounted.start()
    assert (mounted.path / "file").read_bytes() == data
    mounted.remount()
    assert connection.get_object(container, "file")[1] == data
