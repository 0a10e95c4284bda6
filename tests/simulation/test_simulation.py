"""Histories from fixed seeds, without failures.

They run in processes of their own with a fixed hash seed, so that a seed repeats its history exactly.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from simulation.adversary import Fault
from simulation.history import make
from simulation.plan import History, Kill, Life
from simulation.run import close_left, run
from simulation.shrink import shrink
from simulation.steps import Step

TESTS = Path(__file__).parents[1]

ROOT = TESTS.parent


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "simulation", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (TESTS, ROOT))), "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_fixed_seeds() -> None:
    result = simulate("--first", "40280", "--histories", "40", "--jobs", "1")
    assert result.returncode == 0, result.stdout + result.stderr


def test_fixed_hard_seeds() -> None:
    result = simulate("--hard", "--first", "3200100", "--histories", "20", "--jobs", "1")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.usual
def test_fixed_seeds_with_a_trash() -> None:
    result = simulate("--first", "910000", "--histories", "20", "--jobs", "1", "--trash", "--settled")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.usual
@pytest.mark.parametrize("seed", ["7000636", "7001152", "7001903", "7002027"])
def test_an_own_version_is_not_kept_as_another_clients(seed: str) -> None:
    result = simulate("--keep", "--trash", "--seed", seed)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.usual
def test_segments_that_a_lost_attempt_replaced_are_deleted_beside_a_copy_in_the_trash() -> None:
    result = simulate("--keep", "--trash", "--seed", "7001548")
    assert result.returncode == 0, result.stdout + result.stderr


# 9000016 deletes the names of a set; 9000242 tells of the full disk by its folder.
@pytest.mark.matrix(1)
@pytest.mark.parametrize("seed", ["3", "17", "9000016", "9000242"])
def test_a_seed_repeats_a_history_exactly(seed: str) -> None:
    first, second = simulate("--seed", seed), simulate("--seed", seed)
    assert "checksum" in first.stdout, first.stdout + first.stderr
    assert first.stdout == second.stdout


def test_a_history_is_shortened_to_what_its_failure_needs(tmp_path: Path) -> None:
    """The upload of /a stands for the failure."""
    noise = tuple(Step("write", f"/{name}", size=10) for name in "xyz")
    steps = (*noise, Step("write", "/a", size=10), Step("fsync", "/a"), *noise)
    faults = (Fault("fails", "head", 50), Fault("slow", "put", 1, 0.5))
    history = History(1, (Life((steps, noise)), Life((noise,), Kill(1, 5))), faults)

    def is_stored(one: History) -> bool:
        return any("put box/a" in line for line in run(one, tmp_path).story)

    assert not run(history, tmp_path).failures
    short = shrink(history, is_stored, seconds=60)
    assert [life.programs for life in short.lives] == [((Step("write", "/a", size=10),),)]
    assert not short.faults
    assert "program 0: write /a 10 bytes" in short.words()


def test_a_history_is_made_from_its_seed_alone() -> None:
    assert [make(seed) for seed in range(20)] == [make(seed) for seed in range(20)]
    assert make(1) != make(2)


@pytest.mark.parametrize("cut", [False, True], ids=["kill", "power cut"])
def test_a_kill_between_uploads_and_their_shared_end(cut: bool, tmp_path: Path) -> None:
    paths = ("/a", "/b", "/d/a", "/d/b", "/e/a")
    steps = (Step("mkdir", "/d"), Step("mkdir", "/e"), *(Step("write", path, size=10) for path in paths))
    pauses = Step("pause", seconds=2.1), Step("pause", seconds=3.0)
    later = (Step("write", "/a", size=40), Step("unlink", "/b"))
    repeated = 0
    for points in range(280, 540, 20):
        killed = Life(((*steps, *pauses),), Kill(len(steps), points, cut))
        outcome = run(History(points, (killed, Life((later,)))), tmp_path)
        assert not outcome.failures, points
        puts = [line for line in outcome.story if f"put box{paths[2]}" in line]
        repeated += len(puts) > 1
    close_left()
    assert repeated > 1, "no kill came before the end of an upload"
