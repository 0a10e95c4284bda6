"""The rename of a folder with a large object of another client and its segments, which the manifest names."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from support.fault_operations import content
from support.halted_moves import Halt
from support.harness import harness, read, sync_all, write
from support.interrupted_moves import interrupted, remounted
from support.memory_store import MemoryStore
from support.noise import OLD
from support.stored_objects import copy, keys
from swiftfs.errors import NotFound
from swiftfs.journal import shared_copies
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


def with_nested_slo(prefix: str) -> MemoryStore:
    store, parts = with_parts(prefix)
    inner = ObjectName("box", "elsewhere")
    info = store.put_manifest(inner, Manifest(parts), Headers("video/x"))
    store.put_manifest(
        MOVIE, Manifest((Segment(inner, info.version.etag, len(OLD), nested=True),)), Headers("video/x")
    )
    return store


def with_filled_dlo(prefix: str) -> MemoryStore:
    store, _ = with_parts(prefix)
    store.put(MOVIE, b"of its own", Headers("video/x", {}, {"X-Object-Manifest": f"box/{prefix}"}))
    return store


@pytest.mark.parametrize(
    ("make", "prefix"),
    [(with_nested_slo, "d/seg/"), (with_filled_dlo, "d/movie-"), (with_filled_dlo, "d/movie/")],
)
def test_manifests_of_manifests_and_those_with_bytes_are_looked_into(
    tmp_path: Path, make: Make, prefix: str
) -> None:
    store = make(prefix)
    before = keys(store)
    with harness(store, tmp_path, "sync") as filesystem:
        assert refused(filesystem) == errno.EXDEV
    assert keys(store) == before


def test_an_object_with_bytes_is_asked_about_if_its_name_begins_another_s(tmp_path: Path) -> None:
    store = MemoryStore("box")
    for name in ("1", "10", "a", "a.txt", "b"):
        store.put(ObjectName("box", f"d/{name}"), b"plain", Headers("text/plain"))
    with harness(store, tmp_path, "sync") as filesystem:
        store.requests.clear()
        filesystem.rename("/d", "/e")
    assert [subject for method, subject in store.requests if method == "head"] == ["box/d/a"]


@BOTH
def test_a_folder_without_the_parts_moves(tmp_path: Path, make: Make) -> None:
    store = make("parts/")
    with harness(store, tmp_path, "sync") as filesystem:
        filesystem.rename("/d", "/e")
        assert read(filesystem, "/e/movie") == OLD
    assert content(store, ObjectName("box", "e/movie")) == OLD
    with pytest.raises(NotFound):
        store.head(MOVIE)


BACKGROUND = "background_rename=1,settle=0.1,segment_size=1M"


@BOTH
def test_a_rename_in_the_background_looks_for_the_parts_before_it_copies(tmp_path: Path, make: Make) -> None:
    store = make("d/seg/")
    with harness(store, tmp_path, BACKGROUND) as filesystem:
        assert refused(filesystem) == errno.EXDEV
        assert "copy" not in [method for method, _ in store.requests]
    assert content(store, MOVIE) == OLD


def test_it_finds_them_when_this_mount_has_changed_the_attributes(tmp_path: Path) -> None:
    store = with_slo("d/seg/")
    with harness(store, tmp_path, BACKGROUND) as filesystem:
        filesystem.chmod("/d/movie", 0o600)
        sync_all(filesystem)
        assert refused(filesystem) == errno.EXDEV
    assert content(store, MOVIE) == OLD


def test_it_asks_about_the_objects_of_others_alone(tmp_path: Path) -> None:
    store = with_slo("parts/")
    with harness(store, tmp_path, BACKGROUND) as filesystem:
        write(filesystem, "/d/own", b"own")
        write(filesystem, "/d/own large", OLD)
        sync_all(filesystem)
        store.requests.clear()
        halt = Halt(store, "copy")
        filesystem.rename("/d", "/e")
        asked = sorted(one for one in store.requests if one[0] in ("head", "manifest"))
        halt.go_on()
    large = [("manifest", "box/d/movie"), ("manifest", "box/d/own large")]
    # An empty object may be a DLO.
    assert asked == [("head", "box/d/empty"), ("head", "box/d/movie"), ("head", "box/d/plain"), *large]


@pytest.mark.parametrize("prefix", ["parts/", "d/seg/"])
def test_with_many_objects_of_others_it_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    monkeypatch.setattr(shared_copies, "MOST_ASKED", 1)
    store = with_slo(prefix)
    with harness(store, tmp_path, BACKGROUND) as filesystem:
        if prefix == "parts/":
            filesystem.rename("/d", "/e")
            assert not [key for key in keys(store) if key.startswith("d/")]
        else:
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
