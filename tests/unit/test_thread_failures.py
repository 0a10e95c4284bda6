"""Errors that end a thread."""

import threading

import pytest

from swiftfs.concurrency import new_thread, report_thread_failures


def test_an_error_that_ends_a_thread_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the background its traceback would go to /dev/null."""
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    told: list[tuple[str, str]] = []
    report_thread_failures(lambda name, error: told.append((name, repr(error))))

    def fail() -> None:
        raise ValueError("why")

    thread = new_thread(fail, "worker")
    thread.start()
    thread.join()
    assert told == [("worker", "ValueError('why')")]
