"""Which tests are usual, fast and slow."""

import pytest
from tiers import spread, starts_processes


@pytest.mark.parametrize("count", [1, 2, 5, 84])
@pytest.mark.parametrize("kept", [1, 2, 3, 14])
def test_of_a_matrix_some_cases_are_kept(count: int, kept: int) -> None:
    numbers = spread(count, kept)
    assert len(numbers) == min(count, kept)
    assert min(numbers) == 0
    assert max(numbers) == (0 if kept == 1 else count - 1)


def test_what_mounts_is_not_fast() -> None:
    assert starts_processes({"Mount": object(), "pytest": pytest})
    assert not starts_processes({"pytest": pytest})
