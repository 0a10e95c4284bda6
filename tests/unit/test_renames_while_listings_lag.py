"""Renames while listings do not show yet what was just changed: by this mount, or by one that has died."""

import os
import threading
from collections.abc import Iterable
from pathlib import Path

import pytest
from msgspec.structs import replace

from support.deadlines import within
from support.forgetful_store import ForgetfulStore
from support.ghosts import GhostStore
from support.halted_moves import Halt
from support.harness import ANY_END, ME, copy_live, harness, names, read, write
from support.interrupted_moves import interrupted, leave, remounted, row_of
from support.jobs import wait_until
from support.lagging_store import LaggingStore
from support.memory_store import MemoryStore
from support.outdated_store import OutdatedStore
from support.stored_objects import as_of_now, contents, copy, delete, foreign, keys, put_all, refuse
from swiftfs.errors import AccessDenied, StoreError
from swiftfs.journal.moves import Unmoved
from swiftfs.journal.operations import Move, MovedObject, MoveFolder
from swiftfs.objects import DIRECTORY_TYPE, ObjectName
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.protocol import CopyRequest, Headers

COUNT = 6
BACKGROUND = "settle=0.05,background_rename=2"
FOREGROUND = "settle=0.05"
BOTH = pytest.mark.parametrize("options", [BACKGROUND, FOREGROUND])


@pytest.fixture
def store() -> LaggingStore:
    store = LaggingStore("box")
    for number in range(COUNT):
        foreign(store, f"d/{number}", b"%d" % number)
    return store


def is_quiet(filesystem: FileSystem) -> bool:
    return not filesystem.waiting()


def killed_while_copying(
    filesystem: FileSystem, store: LaggingStore, cache: Path, when: str = "copy"
) -> tuple[MemoryStore, Path]:
    """Rename `/d` to `/e`; return what Swift has before the first request `when`, and the cache folder."""
    reached, lock, image = threading.Event(), threading.Lock(), cache.with_name("image")
    twin: list[MemoryStore] = []

    def hook(method: str, _subject: str) -> None:
        with lock:  # the copies are sent in parallel
            if method == when and not twin:
                twin.append(as_of_now(store))
                copy_live(cache, image)
                reached.set()

    store.hook = hook
    filesystem.rename("/d", "/e")
    assert reached.wait(within(20))
    return twin[0], image


def test_a_folder_that_was_made_again_is_shown_while_listings_show_the_time_between(
    store: LaggingStore, cache: Path
) -> None:
    with harness(store, cache, FOREGROUND) as filesystem:
        filesystem.mkdir("/e", 0o755, ME)
        wait_until(lambda: is_quiet(filesystem))
        store.stop()
        filesystem.rmdir("/e")
        wait_until(lambda: is_quiet(filesystem))
        between = dict(store._containers["box"].objects)
        filesystem.mkdir("/e", 0o755, ME)
        wait_until(lambda: is_quiet(filesystem))
        filesystem.refresh()
        assert names(filesystem, "/") == ["d", "e"]
        store.shown = between
        filesystem.refresh()
        assert names(filesystem, "/") == ["d", "e"]
        store.go_on()


def test_a_file_that_was_deleted_just_before_does_not_move(store: LaggingStore, cache: Path) -> None:
    left = [f"{number}" for number in range(COUNT) if number != 3]
    with harness(store, cache, BACKGROUND) as filesystem:
        store.stop()
        filesystem.unlink("/d/3")
        wait_until(lambda: is_quiet(filesystem))
        halt = Halt(store, "copy")
        filesystem.rename("/d", "/e")
        assert halt.reached.wait(within(20))
        assert names(filesystem, "/e") == left
        with pytest.raises(FileNotFoundError):
            filesystem.open("/e/3", os.O_RDONLY)
        copy_live(cache, cache.with_name("image"))
        twin = as_of_now(store)
        halt.go_on()
    with harness(twin, cache.with_name("image"), BACKGROUND) as filesystem:
        assert names(filesystem, "/") == ["e"]
        assert names(filesystem, "/e") == left
    assert keys(twin) == [f"e/{name}" for name in left]


