"""Programs that read a folder's small files one after the other, on a Swift with a delay of 20 ms.

These run in a real mount.
"""

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from swiftclient import Connection

from support.deadlines import within
from support.jobs import path_of
from support.mounts import Mount, run
from swiftfs.demo.server import Fault, RecordedRequest, ServerSettings, SwiftServer

FILES, FOLDERS = 200, 17
ATTRIBUTES = f"text/plain;mtime=1700000000.000000001;mode=0100644;uid={os.getuid()};gid={os.getgid()}"
"""The Content-Type of our own files, which need no HEAD."""

JOBS: dict[str, Callable[[Path, Path], object]] = {
    "tar": lambda top, out: run("tar", "-cf", out / "tree.tar", "-C", top, "tree"),
    "find": lambda top, _: run("sh", "-c", f"find '{top}/tree' -type f -print0 | xargs -0 cat"),
    "sorted": lambda top, _: run("sh", "-c", f"find '{top}/tree' -type f | LC_ALL=C sort | xargs cat"),
    "grep": lambda top, _: run("grep", "-r", f"number {FILES - 1}", top / "tree"),
    "cp": lambda top, out: run("cp", "-r", top / "tree", out / "copy"),
    "rsync": lambda top, out: run("rsync", "-a", f"{top}/tree/", out / "mirror"),
}


@pytest.fixture(scope="module")
def slow_swift() -> Iterator[SwiftServer]:
    with SwiftServer(settings=ServerSettings(delay=0.02)) as server:
        yield server


def body_of(number: int) -> bytes:
    return f"number {number}\n".encode() * (1 + number % 50)


def tree_of_files() -> dict[str, bytes]:
    """Return small files by their names below the container."""
    return {
        f"tree/part{number % 4}/sub{number % 12:02d}/file{number:03d}": body_of(number)
        for number in range(FILES)
    }


def fill(server: SwiftServer, container: str, bodies: dict[str, bytes], kind: str = ATTRIBUTES) -> None:
    """Let another client write the objects."""

    def put(names: list[str]) -> None:
        client = Connection(server.auth_url, server.user, server.key, retries=0)
        for name in names:
            client.put_object(container, name, bodies[name], content_type=kind)
        client.close()

    client = Connection(server.auth_url, server.user, server.key, retries=0)
    client.put_container(container)
    client.close()
    names = list(bodies)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(put, [names[start::16] for start in range(16)]))


@pytest.fixture(scope="module")
def tree(slow_swift: SwiftServer) -> dict[str, bytes]:
    bodies = tree_of_files()
    assert len({name.rpartition("/")[0] for name in bodies} | {"tree"}) + 4 == FOLDERS
    fill(slow_swift, "forest", bodies)
    return bodies


class Reading:
    """Mounts of one container, each with an empty cache; `options` are those of the mounts."""

    def __init__(self, server: SwiftServer, container: str, folder: Path) -> None:
        self.server = server
        self.container = container
        self.folder = folder
        self._count = 0

    def cold(self, job: Callable[[Path], object], options: str = "") -> tuple[float, list[RecordedRequest]]:
        """Run a job in a new mount; return its seconds, and all requests of the mount."""
        self._count += 1
        folder = self.folder / f"mount{self._count}"
        self.server.reset_requests()
        with Mount(self.server, self.container, folder, options) as mount:
            began = time.monotonic()
            job(mount.path)
            seconds = time.monotonic() - began
        shutil.rmtree(folder)
        return seconds, counted(self.server)

    def gets(self, requests: list[RecordedRequest]) -> Counter[str]:
        """Return the number of GETs of each object, by its name."""
        top = path_of(self.server, self.container)
        found = [one.path for one in requests if one.method == "GET" and len(one.path) > len(top)]
        return Counter(path.removeprefix(top) for path in found)


def counted(server: SwiftServer) -> list[RecordedRequest]:
    return [one for one in server.requests() if "/auth" not in one.path and one.path != "/info"]


@pytest.fixture
def reading(slow_swift: SwiftServer, tree: dict[str, bytes], tmp_path: Path) -> Iterator[Reading]:
    assert tree
    slow_swift.clear_faults()
    yield Reading(slow_swift, "forest", tmp_path)
    slow_swift.clear_faults()


@pytest.mark.matrix(1)
@pytest.mark.parametrize("job", JOBS)
def test_a_tree_costs_one_get_a_file(
    reading: Reading, tree: dict[str, bytes], tmp_path: Path, job: str
) -> None:
    seconds, requests = reading.cold(lambda top: JOBS[job](top, tmp_path))
    print(f"{job}: {seconds:.2f} s, {len(requests)} requests")
    if job == "cp":
        copy = tmp_path / "copy"
        files = [path for path in copy.rglob("*") if path.is_file()]
        assert {f"tree/{path.relative_to(copy)}": path.read_bytes() for path in files} == tree
    assert reading.gets(requests) == Counter(tree.keys())
    assert {one.method for one in requests if "/.swiftfs-" not in one.path} == {"GET", "HEAD"}
    assert len(requests) <= FILES + 10


