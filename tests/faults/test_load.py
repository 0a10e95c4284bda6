"""Thirty-two programs on one mount: nobody waits for ever, nothing is lost, and nothing is left behind."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
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
from swiftfs.demo.server import Fault, SwiftServer

SECONDS = float(os.environ.get("SWIFTFS_LOAD_SECONDS", "10"))
"""How long the programs work; minutes find more."""

PROGRAMS = 32

STUCK_SECONDS = 90
"""So long no single step may take."""

OPTIONS = "settle=2,segment_size=1M,cache_size=256M"

MOST_THREADS = 120
"""All pools together, and libfuse's threads."""

MOST_DESCRIPTORS = PREFETCHED + MOST_THREADS

MOST_GROWTH = 100 * 1024**2
"""Bytes of memory that a mount takes more than after a few seconds of the same work."""

FAULTS = (
    Fault(status=503, times=1),
    Fault(status=500, after=True, times=1),
    Fault(reset=True, times=1),
    Fault(delay=1.0, times=1),
    Fault(reset=True, after=True, times=1),
)


class Programs:
    """The programs at work, and a watchdog over them: a mount that keeps one waiting says where it hangs."""

    def __init__(self, mount: Mount, name: str, seconds: float) -> None:
        self._mount = mount
        self._name = name
        self._reports = mount.path.parent / name
        self._reports.mkdir()
        (mount.path / name).mkdir()
        words = [mount.path / name, self._reports, PROGRAMS, seconds, random.randrange(10**6)]
        print("load:", *words)
        self._process = subprocess.Popen(
            [sys.executable, "-m", load.__name__, *map(str, words)],
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(Path(load.__file__).parents[1])},
        )

    def wait(self) -> dict[str, State]:
        """Return what all programs have left behind, when they have ended; fail when one did not do well."""
        moved: dict[Path, tuple[float, str]] = {}
        while self._process.poll() is None:
            time.sleep(0.2)
            now = time.monotonic()
            for path in self._reports.glob("*.now"):
                text = path.read_text()
                since, before = moved.get(path, (now, ""))
                moved[path] = (since if text == before else now, text)
                if now - moved[path][0] > within(STUCK_SECONDS) and " ends " not in text:
                    self._bark(text)
        errors = [f"{path.stem}: {path.read_text()}" for path in self._reports.glob("*.error")]
        assert not errors, f"{len(errors)} failed: {errors[0]}\n{self._mount.log.read_text()[-5000:]}"
        assert self._process.returncode == 0
        return self._ledgers()

    def _bark(self, text: str) -> None:
        """Have the mount write the stacks of all threads to its log (faulthandler), and fail."""
        os.kill(self._mount.pid, signal.SIGABRT)
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._mount.exit_code = -signal.SIGABRT
        raise AssertionError(f"stuck: {text.strip()}\n{self._mount.log.read_text()[-50_000:]}")

    def _ledgers(self) -> dict[str, State]:
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
class Gauges:
    """What a mount's process holds: memory in bytes."""

    threads: int
    descriptors: int
    memory: int

    @classmethod
    def of(cls, mount: Mount) -> "Gauges":
        """Look at the process."""
        process = psutil.Process(mount.pid)
        found = cls(process.num_threads(), process.num_fds(), process.memory_info().rss)
        print(found)
        return found


def assert_stored(client: Connection, container: str, wanted: dict[str, State]) -> None:
    """Compare what another client sees with what the programs have left."""
    assert differences(stored_states(client, container), wanted) == []
    assert orphans(client, container) == set()


@contextmanager
def bad_weather(swift: SwiftServer) -> Iterator[None]:
    """Let about every twentieth request go wrong."""
    over = threading.Event()

    def blow() -> None:
        seen = 0
        while not over.wait(0.1):
            seen += len(swift.requests())
            swift.reset_requests()
            swift.clear_faults()
            while seen >= 20:
                swift.inject(random.choice(FAULTS))
                seen -= 20

    wind = threading.Thread(target=blow)
    wind.start()
    try:
        yield
    finally:
        over.set()
        wind.join()
        swift.clear_faults()


@pytest.fixture
def telling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let mounts tell the stacks of their threads when they are aborted."""
    monkeypatch.setenv("PYTHONFAULTHANDLER", "1")


@pytest.mark.slow
@pytest.mark.usefixtures("telling")
@pytest.mark.timeout(5 * SECONDS + 300)
def test_programs_side_by_side(
    swift: SwiftServer, connection: Connection, container: str, tmp_path: Path
) -> None:
    with Mount(swift, container, tmp_path, OPTIONS) as mount:
        wanted = Programs(mount, "first", 3).wait()
        assert_nothing_pending(mount)
        before = Gauges.of(mount)
        wanted |= Programs(mount, "second", SECONDS).wait()
        assert_nothing_pending(mount)
        after = Gauges.of(mount)
        assert after.threads < MOST_THREADS
        assert after.descriptors < MOST_DESCRIPTORS
        assert after.memory - before.memory < MOST_GROWTH
        assert_stored(connection, container, wanted)
        mount.stop()
        assert_journal_is_empty(mount)


@pytest.mark.slow
@pytest.mark.usefixtures("telling")
@pytest.mark.timeout(5 * SECONDS + 300)
def test_programs_in_bad_weather(
    swift: SwiftServer, connection: Connection, container: str, tmp_path: Path
) -> None:
    with Mount(swift, container, tmp_path, f"{OPTIONS},prefetch=no") as mount:
        with bad_weather(swift):
            wanted = Programs(mount, "only", SECONDS / 2).wait()
        assert_nothing_pending(mount)
        assert_stored(connection, container, wanted)
        mount.stop()
        assert_journal_is_empty(mount)
