"""Renames interrupted by a kill, whose requests are executed after the next mount began."""

import logging
import os
from pathlib import Path

import pytest

from support.harness import ME, copy_live, harness, read, write
from support.interrupted_moves import leave, refusals, row_of
from support.lagging_store import LaggingStore
from support.late_store import (
    LATE,
    OPTIONS,
    LateStore,
    kill_during,
    late,
    logged,
    look,
    recorded,
    repair,
    settle,
    store_body,
    store_file,
)
from support.memory_store import MemoryStore
from support.stored_objects import body, foreign, keys, refuse
from swiftfs.errors import Unavailable
from swiftfs.journal.late_requests import LOOKS
from swiftfs.journal.moves import MoveEvidence
from swiftfs.journal.operations import Delete, Move, MovedObject, MoveFolder
from swiftfs.objects import ObjectName
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store import ambiguous
from swiftfs.store.ambiguous import AmbiguousRequests, Effect
from swiftfs.store.protocol import CopyRequest, Headers

pytestmark = LATE

MIB = 1024 * 1024
TARGET = ObjectName("box", "b")


def before(store: LateStore, cache: Path, *files: tuple[str, bytes], folder: str = "") -> Path:
    """Store files with a mount of its own; return the empty cache folder of the next one."""
    with harness(store, cache / "before", OPTIONS) as filesystem:
        if folder:
            filesystem.mkdir(folder, 0o755, ME)
        for path, data in files:
            store_file(filesystem, data, path)
        settle(filesystem)
    return cache / "mount"


@pytest.fixture(autouse=True)
def folders(tmp_path: Path) -> None:
    (tmp_path / "before").mkdir()
    (tmp_path / "mount").mkdir()


def rename(filesystem: FileSystem) -> None:
    filesystem.rename("/a", "/b")


def rename_folder(filesystem: FileSystem) -> None:
    filesystem.rename("/d", "/e")


@pytest.mark.parametrize("size", [10, 5000, 3 * MIB])
def test_a_late_copy_of_a_new_file_at_the_old_name(store: LateStore, tmp_path: Path, size: int) -> None:
    """Only Swift has the bytes of the file that was moved."""
    old = os.urandom(size)
    cache = before(store, tmp_path, ("/a", old))
    died = kill_during(store, cache, "copy", "b", rename)
    with harness(store, died, OPTIONS) as filesystem:
        assert keys(store) == ["b"] or size > MIB
        was = store.head(TARGET)
        store_file(filesystem, b"new", "/a")
        assert late(filesystem).counts().watched == 2
        store.land()
        assert body(store, "b") == b"new"
        repair(filesystem)
        assert (body(store, "a"), body(store, "b")) == (b"new", old)
        assert store.head(TARGET).content_type == was.content_type
        assert read(filesystem, "/b") == old


def test_what_a_late_copy_would_overwrite_is_fetched_first(store: LateStore, tmp_path: Path) -> None:
    cache = before(store, tmp_path, ("/a", bytes(5000)))
    died = kill_during(store, cache, "copy", "b", rename)
    with harness(store, died, OPTIONS) as filesystem:
        store.requests.clear()
        store_file(filesystem, b"new", "/a")
        assert store.requests.index(("get", "box/b")) < store.requests.index(("put", "box/a"))
        store_file(filesystem, b"newer", "/a")
        assert store.requests.count(("get", "box/b")) == 1


def test_a_late_deletion_of_what_another_client_stored_at_the_old_name(
    store: LateStore, tmp_path: Path
) -> None:
    """The rename could not delete its source, and the process died when it tried again."""
    foreign(store, "a", b"theirs")
    deletion = Delete(ObjectName("box", "a"), is_slo=False, etag="another", moved=True)
    leave(tmp_path / "mount", deletion)
    with harness(store, tmp_path / "mount", OPTIONS) as filesystem:
        settle(filesystem)
        assert body(store, "a") == b"theirs"
        late(filesystem).fetch()
        store.delete(ObjectName("box", "a"))
        repair(filesystem)
        assert body(store, "a") == b"theirs"


