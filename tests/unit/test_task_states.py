"""The states of a task: which may follow which, and that an old due entry picks nothing."""

import itertools
import math

import pytest

from swiftfs.errors import Unavailable
from swiftfs.filecache.cache_space import Uses
from swiftfs.journal import tasks
from swiftfs.journal.operations import Delete
from swiftfs.journal.task_queue import TaskQueue
from swiftfs.journal.task_writer import HeldDeletions
from swiftfs.journal.tasks import (
    Blocked,
    Cancelled,
    Retrying,
    Running,
    State,
    Succeeded,
    Task,
    Waiting,
    nobody_waits,
    pause_after,
)
from swiftfs.objects import ObjectName
from swiftfs.store.moved_view import MovedNames

ERROR = Unavailable("503")

STATES: list[State] = [
    Waiting(1.0),
    Retrying(1.0, ERROR),
    Running(None, 0.0),
    Blocked(ERROR),
    Succeeded(),
    Cancelled(),
]

POSSIBLE = {
    (Waiting, Waiting),
    (Waiting, Running),
    (Waiting, Cancelled),
    (Retrying, Waiting),
    (Retrying, Retrying),
    (Retrying, Running),
    (Retrying, Cancelled),
    (Running, Waiting),
    (Running, Retrying),
    (Running, Blocked),
    (Running, Succeeded),
    (Running, Cancelled),
    (Blocked, Waiting),
    (Blocked, Retrying),
    (Blocked, Cancelled),
}


def deletion(state: State, seq: int = 1, key: str = "file") -> Task:
    return Task(seq, f"/{key}", Delete(ObjectName("box", key), is_slo=False), nobody_waits, 0.0, state)


@pytest.mark.parametrize(("before", "after"), list(itertools.product(STATES, STATES)))
def test_a_transition_that_is_not_in_the_table_is_refused(before: State, after: State) -> None:
    task = deletion(before)
    if (type(before), type(after)) in POSSIBLE:
        task.become(after)
        assert task.state is after
    else:
        with pytest.raises(RuntimeError, match="cannot change"):
            task.become(after)
        assert task.state is before


def test_a_due_entry_counts_only_in_the_state_that_made_it() -> None:
    queue, task = TaskQueue(Uses(), MovedNames()), deletion(Waiting(5.0))
    queue.add(task)
    queue.schedule(task, 9.0)
    assert queue.pop_due(8.0) is None
    assert queue.pop_due(9.0) is task
    task.begin(0)
    assert queue.pop_due(100.0) is None
    queue.schedule(task, 20.0, ERROR)
    queue.schedule(task, 30.0, ERROR)
    assert queue.next_due() == 30.0
    assert task.error is ERROR


@pytest.mark.parametrize("end", [Succeeded(), Cancelled(ERROR)])
def test_a_task_that_has_ended_is_never_picked(end: Succeeded | Cancelled) -> None:
    queue, task = TaskQueue(Uses(), MovedNames()), deletion(Waiting(0.0))
    queue.add(task)
    task.begin(0)
    queue.schedule(task, 0.0)
    task.begin(0)
    task.become(end)
    assert queue.pop_due(100.0) is None
    with pytest.raises(RuntimeError, match="cannot change"):
        queue.run_now(task)


def test_a_blocked_task_is_picked_again_only_when_asked() -> None:
    queue, task = TaskQueue(Uses(), MovedNames()), deletion(Blocked(ERROR))
    queue.add(task)
    assert queue.pop_due(100.0) is None
    assert task.is_stuck
    queue.run_now(task)
    assert task.error is ERROR
    assert queue.pop_due(0.0) is task


def test_pauses_double_and_stay_at_the_longest_in_an_outage_of_any_length(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An outage of a week is 10,000 attempts, and 2 to that power is no float."""
    monkeypatch.setattr(tasks, "FIRST_PAUSE", 1.0)
    monkeypatch.setattr(tasks, "LONGEST_PAUSE", 30.0)
    assert [pause_after(attempts) for attempts in range(1, 8)] == [1, 2, 4, 8, 16, 30, 30]
    assert pause_after(10_000) == 30


def test_a_held_deletion_is_not_dropped_for_another_change_unless_it_was_taken_back() -> None:
    held, task = HeldDeletions(), deletion(Waiting(math.inf))
    held.add(task)
    assert held.taken_back([ObjectName("box", "file")]) == []
    assert held.take_back(task.seq) is task
    assert held.taken_back([ObjectName("box", "file")]) == [task]
