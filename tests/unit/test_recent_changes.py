"""The next mount shows what an earlier one had stored, also while the listings still lag behind that."""

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from support.harness import ME, copy_live, harness, names, put, read, sync_all, write
from support.interrupted_moves import leave, row_of
from support.lagging_store import LaggingStore
from support.noise import OLD
from support.old_databases import rewrite
from support.stored_objects import body, foreign, keys
from swiftfs.concurrency import monotonic
from swiftfs.errors import Ghost, NotFound
from swiftfs.journal.database import JournalDB
from swiftfs.journal.earlier_changes import RecentChanges
from swiftfs.journal.operations import Move, MovedObject, MoveFolder
from swiftfs.namespace.entry import Defaults, Entry
from swiftfs.namespace.overlay import RecentChange
from swiftfs.objects import ObjectName
from swiftfs.paths import Folder
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.protocol import CopyRequest

OPTIONS = "ttl=0,segment_size=1M,sync"


Mounting = Callable[[], AbstractContextManager[FileSystem]]


pytestmark = pytest.mark.store(LaggingStore, "box", "box_segments")


@contextmanager
def killed(store: LaggingStore, cache: Path) -> Iterator[FileSystem]:
    """Mount; the next mount finds the cache folder as a kill at the end leaves it."""
    image = cache.with_name("image")
    with harness(store, cache, OPTIONS) as filesystem:
        yield filesystem
        copy_live(cache, image)
    cache.rename(cache.with_name("unmounted"))
    image.rename(cache)


@pytest.fixture(params=["unmounted", "killed"])
def first(request: pytest.FixtureRequest, store: LaggingStore, cache: Path) -> Mounting:
    """Return what mounts, and ends the mount in one of two ways."""
    if request.param == "killed":
        return lambda: killed(store, cache)
    return lambda: harness(store, cache, OPTIONS)


def prepare(filesystem: FileSystem) -> None:
    """Store what the listings show."""
    for path in ("/d", "/d/s", "/d/empty"):
        filesystem.mkdir(path, 0o755, ME)
    write(filesystem, "/d/old", b"old")
    write(filesystem, "/d/s/deep", b"deep")
    write(filesystem, "/d/large", OLD)


def change(filesystem: FileSystem) -> None:
    """Change each kind of name in each way."""
    write(filesystem, "/d/new", b"new")
    write(filesystem, "/d/new large", OLD[1:])
    write(filesystem, "/d/old", b"newer")
    filesystem.symlink("target", "/d/link", ME)
    filesystem.mknod("/d/fifo", stat.S_IFIFO | 0o600, 0, ME)
    filesystem.mkdir("/d/made", 0o700, ME)
    filesystem.rmdir("/d/empty")
    filesystem.rename("/d/large", "/d/renamed")
    filesystem.rename("/d/s", "/d/t")
    filesystem.chmod("/d/renamed", 0o600)
    filesystem.setxattr("/d/old", "user.key", b"value", 0)


def check(filesystem: FileSystem) -> None:
    """Assert that the mount shows all that `change` has done."""
    found = ["fifo", "link", "made", "new", "new large", "old", "renamed", "t"]
    assert names(filesystem, "/d") == found
    assert names(filesystem, "/d/t") == ["deep"]
    for name in ("large", "empty", "s", "s/deep"):
        with pytest.raises(FileNotFoundError):
            filesystem.getattr(f"/d/{name}")
    assert read(filesystem, "/d/new") == b"new"
    assert read(filesystem, "/d/new large") == OLD[1:]
    assert read(filesystem, "/d/old") == b"newer"
    assert read(filesystem, "/d/renamed") == OLD
    assert read(filesystem, "/d/t/deep") == b"deep"
    assert filesystem.readlink("/d/link") == "target"
    assert stat.S_ISFIFO(filesystem.getattr("/d/fifo").mode)
    assert stat.S_IMODE(filesystem.getattr("/d/made").mode) == 0o700
    assert stat.S_IMODE(filesystem.getattr("/d/renamed").mode) == 0o600
    assert filesystem.getxattr("/d/old", "user.key") == b"value"


