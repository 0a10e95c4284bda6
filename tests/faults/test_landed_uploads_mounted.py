"""An upload was executed but not confirmed, in a real mount."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from swiftclient import Connection

from support.jobs import wait_until
from support.large_files import append, cut, manifest_names, patch, segment_names
from support.mounts import Mount
from support.noise import noise
from swiftfs.demo.server import Fault, SwiftServer


@pytest.mark.matrix(1)
# Without the check of each manifest before a read, which would be refused too.
@pytest.mark.mount_options("segment_size=1M,settle=1000,read_ahead=0,foreign_manifests=follow")
@pytest.mark.parametrize("operation", [patch, append, cut])
def test_a_reader_of_a_mount_that_was_killed(
    mounted: Mount,
    swift: SwiftServer,
    connection: Connection,
    container: str,
    operation: Callable[[Path, bytearray], None],
) -> None:
    """The reader comes before any attempt succeeds: Swift refuses the manifest."""
    data, path = bytearray(noise(4_000_000)), mounted.path / "file"
    path.write_bytes(data)
    mounted.remount()
    operation(path, data)
    manifest = f"/{container}/file.*multipart-manifest="
    swift.inject(Fault("PUT", f"{manifest}put", reset=True, after=True))
    orders = subprocess.Popen(
        [sys.executable, "-m", "swiftfs", "flush", mounted.path], stderr=subprocess.DEVNULL
    )
    wait_until(lambda: connection.get_object(container, "file")[1] == data)
    mounted.kill()
    orders.wait()
    swift.clear_faults()
    swift.inject(Fault("GET", f"{manifest}get", status=503))
    mounted.start()
    assert path.read_bytes() == data
    patch(path, data)
    assert path.read_bytes() == data
    swift.clear_faults()
    mounted.remount()
    assert path.read_bytes() == data
    # What a manifest that may come late names stays for ten minutes.
    assert manifest_names(connection, container, "file") <= segment_names(connection, container)
