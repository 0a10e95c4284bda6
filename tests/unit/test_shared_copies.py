"""A large file is moved while another mount changes, replaces or removes it: no name loses its segments."""

import errno
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from msgspec.structs import replace as replaced

from support.harness import harness, put, read, write
from support.jobs import wait_until
from support.late_store import LateStore, kill_during, settle
from support.memory_store import MemoryStore
from support.moves import object_moves
from support.noise import NEW, OLD
from support.stored_objects import body, foreign, keys, ten_minutes_later
from swiftfs.errors import StoreError, Unavailable, errno_of
from swiftfs.journal.database import JournalDB
from swiftfs.journal.moves import CopyKeeper
from swiftfs.journal.operations import Move
from swiftfs.journal.shared_copies import CopyLost
from swiftfs.objects import ObjectName, ObjectVersion
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.protocol import CopyRequest

OPTIONS = "settle=0.01,segment_size=1M,ttl=1000"


class Pair(NamedTuple):
    """Two mounts of one container, without a kernel; `mover` renames what `other` has stored."""

    store: MemoryStore
    mover: FileSystem
    other: FileSystem

    def at(self, method: str, subject: str, act: Callable[[], object]) -> None:
        """Let `act` run once, just before the next request of that method about that subject."""

        def hook(called: str, about: str) -> None:
            if called == method and about.startswith(subject):
                self.store.hook = None
                act()

        self.store.hook = hook


@contextmanager
def mounted(folder: Path) -> Iterator[Pair]:
    """Make a pair with the cache folders `a` and `b`."""
    store = MemoryStore("box", "box_segments")
    with ExitStack() as mounts:
        for name in "ab":
            (folder / name).mkdir()
        yield Pair(store, *(mounts.enter_context(harness(store, folder / name, OPTIONS)) for name in "ab"))


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with mounted(tmp_path) as pair:
        yield pair


def stored(pair: Pair, path: str) -> None:
    write(pair.other, path, OLD)
    settle(pair.other)


def patch(pair: Pair, path: str) -> None:
    handle = pair.other.open(path, os.O_RDWR)
    put(pair.other, handle, 0, b"changed")
    pair.other.flush(handle)
    pair.other.release(handle)
    settle(pair.other)


def replace(pair: Pair, path: str) -> None:
    write(pair.other, path, NEW)
    settle(pair.other)


def remove(pair: Pair, path: str) -> None:
    pair.other.unlink(path)
    settle(pair.other)


def left_by(change: Callable[[Pair, str], None]) -> bytes | None:
    """Return what the file of `stored` holds after a change, None if it is gone."""
    if change is remove:
        return None
    return NEW if change is replace else b"changed" + OLD[7:]


def bodies(store: MemoryStore) -> dict[str, bytes]:
    """Return what each object holds; every segment of each must be there."""
    return {key: body(store, key) for key in keys(store)}


def no_orphans(pair: Pair) -> bool:
    """Return whether no segments are left when each mount has removed what it shows."""
    return keys(pair.store, "box_segments") == []