def test_a_late_copy_after_two_new_files_at_the_old_name(store: LateStore, tmp_path: Path) -> None:
    cache = before(store, tmp_path, ("/a", b"old"))
    died = kill_during(store, cache, "copy", "b", rename)
    with harness(store, died, OPTIONS) as filesystem:
        store_file(filesystem, b"new", "/a")
        store.land()
        store_file(filesystem, b"newest", "/a")
        repair(filesystem)
        assert (body(store, "a"), body(store, "b")) == (b"newest", b"old")


def test_a_late_copy_of_a_large_file_at_the_old_name_can_be_read_until_it_is_undone(
    store: LateStore, tmp_path: Path
) -> None:
    """It names the segments of the file, which is replaced before anybody notices."""
    with harness(store, tmp_path / "mount", OPTIONS) as filesystem:
        store_file(filesystem, b"old", "/a")
        store.lose("copy", "b")
        rename(filesystem)
        store_file(filesystem, large := os.urandom(3 * MIB), "/a")
        store.land()
        assert body(store, "b") == large
        store_file(filesystem, b"newest", "/a")
        settle(filesystem)
        assert body(store, "b") == large
        repair(filesystem)
        assert (body(store, "a"), body(store, "b")) == (b"newest", b"old")


def test_a_late_deletion_of_a_new_file_at_the_old_name(store: LateStore, tmp_path: Path) -> None:
    cache = before(store, tmp_path, ("/a", b"old"))
    died = kill_during(store, cache, "delete", "a", rename)
    with harness(store, died, OPTIONS) as filesystem:
        assert keys(store) == ["b"]
        store_file(filesystem, b"new", "/a")
        store.land()
        assert keys(store) == ["b"]
        repair(filesystem)
        assert (body(store, "a"), body(store, "b")) == (b"new", b"old")


@pytest.mark.parametrize("killed_in_recovery", [False, True])
def test_the_mount_after_the_next_one_watches_too(
    store: LateStore, tmp_path: Path, *, killed_in_recovery: bool
) -> None:
    cache = before(store, tmp_path, ("/a", b"old"))
    died = kill_during(store, cache, "copy", "b", rename)
    if killed_in_recovery:
        again = kill_during(store, died, "copy", "b")
    else:
        again = tmp_path / "again"
        with harness(store, died, OPTIONS):
            copy_live(died, again)
    with harness(store, again, OPTIONS) as filesystem:
        store_file(filesystem, b"new", "/a")
        store.land()
        assert body(store, "b") == b"new"
        repair(filesystem)
        assert (body(store, "a"), body(store, "b")) == (b"new", b"old")


def test_the_mount_after_one_whose_recovery_found_no_server(store: LateStore, tmp_path: Path) -> None:
    cache = before(store, tmp_path, ("/a", b"old"))
    died = kill_during(store, cache, "copy", "b", rename)

    refuse(store, "head", Unavailable)
    with harness(store, died, OPTIONS) as filesystem:
        store.hook = None
        store_file(filesystem, b"another", "/b")
        store.land()
        assert body(store, "b") == b"old"
        repair(filesystem)
        assert (body(store, "a"), body(store, "b")) == (b"old", b"another")


@pytest.mark.parametrize("stands", [b"theirs", b""])
def test_a_move_that_is_given_up(store: LateStore, tmp_path: Path, stands: bytes) -> None:
    """What is at the target stays: another client's file, or nothing."""
    cache = before(store, tmp_path, ("/a", b"old"))
    died = kill_during(store, cache, "copy", "b", rename)
    foreign(store, "a", b"their a")
    if stands:
        foreign(store, "b", stands)
    with harness(store, died, OPTIONS, close_error="both are kept") as filesystem:
        assert len(refusals(filesystem)) == 1
        late(filesystem).fetch()
        store.land()
        assert body(store, "b") == b"their a"
        repair(filesystem)
        assert body(store, "a") == b"their a"
        assert keys(store) == (["a", "b"] if stands else ["a"])
        if stands:
            assert body(store, "b") == stands


def test_a_late_deletion_after_a_move_is_given_up(store: LateStore, tmp_path: Path) -> None:
    cache = before(store, tmp_path, ("/a", b"old"))
    died = kill_during(store, cache, "delete", "a", rename)
    foreign(store, "b", b"theirs")
    with harness(store, died, OPTIONS, close_error="both are kept") as filesystem:
        assert len(refusals(filesystem)) == 1
        late(filesystem).fetch()
        store.land()
        assert keys(store) == ["b"]
        repair(filesystem)
        assert (body(store, "a"), body(store, "b")) == (b"old", b"theirs")


