"""Late requests about links, folders, attributes and moves: swiftfs restores the newer state too."""

import os
import stat
from collections.abc import Callable

import pytest

from support.harness import ME, change, names, read, write
from support.jobs import wait_until
from support.late_store import FILE, LATE, LateStore, late, remove, repair, settle, store_file
from support.stored_objects import body, foreign, keys, refuse
from swiftfs.errors import QuotaExceeded
from swiftfs.journal import late_requests
from swiftfs.objects import ObjectName
from swiftfs.paths import join
from swiftfs.posix.filesystem import FileSystem

pytestmark = LATE

MIB = 1024 * 1024


def link(filesystem: FileSystem, target: str) -> None:
    filesystem.symlink(target, "/file", ME)
    settle(filesystem)


def test_a_late_symbolic_link(store: LateStore, filesystem: FileSystem) -> None:
    store.lose("put", "file")
    link(filesystem, "old")
    remove(filesystem)
    link(filesystem, "new")
    store.land()
    repair(filesystem)
    assert filesystem.readlink("/file") == "new"
    assert body(store, "file") == b"new"


def test_a_late_removal_of_a_symbolic_link_made_anew(store: LateStore, filesystem: FileSystem) -> None:
    link(filesystem, "old")
    store.lose("delete", "file")
    remove(filesystem)
    link(filesystem, "new")
    store.land()
    assert keys(store) == []
    repair(filesystem)
    assert filesystem.readlink("/file") == "new"
    assert body(store, "file") == b"new"


def test_a_late_removal_of_a_folder_made_anew(store: LateStore, filesystem: FileSystem) -> None:
    filesystem.mkdir("/folder", 0o755, ME)
    settle(filesystem)
    store.lose("delete", "folder")
    filesystem.rmdir("/folder")
    settle(filesystem)
    filesystem.mkdir("/folder", 0o700, ME)
    settle(filesystem)
    store.land()
    assert keys(store) == []
    repair(filesystem)
    assert keys(store) == ["folder"]
    assert stat.S_IMODE(filesystem.getattr("/folder").mode) == 0o700
    assert store.head(ObjectName("box", "folder")).metadata["mode"].endswith("700")


def test_a_folder_that_was_removed_comes_back_late(store: LateStore, filesystem: FileSystem) -> None:
    store.lose("put", "folder")
    filesystem.mkdir("/folder", 0o755, ME)
    settle(filesystem)
    filesystem.rmdir("/folder")
    settle(filesystem)
    store.land()
    assert keys(store) == ["folder"]
    repair(filesystem)
    assert keys(store) == []


def test_a_file_that_lands_over_a_folder(store: LateStore, filesystem: FileSystem) -> None:
    store.lose("put", "file")
    store_file(filesystem, b"old")
    remove(filesystem)
    filesystem.mkdir("/file", 0o750, ME)
    settle(filesystem)
    store.land()
    assert store.head(FILE).content_type != "application/directory"
    repair(filesystem)
    found = store.head(FILE)
    assert (found.content_type, found.size) == ("application/directory", 0)
    assert found.metadata["mode"].endswith("750")


def test_late_attributes(store: LateStore, filesystem: FileSystem) -> None:
    store_file(filesystem, b"data")
    store.lose("post", "file")
    filesystem.chmod("/file", 0o600)
    settle(filesystem)
    filesystem.chmod("/file", 0o444)
    settle(filesystem)
    store.land()
    assert "mode=0100600" in store.head(FILE).content_type
    repair(filesystem)
    assert "mode=0100444" in store.head(FILE).content_type
    assert body(store, "file") == b"data"


def test_attributes_that_land_on_newer_bytes(store: LateStore, filesystem: FileSystem) -> None:
    store_file(filesystem, b"data")
    store.lose("post", "file")
    filesystem.chmod("/file", 0o600)
    settle(filesystem)
    write(filesystem, "/file", b"newer")
    filesystem.chmod("/file", 0o444)
    settle(filesystem)
    before = store.head(FILE)
    store.land()
    repair(filesystem)
    assert store.head(FILE).content_type == before.content_type
    assert store.head(FILE).metadata == before.metadata


def test_late_attributes_of_a_folder(store: LateStore, filesystem: FileSystem) -> None:
    filesystem.mkdir("/folder", 0o755, ME)
    settle(filesystem)
    store.lose("post", "folder")
    for mode in (0o700, 0o711):
        filesystem.chmod("/folder", mode)
        settle(filesystem)
    store.land()
    assert store.head(ObjectName("box", "folder")).metadata["mode"].endswith("700")
    repair(filesystem)
    assert store.head(ObjectName("box", "folder")).metadata["mode"].endswith("711")


