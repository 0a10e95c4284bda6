"""Which requests are repeated, for how long, and what a lost answer means."""

import gc
import threading
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.deadlines import within
from support.harness import SHORT_RETRIES
from support.memory_store import MemoryStore
from support.stores import QUICK, TEXT, md5, raise_first
from swiftfs.errors import (
    AccessDenied,
    AlreadyExists,
    Clash,
    Conflict,
    NotFound,
    StoreError,
    TimedOut,
    Unavailable,
)
from swiftfs.objects import Limits, Manifest, ObjectName, Segment
from swiftfs.store import retry
from swiftfs.store.ambiguous import AmbiguousRequests
from swiftfs.store.protocol import CopyRequest, ObjectStore
from swiftfs.store.retry import CLASHES_REPEATED, PATIENT, RetryingStore, RetryPolicy, sharing
from swiftfs.store.server_state import ServerState

pytest_plugins = ["support.store_fixtures"]

NAME = ObjectName("c", "o")
MANIFEST = Manifest((Segment(NAME, md5(b"old"), 3),))


def test_only_the_failed_names_are_deleted_again() -> None:
    memory = MemoryStore("c", limits=Limits(bulk_delete=2))
    names = [ObjectName("c", f"{number}") for number in range(4)]
    asked: list[list[ObjectName]] = []

    class Flaky(MemoryStore):
        def delete_many(self, names: object) -> dict[ObjectName, StoreError]:
            asked.append(list(names))  # type: ignore[call-overload]
            if len(asked) == 1:
                return {asked[0][1]: Unavailable("once"), asked[0][2]: AccessDenied("ever")}
            return {}

    store = RetryingStore(Flaky("c"), QUICK)
    failures = store.delete_many(iter(names))
    assert asked == [names, [names[1]]]
    assert {name: type(error) for name, error in failures.items()} == {names[2]: AccessDenied}
    assert memory.delete_many(names) == {}


def test_close_ends_the_pauses() -> None:
    memory = MemoryStore("c")
    tried = threading.Event()

    def fail(_method: str, _subject: str) -> None:
        tried.set()
        raise Unavailable("down", retry_after=60.0)

    memory.hook = fail
    store = RetryingStore(memory, RetryPolicy(deadline=600.0))
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(store.head, ObjectName("c", "o"))
        assert tried.wait(within(10))
        store.close()
        assert isinstance(running.exception(timeout=within(5)), Unavailable)
    assert memory.closed


@pytest.mark.parametrize("first", [Unavailable("503"), TimedOut("silence")])
def test_the_time_out_of_an_attempt_that_was_cut_short_hides_no_answer(
    monkeypatch: pytest.MonkeyPatch, first: StoreError
) -> None:
    """A busy server answers 503 to the first attempt, and the last one begins a moment before the end."""
    now, memory = [0.0], MemoryStore("c")
    monkeypatch.setattr(retry, "busy_time", lambda: now[0])
    errors = [TimedOut("cut short", may_land=True), first]
    first.may_land = False

    def fail(_method: str, _subject: str) -> None:
        now[0] += 0.0 if len(errors) > 1 else QUICK.deadline
        raise errors.pop()

    memory.hook = fail
    with pytest.raises(Unavailable) as failed:
        RetryingStore(memory, QUICK).put(NAME, b"x", TEXT)
    assert errors == []
    assert str(failed.value) == ("503" if type(first) is Unavailable else "cut short")
    assert failed.value.may_land


