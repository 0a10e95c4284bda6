"""What is recorded about lost requests, and what the next mount reads of it."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from support.deadlines import within
from support.harness import SHORT_RETRIES
from support.memory_store import MemoryStore
from swiftfs.errors import AlreadyExists
from swiftfs.objects import DIRECTORY_TYPE, ObjectName
from swiftfs.store.ambiguous import GONE, Ambiguity, AmbiguousRequests, Effect
from swiftfs.store.protocol import Headers
from swiftfs.store.retry import RetryingStore
from swiftfs.store.server_state import ServerState

NAME = ObjectName("box", "file")
STORED = Effect("put", "an etag")


class Recorded:
    """The requests of one mount, and the rows that its journal would have."""

    def __init__(self) -> None:
        self.requests = AmbiguousRequests()
        self.rows: dict[ObjectName, Ambiguity] = {}

    def save(self) -> None:
        for name, found in self.requests.take_unsaved().items():
            if found is None:
                self.rows.pop(name, None)
            else:
                self.rows[name] = found

    def done(self, effect: Effect) -> None:
        self.requests.done(NAME, lambda: effect)
        self.save()


def test_a_suspected_deletion_is_recorded_once_the_object_is_stored_again() -> None:
    recorded = Recorded()
    recorded.requests.suspect([(NAME, GONE)])
    recorded.done(GONE)
    assert recorded.rows == {}
    recorded.done(STORED)
    assert recorded.rows[NAME].last == STORED
    assert recorded.rows[NAME].is_dangerous


def test_a_file_that_is_deleted_again_is_not_recorded_as_stored() -> None:
    """Otherwise the next mount would take it for a victim of the first deletion, and store it again."""
    recorded = Recorded()
    recorded.requests.suspect([(NAME, GONE)])
    for effect in (GONE, STORED, GONE):
        recorded.done(effect)
    assert recorded.rows[NAME].last == GONE
    assert not recorded.rows[NAME].is_dangerous
    again = AmbiguousRequests()
    again.load(recorded.rows.values())
    assert not again.all()[0].is_dangerous


def test_a_marker_that_exists_when_it_is_made_again_counts_as_stored() -> None:
    """The lost PUT of a folder's marker was executed after its deletion."""
    store, requests = MemoryStore("box"), AmbiguousRequests()
    requests.lost(NAME, STORED)
    requests.done(NAME, lambda: GONE)
    headers = Headers(DIRECTORY_TYPE)
    store.put(NAME, b"", headers)
    with pytest.raises(AlreadyExists):
        RetryingStore(store, SHORT_RETRIES, ServerState(ambiguous=requests)).put(
            NAME, b"", headers, if_absent=True
        )
    (found,) = requests.all()
    assert found.last is not None
    assert found.last.kind == "put"


def test_a_wake_before_the_wait_is_not_lost() -> None:
    requests = AmbiguousRequests()
    requests.wake()
    requests.wait(None)  # without the wake it would never return
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(requests.wait, None)
        requests.wake()
        waiting.result(within(60))


def test_a_change_that_another_thread_has_saved_wakes_the_watcher_still() -> None:
    requests = AmbiguousRequests()
    requests.lost(NAME, STORED)
    requests.take_unsaved()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(requests.wait, None)
        try:
            waiting.result(within(10))
        finally:
            requests.wake()
