"""`mtime=auto`: the listing's time, except for objects that were seen to have one of their own."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from support.memory_store import MemoryStore
from swiftfs.namespace.entry import Defaults, ForeignTimes
from swiftfs.namespace.head_cache import HeadCache
from swiftfs.namespace.head_fetcher import HeadFetcher
from swiftfs.namespace.namespace import Namespace
from swiftfs.objects import Limits, ObjectName
from swiftfs.paths import Source
from swiftfs.store.protocol import Headers

NAMES = [f"file{number:03d}" for number in range(100)]
TIME = {"mtime": "1000000000.5"}
TIME_NS = 1_000_000_000_500_000_000


def put(store: MemoryStore, name: str, body: bytes = b"x", headers: Headers | None = None) -> int:
    """Store an object as rclone does, and return its time in listings (ns)."""
    object_name = ObjectName("box", name)
    store.put(object_name, body, headers or Headers("text/plain", TIME))
    return store.head(object_name).last_modified_ns


@pytest.fixture(params=[10_000, 30])
def store(request: pytest.FixtureRequest) -> MemoryStore:
    """Return a store whose folder is listed by one page, or by several."""
    store = MemoryStore("box", limits=Limits(listing=request.param))
    for name in NAMES:
        put(store, name)
    return store


@contextmanager
def mounted(store: MemoryStore, tmp_path: Path) -> Iterator[Namespace]:
    fetcher = HeadFetcher(store, HeadCache(tmp_path / "heads.sqlite"))
    defaults = Defaults(0, 0, times=ForeignTimes.AUTO)
    space = Namespace(store, fetcher, Source("box"), defaults, ttl=60, max_entries=10_000)
    with closing(space) as namespace:
        list(namespace.children("/"))
        store.requests.clear()
        yield namespace


def heads(store: MemoryStore) -> list[str]:
    """Return the objects of the HEADs since the last call."""
    found = [str(subject).removeprefix("box/") for method, subject in store.requests if method == "head"]
    store.requests.clear()
    return found


def time_of(namespace: Namespace, name: str) -> int:
    return namespace.lookup(f"/{name}").attributes.mtime_ns


def read(namespace: Namespace, store: MemoryStore, name: str) -> None:
    """Let a namespace learn what the answer to a GET says."""
    path = f"/{name}"
    namespace.learn(path, namespace.lookup(path), store.head(ObjectName("box", name)))


def test_what_was_never_seen_costs_no_head(store: MemoryStore, tmp_path: Path) -> None:
    listed = put(store, "new")
    with mounted(store, tmp_path) as namespace:
        assert time_of(namespace, "new") == listed
        assert all(time_of(namespace, name) > TIME_NS for name in NAMES)
        assert heads(store) == []


def test_what_was_seen_is_shown_also_by_the_next_mount(store: MemoryStore, tmp_path: Path) -> None:
    with mounted(store, tmp_path) as namespace:
        read(namespace, store, "file050")
        assert time_of(namespace, "file050") == TIME_NS
    with mounted(store, tmp_path) as namespace:
        assert [name for name in NAMES if time_of(namespace, name) == TIME_NS] == ["file050"]
        assert heads(store) == []


def test_a_newer_version_of_what_had_a_time_is_asked_for(store: MemoryStore, tmp_path: Path) -> None:
    """One of an object that had none is not."""
    put(store, "file051", headers=Headers("text/plain"))
    with mounted(store, tmp_path) as namespace:
        read(namespace, store, "file050")
        read(namespace, store, "file051")
    put(store, "file050", b"newer", Headers("text/plain", {"mtime": "1000000001"}))
    listed = put(store, "file051", b"newer")
    with mounted(store, tmp_path) as namespace:
        assert time_of(namespace, "file050") == 1_000_000_001_000_000_000
        assert heads(store) == ["file050"]
        assert time_of(namespace, "file051") == listed
        assert heads(store) == []


def test_what_may_be_larger_than_it_is_listed_is_asked_for(store: MemoryStore, tmp_path: Path) -> None:
    put(store, "empty", b"")
    with mounted(store, tmp_path) as namespace:
        assert time_of(namespace, "empty") == TIME_NS
        assert heads(store) == ["empty"]
