"""Which requests are repeated, for how long, and what a lost answer means."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.memory_store import MemoryStore
from support.stores import QUICK
from swiftfs.errors import AccessDenied, StoreError, Unavailable
from swiftfs.objects import Limits, ObjectName
from swiftfs.store import PATIENT, RetryingStore, RetryPolicy

pytest_plugins = ["support.store_fixtures"]


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
    store = RetryingStore(memory, RetryPolicy(deadline=600.0, longest_retry_after=60.0))
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(store.head, ObjectName("c", "o"))
        assert tried.wait(10)
        store.close()
        assert isinstance(running.exception(timeout=5), Unavailable)
    assert memory.closed


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


def test_an_outage_is_an_error_before_users_give_up() -> None:
    assert 20 <= PATIENT.deadline <= 30
