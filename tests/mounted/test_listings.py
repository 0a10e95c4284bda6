"""Listings on real mounts: pages, all kinds of folders, sizes of large objects, the requests of `ls -l`."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from swiftclient import Connection

from support.found_objects import keys
from support.mounts import Mount, run, swift_cli
from swiftfs.demo.server import ServerSettings, SwiftServer
from swiftfs.store.wire.object_headers import META

DIRECTORY = "application/directory"


@pytest.fixture(scope="module")
def paging_server() -> Iterator[SwiftServer]:
    """A server whose listings have 5 rows."""
    with SwiftServer(settings=ServerSettings(listing_limit=5)) as running:
        yield running


def listed(path: Path) -> list[str]:
    return [child.name for child in path.iterdir()]


def marker(connection: Connection, container: str, key: str) -> None:
    connection.put_object(container, key, b"", content_type=DIRECTORY)


def cost(swift: SwiftServer, container: str) -> Counter[str]:
    """Return the number of requests of each method for the container or its objects."""
    return Counter(one.method for one in swift.requests() if container in one.path.split("/"))


def test_pages_follow_each_other(paging_server: SwiftServer, tmp_path: Path) -> None:
    connection = Connection(paging_server.auth_url, paging_server.user, paging_server.key)
    connection.put_container("pages")
    wanted = [f"n{number:02d}" for number in range(13)]
    for name in wanted:
        connection.put_object("pages", f"folder/{name}", name.encode())
        connection.put_object("pages", f"{name}/below", b"x")
        connection.put_object("pages", f"{name}.txt", b"x")
    marker(connection, "pages", "n04")
    connection.put_object("pages", "n05", b"beside")
    with Mount(paging_server, "pages", tmp_path) as mounted:
        assert sorted(listed(mounted.path / "folder")) == wanted
        assert (mounted.path / "folder" / "n12").read_bytes() == b"n12"
        top = {*wanted, "folder", "n05%file"} | {f"{name}.txt" for name in wanted}
        found = listed(mounted.path)
        assert len(found) == len(top)
        assert set(found) == top
        assert all((mounted.path / name).is_dir() for name in wanted)
        assert (mounted.path / "n05%file").read_bytes() == b"beside"
        (mounted.path / "n06.txt").unlink()
        (mounted.path / "added").touch()
        assert set(listed(mounted.path)) == (top | {"added"}) - {"n06.txt"}
        with pytest.raises(FileNotFoundError):
            (mounted.path / "missing").stat()
    connection.close()


def test_markers_of_all_kinds(mounted: Mount, connection: Connection, container: str) -> None:
    marker(connection, container, "plain")
    connection.put_object(container, "plain/child", b"1")
    marker(connection, container, "slash/")
    connection.put_object(container, "slash/child", b"2")
    marker(connection, container, "both")
    marker(connection, container, "both/")
    connection.put_object(container, "implied/deep/child", b"3")
    marker(connection, container, "empty")
    connection.put_object(container, "old", b"", content_type="text/directory")
    connection.put_object(container, "d.txt", b"4")
    connection.put_object(container, "d-0/child", b"5")
    marker(connection, container, "d")
    mounted.remount()
    folders = ["both", "d", "d-0", "empty", "implied", "old", "plain", "slash"]
    assert sorted(listed(mounted.path)) == sorted([*folders, "d.txt"])
    assert all((mounted.path / name).is_dir() for name in folders)
    assert listed(mounted.path / "both") == listed(mounted.path / "empty") == []
    assert listed(mounted.path / "slash") == listed(mounted.path / "plain") == ["child"]
    assert (mounted.path / "implied" / "deep" / "child").read_bytes() == b"3"
    (mounted.path / "both").rmdir()
    mounted.remount()
    assert not {"both", "both/"} & set(keys(connection, container))


def test_a_folder_stays_when_its_last_child_goes(
    mounted: Mount, connection: Connection, container: str
) -> None:
    for key in ("one/file", "two/file", "three/sub/file"):
        connection.put_object(container, key, b"x")
    mounted.remount()
    (mounted.path / "one" / "file").unlink()
    (mounted.path / "two" / "file").rename(mounted.path / "moved")
    (mounted.path / "three" / "sub").rename(mounted.path / "four")
    for _ in range(2):
        assert sorted(listed(mounted.path)) == ["four", "moved", "one", "three", "two"]
        assert listed(mounted.path / "one") == listed(mounted.path / "two") == []
        assert listed(mounted.path / "three") == []
        mounted.remount()
    (mounted.path / "one").rmdir()
    assert sorted(listed(mounted.path)) == ["four", "moved", "three", "two"]


def test_sizes_of_large_objects(
    mounted: Mount, swift: SwiftServer, connection: Connection, container: str, tmp_path: Path
) -> None:
    parts = f"{container}_segments"
    connection.put_container(parts)
    for number in range(3):
        connection.put_object(parts, f"dlo/{number}", b"x" * 1000)
    connection.put_object(container, "dlo", b"", headers={"X-Object-Manifest": f"{parts}/dlo/"})
    body = os.urandom(2_500_000)
    (tmp_path / "slo").write_bytes(body)
    swift_cli(swift, "upload", container, "slo", "-S", "1000000", "--use-slo", cwd=tmp_path)
    connection.put_object(container, "empty", b"")
    mounted.remount()
    sizes = {name: (mounted.path / name).stat().st_size for name in ("dlo", "slo", "empty")}
    assert sizes == {"dlo": 3000, "slo": 2_500_000, "empty": 0}
    assert (mounted.path / "dlo").read_bytes() == b"x" * 3000
    assert (mounted.path / "slo").read_bytes() == body
    (mounted.path / "dlo").chmod(0o600)
    mounted.remount()
    assert (mounted.path / "dlo").stat().st_size == 3000


def test_ls_costs_one_request_where_we_wrote(mounted: Mount, swift: SwiftServer, container: str) -> None:
    for number in range(30):
        (mounted.path / f"file{number}").write_bytes(b"x" * number)
    (mounted.path / "link").symlink_to("file1")
    mounted.remount()
    swift.reset_requests()
    listing = run("ls", "-ln", mounted.path)
    assert len(listing.splitlines()) == 32
    assert "link -> file1" in listing
    assert cost(swift, container) == {"GET": 1}
    run("ls", "-ln", mounted.path)
    assert cost(swift, container) == {"GET": 1}


def test_ls_costs_a_head_for_each_foreign_object(
    mounted: Mount, swift: SwiftServer, connection: Connection, container: str
) -> None:
    for number in range(20):
        headers = {f"{META}mtime": f"{1_000_000_000 + number}.25"}
        connection.put_object(container, f"file{number:02d}", b"x", headers=headers)
    mounted.remount()
    swift.reset_requests()
    listing = run("ls", "-l", "--time-style=+%s.%N", mounted.path).splitlines()[1:]
    assert [line.split()[5] for line in listing] == [f"{10**9 + n}.250000000" for n in range(20)]
    assert cost(swift, container) == {"GET": 1, "HEAD": 20}
    mounted.remount(empty_cache=False)
    swift.reset_requests()
    assert run("ls", "-l", "--time-style=+%s.%N", mounted.path).splitlines()[1:] == listing
    assert cost(swift, container) == {"GET": 1}


@pytest.mark.mount_options("mtime=listing")
def test_ls_costs_one_request_where_the_listing_is_enough(
    mounted: Mount, swift: SwiftServer, connection: Connection, container: str
) -> None:
    for number in range(5):
        connection.put_object(container, f"file{number}", b"x")
    mounted.remount()
    swift.reset_requests()
    assert len(run("ls", "-l", mounted.path).splitlines()) == 6
    assert cost(swift, container) == {"GET": 1}


@pytest.mark.mount_options("ttl=0")
def test_changes_of_other_clients_are_seen(mounted: Mount, connection: Connection, container: str) -> None:
    assert listed(mounted.path) == []
    connection.put_object(container, "new", json.dumps(1))
    assert listed(mounted.path) == ["new"]
    assert (mounted.path / "new").read_bytes() == b"1"
    connection.put_object(container, "new", b"changed")
    assert (mounted.path / "new").read_bytes() == b"changed"
    connection.delete_object(container, "new")
    assert listed(mounted.path) == []
