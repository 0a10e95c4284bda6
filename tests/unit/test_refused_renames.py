"""A file that Swift has refused is renamed: nothing of it is in Swift, so its task gets the new name."""

import os
import threading
from collections.abc import Iterable
from pathlib import Path

import pytest
from msgspec.structs import replace

from support.deadlines import within
from support.edited_file import Gate
from support.harness import ME, SHORT_RETRIES, change, copy_live, harness, names, put, read, write
from support.jobs import wait_until
from support.late_store import LateStore
from support.memory_store import MemoryStore
from support.noise import NEW, noise
from support.refused_changes import flush, report
from support.stored_objects import (
    NEVER,
    body,
    foreign,
    keys,
    named_segments,
    refuse,
    segments,
    ten_minutes_later,
)
from swiftfs.errors import BadRequest, NameTooLong, NoSpace, QuotaExceeded, StoreError
from swiftfs.posix.filesystem import FileSystem

OPTIONS = f"{NEVER},segment_size=1M"
PUTS = "put put_manifest"
DATA = {"small": b"data", "large": NEW}


pytestmark = pytest.mark.store(LateStore, "box", "box_segments")


def try_all(filesystem: FileSystem) -> None:
    """Try all changes once; return when nothing is being sent any more.

    A segment may be sent still when another one was refused, and that would end the next attempt.
    """
    flush(filesystem)
    wait_until(lambda: not uploading(filesystem))


def parked(filesystem: FileSystem) -> list[str]:
    """Try all changes; return the paths of those that are parked, which are all that are left."""
    try_all(filesystem)
    assert {one.state for one in filesystem.waiting()} <= {"parked"}
    return [one.path for one in filesystem.waiting()]


def uploading(filesystem: FileSystem) -> bool:
    """Return whether any segment is being sent."""
    cached_files = [use.cached_file for use in filesystem.services.file_cache._used.values()]
    return any(one.uploads.is_busy for one in cached_files if one is not None)


def is_stored(store: MemoryStore, path: str, data: bytes, others: Iterable[str] = ()) -> None:
    """Fail unless the store has these bytes under the path's name, and otherwise only these objects."""
    assert keys(store) == sorted([path.removeprefix("/"), *others])
    assert body(store, path.removeprefix("/")) == data


@pytest.mark.parametrize(("kind", "refused"), [("small", "put"), ("large", "put"), ("large", "put_manifest")])
def test_a_refused_file_is_renamed_without_a_request(
    store: MemoryStore, tmp_path: Path, kind: str, refused: str
) -> None:
    """Its rename failed with the error of the refusal."""
    with harness(store, tmp_path, OPTIONS) as filesystem:
        write(filesystem, "/file", DATA[kind])
        refuse(store, refused, QuotaExceeded)
        assert parked(filesystem) == ["/file"]
        store.requests.clear()
        filesystem.rename("/file", "/new")
        assert names(filesystem, "/") == ["new"]
        assert store.requests == []
        assert parked(filesystem) == ["/new"]
        store.hook = None
        assert parked(filesystem) == []
        assert read(filesystem, "/new") == DATA[kind]
    is_stored(store, "/new", DATA[kind])
    assert len(segments(store)) == (3 if kind == "large" else 0)


@pytest.mark.usual
def test_the_other_segments_of_a_refused_file_that_is_open_are_not_sent(
    store: MemoryStore, tmp_path: Path
) -> None:
    """Each would be sent in full, and refused."""
    told = threading.Event()

    def hook(method: str, subject: str) -> None:
        if method == "put":
            assert "/0000000000000-" in subject or told.wait(within(30))
            raise QuotaExceeded("no")

    with harness(store, tmp_path, f"{OPTIONS},uploads=2") as filesystem:
        handle = filesystem.create("/file", 0o644, os.O_RDWR, ME)
        put(filesystem, handle, 1, noise(10_000_000))  # in no order in which segments are stored at once
        put(filesystem, handle, 0, b"x")
        store.hook = hook
        with pytest.raises(QuotaExceeded):
            filesystem.fsync(handle, False)
        told.set()
        wait_until(lambda: not uploading(filesystem))
        # The refused one, and what two threads had begun by then.
        assert sum(method == "put" for method, _ in store.requests) <= 3
        store.hook = None
        filesystem.release(handle)
    assert body(store, "file") == b"x" + noise(10_000_000)


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR])
@pytest.mark.parametrize("kind", DATA)
def test_a_refused_file_that_is_open_is_renamed_without_a_request(
    store: MemoryStore, tmp_path: Path, kind: str, flags: int
) -> None:
    """Its rename failed with the error of the refusal, if neither close(2) nor fsync(2) had returned that."""
    with harness(store, tmp_path, OPTIONS) as filesystem:
        write(filesystem, "/file", DATA[kind])
        handle = filesystem.open("/file", flags)
        refuse(store, PUTS, QuotaExceeded)
        assert parked(filesystem) == ["/file"]
        store.requests.clear()
        filesystem.rename("/file", "/new")
        assert store.requests == []
        assert parked(filesystem) == ["/new"]
        if flags == os.O_RDWR:
            with pytest.raises(QuotaExceeded):
                filesystem.flush(handle)
        store.hook = None
        filesystem.flush(handle)
        filesystem.release(handle)
        assert parked(filesystem) == []
        assert names(filesystem, "/") == ["new"]
    is_stored(store, "/new", DATA[kind])


