"""cp(1) and renameat2(2) in a mount by libfuse 3: what the server copies, and what comes here."""

import errno
import os

import pytest
from swiftclient import Connection

from support.jobs import counted, methods, wait_until
from support.large_files import manifest_names, segment_names
from support.mounts import Mount, run
from support.noise import noise
from support.system_calls import EXCHANGE, NOREPLACE, fails, renameat2
from swiftfs.control.client import read_report, retry
from swiftfs.demo.server import Fault, SwiftServer
from swiftfs.store.trash_names import TRASH_FOLDER

MIB = 1024**2
SIZE = 20 * MIB + 12_345
SMALL = MIB + 500_007

pytestmark = [
    pytest.mark.mount_options("fuse=3,segment_size=2M"),
]


def body_of(connection: Connection, container: str, key: str) -> bytes:
    body: bytes = connection.get_object(container, key)[1]
    return body


def cost(swift: SwiftServer) -> tuple[dict[str, int], int]:
    """Return the requests about objects, and how many bytes of objects passed through this machine."""
    requests = [one for one in counted(swift) if one.path.count("/") > 3]
    swift.reset_requests()
    moved = sum(one.bytes_in for one in requests if one.method == "PUT" and "manifest" not in one.query)
    moved += sum(one.bytes_out for one in requests if one.method == "GET" and "manifest" not in one.query)
    return dict(methods(requests)), moved


@pytest.fixture
def big(mounted: Mount) -> bytes:
    """The bytes of the file `big`, which the mount has stored, and of which nothing is in its cache."""
    data = noise(SIZE)
    (mounted.path / "big").write_bytes(data)
    mounted.remount(empty_cache=True)
    (mounted.path / "big").stat()
    mounted.swift.reset_requests()
    return data


def test_cp_moves_no_byte(mounted: Mount, big: bytes, connection: Connection, container: str) -> None:
    run("cp", mounted.path / "big", mounted.path / "copy")
    assert (mounted.path / "copy").stat().st_size == SIZE
    mounted.stop()
    requests, moved = cost(mounted.swift)
    print(requests)
    assert (requests, moved) == ({"GET": 1, "COPY": 11, "PUT": 1}, 0), "a GET of the source's manifest"
    assert body_of(connection, container, "copy") == big
    mounted.start()
    assert (mounted.path / "copy").read_bytes() == big


@pytest.mark.parametrize("segment_size", ["2M", "3M"])
def test_a_copy_with_a_wrong_etag(
    mounted: Mount, connection: Connection, container: str, segment_size: str
) -> None:
    """Whole segments are copied, or ranges of the source: what Swift says of them is checked."""
    data = noise(SIZE)
    (mounted.path / "big").write_bytes(data)
    mounted.options = mounted.options.replace("2M", segment_size)
    mounted.remount(empty_cache=True)
    mounted.swift.inject(Fault("COPY", container, headers={"Etag": "0" * 32}, times=1))
    run("cp", mounted.path / "big", mounted.path / "copy")
    (mounted.path / "big").unlink()
    assert (mounted.path / "copy").read_bytes() == data
    mounted.stop()
    assert body_of(connection, container, "copy") == data


@pytest.mark.slow
def test_cp_without_reflink_reads_and_writes(
    mounted: Mount, big: bytes, connection: Connection, container: str
) -> None:
    run("cp", "--reflink=never", mounted.path / "big", mounted.path / "copy")
    mounted.stop()
    requests, moved = cost(mounted.swift)
    assert body_of(connection, container, "copy") == big
    assert "COPY" not in requests or moved == 0
    mounted.start()


def test_a_plain_object_stays_one(mounted: Mount, connection: Connection, container: str) -> None:
    data = noise(SMALL)
    connection.put_object(container, "their", data, content_type="text/plain")
    mounted.swift.reset_requests()
    run("cp", "-p", mounted.path / "their", mounted.path / "copy")
    mounted.stop()
    requests, moved = cost(mounted.swift)
    assert (requests["COPY"], requests.get("PUT", 0), moved) == (2, 0, 0)
    headers = connection.head_object(container, "copy")
    assert "x-static-large-object" not in headers
    assert body_of(connection, container, "copy") == data
    mounted.start()
    assert (mounted.path / "copy").stat().st_mtime == (mounted.path / "their").stat().st_mtime


def test_a_large_object_of_another_client(mounted: Mount, connection: Connection, container: str) -> None:
    data = noise(SIZE)
    connection.put_object(container, "their", data)
    mounted.swift.reset_requests()
    run("cp", mounted.path / "their", mounted.path / "copy")
    mounted.stop()
    requests, moved = cost(mounted.swift)
    assert (requests["COPY"], requests["PUT"], moved) == (11, 1, 0)
    assert body_of(connection, container, "copy") == data
    mounted.start()


