"""Folders larger than a page of a listing, and trees of many pages: few requests, bounded memory."""

import os
from collections import Counter
from pathlib import Path

import pytest
from swiftclient import Connection

from support.jobs import methods
from support.mounts import Mount, run
from swiftfs.demo.server import SwiftServer

MIB = 2**20
OWN_TYPE = "text/plain;mtime=1700000000.000000001;mode=0100640;uid=12;gid=34"


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


@pytest.mark.mount_options("mtime=listing")
@pytest.mark.parametrize("listed", [False, True])
def test_own_changes_in_a_huge_folder(
    mounted: Mount, swift: SwiftServer, connection: Connection, container: str, listed: bool
) -> None:
    huge = mounted.path / "huge"
    names = {f"name{number:06d}" for number in range(21_000)}
    rows_of(swift, container, [f"huge/{name}" for name in sorted(names)])
    for name in ("name000500", "name020500", "name020600"):
        connection.put_object(container, f"huge/{name}", b"x")
    if listed:
        assert set(os.listdir(huge)) == names  # noqa: PTH208  the names are wanted
    (huge / "created").write_bytes(b"created")
    (huge / "name000100.5").write_bytes(b"between")
    (huge / "folder").mkdir()
    (huge / "name000500").unlink()
    (huge / "name020500").unlink()
    (huge / "name020600").rename(huge / "renamed")
    names |= {"created", "name000100.5", "folder", "renamed"}
    names -= {"name000500", "name020500", "name020600"}
    for _ in range(2):
        found = os.listdir(huge)  # noqa: PTH208  the names are wanted
        assert len(found) == len(set(found))
        assert set(found) == names
        assert not is_there(huge / "name020500")
        assert (huge / "renamed").read_bytes() == b"x"
        assert (huge / "created").read_bytes() == b"created"
        assert (huge / "folder").is_dir()
        mounted.remount()


@pytest.mark.mount_options("mtime=listing")
def test_names_that_pages_cut_in_two(mounted: Mount, swift: SwiftServer, container: str) -> None:
    """`a` is the last name of a page; `a/` and the names between are on the next."""
    names = [f"huge/a{number:05d}" for number in range(9_999)]
    names += ["huge/b", *[f"huge/b-{number:05d}" for number in range(10_500)], "huge/b/below"]
    rows_of(swift, container, names)
    found = os.listdir(mounted.path / "huge")  # noqa: PTH208  the names are wanted
    assert len(found) == len(set(found)) == 9_999 + 10_500 + 2
    assert (mounted.path / "huge" / "b").is_dir()
    assert (mounted.path / "huge" / "b%file").stat().st_size == 1
    assert (mounted.path / "huge" / "b-00000").stat().st_size == 1
    assert (mounted.path / "huge" / "b-10499").stat().st_size == 1


def test_attributes_in_a_folder_of_two_pages(
    mounted: Mount, swift: SwiftServer, connection: Connection, container: str
) -> None:
    """Attributes of our own files are in the listing of a huge folder too: no HEAD is needed."""
    rows_of(swift, container, [f"huge/name{number:06d}" for number in range(10_500)])
    for name in ("aaa", "zzz"):
        connection.put_object(container, f"huge/{name}", b"12345", content_type=OWN_TYPE)
    assert len(os.listdir(mounted.path / "huge")) == 10_502  # noqa: PTH208  the names are wanted
    swift.reset_requests()
    for name in ("aaa", "zzz"):
        status = (mounted.path / "huge" / name).stat()
        assert (status.st_size, status.st_mode, status.st_uid, status.st_gid) == (5, 0o100640, 12, 34)
        assert status.st_mtime_ns == 1_700_000_000_000_000_001
    assert not cost(swift)


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
