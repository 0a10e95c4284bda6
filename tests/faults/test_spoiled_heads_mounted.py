"""A proxy spoils the Content-Length of HEADs: no file is short, and none is stored short."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from swiftclient import Connection

from support import mount_with_time_limits
from support.mounts import Mount, swift_cli
from support.noise import noise
from swiftfs.demo.server import Fault

SILENCE, DEADLINE = "20", "1"

OLD = noise(5000)

NO_ANSWER = "Input/output error|timed out"


def read(path: Path) -> None:
    assert path.read_bytes() == OLD


def patch(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"PATCH")
        file.flush()
        os.fsync(file.fileno())


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"END")


def cut(path: Path) -> None:
    os.truncate(path, 4000)


CALLS: dict[str, tuple[Callable[[Path], None], bytes]] = {
    "read": (read, OLD),
    "patch": (patch, OLD[:100] + b"PATCH" + OLD[105:]),
    "append": (append, OLD + b"END"),
    "cut": (cut, OLD[:4000]),
}


@pytest.fixture
def spoiled(mounted: Mount) -> Mount:
    """A mount that gives up a call soon, whose log may tell of it."""
    mounted.program = (mount_with_time_limits.__file__, SILENCE, DEADLINE)
    mounted.remount()
    mounted.expected += ["cannot have", "and the listing", "EIO", "ETIMEDOUT"]
    return mounted


def spoil(mount: Mount, length: int) -> None:
    """Let the answer of each HEAD of an object have another Content-Length."""
    mount.swift.inject(Fault("HEAD", f"/{mount.source}/", headers={"Content-Length": str(length)}))


@pytest.mark.parametrize("length", [0, 7])
@pytest.mark.parametrize("kind", CALLS)
def test_a_file_is_as_long_as_its_version(
    spoiled: Mount, connection: Connection, container: str, kind: str, length: int
) -> None:
    call, new = CALLS[kind]
    connection.put_object(container, "file", OLD)
    spoil(spoiled, length)
    path = spoiled.path / "file"
    with pytest.raises(OSError, match=NO_ANSWER):
        call(path)
    assert connection.get_object(container, "file")[1] == OLD
    spoiled.swift.clear_faults()
    call(path)  # nothing of it was kept
    spoiled.stop()
    assert connection.get_object(container, "file")[1] == new


def test_a_large_object_of_another_client_has_its_size(
    spoiled: Mount, connection: Connection, container: str, tmp_path: Path
) -> None:
    (tmp_path / "big").write_bytes(OLD * 2)
    where = ("--object-name", "big", "--segment-size", "5000", "--use-slo")
    swift_cli(spoiled.swift, "upload", container, "big", *where, cwd=tmp_path)
    for length in (0, 7):
        spoil(spoiled, length)
        for call in (Path.read_bytes, append):
            with pytest.raises(OSError, match=NO_ANSWER):
                call(spoiled.path / "big")
        spoiled.swift.clear_faults()
    assert connection.get_object(container, "big")[1] == OLD * 2
    assert (spoiled.path / "big").read_bytes() == OLD * 2


@pytest.mark.parametrize("kind", CALLS)
def test_a_file_is_read_and_changed_behind_a_proxy_that_removes_lengths(
    mounted: Mount, connection: Connection, container: str, kind: str
) -> None:
    """It sends chunks, or compresses."""
    call, new = CALLS[kind]
    connection.put_object(container, "file", OLD)
    connection.put_object(container, "empty", b"")
    for method in ("HEAD", "GET"):
        mounted.swift.inject(Fault(method, f"/{mounted.source}/", headers={"Content-Length": ""}))
    assert (mounted.path / "empty").read_bytes() == b""
    call(mounted.path / "file")
    mounted.stop()
    assert connection.get_object(container, "file")[1] == new
