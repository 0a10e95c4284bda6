"""Requests that a real Swift executes late, with a real mount."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from msgspec.structs import asdict
from swiftclient import Connection
from swiftclient.exceptions import ClientException

from support.jobs import wait_until
from support.mounts import Mount, run
from swiftfs.demo.server import Fault, SwiftServer

LATE = 3.0
"""Seconds until a lost request is executed; the mount looks for it before and after that."""


@pytest.fixture
def mount(swift: SwiftServer, connection: Connection, container: str, tmp_path: Path) -> Iterator[Mount]:
    """The test's container; the mount looks for late requests 1, 6, 9 and 60 s after a loss."""
    mount = Mount(swift, container, tmp_path, "settle=0.05")
    mount.program = (str(Path(__file__).parents[1] / "support" / "mount_with_look_delays.py"), "1,6,9,60")
    mount.expected.append("was carried out late")
    with mount:
        yield mount


def store(path: Path, data: bytes) -> None:
    """Write a file, and return when Swift has it."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def object_bytes(connection: Connection, container: str, key: str) -> bytes | None:
    """Return an object's bytes, None if it does not exist."""
    try:
        return bytes(connection.get_object(container, key)[1])
    except ClientException as error:
        if error.http_status == 404:
            return None
        raise


@pytest.fixture
def object_is(connection: Connection, container: str) -> Callable[[bytes | None], None]:
    """Return a function that waits until the object `file` has certain bytes, or None if it is to be gone."""
    return lambda data: wait_until(lambda: object_bytes(connection, container, "file") == data)


def warnings(mount: Mount) -> list[str]:
    return [line for line in mount.log.read_text().splitlines() if line.startswith("WARNING")]


@pytest.mark.parametrize("fault", [Fault(status=504, late=LATE), Fault(reset=True, late=LATE)])
def test_a_late_put(
    mount: Mount, swift: SwiftServer, container: str, object_is: Callable[..., None], fault: Fault
) -> None:
    old, new = os.urandom(100_000), os.urandom(100_000)
    swift.inject(Fault(**{**asdict(fault), "method": "PUT", "path": f"/{container}/file", "times": 1}))
    store(mount.path / "file", old)
    store(mount.path / "file", new)
    object_is(new)
    object_is(old)
    object_is(new)
    assert (mount.path / "file").read_bytes() == new
    assert len(warnings(mount)) == 1


def test_a_late_delete(
    mount: Mount, swift: SwiftServer, container: str, object_is: Callable[..., None]
) -> None:
    new = os.urandom(100_000)
    store(mount.path / "file", b"old")
    swift.inject(Fault("DELETE", f"/{container}/file", status=504, late=LATE, times=1))
    (mount.path / "file").unlink()
    object_is(None)
    store(mount.path / "file", new)
    object_is(new)
    object_is(None)
    object_is(new)
    assert (mount.path / "file").read_bytes() == new


def test_late_attributes(mount: Mount, swift: SwiftServer, connection: Connection, container: str) -> None:
    file = mount.path / "file"
    store(file, b"data")
    swift.inject(Fault("POST", f"/{container}/file", status=504, late=LATE, times=1))
    for mode in (0o600, 0o444):
        file.chmod(mode)
        with file.open("rb") as opened:
            os.fsync(opened.fileno())

    def mode_is(text: str) -> bool:
        return f"mode=0100{text}" in connection.head_object(container, "file")["content-type"]

    for text in ("444", "600", "444"):
        wait_until(partial(mode_is, text))


def test_the_mount_after_a_kill_looks_for_late_requests_too(
    mount: Mount, swift: SwiftServer, container: str, object_is: Callable[..., None]
) -> None:
    old, new = os.urandom(100_000), os.urandom(100_000)
    swift.inject(Fault("PUT", f"/{container}/file", status=504, late=LATE, times=1))
    store(mount.path / "file", old)
    store(mount.path / "file", new)
    process = mount.take_process()
    process.kill()
    process.wait()
    run("fusermount", "-uz", mount.path)
    object_is(old)
    mount.start()
    object_is(new)
    assert (mount.path / "file").read_bytes() == new


def test_without_a_fault_no_request_is_added(
    mount: Mount, swift: SwiftServer, container: str, object_is: Callable[..., None]
) -> None:
    for data in (b"old", b"new"):
        store(mount.path / "file", data)
    (mount.path / "file").unlink()
    object_is(None)
    store(mount.path / "file", b"newest")
    assert not [one for one in swift.requests() if one.method == "HEAD" and one.path.endswith("/file")]
