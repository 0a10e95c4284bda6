"""Programs work while Swift fails and the mount is killed: in the end all is as their oracles say.

`./dev stress` does it for half an hour. `SWIFTFS_STRESS_SECONDS` and `SWIFTFS_STRESS_SEED` set the length and
the seed; `SWIFTFS_STRESS_WITHOUT` names steps of the programs to leave out, separated by commas.
"""

import os
import random
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from swiftclient import Connection

from support.crash_oracle import look_below
from support.crashes import orphans, stored_states
from support.load_ends import assert_journal_is_empty, assert_nothing_waits
from support.mounts import Mount
from support.storm import Crew, Storm, check, death_of, leftovers
from swiftfs.control.client import retry
from swiftfs.demo.server import SwiftServer

SECONDS = float(os.environ.get("SWIFTFS_STRESS_SECONDS", "15"))
"""How long the storm lasts; minutes find more."""

FIXED_SEED = 271828
SEEDS = (
    {"given": int(os.environ["SWIFTFS_STRESS_SEED"])}
    if "SWIFTFS_STRESS_SEED" in os.environ
    else {"fixed": FIXED_SEED, "new": random.randrange(1, 10**6)}
)
"""By a name that is the same in every process of one run; the test prints the number."""

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
"""Options of the mounts that follow each other."""

UNUSED = "stays in Swift unused"
"""The log says so of a segment whose deletion has failed for too long; `swiftfs gc` finds it."""

EXPECTED = (
    "is parked, because it cannot be stored",
    "the old object stays until Swift deletes it",
    "its last changes are lost",  # with `sync`, after the close() that failed
    UNUSED,
    *(f": {name} (" for name in ("EIO", "ETIMEDOUT", "EDQUOT", "EFBIG", "EACCES")),
)
"""What a mount may warn of in such weather."""


@contextmanager
def abandoned_when_it_fails(mount: Mount) -> Iterator[None]:
    """Kill a mount whose test has failed: its log is in the message already."""
    try:
        yield
    except BaseException:
        if mount.is_started:
            mount.expected.append("")
            mount.exit_code = death_of(mount) or -signal.SIGKILL
            os.kill(mount.pid, signal.SIGKILL)
        raise


@pytest.mark.slow
@pytest.mark.timeout(5 * SECONDS + 900)
@pytest.mark.parametrize("seed", SEEDS.values(), ids=SEEDS)
def test_what_programs_leave_after_a_storm(
    swift: SwiftServer,
    connection: Connection,
    container: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
) -> None:
    monkeypatch.setenv("PYTHONFAULTHANDLER", "1")
    print(f"seed {seed}, {SECONDS:.0f} s")
    mount = Mount(swift, container, tmp_path, VARIANTS[0])
    mount.expected += EXPECTED
    with mount, abandoned_when_it_fails(mount):
        crew = Crew(mount, WORKERS, seed)
        storm = Storm(swift, mount, crew, seed, VARIANTS)
        try:
            storm.blow(SECONDS)
            print(f"events: {dict(storm.counts)}")
            oracles = crew.end()
        finally:
            crew.kill()
        retry(mount.path)
        assert_nothing_waits(mount)
        check(stored_states(connection, container), oracles, "in Swift", mount.log)
        told = mount.log.read_text()
        unused = {one for one in orphans(connection, container) if f"{one} {UNUSED}" not in told}
        unused = {one for one in unused if not one.startswith(tuple(storm.abandoned))}
    assert_journal_is_empty(mount)
    assert unused - leftovers(mount) == set()
    shutil.rmtree(mount.cache)
    with mount:
        check(look_below(mount.path), oracles, "in a mount with an empty cache", mount.log)