@BOTH
@pytest.mark.parametrize("remounts", [True, False])
def test_a_folder_that_was_made_again_is_empty_while_listings_lag(
    store: LaggingStore, cache: Path, options: str, *, remounts: bool
) -> None:
    """A folder without a marker, which was moved with the old one, is shown by no row of its own."""
    foreign(store, "d/sub/x", b"below")
    with harness(store, cache, options) as filesystem:
        names(filesystem, "/d")
        store.stop()
        filesystem.rename("/d", "/e")
        wait_until(lambda: is_quiet(filesystem))
        filesystem.mkdir("/d", 0o755, ME)
        wait_until(lambda: is_quiet(filesystem))
        filesystem.refresh()
        shown = names(filesystem, "/d")
    if remounts:
        with harness(store, cache, options) as filesystem:
            shown = names(filesystem, "/d")
    assert shown == []


@BOTH
def test_a_folder_without_a_marker_that_was_moved_and_back_is_shown_while_listings_lag(
    store: LaggingStore, cache: Path, options: str
) -> None:
    foreign(store, "d/sub/x", b"below")
    with harness(store, cache, options) as filesystem:
        names(filesystem, "/d")
        store.stop()
        for old, new in (("/d", "/e"), ("/e", "/d")):
            filesystem.rename(old, new)
            filesystem.refresh()
            assert names(filesystem, f"{new}/sub") == ["x"]
            wait_until(lambda: is_quiet(filesystem))
            filesystem.refresh()
            assert "sub" in names(filesystem, new)
    with harness(store, cache, options) as filesystem:
        assert names(filesystem, "/d/sub") == ["x"]
        assert "sub" in names(filesystem, "/d")


@pytest.mark.parametrize("is_moved", [True, False])
def test_a_file_of_another_client_does_not_hide_a_folder_of_its_name(
    store: LaggingStore, cache: Path, *, is_moved: bool
) -> None:
    """Listings show the marker that the folder had before."""
    options = "settle=0.05,background_rename=1"
    with harness(store, cache, options, close_error=ANY_END) as filesystem:  # of the refused marker
        for folder in ("/e", "/f"):
            filesystem.mkdir(folder, 0o755, ME)
        write(filesystem, "/f/a", b"moved")
        wait_until(lambda: is_quiet(filesystem))
        store.stop()
        filesystem.rmdir("/e")
        wait_until(lambda: is_quiet(filesystem))
        if is_moved:
            refuse(store, "copy", AccessDenied, about="^box/f$")
            filesystem.rename("/f", "/e")
            wait_until(lambda: is_quiet(filesystem))
        foreign(store, "e", b"theirs")
        filesystem.refresh()
        assert filesystem.getattr("/e").is_directory is is_moved
        if is_moved:
            assert read(filesystem, "/e/a") == b"moved"
        store.hook = None


@BOTH
def test_a_file_whose_mode_was_changed_just_before_moves_after_a_kill(
    store: LaggingStore, cache: Path, options: str
) -> None:
    """The listing has the time of the version before."""
    with harness(store, cache, options) as filesystem:
        assert names(filesystem, "/d") == [f"{number}" for number in range(COUNT)]
        store.stop()
        filesystem.chmod("/d/3", 0o600)
        write(filesystem, "/d/4", b"4")  # the same bytes
        wait_until(lambda: is_quiet(filesystem))
        twin, image = killed_while_copying(filesystem, store, cache)
        store.go_on()
    with harness(twin, image, options) as filesystem:
        assert names(filesystem, "/") == ["e"]
        assert filesystem.getattr("/e/3").mode & 0o777 == 0o600
        wait_until(lambda: is_quiet(filesystem))
    assert keys(twin) == [f"e/{number}" for number in range(COUNT)]


