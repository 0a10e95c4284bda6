"""Before segments are deleted the current manifest is read; while a lost PUT may be executed, they wait."""

from contextlib import closing
from pathlib import Path

import pytest

from support.power_cut import refusing
from support.segment_cleaner import NAME, PREFIX, Cleaner, pass_time
from support.stored_objects import refuse, segments
from swiftfs.errors import AccessDenied, QuotaExceeded, StoreError, Unavailable
from swiftfs.filecache.segment_container import LONGEST_KEY
from swiftfs.filecache.upload_record import UnreferencedPrefix
from swiftfs.journal.database import JournalDB
from swiftfs.journal.segment_removal import LATE_SECONDS, RETRY_SECONDS
from swiftfs.objects import Manifest, ObjectName, Segment
from swiftfs.store.protocol import CopyRequest, Headers

pytest_plugins = ["support.segment_fixtures"]


def below(cleaner: Cleaner, **facts: object) -> UnreferencedPrefix:
    return UnreferencedPrefix(ObjectName("box_segments", PREFIX), frozenset(), **facts)  # type: ignore[arg-type]


def test_the_current_manifest_is_read_where_no_object_is_recorded(cleaner: Cleaner) -> None:
    """As in the database of release 0.1."""
    used, unused = cleaner.segment(PREFIX + "1-a"), cleaner.segment(PREFIX + "2-b")
    cleaner.manifest("file", used)
    cleaner.removal.discard_below(below(cleaner))
    assert segments(cleaner.store) == {used.key}
    assert unused.key not in segments(cleaner.store)


def test_segments_of_an_object_that_was_moved_afterwards_stay(cleaner: Cleaner) -> None:
    used = cleaner.segment(PREFIX + "1-a")
    cleaner.segment(PREFIX + "2-b")
    manifest = cleaner.manifest("moved", used)
    cleaner.removal.owners.record_move(NAME, ObjectName("box", "between"), manifest.etag)
    cleaner.removal.owners.record_move(
        ObjectName("box", "between"), ObjectName("box", "moved"), manifest.etag
    )
    cleaner.restarted().discard_below(below(cleaner, objects=frozenset({NAME})))
    assert segments(cleaner.store) == {used.key}


@pytest.mark.parametrize("error", [Unavailable("503"), AccessDenied("403"), QuotaExceeded("413")])
def test_no_segment_is_deleted_if_the_manifest_cannot_be_read(cleaner: Cleaner, error: StoreError) -> None:
    key = cleaner.segment(PREFIX + "1-a").key

    refuse(cleaner.store, "manifest", error)
    with pytest.raises(type(error)):
        cleaner.removal.discard_below(below(cleaner))
    assert segments(cleaner.store) == {key}


@pytest.mark.parametrize("lands", [True, False])
@pytest.mark.parametrize("restarts", [True, False])
def test_segments_that_a_late_manifest_may_name_are_checked_later(
    cleaner: Cleaner, lands: bool, restarts: bool
) -> None:
    wanted, unwanted = cleaner.segment(PREFIX + "1-a"), cleaner.segment(PREFIX + "2-b")
    asked = below(cleaner, objects=frozenset({NAME}), asked=frozenset({"e"}), since=cleaner.now - 1)
    cleaner.removal.discard_below(asked)
    assert segments(cleaner.store) == {wanted.key, unwanted.key}
    removal = cleaner.restarted() if restarts else cleaner.removal
    assert not removal.is_due()
    removal.look_again()
    assert segments(cleaner.store) == {wanted.key, unwanted.key}
    if lands:
        cleaner.manifest("file", wanted)
    cleaner.now += LATE_SECONDS
    assert removal.is_due()
    removal.look_again()
    assert segments(cleaner.store) == ({wanted.key} if lands else set())
    assert not removal.is_due()
    assert not removal.leftovers.all()


def test_leftovers_wait_during_an_outage(cleaner: Cleaner) -> None:
    name = cleaner.segment(PREFIX + "1-a")
    cleaner.removal.discard(NAME, {name}, is_slo=True, in_doubt=True)
    cleaner.now += LATE_SECONDS

    def refuse(_method: str, _subject: str) -> None:
        raise Unavailable("503")

    cleaner.store.hook = refuse
    cleaner.removal.look_again()
    cleaner.store.hook = None
    assert segments(cleaner.store) == {name.key}
    cleaner.now += LATE_SECONDS
    assert cleaner.removal.is_due()
    cleaner.removal.look_again()
    assert not segments(cleaner.store)


