"""Renames during changes of other clients, which they never overwrite or delete, and with late listings.

These run in a real mount.
"""

import errno
from concurrent.futures import ThreadPoolExecutor

import pytest
from swiftclient import Connection

from support.jobs import wait_until
from support.mounts import Mount
from swiftfs.demo.server import Fault, SwiftServer


def filled(connection: Connection, container: str, key: str, data: bytes) -> None:
    connection.put_object(container, key, data, content_type="text/plain")


def test_changes_by_another_client_during_a_move_are_kept(
    mounted: Mount, swift: SwiftServer, connection: Connection, container: str
) -> None:
    for name in "abc":
        filled(connection, container, f"old/{name}", b"first")
    mounted.expected.append("another client changed")
    swift.inject(Fault("COPY", "/old/c", delay=1.5))
    with ThreadPoolExecutor(1) as pool:
        renamed = pool.submit((mounted.path / "old").rename, mounted.path / "new")
        listed = f"{container}/new/a"
        wait_until(
            lambda: listed in [f"{container}/{row['name']}" for row in connection.get_container(container)[1]]
        )
        filled(connection, container, "old/a", b"theirs")
        renamed.result()
    assert connection.get_object(container, "old/a")[1] == b"theirs"
    names = [row["name"] for row in connection.get_container(container)[1]]
    assert names == ["new/a", "new/b", "new/c", "old/a"]


def test_a_target_filled_within_the_ttl_keeps_what_is_in_it(
    mounted: Mount, swift: SwiftServer, connection: Connection, container: str
) -> None:
    mounted.expected.append("the folder was not moved")
    filled(connection, container, "old/a", b"ours")
    filled(connection, container, "old/b", b"ours")
    (mounted.path / "new").mkdir()
    assert list((mounted.path / "new").iterdir()) == []
    filled(connection, container, "new/a", b"theirs")
    swift.inject(Fault("COPY", "/old/b", status=503))
    with pytest.raises(OSError, match="new") as caught:
        (mounted.path / "old").rename(mounted.path / "new")
    assert caught.value.errno == errno.ENOTEMPTY
    assert connection.get_object(container, "new/a")[1] == b"theirs"
    assert (mounted.path / "new" / "a").read_bytes() == b"theirs"