def test_many_files_are_fetched_at_once(reading: Reading, tmp_path: Path) -> None:
    """With a longer delay than in other tests, so that the delay decides and not the load of this machine."""
    reading.server.inject(Fault("GET", "/forest/tree/.*/file", delay=min(1.0, within(0.1))))

    def pack(top: Path) -> None:
        run("tar", "-cf", tmp_path / "part.tar", "-C", top / "tree", "part1")

    alone, one_by_one = reading.cold(pack, "prefetch=no")
    together, requests = reading.cold(pack)
    overlap = sum(one.seconds for one in requests if one.method == "GET") / together
    print(f"tar: {alone:.2f} s, with prefetch {together:.2f} s, {overlap:.1f} requests at once")
    gets = reading.gets(requests)
    assert gets == reading.gets(one_by_one)
    assert (gets.total(), max(gets.values())) == (FILES / 4, 1)
    assert alone / together >= 5
    assert overlap >= 5


def test_rsync_with_checksums_fetches_each_file_once(
    reading: Reading, tree: dict[str, bytes], tmp_path: Path
) -> None:
    for name, body in tree.items():
        path = tmp_path / "mirror" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)

    def compare(top: Path) -> None:
        output = run("rsync", "-rcn", "--itemize-changes", f"{tmp_path}/mirror/tree", top)
        assert [line for line in output.splitlines() if line.startswith(">f")] == []

    seconds, requests = reading.cold(compare)
    print(f"rsync -c: {seconds:.2f} s, {len(requests)} requests")
    assert reading.gets(requests) == Counter(tree.keys())
    assert len(requests) <= FILES + 10


def test_all_files_of_one_folder_and_no_other(reading: Reading, tree: dict[str, bytes]) -> None:
    folder = "tree/part1/sub05"
    _, requests = reading.cold(lambda top: run("sh", "-c", f"cat '{top}/{folder}'/*"))
    assert reading.gets(requests) == Counter(name for name in tree if name.startswith(f"{folder}/"))


def test_several_threads_read_a_folder(reading: Reading, tree: dict[str, bytes]) -> None:
    _, requests = reading.cold(
        lambda top: run("sh", "-c", f"find '{top}/tree' -type f -print0 | xargs -0 -P 4 -n 1 cat > /dev/null")
    )
    assert reading.gets(requests) == Counter(tree.keys())


def test_what_is_in_the_cache_is_not_fetched(
    reading: Reading, tree: dict[str, bytes], tmp_path: Path
) -> None:
    reading.server.reset_requests()
    with Mount(reading.server, "forest", tmp_path) as mount:
        JOBS["tar"](mount.path, tmp_path)
        reading.server.reset_requests()
        JOBS["cp"](mount.path, tmp_path)
        mount.remount(empty_cache=False)
        JOBS["rsync"](mount.path, tmp_path)
    assert reading.gets(counted(reading.server)) == Counter()


def test_an_unmount_during_a_prefetch(reading: Reading, tree: dict[str, bytes]) -> None:
    """Nothing is left that the mount's own checks would find, and each file was fetched once at most."""
    files = list(tree)[::4][:8]
    reading.server.inject(Fault("GET", "/forest/tree/.*/file", delay=0.3))
    _, requests = reading.cold(lambda top: [(top / name).read_bytes() for name in sorted(files)[:4]])
    gets = reading.gets(requests)
    assert set(gets.values()) == {1}
    assert len(gets) <= 4 + 2 * 4


@pytest.mark.slow
def test_objects_of_other_clients(slow_swift: SwiftServer, tmp_path: Path) -> None:
    """Their times cost a HEAD each, but not with `mtime=listing`; the listing's hash is the ETag."""
    bodies = {f"others/file{number:03d}": body_of(number) for number in range(100)}
    fill(slow_swift, "foreign", bodies, "text/plain")
    reading = Reading(slow_swift, "foreign", tmp_path)

    def copy(top: Path) -> None:
        for name, body in bodies.items():
            assert (top / name).read_bytes() == body

    for options, heads in (("", 100), ("mtime=listing", 0)):
        seconds, requests = reading.cold(copy, options)
        print(f"{options}: {seconds:.2f} s, {len(requests)} requests")
        assert reading.gets(requests) == Counter(bodies.keys())
        assert sum(one.method == "HEAD" and "/file" in one.path for one in requests) == heads
