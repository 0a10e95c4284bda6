"""A folder is renamed whose files are not in Swift yet: they get their new names in the journal only."""

import errno
import math
import os
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

import swiftfs
from support.call_work import work_of
from support.fresh_folders import (
    FRESH_FOLDERS,
    OPTIONS,
    TREE,
    drained,
    killed,
    make,
    objects,
    sent,
    tree,
)
from support.harness import LEFT, ME, copy_live, get, harness, names, put, read, write
from support.jobs import wait_until
from support.memory_store import MemoryStore
from support.noise import NEW
from support.refused_changes import flush
from support.stored_objects import body, foreign, keys, refuse, segments
from swiftfs.errors import QuotaExceeded, StoreError
from swiftfs.journal.database import JournalDB
from swiftfs.journal.operations import PutFile
from swiftfs.objects import ObjectName
from swiftfs.posix.filesystem import FileSystem

pytestmark = FRESH_FOLDERS


@pytest.fixture
def filesystem(filesystem: FileSystem) -> FileSystem:
    """A file system that knows the names in its root."""
    names(filesystem, "/")
    return filesystem


def test_a_folder_that_swift_does_not_have_costs_no_request(
    filesystem: FileSystem, store: MemoryStore
) -> None:
    make(filesystem, "/old")
    assert sent(store, lambda: filesystem.rename("/old", "/new")) == []
    assert sent(store, lambda: names(filesystem, "/new/sub")) == []
    assert names(filesystem, "/") == ["new"]
    assert names(filesystem, "/new") == ["a", "empty", "large", "sub"]
    assert names(filesystem, "/new/sub") == ["b", "deep", "link"]
    assert read(filesystem, "/new/sub/deep/c") == b"third"
    assert filesystem.readlink("/new/sub/link") == "target"
    assert filesystem.getattr("/new/sub").mode & 0o777 == 0o750
    with pytest.raises(FileNotFoundError):
        filesystem.getattr("/old")
    flush(filesystem)
    assert not filesystem.waiting()
    assert objects(store) == tree("new")
    assert len(segments(store)) == 3
    methods = {method for method, _ in store.requests}
    assert not methods & {"copy", "delete", "delete_many"}
    assert names(filesystem, "/new/sub") == ["b", "deep", "link"]


def test_it_may_be_renamed_again_and_again(filesystem: FileSystem, store: MemoryStore) -> None:
    make(filesystem, "/old")
    filesystem.mkdir("/other", 0o755, ME)
    for old, new in (("/old", "/new"), ("/new", "/other/old"), ("/other/old/sub", "/x"), ("/other", "/old")):
        assert sent(store, partial(filesystem.rename, old, new)) == []
    flush(filesystem)
    expected = {key.replace("old/sub", "x", 1) for key in tree("old")}
    assert set(keys(store)) == {
        "old",
        *(f"old/{key}" if key.startswith("old") else key for key in expected),
    }


@pytest.mark.usual
@pytest.mark.usefixtures("no_retries")
@pytest.mark.parametrize("times", [1, 2])
def test_a_kill_leaves_it_under_the_old_name_or_under_the_new_one(
    filesystem: FileSystem, store: MemoryStore, cache: Path, tmp_path: Path, times: int
) -> None:
    make(filesystem, "/old")
    before = tmp_path / "before"
    copy_live(cache, before)
    filesystem.rename("/old", "/new")
    after = tmp_path / "after"
    copy_live(cache, after)
    assert drained(MemoryStore("box", "box_segments"), before) == tree("old")
    for _ in range(times):
        with harness(MemoryStore("box", "box_segments"), after, OPTIONS) as mounted:
            assert names(mounted, "/new/sub") == ["b", "deep", "link"]
            assert read(mounted, "/new/large") == NEW
            copy_live(after, tmp_path / f"again{times}")
            after = tmp_path / f"again{times}"
            times += 1
    assert drained(MemoryStore("box", "box_segments"), after) == tree("new")


