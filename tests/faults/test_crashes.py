"""The crash matrix: a mount is killed at each of its steps, and nothing that was closed is lost."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from swiftclient import Connection

from support.crash_oracle import CrashOracle, look_below
from support.crashes import KillableMount, late_orphans, orphans, stored_states, wipe, work
from support.tiers import chosen
from swiftfs.demo.server import SwiftServer

OPTIONS = "segment_size=1M,settle=0.3"

SAMPLES = 20
"""Steps that are tried, evenly spread from a random one, unless `SWIFTFS_ALL_STEPS` is set: each takes 1 to 3
seconds."""

FEW = 3
"""So many in the usual tier."""

PARALLEL = 2


def crash_and_recover(swift: SwiftServer, name: str, folder: Path, step: int) -> list[str]:
    """Work until the mount dies at `step`, and mount again, sometimes twice; return what is wrong."""
    client = Connection(swift.auth_url, swift.user, swift.key, retries=0)
    client.put_container(name)
    mount = KillableMount(swift, name, folder, OPTIONS)
    oracle = CrashOracle(mount.path)
    survived = False
    if mount.start(step):
        try:
            work(oracle, folder)
        except OSError:
            died = mount.stop()
            assert not died, mount.log.read_text()
        else:
            survived = mount.stop()
    last = mount.steps()[-1] if not survived else "the end"
    if step % 3 == 0 and mount.start(1 + step % 23):
        mount.stop()
    assert mount.start(), mount.log.read_text()
    problems = [f"in the mount {line}" for line in oracle.check(look_below(mount.path))]
    assert mount.stop()
    problems += [f"in Swift {line}" for line in oracle.check(stored_states(client, name))]
    problems += [f"orphan {segment}" for segment in late_orphans(mount, swift, client, name)]
    problems += [f"log: {line}" for line in mount.problems()]
    wipe(client, name)
    client.close()
    return [f"step {step}, {last}: {problem}" for problem in problems]


def count_steps(swift: SwiftServer, name: str, folder: Path) -> list[str]:
    """Return the steps of a mount that is not killed."""
    client = Connection(swift.auth_url, swift.user, swift.key, retries=0)
    client.put_container(name)
    mount = KillableMount(swift, name, folder, OPTIONS)
    oracle = CrashOracle(mount.path)
    assert mount.start()
    work(oracle, folder)
    assert mount.stop()
    assert oracle.check(stored_states(client, name)) == []
    assert orphans(client, name) == set()
    wipe(client, name)
    client.close()
    return mount.steps()


@pytest.mark.timeout(7200 if "SWIFTFS_ALL_STEPS" in os.environ else 900)
@pytest.mark.parametrize("samples", [FEW, pytest.param(SAMPLES, marks=pytest.mark.slow)])
def test_every_step_may_be_the_last(swift: SwiftServer, container: str, tmp_path: Path, samples: int) -> None:
    steps = len(count_steps(swift, container, tmp_path / "0"))
    apart = 1 if "SWIFTFS_ALL_STEPS" in os.environ else max(1, steps // samples)
    tried = range(1 + chosen("crashes").randrange(apart), steps + 1, apart)
    print(f"steps {tried}")
    with ThreadPoolExecutor(PARALLEL) as pool:
        found = pool.map(
            lambda step: crash_and_recover(swift, f"{container}-{step}", tmp_path / str(step), step), tried
        )
        assert [problem for problems in found for problem in problems] == []
    assert len(tried) >= min(steps, samples)
