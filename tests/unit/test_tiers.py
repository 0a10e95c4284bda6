"""Which tests are usual, fast and slow."""

from pathlib import Path

import pytest

from support.tiers import TESTS, spread

FOLDERS = {"unit", "contract", "simulation", "mounted", "faults", "system"}


@pytest.mark.parametrize("count", [1, 2, 5, 84])
@pytest.mark.parametrize("kept", [1, 2, 3, 14])
def test_of_a_matrix_some_cases_are_kept(count: int, kept: int) -> None:
    numbers = spread(count, kept)
    assert len(numbers) == min(count, kept)
    assert min(numbers) == 0
    assert max(numbers) == (0 if kept == 1 else count - 1)


def test_every_test_lies_in_a_folder_of_its_kind(request: pytest.FixtureRequest) -> None:
    found = {path.parent.relative_to(TESTS) for path in TESTS.rglob("test_*.py")}
    assert found == {Path(name) for name in FOLDERS}
    assert request.node.get_closest_marker("unit") is not None
    assert request.node.get_closest_marker("mounted") is None