@pytest.mark.usual
def test_what_was_stored_is_shown_while_the_listings_lag(
    store: LaggingStore, cache: Path, first: Mounting
) -> None:
    with first() as filesystem:
        prepare(filesystem)
        store.stop()
        change(filesystem)
    with harness(store, cache, OPTIONS) as filesystem:
        check(filesystem)
        filesystem.refresh()
        check(filesystem)
        with pytest.raises(OSError, match=os.strerror(errno.EEXIST)):
            filesystem.create("/d/new", 0o644, os.O_WRONLY | os.O_EXCL, ME)
    with harness(store, cache, OPTIONS) as filesystem:  # the changes of the first mount are still kept
        check(filesystem)
        store.go_on()
        check(filesystem)


@pytest.mark.usual
def test_a_mount_with_listings_that_do_not_lag_costs_no_request_more(
    store: LaggingStore, cache: Path, first: Mounting
) -> None:
    with first() as filesystem:
        prepare(filesystem)
        change(filesystem)
    forgetful = cache.with_name("forgetful")
    shutil.copytree(cache, forgetful)
    rewrite(forgetful / "journal.sqlite", "DELETE FROM recent")
    sent = []
    for folder in (cache, forgetful):
        store.requests.clear()
        with harness(store, folder, OPTIONS) as filesystem:
            assert store.requests == [("container_usage", "box")]
            check(filesystem)
            sent.append(sorted(subject for method, subject in store.requests if method == "head"))
    assert sent[0] == sent[1]


def test_a_second_rename_moves_what_the_first_mount_has_moved(
    store: LaggingStore, cache: Path, first: Mounting
) -> None:
    with first() as filesystem:
        foreign(store, "d/foreign", b"foreign")
        write(filesystem, "/d/own", b"own")
        store.stop()
        filesystem.rename("/d", "/e")
        write(filesystem, "/e/new", b"new")
    with harness(store, cache, OPTIONS) as filesystem:
        filesystem.rename("/e", "/f")
    with harness(store, cache, OPTIONS) as filesystem:
        assert names(filesystem, "/") == ["f"]
        assert names(filesystem, "/f") == ["foreign", "new", "own"]
        filesystem.mkdir("/d", 0o755, ME)
        filesystem.mkdir("/e", 0o755, ME)
        assert names(filesystem, "/d") == names(filesystem, "/e") == []
    store.go_on()
    assert keys(store) == ["d", "e", "f/foreign", "f/new", "f/own"]


@pytest.mark.parametrize("lags", [True, False])
def test_another_client_s_newer_change_counts(
    store: LaggingStore, cache: Path, first: Mounting, lags: bool
) -> None:
    with first() as filesystem:
        for name in ("changed", "deleted", "made again"):
            write(filesystem, f"/{name}", b"mine")
        store.stop()
        for name in ("changed", "deleted"):
            write(filesystem, f"/{name}", b"mine, newer")
        filesystem.unlink("/made again")
    foreign(store, "changed", b"theirs")
    foreign(store, "made again", b"theirs")
    store.delete(ObjectName("box", "deleted"))
    if not lags:
        store.go_on()
    with harness(store, cache, OPTIONS) as filesystem:
        with pytest.raises((FileNotFoundError, Ghost)):
            read(filesystem, "/deleted")
        assert read(filesystem, "/changed") == read(filesystem, "/made again") == b"theirs"


@pytest.mark.parametrize("lags", [True, False])
@pytest.mark.parametrize("size", [4, len(OLD)])
def test_a_file_that_grew_after_its_close_has_the_size_that_was_stored(
    store: LaggingStore, cache: Path, lags: bool, size: int
) -> None:
    image = cache.with_name("image")
    with harness(store, cache, "ttl=0,segment_size=1M,settle=60") as filesystem:
        store.stop()
        growing = filesystem.create("/file", 0o644, os.O_WRONLY, ME)
        write(filesystem, "/file", OLD[:size])
        put(filesystem, growing, size, b"more")
        sync_all(filesystem)
        assert filesystem.getattr("/file").size == size + 4
        copy_live(cache, image)
        filesystem.release(growing)
    if not lags:
        store.go_on()
    with harness(store, image, OPTIONS) as filesystem:
        assert filesystem.getattr("/file").size == size + 4
        assert read(filesystem, "/file") == OLD[:size] + b"more"


@pytest.mark.parametrize("has_marker", [True, False])
def test_another_client_s_file_has_its_name_where_listings_still_show_a_folder_that_has_moved(
    store: LaggingStore, cache: Path, first: Mounting, has_marker: bool
) -> None:
    with first() as filesystem:
        if has_marker:
            filesystem.mkdir("/d", 0o755, ME)
        foreign(store, "d/a", b"data")
        store.stop()
        filesystem.rename("/d", "/e")
    foreign(store, "d", b"theirs")
    assert store.shown is not None
    store.shown["d"] = store._containers["box"].objects["d"]  # that update of the listing came early
    for _ in range(2):
        with harness(store, cache, OPTIONS) as filesystem:
            assert names(filesystem, "/") == ["d", "e"]
            assert read(filesystem, "/d") == b"theirs"


