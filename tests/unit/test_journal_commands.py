"""What `status`, `flush` and `retry` read and do, without a kernel."""

from pathlib import Path

import pytest

from support.deadlines import within
from support.halted_moves import Halt
from support.harness import harness, write
from support.jobs import wait_until
from support.memory_store import MemoryStore
from support.stored_objects import NEVER, refuse
from swiftfs.errors import Unavailable
from swiftfs.journal.operations import CreateContainer
from swiftfs.journal.queue_report import MOST_BYTES, QueuedChange, QueueReport
from swiftfs.journal.report import Refusals
from swiftfs.journal.report import report as make_report
from swiftfs.journal.tasks import Task, Waiting, nobody_waits
from swiftfs.posix.filesystem import FileSystem


@pytest.mark.usual
def test_flush_does_not_wait_for_a_server_that_does_not_answer(store: MemoryStore, tmp_path: Path) -> None:
    with harness(store, tmp_path, NEVER) as filesystem:
        for number in range(200):
            write(filesystem, f"/{number}", b"data")
        refuse(store, "put", Unavailable("no answer"))
        filesystem.setxattr("/", "swift.flush", b"1", 0)
        wait_until(lambda: not report(filesystem).flushing)
        found = report(filesystem)
        assert found.away
        assert found.unflushed == 200
        assert found.changes[0].reason == "no answer"
        store.hook = None
        filesystem.setxattr("/", "swift.flush", b"1", 0)
        wait_until(lambda: not report(filesystem).unflushed)
    assert len(store.list_page("box").rows) == 200


def test_one_object_without_an_answer_does_not_mean_that_the_server_is_away(
    store: MemoryStore, tmp_path: Path
) -> None:
    with harness(store, tmp_path, NEVER) as filesystem:
        for number in range(20):
            write(filesystem, f"/{number}", b"data")

        def hook(method: str, subject: str) -> None:
            if subject == "box/7":
                wait_until(lambda: len(filesystem.waiting()) == 1)
                raise Unavailable("no answer")

        store.hook = hook
        filesystem.setxattr("/", "swift.flush", b"1", 0)
        wait_until(lambda: report(filesystem).changes[0].attempts)
        found = report(filesystem)
        assert not found.away
        assert [change.path for change in found.changes] == ["/7"]
        store.hook = None


def report(filesystem: FileSystem) -> QueueReport:
    return QueueReport.from_json(filesystem.getxattr("/", "swift.status").decode())


@pytest.mark.store(MemoryStore, "box", "box_segments")
def test_nothing_is_sent_of_a_large_file_whose_first_segments_are_under_way(
    store: MemoryStore, tmp_path: Path
) -> None:
    with harness(store, tmp_path, f"{NEVER},segment_size=1M") as filesystem:
        halt = Halt(store, "put")
        write(filesystem, "/large", bytes(range(250)) * 10_000)
        filesystem.setxattr("/", "swift.flush", b"1", 0)
        assert halt.reached.wait(within(20))
        wait_until(lambda: report(filesystem).running)
        (change,) = report(filesystem).changes
        halt.go_on()
        assert change.sent == 0


def test_a_file_written_again_after_a_flush_began_is_flushed_too(store: MemoryStore, tmp_path: Path) -> None:
    with harness(store, tmp_path, NEVER) as filesystem:
        write(filesystem, "/a", b"first")
        task = filesystem.services.journal._queue.awake()[0]
        task.flush_mark = 0
        write(filesystem, "/a", b"second")
        wait_until(lambda: not report(filesystem).unflushed)
        assert not filesystem.waiting()


def test_a_flush_has_tried_what_has_failed_since_it_began_and_is_not_tried_again() -> None:
    task = Task(1, "/a", CreateContainer("box"), nobody_waits, 0.0, Waiting(0.0), attempts=1, flush_mark=1)

    def flushing() -> int:
        return make_report([task], Refusals(), away=False).flushing

    assert flushing() == 1
    task.attempts = 2
    assert flushing() == 0
    task.begin(0)
    assert flushing() == 1


def test_a_report_fits_into_an_extended_attribute() -> None:
    change = QueuedChange("/" + "한" * 300, "PutFile", "parked", 10**12, 7, "\0" * 300, 0)
    found = QueueReport(0, 0, 5000, 10**15, False, 0, 0, (change,) * 500, 4500)
    text = found.to_json()
    assert len(text.encode()) <= MOST_BYTES
    back = QueueReport.from_json(text)
    assert len(back.changes) > 10
    assert back.left_out == 5000 - len(back.changes)
    assert back.changes[0] == change