def test_a_late_deletion_of_a_move_s_source(store: LateStore, filesystem: FileSystem) -> None:
    store_file(filesystem, b"moved")
    store.lose("delete", "file")
    filesystem.rename("/file", "/there")
    store_file(filesystem, b"new")
    store.land()
    assert keys(store) == ["there"]
    repair(filesystem)
    assert (body(store, "file"), body(store, "there")) == (b"new", b"moved")


@pytest.mark.parametrize("size", [5000, 3 * MIB])
@pytest.mark.parametrize("first", ["rename", "unlink"])
def test_a_file_that_a_late_deletion_took_is_found_again(
    store: LateStore, filesystem: FileSystem, first: str, size: int
) -> None:
    """Before anything has looked for it a logger would begin a new file, and lose the old one for good."""
    data = os.urandom(size)
    store_file(filesystem, b"old")
    store.lose("delete", "file")
    if first == "rename":
        filesystem.rename("/file", "/there")
    else:
        filesystem.unlink("/file")
        settle(filesystem)
    store_file(filesystem, data)
    store.land()
    assert "file" not in keys(store)
    filesystem.refresh()
    assert filesystem.getattr("/file").size == size
    change(filesystem, "/file", size, b"more")
    settle(filesystem)
    assert body(store, "file") == data + b"more"


def take_by_late_deletion(store: LateStore, filesystem: FileSystem) -> None:
    """Store a file that is gone again, by a deletion of the one before it."""
    store_file(filesystem, b"old")
    store.lose("delete", "file")
    remove(filesystem)
    store_file(filesystem, b"new")
    store.land()
    filesystem.refresh()


@pytest.mark.parametrize(
    ("call", "left"),
    [
        (lambda filesystem: filesystem.unlink("/file"), []),
        (lambda filesystem: read(filesystem, "/file"), ["file"]),
        (lambda filesystem: filesystem.truncate("/file", 2), ["file"]),
        (lambda filesystem: filesystem.chmod("/file", 0o600), ["file"]),
        (lambda filesystem: filesystem.utimens("/file", 1, 1), ["file"]),
        (lambda filesystem: filesystem.setxattr("/file", "user.a", b"1", 0), ["file"]),
        (lambda filesystem: filesystem.rename("/file", "/there"), ["there"]),
    ],
    ids=["unlink", "open", "truncate", "chmod", "utimens", "setxattr", "rename"],
)
def test_each_call_finds_it_again(
    store: LateStore, filesystem: FileSystem, call: Callable[[FileSystem], object], left: list[str]
) -> None:
    """The kernel may have looked it up a moment ago, and not ask again."""
    take_by_late_deletion(store, filesystem)
    call(filesystem)
    settle(filesystem)
    assert keys(store) == left


def test_a_call_that_misses_a_file_waits_until_it_is_stored_again(
    store: LateStore, filesystem: FileSystem
) -> None:
    """So it gets the error if that fails."""
    take_by_late_deletion(store, filesystem)
    refuse(store, "put", QuotaExceeded)
    with pytest.raises(QuotaExceeded):
        filesystem.getattr("/file")
    store.hook = None
    filesystem.retry()
    wait_until(lambda: keys(store) == ["file"])


def test_a_folder_that_a_late_deletion_took_is_found_again(store: LateStore, filesystem: FileSystem) -> None:
    filesystem.mkdir("/d", 0o755, ME)
    store_file(filesystem, b"old", "/d/file")
    store.lose("delete", "d/file")
    filesystem.rename("/d", "/e")
    filesystem.mkdir("/d", 0o755, ME)
    store_file(filesystem, b"new", "/d/file")
    store.land()
    assert keys(store) == ["e", "e/file"]
    filesystem.refresh()
    assert filesystem.getattr("/d").is_directory
    assert read(filesystem, "/d/file") == b"new"


@pytest.mark.parametrize("size", [5000, 3 * MIB])
@pytest.mark.parametrize("offset", [0, 4000])
def test_a_file_that_a_late_put_has_overwritten_is_changed_in_its_newer_version(
    store: LateStore, filesystem: FileSystem, size: int, offset: int
) -> None:
    data = bytearray(os.urandom(size))
    store.lose("put", "file")
    store_file(filesystem, b"old")
    store_file(filesystem, bytes(data))
    store.land()
    assert body(store, "file") == b"old"
    filesystem.refresh()
    assert names(filesystem, "/") == ["file"]
    change(filesystem, "/file", offset, b"more")
    settle(filesystem)
    data[offset : offset + 4] = b"more"
    assert body(store, "file") == data


