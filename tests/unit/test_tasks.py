"""The queue in memory: what may run, and what waits for what."""

import math

import pytest

from swiftfs.attributes import Stored
from swiftfs.errors import Unavailable
from swiftfs.filecache.cache_space import Uses
from swiftfs.journal.operations import Delete, FolderPaths, MoveObject, Operation, PutMarker, PutSpecial
from swiftfs.journal.task_queue import MOST_MOVING, TaskQueue
from swiftfs.journal.tasks import Blocked, Task, Waiting, nobody_waits
from swiftfs.objects import ObjectName, Row
from swiftfs.store.moved_view import MovedNames
from swiftfs.store.protocol import ObjectMeta

FOLDER, FILE = ObjectName("box", "d"), ObjectName("box", "d/file")
LINK = PutSpecial(FILE, b"target", ObjectMeta("text/plain", Stored()))


@pytest.fixture
def queue() -> TaskQueue:
    return TaskQueue(Uses(), MovedNames())


def add(queue: TaskQueue, operation: Operation, due: float = 0.0) -> Task:
    task = Task(queue.next_seq(), "/path", operation, nobody_waits, 0.0, Waiting(due))
    queue.add(task)
    return task


def test_a_hand_in_is_stored_with_a_later_one(queue: TaskQueue) -> None:
    task = add(queue, LINK)
    task.stored_hand_in = 2
    assert [task.is_stored(hand_in) for hand_in in (1, 2, 3)] == [True, True, False]


@pytest.mark.parametrize("removed", [False, True])
def test_a_deletion_waits_for_the_marker_of_its_folder(queue: TaskQueue, *, removed: bool) -> None:
    if removed:
        add(queue, Delete(FOLDER, is_slo=False), due=5.0)
    marker = add(queue, PutMarker(FOLDER), due=5.0)
    deletion = add(queue, Delete(FILE, is_slo=False))
    assert deletion.blockers == {marker}
    assert queue.next_due() == 5.0


def test_what_waits_for_a_task_that_goes_waits_for_its_blockers(queue: TaskQueue) -> None:
    first, second, third = add(queue, LINK), add(queue, LINK), add(queue, LINK)
    assert third.blockers == {second}
    queue.remove(second)
    assert third.blockers == {first}
    assert first.dependents == {third}
    assert not second.blockers | second.dependents
    queue.remove(first)
    assert queue.pop_due(1.0) is third
    third.begin(0)
    assert queue.pop_due(1.0) is None


def test_a_task_that_is_put_back_comes_before_the_other_and_what_waits_for_that(queue: TaskQueue) -> None:
    deletion = add(queue, Delete(FILE, is_slo=False))
    queue.remove(deletion)
    move, later = add(queue, LINK), add(queue, LINK)
    queue.put_before(deletion, move)
    assert queue.chain(FILE) == [deletion, move, later]
    assert later.blockers == {deletion, move}


def test_a_task_is_due_once_at_the_time_that_was_set_last(queue: TaskQueue) -> None:
    task = add(queue, LINK, due=3.0)
    queue.schedule(task, 7.0)
    assert queue.pop_due(5.0) is None
    assert queue.next_due() == 7.0
    queue.run_now(task)
    assert queue.pop_due(5.0) is task
    task.begin(0)
    task.become(Blocked(OSError()))
    assert queue.next_due() == math.inf
    queue.run_now(task)
    assert queue.next_due() == 0.0


def test_one_batch_of_moves_runs_at_once_and_more_only_for_a_call_that_waits(queue: TaskQueue) -> None:
    row = Row("d/file", 4, "etag", "text/plain", "2026-01-01T00:00:00.000000")
    move = add(queue, MoveObject(FILE, ObjectName("box", "e/file"), row, FolderPaths("/d", "/e", 1)))
    assert queue.next_due() == 0.0
    queue.moving = 1
    assert queue.next_due() == math.inf
    move.awaited_hand_in = 1
    assert queue.next_due() == 0.0
    queue.moving = MOST_MOVING
    assert queue.next_due() == math.inf


@pytest.mark.parametrize("is_away", [False, True])
def test_what_was_not_tried_comes_before_what_has_failed_while_the_server_does_not_answer(
    queue: TaskQueue, *, is_away: bool
) -> None:
    failed = add(queue, PutMarker(FOLDER))
    failed.begin(0)
    queue.schedule(failed, 1.0, Unavailable("refused"))
    new = add(queue, LINK, due=2.0)
    row = Row("d/old", 4, "etag", "text/plain", "2026-01-01T00:00:00.000000")
    paths = FolderPaths("/d", "/e", 1)
    move = add(queue, MoveObject(ObjectName("box", "d/old"), ObjectName("box", "e/old"), row, paths), due=0.5)
    queue.is_away = is_away
    order = [queue.pop_due(5.0) for _ in range(3)]
    assert order == ([new, move, failed] if is_away else [failed, new, move])


def test_while_the_server_does_not_answer_a_task_waits_for_the_next_probe_unless_a_thread_waits_for_it(
    queue: TaskQueue,
) -> None:
    task = add(queue, LINK, due=2.0)
    queue.next_probe = 3.0
    assert queue.next_due() == 2.0
    queue.is_away = True
    assert queue.next_due() == 3.0
    assert queue.pop_due(2.5) is None
    task.awaited_hand_in = 1
    assert queue.pop_due(2.5) is task
