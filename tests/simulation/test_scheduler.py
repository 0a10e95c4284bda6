"""The simulated runtime: it behaves like the real one, and a seed repeats its choices."""

from collections.abc import Iterator

import pytest

from simulation.runtime import SimRuntime
from simulation.scheduler import Deadlock, Scheduler, SwitchRates, scheduling
from swiftfs import concurrency


@pytest.fixture
def scheduler() -> Iterator[Scheduler]:
    with scheduling(1, SwitchRates(500, 0)) as scheduler:
        before = concurrency.use(SimRuntime(scheduler))
        yield scheduler
        concurrency.use(before)


def run(scheduler: Scheduler, *targets: object) -> None:
    threads = [scheduler.spawn(target, f"t{number}") for number, target in enumerate(targets)]  # type: ignore[arg-type]
    scheduler.run(lambda: all(thread.ended for thread in threads))


def test_a_lock_lets_one_thread_in(scheduler: Scheduler) -> None:
    lock = concurrency.new_lock(concurrency.Rank.JOURNAL)
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        for _ in range(20):
            with lock:
                inside.append(1)
                scheduler.point()
                most.append(len(inside))
                inside.pop()

    run(scheduler, work, work, work)
    assert most == [1] * 60


def test_a_condition_wakes_waiting_threads(scheduler: Scheduler) -> None:
    changed = concurrency.new_condition(concurrency.Rank.JOURNAL)
    got: list[int] = []
    jobs: list[int] = []

    def consume() -> None:
        with changed:
            changed.wait_for(lambda: bool(jobs))
            got.append(jobs.pop())

    def produce() -> None:
        for job in range(2):
            with changed:
                jobs.append(job)
                changed.notify_all()

    run(scheduler, consume, produce, consume)
    assert sorted(got) == [0, 1]


def test_time_passes_only_while_all_threads_wait(scheduler: Scheduler) -> None:
    ends: list[float] = []

    def sleep(seconds: float) -> None:
        concurrency.sleep(seconds)
        ends.append(concurrency.monotonic())

    run(scheduler, lambda: sleep(3600.0), lambda: sleep(2.0))
    assert ends == [2.0, 3600.0]


def test_a_wait_ends_at_its_time_and_not_by_an_earlier_timer(scheduler: Scheduler) -> None:
    event, other = concurrency.new_event(), concurrency.new_event()
    ends: list[tuple[bool, float]] = []

    def wait() -> None:
        ends.append((event.wait(10.0), concurrency.monotonic()))
        ends.append((other.wait(100.0), concurrency.monotonic()))

    def set_soon() -> None:
        concurrency.sleep(1.0)
        event.set()

    run(scheduler, wait, set_soon)
    assert ends == [(True, 1.0), (False, 101.0)]


def test_a_pool_runs_all_and_passes_errors_on(scheduler: Scheduler) -> None:
    results: list[object] = []

    def work() -> None:
        with concurrency.new_pool("pool", 2) as pool:
            assert list(pool.map(lambda number: number * 2, range(5))) == [0, 2, 4, 6, 8]
            results.append(pool.submit(lambda: 1 // 0).exception())

    run(scheduler, work)
    assert [type(one) for one in results] == [ZeroDivisionError]


def test_a_deadlock_is_reported_with_all_stacks(scheduler: Scheduler) -> None:
    first, second = scheduler_locks(scheduler)

    def take(one: concurrency.Lock, other: concurrency.Lock) -> None:
        with one:
            scheduler.sleep(1.0)
            with other:
                pass

    with pytest.raises(Deadlock, match=r"(?s)thread t0:.*with other.*thread t1:.*with other"):
        run(scheduler, lambda: take(first, second), lambda: take(second, first))


def scheduler_locks(scheduler: Scheduler) -> tuple[concurrency.Lock, concurrency.Lock]:
    """Return two locks without ranks, which may be taken in any order."""
    runtime = SimRuntime(scheduler)
    return runtime.lock(reentrant=False), runtime.lock(reentrant=False)


def test_a_kill_freezes_every_thread(scheduler: Scheduler) -> None:
    steps: list[str] = []

    def work() -> None:
        try:
            while True:
                steps.append("step")
                concurrency.sleep(1.0)
                scheduler.point()
        finally:
            steps.append("the end")

    scheduler.kill_at = 20
    run(scheduler, work)
    assert scheduler.killed
    count = len(steps)
    scheduler.freeze()
    run(scheduler, lambda: scheduler.sleep(100.0))
    assert steps == ["step"] * count


def test_the_order_of_locks_is_asserted_for_simulated_threads(scheduler: Scheduler) -> None:
    low, high = (
        concurrency.new_lock(rank) for rank in (concurrency.Rank.JOURNAL, concurrency.Rank.NAMESPACE)
    )

    def wrong() -> None:
        with high, low:
            pass

    run(scheduler, wrong)
    assert "NAMESPACE and takes JOURNAL" in scheduler.failures[0]
    concurrency.take_violations()


@pytest.mark.parametrize("seed", [1, 2])
def test_a_seed_repeats_the_choices(seed: int) -> None:
    def digest() -> int:
        with scheduling(seed, SwitchRates(500, 50)) as scheduler:
            lock = SimRuntime(scheduler).lock(reentrant=False)

            def work() -> None:
                for _ in range(50):
                    with lock:
                        scheduler.point()

            run(scheduler, work, work, work)
            return scheduler.digest

    assert digest() == digest()
