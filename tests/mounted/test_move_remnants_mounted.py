"""Objects that a rename cannot delete at the old place: reported and tried again; their segments stay.

These run in a real mount.
"""

import os

import pytest
from swiftclient import Connection

from support.jobs import wait_until
from support.mounts import Mount
from swiftfs.control.client import read_report
from swiftfs.demo.server import Fault, SwiftServer


@pytest.mark.matrix(1)
@pytest.mark.parametrize("folder", [True, False])
def test_a_large_file_survives_the_refusal_of_its_deletion(
    mounted: Mount, swift: SwiftServer, connection: Connection, container: str, folder: bool
) -> None:
    mounted.expected += [
        "until Swift deletes it",
        "the next mount continues with",
        "is parked, because it cannot be stored",
    ]
    data = os.urandom(20_000_000)
    (mounted.path / "d").mkdir()
    (mounted.path / "d" / "large").write_bytes(data)
    (mounted.path / "d" / "small").write_bytes(b"small")
    swift.inject(Fault("POST", "bulk-delete.*", status=403))
    swift.inject(Fault("DELETE", "/d", status=403))
    if folder:
        (mounted.path / "d").rename(mounted.path / "e")
    else:
        (mounted.path / "e").mkdir()
        (mounted.path / "d" / "large").rename(mounted.path / "e" / "large")
    mounted.exit_code = None
    mounted_again(mounted)
    assert not (mounted.path / "d" / "large").exists()
    wait_until(lambda: read_report(mounted.path).parked == (3 if folder else 1))
    swift.clear_faults()
    mounted.exit_code = 0
    mounted.remount(empty_cache=False)
    wait_until(lambda: not connection.get_container(container, prefix="d/large")[1])
    assert (mounted.path / "e" / "large").read_bytes() == data
    assert connection.get_object(container, "e/large")[1] == data


def mounted_again(mount: Mount) -> None:
    """Mount again with pending changes, so that the unmount before it reports them."""
    wanted, mount.exit_code = mount.exit_code, 1
    mount.remount(empty_cache=False)
    mount.exit_code = 1 if wanted is None else wanted