def test_the_record_of_an_upload_is_read_back(tmp_path: Path) -> None:
    state = UnreferencedPrefix(
        ObjectName("box_segments", PREFIX),
        frozenset({"a"}),
        "local",
        frozenset({NAME, ObjectName("box", "other name")}),
        frozenset({"etag"}),
        12.5,
    )
    for _ in range(2):
        with closing(JournalDB(tmp_path, "me")) as log:
            log.begin_upload(state)
            assert log.uploads() == [state]
    with closing(JournalDB(tmp_path, "me")) as log:
        assert log.uploads() == [state]
        log.end_upload(state.prefix)
        assert log.uploads() == []


def test_the_newest_record_of_an_upload_counts_whichever_comes_first(tmp_path: Path) -> None:
    prefix = ObjectName("box_segments", PREFIX)
    states = [UnreferencedPrefix(prefix, frozenset(), since=float(age), revision=age) for age in (1, 2, 3)]
    gone = UnreferencedPrefix(prefix, None, revision=4)
    with closing(JournalDB(tmp_path, "me")) as log:
        log.begin_upload(states[1])
        log.write_upload(states[0])
        assert log.uploads() == [states[1]]
        assert log.finish((), (), [gone])
        log.begin_upload(states[2])
        assert log.uploads() == []


def leave(cleaner: Cleaner, name: ObjectName) -> None:
    """Delete an object: its segments are deleted, or left for later if others may name them."""
    old = cleaner.removal.segments_of(name, is_slo=True)
    cleaner.store.delete(name)
    cleaner.removal.discard(name, old, is_slo=True)
    cleaner.removal.owners.forget(name)


@pytest.mark.parametrize("restarts", [True, False])
@pytest.mark.parametrize("first", ["file", "moved"])
def test_segments_of_two_names_are_deleted_with_the_last(
    cleaner: Cleaner, first: str, restarts: bool
) -> None:
    """The source of a rename could not be deleted: both names have the same segments."""
    moved, used = ObjectName("box", "moved"), cleaner.segment(PREFIX + "1-a")
    manifest = cleaner.manifest("file", used)
    cleaner.manifest("moved", used)
    cleaner.removal.record_move(NAME, moved, manifest.etag, stays=True)
    if restarts:
        cleaner.removal = cleaner.restarted()
    cleaner.removal.discard_below(below(cleaner, objects=frozenset({ObjectName("box", "gone")})))
    leave(cleaner, ObjectName("box", first))
    assert segments(cleaner.store) == {used.key}
    pass_time(cleaner)
    assert segments(cleaner.store) == {used.key}
    leave(cleaner, moved if first == "file" else NAME)
    if cleaner.removal.leftovers.all():
        pass_time(cleaner)
    assert segments(cleaner.store) == set()


@pytest.mark.parametrize("lands", [True, False])
@pytest.mark.parametrize("restarts", [True, False])
def test_segments_that_a_failed_rename_may_have_copied_are_deleted_if_it_has_not(
    cleaner: Cleaner, lands: bool, restarts: bool
) -> None:
    copy, used = ObjectName("box", "copy"), cleaner.segment(PREFIX + "1-a")
    cleaner.manifest("file", used)
    cleaner.removal.share(NAME, copy)
    if restarts:
        cleaner.removal = cleaner.restarted()
    leave(cleaner, NAME)
    if lands:
        cleaner.manifest("copy", used)
    pass_time(cleaner)
    assert segments(cleaner.store) == ({used.key} if lands else set())
    assert not cleaner.removal.leftovers.all()


def test_a_rename_that_failed_long_ago_costs_no_request(cleaner: Cleaner) -> None:
    """Nor does it keep segments of later versions of the object."""
    cleaner.manifest("file", cleaner.segment(PREFIX + "1-a"))
    cleaner.removal.share(NAME, ObjectName("box", "copy"))
    leave(cleaner, NAME)
    pass_time(cleaner)
    cleaner.manifest("file", cleaner.segment(PREFIX.replace("0", "1") + "1-a"))
    leave(cleaner, NAME)
    assert segments(cleaner.store) == set()


