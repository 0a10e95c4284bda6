"""During an outage: known listings are used, nothing is invented, and no lookup waits for long."""

import logging
import threading
import time
from collections.abc import Iterator

import pytest

from support.deadlines import within
from support.jobs import wait_until
from support.memory_store import MemoryStore
from swiftfs.errors import AccessDenied, NotFound, StoreError, TimedOut, Unavailable
from swiftfs.namespace import listing_fetcher
from swiftfs.namespace.entry import Defaults, Entry, ForeignTimes
from swiftfs.namespace.head_cache import HeadCache
from swiftfs.namespace.head_fetcher import HeadFetcher
from swiftfs.namespace.namespace import Namespace
from swiftfs.objects import Limits, ObjectName
from swiftfs.paths import Source
from swiftfs.posix import filesystem as filesystem_module
from swiftfs.posix.filesystem import UsageReport
from swiftfs.store.protocol import Headers

DEFAULTS = Defaults(0, 0, times=ForeignTimes.LISTING)
TTL = 60.0
PAGE = 50
"""Rows of a listing's page."""


class Clock:
    """A monotonic clock that a test sets forward."""

    def __init__(self) -> None:
        self._ahead = 0.0
        self._real = time.monotonic

    def __call__(self) -> float:
        return self._real() + self._ahead

    def forward(self, seconds: float) -> None:
        self._ahead += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.monotonic", clock)
    return clock


@pytest.fixture
def store() -> MemoryStore:
    """Three folders; the last one has three pages."""
    store = MemoryStore("box", limits=Limits(listing=PAGE))
    for key in ("top", "one/a", "one/b", "two/a", *(f"huge/{number:03d}" for number in range(120))):
        foreign(store, key)
    return store


def foreign(store: MemoryStore, key: str) -> None:
    """Store an object as another client does."""
    store.put(ObjectName("box", key), b"x", Headers("text/plain"))


def build(store: MemoryStore, ttl: float = TTL) -> Namespace:
    return Namespace(
        store, HeadFetcher(store, HeadCache(None)), Source("box"), DEFAULTS, ttl=ttl, max_entries=10_000
    )


@pytest.fixture
def namespace(store: MemoryStore, clock: Clock) -> Iterator[Namespace]:
    """A namespace whose listings have expired; it knows all folders, of the huge one the first page."""
    namespace = build(store)
    for path in ("/", "/one", "/two"):
        list(namespace.children(path))
    assert namespace.find("/huge/000") is not None
    clock.forward(TTL + 1)
    yield namespace
    store.hook = None
    namespace.close()


def fail(store: MemoryStore, error: type[StoreError]) -> None:
    """Let every request fail from now on."""

    def hook(method: str, subject: str) -> None:
        raise error(f"{method} {subject}")

    store.hook = hook


class Silence:
    """Makes every request wait until `end`, which a test must call."""

    def __init__(self, store: MemoryStore) -> None:
        self._over = threading.Event()
        self._store = store
        self._before = len(store.requests)
        store.hook = lambda _method, _subject: self._wait()

    @property
    def requests(self) -> int:
        """How many requests have come since the beginning."""
        return len(self._store.requests) - self._before

    def end(self) -> None:
        self._store.hook = None
        self._over.set()

    def _wait(self) -> None:
        assert self._over.wait(within(60))