def test_all_names_change_in_one_commit(filesystem: FileSystem) -> None:
    """The database refuses the last of its statements: then nothing has changed."""
    make(filesystem, "/old")
    database = filesystem.services.journal._db._database
    database.execute(
        "CREATE TEMP TRIGGER refuse BEFORE INSERT ON intents WHEN NEW.path = '/new/sub/link' "
        "BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
    )
    with pytest.raises(OSError, match="No space"):
        filesystem.rename("/old", "/new")
    assert names(filesystem, "/") == ["old"]
    assert names(filesystem, "/old/sub") == ["b", "deep", "link"]
    assert {one.path for one in filesystem.waiting()} == {f"/{key}" for key in tree("old")}
    database.execute("DROP TRIGGER refuse")
    filesystem.rename("/old", "/new")
    assert {one.path for one in filesystem.waiting()} == {f"/{key}" for key in tree("new")}


def test_open_files_are_stored_under_the_new_name(filesystem: FileSystem, store: MemoryStore) -> None:
    make(filesystem, "/old")
    clean = filesystem.open("/old/a", os.O_RDWR)
    dirty = filesystem.open("/old/sub/b", os.O_RDWR)
    put(filesystem, dirty, 0, b"SEC")
    new = filesystem.create("/old/sub/deep/new", 0o644, os.O_RDWR, ME)
    put(filesystem, new, 0, b"new")
    assert sent(store, lambda: filesystem.rename("/old", "/moved")) == []
    assert get(filesystem, dirty) == b"SECond"
    put(filesystem, clean, 5, b" changed")
    for handle in (clean, dirty, new):
        put(filesystem, handle, 0, b"X")
        filesystem.flush(handle)
    flush(filesystem)
    put(filesystem, new, 1, b"E")
    for handle in (clean, dirty, new):
        filesystem.release(handle)
    flush(filesystem)
    assert not filesystem.waiting()
    changed = {"moved/a": b"Xirst changed", "moved/sub/b": b"XECond", "moved/sub/deep/new": b"XEw"}
    assert objects(store) == {**tree("moved"), **changed}


def test_a_file_that_stays_open_knows_the_version_that_is_stored(store: MemoryStore, cache: Path) -> None:
    """Else the next upload would find another client's version, and keep it beside its own."""
    with harness(store, cache, f"{OPTIONS},conflict=keep") as filesystem:
        make(filesystem, "/old")
        handle = filesystem.open("/old/large", os.O_RDWR)
        filesystem.rename("/old", "/new")
        flush(filesystem)
        put(filesystem, handle, 5, b"changed")
        filesystem.release(handle)
        flush(filesystem)
    assert objects(store) == {**tree("new"), "new/large": NEW[:5] + b"changed" + NEW[12:]}


def test_inode_numbers_move_along(filesystem: FileSystem) -> None:
    make(filesystem, "/old")
    before = {key: filesystem.getattr(f"/{key}").inode for key in tree("old")}
    filesystem.rename("/old", "/new")
    make(filesystem, "/old")
    after = {key: filesystem.getattr(f"/new{key.removeprefix('old')}").inode for key in before}
    assert after == before
    assert not set(before.values()) & {filesystem.getattr(f"/{key}").inode for key in tree("old")}


def test_the_rename_of_a_fresh_folder_needs_no_server(filesystem: FileSystem, store: MemoryStore) -> None:
    make(filesystem, "/old")

    def away(_method: str, _subject: str) -> None:
        raise StoreError("no server")

    store.hook = away
    filesystem.rename("/old", "/new")
    assert read(filesystem, "/new/sub/b") == b"second"
    store.hook = None
    flush(filesystem)
    assert objects(store) == tree("new")


@pytest.mark.usefixtures("no_retries")
def test_without_a_write_delay_the_rename_waits_for_them(store: MemoryStore, cache: Path) -> None:
    with harness(store, cache, f"{OPTIONS},drain=0", close_error=LEFT) as filesystem:
        make(filesystem, "/old")
    with harness(store, cache, "sync") as filesystem:
        assert not objects(store)
        filesystem.rename("/old", "/new")
        assert objects(store) == tree("new")


def test_a_parked_file_moves_and_is_tried_again(filesystem: FileSystem, store: MemoryStore) -> None:
    make(filesystem, "/old")
    refuse(store, "put put_manifest", QuotaExceeded)
    flush(filesystem)
    assert {one.state for one in filesystem.waiting()} == {"parked"}
    store.hook = None
    store.requests.clear()
    filesystem.rename("/old", "/new")
    # Segments of an attempt that another segment's refusal ended may still be sent.
    assert [subject for _, subject in store.requests if f"{subject}".startswith("box/")] == []
    assert {one.state for one in filesystem.waiting()} == {"waiting"}
    flush(filesystem)
    assert objects(store) == tree("new")


