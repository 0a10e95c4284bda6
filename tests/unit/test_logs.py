"""The log: priorities for systemd's journal, request ids, and that repeated lines are counted."""

import logging

import pytest

from support.log_records import record
from swiftfs.service import monitoring as logs
from swiftfs.service.monitoring import JournalFormatter, LineFormatter, Recent, Repetition


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the log uses; a test sets it."""
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_a_message_is_logged_once_a_minute_and_then_counted(clock: list[float]) -> None:
    repetition = Repetition()
    passed = [repetition.filter(record("down")) for _ in range(5)]
    assert passed == [True, False, False, False, False]
    clock[0] += 61
    again = record("down")
    assert repetition.filter(again)
    assert again.getMessage() == "down (4 more like it in 61 s)"
    clock[0] += 61
    once = record("down")
    assert repetition.filter(once)
    assert once.getMessage() == "down"


def test_request_ids_and_pauses_make_no_other_message(clock: list[float]) -> None:
    repetition = Repetition()
    assert repetition.filter(record("put box/f: 503 (tx0123-45); again in 0.3 s"))
    assert not repetition.filter(record("put box/f: 503 (tx9876-ab); again in 1.7 s"))
    assert repetition.filter(record("put box/g: 503 (tx9876-ab); again in 1.7 s"))
    assert repetition.filter(record("put box/f: 503 (tx0123-45); again in 0.3 s", logging.WARNING))


def test_debug_messages_all_pass(clock: list[float]) -> None:
    repetition = Repetition()
    assert all(repetition.filter(record("read", logging.DEBUG)) for _ in range(3))


def test_the_memory_for_messages_is_bounded(clock: list[float]) -> None:
    repetition = Repetition()
    for number in range(2 * logs.REMEMBERED):
        assert repetition.filter(record(f"file{number}"))
    assert repetition.filter(record("file0"))


@pytest.mark.parametrize(
    ("level", "priority"),
    [(logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.DEBUG, 7)],
)
def test_the_journal_s_priorities(level: int, priority: int) -> None:
    assert JournalFormatter().format(record("one\ntwo", level)) == f"<{priority}>one\\ntwo"


NAME = "a\nERROR: lie\x1b[2J\u202egpj.exe\u2028\udcff"
SHOWN = r"a\nERROR: lie\x1b[2J\u202egpj.exe\u2028\udcff"


@pytest.mark.parametrize("formatter", [LineFormatter("%(message)s"), JournalFormatter()])
def test_a_name_makes_no_other_line_and_controls_no_terminal(formatter: logging.Formatter) -> None:
    line = formatter.format(record(f"cannot store {NAME}"))
    assert line.removeprefix("<6>") == f"cannot store {SHOWN}"


def test_the_lines_of_a_traceback_stay_lines() -> None:
    failed = record("failed")
    failed.exc_info = ValueError, ValueError(NAME), None
    assert JournalFormatter().format(failed).split("\n") == [
        "<6>failed",
        "<6>  ValueError: a",
        f"<6>  {SHOWN.partition('n')[2]}",
    ]


def test_the_end_of_the_log_shows_names_as_the_log_does() -> None:
    recent = Recent()
    recent.handle(record(f"cannot store {NAME}"))
    assert recent.text().endswith(f" INFO cannot store {SHOWN}\n")


def test_letters_of_other_languages_stay() -> None:
    assert (
        LineFormatter("%(message)s").format(record("보관/写真/Übersicht é.txt"))
        == "보관/写真/Übersicht é.txt"
    )
