"""X-Delete-At: Swift deletes the manifest of a large file then, but no segment."""

import os
import time
from pathlib import Path

import pytest
from swiftclient import Connection

from support.commands import swiftfs
from support.mounts import Mount
from support.other_users import NOBODY, as_root, refused_to_nobody
from swiftfs.demo.server import Fault, SwiftServer
from swiftfs.errors import ConfigurationError

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


@pytest.mark.mount_options("segment_size=1M")
@pytest.mark.parametrize("size", [10, 3 * MIB])
def test_a_user_sets_and_removes_the_time(
    mounted: Mount, connection: Connection, container: str, size: int
) -> None:
    film = mounted.path / "film"
    film.write_bytes(os.urandom(size))
    for text in (b"+30d", b"+12h", b"2100-01-01", b"4102444800"):
        os.setxattr(film, "swift.delete_at", text)
        moment = connection.head_object(container, "film")["x-delete-at"]
        shown = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(int(moment)))
        assert os.getxattr(film, "swift.delete_at").decode() == shown
        assert size < MIB or expiries(connection, container) == {moment}
    film.chmod(0o600)
    mounted.remount()
    film.rename(mounted.path / "other")
    assert connection.head_object(container, "other")["x-delete-at"] == "4102444800"
    os.removexattr(mounted.path / "other", "swift.delete_at")
    assert "x-delete-at" not in connection.head_object(container, "other")
    assert size < MIB or expiries(connection, container) == {None}
    with pytest.raises(OSError, match="Invalid argument"):
        os.setxattr(mounted.path / "other", "swift.delete_at", b"2001-01-01")
    assert os.listxattr(mounted.path / "other") == []


@pytest.mark.mount_options("settle=1000,segment_size=1M")
def test_a_time_survives_a_kill_in_the_journal(
    mounted: Mount, connection: Connection, container: str
) -> None:
    film = mounted.path / "film"
    film.write_bytes(os.urandom(3 * MIB))
    os.setxattr(film, "swift.delete_at", b"2100-01-01T00:00:00Z")
    mounted.kill()
    mounted.start()
    assert os.getxattr(film, "swift.delete_at") == b"2100-01-01T00:00:00Z"
    assert swiftfs("flush", mounted.path).returncode == 0
    assert connection.head_object(container, "film")["x-delete-at"] == "4102444800"
    assert expiries(connection, container) == {"4102444800"}


@as_root
@pytest.mark.mount_options("allow_other")
@pytest.mark.reachable
def test_only_the_owner_sets_the_time(mounted: Mount) -> None:
    for name, owner in (("ours", 0), ("theirs", NOBODY)):
        (mounted.path / name).write_text("text")
        os.chown(mounted.path / name, owner, owner)

    def attempt(name: str) -> None:
        try:
            os.setxattr(mounted.path / name, "swift.delete_at", b"+1d")
        except PermissionError:
            raise ConfigurationError("refused") from None

    assert refused_to_nobody(lambda: attempt("ours")) == "refused"
    assert refused_to_nobody(lambda: attempt("theirs")) == ""


def test_rules_of_the_configuration_file_count(
    swift: SwiftServer, connection: Connection, container: str, tmp_path: Path
) -> None:
    (config := tmp_path / "config.toml").write_text('[expire]\n"logs/" = "90d"\n')
    config.chmod(0o600)
    with Mount(swift, container, tmp_path / "mount", flags=("--config", str(config))) as mount:
        (mount.path / "logs").mkdir()
        (mount.path / "logs" / "today").write_text("text")
        (mount.path / "other").write_text("text")
    moment = int(connection.head_object(container, "logs/today")["x-delete-at"])
    assert abs(moment - time.time() - 90 * 86_400) < 600
    assert "x-delete-at" not in connection.head_object(container, "other")
    result = swiftfs("check", container, "--expiry", environment=swift.environment())
    assert "1 expire" in result.stdout
