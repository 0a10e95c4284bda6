"""A mount without its server: it shows what was listed and read, invents nothing, and keeps every change."""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from support.harness import ANY_END, ME, copy_live, harness, listed, names, read, sync_all, write
from support.memory_store import MemoryStore
from support.old_databases import rewrite
from support.stored_objects import foreign
from swiftfs.errors import Offline, StoreError, errno_of
from swiftfs.namespace import kept_listings
from swiftfs.objects import Limits
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.server_state import Presence

OPTIONS = "offline=yes,settle=0.01,mtime=listing"

PAGE = 50
"""Rows of a page of the store's listings."""


@pytest.fixture
def store() -> MemoryStore:
    """Three folders, the last of several pages."""
    store = MemoryStore("box", "box_segments", limits=Limits(listing=PAGE))
    for key in ("top", "one/a", "one/b", "two/a", *(f"huge/{number:03d}" for number in range(180))):
        foreign(store, key, b"bytes of " + key.encode())
    return store


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir()
    return folder


@contextmanager
def online(store: MemoryStore, cache: Path, options: str = OPTIONS) -> Iterator[FileSystem]:
    with harness(store, cache, options) as filesystem:
        yield filesystem


@contextmanager
def offline(
    store: MemoryStore, cache: Path, options: str = OPTIONS, end: str | None = None
) -> Iterator[FileSystem]:
    """Mount while the server is away; assert that no request is sent."""
    presence = Presence()
    presence.leave("no answer")
    before = len(store.requests)
    with harness(store, cache, options, presence=presence, close_error=end) as filesystem:
        yield filesystem
        assert store.requests[before:] == []


def has(store: MemoryStore, key: str) -> bool:
    return bool(store.list_page("box", prefix=key, limit=1).rows)


def kept_blocks(cache: Path) -> list[bytes]:
    """Return the packed rows in the cache folder of a mount that has ended."""
    with closing(sqlite3.connect(cache / "listings.sqlite")) as database:
        return [packed for (packed,) in database.execute("SELECT packed FROM blocks")]


def number_of(call: pytest.ExceptionInfo[BaseException]) -> int:
    return errno_of(call.value)


@pytest.mark.parametrize("is_killed", [False, True])
def test_what_was_listed_is_shown(store: MemoryStore, cache: Path, is_killed: bool) -> None:
    image = cache.with_name("image")
    with online(store, cache) as first:
        before = {path: listed(first, path) for path in ("/", "/one", "/huge")}
        if is_killed:
            assert first.services.namespace.recall_root()  # it writes what waits
            copy_live(cache, image)
    with offline(store, image if is_killed else cache) as filesystem:
        assert {path: listed(filesystem, path) for path in before} == before
        assert filesystem.getattr("/huge/179").size == before["/huge"]["179"].size
        assert filesystem.statfs("/").free_bytes > 0


def test_nothing_is_invented(store: MemoryStore, cache: Path) -> None:
    with online(store, cache) as first:
        listed(first, "/")
        listed(first, "/one")
    with offline(store, cache) as filesystem:
        with pytest.raises(Offline) as unknown:
            listed(filesystem, "/two")
        assert number_of(unknown) == errno.EIO
        with pytest.raises(Offline):
            filesystem.getattr("/two/a")
        with pytest.raises(FileNotFoundError):
            filesystem.getattr("/one/absent")


def test_nothing_is_known_at_first(store: MemoryStore, cache: Path) -> None:
    with pytest.raises(AssertionError, match="nothing is known"), offline(store, cache):
        pass


def test_cached_bytes_are_read_and_others_fail_at_once(store: MemoryStore, cache: Path) -> None:
    with online(store, cache) as first:
        listed(first, "/one")
        assert read(first, "/one/a") == b"bytes of one/a"
    with offline(store, cache) as filesystem:
        assert read(filesystem, "/one/a") == b"bytes of one/a"
        with pytest.raises(StoreError) as missing:
            read(filesystem, "/one/b")
        assert number_of(missing) == errno.EIO


def test_changes_wait_and_are_stored_later(store: MemoryStore, cache: Path) -> None:
    with online(store, cache) as first:
        listed(first, "/one")
        listed(first, "/")
    with offline(store, cache, end=ANY_END) as filesystem:
        write(filesystem, "/one/new", b"written offline")
        filesystem.mkdir("/fresh", 0o755, ME)
        write(filesystem, "/fresh/file", b"in a new folder")
        filesystem.rename("/fresh/file", "/fresh/renamed")
        filesystem.unlink("/one/b")
        assert read(filesystem, "/one/new") == b"written offline"
        assert names(filesystem, "/one") == ["a", "new"]
        assert names(filesystem, "/fresh") == ["renamed"]
    with offline(store, cache, end=ANY_END) as again:
        assert read(again, "/one/new") == b"written offline"
        assert sorted(names(again, "/one")) == ["a", "new"]
    with online(store, cache) as last:
        assert read(last, "/fresh/renamed") == b"in a new folder"
    assert all(has(store, key) for key in ("one/new", "fresh", "fresh/renamed"))
    assert not has(store, "one/b")


