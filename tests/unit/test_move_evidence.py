"""Renames during changes of other clients, which they never overwrite or delete, and with late listings."""

import errno
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from support.harness import ME, harness, names, read, write
from support.jobs import wait_until
from support.memory_store import MemoryStore
from support.moves import object_moves
from support.noise import OLD as LARGE
from support.stored_objects import body, foreign, keys
from swiftfs.errors import AccessDenied, Corrupt, Unavailable, errno_of
from swiftfs.journal.database import JournalDB
from swiftfs.journal.moves import CopyKeeper, Unmoved
from swiftfs.journal.object_moves import ObjectMoves
from swiftfs.journal.operations import MovedObject, MoveFolder
from swiftfs.objects import ObjectName, ObjectVersion, Page
from swiftfs.store.protocol import CopyRequest, Headers

FOLDER = MoveFolder("box", "old/", "box", "new/")


class LaggingStore(MemoryStore):
    """A store whose listings lack some keys, or show ghosts of them."""

    def __init__(self, *containers: str) -> None:
        super().__init__(*containers)
        self.unlisted: set[str] = set()
        self.ghosts: dict[str, Page] = {}

    def list_page(self, container: str, **how: Any) -> Page:
        page = super().list_page(container, **how)
        rows = [row for row in page.rows if row.key not in self.unlisted]
        rows += [
            row
            for ghost in self.ghosts.values()
            for row in ghost.rows
            if row.key.startswith(how.get("prefix", ""))
        ]
        return Page(tuple(sorted(rows, key=lambda row: row.key)), page.subdirs, page.marker, page.last)


pytestmark = pytest.mark.store(LaggingStore, "box")


@pytest.fixture
def moving(store: LaggingStore, tmp_path: Path) -> Iterator[ObjectMoves]:
    """The part that moves folders, with no listing that counts as current."""
    with closing(JournalDB(tmp_path, "me")) as log, ThreadPoolExecutor(4) as pool:
        yield object_moves(store, log, pool, moment=0)


def _ignore(_intent: MoveFolder) -> None:
    """Record nothing."""


def after(store: MemoryStore, method: str, subject: str, act: Callable[[], object]) -> None:
    """Let another client act once, just before a request of that method about that subject."""
    done: list[str] = []

    def hook(called: str, about: str) -> None:
        if called == method and about.startswith(subject) and not done:
            done.append(called)
            store.hook = None
            act()
            store.hook = hook

    store.hook = hook


def test_what_another_client_writes_into_a_moving_folder_stays(
    store: LaggingStore, moving: ObjectMoves
) -> None:
    for key in ("old/a", "old/b"):
        foreign(store, key, b"first")
    copied: list[str] = []

    def hook(method: str, subject: str) -> None:
        if method == "copy":
            copied.append(subject)
        elif method == "list_page" and subject == "box/old/" and len(copied) == 2:
            store.hook = None
            foreign(store, "old/a", b"theirs")
            foreign(store, "old/new", b"theirs")

    store.hook = hook
    assert moving.move_folder(FOLDER, _ignore, CopyKeeper()).remnants == []
    assert {key: body(store, key) for key in keys(store)} == {
        "old/a": b"theirs",
        "old/new": b"theirs",
        "new/a": b"first",
        "new/b": b"first",
    }


def test_what_changed_between_the_listing_and_its_copy_is_asked_about(
    store: LaggingStore, moving: ObjectMoves
) -> None:
    foreign(store, "old/a", b"first")
    after(store, "copy", "box/old/a", lambda: foreign(store, "old/a", b"second"))
    assert moving.move_folder(FOLDER, _ignore, CopyKeeper()).remnants == []
    assert keys(store) == ["new/a"]
    assert body(store, "new/a") == b"second"
    assert ("head", "box/old/a") in store.requests