def test_a_refused_link_is_renamed_without_a_request(store: MemoryStore, tmp_path: Path) -> None:
    with harness(store, tmp_path, OPTIONS) as filesystem:
        filesystem.symlink("target", "/link", ME)
        refuse(store, PUTS, QuotaExceeded)
        assert parked(filesystem) == ["/link"]
        store.requests.clear()
        filesystem.rename("/link", "/new")
        assert store.requests == []
        store.hook = None
        assert parked(filesystem) == []
        assert filesystem.readlink("/new") == "target"
    is_stored(store, "/new", b"target")


def test_a_name_that_swift_refuses_is_mended_by_a_rename(store: MemoryStore, tmp_path: Path) -> None:
    refuse(store, "put", NameTooLong, about="/odd$")
    with harness(store, tmp_path, "settle=0.01") as filesystem:
        write(filesystem, "/odd", b"data")
        wait_until(lambda: report(filesystem).parked)
        filesystem.rename("/odd", "/good")
        wait_until(lambda: not filesystem.waiting())
    is_stored(store, "/good", b"data")


@pytest.mark.parametrize("new", DATA)
@pytest.mark.parametrize("old", DATA)
def test_the_object_of_the_old_name_is_deleted_after_the_new_one_is_stored(
    store: MemoryStore, tmp_path: Path, old: str, new: str
) -> None:
    with harness(store, tmp_path, OPTIONS) as filesystem:
        write(filesystem, "/file", DATA[old])
        assert parked(filesystem) == []
        write(filesystem, "/file", DATA[new])
        refuse(store, PUTS, QuotaExceeded)
        assert parked(filesystem) == ["/file"]
        filesystem.rename("/file", "/new")
        try_all(filesystem)
        assert body(store, "file") == DATA[old]
        store.hook = None
        assert parked(filesystem) == []
    is_stored(store, "/new", DATA[new])
    ten_minutes_later(store, tmp_path)
    assert len(segments(store)) == (3 if new == "large" else 0)


def test_what_another_client_stored_meanwhile_stays_under_the_old_name(
    store: MemoryStore, tmp_path: Path
) -> None:
    with harness(store, tmp_path, OPTIONS) as filesystem:
        write(filesystem, "/file", b"ours")
        refuse(store, PUTS, QuotaExceeded)
        assert parked(filesystem) == ["/file"]
        store.hook = None
        foreign(store, "file", b"theirs")
        filesystem.rename("/file", "/new")
        assert parked(filesystem) == []
    is_stored(store, "/new", b"ours", ["file"])
    assert body(store, "file") == b"theirs"


@pytest.mark.parametrize("options", [OPTIONS, f"{OPTIONS},conflict=keep"])
def test_a_file_that_may_be_stored_in_spite_of_a_refusal_is_moved(
    store: LateStore, tmp_path: Path, options: str
) -> None:
    """The first attempt was lost, and the server carries it out after it has refused the second one."""
    with harness(store, tmp_path, options) as filesystem:
        write(filesystem, "/file", b"data")
        store.lose("put", "file")
        store.on_loss = lambda: refuse(store, PUTS, QuotaExceeded)
        assert parked(filesystem) == ["/file"]
        with pytest.raises(QuotaExceeded):
            filesystem.rename("/file", "/new")
        store.hook = store.on_loss = None
        store.land()
        filesystem.rename("/file", "/new")
        assert parked(filesystem) == []
    is_stored(store, "/new", b"data")


