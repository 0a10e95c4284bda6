"""Replaced segments are deleted after a rest: another mount may have named them again."""

import pytest

from support.segment_cleaner import NAME, PREFIX, Cleaner, pass_time
from support.stored_objects import refuse, segments
from swiftfs.errors import Unavailable
from swiftfs.journal import segment_records
from swiftfs.objects import ObjectName

pytest_plugins = ["support.segment_fixtures"]


@pytest.fixture
def rest(monkeypatch: pytest.MonkeyPatch) -> float:
    """Let replaced segments rest as in a mount of a user."""
    monkeypatch.setattr(segment_records, "REST_SECONDS", 2.0)
    return 2.0


def replaced(cleaner: Cleaner, *names: ObjectName) -> None:
    """Replace the object by a version with these segments."""
    old = {one.name for one in cleaner.store.manifest(NAME).segments}
    cleaner.manifest("file", *names)
    cleaner.removal.discard(NAME, old.difference(names), is_slo=True)


def end_rest(cleaner: Cleaner, rest: float) -> None:
    cleaner.now += rest
    assert cleaner.removal.is_due()
    cleaner.removal.look_again()


def test_replaced_segments_are_deleted_after_a_rest(cleaner: Cleaner, rest: float) -> None:
    first, kept, new, newer = (cleaner.segment(PREFIX + key) for key in ("1-a", "2-b", "3-c", "4-d"))
    cleaner.manifest("file", first, kept)
    replaced(cleaner, new, kept)
    cleaner.now += rest / 2
    assert not cleaner.removal.is_due()
    replaced(cleaner, newer, kept)
    end_rest(cleaner, rest / 2)
    assert segments(cleaner.store) == {kept.key, new.key, newer.key}
    end_rest(cleaner, rest / 2)
    assert segments(cleaner.store) == {kept.key, newer.key}
    assert not cleaner.removal.leftovers.all()
    assert not cleaner.removal.is_due()


@pytest.mark.parametrize("restarts", [True, False])
def test_segments_that_another_mount_names_again_stay(cleaner: Cleaner, rest: float, restarts: bool) -> None:
    """Both mounts have changed the version that stood, each another segment of it."""
    first, second, mine, theirs = (cleaner.segment(PREFIX + key) for key in ("1-a", "2-b", "3-c", "4-d"))
    cleaner.manifest("file", first, second)
    replaced(cleaner, mine, second)
    cleaner.manifest("file", first, theirs)
    # It is no manifest of this mount, for which it would be overwritten.
    assert not cleaner.removal.has_landed(NAME)
    if restarts:
        cleaner.removal = cleaner.restarted()
    else:
        end_rest(cleaner, rest)
    assert not cleaner.removal.has_landed(NAME)
    pass_time(cleaner)
    assert {first.key, theirs.key} <= segments(cleaner.store)
    assert not cleaner.removal.leftovers.all()


def test_resting_segments_are_deleted_at_the_end_of_a_mount(cleaner: Cleaner, rest: float) -> None:
    first, new = cleaner.segment(PREFIX + "1-a"), cleaner.segment(PREFIX + "3-c")
    cleaner.manifest("file", first)
    replaced(cleaner, new)
    assert segments(cleaner.store) == {first.key, new.key}
    cleaner.removal.end_rests(at_once=True)
    assert segments(cleaner.store) == {new.key}
    assert not cleaner.removal.leftovers.all()


@pytest.mark.usefixtures("rest")
@pytest.mark.parametrize("method", ["manifest", "delete_many"])
def test_resting_segments_wait_during_an_outage(cleaner: Cleaner, method: str) -> None:
    first, second, new = (cleaner.segment(PREFIX + key) for key in ("1-a", "2-b", "3-c"))
    cleaner.manifest("file", first, second)
    replaced(cleaner, new)

    refuse(cleaner.store, method, Unavailable)
    cleaner.removal.end_rests(at_once=True)
    cleaner.store.hook = None
    assert segments(cleaner.store) == {first.key, second.key, new.key}
    pass_time(cleaner)
    assert segments(cleaner.store) == {new.key}
    assert not cleaner.removal.leftovers.all()
