"""Fixtures of the tests of the removal of segments."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from support.segment_cleaner import Cleaner


@pytest.fixture
def cleaner(tmp_path: Path) -> Iterator[Cleaner]:
    found = Cleaner(tmp_path)
    with closing(found.log):
        yield found
