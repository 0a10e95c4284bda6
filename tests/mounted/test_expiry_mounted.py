"""X-Delete-At, which another client gave a large file: Swift deletes its manifest then, but no segment."""

import os
import time

import pytest
from swiftclient import Connection

from support.mounts import Mount
from swiftfs.demo.server import Fault

MIB = 1024**2


def expiries(connection: Connection, container: str) -> set[str | None]:
    """Return the X-Delete-At of all segments of the container's files."""
    place = f"{container}_segments"
    names = [row["name"] for row in connection.get_container(place)[1]]
    assert names
    return {connection.head_object(place, name).get("x-delete-at") for name in names}


def expire(connection: Connection, container: str, days: int) -> str:
    """Let Swift delete `film` in so many days, as another client does; return the time."""
    moment = str(int(time.time()) + days * 86_400)
    connection.post_object(container, "film", headers={"X-Delete-At": moment})
    return moment


@pytest.mark.mount_options("segment_size=1M")
@pytest.mark.parametrize("kind", ["patch", "whole"])
def test_segments_expire_with_their_object(
    mounted: Mount, connection: Connection, container: str, kind: str
) -> None:
    film = mounted.path / "film"
    film.write_bytes(os.urandom(4 * MIB))
    assert expiries(connection, container) == {None}
    for days in (30, 90):
        moment = expire(connection, container, days)
        mounted.remount()
        with film.open("r+b") as file:
            file.seek(MIB + 5)
            file.write(os.urandom(10 if kind == "patch" else 3 * MIB))
        mounted.remount()
        assert connection.head_object(container, "film")["x-delete-at"] == moment
        assert expiries(connection, container) == {moment}


@pytest.mark.mount_options("segment_size=1M")
def test_a_segment_that_cannot_expire_is_told(mounted: Mount, connection: Connection, container: str) -> None:
    mounted.expected = ["stay when Swift deletes it at its X-Delete-At"]
    film = mounted.path / "film"
    film.write_bytes(os.urandom(3 * MIB))
    moment = expire(connection, container, 30)
    mounted.remount()
    mounted.swift.inject(Fault("POST", f"{container}_segments/", status=403))
    try:
        with film.open("r+b") as file:
            file.write(b"x")
        mounted.remount()
    finally:
        mounted.swift.clear_faults()
    assert connection.head_object(container, "film")["x-delete-at"] == moment
    assert "film: 3 segments stay" in mounted.log.read_text()