def test_an_outage_after_the_copies_leaves_no_second_copy(store: LaggingStore, moving: ObjectMoves) -> None:
    """The move is done; what it could not delete is returned without more requests, to be deleted later."""
    for key in ("old/a", "old/b"):
        foreign(store, key, b"data")
    copied: list[str] = []

    def hook(method: str, subject: str) -> None:
        if method == "copy":
            copied.append(subject)
        elif len(copied) == 2:
            raise Unavailable(f"{method} {subject}")

    store.hook = hook
    left = moving.move_folder(FOLDER, _ignore, CopyKeeper()).remnants
    assert sorted(deletion.name.key for deletion, _ in left) == ["old/a", "old/b"]
    assert all(isinstance(error, Unavailable) for _, error in left)
    assert {method for method, _ in store.requests} == {"put", "list_page", "copy"}
    store.hook = None
    assert all(moving.is_unchanged(deletion) for deletion, _ in left)


def test_the_record_names_all_that_moves_before_the_first_copy(
    store: LaggingStore, moving: ObjectMoves
) -> None:
    foreign(store, "old/a", b"first")
    noted: list[MoveFolder] = []

    def note(operation: MoveFolder) -> None:
        assert not any(method == "copy" for method, _ in store.requests)
        noted.append(operation)

    (row,) = store.list_page("box", prefix="old/").rows
    moving.move_folder(FOLDER, note, CopyKeeper())
    assert noted[0].objects == (MovedObject(row.key, row.hash, row.last_modified),)


def test_a_file_that_another_client_writes_between_copy_and_delete_stays(
    store: LaggingStore, tmp_path: Path
) -> None:
    foreign(store, "old", b"first")
    with harness(store, tmp_path) as filesystem:
        assert read(filesystem, "/old") == b"first"
        after(store, "head", "box/old", lambda: foreign(store, "old", b"theirs"))
        filesystem.rename("/old", "/new")
        store.hook = None
        assert body(store, "old") == b"theirs"
        assert body(store, "new") == b"first"
        filesystem.refresh()
        assert names(filesystem, "/") == ["new", "old"]


def test_a_dlo_that_another_client_writes_between_copy_and_delete_stays(
    store: LaggingStore, tmp_path: Path
) -> None:
    foreign(store, "old", b"first")
    name, headers = ObjectName("box", "old"), Headers("text/plain", {}, {"X-Object-Manifest": "box/parts/"})
    with harness(store, tmp_path) as filesystem:
        assert read(filesystem, "/old") == b"first"
        after(store, "head", "box/old", lambda: store.put(name, b"", headers))
        filesystem.rename("/old", "/new")
        store.hook = None
        assert keys(store) == ["new", "old"]


def test_a_target_that_another_client_filled_is_not_empty(store: LaggingStore, tmp_path: Path) -> None:
    with harness(store, tmp_path) as filesystem:
        filesystem.mkdir("/old", 0o755, ME)
        filesystem.mkdir("/new", 0o755, ME)
        write(filesystem, "/old/x", b"ours")
        assert names(filesystem, "/new") == []
        foreign(store, "new/x", b"theirs")
        with pytest.raises(Unmoved) as caught:
            filesystem.rename("/old", "/new")
        assert errno_of(caught.value) == errno.ENOTEMPTY
        assert names(filesystem, "/new") == ["x"]
        assert read(filesystem, "/old/x") == b"ours"
    assert body(store, "new/x") == b"theirs"


@pytest.mark.parametrize("alone", [True, False])
def test_a_target_that_came_to_be_is_not_empty(store: LaggingStore, tmp_path: Path, *, alone: bool) -> None:
    foreign(store, "old/x", b"ours")
    if not alone:
        foreign(store, "other", b"other")
    with harness(store, tmp_path) as filesystem:
        assert names(filesystem, "/") == (["old"] if alone else ["old", "other"])
        foreign(store, "new/x", b"theirs")
        with pytest.raises(Unmoved) as caught:
            filesystem.rename("/old", "/new")
        assert errno_of(caught.value) == errno.ENOTEMPTY
        assert names(filesystem, "/new") == ["x"]
    assert body(store, "new/x") == b"theirs"
    assert body(store, "old/x") == b"ours"