def test_a_late_deletion_of_a_folder_s_objects(store: LateStore, tmp_path: Path) -> None:
    cache = before(store, tmp_path, ("/d/f1", b"one"), ("/d/f2", b"two"), folder="/d")
    died = kill_during(store, cache, "delete", "d/f1", rename_folder)
    with harness(store, died, OPTIONS) as filesystem:
        assert keys(store) == ["e", "e/f1", "e/f2"]
        filesystem.mkdir("/d", 0o700, ME)
        store_file(filesystem, b"new", "/d/f1")
        store.land()
        assert "d/f1" not in keys(store)
        repair(filesystem)
        assert {key: body(store, key) for key in keys(store)} == {
            "d": b"",
            "d/f1": b"new",
            "e": b"",
            "e/f1": b"one",
            "e/f2": b"two",
        }


@pytest.mark.parametrize("key", ["e/f1", "e"])
def test_a_late_copy_of_a_folder_s_object(store: LateStore, tmp_path: Path, key: str) -> None:
    cache = before(store, tmp_path, ("/d/f1", b"one"), ("/d/f2", b"two"), folder="/d")
    died = kill_during(store, cache, "copy", key, rename_folder)
    with harness(store, died, OPTIONS) as filesystem:
        assert keys(store) == ["e", "e/f1", "e/f2"]
        was = store.head(ObjectName("box", key))
        filesystem.mkdir("/d", 0o700, ME)
        store_file(filesystem, b"new", "/d/f1")
        store.land()
        assert store.head(ObjectName("box", key)) != was
        repair(filesystem)
        stands = store.head(ObjectName("box", key))
        assert (stands.version, stands.metadata) == (was.version, was.metadata)
        assert (body(store, "d/f1"), body(store, "e/f1")) == (b"new", b"one")


def test_a_folder_that_moves_back(store: LateStore, tmp_path: Path) -> None:
    cache = before(store, tmp_path, ("/d/f1", os.urandom(3 * MIB)), folder="/d")
    old = store_body(store, ObjectName("box", "d/f1"))
    died = kill_during(store, cache, "copy", "e/f1", rename_folder)
    with harness(store, died, OPTIONS) as filesystem:
        filesystem.rename("/e", "/d")
        store.land()
        assert "e/f1" in keys(store)
        repair(filesystem)
        assert [key for key in keys(store) if not key.startswith(".")] == ["d", "d/f1"]
        assert body(store, "d/f1") == old


def test_a_late_undo_deletion(store: LateStore, tmp_path: Path) -> None:
    """It would delete the only copy if the next mount finished the move that the dead one was undoing."""
    cache = before(store, tmp_path, ("/d/f1", b"one"), ("/d/f2", b"two"), folder="/d")

    def refuse_f2(filesystem: FileSystem) -> None:
        store.refused_copies = {"e/f2"}
        rename_folder(filesystem)

    died = kill_during(store, cache, "delete", "e/f1", refuse_f2)
    store.refused_copies = set()
    with harness(store, died, OPTIONS, close_error="it was being undone") as filesystem:
        store.land()
        repair(filesystem)
        (folder,) = {key[0] for key in keys(store)}
        assert [body(store, f"{folder}/{name}") for name in ("f1", "f2")] == [b"one", b"two"]


def test_a_finished_move_costs_no_looks(store: LateStore, tmp_path: Path) -> None:
    cache = before(store, tmp_path, ("/d/f1", b"one"), ("/d/f2", b"two"), folder="/d")
    died = kill_during(store, cache, "copy", "e/f1", rename_folder)
    with harness(store, died, OPTIONS) as filesystem:
        store.requests.clear()
        assert late(filesystem).counts().watched == 0
        for seconds in LOOKS:
            look(filesystem, seconds + 5)
        assert store.requests == []
        late(filesystem).save()
        assert recorded(died) == 0


