"""Old bytes that a change keeps are verified before they are stored again, in a real mount."""

import contextlib
import os
from pathlib import Path

import pytest
from swiftclient import Connection

from support import mount_with_time_limits
from support.cache_rig import MIB
from support.jobs import counted
from support.mounts import Mount
from support.noise import noise
from swiftfs.demo.server import Fault

pytest_plugins = ["support.cache_fixtures", "support.writer_fixtures"]


@pytest.mark.matrix(2)
@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("size", [400_000, 3_000_000, 20_000_000])
@pytest.mark.mount_options("settle=0.2,segment_size=4M")
def test_a_byte_that_is_flipped_on_the_way_is_not_stored(
    mounted: Mount, connection: Connection, container: str, size: int, large: bool
) -> None:
    body = bytearray(noise(size))
    if large:
        target = mounted.path / "file"
        target.write_bytes(body)
        mounted.remount()
    else:
        connection.put_object(container, "file", bytes(body))
    path: Path = mounted.path / "file"
    for offset, data in ((size // 2 + 7, b"patch"), (size, b"the end")):
        body[offset : offset + len(data)] = data
        mounted.swift.inject(Fault("GET", f"/{container}/file", flip_byte=True, times=1))
        with path.open("r+b", buffering=0) as file:
            os.pwrite(file.fileno(), data, offset)
            os.fsync(file.fileno())
        assert connection.get_object(container, "file")[1] == body
        mounted.swift.clear_faults()
        mounted.remount()


@pytest.mark.matrix(2)
@pytest.mark.parametrize(
    ("size", "offset"), [(400_000, 2**40), (3_000_000, 7), (20_000_000, 9_000_000), (20_000_000, 2**40)]
)
@pytest.mark.mount_options("settle=0.2,segment_size=4M")
def test_what_is_wrong_in_every_answer_is_not_stored(
    mounted: Mount, connection: Connection, container: str, size: int, offset: int
) -> None:
    """The first byte of each answer is wrong: the boundaries of two downloads always differ."""
    mounted.program = (mount_with_time_limits.__file__, "30", "3")  # not 25 seconds of wrong answers
    mounted.remount()
    body = noise(size)
    connection.put_object(container, "file", body)
    mounted.swift.inject(Fault("GET", f"/{container}/file", flip_byte=True))
    mounted.expected += ["is parked, because it cannot be stored", "EIO", "ETIMEDOUT"]
    at = min(offset, size)
    with (
        contextlib.suppress(OSError),
        (mounted.path / "file").open("r+b", buffering=0) as file,
    ):
        os.pwrite(file.fileno(), b"patch", at)
        os.fsync(file.fileno())
    mounted.swift.clear_faults()
    mounted.stop()
    patched = body[:at] + b"patch" + body[at + 5 :]
    assert connection.get_object(container, "file")[1] in (body, patched)


@pytest.mark.slow
@pytest.mark.mount_options("settle=0.2")
def test_a_patch_of_a_large_file_keeps_its_budget(
    mounted: Mount, connection: Connection, container: str
) -> None:
    size = 256 * MIB
    target = mounted.path / "big"
    with target.open("wb") as file:
        for _ in range(size // MIB):
            file.write(noise(MIB))
    for offset, data in ((100 * MIB + 4096, bytes(4096)), (size, b"6bytes")):
        mounted.remount()
        assert target.stat().st_size >= size
        mounted.swift.reset_requests()
        with target.open("r+b", buffering=0) as file:
            os.pwrite(file.fileno(), data, offset)
            os.fsync(file.fileno())
        cost = counted(mounted.swift)
        print(offset, [(one.method, one.path[-20:], one.bytes_out, one.bytes_in) for one in cost])
        assert len(cost) <= 6
        assert sum(one.bytes_out for one in cost) <= 3 * MIB
        assert sum(one.bytes_in for one in cost) <= 3 * MIB