@pytest.mark.parametrize("fails", [True, False])
def test_an_object_that_shares_segments_keeps_them(cleaner: Cleaner, fails: bool) -> None:
    """Its deletion was refused, or it was patched and still names some of them."""
    copy, used = ObjectName("box", "copy"), cleaner.segment(PREFIX + "1-a")
    cleaner.manifest("file", used)
    cleaner.removal.share(NAME, copy)
    old = cleaner.removal.segments_of(NAME, is_slo=True)
    if not fails:
        cleaner.removal.discard(NAME, old, is_slo=True)
    assert segments(cleaner.store) == {used.key}
    pass_time(cleaner)
    assert segments(cleaner.store) == {used.key}


class Killed(BaseException):
    """Ends a process in the middle of a call."""


@pytest.mark.parametrize("answered", [True, False])
def test_segments_are_deleted_though_the_process_died_before(cleaner: Cleaner, answered: bool) -> None:
    """Only if it knew that its own request was executed: another mount may have renamed the object."""
    used = cleaner.segment(PREFIX + "1-a")
    cleaner.manifest("file", used)
    old = cleaner.removal.segments_of(NAME, is_slo=True)
    assert old == {used}
    cleaner.store.delete(NAME)

    def die(_method: str, _subject: str) -> None:
        raise Killed

    if answered:
        cleaner.store.hook = die
        with pytest.raises(Killed):
            cleaner.removal.discard(NAME, old, is_slo=True)
        cleaner.store.hook = None
    cleaner.removal = cleaner.restarted()
    pass_time(cleaner)
    assert segments(cleaner.store) == (set() if answered else {used.key})
    assert not cleaner.removal.leftovers.all()


def test_segments_stay_if_the_process_died_and_the_object_exists(cleaner: Cleaner) -> None:
    used = cleaner.segment(PREFIX + "1-a")
    cleaner.manifest("file", used)
    cleaner.removal.segments_of(NAME, is_slo=True)
    cleaner.removal = cleaner.restarted()
    pass_time(cleaner)
    assert segments(cleaner.store) == {used.key}
    assert not cleaner.removal.leftovers.all()


def landed(cleaner: Cleaner, *, since: float) -> set[ObjectName]:
    """Replace a version by a manifest whose PUT, sent `since` then, had no answer; return both segments."""
    old, new = (
        cleaner.segment(PREFIX + "1-a"),
        cleaner.segment("file/swiftfs-fedcba9876543210fedcba9876543210/2-b"),
    )
    cleaner.manifest("file", old)
    cleaner.removal.segments_of(NAME, is_slo=True)
    cleaner.manifest("file", new)
    prefix = ObjectName("box_segments", "file/swiftfs-fedcba9876543210fedcba9876543210/")
    asked = UnreferencedPrefix(prefix, frozenset(), "local", frozenset({NAME}), frozenset({"etag"}), since)
    cleaner.log.begin_upload(asked)
    return {old, new}


def test_segments_go_that_a_manifest_without_an_answer_has_replaced(cleaner: Cleaner) -> None:
    """Swift has it, and only this journal knows its segments."""
    _, new = sorted(landed(cleaner, since=cleaner.now))
    pass_time(cleaner)
    assert segments(cleaner.store) == {new.key}
    assert not cleaner.removal.leftovers.all()


def test_segments_of_a_version_that_came_after_such_a_manifest_stay(cleaner: Cleaner) -> None:
    """The manifest may have come late, when another mount had renamed that version."""
    both = landed(cleaner, since=cleaner.now - 1)
    pass_time(cleaner)
    assert segments(cleaner.store) == {one.key for one in both}


@pytest.mark.parametrize("passing", [False, True])
def test_the_proof_outlives_the_manifest(cleaner: Cleaner, passing: bool) -> None:
    """It is replaced itself, or its upload is given up, before the time is over."""
    landed(cleaner, since=cleaner.now)
    if passing:
        (upload,) = cleaner.log.uploads()
        cleaner.removal.discard_below(upload)
        cleaner.log.end_upload(upload.prefix)
    cleaner.removal.discard(NAME, cleaner.removal.segments_of(NAME, is_slo=True), is_slo=True)
    cleaner.store.delete(NAME)
    pass_time(cleaner)
    assert segments(cleaner.store) == set()


