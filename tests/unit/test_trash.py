"""The trash: what is deleted, replaced by a rename or truncated to nothing is copied there first."""

import os
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest
from msgspec.structs import replace

from support.deadlines import within
from support.edited_file import Gate
from support.harness import ANY_END, ME, change, copy_live, harness, listed, names, put, read, sync_all, write
from support.jobs import wait_until
from support.late_store import LateStore
from support.memory_store import MemoryStore
from support.stored_objects import (
    body,
    foreign,
    keys,
    named_segments,
    refuse,
    segments,
    ten_minutes_later,
)
from support.trash import LARGE, MIB, TRASH, kept, only
from swiftfs.errors import AccessDenied, SwiftfsError, TimedOut, TooLarge, Unavailable
from swiftfs.filecache.block_map import FileRecord
from swiftfs.filecache.block_set import Blocks
from swiftfs.journal.database import JournalDB
from swiftfs.journal.kept_copies import Trash
from swiftfs.journal.operations import PutFile
from swiftfs.journal.segment_records import SegmentOwnership
from swiftfs.journal.segment_removal import SegmentRemoval
from swiftfs.maintenance.trash import TrashBin
from swiftfs.objects import History, ObjectName
from swiftfs.paths import Source
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.protocol import CopyRequest, ObjectMeta
from swiftfs.store.trash_names import TrashNames

pytestmark = pytest.mark.store(MemoryStore, "box", "box_segments")


def remove(filesystem: FileSystem) -> None:
    filesystem.unlink("/a")


def truncate_at_open(filesystem: FileSystem) -> None:
    filesystem.release(filesystem.open("/a", os.O_WRONLY | os.O_TRUNC))


def truncate(filesystem: FileSystem) -> None:
    filesystem.truncate("/a", 0)


def write_anew(filesystem: FileSystem) -> None:
    write(filesystem, "/a", b"new")


def rename_new_over(filesystem: FileSystem) -> None:
    write(filesystem, "/new", b"new")
    filesystem.rename("/new", "/a")


def rename_stored_over(filesystem: FileSystem) -> None:
    filesystem.rename("/other", "/a")


def rename_open_over(filesystem: FileSystem) -> None:
    handle = filesystem.create("/new", 0o644, os.O_WRONLY, ME)
    put(filesystem, handle, 0, b"new")
    filesystem.rename("/new", "/a")
    filesystem.flush(handle)
    filesystem.release(handle)


def link_over(filesystem: FileSystem) -> None:
    filesystem.symlink("other", "/new", ME)
    filesystem.rename("/new", "/a")


def remove_and_write(filesystem: FileSystem) -> None:
    filesystem.unlink("/a")
    write(filesystem, "/a", b"new")


def remove_and_rename(filesystem: FileSystem) -> None:
    filesystem.unlink("/a")
    filesystem.rename("/other", "/a")


def remove_open(filesystem: FileSystem) -> None:
    handle = filesystem.open("/a", os.O_RDONLY)
    filesystem.unlink("/a")
    filesystem.release(handle)


def truncate_and_remove(filesystem: FileSystem) -> None:
    truncate_at_open(filesystem)
    filesystem.unlink("/a")


def truncate_and_rename(filesystem: FileSystem) -> None:
    truncate_at_open(filesystem)
    filesystem.rename("/a", "/b")


ENDS = (
    remove,
    truncate_at_open,
    truncate,
    write_anew,
    rename_new_over,
    rename_stored_over,
    rename_open_over,
    link_over,
    remove_and_write,
    remove_and_rename,
    remove_open,
    truncate_and_remove,
    truncate_and_rename,
)


@pytest.mark.usual
@pytest.mark.parametrize("settle", ["sync", "settle=0.05"])
@pytest.mark.parametrize("size", [100, 3 * MIB])
@pytest.mark.parametrize("end", ENDS)
def test_what_is_lost_is_in_the_trash(
    store: MemoryStore, tmp_path: Path, end: Callable[[FileSystem], None], size: int, settle: str
) -> None:
    data = os.urandom(size)
    with harness(store, tmp_path, f"{LARGE},{settle}") as filesystem:
        write(filesystem, "/a", data)
        write(filesystem, "/other", b"other")
        filesystem.setxattr("/a", "user.note", b"keep", 0)
        sync_all(filesystem)
        end(filesystem)
        sync_all(filesystem)
        assert filesystem.services.journal.trash.count == 1
    key = only(store)
    assert body(store, key) == data
    info = store.head(ObjectName("box", key))
    assert info.metadata["note"] == "keep"
    # A manifest that Swift deleted would leave its segments.
    assert ("X-Delete-At" in info.preserved_headers) == (size < MIB)
    if size > MIB:
        assert named_segments(store, key) <= segments(store)


