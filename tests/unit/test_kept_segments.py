"""Where a container keeps older versions, the segments that these may name are kept."""

import pytest

from support.segment_cleaner import NAME, PREFIX, Cleaner, pass_time
from support.stored_objects import refuse, segments
from swiftfs.concurrency import monotonic
from swiftfs.errors import AccessDenied, NotFound, Unavailable
from swiftfs.filecache.upload_record import UnreferencedPrefix
from swiftfs.objects import History, ObjectName
from swiftfs.store import protocol
from swiftfs.store.protocol import Histories

pytest_plugins = ["support.segment_fixtures"]

KINDS = [History.KEPT, History.ELSEWHERE]


@pytest.fixture(params=KINDS)
def keeping(cleaner: Cleaner, request: pytest.FixtureRequest) -> Cleaner:
    """The removal, where the container of the objects has older versions."""
    cleaner.store.set_history("box", request.param)
    return cleaner


def test_segments_of_a_version_stay(keeping: Cleaner) -> None:
    used = keeping.segment(PREFIX + "1-a")
    keeping.manifest("file", used)
    assert keeping.removal.segments_of(NAME, is_slo=True) == set()
    assert keeping.removal.leftovers.all() == {}


def test_segments_go_where_no_version_is_kept(cleaner: Cleaner) -> None:
    used = cleaner.segment(PREFIX + "1-a")
    cleaner.manifest("file", used)
    assert cleaner.removal.segments_of(NAME, is_slo=True) == {used}


def test_segments_stay_until_swift_says_that_no_version_is_kept(cleaner: Cleaner) -> None:
    used = cleaner.segment(PREFIX + "1-a")
    cleaner.manifest("file", used)
    refuse(cleaner.store, "container_usage", Unavailable)
    cleaner.removal.discard(NAME, cleaner.removal.segments_of(NAME, is_slo=True), is_slo=False)
    cleaner.removal.end_rests(at_once=True)
    assert segments(cleaner.store) == {used.key}
    cleaner.store.hook = None
    cleaner.store.delete(NAME)
    pass_time(cleaner)
    assert segments(cleaner.store) == set()
    assert cleaner.removal.leftovers.all() == {}


def test_segments_of_a_deleted_object_stay_until_then_too(cleaner: Cleaner) -> None:
    used = cleaner.segment(PREFIX + "1-a")
    cleaner.manifest("file", used)
    refuse(cleaner.store, "container_usage", Unavailable)
    found = cleaner.removal.segments_of(NAME, is_slo=True)
    cleaner.store.delete(NAME)
    cleaner.removal.discard_with({NAME: found})
    assert segments(cleaner.store) == {used.key}
    pass_time(cleaner)  # and is asked again
    assert segments(cleaner.store) == {used.key}
    cleaner.store.hook = None
    pass_time(cleaner)
    assert segments(cleaner.store) == set()


def test_segments_stay_where_swift_refuses_to_say_it(cleaner: Cleaner) -> None:
    used = cleaner.segment(PREFIX + "1-a")
    cleaner.manifest("file", used)
    refuse(cleaner.store, "container_usage", AccessDenied)
    assert cleaner.removal.segments_of(NAME, is_slo=True) == set()
    assert cleaner.removal.leftovers.all() == {}


def test_only_what_no_manifest_named_goes_when_a_file_is_stored_again(keeping: Cleaner) -> None:
    named, superseded = keeping.segment(PREFIX + "1-a"), keeping.segment(PREFIX + "2-b")
    keeping.removal.discard(NAME, {named, superseded}, never_named={superseded}, is_slo=False, in_doubt=False)
    assert segments(keeping.store) == {named.key}


def test_nothing_goes_while_a_manifest_is_in_doubt(keeping: Cleaner) -> None:
    superseded = keeping.segment(PREFIX + "2-b")
    keeping.removal.discard(NAME, {superseded}, never_named={superseded}, is_slo=False, in_doubt=True)
    assert keeping.removal.leftovers.all() == {}
    assert segments(keeping.store) == {superseded.key}


def test_what_was_left_to_delete_later_stays(cleaner: Cleaner) -> None:
    """Versioning was switched on meanwhile."""
    left = cleaner.segment(PREFIX + "1-a")
    cleaner.removal.keep_unanswered({left}, {NAME})
    cleaner.store.set_history("box", History.KEPT)
    pass_time(cleaner)
    assert segments(cleaner.store) == {left.key}
    assert cleaner.removal.leftovers.all() == {}


def test_what_a_dead_mount_has_uploaded_stays(keeping: Cleaner) -> None:
    left = keeping.segment(PREFIX + "1-a")
    prefix = ObjectName("box_segments", PREFIX)
    keeping.removal.discard_below(UnreferencedPrefix(prefix, frozenset(), objects=frozenset({NAME})))
    assert segments(keeping.store) == {left.key}


@pytest.mark.parametrize("key", [PREFIX + "1-a", f".swiftfs-segments/{PREFIX}1-a"])
def test_segments_stay_that_came_from_a_container_with_versions(keeping: Cleaner, key: str) -> None:
    """The file was moved to a container without."""
    place = "box" if key.startswith(".") else "box_segments"
    assert keeping.removal.are_kept({ObjectName("other", "file")}, {ObjectName(place, key)})
    assert not keeping.removal.are_kept({ObjectName("other", "file")}, {ObjectName("third", "other/" + key)})
    assert keeping.removal.are_kept({ObjectName("other", "file")}, {ObjectName("third", "box/" + PREFIX)})


def test_a_container_is_asked_once_a_minute(cleaner: Cleaner, monkeypatch: pytest.MonkeyPatch) -> None:
    now = monotonic()
    monkeypatch.setattr(protocol, "monotonic", lambda: now)
    asked = Histories(cleaner.store)
    cleaner.store.requests.clear()
    assert [asked.of("box") for _ in range(3)] == [History.NONE] * 3
    assert cleaner.store.requests == [("container_usage", "box")]
    cleaner.store.set_history("box", History.KEPT)
    now += protocol.HISTORY_SECONDS
    assert asked.of("box") is History.KEPT
    asked.learn("box", History.NONE)
    assert asked.of("box") is History.NONE
    assert len(cleaner.store.requests) == 2


def test_a_container_that_is_gone_keeps_nothing(cleaner: Cleaner) -> None:
    asked = Histories(cleaner.store)
    assert asked.of("gone") is History.NONE
    assert not asked.may_have_versions("gone")
    with pytest.raises(NotFound):
        cleaner.store.container_usage("gone")
