"""Containers of segments: beside the container, in a hidden folder of it, or one given by an option.

These run in a real mount.
"""

import errno
import shutil
from collections.abc import Callable

import pytest
from swiftclient import Connection

from support.found_objects import keys
from support.mounts import Mount
from support.noise import OLD
from swiftfs.demo.server import Fault, SwiftServer
from swiftfs.paths import SEGMENTS_FOLDER

MIB = 1024 * 1024


def use(mounted: Mount, connection: Connection) -> None:
    """Write, read, patch, rename and delete large files."""
    box = mounted.source
    (mounted.path / "d").mkdir()
    for name in ("a", "b"):
        (mounted.path / "d" / name).write_bytes(OLD)
    mounted.remount()
    changed = bytearray(OLD)
    changed[MIB + 7 : MIB + 9] = b"!!"
    with (mounted.path / "d" / "a").open("r+b") as file:
        file.seek(MIB + 7)
        file.write(b"!!")
    (mounted.path / "d" / "b").unlink()
    (mounted.path / "d").rename(mounted.path / "e")
    assert [path.name for path in mounted.path.iterdir()] == ["e"]
    mounted.stop()
    shutil.rmtree(mounted.cache / "content")  # the journal stays: it knows whose segments `e/a` has
    mounted.start()
    assert (mounted.path / "e" / "a").read_bytes() == bytes(changed)
    assert [path.name for path in mounted.path.iterdir()] == ["e"]
    assert connection.get_object(box, "e/a")[1] == bytes(changed)


@pytest.mark.mount_options("segment_size=1M,segments=same")
def test_segments_in_the_same_container_are_hidden(mounted: Mount, connection: Connection) -> None:
    use(mounted, connection)
    assert f"{mounted.source}_segments" not in [row["name"] for row in connection.get_account()[1]]
    hidden = [key for key in keys(connection, mounted.source) if key.startswith(f"{SEGMENTS_FOLDER}/")]
    assert hidden
    assert all(key.startswith(f"{SEGMENTS_FOLDER}/d/a/swiftfs-") for key in hidden)
    place = mounted.path / SEGMENTS_FOLDER
    assert not place.exists()
    attempts: list[Callable[[], object]] = [place.touch, place.mkdir, lambda: place.symlink_to("x")]
    for attempt in attempts:
        with pytest.raises(OSError, match="not permitted") as caught:
            attempt()
        assert caught.value.errno == errno.EPERM
    (mounted.path / "e" / "a").unlink()
    mounted.remount()
    assert keys(connection, mounted.source) == ["e"]


@pytest.mark.mount_options("segment_size=1M,segments=pieces")
def test_segments_go_to_the_given_container(mounted: Mount, connection: Connection) -> None:
    use(mounted, connection)
    place = f"{mounted.source}/.swiftfs-segments/d/a/swiftfs-"
    assert any(key.startswith(place) for key in keys(connection, "pieces"))
    assert keys(connection, mounted.source) == ["e", "e/a"]


@pytest.mark.mount_options("segment_size=1M")
@pytest.mark.parametrize("status", [403, 400])
def test_segments_go_to_the_same_container_if_none_can_be_created(
    mounted: Mount, connection: Connection, swift: SwiftServer, status: int
) -> None:
    swift.inject(Fault(method="PUT", path=r"_segments\??$", status=status))
    use(mounted, connection)
    lines = [line for line in mounted.log.read_text().splitlines() if "segments of" in line]
    assert len(lines) == 1, "the second mount finds where the segments are"
    assert f"go to {mounted.source}/{SEGMENTS_FOLDER}: create_container" in lines[0]
    assert str(status) in lines[0]
