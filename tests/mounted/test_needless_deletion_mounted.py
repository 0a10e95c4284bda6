"""A rename over a name that was just deleted: the deletion is needless, and must not run during the copy.

These run in a real mount.
"""

import pytest
from swiftclient import Connection

from support.mounts import Mount
from swiftfs.demo.server import Fault, SwiftServer


@pytest.mark.mount_options("settle=2")
def test_mv_over_a_name_that_was_just_removed_keeps_the_file(
    mounted: Mount, swift: SwiftServer, connection: Connection, container: str
) -> None:
    """The copy is fast and the deletion of the old name slow, so that the write delay of b ends meanwhile."""
    connection.put_object(container, "a", b"new")
    connection.put_object(container, "b", b"old")
    mounted.remount()
    assert sorted(path.name for path in mounted.path.iterdir()) == ["a", "b"]
    swift.inject(Fault("DELETE", f"/{container}/a", delay=4, times=1))
    (mounted.path / "b").unlink()
    (mounted.path / "a").rename(mounted.path / "b")
    assert [path.name for path in mounted.path.iterdir()] == ["b"]
    mounted.remount()
    assert (mounted.path / "b").read_bytes() == b"new"
    assert [row["name"] for row in connection.get_container(container)[1]] == ["b"]
