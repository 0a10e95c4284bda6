"""Workers change files while Swift fails and the mount is killed: in the end all is as their oracles say.

`./dev stress` does it for half an hour. `SWIFTFS_STRESS_SECONDS` and `SWIFTFS_STRESS_SEED` set the length and
the seed; `SWIFTFS_STRESS_WITHOUT` names steps of the workers to leave out, separated by commas.
"""

import os
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from swiftclient import Connection

from support.crash_oracle import look_below
from support.crashes import orphans, stored_states
from support.load_checks import assert_journal_is_empty, assert_nothing_pending
from support.mounts import Mount
from support.random_faults import RandomFaults, WorkerGroup, check, exit_status_of, leftovers
from support.tiers import chosen
from swiftfs.control.client import retry
from swiftfs.demo.server import SwiftServer

SECONDS = float(os.environ.get("SWIFTFS_STRESS_SECONDS", "15"))
"""How long the faults last; minutes find more."""

SEED = int(os.environ.get("SWIFTFS_STRESS_SEED", "0")) or chosen("stress").randrange(1, 10**6)

WORKERS = 5

OPTIONS = "segment_size=1M,cache_size=64M"

VARIANTS = [
    f"{OPTIONS},{one}"
    for one in (
        "settle=2",
        "settle=2",
        "settle=2,prefetch=no",
        "settle=2,conflict=keep",
        "settle=0.3",
        "sync",
    )
]
"""Each mount has the options of one of these."""

UNUSED = "stays in Swift unused"
"""In the log line about a segment whose deletion has failed for too long; `swiftfs gc` finds it."""

KEPT_SEGMENTS = re.compile(r"(\d+) segments that .* names are kept: they may belong to other objects")
"""A log line about a file that is deleted or replaced; `swiftfs gc` finds its segments."""

EXPECTED = (
    "is parked, because it cannot be stored",
    "the old object stays until Swift deletes it",
    "expired listings are used",
    "its last changes are lost",  # with `sync`, after the close() that failed
    UNUSED,
    *(f": {name} (" for name in ("EIO", "ETIMEDOUT", "EDQUOT", "EFBIG", "EACCES")),
)
"""Warnings that a mount may log during the faults."""


@contextmanager
def abandoned_when_it_fails(mount: Mount) -> Iterator[None]:
    """Kill the mount if the test fails: the message of the failure has its log already."""
    try:
        yield
    except BaseException:
        if mount.is_started:
            mount.expected.append("")
            mount.exit_code = exit_status_of(mount) or -signal.SIGKILL
            os.kill(mount.pid, signal.SIGKILL)
        raise


@pytest.mark.slow
@pytest.mark.timeout(5 * SECONDS + 900)
def test_files_are_right_after_random_faults(
    swift: SwiftServer,
    connection: Connection,
    container: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONFAULTHANDLER", "1")
    print(f"seed {SEED}, {SECONDS:.0f} s")
    mount = Mount(swift, container, tmp_path, VARIANTS[0])
    mount.expected += EXPECTED
    with mount, abandoned_when_it_fails(mount):
        workers = WorkerGroup(mount, WORKERS, SEED)
        faults = RandomFaults(swift, mount, workers, SEED, VARIANTS)
        try:
            faults.run(SECONDS)
            print(f"events: {dict(faults.counts)}")
            oracles = workers.end()
        finally:
            workers.kill()
        retry(mount.path)
        assert_nothing_pending(mount)
        check(stored_states(connection, container), oracles, "in Swift", mount.log)
        log = mount.log.read_text()
        unused = {one for one in orphans(connection, container) if f"{one} {UNUSED}" not in log}
        unused = {one for one in unused if not one.startswith(tuple(faults.abandoned))}
    assert_journal_is_empty(mount)
    # After a rename that a kill has interrupted nobody knows whether another client needs the old segments.
    kept = sum(map(int, KEPT_SEGMENTS.findall(log)))
    assert len(unused - leftovers(mount)) <= kept, unused - leftovers(mount)
    shutil.rmtree(mount.cache)
    with mount:
        check(look_below(mount.path), oracles, "in a mount with an empty cache", mount.log)
