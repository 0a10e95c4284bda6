"""Renames that a crash has interrupted: finished or given up, but never over newer versions."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.deadlines import within
from support.edited_file import SOON, Gate
from support.harness import ANY_END, ME, copy_live, harness, names, read, write
from support.interrupted_moves import interrupted, leave, refusals, remounted, row_of
from support.jobs import wait_until
from support.memory_store import MemoryStore
from support.noise import noise
from support.power_cut import Disk
from support.stored_objects import NEVER, body, contents, copy, delete, foreign, keys, put_all, refuse
from swiftfs.errors import AccessDenied, QuotaExceeded, SwiftfsError, Unavailable
from swiftfs.journal.commits import Record
from swiftfs.journal.database import JournalDB
from swiftfs.journal.operations import ANY_VERSION, Delete, Move, MovedObject, MoveFolder, PutMarker
from swiftfs.objects import ObjectName

GIVEN_UP = "given up; it is /d: source or target may have a newer version"


def records(folder: Path) -> list[Record]:
    log = JournalDB(folder, "box of memory")
    found = log.records()
    log.close()
    return found


@pytest.mark.matrix(3)
@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("copied", [(), ("a",), ("a", "b")])
def test_a_move_is_finished(
    store: MemoryStore, tmp_path: Path, copied: tuple[str, ...], *, recorded: bool
) -> None:
    put_all(store, "d/a", "d/b")
    operation = interrupted(store, recorded=recorded)
    for name in copied:
        copy(store, f"d/{name}", f"e/{name}")
    with remounted(store, tmp_path, operation) as filesystem:
        assert names(filesystem, "/") == ["e"]
    assert contents(store) == {"e/a": b"d/a", "e/b": b"d/b"}
    assert records(tmp_path) == []


def test_a_move_over_what_was_stored_just_before_it_is_finished(store: MemoryStore, tmp_path: Path) -> None:
    put_all(store, "a")
    killed = tmp_path / "killed"

    def hook(method: str, _subject: str) -> None:
        if method == "copy":
            copy_live(tmp_path / "cache", killed)
            raise AccessDenied("no")

    (tmp_path / "cache").mkdir()
    with harness(store, tmp_path / "cache", NEVER) as filesystem:
        write(filesystem, "/b", b"new")
        store.hook = hook
        with pytest.raises(AccessDenied):
            filesystem.rename("/a", "/b")
    store.hook = None
    with harness(store, killed) as filesystem:
        assert names(filesystem, "/") == ["b"]
    assert contents(store) == {"b": b"a"}


def test_a_move_of_what_is_being_stored_is_recorded_with_its_version(
    store: MemoryStore, tmp_path: Path
) -> None:
    """Else the next process could not tell the copy from what it has replaced, whose segments would stay."""
    killed = tmp_path / "killed"
    (tmp_path / "cache").mkdir()
    with ThreadPoolExecutor() as pool, harness(store, tmp_path / "cache", SOON) as filesystem:
        gate = Gate(store, None)
        write(filesystem, "/a", noise(3 * 2**20))
        assert gate.reached.wait(within(20))
        queue = filesystem.services.journal._queue
        # A segment is stored before its task runs, and a file that only waits is renamed at once.
        wait_until(lambda: any(task.running for task in queue.awake()))
        renaming = pool.submit(filesystem.rename, "/a", "/b")
        wait_until(lambda: any(task.running and task.awaited_hand_in for task in queue.awake()))

        def hook(method: str, _subject: str) -> None:
            if method == "delete":
                copy_live(tmp_path / "cache", killed)

        store.hook = hook
        gate.open.set()
        renaming.result(within(20))
    (record,) = records(killed)
    assert isinstance(record.operation, Move)
    assert record.operation.etag == store.head(ObjectName("box", "b")).version.etag


@pytest.mark.parametrize("marker", ["plain", "slash"])
def test_a_refused_rename_onto_an_empty_folder_keeps_that(
    store: MemoryStore, tmp_path: Path, marker: str
) -> None:
    with harness(store, tmp_path, f"dir_marker={marker}") as filesystem:
        filesystem.mkdir("/d", 0o755, ME)
        filesystem.mkdir("/e", 0o755, ME)
        write(filesystem, "/d/file", b"x")
        refuse(store, "copy", QuotaExceeded)
        with pytest.raises(SwiftfsError):
            filesystem.rename("/d", "/e")
        store.hook = None
        filesystem.refresh()
        assert names(filesystem, "/") == ["d", "e"]
        filesystem.rename("/d", "/e")
        assert names(filesystem, "/e") == ["file"]


def test_a_mount_starts_though_the_new_place_cannot_be_listed(store: MemoryStore, tmp_path: Path) -> None:
    """The rename is finished; only its listing is missing."""
    put_all(store, "d/a")
    operation = interrupted(store)
    leave(tmp_path, operation)
    listed = 0

    def hook(method: str, subject: str) -> None:
        nonlocal listed
        if (method, subject) == ("list_page", "box/e/"):
            listed += 1
            if listed > 1:
                raise AccessDenied("no")

    store.hook = hook
    with harness(store, tmp_path) as filesystem:
        store.hook = None
        assert names(filesystem, "/") == ["e"]
        assert read(filesystem, "/e/a") == b"d/a"


@pytest.mark.parametrize("gone", [True, False])
@pytest.mark.parametrize("folder", [True, False])
def test_a_large_file_that_had_moved_takes_its_segments_along(
    store: MemoryStore, tmp_path: Path, *, folder: bool, gone: bool
) -> None:
    """Unless its source is gone: who deleted it is not known, and another mount may have renamed it."""
    new = "e/big" if folder else "big"
    with harness(store, tmp_path, "segment_size=1M,settle=0.05") as filesystem:
        filesystem.mkdir("/d", 0o755, ME)
        write(filesystem, "/d/big", bytes(3 * 2**20))
    source = ObjectName("box", "d/big")
    etag = store.head(source).version.etag
    operation: Move | MoveFolder = interrupted(store, recorded=True)
    if not folder:
        operation = Move(source, ObjectName("box", new), etag=etag, replaces_etag="", is_slo=True)
    copy(store, "d/big", new)
    if gone:
        delete(store, "d/big")
    with remounted(store, tmp_path, operation) as filesystem:
        filesystem.unlink(f"/{new}")
    assert len(keys(store, "box_segments")) == (3 if gone else 0)


@pytest.mark.parametrize("recorded", [True, False])
def test_what_is_newer_at_the_target_stays(store: MemoryStore, tmp_path: Path, *, recorded: bool) -> None:
    put_all(store, "d/a", "d/b")
    operation = interrupted(store, recorded=recorded)
    foreign(store, "e/a", b"newer")
    with remounted(store, tmp_path, operation) as filesystem:
        assert read(filesystem, "/e/a") == b"newer"
        assert read(filesystem, "/d/a") == b"d/a"
    assert contents(store) == {"d/a": b"d/a", "e/a": b"newer", "e/b": b"d/b"}
    assert records(tmp_path) == []


def test_what_is_newer_at_the_source_stays(
    store: MemoryStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put_all(store, "d/a", "d/b")
    operation = interrupted(store)
    copy(store, "d/a", "e/a")
    foreign(store, "d/a", b"newer")
    foreign(store, "d/c", b"new")
    with remounted(store, tmp_path, operation):
        pass
    assert contents(store) == {"d/a": b"newer", "d/c": b"new", "e/a": b"d/a", "e/b": b"d/b"}
    assert "box/d/a, box/d/c is kept" in caplog.text


def test_the_unmount_tells_of_a_move_that_was_given_up_and_no_fsync_does(
    store: MemoryStore, tmp_path: Path
) -> None:
    foreign(store, "d", b"newer")
    foreign(store, "e", b"newer")
    move = Move(ObjectName("box", "d"), ObjectName("box", "e"), replaces_large=False, etag="older")
    with remounted(store, tmp_path, move, GIVEN_UP) as filesystem:
        handle = filesystem.open("/d", os.O_RDONLY)
        filesystem.fsync(handle, data_only=False)
        filesystem.release(handle)
        folder = filesystem.opendir("/")
        filesystem.fsyncdir(folder)
        filesystem.releasedir(folder)
        assert [one[:3] for one in refusals(filesystem)] == [("/d", "Move", "refused")]


@pytest.mark.parametrize("error", [QuotaExceeded, AccessDenied, Unavailable])
def test_one_that_cannot_be_finished_is_undone_and_given_up(
    store: MemoryStore, tmp_path: Path, caplog: pytest.LogCaptureFixture, error: type[Exception]
) -> None:
    put_all(store, "d/a", "d/b", "d/c")
    operation = interrupted(store)
    copy(store, "d/a", "e/a")
    foreign(store, "e/theirs", b"theirs")
    refuse(store, "copy", error)
    with remounted(store, tmp_path, operation) as filesystem:
        store.hook = None
        assert names(filesystem, "/d") == ["a", "b", "c"]
        told = [("/d", "MoveFolder", "refused", "the folder was not moved: no")]
        assert refusals(filesystem) == told
        filesystem.setxattr("/", "swift.flush", b"1", 0)
        assert refusals(filesystem) == told
        filesystem.setxattr("/", "swift.flush", b"1", 0)
        assert refusals(filesystem) == []
        write(filesystem, "/e/a", b"newer")
        write(filesystem, "/e/b", b"newer")
    wanted = {f"d/{name}": f"d/{name}".encode() for name in "abc"}
    wanted |= {"e/a": b"newer", "e/b": b"newer", "e/theirs": b"theirs"}
    assert contents(store) == wanted
    assert "is given up" in caplog.text
    with harness(store, tmp_path) as filesystem:
        filesystem.unlink("/e/b")
    with harness(store, tmp_path):
        pass
    del wanted["e/b"]
    assert {key: one for key, one in contents(store).items() if key != "e"} == wanted


@pytest.mark.parametrize("changed", ["d/big", "e/big"])
@pytest.mark.parametrize("folder", [True, False])
def test_one_that_found_no_server_keeps_the_segments_of_either_copy(
    store: MemoryStore, tmp_path: Path, *, folder: bool, changed: str
) -> None:
    """Both names have the large file, and one of them is written anew."""
    data = noise(3 * 2**20)
    with harness(store, tmp_path, "segment_size=1M,settle=0.05") as filesystem:
        filesystem.mkdir("/d", 0o755, ME)
        write(filesystem, "/d/big", data)
    source, target = ObjectName("box", "d/big"), ObjectName("box", "e/big")
    etag = store.head(source).version.etag
    operation: Move | MoveFolder = interrupted(store)
    if not folder:
        operation = Move(source, target, etag=etag, replaces_etag="", is_slo=True)
    copy(store, "d/big", "e/big")
    leave(tmp_path, operation)

    def hook(method: str, subject: str) -> None:
        if method == ("list_page" if folder else "head") and subject.startswith("box/e/"):
            raise Unavailable("no")

    store.hook = hook
    with harness(store, tmp_path) as filesystem:
        store.hook = None
        write(filesystem, f"/{changed}", b"written anew")
    (kept,) = {"d/big", "e/big"} - {changed}
    assert body(store, kept) == data
    assert body(store, changed) == b"written anew"


@pytest.mark.parametrize("recorded", [True, False])
def test_one_that_found_no_server_is_given_up_by_the_next_mount(
    store: MemoryStore, tmp_path: Path, *, recorded: bool
) -> None:
    """Programs have used both places meanwhile, and a copy may be one that a program has made."""
    put_all(store, "d/a", "d/b", "d/c")
    operation = interrupted(store, recorded=recorded)
    copy(store, "d/a", "e/a")
    copy(store, "d/b", "e/b")
    leave(tmp_path, operation)

    def hook(method: str, subject: str) -> None:
        if (method, subject) == ("list_page", "box/d/"):
            raise Unavailable("no")

    store.hook = hook
    with harness(store, tmp_path) as filesystem:
        store.hook = None
        write(filesystem, "/e/a", b"newer")
        filesystem.unlink("/e/b")
        write(filesystem, "/e/c", b"d/c")
        write(filesystem, "/d/d", b"d/d")
    assert len(records(tmp_path)) == 1
    with harness(store, tmp_path, close_error="a mount has served files since"):
        pass
    kept = {f"d/{name}": f"d/{name}".encode() for name in "abcd"}
    assert contents(store) == {**kept, "e/a": b"newer", "e/c": b"d/c"}
    assert records(tmp_path) == []


def test_what_a_rename_was_to_replace_is_deleted_though_no_server_finishes_it(
    store: MemoryStore, tmp_path: Path
) -> None:
    """The call that deleted it had returned."""
    put_all(store, "d", "e")
    etags = [store.head(ObjectName("box", key)).version.etag for key in "de"]
    move = Move(
        ObjectName("box", "d"),
        ObjectName("box", "e"),
        etag=etags[0],
        replaces_etag=ANY_VERSION,
        deleted=etags[1],
    )
    leave(tmp_path, move)

    refuse(store, "head", Unavailable)
    with harness(store, tmp_path) as filesystem:
        store.hook = None
        assert names(filesystem, "/") == ["d"]
    assert contents(store) == {"d": b"d"}


@pytest.mark.parametrize("is_known", [True, False])
def test_what_may_be_the_copy_stays_though_a_rename_was_to_replace_what_was_deleted(
    store: MemoryStore, tmp_path: Path, *, is_known: bool
) -> None:
    for key in ("d", "e"):
        foreign(store, key, b"data")
    source, target = ObjectName("box", "d"), ObjectName("box", "e")
    etag = store.head(source).version.etag
    deleted = etag if is_known else None
    leave(tmp_path, Move(source, target, etag=etag, replaces_etag=ANY_VERSION, deleted=deleted))
    refuse(store, "head", Unavailable)
    with harness(store, tmp_path) as filesystem:
        store.hook = None
        wait_until(lambda: not filesystem.waiting())
    assert contents(store) == {"d": b"data", "e": b"data"}


def test_what_the_crash_left_undeletable_waits(store: MemoryStore, tmp_path: Path) -> None:
    put_all(store, "d/a")
    operation = interrupted(store)
    copy(store, "d/a", "e/a")
    store.hook = _refuse_deletions
    leave(tmp_path, operation)
    with harness(store, tmp_path) as filesystem:
        assert [(one.path, one.state) for one in filesystem.waiting()] == [("/d/a", "parked")]
        assert names(filesystem, "/e") == ["a"]
        store.hook = None
        filesystem.retry()
        wait_until(lambda: not filesystem.waiting())
    assert contents(store) == {"e/a": b"d/a"}


def _refuse_deletions(method: str, subject: str) -> None:
    if method in ("delete", "delete_many") and subject.startswith("box/d/"):
        raise AccessDenied("no")


def test_other_changes_of_the_same_process_keep_their_records(store: MemoryStore, tmp_path: Path) -> None:
    """The rest of the move gets a record of its own, not that of a later change."""
    put_all(store, "d/a", "other")
    operation = interrupted(store)
    copy(store, "d/a", "e/a")
    leave(tmp_path, operation)
    log = JournalDB(tmp_path, "box of memory")
    log.commit([Record(2, "/other", Delete(ObjectName("box", "other"), is_slo=False))])
    log.close()
    store.hook = _refuse_deletions
    with harness(store, tmp_path, "settle=0.1") as filesystem:
        store.hook = None
        filesystem.retry()
        wait_until(lambda: not filesystem.waiting())
    assert contents(store) == {"e/a": b"d/a"}


Step = tuple[Callable[..., None], tuple[object, ...]]

CASES: dict[str, tuple[list[Step], str | None, dict[str, bytes]]] = {
    "nothing was done": ([], "", {"new": b"old"}),
    "it was copied": ([(copy, ("old", "new"))], "", {"new": b"old"}),
    "all was done": ([(copy, ("old", "new")), (delete, ("old",))], "", {"new": b"old"}),
    "the target is as it was": ([(foreign, ("new", b"first"))], "first", {"new": b"old"}),
    "the target is newer": (
        [(foreign, ("new", b"newer"))],
        "first",
        {"old": b"old", "new": b"newer"},
    ),
    "the target came to be": ([(foreign, ("new", b"newer"))], "", {"old": b"old", "new": b"newer"}),
    "of the target nothing is known": (
        [(foreign, ("new", b"newer"))],
        None,
        {"old": b"old", "new": b"newer"},
    ),
    "the source is newer": (
        [(copy, ("old", "new")), (foreign, ("old", b"newer"))],
        "",
        {"old": b"newer", "new": b"old"},
    ),
}
"""What happened before the mount, what the target held then, and the objects in the end."""


@pytest.mark.matrix(4)
@pytest.mark.parametrize("case", CASES)
def test_a_file_is_moved_to_its_end_unless_a_name_is_newer(
    store: MemoryStore, tmp_path: Path, case: str
) -> None:
    steps, replaced, wanted = CASES[case]
    foreign(store, "first", b"first")
    foreign(store, "old", b"old")
    etag = store.head(ObjectName("box", "old")).version.etag
    replaces = store.head(ObjectName("box", "first")).version.etag if replaced == "first" else replaced
    store.delete(ObjectName("box", "first"))
    for step, arguments in steps:
        step(store, *arguments)
    move = Move(ObjectName("box", "old"), ObjectName("box", "new"), etag=etag, replaces_etag=replaces)
    with remounted(store, tmp_path, move, GIVEN_UP if len(wanted) > 1 else None):
        pass
    assert contents(store) == wanted
    assert records(tmp_path) == []


def test_a_file_that_could_not_be_moved_does_not_come_back(store: MemoryStore, tmp_path: Path) -> None:
    foreign(store, "old", b"old")
    etag = store.head(ObjectName("box", "old")).version.etag
    leave(tmp_path, Move(ObjectName("box", "old"), ObjectName("box", "new"), etag=etag, replaces_etag=""))
    refuse(store, "copy", Unavailable)
    with harness(store, tmp_path) as filesystem:
        store.hook = None
        write(filesystem, "/new", b"newer")
        filesystem.unlink("/new")
    with harness(store, tmp_path, close_error="given up; it is /d: "):
        pass
    assert contents(store) == {"old": b"old"}
    assert records(tmp_path) == []


def test_what_was_recorded_before_it_was_listed_moves(store: MemoryStore, tmp_path: Path) -> None:
    put_all(store, "d/a")
    hidden = MovedObject("d/a", row_of(store, "d/a").hash)
    with remounted(store, tmp_path, MoveFolder("box", "d/", "box", "e/", objects=(hidden,))):
        pass
    assert contents(store) == {"e/a": b"d/a"}


@pytest.mark.usefixtures("no_retries")
def test_that_a_mount_serves_files_with_a_rename_unfinished_survives_a_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next mount would finish the rename, over what programs have done since."""
    disk, store = Disk(tmp_path, monkeypatch), MemoryStore("box")
    put_all(store, "d/a", "d/b")
    leave(disk.cache, interrupted(store))
    refuse(store, "list_page", Unavailable("no answer"))
    with harness(store, disk.cache, NEVER, close_error=ANY_END):
        image = disk.cut(journal_is_newest=False)
        store.hook = None
    disk.restart()
    with harness(store, image, NEVER, close_error="a mount has served files since"):
        assert keys(store) == ["d/a", "d/b"]


