"""Folders larger than a page of a listing, and trees of many pages: few requests, bounded memory."""

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from swiftclient import Connection

from support.deadlines import within
from support.jobs import methods, wait_until
from support.libfuse import is_libfuse3
from support.mounts import Mount, run
from swiftfs.demo.server import Fault, SwiftServer

MIB = 2**20


def rows_of(swift: SwiftServer, container: str, names: list[str]) -> None:
    """List objects that do not exist, in parts, and clear the recorded requests."""
    for start in range(0, len(names), 20_000):
        swift.add_rows(container, names[start : start + 20_000], size=1)
    swift.reset_requests()


def cost(swift: SwiftServer) -> Counter[str]:
    """Return the requests since the last call."""
    found = methods([one for one in swift.requests() if "/auth" not in one.path and one.path != "/info"])
    swift.reset_requests()
    return found


def is_there(path: Path) -> bool:
    """Return whether a path exists, by the listing of its parent or by a lookup of its own."""
    return os.path.lexists(path)


@pytest.mark.slow
@pytest.mark.mount_options("mtime=listing")
def test_120000_names_in_one_folder(mounted: Mount, swift: SwiftServer, container: str) -> None:
    wanted = [f"name{number:06d}" for number in range(120_000)]
    rows_of(swift, container, [f"huge/{name}" for name in wanted])
    assert run("ls", "-f", mounted.path / "huge").split()[2:] == wanted
    listed = cost(swift)
    assert listed.total() <= 16, listed
    peak = mounted.rss_peak()
    print(f"120,000 names: {dict(listed)}, {peak / MIB:.0f} MiB")
    assert peak < 200 * MIB


@pytest.mark.slow
@pytest.mark.mount_options("mtime=listing")
def test_lookups_in_the_order_of_inode_numbers(mounted: Mount, swift: SwiftServer, container: str) -> None:
    """Programs that walk a tree with fts(3) sort more than 10,000 names so."""
    wanted = [f"name{number:06d}" for number in range(21_000)]
    rows_of(swift, container, [f"huge/{name}" for name in wanted])
    found = run("find", mounted.path / "huge", "-type", "f", "-printf", "%f %s\n").splitlines()
    assert sorted(found) == [f"{name} 1" for name in wanted]
    walked = cost(swift)
    assert walked.total() <= 8, walked  # one is for statfs: fts(3) reads the type of the file system


@pytest.mark.mount_options("mtime=listing")
def test_lookups_in_a_huge_folder_that_is_not_listed(
    mounted: Mount, swift: SwiftServer, connection: Connection, container: str
) -> None:
    rows_of(swift, container, [f"huge/name{number:06d}" for number in range(25_000)])
    connection.put_object(container, "huge/name022222", b"the body")
    connection.put_object(container, "huge/zone/child", b"x")
    swift.reset_requests()
    assert (mounted.path / "huge" / "name000001").stat().st_size == 1
    first = cost(swift)
    assert first.total() <= 3, first
    assert (mounted.path / "huge" / "name022222").stat().st_size == 8
    assert cost(swift).total() <= 3
    assert not is_there(mounted.path / "huge" / "name0222222")
    assert cost(swift).total() <= 3
    assert (mounted.path / "huge" / "zone").is_dir()
    assert cost(swift).total() <= 3
    for _ in range(3):
        assert (mounted.path / "huge" / "name022222").stat().st_size == 8
        assert not is_there(mounted.path / "huge" / "name0222222")
    assert not cost(swift)
    assert (mounted.path / "huge" / "name022222").read_bytes() == b"the body"
    assert os.listdir(mounted.path / "huge" / "zone") == ["child"]  # noqa: PTH208  the names are wanted


@pytest.mark.skipif(not is_libfuse3(), reason="with libfuse 2 the kernel sends them one after another")
@pytest.mark.mount_options("mtime=listing")
def test_cold_lookups_in_one_folder_are_asked_at_once(
    mounted: Mount, swift: SwiftServer, connection: Connection, container: str
) -> None:
    """All are at the server before it answers one: they take the time of one."""
    rows_of(swift, container, [f"huge/name{number:06d}" for number in range(12_000)])
    wanted = [f"name01{number}" for number in range(1000, 1016)]
    for name in wanted:
        connection.put_object(container, f"huge/{name}", name.encode())
    assert (mounted.path / "huge" / "name000001").stat().st_size == 1
    swift.reset_requests()
    swift.inject(Fault(method="HEAD", path="huge/", delay=within(60)))
    with ThreadPoolExecutor(len(wanted)) as threads:
        sizes = threads.map(lambda name: (mounted.path / "huge" / name).stat().st_size, wanted)
        try:
            wait_until(lambda: methods(swift.requests())["HEAD"] == len(wanted))
            assert [one.seconds for one in swift.requests() if one.method == "HEAD" and one.status] == []
        finally:
            swift.clear_faults()
            swift.end_delays()
        assert list(sizes) == [len(name) for name in wanted]


@pytest.mark.slow
@pytest.mark.mount_options("mtime=listing")
def test_a_walk_of_30000_objects_in_300_folders(mounted: Mount, swift: SwiftServer, container: str) -> None:
    wanted = [f"tree/part{part:03d}/file{number:03d}" for part in range(300) for number in range(100)]
    rows_of(swift, container, wanted)
    found = run("find", mounted.path / "tree", "-type", "f", "-printf", "tree/%P\n").splitlines()
    assert sorted(found) == wanted
    walked = cost(swift)
    print(f"30,000 objects: {dict(walked)}, {mounted.rss_peak() / MIB:.0f} MiB")
    assert walked.keys() == {"GET"}
    assert walked.total() <= 10, walked
    assert mounted.rss_peak() < 200 * MIB