def test_what_a_manifest_without_an_answer_names_is_not_proven(cleaner: Cleaner) -> None:
    """Its own deletion had no answer either, and another mount has renamed the object."""
    _, new = sorted(landed(cleaner, since=cleaner.now))
    cleaner.removal.segments_of(NAME, is_slo=True)
    (upload,) = cleaner.log.uploads()
    cleaner.removal.discard_below(upload)
    cleaner.store.delete(NAME)
    cleaner.manifest("renamed by another mount", new)
    pass_time(cleaner)
    assert segments(cleaner.store) == {new.key}


def test_segments_of_an_abandoned_upload_go_though_no_listing_shows_them_yet(cleaner: Cleaner) -> None:
    listed, unlisted = cleaner.segment(PREFIX + "1-a"), cleaner.segment(PREFIX + "2-b")
    prefix = ObjectName("box_segments", PREFIX)
    upload = UnreferencedPrefix(prefix, frozenset(), "local", frozenset({NAME}))
    held = cleaner.store._containers["box_segments"].objects
    late = held.pop(unlisted.key)

    def hook(method: str, _subject: str) -> None:
        if method == "manifest":  # the listing has been answered
            held[unlisted.key] = late

    cleaner.store.hook = hook
    cleaner.removal.discard_below(upload, [listed, unlisted])
    assert segments(cleaner.store) == set()


def test_an_outage_is_no_proof(cleaner: Cleaner) -> None:
    """After the outage the object is looked up again: it has been renamed since."""
    used = cleaner.segment(PREFIX + "1-a")
    cleaner.manifest("file", used)
    cleaner.removal.segments_of(NAME, is_slo=True)
    cleaner.store.delete(NAME)
    cleaner.manifest("renamed by another mount", used)

    def refuse(_method: str, _subject: str) -> None:
        raise Unavailable("503")

    cleaner.store.hook = refuse
    pass_time(cleaner)
    cleaner.store.hook = None
    pass_time(cleaner)
    assert segments(cleaner.store) == {used.key}
    assert not cleaner.removal.leftovers.all()


def test_segments_of_a_late_manifest_that_was_moved_and_changed_stay(cleaner: Cleaner) -> None:
    """Since the moved object was changed, it has claims for that upload only."""
    first, second = cleaner.segment(PREFIX + "1-a"), cleaner.segment(PREFIX + "2-b")
    cleaner.removal.discard(NAME, {first, second}, is_slo=True, in_doubt=True)
    late = cleaner.manifest("file", first, second)
    moved = ObjectName("box", "moved")
    cleaner.store.copy(CopyRequest(NAME, moved, manifest_only=True))
    cleaner.store.delete(NAME)
    cleaner.removal.record_move(NAME, moved, late.etag)
    new = cleaner.segment("moved/swiftfs-0123456789abcdef0123456789abcdef/1-a")
    changed = Manifest((*late.segments[1:], Segment(new, cleaner.store.head(new).version.etag, 10)))
    cleaner.removal.owners.record_manifest(moved, late.etag, changed, ObjectName("box_segments", "moved/"))
    cleaner.manifest("moved", second, new)
    cleaner.removal.owners.record_version(moved, changed.etag)
    cleaner.removal = cleaner.restarted()
    pass_time(cleaner)
    assert segments(cleaner.store) == {second.key, new.key}


def test_segments_whose_deletion_fails_for_now_are_tried_again_soon(cleaner: Cleaner) -> None:
    used = cleaner.segment(PREFIX + "1-a")

    refuse(cleaner.store, "delete", Unavailable)
    cleaner.removal.discard(NAME, {used}, is_slo=True)
    assert not cleaner.removal.is_due()
    cleaner.store.hook = None
    cleaner.now += RETRY_SECONDS
    assert cleaner.removal.is_due()
    cleaner.removal.look_again()
    assert segments(cleaner.store) == set()


