"""Many objects of other clients are deleted without a HEAD each: listings show which have segments."""

from collections import Counter
from pathlib import Path

import pytest

from support.harness import harness
from support.memory_store import MemoryStore
from support.stored_objects import foreign, keys, refuse, segments
from swiftfs.errors import AccessDenied, Unavailable
from swiftfs.journal.deletions import FEWEST_OBJECTS
from swiftfs.objects import Limits, Manifest, ObjectName, Segment
from swiftfs.store.protocol import Headers

FILES = [f"{number:03d}" for number in range(60)]
OPTIONS = "mtime=listing,settle=1000"
UPLOAD = "slo/1795427137.042741/5/3"


@pytest.fixture
def store() -> MemoryStore:
    """Return a store with plain objects of another client, and large ones whose segments are theirs."""
    store = MemoryStore("box", "box_segments")
    fill(store)
    return store


def fill(store: MemoryStore) -> None:
    store.put(ObjectName("box", "folder"), b"", Headers("application/directory"))
    for name in FILES:
        foreign(store, f"folder/{name}", b"x")


def large(store: MemoryStore, key: str, owner: str, container: str = "box_segments", place: str = "") -> None:
    """Store an SLO `key` as another client does, with a segment that was uploaded for `owner`."""
    segment = ObjectName(container, f"{place}{owner}/{UPLOAD}/00000000")
    info = store.put(segment, b"bytes", Headers("application/octet-stream"))
    manifest = Manifest((Segment(segment, info.version.etag, info.size),))
    store.put_manifest(ObjectName("box", key), manifest, Headers("text/plain"))


def remove_all(store: MemoryStore, cache: Path, options: str = OPTIONS, *, names: int = 1000) -> Counter[str]:
    """Delete the first files of the folder, and return the requests; the folder is known before."""
    with harness(store, cache, options) as filesystem:
        filesystem.getattr("/folder")
        children = filesystem.services.namespace.children("/folder")
        found = [entry.name for entry in children if not entry.is_directory]
        store.requests.clear()
        for name in found[:names]:
            filesystem.unlink(f"/folder/{name}")
    return Counter(method for method, _ in store.requests)


def segment_of(owner: str) -> str:
    return f"{owner}/{UPLOAD}/00000000"


def test_plain_objects(store: MemoryStore, tmp_path: Path) -> None:
    large(store, "elsewhere", "elsewhere")
    cost = remove_all(store, tmp_path)
    assert cost == {"list_page": 4, "delete_many": 1}
    assert keys(store) == ["elsewhere", "folder"]
    assert segments(store) == {segment_of("elsewhere")}


def test_few_objects(store: MemoryStore, tmp_path: Path) -> None:
    assert remove_all(store, tmp_path, names=FEWEST_OBJECTS - 1) == {
        "head": FEWEST_OBJECTS - 1,
        "delete_many": 1,
    }
    assert len(keys(store)) == 1 + len(FILES) - FEWEST_OBJECTS + 1


@pytest.mark.parametrize(
    ("container", "place"),
    [("box_segments", ""), ("box", ".swiftfs-segments/"), ("box", ".file-segments/"), ("bits", "box/")],
)
def test_large_objects_among_them(store: MemoryStore, tmp_path: Path, container: str, place: str) -> None:
    """Their own segments go with them; those of another object stay."""
    store.create_container("bits")
    for key, owner in (("folder/large", "folder/large"), ("folder/other", "elsewhere/other")):
        large(store, key, owner, container, place)
    cost = remove_all(store, tmp_path, f"{OPTIONS},segments=bits" if container == "bits" else OPTIONS)
    assert cost["head"] == cost["manifest"] == 1
    left = [name for box in ("box", "box_segments", "bits") for name in keys(store, box)]
    assert sorted(left) == sorted(["folder", f"{place}{segment_of('elsewhere/other')}"])


def test_an_object_below_a_large_one(store: MemoryStore, tmp_path: Path) -> None:
    """The segments of `folder/a/b` lie below those of `folder/a`."""
    large(store, "folder/059/below", "folder/059/below")
    remove_all(store, tmp_path)
    assert segments(store) == {segment_of("folder/059/below")}


@pytest.mark.parametrize("error", [AccessDenied, Unavailable])
def test_a_place_that_cannot_be_listed(store: MemoryStore, tmp_path: Path, error: type[Exception]) -> None:
    large(store, "folder/large", "folder/large")

    refuse(store, "list_page", error, about="^box_segments/")
    cost = remove_all(store, tmp_path)
    store.hook = None
    assert cost["head"] == len(FILES) + 1
    assert keys(store) == ["folder"]
    assert segments(store) == set()


def test_a_place_with_very_many_segments(tmp_path: Path) -> None:
    """What is not listed for the price of the HEADs is asked for."""
    store = MemoryStore("box", "box_segments", limits=Limits(listing=20, bulk_delete=1000))
    fill(store)
    for name in FILES[20:]:
        large(store, f"folder/{name}", f"folder/{name}")
    cost = remove_all(store, tmp_path)
    assert 40 <= cost["head"] < len(FILES)
    assert cost["manifest"] == 40
    assert segments(store) == set()


def test_an_object_that_was_renamed(store: MemoryStore, tmp_path: Path) -> None:
    """Its segments have the old name: the journal knows whose they are."""
    large(store, "folder/old", "folder/old")
    with harness(store, tmp_path, OPTIONS) as filesystem:
        filesystem.rename("/folder/old", "/folder/new")
    remove_all(store, tmp_path)
    assert segments(store) == set()