def test_no_attempt_begins_when_a_pause_has_taken_all_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a busy machine; the error of another attempt would be that it had no time."""
    now, memory = [0.0], MemoryStore("c")
    monkeypatch.setattr(retry, "busy_time", lambda: now[0])
    monkeypatch.setattr(retry, "may_block", lambda _what: now.append(now.pop() + 100.0))

    def fail(_method: str, _subject: str) -> None:
        raise Unavailable("down")

    memory.hook = fail
    with pytest.raises(Unavailable, match="down"):
        RetryingStore(memory, RetryPolicy(deadline=50.0, first_pause=0.0)).head(NAME)
    assert len(memory.requests) == 1


@pytest.mark.parametrize("answers", [True, False])
def test_what_a_failed_call_used_is_freed_without_the_garbage_collector(*, answers: bool) -> None:
    """A deleted local file takes disk space until nobody refers to it."""
    memory = MemoryStore("c")
    store = RetryingStore(memory, SHORT_RETRIES)

    class LocalFile:
        """Has a weak reference."""

    def fail() -> "weakref.ref[LocalFile]":
        file = LocalFile()
        try:
            store.head(NAME)
        except StoreError:
            return weakref.ref(file)
        raise AssertionError("no error")

    def away(_method: str, _subject: str) -> None:
        try:
            Path("/proc/none").read_text()
        except OSError as error:
            raise Unavailable("down") from error

    if not answers:
        memory.hook = away
    gc.disable()
    try:
        assert fail()() is None
    finally:
        gc.enable()


def test_programming_errors_are_not_repeated() -> None:
    memory = MemoryStore("c")
    calls: list[str] = []

    def fail(method: str, _subject: str) -> None:
        calls.append(method)
        raise ZeroDivisionError

    memory.hook = fail
    with pytest.raises(ZeroDivisionError):
        RetryingStore(memory, QUICK).head(ObjectName("c", "o"))
    assert calls == ["head"]


def test_a_probe_is_sent_once() -> None:
    memory = MemoryStore("c")

    def fail(_method: str, _subject: str) -> None:
        raise Unavailable("503")

    memory.hook = fail
    store = RetryingStore(memory, RetryPolicy(deadline=within(20)))
    with sharing(None, once=True), pytest.raises(Unavailable):
        store.head(NAME)
    assert len(memory.requests) == 1


def test_an_outage_is_an_error_before_users_give_up() -> None:
    assert 20 <= PATIENT.deadline <= 30


CHANGES: list[tuple[str, Callable[[ObjectStore, ObjectName], object]]] = [
    ("put", lambda store, name: store.put(name, b"new", TEXT)),
    ("put_manifest", lambda store, name: store.put_manifest(name, MANIFEST, TEXT)),
    ("copy", lambda store, name: store.copy(CopyRequest(name, ObjectName("c", "copy")))),
    ("post", lambda store, name: store.post(name, TEXT)),
    ("delete", lambda store, name: store.delete(name)),
    ("delete_many", lambda store, name: raise_first(store.delete_many([name]))),
]


class ClashingStore(MemoryStore):
    """A store that refuses the first changes, as a Swift does that has an object with a later timestamp."""

    def __init__(self, clashes: int) -> None:
        super().__init__("c")
        self.put(NAME, b"old", TEXT)
        self.left = clashes
        self.requests.clear()
        self.hook = self._refuse

    def _refuse(self, method: str, _subject: str) -> None:
        if method in dict(CHANGES) and self.left:
            self.left -= 1
            raise Clash(f"{method}: 409")

    def delete_many(self, names: Iterable[ObjectName]) -> dict[ObjectName, StoreError]:
        """Delete; a refusal is told of each name, as in the answer to a bulk-delete."""
        names = list(names)
        try:
            return super().delete_many(names)
        except Clash as error:
            return dict.fromkeys(names, error)


@pytest.mark.parametrize(("method", "change"), CHANGES, ids=[method for method, _ in CHANGES])
def test_a_clash_of_timestamps_is_sent_again(
    method: str, change: Callable[[ObjectStore, ObjectName], object]
) -> None:
    """Swift's proxy gives the next request a new timestamp."""
    memory = ClashingStore(2)
    change(RetryingStore(memory, QUICK), NAME)
    assert [asked for asked, _ in memory.requests] == [method] * 3


@pytest.mark.parametrize(("method", "change"), CHANGES, ids=[method for method, _ in CHANGES])
def test_a_clash_that_goes_on_is_an_error_soon(
    method: str, change: Callable[[ObjectStore, ObjectName], object]
) -> None:
    """A server may refuse an object for good with the same status."""
    memory = ClashingStore(1000)
    with pytest.raises(Clash):
        change(RetryingStore(memory, RetryPolicy(60.0, first_pause=0.01)), NAME)
    assert [asked for asked, _ in memory.requests] == [method] * (1 + CLASHES_REPEATED)


def test_a_container_that_is_not_empty_is_no_clash() -> None:
    memory = MemoryStore("c")
    memory.put(NAME, b"x", TEXT)
    memory.requests.clear()
    with pytest.raises(Conflict):
        RetryingStore(memory, QUICK).delete_container("c")
    assert len(memory.requests) == 1


def test_a_clash_leaves_no_doubt_about_what_was_done() -> None:
    """It is refused, not lost: what is there or gone afterwards is the work of another client."""
    ambiguous = AmbiguousRequests()
    memory = ClashingStore(1)
    store = RetryingStore(memory, QUICK, ServerState(ambiguous=ambiguous))
    with pytest.raises(NotFound):
        store.delete(ObjectName("c", "nothing"))
    memory.left = 1
    with pytest.raises(AlreadyExists):
        store.put(NAME, b"old", TEXT, if_absent=True)
    assert ambiguous.all() == []