@pytest.mark.usefixtures("no_retries")
def test_a_folder_that_comes_late_below_one_that_was_renamed(
    store: LateStore, filesystem: FileSystem
) -> None:
    """It must not only get its new name in the journal: nobody would look at the old one any more."""
    filesystem.mkdir("/d", 0o755, ME)
    settle(filesystem)
    store.lose("put", "d/sub", 1000)
    filesystem.mkdir("/d/sub", 0o755, ME)
    wait_until(lambda: filesystem.waiting()[0].attempts)
    store.loses.clear()
    filesystem.rename("/d", "/e")
    settle(filesystem)
    store.land()
    assert keys(store) == ["d/sub", "e", "e/sub"]
    repair(filesystem)
    assert keys(store) == ["e", "e/sub"]


@pytest.mark.parametrize("size", [5000, 3 * MIB])
def test_a_late_copy_whose_source_is_another_file_by_then(
    store: LateStore, filesystem: FileSystem, size: int
) -> None:
    """A rotated log: its first COPY is executed when a new log has the name."""
    old = os.urandom(size)
    store_file(filesystem, old, "/log")
    read(filesystem, "/log")
    store.lose("copy", "log.1")
    filesystem.rename("/log", "/log.1")
    assert late(filesystem).counts().watched == 0
    store_file(filesystem, b"the new log", "/log")
    assert late(filesystem).counts().watched == 1
    store.land()
    assert body(store, "log.1") == b"the new log"
    repair(filesystem)
    assert body(store, "log.1") == old
    assert body(store, "log") == b"the new log"


@pytest.mark.parametrize("size", [5000, 3 * MIB])
@pytest.mark.parametrize("new", ["/dir/log.2", "/dir/there", "/other/log.1"])
def test_a_late_copy_to_a_name_that_is_moved_on(
    store: LateStore, filesystem: FileSystem, size: int, new: str
) -> None:
    """A log that is rotated twice, or whose folder is renamed, before anything has looked at it again."""
    old = os.urandom(size)
    filesystem.mkdir("/dir", 0o755, ME)
    store_file(filesystem, b"replaced", "/dir/there")
    store_file(filesystem, old, "/dir/log")
    store.lose("copy", "dir/log.1")
    filesystem.rename("/dir/log", "/dir/log.1")
    store_file(filesystem, b"the new log", "/dir/log")
    store.land()
    assert body(store, "dir/log.1") == b"the new log"
    filesystem.refresh()
    if new.startswith("/other"):
        filesystem.rename("/dir", "/other")
    else:
        filesystem.rename("/dir/log.1", new)
    repair(filesystem)
    assert read(filesystem, new) == body(store, new[1:]) == old
    assert body(store, "other/log" if new.startswith("/other") else "dir/log") == b"the new log"


def test_a_late_copy_over_what_was_stored_since(store: LateStore, filesystem: FileSystem) -> None:
    store_file(filesystem, b"moved")
    store.lose("copy", "there")
    filesystem.rename("/file", "/there")
    store_file(filesystem, b"new there", "/there")
    foreign(store, "file", b"moved")  # a server that has opened the source before it went
    store.land()
    assert body(store, "there") == b"moved"
    repair(filesystem)
    assert body(store, "there") == b"new there"


def test_a_late_put_over_a_moved_file(store: LateStore, filesystem: FileSystem) -> None:
    store.lose("put", "there")
    store_file(filesystem, b"old", "/there")
    store_file(filesystem, bytes(10_000))
    read(filesystem, "/file")
    filesystem.rename("/file", "/there")
    store.land()
    assert body(store, "there") == b"old"
    repair(filesystem)
    assert body(store, "there") == bytes(10_000)


def test_a_move_that_failed_is_carried_out_late(store: LateStore, filesystem: FileSystem) -> None:
    """An earlier request for the target was lost too, so its state is known."""
    store_file(filesystem, b"source")
    store.lose("copy", "there", 1000)
    with pytest.raises(Exception, match="timed out"):
        filesystem.rename("/file", "/there")
    store.loses.clear()
    store_file(filesystem, b"target", "/there")
    store.land()
    assert body(store, "there") == b"source"
    repair(filesystem)
    assert (body(store, "there"), body(store, "file")) == (b"target", b"source")


def heads(store: LateStore, key: str) -> int:
    return store.requests.count(("head", f"box/{key}"))


