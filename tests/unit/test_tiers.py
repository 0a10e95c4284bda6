"""Which tests are usual, fast and slow."""

import random
from pathlib import Path

import pytest

from support.tiers import FAST_CASES, TESTS, sample, spread

FOLDERS = {"unit", "contract", "simulation", "mounted", "faults", "system"}


@pytest.mark.parametrize("kept", [1, 2, 3, 14, 85])
def test_of_a_matrix_some_cases_are_kept(kept: int) -> None:
    cases = [{"file": [file], "change": change} for file in range(14) for change in "abcdef"]
    numbers = spread(cases, kept)
    assert len(numbers) == min(kept, len(cases))
    assert 0 in numbers
    assert len({cases[number]["change"] for number in numbers}) == min(kept, 6)
    assert len({str(cases[number]["file"]) for number in numbers}) == min(kept, 14)


def test_of_one_parameter_the_first_and_the_last_value_are_kept() -> None:
    assert spread([{"seed": seed} for seed in range(12)], 3) == {0, 5, 11}


@pytest.mark.parametrize("count", [1, 2, 100])
def test_a_seed_chooses_a_third_of_the_slow_cases_and_others_the_rest(count: int) -> None:
    samples = [sample(count, random.Random(f"{seed}")) for seed in range(30)]
    assert samples[0] == sample(count, random.Random("0"))
    assert {len(one) for one in samples} == ({34} if count == 100 else {0, 1})
    assert set().union(*samples) == set(range(count))


def test_every_test_lies_in_a_folder_of_its_kind(request: pytest.FixtureRequest) -> None:
    found = {path.parent.relative_to(TESTS) for path in TESTS.rglob("test_*.py")}
    assert found == {Path(name) for name in FOLDERS}
    assert request.node.get_closest_marker("unit") is not None
    assert request.node.get_closest_marker("mounted") is None


@pytest.mark.parametrize("number", range(3 * FAST_CASES))
def test_of_a_test_with_many_cases_some_are_fast(request: pytest.FixtureRequest, number: int) -> None:
    fast = [
        item.callspec.params["number"]
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and item.originalname == request.node.originalname
        and item.get_closest_marker("usual") is None
    ]
    assert len(fast) <= FAST_CASES
    assert (number in fast) == (request.node.get_closest_marker("usual") is None)
