"""Objects that a rename cannot delete at the old place: reported and tried again; their segments stay."""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from support.harness import LEFT, ME, harness, names, read, write
from support.jobs import wait_until
from support.memory_store import MemoryStore
from support.moves import object_moves
from support.power_cut import Disk
from support.refusing_store import RefusingStore
from support.stored_objects import NEVER, body, foreign, keys
from swiftfs.errors import AccessDenied, NotFound, StoreError, SwiftfsError, Unavailable
from swiftfs.journal.database import JournalDB
from swiftfs.journal.moves import CopyKeeper
from swiftfs.journal.operations import Move
from swiftfs.journal.segment_records import SegmentOwnership
from swiftfs.journal.segment_removal import SegmentRemoval
from swiftfs.objects import Manifest, ObjectName, Segment
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.protocol import CopyRequest, Headers

SEGMENT = ObjectName("box_segments", "large/1")


pytestmark = pytest.mark.store(RefusingStore, "box", "box_segments")


@pytest.fixture(params=["sync", "settle=0.05"])
def filesystem(store: RefusingStore, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[FileSystem]:
    with harness(store, tmp_path, request.param) as built:
        yield built
        store.refused = None


def put_large(store: MemoryStore, key: str, segment: ObjectName = SEGMENT) -> None:
    """Store an SLO with one segment."""
    data = b"a segment"
    etag = store.put(segment, data, Headers("x/y")).version.etag
    store.put_manifest(ObjectName("box", key), Manifest((Segment(segment, etag, len(data)),)), Headers("x/y"))


@pytest.mark.parametrize("path", ["/d/x", "/d"])
def test_what_is_refused_for_good_waits_and_is_told(
    filesystem: FileSystem, store: RefusingStore, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    foreign(store, "d/x", b"data")
    foreign(store, "d/y", b"data")
    new = path.replace("d", "e", 1) if path == "/d" else "/x"
    store.refused = AccessDenied
    filesystem.rename(path, new)
    waiting = filesystem.waiting()
    moved = ["/d/x", "/d/y"] if path == "/d" else ["/d/x"]
    assert sorted(one.path for one in waiting) == moved
    assert {(one.kind, one.state) for one in waiting} == {("Delete", "parked")}
    assert "stays until Swift deletes it" in caplog.text
    assert names(filesystem, "/") == (["e"] if path == "/d" else ["d", "x"])
    filesystem.refresh()
    with pytest.raises(FileNotFoundError):
        filesystem.getattr("/d/x")
    filesystem.retry()
    wait_until(lambda: all(one.attempts == 2 for one in filesystem.waiting()))
    assert len(filesystem.waiting()) == len(moved)
    store.refused = None
    filesystem.retry()
    wait_until(lambda: not filesystem.waiting())
    assert "d/x" not in keys(store)


def test_it_waits_for_the_next_mount_too(store: RefusingStore, tmp_path: Path) -> None:
    foreign(store, "d/x", b"data")
    store.refused = AccessDenied
    with harness(store, tmp_path, close_error=LEFT) as filesystem:
        filesystem.rename("/d", "/e")
    with harness(store, tmp_path, close_error=LEFT) as filesystem:
        with pytest.raises(FileNotFoundError):
            filesystem.getattr("/d/x")
        assert [one.path for one in filesystem.waiting()] == ["/d/x"]
    store.refused = None
    with harness(store, tmp_path):
        pass
    assert keys(store) == ["e/x"]


@pytest.mark.parametrize("journal_is_newest", [True, False])
def test_the_mount_after_a_power_cut_deletes_it_too(
    store: RefusingStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, journal_is_newest: bool
) -> None:
    """The end of the rename may be on the disk already."""
    disk = Disk(tmp_path, monkeypatch)
    foreign(store, "old", b"data")
    store.refused = Unavailable
    with harness(store, disk.cache, f"{NEVER},drain=0", close_error=LEFT) as filesystem:
        filesystem.rename("/old", "/new")
        left = disk.cut(journal_is_newest=journal_is_newest)
    store.refused = None
    disk.restart()
    with harness(store, left):
        pass
    assert keys(store) == ["new"]


def test_a_folder_in_which_nothing_else_is_stays_hidden_after_the_next_mount(
    store: RefusingStore, tmp_path: Path
) -> None:
    for number in range(12):
        foreign(store, f"d/s/x{number:02}", b"data")
    store.refused = AccessDenied
    with harness(store, tmp_path, close_error=LEFT) as filesystem:
        filesystem.rename("/d", "/e")
    with harness(store, tmp_path, close_error=LEFT) as filesystem:
        assert names(filesystem, "/") == ["e"]
        with pytest.raises(FileNotFoundError):
            filesystem.getattr("/d")
        foreign(store, "d/y", b"theirs")
        filesystem.refresh()
        assert names(filesystem, "/") == ["d", "e"]
        assert names(filesystem, "/d") == ["y"]
        foreign(store, "d/s/y", b"theirs")
        filesystem.refresh()
        assert names(filesystem, "/d") == ["s", "y"]
        assert names(filesystem, "/d/s") == ["y"]
    store.refused = None
    with harness(store, tmp_path):
        pass
    assert [key for key in keys(store) if key.startswith("d/")] == ["d/s/y", "d/y"]


def test_what_may_pass_is_tried_again(filesystem: FileSystem, store: RefusingStore) -> None:
    foreign(store, "d/x", b"data")
    store.refused = Unavailable
    filesystem.rename("/d", "/e")
    store.refused = None
    wait_until(lambda: not filesystem.waiting())
    assert keys(store) == ["e/x"]


@pytest.mark.parametrize("path", ["/d/large", "/d"])
def test_the_segments_stay_when_it_is_deleted_at_last(
    filesystem: FileSystem, store: RefusingStore, path: str
) -> None:
    put_large(store, "d/large")
    store.refused = AccessDenied
    filesystem.rename(path, "/e" if path == "/d" else "/large")
    store.refused = None
    filesystem.retry()
    wait_until(lambda: not filesystem.waiting())
    assert keys(store) == (["e/large"] if path == "/d" else ["d", "large"])
    assert keys(store, "box_segments") == ["large/1"]
    assert read(filesystem, "/e/large" if path == "/d" else "/large") == b"a segment"


@pytest.mark.matrix(4)
@pytest.mark.parametrize("path", ["/d/large", "/d"])
@pytest.mark.parametrize("unanswered", [False, True])
def test_the_segments_outlive_the_copy_while_the_old_place_names_them(
    filesystem: FileSystem, store: RefusingStore, path: str, *, unanswered: bool
) -> None:
    """Also if Swift did not answer which segments they are."""
    segment = ObjectName("box_segments", "d/large/swiftfs-0123456789abcdef0123456789abcdef/0-0")
    put_large(store, "d/large", segment)
    new = "/e/large" if path == "/d" else "/large"

    def hook(method: str, subject: str) -> None:
        if method == "manifest" and unanswered and subject == "box/d/large":
            raise AccessDenied("no")

    store.hook, store.refused, store.where = hook, AccessDenied, "box/d/"
    filesystem.rename(path, "/e" if path == "/d" else "/large")
    filesystem.unlink(new)
    wait_until(lambda: new.strip("/") not in keys(store))
    assert keys(store, "box_segments") == [segment.key]
    assert body(store, "d/large") == b"a segment"
    store.hook = None


def test_what_stays_for_a_wrong_answer_is_not_the_owner_of_the_segments(
    filesystem: FileSystem, store: RefusingStore
) -> None:
    """A HEAD did not find it, so the rename does not delete it; then it appears, and its user deletes it."""
    segment = ObjectName("box_segments", "d/large/swiftfs-0123456789abcdef0123456789abcdef/0-0")
    put_large(store, "d/large", segment)

    def hook(method: str, subject: str) -> None:
        if subject == "box/d/large" and method in ("head", "manifest") and "large" in keys(store):
            raise NotFound("no")

    store.hook = hook
    filesystem.rename("/d/large", "/large")
    store.hook = None
    assert {"d/large", "large"} <= set(keys(store))
    filesystem.services.namespace.discard_change("/d/large")
    filesystem.unlink("/d/large")
    wait_until(lambda: "d/large" not in keys(store))
    assert read(filesystem, "/large") == b"a segment"
    (left,) = keys(store, "box_segments")
    assert left.startswith(".swiftfs-segments/large/")  # its own copy


@pytest.mark.parametrize("path", ["/d/large", "/d"])
def test_a_copy_that_comes_late_keeps_its_segments(
    filesystem: FileSystem, store: RefusingStore, path: str
) -> None:
    """The rename failed because the answer to its COPY was lost; then the server executes the COPY."""
    segment = ObjectName("box_segments", "d/large/swiftfs-0123456789abcdef0123456789abcdef/0-0")
    put_large(store, "d/large", segment)
    new = "/e" if path == "/d" else "/large"

    def hook(method: str, subject: str) -> None:
        if (method, subject) == ("copy", "box/d/large"):
            raise Unavailable("no answer", may_land=True)

    store.hook = hook
    with pytest.raises((SwiftfsError, OSError)):
        filesystem.rename(path, new)
    store.hook = None
    copy = ObjectName("box", "e/large" if path == "/d" else "large")
    store.copy(CopyRequest(ObjectName("box", "d/large"), copy, manifest_only=True))
    filesystem.unlink("/d/large")
    wait_until(lambda: "d/large" not in keys(store))
    assert keys(store, "box_segments") == [segment.key]
    assert body(store, copy.key) == b"a segment"


def test_a_source_that_stands_again_is_not_the_owner_of_the_segments(
    filesystem: FileSystem, store: RefusingStore
) -> None:
    segment = ObjectName("box_segments", "d/large/swiftfs-0123456789abcdef0123456789abcdef/0-0")
    put_large(store, "d/large", segment)
    filesystem.rename("/d/large", "/large")
    store.copy(CopyRequest(ObjectName("box", "large"), ObjectName("box", "d/large"), manifest_only=True))
    filesystem.services.namespace.discard_change("/d/large")
    filesystem.unlink("/d/large")
    wait_until(lambda: "d/large" not in keys(store))
    assert read(filesystem, "/large") == b"a segment"
    filesystem.unlink("/large")
    wait_until(lambda: not keys(store, "box_segments"))


def test_a_new_file_in_its_place_spares_the_segments(filesystem: FileSystem, store: RefusingStore) -> None:
    put_large(store, "d/large")
    foreign(store, "d/other", b"stays")
    store.refused = AccessDenied
    filesystem.rename("/d/large", "/large")
    store.refused = None
    write(filesystem, "/d/large", b"new")
    wait_until(lambda: not filesystem.waiting())
    assert body(store, "d/large") == b"new"
    assert read(filesystem, "/large") == b"a segment"


@pytest.mark.parametrize("path", ["/d/x", "/d"])
def test_what_another_client_stores_there_is_not_deleted(
    filesystem: FileSystem, store: RefusingStore, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    foreign(store, "d/x", b"data")
    store.refused = AccessDenied
    filesystem.rename(path, "/e")
    store.refused = None
    foreign(store, "d/x", b"theirs")
    with caplog.at_level(logging.INFO):
        filesystem.retry()
        wait_until(lambda: not filesystem.waiting())
    assert body(store, "d/x") == b"theirs"
    assert "box/d/x is kept: another client has stored a new version" in caplog.text


def test_markers_that_stay_hide_their_folder(filesystem: FileSystem, store: RefusingStore) -> None:
    filesystem.mkdir("/d", 0o755, ME)
    filesystem.mkdir("/d/sub", 0o755, ME)
    write(filesystem, "/d/sub/x", b"data")
    filesystem.fsyncdir(filesystem.opendir("/d"))
    store.refused = AccessDenied
    filesystem.rename("/d", "/e")
    filesystem.refresh()
    assert names(filesystem, "/") == ["e"]
    assert names(filesystem, "/e/sub") == ["x"]
    store.refused = None
    filesystem.retry()
    wait_until(lambda: not filesystem.waiting())
    assert keys(store) == ["e", "e/sub", "e/sub/x"]


def test_a_copy_that_a_killed_process_sent_keeps_its_segments(tmp_path: Path) -> None:
    """The next mount gave the rename up, because it could not be finished; then the server made the copy."""
    store = RefusingStore("box", "box_segments")
    segment = ObjectName("box_segments", "source/swiftfs-0123456789abcdef0123456789abcdef/0-0")
    put_large(store, "source", segment)
    foreign(store, "target", b"newer")
    source, target = ObjectName("box", "source"), ObjectName("box", "target")
    with closing(JournalDB(tmp_path, "box")) as database:
        removal = SegmentRemoval(store, database, SegmentOwnership(database))
        with ThreadPoolExecutor() as pool:
            moves = object_moves(store, database, pool, removal=removal)
            with pytest.raises(StoreError, match="both are kept"):
                moves.resume_move(Move(source, target, replaces_etag="other"), CopyKeeper())
        store.copy(CopyRequest(source, target, manifest_only=True))
        removal.discard(source, removal.segments_of(source, is_slo=True), is_slo=True)
    assert keys(store, "box_segments") == [segment.key]