@pytest.mark.parametrize(
    ("change", "number"), [(patch, errno.ESTALE), (replace, errno.ESTALE), (remove, errno.ENOENT)]
)
def test_a_file_that_another_mount_changed_before_the_move_ended_is_not_moved(
    pair: Pair,
    change: Callable[[Pair, str], None],
    number: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stored(pair, "/old")
    pair.at("head", "box/old", lambda: change(pair, "/old"))
    with pytest.raises(CopyLost) as caught:
        pair.mover.rename("/old", "/new")
    assert errno_of(caught.value) == number
    assert [record.levelname for record in caplog.records if "another client" in record.message] == [
        "WARNING"
    ]
    left = left_by(change)
    assert bodies(pair.store) == ({} if left is None else {"old": left})
    if left is not None:  # as the kernel does after ESTALE
        pair.mover.rename("/old", "/new")
        assert bodies(pair.store) == {"new": left}
        assert pair.mover.getattr("/new").size == len(left)
        pair.mover.unlink("/new")
        settle(pair.mover)
    assert no_orphans(pair)


@pytest.mark.parametrize("change", [patch, replace, remove])
def test_a_file_that_another_mount_changed_stays_when_its_folder_moves(
    pair: Pair, change: Callable[[Pair, str], None]
) -> None:
    stored(pair, "/d/old")
    stored(pair, "/d/stays")

    def change_a_copied_one() -> None:
        wait_until(lambda: "e/old" in keys(pair.store))
        change(pair, "/d/old")

    pair.at("copy", "box/d/stays", change_a_copied_one)
    pair.mover.rename("/d", "/e")
    found, left = bodies(pair.store), left_by(change)
    assert found.pop("e/stays") == OLD
    assert {key: data for key, data in found.items() if data} == ({"d/old": left} if left else {})


@pytest.mark.parametrize("etag", ["right", "wrong"])
def test_segments_that_go_only_after_the_move_are_copied_before(
    pair: Pair, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, etag: str
) -> None:
    copy = pair.store.copy

    def answered_wrong(request: CopyRequest) -> ObjectVersion:
        copied = copy(request)
        return replaced(copied, etag="0" * 32) if request.source.key == "old" else copied

    if etag == "wrong":
        monkeypatch.setattr(pair.store, "copy", answered_wrong)
    stored(pair, "/old")
    segments = keys(pair.store, "box_segments")
    pair.at("head", "box/old", lambda: foreign(pair.store, "old", b"theirs"))
    pair.mover.rename("/old", "/new")
    pair.store.delete_many([ObjectName("box_segments", key) for key in segments])
    assert bodies(pair.store) == {"old": b"theirs", "new": OLD}
    assert "the changed version is kept" in caplog.text
    pair.mover.refresh()
    pair.mover.unlink("/new")
    settle(pair.mover)
    assert no_orphans(pair)


def test_both_mounts_rename_a_file_at_once(pair: Pair) -> None:
    stored(pair, "/old")
    pair.at("delete", "box/old", lambda: pair.other.rename("/old", "/theirs"))
    pair.mover.rename("/old", "/new")
    assert bodies(pair.store) == {"theirs": OLD, "new": OLD}
    remove(pair, "/theirs")
    assert bodies(pair.store) == {"new": OLD}
    pair.mover.unlink("/new")
    settle(pair.mover)
    assert no_orphans(pair)


def test_a_newer_version_at_the_new_name_is_not_deleted(pair: Pair) -> None:
    stored(pair, "/old")

    def act() -> None:
        remove(pair, "/old")
        pair.at("head", "box/new", lambda: pair.at("copy", "box_segments/", theirs))

    def theirs() -> None:
        foreign(pair.store, "new", b"theirs")

    pair.at("head", "box/old", act)
    with pytest.raises(CopyLost):
        pair.mover.rename("/old", "/new")
    assert bodies(pair.store) == {"new": b"theirs"}


def refuse_copies(method: str, subject: str) -> None:
    """Refuse copies of segments, as the hook of a store."""
    if method == "copy" and subject.startswith("box_segments/"):
        raise Unavailable("no")


def test_a_copy_that_cannot_be_separated_stays(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    stored(pair, "/old")

    def act() -> None:
        foreign(pair.store, "old", b"theirs")
        pair.store.hook = refuse_copies

    pair.at("head", "box/old", act)
    pair.mover.rename("/old", "/new")
    pair.store.hook = None
    assert bodies(pair.store) == {"old": b"theirs", "new": OLD}
    assert "cannot be separated" in caplog.text


def test_a_copy_that_cannot_be_separated_does_not_own_the_segments(tmp_path: Path) -> None:
    """Another mount had renamed the source, and lost its bytes when the copy was deleted."""
    with mounted(tmp_path) as pair:
        stored(pair, "/old")

        def act() -> None:
            pair.other.rename("/old", "/theirs")
            pair.store.hook = refuse_copies

        pair.at("delete", "box/old", act)
        pair.mover.rename("/old", "/new")
        pair.store.hook = None
        pair.mover.unlink("/new")
        settle(pair.mover)
    ten_minutes_later(pair.store, tmp_path / "a")
    assert bodies(pair.store) == {"theirs": OLD}


@pytest.mark.parametrize("late", [False, True])
def test_the_next_mount_separates_what_a_killed_one_has_copied(tmp_path: Path, *, late: bool) -> None:
    store = MemoryStore("box", "box_segments")
    with harness(store, tmp_path, OPTIONS) as filesystem:
        write(filesystem, "/old", OLD)
        settle(filesystem)
    old, new = ObjectName("box", "old"), ObjectName("box", "new")
    etag = store.copy(CopyRequest(old, new, manifest_only=True)).etag
    segments = [ObjectName("box_segments", key) for key in keys(store, "box_segments")]
    foreign(store, "old", b"theirs")
    if not late:
        store.delete_many(segments)
    with (
        closing(JournalDB(tmp_path, "box of memory")) as database,
        ThreadPoolExecutor() as pool,
        pytest.raises(StoreError, match="both are kept"),
    ):
        object_moves(store, database, pool).resume_move(
            Move(old, new, etag=etag, replaces_etag=""), CopyKeeper()
        )
    store.delete_many(segments)
    assert bodies(store) == {"old": b"theirs", **({"new": OLD} if late else {})}


@pytest.mark.parametrize("folder", [False, True])
def test_a_file_that_another_mount_renamed_after_a_kill_keeps_its_segments(
    tmp_path: Path, *, folder: bool
) -> None:
    """The next mount took the source's absence for its own deletion, and the copy for the segments' owner."""
    store = LateStore("box", "box_segments")
    for name in ("killed", "other"):
        (tmp_path / name).mkdir()
    old, new = ("/d/old", "/e/old") if folder else ("/old", "/new")
    with harness(store, tmp_path / "other", OPTIONS) as other:
        write(other, old, OLD)
        settle(other)

    def rename(filesystem: FileSystem) -> None:
        filesystem.rename(*(("/d", "/e") if folder else (old, new)))

    died = kill_during(store, tmp_path / "killed", "delete", old[1:], rename)
    with harness(store, tmp_path / "other", OPTIONS) as other:
        other.rename(old, "/theirs")
        settle(other)
    with harness(store, died, OPTIONS) as filesystem:
        assert read(filesystem, new) == OLD
        filesystem.unlink(new)
        settle(filesystem)
    ten_minutes_later(store, died)
    assert {key: data for key, data in bodies(store).items() if data} == {"theirs": OLD}