@pytest.mark.parametrize("alone", [True, False])
def test_a_target_that_is_listed_and_gone_is_empty(
    store: LaggingStore, tmp_path: Path, *, alone: bool
) -> None:
    foreign(store, "old/x", b"ours")
    foreign(store, "new/y", b"gone")
    if not alone:
        foreign(store, "other", b"other")
    with harness(store, tmp_path) as filesystem:
        store.ghosts["y"] = store.list_page("box", prefix="new/y")
        filesystem.unlink("/new/y")
        assert names(filesystem, "/new") == []
        filesystem.rename("/old", "/new")
    store.ghosts.clear()
    assert [key for key in keys(store) if key not in ("new", "other")] == ["new/x"]


def test_a_target_that_another_client_made_a_file_is_no_folder(store: LaggingStore, tmp_path: Path) -> None:
    with harness(store, tmp_path) as filesystem:
        filesystem.mkdir("/old", 0o755, ME)
        assert names(filesystem, "/") == ["old"]
        foreign(store, "new", b"theirs")
        with pytest.raises(Unmoved) as caught:
            filesystem.rename("/old", "/new")
        assert errno_of(caught.value) == errno.ENOTDIR
    assert body(store, "new") == b"theirs"


@pytest.mark.parametrize("error", [AccessDenied, Unavailable])
def test_a_failed_move_deletes_only_its_own_copies(
    store: LaggingStore, moving: ObjectMoves, error: type[Exception]
) -> None:
    for key in "abc":
        foreign(store, f"old/{key}", key.encode())

    def hook(method: str, subject: str) -> None:
        if (method, subject) == ("copy", "box/old/c"):
            wait_until(lambda: {"new/a", "new/b"} <= set(keys(store)))
            foreign(store, "new/a", b"theirs")
            foreign(store, "new/c", b"theirs")
            foreign(store, "new/other", b"theirs")
            raise error("no")

    store.hook = hook
    with pytest.raises(Unmoved) as caught:
        moving.move_folder(FOLDER, _ignore, CopyKeeper())
    assert not caught.value.left
    left = {key: body(store, key) for key in keys(store) if key.startswith("new")}
    assert left == {"new/a": b"theirs", "new/c": b"theirs", "new/other": b"theirs"}
    assert [body(store, f"old/{key}") for key in "abc"] == [b"a", b"b", b"c"]


def test_a_copy_that_could_not_be_deleted_goes_only_while_it_is_ours(
    store: LaggingStore, tmp_path: Path
) -> None:
    with harness(store, tmp_path, "settle=0.1") as filesystem:
        filesystem.mkdir("/old", 0o755, ME)
        for key in "abc":
            write(filesystem, f"/old/{key}", key.encode())
        filesystem.fsyncdir(filesystem.opendir("/old"))

        def hook(method: str, subject: str) -> None:
            if (method, subject) == ("copy", "box/old/c"):
                wait_until(
                    lambda: (
                        {"new/a", "new/b"} <= {row.key for row in MemoryStore.list_page(store, "box").rows}
                    )
                )
                raise AccessDenied("no")
            if method in ("delete", "delete_many"):
                raise Unavailable("no")

        store.hook = hook
        with pytest.raises(Unmoved):
            filesystem.rename("/old", "/new")
        store.hook = None
        foreign(store, "new/a", b"theirs")
        filesystem.retry()
        wait_until(lambda: not filesystem.waiting())
    assert keys(store) == ["new/a", "old", "old/a", "old/b", "old/c"]


def test_what_no_listing_shows_yet_moves_with_its_folder(store: LaggingStore, tmp_path: Path) -> None:
    with harness(store, tmp_path) as filesystem:
        filesystem.mkdir("/old", 0o755, ME)
        filesystem.mkdir("/old/sub", 0o755, ME)
        for path in ("/old/listed", "/old/late", "/old/sub/late"):
            write(filesystem, path, path.encode())
        store.unlisted |= {"old/late", "old/sub", "old/sub/late"}
        filesystem.rename("/old", "/new")
        assert names(filesystem, "/new") == ["late", "listed", "sub"]
        assert read(filesystem, "/new/sub/late") == b"/old/sub/late"
    store.unlisted.clear()
    assert keys(store) == ["new", "new/late", "new/listed", "new/sub", "new/sub/late"]


