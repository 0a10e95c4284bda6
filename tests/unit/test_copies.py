"""`swiftfs cp` over the store in memory: what is copied where, and that large objects share nothing."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from support.copies import Copies, keys, put, put_large, sent
from support.memory_store import MemoryStore
from support.stored_objects import refuse
from support.stores import MODE, TEXT, read
from swiftfs.errors import ConfigurationError, StoreError, Unavailable
from swiftfs.objects import DIRECTORY_TYPE, History, Limits, Manifest, ObjectName
from swiftfs.store.protocol import CopyRequest, Headers

pytestmark = pytest.mark.store(MemoryStore, "box", "other")

MARKER = Headers(DIRECTORY_TYPE)


@pytest.fixture
def cp(store: MemoryStore, tmp_path: Path) -> Copies:
    return Copies(store, tmp_path / "copies")


def test_a_file_costs_one_copy_and_listings(store: MemoryStore, cp: Copies) -> None:
    put(store, "box/a", b"text", Headers(MODE, {"note": "kept"}))
    store.requests.clear()
    tally = cp("box/a", "box/b")
    assert (tally.copied, tally.skipped, tally.failures) == (1, 0, [])
    assert sorted({method for method, _ in store.requests}) == ["copy", "head", "list_page"]
    assert len(sent(store, "copy")) == 1
    assert len(sent(store, "head")) == 1  # of a target that no listing shows: the listing may lag
    data, info = read(store, ObjectName("box", "b"))
    assert (data, info.content_type, info.metadata["note"]) == (b"text", MODE, "kept")
    assert cp.copied_bytes == 4


def test_a_folder_of_many_files_costs_a_copy_each_and_the_pages_of_both_sides(tmp_path: Path) -> None:
    store = MemoryStore("box", "other", limits=Limits(listing=100))
    for number in range(250):
        put(store, f"box/d/{number}")
    store.requests.clear()
    assert Copies(store, tmp_path)("box/d", "other/d", recursive=True).copied == 250
    assert len(sent(store, "copy")) == 250
    assert len(store.requests) <= 250 + 3 + 1 + 8  # two names are looked up by two listings and a HEAD each
    store.requests.clear()
    assert Copies(store, tmp_path)("box/d/.", "other/d", recursive=True).skipped == 250
    assert len(store.requests) <= 3 + 3 + 8


def test_what_stands_at_the_target_is_skipped(store: MemoryStore, cp: Copies) -> None:
    put(store, "box/d/a", b"a")
    put(store, "box/d/b", b"b")
    put(store, "box/e/b", b"b")
    assert (cp("box/d/.", "box/e", recursive=True).copied, cp.copied_bytes) == (1, 1)
    put(store, "box/d/a", b"c")  # of the same size
    tally = cp("box/d/.", "box/e", recursive=True)
    assert (tally.copied, tally.skipped) == (1, 1)
    assert read(store, ObjectName("box", "e/a"))[0] == b"c"


def test_a_folder_is_copied_with_its_marker_and_links(store: MemoryStore, cp: Copies) -> None:
    put(store, "box/d", b"", MARKER)
    put(store, "box/d/sub", b"", MARKER)
    put(store, "box/d/link", b"target", Headers("inode/symlink;mode=0120777;target=target"))
    put(store, "box/d/sub/file")
    put(store, "box/d2")
    assert cp("box/d", "other/new", recursive=True).failures == []
    assert keys(store, "other") == {"new", "new/sub", "new/link", "new/sub/file"}
    assert cp("box/d", "other/new", recursive=True).copied == 4  # into it, as it exists
    assert "new/d/sub/file" in keys(store, "other")


def test_a_container_is_copied_without_the_segments_in_it(store: MemoryStore, cp: Copies) -> None:
    put(store, "box/a")
    put(store, "box/.swiftfs-segments/a/swiftfs-0123456789abcdef0123456789abcdef/0")
    put(store, "box/.file-segments/a/0")
    assert cp("box/.", "other", recursive=True).copied == 1
    assert keys(store, "other") == {"a"}


@pytest.mark.parametrize(
    ("names", "recursive", "reason"),
    [
        (("box/none", "box/b"), False, "no such file or folder"),
        (("box/d", "box/e"), False, "-r not specified; omitting the folder"),
        (("box/a", "box/a"), False, "are the same file"),
        (("box/d", "box/d/e"), True, "into itself"),
        (("box/d", "box/d"), True, "into itself"),
        (("box/d", "box/a"), True, "cannot overwrite the file"),
        (("box/a/", "box/b"), False, "not a folder"),
        (("box/d/file", "box/a2"), False, ""),
        (("box/x", "box/d"), False, "cannot overwrite the folder box/d/x"),
    ],
)
def test_the_rules_of_cp(
    store: MemoryStore, cp: Copies, names: tuple[str, ...], recursive: bool, reason: str
) -> None:
    for text in ("box/a", "box/d/file", "box/x", "box/d/x/file"):
        put(store, text)
    before = keys(store, "box")
    tally = cp(*names, recursive=recursive)
    if not reason:
        assert tally.failures == []
        return
    assert [reason in one.reason for one in tally.failures] == [True], tally.failures
    assert keys(store, "box") == before


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (("box/a", "box/b", "box/none"), "no such folder"),
        (("box/a", "box/b", "box/c"), "not a folder"),
        (("box/a", "box/none/"), "no such folder"),
        (("box/a", "nobox/b"), "no container 'nobox'"),
    ],
)
def test_a_target_that_fits_no_source_is_refused(
    store: MemoryStore, cp: Copies, names: tuple[str, ...], reason: str
) -> None:
    for text in ("box/a", "box/b", "box/c"):
        put(store, text)
    with pytest.raises(ConfigurationError, match=reason):
        cp(*names)


def test_two_sources_of_one_name_are_not_copied_over_each_other(store: MemoryStore, cp: Copies) -> None:
    for text in ("box/a/x", "box/b/x", "box/d/y"):
        put(store, text)
    tally = cp("box/a/x", "box/b/x", "box/d")
    assert tally.copied == 1
    assert [one.reason for one in tally.failures] == ["another source is copied to box/d/x"]


def test_no_clobber_and_update(store: MemoryStore, cp: Copies) -> None:
    put(store, "box/a", b"new", Headers("text/plain;mtime=200.0"))
    put(store, "box/b", b"old", Headers("text/plain;mtime=300.0"))
    assert cp("box/a", "box/b", no_clobber=True).skipped == 1
    assert cp("box/a", "box/b", update=True).skipped == 1
    put(store, "box/b", b"old", Headers("text/plain;mtime=100.0"))
    assert cp("box/a", "box/b", update=True).copied == 1
    assert read(store, ObjectName("box", "b"))[0] == b"new"


def test_a_large_object_gets_segments_of_its_own(store: MemoryStore, cp: Copies) -> None:
    info = put_large(store, "box/film")
    store.requests.clear()
    assert cp("box/film", "other/film").copied == 1
    made = ["copy"] * 2 + ["create_container", "manifest", "put_manifest"]
    assert sorted(method for method, _ in sent(store, *made)) == made
    # One of the source, and one of the target, which no listing shows.
    assert sorted(sent(store, "head")) == [("head", "box/film"), ("head", "other/film")]
    copied = store.head(ObjectName("other", "film"))
    assert copied.is_slo
    assert (copied.version.etag, copied.content_type) == (info.version.etag, info.content_type)
    assert copied.metadata == info.metadata
    names = {segment.name for segment in store.manifest(ObjectName("other", "film")).segments}
    assert {name.container for name in names} == {"other_segments"}
    assert all(name.key.startswith(".swiftfs-segments/film/swiftfs-") for name in names)
    assert not list(cp.folder.iterdir())
    assert cp.copied_bytes == 6
    assert cp("box/film", "other/film").skipped == 1


def test_a_segment_that_is_named_often_is_copied_once(store: MemoryStore, cp: Copies) -> None:
    put_large(store, "box/film")
    parts = store.manifest(ObjectName("box", "film")).segments
    ranged = replace(parts[0], first=1, length=1)
    store.put_manifest(ObjectName("box", "film"), Manifest((parts[1], ranged, parts[1])), TEXT)
    store.requests.clear()
    assert cp("box/film", "box/copy").copied == 1
    assert [len(sent(store, "copy"))] == [3]  # the first one is refused: it is no plain object
    assert read(store, ObjectName("box", "copy"))[0] == b"twontwo"


def test_a_dlo_becomes_an_slo(store: MemoryStore, cp: Copies) -> None:
    for number in range(3):
        put(store, f"box/parts/{number}", str(number).encode())
    headers = Headers("text/plain", {"note": "kept"}, {"X-Object-Manifest": "box/parts/"})
    put(store, "box/dlo", b"", headers)
    assert cp("box/dlo", "box/copy").failures == []
    copied = store.head(ObjectName("box", "copy"))
    assert copied.is_slo
    assert copied.dlo_prefix is None
    assert copied.metadata["note"] == "kept"
    assert read(store, ObjectName("box", "copy"))[0] == b"012"
    assert cp("box/dlo", "box/copy").skipped == 1


def test_a_dlo_of_too_many_segments_stays_one(tmp_path: Path) -> None:
    store = MemoryStore("box", limits=Limits(slo_segments=2))
    for number in range(3):
        put(store, f"box/parts/{number}", str(number).encode())
    put(store, "box/dlo", b"", Headers("text/plain", {}, {"X-Object-Manifest": "box/parts/"}))
    assert Copies(store, tmp_path)("box/dlo", "box/copy").failures == []
    copied = store.head(ObjectName("box", "copy"))
    assert copied.dlo_prefix is not None
    assert copied.dlo_prefix.container == "box_segments"
    assert read(store, ObjectName("box", "copy"))[0] == b"012"


@pytest.fixture
def dies(store: MemoryStore) -> Iterator[Callable[[str, int], None]]:
    """A function after which the n-th request of a method has no answer, as after a kill."""

    def die(method: str, number: int) -> None:
        counted = 0

        def hook(found: str, _subject: str) -> None:
            nonlocal counted
            counted += found == method
            if counted >= number:
                raise Unavailable("no answer")

        store.hook = hook

    yield die
    store.hook = None


def test_a_repeated_run_takes_up_the_segments(
    store: MemoryStore, cp: Copies, dies: Callable[[str, int], None]
) -> None:
    put_large(store, "box/film", tuple(bytes([number]) * 5 for number in range(8)))
    dies("copy", 4)
    tally = cp("box/film", "other/film")
    assert tally.stopped
    store.hook = None
    assert keys(store, "other") == set()
    there = keys(store, "other_segments")
    assert 0 < len(there) < 8
    store.requests.clear()
    assert cp("box/film", "other/film").copied == 1
    assert len(sent(store, "copy")) == 8 - len(there)
    assert there < keys(store, "other_segments")
    assert len(keys(store, "other_segments")) == 8
    assert not list(cp.folder.iterdir())


def test_a_repeated_run_goes_on_in_the_folder_that_the_first_one_made(
    store: MemoryStore, cp: Copies, dies: Callable[[str, int], None]
) -> None:
    for number in range(5):
        put(store, f"box/d/{number}")
    dies("copy", 3)
    assert cp("box/d", "other/new", recursive=True).stopped
    store.hook = None
    assert 0 < len(keys(store, "other")) < 5
    assert cp("box/d", "other/new", recursive=True).failures == []
    assert keys(store, "other") == {f"new/{number}" for number in range(5)}
    assert cp.told == ["an earlier copy of box/d to other/new goes on"]
    cp("box/d", "other/new", recursive=True)  # the copy is complete: now cp(1) copies into the folder
    assert "new/d/0" in keys(store, "other")
    assert len(cp.told) == 1


def test_segments_of_another_version_are_deleted(
    store: MemoryStore, cp: Copies, dies: Callable[[str, int], None]
) -> None:
    put_large(store, "box/film", tuple(bytes([number]) * 5 for number in range(8)))
    dies("copy", 4)
    assert cp("box/film", "other/film").stopped
    store.hook = None
    put_large(store, "box/film", (b"new", b"er"))
    assert cp("box/film", "other/film").copied == 1
    assert len(keys(store, "other_segments")) == 2
    assert read(store, ObjectName("other", "film"))[0] == b"newer"


def test_segments_that_a_manifest_may_name_are_not_taken_up(store: MemoryStore, cp: Copies) -> None:
    """The manifest was stored, its answer was lost, and then the copy was renamed."""
    put_large(store, "box/film")

    def hook(method: str, _subject: str) -> None:
        if method == "put_manifest":
            store.hook = None
            raise Unavailable("no answer")

    store.hook = hook
    assert cp("box/film", "other/film").stopped
    left = keys(store, "other_segments")
    assert len(left) == 2
    (record,) = cp.folder.iterdir()
    assert record.read_text().endswith("true]")
    assert cp("box/film", "other/film").copied == 1
    names = {segment.name.key for segment in store.manifest(ObjectName("other", "film")).segments}
    assert not names & left
    assert keys(store, "other_segments") == names | left


def test_replaced_segments_are_freed(store: MemoryStore, cp: Copies) -> None:
    put_large(store, "box/film")
    put_large(store, "box/old", (b"0", b"1", b"2"))
    put(store, "box/small", b"small")
    assert cp("box/film", "box/old").copied == 1
    named = {segment.name.key for segment in store.manifest(ObjectName("box", "old")).segments}
    film = {segment.name.key for segment in store.manifest(ObjectName("box", "film")).segments}
    assert keys(store, "box_segments") == named | film
    assert cp("box/small", "box/old").copied == 1
    assert keys(store, "box_segments") == film


def test_segments_of_others_stay_when_an_object_is_replaced(store: MemoryStore, cp: Copies) -> None:
    put_large(store, "box/film")
    store.copy(CopyRequest(ObjectName("box", "film"), ObjectName("box", "shared"), manifest_only=True))
    put(store, "box/small", b"small")
    assert cp("box/small", "box/shared").copied == 1
    assert read(store, ObjectName("box", "film"))[0] == b"onetwo"


def test_another_clients_write_during_the_copy_never_mixes(store: MemoryStore, cp: Copies) -> None:
    """The source is replaced while its segments are copied: the copy is of the newer version."""
    put_large(store, "box/film", (b"aa", b"bb", b"cc"))
    counted = 0

    def hook(method: str, _subject: str) -> None:
        nonlocal counted
        counted += method == "copy"
        if counted == 2:
            store.hook = None
            put_large(store, "box/film", (b"xx", b"yy", b"zz"))

    store.hook = hook
    assert cp("box/film", "box/copy").failures == []
    assert read(store, ObjectName("box", "copy"))[0] == b"xxyyzz"
    assert len(keys(store, "box_segments")) == 6


def test_a_plain_source_that_changes_is_copied_as_it_is_then(store: MemoryStore, cp: Copies) -> None:
    put(store, "box/a", b"old")

    def hook(method: str, _subject: str) -> None:
        if method == "copy":
            store.hook = None
            put(store, "box/a", b"newer")

    store.hook = hook
    assert cp("box/a", "box/b").copied == 1
    assert read(store, ObjectName("box", "b"))[0] == b"newer"


def test_expiry_is_kept_unless_asked_for(store: MemoryStore, cp: Copies) -> None:
    headers = Headers(MODE, {"note": "kept"}, {"X-Delete-At": "9999999999", "Content-Encoding": "gzip"})
    put(store, "box/a", b"a", headers)
    assert cp("box/a", "box/b").copied == 1
    assert store.head(ObjectName("box", "b")).preserved_headers == headers.preserved_headers
    assert cp("box/a", "box/c", expiry=False).copied == 1
    info = store.head(ObjectName("box", "c"))
    assert dict(info.preserved_headers) == {"Content-Encoding": "gzip"}
    assert info.metadata["note"] == "kept"
    assert info.content_type == MODE


def test_the_segments_of_a_copy_expire_with_it(store: MemoryStore, cp: Copies) -> None:
    put_large(store, "box/film")
    film, copy = ObjectName("box", "film"), ObjectName("other", "film")
    store.post(film, replace(Headers.of(store.head(film)), preserved_headers={"X-Delete-At": "9999999999"}))
    assert cp("box/film", "other/film").copied == 1
    names = [copy, *(segment.name for segment in store.manifest(copy).segments)]
    assert [dict(store.head(name).preserved_headers) for name in names] == [{"X-Delete-At": "9999999999"}] * 3


def test_the_segments_of_a_copy_stay_where_swift_takes_no_expiry(store: MemoryStore, cp: Copies) -> None:
    put_large(store, "box/film")
    film, copy = ObjectName("box", "film"), ObjectName("other", "film")
    store.post(film, replace(Headers.of(store.head(film)), preserved_headers={"X-Delete-At": "9999999999"}))
    store.set_history("other", History.KEPT)
    assert cp("box/film", "other/film").copied == 1
    names = [copy, *(segment.name for segment in store.manifest(copy).segments)]
    assert [dict(store.head(name).preserved_headers) for name in names] == [{}] * 3


def test_the_segments_of_a_copy_that_stays_do_not_expire(store: MemoryStore, cp: Copies) -> None:
    """Another client has taken the date from the source, but not from its segments."""
    put_large(store, "box/film")
    for segment in store.manifest(ObjectName("box", "film")).segments:
        headers = replace(
            Headers.of(store.head(segment.name)), preserved_headers={"X-Delete-At": "9999999999"}
        )
        store.post(segment.name, headers)
    assert cp("box/film", "other/film").copied == 1
    for segment in store.manifest(ObjectName("other", "film")).segments:
        assert not store.head(segment.name).preserved_headers


@pytest.mark.parametrize("option", ["no_clobber", "update"])
def test_what_comes_meanwhile_stays(store: MemoryStore, cp: Copies, option: str) -> None:
    put_large(store, "box/film")

    def hook(method: str, _subject: str) -> None:
        if method == "copy":
            store.hook = None
            put(store, "other/film", b"another client's")

    store.hook = hook
    tally = cp("box/film", "other/film", **{option: True})
    assert (tally.copied, tally.skipped, tally.failures) == (0, 1, [])
    assert read(store, ObjectName("other", "film"))[0] == b"another client's"
    assert keys(store, "other_segments") == set()
    assert not list(cp.folder.iterdir())


def test_a_failure_ends_only_its_file(store: MemoryStore, cp: Copies) -> None:
    for number in range(3):
        put(store, f"box/d/{number}")

    refuse(store, "copy", StoreError("refused"), about="^box/d/1$")
    tally = cp("box/d", "box/e", recursive=True)
    store.hook = None
    assert (tally.copied, tally.stopped) == (2, False)
    assert [(one.text, one.reason) for one in tally.failures] == [("box/d/1", "refused")]
    assert (
        cp("box/d/.", "box/e", recursive=True).copied,
        cp("box/d/.", "box/e", recursive=True).skipped,
    ) == (
        1,
        3,
    )


@pytest.mark.parametrize("target", ["other/a/../b", "other/a//b", "other/./b", "other/.."])
def test_a_target_that_no_folder_can_have_is_refused(store: MemoryStore, cp: Copies, target: str) -> None:
    put(store, "box/a")
    with pytest.raises(ConfigurationError, match="a part of a name is empty"):
        cp("box/a", target)
    assert keys(store, "other") == set()


def test_a_file_does_not_replace_a_symbolic_link(store: MemoryStore, cp: Copies) -> None:
    put(store, "box/a")
    put(store, "box/link", b"a", Headers("inode/symlink"))
    (failure,) = cp("box/a", "box/link").failures
    assert "is a symbolic link" in failure.reason
    assert read(store, ObjectName("box", "link"))[0] == b"a"
    assert cp("box/link", "box/other").copied == 1