@pytest.mark.parametrize("folder", ["/", "/d"])
def test_a_file_that_a_late_deletion_took_is_listed(
    store: LateStore, filesystem: FileSystem, folder: str
) -> None:
    """`rsync --delete` of a listing without it would delete the copy too."""
    filesystem.mkdir("/d", 0o755, ME)
    path = join(folder, "file")
    store_file(filesystem, b"old", path)
    store.lose("delete", path[1:])
    remove(filesystem, path)
    store_file(filesystem, b"new", path)
    before = names(filesystem, folder)
    store.land()
    filesystem.refresh()
    assert names(filesystem, folder) == before
    assert read(filesystem, path) == b"new"
    settle(filesystem)
    assert body(store, path[1:]) == b"new"


def bring_back(store: LateStore, filesystem: FileSystem) -> None:
    """Store and delete a file, and let its lost PUT be carried out then."""
    store.lose("put", "file")
    store_file(filesystem, b"data")
    remove(filesystem)
    store.land()
    assert keys(store) == ["file"]
    filesystem.refresh()


def test_a_deleted_file_that_a_late_request_brought_back_is_not_listed(
    store: LateStore, filesystem: FileSystem
) -> None:
    bring_back(store, filesystem)
    assert names(filesystem, "/") == []
    settle(filesystem)
    assert keys(store) == []


@pytest.mark.parametrize(
    "ask",
    [
        lambda filesystem, path: filesystem.getattr(path),
        lambda filesystem, path: filesystem.open(path, os.O_WRONLY),
    ],
)
def test_a_deleted_file_that_a_late_request_brought_back_is_begun_anew(
    store: LateStore, filesystem: FileSystem, ask: Callable[[FileSystem, str], object]
) -> None:
    bring_back(store, filesystem)
    with pytest.raises(FileNotFoundError):
        ask(filesystem, "/file")
    write(filesystem, "/file", b"line", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    settle(filesystem)
    assert body(store, "file") == b"line"


def test_a_file_has_the_size_of_its_newer_version(store: LateStore, filesystem: FileSystem) -> None:
    store.lose("put", "file")
    store_file(filesystem, b"old")
    store_file(filesystem, b"longer and newer")
    store.land()
    assert body(store, "file") == b"old"
    filesystem.refresh()
    assert filesystem.getattr("/file").size == len(b"longer and newer")


def test_a_listing_without_a_difference_costs_no_further_request(
    store: LateStore, filesystem: FileSystem
) -> None:
    store.lose("delete", "file")
    store_file(filesystem, b"old")
    remove(filesystem)
    store_file(filesystem, b"new")
    assert late(filesystem).counts().watched == 1
    names(filesystem, "/")
    store.requests.clear()
    for _ in range(5):
        assert names(filesystem, "/") == ["file"]
    assert store.requests == []


def test_a_watched_file_is_checked_once_a_second(
    store: LateStore, filesystem: FileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it is opened, missed or listed; and always before it moves."""
    monkeypatch.setattr(late_requests, "CALL_SECONDS", 1000.0)
    store.lose("put", "file")
    store_file(filesystem, b"old")
    store_file(filesystem, b"new")
    filesystem.refresh()
    assert names(filesystem, "/") == ["file"]
    before = heads(store, "file")
    for _ in range(5):
        read(filesystem, "/file")
    store.delete(FILE)  # by another client
    filesystem.refresh()
    for _ in range(5):
        assert names(filesystem, "/") == []
        with pytest.raises(FileNotFoundError):
            filesystem.getattr("/file")
    assert heads(store, "file") == before + 1
    with pytest.raises(FileNotFoundError):
        filesystem.rename("/file", "/there")
    assert heads(store, "file") == before + 2


def test_what_was_lost_since_the_last_check_is_checked_at_once(
    store: LateStore, filesystem: FileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(late_requests, "CALL_SECONDS", 1000.0)
    store.lose("put", "file")
    for data in (b"old", b"new"):
        store_file(filesystem, data)
    read(filesystem, "/file")
    store.lose("delete", "file")
    remove(filesystem)
    store_file(filesystem, b"newest")
    store.land()
    filesystem.refresh()
    assert filesystem.getattr("/file").size == 6
    assert read(filesystem, "/file") == b"newest"


def test_a_marker_that_came_late_is_deleted_without_hiding_what_is_in_the_folder(
    filesystem: FileSystem, store: LateStore
) -> None:
    store.lose("put", "d")
    filesystem.mkdir("/d", 0o755, ME)
    wait_until(lambda: store.lost == 1)
    settle(filesystem)
    filesystem.rmdir("/d")
    settle(filesystem)
    foreign(store, "d/theirs", b"theirs")
    filesystem.refresh()
    assert names(filesystem, "/") == ["d"]
    store.land()
    repair(filesystem)
    assert keys(store) == ["d/theirs"]
    assert names(filesystem, "/") == ["d"]
    assert read(filesystem, "/d/theirs") == b"theirs"
