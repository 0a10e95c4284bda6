"""`swiftfs status`: all that an administrator sees of running mounts, and nothing that is secret."""

import json
import re
from dataclasses import replace
from typing import get_args

import pytest

from support.mount_states import NOTHING_WAITS, STATE, shown
from swiftfs.cli.status_view import MOST_ROWS
from swiftfs.cli.wording import KINDS
from swiftfs.config.prices import Cost
from swiftfs.control.snapshot import MountStatus, Writing
from swiftfs.journal import operations
from swiftfs.journal.queue_report import QueuedChange, QueueReport
from swiftfs.store import Counters


def test_what_is_shown_of_a_mount() -> None:
    assert shown(STATE).splitlines() == [
        "photos on /mnt",
        "  mounted   3 h 2 min ago, by swiftfs 1.2",
        "  server    https://example.org as me; Swift 2.38",
        "  limits    files up to 1.0 TB in segments of 16M; 1 upload and 8 downloads at once; the server's:",
        "            5.0 GB an object, 10,000 names a listing, no bulk delete",
        "  cache     2.0 MB of 10.0 GB, 1.0 kB of it not in Swift yet; /cache",
        "  requests  2,001 requests, 3 failed; 1.0 kB sent, 5.0 MB received",
        "",
        "  requests  number  failed    sent  received  seconds",
        "  get        2,000       3            5.0 MB     10.0",
        "  put            1          1.0 kB                0.5",
        "",
        "nothing is waiting: everything that was closed is in Swift",
    ]


@pytest.mark.parametrize(
    ("report", "told"),
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
def test_numbers_and_nouns_agree(report: QueueReport, told: str) -> None:
    assert shown(replace(STATE, report=report)).splitlines()[-1] == told


def test_what_runs_and_what_is_written_has_a_bar() -> None:
    changes = (
        QueuedChange("/film", "PutFile", "running", 4_000_000, 0, "", 1_000_000),
        QueuedChange("/gone", "Delete", "running", 0, 0, ""),
    )
    report = replace(NOTHING_WAITS, running=2, bytes=4_000_000, changes=changes)
    told = shown(replace(STATE, report=report, writing=(Writing("/tape", 10_000_000, 5_000_000),)))
    assert re.search(r"━+.* 25% 1\.0 MB of 4\.0 MB +/film\n", told)
    assert re.search(r"━+.* 50% 5\.0 MB of 10\.0 MB, being written +/tape\n", told)
    assert re.search(r"running +deletion +/gone\n", told)


def test_of_very_many_changes_the_last_are_counted() -> None:
    changes = tuple(QueuedChange(f"/{number}", "PutMarker", "waiting", 0, 0, "") for number in range(30))
    told = shown(replace(STATE, report=replace(NOTHING_WAITS, waiting=100, changes=changes, left_out=70)))
    assert told.count(" folder ") == MOST_ROWS
    assert "\n  and 80 more\n" in told


def test_people_are_told_no_names_of_classes() -> None:
    every = {operations.KINDS[kind] for kind in get_args(operations.Operation)}
    assert {"PutFile", "MoveFolder"} <= every
    assert every - {"CreateContainer", "DescribeContainer", "DeleteContainer"} == set(KINDS)


def test_what_was_set_aside_is_told_with_the_command() -> None:
    told = shown(replace(STATE, set_aside=("journal.damaged-1", "lost")))
    assert "\na damaged journal was set aside (journal.damaged-1, lost): swiftfs recover /cache\n" in told


def test_what_it_cost() -> None:
    assert "; about 1,234.50 KRW" in shown(replace(STATE, cost=Cost("KRW", 1234.5, 0.0)))
    assert "; less than 0.01 EUR" in shown(replace(STATE, cost=Cost("EUR", 0.0, 0.001)))
    assert "; about 0.00 EUR" in shown(replace(STATE, cost=Cost("EUR", 0.0, 0.0)))


def test_a_state_survives_json() -> None:
    changes = (QueuedChange("/" + "한" * 300, "PutFile", "parked", 10**12, 7, "\0"),)
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
def test_what_is_no_state_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  what it says is for nobody
        MountStatus.from_json(text)


def test_bytes_under_way_are_counted_by_object_and_by_prefix() -> None:
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
