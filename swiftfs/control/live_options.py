"""The options of a running mount, the functions that change some of them, and its budget of a month."""

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from swiftfs.attributes import SET_SEPARATOR
from swiftfs.concurrency import Rank, new_lock
from swiftfs.config.options import OPTIONS, Options
from swiftfs.config.prices import Prices
from swiftfs.config.sources import SET_COMMAND, Setting, changed_options
from swiftfs.errors import ConfigurationError

if TYPE_CHECKING:  # `swiftfs set` need not load them
    from swiftfs.posix.filesystem import FileSystem
    from swiftfs.store.connect import ConnectedAccount
import time
from pathlib import Path

from swiftfs.concurrency import new_event, new_thread, unix_time
from swiftfs.config.cache_dir import SPENT, write_whole
from swiftfs.config.prices import MonthCost
from swiftfs.objects import Counts

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


log = logging.getLogger(__name__)

LIVE = (
    *("bwlimit", "tpslimit", "budget"),
    *("read_ahead", "prefetch", "cache_size", "uploads", "settle", "drain"),
)
"""The options that can be changed while a mount runs, in the order in which they are shown."""


class LiveOptions:
    """The options in force. `setters` has a function for each option that can be changed.

    A value is in force in the whole mount, or not at all: all values are checked before the first one counts.
    """

    def __init__(self, options: Options, setters: Mapping[str, Callable[[Any], None]]) -> None:
        self._options = options
        self._setters = setters
        self._lock = new_lock(Rank.LIVE_OPTIONS)

    @property
    def options(self) -> Options:
        """The options in force."""
        return self._options

    def shown(self) -> dict[str, str]:
        """Return the options that can be changed, as a user would type them."""
        return {name: shown(name, getattr(self._options, name)) for name in LIVE if name in self._setters}

    def change(self, settings: Iterable[Setting]) -> None:
        """Bring settings into force; raise `ConfigurationError`, and change nothing, if one is refused."""
        given = {setting.name: setting for setting in settings}
        with self._lock:
            changed = changed_options(self._options, given.values())
            for name in given:
                self._check(name, self._options, changed)
            before, self._options = self._options, changed
            for name in given:
                value = getattr(changed, name)
                if value != getattr(before, name):
                    log.info("option %s=%s is in force", name, shown(name, value))
                    self._setters[name](value)

    def answer(self, request: str) -> str:
        """Carry out the `name=value`s of a request; return the options in force, or the error, as JSON."""
        settings = [
            Setting(*word.partition("=")[::2], SET_COMMAND) for word in request.split(SET_SEPARATOR) if word
        ]
        try:
            self.change(settings)
        except ConfigurationError as error:
            return json.dumps({"error": str(error)})
        return json.dumps({"options": self.shown()})

    def _check(self, name: str, before: Options, changed: Options) -> None:
        if name not in self._setters:
            raise ConfigurationError(
                f"option {name} needs a new mount: unmount, then mount with it; "
                f"these can be set: {', '.join(self._setters)}"
            )
        if name == "settle" and (before.sync or not before.settle or not changed.settle):
            raise ConfigurationError("option settle needs a new mount where close() waits, or is to wait")


def shown(name: str, value: Any) -> str:
    """Return a value as the user would type it, or a word for one that there is not."""
    if value is None:
        return "auto" if name == "cache_size" else "off"
    return OPTIONS[name].kind.show(value)


class Ahead:
    """What is downloaded in advance: as the options say, or nothing while the month's budget is spent."""

    def __init__(self, filesystem: "FileSystem") -> None:
        options = filesystem.services.options
        self._filesystem = filesystem
        self._read_ahead = options.read_ahead
        self._prefetch = options.prefetch
        self._is_saving = False

    def save(self, is_saving: bool) -> None:
        """Download nothing in advance, or again what the options say."""
        self._is_saving = is_saving
        self._apply()

    def set_read_ahead(self, size: int) -> None:
        """Change the option `read_ahead`."""
        self._read_ahead = size
        self._apply()

    def set_prefetch(self, on: bool) -> None:
        """Change the option `prefetch`."""
        self._prefetch = on
        self._apply()

    def set_cache_size(self, size: int) -> None:
        """Change the option `cache_size`, which limits `read_ahead`."""
        self._filesystem.services.file_cache.space.set_limit(size)
        self._apply()

    def _apply(self) -> None:
        self._filesystem.services.file_cache.set_read_ahead(0 if self._is_saving else self._read_ahead)
        self._filesystem.set_prefetch(self._prefetch and not self._is_saving)


def live_options(
    filesystem: "FileSystem", account: "ConnectedAccount", prices: Prices | None
) -> tuple[LiveOptions, Budget | None]:
    """Return the options of a mount that can be changed, and its budget, None without prices."""
    services, ahead = filesystem.services, Ahead(filesystem)
    options, budget = services.options, None
    if prices is not None:
        source = services.source.identity(account.label)
        budget = Budget(
            prices, options.budget, services.cache_dir, source, account.state.counters.snapshot, ahead.save
        )

    def set_settle(seconds: float) -> None:
        services.journal.set_settle(seconds)
        services.file_cache.factory.settle_seconds = seconds

    def set_drain(seconds: float) -> None:
        filesystem.drain_seconds = seconds

    return LiveOptions(
        options,
        {
            "bwlimit": account.state.throttle.set_bandwidth,
            "tpslimit": account.state.throttle.set_requests,
            "budget": budget.set_amount if budget is not None else lambda _amount: None,
            "read_ahead": ahead.set_read_ahead,
            "prefetch": ahead.set_prefetch,
            "cache_size": ahead.set_cache_size,
            "uploads": services.set_uploads,
            "settle": set_settle,
            "drain": set_drain,
        },
    ), budget
