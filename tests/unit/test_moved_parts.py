"""The rename of a folder with a large object of another client and its segments, which the manifest names."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from support.fault_operations import content
from support.harness import harness, read
from support.interrupted_moves import interrupted, remounted
from support.memory_store import MemoryStore
from support.noise import OLD
from support.stored_objects import copy, keys
from swiftfs.errors import NotFound
from swiftfs.journal.moves import Unmoved
from swiftfs.objects import Manifest, ObjectName, Segment
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.protocol import Headers

PART = 700_000

MOVIE = ObjectName("box", "d/movie")

Make = Callable[[str], MemoryStore]


def with_parts(prefix: str) -> tuple[MemoryStore, tuple[Segment, ...]]:
    store = MemoryStore("box")
    parts = []
    for number in range(-(-len(OLD) // PART)):
        body, name = OLD[number * PART : (number + 1) * PART], ObjectName("box", f"{prefix}{number}")
        etag = store.put(name, body, Headers("x/y")).version.etag
        parts.append(Segment(name, etag, len(body)))
    store.put(ObjectName("box", "d/plain"), b"plain", Headers("text/plain"))
    store.put(ObjectName("box", "d/empty"), b"", Headers("text/plain"))
    return store, tuple(parts)


def with_dlo(prefix: str) -> MemoryStore:
    store, _ = with_parts(prefix)
    store.put(MOVIE, b"", Headers("video/x", {}, {"X-Object-Manifest": f"box/{prefix}"}))
    return store


def with_slo(prefix: str) -> MemoryStore:
    store, parts = with_parts(prefix)
    store.put_manifest(MOVIE, Manifest(parts), Headers("video/x"))
    return store


def refused(filesystem: FileSystem) -> int | None:
    """Return the number of the error with which the rename fails."""
    with pytest.raises(Unmoved) as caught:
        filesystem.rename("/d", "/e")
    return caught.value.errno


BOTH = pytest.mark.parametrize("make", [with_dlo, with_slo])


@BOTH
@pytest.mark.parametrize("prefix", ["d/seg/", "d/movie-"])
def test_a_folder_with_the_parts_of_a_large_object_must_be_copied(
    tmp_path: Path, make: Make, prefix: str
) -> None:
    store = make(prefix)
    before = keys(store)
    with harness(store, tmp_path, "sync") as filesystem:
        assert refused(filesystem) == errno.EXDEV
        assert read(filesystem, "/d/movie") == OLD
    assert keys(store) == before
    assert content(store, MOVIE) == OLD


@BOTH
def test_a_folder_without_the_parts_moves(tmp_path: Path, make: Make) -> None:
    store = make("parts/")
    with harness(store, tmp_path, "sync") as filesystem:
        filesystem.rename("/d", "/e")
        assert read(filesystem, "/e/movie") == OLD
    assert content(store, ObjectName("box", "e/movie")) == OLD
    with pytest.raises(NotFound):
        store.head(MOVIE)


def test_a_rename_in_the_background_looks_for_the_parts_of_a_dlo(tmp_path: Path) -> None:
    store = with_dlo("d/seg/")
    with harness(store, tmp_path, "background_rename=1,settle=0.1") as filesystem:
        assert refused(filesystem) == errno.EXDEV
    assert content(store, MOVIE) == OLD


@BOTH
@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("copied", [(), ("movie",), ("movie", "seg/0", "seg/1", "plain", "empty")])
def test_an_interrupted_rename_of_the_parts_is_undone(
    tmp_path: Path, make: Make, copied: tuple[str, ...], *, recorded: bool
) -> None:
    if copied and not recorded:
        return  # no object is copied before all are recorded
    store = make("d/seg/")
    before = keys(store)
    operation = interrupted(store, recorded=recorded)
    for name in copied:
        copy(store, f"d/{name}", f"e/{name}")
    with remounted(store, tmp_path, operation, close_error="given up") as filesystem:
        assert read(filesystem, "/d/movie") == OLD
    assert keys(store) == before
    assert content(store, MOVIE) == OLD
