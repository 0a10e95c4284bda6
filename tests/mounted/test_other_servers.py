"""Servers that differ: without bulk-delete or symlinks, with short listings, or not Swift."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from swiftclient import Connection

from support.harness import harness, names
from support.jobs import methods
from support.memory_store import MemoryStore
from support.mounts import Mount, run
from swiftfs.demo.server import ServerSettings, SwiftServer
from swiftfs.objects import Limits, ObjectName
from swiftfs.store.protocol import Headers

SERVERS = {
    "no bulk": ServerSettings(without=frozenset({"bulk"})),
    "neither, and 7 rows": ServerSettings(without=frozenset({"bulk", "symlink"}), listing_limit=7),
}


@pytest.fixture(scope="module", params=SERVERS)
def other(request: pytest.FixtureRequest) -> Iterator[SwiftServer]:
    with SwiftServer(settings=SERVERS[request.param]) as running:
        yield running


def make_tree(top: Path) -> None:
    for number in range(18):
        folder = top / f"part{number % 3}" / f"sub{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"file{number:02d}").write_bytes(f"number {number}".encode())
    (top / "link").symlink_to("part0/sub0/file00")
    (top / "empty").mkdir()
    for number, path in enumerate([*sorted(top.rglob("*")), top]):  # rsync leaves a time of the same second
        os.utime(path, ns=(0, 10**18 + number * 1_000_000_001), follow_symlinks=False)


@pytest.mark.matrix(1)
def test_ordinary_work_on_other_servers(other: SwiftServer, tmp_path: Path) -> None:
    connection = Connection(other.auth_url, other.user, other.key)
    connection.put_container("box")
    tree = tmp_path / "tree"
    make_tree(tree)
    with Mount(other, "box", tmp_path / "mount") as mounted:
        top = mounted.path
        run("rsync", "-a", tree, top)
        mounted.remount()
        assert listing_of(top / "tree") == listing_of(tree)
        run("diff", "-r", "--no-dereference", tree, top / "tree")
        assert run("rsync", "-a", "--itemize-changes", tree, top) == ""
        run("mv", top / "tree", top / "moved")
        mounted.remount()
        run("diff", "-r", "--no-dereference", tree, top / "moved")
        other.reset_requests()
        run("rm", "-rf", top / "moved")
        mounted.remount()
        assert not methods(other.requests())["POST"]
        assert list(top.iterdir()) == []
    assert connection.get_container("box")[1] == []
    connection.close()


def listing_of(folder: Path) -> list[str]:
    """Return mode, owners, name, target and time in ns of everything in a folder."""
    found = run("find", ".", "-printf", "%M %u %g %p %l %T@\n", cwd=folder)
    return sorted(found.splitlines())


@pytest.mark.parametrize("rows", [1, 2, 3, 7])
def test_short_pages_do_not_end_a_listing(rows: int, tmp_path: Path) -> None:
    """Ceph RGW may answer with fewer rows than requested in the middle of a listing."""
    store = MemoryStore("box", limits=Limits(listing=rows, is_swift=False))
    with harness(store, tmp_path) as filesystem:
        wanted = []
        for number in range(10):
            for key in (f"file{number}", f"folder{number % 4}/file{number}"):
                store.put(ObjectName("box", key), b"x", Headers("text/plain"))
            wanted.append(f"file{number}")
        wanted += [f"folder{number}" for number in range(4)]
        assert sorted(names(filesystem, "/")) == sorted(wanted)
        for number in range(4):
            below = [f"file{n}" for n in range(10) if n % 4 == number]
            assert sorted(names(filesystem, f"/folder{number}")) == below
        assert filesystem.getattr("/folder3/file7").size == 1
        filesystem.rename("/folder0", "/moved")
        assert sorted(names(filesystem, "/moved")) == ["file0", "file4", "file8"]
