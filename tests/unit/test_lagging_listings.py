"""Listings that lag: what this mount has done, and what a HEAD has shown, counts until a listing shows it."""

import errno
import os
import stat
from pathlib import Path

import pytest
from msgspec.structs import replace

from support.deadlines import within
from support.halted_moves import Halt
from support.harness import ME, harness, names, read, write
from support.jobs import wait_until
from support.lagging_store import LaggingStore
from support.memory_store import MemoryStore
from support.stored_objects import foreign, keys, refuse
from swiftfs.errors import NoSpace
from swiftfs.objects import ObjectName
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.protocol import Headers

OWN_TYPE = "text/plain;mtime=1700000000.000000001;mode=0100640;uid=0;gid=0"


pytestmark = [pytest.mark.store(LaggingStore, "box"), pytest.mark.mount_options("ttl=0")]


def own(store: MemoryStore, key: str, data: bytes) -> None:
    """Store a file as another mount does."""
    store.put(ObjectName("box", key), data, Headers(OWN_TYPE))


def heads(store: MemoryStore) -> list[str]:
    return [subject for method, subject in store.requests if method == "head"]


def test_a_version_that_only_a_head_shows_is_there(filesystem: FileSystem, store: LaggingStore) -> None:
    store.stop()
    write(filesystem, "/a", b"mine")
    own(store, "a", b"theirs, longer")
    assert filesystem.getattr("/a").size == 14
    assert read(filesystem, "/a") == b"theirs, longer"
    assert names(filesystem, "/") == ["a"]
    filesystem.unlink("/a")
    store.go_on()
    assert keys(store) == []


def test_a_head_shows_more_than_the_listing_of_an_older_version(
    filesystem: FileSystem, store: LaggingStore
) -> None:
    own(store, "a", b"first")
    store.stop()
    write(filesystem, "/a", b"mine")
    foreign(store, "a", b"theirs, longer")
    assert filesystem.getattr("/a").size == 14
    assert filesystem.getattr("/a").mtime_ns
    assert read(filesystem, "/a") == b"theirs, longer"


def test_a_file_that_another_client_makes_again_is_there(filesystem: FileSystem, store: LaggingStore) -> None:
    own(store, "a", b"first")
    filesystem.getattr("/a")
    store.stop()
    filesystem.unlink("/a")
    own(store, "a", b"theirs, longer")
    assert filesystem.getattr("/a").size == 14
    assert read(filesystem, "/a") == b"theirs, longer"


def test_another_client_s_attributes_of_a_file_just_stored_are_shown(
    filesystem: FileSystem, store: LaggingStore
) -> None:
    write(filesystem, "/a", b"mine")
    store.post(ObjectName("box", "a"), Headers(OWN_TYPE))
    assert stat.S_IMODE(filesystem.getattr("/a").mode) == 0o640
    store.requests.clear()
    filesystem.getattr("/a")
    assert heads(store) == []


def test_a_newer_change_counts_though_the_check_of_an_older_one_ends_later(
    filesystem: FileSystem, store: LaggingStore
) -> None:
    namespace = filesystem.services.namespace
    store.stop()
    write(filesystem, "/a", b"mine")
    entry = namespace.lookup("/a")
    newer = replace(entry, attributes=replace(entry.attributes, size=77))
    own(store, "a", b"theirs, longer")

    def hook(method: str, subject: str) -> None:
        if (method, subject) == ("head", "box/a"):
            store.hook = None
            namespace.record("/a", newer)

    store.hook = hook
    assert namespace.lookup("/a", complete=False) == newer


def test_what_was_stored_counts_again_when_its_change_is_refused(
    filesystem: FileSystem, store: LaggingStore
) -> None:
    store.stop()
    write(filesystem, "/a", b"first")
    refuse(store, "put", NoSpace)
    with pytest.raises(NoSpace):
        write(filesystem, "/a", b"second")
    store.hook = None
    assert read(filesystem, "/a") == b"first"
    assert names(filesystem, "/") == ["a"]


