"""Ranks of locks: which uses are refused where they are checked, and that a runtime can be replaced."""

import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from swiftfs import concurrency
from swiftfs.concurrency import Future, LockOrderError, Rank, Runtime


def refused(call: Callable[[], object]) -> str:
    """Return the error with which `call` is refused, without leaving it to other tests."""
    with pytest.raises(LockOrderError) as caught:
        call()
    assert concurrency.take_violations() == [str(caught.value)]
    return str(caught.value)


def test_locks_are_taken_in_the_order_of_their_ranks() -> None:
    journal, cache = concurrency.new_condition(Rank.JOURNAL), concurrency.new_lock(Rank.CACHE)
    with journal, cache:
        assert concurrency.take_violations() == []
    with cache:
        assert "holds CACHE and takes JOURNAL" in refused(journal.__enter__)
    with journal, cache:  # a refused lock is not held
        assert concurrency.take_violations() == []


def test_two_locks_of_one_rank_are_refused() -> None:
    one, other = concurrency.new_lock(Rank.CONTENT), concurrency.new_lock(Rank.CONTENT)
    with one:
        assert "holds CONTENT and takes CONTENT" in refused(other.__enter__)


def test_files_are_locked_in_the_order_in_which_they_were_opened() -> None:
    first, second = (concurrency.new_lock(Rank.FILE, reentrant=True) for _ in range(2))
    with first, second:
        assert concurrency.take_violations() == []
    with second:
        assert "holds FILE and takes FILE" in refused(first.__enter__)


def test_a_thread_takes_its_own_lock_again() -> None:
    cache, content = concurrency.new_lock(Rank.CACHE, reentrant=True), concurrency.new_condition(Rank.CONTENT)
    with cache, content, cache, content:
        pass
    plain = concurrency.new_lock(Rank.COUNTERS)
    with plain:
        refused(plain.__enter__)


def test_a_lock_that_was_taken_again_does_not_hide_those_taken_between() -> None:
    journal, log = concurrency.new_condition(Rank.JOURNAL), concurrency.new_lock(Rank.DATABASE)
    namespace = concurrency.new_lock(Rank.NAMESPACE)
    with journal, log, journal:
        assert "holds JOURNAL, DATABASE, JOURNAL and takes NAMESPACE" in refused(namespace.__enter__)


def test_a_lock_that_was_released_is_not_held() -> None:
    journal, cache = concurrency.new_condition(Rank.JOURNAL), concurrency.new_lock(Rank.CACHE, reentrant=True)
    with journal, cache:
        with cache:
            pass
        assert "JOURNAL, CACHE and sends" in refused(lambda: concurrency.may_block("sends head"))
    with journal:
        assert "holds JOURNAL and sends" in refused(lambda: concurrency.may_block("sends head"))
    concurrency.may_block("sends head")


def test_a_request_is_made_with_a_files_own_lock_at_most() -> None:
    with concurrency.new_lock(Rank.FILE):
        concurrency.may_block("sends head")
        with concurrency.new_lock(Rank.DATABASE):
            refused(lambda: concurrency.may_block("sends head"))
            refused(lambda: concurrency.sleep(0))


def test_a_condition_is_waited_for_with_no_other_lock() -> None:
    journal, cache = concurrency.new_condition(Rank.JOURNAL), concurrency.new_condition(Rank.CACHE)
    with concurrency.new_lock(Rank.FILE), journal:
        journal.wait(0)
        assert "waits for JOURNAL" not in concurrency.take_violations()
        with cache:
            assert "waits for CACHE" in refused(lambda: cache.wait(0))
            assert "waits for CACHE" in refused(lambda: cache.wait_for(lambda: False, 0))
            assert cache.wait_for(lambda: True)


def test_the_barrier_is_waited_for_without_any_lock() -> None:
    """The rename of a folder, which must end first, takes the locks of the files below it."""
    barrier = concurrency.new_condition(Rank.BARRIER)
    with concurrency.new_lock(Rank.FILE), barrier:
        assert "waits for BARRIER" in refused(lambda: barrier.wait(0))
    with barrier:
        barrier.wait(0)


def test_a_future_is_waited_for_with_no_lock() -> None:
    pool = concurrency.new_pool("test", 1)
    done: Future[int] = concurrency.new_future()
    go_on = threading.Event()
    try:
        running = pool.submit(go_on.wait)
        with concurrency.new_lock(Rank.NAMESPACE):
            for call in (running.result, running.exception, done.result, pool.shutdown):
                refused(call)
            refused(lambda: concurrency.wait_all([running]))
            assert not concurrency.wait_all([running], 0)
            done.set_result(1)
            assert done.result() == 1
    finally:
        go_on.set()
        pool.shutdown()
    assert running.result()


def test_violations_in_other_threads_are_found() -> None:
    def work() -> None:
        with concurrency.new_lock(Rank.CACHE), concurrency.new_lock(Rank.JOURNAL):
            pass

    with ThreadPoolExecutor(1) as pool:
        assert isinstance(pool.submit(work).exception(), LockOrderError)
    assert len(concurrency.take_violations()) == 1


def test_locks_are_plain_where_nothing_is_checked() -> None:
    program = (
        "import threading\n"
        "from swiftfs.concurrency import Future, Rank, may_block, new_condition, new_future, new_lock\n"
        "assert type(new_lock(Rank.DATABASE)) is type(threading.Lock())\n"
        "assert type(new_lock(Rank.FILE, reentrant=True)) is type(threading.RLock())\n"
        "condition = new_condition(Rank.DATABASE)\n"
        "assert isinstance(condition, threading.Condition)\n"
        "assert type(type(condition).__enter__.__get__(condition)) is type(len)  # no call of Python\n"
        "assert type(new_future()) is Future\n"
        "with new_lock(Rank.DATABASE): may_block('sends head')\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


class _ManualClock(Runtime):
    """A clock that only `sleep` changes."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.fixture
def manual_clock() -> Iterator[_ManualClock]:
    runtime = _ManualClock()
    before = concurrency.use(runtime)
    yield runtime
    assert concurrency.use(before) is runtime


def test_another_runtime_has_another_clock(manual_clock: _ManualClock) -> None:
    begun = concurrency.monotonic()
    concurrency.sleep(3600)
    assert concurrency.monotonic() == begun + 3600 == manual_clock.seconds


def test_the_documentation_has_every_rank_in_its_order() -> None:
    text = (Path(__file__).parents[2] / "docs" / "concurrency.md").read_text()
    assert re.findall(r"^\| `([A-Z_]+)` \|", text, re.MULTILINE) == [rank.name for rank in Rank]