def listed(namespace: Namespace, path: str) -> list[str]:
    return sorted(entry.name for entry in namespace.children(path))


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the log messages about outages."""
    return [record.message for record in caplog.records if record.name == listing_fetcher.__name__]


def entry(name: str, key: str) -> Entry:
    return Entry(name, ObjectName("box", key), DEFAULTS.file(3, 0, 7), etag="e")


@pytest.mark.parametrize("error", [Unavailable, TimedOut])
def test_expired_listings_are_used_until_the_server_answers(
    store: MemoryStore, namespace: Namespace, caplog: pytest.LogCaptureFixture, error: type[StoreError]
) -> None:
    caplog.set_level(logging.INFO)
    fail(store, error)
    assert listed(namespace, "/one") == ["a", "b"]
    assert namespace.find("/two/a") is not None
    assert namespace.find("/two/b") is None
    assert not namespace.is_empty("/two")
    assert len(said(caplog)) == 1
    assert "expired listings are used" in said(caplog)[0]
    store.hook = None
    foreign(store, "two/b")
    wait_until(lambda: namespace.find("/two/b") is not None)
    assert said(caplog)[1:] == ["Swift answers again"]


def test_a_long_failure_answers_those_who_waited_behind_it(store: MemoryStore, clock: Clock) -> None:
    """The kernel sends a second lookup when the first has failed; it must not wait as long again."""

    def hook(method: str, subject: str) -> None:
        clock.forward(22)
        raise Unavailable(f"{method} {subject}")

    namespace = build(store)
    store.hook = hook
    with pytest.raises(Unavailable):
        namespace.find("/one/a")
    asked = len(store.requests)
    for name in ("a", "b", "c"):
        with pytest.raises(Unavailable):
            namespace.find(f"/one/{name}")
    assert len(store.requests) == asked
    clock.forward(listing_fetcher.SHARED_SECONDS)
    store.hook = None
    assert namespace.find("/one/a") is not None
    namespace.close()


def test_a_second_outage_is_logged_again(
    store: MemoryStore, namespace: Namespace, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        fail(store, Unavailable)
        for _ in range(5):
            assert listed(namespace, "/one") == ["a", "b"]
        store.hook = None
        clock.forward(
            listing_fetcher.OUTAGE_SECONDS
        )  # without lookups in between, the first one waits for the answer
        foreign(store, f"one/{clock()}")
        wait_until(lambda: len(listed(namespace, "/one")) == 3)
        store.delete(ObjectName("box", f"one/{listed(namespace, '/one')[0]}"))
        clock.forward(TTL + 1)
        assert listed(namespace, "/one") == ["a", "b"]
        clock.forward(TTL + 1)
    assert len(said(caplog)) == 2


@pytest.mark.parametrize("error", [AccessDenied, NotFound])
def test_an_error_answer_is_no_outage(
    store: MemoryStore, namespace: Namespace, error: type[StoreError]
) -> None:
    fail(store, error)
    with pytest.raises(error):
        namespace.find("/one/a")
    with pytest.raises(error):
        listed(namespace, "/two")


def test_a_folder_that_was_never_listed_is_an_error(
    store: MemoryStore, namespace: Namespace, caplog: pytest.LogCaptureFixture
) -> None:
    foreign(store, "new/file")
    fail(store, Unavailable)
    for _ in range(2):
        with pytest.raises(Unavailable):
            listed(namespace, "/new")
        with pytest.raises(Unavailable):
            namespace.find("/new/file")
    assert said(caplog) == []


def test_invalidated_entries_are_not_used(store: MemoryStore, namespace: Namespace) -> None:
    fail(store, Unavailable)
    assert namespace.find("/one/a") is not None
    namespace.invalidate("/one/a")
    with pytest.raises(Unavailable):
        namespace.find("/one/a")
    namespace.invalidate_all()
    with pytest.raises(Unavailable):
        namespace.find("/two/a")


def test_without_caching_every_lookup_fails(store: MemoryStore) -> None:
    namespace = build(store, ttl=0)
    assert namespace.find("/one/a") is not None
    fail(store, Unavailable)
    with pytest.raises(Unavailable):
        namespace.find("/one/a")
    store.hook = None
    namespace.close()


def test_a_fresh_listing_needs_no_request(store: MemoryStore, namespace: Namespace) -> None:
    assert listed(namespace, "/one") == ["a", "b"]
    fail(store, AccessDenied)
    assert namespace.find("/one/a") is not None


def test_the_known_page_of_a_huge_folder_is_used(store: MemoryStore, namespace: Namespace) -> None:
    fail(store, Unavailable)
    assert namespace.find("/huge/001") is not None
    assert namespace.find("/huge/0011") is None
    with pytest.raises(Unavailable):
        namespace.find("/huge/100")
    with pytest.raises(Unavailable):
        listed(namespace, "/huge")


def test_a_huge_folder_that_was_read_is_used(store: MemoryStore, namespace: Namespace, clock: Clock) -> None:
    assert len(listed(namespace, "/huge")) == 120
    clock.forward(TTL + 1)
    fail(store, Unavailable)
    assert len(listed(namespace, "/huge")) == 120
    assert namespace.find("/huge/100") is not None


def test_our_changes_are_shown_during_an_outage(
    store: MemoryStore, namespace: Namespace, clock: Clock
) -> None:
    fail(store, Unavailable)
    made = namespace.record_pending("/one/new", entry("new", "one/new"))
    namespace.record_pending("/one/a", None)
    assert listed(namespace, "/one") == ["b", "new"]
    clock.forward(TTL + 1)
    assert listed(namespace, "/one") == ["b", "new"]
    store.hook = None
    clock.forward(listing_fetcher.OUTAGE_SECONDS)
    assert listed(namespace, "/one") == ["b", "new"]
    made.rollback()
    assert listed(namespace, "/one") == ["b"]


def test_a_new_folder_needs_no_request(store: MemoryStore, namespace: Namespace, clock: Clock) -> None:
    fail(store, Unavailable)
    marker = Entry("made", ObjectName("box", "made"), DEFAULTS.directory(9))
    namespace.record("/made", marker)
    namespace.record_new_folder("/made", marker, clock())
    namespace.record_pending("/made/file", entry("file", "made/file"))
    clock.forward(TTL + 1)
    assert listed(namespace, "/made") == ["file"]
    assert namespace.find("/made/other") is None


def test_one_request_at_a_time_and_lookups_do_not_wait_for_it(
    store: MemoryStore, namespace: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing_fetcher, "ANSWER_SECONDS", 0.05)
    silence = Silence(store)
    assert namespace.find("/one/a") is not None
    monkeypatch.setattr(listing_fetcher, "ANSWER_SECONDS", 60.0)
    foreign_names = [namespace.find(path) for path in ("/two/a", "/huge/000", "/top", "/one/b") * 50]
    assert None not in foreign_names
    assert silence.requests == 1
    silence.end()


def test_a_slow_answer_is_used_by_later_lookups(
    store: MemoryStore, namespace: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign(store, "one/late")
    monkeypatch.setattr(listing_fetcher, "ANSWER_SECONDS", 0.05)
    silence = Silence(store)
    assert namespace.find("/one/late") is None
    silence.end()
    wait_until(lambda: namespace.find("/one/late") is not None)


def test_a_lookup_without_a_listing_waits_for_the_answer(store: MemoryStore, namespace: Namespace) -> None:
    foreign(store, "new/file")
    silence = Silence(store)
    found: list[Entry | None] = []
    waiting = [threading.Thread(target=lambda: found.append(namespace.find("/new/file"))) for _ in range(4)]
    for thread in waiting:
        thread.start()
    wait_until(lambda: silence.requests)
    assert found == []
    silence.end()
    for thread in waiting:
        thread.join()
    assert len(found) == 4
    assert None not in found
    assert silence.requests == 1


def test_a_walk_is_recognised_after_an_outage(store: MemoryStore, clock: Clock) -> None:
    for number in range(40):
        foreign(store, f"tree/d{number:02d}/file")
    namespace = build(store)

    def walk() -> int:
        before = len(store.requests)
        for path in ("/tree", *(f"/tree/d{number:02d}" for number in range(40))):
            list(namespace.children(path))
        return len(store.requests) - before

    first = walk()
    assert first <= 5
    clock.forward(TTL + 1)
    fail(store, Unavailable)
    walk()
    store.hook = None
    clock.forward(listing_fetcher.OUTAGE_SECONDS + 1)
    assert walk() <= first
    namespace.close()


def test_free_space_stays_the_same_during_an_outage(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filesystem_module, "USAGE_SECONDS", 0)
    store.set_quota("box", size=1000)
    report = UsageReport(store, Source("box"))
    before = report.of("/")
    fail(store, Unavailable)
    assert report.of("/one") == before
    with pytest.raises(Unavailable):
        UsageReport(store, Source("box")).of("/")
    fail(store, AccessDenied)
    with pytest.raises(AccessDenied):
        report.of("/")
