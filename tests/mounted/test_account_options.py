"""Mounts of a whole account: containers as folders, containers of segments, storage policies."""

import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from swiftclient import Connection

from support.mounts import Mount, clean_environment, run
from swiftfs.demo.server import Fault, SwiftServer
from swiftfs.errors import BadRequest
from swiftfs.store.account_settings import AccountSettings
from swiftfs.store.connect import connect
from swiftfs.store.wire.info import read_limits


@pytest.fixture
def account(swift: SwiftServer, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Mount]:
    """The whole account, mounted."""
    marker = request.node.get_closest_marker("mount_options")
    with Mount(swift, "/", tmp_path, marker.args[0] if marker else "") as mount:
        yield mount


def test_containers_of_segments_are_hidden(connection: Connection, container: str, account: Mount) -> None:
    connection.put_container(f"{container}_segments")
    names = [path.name for path in account.path.iterdir()]
    assert container in names
    assert f"{container}_segments" not in names
    assert not (account.path / f"{container}_segments").exists()


@pytest.mark.mount_options("show_segments,ttl=0")
def test_containers_of_segments_are_shown_when_asked_for(
    connection: Connection, container: str, account: Mount
) -> None:
    connection.put_container(f"{container}_segments")
    assert {container, f"{container}_segments"} <= {path.name for path in account.path.iterdir()}


def test_making_a_container_that_exists_is_refused(
    connection: Connection, container: str, account: Mount
) -> None:
    with pytest.raises(FileExistsError):
        (account.path / container).mkdir()
    connection.put_container(f"{container}_segments")
    with pytest.raises(FileExistsError):
        (account.path / f"{container}_segments").mkdir()


@pytest.mark.mount_options("storage_policy=demo")
def test_containers_are_made_with_the_storage_policy(
    swift: SwiftServer, connection: Connection, container: str, account: Mount
) -> None:
    (account.path / f"{container}new").mkdir()
    made = [request for request in swift.requests() if request.method == "PUT"]
    assert [request.headers.get("X-Storage-Policy") for request in made] == ["demo"]
    assert connection.head_container(f"{container}new")["x-storage-policy"] == "demo"


@pytest.mark.mount_options("storage_policy=demo,segment_size=1M")
def test_a_container_of_segments_is_made_with_the_storage_policy(
    swift: SwiftServer, mounted: Mount, container: str
) -> None:
    (mounted.path / "large").write_bytes(bytes(3_000_000))
    mounted.remount()
    segments = f"/v1/AUTH_test/{container}_segments"
    made = [request for request in swift.requests() if (request.method, request.path) == ("PUT", segments)]
    assert made
    assert {request.headers.get("X-Storage-Policy") for request in made} == {"demo"}


def test_an_unknown_policy_is_refused_before_the_mount(
    swift: SwiftServer, container: str, connection: Connection, tmp_path: Path
) -> None:
    environment = {**clean_environment(), **swift.environment()}
    words = ("-m", "swiftfs", "mount", container, tmp_path, "--foreground", "-o", "storage_policy=gold")
    said = run(sys.executable, *words, check=False, environment=environment)
    assert "storage_policy=gold: the server has demo" in said
    assert not os.path.ismount(tmp_path)


def test_creating_a_container_with_an_unknown_policy_is_einval(swift: SwiftServer, container: str) -> None:
    connected = connect(swift.environment(), AccountSettings(storage_policy="gold"))
    try:
        with pytest.raises(BadRequest, match=r"[Pp]olicy.*gold") as caught:
            connected.store.create_container(container)
    finally:
        connected.close()
    assert caught.value.errno == errno.EINVAL


def test_a_container_that_has_another_policy_exists_already(swift: SwiftServer, container: str) -> None:
    swift.inject(Fault("PUT", f"/{container}", status=409, times=1))
    connected = connect(swift.environment(), AccountSettings(storage_policy="demo"))
    try:
        assert connected.store.create_container(container) is False
        assert connected.store.create_container(container) is True
    finally:
        connected.close()


def test_policies_are_read_with_their_aliases() -> None:
    body = b'{"swift": {"policies": [{"name": "gold", "aliases": "gold, Au"}, {"name": "tin"}, 7]}}'
    assert read_limits(body, {}).policies == ("gold", "Au", "tin")
    assert read_limits(b'{"swift": {"policies": 3}}', {}).policies == ()