def test_nothing_else_goes_there(store: MemoryStore, tmp_path: Path) -> None:
    with harness(store, tmp_path, f"{TRASH},settle=1000") as filesystem:
        write(filesystem, "/empty", b"")
        write(filesystem, "/.a.jpg.Xy12ab", b"rsync")
        write(filesystem, "/a.swp", b"vim")
        write(filesystem, "/moves", b"moves")
        write(filesystem, "/grows", b"grows")
        filesystem.mkdir("/folder", 0o755, ME)
        sync_all(filesystem)
        for name in ("empty", ".a.jpg.Xy12ab", "a.swp"):
            filesystem.unlink(f"/{name}")
        filesystem.rename("/moves", "/moved")
        change(filesystem, "/grows", 5, b" more")
        filesystem.truncate("/grows", 3)
        filesystem.rmdir("/folder")
        write(filesystem, "/never stored", b"new")
        filesystem.unlink("/never stored")
        sync_all(filesystem)
    assert kept(store) == {}


def test_each_deletion_of_a_name_is_kept(store: MemoryStore, tmp_path: Path) -> None:
    with harness(store, tmp_path, TRASH) as filesystem:
        for data in (b"one", b"two", b"three"):
            write(filesystem, "/a", data)
            filesystem.unlink("/a")
    found = [body(store, key) for key in kept(store)["a"]]
    assert found == [b"one", b"two", b"three"]


def test_segments_go_when_the_trash_is_emptied(store: MemoryStore, tmp_path: Path) -> None:
    with harness(store, tmp_path, LARGE) as filesystem:
        write(filesystem, "/a", os.urandom(3 * MIB))
        before = segments(store)
        write(filesystem, "/a", os.urandom(2 * MIB))
        write(filesystem, "/kept", os.urandom(2 * MIB))
    assert before < segments(store)
    trash = TrashBin(store, Source("box"))
    assert trash.delete(trash.files()) == {}
    assert keys(store) == ["a", "kept"]
    assert segments(store) == named_segments(store, "a") | named_segments(store, "kept")


def test_segments_that_older_versions_need_stay_when_the_trash_is_emptied(
    store: MemoryStore, tmp_path: Path
) -> None:
    store.set_history("box", History.KEPT)
    data = os.urandom(3 * MIB)
    with harness(store, tmp_path, LARGE) as filesystem:
        write(filesystem, "/a", data)
        write(filesystem, "/a", os.urandom(2 * MIB))
        filesystem.unlink("/a")
        trash = TrashBin(store, Source("box"))
        assert trash.delete(trash.files()) == {}
        assert keys(store) == []
        *_, oldest = listed(filesystem, "/.versions/a")
        assert read(filesystem, f"/.versions/a/{oldest}") == data


def test_a_copy_that_never_got_its_segments_leaves_them(store: MemoryStore, tmp_path: Path) -> None:
    """Two manifests name them, as after a crash between the copy and the deletion."""
    with harness(store, tmp_path, LARGE) as filesystem:
        write(filesystem, "/a", os.urandom(3 * MIB))
    key = TrashNames(Source("box"), 1).entry_of(ObjectName("box", "a"), 1)
    store.copy(CopyRequest(ObjectName("box", "a"), ObjectName("box", key), manifest_only=True))
    trash = TrashBin(store, Source("box"))
    trash.delete(trash.files())
    assert keys(store) == ["a"]
    assert named_segments(store, "a") <= segments(store)


