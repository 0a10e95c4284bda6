"""`swiftfs status`: what it shows of a mount."""

import json
import re
from typing import get_args

import pytest
from msgspec.structs import replace

from support.mount_states import NOTHING_WAITS, STATE, shown
from swiftfs.cli.command_line import KINDS
from swiftfs.cli.status_view import MOST_ROWS
from swiftfs.config.prices import Cost, MonthCost
from swiftfs.control.snapshot import MountStatus, Throttling, Writing
from swiftfs.journal import operations
from swiftfs.journal.queue_report import QueuedChange, QueueReport
from swiftfs.store.server_state import Counters


def test_the_status_of_a_mount_is_shown() -> None:
    assert shown(STATE).splitlines() == [
        "photos on /mnt",
        "  mounted   3 h 2 min ago, by swiftfs 1.2",
        "  server    https://example.org as me; Swift 2.38",
        "  limits    files up to 1.0 TB in segments of 16M; 1 upload and 8 downloads at once; the server's:",
        "            5.0 GB an object, 10,000 names a listing, no bulk delete",
        "  cache     1.9M of 9.3G, 1000 bytes of it not in Swift yet; /cache",
        "  requests  2,001 requests, 3 failed; 1.0 kB sent, 5.0 MB received",
        "",
        "  requests  number  failed    sent  received  seconds",
        "  get        2,000       3            5.0 MB     10.0",
        "  put            1          1.0 kB                0.5",
        "",
        "nothing is waiting: everything that was closed is in Swift",
    ]


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (replace(NOTHING_WAITS, waiting=1), "1 change waiting"),
        (replace(NOTHING_WAITS, waiting=2, bytes=2000), "2 changes waiting; 2.0 kB of files"),
        (replace(NOTHING_WAITS, parked=1), "1 change parked"),
        (
            replace(NOTHING_WAITS, waiting=1200, running=1, parked=2),
            "1,203 changes: 1,200 waiting, 1 running, 2 parked",
        ),
    ],
)
def test_numbers_and_nouns_agree(report: QueueReport, expected: str) -> None:
    assert shown(replace(STATE, report=report)).splitlines()[-1] == expected


def test_running_uploads_and_open_files_have_a_bar() -> None:
    changes = (
        QueuedChange("/film", "PutFile", "running", 4_000_000, 0, "", 1_000_000),
        QueuedChange("/gone", "Delete", "running", 0, 0, "", 0),
    )
    report = replace(NOTHING_WAITS, running=2, bytes=4_000_000, changes=changes)
    text = shown(replace(STATE, report=report, writing=(Writing("/tape", 10_000_000, 5_000_000),)))
    assert re.search(r"━+.* 25% 1\.0 MB of 4\.0 MB +/film\n", text)
    assert re.search(r"━+.* 50% 5\.0 MB of 10\.0 MB, being written +/tape\n", text)
    assert re.search(r"running +deletion +/gone\n", text)


def test_only_the_first_of_many_changes_are_shown() -> None:
    changes = tuple(QueuedChange(f"/{number}", "PutMarker", "waiting", 0, 0, "", 0) for number in range(30))
    text = shown(replace(STATE, report=replace(NOTHING_WAITS, waiting=100, changes=changes, left_out=70)))
    assert text.count(" folder ") == MOST_ROWS
    assert "\n  and 80 more\n" in text


def test_every_kind_of_change_has_a_name_for_people() -> None:
    every = {operations.KINDS[kind] for kind in get_args(operations.Operation)}
    assert {"PutFile", "MoveFolder"} <= every
    assert every - {"Copy", "CreateContainer", "DescribeContainer", "DeleteContainer"} == set(KINDS)


def test_a_journal_that_was_set_aside_is_shown_with_the_command() -> None:
    text = shown(replace(STATE, set_aside=("journal.damaged-1", "lost")))
    assert "\na damaged journal was set aside (journal.damaged-1, lost): swiftfs recover /cache\n" in text


def test_the_cost_is_shown() -> None:
    assert "; about 1,234.50 KRW" in shown(replace(STATE, cost=Cost("KRW", 1234.5, 0.0)))
    assert "; less than 0.01 EUR" in shown(replace(STATE, cost=Cost("EUR", 0.0, 0.001)))
    assert "; about 0.00 EUR" in shown(replace(STATE, cost=Cost("EUR", 0.0, 0.0)))


def test_a_status_is_read_back_from_json() -> None:
    changes = (QueuedChange("/" + "한" * 300, "PutFile", "parked", 10**12, 7, "\0", 0),)
    state = replace(
        STATE,
        report=replace(NOTHING_WAITS, parked=1, changes=changes),
        cost=Cost("EUR", 1.0, 2.0),
        writing=(Writing("/a", 1, 0),),
        set_aside=("lost",),
    )
    assert MountStatus.from_json(state.to_json()) == state
    values = json.loads(state.to_json())
    assert (values["parked"], values["cost"]["total"]) == (1, 3.0)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"schema": 2}', '{"schema": 1}', '{"schema": 1, "version": []}']
)
def test_text_that_is_no_status_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  what it says is for nobody
        MountStatus.from_json(text)


def test_bytes_being_sent_are_counted_by_object_and_by_prefix() -> None:
    counters = Counters()
    with counters.body("box/a") as count, counters.body("box/a/segments/1") as other:
        assert counters.under_way("box/a") == 0
        count(10)
        count(5)
        other(7)
        assert counters.under_way("box/a") == 15
        assert counters.under_way("box/a/segments/") == 7
        assert counters.under_way("box") == counters.under_way("box/a/segments") == 0
    assert counters.under_way("box/a") == counters.under_way("box/") == 0


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (Throttling("2M:off", sent=2.0 * 1024**2), "  throttle  2M a second sent\n"),
        (
            Throttling("off", requests=0.5, requests_waited=125.0),
            "  throttle  0.5 requests a second; requests have waited 2 min\n",
        ),
        (
            Throttling("08:00,2M 19:00,off", sent_waited=5.0),
            "  throttle  nothing now (bwlimit 08:00,2M 19:00,off); requests have waited 5 s\n",
        ),
    ],
)
def test_limits_are_shown_with_what_they_cost(limits: Throttling, expected: str) -> None:
    text = shown(replace(STATE, throttling=limits))
    assert expected in text
    assert "throttle" not in shown(STATE)


def test_the_month_is_shown_and_survives_json() -> None:
    spent = replace(STATE, month=MonthCost("2026-11", "EUR", 5.5, 5.0))
    told = "about 5.50 EUR in 2026-11, of a budget of 5.00 EUR; it is spent: nothing is downloaded in advance"
    assert f"  month     {told}\n" in shown(spent, 200)
    assert MountStatus.from_json(spent.to_json()) == spent
    assert json.loads(spent.to_json())["month"]["is_spent"]
    free = replace(STATE, month=MonthCost("2026-11", "EUR", 5.5))
    assert "  month     about 5.50 EUR in 2026-11\n" in shown(free)
