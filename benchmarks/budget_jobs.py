"""The jobs of the request budgets: each runs in a new mount of a real Swift, which counts its requests."""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from contenders import Contender, find_rclone, rclone_environment
from swiftclient import Connection

from swiftfs.demo.server import RecordedRequest, SwiftServer

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.jobs import counted
from support.trees import make_tree

OURS = "swiftfs"
RCLONE = "rclone mount"

RCLONE_PROGRAM = find_rclone() or "rclone"

MIB = 1024**2
WATCHER = "the benchmark itself"
"""The User-Agent of the benchmark's own requests, which do not count."""
DIRECTORY = "application/directory"
AREAS = ("tree", "implied", "foreign", "few", "in", "big")
MOVED_FILES = 20
POLL_SECONDS = 0.2
GIVE_UP_SECONDS = 20.0
"""Objects that are missing after so many seconds without a request of the contender count as lost."""

Missing = Callable[[], int]
"""Returns how many results of a job the server does not have yet."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes and numbers of files; `settle` is how many seconds each side waits before it uploads."""

    files: int
    size: int
    segment: int
    settle: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of a job: seconds until the command ended and until all was stored, requests, bytes of bodies.

    `missing` counts objects that never arrived, `error` is the output of a command that failed.
    """

    ended: float
    stored: float
    requests: int
    sent: int
    received: int
    missing: int = 0
    error: str = ""


Costs = dict[str, Cost]
"""By the job's name."""


class Side:
    """A contender with a container for each area; the folder `work` has the local files."""

    def __init__(self, name: str, swift: SwiftServer, work: Path, plan: Plan) -> None:
        self.name = name
        self.swift = swift
        self.work = work
        self.plan = plan
        self.settle = plan.settle[name]
        self.short = name.partition(" ")[0]
        self.client = Connection(swift.auth_url, swift.user, swift.key)
        self._mounts = 0

    def container(self, area: str) -> str:
        """Return the name of an area's container."""
        return f"{self.short}-{area}"

    @contextmanager
    def fresh(self, area: str) -> Iterator[Path]:
        """Mount an area with an empty cache."""
        self._mounts += 1
        folder = self.work / f"{self.short}{self._mounts}"
        command = self._rclone if self.name == RCLONE else self._swiftfs
        rclone = rclone_environment(self.swift, self.work)
        environment = rclone if self.name == RCLONE else self.swift.environment()
        words = command(self.container(area), folder)
        with Contender(self.name, folder / "mnt", words, environment, folder / "log") as mount:
            yield mount.path
        shutil.rmtree(folder)

    def _swiftfs(self, container: str, folder: Path) -> list[object]:
        options = f"settle={self.settle},segment_size={self.plan.segment}"
        words = [sys.executable, "-m", "swiftfs", "mount", container, folder / "mnt", "--foreground"]
        return [*words, "--cache-dir", folder / "cache", "-o", options]

    def _rclone(self, container: str, folder: Path) -> list[object]:
        words = [RCLONE_PROGRAM, "mount", f"sw:{container}", folder / "mnt"]
        words += ["--vfs-cache-mode", "full", "--vfs-write-back", f"{self.settle}s"]
        return [*words, "--swift-chunk-size", f"{self.plan.segment}B", "--cache-dir", folder / "cache"]

    def hashes(self, area: str) -> Mapping[str, str]:
        """Return the names that the server lists in an area, with their hashes."""
        _, rows = self.client.get_container(
            self.container(area), full_listing=True, headers={"User-Agent": WATCHER}
        )
        return {row["name"]: row["hash"] for row in rows}

    def count(self, area: str) -> int:
        """Return the number of objects in an area, by a HEAD, which costs less than a listing."""
        answer = self.client.head_container(self.container(area), headers={"User-Agent": WATCHER})
        return int(answer["x-container-object-count"])

    def version(self, name: str) -> tuple[int, str]:
        """Return size and ETag of an object; the listing lacks them for large objects of rclone."""
        if name not in self.hashes("big"):
            return 0, ""
        answer = self.client.head_object(self.container("big"), name, headers={"User-Agent": WATCHER})
        return int(answer["content-length"]), answer["etag"]

    def holds(self, name: str, local: Path) -> bool:
        """Return whether an object exists and has the bytes of a local file."""
        if name not in self.hashes("big"):
            return False
        _, body = self.client.get_object(
            self.container("big"), name, resp_chunk_size=MIB, headers={"User-Agent": WATCHER}
        )
        with local.open("rb") as file:
            return all(block == file.read(len(block)) for block in body) and not file.read(1)

    def measure(self, *words: object, missing: Missing | None = None) -> Cost:
        """Run a command, wait until the server has all of its results, and return the cost."""
        self.swift.reset_requests()
        begun = time.perf_counter()
        done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
        ended = stored = time.perf_counter() - begun
        lacking = 0
        if missing:
            lacking = self._await(missing)
            stored = time.perf_counter() - begun
        requests = self._settled(self.settle * (1.5 if missing else 0.5))
        return Cost(
            ended,
            stored,
            len(requests),
            sum(one.bytes_in for one in requests),
            sum(one.bytes_out for one in requests),
            lacking,
            f"{done.stdout}{done.stderr}".strip()[-400:] if done.returncode else "",
        )

    def _await(self, missing: Missing) -> int:
        """Wait until nothing is missing; return 0, or the number of objects that never arrive."""
        asked, since = -1, time.monotonic()
        looked = since
        while lacking := missing():
            now = time.monotonic()
            if now - looked > 1:
                looked = now
                before, asked = asked, len(self._requests())
                if asked != before:
                    since = now
                elif now - since > GIVE_UP_SECONDS:
                    return lacking
            time.sleep(POLL_SECONDS)
        return 0

    def _settled(self, quiet: float) -> list[RecordedRequest]:
        """Return the contender's requests when it has sent none for `quiet` seconds."""
        requests = self._requests()
        while True:
            time.sleep(quiet)
            before, requests = requests, self._requests()
            if before == requests and all(one.status for one in requests):
                return requests

    def _requests(self) -> list[RecordedRequest]:
        return [one for one in counted(self.swift) if one.headers.get("User-Agent") != WATCHER]