def test_a_refused_deletion_shows_what_was_stored(filesystem: FileSystem, store: LaggingStore) -> None:
    store.stop()
    write(filesystem, "/a", b"first")
    refuse(store, "delete", NoSpace)
    with pytest.raises(NoSpace):
        filesystem.unlink("/a")
    store.hook = None
    assert read(filesystem, "/a") == b"first"


@pytest.mark.parametrize("kind", [own, foreign])
def test_what_a_folder_rename_moves_is_at_the_new_place(
    filesystem: FileSystem, store: LaggingStore, kind: object
) -> None:
    assert callable(kind)
    for key in ("d/b", "d/s/c", "d/s/t/x"):
        kind(store, key, key.encode())
    store.stop()
    filesystem.rename("/d", "/e")
    assert names(filesystem, "/") == ["e"]
    assert names(filesystem, "/e") == ["b", "s"]
    assert names(filesystem, "/e/s") == ["c", "t"]
    assert read(filesystem, "/e/b") == b"d/b"
    assert read(filesystem, "/e/s/t/x") == b"d/s/t/x"
    with pytest.raises(FileNotFoundError):
        filesystem.getattr("/d/s/c")


def test_a_second_rename_moves_all_that_the_first_has_moved(
    filesystem: FileSystem, store: LaggingStore
) -> None:
    own(store, "d/b", b"b")
    foreign(store, "d/s/c", b"c")
    store.stop()
    filesystem.rename("/d", "/e")
    filesystem.rename("/e", "/f")
    assert read(filesystem, "/f/b") == b"b"
    assert read(filesystem, "/f/s/c") == b"c"
    assert names(filesystem, "/") == ["f"]
    store.go_on()
    assert keys(store) == ["f/b", "f/s/c"]


def test_a_folder_made_at_the_old_place_is_empty(filesystem: FileSystem, store: LaggingStore) -> None:
    own(store, "d/b", b"b")
    store.stop()
    filesystem.rename("/d", "/e")
    filesystem.mkdir("/d", 0o755, ME)
    assert names(filesystem, "/d") == []
    filesystem.rmdir("/d")
    with pytest.raises(OSError, match=os.strerror(errno.ENOTEMPTY)):
        filesystem.rmdir("/e")


def test_a_file_that_another_client_stores_again_at_the_old_place_is_there(
    filesystem: FileSystem, store: LaggingStore
) -> None:
    own(store, "d/b", b"b")
    filesystem.rename("/d", "/e")
    own(store, "d/b", b"theirs")
    assert names(filesystem, "/") == ["d", "e"]
    assert read(filesystem, "/d/b") == b"theirs"


def test_a_file_of_the_same_size_and_time_counts_as_another(
    filesystem: FileSystem, store: LaggingStore
) -> None:
    for name in ("a", "b"):
        write(filesystem, f"/{name}", name.encode())
        filesystem.utimens(f"/{name}", None, 10**18)
    store.stop()
    filesystem.rename("/a", "/b")
    assert read(filesystem, "/b") == b"a"
    assert names(filesystem, "/") == ["b"]


def test_a_deletion_counts_though_a_listing_lacked_the_name_already(
    filesystem: FileSystem, store: LaggingStore
) -> None:
    store.stop()
    write(filesystem, "/a", b"a")
    before = store.shown
    store.stop()
    store.shown, after = before, store.shown
    filesystem.unlink("/a")
    assert names(filesystem, "/") == []
    store.shown = after
    assert names(filesystem, "/") == []


def test_what_the_mount_moved_itself_does_not_come_back_at_the_old_place(
    filesystem: FileSystem, store: LaggingStore
) -> None:
    filesystem.mkdir("/d", 0o755, ME)
    own(store, "d/unlisted", b"")
    store.stop()
    write(filesystem, "/d/a", b"a")
    write(filesystem, "/d/b", b"b")
    filesystem.unlink("/d/b")
    shown = dict(store.shown or {})
    store.go_on()
    store.stop()
    after, store.shown = store.shown, shown
    filesystem.rename("/d", "/e")
    store.shown = after
    filesystem.mkdir("/d", 0o755, ME)
    assert names(filesystem, "/d") == []
    assert names(filesystem, "/e") == ["a", "unlisted"]