def test_a_change_whose_earlier_rename_a_power_cut_has_undone_keeps_its_name(
    store: MemoryStore, cache: Path
) -> None:
    """The rename of `d` to `e` was lost, with the new name of what it had carried; the one back was not."""
    log = JournalDB(cache, "box of memory")
    back = MoveFolder("box", "e/", "box", "d/", objects=(), carried=(1, 2))
    marker, new = PutMarker(ObjectName("box", "d/s")), PutMarker(ObjectName("box", "e/t"))
    log.commit([Record(1, "/d/s", marker), Record(2, "/e/t", new), Record(3, "/e", back)])
    log.close()
    with harness(store, cache) as filesystem:
        assert names(filesystem, "/d") == ["s", "t"]
    assert keys(store) == ["d/s", "d/t"]


def test_a_move_that_is_resumed_records_what_it_copies(store: MemoryStore, cache: Path) -> None:
    """Else the process after a kill would not know which copies need the segments of their sources."""
    put_all(store, "d/a", "d/b")
    images = list[Path]()

    def kill(method: str, _subject: str) -> None:
        if method == "copy" and not images:
            images.append(cache.with_name("image"))
            copy_live(cache, images[0])

    store.hook = kill
    with remounted(store, cache, interrupted(store, recorded=False)):
        pass
    (record,) = records(images[0])
    assert isinstance(record.operation, MoveFolder)
    assert {one.key for one in record.operation.objects or ()} == {"d/a", "d/b"}
