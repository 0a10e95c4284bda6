"""SIGUSR1: the stacks of all threads and the queue are logged, and the mount continues."""

import logging

import pytest

from support.log_records import record
from swiftfs.journal.queue_report import QueuedChange, QueueReport
from swiftfs.service.daemon import ALWAYS, log_state
from swiftfs.service.monitoring import Repetition


def test_a_line_names_a_pending_change_and_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    parked = QueuedChange("/a", "PutFile", "parked", 100, 3, "put a: 403", 40)
    report = QueueReport(1, 0, 1, 100, away=True, flushing=0, unflushed=0, changes=(parked,), left_out=1)
    with caplog.at_level(logging.INFO):
        log_state(lambda: report)
    assert caplog.messages[-3:] == [
        "changes: 1 waiting, 0 running, 1 parked; the server does not answer, or asks for a pause",
        "parked PutFile /a, 40 of 100 bytes sent, tried 3 times: put a: 403",
        "and 1 more",
    ]
    assert any("test_a_line_names_a_pending_change_and_its_reason" in line for line in caplog.messages)


def test_the_stacks_are_logged_before_the_queue_is_read(caplog: pytest.LogCaptureFixture) -> None:
    def stuck() -> QueueReport:
        raise RuntimeError("the journal hangs")

    with caplog.at_level(logging.INFO), pytest.raises(RuntimeError):
        log_state(stuck)
    assert any("test_the_stacks_are_logged_before" in line for line in caplog.messages)


def test_lines_of_a_dump_are_never_taken_for_repetitions() -> None:
    repetition = Repetition()
    for _ in range(2):
        line = record("  File x, line 1 in wait")
        vars(line).update(ALWAYS)
        assert repetition.filter(line)