def test_segments_shared_by_two_objects_stay_until_both_are_deleted(cleaner: Cleaner) -> None:
    used = cleaner.segment(PREFIX + "1-a")
    cleaner.manifest("file", used)
    users = [ObjectName("box", "one"), ObjectName("box", "two")]
    for user in users:
        cleaner.removal.share(NAME, user)
    cleaner.removal.owners.unshare(users[0])
    assert cleaner.removal.shared([used]) == {used}
    cleaner.removal.owners.unshare(users[1])
    assert cleaner.removal.shared([used]) == set()


def test_nothing_is_deleted_below_a_prefix_with_a_shortened_key(cleaner: Cleaner) -> None:
    """Release 0.1 recorded no object for it, so no segment is known to be unused."""
    key = "x" * LONGEST_KEY + "/swiftfs-0123456789abcdef0123456789abcdef/"
    segment = cleaner.segment(key + "1-a")
    cleaner.removal.discard_below(UnreferencedPrefix(ObjectName("box_segments", key), frozenset()))
    assert segments(cleaner.store) == {segment.key}


@pytest.mark.parametrize(
    ("prefix", "key"),
    [
        (ObjectName("box_segments", f"d/{PREFIX}"), "d/file"),
        (ObjectName("box", f".swiftfs-segments/{PREFIX}"), "file"),
        (ObjectName("other", f"box/d/{PREFIX}"), "d/file"),
    ],
)
def test_the_object_of_a_prefix_of_release_0_1_is_found(
    cleaner: Cleaner, prefix: ObjectName, key: str
) -> None:
    names = [ObjectName(prefix.container, f"{prefix.key}{part}-a") for part in range(2)]
    for name in names:
        cleaner.store.put(name, b"x" * 10, Headers("a/b"))
    cleaner.manifest(key, names[0])
    cleaner.removal.discard_below(UnreferencedPrefix(prefix, frozenset()))
    assert cleaner.store.head(names[0]).size == 10
    assert [row.key for row in cleaner.store.list_page(prefix.container, prefix=prefix.key).rows] == [
        names[0].key
    ]


def test_an_outage_does_not_drop_objects_that_may_name_leftovers(cleaner: Cleaner) -> None:
    """The second object names the segment when the server answers again."""
    used = cleaner.segment(PREFIX + "1-a")
    objects = frozenset({NAME, ObjectName("box", "second")})
    asked = below(cleaner, objects=objects, asked=frozenset({"e"}), since=cleaner.now - 1)
    cleaner.removal.discard_below(asked)

    def refuse(_method: str, _subject: str) -> None:
        raise Unavailable("503")

    cleaner.store.hook = refuse
    pass_time(cleaner)
    cleaner.store.hook = None
    cleaner.manifest("second", used)
    pass_time(cleaner)
    assert segments(cleaner.store) == {used.key}


def test_what_a_full_disk_did_not_record_is_deleted_when_it_has_space_again(cleaner: Cleaner) -> None:
    """A manifest in doubt may name them until ten minutes later."""
    wanted, unwanted = cleaner.segment(PREFIX + "1-a"), cleaner.segment(PREFIX + "2-b")
    asked = below(cleaner, objects=frozenset({NAME}), asked=frozenset({"e"}), since=cleaner.now - 1)
    with refusing(cleaner.log):
        cleaner.removal.discard_below(asked)
        cleaner.log.end_upload(asked.prefix)
    assert not cleaner.removal.leftovers.all()
    cleaner.log.sync()
    cleaner.manifest("file", wanted)
    cleaner.now += LATE_SECONDS
    cleaner.removal.look_again()
    assert segments(cleaner.store) == {wanted.key}
    assert unwanted.key not in segments(cleaner.store)


def test_an_older_record_that_a_full_disk_refused_does_not_replace_a_newer_one(cleaner: Cleaner) -> None:
    name = cleaner.segment(PREFIX + "1-a")
    with refusing(cleaner.log):
        cleaner.removal.keep_unanswered({name}, {NAME})
    cleaner.now += 100
    cleaner.removal.keep_unanswered({name}, {NAME})
    cleaner.log.sync()
    assert cleaner.removal.leftovers.all()[name].since == cleaner.now