@pytest.mark.slow
@pytest.mark.mount_options("fuse=3,segment_size=2M,trash=30,expire=/=90d")
def test_cp_over_a_file_with_trash_and_expiry(mounted: Mount, connection: Connection, container: str) -> None:
    data, before = noise(SIZE), noise(SMALL)
    connection.put_object(container, "their", data)
    (mounted.path / "copy").write_bytes(before)
    run("cp", mounted.path / "their", mounted.path / "copy")
    mounted.remount()
    assert cost(mounted.swift)[0]["COPY"] >= 11
    (old,) = (row["name"] for row in connection.get_container(container, prefix=f"{TRASH_FOLDER}/")[1])
    assert body_of(connection, container, old) == before
    assert body_of(connection, container, "copy") == data
    moments = {connection.head_object(container, "copy")["x-delete-at"]}
    for path in manifest_names(connection, container, "copy"):
        moments.add(connection.head_object(*path[1:].split("/", 1))["x-delete-at"])
    assert len(moments) == 1


@pytest.mark.mount_options("fuse=3,segment_size=2M,settle=0.1")
@pytest.mark.parametrize("size", [SMALL, SIZE])
def test_cp_into_a_full_quota(mounted: Mount, connection: Connection, container: str, size: int) -> None:
    mounted.expected.append("/copy is parked, because it cannot be stored")
    data = noise(size)
    connection.put_object(container, "their", data)
    connection.post_container(container, {"X-Container-Meta-Quota-Bytes": "1"})
    run("cp", mounted.path / "their", mounted.path / "copy")
    wait_until(lambda: read_report(mounted.path).parked == 1)
    assert (mounted.path / "copy").read_bytes() == data
    connection.post_container(container, {"X-Container-Meta-Quota-Bytes": ""})
    retry(mounted.path)
    wait_until(lambda: read_report(mounted.path).total == 0)
    assert body_of(connection, container, "copy") == data


@pytest.mark.slow
def test_files_are_joined(mounted: Mount, big: bytes, connection: Connection, container: str) -> None:
    path = mounted.path
    run("sh", "-c", f"cat {path}/big {path}/big > {path}/both")
    with (path / "both").open("rb") as both:
        assert both.read(SIZE) == big
        assert both.read() == big
    mounted.stop()
    for span in (f"bytes=0-{SIZE - 1}", f"bytes={SIZE}-"):
        assert connection.get_object(container, "both", headers={"Range": span})[1] == big
    assert segment_names(connection, container) == manifest_names(
        connection, container, "both"
    ) | manifest_names(connection, container, "big")
    mounted.start()


@pytest.mark.slow
def test_a_file_goes_on_while_the_kernel_has_its_pages(mounted: Mount, big: bytes) -> None:
    with (mounted.path / "big").open("rb") as source, (mounted.path / "copy").open("w+b") as target:
        target.write(b"x" * 8 * MIB)
        target.flush()
        assert os.pread(target.fileno(), 10, 0) == b"x" * 10
        copied = os.copy_file_range(source.fileno(), target.fileno(), 8 * MIB, 8 * MIB, 8 * MIB)
        assert copied == 8 * MIB
        assert os.pread(target.fileno(), SIZE, 0) == b"x" * 8 * MIB + big[8 * MIB : 16 * MIB]
        target.seek(0)
        target.write(b"begin")
        target.seek(0, os.SEEK_END)
        assert target.tell() == 16 * MIB
        target.write(b"end")
    expected = b"begin" + b"x" * (8 * MIB - 5) + big[8 * MIB : 16 * MIB] + b"end"
    assert (mounted.path / "copy").read_bytes() == expected
    mounted.remount(empty_cache=True)
    assert (mounted.path / "copy").read_bytes() == expected


def test_flags_of_renameat2(mounted: Mount) -> None:
    for name in "ab":
        (mounted.path / name).write_text(name)
    a, b = mounted.path / "a", mounted.path / "b"
    with fails(errno.EEXIST):
        renameat2(a, b, NOREPLACE)
    with fails(errno.EINVAL):
        renameat2(a, b, EXCHANGE)
    assert (a.read_text(), b.read_text()) == ("a", "b")
    with b.open() as opened:
        with fails(errno.EEXIST):
            renameat2(a, b, NOREPLACE)
        assert opened.read() == "b"
    renameat2(a, mounted.path / "other", NOREPLACE)
    run("mv", "-n", mounted.path / "other", b)
    assert (b.read_text(), (mounted.path / "other").read_text()) == ("b", "a")


def test_holes_and_space(mounted: Mount) -> None:
    path = mounted.path / "file"
    with path.open("w+b") as file:
        file.truncate(3 * MIB)
        file.seek(MIB)
        file.write(b"x" * MIB)
        file.flush()
        os.fsync(file.fileno())
        descriptor = file.fileno()
        os.posix_fallocate(descriptor, 0, 4 * MIB)
        assert path.stat().st_size == 4 * MIB
        assert os.lseek(descriptor, 0, os.SEEK_END) == 4 * MIB
        start = os.lseek(descriptor, 0, os.SEEK_DATA)
        assert 0 <= start <= MIB
        assert os.lseek(descriptor, MIB, os.SEEK_HOLE) >= 2 * MIB
        with fails(errno.ENXIO):
            os.lseek(descriptor, 5 * MIB, os.SEEK_DATA)
