"""What listings lack is requested once: no second HEAD while the first one's answer is processed."""

import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from support.memory_store import MemoryStore
from swiftfs.namespace.entry import Defaults
from swiftfs.namespace.head_cache import HeadCache
from swiftfs.namespace.head_fetcher import HeadFetcher
from swiftfs.namespace.namespace import Namespace
from swiftfs.objects import ObjectName
from swiftfs.paths import Source
from swiftfs.store.protocol import Headers

NAMES = [f"file{number:03d}" for number in range(100)]


@pytest.fixture
def busy() -> Iterator[None]:
    """Let threads switch after a few bytecodes, as on a machine with more running threads than cores."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def foreign(keys: list[str]) -> MemoryStore:
    store = MemoryStore("box")
    for key in keys:
        store.put(ObjectName("box", key), b"x", Headers("text/plain"))
    store.requests.clear()
    return store


@pytest.mark.usual
def test_each_foreign_object_costs_one_head_for_all_lookups(busy: None) -> None:
    for _ in range(20):
        store = foreign(NAMES)
        details = HeadFetcher(store, HeadCache())
        space = Namespace(store, details, Source("box"), Defaults(0, 0), ttl=60, max_entries=10_000)
        with closing(space) as namespace, ThreadPoolExecutor(4) as programs:
            looks = [programs.submit(namespace.lookup, f"/{name}") for name in NAMES for _ in range(4)]
            assert all(look.result().complete for look in looks)
        heads = Counter(str(subject) for method, subject in store.requests if method == "head")
        assert set(heads.values()) == {1}, heads.most_common(3)
        assert len(heads) == len(NAMES)
