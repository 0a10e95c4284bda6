"""Pinned copies stay in the cache: which are pinned, what is evicted instead, and what a full cache does."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.harness import ME, harness, put, read, write
from support.memory_store import MemoryStore
from support.stored_objects import foreign
from swiftfs.filecache.version_cache import Pin, Pins
from swiftfs.objects import ObjectName
from swiftfs.posix.filesystem import FileSystem

MIB = 1024 * 1024

SIZE = 4 * MIB
"""Of each file. The cache has space for eight, less than the option `cache_size` allows."""

OPTIONS = "prefetch=no,read_ahead=0,mtime=listing,segment_size=1M"


@pytest.fixture
def store() -> MemoryStore:
    """Files of `SIZE`: `kept/0` to `kept/7` and `other/0` to `other/7`."""
    store = MemoryStore("box", "box_segments")
    for number in range(8):
        foreign(store, f"kept/{number}", bytes([number]) * SIZE)
        foreign(store, f"other/{number}", bytes([100 + number]) * SIZE)
    return store


@contextmanager
def mounted(store: MemoryStore, tmp_path: Path, options: str = OPTIONS) -> Iterator[FileSystem]:
    cache = tmp_path / "cache"
    cache.mkdir(exist_ok=True)
    with harness(store, cache, options) as filesystem:
        filesystem.services.file_cache.space.set_limit(8 * SIZE)
        yield filesystem


def downloaded(store: MemoryStore, filesystem: FileSystem, *paths: str) -> list[str]:
    """Read files; return those of which bytes came from the server."""
    found = []
    for path in paths:
        before = len(store.requests)
        assert len(read(filesystem, path)) == SIZE
        if any(method == "get" for method, _ in store.requests[before:]):
            found.append(path)
    return found


KEPT = [f"/kept/{number}" for number in range(4)]
OTHERS = [f"/other/{number}" for number in range(8)]


@pytest.mark.usual
@pytest.mark.parametrize("path", ["/kept", "/"])
def test_pinned_copies_stay_and_others_go(store: MemoryStore, tmp_path: Path, path: str) -> None:
    with mounted(store, tmp_path) as filesystem:
        downloaded(store, filesystem, *KEPT)
        filesystem.getxattr("/kept", "swift.pin")
        assert filesystem.services.file_cache.pinned.bytes >= 4 * SIZE
        downloaded(store, filesystem, *OTHERS)
        assert downloaded(store, filesystem, *KEPT) == []
        assert downloaded(store, filesystem, OTHERS[0]) != []
    with mounted(store, tmp_path) as again:
        assert again.getxattr("/kept/0", "swift.pinned") == b"1"
        assert again.getxattr(path, "swift.pinned") == (b"1" if path == "/kept" else b"0")
        downloaded(store, again, *OTHERS)
        assert downloaded(store, again, *KEPT) == []
        again.getxattr("/kept", "swift.unpin")
        assert again.services.file_cache.pinned.bytes == 0
        downloaded(store, again, *OTHERS)
        assert downloaded(store, again, *KEPT) != []


@pytest.mark.usual
def test_new_files_in_a_pinned_folder_are_pinned(store: MemoryStore, tmp_path: Path) -> None:
    with mounted(store, tmp_path) as filesystem:
        filesystem.getxattr("/kept", "swift.pin")
        write(filesystem, "/kept/new", bytes(SIZE))
        assert filesystem.getxattr("/kept/new", "swift.pinned") == b"1"
        downloaded(store, filesystem, *OTHERS)
        assert downloaded(store, filesystem, "/kept/new") == []


def test_a_pin_never_reaches_the_server(store: MemoryStore, tmp_path: Path) -> None:
    with mounted(store, tmp_path) as filesystem:
        filesystem.getxattr("/kept/0", "swift.pin")
        assert filesystem.listxattr("/kept/0") == []
    assert store.head(ObjectName("box", "kept/0")).metadata == {}
    assert [method for method, _ in store.requests if method == "post"] == []


@pytest.mark.usual
def test_a_cache_that_is_full_of_pins_still_reads_and_writes(
    store: MemoryStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with mounted(store, tmp_path) as filesystem:
        filesystem.getxattr("/", "swift.pin")
        downloaded(store, filesystem, *KEPT, *OTHERS)
        cache = filesystem.services.file_cache
        assert "MiB is pinned" in caplog.text
        handle = filesystem.create("/new", 0o644, os.O_WRONLY, ME)
        for number in range(6):
            put(filesystem, handle, number * MIB, bytes(MIB))
        filesystem.flush(handle)
        filesystem.release(handle)
        assert len(read(filesystem, "/new")) == 6 * MIB
        assert cache.space.use()[0] <= cache.space.limit + 4 * MIB


@pytest.mark.usual
def test_an_old_version_is_pinned_no_more(store: MemoryStore, tmp_path: Path) -> None:
    with mounted(store, tmp_path, f"{OPTIONS},ttl=0") as filesystem:
        filesystem.getxattr("/kept", "swift.pin")
        downloaded(store, filesystem, "/kept/0")
        foreign(store, "kept/0", os.urandom(SIZE))
        downloaded(store, filesystem, "/kept/0")
        assert filesystem.services.file_cache.pinned.bytes < 3 * SIZE // 2


def test_which_names_a_pin_covers(tmp_path: Path) -> None:
    pins = Pins(tmp_path / "pins.json")
    assert not pins.covers(ObjectName("box", "a/b"))
    pins.add(Pin("box", "a/"))
    pins.add(Pin("box", "file"))
    again = Pins(tmp_path / "pins.json")
    assert (tmp_path / "pins.json").stat().st_mode & 0o777 == 0o600
    for name, is_covered in (("a/b", True), ("a/b/c", True), ("ab", False), ("file", True), ("file2", False)):
        assert again.covers(ObjectName("box", name)) is is_covered
    assert not again.covers(ObjectName("other", "a/b"))
    again.add(Pin("", ""))
    assert again.covers(ObjectName("other", "a/b"))
    again.remove(Pin("", ""))
    assert again.all() == []


def test_a_damaged_file_pins_nothing(tmp_path: Path) -> None:
    (tmp_path / "pins.json").write_text("[1, 2")
    assert Pins(tmp_path / "pins.json").all() == []