def test_more_objects_than_are_watched(
    store: LateStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    files = [(f"/d/{number}", b"%d" % number) for number in range(20)]
    cache = before(store, tmp_path, *files, folder="/d")
    died = kill_during(store, cache, "copy", "e/19", rename_folder)
    monkeypatch.setattr(ambiguous, "MAX_NAMES", 10)
    monkeypatch.setattr(ambiguous, "ROOM", 2)
    with harness(store, died, OPTIONS) as filesystem:
        assert len(keys(store)) == 21
        assert any("34 names" in line for line in logged(caplog, logging.WARNING))
        write(filesystem, "/d2", b"x")
        settle(filesystem)


def test_a_copy_that_was_carried_out_does_no_harm(store: LateStore, tmp_path: Path) -> None:
    """The source did not exist any more when the process died: only the names are known."""
    store.put(TARGET, b"moved", Headers("text/plain"))
    leave(tmp_path / "mount", Move(ObjectName("box", "a"), TARGET, etag=store.head(TARGET).version.etag))
    with harness(store, tmp_path / "mount", OPTIONS) as filesystem:
        store_file(filesystem, b"new", "/a")
        store_file(filesystem, b"newer", "/b")
        repair(filesystem)
        assert (body(store, "a"), body(store, "b")) == (b"new", b"newer")


def leave_folder(store: MemoryStore, cache: Path) -> None:
    """Leave the move of a folder, with an object that no listing showed when it began."""
    one = MovedObject("d/f1", store.head(ObjectName("box", "d/f1")).version.etag)
    leave(cache, MoveFolder("box", "d/", "box", "e/", objects=(one,)))


def test_a_late_copy_of_a_folder_s_object_that_was_not_listed(store: LateStore, tmp_path: Path) -> None:
    foreign(store, "d/f1", b"one")
    leave_folder(store, tmp_path / "mount")
    store.copy(copy := CopyRequest(ObjectName("box", "d/f1"), ObjectName("box", "e/f1")))
    store.delete(copy.source)
    with harness(store, tmp_path / "mount", OPTIONS) as filesystem:
        filesystem.mkdir("/d", 0o700, ME)
        store_file(filesystem, b"new", "/d/f1")
        store.copy(copy)
        repair(filesystem)
        assert (body(store, "d/f1"), body(store, "e/f1")) == (b"new", b"one")


@pytest.mark.store(LaggingStore, "box")
def test_a_late_deletion_of_what_has_replaced_an_object_that_was_not_listed(
    store: LaggingStore, tmp_path: Path
) -> None:
    store.stop()
    foreign(store, "d/f1", b"one")
    leave_folder(store, tmp_path / "mount")
    foreign(store, "d/f1", b"theirs")
    with harness(store, tmp_path / "mount", OPTIONS) as filesystem:
        store.go_on()
        assert keys(store) == ["d/f1"]
        late(filesystem).fetch()
        store.delete(ObjectName("box", "d/f1"))
        repair(filesystem)
        assert body(store, "d/f1") == b"theirs"


def test_a_folder_whose_copies_were_being_deleted_is_not_touched_later(
    store: LateStore, tmp_path: Path
) -> None:
    """A mount has served files since: who copied the objects to the target is not known any more."""
    for key in ("d/f1", "e/f1"):
        foreign(store, key, b"data")
    objects = (row_of(store, "d/f1"),)
    move = MoveFolder("box", "d/", "box", "e/", objects=objects, served=True, undone=True)
    leave(tmp_path / "mount", move)
    with harness(store, tmp_path / "mount", OPTIONS, close_error="a mount has served files since"):
        assert keys(store) == ["d/f1", "e/f1"]


@pytest.mark.parametrize("is_copy", [True, False])
def test_the_copy_that_a_killed_process_has_sent_is_no_version_to_be_deleted(*, is_copy: bool) -> None:
    """The process had found nothing there before it sent the copy, whose answer it did not live to see."""
    source, target = ObjectName("box", "d/a"), ObjectName("box", "e/a")
    store = MemoryStore("box")
    foreign(store, "e/a", b"moved")
    copied = store.head(target)
    etag, requests = copied.version.etag, AmbiguousRequests()
    evidence = MoveEvidence(requests)
    requests.lost(target, Effect("put", etag, source=source))
    evidence.found(target, None, copy_of=source, etag=etag)
    assert evidence.is_late(copied)
    evidence.found(target, copied, copy_of=source, etag=etag if is_copy else "another")
    assert evidence.is_late(copied) is not is_copy