def test_what_no_listing_shows_at_its_new_place_is_seen_there(store: LaggingStore, tmp_path: Path) -> None:
    with harness(store, tmp_path) as filesystem:
        filesystem.mkdir("/old", 0o755, ME)
        filesystem.mkdir("/old/sub", 0o755, ME)
        for path in ("/old/a", "/old/sub/b"):
            write(filesystem, path, path.encode())
        write(filesystem, "/old/gone", b"gone")
        filesystem.unlink("/old/gone")
        store.unlisted |= {"new/a", "new/sub", "new/sub/b"}
        filesystem.rename("/old", "/new")
        assert names(filesystem, "/new") == ["a", "sub"]
        assert names(filesystem, "/new/sub") == ["b"]
        filesystem.rename("/new", "/newer")
        assert names(filesystem, "/newer") == ["a", "sub"]
        assert read(filesystem, "/newer/sub/b") == b"/old/sub/b"
        assert names(filesystem, "/") == ["newer"]
    store.unlisted.clear()
    assert keys(store) == ["newer", "newer/a", "newer/sub", "newer/sub/b"]


def test_the_newest_version_moves_where_the_listing_shows_an_older_one(
    store: LaggingStore, tmp_path: Path
) -> None:
    with harness(store, tmp_path) as filesystem:
        filesystem.mkdir("/old", 0o755, ME)
        write(filesystem, "/old/x", b"first")
        store.ghosts["x"] = store.list_page("box", prefix="old/")
        store.unlisted.add("old/x")
        write(filesystem, "/old/x", b"second")
        filesystem.rename("/old", "/new")
    store.ghosts.clear()
    store.unlisted.clear()
    assert keys(store) == ["new", "new/x"]
    assert body(store, "new/x") == b"second"


def test_what_is_listed_and_gone_is_not_moved(store: LaggingStore, tmp_path: Path) -> None:
    with harness(store, tmp_path) as filesystem:
        filesystem.mkdir("/old", 0o755, ME)
        write(filesystem, "/old/stays", b"stays")
        write(filesystem, "/old/goes", b"goes")
        store.ghosts["goes"] = store.list_page("box", prefix="old/goes")
        filesystem.unlink("/old/goes")
        filesystem.rename("/old", "/new")
        assert names(filesystem, "/new") == ["stays"]
    store.ghosts.clear()
    assert keys(store) == ["new", "new/stays"]


def test_an_unlinked_file_that_is_open_does_not_come_back_with_its_folder(
    store: LaggingStore, tmp_path: Path
) -> None:
    foreign(store, "old/x", b"unlinked")
    foreign(store, "old/y", b"stays")
    with harness(store, tmp_path) as filesystem:
        handle = filesystem.open("/old/x", 0)
        filesystem.unlink("/old/x")
        filesystem.rename("/old", "/new")
        assert names(filesystem, "/new") == ["y"]
        filesystem.release(handle)
    assert keys(store) == ["new/y"]


class LyingStore(MemoryStore):
    """A store that tells of copies which it does not make."""

    lies = False

    def copy(self, request: CopyRequest) -> ObjectVersion:
        return ObjectVersion(request.target, "0" * 32) if self.lies else super().copy(request)


def test_a_rename_fails_if_the_copy_is_another_object_and_the_source_as_it_was(tmp_path: Path) -> None:
    """The large file that it was to replace keeps its segments."""
    store = LyingStore("box")
    with harness(store, tmp_path, "sync,segment_size=1M") as filesystem:
        write(filesystem, "/old", b"old")
        write(filesystem, "/large", LARGE)
        before = keys(store), keys(store, "box_segments")
        store.lies = True
        for new in ("/new", "/large"):
            store.requests.clear()
            with pytest.raises(Corrupt, match="says that it is done"):
                filesystem.rename("/old", new)
            assert [method for method, _ in store.requests].count("head") <= 2
        store.lies = False
        assert (keys(store), keys(store, "box_segments")) == before
        assert read(filesystem, "/old") == b"old"
        assert read(filesystem, "/large") == LARGE
        filesystem.rename("/old", "/new")
        assert read(filesystem, "/new") == b"old"
