"""A captive portal answers for Swift for a while: what was changed meanwhile is sent again after it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from swiftclient import ClientException, Connection

from support import mount_with_time_limits
from support.commands import swiftfs
from support.mounts import Mount
from swiftfs.demo.server import Fault

SILENCE, DEADLINE = "20", "2"

FILES = ("a", "b", "c")

PAGE = "<html>Please log in</html>"

NO_ANSWER = "Input/output error|timed out"


@pytest.fixture
def portal(mounted: Mount, connection: Connection, container: str) -> Mount:
    """A mount of some files, whose log may tell of the portal."""
    for name in (*FILES, "kept"):
        connection.put_object(container, f"d/{name}", b"bytes")
    mounted.program = (mount_with_time_limits.__file__, SILENCE, DEADLINE)
    mounted.options = "settle=0.1"
    mounted.remount()
    mounted.expected += ["the answer is not Swift's"]
    assert [path.stat().st_size for path in (mounted.path / "d").iterdir()] == [5] * 4
    return mounted


def is_there(connection: Connection, container: str, name: str) -> bool:
    """Return whether Swift has an object."""
    with suppress(ClientException):
        return bool(connection.head_object(container, f"d/{name}"))
    return False


@contextmanager
def directory(path: Path) -> Iterator[int]:
    """Provide a descriptor of a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def flush(mount: Mount) -> int:
    """Run `swiftfs flush`; return its exit code."""
    return swiftfs("flush", mount.path, environment=mount.swift.environment()).returncode


@pytest.mark.parametrize(("method", "status"), [("", 200), ("DELETE", 204), ("DELETE", 200), ("", 404)])
def test_files_that_are_deleted_meanwhile_are_deleted_after_it(
    portal: Mount, connection: Connection, container: str, method: str, status: int
) -> None:
    body = "" if status == 204 else PAGE
    portal.swift.inject(
        Fault(method, f"/{container}/|bulk-delete", status=status, body=body, is_foreign=True)
    )
    folder = portal.path / "d"
    deleted = FILES[:1] if method else FILES  # of several the portal would have to answer the bulk delete
    for name in deleted:
        (folder / name).unlink()
    with directory(folder) as descriptor, pytest.raises(OSError, match=NO_ANSWER):
        os.fsync(descriptor)
    portal.swift.clear_faults()
    assert flush(portal) == 0
    assert [name for name in deleted if is_there(connection, container, name)] == []
    assert is_there(connection, container, "kept")


@pytest.mark.parametrize("status", [200, 202, 404])
def test_attributes_that_are_set_meanwhile_are_stored_after_it(
    portal: Mount, connection: Connection, container: str, status: int
) -> None:
    file = portal.path / "d/a"
    assert file.stat().st_size == 5
    portal.swift.inject(Fault("", f"/{container}/", status=status, body=PAGE, is_foreign=True))
    file.chmod(0o600)
    with pytest.raises(OSError, match=NO_ANSWER), file.open("rb") as opened:
        os.fsync(opened.fileno())
    portal.swift.clear_faults()
    assert flush(portal) == 0
    assert "mode=0100600" in connection.head_object(container, "d/a")["content-type"]


def test_a_file_is_not_missing_for_a_page(portal: Mount, container: str) -> None:
    Path(portal.path / "d/a").read_bytes()
    portal.swift.inject(Fault("", f"/{container}/", status=404, body=PAGE, is_foreign=True))
    with pytest.raises(OSError, match=NO_ANSWER):
        (portal.path / "d/kept").read_bytes()
    portal.swift.clear_faults()
    assert (portal.path / "d/kept").read_bytes() == b"bytes"
