"""A mount whose disk is smaller than the files that are written through it."""

import json
import os
import signal
import threading
from collections.abc import Iterable
from io import RawIOBase
from pathlib import Path

import pytest
from swiftclient import Connection

from support.jobs import wait_until
from support.mounts import Mount
from support.noise import noise
from support.small_disk import small_disk
from swiftfs.demo.server import Fault, SwiftServer
from swiftfs.filecache.block_map import BLOCK

MIB = 1024 * 1024


def disk(folder: Path) -> int:
    """Return the disk space of a folder's files, in bytes."""
    with os.scandir(folder) as entries:
        return sum(entry.stat().st_blocks * 512 for entry in entries)


LIMIT, LARGE = 64 * MIB, 112 * MIB
SLACK = 24 * MIB
"""Bytes of a step of the budget, of the segment being written, and of writes that have begun."""

SHORT_TIMEOUTS = """
from msgspec.structs import force_setattr
from swiftfs.filecache import space as room
from swiftfs.store import retry
room.PATIENCE = 5.0
force_setattr(retry.PATIENT, "deadline", 3.0)
"""

SMALL_DISK = "cache_size=64M,segment_size=8M,uploads=4"


def large(index: int) -> bytes:
    """Return one MiB of a file without repetitions."""
    return noise(MIB, index)


def write_blocks(file: RawIOBase, data: bytes) -> None:
    """Write whole blocks, so that none needs old bytes."""
    for offset in range(0, len(data), BLOCK):
        assert file.write(data[offset : offset + BLOCK]) == BLOCK


def assert_large(pieces: Iterable[bytes]) -> None:
    """Assert that the pieces, of a MiB each, are the whole file; the worker has no memory for all at once."""
    count = -1
    for count, piece in enumerate(pieces):
        assert piece == large(count), count
    assert count + 1 == LARGE // MIB


class Watch:
    """Samples the disk space of a folder until the block ends; `most` is the highest, in bytes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.most = 0

    def _run(self) -> None:
        while not self._over.wait(0.02):
            self.most = max(self.most, disk(self._folder))

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


@pytest.mark.mount_options(SMALL_DISK)
def test_a_mount_writes_a_file_larger_than_its_disk(mounted: Mount) -> None:
    with Watch(mounted.cache / "content") as watch, (mounted.path / "large").open("wb", buffering=0) as file:
        for index in range(LARGE // MIB):
            file.write(large(index))
    assert watch.most <= LIMIT + SLACK
    mounted.remount(empty_cache=True)
    with (mounted.path / "large").open("rb") as file:
        assert_large(iter(lambda: file.read(MIB), b""))


def test_a_writer_goes_on_after_its_file_was_stored_and_evicted(
    swift: SwiftServer, connection: Connection, container: str, tmp_path: Path
) -> None:
    """The rest of a segment was sent with zeros in place of its evicted blocks."""
    body, first = noise(9 * MIB), 4 * MIB + BLOCK
    with small_disk(tmp_path / "disk", "16m") as made:
        mount = Mount(swift, container, tmp_path, "segment_size=1M,settle=0.1")
        mount.cache = made / "cache"
        with mount, (mount.path / "file").open("wb", buffering=0) as file:
            write_blocks(file, body[:first])
            os.close(os.dup(file.fileno()))  # as when a program forks and runs another one
            wait_until(lambda: bool(connection.get_container(container, prefix="file")[1]))
            (mount.path / "other").write_bytes(noise(10 * MIB, 2))  # it takes the disk from what is stored
            write_blocks(file, body[first:])
        assert connection.get_object(container, "file")[1] == body


@pytest.mark.slow
def test_another_process_finishes_what_was_evicted(
    swift: SwiftServer, connection: Connection, container: str, tmp_path: Path
) -> None:
    mount = Mount(swift, container, tmp_path, f"{SMALL_DISK},settle=1000")
    with mount:
        write_on(os.open(mount.path / "large", os.O_WRONLY | os.O_CREAT), LARGE // MIB, close=True)
        assert disk(mount.cache / "content") <= LIMIT + SLACK
        assert connection.get_container(container)[1] == []
        os.kill(mount.pid, signal.SIGKILL)
        mount.exit_code = -signal.SIGKILL
    mount.exit_code = 0
    with mount, (mount.path / "large").open("rb") as file:
        assert_large(iter(lambda: file.read(MIB), b""))
    assert_large(connection.get_object(container, "large", resp_chunk_size=MIB)[1])
    segments = {
        row["name"] for row in connection.get_container(f"{container}_segments", full_listing=True)[1]
    }
    manifest = connection.get_object(container, "large", query_string="multipart-manifest=get&format=raw")[1]
    assert {row["path"].partition("_segments/")[2] for row in json.loads(manifest)} == segments


@pytest.mark.slow
def test_an_outage_ends_a_write_and_nothing_hangs(
    swift: SwiftServer,
    connection: Connection,
    container: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "sitecustomize.py").write_text(SHORT_TIMEOUTS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    connection.put_container(f"{container}_segments")
    mount = Mount(swift, container, tmp_path, f"{SMALL_DISK},settle=0.1,drain=1")
    mount.expected, mount.exit_code = ["the next mount continues with", "ENOSPC: the disk of the cache"], 1
    with mount:
        file = os.open(mount.path / "large", os.O_WRONLY | os.O_CREAT)
        swift.inject(Fault(method="PUT", path="_segments/", status=503))
        with pytest.raises(OSError, match="No space left"):
            write_on(file, LARGE // MIB)
        written = os.fstat(file).st_size
        assert LIMIT - SLACK <= written <= LIMIT + SLACK
        assert [path.name for path in mount.path.iterdir()] == ["large"]
        os.close(file)
    swift.clear_faults()
    later = Mount(swift, container, tmp_path, f"{SMALL_DISK},settle=0.1")
    later.expected = mount.expected
    with later as mount:
        assert (mount.path / "large").stat().st_size == written
    pieces = connection.get_object(container, "large", resp_chunk_size=MIB)[1]
    read = 0
    for index, piece in enumerate(pieces):
        assert piece == large(index)[: written - read], index
        read += len(piece)
    assert read == written


def write_on(file: int, count: int, *, close: bool = False) -> None:
    """Write so many MiB of the large file."""
    for index in range(count):
        os.write(file, large(index))
    if close:
        os.close(file)
