"""A change that Swift does not have yet: what the namespace shows before and after it is executed."""

from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from support.memory_store import MemoryStore
from swiftfs.namespace.entry import Defaults, Entry, ForeignTimes
from swiftfs.namespace.head_cache import HeadCache
from swiftfs.namespace.head_fetcher import HeadFetcher
from swiftfs.namespace.namespace import Namespace
from swiftfs.objects import ObjectInfo, ObjectName, ObjectVersion
from swiftfs.paths import Source
from swiftfs.store.protocol import Headers

DEFAULTS = Defaults(0, 0, times=ForeignTimes.LISTING)
NAME = ObjectName("box", "file")


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    store = MemoryStore("box")
    store.put(NAME, b"old", Headers("text/plain"))
    built = Namespace(
        store, HeadFetcher(store, HeadCache(None)), Source("box"), DEFAULTS, ttl=60, max_entries=100
    )
    assert built.lookup("/file").attributes.size == 3
    yield built
    built.close()


def entry(size: int, etag: str = "") -> Entry:
    return Entry("file", NAME, DEFAULTS.file(size, 0, 1), etag=etag)


def test_a_confirmed_change_shows_the_stored_version(namespace: Namespace) -> None:
    change = namespace.record_pending("/file", entry(5))
    assert namespace.lookup("/file") == entry(5)
    change.confirm(entry(5, "stored"))
    assert namespace.lookup("/file") == entry(5, "stored")


def test_a_change_that_is_rolled_back_shows_what_swift_has(namespace: Namespace) -> None:
    change = namespace.record_pending("/file", None)
    assert namespace.find("/file") is None
    change.rollback()
    assert namespace.lookup("/file").attributes.size == 3


def test_the_end_of_an_older_change_leaves_the_newer_one(namespace: Namespace) -> None:
    first = namespace.record_pending("/file", entry(1))
    second = namespace.record_pending("/file", entry(2))
    third = namespace.record_pending("/file", entry(3))
    first.confirm(entry(1, "first"))
    assert namespace.lookup("/file") == entry(3)
    second.rollback()
    assert namespace.lookup("/file") == entry(3)
    third.confirm(entry(3, "third"))
    assert namespace.lookup("/file") == entry(3, "third")


def test_an_answer_to_a_head_is_kept_at_the_confirmation(namespace: Namespace) -> None:
    made = replace(entry(4), complete=False, last_modified="2026-01-01T00:00:00.000000")
    change = namespace.record_pending("/file", made)
    info = ObjectInfo(ObjectVersion(NAME, "etag"), 4, "text/plain", 0, {}, {}, is_slo=False)
    better = namespace.learn("/file", made, info)
    change.confirm(made)
    assert namespace.lookup("/file") == better
