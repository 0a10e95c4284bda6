"""The costs of a mount in a month, by the user's prices, and what it leaves out when its budget is spent."""

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from swiftfs.concurrency import new_event, new_thread, unix_time
from swiftfs.config.cache_dir import SPENT, write_whole
from swiftfs.config.prices import MonthCost, Prices
from swiftfs.objects import Counts

log = logging.getLogger(__name__)

COUNT_SECONDS = 5.0
"""The interval in which costs are added up and saved: a kill loses the costs of so many seconds."""

NEARLY = 0.8
"""The share of the budget at which the log warns."""

MONTHS = 24
"""How many months are remembered. By month, so that a clock that was wrong for a while spoils none."""


class Budget:
    """Adds up costs by month, over restarts, and tells `save` when to begin and when to end saving.

    `counts` returns what the process has sent so far. The sums are in the cache folder `cache`, for `source`
    alone: the folder may be used for another one later. Only its own thread, and whoever calls `close` after
    it, counts; any thread may read `state`.
    """

    def __init__(
        self,
        prices: Prices,
        amount: float | None,
        cache: Path,
        source: str,
        counts: Callable[[], Counts],
        save: Callable[[bool], None],
    ) -> None:
        self.prices = prices
        self._amount = amount
        self._path = cache / SPENT
        self._source = source
        self._counts = counts
        self._save = save
        self._is_saving = False
        self._warned = ("", 0)
        # One value, so that another thread sees both of one moment.
        self._sum = (self._read(), 0.0)
        self._is_dirty = False
        self._ended = new_event()
        self._thread = new_thread(self._run, "budget", daemon=True)  # no failure of a mount waits for it

    def start(self) -> None:
        """Begin to count; after the fork, if there is one."""
        self.count()
        self._thread.start()

    def close(self) -> None:
        """End the thread, and save the last costs."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()
            self.count()

    def set_amount(self, amount: float | None) -> None:
        """Change the budget of a month, None for none."""
        self._amount = amount
        self._judge()  # beside the own thread: what both see differently is right after its next count

    def state(self) -> MonthCost:
        """Return the cost of this month."""
        month, total = _month(), self._total()
        months, counted = self._sum
        cost = months.get(month, 0.0) + max(0.0, total - counted)
        return MonthCost(month, self.prices.currency, cost, self._amount)

    def count(self) -> None:
        """Add what was spent since the last time to this month, and save the sums."""
        total, month = self._total(), _month()
        months, counted = self._sum
        if total > counted:
            self._sum = {**months, month: months.get(month, 0.0) + total - counted}, total
            self._is_dirty = True
        self._judge()
        if self._is_dirty:
            self._write()

    def _run(self) -> None:
        while not self._ended.wait(COUNT_SECONDS):
            self.count()

    def _total(self) -> float:
        return self.prices.cost(self._counts()).total

    def _judge(self) -> None:
        """Warn once of each step, and save from the last one on."""
        state = self.state()
        step = 2 if state.is_spent else int(state.part >= NEARLY)
        if state.budget is not None and (state.month, step) > self._warned and step:
            texts = _WARNINGS[step]
            log.warning(texts, state.budget, state.currency, state.month, state.cost)
        self._warned = (state.month, step)
        if self._is_saving is not state.is_spent:
            self._is_saving = state.is_spent
            if not state.is_spent:
                log.info("there is a budget again: files are downloaded in advance")
            self._save(state.is_spent)

    def _read(self) -> dict[str, float]:
        try:
            found = self._all().get(self._source, {})
            if found.get("currency") == self.prices.currency:
                return {str(month): float(cost) for month, cost in found["months"].items()}
        except (TypeError, ValueError, KeyError, AttributeError):
            log.warning("%s cannot be read: this month's costs are counted from now on", self._path)
        return {}

    def _all(self) -> dict[str, Any]:
        try:
            values = json.loads(self._path.read_text())
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise ValueError(error) from None
        if not isinstance(values, dict):
            raise TypeError
        return values

    def _write(self) -> None:
        months = dict(sorted(self._sum[0].items())[-MONTHS:])
        try:
            others = self._all()
        except (TypeError, ValueError):
            others = {}
        mine = {"currency": self.prices.currency, "months": months}
        try:
            write_whole(self._path, json.dumps({**others, self._source: mine}))
            self._is_dirty = False
        except OSError as error:  # a full disk; the next time tries again
            log.info("%s: %s", self._path, error)


_WARNINGS = {
    1: "80 %% of the budget of %.2f %s for %s is spent, %.2f so far",
    2: "the budget of %.2f %s for %s is spent, %.2f so far: nothing is downloaded in advance any more; "
    "reads, uploads and deletions go on",
}


def _month() -> str:
    return time.strftime("%Y-%m", time.localtime(unix_time()))