def prepare(plan: Plan, work: Path) -> None:
    """Make the local files that are copied and compared."""
    make_tree(work / "tree", plan.files)
    for number in range(MOVED_FILES):
        folder = work / "few" / ("sub" if number % 2 else ".")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"file{number}").write_bytes(b"x")
    with (work / "big").open("wb") as file:
        for _ in range(plan.size // MIB):
            file.write(os.urandom(MIB))


def fill(side: Side) -> None:
    """Store a tree as swiftfs does, with and without markers, and as rclone does; and a folder to rename."""
    for area in AREAS:
        side.client.put_container(side.container(area))
    writer = Side(OURS, side.swift, side.work / f"filling-{side.short}", side.plan)
    writer.short = side.short
    writer.work.mkdir()
    for area, source in (("tree", "tree"), ("implied", "tree"), ("few", "few")):
        with writer.fresh(area) as top:
            subprocess.run(["cp", "-a", side.work / source, top / area], check=True)
    there = f"sw:{side.container('foreign')}/foreign"
    environment = {**os.environ, **rclone_environment(side.swift, side.work)}
    subprocess.run([RCLONE_PROGRAM, "copy", side.work / "tree", there], check=True, env=environment)
    container = side.container("implied")
    for row in side.client.get_container(container, full_listing=True)[1]:
        if row["content_type"] == DIRECTORY:
            side.client.delete_object(container, row["name"])


def list_tree(side: Side) -> Costs:
    """List the tree with markers."""
    with side.fresh("tree") as top:
        return {"ls": side.measure("ls", "-lR", top / "tree")}


def list_implied(side: Side) -> Costs:
    """List the tree without markers."""
    with side.fresh("implied") as top:
        return {"ls implied": side.measure("ls", "-lR", top / "implied")}


def list_foreign(side: Side) -> Costs:
    """List the tree of rclone, whose times are not in listings."""
    with side.fresh("foreign") as top:
        return {"ls foreign": side.measure("ls", "-lR", top / "foreign")}


def copy_again(side: Side) -> Costs:
    """Copy files that all exist already."""
    with side.fresh("tree") as top:
        return {"rsync again": side.measure("rsync", "-a", f"{side.work}/tree/", top / "tree")}


def read_small(side: Side) -> Costs:
    """Read every file once, and compare it."""
    with side.fresh("implied") as top:
        return {"read small": side.measure("diff", "-r", side.work / "tree", top / "implied")}


def copy_in_and_remove(side: Side) -> Costs:
    """Copy a tree in, and remove it in the same mount."""
    local = side.work / "tree"
    wanted = {
        f"in/{path.relative_to(local).as_posix()}": hashlib.md5(path.read_bytes()).hexdigest()
        for path in local.rglob("*")
        if path.is_file()
    }

    def not_stored() -> int:
        if (few := side.count("in")) < len(wanted):
            return len(wanted) - few
        stored = side.hashes("in")
        return sum(stored.get(name) != wanted[name] for name in wanted)

    with side.fresh("in") as top:
        return {
            "rsync in": side.measure("rsync", "-a", f"{local}/", top / "in", missing=not_stored),
            "rm -rf": side.measure("rm", "-rf", top / "in", missing=lambda: side.count("in")),
        }


def move_folder(side: Side) -> Costs:
    """Rename a folder, and back for the next round."""

    def not_at(folder: str) -> int:
        names = side.hashes("few")
        return MOVED_FILES - sum(name.startswith(f"{folder}/") and "/file" in name for name in names)

    with side.fresh("few") as top:
        there = side.measure("mv", top / "few", top / "moved", missing=lambda: not_at("moved"))
        side.measure("mv", top / "moved", top / "few", missing=lambda: not_at("few"))
    return {"mv folder": there}


def copy_big_in(side: Side) -> Costs:
    """Copy the large file in."""
    with side.fresh("big") as top:
        cost = side.measure(
            "cp", side.work / "big", top / "big", missing=lambda: side.version("big")[0] != side.plan.size
        )
    return {"cp big": cost}


def read_big(side: Side) -> Costs:
    """Read the large file once, and compare it."""
    with side.fresh("big") as top:
        return {"read big": side.measure("cmp", side.work / "big", top / "big")}


def patch_big(side: Side) -> Costs:
    """Change 4 KiB within the large file."""
    at = side.plan.size // 4096 // 2 + 3
    return {"patch": _change(side, f"dd if=/dev/zero bs=4096 count=1 seek={at} conv=notrunc status=none of=")}


def append_big(side: Side) -> Costs:
    """Append to the large file."""
    return {"append": _change(side, "printf append >>")}


def _change(side: Side, command: str) -> Cost:
    """Change the large file; compare the object with a local file that is changed equally."""
    before = side.version("big")
    with side.fresh("big") as top:
        cost = side.measure(
            "sh", "-c", f'{command}"$0"', top / "big", missing=lambda: side.version("big") == before
        )
    local = side.work / f"big-{side.short}"
    if not local.exists():
        shutil.copyfile(side.work / "big", local)
    subprocess.run(["sh", "-c", f'{command}"$0"', local], check=True)
    return cost if side.holds("big", local) else replace(cost, missing=1)


def move_and_remove_big(side: Side) -> Costs:
    """Rename the large file, and remove it in the same mount."""
    (side.work / f"big-{side.short}").unlink()

    def not_moved() -> bool:
        return side.hashes("big").keys() != {"big2"}

    with side.fresh("big") as top:
        return {
            "mv big": side.measure("mv", top / "big", top / "big2", missing=not_moved),
            "rm big": side.measure("rm", top / "big2", missing=lambda: side.count("big")),
        }


JOB_GROUPS: tuple[Callable[[Side], Costs], ...] = (
    list_tree,
    list_implied,
    list_foreign,
    copy_again,
    read_small,
    copy_in_and_remove,
    move_folder,
    copy_big_in,
    read_big,
    patch_big,
    append_big,
    move_and_remove_big,
)
"""In this order the containers are in the end as `fill` made them."""