def test_a_refused_copy_keeps_the_file(
    store: MemoryStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with harness(store, tmp_path, f"{TRASH},settle=1000", close_error="1 change was refused") as filesystem:
        write(filesystem, "/a", b"data")
        sync_all(filesystem)
        refuse(store, "copy", AccessDenied)
        filesystem.unlink("/a")
        with pytest.raises(AccessDenied, match="the trash cannot take the stored version"):
            sync_all(filesystem)
        assert read(filesystem, "/a") == b"data"
        filesystem.unlink("/a")
    assert body(store, "a") == b"data"
    assert "/a: could not be deleted: the trash cannot take the stored version" in caplog.text


def test_a_refused_copy_keeps_what_would_be_replaced(store: MemoryStore, tmp_path: Path) -> None:
    with harness(store, tmp_path, TRASH) as filesystem:
        write(filesystem, "/a", b"data")
        write(filesystem, "/b", b"other")
        refuse(store, "copy", TooLarge)
        with pytest.raises(TooLarge, match="the trash cannot take"):
            write(filesystem, "/a", b"new")
        with pytest.raises(TooLarge, match="the trash cannot take"):
            filesystem.rename("/b", "/a")
    assert (body(store, "a"), body(store, "b")) == (b"data", b"other")


def test_a_refused_deletion_takes_the_copy_back(store: MemoryStore, tmp_path: Path) -> None:
    with harness(store, tmp_path, LARGE) as filesystem:
        write(filesystem, "/a", os.urandom(2 * MIB))

        def refuse_deletion(method: str, subject: str) -> None:
            if method in ("delete", "delete_many") and ".trash" not in subject:
                raise AccessDenied(subject)

        store.hook = refuse_deletion
        with pytest.raises(AccessDenied):
            filesystem.unlink("/a")
        store.hook = lambda _method, _subject: None
    assert kept(store) == {}
    assert named_segments(store, "a") <= segments(store)


def test_what_another_client_has_deleted_is_no_failure(store: MemoryStore, tmp_path: Path) -> None:
    with harness(store, tmp_path, TRASH) as filesystem:
        write(filesystem, "/a", b"data")
        store.delete(ObjectName("box", "a"))
        filesystem.unlink("/a")
    assert keys(store) == []


def test_a_second_attempt_does_not_copy_what_the_first_has_stored(store: MemoryStore, tmp_path: Path) -> None:
    with harness(store, tmp_path, f"{TRASH},settle=1000") as filesystem:
        write(filesystem, "/a", b"old")
        sync_all(filesystem)
        lost: list[str] = []

        def lose_one_answer(method: str, subject: str) -> None:
            if method == "put" and subject == "box/a" and not lost:
                lost.append(subject)
                stored = ObjectName("box", "a")
                headers = store.head(stored)
                store.hook = lambda _method, _subject: None
                foreign(store, "a", b"new")
                assert headers.size == 3
                raise Unavailable("no answer")

        store.hook = lose_one_answer
        write(filesystem, "/a", b"new")
        sync_all(filesystem)
        assert lost
    assert body(store, only(store)) == b"old"
    assert body(store, "a") == b"new"


def test_what_is_closed_during_an_upload_does_not_replace_the_copy_of_the_old_version(
    store: MemoryStore, tmp_path: Path
) -> None:
    with harness(store, tmp_path, f"{TRASH},settle=1000") as filesystem:
        write(filesystem, "/a", b"old")
        sync_all(filesystem)
        gate = Gate(store, None)
        handle = filesystem.open("/a", os.O_WRONLY | os.O_TRUNC)
        put(filesystem, handle, 0, b"new")
        syncing = threading.Thread(target=filesystem.fsync, args=(handle, False))
        syncing.start()
        assert gate.reached.wait(within(20))
        put(filesystem, handle, 0, b"newest")
        filesystem.flush(handle)
        filesystem.release(handle)
        gate.open.set()
        syncing.join()
    assert body(store, "a") == b"newest"
    assert body(store, only(store)) == b"old"


def test_a_version_that_an_attempt_has_stored_is_not_copied(store: MemoryStore, tmp_path: Path) -> None:
    """The PUT was answered, but the file was truncated meanwhile: it is repeated."""
    old, new = ObjectName("box", "a"), "replaced"
    foreign(store, ".trash/x", b"old")
    foreign(store, "a", b"stored by the attempt")
    with closing(JournalDB(tmp_path, "me")) as db:
        trash = Trash(store, SegmentRemoval(store, db, SegmentOwnership(db)), 30)
        file = FileRecord("local", 1, None, Blocks(), None)
        put = PutFile(old, file, ObjectMeta("text/plain"), replaces_large=None, sent=(new,), trash=".trash/x")
        with trash.replacing(put, ambiguous=False) as changed:
            assert changed is put  # who looks up its segments spares what the copy names
        assert body(store, ".trash/x") == b"old"
        with trash.replacing(replace(put, sent=()), ambiguous=False):
            assert body(store, ".trash/x") == b"stored by the attempt"


def test_segments_that_only_a_killed_attempt_has_named_go(store: MemoryStore, tmp_path: Path) -> None:
    """What is stored next replaces the version of that attempt, not the one that the trash has."""
    cache, image = tmp_path / "cache", tmp_path / "image"
    cache.mkdir()
    storing, changed = threading.Event(), threading.Event()

    def kill(method: str, _subject: str) -> None:
        if method == "put_manifest":
            storing.set()
            assert changed.wait(within(20))
        elif changed.is_set():  # it is stored
            if not image.exists():
                copy_live(cache, image)
            raise Unavailable("killed")

    with harness(store, cache, f"{LARGE},settle=0.05,drain=0", close_error=ANY_END) as filesystem:
        write(filesystem, "/a", os.urandom(2 * MIB))
        sync_all(filesystem)
        store.hook = kill
        write(filesystem, "/a", os.urandom(2 * MIB))
        assert storing.wait(within(20))
        change(filesystem, "/a", 0, os.urandom(2 * MIB))
        changed.set()
        wait_until(image.exists)
    store.hook = None
    with harness(store, image, f"{LARGE},settle=0.05") as filesystem:
        sync_all(filesystem)
    ten_minutes_later(store, image)
    assert segments(store) == named_segments(store, "a") | named_segments(store, only(store))


@pytest.mark.store(LateStore, "box", "box_segments")
@pytest.mark.parametrize("end", [remove, write_anew, rename_stored_over])
def test_segments_that_a_change_without_an_answer_replaced_go(
    store: LateStore, tmp_path: Path, end: Callable[[FileSystem], None]
) -> None:
    """Its program got an error, but it was carried out: the trash has its version, and nobody the first."""
    with harness(store, tmp_path, f"{LARGE},sync") as filesystem:
        write(filesystem, "/other", b"other")
        write(filesystem, "/a", os.urandom(2 * MIB))
        store.lose("put_manifest", "a", 100, lands=True)
        with pytest.raises(TimedOut):
            change(filesystem, "/a", 0, os.urandom(2 * MIB))
        store.loses.clear()
        end(filesystem)
    ten_minutes_later(store, tmp_path)
    assert segments(store) == named_segments(store, only(store))


@pytest.mark.parametrize("size", [100, 2 * MIB])
@pytest.mark.parametrize("end", [remove, write_anew, rename_new_over, rename_stored_over])
@pytest.mark.parametrize("moment", ["copy", "after the copy", "post"])
def test_a_kill_between_the_copy_and_the_rest(
    store: MemoryStore, tmp_path: Path, end: Callable[[FileSystem], None], size: int, moment: str
) -> None:
    data = os.urandom(size)
    cache, image = tmp_path / "cache", tmp_path / "image"
    cache.mkdir()
    options = f"{LARGE},settle=0.05"

    asked: list[str] = []

    def kill(method: str, _subject: str) -> None:
        """Fail from that moment on, after the cache folder was copied: the process is dead."""
        is_it = asked[-1:] == ["copy"] if moment == "after the copy" else method == moment
        asked.append(method)
        if is_it and not image.exists():
            copy_live(cache, image)
        if image.exists():
            raise Unavailable("killed")

    with harness(store, cache, f"{options},drain=0", close_error=ANY_END) as filesystem:
        write(filesystem, "/a", data)
        write(filesystem, "/other", b"other")
        sync_all(filesystem)
        store.hook = kill
        with suppress(SwiftfsError, OSError):
            end(filesystem)
            sync_all(filesystem)
    store.hook = lambda _method, _subject: None
    if not image.exists():
        assert moment == "post"  # only segments are handed over
        return
    with harness(store, image, options) as filesystem:
        sync_all(filesystem)
        there = set(names(filesystem, "/"))
    assert ("a" in there) == (end is not remove)
    assert body(store, only(store)) == data
    if size > MIB:
        assert named_segments(store, only(store)) <= segments(store)