@BOTH
def test_the_copy_of_such_a_file_is_known_while_listings_still_show_the_old_mode(
    store: LaggingStore, cache: Path, options: str
) -> None:
    with harness(store, cache, options) as filesystem:
        for number in range(COUNT):
            filesystem.chmod(f"/d/{number}", 0o644)  # from now on a listing has the modes
        wait_until(lambda: is_quiet(filesystem))
        store.stop()
        shown = store.shown
        filesystem.chmod("/d/3", 0o600)
        wait_until(lambda: is_quiet(filesystem))
        died, image = killed_while_copying(filesystem, store, cache, "delete_many")
        store.go_on()
    twin = LaggingStore("box")
    twin._containers["box"].objects.update(died._containers["box"].objects)
    twin.shown = shown
    with harness(twin, image, options) as filesystem:
        assert names(filesystem, "/") == ["e"]
        assert filesystem.getattr("/e/3").mode & 0o777 == 0o600
        wait_until(lambda: is_quiet(filesystem))
    twin.go_on()
    assert keys(twin) == [f"e/{number}" for number in range(COUNT)]


@pytest.mark.parametrize("folder", [True, False])
def test_a_copy_of_a_server_that_died_before_it_listed_it_is_listed(tmp_path: Path, *, folder: bool) -> None:
    store = ForgetfulStore("box")
    source, target = ObjectName("box", "d"), ObjectName("box", "e")
    store.put(source, b"", Headers("application/directory" if folder else "text/plain"))
    store.copy(CopyRequest(source, target))
    store.unlisted.add("e")
    move = MoveFolder("box", "d/", "box", "e/", ((source, target),)) if folder else Move(source, target)
    leave(tmp_path, move)
    (tmp_path / "another").mkdir()
    with harness(store, tmp_path) as filesystem:
        assert names(filesystem, "/") == ["e"]
    with harness(store, tmp_path / "another") as filesystem:
        assert names(filesystem, "/") == ["e"]


@pytest.mark.parametrize("folder", [True, False])
def test_a_listing_that_lags_does_not_show_the_old_name(tmp_path: Path, *, folder: bool) -> None:
    store = GhostStore("box")
    put_all(store, "d/a" if folder else "d")
    etag = store.head(ObjectName("box", "d/a" if folder else "d")).version.etag
    operation = (
        interrupted(store) if folder else Move(ObjectName("box", "d"), ObjectName("box", "e"), etag=etag)
    )
    copy(store, "d/a" if folder else "d", "e/a" if folder else "e")
    (row,) = store.list_page("box", prefix="d").rows
    leave(tmp_path, operation)
    store.hook = lambda method, _: store.ghosts.update({row.key: row}) if method == "list_page" else None
    with harness(store, tmp_path) as filesystem:
        assert names(filesystem, "/") == ["e"]
        filesystem.refresh()
        assert names(filesystem, "/") == ["e"]


def test_a_listing_that_lags_does_not_show_the_old_name_of_what_had_moved_before_the_kill(
    tmp_path: Path,
) -> None:
    store = LaggingStore("box")
    put_all(store, "d/a")
    operation = interrupted(store)
    put_all(store, "d/b")  # by another client
    store.stop()
    before = store.shown
    store.go_on()
    copy(store, "d/a", "e/a")
    delete(store, "d/a")
    with remounted(store, tmp_path, operation) as filesystem:
        store.shown = before
        assert names(filesystem, "/d") == ["b"]
        assert names(filesystem, "/e") == ["a"]


@pytest.mark.parametrize("folder", [True, False])
def test_a_listing_that_lags_does_not_hide_the_new_name(tmp_path: Path, *, folder: bool) -> None:
    store = OutdatedStore("box")
    old, new = ("d/a/b", "e/a/b") if folder else ("d", "e")
    put_all(store, old)
    store.listed = MemoryStore("box")
    put_all(store.listed, old)
    etag = store.head(ObjectName("box", old)).version.etag
    row = MovedObject(old, etag)
    operation = (
        MoveFolder("box", "d/", "box", "e/", objects=(row,))
        if folder
        else Move(ObjectName("box", "d"), ObjectName("box", "e"), etag=etag)
    )
    copy(store, old, new)
    delete(store, old)
    with remounted(store, tmp_path, operation) as filesystem:
        assert names(filesystem, "/") == ["e"]
        assert read(filesystem, f"/{new}") == old.encode()
        with pytest.raises(FileExistsError):
            filesystem.create(f"/{new}", 0o644, os.O_WRONLY | os.O_EXCL, ME)


