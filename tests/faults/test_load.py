"""Thirty-two workers on one mount: none hangs, nothing is lost, and nothing is left."""

import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from msgspec.structs import replace
from swiftclient import Connection

from support.crashes import orphans, stored_states
from support.load_checks import PREFETCHED, assert_journal_is_empty, assert_nothing_pending
from support.mounts import Mount
from support.random_faults import BRIEF_FAULTS, WorkerGroup, check, leftovers
from support.tiers import chosen
from swiftfs.demo.server import SwiftServer

SECONDS = float(os.environ.get("SWIFTFS_LOAD_SECONDS", "10"))
"""How long the workers work; minutes find more."""

WORKERS = 32

OPTIONS = "settle=2,segment_size=1M,cache_size=256M"

MOST_THREADS = 120
"""All pools together, and libfuse's threads."""

MOST_DESCRIPTORS = PREFETCHED + MOST_THREADS

MOST_GROWTH = 100 * 1024**2
"""Bytes of memory by which a mount may grow after a few seconds of the same work."""


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


@contextmanager
def working(mount: Mount, client: Connection, container: str) -> Iterator[WorkerGroup]:
    """Let the workers work until the block ends; then another client must see what they have left."""
    seed = chosen("load").randrange(1, 10**6)
    print(f"seed {seed}")
    workers = WorkerGroup(mount, WORKERS, seed)
    try:
        yield workers
        oracles = workers.end()
    finally:
        workers.kill()
    assert workers.counts["failures"] == workers.counts["crashes"] == 0
    assert_nothing_pending(mount)
    mount.stop()
    assert_journal_is_empty(mount)
    check(stored_states(client, container), oracles, "in Swift", mount.log)
    assert orphans(client, container) <= leftovers(mount)


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
                swift.inject(replace(random.choice(BRIEF_FAULTS), times=1))
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
def busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let workers rest less, and mounts write the stacks of their threads when they are aborted."""
    monkeypatch.setenv("SWIFTFS_STRESS_WITHOUT", "_pause,_burst,_remove_and_move")
    monkeypatch.setenv("PYTHONFAULTHANDLER", "1")


@pytest.mark.slow
@pytest.mark.usefixtures("busy")
@pytest.mark.timeout(5 * SECONDS + 300)
def test_many_workers_on_one_mount(
    swift: SwiftServer, connection: Connection, container: str, tmp_path: Path
) -> None:
    with Mount(swift, container, tmp_path, OPTIONS) as mount:
        with working(mount, connection, container) as workers:
            workers.work(3)
            workers.pause()
            assert_nothing_pending(mount)
            before = ProcessUsage.of(mount)
            workers.resume()
            workers.work(SECONDS)
            workers.pause()
            assert_nothing_pending(mount)
            after = ProcessUsage.of(mount)
            workers.resume()
        assert after.threads < MOST_THREADS
        assert after.descriptors < MOST_DESCRIPTORS
        assert after.memory - before.memory < MOST_GROWTH


@pytest.mark.slow
@pytest.mark.usefixtures("busy")
@pytest.mark.timeout(5 * SECONDS + 300)
def test_many_workers_during_random_faults(
    swift: SwiftServer, connection: Connection, container: str, tmp_path: Path
) -> None:
    with (
        Mount(swift, container, tmp_path, f"{OPTIONS},prefetch=no") as mount,
        working(mount, connection, container) as workers,
        random_faults(swift),
    ):
        workers.work(SECONDS / 2)
