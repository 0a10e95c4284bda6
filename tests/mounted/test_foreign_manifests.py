"""Large objects and symlinks in a mounted container whose bytes lie elsewhere are not read."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from swiftclient import Connection

from support.mounts import Mount, run
from swiftfs.demo.server import SwiftServer

SECRET = b"for the owner only"


def put_dlo(connection: Connection, container: str, key: str, prefix: str) -> None:
    connection.put_object(container, key, b"", headers={"X-Object-Manifest": prefix})


def put_slo(connection: Connection, container: str, key: str, *segments: str, **more: object) -> None:
    entries = [{"path": f"/{segment}", **more} for segment in segments]
    connection.put_object(container, key, json.dumps(entries), query_string="multipart-manifest=put")


def put_symlink(connection: Connection, container: str, key: str, target: str) -> None:
    connection.put_object(container, key, b"", headers={"X-Symlink-Target": target})


def put_nested(connection: Connection, container: str, key: str, target: str) -> None:
    put_slo(connection, container, f"{key}-inner", target)
    put_slo(connection, container, key, f"{container}/{key}-inner")


KINDS: dict[str, Callable[[Connection, str, str, str], None]] = {
    "dlo": put_dlo,
    "slo": put_slo,
    "symlink": put_symlink,
    "nested": put_nested,
}


@pytest.fixture
def private(connection: Connection, container: str) -> Iterator[str]:
    """A container that only the owner may read; it holds `secret`."""
    name = f"{container}-private"
    connection.put_container(name)
    connection.put_object(name, "secret", SECRET)
    yield name
    connection.delete_object(name, "secret")
    connection.delete_container(name)


def mount(swift: SwiftServer, source: str, folder: Path, options: str = "") -> Mount:
    mounted = Mount(swift, source, folder, options)
    mounted.expected.append("is not read: its bytes lie in")
    return mounted


def read(path: Path) -> bytes:
    return path.read_bytes()


def append(path: Path) -> bytes:
    with path.open("ab") as file:
        return bytes([file.write(b"more")])


def change(path: Path) -> bytes:
    with path.open("r+b") as file:
        return file.read(1)


def cut(path: Path) -> bytes:
    os.truncate(path, 3)
    return b""


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_of_another_container_are_not_read(
    swift: SwiftServer, connection: Connection, container: str, private: str, tmp_path: Path, kind: str
) -> None:
    KINDS[kind](connection, container, "bait", f"{private}/secret")
    with mount(swift, container, tmp_path) as mounted:
        bait = mounted.path / "bait"
        assert bait.stat().st_size in (len(SECRET), 0)
        calls = [read, append, change] if kind == "symlink" else [read, append, change, cut]
        for call in calls:
            with pytest.raises(PermissionError):
                call(bait)
        copy = run("cp", bait, mounted.path / "copy", check=False)
        assert "Permission denied" in copy
        (mounted.path / "copy").unlink(missing_ok=True)
        line = f"bait is not read: its bytes lie in {private}/secret; foreign_manifests=follow allows it)"
        assert line in mounted.log.read_text()
        # What the owner does not want to read can be moved, replaced and deleted.
        bait.rename(mounted.path / "moved")
        with pytest.raises(PermissionError):
            read(mounted.path / "moved")
        (mounted.path / "moved").write_bytes(b"new")
        assert read(mounted.path / "moved") == b"new"
        for path in mounted.path.iterdir():
            path.unlink()
    assert connection.get_object(private, "secret")[1] == SECRET
    assert connection.get_container(container)[1] == []


def test_a_large_object_is_refused_before_its_copy_is_made(
    swift: SwiftServer, connection: Connection, container: str, private: str, tmp_path: Path
) -> None:
    put_slo(connection, container, "slo", f"{private}/secret")
    put_dlo(connection, container, "dlo", f"{private}/secret")
    with mount(swift, container, tmp_path) as mounted:
        for name in ("slo", "dlo"):
            run("cp", mounted.path / name, mounted.path / "copy", check=False)
            assert not (mounted.path / "copy").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_they_are_read_if_the_option_says_so(
    swift: SwiftServer, connection: Connection, container: str, private: str, tmp_path: Path, kind: str
) -> None:
    KINDS[kind](connection, container, "bait", f"{private}/secret")
    with Mount(swift, container, tmp_path, "foreign_manifests=follow") as mounted:
        assert read(mounted.path / "bait") == SECRET


@pytest.mark.parametrize(
    "place",
    [
        "{0}/other",
        "{0}/.file-segments/bait/1",
        "{0}_segments/bait/1",
        "segments-for-{0}/bait/1",
        "{0}-private/{0}/bait/swiftfs-0123456789abcdef0123456789abcdef/1",
    ],
)
def test_segments_in_their_places_are_read(
    swift: SwiftServer, connection: Connection, container: str, tmp_path: Path, place: str
) -> None:
    segment = place.format(container)
    connection.put_container(segment.partition("/")[0])
    connection.put_object(*segment.split("/", 1), SECRET)
    put_slo(connection, container, "slo", segment)
    if "swiftfs-" not in place:
        put_dlo(connection, container, "dlo", segment)
    with Mount(swift, container, tmp_path) as mounted:
        for path in mounted.path.glob("?lo"):
            assert read(path) == SECRET


def test_listing_and_looking_cost_nothing(
    swift: SwiftServer, connection: Connection, container: str, private: str, tmp_path: Path
) -> None:
    for number in range(5):
        put_slo(connection, container, f"slo{number}", f"{private}/secret")
    with mount(swift, container, tmp_path) as mounted:
        swift.reset_requests()
        run("ls", "-l", mounted.path)
        assert not [one for one in swift.requests() if "multipart-manifest" in one.query]


def test_each_version_is_checked_once(
    swift: SwiftServer, connection: Connection, container: str, tmp_path: Path
) -> None:
    connection.put_container(f"{container}_segments")
    connection.put_object(f"{container}_segments", "big/1", bytes(2**20))
    put_slo(connection, container, "big", f"{container}_segments/big/1")
    with Mount(swift, container, tmp_path) as mounted:
        big = mounted.path / "big"
        assert read(big) == bytes(2**20)
        assert requests(swift) == 1  # before the first byte, and for the checksums
        swift.reset_requests()
        assert read(big) == bytes(2**20)
        assert requests(swift) == 0


def requests(swift: SwiftServer) -> int:
    """Return how many manifests were read."""
    return sum(one.query == "multipart-manifest=get" and one.status == 200 for one in swift.requests())


def test_an_append_copies_nothing_of_another_container_on_the_server(
    swift: SwiftServer, connection: Connection, container: str, private: str, tmp_path: Path
) -> None:
    """The old bytes of a large file are not needed here, so its change copies them from object to object."""
    connection.put_object(private, "secret", bytes(2**21))
    put_symlink(connection, container, "bait", f"{private}/secret")
    mounted = mount(swift, container, tmp_path, "segment_size=1M")
    mounted.expected.append("its last changes are lost")  # the program has got the error
    with mounted:
        with pytest.raises(PermissionError):
            append(mounted.path / "bait")
        assert not [one for one in swift.requests() if one.method == "COPY"]
