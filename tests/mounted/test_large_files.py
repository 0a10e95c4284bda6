"""Large files on a real mount: segments, manifests, memory, and what Swift has after each change."""

import hashlib
import os
import random
from pathlib import Path

import pytest
from swiftclient import Connection

from support.jobs import Job, header, methods, path_of, wait_until
from support.large_files import manifest, manifest_names, segment_names, segment_rows
from support.mounts import Mount, run
from support.noise import noise
from swiftfs.demo.server import Fault, RecordedRequest

MIB = 1024**2
MEMORY = 300 * MIB
"""Most memory of the process in bytes, whatever the size of a file."""

COLD = 64
"""MiB of the file that is read in order: four segments."""

small_segments = pytest.mark.mount_options("segment_size=1M")


def make_file(path: Path, mebibytes: int) -> str:
    """Write a file in which no two MiB are equal; return its MD5."""
    digest = hashlib.md5()
    common = noise(MIB - 8)
    with path.open("wb") as file:
        for number in range(mebibytes):
            for part in (number.to_bytes(8, "big"), common):
                file.write(part)
                digest.update(part)
    return digest.hexdigest()


def md5_of(path: Path) -> str:
    """Return the MD5 of a file, read in order."""
    digest = hashlib.md5()
    with path.open("rb") as file:
        while block := file.read(MIB):
            digest.update(block)
    return digest.hexdigest()


def downloaded_md5(connection: Connection, container: str, key: str) -> str:
    """Return the MD5 of an object as another client downloads it."""
    _, body = connection.get_object(container, key, resp_chunk_size=MIB)
    digest = hashlib.md5()
    for block in body:
        digest.update(block)
    return digest.hexdigest()


class Watched:
    """A mount, and the requests for the segments and the object of one file."""

    def __init__(self, mount: Mount, key: str) -> None:
        self._mount = mount
        self._key = key
        self._mount.swift.reset_requests()

    def requests(self) -> list[RecordedRequest]:
        """Return all requests so far."""
        return self._mount.swift.requests()

    def stored(self) -> list[RecordedRequest]:
        """Return the successful PUTs of segments so far."""
        begin = path_of(self._mount.swift, f"{self._mount.source}_segments")
        puts = [request for request in self.requests() if request.method == "PUT"]
        return [request for request in puts if request.path.startswith(begin) and request.status == 201]

    def removals(self) -> list[int]:
        """Return the positions of requests that delete segments."""
        begin = path_of(self._mount.swift, f"{self._mount.source}_segments")
        return [
            position
            for position, request in enumerate(self.requests())
            if "bulk-delete" in request.query
            or (request.method == "DELETE" and request.path.startswith(begin))
        ]

    def commit(self) -> int:
        """Return the position of the one request that changed the object."""
        path = path_of(self._mount.swift, self._mount.source, self._key)
        found = [
            position
            for position, request in enumerate(self.requests())
            if (request.path == path and request.method in ("PUT", "DELETE"))
            or (request.method == "COPY" and header(request.headers, "Destination").endswith(self._key))
        ]
        assert len(found) == 1
        return found[0]


# Each upload maps its segment of 16 MiB, and these pages count as the memory of the mount.
@pytest.mark.mount_options("uploads=8")
@pytest.mark.matrix(1)
@pytest.mark.parametrize("mebibytes", [64, 1024])
def test_a_large_file_is_stored_in_segments(
    mounted: Mount, connection: Connection, container: str, tmp_path: Path, mebibytes: int
) -> None:
    local = tmp_path / "local"
    expected = make_file(local, mebibytes)
    target = mounted.path / "big"
    job = Job(mounted)
    run("cp", local, target)
    local.unlink()
    requests = job.step("cp in")
    assert mounted.rss_peak() < MEMORY
    puts = [request for request in requests if request.method == "PUT"]
    segments = [request for request in puts if request.path.count("/") > 4]
    assert all(header(request.headers, "ETag") for request in segments)
    assert sum(request.bytes_in for request in puts) < (mebibytes + 1) * MIB
    parts = manifest(connection, container, "big")
    stored = {f"/{container}_segments/{row['name']}": row for row in segment_rows(connection, container)}
    assert [row["name"] for row in connection.get_container(container)[1]] == ["big"]
    assert len(parts) == mebibytes // 16
    assert {part["name"] for part in parts} == set(stored)
    assert all(part["bytes"] == 16 * MIB for part in parts)
    assert all(part["hash"] == stored[part["name"]]["hash"] for part in parts)
    assert downloaded_md5(connection, container, "big") == expected
    mounted.remount(empty_cache=True)
    job.step("another client's download, remount")
    assert target.stat().st_size == mebibytes * MIB
    assert md5_of(target) == expected
    job.step("read cold")
    assert mounted.rss_peak() < MEMORY
    target.unlink()
    wait_until(lambda: not segment_rows(connection, container))


