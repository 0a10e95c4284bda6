"""How many uploads run at once: more while the server is as fast with them, fewer when it refuses."""

import heapq
import math
import threading
from collections.abc import Callable
from functools import partial

import pytest

from support.deadlines import within
from support.harness import SHORT_RETRIES
from support.memory_store import MemoryStore
from support.stores import TEXT
from swiftfs.errors import AccessDenied, Unavailable
from swiftfs.filecache.segment_storer import UploadPool
from swiftfs.objects import ObjectName
from swiftfs.store.retry import RetryingStore
from swiftfs.store.server_state import (
    CALM_SECONDS,
    FIRST_FILES,
    LARGE,
    MOST,
    ParallelLimit,
    ServerLoad,
    ServerState,
)

SMALL = 4096
Answer = Callable[[int], float | None]
"""Returns the seconds of an upload beside so many others, None if the server refuses it."""


class Uploads:
    """Uploads in virtual time, as many at once as the limit allows."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, limit: ParallelLimit) -> None:
        self.now = 1000.0
        self.limit = limit
        monkeypatch.setattr("swiftfs.store.server_state.monotonic", lambda: self.now)

    def run(self, count: int, answer: Answer, size: int = SMALL) -> int:
        """Send `count` uploads; return how many ran at once at most."""
        running: list[tuple[float, float, bool]] = []
        most = 0
        while count or running:
            while count and len(running) < self.limit.now:
                self.limit.begin()
                seconds = answer(len(running))
                heapq.heappush(running, (self.now + (seconds or 0.01), self.now, seconds is None))
                count -= 1
            most = max(most, len(running))
            self.now, began, is_refused = heapq.heappop(running)
            if is_refused:
                self.limit.failed(began, refused=True)
            else:
                self.limit.answered(began, size)
        return most


@pytest.fixture
def uploads(monkeypatch: pytest.MonkeyPatch) -> Uploads:
    return Uploads(monkeypatch, ParallelLimit(16))


def constant(_beside: int) -> float:
    """Answer as a server whose latency is all that counts."""
    return 0.1


def one_by_one(beside: int) -> float:
    """Answer as a server, or a network, that takes one upload after the other."""
    return 0.1 * (1 + beside)


def test_latency_is_made_up_for(uploads: Uploads) -> None:
    begun = uploads.now
    assert uploads.run(5000, constant) == MOST
    assert 5000 / (uploads.now - begun) > 600


def test_more_are_not_sent_where_they_only_wait(uploads: Uploads) -> None:
    assert uploads.run(1000, one_by_one) < 20  # the first answers are fast
    assert uploads.limit.now == 16


def test_a_server_that_slows_down_gets_fewer(uploads: Uploads) -> None:
    uploads.run(1000, constant)
    assert uploads.limit.now == MOST
    uploads.run(1000, lambda beside: 0.1 * max(1.0, beside / 8))
    assert uploads.limit.now <= 20


def test_bodies_of_all_sizes_are_compared(uploads: Uploads) -> None:
    """A longer body takes longer, and is no sign of a slow server."""
    uploads.run(50, constant)
    assert uploads.run(500, lambda _beside: 0.1 + 16 * LARGE / 50e6, 16 * LARGE) == MOST


def test_a_refusal_halves_the_number_once(uploads: Uploads) -> None:
    uploads.run(1000, constant)
    assert uploads.limit.now == MOST
    uploads.run(MOST, lambda _beside: None)
    assert uploads.limit.now == MOST // 2


def test_refusals_leave_one(uploads: Uploads) -> None:
    for _ in range(20):
        uploads.run(2, lambda _beside: None)
        uploads.now += 1.0
    assert uploads.limit.now == 1
    # After them it grows slowly, up to where it began.
    uploads.run(20, constant)
    assert uploads.limit.now < 8
    uploads.run(1000, constant)
    assert uploads.limit.now >= 16
    uploads.now += CALM_SECONDS
    uploads.run(1000, constant)
    assert uploads.limit.now == MOST


def test_few_uploads_prove_nothing(uploads: Uploads) -> None:
    for _ in range(100):
        uploads.run(2, constant)
    assert uploads.limit.now == 16


def test_a_longer_way_to_the_server_is_learned(uploads: Uploads) -> None:
    uploads.run(100, constant)
    for _ in range(100):
        uploads.run(100, lambda _beside: 1.0)
    assert uploads.limit.now == MOST


@pytest.mark.parametrize(("rate", "files", "segments"), [(32, 1, 1), (256, 8, 4), (2048, 64, 32)])
def test_a_limited_rate_is_shared_by_few(
    monkeypatch: pytest.MonkeyPatch, rate: int, files: int, segments: int
) -> None:
    """However fast the server is: they would only take longer. Without the limit there are more again."""
    limited = [rate * 1024.0]
    load = ServerLoad(lambda: limited[0])
    for limit, most in ((load.files, files), (load.segments, segments)):
        assert Uploads(monkeypatch, limit).run(2000, constant) == most
    limited[0] = math.inf
    assert Uploads(monkeypatch, load.files).run(2000, constant) == MOST


def test_what_an_upload_waits_for_a_limit_is_no_sign_of_a_slow_server(uploads: Uploads) -> None:
    uploads.run(1000, constant)
    for _ in range(100):
        uploads.limit.begin()
        uploads.now += 60.1
        uploads.limit.answered(uploads.now - 60.1, SMALL, idle=60.0)
    assert uploads.limit.now == MOST


def test_a_writer_waits_as_much_longer_as_a_rate_makes_uploads_take() -> None:
    assert ServerLoad().slowness(16 * LARGE) == 0
    for rate in (32 * 1024, 64 * 1024, 1024**2, 100 * 1024**2):
        load = ServerLoad(partial(float, rate))
        assert load.slowness(16 * LARGE) >= 16 * LARGE * load.segments.now / rate


def test_the_store_reports_its_puts() -> None:
    memory, load = MemoryStore("c"), ServerLoad()
    refusals: list[Exception] = [Unavailable("503"), AccessDenied("403")]

    def refuse(method: str, _subject: str) -> None:
        if method == "put" and refusals:
            raise refusals.pop(0)

    memory.hook = refuse
    store = RetryingStore(memory, SHORT_RETRIES, ServerState(load=load))
    with pytest.raises(AccessDenied):
        store.put(ObjectName("c", "o"), b"x", TEXT)
    assert load.files.now == FIRST_FILES // 2
    store.put(ObjectName("c", "o"), b"x" * LARGE, TEXT)
    assert load.files.now == FIRST_FILES // 2


def test_the_pool_follows_the_limit() -> None:
    limit, release = ParallelLimit(2), threading.Event()
    pool = UploadPool(limit, 8)
    begun = [threading.Event() for _ in range(6)]

    def wait(number: int) -> int:
        begun[number].set()
        assert release.wait(within(30))
        return number

    futures = [pool.submit(wait, number) for number in range(6)]
    assert all(one.wait(within(10)) for one in begun[:2])
    assert futures[5].cancel()
    assert not any(one.is_set() for one in begun[2:])
    release.set()
    assert [future.result() for future in futures[:5]] == list(range(5))
    assert not begun[5].is_set()
    pool.shutdown()


def test_the_pool_cancels_what_has_not_begun_at_its_end() -> None:
    pool, release, begun = UploadPool(ParallelLimit(1), 8), threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        assert release.wait(within(30))

    running, waiting = pool.submit(wait), pool.submit(int)
    failing = UploadPool(ParallelLimit(1), 1)
    with pytest.raises(ZeroDivisionError):
        failing.submit(divmod, 1, 0).result()
    failing.shutdown()
    assert begun.wait(within(10))
    pool.shutdown(wait=False)
    assert waiting.cancelled()
    release.set()
    running.result()
    pool.shutdown()
