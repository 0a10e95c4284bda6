"""What `swiftfs warm --data` counts as fitting into a cache."""

from pathlib import Path

import pytest

from swiftfs.cli import running
from swiftfs.cli.running import Space
from swiftfs.objects import CacheUse

PINNED, OTHER = Path("pinned"), Path("other")


@pytest.fixture(autouse=True)
def pins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "_is_pinned", lambda file: file == PINNED)


def test_a_pinned_copy_that_is_there_takes_no_space_of_an_overfull_cache() -> None:
    space = Space.of(CacheUse(used=110, dirty=20, limit=100, pinned=90))
    assert space.take(PINNED, 60)
    assert space.take(PINNED, 30)
    assert not space.take(PINNED, 1)
    assert not space.take(OTHER, 1)


def test_files_share_what_is_left() -> None:
    space = Space.of(CacheUse(used=0, dirty=20, limit=100, pinned=30))
    assert space.take(OTHER, 40)
    assert not space.take(OTHER, 11)
    assert space.take(PINNED, 40)
    assert not space.take(OTHER, 1)