def test_a_cold_sequential_read_costs_few_requests(mounted: Mount, tmp_path: Path) -> None:
    local = tmp_path / "local"
    expected = make_file(local, COLD)
    target = mounted.path / "big"
    job = Job(mounted)
    run("cp", local, target)
    assert len(job.step("cp in")) <= COLD // 16 + 4
    mounted.remount(empty_cache=True)
    assert target.stat().st_size == COLD * MIB
    job.step("remount")
    assert md5_of(target) == expected
    requests = job.step("read cold")
    assert len(requests) <= COLD // 8 + 8
    assert sum(request.bytes_out for request in requests) < (COLD + 1) * MIB
    assert md5_of(target) == expected
    assert methods(job.step("read again"))["GET"] == 0
    target.unlink()


@pytest.mark.slow
@small_segments
def test_segments_grow_so_that_their_number_stays_small(
    mounted: Mount, connection: Connection, container: str, tmp_path: Path
) -> None:
    local = tmp_path / "local"
    expected = make_file(local, 70)
    run("cp", local, mounted.path / "big")
    parts = manifest(connection, container, "big")
    assert [part["bytes"] // MIB for part in parts] == [1] * 64 + [4, 2]
    assert manifest_names(connection, container, "big") == segment_names(connection, container)
    assert downloaded_md5(connection, container, "big") == expected
    (mounted.path / "big").unlink()


@small_segments
def test_segments_are_uploaded_while_the_file_is_written(
    mounted: Mount, connection: Connection, container: str
) -> None:
    data = noise(6 * MIB)
    watched = Watched(mounted, "big")
    with (mounted.path / "big").open("wb", buffering=0) as file:
        file.write(data[: 3 * MIB + 5])
        wait_until(lambda: len(watched.stored()) == 3)
        assert connection.get_container(container)[1] == []
        file.write(data[3 * MIB + 5 :])
    assert len(watched.stored()) == 6
    assert all(header(request.headers, "ETag") for request in watched.stored())
    assert watched.commit() > max(watched.requests().index(request) for request in watched.stored())
    assert connection.get_object(container, "big")[1] == data


@small_segments
def test_a_segment_written_again_is_uploaded_again(
    mounted: Mount, connection: Connection, container: str
) -> None:
    data = bytearray(noise(4 * MIB))
    watched = Watched(mounted, "big")
    with (mounted.path / "big").open("wb", buffering=0) as file:
        file.write(data)
        wait_until(lambda: len(watched.stored()) >= 2)
        data[MIB + 10 : MIB + 20] = b"0123456789"
        file.seek(MIB + 10)
        file.write(b"0123456789")
    assert connection.get_object(container, "big")[1] == data
    assert manifest_names(connection, container, "big") == segment_names(connection, container)


@small_segments
def test_overwriting_removes_the_old_segments_after_the_new_version_is_stored(
    mounted: Mount, connection: Connection, container: str
) -> None:
    path = mounted.path / "big"
    path.write_bytes(noise(4 * MIB, 1))
    old = segment_names(connection, container)
    mounted.remount(empty_cache=True)
    watched = Watched(mounted, "big")
    path.write_bytes(noise(3 * MIB + 7, 2))
    new = segment_names(connection, container)
    assert len(new) == 4
    assert not new & old
    assert new == manifest_names(connection, container, "big")
    assert min(watched.removals()) > watched.commit()
    assert connection.get_object(container, "big")[1] == noise(3 * MIB + 7, 2)


@small_segments
def test_a_failed_overwrite_leaves_the_old_object_whole(
    mounted: Mount, connection: Connection, container: str
) -> None:
    path = mounted.path / "big"
    path.write_bytes(noise(3 * MIB, 1))
    old = segment_names(connection, container)
    mounted.swift.inject(Fault(method="PUT", path=r"/big\?multipart-manifest=put", status=403))
    with pytest.raises(PermissionError):
        path.write_bytes(noise(2 * MIB, 2))
    assert connection.get_object(container, "big")[1] == noise(3 * MIB, 1)
    assert old <= segment_names(connection, container)
    mounted.swift.clear_faults()
    mounted.expected += ["big"]
    wait_until(lambda: segment_names(connection, container) == old)
    assert path.read_bytes() == noise(3 * MIB, 1)


@small_segments
def test_unlink_removes_the_manifest_and_then_the_segments(
    mounted: Mount, connection: Connection, container: str
) -> None:
    path = mounted.path / "big"
    path.write_bytes(noise(3 * MIB))
    mounted.remount(empty_cache=True)
    mounted.swift.reset_requests()
    path.unlink()
    assert not path.exists()
    wait_until(lambda: not segment_rows(connection, container))
    assert connection.get_container(container)[1] == []
    # Swift may refuse the first, and then nothing of the file may be gone.
    changes = [request for request in mounted.swift.requests() if request.method not in ("GET", "HEAD")]
    assert [(one.method, one.query) for one in changes] == [("DELETE", ""), ("POST", "bulk-delete")]


@small_segments
def test_random_changes_of_a_large_file(mounted: Mount, connection: Connection, container: str) -> None:
    path = mounted.path / "big"
    model = bytearray(noise(5 * MIB + 777))
    path.write_bytes(model)
    mounted.remount(empty_cache=True)
    chance = random.Random(7)
    with path.open("r+b", buffering=0) as file:
        for number in range(20):
            offset, length = chance.randrange(len(model)), chance.randrange(1, 100_000)
            piece = noise(length, number)
            os.pwrite(file.fileno(), piece, offset)
            model[offset : offset + length] = piece
    with path.open("ab") as file:
        file.write(b"a tail")
    model += b"a tail"
    assert connection.get_object(container, "big")[1] == model
    for size in (3 * MIB + 1, 3 * MIB, 5 * MIB + 9, MIB + 1, 100, 2 * MIB + 5):
        os.truncate(path, size)
        model = model[:size].ljust(size, b"\0")
        assert connection.get_object(container, "big")[1] == model
        assert path.stat().st_size == size
    assert manifest_names(connection, container, "big") == segment_names(connection, container)
    mounted.remount(empty_cache=True)
    assert path.read_bytes() == model
    os.truncate(path, 0)
    assert connection.get_object(container, "big")[1] == b""
    wait_until(lambda: not segment_rows(connection, container))


@small_segments
def test_random_reads_of_a_large_file_fetch_little(mounted: Mount) -> None:
    path = mounted.path / "big"
    data = noise(24 * MIB)
    path.write_bytes(data)
    mounted.remount(empty_cache=True)
    job = Job(mounted)
    with path.open("rb", buffering=0) as file:
        for offset in (20 * MIB + 3, 11 * MIB + 5, 2 * MIB - 50, 17 * MIB - 1):
            assert os.pread(file.fileno(), 100, offset) == data[offset : offset + 100]
    requests = job.step("four random reads in 24 MiB")
    assert sum(request.bytes_out for request in requests) < 5 * MIB


@small_segments
def test_rename_copies_the_manifest_alone(mounted: Mount, connection: Connection, container: str) -> None:
    data = noise(3 * MIB + 1)
    (mounted.path / "old").write_bytes(data)
    segments = segment_names(connection, container)
    mounted.remount(empty_cache=True)
    before = mounted.path.joinpath("old").stat()
    job = Job(mounted)
    (mounted.path / "old").rename(mounted.path / "new")
    wait_until(lambda: [row["name"] for row in connection.get_container(container)[1]] == ["new"])
    requests = [request for request in job.step("rename an SLO") if request.method != "GET"]
    assert methods(requests)["COPY"] == methods(requests)["DELETE"] == 1
    assert all("multipart-manifest=get" in request.query for request in requests if request.method == "COPY")
    assert not any(f"{container}_segments" in request.path for request in requests)
    assert segment_names(connection, container) == segments
    assert connection.get_object(container, "new")[1] == data
    mounted.remount(empty_cache=True)
    after = (mounted.path / "new").stat()
    assert (after.st_mtime_ns, after.st_mode) == (before.st_mtime_ns, before.st_mode)
    assert after.st_size == len(data)
    assert (mounted.path / "new").read_bytes() == data


@small_segments
def test_rename_over_a_large_file_removes_its_segments(
    mounted: Mount, connection: Connection, container: str
) -> None:
    moved, replaced = noise(3 * MIB, 1), noise(2 * MIB + 1, 2)
    (mounted.path / "moved").write_bytes(moved)
    kept = segment_names(connection, container)
    (mounted.path / "replaced").write_bytes(replaced)
    mounted.remount(empty_cache=True)
    watched = Watched(mounted, "replaced")
    (mounted.path / "moved").rename(mounted.path / "replaced")
    wait_until(lambda: segment_names(connection, container) == kept)
    assert min(watched.removals()) > watched.commit()
    assert connection.get_object(container, "replaced")[1] == moved
    (mounted.path / "small").write_bytes(b"small")
    (mounted.path / "small").rename(mounted.path / "replaced")
    wait_until(lambda: not segment_rows(connection, container))
    assert connection.get_object(container, "replaced")[1] == b"small"


@small_segments
def test_a_file_may_become_small_and_large_again(
    mounted: Mount, connection: Connection, container: str
) -> None:
    path = mounted.path / "file"
    for size, segments in ((100, 0), (MIB, 0), (MIB + 1, 2), (3 * MIB, 3), (7, 0), (2 * MIB, 2), (0, 0)):
        path.write_bytes(noise(size, size))
        assert len(segment_rows(connection, container)) == segments
        headers, body = connection.get_object(container, "file")
        assert body == noise(size, size)
        assert (headers.get("x-static-large-object", "").lower() == "true") == bool(segments)
        assert path.stat().st_size == size


@small_segments
def test_a_copy_within_the_mount_has_segments_of_its_own(
    mounted: Mount, connection: Connection, container: str
) -> None:
    data = noise(2 * MIB + 1)
    (mounted.path / "one").write_bytes(data)
    run("cp", mounted.path / "one", mounted.path / "two")
    one, two = (manifest_names(connection, container, key) for key in ("one", "two"))
    assert not one & two
    (mounted.path / "one").unlink()
    wait_until(lambda: segment_names(connection, container) == two)
    assert (mounted.path / "two").read_bytes() == data
