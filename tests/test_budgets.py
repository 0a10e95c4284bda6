"""What jobs cost, counted at a real server: the budgets that the design promises."""

import os
import shutil
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mounts import Mount, run
from scenes import methods
from swiftclient import Connection

from swiftfs.demo.server import RecordedRequest, SwiftServer

DIRECTORY = "application/directory"
FILES, FOLDERS = 400, 41


def counted(swift: SwiftServer) -> list[RecordedRequest]:
    """Return the requests that a budget counts: all but those for a token and for what the server can do."""
    return [one for one in swift.requests() if "/auth" not in one.path and one.path != "/info"]


class Budget:
    """Mounts afresh, runs jobs, and counts their requests; the request that mounting makes is one of them."""

    def __init__(self, mount: Mount) -> None:
        self.mount = mount
        self.swift = mount.swift

    def cold(self, job: Callable[[], object], *, empty_cache: bool = True) -> Counter[str]:
        """Count what a job costs in a new mount, with nothing or only the cache folder remembered."""
        self.mount.stop()
        if empty_cache:
            shutil.rmtree(self.mount.cache)
        self.swift.reset_requests()
        self.mount.start()
        job()
        return methods(counted(self.swift))

    def settled(self, job: Callable[[], object]) -> Counter[str]:
        """Count what a job costs in the mount as it is, until all of it is on the server."""
        self.swift.reset_requests()
        job()
        self.mount.stop()
        requests = methods(counted(self.swift))
        self.mount.start()
        return requests


@pytest.fixture
def budget(mounted: Mount) -> Budget:
    return Budget(mounted)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """400 small files in 41 folders, the top included."""
    top = tmp_path / "tree"
    for number in range(FILES):
        folder = top / f"part{number % 4}" / f"sub{number % 36:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"file{number:03d}").write_bytes(f"number {number}\n".encode())
    folders = [path for path in top.rglob("*") if path.is_dir()]
    assert len(folders) + 1 == FOLDERS
    return top


def object_names(connection: Connection, container: str) -> list[str]:
    rows = connection.get_container(container, full_listing=True)[1]
    return [row["name"] for row in rows]


def forget_markers(connection: Connection, container: str) -> None:
    """Delete the markers, as a tree looks that another client uploaded: its folders are implied."""
    rows = connection.get_container(container, full_listing=True)[1]
    for row in rows:
        if row["content_type"] == DIRECTORY:
            connection.delete_object(container, row["name"])


def listing_of(path: Path) -> str:
    return run("ls", "-lR", "--time-style=+%s.%N", "--ignore=total", path)


def test_a_tree_with_markers(budget: Budget, tree: Path) -> None:
    mount, copy = budget.mount, budget.mount.path / "tree"
    run("rsync", "-a", tree, mount.path)

    def list_all() -> None:
        shown = listing_of(copy)
        assert sum(" file" in line for line in shown.splitlines()) == FILES

    def copy_again() -> None:
        assert run("rsync", "-a", "--itemize-changes", tree, mount.path) == ""

    assert sum(budget.cold(list_all).values()) <= 45
    assert sum(budget.cold(list_all, empty_cache=False).values()) <= 3
    assert sum(budget.cold(copy_again).values()) <= 45
    assert sum(budget.cold(copy_again, empty_cache=False).values()) <= 3


def test_a_tree_without_markers(
    budget: Budget, tree: Path, connection: Connection, container: str
) -> None:
    mount, copy = budget.mount, budget.mount.path / "tree"
    run("rsync", "-a", tree, mount.path)
    mount.stop()
    forget_markers(connection, container)
    mount.start()

    def copy_again() -> None:
        """Folders that nothing marks have no times to compare."""
        assert run("rsync", "-aO", "--itemize-changes", tree, mount.path) == ""

    assert sum(budget.cold(lambda: listing_of(copy)).values()) <= 3
    assert sum(budget.cold(copy_again).values()) <= 3
    assert object_names(connection, container)[0] == "tree/part0/sub00/file000"


def test_moving_and_removing_a_tree(
    budget: Budget, tree: Path, connection: Connection, container: str
) -> None:
    mount = budget.mount
    twenty = tree / "twenty"
    for number in range(20):
        folder = twenty / f"sub{number % 1}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"f{number}").write_bytes(b"x")
    run("rsync", "-a", tree, mount.path)
    moved = budget.cold(lambda: run("mv", mount.path / "tree" / "twenty", mount.path / "there"))
    mount.remount()
    assert sum(moved.values()) <= 26, moved
    listing_of(mount.path)
    removed = budget.settled(lambda: run("rm", "-rf", mount.path / "tree", mount.path / "there"))
    assert sum(removed.values()) <= 5, removed
    assert object_names(connection, container) == []


def test_removing_a_tree_that_was_not_listed(
    budget: Budget, tree: Path, connection: Connection, container: str
) -> None:
    """Nothing is asked of single objects: listings name them all."""
    run("rsync", "-a", tree, budget.mount.path)
    budget.mount.remount()
    removed = budget.settled(lambda: run("rm", "-rf", budget.mount.path / "tree"))
    assert sum(removed.values()) <= 8, removed
    assert object_names(connection, container) == []


def deep_names() -> list[str]:
    """Return 300 objects in a tree of 12 levels."""
    names = []
    for number in range(300):
        levels = [f"level{level}-{number // 25 % (2 if level % 4 else 1)}" for level in range(number % 12)]
        names.append("/".join(["deep", *levels, f"file{number:03d}"]))
    return names


def test_another_shape(budget: Budget, connection: Connection, container: str) -> None:
    """A deep tree with implied folders beside a folder of 5,000 files, all written with attributes."""
    kind = f"text/plain;mtime=1700000000.000000001;mode=0100644;uid={os.getuid()};gid={os.getgid()}"
    deep = deep_names()
    many = [f"many/file{number:04d}" for number in range(5000)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: connection.put_object(container, name, b"x", content_type=kind), deep))
    budget.swift.add_rows(container, many)
    assert many