def end(store: LaggingStore, cache: Path, *statements: str) -> FileSystem:
    """Store a file that no listing shows, and change its row."""
    with harness(store, cache, OPTIONS) as filesystem:
        store.stop()
        write(filesystem, "/file", b"data")
    rewrite(cache / "journal.sqlite", *statements)
    return filesystem


@pytest.mark.parametrize(
    ("passed", "is_shown"),
    [
        ("at = at - 290, clock = clock - 290", True),
        ("at = at - 310, clock = clock - 310", False),
        ("at = at + 86400", True),  # the machine's time was set back
        ("at = at - 86400", True),  # it was set forward
        ("clock = clock + 1e9", True),  # a boot began the monotonic clock anew
        ("clock = clock + 1e9, at = at + 86400", True),
        ("clock = clock + 1e9, at = at - 310", False),
    ],
)
def test_a_change_counts_for_five_minutes_whatever_the_clock_shows(
    store: LaggingStore, cache: Path, passed: str, is_shown: bool
) -> None:
    end(store, cache, f"UPDATE recent SET {passed}")
    with harness(store, cache, OPTIONS) as filesystem:
        assert names(filesystem, "/") == (["file"] if is_shown else [])
    with closing(JournalDB(cache, "box of memory")) as log:
        assert len(log.rows("recent")) == is_shown


def test_a_row_that_cannot_be_read_is_left_out(store: LaggingStore, cache: Path) -> None:
    end(store, cache, "UPDATE recent SET entry = '{\"name\":7}'")
    with harness(store, cache, OPTIONS) as filesystem:
        assert names(filesystem, "/") == []


def test_a_mount_of_another_source_drops_the_changes(store: LaggingStore, cache: Path) -> None:
    end(store, cache)
    store.create_container("other")
    with harness(store, cache, OPTIONS, source="other") as filesystem:
        assert names(filesystem, "/") == []
    with closing(JournalDB(cache, "other of memory")) as log:
        assert log.rows("recent") == []


def test_the_newest_changes_are_kept(tmp_path: Path) -> None:
    folder, attributes = Folder("box", "d/"), Defaults(0, 0).file(1, 1, 1)
    with closing(JournalDB(tmp_path, "box")) as log:
        recent = RecentChanges(log, most=20, trim=10)
        for number in range(99):
            name = f"{number % 80:02}"
            entry = Entry(name, ObjectName("box", f"d/{name}"), attributes)
            recent.keep(folder, RecentChange(name, entry, monotonic(), moved=False, of_folder=False))
            log.sync()
    with closing(JournalDB(tmp_path, "box")) as log:
        found = RecentChanges(log).recall()
        assert sorted(one.name for one in found[folder])[:19] == [f"{number:02}" for number in range(19)]
        assert 20 <= len(log.rows("recent")) <= 30


@pytest.mark.parametrize("is_copied", [True, False])
def test_a_rename_that_the_next_mount_finishes_is_shown_by_the_one_after_it(
    store: LaggingStore, cache: Path, is_copied: bool
) -> None:
    with harness(store, cache, OPTIONS) as filesystem:
        write(filesystem, "/file", b"data")
    etag = store.head(ObjectName("box", "file")).version.etag
    source, target = ObjectName("box", "file"), ObjectName("box", "moved")
    leave(cache, Move(source, target, etag=etag, replaces_etag=""), "/file")
    store.stop()
    if is_copied:
        store.copy(CopyRequest(source, target))
    with harness(store, cache, OPTIONS):
        pass
    with harness(store, cache, OPTIONS) as filesystem:
        assert names(filesystem, "/") == ["moved"]
        assert read(filesystem, "/moved") == b"data"


