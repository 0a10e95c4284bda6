"""A HEAD that says another size than its version has, because a proxy has spoiled it, is not believed."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from support.harness import harness, read
from support.memory_store import MemoryStore
from support.stored_objects import body, foreign
from swiftfs.errors import Corrupt
from swiftfs.namespace.entry import Defaults, Entry, file_entry
from swiftfs.namespace.head_cache import HeadCache
from swiftfs.namespace.head_fetcher import HeadFetcher, key_of
from swiftfs.objects import Manifest, ObjectInfo, ObjectName, Row, Segment
from swiftfs.store.protocol import Headers

NAME = ObjectName("box", "file")


class SpoiledStore(MemoryStore):
    """A store in memory whose next `spoiled` HEADs say that objects have `size` bytes."""

    size = 7
    spoiled = 0

    def head(self, name: ObjectName) -> ObjectInfo:
        """Return what a HEAD of an object says."""
        info = super().head(name)
        if not self.spoiled:
            return info
        self.spoiled -= 1
        return replace(info, size=self.size)

    def heads(self) -> int:
        """Return how many HEADs were sent."""
        return sum(method == "head" for method, _ in self.requests)


def plain(store: MemoryStore) -> None:
    foreign(store, "file", b"content of the file")


def large(store: MemoryStore) -> None:
    segment = ObjectName("box", "segments/1")
    info = store.put(segment, b"content of the file", Headers("text/plain"))
    store.put_manifest(
        NAME, Manifest((Segment(segment, info.version.etag, info.size),)), Headers("text/plain")
    )


KINDS = pytest.mark.parametrize("make", [plain, large])

Make = Callable[[MemoryStore], None]


@pytest.fixture
def store() -> SpoiledStore:
    return SpoiledStore("box")


def listed(store: MemoryStore) -> Entry:
    """Return the entry of the file as a listing shows it."""
    row: Row = next(row for row in store.list_page("box").rows if row.key == "file")
    return file_entry("file", "box", row, Defaults(0, 0))


@KINDS
def test_a_size_that_the_listing_contradicts_is_asked_again(store: SpoiledStore, make: Make) -> None:
    make(store)
    entry = listed(store)
    with closing(HeadFetcher(store, HeadCache())) as fetcher:
        store.spoiled = 1
        assert fetcher.ask(entry).result().size == 19
        store.requests.clear()
        store.spoiled = 2
        with pytest.raises(Corrupt, match="the answer says 7 bytes, and the listing 19"):
            fetcher.ask(entry).result()
        assert store.heads() == 2


@KINDS
def test_a_right_size_costs_one_head(store: SpoiledStore, make: Make) -> None:
    make(store)
    store.requests.clear()
    with closing(HeadFetcher(store, HeadCache())) as fetcher:
        fetcher.ask(listed(store)).result()
    assert store.heads() == 1


@KINDS
def test_a_version_after_the_listing_may_have_any_size(store: SpoiledStore, make: Make) -> None:
    foreign(store, "file", b"older")
    entry = listed(store)
    make(store)
    with closing(HeadFetcher(store, HeadCache())) as fetcher:
        assert fetcher.ask(entry).result().size == 19


def test_a_wrong_size_that_was_kept_is_not_used(store: SpoiledStore) -> None:
    plain(store)
    entry, cache = listed(store), HeadCache()
    cache.remember(key_of(entry), replace(store.head(NAME), size=0))
    with closing(HeadFetcher(store, cache)) as fetcher:
        assert fetcher.recall(entry) is None
        fetcher.remember(entry, store.head(NAME))
        assert fetcher.recall(entry) is not None


@KINDS
def test_a_mount_shows_and_keeps_nothing_of_it(store: SpoiledStore, make: Make, tmp_path: Path) -> None:
    make(store)
    with harness(store, tmp_path) as filesystem:
        store.spoiled = 1000
        with pytest.raises(Corrupt):
            filesystem.getattr("/file")
        store.spoiled = 0
        assert filesystem.getattr("/file").size == 19
        assert read(filesystem, "/file") == b"content of the file"
    assert body(store, "file") == b"content of the file"