@pytest.mark.parametrize("kind", ["closed", "open"])
def test_what_was_deleted_just_now_does_not_come_back(
    filesystem: FileSystem, store: MemoryStore, kind: str
) -> None:
    make(filesystem, "/old")
    handle = filesystem.open("/old/sub/b", os.O_RDWR) if kind == "open" else None
    filesystem.unlink("/old/sub/b")
    assert sent(store, lambda: filesystem.rename("/old", "/new")) == []
    assert names(filesystem, "/new/sub") == ["deep", "link"]
    if handle is not None:
        assert get(filesystem, handle) == b"second"
        filesystem.release(handle)
    flush(filesystem)
    assert objects(store) == {key: data for key, data in tree("new").items() if key != "new/sub/b"}


@pytest.mark.parametrize("folder", ["", "/new"])
def test_a_file_at_the_target_that_libfuse_has_hidden_stays_deleted(
    filesystem: FileSystem, store: MemoryStore, folder: str
) -> None:
    """Its deletion is held for a moment, and must not take what has its name by then."""
    if folder:
        filesystem.mkdir(folder, 0o755, ME)
    name = f"{folder}/a" if folder else "/new"
    write(filesystem, name, b"old")
    flush(filesystem)
    make(filesystem, "/old")
    # Just closed, which libfuse does not know yet.
    filesystem.release(filesystem.open(name, os.O_RDONLY))
    filesystem.hide(name, f"{folder}/.fuse_hidden0000001600000002")
    if folder:
        filesystem.rmdir(folder)
    assert sent(store, partial(filesystem.rename, "/old", "/new")) == []
    held = filesystem.services.journal._writer.held
    wait_until(lambda: held.next_due() == math.inf)
    assert read(filesystem, "/new/a") == b"first"
    flush(filesystem)
    assert objects(store) == tree("new")


def test_deletions_at_the_target_are_merged_or_come_first(
    store: MemoryStore, cache: Path, tmp_path: Path
) -> None:
    with harness(store, cache, OPTIONS) as filesystem:
        make(filesystem, "/new")
        write(filesystem, "/new/only", b"old")
    with harness(store, cache, OPTIONS) as filesystem:
        for folder in ("/sub/deep", "/empty", "/sub", ""):
            for name in names(filesystem, f"/new{folder}"):
                if name not in ("sub", "deep", "empty"):
                    filesystem.unlink(f"/new{folder}/{name}")
            filesystem.rmdir(f"/new{folder}")
        names(filesystem, "/")
        make(filesystem, "/old")
        assert sent(store, lambda: filesystem.rename("/old", "/new")) == []
        assert names(filesystem, "/new") == ["a", "empty", "large", "sub"]
        twin = killed(store, cache, tmp_path / "image")
        flush(filesystem)
        assert not filesystem.waiting()
        assert objects(store) == tree("new")
    assert drained(twin, tmp_path / "image") == tree("new")
    for one in (store, twin):
        assert len(segments(one)) == 3


@pytest.mark.parametrize("size", [10, 2_000_000])
def test_an_older_version_is_deleted_after_the_new_one_is_stored(
    store: MemoryStore, cache: Path, tmp_path: Path, size: int
) -> None:
    """The folder was deleted and made again, and Swift has its old files."""
    with harness(store, cache, OPTIONS) as filesystem:
        filesystem.mkdir("/old", 0o755, ME)
        write(filesystem, "/old/file", NEW[:size])
        flush(filesystem)
        write(filesystem, "/old/file", b"newer")
        write(filesystem, "/old/fresh", b"fresh")
        requests = sent(store, lambda: filesystem.rename("/old", "/new"))
        assert "put" not in requests
        assert read(filesystem, "/new/file") == b"newer"
        twin = killed(store, cache, tmp_path / "image")
    for one, folder in ((store, cache), (twin, tmp_path / "image")):
        assert drained(one, folder) == {"new": b"", "new/file": b"newer", "new/fresh": b"fresh"}
        assert segments(one) == set()