@pytest.mark.usual
@pytest.mark.parametrize(
    ("is_recorded", "copied", "deleted"),
    [
        (False, 0, 0),
        (True, 0, 0),
        (True, 1, 0),
        (True, 1, 1),
        (True, 150, 0),
        (True, 150, 1),
        (True, 150, 150),
    ],
)
def test_a_folder_s_rename_that_the_next_mount_finishes_is_shown_by_the_one_after_it(
    store: LaggingStore, cache: Path, is_recorded: bool, copied: int, deleted: int
) -> None:
    paths = ["own", *(f"s/{number:03}" for number in range(149))]
    with harness(store, cache, OPTIONS) as filesystem:
        for path in paths[1:]:
            foreign(store, f"d/{path}", b"foreign")
        objects = [row_of(store, f"d/{path}") for path in paths[1:]]
        store.stop()
        write(filesystem, "/d/own", b"own")
        own = MovedObject("d/own", store.head(ObjectName("box", "d/own")).version.etag)
    move = MoveFolder("box", "d/", "box", "e/", recent=(own,))
    leave(cache, replace(move, objects=(*objects, own)) if is_recorded else move)
    for path in paths[:copied]:
        store.copy(CopyRequest(ObjectName("box", f"d/{path}"), ObjectName("box", f"e/{path}")))
    for path in paths[:deleted]:
        store.delete(ObjectName("box", f"d/{path}"))
    with harness(store, cache, OPTIONS):
        pass
    with harness(store, cache, OPTIONS) as filesystem:
        assert names(filesystem, "/") == ["e"]
        assert names(filesystem, "/e") == ["own", "s"]
        assert names(filesystem, "/e/s") == sorted(path[2:] for path in paths[1:])
        assert read(filesystem, "/e/own") == b"own"
        filesystem.mkdir("/d", 0o755, ME)
        assert names(filesystem, "/d") == []


def test_an_interrupted_rename_spares_what_no_listing_shows_if_another_client_has_its_new_name(
    store: LaggingStore, cache: Path
) -> None:
    with harness(store, cache, OPTIONS) as filesystem:
        store.stop()
        write(filesystem, "/d/own", b"own")
        own = MovedObject("d/own", store.head(ObjectName("box", "d/own")).version.etag)
    leave(cache, MoveFolder("box", "d/", "box", "e/", recent=(own,), objects=(own,)))
    foreign(store, "e/own", b"theirs")
    with harness(store, cache, OPTIONS):
        pass
    assert (body(store, "d/own"), body(store, "e/own")) == (b"own", b"theirs")


def test_an_interrupted_rename_deletes_what_no_listing_shows_if_it_was_copied(
    store: LaggingStore, cache: Path
) -> None:
    source, target = ObjectName("box", "d/own"), ObjectName("box", "e/own")
    with harness(store, cache, OPTIONS) as filesystem:
        store.stop()
        write(filesystem, "/d/own", b"own")
        own = MovedObject("d/own", store.head(source).version.etag)
    leave(cache, MoveFolder("box", "d/", "box", "e/", recent=(own,), objects=(own,)))
    store.copy(CopyRequest(source, target))
    with harness(store, cache, OPTIONS):
        pass
    assert body(store, "e/own") == b"own"
    with pytest.raises(NotFound):
        store.head(source)


def test_what_a_program_writes_after_the_close_counts_if_the_upload_has_taken_it(
    store: LaggingStore, cache: Path
) -> None:
    with harness(store, cache, "settle=60") as filesystem:
        write(filesystem, "/file", b"closed")
        handle = filesystem.open("/file", os.O_RDWR)
        put(filesystem, handle, 6, b" and written to")
        filesystem.services.journal.flush([ObjectName("box", "file")])
        assert body(store, "file") == b"closed and written to"
        copy_live(cache, image := cache.with_name("image"))
        filesystem.release(handle)
    with harness(store, image, "settle=60") as filesystem:
        assert filesystem.getattr("/file").size == 21
        assert read(filesystem, "/file") == b"closed and written to"


def test_a_folder_keeps_its_marker_when_the_next_mount_finishes_a_rename_in_it(
    store: LaggingStore, cache: Path
) -> None:
    source, target = ObjectName("box", "d/a"), ObjectName("box", "d/b")
    with harness(store, cache, OPTIONS) as filesystem:
        store.stop()
        filesystem.mkdir("/d", 0o700, ME)
        write(filesystem, "/d/a", b"data")
    leave(cache, Move(source, target, etag=store.head(source).version.etag, replaces_etag=""), "/d/a")
    with harness(store, cache, OPTIONS) as filesystem:
        assert stat.S_IMODE(filesystem.getattr("/d").mode) == 0o700
        filesystem.unlink("/d/b")
        filesystem.rmdir("/d")
    store.go_on()
    assert keys(store) == []
