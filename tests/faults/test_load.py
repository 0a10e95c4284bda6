"""Thirty-two workers on one mount: none hangs, nothing is lost, and nothing is left."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from swiftclient import Connection

from support import load
from support.crash_oracle import State, differences
from support.crashes import orphans, stored_states
from support.deadlines import within
from support.load_checks import PREFETCHED, assert_journal_is_empty, assert_nothing_pending
from support.mounts import Mount
from support.random_faults import leftovers
from swiftfs.demo.server import Fault, SwiftServer

SECONDS = float(os.environ.get("SWIFTFS_LOAD_SECONDS", "10"))
"""How long the workers work; minutes find more."""

WORKERS = 32

STUCK_SECONDS = 90
"""Longest time of a single step."""

OPTIONS = "settle=2,segment_size=1M,cache_size=256M"

MOST_THREADS = 120
"""All pools together, and libfuse's threads."""

MOST_DESCRIPTORS = PREFETCHED + MOST_THREADS

MOST_GROWTH = 100 * 1024**2
"""Bytes of memory by which a mount may grow after a few seconds of the same work."""

FAULTS = (
    Fault(status=503, times=1),
    Fault(status=500, after=True, times=1),
    Fault(reset=True, times=1),
    Fault(delay=1.0, times=1),
    Fault(reset=True, after=True, times=1),
)


class WorkerGroup:
    """The workers of a load, and a watchdog over them: if one is stuck, the mount logs its stacks."""

    def __init__(self, mount: Mount, name: str, seconds: float) -> None:
        self._mount = mount
        self._name = name
        self._reports = mount.path.parent / name
        self._reports.mkdir()
        (mount.path / name).mkdir()
        words = [mount.path / name, self._reports, WORKERS, seconds, random.randrange(10**6)]
        print("load:", *words)
        self._process = subprocess.Popen(
            [sys.executable, "-m", load.__name__, *map(str, words)],
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(Path(load.__file__).parents[1])},
        )

    def wait(self) -> dict[str, State]:
        """Return the states of all files when all workers have ended; fail if one failed or is stuck."""
        moved: dict[Path, tuple[float, str]] = {}
        while self._process.poll() is None:
            time.sleep(0.2)
            now = time.monotonic()
            for path in self._reports.glob("*.now"):
                text = path.read_text()
                since, before = moved.get(path, (now, ""))
                moved[path] = (since if text == before else now, text)
                if now - moved[path][0] > within(STUCK_SECONDS) and " ends " not in text:
                    self._abort_mount(text)
        errors = [f"{path.stem}: {path.read_text()}" for path in self._reports.glob("*.error")]
        assert not errors, f"{len(errors)} failed: {errors[0]}\n{self._mount.log.read_text()[-5000:]}"
        assert self._process.returncode == 0
        return self._states()

    def _abort_mount(self, text: str) -> None:
        """Let the mount write the stacks of all threads to its log (faulthandler), and fail."""
        os.kill(self._mount.pid, signal.SIGABRT)
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._mount.exit_code = -signal.SIGABRT
        raise AssertionError(f"stuck: {text.strip()}\n{self._mount.log.read_text()[-50_000:]}")

    def _states(self) -> dict[str, State]:
        states = {self._name: State("folder"), f"{self._name}/{load.SHARED}": State("folder")}
        steps = 0
        for path in self._reports.glob("*.json"):
            left = json.loads(path.read_text())
            steps += left["done"]
            for name, fields in left["states"].items():
                tags = tuple((tag, value.encode()) for tag, value in fields.pop("tags"))
                states[f"{self._name}/{name}"] = State(**fields, tags=tags)
        print(f"{steps} steps, {len(states)} paths in the end")
        return states


@dataclass(frozen=True)
class ProcessUsage:
    """Resources of a mount's process; `memory` in bytes."""

    threads: int
    descriptors: int
    memory: int

    @classmethod
    def of(cls, mount: Mount) -> "ProcessUsage":
        """Return the current usage of a mount's process."""
        process = psutil.Process(mount.pid)
        found = cls(process.num_threads(), process.num_fds(), process.memory_info().rss)
        print(found)
        return found


def assert_stored(
    client: Connection, container: str, wanted: dict[str, State], watched: Collection[str] = ()
) -> None:
    """Compare what another client sees with the states of the workers' files.

    Only `watched` segments may be named by no manifest.
    """
    assert differences(stored_states(client, container), wanted) == []
    assert orphans(client, container) <= {*watched}


@contextmanager
def random_faults(swift: SwiftServer) -> Iterator[None]:
    """Let about every twentieth request fail, until the block ends."""
    ended = threading.Event()

    def inject_faults() -> None:
        seen = 0
        while not ended.wait(0.1):
            seen += len(swift.requests())
            swift.reset_requests()
            swift.clear_faults()
            while seen >= 20:
                swift.inject(random.choice(FAULTS))
                seen -= 20

    injector = threading.Thread(target=inject_faults)
    injector.start()
    try:
        yield
    finally:
        ended.set()
        injector.join()
        swift.clear_faults()


@pytest.fixture
def stacks_on_abort(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let mounts write the stacks of their threads when they are aborted."""
    monkeypatch.setenv("PYTHONFAULTHANDLER", "1")


@pytest.mark.slow
@pytest.mark.usefixtures("stacks_on_abort")
@pytest.mark.timeout(5 * SECONDS + 300)
def test_many_workers_on_one_mount(
    swift: SwiftServer, connection: Connection, container: str, tmp_path: Path
) -> None:
    with Mount(swift, container, tmp_path, OPTIONS) as mount:
        wanted = WorkerGroup(mount, "first", 3).wait()
        assert_nothing_pending(mount)
        before = ProcessUsage.of(mount)
        wanted |= WorkerGroup(mount, "second", SECONDS).wait()
        assert_nothing_pending(mount)
        after = ProcessUsage.of(mount)
        assert after.threads < MOST_THREADS
        assert after.descriptors < MOST_DESCRIPTORS
        assert after.memory - before.memory < MOST_GROWTH
        assert_stored(connection, container, wanted)
        mount.stop()
        assert_journal_is_empty(mount)


@pytest.mark.slow
@pytest.mark.usefixtures("stacks_on_abort")
@pytest.mark.timeout(5 * SECONDS + 300)
def test_many_workers_during_random_faults(
    swift: SwiftServer, connection: Connection, container: str, tmp_path: Path
) -> None:
    with Mount(swift, container, tmp_path, f"{OPTIONS},prefetch=no") as mount:
        with random_faults(swift):
            wanted = WorkerGroup(mount, "only", SECONDS / 2).wait()
        assert_nothing_pending(mount)
        mount.stop()
        assert_journal_is_empty(mount)
        assert_stored(connection, container, wanted, leftovers(mount))