def test_what_a_pending_file_replaces_is_deleted_at_the_old_name(
    store: MemoryStore, cache: Path, tmp_path: Path
) -> None:
    """The folder had no marker: all that it will have waits, and only its old file is in Swift."""
    foreign(store, "old/file", b"theirs")
    with harness(store, cache, OPTIONS) as filesystem:
        assert names(filesystem, "/old") == ["file"]
        write(filesystem, "/old/file", b"newer")
        filesystem.chmod("/old", 0o700)
        assert not sent(store, lambda: filesystem.rename("/old", "/new"))
        twin = killed(store, cache, tmp_path / "image")
        foreign(store, "old/other", b"theirs")
        filesystem.refresh()
        assert names(filesystem, "/old") == ["other"]
        store.delete(ObjectName("box", "old/other"))
    for one, folder in ((store, cache), (twin, tmp_path / "image")):
        assert drained(one, folder) == {"new": b"", "new/file": b"newer"}


def test_a_name_that_becomes_too_long_changes_nothing(filesystem: FileSystem, store: MemoryStore) -> None:
    make(filesystem, "/old")
    deep = "/old/sub"
    for number in range(4):
        deep += f"/{number}" + "x" * 200
        filesystem.mkdir(deep, 0o755, ME)
    write(filesystem, f"{deep}/file", b"data")
    before = [one.path for one in filesystem.waiting()]
    with pytest.raises(OSError, match="too long") as caught:
        filesystem.rename("/old", "/" + "y" * 250)
    assert caught.value.errno == errno.ENAMETOOLONG
    assert [one.path for one in filesystem.waiting()] == before
    assert names(filesystem, "/") == ["old"]
    flush(filesystem)
    assert body(store, f"{deep[1:]}/file") == b"data"


def test_it_moves_to_another_container(cache: Path) -> None:
    store = MemoryStore("box", "box_segments", "other")
    with harness(store, cache, OPTIONS, "/") as filesystem:
        names(filesystem, "/")
        for container in ("/box", "/other"):
            names(filesystem, container)
        make(filesystem, "/box/old")
        assert sent(store, lambda: filesystem.rename("/box/old", "/other/new")) == []
        assert names(filesystem, "/other/new") == ["a", "empty", "large", "sub"]
        flush(filesystem)
        assert keys(store) == []
        assert keys(store, "other") == sorted(tree("new"))
        assert read(filesystem, "/other/new/large") == NEW


@pytest.mark.parametrize("options", ["dir_marker=slash", "dir_attributes=content-type"])
def test_any_kind_of_marker_moves(store: MemoryStore, cache: Path, options: str) -> None:
    with harness(store, cache, f"{OPTIONS},{options}") as filesystem:
        names(filesystem, "/")
        make(filesystem, "/old")
        assert sent(store, lambda: filesystem.rename("/old", "/new")) == []
        assert names(filesystem, "/new") == ["a", "empty", "large", "sub"]
        flush(filesystem)
    slash = "/" if "slash" in options else ""
    assert keys(store) == sorted(key + slash if tree("new")[key] == b"" else key for key in tree("new"))


def test_the_journal_names_each_local_file_once(filesystem: FileSystem, cache: Path, tmp_path: Path) -> None:
    make(filesystem, "/old")
    filesystem.rename("/old", "/new")
    copy_live(cache, tmp_path / "image")
    with closing(JournalDB(tmp_path / "image", "box of memory")) as journal:
        records = journal.records()
    files = [one.operation.file.file for one in records if isinstance(one.operation, PutFile)]
    assert len(files) == len(set(files)) == len(TREE)
    assert {one.path for one in records} == {f"/{key}" for key in tree("new")}


@pytest.mark.usual
def test_the_work_grows_with_the_number_of_files(store: MemoryStore, tmp_path: Path) -> None:
    """Ten thousand take about a second."""

    def work(files: int) -> int:
        (cache := tmp_path / f"{files}").mkdir()
        with harness(store, cache, OPTIONS) as filesystem:
            names(filesystem, "/")
            filesystem.mkdir(f"/{files}", 0o755, ME)
            for number in range(files):
                write(filesystem, f"/{files}/{number}", b"x")
            return work_of(partial(filesystem.rename, f"/{files}", f"/{files}b"), swiftfs).lines

    assert work(240) <= 8 * work(30)
