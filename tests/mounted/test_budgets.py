"""The requests of everyday jobs, counted by a real server, and their budgets."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from swiftclient import Connection

from support.jobs import counted, methods
from support.mounts import Mount, run
from support.noise import LARGE
from support.trees import FOLDERS, MTIME_NS, make_tree, same_times
from swiftfs.attributes import Stored, encode_marker, encode_type
from swiftfs.concurrency import monotonic
from swiftfs.demo.server import SwiftServer
from swiftfs.journal.object_moves import MOMENT
from swiftfs.objects import Attributes
from swiftfs.store.wire.object_headers import META

DIRECTORY = "application/directory"
FILES = 60
"""Half as many again as folders: a request for each file would be noticed."""
IN_DEPTH = 48
pytestmark = pytest.mark.mount_options("settle=2")


class Budget:
    """Mounts again, runs jobs, and counts their requests."""

    def __init__(self, mount: Mount) -> None:
        self.mount = mount
        self.swift = mount.swift

    def cold(self, job: Callable[[], object], *, empty_cache: bool = True) -> Counter[str]:
        """Count the requests of a job in a new mount, with an empty or the old cache folder."""
        self.mount.remount(empty_cache=empty_cache)
        self.swift.reset_requests()
        job()
        return methods(counted(self.swift))

    def settled(self, job: Callable[[], object]) -> Counter[str]:
        """Count the requests of a job in the current mount, until all changes are stored."""
        self.swift.reset_requests()
        job()
        self.mount.stop()
        requests = methods(counted(self.swift))
        self.mount.start()
        return requests

    def at_most(self, wanted: int, job: str, cost: Counter[str]) -> None:
        """Fail if the job cost more requests than wanted."""
        print(f"{job}: {cost.total()} {dict(cost)}")
        assert cost.total() <= wanted, f"{job}: {dict(cost)}"


@pytest.fixture
def budget(mounted: Mount) -> Budget:
    return Budget(mounted)


def upload(
    connections: list[Connection], container: str, top: Path, *, markers: bool, plain: bool = False
) -> None:
    """Store a tree as a mount does, or `plain` as another client; with several clients in parallel."""
    paths = [path for path in [top, *sorted(top.rglob("*"))] if markers or path.is_file()]

    def put(connection: Connection, path: Path) -> None:
        key = path.relative_to(top.parent).as_posix()
        stat = path.stat()
        if path.is_dir():
            attributes = Attributes(stat.st_mode, 0, MTIME_NS, stat.st_uid, stat.st_gid)
            headers = {META + name: value for name, value in encode_marker(attributes).items()}
            connection.put_object(container, key, b"", content_type=DIRECTORY, headers=headers)
        else:
            stored = Stored(stat.st_mode, MTIME_NS, stat.st_uid, stat.st_gid)
            kind = "text/plain" if plain else encode_type("text/plain", stored)
            connection.put_object(container, key, path.read_bytes(), content_type=kind)

    def put_part(number: int) -> None:
        for path in paths[number :: len(connections)]:
            put(connections[number], path)

    with ThreadPoolExecutor(len(connections)) as pool:
        list(pool.map(put_part, range(len(connections))))


@pytest.fixture
def connections(swift: SwiftServer, connection: Connection) -> Iterator[list[Connection]]:
    """Several clients, because a client may be used by one thread only."""
    clients = [Connection(swift.auth_url, swift.user, swift.key) for _ in range(4)]
    yield clients
    for client in clients:
        client.close()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    assert make_tree(tmp_path / "tree", FILES) == FOLDERS
    return tmp_path / "tree"


def object_names(connection: Connection, container: str) -> list[str]:
    rows = connection.get_container(container, full_listing=True)[1]
    return [row["name"] for row in rows]


def list_all(path: Path, files: int) -> None:
    shown = run("ls", "-lR", path)
    assert sum(" file" in line for line in shown.splitlines()) == files


def copy_again(tree: Path, path: Path, *options: str) -> None:
    assert run("rsync", "-a", *options, "--itemize-changes", tree, path) == ""


def test_a_tree_with_markers(
    budget: Budget, tree: Path, connections: list[Connection], container: str
) -> None:
    upload(connections, container, tree, markers=True)
    top = budget.mount.path

    def list_tree() -> None:
        list_all(top / "tree", FILES)

    budget.at_most(45, "ls -lR, cold", budget.cold(list_tree))
    budget.at_most(3, "ls -lR, remembered", budget.cold(list_tree, empty_cache=False))
    budget.at_most(45, "rsync again, cold", budget.cold(lambda: copy_again(tree, top)))
    again = budget.cold(lambda: copy_again(tree, top), empty_cache=False)
    budget.at_most(3, "rsync again, remembered", again)
    list_tree()
    removed = budget.settled(lambda: run("rm", "-rf", top / "tree"))
    budget.at_most(5, "rm -rf, listed before", removed)
    assert object_names(connections[0], container) == []


def test_a_tree_without_markers(
    budget: Budget, tree: Path, connections: list[Connection], container: str
) -> None:
    """Folders without markers have no times that rsync could compare."""
    upload(connections, container, tree, markers=False)
    top = budget.mount.path
    budget.at_most(3, "ls -lR, implied", budget.cold(lambda: list_all(top / "tree", FILES)))
    budget.at_most(3, "rsync again, implied", budget.cold(lambda: copy_again(tree, top, "-O")))
    budget.mount.remount()
    removed = budget.settled(lambda: run("rm", "-rf", top / "tree"))
    budget.at_most(5, "rm -rf, implied, cold", removed)
    assert object_names(connections[0], container) == []


def test_moving_a_folder(
    budget: Budget, connections: list[Connection], container: str, tmp_path: Path
) -> None:
    twenty = tmp_path / "twenty"
    (twenty / "sub").mkdir(parents=True)
    for number in range(20):
        (twenty / ("sub" if number % 2 else ".") / f"file{number}").write_bytes(b"x")
    upload(connections, container, twenty, markers=True)
    top = budget.mount.path
    seconds = 0.0

    def move() -> None:
        nonlocal seconds
        begun = monotonic()
        run("mv", top / "twenty", top / "there")
        seconds = monotonic() - begun

    sent = budget.cold(move)
    # After copies that took longer than a moment the old place is listed anew.
    budget.at_most(26 + (seconds > MOMENT), "mv, cold", sent)
    names = object_names(connections[0], container)
    assert len(names) == 22
    assert all(name.startswith("there") for name in names)


@pytest.mark.mount_options("settle=600")
def test_moving_a_folder_that_is_not_stored_yet(
    budget: Budget, tree: Path, connection: Connection, container: str
) -> None:
    top = budget.mount.path
    run("cp", "-a", tree, top / "old")
    budget.swift.reset_requests()
    run("mv", top / "old", top / "new")
    list_all(top / "new", FILES)
    budget.at_most(0, "mv and ls -lR, not stored yet", methods(counted(budget.swift)))
    budget.at_most(441, "the uploads after mv", budget.settled(lambda: None))
    stored = {f"new/{one.relative_to(tree).as_posix()}" for one in tree.rglob("*")}
    assert set(object_names(connection, container)) == {"new", *stored}


def test_removing_a_tree_that_was_not_listed(
    budget: Budget, tree: Path, connections: list[Connection], container: str
) -> None:
    """rm reads the attributes of each folder, which its marker has."""
    upload(connections, container, tree, markers=True)
    budget.mount.remount()
    removed = budget.settled(lambda: run("rm", "-rf", budget.mount.path / "tree"))
    budget.at_most(46, "rm -rf, cold", removed)
    assert object_names(connections[0], container) == []


@pytest.mark.mount_options("settle=2,mtime=auto")
def test_a_tree_of_another_client(
    budget: Budget, tree: Path, connections: list[Connection], container: str
) -> None:
    """Without markers and attributes in listings; which objects have segments is found by listings, too."""
    upload(connections, container, tree, markers=False, plain=True)
    top = budget.mount.path
    budget.at_most(3, "ls -lR, another client's", budget.cold(lambda: list_all(top, FILES)))
    removed = budget.settled(lambda: run("rm", "-rf", top / "tree"))
    budget.at_most(8, "rm -rf, another client's", removed)
    assert removed["HEAD"] <= 1, removed
    assert object_names(connections[0], container) == []


def make_deep_tree(top: Path) -> int:
    """Make a tree of 12 levels that forks at some; return how many folders it has."""
    for number in range(IN_DEPTH):
        levels = [f"level{level}-{number % (2 if level in (1, 5) else 1)}" for level in range(number % 12)]
        folder = top.joinpath(*levels)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"file{number:03d}").write_bytes(b"x")
    same_times(top)
    return 1 + sum(path.is_dir() for path in top.rglob("*"))


@pytest.mark.slow
def test_a_deep_tree(budget: Budget, connections: list[Connection], container: str, tmp_path: Path) -> None:
    """Each folder has a marker."""
    deep = tmp_path / "deep"
    folders = make_deep_tree(deep)
    upload(connections, container, deep, markers=True)
    top = budget.mount.path
    budget.at_most(folders + 4, "ls -lR, deep", budget.cold(lambda: list_all(top / "deep", IN_DEPTH)))
    again = budget.cold(lambda: list_all(top / "deep", IN_DEPTH), empty_cache=False)
    budget.at_most(3, "ls -lR, deep, remembered", again)
    budget.at_most(folders + 4, "rsync again, deep", budget.cold(lambda: copy_again(deep, top)))
    again = budget.cold(lambda: copy_again(deep, top), empty_cache=False)
    budget.at_most(3, "rsync again, deep, remembered", again)
    moved = budget.settled(lambda: run("mv", top / "deep", top / "deeper"))
    budget.at_most(IN_DEPTH + folders + 4, "mv, deep", moved)
    list_all(top / "deeper", IN_DEPTH)
    budget.at_most(5, "rm -rf, deep", budget.settled(lambda: run("rm", "-rf", top / "deeper")))
    assert object_names(connections[0], container) == []


@pytest.mark.mount_options("mtime=listing")
def test_a_folder_of_5000_files(budget: Budget, connection: Connection, container: str) -> None:
    """Rows of another client; their objects do not exist, and are not requested."""
    names = [f"many/file{number:04d}" for number in range(5000)]
    budget.swift.add_rows(container, names, size=1)
    top = budget.mount.path
    budget.at_most(3, "ls -lR, 5000 names", budget.cold(lambda: list_all(top / "many", 5000)))
    again = budget.cold(lambda: run("rsync", "-an", "--list-only", f"{top}/many/"))
    budget.at_most(3, "rsync --list-only, 5000 names", again)
    assert run("find", top / "many", "-newermt", "2100-01-01") == ""


def test_rsync_in(budget: Budget, connection: Connection, container: str, tree: Path) -> None:
    path = budget.mount.path
    cost = budget.settled(lambda: run("rsync", "-a", f"{tree}/", f"{path}/tree/"))
    budget.at_most(FILES + 50, "rsync -a in", cost)
    stored = {one.relative_to(tree).as_posix() for one in tree.rglob("*")}
    assert set(object_names(connection, container)) == {"tree", *(f"tree/{name}" for name in stored)}
    times = run("rsync", "-an", "--out-format=%n", f"{tree}/", f"{path}/tree/")
    assert times == ""


@pytest.mark.mount_options("settle=2,segment_size=1M")
def test_removing_large_files(budget: Budget, connection: Connection, container: str) -> None:
    """Segments follow when Swift has deleted their files: one request more, for many files too."""
    top = budget.mount.path
    paths = [top / f"large{number}" for number in range(6)]

    def make() -> None:
        for path in paths:
            path.write_bytes(LARGE)

    budget.settled(make)
    assert run("ls", top).split() == [path.name for path in paths]  # lists it
    budget.at_most(3, "rm, a large file", budget.settled(paths[0].unlink))
    run("ls", top)
    removed = budget.settled(lambda: run("rm", *paths[1:]))
    budget.at_most(5 + 2, "rm, five large files", removed)
    assert object_names(connection, container) == []
    assert object_names(connection, f"{container}_segments") == []
