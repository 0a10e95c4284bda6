"""What lies below the prefix of another client's DLO is a part of that object: our segments never do."""

from collections.abc import Callable
from pathlib import Path

import pytest

from support.fault_operations import content
from support.harness import change, harness, read, write
from support.memory_store import MemoryStore
from support.noise import NEWER, OLD
from swiftfs.objects import ObjectName
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.protocol import Headers

MIB = 1024 * 1024

FILE = ObjectName("box", "film")

OPTIONS = "segment_size=1M,sync"


@pytest.fixture(params=["box_segments/film/", "box_segments/film"])
def store(request: pytest.FixtureRequest) -> MemoryStore:
    """A store with a DLO of another client, whose segments are named after it, as in Swift's own guide."""
    return with_dlo(request.param)


def with_dlo(prefix: str) -> MemoryStore:
    made = MemoryStore("box")
    made.create_container("box_segments")
    for number in range(-(-len(OLD) // MIB)):
        part = OLD[number * MIB : (number + 1) * MIB]
        made.put(ObjectName("box_segments", f"film/{number:08d}"), part, Headers("x/y"))
    made.put(FILE, b"", Headers("text/plain", {}, {"X-Object-Manifest": prefix}))
    assert content(made, FILE) == OLD
    return made


def append(filesystem: FileSystem) -> bytes:
    change(filesystem, "/film", len(OLD), b"more")
    return OLD + b"more"


def patch(filesystem: FileSystem) -> bytes:
    change(filesystem, "/film", MIB, b"changed")
    return OLD[:MIB] + b"changed" + OLD[MIB + 7 :]


def rewrite(filesystem: FileSystem) -> bytes:
    write(filesystem, "/film", NEWER)
    return NEWER


@pytest.mark.parametrize("prefix", ["box_segments/film/", "box_segments/film", "box_segments/"])
@pytest.mark.parametrize("edit", [append, patch, rewrite])
def test_a_dlo_is_changed_as_a_whole(
    tmp_path: Path, edit: Callable[[FileSystem], bytes], prefix: str
) -> None:
    store = with_dlo(prefix)
    with harness(store, tmp_path, OPTIONS) as filesystem:
        assert content(store, FILE) == OLD
        expected = edit(filesystem)
        assert content(store, FILE) == expected
    (tmp_path / "other").mkdir()
    with harness(store, tmp_path / "other", OPTIONS) as filesystem:
        assert read(filesystem, "/film") == expected


def test_a_moved_dlo_keeps_its_bytes_when_a_large_file_gets_its_old_name(
    store: MemoryStore, tmp_path: Path
) -> None:
    with harness(store, tmp_path, OPTIONS) as filesystem:
        filesystem.rename("/film", "/kept")
        write(filesystem, "/film", NEWER)
        assert content(store, ObjectName("box", "kept")) == OLD
        filesystem.unlink("/film")
        assert content(store, ObjectName("box", "kept")) == OLD


def test_a_moved_dlo_keeps_its_bytes_in_a_container_that_was_given_for_segments(tmp_path: Path) -> None:
    store = MemoryStore("box", "bits")
    store.put(ObjectName("bits", "box/film/0"), OLD, Headers("x/y"))
    store.put(FILE, b"", Headers("text/plain", {}, {"X-Object-Manifest": "bits/box/film/"}))
    with harness(store, tmp_path, f"{OPTIONS},segments=bits") as filesystem:
        filesystem.rename("/film", "/kept")
        write(filesystem, "/film", NEWER)
        assert content(store, ObjectName("box", "kept")) == OLD


def test_a_dlo_in_the_trash_keeps_its_bytes(store: MemoryStore, tmp_path: Path) -> None:
    with harness(store, tmp_path, f"{OPTIONS},trash=30") as filesystem:
        assert filesystem.getattr("/film").size == len(OLD)
        filesystem.unlink("/film")
        write(filesystem, "/film", NEWER)
    kept = [row.key for row in store.list_page("box", prefix=".trash/").rows if "/film@" in row.key]
    assert [content(store, ObjectName("box", key)) for key in kept] == [OLD]