@pytest.mark.parametrize("stale", ["the copy", "an absent object", "the source"])
def test_what_a_listing_shows_that_lags_does_not_keep_both_names(tmp_path: Path, stale: str) -> None:
    """It may show what a program had deleted or replaced just before it renamed the folder."""
    store = OutdatedStore("box")
    put_all(store, "d/a")
    store.listed = MemoryStore("box")
    foreign(store.listed, "d/a", b"older" if stale == "the source" else b"d/a")
    if stale != "the source":
        foreign(store.listed, "e/a", b"deleted")
    modified = "" if stale == "the source" else row_of(store, "d/a").modified
    row = MovedObject("d/a", store.head(ObjectName("box", "d/a")).version.etag, modified)
    if stale == "the copy":
        copy(store, "d/a", "e/a")
    with remounted(store, tmp_path, MoveFolder("box", "d/", "box", "e/", objects=(row,))) as filesystem:
        assert names(filesystem, "/") == ["e"]
        assert read(filesystem, "/e/a") == b"d/a"
    store.listed = None
    assert contents(store) == {"e/a": b"d/a"}


COPIES = {"e", "e/b", "e/sub/c"}
"""Those of a rename of which one copy is refused."""


class KeepingStore(LaggingStore):
    """A store whose listings show for a while what it has deleted since the first deletion."""

    def delete_many(self, names: Iterable[ObjectName]) -> dict[ObjectName, StoreError]:
        if self.shown is None:
            self.stop()
        return super().delete_many(names)


@pytest.fixture
def keeping() -> KeepingStore:
    """A store with a folder of which Swift refuses to copy one object."""
    store = KeepingStore("box")
    store.put(ObjectName("box", "d"), b"", Headers(DIRECTORY_TYPE))
    put_all(store, "d/a", "d/b", "d/sub/c")

    def hook(method: str, subject: str) -> None:
        if (method, subject) == ("copy", "box/d/a"):
            wait_until(lambda: {*keys(store)} >= COPIES)
            raise AccessDenied("no")

    store.hook = hook
    return store


def test_copies_of_a_rename_that_failed_are_not_shown_while_listings_lag(
    keeping: KeepingStore, cache: Path
) -> None:
    with harness(keeping, cache, FOREGROUND) as filesystem:
        with pytest.raises(Unmoved):
            filesystem.rename("/d", "/e")
        assert keeping.shown is not None
        assert {*keeping.shown} >= COPIES
        for _ in range(2):
            assert names(filesystem, "/") == ["d"]
            filesystem.refresh()
        foreign(keeping, "e/b", b"theirs")
        keeping.go_on()
        filesystem.refresh()
        assert names(filesystem, "/") == ["d", "e"]
        assert names(filesystem, "/e") == ["b"]


def test_copies_of_a_rename_that_a_mount_gives_up_are_not_shown_while_listings_lag(
    keeping: KeepingStore, tmp_path: Path
) -> None:
    operation = replace(
        interrupted(keeping), markers=((ObjectName("box", "d"), ObjectName("box", "e")),), empty=True
    )
    with remounted(keeping, tmp_path, operation, close_error=ANY_END) as filesystem:
        assert keeping.shown is not None
        assert {*keeping.shown} >= COPIES
        assert names(filesystem, "/") == ["d"]


@BOTH
def test_a_file_at_the_old_name_of_a_folder_has_that_name_while_listings_lag(
    store: LaggingStore, cache: Path, options: str
) -> None:
    store.put(ObjectName("box", "d"), b"", Headers(DIRECTORY_TYPE))
    with harness(store, cache, options) as filesystem:
        store.stop()
        filesystem.rename("/d", "/e")
        wait_until(lambda: is_quiet(filesystem))
        foreign(store, "d", b"theirs")
        assert store.shown is not None
        store.shown["d"] = store._containers["box"].objects["d"]
        for _ in range(2):
            filesystem.refresh()
            assert names(filesystem, "/") == ["d", "e"]
            assert read(filesystem, "/d") == b"theirs"
        store.go_on()
        filesystem.refresh()
        assert names(filesystem, "/") == ["d", "e"]
