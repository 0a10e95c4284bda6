"""Segments of real mounts: lost answers, kills, objects of other users that name them, conflicts, `gc`."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from swiftclient import Connection

from support.jobs import wait_until
from support.large_files import MIB, append, cut, manifest_names, patch, segment_names
from support.mounts import Mount
from support.noise import noise
from swiftfs.control.client import flush
from swiftfs.demo.server import Fault, SwiftServer

OPTIONS = "segment_size=1M,settle=1000"


def download(connection: Connection, container: str, key: str) -> bytes:
    body: bytes = connection.get_object(container, key)[1]
    return body


def store(mount: Mount) -> None:
    assert flush(mount.path, lambda _report: None).unflushed == 0


@pytest.fixture
def mount(swift: SwiftServer, container: str, connection: Connection, tmp_path: Path) -> Iterator[Mount]:
    """A mount that uploads at a flush only."""
    with Mount(swift, container, tmp_path / "mount", OPTIONS) as found:
        yield found


def write_new(path: Path, data: bytearray) -> None:
    path.unlink()
    data[:] = noise(3 * MIB, 7)
    path.write_bytes(data)


@pytest.mark.matrix(2)
@pytest.mark.parametrize("operation", [patch, append, cut, write_new])
def test_a_mount_that_dies_after_a_lost_manifest(
    mount: Mount,
    swift: SwiftServer,
    container: str,
    connection: Connection,
    operation: Callable[[Path, bytearray], None],
) -> None:
    data, path = bytearray(noise(4 * MIB)), mount.path / "file"
    path.write_bytes(data)
    store(mount)
    operation(path, data)
    lost = Fault(method="PUT", path=f"/{container}/file.*multipart-manifest=put", reset=True, after=True)
    swift.inject(lost)
    # A flush that returns when the mount has died.
    orders = subprocess.Popen(
        [sys.executable, "-m", "swiftfs", "flush", mount.path], stderr=subprocess.DEVNULL
    )
    wait_until(lambda: download(connection, container, "file") == data)
    mount.kill()
    orders.wait()
    swift.clear_faults()
    mount.start()
    store(mount)
    assert path.read_bytes() == data
    mount.stop()
    assert download(connection, container, "file") == data
    assert manifest_names(connection, container, "file") <= segment_names(connection, container)


def test_segments_that_another_client_s_manifest_names_in_a_drop_box_stay(
    mount: Mount, swift: SwiftServer, container: str, connection: Connection
) -> None:
    mine, view = mount.path / "mine", mount.path / "view"
    data = noise(3 * MIB)
    mine.write_bytes(data)
    store(mount)
    invoices = f"{container}-published"
    connection.put_container(invoices)
    connection.put_object(invoices, "invoice.pdf", b"to be paid")
    parts = [{"path": f"/{invoices}/invoice.pdf"}]
    parts += [{"path": name} for name in sorted(manifest_names(connection, container, "mine"))]
    connection.put_object(container, "view", json.dumps(parts), query_string="multipart-manifest=put")
    mount.remount(empty_cache=False)
    assert view.stat().st_size == 10 + len(data)
    view.unlink()
    store(mount)
    assert download(connection, invoices, "invoice.pdf") == b"to be paid"
    assert download(connection, container, "mine") == data
    mine.rename(mount.path / "moved")
    mount.remount(empty_cache=False)
    (mount.path / "moved").unlink()
    store(mount)
    assert segment_names(connection, container) == set()
    assert "4 segments that" in mount.log.read_text()


def test_two_mounts_that_append_and_patch_and_keep_both(
    swift: SwiftServer, container: str, connection: Connection, tmp_path: Path
) -> None:
    options = f"{OPTIONS},conflict=keep"
    data = noise(4 * MIB)
    with (
        Mount(swift, container, tmp_path / "ours", options) as ours,
        Mount(swift, container, tmp_path / "theirs", options) as theirs,
    ):
        ours.expected.append("was changed by another client")
        (ours.path / "file").write_bytes(data)
        store(ours)
        theirs.remount()
        patched = bytearray(data)
        patch(ours.path / "file", patched)
        appended = bytearray(data)
        append(theirs.path / "file", appended)
        store(theirs)
        store(ours)
        patch(ours.path / "file", patched)
        store(ours)
        (beside,) = [
            row["name"] for row in connection.get_container(container)[1] if "conflict" in row["name"]
        ]
        theirs.remount()
        cut(theirs.path / "file", patched)
        store(theirs)
        assert download(connection, container, beside) == appended
        (theirs.path / beside).unlink()
        store(theirs)
    assert download(connection, container, "file") == patched
    assert segment_names(connection, container) == manifest_names(connection, container, "file")