def test_what_this_mount_has_stored_since_is_shown(store: MemoryStore, cache: Path) -> None:
    """The listing on the disk is older than these changes."""
    with online(store, cache) as first:
        listed(first, "/one")
        listed(first, "/")
        write(first, "/one/new", b"stored")
        first.unlink("/one/b")
        first.mkdir("/made", 0o755, ME)
        write(first, "/made/inside", b"stored")
    with offline(store, cache) as filesystem:
        assert sorted(names(filesystem, "/one")) == ["a", "new"]
        assert names(filesystem, "/made") == ["inside"]
        assert read(filesystem, "/made/inside") == b"stored"


def test_a_renamed_folder_is_unknown_at_its_old_name(store: MemoryStore, cache: Path) -> None:
    with online(store, cache) as first:
        listed(first, "/")
        listed(first, "/one")
        first.rename("/one", "/renamed")
    with offline(store, cache) as filesystem:
        assert "one" not in names(filesystem, "/")
        with pytest.raises(FileNotFoundError):
            filesystem.getattr("/one")
        assert "renamed" in names(filesystem, "/")


@pytest.mark.parametrize("seconds", [0, 310])
def test_a_file_beside_a_folder_that_was_removed_has_its_name(
    store: MemoryStore, cache: Path, seconds: int
) -> None:
    foreign(store, "one", b"a file")
    with online(store, cache, f"{OPTIONS},ttl=1000") as first:
        assert names(first, "/") == ["huge", "one", "one%file", "top", "two"]
        for name in ("a", "b"):
            first.unlink(f"/one/{name}")
        first.rmdir("/one")
        sync_all(first)
    rewrite(cache / "journal.sqlite", f"UPDATE recent SET at = at - {seconds}, clock = clock - {seconds}")
    with offline(store, cache) as filesystem:
        assert names(filesystem, "/") == ["huge", "one", "top", "two"]
        assert not filesystem.getattr("/one").is_directory


def test_the_server_comes_back(store: MemoryStore, cache: Path) -> None:
    with online(store, cache) as first:
        listed(first, "/one")
        listed(first, "/")
    foreign(store, "one/later", b"by another client")
    presence = Presence()
    presence.leave("no answer")
    with harness(store, cache, OPTIONS, presence=presence) as filesystem:
        write(filesystem, "/one/new", b"written offline")
        assert sorted(names(filesystem, "/one")) == ["a", "b", "new"]
        presence.come_back()
        filesystem.come_back(store.container_usage("box"))
        sync_all(filesystem)
        assert has(store, "one/new")
        names(filesystem, "/one")  # asks for the listing
        assert "later" in names(filesystem, "/one")
        assert read(filesystem, "/two/a") == b"bytes of two/a"


def test_another_source_knows_nothing_of_it(store: MemoryStore, cache: Path) -> None:
    store.create_container("other")
    with online(store, cache) as first:
        listed(first, "/")
    with harness(store, cache, OPTIONS, source="other"):
        pass
    with pytest.raises(AssertionError, match="nothing is known"), offline(store, cache):
        pass


def test_an_account_is_shown(store: MemoryStore, cache: Path) -> None:
    with harness(store, cache, OPTIONS, source="/") as first:
        before = names(first, "/")
        listed(first, "/box")
    presence = Presence()
    presence.leave("no answer")
    with harness(store, cache, OPTIONS, source="/", presence=presence) as filesystem:
        assert names(filesystem, "/") == before == ["box"]
        assert "one" in names(filesystem, "/box")


def test_a_damaged_file_costs_only_what_is_known(store: MemoryStore, cache: Path) -> None:
    with online(store, cache) as first:
        listed(first, "/")
    (cache / "listings.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(AssertionError, match="nothing is known"), offline(store, cache):
        pass
    with online(store, cache) as again:
        listed(again, "/")
    with offline(store, cache) as filesystem:
        assert "one" in names(filesystem, "/")


def test_the_folders_used_longest_ago_go_first(
    store: MemoryStore, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with online(store, cache, f"{OPTIONS},ttl=0") as first:
        listed(first, "/huge")
    size = sum(map(len, kept_blocks(cache)))
    monkeypatch.setattr(kept_listings, "CAPACITY", 2 * size)
    for number in range(120):
        foreign(store, f"one/{number}", str(number).encode())
        foreign(store, f"two/{number}", str(-number).encode())
    with online(store, cache, f"{OPTIONS},ttl=0") as first:
        for path in ("/one", "/two", "/"):
            listed(first, path)
            assert first.services.namespace.recall_root()  # it writes what waits
    with offline(store, cache) as filesystem:
        assert "one" in names(filesystem, "/")
        with pytest.raises(Offline):
            names(filesystem, "/huge")


def test_the_files_are_private(store: MemoryStore, cache: Path) -> None:
    with online(store, cache) as first:
        listed(first, "/")
    assert (cache / "listings.sqlite").stat().st_mode & 0o777 == 0o600
