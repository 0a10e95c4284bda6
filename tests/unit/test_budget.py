"""The budget of a month: what counts, over restarts, and what ends when it is spent."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from swiftfs import concurrency
from swiftfs.config.cache_dir import SPENT
from swiftfs.config.prices import Prices
from swiftfs.control.live_options import Budget
from swiftfs.objects import Count, Counts

PRICES = Prices("EUR", {"put": 1000.0, "get": 500.0}, sent=1.0, received=2.0)
"""A PUT costs 1 EUR, a GET half of that."""

DECEMBER = 1_796_079_600
"""2026-12-01 00:00 in Berlin, 23:00 on November 30 in UTC."""


class Clock(concurrency.Runtime):
    """Unix time that a test sets."""

    now = float(DECEMBER - 10)

    def unix_time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    import time  # noqa: PLC0415

    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    clock = Clock()
    before = concurrency.use(clock)
    yield clock
    concurrency.use(before)
    monkeypatch.undo()
    time.tzset()


class Mount:
    """The budget of one mount's process; `saving` is what it has asked for."""

    def __init__(self, folder: Path, amount: float | None = 10.0, source: str = "photos of me") -> None:
        self.sent = Count()
        self.saving: list[bool] = []
        counts = lambda: Counts({"put": self.sent})  # noqa: E731
        self.budget = Budget(PRICES, amount, folder, source, counts, self.saving.append)

    def put(self, requests: int, size: int = 0) -> None:
        self.sent += Count(requests=requests, bytes_sent=size)
        self.budget.count()

    @property
    def cost(self) -> float:
        return self.budget.state().cost


pytestmark = pytest.mark.usefixtures("clock")


def test_costs_are_counted_over_restarts(tmp_path: Path) -> None:
    first = Mount(tmp_path)
    first.put(3, 10**9)
    assert first.cost == pytest.approx(4)
    second = Mount(tmp_path)
    assert second.cost == pytest.approx(4)
    second.put(2)
    assert Mount(tmp_path).cost == pytest.approx(6)


def test_what_was_not_saved_is_lost_and_no_more(tmp_path: Path) -> None:
    mount = Mount(tmp_path)
    mount.put(3)
    mount.sent += Count(requests=1)
    assert mount.cost == pytest.approx(4)
    assert Mount(tmp_path).cost == pytest.approx(3)


def test_sources_have_budgets_of_their_own(tmp_path: Path) -> None:
    Mount(tmp_path).put(3)
    other = Mount(tmp_path, source="films of me")
    other.put(1)
    assert (other.cost, Mount(tmp_path).cost) == (1, 3)


def test_a_month_begins_in_local_time(tmp_path: Path, clock: Clock) -> None:
    mount = Mount(tmp_path)
    mount.put(12)
    assert mount.budget.state().month == "2026-11"
    clock.now = float(DECEMBER)
    assert (mount.budget.state().month, mount.cost) == ("2026-12", 0)
    mount.put(1)
    assert (mount.cost, Mount(tmp_path).cost) == (1, 1)
    clock.now = float(DECEMBER - 1)  # the clock was set back
    assert mount.cost == 12
    assert mount.saving == [True, False]


def test_it_warns_once_and_then_saves(tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    mount = Mount(tmp_path)
    mount.put(7)
    assert (caplog.messages, mount.saving) == ([], [])
    mount.put(1)
    mount.put(1)
    assert caplog.messages == ["80 % of the budget of 10.00 EUR for 2026-11 is spent, 8.00 so far"]
    assert mount.saving == []
    mount.put(1)
    mount.put(1)
    assert caplog.messages[1:] == [
        "the budget of 10.00 EUR for 2026-11 is spent, 10.00 so far: nothing is downloaded in advance any "
        "more; reads, uploads and deletions go on"
    ]
    assert mount.saving == [True]
    assert mount.budget.state().is_spent
    clock.now += 86_400
    mount.put(1)
    assert mount.saving == [True, False]
    caplog.clear()


def test_a_larger_budget_ends_the_saving(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mount = Mount(tmp_path)
    mount.put(20)
    assert mount.saving == [True]
    mount.budget.set_amount(100.0)
    mount.budget.set_amount(15.0)
    mount.budget.set_amount(None)
    assert mount.saving == [True, False, True, False]
    assert mount.budget.state().part == 0
    caplog.clear()


def test_without_a_budget_the_costs_are_counted(tmp_path: Path) -> None:
    mount = Mount(tmp_path, None)
    mount.put(1000)
    assert mount.saving == []
    assert Mount(tmp_path).budget.state().is_spent


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"photos of me": 3}', '{"photos of me": {"currency": "EUR"}}']
)
def test_a_damaged_file_is_replaced(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / SPENT).write_text(text)
    mount = Mount(tmp_path)
    assert "cannot be read: this month's costs are counted from now on" in caplog.text
    mount.put(1)
    assert Mount(tmp_path).cost == 1
    caplog.clear()


def test_another_currency_begins_anew(tmp_path: Path) -> None:
    (tmp_path / SPENT).write_text(
        json.dumps({"photos of me": {"currency": "KRW", "months": {"2026-11": 5000}}})
    )
    assert Mount(tmp_path).cost == 0


def test_its_thread_counts_until_the_end(tmp_path: Path) -> None:
    mount = Mount(tmp_path)
    mount.budget.start()
    mount.sent += Count(requests=2)
    mount.budget.close()
    assert Mount(tmp_path).cost == 2