def test_a_manifest_that_comes_to_stand_after_a_refusal_is_found(
    store: LateStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refusal is about the file stored whole; before it, the manifest of the changes had no answer."""
    # The lost request is sent again within the same attempt, however busy the machine is.
    monkeypatch.setattr("support.harness.SHORT_RETRIES", replace(SHORT_RETRIES, deadline=60.0))
    with harness(store, tmp_path, OPTIONS) as filesystem:
        write(filesystem, "/file", DATA["large"])
        assert parked(filesystem) == []
        change(filesystem, "/file", 0, b"changed")
        store.lose("put_manifest", "file")

        def refuse_next(method: str, _subject: str) -> None:
            if method in PUTS.split():
                raise BadRequest("no") if method == "put_manifest" else QuotaExceeded("no")

        def lost() -> None:
            store.hook = refuse_next

        store.on_loss = lost
        assert parked(filesystem) == ["/file"]
        store.hook = store.on_loss = None
        store.land()
        store.requests.clear()  # before the change: its upload begins soon
        change(filesystem, "/file", 2_000_000, b"again")
        assert parked(filesystem) == []
        # One to see whether it stands, and one for what it names.
        assert store.requests.count(("manifest", "box/file")) == 2
    data = b"changed" + DATA["large"][7:2_000_000] + b"again" + DATA["large"][2_000_005:]
    is_stored(store, "/file", data)
    ten_minutes_later(store, tmp_path)
    assert segments(store) == named_segments(store, "file")


def test_an_error_of_the_cluster_is_no_refusal(store: MemoryStore, tmp_path: Path) -> None:
    """507: one of its servers may have the object."""
    with harness(store, tmp_path, OPTIONS) as filesystem:
        write(filesystem, "/file", b"data")
        refuse(store, PUTS, NoSpace)
        assert parked(filesystem) == ["/file"]
        with pytest.raises(NoSpace):
            filesystem.rename("/file", "/new")
        store.hook = None


def test_a_refused_file_is_deleted_without_a_request(store: MemoryStore, tmp_path: Path) -> None:
    with harness(store, tmp_path, OPTIONS) as filesystem:
        write(filesystem, "/file", b"data")
        refuse(store, PUTS, QuotaExceeded)
        assert parked(filesystem) == ["/file"]
        store.requests.clear()
        filesystem.unlink("/file")
        assert parked(filesystem) == []
        assert store.requests == []


@pytest.mark.parametrize("error", [QuotaExceeded, NoSpace])
def test_a_file_that_is_deleted_while_swift_refuses_it_leaves_nothing(
    store: MemoryStore, tmp_path: Path, error: type[StoreError]
) -> None:
    with harness(store, tmp_path, OPTIONS) as filesystem:
        write(filesystem, "/file", b"data")
        gate = Gate(store, error("no"))
        filesystem.setxattr("/", "swift.flush", b"1", 0)
        assert gate.reached.wait(within(20))
        filesystem.unlink("/file")
        gate.open.set()
        wait_until(lambda: not report(filesystem).flushing)
        assert parked(filesystem) == []
    assert keys(store) == []


def test_a_crash_after_the_rename_keeps_the_new_name(store: MemoryStore, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    with harness(store, tmp_path / "cache", OPTIONS) as filesystem:
        write(filesystem, "/file", b"data")
        refuse(store, PUTS, QuotaExceeded)
        assert parked(filesystem) == ["/file"]
        filesystem.rename("/file", "/new")
        copy_live(tmp_path / "cache", tmp_path / "died")
        filesystem.unlink("/new")
        assert parked(filesystem) == []
    store.hook = None
    with harness(store, tmp_path / "died", OPTIONS) as filesystem:
        assert parked(filesystem) == []
    is_stored(store, "/new", b"data")


def test_a_folder_moves_with_a_refused_file(store: MemoryStore, tmp_path: Path) -> None:
    """Another name may not be refused."""
    with harness(store, tmp_path, OPTIONS) as filesystem:
        filesystem.mkdir("/a", 0o755, ME)
        write(filesystem, "/a/first", b"first")
        assert parked(filesystem) == []
        write(filesystem, "/a/file", b"data")
        refuse(store, PUTS, QuotaExceeded)
        assert parked(filesystem) == ["/a/file"]
        filesystem.rename("/a", "/b")
        assert names(filesystem, "/b") == ["file", "first"]
        assert keys(store) == ["b", "b/first"]
        store.hook = None
        assert parked(filesystem) == []
    assert keys(store) == ["b", "b/file", "b/first"]


def test_a_folder_with_an_open_refused_file_is_renamed_without_a_request(
    store: MemoryStore, tmp_path: Path
) -> None:
    with harness(store, tmp_path, OPTIONS) as filesystem:
        filesystem.mkdir("/a", 0o755, ME)
        write(filesystem, "/a/file", DATA["small"])
        handle = filesystem.open("/a/file", os.O_RDWR)
        refuse(store, PUTS, QuotaExceeded)
        assert parked(filesystem) == ["/a", "/a/file"]
        store.requests.clear()
        filesystem.rename("/a", "/b")
        assert store.requests == []
        store.hook = None
        filesystem.flush(handle)
        filesystem.release(handle)
        assert parked(filesystem) == []
    assert keys(store) == ["b", "b/file"]
    assert body(store, "b/file") == DATA["small"]


def test_a_folder_with_a_refused_change_of_a_file_stays_and_the_log_names_the_file(
    store: MemoryStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The other bytes of the file are at its old name."""
    foreign(store, "a/file", DATA["large"])
    with harness(store, tmp_path, OPTIONS) as filesystem:
        change(filesystem, "/a/file", 0, b"new")
        refuse(store, PUTS, QuotaExceeded)
        assert parked(filesystem) == ["/a/file"]
        caplog.clear()
        with pytest.raises(QuotaExceeded):
            filesystem.rename("/a", "/b")
        assert [one.getMessage() for one in caplog.records if one.levelname == "WARNING"] == [
            "/a/file is parked, because it cannot be stored: no"
        ]
        assert names(filesystem, "/") == ["a"]
        store.hook = None
        filesystem.rename("/a", "/b")
        assert parked(filesystem) == []
    assert keys(store) == ["b/file"]