@pytest.mark.parametrize("kind", [own, foreign])
def test_listings_that_show_a_rename_cost_no_head(
    filesystem: FileSystem, store: LaggingStore, kind: object
) -> None:
    assert callable(kind)
    for key in ("d/b", "d/s/c"):
        kind(store, key, b"b")
    names(filesystem, "/d")
    filesystem.rename("/d", "/e")
    before = heads(store)
    assert names(filesystem, "/e") == ["b", "s"]
    assert names(filesystem, "/e/s") == ["c"]
    assert names(filesystem, "/") == ["e"]
    assert heads(store) == before


def test_a_version_of_the_same_size_and_time_is_not_taken_for_ours(
    filesystem: FileSystem, store: LaggingStore
) -> None:
    """As after `cp -p`, `tar` or a rename over a file of the same second."""
    own(store, "a", b"older")
    store.stop()
    write(filesystem, "/a", b"newer")
    filesystem.chmod("/a", 0o640)
    filesystem.utimens("/a", None, 1_700_000_000_000_000_001)
    filesystem.refresh()
    assert filesystem.getattr("/a").size == 5
    assert read(filesystem, "/a") == b"newer"


def test_what_was_deleted_is_not_in_a_folder_that_takes_its_place(
    filesystem: FileSystem, store: LaggingStore
) -> None:
    for path in ("/d", "/d/s", "/f"):
        filesystem.mkdir(path, 0o755, ME)
    write(filesystem, "/d/s/a", b"data")
    store.stop()
    filesystem.unlink("/d/s/a")
    for path in ("/d/s", "/d"):
        filesystem.rmdir(path)
    filesystem.rename("/f", "/d")
    assert names(filesystem, "/d") == []
    assert names(filesystem, "/") == ["d"]


def test_what_was_deleted_is_not_in_a_folder_made_at_the_old_place(
    filesystem: FileSystem, store: LaggingStore
) -> None:
    filesystem.mkdir("/d", 0o755, ME)
    write(filesystem, "/d/a", b"data")
    store.stop()
    filesystem.unlink("/d/a")
    filesystem.rename("/d", "/e")
    filesystem.mkdir("/d", 0o755, ME)
    filesystem.refresh()
    assert names(filesystem, "/d") == names(filesystem, "/e") == []


def test_a_folder_that_was_renamed_and_back_is_there_though_listings_show_it_away(
    filesystem: FileSystem, store: LaggingStore
) -> None:
    own(store, "d/a", b"data")
    names(filesystem, "/d")
    store.stop()
    first = store.shown
    filesystem.rename("/d", "/e")
    store.stop()
    between = store.shown
    filesystem.rename("/e", "/d")
    for shown in (first, between, first, between):
        store.shown = shown
        assert names(filesystem, "/") == ["d"]
        assert read(filesystem, "/d/a") == b"data"


def test_a_file_whose_attributes_change_during_its_upload_is_not_taken_for_an_older_version(
    store: LaggingStore, tmp_path: Path
) -> None:
    """The two versions have one size and one time."""
    with harness(store, tmp_path, "ttl=0,settle=0.05") as filesystem:
        write(filesystem, "/a", b"old")
        filesystem.utimens("/a", None, 10**18)
        wait_until(lambda: not filesystem.waiting())
        store.stop()
        halt = Halt(store, "put")
        write(filesystem, "/a", b"new")
        assert halt.reached.wait(within(20))
        filesystem.utimens("/a", None, 10**18)
        halt.go_on()
        wait_until(lambda: not filesystem.waiting())
        store.hook = None
        filesystem.refresh()
        assert names(filesystem, "/") == ["a"]
        assert read(filesystem, "/a") == b"new"
